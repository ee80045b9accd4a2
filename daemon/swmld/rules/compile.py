"""An index over rules: which of them can match, without asking each.

A rule is a bit, its number the rank. What a rule cannot match without is *needed*: single tests, and groups
of tests of which at least one must hold (an ``any``, or what a threshold lets be missing, and no more).
Tests that can be looked up (equality, bounds, prefix, suffix, the literal ends of path patterns) are kept
by property and operand, with the bits of the rules that need them. A look a property then strikes out all
rules that need another value, in a few operations on whole numbers of one bit a rule; what is left is few
and is evaluated in full. So the index may let a rule through that does not match, and never strikes out one
that does.
"""

from __future__ import annotations

import itertools
import struct
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from swmld.rules import conditions, matching
from swmld.rules.conditions import All, Facts, Leaf, Node
from swmld.rules.kinds import Kind
from swmld.rules.operators import Operator
from swmld.rules.ruleset import Rule

ROUNDING = 1e-9
"""Relative: weights such as 0.1 do not add up exactly."""

STEPS = 256
"""Most sums of one lookup that are kept: 1.25 kB each with 10,000 rules."""

PLANES = 4
"""Most groups of a rule that are looked up; two of three conditions make three."""

FEW = 6
"""Conditions up to which groups are sought: with more there are too many."""


def reaches(true: float, total: float, threshold: float) -> bool:
    """Whether the weight of the true conditions is enough. Of no conditions it is."""
    return true >= (threshold - ROUNDING) * total


def ranked(rules: Iterable[Rule]) -> list[Rule]:
    """Who wins comes first: priority, then specificity, then order."""
    return sorted(rules, key=lambda rule: (-rule.priority, -rule.specificity, rule.order))


class Key(NamedTuple):
    """Where a test is looked up: ``form`` is one of ``equal``, ``low``, ``high``, ``start``, ``end``,
    ``known``; ``operands`` are entries of that form of which one must fit."""

    name: str
    form: str
    operands: tuple[Any, ...]


_FIRST = ("equal", "end", "start", "low", "high", "known")
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
                ends = [("start", (before,))] * bool(before) + [("end", (after,))] * bool(after)
                found = sorted(ends, key=lambda entry: -len(entry[1][0]))
    return [Key(name, *entry) for entry in found] or [Key(name, "known", (True,))]


def needed(rule: Rule) -> Iterator[Node]:
    """What must hold for the rule to match."""
    if rule.guard is not None:
        yield rule.guard
    total = sum(weight for weight, _ in rule.conditions)
    for weight, node in rule.conditions:
        if _matters(weight, total, rule.threshold):
            yield node


def _matters(missing: float, total: float, threshold: float) -> bool:
    """The rule fails without this much weight; by a margin below the rounding's own, never by a hair."""
    return not reaches(total - missing + 1e-12 * total, total, threshold)


def _is_exact(rule: Rule, own: Sequence[Key]) -> bool:
    """Whether the rule matches if all its keys fit: each test is said by its keys in full, each has a lookup
    of its own, and nothing else is asked."""
    total = sum(weight for weight, _ in rule.conditions)
    if any(weight and not _matters(weight, total, rule.threshold) for weight, _ in rule.conditions):
        return False
    if len({(key.name, key.form) for key in own}) < len(own):
        return False
    parts = [part for node in needed(rule) for part in _flat(node)]
    return all(isinstance(part, Leaf) and _is_said(part) for part in parts)


def _is_said(leaf: Leaf) -> bool:
    """Whether the test holds if its keys fit."""
    form = keys(leaf)[0].form if keys(leaf) else ""
    if leaf.test.operator is Operator.GLOB:
        before, after, simple = matching.literals(leaf.test.operand)
        # With both ends, a short text could have them overlap.
        return simple and not (before and after)
    return form != "known" if form else False


def groups(rule: Rule) -> list[list[Key]]:
    """Of each of these at least one key fits where the rule matches; the most telling groups, at most
    ``PLANES``."""
    found = []
    for node in needed(rule):
        for part in _flat(node):
            if isinstance(part, conditions.Any):
                found.append(_one_of(part.members))
    total = sum(weight for weight, _ in rule.conditions)
    spare = [(w, node) for w, node in rule.conditions if not _matters(w, total, rule.threshold)]
    if len(spare) <= FEW:
        for size in range(2, len(spare) + 1):
            several = [
                _one_of([node for _, node in some])
                for some in itertools.combinations(spare, size)
                if _matters(sum(weight for weight, _ in some), total, rule.threshold)
            ]
            found += several
            if several:
                break
    fine = [group for group in found if group]
    return sorted(fine, key=lambda group: (max(_FIRST.index(key.form) for key in group), len(group)))[:PLANES]


def _flat(node: Node) -> Iterator[Node]:
    if isinstance(node, All):
        for member in node.members:
            yield from _flat(member)
    else:
        yield node


def _one_of(members: Sequence[Node]) -> list[Key]:
    """A key of each member; none at all if one of them has none."""
    found: list[Key] = []
    for member in members:
        some: list[Key] = []
        for part in _flat(member):
            if isinstance(part, Leaf):
                some = keys(part)[:1]
            elif isinstance(part, conditions.Any):
                some = _one_of(part.members)
            if some:
                break
        if not some:
            return []
        found += some
    return found


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
    "known": _Known,
}


class _Plane:
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
                struck |= one.all & ~one.fitting(value)
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


class Index:
    """Over rules in the order of their rank; immutable. ``exact``: by rank, whether what the index lets
    through of a rule matches without further look."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        every: list[tuple[Key, int]] = []
        some: list[list[tuple[Key, int]]] = [[] for _ in range(PLANES)]
        self.exact: list[bool] = []
        for number, rule in enumerate(rules):
            bit = 1 << number
            own: list[Key] = []
            for node in needed(rule):
                for part in _flat(node):
                    own += keys(part) if isinstance(part, Leaf) else ()
            every += [(key, bit) for key in own]
            for plane, group in zip(some, groups(rule), strict=False):
                plane += [(key, bit) for key in group]
            self.exact.append(_is_exact(rule, own))
        self._words = struct.Struct(f"<{len(rules) // 64 + 1}Q")
        self._all = (1 << len(rules)) - 1
        self._every = _Plane(every)
        self._some = [_Plane(plane) for plane in some if plane]

    def candidates(self, facts: Facts) -> list[int]:
        """Ranks of the rules that may match, the winner's first."""
        left = self._all & ~self._every.failing(facts)
        for plane in self._some:
            left &= ~plane.all | plane.fitting(facts)
        found = []
        # By words of 64 bits: arithmetic on the whole number costs a pass over it for each rule found.
        words: tuple[int, ...] = self._words.unpack(left.to_bytes(self._words.size, "little"))
        for start, word in enumerate(words):
            while word:
                low = word & -word
                found.append((start << 6) + low.bit_length() - 1)
                word ^= low
        return found
