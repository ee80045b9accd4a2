"""What rules want done with open files, besides what is fetched and kept. Made where there are rules."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from swmld.cache.files import CacheFile
from swmld.fetch.flights import Target
from swmld.mount import native as nat
from swmld.mount.advising import PageCache, advise
from swmld.mount.coordinating import Coordinator
from swmld.mount.deciding import acts_at_opens, barrier_of, fetch_terms, in_memory
from swmld.mount.native import Native
from swmld.mount.prioritizing import IoPriorities
from swmld.mount.target import SourceTarget

if TYPE_CHECKING:
    from swmld.rules.actions import Coordinate
    from swmld.rules.verdict import Verdict

KEPT_BEHIND = 2 << 20
"""Bytes behind the place that was asked for last: twice what the kernel reads ahead of a reader of the mount
(``app.READAHEAD_KIB``), so that nothing is dropped before it was read. Two chunks at least."""


@dataclass(slots=True)
class _Open:
    """A file that is open: its cache file, and what is done when readers go on, and at the end."""

    path: str
    chunk_size: int
    behind: bool
    forget: bool
    front: int
    touched: OrderedDict[int, None] = field(default_factory=OrderedDict)
    """Chunks whose pages are kept, the latest last."""


class Acts:
    """Loop-only. ``gone``: see ``Coordinator``."""

    def __init__(self, native: Native, gone: Callable[[], Awaitable[bool]] | None = None) -> None:
        self._native = native
        self._priorities = IoPriorities()
        self._pages = PageCache(native)
        self._open: dict[int, _Open] = {}
        self._coordinator = Coordinator(gone=gone)
        self._barriers: dict[int, Coordinate] = {}

    def loaded(self, nodeid: int, verdict: Verdict, target: SourceTarget) -> bool:
        """It is going to be served from this. True: the other methods are to be told of it."""
        target.terms = fetch_terms(verdict)
        if not acts_at_opens(verdict):
            return False
        told, stream, cached = verdict.advise, verdict.stream, target.file
        if in_memory(verdict):
            self._pages.load(cached.path, _present(cached))
        behind = stream is not None and stream.drop_behind
        forget = behind or (told is not None and told.advice in ("dontneed", "noreuse"))
        self._open[nodeid] = _Open(cached.path, cached.chunk_size, behind, forget, cached.front)
        if told is not None:
            advise(cached.fd, told.advice)
            if told.advice == "willneed" and not in_memory(verdict):
                self._pages.load(cached.path, _present(cached))
            elif told.readahead and cached.complete:
                self._pages.load(cached.path, [(cached.front, min(told.readahead, cached.size))])
        return True

    def opened(self, nodeid: int, fh: int, verdict: Verdict, thread: int) -> bool:
        """A thread has opened the file to read it. Answers as ``loaded``, which may not have been told: the
        file may be read from the source."""
        barrier = barrier_of(verdict)
        if barrier is not None:
            self._barriers[nodeid] = barrier
        first = verdict.prioritize
        passed = self._native.open_flags(fh) & nat.FOPEN_PASSTHROUGH
        if not passed or first is None or first.io_priority is None:
            return barrier is not None
        self._priorities.opened(nodeid, thread, first.io_priority)
        return True

    async def meet(self, nodeid: int, thread: int) -> None:
        """Before the open is answered: waits for the others, where the rule wants that."""
        barrier = self._barriers.get(nodeid)
        if barrier is not None:
            await self._coordinator.meet(nodeid, thread, barrier)

    def end_waits(self) -> None:
        """See ``Coordinator.end``."""
        self._coordinator.end()

    async def begin_write(self, nodeid: int, thread: int, verdict: Verdict) -> int:
        """Before it is opened for writing; OSError EBUSY."""
        assert verdict.coordinate is not None
        return await self._coordinator.begin_write(nodeid, thread, verdict.coordinate)

    def end_write(self, nodeid: int, process: int) -> None:
        """What ``begin_write`` answered has closed it, or could not open it."""
        self._coordinator.end_write(nodeid, process)

    def touched(self, nodeid: int, chunks: Iterable[int]) -> None:
        """Readers went to these chunks."""
        file = self._open.get(nodeid)
        if file is None or not file.behind:
            return
        for chunk in chunks:
            file.touched[chunk] = None
            file.touched.move_to_end(chunk)
        while len(file.touched) > max(2, KEPT_BEHIND // file.chunk_size):
            chunk, _ = file.touched.popitem(last=False)
            # All around it up to what is kept: the kernel drops no part of a folio, which may be larger.
            first = max((kept for kept in file.touched if kept < chunk), default=-1) + 1
            stop = min((kept for kept in file.touched if kept > chunk), default=chunk + 1)
            size = file.chunk_size
            self._pages.forget(nodeid, file.path, first * size, (stop - first) * size, file.front)

    def landed(self, nodeid: int, target: Target, chunk: int) -> None:
        """A chunk was read from the source."""
        file = self._open.get(nodeid)
        if file is not None and file.behind and target.source_fd >= 0:
            self._pages.forget_source(target.source_fd, *target.file.extent(chunk))

    def ended(self, nodeid: int) -> None:
        """Nobody has it open any more."""
        self._native.forget_complete(nodeid)
        self._priorities.closed(nodeid)
        self._barriers.pop(nodeid, None)
        file = self._open.pop(nodeid, None)
        if file is not None and file.forget:
            self._pages.forget(nodeid, file.path)

    def close(self) -> None:
        """The mount is gone."""
        self._priorities.close()
        self._pages.close()


def _present(file: CacheFile) -> list[tuple[int, int]]:
    """What of it is there, as (offset, length) in the cache file."""
    if file.complete:
        return [(0, file.data_size)]
    absent = set(file.missing(0, file.nchunks))
    extents = (file.extent(chunk) for chunk in range(file.nchunks) if chunk not in absent)
    return [(offset + file.front, length) for offset, length in extents]
