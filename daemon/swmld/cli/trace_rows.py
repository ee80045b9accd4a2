"""What ``swmld trace`` shows, as lines of text: a snapshot in, rows out. Pure; both views are made of it.

A row is a job, or below it a dataset or a file as one process reads it. Which columns there are depends on
the width alone: 80 are enough for the ones that matter, the findings' evidence in words comes from 150 on.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from swmld.cli.text import printable
from swmld.units import format_duration, format_size

SORTS = ("rate", "wait", "bytes", "recent", "name")
FILES = ("some", "all", "none")
BUSIEST = 4
"""Files shown of a dataset of shards: as many as a job's workers read at once, usually."""

_INTERPRETER = re.compile(r"(python|perl|ruby|node|bash|sh)[0-9.]*|pt_main_thread")
_NUMBER = re.compile(r" \d+( \(ended\))?$")

# Both are in every font that a terminal uses, and one cell wide.
FULL, EMPTY = "█", "░"
SHORT = {
    "header-then-tail": "head+tail", "checkpoint load": "ckpt load", "checkpoint save": "ckpt save",
    "data preparation": "data prep",
}  # fmt: skip
UNSURE = 0.5
"""Below this confidence a finding is shown with a question mark."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line. ``key`` names the same job, dataset or file in the next snapshot too."""

    key: tuple[str, int, str]
    kind: str  # job, dataset or stream
    name: str
    pattern: str
    confidence: float
    evidence: str
    count: str  # left of the bar: the epoch of a dataset, the passes over a file
    fraction: float | None
    beside: str  # instead of a bar
    rate: float
    bytes: int
    reads: int | None
    shares: tuple[float, float, float] | None  # page cache, cache disk, source
    wait: str
    waiting: float
    recent: float
    view: dict[str, Any] = dataclasses.field(compare=False, repr=False)
    job: int = 0
    estimated: bool = False

    @property
    def said(self) -> str:
        """The pattern and why, in words."""
        sure = f", {100 * self.confidence:.0f} % sure" if self.pattern != "unknown" else ""
        return f"{self.pattern}{sure}: {self.evidence}"

    def matches(self, text: str) -> bool:
        """Whether ``text`` stands in what the row shows, or in a job's command."""
        command = self.view["command"] if self.kind == "job" else ""
        return text.casefold() in f"{self.name} {self.pattern} {self.evidence} {command}".casefold()


def rows(snapshot: dict[str, Any], *, sort: str = "rate", find: str = "", files: str = "some") -> list[Row]:
    """The rows of ``snapshot``, jobs in order of ``sort`` (one of ``SORTS``), what is theirs below them.

    ``find``: rows that have this text, and the jobs they belong to; all of a job that has it. ``files``:
    none, all, or some, which leaves out the single files of a dataset.
    """
    found: list[Row] = []
    for job, view in _ordered([(job_row(view), view) for view in snapshot["jobs"]], sort):
        below = [(dataset_row(one), one) for one in view["datasets"] if files == "all" or _is_set(one)]
        below += [(stream_row(one, view["job"]), one) for one in _files(view, files)]
        shown = [row for row, _ in _ordered(below, sort)]
        if find and not job.matches(find):
            shown = [row for row in shown if row.matches(find)]
            if not shown:
                continue
        found += [job, *shown]
    return found


def _ordered(pairs: list[tuple[Row, dict[str, Any]]], sort: str) -> list[tuple[Row, dict[str, Any]]]:
    def order(pair: tuple[Row, dict[str, Any]]) -> tuple[Any, ...]:
        row = pair[0]
        value = {"rate": row.rate, "wait": row.waiting, "bytes": row.bytes, "recent": row.recent, "name": 0}[
            sort
        ]
        return row.kind == "stream", -value, row.name

    return sorted(pairs, key=order)


def _is_set(dataset: dict[str, Any]) -> bool:
    """Whether it says more than its one file does."""
    return bool(dataset["files_seen"] > 1 or dataset["order"]["kind"] != "unknown")


def _files(job: dict[str, Any], files: str) -> list[dict[str, Any]]:
    """The streams to show: of shards and models those that are read most, of samples none."""
    if files != "some":
        return job["streams"] if files == "all" else []
    sets = sorted(job["datasets"], key=lambda one: -len(one["path"]))
    room = {one["path"]: 0 if one["role"]["kind"] == "samples" else BUSIEST for one in sets}
    many = {one["path"] for one in sets if _is_set(one)}
    chosen = []
    for stream in job["streams"]:
        path = next((one["path"] for one in sets if _inside(stream["path"], one["path"])), None)
        if path in many and stream["reads"] <= stream["passes"] + 1:
            continue  # one of many small files
        if path is None or room[path] > 0:
            chosen.append(stream)
        if path is not None:
            room[path] -= 1
    return chosen


