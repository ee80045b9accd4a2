"""What ``swmld test-rules`` knows besides the files: the host as it is now, and what the user says is so."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from pathlib import Path

from swmld.config.models import CACHE_ROOT
from swmld.documents import Document, DocumentError, Problem
from swmld.head.host import Host
from swmld.rules import catalogue, facts
from swmld.rules.catalogue import Context
from swmld.rules.kinds import Kind, Value
from swmld.rules.ruleset import RuleSet

CPU_SECONDS = 0.2
"""Over which ``cpu`` is taken, where a rule asks for it; a daemon has a second for that."""


def asked(rules: RuleSet) -> frozenset[str]:
    """The properties of the host and the daemon that active rules ask for."""
    nodes = [node for rule in rules.rules for _, node in rule.conditions]
    nodes += [rule.guard for rule in rules.rules if rule.guard is not None]
    tests = (test for node in nodes for test in node.tests())
    return frozenset(test.what.name for test in tests if test.what.context is Context.SYSTEM)


def of_host(wanted: Collection[str], cache_dir: Path | None = None) -> dict[str, Value]:
    """Those of ``wanted`` that this host tells now; blocks. What only a daemon knows (the cache's fill, the
    source's rate and latency) is not there. ``cache_dir``: a directory that need not be there yet, on the
    disk of the cache."""
    if not wanted:
        return {}
    place = cache_dir or CACHE_ROOT
    while not place.exists() and place != place.parent:
        place = place.parent
    host = Host(place)
    found = host.look()
    if "cpu" in wanted:
        time.sleep(CPU_SECONDS)  # it is a share of the time between two looks
        found |= host.look()
    return {name: value for name, value in found.items() if name in wanted}


def given(words: Iterable[str]) -> dict[str, Value]:
    """What ``--fact NAME=VALUE`` says, lists with commas. Raises DocumentError with every problem."""
    document = Document("--fact")
    for word in words:
        name, equals, value = word.partition("=")
        name = name.strip()
        if not equals or not name:
            document.problems.append(Problem("--fact", 0, "", f"expected NAME=VALUE, got {word!r}"))
        elif name in document.values:
            document.problems.append(Problem("--fact", 0, name, "given twice"))
        else:
            document.values[name] = _listed(name, value.strip())
    if document.problems:
        raise DocumentError(document.problems)
    return facts.read(document)


def _listed(name: str, value: str) -> str | list[str]:
    try:
        many = catalogue.find(name).kind is Kind.SET
    except ValueError:  # facts.read tells it
        many = False
    return [part.strip() for part in value.split(",")] if many else value
