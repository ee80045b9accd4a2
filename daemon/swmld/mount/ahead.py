"""Fetches the next files of a directory before they are opened; ``plan.neighbours`` or a rule says which.

A hint and no more: bounded, dropped when the queue is full, and its errors are counted and forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import trio

from swmld.fetch.flights import Target
from swmld.fetch.scheduler import Fetcher
from swmld.mount.deciding import Brought
from swmld.mount.gate import SourceGate
from swmld.mount.listings import Listings
from swmld.mount.loading import Loader, unload
from swmld.mount.native import Native
from swmld.mount.target import SourceTarget
from swmld.plan.neighbours import Directory, Limits
from swmld.types import FetchClass

if TYPE_CHECKING:
    from swmld.rules.verdict import Verdict

DIRECTORIES = 256
"""Directories whose readers are remembered, least recently opened in forgotten first."""

QUEUE = 4096
"""Files that may wait: as many as the fetcher's own queue holds."""

OPENERS = 24
"""Files looked up and opened at the source at once: demands find threads, and the source some quiet."""


FRESH_SHARE = 0.5
"""Of the time for which a check of the source holds: files are brought so little ahead of their readers that
they are opened while it still does, else each open would cost the round trip that prefetch is to hide."""

LEAST_AHEAD = 32
"""Files brought ahead of slow readers; as many requests as a source gets in parallel."""

SLOT = 0.25
"""Seconds over which a directory's opens are counted."""

EARLY = 64
"""Files of a directory that were opened while it is listed, and whose rules want others fetched."""

BROUGHT = 65_536
"""Files fetched ahead by rules whose first open is waited for; of more, the oldest count as not used."""


class _Wanted(NamedTuple):
    """A file to bring, or with ``name`` None a directory to list. ``decision``: of the rule that wants it, 0
    none; its files may have any size up to ``limit`` bytes."""

    parent: int
    name: bytes | None
    decision: int = 0
    limit: int = 0


@dataclass(slots=True)
class _Flight:
    """A file on its way: ``chunks`` of it are still awaited."""

    nodeid: int
    target: SourceTarget
    decision: int
    chunks: set[int] = field(default_factory=set)


class _Readers:
    """One directory: what its readers do (``plan``) and how fast, and what rules want besides."""

    def __init__(self, limits: Limits, horizon: float) -> None:
        self.plan = Directory(limits)
        self.early: list[tuple[bytes, Verdict]] = []
        """Opened before there was a listing."""
        self._horizon = horizon
        self._rate = 0.0
        self._opens = 0
        self._slot = 0.0

    def opened(self, name: bytes, now: float) -> list[bytes]:
        """The files to bring now: as many ahead as are opened within the horizon."""
        self._opens += 1
        if now - self._slot >= SLOT:
            self._rate = (self._rate + self._opens / (now - self._slot)) / 2
            self._opens, self._slot = 0, now
        return self.plan.on_open(name, now, max(LEAST_AHEAD, int(self._rate * self._horizon)))


