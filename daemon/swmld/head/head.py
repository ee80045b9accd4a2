"""Asks the rules about each file that is opened, remembers what was decided, and tells who acts on it."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Protocol

from swmld.cache.store import Cache
from swmld.head.facts import Opening
from swmld.head.history import History
from swmld.plan.eviction import Keep
from swmld.rules import actions, facts
from swmld.rules.decide import CoolDowns, Engine, Outcome
from swmld.rules.kinds import Value
from swmld.rules.ruleset import Rule, RuleSet
from swmld.rules.verdict import Verdict
from swmld.types import Identity

KEEPS = {
    "adaptive": Keep.NORMAL,
    "aggressive": Keep.LAST,
    "lazy": Keep.FIRST,
    "no_evict": Keep.NORMAL,  # and held while its job lives: Head.held
    "ttl": Keep.LAST,
}
"""By the strategies of ``actions.Cache``."""

NOT_ACTING: Mapping[type[actions.Effect], frozenset[str]] = {
    actions.Stream: frozenset(),
    actions.Coordinate: frozenset(),
    actions.Compress: frozenset(),
    actions.Prioritize: frozenset(),
    actions.Advise: frozenset(),
    actions.Cache: frozenset({"pin_fraction"}),
    actions.Prefetch: frozenset({"deadline", "depth", "shards"}),
}
"""What rules may ask for and nothing acts on yet: these parameters; none named: the whole action."""

HELD = 1 << 20
"""Files that are held for jobs at most; the oldest of more are evicted like others."""


class Knowing(Protocol):
    """Where facts come from: ``head.facts``. Loop-only."""

    def of(self, opening: Opening) -> dict[str, Value]: ...


class Head:
    """Loop-only but for ``admits`` and ``held``, which worker threads ask.

    ``alive(pid)`` says whether a process lives; ``path_of(nodeid)`` is below the mount, OSError without one.
    """

    def __init__(
        self,
        rules: RuleSet,
        knowing: Knowing,
        cache: Cache,
        history: History,
        *,
        path_of: Callable[[int], bytes],
        alive: Callable[[int], bool],
        clock: Callable[[], float],
    ) -> None:
        self._knowing = knowing
        self._cache = cache
        self._path_of = path_of
        self._alive = alive
        self._clock = clock
        self._cool_downs = CoolDowns()
        self._holders: OrderedDict[Identity, int] = OrderedDict()
        self.history = history
        self.swap(rules)

    def swap(self, rules: RuleSet, engine: Engine | None = None) -> None:
        """From the next decision on these rules count; ``engine`` where they were compiled elsewhere."""
        self.rules = rules
        self.engine = engine or Engine(rules.rules)
        self._excluding = any(_may_exclude(rule) for rule in rules.rules)
        self.history.forget_but({rule.title for rule in rules.rules})

    # ---- one file is opened

    def opening(self, opening: Opening) -> Verdict | None:
        """What is decided about a file that is opened now; None: nothing."""
        if not self.engine.rules:
            return None
        try:
            path = os.fsdecode(self._path_of(opening.nodeid))
        except OSError:
            return None  # it has no name any more
        outcome = self._decide(path, self._knowing.of(opening))
        if not outcome.matched:
            return None
        decided = self.history.add(path, opening.pid, outcome)
        return Verdict.of(decided.id, outcome)

    def _decide(self, path: str, known: dict[str, Value]) -> Outcome:
        now = self._clock()
        outcome = self.engine.decide(known, lambda rule: self._cool_downs.rests(rule, path, now))
        self._cool_downs.applied(outcome, path, now)
        return outcome

    def caching(self, verdict: Verdict | None, identity: Identity, file_id: int, job: int) -> None:
        """The file is in the cache as ``file_id``, or on its way there; ``job``: the root process of its
        readers, 0 not known."""
        wanted = verdict.cache if verdict is not None else None
        if wanted is None:
            self._cache.set_keep(file_id, Keep.NORMAL)
            return
        keep = Keep.NEVER if wanted.pin else KEEPS[wanted.strategy]
        self._cache.set_keep(file_id, keep, wanted.ttl if wanted.strategy == "ttl" else None)
        if wanted.strategy == "no_evict" and job:
            self._holders[identity] = job
            self._holders.move_to_end(identity)
            if len(self._holders) > HELD:
                self._holders.popitem(last=False)

    # ---- asked by worker threads

    def admits(self, path: bytes, size: int) -> bool:
        """Whether a file that nobody has opened yet may be cached: by what its name and size say alone."""
        if not self._excluding:
            return True
        known: dict[str, Value] = {**facts.of_path(os.fsdecode(path)), "size": size}
        cache = Verdict.of(0, self.engine.decide(known)).cache
        return cache is None or cache.tier != "none"

    def held(self, identity: Identity) -> bool:
        """Whether a job that lives holds the file in the cache (strategy no_evict)."""
        job = self._holders.get(identity)
        if job is None:
            return False
        if self._alive(job):
            return True
        self._holders.pop(identity, None)
        return False


def _may_exclude(rule: Rule) -> bool:
    return any(
        action.effect is actions.Cache and action.given.get("tier") == "none" for action in rule.actions
    )


def not_acting(rules: RuleSet) -> list[str]:
    """A line for each rule that asks for what nothing acts on yet."""
    lines = []
    for rule in rules.rules:
        lacking = []
        for action in rule.actions:
            parameters = NOT_ACTING.get(action.effect)
            if parameters is None:
                continue
            found = sorted(parameters & set(action.given))
            if not parameters or found:
                lacking.append(f"{action.name} {', '.join(found)}".strip())
        if lacking:
            lines.append(f"{rule.where}: {rule.title}: nothing acts on this yet: {'; '.join(lacking)}")
    return lines
