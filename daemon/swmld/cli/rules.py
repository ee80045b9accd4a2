"""``swmld rules check|match|reference``: what rules files say, and what they would decide."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from swmld import documents
from swmld.cli.text import printable, prose
from swmld.documents import Document, DocumentError
from swmld.rules import facts as known
from swmld.rules import reference as pages
from swmld.rules.compile import ranked
from swmld.rules.decide import Engine
from swmld.rules.explain import explanation
from swmld.rules.loading import load
from swmld.rules.reading import LIMITS
from swmld.rules.ruleset import RulesError, RuleSet

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help=prose("""Check rules files and try them on given facts. The daemon does not read rules yet.

[bold]Examples[/bold]

  swmld rules check rules.yaml

  swmld rules match rules.yaml --facts facts.yaml

  swmld rules reference | less
"""),
)


def register(root: typer.Typer) -> None:
    # Not listed until rules have an effect on a mount.
    root.add_typer(app, name="rules", hidden=True)


Files = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE...", help="Rules files, YAML or JSON; of two definitions with one id the later counts.",
        show_default=False,
    ),
]  # fmt: skip
Environment = Annotated[
    str | None,
    typer.Option(
        "--environment", metavar="NAME", help="Environment of the files that is in use.", show_default=False
    ),
]


@app.command("check")
def check(files: Files, environment: Environment = None) -> None:
    """Read rules files and list what was understood; or every error, with exit code 2.

    [bold]Example[/bold]

      swmld rules check rules.yaml
    """
    for line in listing(_load(files, environment)):
        print(printable(line))


@app.command("match")
def match(
    files: Files,
    facts: Annotated[
        str,
        typer.Option(
            "--facts", metavar="FILE", help="What is known: properties with their values, YAML or JSON."
        ),
    ],
    environment: Environment = None,
) -> None:
    """Say what the rules would decide for the given facts, and why.

    [bold]Example[/bold]

      swmld rules match rules.yaml --facts facts.yaml
    """
    document = documents.read(Path(facts))
    problems: list[documents.Problem] = []
    try:
        rules = _load(files, environment)
    except RulesError as error:
        problems += error.problems
    try:
        values = known.read(document)
    except DocumentError as error:
        problems += error.problems
    if problems:
        raise RulesError(problems)
    for line in explanation(Engine(rules.rules), values):
        print(printable(line))


@app.command("reference")
def reference() -> None:
    """Print the reference of rules as Markdown: keys, properties, operators, actions, built-in rules.

    [bold]Example[/bold]

      swmld rules reference > rules.md
    """
    print(pages.page())


def _load(files: Iterable[str], environment: str | None) -> RuleSet:
    read: list[Document] = [documents.read(Path(file), **LIMITS) for file in files]
    return load(read, environment=environment)


def listing(rules: RuleSet) -> list[str]:
    """What was understood: the rules by rank, then the rest."""
    rows = [
        (rule.id, str(rule.priority), str(len(rule.conditions)), str(len(rule.actions)),
         str(rule.specificity), rule.origin or "-", rule.where)
        for rule in ranked(rules.rules)
    ]  # fmt: skip
    lines = table(("RULE", "PRIORITY", "CONDITIONS", "ACTIONS", "SPECIFICITY", "PART OF", "WHERE"), rows)
    lines += [f"not in use: {title}: {why}" for title, why in rules.inactive]
    for section, names in rules.sections.items():
        if names and section != "rules":
            lines.append(f"{section.replace('_', ' ')}: {', '.join(names)}")
    if rules.settings:
        lines.append("settings: " + ", ".join(f"{name} {value}" for name, value in rules.settings.items()))
    lines += [f"note: {note}" for note in rules.notes]
    return lines


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as they need to be; numbers to the right."""
    if not rows:
        return ["no rules"]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    right = [all(cell.lstrip("-").isdigit() for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in (head, *rows)
    ]
