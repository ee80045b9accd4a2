"""Asks the rules about each file that is opened, remembers what was decided, and tells who acts on it."""

from __future__ import annotations

import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from swmld.cache.store import Cache
from swmld.head.facts import Opening
from swmld.head.history import Decided, History
from swmld.head.pinning import Shares
from swmld.plan.eviction import Keep
from swmld.rules import actions, facts
from swmld.rules.decide import CoolDowns, Engine, Outcome
from swmld.rules.kinds import Value, shown_value
from swmld.rules.ruleset import NO_RULES, RuleSet
from swmld.rules.verdict import Verdict
from swmld.types import Identity
from swmld.values import flag

log = logging.getLogger(__name__)

KEEPS = {
    "adaptive": Keep.NORMAL,
    "aggressive": Keep.LAST,
    "lazy": Keep.FIRST,
    "no_evict": Keep.NORMAL,  # and held while its job lives: Head.held
    "ttl": Keep.LAST,
}
"""By the strategies of ``actions.Cache``."""

AT_OPENS: Mapping[type[actions.Effect], frozenset[str]] = {
    actions.Prioritize: frozenset({"io_priority"}),
    actions.Advise: frozenset({"advice", "readahead"}),
    actions.Stream: frozenset({"drop_behind"}),
    actions.Coordinate: frozenset({"mode"}),
}
"""Parameters whose effect is on an open file, also on one that is whole in the cache. Of the cache's tiers
it is memory alone."""

HELD = 1 << 20
"""Files that are held for jobs at most; the oldest of more are evicted like others."""


class Knowing(Protocol):
    """Where facts come from: ``head.facts``. Loop-only."""

    async def prepare(self, opening: Opening) -> None: ...
    def of(self, opening: Opening) -> dict[str, Value]: ...
    def opened(self, nodeid: int, *, prefetched: bool = False) -> None: ...


