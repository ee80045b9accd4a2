"""``swmld history``: what rules decided about files that were opened, and what came of it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.text import Text

from swmld.api.client import Client
from swmld.api.messages import (
    BroughtBytes,
    CompressedBytes,
    DecisionView,
    HistoryEntry,
    HistoryResult,
    HistorySum,
    WaitingTime,
)
from swmld.cli import rule_names
from swmld.cli.daemon import pick, sent
from swmld.cli.options import DEFAULT_RUN_DIR, JsonOption, MountOption, RunDirOption
from swmld.cli.text import plain, printable, prose, put, table
from swmld.units import format_duration, format_size

HELP = """Show what the rules decided about files that were opened, newest first.

Each decision has its number, when it was made, for which process and file, then each action with the values
that rules gave, who gave them, whom they overruled, how many bytes were fetched ahead because of it, and how
long its readers waited for each MiB since, beside what they waited without a rule, where that is known. The
daemon remembers the latest 10,000; with --by it shows what they come to.

[bold]Examples[/bold]

  swmld history                             the latest twenty

  swmld history --path '/mnt/ml/train/*.tar' --action prefetch

  swmld history --rule images --limit 1000 --json | jq .brought.used

  swmld history --by dataset                bytes asked for, used, late and wasted, waiting before and
                                            after, by dataset
