"""Which cached files have proved to be read again, and are protected from those that were read once.

The policy is LIRS (Jiang, Zhang: "LIRS: an efficient low inter-reference recency set replacement policy",
SIGMETRICS 2002), by times instead of a stack. What comes is on *probation*, a small part of the cache, and
goes by last use. What is used again is *protected* if the time between its two uses is short against that for
which the protected file idle longest has been so: what a scan reads once, or a loop through more than the
cache holds, drives out nothing that is read again. A file that went from probation is remembered (a *ghost*):
if it comes back soon enough, it is protected at once. So a new working set takes the place of an old one.

Chosen by simulation (``tests/bench/evictions.py``), against LRU, SIEVE, S3-FIFO, 2Q, SLRU and ARC: it keeps a
working set through scans, as SIEVE, SLRU and ARC do, and hits in shuffled epochs and loops larger than the
cache, each of which only some of them do. A new working set takes it some passes, where LRU needs one and
SIEVE and SLRU stay with the old one.

Pure: times come in, seconds since the epoch; in memory alone.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable

SAME_USE = 5.0
"""Seconds. Uses closer together than this are one: a program that opens a file twice has not come back to it
(the correlated reference period of LRU-K, O'Neil et al., SIGMOD 1993)."""

PROBATION = 10
"""Percent of the cache for files on probation: as S3-FIFO's small queue (Yang et al., SOSP 2023). LIRS has 1,
but here uses are learned when eviction meets a file, which must not be too late. While there are fewer, the
protected one that is idle longest goes."""

FILLING = 80
"""Percent of the cache: as long as less is protected, all that is used again is."""

MARGIN = 3.0
"""How much shorter the time between two uses must be than the longest idle time of a protected file. LIRS has
1; but in shuffled epochs the file that was not used for longest is among those that come next, and one would
be exchanged for another all the time. With 50 % of the files in the cache 1 hits 15 %, 2: 29 %, 3: 37 %, 4:
39 %. The more, the longer an old working set stays."""

GHOSTS = 1 << 18
"""Files remembered: 4 MiB. Of more, those that went last."""


class Reuse:
    """What is known of uses. Used by any thread: each access of the tables is one operation."""

    def __init__(self, ghosts: int = GHOSTS) -> None:
        self.oldest: float | None = None
        """Last use of the protected file that is idle longest; None: there is none, or it is not known."""
        self._on_probation = self._held = 0
        # A table without chains: each slot has the file that went last of all that fall on it.
        self._keys = array("q", bytes(8 * ghosts))
        self._used = array("d", bytes(8 * ghosts))

    def measured(self, on_probation: int, held: int) -> None:
        """Bytes of files on probation and of all."""
        self._on_probation, self._held = on_probation, held

    def promoted(self, nbytes: int) -> None:
        """So much is on probation no more, but protected."""
        self._on_probation -= nbytes

    @property
    def full(self) -> bool:
        """Whether so much is protected that newcomers must be better than those who are."""
        return (self._held - self._on_probation) * 100 >= self._held * FILLING > 0

    @property
    def probation_first(self) -> bool:
        """Whether a file on probation is to go, not a protected one."""
        return self._on_probation * 100 > self._held * PROBATION

    def protects(self, before: float, now: float) -> bool:
        """Whether a file that is used ``now``, and was ``before``, is to be protected."""
        interval = now - before
        if interval < SAME_USE:
            return False
        return not self.full or self.oldest is None or interval * MARGIN <= now - self.oldest

    def gone(self, file: Hashable, last_used: float) -> None:
        """``file`` went from probation."""
        key = hash(file)
        slot = key % len(self._keys)
        self._keys[slot], self._used[slot] = key, last_used

    def back(self, file: Hashable, now: float) -> bool:
        """``file`` comes again: whether it is to be protected at once."""
        key = hash(file)
        slot = key % len(self._keys)
        before = self._used[slot]
        return self._keys[slot] == key and before > 0 and self.protects(before, now)
