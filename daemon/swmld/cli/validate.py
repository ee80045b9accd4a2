"""``swmld validate``: everything that is wrong with a configuration, before a daemon reads it."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from swmld.cli.options import JsonOption, PluginsOption
from swmld.cli.text import printable, prose

HELP = """Read configuration files and list what was understood; or every error, with exit code 2.

Each path is a file or a directory, with rules, settings of the daemon, or both; they are read as the daemon
reads them, the later ones on top. Without --environment also what the files say of each environment is read.
An error is FILE:LINE:COLUMN: what was expected, with the nearest name there is.

[bold]Examples[/bold]

  swmld validate /etc/swmld

  swmld validate rules.yaml --environment production
"""
Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH...",
        help="Files, YAML or JSON, and directories; of two definitions with one id the later counts.",
        show_default=False,
    ),
]
Environment = Annotated[
    str | None,
    typer.Option("--environment", metavar="NAME", help="Environment that is in use.", show_default=False),
]


def register(root: typer.Typer) -> None:
    root.command("validate", help=prose(HELP))(validate)


def validate(
    paths: Paths,
    environment: Environment = None,
    plugins: PluginsOption = None,
    json_: JsonOption = False,
) -> None:
    """Print what was understood."""
    from swmld.cli import rules_text

    if json_:
        found = rules_text.as_json(paths, environment, plugins or ())
        print(json.dumps(found))
        raise typer.Exit(2 if found["problems"] else 0)
    for line in rules_text.checked(paths, environment, plugins or ()):
        print(printable(line))
