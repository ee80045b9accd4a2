"""``swmld status``: the daemons that run, and what each uses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from swmld.api.messages import StagedStatus, Status
from swmld.cli import sampling
from swmld.cli.daemon import killed, none_runs, pick, running
from swmld.cli.options import DEFAULT_RUN_DIR, JsonOption, MountOption, RunDirOption
from swmld.cli.text import plain, prose
from swmld.errors import UsageError
from swmld.units import format_duration, format_size

HELP = """Show the daemons that run here and what each of them uses.

[bold]Examples[/bold]

  swmld status

  swmld status --mount /mnt/ml --json
"""


def register(app: typer.Typer) -> None:
    app.command("status", help=prose(HELP))(status)


def status(
    mount: MountOption = None, json_: JsonOption = False, run_dir: RunDirOption = DEFAULT_RUN_DIR
) -> None:
    """Show every daemon, or the one of ``--mount``."""
    if mount is not None:
        found = [pick(Path(run_dir), mount).status]
    else:
        found = [daemon.status for daemon in running(Path(run_dir))]
    if json_:
        print(json.dumps(found, indent=2))
        return
    if not found:
        raise UsageError(none_runs(Path(run_dir)))
    console = Console()
    for number, one in enumerate(found):
        if number:
            console.print()
        console.print(_table(one))
    for line in killed(Path(run_dir)) if mount is None else ():
        print(f"swmld: {line}", file=sys.stderr)


WATCHED = {None: "", True: " (tells of its changes)", False: " (does not tell of its changes)"}


def _writes(staged: StagedStatus) -> str:
    """What is on its way to the source."""
    parts: list[str] = [staged["write"]]
    if staged["files"]:
        parts.append(f"{staged['files']} files staged, {format_size(staged['waiting_bytes'])} wait")
    if staged["failing"]:
        parts.append(f"{staged['failing']} fail")
    if staged["aside"]:
        parts.append(f"{staged['aside']} put aside")
    return "; ".join(parts) + (": swmld staged" if len(parts) > 1 else ", nothing staged")


def _table(one: Status) -> Table:
    table = Table.grid(padding=(0, 2))
    cache = one["cache"]
    rows = {
        "mount": one["mount"] + (" (read-only)" if one["read_only"] else ""),
        "source": one["source"] + WATCHED[one.get("watched")],
        "cache": f"{one['cache_dir']}: {format_size(cache['bytes'])} of {format_size(cache['limit'])} in "
        f"{cache['files']} files, {format_size(cache['free'])} free on its disk",
        "reads": f"{one['mode']}, fetched with {one['engine']}",
        "metrics": one["metrics"] if one["metrics"] == "off" else f"http://{one['metrics']}/metrics",
        "running": f"{format_duration(one['uptime'])}, pid {one['pid']}, swmld {one['version']}",
    }
    if (health := one.get("health")) is not None:
        probe = health["probe"]
        rows["probes"] = f"{probe['how']}: {probe['why']}" if probe["why"] else "not known yet"
        if looked := sampling.told(probe):
            rows["probes"] += f"; {looked}"
        rows["health"] = "; ".join([health["status"], *health["problems"]])
    if (staged := one.get("staged")) is not None:
        rows["writes"] = _writes(staged)
    for key, value in rows.items():
        table.add_row(key, plain(value))
    if (rules := one.get("rules")) is not None:
        if rules.get("ruled", True):
            error = "; the files changed and cannot be used: swmld rules ls" if rules["error"] else ""
            table.add_row("rules", plain(f"{rules['active']} in use{error}"))
        elif rules["error"]:
            first, *more = rules["error"].splitlines()
            left = f" (and {len(more)} more: swmld validate)" if more else ""
            table.add_row("settings", plain(f"changed and cannot be used: {first}{left}"))
        if pending := rules.get("pending"):
            table.add_row("settings", plain(f"changed, from the next start on: {', '.join(pending)}"))
    for line in one["fallbacks"]:
        table.add_row("missing", plain(line))
    return table
