"""``swmld completion``: print the completion script of a shell."""

from __future__ import annotations

import typer
from typer import completion as typer_completion

from swmld.cli.text import prose
from swmld.errors import UsageError

SHELLS = ("bash", "zsh", "fish")
HELP = """Print the script that completes swmld's commands and options in your shell.

[bold]Examples[/bold]

  swmld completion bash > /etc/bash_completion.d/swmld

  swmld completion zsh > /usr/local/share/zsh/site-functions/_swmld

  swmld completion fish > ~/.config/fish/completions/swmld.fish
"""


def register(app: typer.Typer) -> None:
    app.command("completion", help=prose(HELP))(completion)


def completion(
    shell: str = typer.Argument(metavar="|".join(SHELLS), help="Your shell.", show_default=False),
) -> None:
    """Print the script."""
    if shell not in SHELLS:
        raise UsageError(f"completion: expected {', '.join(SHELLS[:-1])} or {SHELLS[-1]}, got {shell!r}")
    make = typer_completion.get_completion_script  # type: ignore[attr-defined]
    print(make(prog_name="swmld", complete_var="_SWMLD_COMPLETE", shell=shell))


def prepare() -> None:
    """Make the parser answer the requests that these scripts send."""
    typer_completion.completion_init()  # type: ignore[attr-defined]