def _inside(path: str, directory: str) -> bool:
    return not directory or path == directory or path.startswith(directory + "/")


def job_row(view: dict[str, Any]) -> Row:
    """A job: what runs, in which phase."""
    workers, batch = view["workers"], view["batch"]
    words = [f"{workers}w" if workers else "", f"batch {batch}" if batch else ""]
    return Row(
        key=("job", view["job"], ""), kind="job", job=view["job"],
        name=f"{program(view)} {view['job']}" + (" (ended)" if view["ended"] else ""),
        count="", fraction=None, beside=" ".join(filter(None, words)),
        reads=view["reads"], shares=shares(view),
        wait=f"{100 * view['wait_share']:.0f}%", waiting=view["wait_share"],
        **_common(view, view["phase"]),
    )  # fmt: skip


def program(view: dict[str, Any]) -> str:
    """What a job is called: of an interpreter the script, as all trainings are python."""
    name: str = view["comm"] or "process"
    if not _INTERPRETER.fullmatch(name):
        return name
    words = iter(view["command"].split()[1:])
    for word in words:
        if word in ("-c", "-e"):
            return name
        if word in ("-W", "-X"):
            next(words, "")
        elif word == "-m":
            return next(words, name)
        elif not word.startswith("-"):
            return word.rpartition("/")[2] or name
    return name


def _turn(view: dict[str, Any]) -> str:
    """The epoch, or of what knows none the pass."""
    return f"p{view['passes']}" if view["epoch"] is None else f"e{view['epoch']}"


def dataset_row(view: dict[str, Any]) -> Row:
    """A dataset: in which order, how far."""
    seen = view["files_seen"]
    beside = f"{seen} file{'s' if seen != 1 else ''}" if view["fraction"] is None else ""
    return Row(
        key=("dataset", view["job"], view["path"]), kind="dataset", job=view["job"], name=view["path"] + "/",
        count=_turn(view), fraction=view["fraction"], beside=beside,
        reads=None, shares=None, wait="", waiting=0.0, **_common(view, view["order"]),
    )  # fmt: skip


def stream_row(view: dict[str, Any], job: int) -> Row:
    """A file as a process reads it."""
    size = view["size"]
    placed = size and view["pattern"]["kind"] != "random"  # where a random reader is says nothing of how far
    return Row(
        key=("stream", view["pid"], str(view["file"])), kind="stream", job=job, name=view["path"],
        count=f"x{view['passes'] + 1}" if view["passes"] else "",
        fraction=min(1.0, view["position"] / size) if placed else None, beside="",
        reads=view["reads"], shares=shares(view),
        wait=brief(view["wait"]) if view["wait"] else "", waiting=view["wait"],
        **_common(view, view["pattern"]),
    )  # fmt: skip


def _common(view: dict[str, Any], finding: dict[str, Any]) -> dict[str, Any]:
    return {
        "view": view, "pattern": finding["kind"], "confidence": finding["confidence"],
        "evidence": finding["evidence"], "rate": view["rate"], "bytes": view["bytes"],
        "recent": view["last_at"], "estimated": view.get("estimated", False),
    }  # fmt: skip


def shares(view: dict[str, Any]) -> tuple[float, float, float] | None:
    """Shares of the reads by where they were answered: page cache, cache disk, source. None without reads.

    What the page cache did not have came from the source as far as FUSE gave it from there, else from the
    disk: reads of passthrough files never reach FUSE.
    """
    if not view["reads"]:
        return None
    missed = min(1.0, (view["cold"] + view["partial"]) / view["reads"])
    seen = view["source_bytes"] + view["disk_bytes"]
    source = 0.0
    if seen and view["bytes"]:
        source = min(view["source_bytes"] / view["bytes"], missed * view["source_bytes"] / seen)
    return 1.0 - missed, missed - source, source


