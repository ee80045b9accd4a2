"""``swmld trace``: who reads what, how, and what it waits for; live, once, recorded or played back."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from swmld.cli.options import DEFAULT_RUN_DIR, JsonOption, MountOption, RunDirOption
from swmld.cli.text import plain, prose
from swmld.errors import UsageError
from swmld.units import format_duration, format_size, parse_duration

if TYPE_CHECKING:
    from swmld.cli.daemon import Running
    from swmld.cli.trace_source import Source

HELP = """Show who reads what on the mount, in which pattern, how far, how fast, and what it waits for.

In a terminal the view is live: ? explains its keys and columns. With --once, --json, or a pipe behind it,
it prints lines instead.

[bold]Examples[/bold]

  swmld trace                             the only daemon that runs here

  swmld trace --mount /mnt/ml --once      one table, and end

  swmld trace --json --for 30s | jq '.jobs[] | {comm, phase: .phase.kind, rate}'

  swmld trace record run.trace --for 5min

  swmld trace replay run.trace --speed 10

--json prints one object a line and interval: at (seconds, monotonic clock), jobs, probe (how, why, share,
lost), prefetch (used_bytes, wasted_bytes), left_out (views above the limit). A job has job (pid of its
root), comm, command, pids, phase, workers, batch, rate, bytes, reads, estimated, hits, cold, partial,
wait_share, datasets and streams; a dataset path, order, epoch, fraction, files_seen, files_total,
files_per_second, sample_size, batch, workers; a stream pid, file, path, pattern, stride, size, position,
reads, estimated, hits, cold, partial, wait. Estimated counts are scaled up: reads came so often that they
were looked at for a part (share) of the time.
Sizes are bytes, times seconds, rates a second; phase, order and pattern have kind, confidence (0 to 1) and
evidence.
"""
RECORD = """Write what the probes say into FILE, until Ctrl-C or the end of --for.

The file is small (a million reads are at most 20 MB), and [bold]swmld trace replay[/bold] shows it on any
machine. It holds file names and command lines, so only root can read it.

[bold]Example[/bold]

  swmld trace record run.trace --for 5min
"""
REPLAY = """Show a recording, as fast as it was, or otherwise as --speed says.

[bold]Examples[/bold]

  swmld trace replay run.trace --speed 10

  swmld trace replay run.trace --once     what is known at its end
"""
LEAST_INTERVAL = 0.1
_PATTERN = re.compile(r"[*?[]")  # as fnmatch takes them

app = typer.Typer(rich_markup_mode="rich")

OnceOption = Annotated[bool, typer.Option("--once", help="Print one table and end.")]
IntervalOption = Annotated[
    str, typer.Option("--interval", metavar="TIME", help="Time between two pictures or lines.")
]
ForOption = Annotated[
    str | None, typer.Option("--for", metavar="TIME", help="End after so long.", show_default=False)
]
JobOption = Annotated[
    int | None,
    typer.Option(
        "--job", metavar="PID", help="Only the job with this process at its root.", show_default=False
    ),
]
PidOption = Annotated[
    int | None, typer.Option("--pid", metavar="PID", help="Only this process.", show_default=False)
]
PathOption = Annotated[
    str | None,
    typer.Option(
        "--path", metavar="PATH", help="Only this file, what is below this directory, or what fits a pattern "
        "such as 'train/*.tar'.", show_default=False,
    ),
]  # fmt: skip
SpeedOption = Annotated[
    float,
    typer.Option("--speed", metavar="X", help="Times as fast as it was; 0: as fast as it goes.", min=0),
]
FileArgument = Annotated[str, typer.Argument(metavar="FILE", help="The recording.", show_default=False)]


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="trace")


@app.callback(invoke_without_command=True, help=prose(HELP))
def trace(
    ctx: typer.Context,
    mount: MountOption = None,
    once: OnceOption = False,
    json_: JsonOption = False,
    for_: ForOption = None,
    interval: IntervalOption = "1s",
    job: JobOption = None,
    pid: PidOption = None,
    path: PathOption = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
) -> None:
    """Show one daemon's readers."""
    if ctx.invoked_subcommand is not None:
        given = [name for name in ctx.params if ctx.get_parameter_source(name).name == "COMMANDLINE"]  # type: ignore[union-attr]
        if given:
            raise UsageError(f"swmld trace {ctx.invoked_subcommand}: its options stand after its name")
        return
    from swmld.api.patterns import Wanted
    from swmld.cli.daemon import pick, sent
    from swmld.cli.trace_source import Live

    seconds, ends = _times(interval, for_)
    daemon = pick(Path(run_dir), mount)
    below = _below(daemon.mount, sent(daemon.mount, path)) if path is not None else None
    wanted = Wanted(job, pid, below)
    if below is not None:
        _refuse_unknown(daemon, below)
    if once:
        with daemon.connect() as client:
            found = client.call("patterns", Live(daemon, wanted).params())
        _print(found, daemon.mount, wanted.words(), as_json=json_)
        return
    source = Live(daemon, wanted, min(seconds, ends or seconds))
    _show(source, as_json=json_, ends=ends)


