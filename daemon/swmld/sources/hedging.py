"""A second request for a read that takes longer than most: whichever answers first is taken.

Dean and Barroso, "The Tail at Scale", CACM 56(2), 2013: sent after the 95th percentile of what such reads
took lately, at most one in twenty, it cuts off the tail for hardly any load.

The loser cannot be stopped, and must not write to the caller's buffer after the caller has it back. So both
read into memory of this module, in its threads, and the winner is copied; a loser keeps its memory until it
ends. Where there is none left, or no percentile is known yet, a read goes straight into the caller's buffer
and has no second request. A GET that is made in C (``whole``) has its second one there, by the same delays
and budget; there the loser is stopped.

Measured on 2 cores: 0.5 ms of CPU for the copy of 4 MiB, 45 µs for the threads of a small read. Where one
in fifty took 0.5 s instead of 20 ms, the 99th percentile of 1,000 was 87 ms instead of 520.
"""

from __future__ import annotations

import threading
from collections import deque

from swmld.sources.budgets import Budget
from swmld.sources.counting import SourceStats
from swmld.sources.interface import Cut, Source
from swmld.sources.racing import Memory, Race, Runners
from swmld.sources.whole import Get
from swmld.sources.wrapping import MONOTONIC, Clock, Kind, WrappedReader, Wrapper, closed

SHARE = 0.05
"""Second requests for each first one, as the paper has it."""

LEAST = 0.01
"""Seconds: what is answered sooner has no tail worth a request. A seek of a disk is about that."""

RECENT = 200
"""Reads that the percentile is taken of, for each class of sizes: the ten slowest of them decide."""

ENOUGH = 20
"""Reads before there is a percentile: the slowest of them is the 95th."""


class Hedging(Wrapper):
    """``memory``: bytes that reads under way may hold; ``threads``: reads at once, losers included."""

    passes = True

    def __init__(
        self,
        inner: Source,
        *,
        memory: int = 64 << 20,
        threads: int = 64,
        least: float = LEAST,
        budget: Budget | None = None,
        stats: SourceStats | None = None,
        clock: Clock = MONOTONIC,
    ) -> None:
        super().__init__(inner)
        self.stats = stats or SourceStats()
        self.delays = Delays(least)
        self._budget = budget or Budget(SHARE, clock=clock)
        self._clock = clock
        self._memory = Memory(memory)
        self._runners = Runners(threads)
        self._lock = threading.Lock()
        self._races: set[Race] = set()
        self._closed = False

    @property
    def held(self) -> int:
        """Bytes that reads under way hold, now."""
        return self._memory.lent

    def read(self, reader: WrappedReader, view: memoryview, offset: int) -> int:
        """See ``Wrapper.read``."""
        wanted = reader.within(len(view), offset)
        self._budget.asked()
        delay = self.delays.after(wanted)
        race = Race()
        if not wanted or delay is None or not self._start(race, reader, wanted, offset):
            return self._read(reader, view, offset)
        try:
            if not self._clock.wait(race.settled, delay) and not race.settled.is_set():
                self._hedge(race, reader, wanted, offset)
            race.settled.wait()
        finally:
            with self._lock:
                self._races.discard(race)
        return race.take(view)

    def whole(self, reader: WrappedReader) -> Get | None:
        """See ``Wrapper.whole``: with a second request, which needs none of the memory and threads here."""
        get = super().whole(reader)
        if get is None:
            return None
        self._budget.asked()
        delay, done, length = self.delays.after(get.length), get.done, get.length
        if delay is not None:
            get.second = SecondGet(self, reader, get, delay)

        def took(seconds: float) -> None:
            self.delays.took(length, seconds)
            if done is not None:
                done(seconds)

        get.done = took
        return get

    def second(self, reader: WrappedReader, first: Get) -> Get | None:
        """Another GET for the bytes of ``first``, of another server if there is one."""
        if not self._budget.take():
            return None
        found = super().whole(reader)
        if found is not None and (found.ip, found.port) == (first.ip, first.port):
            found = super().whole(reader) or found  # servers take turns
        if found is None or found.length != first.length:
            return None
        self.stats.hedged(won=False)
        return found

    def close(self) -> None:
        """Readers fail with ESHUTDOWN, whatever their requests do."""
        with self._lock:
            self._closed = True
            races = list(self._races)
        for race in races:
            race.fail(closed("read", b""))
        super().close()
        self._runners.close()

    def _hedge(self, race: Race, reader: WrappedReader, wanted: int, offset: int) -> None:
        if self._budget.take() and self._start(race, reader, wanted, offset):
            self.stats.hedged(won=False)

    def _start(self, race: Race, reader: WrappedReader, wanted: int, offset: int) -> bool:
        """One of the two requests; False where there is no memory or thread for it."""
        with self._lock:
            if self._closed:
                raise closed("read", reader.path)
            self._races.add(race)
        buffer = self._memory.take(wanted)
        if buffer is None:
            return False
        first = race.entered == 0

        def run() -> None:
            try:
                count = self._read(reader, buffer.view(wanted), offset)
            except Cut as error:
                # What is right of it is not in the caller's view.
                race.lost(OSError(error.errno, error.strerror))
            except OSError as error:
                race.lost(error)
            except BaseException as error:
                race.fail(error)
            else:
                if race.won(buffer, count):
                    if not first:
                        self.stats.hedged(won=True)
                    return
            buffer.put()

        if not race.enter():
            buffer.put()
            return False
        if self._runners.run(run):
            return True
        race.leave()
        buffer.put()
        return False

    def _read(self, reader: WrappedReader, view: memoryview, offset: int) -> int:
        began = self._clock.now()
        count = self.around(Kind.READ, reader.path, lambda: reader.inner.read(view, offset))
        self.delays.took(reader.within(len(view), offset), self._clock.now() - began)
        return count


class SecondGet:
    """See ``whole.Second``."""

    def __init__(self, source: Hedging, reader: WrappedReader, first: Get, after: float) -> None:
        self.after = after
        self._source = source
        self._reader = reader
        self._first = first

    def take(self) -> Get | None:
        """See ``whole.Second``."""
        try:
            return self._source.second(self._reader, self._first)
        except (OSError, ValueError):
            return None

    def won(self) -> None:
        """See ``whole.Second``."""
        self._source.stats.hedged(won=True)


class Delays:
    """The 95th percentile of what recent reads took, by size: four times the bytes are another class."""

    def __init__(self, least: float = LEAST) -> None:
        self._least = least
        self._lock = threading.Lock()
        self._recent: dict[int, deque[float]] = {}
        self._known: dict[int, float] = {}
        self._since: dict[int, int] = {}

    def took(self, nbytes: int, seconds: float) -> None:
        """A read of so many bytes has ended well."""
        size = nbytes.bit_length() // 2
        with self._lock:
            recent = self._recent.setdefault(size, deque(maxlen=RECENT))
            recent.append(seconds)
            self._since[size] = self._since.get(size, 0) + 1
            if self._since[size] >= ENOUGH:
                self._since[size] = 0
                self._known[size] = sorted(recent)[len(recent) * 95 // 100]

    def after(self, nbytes: int) -> float | None:
        """Seconds after which a read of so many bytes is slow; None: not known yet."""
        known = self._known.get(nbytes.bit_length() // 2)
        return None if known is None else max(known, self._least)
