"""The head in a daemon: what it is made of, and its tasks. Imported where there are rules."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import trio

from swmld.cache.store import Cache
from swmld.fetch.stats import FetchStats
from swmld.head import reload
from swmld.head.facts import Facts, Opening
from swmld.head.head import Head
from swmld.head.history import History
from swmld.head.host import Host
from swmld.head.notify import Notifier
from swmld.head.recognition import Recognition, wanted
from swmld.head.reload import Loaded
from swmld.mount.gate import SourceGate
from swmld.mount.native import ROOT, Native
from swmld.mount.tree import Tree
from swmld.observe.libraries import Programs
from swmld.observe.observer import Observer
from swmld.plugins.known import Plugins
from swmld.rules.kinds import Value
from swmld.rules.ruleset import RuleSet

HOLDS = 5.0
"""Seconds between two looks for jobs that ended and what they held."""


SLICE = 512
"""Streams that are looked at at once: some 5 ms."""

UNMEASURED = ("fuse", "off")
"""Ways of seeing reads that do not see how long they wait."""


class Running:
    """``run`` must run for facts of the host, notifications and changed rules to come. Loop-only."""

    def __init__(
        self,
        rules: RuleSet,
        loaded: Loaded,
        *,
        native: Native,
        tree: Tree,
        gate: SourceGate,
        observer: Observer,
        cache: Cache,
        fetch_stats: FetchStats,
        cache_dir: Path,
        mount: Path,
        plugins: Plugins | None = None,
    ) -> None:
        self._native = native
        self._tree = tree
        self._gate = gate
        self._cache = cache
        self._observer = observer
        self.loaded = loaded
        self.notifier = Notifier(mount)
        self._asked: tuple[RuleSet, frozenset[str]] = rules, wanted(rules)
        recognition = None
        if plugins is not None:
            recognition = Recognition(plugins, Programs(plugins.frameworks_of), self._wanted)
        self._facts = Facts(
            native, observer.patterns, observer.people, Host(cache_dir), cache.usage, fetch_stats,
            loaded.environment, recognition=recognition,
        )  # fmt: skip
        self.head = Head(
            rules, self._facts, cache, History(time.time),
            alive=_alive, tell=self.notifier.tell,
        )  # fmt: skip
        cache.held = self.head.held

    def _wanted(self) -> frozenset[str]:
        """What the rules in use ask for of frameworks."""
        if self._asked[0] is not self.head.rules:
            self._asked = self.head.rules, wanted(self.head.rules)
        return self._asked[1]

    async def run(self) -> None:
        """Until cancelled."""
        reload.announce(self.head.rules)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._facts.run)
            nursery.start_soon(self.notifier.run)
            nursery.start_soon(self._release)
            nursery.start_soon(self._count)
            await trio.to_thread.run_sync(self.head.review, abandon_on_cancel=True)
            loaded = self.loaded
            await reload.watch(loaded.paths, loaded.environment, self.head, loaded)

    async def _release(self) -> None:
        while True:
            await trio.sleep(HOLDS)
            if self.head.release():
                self._cache.released()

    async def _count(self) -> None:
        """What the probes tell of waiting, to the decisions that it is about."""
        waiting, facts = self.head.history.waiting, self._facts
        with self._observer.subscribe() as batches:
            async for raw in batches:
                if self._observer.probe()["how"] in UNMEASURED:
                    continue
                waiting.touched(raw.touches)
                if not (raw.cursors or raw.waits):
                    continue
                for start in range(0, len(raw.cursors), SLICE):
                    waiting.take(raw.cursors[start : start + SLICE], facts.place, facts.job)
                    await trio.lowlevel.checkpoint()
                waiting.settle(raw.waits, raw.at, facts.place, facts.job)

    async def known(self, path: str) -> dict[str, Value]:
        """What is known of the file at ``path``, from the mount's root; OSError for one that is not there."""
        nodeid = ROOT
        held = []
        try:
            for name in (part for part in os.fsencode(path).split(b"/") if part not in (b"", b".")):
                entry = await self._gate.call(lambda at=nodeid, name=name: self._tree.lookup(at, name))  # type: ignore[misc]
                held.append(entry.nodeid)
                nodeid = entry.nodeid
            await self._facts.prepare(Opening(nodeid), everything=True)
            return self._facts.of(Opening(nodeid))
        finally:
            for each in held:
                self._native.forget(each, 1)


def _alive(pid: int) -> bool:
    with contextlib.suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True
