"""One file as read by one process: its books, from the kernel's events and counters. Pure.

The kernel compares each read with the one before and says when something changed (``Touch``); its counters
(``Cursor``) come about once a second. What ``shapes`` makes of them is the stream's pattern.
"""

from __future__ import annotations

from typing import NamedTuple

from swmld.patterns.feed import PAGE, Cursor, Shape, Tiers, Touch, TouchFlag, TouchKind
from swmld.patterns.leaf import Leaf
from swmld.patterns.meter import Meter
from swmld.patterns.steady import steady

ESTIMATED = 8  # SWP_ESTIMATED of swp_cursor.missed
_WHOLE = int(TouchFlag.WHOLE)
_COLD = int(TouchFlag.COLD)
_FAULT = int(TouchFlag.FAULT)
_DIRECT = int(TouchFlag.DIRECT)


BEFORE = 4
"""Cursors of a stream that are remembered beside its present one: their rows come within a second."""

FEW = 16
"""Reads between two rows of counters that are too few to say how a stream is read."""


PIECES = 32
"""Reads at unrelated places from which a file is read piece by piece."""

BACK = 0.2
"""Share of the steps from place to place that go back in a file whose pieces are read in no order, at least:
half of them do. Columns and tensors that are read one after the other go back now and then."""

LEAST_BACK = 8


class Counts(NamedTuple):
    """Reads and faults, pages read, reads by what the page cache had, seconds waited."""

    reads: int = 0
    pages: int = 0
    cold: int = 0
    partial: int = 0
    faults: int = 0
    direct: int = 0
    wait: float = 0.0

    def plus(self, other: Counts) -> Counts:
        a, b, c, d, e, f, g = self
        h, i, j, k, m, n, o = other
        return Counts(a + h, b + i, c + j, d + k, e + m, f + n, g + o)

    def minus(self, other: Counts) -> Counts:
        """Never below 0: of a file read in turns by two threads the kernel may have counted one twice."""
        a, b, c, d, e, f, g = self
        h, i, j, k, m, n, o = other
        if a >= h and b >= i and c >= j and d >= k and e >= m and f >= n and g >= o:
            return Counts(a - h, b - i, c - j, d - k, e - m, f - n, g - o)
        less = (max(0, a - h), max(0, b - i), max(0, c - j), max(0, d - k), max(0, e - m), max(0, f - n))
        return Counts(*less, max(0.0, g - o))


NOTHING = Counts()
NO_TIERS = Tiers(0, 0, 0, 0)


def counts_of(cursor: Cursor) -> Counts:
    return Counts(
        cursor.reads, cursor.pages, cursor.cold, cursor.partial, cursor.faults, cursor.direct, cursor.wait
    )


def counts_of_whole(touch: Touch, times: int = 1) -> Counts:
    """What touches of a whole file say by themselves: no row of counters needs to follow."""
    flags = int(touch.flags)
    cold, fault, direct = (
        times * (flags & _COLD > 0),
        times * (flags & _FAULT > 0),
        times * (flags & _DIRECT > 0),
    )
    return Counts(times, times * (touch.last - touch.first + 1), cold, 0, fault, direct)


class Small(NamedTuple):
    """A file read by single reads of all of it: no ``Stream`` is made for it. ``told``: reads since the
    kernel began to follow it, ``total``: all reads; ``tiers``: what FUSE answered of them; ``resumed``: the
    kernel knew it longer than is remembered here, and its counters hold reads that were told before."""

    touch: Touch
    told: int
    total: int
    first_at: float
    tiers: Tiers = NO_TIERS
    resumed: bool = False

    def says(self, cursor: Cursor) -> bool:
        """Whether these counters hold nothing that its touches did not say."""
        return cursor.reads <= self.told or (self.resumed and cursor.reads == cursor.passes + 1)


def as_small(known: Touch | Small) -> Small:
    """A file that was read once is kept as the touch that said so."""
    if isinstance(known, Small):
        return known
    return Small(known, 1, 1, known.at, resumed=known.kind == TouchKind.PASS)


def again(known: Touch | Small, touch: Touch) -> Small:
    """It was read once more. FIRST: the kernel had forgotten it meanwhile."""
    before = as_small(known)
    goes_on = touch.kind == TouchKind.PASS
    told = before.told + 1 if goes_on else 1
    return Small(touch, told, before.total + 1, before.first_at, before.tiers, goes_on and before.resumed)


