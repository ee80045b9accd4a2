"""Tests that can be looked up instead of asked: by property and operand, with the bits of the rules that need
them.

A plane holds lookups by property. One look a property says which bits fit a value, or which do not, in a few
operations on whole numbers of one bit a rule.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from swmld.rules import matching
from swmld.rules.conditions import Facts, Leaf
from swmld.rules.kinds import Kind
from swmld.rules.operators import Operator

STEPS = 256
"""Most sums of one lookup that are kept: 1.25 kB each with 10,000 rules."""


class Key(NamedTuple):
    """Where a test is looked up: ``form`` is one of ``equal``, ``low``, ``high``, ``start``, ``end``,
    ``part``, ``known``; ``operands`` are entries of that form of which one must fit."""

    name: str
    form: str
    operands: tuple[Any, ...]


FIRST = ("equal", "part", "end", "start", "low", "high", "known")
"""The more a form tells rules apart, the sooner it comes."""


def keys(leaf: Leaf) -> list[Key]:
    """All of these fit where the test holds, the most telling first; none for ``exists: false``."""
    test, name = leaf.test, leaf.test.what.name
    operand = test.operand
    found: list[tuple[str, tuple[Any, ...]]] = []
    match test.operator:
        case Operator.EXISTS if not operand:
            return []
        case Operator.EQUALS if test.what.kind is not Kind.SET:
            found = [("equal", (operand,))]
        case Operator.IN:
            found = [("equal", tuple(operand))]
        # At equal bounds the one that lets the bound itself in comes first.
        case Operator.GREATER_THAN:
            found = [("low", ((operand, 1),))]
        case Operator.GREATER_EQUAL:
            found = [("low", ((operand, 0),))]
        case Operator.LESS_THAN:
            found = [("high", ((-operand, 1),))]
        case Operator.LESS_EQUAL:
            found = [("high", ((-operand, 0),))]
        case Operator.BETWEEN if test.what.kind is not Kind.CLOCK:
            found = [("low", ((operand[0], 0),)), ("high", ((-operand[1], 0),))]
        case Operator.STARTS_WITH:
            found = [("start", (operand,))]
        case Operator.ENDS_WITH:
            found = [("end", (operand,))]
        case Operator.GLOB:
            before, after, simple = matching.literals(operand)
            if simple and before == operand:
                found = [("equal", (operand,))]
            else:
                ends = [("start", before)] * bool(before) + [("end", after)] * bool(after)
                if not simple:
                    ends += [("part", part) for part in _parts(operand)]
                found = [(form, (text,)) for form, text in sorted(ends, key=lambda end: -len(end[1]))]
    return [Key(name, *entry) for entry in found] or [Key(name, "known", (True,))]


def _parts(pattern: str) -> list[str]:
    """Names between two slashes of a path pattern: the path has each of them as a whole."""
    inner = pattern.split("/")[1:-1] if "[" not in pattern else []
    return [part for part in inner if part and not set("*?") & set(part)]


def is_said(leaf: Leaf) -> bool:
    """Whether the test holds if its keys fit."""
    form = keys(leaf)[0].form if keys(leaf) else ""
    if leaf.test.operator is Operator.GLOB:
        before, after, simple = matching.literals(leaf.test.operand)
        # With both ends, a short text could have them overlap.
        return simple and not (before and after)
    return form != "known" if form else False


class Lookup(Protocol):
    all: int

    def fitting(self, value: Any) -> int:
        """Bits of the entries that fit a value."""


class _Equal:
    def __init__(self, entries: Mapping[Any, int]) -> None:
        self.entries = dict(entries)
        self.all = union(entries.values())

    def fitting(self, value: Any) -> int:
        found: int = self.entries.get(value, 0)
        return found


class _Known:
    def __init__(self, entries: Mapping[Any, int]) -> None:
        self.all = union(entries.values())

    def fitting(self, value: Any) -> int:
        return self.all


class _Bounds:
    """Bounds from below; upper ones are kept negated. Unions of all below a place, kept at some places."""

    def __init__(self, entries: Mapping[tuple[Any, int], int], sign: int) -> None:
        self.sign = sign
        self.keys = sorted(entries)
        self.bits = [entries[key] for key in self.keys]
        self.every = -(-len(self.keys) // STEPS)
        sums = itertools.accumulate(self.bits, int.__or__, initial=0)
        self.sums = [total for number, total in enumerate(sums) if number % self.every == 0]
        self.all = union(self.bits)

    def fitting(self, value: Any) -> int:
        place = bisect_right(self.keys, (self.sign * value, 0))
        start = place // self.every
        found: int = self.sums[start]
        for bits in self.bits[start * self.every : place]:
            found |= bits
        return found


class _Parts(_Equal):
    """Names of directories that a path goes through."""

    def fitting(self, value: str) -> int:
        get, found = self.entries.get, 0
        for part in value.split("/"):
            found |= get(part, 0)
        return found


class _Texts:
    """Literals that a text begins (or ends) with, looked up by the lengths there are."""

    def __init__(self, entries: Mapping[str, int], end: bool) -> None:
        self.entries = dict(entries)
        self.lengths = sorted({len(text) for text in entries})
        self.end = end
        self.all = union(entries.values())

    def fitting(self, value: str) -> int:
        get, found, size = self.entries.get, 0, len(value)
        for length in self.lengths:
            if length > size:
                break
            found |= get(value[size - length :] if self.end else value[:length], 0)
        return found


def union(bits: Iterable[int]) -> int:
    total = 0
    for some in bits:
        total |= some
    return total


FORMS: dict[str, Callable[[Mapping[Any, int]], Lookup]] = {
    "equal": _Equal,
    "low": lambda entries: _Bounds(entries, 1),
    "high": lambda entries: _Bounds(entries, -1),
    "start": lambda entries: _Texts(entries, end=False),
    "end": lambda entries: _Texts(entries, end=True),
    "part": _Parts,
    "known": _Known,
}


class Plane:
    """Lookups by property."""

    def __init__(self, entries: Iterable[tuple[Key, int]]) -> None:
        tables: dict[tuple[str, str], dict[Any, int]] = defaultdict(lambda: defaultdict(int))
        for key, bit in entries:
            for operand in key.operands:
                tables[key.name, key.form][operand] |= bit
        columns: dict[str, list[Lookup]] = defaultdict(list)
        for (name, form), table in sorted(tables.items()):
            columns[name].append(FORMS[form](table))
        self.columns = [
            (name, lookups, union(one.all for one in lookups)) for name, lookups in columns.items()
        ]
        self.all = union(bits for _, _, bits in self.columns)

    def failing(self, facts: Facts) -> int:
        """Bits of the rules of which one key does not fit."""
        struck = 0
        for name, lookups, bits in self.columns:
            value = facts.get(name)
            if value is None:
                struck |= bits
                continue
            for one in lookups:
                # What fits is a part of all: exclusive or is the rest, four times as fast as & ~.
                struck |= one.all ^ one.fitting(value)
        return struck

    def fitting(self, facts: Facts) -> int:
        """Bits of the rules of which at least one key fits."""
        found = 0
        for name, lookups, _ in self.columns:
            value = facts.get(name)
            if value is not None:
                for one in lookups:
                    found |= one.fitting(value)
        return found
