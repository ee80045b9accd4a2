"""When an epoch ends. Pure.

Files that are read again tell it, but not each of them: a program may look at single files twice in the
middle. So reads of files seen before count up, those of new ones count down, and how high they must go
depends on how much of the dataset was seen.

Ranks of one job drift apart: the first begins its next epoch while others are still at the last one, and
their new files would outweigh what it reads again. So one reader that reads nothing but files seen before
ends the epoch, too; and those that are behind read on in the last one (``Behind``).
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from math import ceil, log, sqrt

from swmld.patterns.leaf import Leaf
from swmld.patterns.readers import Reader

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

PADDING = 1
"""Files that a rank may read again at its end, so that all have as many (torch's DistributedSampler)."""

ALONE = 8
"""Files seen before that one reader reads in a row near the end of an epoch, from which it is at the next
one: not FEW, since a shuffled epoch of readers that share files has three in a row now and then."""

ANEW = 0.1
"""Share of the files read by workers that were made anew, and at least ``ALONE``, that the epoch had seen:
then they are at the next one. Shuffled, it is as large as the part of the last one that was read."""

CLEAN = 28.0
"""An epoch has been read without repeating a file if the square of the files read is so many times those of
the epoch: files drawn one by one would have met ``CLEAN / 2`` of them again, and by chance ``STRAY`` or
fewer in one of 2,000 runs."""

STRAY = 3
"""Single files that a program may look at twice: the first one, to learn its shape."""

ODD = 0.02
"""Share of its files that such a program meets again, at most."""

EXPECTED = 24
"""Files again that a reader must have met for us to see that it has not begun anew: of so many half come
with a probability of 99.7 %."""

KEPT = 512
"""Files read again that are remembered: ALONE of each of 64 workers. 0.1 MiB."""

BEHIND = 0.25
"""Share of the next epoch after which nobody is at the last one any more."""

CROWD = 1.2
"""Files read for each different one, from which several processes each read all of them: then the epoch has
ended when each file was read by every one."""

ALL = 0.99


class Boundary:
    """Watches one dataset for the end of its epoch."""

    __slots__ = ("again", "near", "score")

    def __init__(self) -> None:
        self.score = 0
        self.again: deque[tuple[object, int, int]] = deque(maxlen=KEPT)
        """(folder, file, index) read again: they may belong to the next epoch. Far from the end of an epoch
        those since the score was last 0."""
        self.near = False
        """The epoch is near its end: what is read again may be of the next one."""

    def new(self) -> None:
        """A file was read that this epoch had not seen."""
        if self.score:
            self.score += NEW
            if self.score <= 0:
                self.score = 0
                if not self.near:
                    self.again.clear()

    def seen(
        self,
        folder: object,
        file: int,
        index: int,
        seen: int,
        reads: int,
        expected: int | None,
        sure: bool,
        own: int = 0,
        readers: int = 1,
    ) -> bool:
        """A file was read again after ``seen`` different ones; True if that ends the epoch.

        ``reads``: files read in this epoch, again or not; ``expected``: files of an epoch as far as known,
        ``sure``: that is all of them; ``own``: its reader's files in a row that had been seen;
        ``readers``: processes that read in this epoch.
        """
        self.score += AGAIN
        near = expected is not None and sure and seen >= COVERED * expected
        if near and not self.near:
            self.again.clear()
        self.near = near
        self.again.append((folder, file, index))
        if expected is not None and sure and reads - self.score > CROWD * seen and seen > LEAST:
            return seen >= ALL * expected and _full_turns(reads / seen)
        enough = needed(seen, expected, sure)
        if enough > FEW:
            return self.score >= enough or own >= enough
        # Of every rank but one the last file may be padding.
        return self.score >= max(enough, readers) or own > (PADDING if seen >= (expected or 0) else ALONE)

    def clear(self) -> None:
        self.score = 0
        self.near = False
        self.again = deque(maxlen=KEPT)


class Crew:
    """Workers that were made when all those before them had ended, in the middle of an epoch: a loader that
    goes on with other files, or one that was stopped and begins anew. The files that they read tell.

    ``part``: the same is asked of one process that goes on, and in this epoch had read so much of all, 0 to
    1, before it first met a file again: if it has begun anew, in another order, that share of its files has
    been seen, and none comes twice.
    """

    __slots__ = ("again", "part", "reads")

    def __init__(self, part: float | None = None) -> None:
        self.part = part
        self.reads: dict[int, tuple[object, int, int]] = {}
        """(folder, file, index) of each file; ``again``: those of them that the epoch had seen before."""
        self.again: set[int] = set()

    def read(self, folder: object, file: int, index: int, new: bool) -> None:
        """One of them read a file."""
        if file in self.reads:
            if self.part is None:
                return
            self._forget_up_to(file)
        self.reads[file] = folder, file, index
        if not new:
            self.again.add(file)

    def _forget_up_to(self, file: int) -> None:
        """What it read up to this file was before it began anew, if it has."""
        for known in list(self.reads):
            del self.reads[known]
            self.again.discard(known)
            if known == file:
                return

    def trim(self) -> None:
        """One process has begun anew: forgets what it read before, by where that is likeliest."""
        if self.part is None:
            return
        again, new = log(self.part / ODD), log((1 - self.part) / (1 - ODD))
        best = score = 0.0
        last = None
        for file in self.reads:  # the sum up to there is that of what would be left out
            score += again if file in self.again else new
            if score < best:
                best, last = score, file
        if last is not None:
            self._forget_up_to(last)

    @property
    def anew(self) -> bool:
        """They read all files anew."""
        if self.part is None:
            return len(self.again) >= max(ALONE, ANEW * len(self.reads))
        return len(self.again) >= ALONE and self.stopped and self._is_mixed(self.part)

    def _is_mixed(self, part: float) -> bool:
        """About as many of the files were seen before as in another order, of the latest half as well. All of
        them: a part of the directory is read anew, or just these are; ``Boundary`` tells."""
        count, again = len(self.reads), len(self.again)
        late = sum(file in self.again for file in islice(self.reads, count // 2, None))
        most = part * count + 3 * sqrt(count * part * (1 - part))
        return part / 2 * count <= again <= most and late >= part / 4 * (count - count // 2)

    @property
    def settled(self) -> bool:
        """So many files that it would have shown."""
        enough = len(self.reads) >= KEPT
        return enough if self.part is None else enough or self.part * len(self.reads) >= EXPECTED

    @property
    def stopped(self) -> bool:
        """They read others, too: the last epoch was stopped before it had all."""
        return len(self.again) < len(self.reads)


def may_begin_anew(seen: int, reads: int, expected: int | None, sure: bool) -> float | None:
    """Of one process that has met a file again after ``seen`` different ones in ``reads``: the part of an
    epoch that it had read, for ``Crew``; ``None`` if it repeats files now and then, or is near the end of
    the epoch, or nobody knows."""
    if not expected or not sure or seen >= COVERED * expected or reads - seen > STRAY:
        return None
    return seen / expected if seen * seen >= CLEAN * expected else None


class Behind:
    """Who is still at the last epoch. Off until ``begin``, and when nobody can be any more."""

    __slots__ = ("left", "seen")

    def __init__(self) -> None:
        self.left = 0
        """Files that the last epoch may lack; ``seen``: those it had."""
        self.seen = 0

    def begin(self, seen: int, expected: int | None, sure: bool) -> None:
        """An epoch has ended after ``seen`` files."""
        self.seen = seen
        self.left = expected - seen if sure and expected is not None else int(BEHIND * seen)

    def read(self, reader: Reader, leaf: Leaf, index: int | None) -> bool:
        """The reader read a file; True if that belongs to the last epoch, which had not seen it."""
        if index is None or not leaf.add_before(index):
            reader.again += 1
            reader.behind = reader.again < FEW
            return False
        reader.again = 0
        self.seen += 1
        self.left -= 1
        return True


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
