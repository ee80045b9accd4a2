"""``swmld test-rules``: which rules would match real files, without a daemon."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from swmld.cli.options import JsonOption, PluginsOption
from swmld.cli.text import prose, put
from swmld.cli.validate import Environment

HELP = """Say which rules of CONFIG, a file or directory, would match real files, and what they would decide.

Nothing is mounted, and no daemon is asked: size, age, format and type are those of the file itself, by stat
and its first bytes, from which plugins also know whose framework's it is; memory, CPUs, GPUs, the cache's
disk and the time are those of this host now. What only reading tells (order, pattern, phase, job) is not
known, and conditions on it do not hold, unless a recording says it ([bold]swmld trace record[/bold]) or you
do: --facts names a file of facts, --fact gives one, which counts first. Files are tried with what the
recording knew of them when they were last read in it.

Paths count from --mount, else from the mount of the recording, else from a directory that is given as PATH,
else from the current directory. Of directories the first 1000 files are tried.

[bold]Examples[/bold]

  swmld test-rules /etc/swmld /mnt/ml/models/llama

  swmld test-rules rules.yaml /mnt/ml/train --trace run.trace

  swmld test-rules rules.yaml a.safetensors --facts facts.yaml --why

  swmld test-rules rules.yaml a.pt --fact phase=inference --fact gpu_memory=90%
"""


def register(root: typer.Typer) -> None:
    root.command("test-rules", help=prose(HELP))(tried_rules)


def tried_rules(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="File or directory with rules.", show_default=False)
    ],
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Files and directories.", show_default=False)
    ],
    trace: Annotated[
        str | None,
        typer.Option("--trace", metavar="FILE", help="Recording of how they are read.", show_default=False),
    ] = None,
    facts: Annotated[
        str | None,
        typer.Option(
            "--facts",
            metavar="FILE",
            help="What else is known: properties with their values.",
            show_default=False,
        ),
    ] = None,
    fact: Annotated[
        list[str] | None,
        typer.Option(
            "--fact", metavar="NAME=VALUE", help="One property and its value. Repeatable.", show_default=False
        ),
    ] = None,
    environment: Environment = None,
    plugins: PluginsOption = None,
    mount: Annotated[
        str | None,
        typer.Option("--mount", metavar="DIR", help="Directory that paths count from.", show_default=False),
    ] = None,
    why: Annotated[bool, typer.Option("--why", help="Say of each file why.")] = False,
    json_: JsonOption = False,
) -> None:
    """Print a table."""
    from swmld.cli import trying

    found = trying.tried(
        config, paths, trace=trace, facts=facts, fact=fact or (), environment=environment,
        plugins=plugins or (), mount=mount,
    )  # fmt: skip
    if json_:
        print(json.dumps(found.as_json()))
        return
    console = Console(highlight=False)
    for line in found.reasons() if why else found.table():
        put(console, line)