class Head:
    """``mount.deciding.Decider``. Loop-only but for ``unopened``, ``held`` and ``review``, which threads ask.

    ``alive(pid)``: does the process live? ``tell`` hears of each decision. ``clock``: monotonic seconds.
    """

    def __init__(
        self,
        rules: RuleSet,
        knowing: Knowing,
        cache: Cache,
        history: History,
        *,
        alive: Callable[[int], bool],
        tell: Callable[[Decided], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._knowing = knowing
        self._cache = cache
        self._alive = alive
        self._tell = tell
        self._clock = clock
        self._cool_downs = CoolDowns()
        self._holders: OrderedDict[Identity, int] = OrderedDict()
        self.history = history
        self.brought = history.brought
        self.compressed = history.compressed
        self.ask_again: Callable[[], None] = _nobody
        self.rules, self.engine = NO_RULES, Engine(())
        self.swap(rules)

    def swap(self, rules: RuleSet, engine: Engine | None = None) -> list[object]:
        """From the next decision on these rules count; ``engine`` where they were compiled elsewhere. Returns
        what is not in use any more: to free it takes a while with thousands of rules."""
        old = self._parts()
        self.rules = rules
        self.engine = engine or Engine(rules.rules)
        self._shares = Shares()
        self._logs = flag(rules.settings.get("debug", False))
        self.watches = any(_at_opens(each) for rule in rules.rules for each in rule.actions)
        effects = {each.effect for rule in rules.rules for each in rule.actions}
        self.coordinates = actions.Coordinate in effects
        self._caching = not effects.isdisjoint((actions.Cache, actions.Compress))
        self.history.forget_but({rule.title for rule in rules.rules})
        if self.watches:
            self.ask_again()
        return old

    def _parts(self) -> list[object]:
        """The rules in use, then what holds them: the latter goes first."""
        return [*self.rules.rules, *self.engine.parts(), self.rules, self.engine]

    # ---- one file is opened

    async def prepare(self, nodeid: int, pid: int) -> None:
        """Before ``opening``: wait for what worker threads have to find out first, as which framework the
        process runs; 0.2 s at most, and not at all where no rule asks."""
        try:
            await self._knowing.prepare(Opening(nodeid, pid))
        except Exception:
            log.exception("something could not be found out about a file")

    def opening(self, nodeid: int, pid: int, uid: int, *, prefetched: bool = False) -> Verdict | None:
        """What is decided about a file that is opened now; None: nothing. ``prefetched``: C has opened it,
        for the first time since it was fetched ahead."""
        if not self.engine.rules:
            self.history.acts(nodeid, 0)
            return None
        try:
            return self._opening(nodeid, pid, uid, prefetched)
        except Exception:  # the file can be read, whatever rules come to
            log.exception("nothing could be decided about a file")
            return None

    def _opening(self, nodeid: int, pid: int, uid: int, prefetched: bool) -> Verdict | None:
        known = self._knowing.of(Opening(nodeid, pid, uid))
        path = known.get("path")
        if not isinstance(path, str):
            return None  # it has no name any more
        self._knowing.opened(nodeid, prefetched=prefetched)
        outcome = self._decide(path, known)
        job, dataset = known.get("job"), known.get("dataset")
        number = int(job) if isinstance(job, int | float) else pid
        if not outcome.matched:
            self.history.acts(nodeid, number)
            return None
        decided = self.history.add(
            path, pid, outcome, job=number, dataset=dataset if isinstance(dataset, str) else None
        )
        self.history.acts(nodeid, number, decided)
        self._tell(decided)
        if self._logs:
            _log(decided)
        verdict = Verdict.of(decided.id, outcome, number)
        wanted, reading = verdict.coordinate, known.get("processes")
        if wanted is not None and not wanted.processes and isinstance(reading, int | float):
            verdict = replace(verdict, coordinate=replace(wanted, processes=int(reading)))
        if verdict.cache is not None and verdict.cache.pin_fraction is not None:
            verdict = replace(verdict, whole=_whole(outcome, known, verdict.job))
        return verdict

    def _decide(self, path: str, known: dict[str, Value]) -> Outcome:
        now = self._clock()
        outcome = self.engine.decide(known, lambda rule: self._cool_downs.rests(rule, path, now))
        self._cool_downs.applied(outcome, path, now)
        return outcome

    def caching(self, verdict: Verdict | None, identity: Identity, file_id: int) -> None:
        """The file is in the cache as ``file_id``, or on its way there. Any thread, without a job."""
        wanted = verdict.cache if verdict is not None else None
        share = wanted.pin_fraction if wanted is not None else None
        if verdict is not None and verdict.whole and share is not None:
            pinned = self._shares.pins(verdict.whole, share, identity)
        else:
            pinned = False
        self._keep(file_id, wanted, pinned)
        if verdict is not None and verdict.job and wanted is not None and wanted.strategy == "no_evict":
            self._holders[identity] = verdict.job
            self._holders.move_to_end(identity)
            if len(self._holders) > HELD:
                self._holders.popitem(last=False)

    def _keep(self, file_id: int, wanted: actions.Cache | None, pinned: bool = False) -> None:
        if wanted is None:
            self._cache.set_keep(file_id, Keep.NORMAL)
        else:
            keep = Keep.NEVER if wanted.pin or pinned else KEEPS[wanted.strategy]
            self._cache.set_keep(file_id, keep, wanted.ttl if wanted.strategy == "ttl" else None)

    # ---- asked by worker threads

    def unopened(self, path: bytes, size: int) -> Verdict | None:
        """What is decided about a file that nobody has opened yet, by its name and size; None: nothing that
        concerns the cache."""
        return self._by_name(path, size) if self._caching else None

    def _by_name(self, path: bytes, size: int) -> Verdict:
        known: dict[str, Value] = {**facts.of_path(os.fsdecode(path)), "size": size}
        return Verdict.of(0, self.engine.decide(known))

    def review(self) -> int:
        """What the cache holds, by the rules as they are now and what name and size say: what is excluded
        goes, the rest is kept as they want. Returns how many files went. Blocks: 25 µs a file."""
        gone = 0
        for entry in self._cache.ls():
            verdict = self._by_name(entry.path, entry.size)
            if verdict.cached:
                if verdict.cache is not None and verdict.cache.pin_fraction is not None:
                    continue  # what was decided when it was opened stays until it is opened again
                self._keep(entry.file_id, verdict.cache)
            else:
                self._cache.drop(entry.file_id)
                gone += 1
        return gone

    def held(self, identity: Identity) -> bool:
        """Whether a job that lives holds the file in the cache (strategy no_evict)."""
        job = self._holders.get(identity)
        return job is not None and self._alive(job)

    def release(self) -> bool:
        """Forget what jobs held that have ended; whether there was such a job. Loop-only."""
        ended = {job for job in set(self._holders.values()) if not self._alive(job)}
        if ended:
            left = [(identity, job) for identity, job in self._holders.items() if job not in ended]
            self._holders = OrderedDict(left)
        return bool(ended)


def _whole(outcome: Outcome, known: dict[str, Value], job: int) -> str:
    """What the nearest ``pin_fraction`` is a share of: all files that its rule decides about, those of a
    directory, of a dataset (where it is not known yet: of the directory, as of a model), or of a job."""
    found = [each for each in outcome.decisions if isinstance(each.effect, actions.Cache)]
    for decision in sorted(found, key=lambda each: actions.TARGETS.index(each.target)):
        if decision.target == "file":
            rules = (one.rule.title for one in decision.settled if one.parameter == "pin_fraction")
            return f"rule {next(rules, '')}"
        if decision.target == "job":
            return f"job {job}"
        if decision.target == "dataset" and "dataset" in known:
            return f"dataset {known['dataset']}"
        return f"directory {known.get('directory', '')}"
    return ""


def _nobody() -> None:
    """Before there is a mount."""


def _at_opens(action: actions.Action) -> bool:
    """Whether it is done at each open (``mount.deciding.Decider.watches``)."""
    if action.effect is actions.Cache:
        return action.given.get("tier") == "memory"
    return not AT_OPENS.get(action.effect, frozenset()).isdisjoint(action.given)


def _log(decided: Decided) -> None:
    """The setting ``debug``: each decision is a line."""
    outcome = decided.outcome
    parts = []
    for each in outcome.decisions:
        kinds = actions.ActionType.parameters_of[type(each.effect)]
        values = (
            f"{one.parameter} {shown_value(kinds[one.parameter].kind, one.value)}" for one in each.settled
        )
        parts.append(f"{each.action} {', '.join(values)}".rstrip())
    log.info(
        "decided: %s",
        "; ".join(parts),
        extra={"path": decided.path, "pid": decided.pid, "decision": decided.id,
               "rules": ", ".join(rule.title for rule in outcome.matched)},
    )  # fmt: skip
