"""One process that reads a dataset: its way through it, its batches. Pure."""

from __future__ import annotations

from swmld.patterns.feed import Place
from swmld.patterns.leaf import Leaf
from swmld.patterns.order import Walk

MOST_LENGTHS = 64
"""Different run lengths counted; a reader in batches has one or two."""

PAUSE = 6.0
"""A gap this many times the usual one ends a burst: a worker that waits until its batch is taken."""

OWN = 0.4
"""Share of the files that come in bursts of exactly the batch size, at least."""

LEAST_PAUSE = 0.012
"""Seconds. Events carry the coarse clock, 4 ms at 250 Hz: shorter pauses are noise."""


class Tally:
    """Counts of small numbers, bounded."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}

    def add(self, value: int, times: int = 1) -> None:
        counts = self.counts
        if value in counts:
            counts[value] += times
        elif not times:
            return
        elif len(counts) < MOST_LENGTHS:
            counts[value] = times
        else:
            # Halving keeps what comes again and again and makes room.
            self.counts = {key: count // 2 for key, count in counts.items() if count > 1}
            if len(self.counts) < MOST_LENGTHS:
                self.counts[value] = times

    def absorb(self, other: Tally) -> None:
        for value, count in other.counts.items():
            self.add(value, count)

    def mode(self) -> tuple[int, float, int]:
        """The commonest value, its share, and how many there are; (0, 0.0, 0) of none."""
        total = sum(self.counts.values())
        if not total:
            return 0, 0.0, 0
        value = max(self.counts, key=lambda key: (self.counts[key], key))
        return value, self.counts[value] / total, total

    def measure(self, times: int) -> tuple[int, float]:
        """Of the values seen so often the one that makes up most of the sum, and the share of the sum that
        comes in whole multiples of it; 0 if there is none, or it makes up less than ``OWN`` itself.

        What disturbs a reader breaks one burst into several short ones: they are many, but sum up to little.
        """
        total = sum(value * count for value, count in self.counts.items())
        often = [value for value, count in self.counts.items() if count >= times]
        if not often:
            return 0, 0.0
        value = max(often, key=lambda key: (key * self.counts[key], key))
        if value * self.counts[value] < OWN * total:
            return 0, 0.0
        return value, sum(key * count for key, count in self.counts.items() if key % value == 0) / total


class Reader:
    """``leaf`` is the folder it read from last, ``index`` and so on the file's place there."""

    __slots__ = (
        "again",
        "base",
        "before",
        "behind",
        "burst",
        "bursts",
        "count",
        "gap",
        "index",
        "last_at",
        "last_file",
        "leaf",
        "listed",
        "name",
        "natural",
        "pid",
        "run",
        "runs",
        "singles",
        "sorted",
        "worker",
    )

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.worker = False
        """It was forked to read."""
        self.leaf: Leaf | None = None
        self.index = -1
        self.name = b""
        self.last_file = -1
        self.count = 0
        """Files read in this epoch."""
        self.again = 0
        """Files in a row that the epoch had seen; ``behind``: it may still be at the last epoch."""
        self.behind = False
        self.sorted = Walk()
        self.natural = Walk()
        self.listed = Walk()
        self.before = Walk()
        self.base = 0
        """Its smallest step forward: 1, or k where it reads every k-th file. Runs of it are batches."""
        self.run = 0
        self.runs = Tally()
        self.singles = 0
        """Runs of one file, too many of them in shuffled order to be counted like the others."""
        self.last_at = 0.0
        self.gap = -1.0
        """Usual time between two files inside a burst, seconds; -1: not seen yet."""
        self.burst = 0
        self.bursts = Tally()

    def at(self, leaf: Leaf, place: Place, number: int) -> None:
        """It reads this file of the directory now, in natural order the one at ``number``."""
        self.leaf = leaf
        index = place.index
        if index is None:
            self.index = -1
            self.name = place.name
        else:
            self.index = index
            self.name = b""
            self.natural.last = number
            self.listed.last = -1 if place.listed is None else place.listed

    def stepped(self, delta: int) -> None:
        """It went on by ``delta`` files in the order that it is read in: count runs."""
        if delta == self.base:
            self.run += 1
        elif 0 < delta < self.base or not self.base:
            self.base = delta if delta > 0 else 0
            self.run = 1 if delta > 0 else 0
        elif self.run:
            self.runs.add(self.run + 1)
            self.run = 0
        else:
            self.singles += 1

    def tell(self, runs: Tally, bursts: Tally) -> None:
        """Adds what it counted."""
        runs.absorb(self.runs)
        runs.add(1, self.singles)
        bursts.absorb(self.bursts)

    def timed(self, at: float) -> None:
        """It read the next file at ``at``: count bursts."""
        gap = at - self.last_at
        self.last_at = at
        if not self.burst:
            self.burst = 1
        elif self.gap < 0:
            self.gap = gap
            self.burst = 2
        elif gap > LEAST_PAUSE and gap > PAUSE * self.gap:
            self.bursts.add(self.burst)
            self.burst = 1
        else:
            self.burst += 1
            self.gap += (gap - self.gap) / 8

    def forget(self) -> None:
        """An epoch begins: the way from the last file to the next one tells nothing."""
        self.leaf = None
        self.index = -1
        self.name = b""
        self.last_file = -1
        self.before.last = -1
        self.run = 0
