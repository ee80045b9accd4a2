"""What ``swmld validate`` and ``swmld rules`` print. Imported when asked for: the modules of rules take a
tenth of a second."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from swmld import documents
from swmld.cli.configuring import Understood, understood
from swmld.cli.text import table
from swmld.documents import DocumentError, Problem
from swmld.head import plugged
from swmld.head.rulesfiles import Files
from swmld.rules import facts as known
from swmld.rules import reference as pages
from swmld.rules.compile import ranked
from swmld.rules.decide import Engine
from swmld.rules.explain import explanation
from swmld.rules.kinds import Value
from swmld.rules.ruleset import RulesError, RuleSet


def reference() -> str:
    """The reference of rules as Markdown."""
    return pages.page()


def checked(paths: Iterable[str], environment: str | None, plugins: Iterable[str] = ()) -> list[str]:
    """What files and directories say; RulesError with all that is wrong with them."""
    plugged.find()
    found = understood(paths, environment, plugins)
    lines = listing(found.rules)
    if found.daemon:
        lines.append("daemon: " + ", ".join(f"{key} {value} ({place})" for key, value, place in found.daemon))
    return lines


def as_json(paths: Iterable[str], environment: str | None, plugins: Iterable[str] = ()) -> dict[str, Any]:
    """The same for programs: ``problems``, empty if there are none, and what was understood."""
    plugged.find()
    try:
        found = understood(paths, environment, plugins)
    except DocumentError as error:
        return {"problems": [problem_json(problem) for problem in error.problems]}
    rules = [
        {"id": r.id, "title": r.title, "priority": r.priority, "where": r.where} for r in found.rules.rules
    ]
    return {
        "problems": [],
        "rules": rules,
        "inactive": [{"title": title, "why": why} for title, why in found.rules.inactive],
        "notes": list(found.rules.notes),
        "daemon": [{"key": key, "value": value, "where": place} for key, value, place in found.daemon],
    }


def problem_json(problem: Problem) -> dict[str, Any]:
    """One problem; ``line`` and ``column`` 0: not known."""
    return {"file": problem.where, "line": problem.line, "column": problem.column, "key": problem.key,
            "text": problem.text}  # fmt: skip


def decided(
    files: Iterable[str], facts: str, environment: str | None, plugins: Iterable[str] = ()
) -> Iterator[str]:
    """What the rules make of the facts; RulesError with all that is wrong with either."""
    found, values = with_facts(files, facts, environment, plugins)
    yield from explanation(Engine(found.rules.rules), values)


def with_facts(
    files: Iterable[str], facts: str | None, environment: str | None, plugins: Iterable[str] = ()
) -> tuple[Understood, dict[str, Value]]:
    """Rules, and what a file of facts says; RulesError with all that is wrong with either."""
    plugged.find()
    problems: list[Problem] = []
    found, values = None, {}
    try:
        found = understood(files, environment, plugins)
    except RulesError as error:
        problems += error.problems
    try:
        values = known.read(documents.read(regular(facts))) if facts is not None else {}
    except DocumentError as error:
        problems += error.problems
    if problems or found is None:
        raise RulesError(problems)
    return found, values


def regular(path: str) -> Path:
    """A path that can be read without waiting for anybody. Raises DocumentError."""
    files = Files([Path(path)])
    if files.problems or files.found != [Path(path)]:
        raise DocumentError(files.problems or [Problem(path, 0, "", "expected a file")])
    return Path(path)


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
