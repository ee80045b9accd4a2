"""``swmld rules check|match|reference``: what rules files say, and what they would decide."""

from __future__ import annotations

from typing import Annotated

import typer

from swmld.cli.text import printable, prose

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
    from swmld.cli import rules_text

    for line in rules_text.checked(files, environment):
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
    from swmld.cli import rules_text

    for line in rules_text.decided(files, facts, environment):
        print(printable(line))


@app.command("reference")
def reference() -> None:
    """Print the reference of rules as Markdown: keys, properties, operators, actions, built-in rules.

    [bold]Example[/bold]

      swmld rules reference > rules.md
    """
    from swmld.cli import rules_text

    print(rules_text.reference())
