"""Readahead of one open file: which chunks to fetch before their reader gets there. Pure.

A file may be read by several readers at once, each in its own place: every one that goes forward is a
*stream*. A stream must first be confirmed: touch a chunk and then the one after it. From then on a *window*
of chunks ahead of it is kept asked for. It starts at one or two chunks, doubles each time the reader crosses
into a chunk that was asked for, and so is wide after a few chunks; random access never confirms a stream and
costs nothing.

Chunks that were asked for and never touched by the time their stream is dropped are waste: each such stream
halves what later ones may grow to and asks for one more confirmation; streams that are used up to their end
win it back.

It hears of chunk *crossings* alone: a reader that stays in a chunk is silent, since the kernel or C serves
it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from swmld.types import Span

MAX_CONFIRMATIONS = 4
"""Steps in sequence that a file of wasted streams must show before the next prefetch: the chance of four by
accident in a file of 100 chunks, read at random by four readers, is about 1 in 400,000."""

ORPHANS = 1024
"""Chunks asked for by streams that were dropped and not touched since, remembered so that they are not asked
for again while they may be on their way. A few windows; older ones have landed or failed long ago."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds the streams of a file.

    ``streams``: four covers a DataLoader's usual workers on one shard. ``first_window`` in chunks: Linux's
    readahead starts with 2 to 4 times the request too. ``max_window`` in bytes (0: no readahead) and
    ``max_chunks``: 128 MiB is 0.6 s of a 200 MB/s source and 32 parallel reads of 4 MiB, enough to hide 20 ms
    a request many times.
    ``small_file`` in chunks: a file of so few is worth fetching on its first touch at the beginning.
    ``steps``: from chunk to chunk that confirm a stream: more where chunks are so small that one read has
    two.
    """

    streams: int = 4
    first_window: int = 2
    max_window: int = 128 << 20
    max_chunks: int = 32
    small_file: int = 4
    steps: int = 1

    def of(self, chunk_size: int, usual: int) -> Limits:
        """The same in bytes, for a file with chunks smaller than the usual ones."""
        times = usual // chunk_size
        if times <= 1:
            return self
        return replace(
            self, first_window=self.first_window * times, max_chunks=self.max_chunks * times,
            small_file=self.small_file * times, steps=self.steps * times,
        )  # fmt: skip

    def window(self, chunk_size: int) -> int:
        """The largest window in chunks; 0 where ``max_window`` is, else at least 1."""
        return max(1, min(self.max_chunks, self.max_window // chunk_size)) if self.max_window else 0


class _Stream:
    """One reader's place: it touched ``last``; everything before ``front`` was asked for or touched."""

    __slots__ = ("asked", "front", "last", "steps", "wasted", "window")

    def __init__(self, chunk: int) -> None:
        self.last = chunk
        self.front = chunk + 1
        self.steps = 0
        """Confirmations: how often it moved on in sequence."""
        self.window = 0
        """In chunks; 0 until the stream is confirmed."""
        self.asked: set[int] = set()
        """Asked for and not touched yet."""
        self.wasted = False
        """It passed over chunks that were asked for."""


