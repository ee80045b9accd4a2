"""``swmld explain PATH``: what the rules make of a file, and why."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from swmld.api.messages import ExplainResult
from swmld.cli.daemon import pick, sent
from swmld.cli.history import entry_lines
from swmld.cli.options import DEFAULT_RUN_DIR, JsonOption, MountOption, RunDirOption
from swmld.cli.text import plain, printable, prose, put
from swmld.errors import UsageError

HELP = """Explain what the rules of the running daemon make of the file PATH, and why.

Each rule that matches is shown with its conditions and the values that they met, then what is decided, which
rule gave each value and which it overruled, and what was decided when the file was last opened. What is known
of readers (phase, epoch, order) is known while they read.

[bold]Examples[/bold]

  swmld explain /mnt/ml/train/0001.jpg

  swmld explain /mnt/ml/model.safetensors --all         why the other rules do not match

  swmld explain /mnt/ml/model.safetensors --rule models
"""
STYLES = (
    (re.compile(r"^(\S.*?): matched,"), "bold green"),
    (re.compile(r"^(\S.*?): not matched,"), "bold"),
    (re.compile(r"^Decided"), "bold"),
    (re.compile(r"(?:^|[% ])true: "), "green"),
    (re.compile(r" (?:false): "), "red"),
    (re.compile(r" not known: "), "yellow"),
    (re.compile(r"^    (?:by default: .*|overruled: .*)$"), "dim"),
)

AllOption = Annotated[bool, typer.Option("--all", help="Show the rules that do not match, too.")]
KnownOption = Annotated[bool, typer.Option("--known", help="Show everything that is known of the file.")]
RuleOption = Annotated[
    str | None, typer.Option("--rule", metavar="ID", help="Show this rule alone.", show_default=False)
]


def register(app: typer.Typer) -> None:
    app.command("explain", help=prose(HELP))(explain)


def explain(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Which file.", show_default=False)],
    everything: AllOption = False,
    rule: RuleOption = None,
    known: KnownOption = False,
    mount: MountOption = None,
    json_: JsonOption = False,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
) -> None:
    """Print what one daemon says."""
    daemon = pick(Path(run_dir), mount, path)
    params = {"path": sent(daemon.mount, path), "all": everything}
    if os.path.isdir(os.path.join(daemon.mount, str(params["path"]))):
        raise UsageError(f"{path} is a directory, and rules are about files: name one of them")
    with daemon.connect() as client:
        found = cast(ExplainResult, client.call("explain", params | ({"rule": rule} if rule else {})))
    if json_:
        print(json.dumps(found))
        return
    console = Console(highlight=False)
    if known:
        console.print(_known(found))
        console.print()
    for line in found["lines"]:
        put(console, styled(line))
    if rule is None:
        more = (
            "" if everything or found["matched"] == found["active"] else "; --all shows why the others do not"
        )
        console.print(f"\n{found['matched']} of {found['active']} rules match{more}.", soft_wrap=True)
    if found["latest"] is not None:
        console.print("\nWhen it was last opened:")
        for text in entry_lines(found["latest"]):
            put(console, text)


def _known(found: ExplainResult) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in sorted(found["known"].items()):
        table.add_row(plain(name), plain(value))
    return table


def styled(line: str) -> Text:
    """A line of an explanation with what it says made visible."""
    text = Text(printable(line))
    for pattern, style in STYLES:
        if match := pattern.search(text.plain):
            text.stylize(style, *match.span(1 if match.lastindex else 0))
            break
    return text