# ---- lines


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns for one width: (name, cells); a width of 0 is what is left, shared by name and evidence."""

    width: int
    columns: tuple[tuple[str, int], ...]


TITLES = {"name": "JOB, DATASET, FILE", "pattern": "PATTERN", "sure": "SURE", "progress": "PROGRESS",
          "rate": "RATE/s",
          "bytes": "READ", "reads": "READS", "mem": "MEM%", "disk": "DISK", "src": "SRC%", "wait": "WAIT",
          "evidence": "WHY"}  # fmt: skip
_RIGHT = frozenset(("sure", "rate", "bytes", "reads", "mem", "disk", "src", "wait"))


def layout(width: int) -> Layout:
    """Which columns fit into ``width`` cells: at 80 what matters, below 72 only the rest of it."""
    columns = [("pattern", 16 if width >= 110 else 11)]
    if width >= 120:
        columns.append(("sure", 4))
    columns += [("progress", 24 if width >= 130 else 15), ("rate", 9)]
    if width >= 120:
        columns += [("bytes", 9), ("reads", 9)]
    columns += [("mem", 4), ("disk", 4), ("src", 4), ("wait", 5)]
    if width < 72:
        columns = [column for column in columns if column[0] not in ("mem", "disk", "src", "progress")]
    left = width - sum(cells + 1 for _, cells in columns)
    evidence = left * 3 // 5 if width >= 150 else 0
    if evidence:
        columns.append(("evidence", evidence - 1))
    return Layout(width, (("name", max(8, left - evidence)), *columns))


def unbounded(rows: Sequence[Row]) -> Layout:
    """All columns, as wide as ``rows`` need: nothing is cut where nothing wraps."""
    names = max((len(printable(row.name)) + 2 for row in rows), default=0)
    words = max((len(row.evidence) for row in rows), default=0)
    widest = {"name": max(names, len(TITLES["name"])), "evidence": max(words, len(TITLES["evidence"]))}
    columns = tuple((name, widest.get(name, cells)) for name, cells in layout(200).columns)
    return Layout(sum(cells + 1 for _, cells in columns) - 1, columns)


def header(shape: Layout) -> Text:
    """The titles of the columns."""
    return _joined(shape, {name: Text(TITLES[name]) for name, _ in shape.columns}, "bold")


def line(row: Row, shape: Layout) -> Text:
    """``row`` with its columns; colours are the terminal's own and tell nothing that the words do not."""
    widths = dict(shape.columns)
    unsure = "?" if row.confidence < UNSURE and row.pattern != "unknown" else ""
    words = (
        row.pattern
        if widths["pattern"] >= len(row.pattern) + len(unsure)
        else SHORT.get(row.pattern, row.pattern)
    )
    level = "" if row.kind == "job" else "  "
    known = row.pattern != "unknown"
    about = "~" if row.estimated else ""
    cells = {
        "name": Text(level + tail(printable(row.name), widths["name"] - len(level), row.kind)),
        "pattern": Text(words + unsure, "green" if known and not unsure else "dim"),
        "sure": Text(f"{100 * row.confidence:.0f}%" if known else "", "dim"),
        "progress": _progress(row, widths.get("progress", 15)),
        "rate": Text(format_size(row.rate) if row.rate else "-", "" if row.rate else "dim"),
        "bytes": Text(about + format_size(row.bytes)),
        "reads": Text(about + count(row.reads) if row.reads is not None else ""),
        **dict(zip(("mem", "disk", "src"), map(_share, row.shares or (None, None, None)), strict=True)),
        "wait": Text(row.wait, "magenta" if row.kind == "job" and row.waiting >= 0.1 else ""),
        "evidence": Text(row.evidence, "dim"),
    }
    return _joined(shape, cells, "bold" if row.kind == "job" else "")


def _joined(shape: Layout, cells: dict[str, Text], style: str) -> Text:
    whole = Text(style=style, no_wrap=True)
    for number, (name, width) in enumerate(shape.columns):
        cell = cells[name]
        cell.truncate(width, overflow="ellipsis")
        cell.align("right" if name in _RIGHT else "left", width)
        whole.append_text(Text(" ") if number else Text("")).append_text(cell)
    return whole


def tail(name: str, width: int, kind: str) -> str:
    """``name`` in ``width`` cells: a path keeps its end, a job its number."""
    if len(name) <= width:
        return name
    if kind == "job":
        number = _NUMBER.search(name)
        return name[: max(1, width - 1 - len(number[0]))] + "…" + number[0] if number else name
    return "…" + name[len(name) - width + 1 :]


def _progress(row: Row, width: int) -> Text:
    if row.fraction is None:
        return Text(" ".join(filter(None, (row.count, row.beside))))
    number = f"{100 * row.fraction:4.0f}%"
    return Text(f"{row.count:4.4}" + bar(row.fraction, width - 4 - len(number)) + number)


def bar(fraction: float, width: int) -> str:
    """``fraction`` of 1 as a bar; full only at the end, so that 99 % does not look done."""
    full = int(max(0.0, min(1.0, fraction)) * width)
    return FULL * full + EMPTY * (width - full)


