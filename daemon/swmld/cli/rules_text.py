"""What ``swmld rules`` prints. Imported when asked for: the modules of rules take a tenth of a second."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from swmld import documents
from swmld.cli.text import table
from swmld.documents import Document, DocumentError
from swmld.rules import facts as known
from swmld.rules import reference as pages
from swmld.rules.compile import ranked
from swmld.rules.decide import Engine
from swmld.rules.explain import explanation
from swmld.rules.loading import load
from swmld.rules.reading import LIMITS
from swmld.rules.ruleset import RulesError, RuleSet


def reference() -> str:
    """The reference of rules as Markdown."""
    return pages.page()


def checked(files: Iterable[str], environment: str | None) -> list[str]:
    """``listing`` of files; RulesError with all that is wrong with them."""
    return listing(_load(files, environment))


def decided(files: Iterable[str], facts: str, environment: str | None) -> Iterator[str]:
    """What the rules make of the facts; RulesError with all that is wrong with either."""
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
    yield from explanation(Engine(rules.rules), values)


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
    lines = (
        table(("RULE", "PRIORITY", "CONDITIONS", "ACTIONS", "SPECIFICITY", "PART OF", "WHERE"), rows)
        if rows
        else ["no rules"]
    )
    lines += [f"not in use: {title}: {why}" for title, why in rules.inactive]
    for section, names in rules.sections.items():
        if names and section != "rules":
            lines.append(f"{section.replace('_', ' ')}: {', '.join(names)}")
    if rules.settings:
        lines.append("settings: " + ", ".join(f"{name} {value}" for name, value in rules.settings.items()))
    lines += [f"note: {note}" for note in rules.notes]
    return lines
