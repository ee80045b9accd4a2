"""The latest decisions, by number, and what each rule did so far. Bounded; loop-only."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from swmld.rules.decide import Outcome
from swmld.rules.ruleset import Rule

MOST = 10_000
"""Decisions that are remembered: some 10 MB."""


@dataclass(slots=True)
class Brought:
    """Bytes that a decision had fetched ahead: ``asked`` for, ``fetched``, and ``used``, which is opened or
    read after that. ``late``: the reader came while they were on their way. ``wasted``: they went from the
    cache, or nobody waits for their use any more, before there was one."""

    asked: int = 0
    fetched: int = 0
    used: int = 0
    late: int = 0
    wasted: int = 0

    def add(self, more: Brought) -> None:
        self.asked += more.asked
        self.fetched += more.fetched
        self.used += more.used
        self.late += more.late
        self.wasted += more.wasted


@dataclass(slots=True)
class Decided:
    """One decision about one file. ``at``: seconds since the epoch; ``pid`` 0: not known."""

    id: int
    at: float
    path: str
    pid: int
    outcome: Outcome
    brought: Brought = field(default_factory=Brought)


@dataclass(slots=True)
class Tally:
    """What came of a rule. ``applied``: decisions it had a part in; ``won``: values of parameters that it
    gave; ``last``: when it was applied, seconds since the epoch, 0 never."""

    applied: int = 0
    won: int = 0
    last: float = 0.0
    brought: Brought = field(default_factory=Brought)


class History:
    """``clock``: seconds since the epoch."""

    def __init__(self, clock: Callable[[], float], most: int = MOST) -> None:
        self._clock = clock
        self._most = most
        self._kept: deque[Decided] = deque()
        self._tallies: dict[str, Tally] = {}
        self.decisions = 0
        """All so far; their numbers begin at 1."""

    def add(self, path: str, pid: int, outcome: Outcome) -> Decided:
        """Remember a decision; it has a number then."""
        self.decisions += 1
        decided = Decided(self.decisions, self._clock(), path, pid, outcome)
        self._kept.append(decided)
        if len(self._kept) > self._most:
            self._kept.popleft()
        for rule in outcome.matched:
            tally = self.tally(rule)
            tally.applied += 1
            tally.last = decided.at
        for decision in outcome.decisions:
            for settled in decision.settled:
                self.tally(settled.rule).won += 1
        return decided

    def tally(self, rule: Rule) -> Tally:
        """What came of the rule, by its title: also over a reload."""
        return self._tallies.setdefault(rule.title, Tally())

    def tallies(self) -> dict[str, Tally]:
        """Of the rules that were applied, by title, as they are now."""
        return dict(self._tallies)

    def find(self, number: int) -> Decided | None:
        """The decision of that number, if it is still remembered."""
        first = self.decisions - len(self._kept) + 1
        return self._kept[number - first] if first <= number <= self.decisions else None

    def newest(self) -> Iterator[Decided]:
        """Newest first; none may be added meanwhile."""
        return reversed(self._kept)

    def brought(self, decision: int, *, asked: int = 0, fetched: int = 0, used: int = 0) -> None:
        """Bytes that were fetched ahead because of a decision: to its account, and to those of the rules that
        had them fetched."""
        self._account(decision, Brought(asked, fetched, used))

    def missed(self, decision: int, *, late: int = 0, wasted: int = 0) -> None:
        """As ``brought``, of bytes that came too late, or to no use."""
        self._account(decision, Brought(late=late, wasted=wasted))

    def _account(self, decision: int, more: Brought) -> None:
        decided = self.find(decision)
        if decided is None:
            return
        decided.brought.add(more)
        for each in decided.outcome.decisions:
            if each.action == "prefetch":
                for rule in each.rules:
                    tally = self._tallies.get(rule.title)
                    if tally is not None:  # else it was loaded when that was decided and is not any more
                        tally.brought.add(more)

    def forget_but(self, titles: set[str]) -> None:
        """Only rules that are loaded have an account."""
        for title in set(self._tallies) - titles:
            del self._tallies[title]
