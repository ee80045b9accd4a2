"""The latest decisions, by number, and what each rule did so far. Bounded; loop-only."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Literal

from swmld.head.waiting import ANY, NOTHING, Account, Compared, Homes, Key, Name, Waited, Waiting
from swmld.rules.decide import Decision, Outcome
from swmld.rules.ruleset import Rule

MOST = 10_000
"""Decisions that are remembered: some 10 MB."""


@dataclass(slots=True)
class Brought:
    """Bytes that a decision had fetched ahead: ``asked`` for, ``fetched``, and ``used``, which is opened or
    read after that. ``late``: the reader came while they were on their way. ``wasted``: they went from the
    cache, or nobody waits for their use any more, before there was one.

    Each byte counts once: asked >= fetched + late (the rest is on its way, failed or was dropped), and
    fetched >= used + wasted (the rest waits for its use)."""

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
class Packed:
    """Bytes that were stored compressed because of a decision: how many they are, and how many of the disk
    they take."""

    nbytes: int = 0
    stored: int = 0

    def add(self, nbytes: int, stored: int) -> None:
        self.nbytes += nbytes
        self.stored += stored


@dataclass(slots=True)
class Tally:
    """What came of a rule. ``applied``: decisions it had a part in; ``won``: values of parameters that it
    gave; ``last``: when it was applied, seconds since the epoch, 0 never; ``waited``: for what was read where
    it acted."""

    applied: int = 0
    won: int = 0
    last: float = 0.0
    brought: Brought = field(default_factory=Brought)
    packed: Packed = field(default_factory=Packed)
    waited: Waited = NOTHING


@dataclass(slots=True)
class Decided:
    """One decision about one file. ``at``: seconds since the epoch; ``pid`` and ``job`` (its first process)
    0: not known. ``dataset``: its path from the mount's root; not known yet: the file's directory."""

    id: int
    at: float
    path: str
    pid: int
    outcome: Outcome
    job: int
    dataset: str
    brought: Brought = field(default_factory=Brought)
    account: Account = field(default_factory=Account)
    accounts: tuple[Tally, ...] = ()
    """Of the rules that have something fetched; of one that was loaded anew since, the one it had then."""
    packed: Packed = field(default_factory=Packed)
    packers: tuple[Tally, ...] = ()
    """As ``accounts``, of the rules that have something compressed."""


By = Literal["rule", "action", "job", "dataset", "file"]


@dataclass(slots=True)
class Sum:
    """What some decisions come to: how many, the last one (seconds since the epoch), their bytes, and what
    was waited for after them, by job and dataset."""

    decisions: int = 0
    last: float = 0.0
    brought: Brought = field(default_factory=Brought)
    waited: dict[Key, Waited] = field(default_factory=dict)

    def add(self, decided: Decided) -> None:
        self.decisions += 1
        self.last = max(self.last, decided.at)
        account = decided.account
        if account.key is not None:
            self.waited[account.key] = self.waited.get(account.key, NOTHING).plus(account.waited)


def sums(decisions: Iterable[Decided], by: By) -> dict[str, Sum]:
    """By title of a rule, name of an action, number of a job, or path of a dataset or file; those with the
    most bytes asked for come first, then those with the most decisions.

    A decision counts for each rule and action that has a part in it, but its bytes only for those that have
    something fetched (``fetching``)."""
    found: dict[str, Sum] = {}
    for decided in decisions:
        keys, fetched_by = _keys(decided, by)
        for key in keys:
            one = found.setdefault(key, Sum())
            one.add(decided)
            if key in fetched_by:
                one.brought.add(decided.brought)
    ranked = sorted(found.items(), key=lambda item: (-item[1].brought.asked, -item[1].decisions, item[0]))
    return dict(ranked)


def _keys(decided: Decided, by: By) -> tuple[Set[str], Set[str]]:
    """What the decision counts for, and what of that its bytes do."""
    outcome = decided.outcome
    if by == "rule":
        return {rule.title for rule in outcome.matched}, _fetching_rules(outcome)
    if by == "action":
        return {each.action for each in outcome.decisions}, {each.action for each in fetching(outcome)}
    key = {str(decided.job) if by == "job" else decided.path if by == "file" else decided.dataset}
    return key, key


def fetching(outcome: Outcome) -> list[Decision]:
    """Because of which decisions something is fetched ahead: without prefetch, how a file is streamed and
    what is advised says how far."""
    for actions in (("prefetch",), ("advise", "stream")):
        found = [each for each in outcome.decisions if each.action in actions]
        if found:
            return found
    return []


def _fetching_rules(outcome: Outcome) -> set[str]:
    return {rule.title for each in fetching(outcome) for rule in each.rules}


def compared(homes: Homes, by: By, key: str, waited: Mapping[Key, Waited]) -> Compared | None:
    """What was waited for after some decisions of the ``sums``, beside what is without the rule, without the
    action, or without any rule."""
    return homes.compared(Name(by, key) if by in ("rule", "action") else ANY, waited)


class History:
    """``clock``: seconds since the epoch."""

    def __init__(self, clock: Callable[[], float], most: int = MOST) -> None:
        self._clock = clock
        self._most = most
        self._kept: deque[Decided] = deque()
        self._tallies: dict[str, Tally] = {}
        self.waiting = Waiting()
        self.decisions = 0
        """All so far; their numbers begin at 1."""

    def add(
        self, path: str, pid: int, outcome: Outcome, *, job: int = 0, dataset: str | None = None
    ) -> Decided:
        """Remember a decision; it has a number then."""
        self.decisions += 1
        home = os.path.dirname(path) if dataset is None else dataset
        decided = Decided(self.decisions, self._clock(), path, pid, outcome, job, home)
        self._kept.append(decided)
        if len(self._kept) > self._most:
            self._kept.popleft()
        for rule in outcome.matched:
            tally = self.tally(rule)
            tally.applied += 1
            tally.last = decided.at
        decided.accounts = tuple(self._tallies[title] for title in sorted(_fetching_rules(outcome)))
        packing = {
            rule.title for each in outcome.decisions if each.action == "compress" for rule in each.rules
        }
        decided.packers = tuple(self._tallies[title] for title in sorted(packing))
        for decision in outcome.decisions:
            for settled in decision.settled:
                self.tally(settled.rule).won += 1
        return decided

    def acts(self, file: int, job: int, decided: Decided | None = None) -> None:
        """From now on the decision acts on what the job reads of the file; None: no rule does. ``job`` 0:
        whoever reads it."""
        if decided is None:
            self.waiting.acts(job, file)
            return
        account, outcome = decided.account, decided.outcome
        titles = [rule.title for rule in outcome.matched]
        tallies = [self._tallies[title] for title in titles if title in self._tallies]

        def tell(key: Key, waited: Waited) -> None:
            account.key, account.waited = key, account.waited.plus(waited)
            for tally in tallies:
                tally.waited = tally.waited.plus(waited)

        actions = dict.fromkeys(one.action for one in outcome.decisions)
        names = [*(Name("rule", title) for title in titles), *(Name("action", action) for action in actions)]
        self.waiting.acts(job, file, names, tell)

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

    def brought(
        self,
        decision: int,
        *,
        asked: int = 0,
        fetched: int = 0,
        used: int = 0,
        late: int = 0,
        wasted: int = 0,
    ) -> None:
        """Bytes that were fetched ahead because of a decision: to its account, and to those of the rules that
        had them fetched. A decision that is forgotten has no account."""
        decided = self.find(decision)
        if decided is None:
            return
        more = Brought(asked, fetched, used, late, wasted)
        decided.brought.add(more)
        for tally in decided.accounts:
            tally.brought.add(more)

    def compressed(self, decision: int, nbytes: int, stored: int) -> None:
        """Bytes that were compressed because of a decision, to how many: to its account and its rules'."""
        decided = self.find(decision)
        if decided is None:
            return
        for packed in (decided.packed, *(tally.packed for tally in decided.packers)):
            packed.add(nbytes, stored)

    def forget_but(self, titles: set[str]) -> None:
        """Only rules that are loaded have an account."""
        for title in set(self._tallies) - titles:
            del self._tallies[title]