"""
LIMIT = 20
MOST = 1000
"""In one answer of the daemon."""

PathOption = Annotated[
    str | None,
    typer.Option("--path", metavar="PATH", help="A file, all below a directory, or a pattern such as "
                 "'train/*.tar'.", show_default=False),
]  # fmt: skip
RuleOption = Annotated[
    str | None,
    typer.Option("--rule", metavar="ID", help="Decisions that this rule had a part in.", show_default=False),
]
ActionOption = Annotated[
    str | None,
    typer.Option(
        "--action", metavar="NAME", help="Decisions with this action, such as cache.", show_default=False
    ),
]
PidOption = Annotated[
    int | None,
    typer.Option("--pid", metavar="PID", help="Files that this process opened.", show_default=False),
]
JobOption = Annotated[
    int | None,
    typer.Option(
        "--job", metavar="PID", help="Files that the job of this first process opened.", show_default=False
    ),
]
DatasetOption = Annotated[
    str | None,
    typer.Option(
        "--dataset", metavar="PATH", help="Files of this dataset, or of those below.", show_default=False
    ),
]
ByOption = Annotated[
    str | None,
    typer.Option(
        "--by", metavar="WHAT", help="Show sums by rule, action, job, dataset or file.", show_default=False
    ),
]
LimitOption = Annotated[int, typer.Option("--limit", metavar="N", help="Show at most N of them.")]


def register(app: typer.Typer) -> None:
    app.command("history", help=prose(HELP))(history)


def history(
    path: PathOption = None,
    rule: RuleOption = None,
    action: ActionOption = None,
    pid: PidOption = None,
    job: JobOption = None,
    dataset: DatasetOption = None,
    by: ByOption = None,
    limit: LimitOption = LIMIT,
    mount: MountOption = None,
    json_: JsonOption = False,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
) -> None:
    """Print the decisions of one daemon, or their sums; as JSON, one object a line."""
    daemon = pick(Path(run_dir), mount, path if path is not None else dataset)
    given = {"path": sent(daemon.mount, path) if path is not None else None, "rule": rule, "action": action,
             "pid": pid, "job": job, "by": by,
             "dataset": sent(daemon.mount, dataset) if dataset is not None else None}  # fmt: skip
    with daemon.connect() as client:
        found = _ask(client, _without_none(given), limit)
        if rule is not None and not (found["decisions"] or found.get("sums")):
            rule_names.check(client, rule)
    shown = found["decisions"] if by is None else found.get("sums", [])
    if json_:
        for each in shown:
            print(json.dumps(each))
        return
    console = Console(highlight=False)
    for line in _lines(found["decisions"]) if by is None else sum_lines(by, found.get("sums", [])):
        put(console, line)
    if not shown:
        print("nothing was decided yet" if not found["total"] else "no such decision", file=sys.stderr)
    elif found["more"]:
        first = "the latest" if by is None else "the first"
        print(f"{first} {limit}; --limit N shows more", file=sys.stderr)


def _lines(entries: Iterable[HistoryEntry]) -> Iterator[Text]:
    for entry in entries:
        yield from entry_lines(entry)


SHARES = ("ASKED", "USED", "LATE", "WASTED")


def shares(given: BroughtBytes) -> tuple[str, str, str, str]:
    """Bytes asked for, and which shares of them were used, late and wasted."""
    asked = given["asked"]
    parts = (f"{given[part] / asked:.0%}" if asked else "-" for part in ("used", "late", "wasted"))
    used, late, wasted = parts
    return format_size(asked), used, late, wasted


RATES = ("BEFORE", "AFTER")


def rates(given: WaitingTime | None) -> tuple[str, str]:
    """What readers waited for a MiB before and after, of the part for which both are known; "-" is not
    known."""
    if given is None:
        return "-", "-"
    if given["before_seconds"] is None:
        return "-", _rate(given["seconds"], given["bytes"])
    part = given["compared_bytes"]
    return _rate(given["before_seconds"], part), _rate(given["compared_seconds"], part)


def _rate(seconds: float, nbytes: int) -> str:
    if not nbytes:
        return "-"
    each = seconds / nbytes * (1 << 20)
    return f"{1000 * each:.2g}ms/MiB" if each < 0.01 else f"{format_duration(each)}/MiB"


BASES = {
    "dataset": "before",
    "others": "in other jobs without it",
    "job": "for other files of the job",
}


def waited(given: WaitingTime) -> str:
    """Waiting in words."""
    before, after = rates(given)
    beside = f", {before} {BASES[given['basis']]}" if given["basis"] else ", before is not known"
    return f"{format_duration(given['seconds'])} for {format_size(given['bytes'])}: {after}{beside}"


def sum_lines(by: str, sums: Iterable[HistorySum]) -> Iterator[Text]:
    """A table of what decisions come to."""
    rows = [
        (printable(one["key"]) or ".", str(one["decisions"]), when(one["last"]), *shares(one["brought"]),
         *rates(one["waiting"]))
        for one in sums
    ]  # fmt: skip
    if rows:
        head, *lines = table((by.upper(), "DECISIONS", "LAST", *SHARES, *RATES), rows)
        yield Text(head, style="bold")
        yield from map(Text, lines)


def _ask(client: Client, params: dict[str, Any], limit: int) -> HistoryResult:
    """The latest ``limit``, asked for in parts."""
    found = cast(HistoryResult, client.call("history", params | {"limit": min(limit, MOST)}))
    while found["more"] and found["decisions"] and len(found["decisions"]) < limit:
        rest = min(limit - len(found["decisions"]), MOST)
        before = found["decisions"][-1]["id"]
        part = cast(HistoryResult, client.call("history", params | {"limit": rest, "before": before}))
        found["decisions"] += part["decisions"]
        found["more"] = part["more"]
    return found


def entry_lines(entry: HistoryEntry) -> Iterator[Text]:
    """One decision: a line of what it is about, then one each action."""
    who = f"pid {entry['pid']}  " if entry["pid"] else ""
    head = Text(f"{entry['id']}  {when(entry['at'])}  {who}", style="dim")
    yield head.append_text(Text.assemble((plain(entry["path"]).plain, "bold not dim")))
    for decision in entry["decisions"]:
        yield Text("    ") + decision_line(decision)
    if entry["resting"]:
        yield Text("    in their cool-down: ", style="dim") + plain(", ".join(entry["resting"]))
    if any(entry["brought"].values()):
        yield Text("    fetched ahead: ") + Text(brought(entry["brought"]))
    if entry["compressed"]["bytes"]:
        yield Text("    compressed: ") + Text(compressed(entry["compressed"]))
    if entry["waiting"] is not None:
        yield Text("    waited: ") + Text(waited(entry["waiting"]))


def decision_line(decision: DecisionView) -> Text:
    """The action, each value with the rule that gave it, and who was overruled."""
    line = Text.assemble((decision["action"], "cyan"), f" {decision['target']}")
    values = [f"{one['parameter']} {one['shown']} ({one['rule']})" for one in decision["settled"]]
    line += plain(": " + ", ".join(values) if values else f" ({', '.join(decision['rules'])})")
    for lost in decision["overruled"]:
        text = f"; not {lost['parameter']} {lost['shown']} ({lost['rule']}), because of {lost['by']}"
        line += Text(plain(text).plain, style="dim")
    if decision["dropped"]:
        line += Text(f"; dropped: {decision['dropped']}", style="yellow")
    return line


def brought(given: BroughtBytes) -> str:
    """Bytes in words."""
    lost = (f", {format_size(given[part])} {part}" for part in ("late", "wasted") if given[part])
    return (
        f"{format_size(given['fetched'])} of {format_size(given['asked'])}, "
        f"{format_size(given['used'])} used so far{''.join(lost)}"
    )


def compressed(given: CompressedBytes) -> str:
    """Bytes in words."""
    return f"{format_size(given['bytes'])} to {format_size(given['stored'])}"


def when(at: float) -> str:
    """A moment, in seconds since the epoch, as local time; with its day if that is not today."""
    then, now = time.localtime(at), time.localtime()
    same_day = (then.tm_year, then.tm_yday) == (now.tm_year, now.tm_yday)
    return time.strftime("%H:%M:%S" if same_day else "%Y-%m-%d %H:%M:%S", then)


def _without_none(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}
