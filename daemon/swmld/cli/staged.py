"""``swmld staged`` and ``swmld flush``: files that were written and that the source has not got yet."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from swmld.api.messages import StagedStatus
from swmld.api.staging import FlushResult, StagedItem
from swmld.cli.daemon import pick, sent
from swmld.cli.options import DEFAULT_RUN_DIR, JsonOption, MountOption, RunDirOption
from swmld.cli.text import printable, prose, table
from swmld.cli.warmup import call_with_bar
from swmld.errors import HostError
from swmld.units import format_duration, format_size

STAGED = """List the files of a remote source that are being written, wait to be uploaded, could not be, or
were put aside.

Put aside is what the source has another generation of by now, and what was being written when the daemon or
the machine went down: the source is as it was, the bytes are in FILE. Copy them to where they belong, then
drop them.

[bold]Examples[/bold]

  swmld staged

  swmld staged --mount /mnt/ml --json

  swmld staged --drop 17                          delete what was put aside as 17
"""
FLUSH = """Upload what waits, wait for it, and try at once what failed before: all of it, or what is at or
below PATH.

Files that are still open are not waited for. Exit code 1: something could not be uploaded; it is listed with
the reason, stays staged, and is tried again.

[bold]Examples[/bold]

  swmld flush

  swmld flush /mnt/ml/checkpoints && echo safe
"""
NOTHING = "nothing is staged"


def register(app: typer.Typer) -> None:
    app.command("staged", help=prose(STAGED))(staged)
    app.command("flush", help=prose(FLUSH))(flush)


def staged(
    mount: MountOption = None,
    json_: JsonOption = False,
    drop: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER", help="Delete what was put aside under this number.", show_default=False
        ),
    ] = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
) -> None:
    """List what is staged, or delete what was put aside."""
    daemon = pick(Path(run_dir), mount)
    items: list[StagedItem] = []
    with daemon.connect() as client:
        if drop is not None:
            gone = cast(StagedItem, client.call("staged.drop", {"number": drop}))
            size = format_size(gone["size"])
            print(json.dumps(gone) if json_ else f"dropped {printable(gone['path'])}, {size}")
            return
        total = cast(StagedStatus, client.call("staged", {}, lambda more: items.extend(more["items"])))
    if json_:
        print(json.dumps(items))
        return
    for line in listing(items, time.time()):
        print(line)
    if items:
        print(
            f"{total['files']} files, {format_size(total['waiting_bytes'])} wait; {total['aside']} put aside",
            file=sys.stderr,
        )


def listing(items: list[StagedItem], now: float) -> list[str]:
    """Lines for a terminal."""
    if not items:
        return [NOTHING]
    rows = [
        (str(item["number"]), item["state"], format_size(item["size"]),
         format_duration(max(0.0, now - item["changed"])), printable(item["path"]), _why(item))
        for item in items
    ]  # fmt: skip
    return table(("NUMBER", "STATE", "SIZE", "AGE", "PATH", "WHY"), rows)


def _why(item: StagedItem) -> str:
    if item["state"] == "aside":
        return printable(f"{item['why']}; FILE {item['file']}")
    return printable(item["why"])


def flush(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="What to upload; default: all.", show_default=False)
    ] = "",
    mount: MountOption = None,
    json_: JsonOption = False,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
) -> None:
    """Wait until what waits has been uploaded."""
    daemon = pick(Path(run_dir), mount, path or None)
    params: dict[str, Any] = {"path": sent(daemon.mount, path)} if path else {}
    with daemon.connect() as client:
        try:
            result = cast(FlushResult, call_with_bar(client, "flush", params, "uploading"))
        except KeyboardInterrupt:
            print("swmld: not waited for; it is uploaded all the same", file=sys.stderr)
            raise typer.Exit(130) from None
    if json_:
        print(json.dumps(result))
    else:
        print(told(result))
    for one in result["failed"]:
        print(f"swmld: {printable(one['path'])}: {printable(one['error'])}", file=sys.stderr)
    if result["failed_files"]:
        raise HostError(f"{result['failed_files']} files are not uploaded: swmld staged")


def told(result: FlushResult) -> str:
    """One line."""
    if not result["uploaded_files"] and not result["failed_files"]:
        return "nothing waits to be uploaded"
    size, seconds = format_size(result["uploaded_bytes"]), format_duration(result["seconds"])
    return f"{result['uploaded_files']} files uploaded, {size} in {seconds}"
