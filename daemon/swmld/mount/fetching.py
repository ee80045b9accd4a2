"""What is fetched for open files: the chunks that their readers wait for, and those ahead of them."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from swmld.cache.files import ChunkState
from swmld.fetch.flights import Target
from swmld.fetch.scheduler import Fetcher
from swmld.mount.acting import Acts
from swmld.mount.deciding import Decider, at_once, file_limits
from swmld.mount.gate import as_read
from swmld.mount.hinting import Hinting
from swmld.mount.native import Entry, Native
from swmld.mount.opens import Counters, OpenFile
from swmld.mount.target import SourceTarget
from swmld.plan.readahead import Limits, Streams
from swmld.types import FetchClass, Span

if TYPE_CHECKING:
    from swmld.rules.verdict import Verdict

READ_SOURCE = frozenset({errno.ENOSPC, errno.ESTALE})
"""A fetch that ends so says nothing against the source: the bytes are read from there."""


class Fetching:
    """Serves files from targets, and has fetched what their readers need. Loop-only.

    ``whole_limit``: bytes up to which a file is fetched whole when it is opened. ``hinting``: where there are
    plugins.
    """

    def __init__(
        self,
        native: Native,
        fetcher: Fetcher,
        counters: Counters,
        *,
        whole_limit: int,
        limits: Limits,
        decider: Decider | None = None,
        acts: Acts | None = None,
        hinting: Hinting | None = None,
    ) -> None:
        self._native = native
        self._fetcher = fetcher
        self._counters = counters
        self._whole_limit = whole_limit
        self._limits = limits
        self._decider = decider
        self._acts = acts
        self._hinting = hinting
        self._by_key: dict[object, OpenFile] = {}

    def set_readahead(self, nbytes: int) -> None:
        """Of the files that are opened from now on."""
        self._limits = replace(self._limits, max_window=nbytes)
        if self._hinting is not None:
            self._hinting.window = nbytes

    # ---- targets

    def serve(
        self, file: OpenFile, entry: Entry, target: SourceTarget, verdict: Verdict | None = None
    ) -> None:
        """READs will come for this file: they are answered from ``target``, which is taken over."""
        if file.target is not None and file.target.key == target.key:
            file.target.terms = target.terms
            file.target.decision = target.decision or file.target.decision
            target.release()
            return
        self.drop(file)
        file.target = target
        self._by_key[target.key] = file
        cached = target.file
        rule = verdict.prefetch if verdict is not None else None
        limits = file_limits(
            verdict, self._limits.of(cached.chunk_size, self._whole_limit), cached.chunk_size
        )
        file.streams = Streams(cached.chunk_size, entry.size, limits)
        sizes = entry.size, cached.chunk_size
        if cached.level:
            self._native.set_packed(file.nodeid, cached.fd, cached.file_id, *sizes, cached.bitmap())
        else:
            self._native.set_cfile(file.nodeid, cached.fd, *sizes, cached.bitmap())
        if verdict is not None and (rule or verdict.advise or verdict.stream):
            file.decision = verdict.id
            until = None
            if rule is not None and rule.deadline is not None:
                until = trio.current_time() + rule.deadline
            for chunk in at_once(verdict, entry.size, cached.chunk_size, limits):
                self.ahead(file, target, chunk, until)
        if self._hinting is not None and target.fills and limits.max_window > 0:
            file.reading = self._hinting.begin(file.nodeid, target, partial(self.ahead, file, target))

    def drop(self, file: OpenFile) -> None:
        """It is not served from its target any more, if it was."""
        if file.target is None:
            return
        if file.streams is not None:
            file.streams.close()
        if file.reading is not None:
            file.reading.close()
            file.reading = None
        self._counters.prefetch_wasted += _length(file.target, file.ahead)
        self._brought(file, wasted=_length(file.target, file.ahead - file.coming))
        file.ahead.clear()
        file.coming.clear()
        self._fetcher.forget(file.target)
        self._by_key.pop(file.target.key, None)
        file.target.release()
        file.target = file.streams = None
        file.decision = 0

    # ---- readers

    async def ensure(self, target: SourceTarget, chunks: Iterable[int]) -> None:
        """A reader waits until these are there; FetchError."""
        self._counters.misses += 1
        await self._fetcher.ensure(target, chunks)

    def fetched_whole(self, nodeid: int, target: SourceTarget) -> None:
        """A file that was fetched when it was opened is whole: it may say which are read after it."""
        if self._hinting is not None:
            self._hinting.opened(nodeid, target)

    def missed(self, file: OpenFile, target: SourceTarget, chunks: range, offset: int) -> None:
        """A read that begins at ``offset`` waits for these, which may be its last ones alone."""
        self._counters.misses += 1
        for chunk in chunks:
            there = target.file.state(chunk) is ChunkState.PRESENT
            if there or not self._fetcher.request(target, chunk, FetchClass.DEMAND):
                self._native.landed(file.nodeid, chunk)
        self.touch(file, range(min(offset // target.file.chunk_size, chunks.start), chunks.stop))

    def touch(self, file: OpenFile, chunks: Iterable[int]) -> None:
        """Readers went to these chunks: what should be fetched ahead of them is asked for."""
        streams, target = file.streams, file.target
        if streams is None or target is None:
            return
        if file.acted and self._acts is not None:
            chunks = tuple(chunks)
            self._acts.touched(file.nodeid, chunks)
        for chunk in chunks:
            if chunk in file.ahead:
                file.ahead.discard(chunk)
                self._counters.prefetch_used += target.file.extent(chunk)[1]
                self._reached(file, target, chunk)
            if target.file.complete:
                continue
            planned = file.reading is not None and file.reading.foretold(chunk)
            dropped = []
            for span in streams.on_touch(chunk, trio.current_time()):
                dropped += [c for c in _chunks(span) if planned or not self.ahead(file, target, c)]
            if dropped:
                streams.on_dropped(dropped)

    # ---- ahead of readers

    def ahead(self, file: OpenFile, target: SourceTarget, chunk: int, deadline: float | None = None) -> bool:
        """Has a chunk fetched before a reader asks for it; False: it cannot be now. ``deadline``: on trio's
        clock, after which it is not wanted."""
        if target.file.state(chunk) is ChunkState.PRESENT:
            return True

        def late(_: Target, chunk: int) -> None:
            file.ahead.discard(chunk)
            file.coming.discard(chunk)

        if self._fetcher.request(target, chunk, FetchClass.PREFETCH, deadline=deadline, on_late=late):
            file.ahead.add(chunk)
            if file.decision:
                file.coming.add(chunk)
                self._brought(file, asked=target.file.extent(chunk)[1])
            return True
        return False

    def _reached(self, file: OpenFile, target: SourceTarget, chunk: int) -> None:
        """A reader came to a chunk that was fetched ahead, or was to be."""
        length = target.file.extent(chunk)[1]
        if chunk in file.coming:
            file.coming.discard(chunk)  # its landing is no fetching ahead any more
            self._brought(file, late=length)
        else:
            self._brought(file, used=length)

    def _brought(self, file: OpenFile, **nbytes: int) -> None:
        if file.decision and self._decider is not None:
            self._decider.brought(file.decision, **nbytes)

    # ---- what the fetcher says

    def on_landed(self, target: Target, chunk: int) -> None:
        """A chunk is in the cache file."""
        if isinstance(target, SourceTarget) and target.decision and self._decider is not None:
            stored = target.file.held(chunk)
            self._decider.compressed(target.decision, target.file.extent(chunk)[1], stored)
        file = self._by_key.get(target.key)
        if file is None or file.target is None:
            return
        if chunk in file.coming:
            file.coming.discard(chunk)
            self._brought(file, fetched=file.target.file.extent(chunk)[1])
        if file.acted and self._acts is not None:
            self._acts.landed(file.nodeid, file.target, chunk)
        if not file.from_source:
            self._native.landed(file.nodeid, chunk)
            if file.target.file.complete:
                own = file.target
                self._native.set_complete(file.nodeid, own.file.file_id, own.identity, decided=True)

    def on_failed(self, target: Target, chunk: int, code: int) -> None:
        """A chunk could not be had. ESTALE: the source changed while it was read, so its bytes count now."""
        file = self._by_key.get(target.key)
        if file is None or file.target is None:
            return
        file.ahead.discard(chunk)
        file.coming.discard(chunk)
        if code == errno.ESTALE:
            file.from_source = True
            self._native.bypass(file.nodeid, True)
        elif code == errno.ENOSPC:
            self._native.failed(file.nodeid, chunk, 0)
        else:
            self._native.failed(file.nodeid, chunk, as_read(code))


def _chunks(span: Span) -> range:
    return range(span.first, span.stop)


def _length(target: SourceTarget, chunks: Iterable[int]) -> int:
    return sum(target.file.extent(chunk)[1] for chunk in chunks)
