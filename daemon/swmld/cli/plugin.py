"""``swmld plugin ls|check``: the plugins of a daemon, and whether one's own does what is expected of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console

from swmld.api.plugins import PluginsResult
from swmld.cli.daemon import pick
from swmld.cli.options import DEFAULT_RUN_DIR, JsonOption, MountOption, RunDirOption
from swmld.cli.text import prose, put

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help=prose("""List the plugins of a running daemon, and check one before a daemon loads it.

[bold]Examples[/bold]

  swmld plugin ls

  swmld plugin check /etc/swmld/plugins/mine.py
"""),
)


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="plugin")


@app.command("ls")
def ls(
    mount: MountOption = None,
    json_: JsonOption = False,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
) -> None:
    """List the plugins that a daemon uses, and what was refused or is not used any more.

    ORIGIN: shipped, the entry point of a package, or the file. CALLS: how often it was asked.

    [bold]Example[/bold]

      swmld plugin ls
    """
    from swmld.cli import plugin_text

    daemon = pick(Path(run_dir), mount)
    with daemon.connect() as client:
        found = cast(PluginsResult, client.call("plugins", {}))
    if json_:
        print(json.dumps(found))
        return
    console = Console(highlight=False)
    for line in plugin_text.listing(found):
        put(console, line)


@app.command("check")
def check(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A file with a plugin, in Python.", show_default=False)
    ],
    samples: Annotated[
        list[str] | None,
        typer.Argument(metavar="SAMPLE...", help="Files that the plugin is to know.", show_default=False),
    ] = None,
) -> None:
    """Load a plugin as a daemon would and try it: on files that are empty, random, damaged, huge or cannot be
    read, twice each, with a time limit; on the samples, whole, cut off and damaged; and load its rules.

    Exit code 0: a daemon would use it; 1: it fails a check; 2: it cannot be loaded.

    [bold]Examples[/bold]

      swmld plugin check mine.py

      swmld plugin check mine.py /mnt/ml/model.mine
    """
    from swmld.cli import plugin_text

    fine = True
    console = Console(highlight=False)
    for line, passed in plugin_text.checked(Path(file), [Path(sample) for sample in samples or ()]):
        put(console, line)
        fine = fine and passed
    if not fine:
        raise typer.Exit(1)
