"""An index over rules: which of them can match, without asking each.

A rule is a bit, its number the rank. What a rule cannot match without is *needed*: single tests, and groups
of tests of which at least one must hold (an ``any``, or what a threshold lets be missing, and no more).
Looking these up strikes out the rules that need other values; of what is left only that is asked which no
lookup says. So the index may let a rule through that does not match, and never strikes out one that does.
"""

from __future__ import annotations

import itertools
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from swmld.rules import conditions
from swmld.rules.conditions import All, Facts, Leaf, Node, Predicate, every, truth
from swmld.rules.lookup import FIRST, Key, Plane, is_said, keys
from swmld.rules.operators import Operator
from swmld.rules.ruleset import Rule

ROUNDING = 1e-9
"""Relative: weights such as 0.1 do not add up exactly."""

HAIR = 1e-12
"""Relative: what is decided ahead of the sum is decided by a margin far below ``ROUNDING``."""

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
    return not reaches(total - missing + HAIR * total, total, threshold)


@dataclass(frozen=True, slots=True)
class Group:
    """Of ``keys`` at least one fits where the rule matches. ``said``: the ``any`` that holds if one does."""

    keys: list[Key]
    said: Node | None = None


def groups(rule: Rule) -> list[Group]:
    """The most telling groups of a rule, at most ``PLANES``."""
    found = []
    for node in needed(rule):
        for part in _flat(node):
            if isinstance(part, conditions.Any):
                said = all(isinstance(m, Leaf) and is_said(m) and len(keys(m)) == 1 for m in part.members)
                found.append(Group(_one_of(part.members), part if said else None))
    total = sum(weight for weight, _ in rule.conditions)
    spare = [(w, node) for w, node in rule.conditions if not _matters(w, total, rule.threshold)]
    if len(spare) <= FEW:
        for size in range(2, len(spare) + 1):
            several = [
                Group(_one_of([node for _, node in some]))
                for some in itertools.combinations(spare, size)
                if _matters(sum(weight for weight, _ in some), total, rule.threshold)
            ]
            found += several
            if several:
                break
    fine = [group for group in found if group.keys]
    return sorted(fine, key=lambda group: (max(FIRST.index(k.form) for k in group.keys), len(group.keys)))[
        :PLANES
    ]


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


def residual(rule: Rule, own: Sequence[Key], said: Sequence[Node]) -> Predicate | None:
    """What is still to be asked where all keys and groups of the rule fit; None: nothing. ``own``: its keys,
    ``said``: every ``any`` that its groups say in full."""
    uses = Counter((key.name, key.form) for key in own)
    total = sum(weight for weight, _ in rule.conditions)

    def rest(node: Node) -> list[Node]:
        """The parts of a needed node that no lookup says: two tests in one lookup stand for either."""
        return [
            part
            for part in _flat(node)
            if not any(part is other for other in said)
            and not (
                isinstance(part, Leaf)
                and is_said(part)
                and all(uses[key.name, key.form] == 1 for key in keys(part))
            )
        ]

    checks = rest(rule.guard) if rule.guard is not None else []
    spare: list[tuple[float, Predicate]] = []
    base = 0.0
    for weight, node in rule.conditions:
        if not weight:
            continue
        if _matters(weight, total, rule.threshold):
            checks += rest(node)
            base += weight
        else:
            spare.append((weight, truth(node)))
    predicates = [truth(node) for node in sorted(checks, key=_cost)]
    if spare:
        predicates.append(_enough(base, spare, total, rule.threshold))
    return every(predicates) if len(predicates) > 1 else predicates[0] if predicates else None


def _enough(base: float, spare: list[tuple[float, Predicate]], total: float, threshold: float) -> Predicate:
    most = base + sum(weight for weight, _ in spare)
    least = (threshold - ROUNDING - HAIR) * total

    def holds(facts: Facts) -> bool:
        true, possible = base, most
        for weight, predicate in spare:
            if predicate(facts):
                true += weight
                continue
            possible -= weight
            if possible < least:
                return False
        return reaches(true, total, threshold)

    return holds


def _cost(node: Node) -> int:
    """What is asked first costs little: a regular expression is some ten comparisons."""
    return sum(10 if test.operator in (Operator.MATCHES, Operator.GLOB) else 1 for test in node.tests())


class Index:
    """Over rules in the order of their rank; immutable."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        every_: list[tuple[Key, int]] = []
        some: list[list[tuple[Key, int]]] = [[] for _ in range(PLANES)]
        self._residuals: list[Predicate | None] = []
        for number, rule in enumerate(rules):
            bit = 1 << number
            own: list[Key] = []
            for node in needed(rule):
                for part in _flat(node):
                    own += keys(part) if isinstance(part, Leaf) else ()
            every_ += [(key, bit) for key in own]
            found = groups(rule)
            for plane, group in zip(some, found, strict=False):
                plane += [(key, bit) for key in group.keys]
            said = [group.said for group in found if group.said is not None]
            self._residuals.append(residual(rule, own, said))
        self._words = struct.Struct(f"<{len(rules) // 64 + 1}Q")
        self._all = (1 << len(rules)) - 1
        self._every = Plane(every_)
        planes = [Plane(plane) for plane in some if plane]
        self._some = [(self._all ^ plane.all, plane) for plane in planes]

    def candidates(self, facts: Facts) -> list[int]:
        """Ranks of the rules that may match, the winner's first."""
        left = self._all ^ self._every.failing(facts)
        for others, plane in self._some:
            left &= others | plane.fitting(facts)
        found: list[int] = []
        add = found.append
        # By words of 64 bits: arithmetic on the whole number costs a pass over it for each rule found.
        words: tuple[int, ...] = self._words.unpack(left.to_bytes(self._words.size, "little"))
        for start, word in enumerate(words):
            if word:
                before = (start << 6) - 1
                while word:
                    low = word & -word
                    add(before + low.bit_length())
                    word ^= low
        return found

    def matching(self, facts: Facts) -> list[int]:
        """Ranks of the rules that match."""
        residuals = self._residuals
        return [
            number
            for number in self.candidates(facts)
            if (residual := residuals[number]) is None or residual(facts)
        ]
