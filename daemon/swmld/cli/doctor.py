"""``swmld doctor``: what this host offers, and what is used instead of what it lacks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from swmld import doctor as probes
from swmld.cli import sampling
from swmld.cli.daemon import running
from swmld.cli.options import DEFAULT_RUN_DIR, JsonOption, RunDirOption
from swmld.cli.text import plain, prose
from swmld.config.models import CACHE_ROOT
from swmld.config.values import directory
from swmld.errors import UsageError

HELP = """Show what this host offers, and what is used instead of what it lacks.

Each feature is tried, not looked up. For what is missing it says how to get it. It needs no running daemon;
of those that run it tells whether their counts of reads are exact now. As root it sees more.

Exit code 1 if something is missing that swmld cannot do without.

[bold]Examples[/bold]

  sudo swmld doctor

  sudo swmld doctor --cache-dir /mnt/nvme/cache --json
"""


def register(app: typer.Typer) -> None:
    app.command("doctor", help=prose(HELP))(doctor)


def doctor(
    cache_dir: str = typer.Option(
        str(CACHE_ROOT), "--cache-dir", metavar="DIR", help="Cache directory to examine."
    ),
    json_: JsonOption = False,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
) -> None:
    """Print the findings."""
    findings = probes.examine(directory(cache_dir)) + _counts(Path(run_dir))
    if json_:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        Console().print(_table(findings))
    if any(finding.required and not finding.works for finding in findings):
        raise typer.Exit(1)


def _counts(run_dir: Path) -> list[probes.Finding]:
    """Of each daemon that runs whether it looks at each read now."""
    try:
        found = [daemon.status for daemon in running(run_dir)]
    except UsageError:  # only root may ask
        return []
    told = [sampling.finding(one["mount"], one["health"]["probe"]) for one in found if "health" in one]
    return [finding for finding in told if finding is not None]


def _table(findings: list[probes.Finding]) -> Table:
    """What is missing gets two more lines each: side by side they would not fit a terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("feature", "here", ""):
        table.add_column(title, overflow="fold")
    for finding in findings:
        answer = "[green]yes[/green]" if finding.works else "[red]no[/red]"
        table.add_row(finding.name, answer, plain(finding.detail))
        if not finding.works:
            table.add_row("", "", plain(f"used instead: {finding.instead}"))
            table.add_row("", "", plain(f"to get it: {finding.how}"))
    return table
