"""How many of the reads on this machine the probes look at, so that nobody notices what they cost. Pure.

A look at a read costs 75 ns and more, however little is done with it: the kernel's call of the program. At
700,000 reads a second of one CPU that is a twentieth of its time. So there is a limit, in reads a second of
one CPU: up to it every read is looked at. Beyond it, where that lasts, reads are looked at in slices of the
time, of which ``weight`` fit into a period, and each read that is seen counts for as many.
"""

from __future__ import annotations

import math

LOOKS = 3
"""Looks in a row beyond the limit until reads are sampled: bursts are seen whole."""

CALM = 2
"""Looks in a row well below the limit until all are seen again."""

BACK = 0.75
"""Of the limit, "well below" it: a load just at it does not go to and fro."""

LEAST = 2
"""The smallest weight: half of the time."""

MOST = 20
"""The largest: what is read is seen for a twentieth of the time, however often it is read."""


class Budget:
    """``limit``: reads a second of one CPU, 0: there is none. ``weight``: see above, 1 while all are seen."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._in_a_row = 0
        self.weight = 1

    def look(self, rate: float) -> int:
        """The weight from now on. ``rate``: reads a second of the busiest CPU, while they were looked at."""
        if not self._limit:
            return 1
        sampled = self.weight > 1
        leaves = rate < BACK * self._limit if sampled else rate > self._limit
        self._in_a_row = self._in_a_row + 1 if leaves else 0
        if self._in_a_row >= (CALM if sampled else LOOKS):
            self._in_a_row = 0
            sampled = not sampled
        self.weight = min(MOST, max(LEAST, math.ceil(rate / self._limit))) if sampled else 1
        return self.weight


class Ledger:
    """Which time the slices stand for: one that came late, or took longer than it should, is set right by the
    next ones. Times in seconds.

    A slice begins at ``due(weight)`` and counts for ``weight_at(now)`` times its length, which ``took``
    enters.
    """

    def __init__(self, now: float, length: float) -> None:
        self._length = length
        self._covered = now

    def due(self, weight: int) -> float:
        """When the next slice is to begin."""
        return self._covered + (weight - 1) * self._length

    def weight_at(self, now: float) -> int:
        """Of a slice that begins now. Time for which it would have to stand for too much is left out."""
        weight = round((now - self._covered) / self._length) + 1
        if weight > 2 * MOST:
            self._covered = now - (2 * MOST - 1) * self._length
            weight = 2 * MOST
        return max(1, weight)

    def took(self, weight: int, began: float, ended: float) -> None:
        """A slice is over."""
        self._covered += weight * (ended - began)
