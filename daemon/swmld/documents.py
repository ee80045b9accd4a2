"""YAML and JSON files as plain text values that know where they stand, so that errors can say where.

Scalars stay text: who asked for the file decides what they mean. Nothing in the file is ever constructed.
Time and memory are bounded by the limits of ``parse``: depth, bytes, and values with all aliases written out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from swmld.errors import UsageError

Location = tuple[str | int, ...]
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Settings need 3 levels (paths, its entries, their keys).
MAX_DEPTH = 8
# A configuration has some 40 keys; more than this is another kind of file.
MAX_BYTES = 1 << 20
MAX_VALUES = 100_000
# Levels below max_depth that are passed over for what comes after them. The parser's time grows with the
# square of the depth: deeper files are given up.
MAX_SKIPPED = 100
# What libyaml says of more than 1,000 levels, before it hands out the first of them: since 0.2.6, which comes
# with PyYAML 6.0.4. It had no limit before; the pure Python parser has none.
_PARSER_TOO_DEEP = "exceeded maximum nesting depth"
# Refusals beyond these would not be read.
MAX_PROBLEMS = 1000


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong: where it stands, which key, and what was expected. Lines and columns count from 1;
    0: not known."""

    where: str
    line: int
    key: str
    text: str
    column: int = 0

    def __str__(self) -> str:
        place = f"{self.where}:{self.line}" if self.line else self.where
        place += f":{self.column}" if self.line and self.column else ""
        return (f"{place}: " if place else "") + (f"{self.key}: " if self.key else "") + self.text


class DocumentError(UsageError):
    """Files that cannot be used as they are. ``problems`` has every one; ``str`` is one line each."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Place:
    """Where a value stands, and its key if it has one; ``below`` the same of what it holds."""

    __slots__ = ("below", "column", "key_column", "key_line", "line")

    def __init__(self, line: int, column: int) -> None:
        self.line, self.column = line, column
        self.key_line, self.key_column = line, column
        self.below: dict[str | int, Place] = _NOTHING


_NOTHING: dict[str | int, Place] = {}


@dataclass(slots=True)
class Document:
    """The values of one file, the place of each, and what was wrong with its form."""

    name: str
    values: dict[str, Any] = field(default_factory=dict)
    root: Place | None = None
    problems: list[Problem] = field(default_factory=list)

    def line(self, location: Location) -> int:
        """The line of ``location``'s key, or of the nearest location around it that the file has; 0: none."""
        place = self._nearest(location)[0]
        return place.key_line if place is not None else 0

    def place(self, location: Location, *, key: bool = False) -> tuple[int, int]:
        """Line and column of the value at ``location`` (or of its key), or of the nearest around it."""
        place, found = self._nearest(location)
        if place is None:
            return 0, 0
        return (place.key_line, place.key_column) if key and found else (place.line, place.column)

    def _nearest(self, location: Location) -> tuple[Place | None, bool]:
        place = self.root
        for step in location:
            below = place.below.get(step) if place is not None else None
            if below is None:
                # The file's start says nothing about a key that is missing from it.
                return (None if place is self.root else place), False
            place = below
        return place, place is not None

    def complain(self, line: int, key: str, text: str, column: int = 0) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(self.name, line, key, text, column))


def hint(key: str, known: Iterable[str]) -> str:
    """What an unknown word was meant to be, as the end of a message."""
    names = sorted(known)
    near = difflib.get_close_matches(key.lower().replace("-", "_"), names, n=1)
    return f"; did you mean {near[0]}?" if near else f"; expected one of {', '.join(names)}"


def read(path: Path, **limits: int) -> Document:
    """Read the file at ``path``; ``limits`` as of ``parse``. Raises UsageError if it cannot be read."""
    most = limits.get("max_bytes", MAX_BYTES)
    try:
        with path.open("rb") as file:
            text = file.read(most + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    if len(text) > most:
        raise UsageError(f"{path}: expected a configuration of at most {most} bytes")
    return parse(str(path), text, **limits)


def _by_tabs(text: bytes, line: int) -> bool:
    """Whether a line is indented by tabs, which YAML does not have."""
    row = b"".join(text.split(b"\n")[line - 1 : line])
    return b"\t" in row[: len(row) - len(row.lstrip())]


def parse(
    name: str,
    text: bytes,
    *,
    max_depth: int = MAX_DEPTH,
    max_values: int = MAX_VALUES,
    max_bytes: int = MAX_BYTES,
) -> Document:
    """Parse ``text``; what is wrong with it is in ``problems``, nothing is raised."""
    document = Document(name)
    if len(text) > max_bytes:
        document.complain(1, "", f"expected a configuration of at most {max_bytes} bytes")
        return document
    try:
        builder = _Builder(document, yaml.parse(text, Loader=_Loader), max_depth, max_values)
        builder.run()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 0)
        if error.problem == _PARSER_TOO_DEEP:
            document.complain(line, "", "nested too deeply", column)
        else:
            said = "expected spaces before this, got a tab" if _by_tabs(text, line) else error.problem
            document.complain(line, "", f"not YAML: {said or error.context}", column)
    except (yaml.YAMLError, UnicodeError) as error:
        document.complain(1, "", f"not YAML: {str(error).splitlines()[0]}")
    except _TooDeep:
        document.values = {}
    except _TooMuch as error:
        document.values = {}
        document.complain(error.line, "", f"expected at most {max_values} values, aliases written out")
    return document


