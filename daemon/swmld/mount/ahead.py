"""Fetches files before they are opened: the next ones of a directory, as ``plan.neighbours`` foresees them,
and what rules want: those, siblings, files in directories below, the next shards of a set.

A hint and no more: bounded, dropped when the queue is full, and its errors are counted and forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import TYPE_CHECKING

import trio

from swmld.errors import FetchError
from swmld.fetch.flights import Target
from swmld.fetch.scheduler import Fetcher
from swmld.mount import below
from swmld.mount.asked import ANY, LEARNED, NEXT_SHARDS, Order, Readers, Wanted, What, orders
from swmld.mount.awaited import Awaited
from swmld.mount.deciding import Brought, wants_files
from swmld.mount.gate import SourceGate
from swmld.mount.listings import Listings
from swmld.mount.loading import Loader, unload, unload_several
from swmld.mount.native import Native
from swmld.mount.target import SourceTarget
from swmld.mount.tree import Tree
from swmld.plan.neighbours import Limits
from swmld.plugins import shard_index
from swmld.types import FetchClass

if TYPE_CHECKING:
    from swmld.rules.verdict import Verdict

DIRECTORIES = 256
"""Directories whose readers are remembered, least recently opened in forgotten first."""

QUEUE = 4096
"""Files that may wait: as many as the fetcher's own queue holds."""

OPENERS = 24
"""Files looked up and opened at the source at once: demands find threads, and the source some quiet."""

SEVERAL = 16
"""Files that are looked up and made at once, where the source need not be asked: a few ms of a thread; more
than what is fetched together."""

FRESH_SHARE = 0.5
"""Of the time for which a check of the source holds: files are brought so little ahead of their readers that
they are opened while it still does, else each open would cost the round trip that prefetch is to hide."""

EARLY = 64
"""Files of a directory that were opened while it is listed, and whose rules want others fetched."""


LOOK = 512
"""Files that are looked at in search of one that is not cached, behind those that are: some 0.5 ms."""


@dataclass(slots=True)
class _Flight:
    """A file on its way: ``chunks`` of it are still awaited. ``decision``: on whose account; 0: nobody's, or
    the file was opened meanwhile."""

    nodeid: int
    target: SourceTarget
    wanted: Wanted
    chunks: set[int] = field(default_factory=set)
    decision: int = 0


