"""The rules and templates of plugins: built in where they are sound, and act only where they are named."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from swmld import documents
from swmld.documents import Document
from swmld.plugins.registry import Found
from swmld.rules import loading, templates
from swmld.rules.reading import LIMITS
from swmld.rules.ruleset import RulesError

_SECTIONS = ("rules", "templates")
_HEADED = re.compile(rf"(?:\s*(?:#.*)?\n)*(?:{'|'.join(_SECTIONS)})\s*:")


class Brought(NamedTuple):
    """What one plugin brings: two texts, each a list in YAML; empty: none."""

    name: str
    rules: str
    templates: str

    def documents(self) -> tuple[Document, ...]:
        """Lines count as in the texts, where these begin with a line of their own."""
        found = []
        for section, text in zip(_SECTIONS, self[1:], strict=True):
            if text.strip():
                headed = text if _HEADED.match(text) else _under(section, text)
                name = f"plugin {self.name}" + (" (templates)" if section == "templates" else "")
                found.append(documents.parse(name, headed.encode(errors="replace"), **LIMITS))
        return tuple(found)


def _under(section: str, text: str) -> str:
    return f"{section}:{text}" if text.startswith("\n") else f"{section}:\n{text}"


def vetted(found: Found) -> Found:
    """What was found, without the plugins whose rules or templates are not sound; those of the others are
    built in from now on, in this process."""
    wrong = provide(Brought(each.name, each.rules, each.templates) for each in found.plugins)
    return Found(
        [each for each in found.plugins if each.name not in wrong],
        found.problems + [
            f"{each.origin}: {each.name}: {' '.join(wrong[each.name].splitlines()[:1])}"
            for each in found.plugins if each.name in wrong
        ],
    )  # fmt: skip


def provide(plugins: Iterable[Brought]) -> dict[str, str]:
    """Build in what plugins bring, instead of what was built in so before; what is not sound is left out.

    Returns why, by the plugin's name: each problem in a line with its place.
    """
    loading.provide(())
    sound: list[Document] = []
    wrong: dict[str, str] = {}
    each = [(plugin.name, plugin.documents()) for plugin in plugins]
    # Mostly all of them are sound: one look at all costs what a look at one does.
    if not _problems([document for _, own in each for document in own], ()):
        sound = [document for _, own in each for document in own]
        each = []
    for name, own in each:
        problems = _problems(own, sound)
        if problems:
            wrong[name] = "\n".join(problems)
        else:
            sound += own
    loading.provide(sound)
    return wrong


def _problems(own: Sequence[Document], others: Iterable[Document]) -> list[str]:
    """What is wrong with documents beside those that are built in. As users' documents, of which each rule
    is made, named or not."""
    taken = {name for document in (*templates.builtins(), *others) for name in _names(document)}
    found = []
    for document in own:
        for name in sorted(_names(document)):
            if name in taken:
                found.append(f"{document.name}: {name[1]}: the name of another of the {name[0]} already")
            taken.add(name)
        for section in document.values.keys() - set(_SECTIONS):
            found.append(f"{document.name}: {section}: expected rules or templates alone")
    if found:
        return found
    loading.provide(others)
    try:
        loading.load(own)
    except RulesError as error:
        return [str(problem) for problem in error.problems]
    finally:
        loading.provide(())
    return []


def _names(document: Document) -> set[tuple[str, str]]:
    """Section and id of what a document defines."""
    found = set()
    for section in _SECTIONS:
        entries = document.values.get(section)
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict):
                found.add((section, str(entry.get("id"))))
    return found
