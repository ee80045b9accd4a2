"""A condition tree: tests in groups, and what it says about facts: true, false, or not known.

A test of a fact that is not known is not known, and so is ``not`` of it: neither holds, and no rule applies
because of what nobody knows. ``exists`` alone is always known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from swmld.rules.kinds import Value
from swmld.rules.operators import SPECIFIC, Operator, Test

Facts = Mapping[str, Value]
"""Values by the name of their property; a property that is not known is not in it."""

MAX_DEPTH = 8
"""Groups within groups."""


@dataclass(frozen=True, slots=True)
class Leaf:
    test: Test

    def holds(self, facts: Facts) -> bool | None:
        test = self.test
        value = facts.get(test.what.name)
        if value is None and test.operator is not Operator.EXISTS:
            return None
        return test.check(value)

    @property
    def specificity(self) -> int:
        return SPECIFIC.get(self.test.operator, 1)

    def tests(self) -> Iterator[Test]:
        yield self.test

    def __str__(self) -> str:
        return str(self.test)


@dataclass(frozen=True, slots=True)
class All:
    """True if every member is; false if one is false. Of no members: true."""

    members: tuple[Node, ...]

    def holds(self, facts: Facts) -> bool | None:
        known = True
        for member in self.members:
            held = member.holds(facts)
            if held is False:
                return False
            known = known and held is not None
        return True if known else None

    @property
    def specificity(self) -> int:
        return sum(member.specificity for member in self.members)

    def tests(self) -> Iterator[Test]:
        for member in self.members:
            yield from member.tests()

    def __str__(self) -> str:
        return "all (" + ", ".join(map(str, self.members)) + ")"


@dataclass(frozen=True, slots=True)
class Any:
    """True if one member is; false if all are false. As specific as its least specific member."""

    members: tuple[Node, ...]

    def holds(self, facts: Facts) -> bool | None:
        known = True
        for member in self.members:
            held = member.holds(facts)
            if held:
                return True
            known = known and held is not None
        return False if known else None

    @property
    def specificity(self) -> int:
        return min((member.specificity for member in self.members), default=0)

    def tests(self) -> Iterator[Test]:
        for member in self.members:
            yield from member.tests()

    def __str__(self) -> str:
        return "any (" + ", ".join(map(str, self.members)) + ")"


@dataclass(frozen=True, slots=True)
class Not:
    member: Node

    def holds(self, facts: Facts) -> bool | None:
        held = self.member.holds(facts)
        return None if held is None else not held

    @property
    def specificity(self) -> int:
        return 1

    def tests(self) -> Iterator[Test]:
        yield from self.member.tests()

    def __str__(self) -> str:
        return f"not ({self.member})"


Node = Leaf | All | Any | Not


Predicate = Callable[[Facts], bool]


def truth(node: Node) -> Predicate:
    """Whether ``node`` holds, as one function: ``node.holds(facts) is True``, several times as fast."""
    match node:
        case Leaf(test):
            name, check = test.what.name, test.check
            if test.operator is Operator.EXISTS:
                return lambda facts: check(facts.get(name))
            return lambda facts: (value := facts.get(name)) is not None and check(value)
        case Not(member):
            return falsity(member)
        case All(members):
            return every([truth(member) for member in members])
        case Any(members):
            return _some([truth(member) for member in members])


def falsity(node: Node) -> Predicate:
    """Whether ``node`` is known not to hold: ``node.holds(facts) is False``."""
    match node:
        case Leaf(test):
            name, check = test.what.name, test.check
            if test.operator is Operator.EXISTS:
                return lambda facts: not check(facts.get(name))
            return lambda facts: (value := facts.get(name)) is not None and not check(value)
        case Not(member):
            return truth(member)
        case All(members):
            return _some([falsity(member) for member in members])
        case Any(members):
            return every([falsity(member) for member in members])


def every(predicates: list[Predicate]) -> Predicate:
    def holds(facts: Facts) -> bool:
        for predicate in predicates:  # noqa: SIM110  (a generator would cost more than the tests)
            if not predicate(facts):
                return False
        return True

    return holds


def _some(predicates: list[Predicate]) -> Predicate:
    def holds(facts: Facts) -> bool:
        for predicate in predicates:  # noqa: SIM110
            if predicate(facts):
                return True
        return False

    return holds
