"""``swmld warmup``: fetch files before they are read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from swmld.api.client import Client
from swmld.api.messages import PathError, WarmupResult
from swmld.cli.daemon import pick, sent
from swmld.cli.options import DEFAULT_RUN_DIR, MountOption, RunDirOption
from swmld.cli.text import printable, prose
from swmld.errors import HostError
from swmld.units import format_duration, format_rate, format_size

HELP = """Fetch files, or directories with all they hold, into the cache.

What is in the cache already is skipped, so a warm-up that was stopped goes on where it was: Ctrl-C leaves
what it has fetched. Reads through the mount go first. What the cache has no room for is left out and told,
with exit code 1. A relative PATH counts from the current directory if that is under the mount, else from the
mount.

[bold]Examples[/bold]

  swmld warmup /mnt/ml/imagenet/train

  swmld warmup --mount /mnt/ml models/llama shards/0001.tar
"""


def register(app: typer.Typer) -> None:
    app.command("warmup", help=prose(HELP))(warmup)


def warmup(
    paths: Annotated[list[str], typer.Argument(metavar="PATH", help="What to fetch.", show_default=False)],
    mount: MountOption = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
) -> None:
    """Fetch ``paths`` and show how far it is."""
    daemon = pick(Path(run_dir), mount, paths[0])
    with daemon.connect() as client:
        params = {"paths": [sent(daemon.mount, path) for path in paths]}
        try:
            result = cast(WarmupResult, call_with_bar(client, "warmup", params, "warming up"))
        except KeyboardInterrupt:
            print(
                "swmld: stopped; what was fetched stays, the same command goes on from there", file=sys.stderr
            )
            raise typer.Exit(130) from None
    seconds = max(result["seconds"], 1e-9)
    print(
        f"{result['files']} files: fetched {format_size(result['fetched_bytes'])} in "
        f"{format_duration(result['seconds'])} ({format_rate(result['fetched_bytes'] / seconds)}), "
        f"{format_size(result['skipped_bytes'])} were cached already"
    )
    short = left_out(result)
    if short and result["failed_files"]:
        print(f"swmld: {short}", file=sys.stderr)
    complain(result["failed"], result["failed_files"])
    if short:
        raise HostError(short)


def left_out(result: WarmupResult) -> str:
    """What is not in the cache because there is no room, and why, as one line; "": nothing."""
    files, room = result.get("left_out_files", 0), format_size(result.get("room_bytes", 0))
    why = {
        "size": f"the cache is full: {room} (--cache-size)",
        "disk": f"the cache is full: its disk has room for {room} (--free-floor stays free)",
        "use": "the cache is full of what it keeps: pinned, in use, or read more often",
    }.get(result.get("full", ""))
    if not files or why is None:
        return ""
    return f"{why}; {result['files']} files, {files} left out ({format_size(result['left_out_bytes'])})"


def call_with_bar(client: Client, method: str, params: dict[str, Any], title: str) -> Any:
    """The result of a call that sends ``Transfer`` progress, with a bar if somebody watches."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TextColumn("{task.fields[files]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    ) as bar:
        task = bar.add_task(title, total=None, files="")

        def on_progress(at: dict[str, Any]) -> None:
            files = f"{at['done_files']}/{at['total_files'] or '?'} files"
            bar.update(task, completed=at["done_bytes"], total=at["total_bytes"] or None, files=files)

        return client.call(method, params, on_progress)


def complain(failed: list[PathError], total: int) -> None:
    """Tell each failed file; raises HostError with their number if there are any."""
    for one in failed:
        print(f"swmld: {printable(one['path'])}: {one['error']}", file=sys.stderr)
    if total:
        raise HostError(f"{total} files failed")
