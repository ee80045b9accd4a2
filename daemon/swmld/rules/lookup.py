"""Tests that can be looked up instead of asked: by property and operand, with the bits of the rules that need
them.

A table holds lookups by property. One look a property says which bits fit its value, or which do not, in a
few operations on whole numbers with some bits for each rule.
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
"""Most sums of one lookup that are kept: up to 6 kB each with 10,000 rules."""


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
    """``fits``: bits of all its entries; ``told(value)``: of those that fit, ``needed`` ones turned over."""

    fits: int

    def told(self, value: Any) -> int: ...


class _Equal:
    def __init__(self, entries: Mapping[Any, int], needed: int) -> None:
        self.fits = union(entries.values())
        self.none = self.fits & needed
        self.entries = {operand: bits ^ self.none for operand, bits in entries.items()}

    def told(self, value: Any) -> int:
        return self.entries.get(value, self.none)


class _Known:
    def __init__(self, entries: Mapping[Any, int], needed: int) -> None:
        self.fits = union(entries.values())
        self.known = self.fits & ~needed

    def told(self, value: Any) -> int:
        return self.known


class _Bounds:
    """Bounds from below; upper ones are kept negated. Unions of all below a place, kept at some places."""

    def __init__(self, entries: Mapping[tuple[Any, int], int], needed: int, sign: int) -> None:
        self.sign = sign
        self.keys = sorted(entries)
        self.bits = [entries[key] for key in self.keys]
        self.every = -(-len(self.keys) // STEPS)
        sums = list(itertools.accumulate(self.bits, int.__or__, initial=0))
        self.fits = sums[-1]
        self.none = self.fits & needed
        self.sums = sums[:: self.every]
        if self.every == 1:
            self.sums = [total ^ self.none for total in sums]

    def told(self, value: Any) -> int:
        place = bisect_right(self.keys, (self.sign * value, 0))
        if self.every == 1:
            return self.sums[place]
        start = place // self.every
        found = self.sums[start]
        for bits in self.bits[start * self.every : place]:
            found |= bits
        return found ^ self.none


class _Parts:
    """Names of directories that a path goes through."""

    def __init__(self, entries: Mapping[str, int], needed: int) -> None:
        self.entries = dict(entries)
        self.fits = union(entries.values())
        self.none = self.fits & needed

    def told(self, value: str) -> int:
        get, found = self.entries.get, 0
        for part in value.split("/"):
            found |= get(part, 0)
        return found ^ self.none


class _Texts:
    """Literals that a text begins (or ends) with, looked up by the lengths there are."""

    def __init__(self, entries: Mapping[str, int], needed: int, end: bool) -> None:
        self.entries = dict(entries)
        self.lengths = sorted({len(text) for text in entries})
        self.end = end
        self.fits = union(entries.values())
        self.none = self.fits & needed

    def told(self, value: str) -> int:
        get, found, size = self.entries.get, 0, len(value)
        for length in self.lengths:
            if length > size:
                break
            found |= get(value[size - length :] if self.end else value[:length], 0)
        return found ^ self.none


def union(bits: Iterable[int]) -> int:
    total = 0
    for some in bits:
        total |= some
    return total


FORMS: dict[str, Callable[[Mapping[Any, int], int], Lookup]] = {
    "equal": _Equal,
    "low": lambda entries, needed: _Bounds(entries, needed, 1),
    "high": lambda entries, needed: _Bounds(entries, needed, -1),
    "start": lambda entries, needed: _Texts(entries, needed, end=False),
    "end": lambda entries, needed: _Texts(entries, needed, end=True),
    "part": _Parts,
    "known": _Known,
}


class Table:
    """Lookups by property, in which each bit says one of two things: of a ``needed`` one that a key does not
    fit, of others that one fits. So all that is asked of a value is said by one number."""

    def __init__(self, entries: Iterable[tuple[Key, int]], needed: int) -> None:
        tables: dict[tuple[str, str], dict[Any, int]] = defaultdict(lambda: defaultdict(int))
        for key, bit in entries:
            for operand in key.operands:
                tables[key.name, key.form][operand] |= bit
        columns: dict[str, list[Lookup]] = defaultdict(list)
        for (name, form), table in sorted(tables.items()):
            columns[name].append(FORMS[form](table, needed))
        self.columns = [
            (name, [one.told for one in lookups], union(one.fits for one in lookups) & needed)
            for name, lookups in columns.items()
        ]

    def told(self, facts: Facts) -> int:
        """The ``needed`` bits of which one key does not fit, and the other bits of which one key fits."""
        found = 0
        for name, lookups, unknown in self.columns:
            value = facts.get(name)
            if value is None:
                found |= unknown
            else:
                for told in lookups:
                    found |= told(value)
        return found
