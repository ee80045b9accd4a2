"""``swmld cache ls|verify|drop``: what is in the cache, whether it is right, and out with it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, cast

import typer

from swmld.api.messages import CacheEntry, CacheTotal, VerifyResult
from swmld.cli.daemon import Running, pick, sent
from swmld.cli.options import DEFAULT_RUN_DIR, JsonOption, MountOption, RunDirOption
from swmld.cli.text import printable, prose
from swmld.cli.warmup import call_with_bar, complain
from swmld.errors import HostError
from swmld.units import format_size

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help=prose("""List, check or remove what is in the cache.

[bold]Examples[/bold]

  swmld cache ls /mnt/ml/train

  swmld cache verify /mnt/ml

  swmld cache drop /mnt/ml/old-dataset
"""),
)


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="cache")


def _path(help_text: str) -> Any:
    return typer.Argument(metavar="PATH", help=help_text, show_default=False)


@app.command("ls")
def ls(
    path: str = typer.Argument("", metavar="PATH", help="What to list; default: all.", show_default=False),
    mount: MountOption = None,
    json_: JsonOption = False,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
) -> None:
    """List the cached files under PATH: cached bytes, size, share, last use.

    [bold]Example[/bold]

      swmld cache ls /mnt/ml/train
    """
    daemon, params = _target(run_dir, mount, path)

    def on_progress(message: dict[str, Any]) -> None:
        for entry in cast(list[CacheEntry], message["entries"]):
            print(json.dumps(entry) if json_ else _line(entry))

    with daemon.connect() as client:
        total = cast(CacheTotal, client.call("cache.ls", params, on_progress))
    if not json_:
        print(f"{total['files']} files, {format_size(total['bytes'])} cached", file=sys.stderr)


@app.command("verify")
def verify(
    path: str = _path("What to check: a file or a directory."),
    mount: MountOption = None,
    json_: JsonOption = False,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
) -> None:
    """Read the cached bytes under PATH, compare their checksums and fetch again what is damaged.

    Exit code 0: all is right, or was mended; 1: something could not be mended.

    [bold]Example[/bold]

      swmld cache verify /mnt/ml
    """
    daemon, params = _target(run_dir, mount, path)
    with daemon.connect() as client:
        result = cast(VerifyResult, call_with_bar(client, "cache.verify", params, "verifying"))
    if json_:
        print(json.dumps(result))
    else:
        print(
            f"{result['files']} files, {result['chunks']} chunks checked: {result['bad']} bad, "
            f"{result['mended']} mended"
        )
    complain(result["failed"], len(result["failed"]))
    if result["bad"] > result["mended"]:
        raise HostError(
            f"{result['bad'] - result['mended']} chunks could not be mended; the source is read instead"
        )


@app.command("drop")
def drop(
    path: str = _path("What to remove from the cache: a file or a directory."),
    mount: MountOption = None,
    json_: JsonOption = False,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
) -> None:
    """Remove what is under PATH from the cache. The source is not touched; open files stay readable.

    [bold]Example[/bold]

      swmld cache drop /mnt/ml/old-dataset
    """
    daemon, params = _target(run_dir, mount, path)
    with daemon.connect() as client:
        total = cast(CacheTotal, client.call("cache.drop", params))
    print(json.dumps(total) if json_ else f"dropped {total['files']} files, {format_size(total['bytes'])}")


def _target(run_dir: str, mount: str | None, path: str) -> tuple[Running, dict[str, str]]:
    daemon = pick(Path(run_dir), mount, path or None)
    return daemon, {"path": sent(daemon.mount, path)} if path else {}


def _line(entry: CacheEntry) -> str:
    # By chunks where bytes are fewer than those that they stand for: compressed, or complete as they are.
    share = 100 * entry["cached_bytes"] // entry["size"] if entry["size"] else 100
    if entry["state"] == "complete":
        share = 100
    used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry["last_used"])) if entry["last_used"] else "-"
    size = f"{format_size(entry['cached_bytes']):>9} of {format_size(entry['size']):>9} {share:3d}%"
    pinned = " pinned" if entry["pinned"] else ""
    return f"{size}  {entry['state']:8}  {used:>16}  {printable(entry['path'])}{pinned}"
