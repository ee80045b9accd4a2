"""An index over rules: which of them can match, without asking each.

A rule has a bit in each of some planes, at the number of its rank. What a rule cannot match without is
*needed*: single tests, and groups of tests of which at least one must hold (an ``any``, or what a threshold
lets be missing, and no more).
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
from swmld.rules.lookup import FIRST, Key, Table, is_said, keys
from swmld.rules.operators import Operator
from swmld.rules.ruleset import Rule

ROUNDING = 1e-9
"""Relative: weights such as 0.1 do not add up exactly."""

HAIR = 1e-12
"""Relative: what is decided ahead of the sum is decided by a margin far below ``ROUNDING``."""

PLANES = 4
"""Most groups of a rule that are looked up; two of three conditions make three."""

_SINGLE = [0, *(1 << bit for bit in range(64))]
"""By its length, the number that has one bit."""

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
        # Bits of the tests that all must fit come first, then a plane of bits for each group.
        size = len(rules)
        entries: list[tuple[Key, int]] = []
        grouped = [0] * PLANES
        self._residuals: list[Predicate | None] = []
        for number, rule in enumerate(rules):
            bit = 1 << number
            own: list[Key] = []
            for node in needed(rule):
                for part in _flat(node):
                    own += keys(part) if isinstance(part, Leaf) else ()
            entries += [(key, bit) for key in own]
            found = groups(rule)
            for plane, group in enumerate(found):
                grouped[plane] |= bit
                entries += [(key, bit << size * (plane + 1)) for key in group.keys]
            said = [group.said for group in found if group.said is not None]
            self._residuals.append(residual(rule, own, said))
        self._words = struct.Struct(f"<{size // 64 + 1}Q")
        self._before = range(-1, 64 * (size // 64) + 1, 64)
        self._all = (1 << size) - 1
        self._table = Table(entries, self._all)
        self._others = [
            (size * (plane + 1), self._all ^ those) for plane, those in enumerate(grouped) if those
        ]

    def parts(self) -> list[object]:
        """What it is made of, in parts that are freed quickly each."""
        return [*self._residuals, self._table]

    def candidates(self, facts: Facts) -> list[int]:
        """Ranks of the rules that may match, the winner's first."""
        told = self._table.told(facts)
        left = self._all & ~told
        for shift, others in self._others:
            left &= others | told >> shift
        # By words of 64 bits: arithmetic on the whole number costs a pass over it for each rule found.
        words: tuple[int, ...] = self._words.unpack(left.to_bytes(self._words.size, "little"))
        found: list[int] = []
        add = found.append
        for before, word in itertools.compress(zip(self._before, words, strict=True), words):
            length = word.bit_length()
            if word == _SINGLE[length]:  # few rules are left: mostly one in a word
                add(before + length)
                continue
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