class Streams:
    """The streams of one open file of ``size`` bytes. All methods are constant or ``streams`` long."""

    def __init__(self, chunk_size: int, size: int, limits: Limits | None = None) -> None:
        if chunk_size < 1 or size < 0:
            raise ValueError(f"chunk size {chunk_size}, size {size}")
        self._limits = limits or Limits()
        self._chunks = -(-size // chunk_size)
        self._max_window = self._limits.window(chunk_size)
        self._ceiling = self._max_window
        self._needed = self._limits.steps
        self._used = 0
        """Asked for and touched since the ceiling last changed."""
        self._wasted = 0
        """Orphans that are remembered no more."""
        self._orphans: dict[int, None] = {}  # oldest first
        self._streams: list[_Stream] = []  # least recently used first

    @property
    def outstanding(self) -> set[int]:
        """Chunks that were asked for and have not been touched since."""
        return {chunk for stream in self._streams for chunk in stream.asked}.union(self._orphans)

    def on_touch(self, chunk: int, now: float) -> list[Span]:
        """A reader went to ``chunk`` from another one; returns what to fetch now, nearest first.

        Never what is outstanding, never beyond the file. ``now`` in seconds, for later policies: order alone
        counts. ``IndexError`` if there is no such chunk.
        """
        if not 0 <= chunk < self._chunks:
            raise IndexError(f"chunk {chunk} of {self._chunks}")
        stream = self._owner(chunk)
        if stream is None:
            stream = self._begin(chunk)
        else:
            self._advance(stream, chunk)
        self._streams.append(stream)
        return self._top_up(stream)

    def on_used(self, chunk: int) -> None:
        """``chunk`` was read, where no touch said so (a read that began before it)."""
        self._orphans.pop(chunk, None)
        for stream in self._streams:
            stream.asked.discard(chunk)

    def on_wasted(self, count: int) -> None:
        """``count`` chunks that were asked for were dropped unread (evicted, or the file was closed):
        shrink."""
        if count > 0:
            self._shrink()
            self._orphans.clear()
            for stream in self._streams:
                stream.window = min(stream.window, self._ceiling)

    def on_dropped(self, chunks: Iterable[int]) -> None:
        """These were asked for and not taken (the fetch queue was full): they may be asked for again."""
        gone = set(chunks)
        for chunk in gone:
            self._orphans.pop(chunk, None)
        for stream in self._streams:
            stream.asked -= gone
            # Back to the first chunk behind which all was dropped: what lies further in front is still on
            # its way.
            while stream.front - 1 > stream.last and stream.front - 1 in gone:
                stream.front -= 1

    def close(self) -> int:
        """The file was closed; returns how many chunks were asked for in vain."""
        count = len(self.outstanding) + self._wasted
        self._streams.clear()
        self._orphans.clear()
        return count

    # ---- finding a touch's stream

    def _owner(self, chunk: int) -> _Stream | None:
        """The stream that is at ``chunk`` or that it continues, taken out of the list: the nearest one
        behind it."""
        best: _Stream | None = None
        for stream in self._streams:
            if stream.last <= chunk <= stream.front and (best is None or stream.last > best.last):
                best = stream
        if best is not None:
            self._streams.remove(best)
        return best

    def _begin(self, chunk: int) -> _Stream:
        if len(self._streams) >= self._limits.streams:
            self._drop(self._streams.pop(0))
        # A chunk that another stream asked for and this reader touches is no waste.
        self.on_used(chunk)
        stream = _Stream(chunk)
        if chunk == 0 and self._chunks <= self._limits.small_file:
            stream.window = min(self._limits.first_window, self._ceiling)
        return stream

    def _advance(self, stream: _Stream, chunk: int) -> None:
        prefetched = chunk in stream.asked
        self.on_used(chunk)
        if chunk == stream.last:  # several readers take turns, each in a chunk of its own
            return
        stream.asked.discard(chunk)
        passed = {skipped for skipped in stream.asked if skipped < chunk}
        stream.asked -= passed
        stream.wasted |= bool(passed)
        self._orphan(passed)
        stream.steps += 1
        stream.last = chunk
        stream.front = max(stream.front, chunk + 1)
        if not stream.window:
            if stream.steps >= self._needed:
                stream.window = min(self._limits.first_window, self._ceiling)
        elif prefetched:
            self._used += 1
            if self._used >= self._ceiling:  # a whole window without waste
                self._grow()
            stream.window = min(2 * stream.window, self._ceiling)

    # ---- asking

    def _top_up(self, stream: _Stream) -> list[Span]:
        stop = min(stream.last + 1 + stream.window, self._chunks)
        if stop <= stream.front:
            return []
        first, stream.front = stream.front, stop
        others = self.outstanding
        wanted = [chunk for chunk in range(first, stop) if chunk not in others]
        stream.asked.update(wanted)
        return _spans(wanted)

    # ---- learning

    def _drop(self, stream: _Stream) -> None:
        self._orphan(stream.asked)
        if stream.asked or stream.wasted:
            self._shrink()
        elif stream.window:
            self._needed = max(self._limits.steps, self._needed - 1)

    def _orphan(self, chunks: set[int]) -> None:
        self._orphans.update(dict.fromkeys(sorted(chunks)))
        while len(self._orphans) > ORPHANS:
            del self._orphans[next(iter(self._orphans))]
            self._wasted += 1

    def _shrink(self) -> None:
        self._used = 0
        self._ceiling = max(min(1, self._max_window), self._ceiling // 2)
        self._needed = min(MAX_CONFIRMATIONS * self._limits.steps, self._needed + 1)

    def _grow(self) -> None:
        self._used = 0
        self._ceiling = min(self._max_window, 2 * self._ceiling)
        self._needed = max(self._limits.steps, self._needed - 1)


def _spans(chunks: list[int]) -> list[Span]:
    spans: list[Span] = []
    for chunk in chunks:
        if spans and spans[-1].stop == chunk:
            spans[-1] = Span(spans[-1].first, chunk + 1)
        else:
            spans.append(Span(chunk, chunk + 1))
    return spans
