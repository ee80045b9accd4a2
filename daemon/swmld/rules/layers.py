"""Files on top of one another: what a later one changes of what an earlier one, or a built-in rule, says.

A rule with ``actions``, or a template with ``rules``, is whole and takes the place of the earlier one of its
id. One without changes the keys that it gives, and of ``parameters`` those that it names:
``{id: images, enabled: false}`` switches a rule off. Frameworks, environments and hardware profiles always
change key by key. What was changed keeps its place in the order, and each value says where it stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from swmld.documents import Document, Location, Place, Problem
from swmld.rules.document import DAEMON, SECTIONS, SETTINGS
from swmld.rules.kinds import nearest

WHOLE = {"rules": "actions", "templates": "rules"}
"""The key without which a definition is a change of an earlier one."""
NAMED = ("frameworks", "environments", "hardware_profiles")
BESIDE = frozenset({"rules", "templates", "description"})
"""Keys of an environment that are no settings."""

Files = dict[Place, str]
"""The file of each value that may stand in another one than what it is part of."""


class At(int):
    """A line, and the file that it is a line of."""

    file: str

    @classmethod
    def of(cls, line: int, file: str) -> At:
        at = cls(line)
        at.file = file
        return at


@dataclass(slots=True)
class Layered(Document):
    """A document of which some values may stand in other files."""

    files: Files = field(default_factory=dict)

    def line(self, location: Location) -> int:
        return At.of(Document.line(self, location), self.file(location))

    def place(self, location: Location, *, key: bool = False) -> tuple[int, int]:
        line, column = Document.place(self, location, key=key)
        return At.of(line, self.file(location)), column

    def complain(self, line: int, key: str, text: str, column: int = 0) -> None:
        before = len(self.problems)
        Document.complain(self, line, key, text, column)
        if isinstance(line, At) and len(self.problems) > before:
            self.problems[-1] = Problem(line.file, int(line), key, text, column)

    def file(self, location: Location) -> str:
        """The file of a value, or of the nearest around it that there is."""
        place, found = self.root, self.name
        for step in location:
            place = place.below.get(step) if place is not None else None
            if place is None:
                break
            found = self.files.get(place, found)
        return found


def rules_of(document: Document, chosen: str | None = None, only: str | None = None) -> Layered:
    """What a document says of rules, without the daemon's settings; unknown keys are told.

    ``only``: it counts for this environment alone, which it makes one. If that is not the ``chosen`` one,
    nothing else is left of it.
    """
    found = Layered(document.name, {}, document.root, list(document.problems))
    for key, value in document.values.items():
        if key == "rules" and not _are_rules(value):
            continue
        if key in SECTIONS:
            found.values[key] = value
        elif key not in DAEMON:
            line, column = document.place((key,), key=True)
            found.complain(line, key, f"unknown section{nearest(key, (*SECTIONS, *sorted(DAEMON)))}", column)
    settings, environments = found.values.get("settings"), found.values.get("environments")
    if isinstance(settings, dict):
        found.values["settings"] = _known(found, settings, ("settings",), frozenset())
    if isinstance(environments, dict):
        found.values["environments"] = {
            name: _known(found, value, ("environments", name), BESIDE) if isinstance(value, dict) else value
            for name, value in environments.items()
        }
    if only is not None and only != chosen:
        found.values = {"environments": {only: {}}}
    elif only is not None and isinstance(found.values.setdefault("environments", {}), dict):
        found.values["environments"].setdefault(only, {})
    return found


def _are_rules(value: Any) -> bool:
    """Whether ``rules`` are rules, and not the paths of files with rules."""
    if isinstance(value, str):
        return "/" not in value and not value.endswith((".yaml", ".yml", ".json"))
    return not (isinstance(value, list) and value and all(isinstance(item, str) for item in value))


def _known(found: Layered, raw: dict[str, Any], location: Location, beside: frozenset[str]) -> dict[str, Any]:
    kept = {}
    for key, value in raw.items():
        if key in SETTINGS or key in beside:
            kept[key] = value
        elif key not in DAEMON:
            line, column = found.place((*location, key), key=True)
            found.complain(line, key, f"unknown setting{nearest(key, (*SETTINGS, *sorted(DAEMON)))}", column)
    return kept


@dataclass(slots=True)
class Merged:
    """``documents``: to load, the built-in ones not among them. ``changed``: definitions of which a later one
    gave only some keys, as (name, ``FILE:LINE`` of the earlier, of the later)."""

    documents: list[Layered]
    changed: list[tuple[str, str, str]] = field(default_factory=list)


def merged(documents: Sequence[Layered], builtins: Iterable[Document] = ()) -> Merged:
    """The documents with each change made where it stands: what is changed, an earlier document or a built-in
    rule, stays as it is, and gives way to what has all of it."""
    files: Files = {}
    for document in documents:
        document.files = files
    made = Merged(list(documents))
    shipped = [Layered(each.name, each.values, each.root, files=files) for each in builtins]
    for section in (*WHOLE, *NAMED):
        seen: dict[str, tuple[Layered, str | int]] = {}
        for document in (*shipped, *documents):
            for name, step in _defined(document.values.get(section)):
                below = seen.get(name)
                partial = below is not None and below[0] is not document and _partial(document, section, step)
                if below is not None and partial:
                    lower, upper = _Entry(below[0], (section, below[1])), _Entry(document, (section, step))
                    if isinstance(lower.raw, dict):
                        made.changed.append((name, lower.where, upper.where))
                        _combine(lower, upper, files)
                elif below is None and any(document is own for own in documents):
                    _alone(document, section, step, seen)
                seen[name] = document, step
    return made


def _alone(document: Layered, section: str, step: str | int, known: Iterable[str]) -> None:
    """A change of something that nothing before it defines: a misspelt name, as a rule."""
    raw = document.values[section][step]
    if section in WHOLE and not {WHOLE[section], "conditions", "condition"} & set(raw):
        text = f"nothing before this has the id {raw['id']}{nearest(raw['id'], known)}"
        line, column = document.place((section, step, "id"))
        document.complain(line, "id", text, column)


def _defined(raw: Any) -> list[tuple[str, str | int]]:
    """Name and place of each definition in a section."""
    if isinstance(raw, dict):
        return [(name, name) for name in raw]
    entries = enumerate(raw) if isinstance(raw, list) else ()
    return [(e["id"], n) for n, e in entries if isinstance(e, dict) and isinstance(e.get("id"), str)]


def _partial(document: Layered, section: str, step: str | int) -> bool:
    raw = document.values[section][step]
    return raw is None or (isinstance(raw, dict) and WHOLE.get(section) not in raw)


class _Entry:
    """One definition of a document, and where it stands."""

    def __init__(self, document: Layered, location: tuple[str, str | int]) -> None:
        section, step = location
        self.document, self.location = document, location
        self.raw: Any = document.values[section][step]
        place = document.root.below.get(section) if document.root is not None else None
        self.place = (place.below.get(step) if place is not None else None) or Place(0, 0)

    @property
    def where(self) -> str:
        return f"{self.document.name}:{int(self.document.line(self.location))}"

    def tell(self, files: Files) -> None:
        """Note of which file each key is, and each parameter."""
        for key, place in self.place.below.items():
            file = files.setdefault(place, self.document.file(self.location))
            if key == "parameters":
                for inner in place.below.values():
                    files.setdefault(inner, file)

    def put(self, raw: dict[str, Any], below: dict[str | int, Place]) -> None:
        """Replace it. What others hold of the document stays as it is: it may be read by others too."""
        section, step = self.location
        whole = self.document.values[section]
        self.document.values[section] = (
            [raw if number == step else value for number, value in enumerate(whole)]
            if isinstance(whole, list)
            else {**whole, step: raw}
        )
        if (root := self.document.root) is not None and section in root.below:
            place = _with(self.place, below)
            self.document.root = _with(
                root,
                {
                    **root.below,
                    section: _with(root.below[section], {**root.below[section].below, step: place}),
                },
            )


def _combine(lower: _Entry, upper: _Entry, files: Files) -> None:
    lower.tell(files)
    upper.tell(files)
    given: dict[str, Any] = upper.raw or {}
    raw, below = {**lower.raw, **given}, {**lower.place.below, **upper.place.below}
    for one, other in (("condition", "conditions"), ("conditions", "condition")):
        if one in given and other not in given:
            raw.pop(other, None)
    old, new = lower.raw.get("parameters"), given.get("parameters")
    if isinstance(old, dict) and isinstance(new, dict):
        raw["parameters"] = {**old, **new}
        inside = (entry.place.below.get("parameters") for entry in (lower, upper))
        both = {key: place for each in inside if each is not None for key, place in each.below.items()}
        below["parameters"] = _with(below["parameters"], both)
    upper.put(raw, below)


def _with(place: Place, below: dict[str | int, Place]) -> Place:
    made = Place(place.line, place.column)
    made.key_line, made.key_column, made.below = place.key_line, place.key_column, below
    return made
