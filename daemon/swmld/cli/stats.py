"""``swmld stats``: what a daemon has counted, once or again each second with rates."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, cast

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from swmld.api.client import Client
from swmld.api.messages import Stats
from swmld.cli.daemon import pick
from swmld.cli.options import DEFAULT_RUN_DIR, JsonOption, MountOption, RunDirOption
from swmld.cli.text import plain, prose
from swmld.units import format_duration, format_size

HELP = """Show what the daemon has counted since it started.

The names are those of the Prometheus metrics without swmld_. Labelled values that are 0 are left out.

[bold]Examples[/bold]

  swmld stats                             the only daemon that runs here

  swmld stats --mount /mnt/ml --watch     every second, with rates

  swmld stats --json | jq .metrics.reads_total
"""
INTERVAL = 1.0


def register(app: typer.Typer) -> None:
    app.command("stats", help=prose(HELP))(stats)


def stats(
    mount: MountOption = None,
    json_: JsonOption = False,
    watch: bool = typer.Option(False, "--watch", "-w", help="Show it again every second, until Ctrl-C."),
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
) -> None:
    """Print the counters of one daemon."""
    with pick(Path(run_dir), mount).connect() as client:
        if watch:
            _watch(client, as_json=json_)
            return
        now = _ask(client)
    if json_:
        print(json.dumps(now))
    else:
        Console().print(view(now, None))


def _ask(client: Client) -> Stats:
    return cast(Stats, client.call("stats"))


def _watch(client: Client, *, as_json: bool) -> None:
    before: Stats | None = None
    with Live(auto_refresh=False, transient=False) as live:
        while True:
            now = _ask(client)
            if as_json:
                print(json.dumps(now), flush=True)
            else:
                live.update(view(now, before), refresh=True)
            before = now
            time.sleep(INTERVAL)


def view(now: Stats, before: Stats | None) -> Group:
    """One row a value, without labelled ones that are 0; rates are from ``before`` to ``now``."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("metric")
    table.add_column("value", justify="right")
    if before is not None:
        table.add_column("per second", justify="right")
    seconds = now["uptime"] - before["uptime"] if before is not None else 0.0
    earlier = flat(before["metrics"]) if before is not None else {}
    for name, value in flat(now["metrics"]).items():
        if not value and "{" in name:
            continue
        row = [plain(name), plain(_shown(name, value))]
        if seconds > 0 and is_counter(name) and name in earlier:
            row.append(plain(_shown(name, (value - earlier[name]) / seconds)))
        table.add_row(*row)
    title = plain(f"{now['mount']}, up {format_duration(now['uptime'])}")
    return Group(title, table)


def flat(metrics: dict[str, Any]) -> dict[str, float]:
    """Every number by a name such as ``reads_total{native}``; a histogram as its count and quantiles."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if not isinstance(value, dict):
            found[name] = value
            continue
        for label, one in value.items():
            found |= _summary(name, label, one) if isinstance(one, dict) else {f"{name}{{{label}}}": one}
    return found


def _summary(name: str, label: str, buckets: dict[str, Any]) -> dict[str, float]:
    found = {f"{name}{{{label},count}}": float(sum(buckets["counts"]))}
    for share in (0.5, 0.99):
        if (at := quantile(buckets["bounds"], buckets["counts"], share)) is not None:
            found[f"{name}{{{label},p{share * 100:g}}}"] = at
    return found


def quantile(bounds: list[float], counts: list[int], share: float) -> float | None:
    """The upper bound of the bucket where ``share`` of all values is reached; None without values."""
    total = sum(counts)
    if not total or not bounds:
        return None
    reached = 0
    for bound, number in zip(bounds, counts, strict=False):
        reached += number
        if reached >= share * total:
            return bound
    return float("inf")


def is_counter(name: str) -> bool:
    """Whether a rate of it says something."""
    return name.partition("{")[0].endswith("_total") or name.endswith("count}")


def _shown(name: str, value: float) -> str:
    base = name.partition("{")[0].removesuffix("_total")
    if base.endswith("_bytes"):
        return format_size(value)
    if base.endswith("_seconds") and not name.endswith("count}"):
        return "above the last bound" if value == float("inf") else f"<={format_duration(value)}"
    return f"{value:.4g}" if isinstance(value, float) and not value.is_integer() else f"{int(value):,}"
