"""Fetches the next files of a directory before they are opened; ``plan.neighbours`` says which.

A hint and no more: bounded, dropped when the queue is full, and its errors are counted and forgotten.
"""

from __future__ import annotations

from collections import OrderedDict

import trio

from swmld.fetch.flights import Target
from swmld.fetch.scheduler import Fetcher
from swmld.mount.gate import SourceGate
from swmld.mount.listings import Listings
from swmld.mount.loading import Loader, unload
from swmld.mount.native import Native
from swmld.mount.target import SourceTarget
from swmld.plan.neighbours import Directory, Limits
from swmld.types import FetchClass

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


class _Readers:
    """One directory: what its readers do (``plan``) and how fast."""

    def __init__(self, limits: Limits, horizon: float) -> None:
        self.plan = Directory(limits)
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

    ``fresh``: seconds for which a check of the source holds. ``max_files``: fetched ahead in one directory.
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
    ) -> None:
        self._native = native
        self._gate = gate
        self._loader = loader
        self._fetcher = fetcher
        self._listings = listings
        self._whole_limit = whole_limit
        self._limits = Limits(max_window=max_files)
        self._horizon = fresh * FRESH_SHARE
        self._directories: OrderedDict[int, _Readers] = OrderedDict()
        self._send, self._receive = trio.open_memory_channel[tuple[int, bytes | None]](QUEUE)
        self._under_way: dict[object, tuple[int, SourceTarget]] = {}
        self.asked = self.dropped = self.failed = self.used = 0
        self._waiting: set[int] = set()

    def on_open(self, nodeid: int, *, prefetched: bool = False) -> None:
        """A file was opened; ``prefetched``: it had been brought here and nobody had opened it yet."""
        self.used += prefetched
        try:
            parent, name = self._native.parent(nodeid)
        except OSError:
            return
        readers = self._directories.get(parent)
        if readers is None:
            readers = self._directories[parent] = _Readers(self._limits, self._horizon)
            if len(self._directories) > DIRECTORIES:
                self._directories.popitem(last=False)
        self._directories.move_to_end(parent)
        now = trio.current_time()
        wanted = readers.opened(name, now)
        if readers.plan.needs_listing and parent not in self._waiting:
            self._waiting.add(parent)
            if not self._queue(parent, None):
                self._waiting.discard(parent)
        dropped = [other for other in wanted if not self._queue(parent, other)]
        if dropped:
            readers.plan.on_dropped(dropped)

    def _queue(self, parent: int, name: bytes | None) -> bool:
        try:
            self._send.send_nowait((parent, name))
        except trio.WouldBlock:
            self.dropped += 1
            return False
        self.asked += name is not None
        return True

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(OPENERS):
                nursery.start_soon(self._work)

    async def _work(self) -> None:
        async for parent, name in self._receive:
            try:
                if name is None:
                    await self._list(parent)
                else:
                    await self._bring(parent, name)
            except OSError:
                self.failed += 1

    async def _list(self, parent: int) -> None:
        try:
            listing = await self._listings.load(parent)
        finally:
            self._waiting.discard(parent)
        readers = self._directories.get(parent)
        if readers is not None:
            readers.plan.set_listing(listing)

    async def _bring(self, parent: int, name: bytes) -> None:
        entry, target = await self._gate.call(
            lambda: self._loader.load_small(parent, name, self._whole_limit), unload
        )
        if target is None:
            return
        if target.source_fd < 0:
            self._native.set_complete(entry.nodeid, target.file.file_id, target.identity, tell_open=True)
            target.release()
        elif target.key in self._under_way or not self._fetcher.request(target, 0, FetchClass.PREFETCH):
            target.release()
        else:
            self._under_way[target.key] = entry.nodeid, target

    def on_landed(self, target: Target) -> None:
        """A chunk landed; if it was one of ours, C may open the file by itself."""
        found = self._under_way.pop(target.key, None)
        if found is not None:
            nodeid, own = found
            if own.file.complete:
                self._native.set_complete(nodeid, own.file.file_id, own.identity, tell_open=True)
            own.release()

    def on_failed(self, target: Target) -> None:
        """A chunk could not be had."""
        found = self._under_way.pop(target.key, None)
        if found is not None:
            self.failed += 1
            found[1].release()

    def close(self) -> None:
        """Gives back what was under way."""
        for _, target in self._under_way.values():
            target.release()
        self._under_way.clear()