def _share(share: float | None) -> Text:
    if share is None:
        return Text("")
    return Text(f"{100 * share:.0f}", "" if share else "dim")


def count(number: int) -> str:
    """A count in at most 7 characters: 9,999 or 1.2M."""
    if number < 100_000:
        return f"{number:,}"
    for factor, unit in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= factor:
            return f"{number / factor:.1f}{unit}"
    raise AssertionError


def brief(seconds: float) -> str:
    """A wait in at most 6 characters; page-cache misses on a local disk are microseconds."""
    return f"{seconds * 1e6:.0f}us" if seconds < 0.001 else format_duration(seconds)


# ---- above the rows, and below


def summary(snapshot: dict[str, Any]) -> Iterator[Text]:
    """What is true of all: rates, prefetch, what was lost; one text each."""
    jobs, left_out = snapshot["jobs"], snapshot.get("left_out", {})
    more = left_out.get("jobs", 0)
    number = len(jobs) + more
    yield Text(f"{number} job{'s' if number != 1 else ''}" + (f" ({more} not shown)" if more else ""))
    yield Text(f"{format_size(sum(job['rate'] for job in jobs))}/s", "bold")
    probe, prefetch = snapshot["probe"], snapshot["prefetch"]
    if probe:
        lost = sum(probe["lost"].values())
        yield Text(f"lost {count(lost)}", "bold red" if lost else "")
    if prefetch:
        used, wasted = prefetch["used_bytes"], prefetch["wasted_bytes"]
        yield Text(f"prefetch {format_size(used)}, wasted {format_size(wasted)}")
    if probe:
        share = probe.get("share", 1.0)
        yield Text(f"probe {probe['how']}" + (f", sampled {100 * share:.0f}%" if share < 1 else ""))


def explained(snapshot: dict[str, Any], only: str = "") -> str:
    """Why there is nothing to see, if there is nothing. ``only``: what was asked for, in words."""
    probe = snapshot["probe"]
    if probe and probe["how"] == "off":
        return f"The probes are off: {probe['why']}"
    what = f"Nothing that was asked for ({only})" if only else "Nothing"
    return f"{what} has been read here yet." if not snapshot["jobs"] else ""


def details(row: Row) -> Sequence[tuple[str, str]]:
    """All that is known of a row, as (name, value), for the zoom."""
    view = row.view
    found = [("what", row.said)]
    if row.kind == "job":
        found.append(("command", view["command"]))
        if view["container"]:
            found.append(("container", view["container"]))
        found.append(("processes", ", ".join(map(str, view["pids"])) or "none that reads"))
        waits = f"{count(view['waits'])} waits" if view["waits"] else "no waits"
        if view["waits"]:
            half, most = brief(view["wait_p50"]), brief(view["wait_p99"])
            waits += f", half within {half}, 99 % within {most}"
        found.append(("waiting", f"{100 * view['wait_share']:.0f} % of the time now; {waits}"))
    elif row.kind == "dataset":
        total = view["files_total"]
        seen = f"{view['files_seen']:,}" + (f" of {total:,}" if total is not None else "")
        files = "file" if (view["files_seen"] if total is None else total) == 1 else "files"
        turn = "epoch" if view["epoch"] is not None else "pass"
        number = view["epoch"] or view["passes"]
        found.append((turn, f"{number}: {seen} {files}, {view['files_per_second']:.0f} a second"))
        samples = [f"of {format_size(view['sample_size'])}"] if view["sample_size"] else []
        samples += [f"batch {view['batch']}"] if view["batch"] else []
        workers = view["workers"]
        samples += [f"{workers} worker{'s' * (workers != 1)}"] if workers else []
        if samples:
            found.append(("samples", "; ".join(samples)))
    else:
        found.append(("process", f"{view['pid']}, in job {row.job}"))
        ways = [f"{view['hits']:,} in memory", f"{view['cold']:,} waited", f"{view['partial']:,} in part"]
        about = "about " if row.estimated else ""
        found.append(("reads", f"{about}{view['reads']:,}: " + ", ".join(ways)))
        kinds = [f"{view[name]:,} {name}" for name in ("faults", "direct") if view[name]]
        if kinds:
            found.append(("of them", ", ".join(kinds)))
        found.append(("at", f"{format_size(view['position'])} of {format_size(view['size'])}"))
    found.append(("read", f"{format_size(row.bytes)}, now {format_size(row.rate)}/s"))
    return [(name, printable(value)) for name, value in found]
