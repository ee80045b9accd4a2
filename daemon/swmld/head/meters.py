"""What Python and C count, as figures over the last hour and the last seconds. Pure."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import OrderedDict, deque

from swmld.fetch.stats import FetchStats
from swmld.histogram import LATENCY_BUCKETS
from swmld.rules.kinds import Value
from swmld.types import FetchClass

HOUR = 3600.0
SLOT = 60.0
"""Openings within the last hour are counted by the minute."""

OPENED = 16384
"""Files whose openings are remembered, those opened last: some 5 MB."""

LONGEST_OPEN = 60.0
"""Seconds that an opening may take from its announcement to C's time stamp; twice the default timeout of a
fetch."""

TICKS = 10
"""Looks in which something was fetched from which the source's rate and latency are taken."""


class _File:
    """``seen``: C's time of the last opening when it was looked at; ``awaited``: openings announced by Python
    that C has not stamped yet, the last one at ``asked``; ``counts``: (minute, openings), in order."""

    __slots__ = ("asked", "awaited", "counts", "seen")

    def __init__(self) -> None:
        self.seen = self.asked = 0.0
        self.awaited = 0
        self.counts: tuple[tuple[int, int], ...] = ()

    def add(self, at: float) -> None:
        minute = int(at // SLOT)
        oldest = minute - int(HOUR // SLOT)
        kept = [entry for entry in self.counts if entry[0] > oldest]
        more = 1
        if kept and kept[-1][0] == minute:
            more += kept.pop()[1]
        self.counts = (*kept, (minute, more))


class Openings:
    """Openings of files within the last hour; a lower bound.

    What Python answers is counted one by one. Of files that are whole in the cache C answers the openings
    alone, and keeps only the time of the last: as many as there were between two looks count as one.
    """

    def __init__(self, limit: int = OPENED) -> None:
        self._limit = limit
        self._files: OrderedDict[int, _File] = OrderedDict()

    def __len__(self) -> int:
        return len(self._files)

    def opened(self, nodeid: int, last: float, now: float, *, answered: bool) -> None:
        """``answered``: it is the one that C stamped with ``last``."""
        file = self._look(nodeid, last, now)
        if not answered:
            file.add(now)
            file.awaited += 1
            file.asked = now

    def frequency(self, nodeid: int, last: float, now: float) -> int:
        """Openings within the last hour, to a minute."""
        oldest = int(now // SLOT) - int(HOUR // SLOT)
        return sum(count for minute, count in self._look(nodeid, last, now).counts if minute > oldest)

    def _look(self, nodeid: int, last: float, now: float) -> _File:
        file = self._files.get(nodeid)
        if file is None:
            file = self._files[nodeid] = _File()
            if len(self._files) > self._limit:
                self._files.popitem(last=False)
        self._files.move_to_end(nodeid)
        if last > file.seen:
            file.seen = last
            if last > file.asked + LONGEST_OPEN:
                file.awaited = 0
            if file.awaited:
                file.awaited -= 1
            else:
                file.add(last)
        return file


class Source:
    """How fast the source is, from what was fetched between two looks.

    ``source_bandwidth`` is the most that came in one second of the last ten in which anything came: what was
    seen, so the source may be faster. ``source_latency`` is the median of the whole fetches of a chunk, from
    their request on, as the upper bound of its bucket: of those that readers waited for, else of prefetches.
    """

    def __init__(self, stats: FetchStats) -> None:
        self._stats = stats
        self._at: float | None = None
        self._bytes = 0
        self._counts: dict[FetchClass, list[int]] = {}
        self._rates: deque[float] = deque(maxlen=TICKS)
        self._latencies: dict[FetchClass, deque[list[int]]] = {c: deque(maxlen=TICKS) for c in FetchClass}

    def look(self, now: float) -> dict[str, Value]:
        """``now``: seconds of any clock that goes on evenly."""
        nbytes = sum(self._stats.bytes.values())
        if self._at is not None and nbytes > self._bytes and now > self._at:
            self._rates.append((nbytes - self._bytes) / (now - self._at))
        self._at, self._bytes = now, nbytes
        for kind, histogram in self._stats.latency.items():
            before = self._counts.get(kind)
            self._counts[kind] = list(histogram.counts)
            if before is not None and before != histogram.counts:
                more = [new - old for new, old in zip(histogram.counts, before, strict=True)]
                self._latencies[kind].append(more)
        found: dict[str, Value] = {}
        if self._rates:
            found["source_bandwidth"] = round(max(self._rates))
        for kind in (FetchClass.DEMAND, FetchClass.PREFETCH):
            if self._latencies[kind]:
                found["source_latency"] = _median(
                    [sum(each) for each in zip(*self._latencies[kind], strict=True)]
                )
                break
        return found


def _median(counts: list[int]) -> float:
    """Upper bound of the bucket that holds the median; of what is above all, the highest bound."""
    below = list(itertools.accumulate(counts))
    return LATENCY_BUCKETS[min(bisect_left(below, below[-1] / 2), len(LATENCY_BUCKETS) - 1)]