class NeighbourPrefetch:
    """``on_open`` tells of opens; ``run`` must run for anything to be fetched. Loop-only.

    ``fresh``: seconds for which a check of the source holds. ``max_files``: fetched ahead in one directory;
    0: rules alone say what is.
    """

    def __init__(
        self,
        native: Native,
        gate: SourceGate,
        tree: Tree,
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
        self._tree = tree
        self._loader = loader
        self._fetcher = fetcher
        self._listings = listings
        self._whole_limit = whole_limit
        self._learns = max_files > 0
        self._limits = Limits(max_window=max(1, max_files))
        self._horizon = fresh * FRESH_SHARE
        self._tell: Brought = brought or _nobody
        self._directories: OrderedDict[int, Readers] = OrderedDict()
        self._send, self._receive = trio.open_memory_channel[Wanted](QUEUE)
        self._turn = trio.Lock()
        self._under_way: dict[object, _Flight] = {}
        self._decided: dict[int, _Flight] = {}
        """Those of them that a decision asked for, by nodeid."""
        self._awaited = Awaited(self._tell)
        self.asked = self.dropped = self.failed = self.used = 0
        self._waiting: set[int] = set()

    def on_open(self, nodeid: int, *, prefetched: bool = False, verdict: Verdict | None = None) -> None:
        """A file was opened; ``prefetched``: it had been brought here and nobody had opened it yet."""
        self.used += prefetched
        if prefetched:
            self._loader.first_opened(nodeid)
        self._awaited.opened(nodeid)
        self._reader_came(nodeid)
        try:
            parent, name = self._native.parent(nodeid)
        except OSError:
            return
        readers = self._readers(parent)
        wanted = readers.opened(name, trio.current_time())
        rule = verdict.prefetch if verdict is not None else None
        if rule is not None and verdict is not None and wants_files(rule):
            until = trio.current_time() + rule.deadline if rule.deadline is not None else float("inf")
            if readers.plan.listing is None:
                if len(readers.early) < EARLY:
                    readers.early.append((name, verdict, until))
            else:
                readers.plan.on_dropped(wanted)  # the rule comes first: it may want larger files
                self._by_rule(parent, readers, name, verdict, until)
                wanted = readers.plan.ask(wanted)
        if self._learns and (rule is None or rule.enabled):
            self._bring_all(parent, readers, wanted, LEARNED)
        elif wanted:
            readers.plan.on_dropped(wanted)
        if (readers.plan.needs_listing or readers.early) and parent not in self._waiting:
            self._waiting.add(parent)
            if not self._queue(Wanted(What.LISTING, parent)):
                self._waiting.discard(parent)

    def bring(self, nodeid: int, names: Iterable[bytes], part: int) -> None:
        """What a plugin says is read after this file: others of its directory, of each the first ``part``
        bytes."""
        try:
            parent, _ = self._native.parent(nodeid)
        except OSError:
            return
        readers = self._readers(parent)
        wanted = list(islice(names, NEXT_SHARDS))
        if readers.plan.listing is not None:
            wanted = readers.plan.ask(wanted)
        self._bring_all(parent, readers, wanted, Order(limit=ANY, part=part))

    def _readers(self, parent: int) -> Readers:
        readers = self._directories.get(parent)
        if readers is None:
            readers = self._directories[parent] = Readers(self._limits, self._horizon)
            if len(self._directories) > DIRECTORIES:
                self._directories.popitem(last=False)
        self._directories.move_to_end(parent)
        return readers

    def _by_rule(self, parent: int, readers: Readers, name: bytes, verdict: Verdict, until: float) -> None:
        room = QUEUE - self._send.statistics().current_buffer_used
        for order, names in orders(readers.plan, name, verdict, until, room):
            self._bring_all(parent, readers, names, order)
            if order.index:
                self._queue(Wanted(What.INDEX, parent, name, order))
            if order.levels > 1 and readers.walked != readers.plan.epoch:
                readers.walked = readers.plan.epoch
                if not self._queue(Wanted(What.BELOW, parent, None, order, order.levels)):
                    readers.walked = -1

    def _bring_all(self, parent: int, readers: Readers, names: list[bytes], order: Order) -> None:
        if order.decision or self._native.local:
            names = self._to_bring(parent, readers, names, order)
        dropped = [name for name in names if not self._queue(Wanted(What.FILE, parent, name, order))]
        if dropped:
            readers.plan.on_dropped(dropped)

    def _to_bring(self, parent: int, readers: Readers, names: list[bytes], order: Order) -> list[bytes]:
        """Those that are not known to be whole in the cache. Others would be looked up and confirmed for
        nothing, and C would tell of their opens, at which more would be asked for: a cached tree would be
        decided about anew each time that it is read."""
        looked, rest = names[:QUEUE], names[QUEUE:]
        wanted = [name for name in looked if not self._native.child_settled(parent, name)]
        if looked and not wanted and not rest and order.row:
            self._look_on(parent, readers, names, order.row)
        return wanted + rest

    def _look_on(self, parent: int, readers: Readers, names: list[bytes], row: int) -> None:
        """All that comes next is cached, and C does not tell of its opens: so that what is not cached behind
        it is fetched in time, C is to tell of one open as far before it. Where all the rest of the directory
        is cached nobody has to hear of anything."""
        beyond = readers.plan.beyond(names[-1], LOOK)
        settled = list(takewhile(lambda name: self._native.child_settled(parent, name), beyond))
        if len(settled) < len(beyond) or len(beyond) == LOOK:
            self._native.child_settled(parent, [*names, *settled][-row:][0], tell=True)

    def _queue(self, wanted: Wanted) -> bool:
        try:
            self._send.send_nowait(wanted)
        except trio.WouldBlock:
            self.dropped += 1
            return False
        self.asked += wanted.what is What.FILE
        return True

    async def run(self) -> None:
        """Until cancelled."""
        self._awaited.listen()
        self._loader.on_evict(self._awaited.evicted)
        async with trio.open_nursery() as nursery:
            for _ in range(OPENERS):
                nursery.start_soon(self._work)

    async def _work(self) -> None:
        carry_out = {
            What.FILE: self._bring, What.LISTING: self._list, What.INDEX: self._index, What.BELOW: self._below
        }  # fmt: skip
        while True:
            # One at a time waits, so that what is wanted at once is not handed to as many as wait.
            async with self._turn:
                try:
                    first = await self._receive.receive()
                except trio.EndOfChannel:
                    return
                several, rest = self._with_others(first)
            if len(several) > 1:
                try:
                    await self._bring_several(several)
                except OSError:
                    self.failed += len(several)
            else:
                rest = [*several, *rest]
            for wanted in rest:
                if wanted.order.deadline <= trio.current_time():
                    self._late(wanted)
                    continue
                try:
                    await carry_out[wanted.what](wanted)
                except (OSError, FetchError):
                    self.failed += 1

    def _with_others(self, first: Wanted) -> tuple[list[Wanted], list[Wanted]]:
        """Files that wait behind ``first`` and can be brought with it, and the one that ended the row."""
        several = [first]
        if not self._tree.remembers or first.what is not What.FILE or first.alone:
            return several, []
        while len(several) < SEVERAL:
            try:
                wanted = self._receive.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                break
            if wanted[:2] != first[:2] or wanted.order is not first.order or wanted.alone:
                return several, [wanted]
            several.append(wanted)
        return several, []

    async def _list(self, wanted: Wanted) -> None:
        parent = wanted.parent
        try:
            listing = await self._listings.load(parent)
        finally:
            self._waiting.discard(parent)
        readers = self._directories.get(parent)
        if readers is None:
            return
        readers.plan.set_listing(listing)
        early, readers.early = readers.early, []
        for name, verdict, until in early:
            self._by_rule(parent, readers, name, verdict, until)

    async def _index(self, wanted: Wanted) -> None:
        """Whoever opened the index reads it: it is fetched for both at once."""
        assert wanted.name is not None
        parent, name, order = wanted.parent, wanted.name, wanted.order
        limit = shard_index.INDEX_LIMIT
        _, target = await self._gate.call(
            lambda: self._loader.load_small(parent, name, limit), unload, patient=False
        )
        if target is None:
            return
        try:
            await self._fetcher.ensure(target, range(target.file.nchunks))
            file = target.file
            names = await trio.to_thread.run_sync(lambda: shard_index.shards_of(file.read(0, file.size)))
        finally:
            target.release()
        readers = self._readers(parent)
        self._bring_all(parent, readers, readers.plan.ask(names[: order.files]), order)

    async def _below(self, wanted: Wanted) -> None:
        parent, name, order = wanted.parent, wanted.name, wanted.order
        found = await self._gate.call(lambda: below.read(self._tree, parent, name), patient=False)
        if name is not None:
            readers = self._readers(found.nodeid)
            if readers.plan.listing is None:
                readers.plan.set_listing(found.files)
            names = readers.plan.others(b"", order.files)
            self._bring_all(found.nodeid, readers, names, order)
            order.files -= len(names)
        for directory in found.directories if wanted.levels > 1 else ():
            if order.directories > 0 and order.files > 0:
                order.directories -= 1
                self._queue(Wanted(What.BELOW, found.nodeid, directory, order, wanted.levels - 1))

    async def _bring_several(self, several: list[Wanted]) -> None:
        """As ``_bring`` of each; what the source has to be asked about waits for its turn again."""
        parent, order = several[0].parent, several[0].order
        if order.deadline <= trio.current_time():
            for wanted in several:
                self._late(wanted)
            return
        limit = max(order.limit, self._whole_limit)
        by_name = {wanted.name: wanted for wanted in several if wanted.name is not None}
        names = list(by_name)
        loaded = await self._gate.call(
            lambda: self._loader.load_known(parent, names, limit), unload_several, patient=False
        )
        for name, nodeid, target in loaded:
            self._fetch(nodeid, target, by_name.pop(name))
        dropped = [name for name, wanted in by_name.items() if not self._queue(wanted._replace(alone=True))]
        self.asked -= len(by_name) - len(dropped)
        readers = self._directories.get(parent)
        if dropped and readers is not None:
            readers.plan.on_dropped(dropped)

    async def _bring(self, wanted: Wanted) -> None:
        assert wanted.name is not None
        parent, name, order = wanted.parent, wanted.name, wanted.order
        limit = max(order.limit, self._whole_limit)
        entry, target = await self._gate.call(
            lambda: self._loader.load_small(parent, name, limit), unload, patient=False
        )
        if target is None:
            readers = self._directories.get(parent)
            if entry.size > limit and readers is not None:
                readers.plan.passed_over(name)
            return
        if not target.fills:
            self._native.set_complete(entry.nodeid, target.file.file_id, target.identity, tell_open=True)
            target.release()
            return
        self._fetch(entry.nodeid, target, wanted)

    def _fetch(self, nodeid: int, target: SourceTarget, wanted: Wanted) -> None:
        order = wanted.order
        asked = self._ask(target, order) if target.key not in self._under_way else set()
        if not asked:
            target.release()
            return
        flight = self._under_way[target.key] = _Flight(nodeid, target, wanted, asked)
        if order.decision:
            flight.decision = order.decision
            self._decided[nodeid] = flight
            self._tell(order.decision, asked=_bytes(target, asked))

    def _ask(self, target: SourceTarget, order: Order) -> set[int]:
        file = target.file
        target.terms = order.terms
        until = order.deadline if order.deadline < float("inf") else None
        missing = file.missing(0, min(file.nchunks, -(-order.part // file.chunk_size)))
        return {
            chunk for chunk in missing
            if self._fetcher.request(
                target, chunk, FetchClass.PREFETCH, deadline=until, on_late=self._on_late
            )
        }  # fmt: skip

    def on_landed(self, target: Target, chunk: int) -> None:
        """A chunk landed; if it was the last one of ours, C may open the file by itself."""
        flight = self._under_way.get(target.key)
        if flight is None or chunk not in flight.chunks:
            return
        if flight.decision:  # while it is pinned: it cannot have been evicted yet
            self._awaited.landed(flight.nodeid, target.file, flight.decision, _bytes(target, (chunk,)))
        self._over(target, flight, chunk)

    def _reader_came(self, nodeid: int) -> None:
        """What is still on its way is too late to have been fetched ahead."""
        flight = self._decided.pop(nodeid, None)
        if flight is not None:
            self._tell(flight.decision, late=_bytes(flight.target, flight.chunks))
            flight.decision = 0

    def on_failed(self, target: Target, chunk: int) -> None:
        """A chunk could not be had."""
        flight = self._under_way.get(target.key)
        if flight is not None and chunk in flight.chunks:
            self.failed += 1
            self._over(target, flight, chunk)

    def _on_late(self, target: Target, chunk: int) -> None:
        """Its deadline passed while it waited for its turn."""
        flight = self._under_way.get(target.key)
        if flight is not None and chunk in flight.chunks:
            self._late(flight.wanted)
            self._over(target, flight, chunk)

    def _late(self, wanted: Wanted) -> None:
        """The next open may ask for it again."""
        self.dropped += 1
        readers = self._directories.get(wanted.parent)
        if readers is None:
            return
        if wanted.what is What.FILE and wanted.name is not None:
            readers.plan.on_dropped([wanted.name])
        elif wanted.what is What.BELOW and wanted.name is None:
            readers.walked = -1

    def _over(self, target: Target, flight: _Flight, chunk: int) -> None:
        flight.chunks.discard(chunk)
        if flight.chunks:
            return
        del self._under_way[target.key]
        if self._decided.get(flight.nodeid) is flight:
            del self._decided[flight.nodeid]
        own = flight.target
        if own.file.complete:
            self._native.set_complete(flight.nodeid, own.file.file_id, own.identity, tell_open=True)
        own.release()

    def close(self) -> None:
        """Gives back what was under way."""
        for flight in self._under_way.values():
            flight.target.release()
        self._under_way.clear()
        self._decided.clear()


def _nobody(decision: int, **nbytes: int) -> None:
    """Hears of nothing: without rules no decision fetches anything."""


def _bytes(target: Target, chunks: Iterable[int]) -> int:
    return sum(target.file.extent(chunk)[1] for chunk in chunks)
