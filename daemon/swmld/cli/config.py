"""``swmld config show|init|schema``: what a configuration comes to, a new one, and its schema for editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from swmld.cli.options import JsonOption, PluginsOption
from swmld.cli.text import plain, prose
from swmld.config.models import Settings

HELP = """Show what the configuration comes to, begin a new one, print its schema for editors.

A configuration is a file, or a directory with files in [bold]default/[/bold], [bold]frameworks/[/bold],
[bold]environments/[/bold] and [bold]custom/[/bold]; each may have settings of the daemon and rules. The later
layer wins, key by key.

[bold]Examples[/bold]

  swmld config init /etc/swmld --recipe vision

  swmld config show --origin

  swmld config schema > swmld.schema.json
"""
SHOW = """Print the settings of the daemon, and the rules, templates and so on that are in the files, as YAML
that can be given to --config.

Options of the daemon may stand before [bold]config[/bold]; environment variables (SWMLD_CACHE_SIZE for
--cache-size) count as for the daemon.

[bold]Examples[/bold]

  swmld config show --config /etc/swmld --origin

  swmld --cache-size 1TiB config show --environment production
"""
INIT = """Write a configuration directory: every setting with its default in a comment, recipes of rules, and
a place for your own. Nothing that exists is overwritten.

[bold]Examples[/bold]

  swmld config init /etc/swmld

  swmld config init ./conf --recipe production-training --recipe checkpoint-heavy
"""
SCHEMA = """Print the JSON Schema (draft 2020-12) of configuration files, for editors that check and complete.

[bold]Example[/bold]

  swmld config schema > swmld.schema.json

In the first line of a file, for editors with the YAML language server:

  # yaml-language-server: $schema=swmld.schema.json
"""

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help=prose(HELP))

ConfigOption = Annotated[
    str | None,
    typer.Option("--config", metavar="PATH|off", help="File or directory; off: none.", show_default=False),
]
RulesOption = Annotated[
    list[str] | None,
    typer.Option("--rules", metavar="PATH", help="More rules. Repeatable.", show_default=False),
]
EnvironmentOption = Annotated[
    str | None,
    typer.Option("--environment", metavar="NAME", help="Environment in use.", show_default=False),
]
MountOption = Annotated[
    str | None,
    typer.Option("--mount", metavar="DIR", help="Directory that would be served.", show_default=False),
]
OriginOption = Annotated[bool, typer.Option("--origin", help="Say of each value where it comes from.")]
RecipeOption = Annotated[
    list[str] | None,
    typer.Option("--recipe", metavar="NAME", help="Recipe to begin with, beside everyday: checkpoint-heavy, "
                 "data-pipeline, llm-finetuning, nlp, production-training, real-time-inference, research or "
                 "vision. Repeatable.", show_default=False),
]  # fmt: skip


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="config")


@app.command("show", help=prose(SHOW))
def show(
    ctx: typer.Context,
    config: ConfigOption = None,
    rules: RulesOption = None,
    environment: EnvironmentOption = None,
    plugins: PluginsOption = None,
    mount: MountOption = None,
    origin: OriginOption = False,
    json_: JsonOption = False,
) -> None:
    """Print the effective tree."""
    from swmld.cli import config_tree, configuring

    given: dict[str, Any] = dict(ctx.find_root().params)
    own = {"config": config, "rules": rules or None, "environment": environment,
           "plugins": plugins or None, "mount": mount}  # fmt: skip
    given |= {key: value for key, value in own.items() if value is not None}
    options = {key: given.get(key) for key in Settings.model_fields}
    options |= {key: given.get(key) or None for key in ("rules", "plugins")}
    tree = config_tree.tree(*configuring.settled(given.get("config"), options, anywhere=True))
    if json_:
        print(json.dumps(tree.as_json(origin=origin)))
        return
    console = Console(highlight=False)
    for line in list(tree.lines(origin=origin))[1:]:
        text = plain(line.text)
        if line.comment:
            text.stylize("dim", len(line.text) - len(line.comment))
        console.print(text, soft_wrap=True)


@app.command("init", help=prose(INIT))
def init(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Where to.", show_default=False)],
    recipe: RecipeOption = None,
) -> None:
    """Write the files."""
    from swmld.config import recipes

    target = Path(directory)
    for path in recipes.write(target, recipes.layout(recipe or ())):
        print(path)
    print(f"check it: swmld validate {target}; use it: swmld --mount DIR --config {target}")


@app.command("schema", help=prose(SCHEMA))
def schema() -> None:
    """Print the schema."""
    from swmld.cli.options import default_text
    from swmld.rules.schema import page

    found = Settings.model_json_schema()
    for key, entry in found["properties"].items():
        entry.pop("title", None)
        entry.pop("default", None)
        if (default := default_text(key)) is not None:
            entry["default"] = default
    print(json.dumps(page(found), indent=1))
