"""When an epoch ends. Pure.

Files that are read again tell it, but not each of them: a program may look at single files twice in the
middle. So reads of files seen before count up, those of new ones count down, and how high they must go
depends on how much of the dataset was seen.
"""

from __future__ import annotations

from math import ceil

AGAIN = 1
NEW = -2
"""A dataset that two groups of processes read side by side sees half its files again; the sum stays low
then: it goes above 48 once in 10^10 steps (random walk with steps +1 and -2 of equal probability:
1.618^-48)."""

MOST = 48
LEAST = 16
"""Files again in a row that end an epoch of unknown length: half of what was seen, within these bounds."""

COVERED = 0.9
"""Share of the expected files from which on a few are enough: what workers prefetch of the next epoch while
the last batches of this one are read is less than the rest."""

FEW = 3

CROWD = 1.2
"""Files read for each different one, from which several processes each read all of them: then the epoch has
ended when each file was read by every one."""

ALL = 0.99


class Boundary:
    """Watches one dataset for the end of its epoch."""

    __slots__ = ("again", "score")

    def __init__(self) -> None:
        self.score = 0
        self.again: list[tuple[object, int, int]] = []
        """(folder, file, index) read again since the score was last 0: they may belong to the next epoch."""

    def new(self) -> None:
        """A file was read that this epoch had not seen."""
        if self.score:
            self.score += NEW
            if self.score <= 0:
                self.score = 0
                self.again.clear()

    def seen(
        self, folder: object, file: int, index: int, seen: int, reads: int, expected: int | None, sure: bool
    ) -> bool:
        """A file was read again after ``seen`` different ones; True if that ends the epoch.

        ``reads``: files read in this epoch, again or not; ``expected``: files of an epoch as far as known,
        ``sure``: that is all of them.
        """
        self.score += AGAIN
        if len(self.again) < 2 * MOST:
            self.again.append((folder, file, index))
        if expected is not None and sure and reads - self.score > CROWD * seen and seen > LEAST:
            return seen >= ALL * expected and _full_turns(reads / seen)
        return self.score >= needed(seen, expected, sure)

    def clear(self) -> None:
        self.score = 0
        self.again = []


def needed(seen: int, expected: int | None, sure: bool) -> int:
    """Score at which the epoch has ended."""
    unknown = min(MOST, max(LEAST, seen // 2))
    if expected is None or seen < COVERED * expected:
        return unknown
    if sure:
        return 1 if seen >= expected else FEW
    return min(unknown, 8)


def _full_turns(times: float) -> bool:
    """So many readers of all files have (nearly) ended together."""
    return ceil(times - 0.05) - times <= 0.04