class _TooDeep(Exception):
    """Nested so deeply that what comes after it is not read; that it is too deep is told already."""


class _TooMuch(Exception):
    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line


class _Builder:
    """Values from a stream of parser events; no more of the stream is taken than the limits allow."""

    def __init__(self, document: Document, events: Iterator[Any], max_depth: int, max_values: int) -> None:
        self.document = document
        self.events = events
        self.max_depth = max_depth
        self.left = max_values
        self.anchors: dict[str, tuple[Any, Place, int] | None] = {}

    def run(self) -> None:
        next(self.events)
        event = next(self.events)
        if isinstance(event, yaml.StreamEndEvent):
            return
        event = next(self.events)
        value, place = self._value(event, ())
        next(self.events)
        after = next(self.events)
        if not isinstance(after, yaml.StreamEndEvent):
            self.document.complain(after.start_mark.line + 1, "", "not YAML: expected a single document")
            return
        self.document.root = place
        if isinstance(event, yaml.MappingStartEvent):
            self.document.values = value
        elif value is not None:
            self.document.complain(
                event.start_mark.line + 1, "", "expected keys with values, such as 'cache_size: 100GiB'"
            )

    def _value(self, event: Any, location: Location) -> tuple[Any, Place]:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        before = self.left
        self._take(1, line)
        place = Place(line, column)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, place, location)
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            plain = not event.style  # None, or empty from the C parser: no quotes, no block
            value: Any = None if plain and event.value in ("", "~", "null") else event.value
        elif len(location) > self.max_depth:
            self.document.complain(
                line,
                next((str(step) for step in location if isinstance(step, str)), ""),
                "nested too deeply",
                column,
            )
            self._skip()
            value = None
        elif isinstance(event, yaml.MappingStartEvent):
            value = self._mapping(place, location)
        else:
            value = self._sequence(place, location)
        if event.anchor is not None:
            self.anchors[event.anchor] = (value, place, before - self.left)
        return value, place

    def _take(self, count: int, line: int) -> None:
        self.left -= count
        if self.left < 0:
            raise _TooMuch(line)

    def _alias(self, event: Any, place: Place, location: Location) -> tuple[Any, Place]:
        key = (
            str(location[-1])
            if location and isinstance(location[-1], str)
            else "".join(map(str, location[:1]))
        )
        if event.anchor not in self.anchors:
            self.document.complain(place.line, key, f"no anchor &{event.anchor} before", place.column)
            return None, place
        known = self.anchors[event.anchor]
        if known is None:
            self.document.complain(place.line, key, f"&{event.anchor} holds itself", place.column)
            return None, place
        value, origin, cost = known
        self._take(cost, place.line)
        place.below = origin.below
        return value, place

    def _skip(self) -> None:
        depth = 1
        while depth:
            event = next(self.events)
            self._take(1, event.start_mark.line + 1)
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_SKIPPED:
                raise _TooDeep

    def _sequence(self, place: Place, location: Location) -> list[Any]:
        values: list[Any] = []
        place.below = {}
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            number = len(values)
            value, below = self._value(event, (*location, number))
            values.append(value)
            place.below[number] = below
        return values

    def _mapping(self, place: Place, location: Location) -> dict[str, Any]:
        values: dict[str, Any] = {}
        place.below = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            line, column = event.start_mark.line + 1, event.start_mark.column + 1
            if not isinstance(event, yaml.ScalarEvent):
                self.document.complain(line, "", "expected a plain word as key", column)
                if isinstance(event, yaml.CollectionStartEvent):
                    self._skip()
                self._value(next(self.events), (*location, ""))
                continue
            key = str(event.value)
            value, below = self._value(next(self.events), (*location, key))
            if key in values:
                first = place.below[key].key_line
                self.document.complain(line, key, f"given twice, first in line {first}", column)
                continue
            below.key_line, below.key_column = line, column
            values[key] = value
            place.below[key] = below
        return values