class Stream:
    """``counts`` since the process began to read the file, ``shape`` and ``stride`` (pages) of now."""

    __slots__ = (
        "_before",
        "_began",
        "_told",
        "after_random",
        "ahead",
        "back",
        "breaks",
        "changed_at",
        "counts",
        "cursor",
        "estimated",
        "file",
        "first",
        "first_at",
        "firsts",
        "head",
        "home",
        "last",
        "last_at",
        "meter",
        "passes",
        "pid",
        "recent",
        "shape",
        "size",
        "steady",
        "stride",
        "tiers",
        "whole",
    )

    def __init__(self, pid: int, file: int, at: float) -> None:
        self.pid = pid
        self.file = file
        self.home: Leaf | None = None
        """The directory that its bytes count for."""
        self.counts = NOTHING
        self._told = NOTHING
        """Of the present cursor, what ``counts`` already holds."""
        self._began = float("-inf")
        """When the present cursor began."""
        self._before: tuple[tuple[float, Counts], ...] = ()
        """Both of the ones before it: their last rows may come when it has begun."""
        self.estimated = False
        """Reads of it were looked at for a part of the time; what the counts hold of those is scaled up."""
        self.tiers = NO_TIERS
        self.cursor: Cursor | None = None
        self.meter: Meter | None = None
        """From its second row of counters on: most files are read within one."""
        self.shape = int(Shape.NEW)
        self.changed_at = at
        """When the kernel last said that it is read another way."""
        self.recent = (0, 0, 0, 0)
        """Reads of the latest rows: sequential, reverse, strided, random, each against the one before."""
        self.stride = 0
        self.steady = 0.0
        """Pages from read to read where these are not all alike (``steady``), 0.0 if it has none."""
        self.size = 0
        self.first = self.last = 0
        """Pages of the latest read that we know of."""
        self.head = -1
        """First page of its first read, -1: not known."""
        self.first_at = self.last_at = at
        self.firsts = 0
        """FIRST touches: more than one where the kernel forgot the stream meanwhile."""
        self.passes = 0
        """Times begun anew after its end had been read."""
        self.breaks = 0
        self.whole = False
        """Its latest read covered the file."""
        self.after_random = False
        self.ahead = self.back = 0
        """Steps forward and back from one place that we know of to the next."""

    def _moved(self, first: int) -> None:
        if first > self.first:
            self.ahead += 1
        elif first < self.first:
            self.back += 1

    def touched(self, touch: Touch) -> Counts:
        """An event of this stream; returns what it read by itself, not yet told by a cursor."""
        kind = touch.kind
        self.last_at = touch.at
        if kind > TouchKind.PASS:
            self._moved(touch.first)
        self.first, self.last = touch.first, touch.last
        self.size = touch.size or self.size
        self.whole = bool(int(touch.flags) & _WHOLE)
        if touch.shape != self.shape:
            self.after_random = self.shape == Shape.RANDOM
            self.shape = int(touch.shape)
            self.changed_at = touch.at
        self.stride = touch.stride if self.shape == Shape.STRIDED else 0
        if kind == TouchKind.BREAK:
            self.breaks += 1
        elif kind == TouchKind.PASS:
            self.passes += 1
        elif kind == TouchKind.FIRST:
            self.firsts += 1
            self.passes += self.firsts > 1 and touch.first == 0
            if self.head < 0:
                self.head = touch.first
            self.cursor = None
            self._before = (*self._before[1 - BEFORE :], (self._began, self._told))
            self._began, self._told = touch.at, NOTHING
        if not self.whole or kind > TouchKind.PASS:
            return NOTHING
        more = counts_of_whole(touch)
        self._told = self._told.plus(more)
        self.counts = self.counts.plus(more)
        return more

    def grown(self, small: Small) -> None:
        """It was known as a small file; now there is more to say."""
        self.touched(small.touch._replace(kind=TouchKind.FIRST))
        self.firsts = 1
        self.passes = small.total - 1
        self._before = ((float("-inf"), counts_of_whole(small.touch, small.total - small.told)),)
        self._told = counts_of_whole(small.touch, small.told)
        self.counts = counts_of_whole(small.touch, small.total)
        self.first_at = small.first_at
        self.tiers = small.tiers

    def counted(self, cursor: Cursor) -> Counts:
        """The kernel's counters; returns what they hold more than last time."""
        now = counts_of(cursor)
        self.estimated = self.estimated or bool(cursor.missed & ESTIMATED)
        if cursor.last_at < self._began:
            return self._late(cursor.last_at, now)
        if now.reads < self._told.reads or (
            self.cursor is not None and cursor.first_at > self.cursor.last_at
        ):
            self._told = NOTHING  # forgotten and begun anew, and the FIRST touch was lost
        more = now.minus(self._told)
        self._told = now
        self.counts = self.counts.plus(more)
        if self.cursor is None and self.head < 0:
            self.head = cursor.early[0] if cursor.early else -1
        if self.firsts <= 1:
            self.passes = max(self.passes, cursor.passes)
        if self.cursor is not None and self.meter is None:
            self.meter = Meter()
        if self.meter is not None:
            self.meter.add(cursor.last_at, 0, more.pages * PAGE)
        self.recent = self._latest(cursor)
        goes_on = self.cursor is not None and cursor.first_at == self.cursor.first_at
        self.steady = steady(cursor, self.cursor if goes_on else None, self.steady)
        self.cursor = cursor
        self.size = cursor.size or self.size
        if cursor.last_at >= self.last_at:
            self.last_at = cursor.last_at
            if cursor.kind != self.shape:
                self.after_random = self.shape == Shape.RANDOM
                self.shape = cursor.kind
            self.stride = cursor.stride if self.shape == Shape.STRIDED else 0
            self._moved(cursor.start)
            self.first, self.last = cursor.start, max(cursor.start, cursor.next - 1)
        self.first_at = min(self.first_at, cursor.first_at)
        return more

    def _late(self, last_at: float, now: Counts) -> Counts:
        """Of a cursor that has ended: where a file is read under another inode number than before, as from
        its cache file once that is there, and where the kernel put its books aside."""
        for place, (began, told) in reversed(list(enumerate(self._before))):
            if began <= last_at:
                more = now.minus(told)
                self._before = (*self._before[:place], (began, now), *self._before[place + 1 :])
                self.counts = self.counts.plus(more)
                return more
        return NOTHING

    def activity(self, now: float) -> tuple[float, float]:
        """What the busier of two streams has more of: bytes a second, else later reads."""
        return self.meter.rates(now)[1] if self.meter is not None else 0.0, self.last_at

    def _latest(self, cursor: Cursor) -> tuple[int, int, int, int]:
        """Of this row, and of those before it if it says little."""
        now = cursor.sequential, cursor.reverse, cursor.strided, cursor.random
        old = self.cursor
        if old is None or cursor.first_at != old.first_at:
            return now
        before = old.sequential, old.reverse, old.strided, old.random
        a, b, c, d = (max(0, new - told) for new, told in zip(now, before, strict=True))
        if a + b + c + d >= FEW:
            return a, b, c, d
        e, f, g, h = self.recent
        return a + e, b + f, c + g, d + h

    @property
    def paced(self) -> float:
        """``steady``, where no single stride and nothing that was told since says otherwise."""
        cursor = self.cursor
        if not self.steady or cursor is None or self.shape not in (Shape.RANDOM, Shape.STRIDED):
            return 0.0
        later = self.first - cursor.start
        return self.steady if later * self.steady >= 0 else 0.0

    @property
    def in_pieces(self) -> bool:
        """Read at unrelated places, there and back, a few reads each: members of an archive in no order."""
        cursor = self.cursor
        if cursor is None or cursor.random < PIECES or self.paced or cursor.random > cursor.sequential:
            return False
        return self.back >= max(LEAST_BACK, BACK * (self.ahead + self.back))

    @property
    def progress(self) -> float:
        """Share of the file that this pass has read, 0 to 1; by position where it goes forward, else by the
        pages read."""
        if self.whole or not self.size:
            return 1.0 if self.whole else 0.0
        if self.shape == Shape.SEQUENTIAL and not self.in_pieces:
            return min(1.0, (self.last + 1) / self.size)
        return min(1.0, self._told.pages / self.size)