@app.command("record", help=prose(RECORD))
def record(
    file: FileArgument,
    mount: MountOption = None,
    for_: ForOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
) -> None:
    """Write a recording."""
    from swmld.cli.daemon import pick
    from swmld.cli.trace_source import Live
    from swmld.observe.recording import Writer

    _, ends = _times("1s", for_)
    daemon = pick(Path(run_dir), mount)
    source = Live(daemon, interval=min(1.0, ends or 1.0), raw=True)
    began, lost = time.monotonic(), 0
    with Writer(Path(file), mount=daemon.mount, force=force) as writer:

        def tell(message: dict[str, Any]) -> None:
            nonlocal lost
            if "raw" in message:
                lost += message["raw"].get("lost", 0)
                writer.write(message["raw"])
            else:
                snapshot = message["snapshot"]
                writer.write({"state": {"probe": snapshot["probe"], "prefetch": snapshot["prefetch"]}})
                if ends is not None and time.monotonic() - began >= ends:
                    raise _Over

        # Ctrl-C is how it is meant to end: between two lines, so that the file is whole.
        with _until_over(source, signal.SIGINT, signal.SIGTERM):
            source.lines(tell)
    size = format_size(Path(file).stat().st_size)
    print(f"{file}: {format_duration(time.monotonic() - began)} of {daemon.mount} in {size}", file=sys.stderr)
    if lost:
        print(
            f"swmld: {lost} batches came faster than they could be written and are missing", file=sys.stderr
        )


@app.command("replay", help=prose(REPLAY))
def replay(
    file: FileArgument,
    once: OnceOption = False,
    json_: JsonOption = False,
    speed: SpeedOption = 1.0,
    interval: IntervalOption = "1s",
    job: JobOption = None,
    pid: PidOption = None,
    path: PathOption = None,
) -> None:
    """Show a recording."""
    from swmld.api.patterns import Wanted
    from swmld.cli.trace_source import Replay
    from swmld.observe.recording import Reader

    seconds, _ = _times(interval, None)
    with Reader(Path(file)) as reader:
        mount = reader.header.get("mount") or "/"
    below = _below(str(mount), path) if path is not None else None
    source = Replay(Path(file), Wanted(job, pid, below), None if once else seconds, 0.0 if once else speed)
    _show(source, as_json=json_, ends=None, lines=once)
    if source.cut is not None:
        print(f"swmld: {source.cut}", file=sys.stderr)


def _times(interval: str, for_: str | None) -> tuple[float, float | None]:
    """Seconds of both; raises UsageError."""
    seconds = parse_duration(interval, what="--interval")
    if not LEAST_INTERVAL <= seconds <= 3600:
        raise UsageError(f"--interval: expected 100ms to 1h, got {interval}")
    ends = parse_duration(for_, what="--for") if for_ is not None else None
    if ends is not None and ends < LEAST_INTERVAL:
        raise UsageError(f"--for: expected 100ms or more, got {for_}")
    return seconds, ends


def _below(mount: str, path: str) -> str | None:
    """``path`` relative to the mount; None is all of it."""
    path = os.path.normpath(os.path.join(mount, path))
    prefix = mount.rstrip("/") + "/"
    if not (path + "/").startswith(prefix):
        raise UsageError(f"--path: {path} is not under {mount}")
    return path[len(prefix) :] or None


def _refuse_unknown(daemon: Running, path: str) -> None:
    """Raises UsageError for a path that is not there and that nobody has read: it would wait for ever. What
    is there may be read yet, and so may what a pattern fits."""
    if _PATTERN.search(path) or os.path.lexists(os.path.join(daemon.mount, path)):
        return
    with daemon.connect() as client:
        if not client.call("patterns", {"path": path, "limit": 1})["jobs"]:
            raise UsageError(f"--path: {path} is not there, and nobody has read it")


# ---- showing


class _Over(Exception):
    """The time is over."""


def interactive() -> bool:
    """Whether somebody sits at a terminal that can show the live view."""
    return (
        sys.stdin.isatty()
        and sys.stdout.isatty()
        and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
    )


def _show(source: Source, *, as_json: bool, ends: float | None, lines: bool = False) -> None:
    if not as_json and not lines and interactive():
        from swmld.cli.trace_view import TraceApp

        view = TraceApp(source, ends=ends)
        code = view.run()
        if view.error is not None:
            raise view.error
        if code:
            raise typer.Exit(code)
        return
    began = time.monotonic()

    def tell(message: Any) -> None:
        if not isinstance(message, dict):
            return
        _print(message, source.title, source.only, as_json=as_json)
        if ends is not None and time.monotonic() - began >= ends:
            raise _Over

    with _until_over(source, signal.SIGTERM):
        source.run(tell)


def _print(snapshot: dict[str, Any], title: str, only: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"mount": title, **snapshot}), flush=True)
        return
    from swmld.cli import trace_rows

    console = Console(highlight=False)
    found = trace_rows.rows(snapshot)
    shape = trace_rows.layout(console.width) if console.is_terminal else trace_rows.unbounded(found)
    parts = Text("  ").join([plain(title), *filter(None, [plain(only)]), *trace_rows.summary(snapshot)])
    for text in (parts, trace_rows.header(shape), *(trace_rows.line(row, shape) for row in found)):
        text.rstrip()
        console.print(text, soft_wrap=True)
    if why := trace_rows.explained(snapshot, only):
        console.print(plain(why), soft_wrap=True)
    if not console.is_terminal:
        sys.stdout.flush()


@contextmanager
def _until_over(source: Source, *signals: signal.Signals) -> Iterator[None]:
    """Ends quietly when the time is over, and has ``signals`` stop ``source``."""
    before: dict[signal.Signals, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in signals:
                before[number] = signal.signal(number, lambda number, frame: source.stop())
        yield
    except _Over:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