class NeighbourPrefetch:
    """``on_open`` tells of opens; ``run`` must run for anything to be fetched. Loop-only.

    ``fresh``: seconds for which a check of the source holds. ``max_files``: fetched ahead in one directory;
    0: rules alone say what is.
    """

    def __init__(
        self,
        native: Native,
        gate: SourceGate,
        loader: Loader,
        fetcher: Fetcher,
        listings: Listings,
        *,
        whole_limit: int,
        max_files: int,
        fresh: float,
        brought: Brought | None = None,
    ) -> None:
        self._native = native
        self._gate = gate
        self._loader = loader
        self._fetcher = fetcher
        self._listings = listings
        self._whole_limit = whole_limit
        self._learns = max_files > 0
        self._limits = Limits(max_window=max(1, max_files))
        self._horizon = fresh * FRESH_SHARE
        self._tell = brought
        self._directories: OrderedDict[int, _Readers] = OrderedDict()
        self._send, self._receive = trio.open_memory_channel[_Wanted](QUEUE)
        self._under_way: dict[object, _Flight] = {}
        self._unopened: OrderedDict[int, tuple[int, int]] = OrderedDict()
        """By nodeid: the decision that had it fetched, and its bytes."""
        self.asked = self.dropped = self.failed = self.used = 0
        self._waiting: set[int] = set()

    def on_open(self, nodeid: int, *, prefetched: bool = False, verdict: Verdict | None = None) -> None:
        """A file was opened; ``prefetched``: it had been brought here and nobody had opened it yet."""
        self.used += prefetched
        if (found := self._unopened.pop(nodeid, None)) is not None and self._tell is not None:
            self._tell(found[0], used=found[1])
        try:
            parent, name = self._native.parent(nodeid)
        except OSError:
            return
        readers = self._readers(parent)
        wanted = readers.opened(name, trio.current_time())
        rule = verdict.prefetch if verdict is not None else None
        if self._learns and (rule is None or rule.enabled):
            self._bring_all(parent, readers, wanted)
        elif wanted:
            readers.plan.on_dropped(wanted)
        if verdict is not None and rule is not None and rule.enabled and (rule.next_files or rule.siblings):
            if readers.plan.listed:
                self._by_rule(parent, readers, name, verdict)
            elif len(readers.early) < EARLY:
                readers.early.append((name, verdict))
        if (readers.plan.needs_listing or readers.early) and parent not in self._waiting:
            self._waiting.add(parent)
            if not self._queue(_Wanted(parent, None)):
                self._waiting.discard(parent)

    def _readers(self, parent: int) -> _Readers:
        readers = self._directories.get(parent)
        if readers is None:
            readers = self._directories[parent] = _Readers(self._limits, self._horizon)
            if len(self._directories) > DIRECTORIES:
                self._directories.popitem(last=False)
        self._directories.move_to_end(parent)
        return readers

    def _by_rule(self, parent: int, readers: _Readers, name: bytes, verdict: Verdict) -> None:
        rule = verdict.prefetch
        assert rule is not None
        wanted = readers.plan.others(name) if rule.siblings else readers.plan.following(name, rule.next_files)
        limit = 1 << 62 if rule.window is None else rule.window
        self._bring_all(parent, readers, wanted, verdict.id, limit)

    def _bring_all(
        self, parent: int, readers: _Readers, names: list[bytes], decision: int = 0, limit: int = 0
    ) -> None:
        dropped = [name for name in names if not self._queue(_Wanted(parent, name, decision, limit))]
        if dropped:
            readers.plan.on_dropped(dropped)

    def _queue(self, wanted: _Wanted) -> bool:
        try:
            self._send.send_nowait(wanted)
        except trio.WouldBlock:
            self.dropped += 1
            return False
        self.asked += wanted.name is not None
        return True

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(OPENERS):
                nursery.start_soon(self._work)

    async def _work(self) -> None:
        async for wanted in self._receive:
            try:
                if wanted.name is None:
                    await self._list(wanted.parent)
                else:
                    await self._bring(wanted.parent, wanted.name, wanted.decision, wanted.limit)
            except OSError:
                self.failed += 1

    async def _list(self, parent: int) -> None:
        try:
            listing = await self._listings.load(parent)
        finally:
            self._waiting.discard(parent)
        readers = self._directories.get(parent)
        if readers is None:
            return
        readers.plan.set_listing(listing)
        early, readers.early = readers.early, []
        for name, verdict in early:
            self._by_rule(parent, readers, name, verdict)

    async def _bring(self, parent: int, name: bytes, decision: int, limit: int) -> None:
        entry, target = await self._gate.call(
            lambda: self._loader.load_small(parent, name, max(limit, self._whole_limit)), unload
        )
        if target is None:
            return
        if target.source_fd < 0:
            self._native.set_complete(entry.nodeid, target.file.file_id, target.identity, tell_open=True)
            target.release()
            return
        asked = set()
        if target.key not in self._under_way:
            missing = target.file.missing(0, target.file.nchunks)
            asked = {c for c in missing if self._fetcher.request(target, c, FetchClass.PREFETCH)}
        if not asked:
            target.release()
            return
        self._under_way[target.key] = _Flight(entry.nodeid, target, decision, asked)
        if decision and self._tell is not None:
            self._tell(decision, asked=_bytes(target, asked))

    def on_landed(self, target: Target, chunk: int) -> None:
        """A chunk landed; if it was the last one of ours, C may open the file by itself."""
        flight = self._under_way.get(target.key)
        if flight is None or chunk not in flight.chunks:
            return
        self._over(target, flight, chunk)
        if not flight.decision or self._tell is None:
            return
        length = _bytes(target, (chunk,))
        self._tell(flight.decision, fetched=length)
        before = self._unopened.get(flight.nodeid, (0, 0))[1]
        self._unopened[flight.nodeid] = flight.decision, before + length
        if len(self._unopened) > BROUGHT:
            self._unopened.popitem(last=False)

    def on_failed(self, target: Target, chunk: int) -> None:
        """A chunk could not be had."""
        flight = self._under_way.get(target.key)
        if flight is not None and chunk in flight.chunks:
            self.failed += 1
            self._over(target, flight, chunk)

    def _over(self, target: Target, flight: _Flight, chunk: int) -> None:
        flight.chunks.discard(chunk)
        if flight.chunks:
            return
        del self._under_way[target.key]
        own = flight.target
        if own.file.complete:
            self._native.set_complete(flight.nodeid, own.file.file_id, own.identity, tell_open=True)
        own.release()

    def close(self) -> None:
        """Gives back what was under way."""
        for flight in self._under_way.values():
            flight.target.release()
        self._under_way.clear()


def _bytes(target: Target, chunks: Iterable[int]) -> int:
    return sum(target.file.extent(chunk)[1] for chunk in chunks)
