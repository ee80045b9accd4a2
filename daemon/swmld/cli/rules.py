"""``swmld rules ls|check|match|reference``: the rules of a daemon, what files say, what they would decide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console

from swmld.api.client import Client
from swmld.api.messages import RulesResult
from swmld.cli.daemon import pick
from swmld.cli.options import DEFAULT_RUN_DIR, JsonOption, MountOption, PluginsOption, RunDirOption
from swmld.cli.text import printable, prose, put
from swmld.cli.validate import Environment, Paths

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help=prose("""List the rules of a running daemon, check rules files, and try them on given facts.

[bold]Examples[/bold]

  swmld rules ls

  swmld rules check rules.yaml

  swmld rules match rules.yaml --facts facts.yaml

  swmld rules reference | less
"""),
)


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="rules")


@app.command("ls")
def ls(
    rule: Annotated[
        str | None, typer.Argument(metavar="RULE", help="Show this rule in full.", show_default=False)
    ] = None,
    mount: MountOption = None,
    json_: JsonOption = False,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
) -> None:
    """List the rules that a daemon uses, by rank, and what came of each.

    APPLIED: decisions it had a part in; WON: values that it gave; FETCHED and USED: bytes that were fetched
    ahead because of it, and of those what was read. Rules that are not in use are listed below with the
    reason; so is why changed files are not in use.

    [bold]Examples[/bold]

      swmld rules ls

      swmld rules ls images
    """
    from swmld.cli import rules_list

    daemon = pick(Path(run_dir), mount)
    with daemon.connect() as client:
        found = _ask(client, {"rule": rule} if rule else {})
    if json_:
        print(json.dumps(found))
        return
    console = Console(highlight=False)
    for line in rules_list.full(found["rules"]) if rule else rules_list.view(found):
        put(console, line)


def _ask(client: Client, params: dict[str, Any]) -> RulesResult:
    """All rules, asked for in parts."""
    found = cast(RulesResult, client.call("rules", params))
    while found["left_out"]:
        part = cast(RulesResult, client.call("rules", params | {"offset": len(found["rules"])}))
        found["rules"] += part["rules"]
        found["left_out"] = part["left_out"] if part["rules"] else 0  # fewer than before the last reload
    return found


@app.command("check")
def check(paths: Paths, environment: Environment = None, plugins: PluginsOption = None) -> None:
    """Read rules files and list what was understood; or every error, with exit code 2. As swmld validate.

    [bold]Example[/bold]

      swmld rules check rules.yaml
    """
    from swmld.cli import rules_text

    for line in rules_text.checked(paths, environment, plugins or ()):
        print(printable(line))


@app.command("match")
def match(
    paths: Paths,
    facts: Annotated[
        str,
        typer.Option(
            "--facts", metavar="FILE", help="What is known: properties with their values, YAML or JSON."
        ),
    ],
    environment: Environment = None,
    plugins: PluginsOption = None,
) -> None:
    """Say what the rules would decide for the given facts, and why.

    [bold]Example[/bold]

      swmld rules match rules.yaml --facts facts.yaml
    """
    from swmld.cli import rules_text

    for line in rules_text.decided(paths, facts, environment, plugins or ()):
        print(printable(line))


@app.command("reference")
def reference() -> None:
    """Print the reference of rules as Markdown: keys, properties, operators, actions, built-in rules.

    [bold]Example[/bold]

      swmld rules reference > rules.md
    """
    from swmld.cli import rules_text

    print(rules_text.reference())
