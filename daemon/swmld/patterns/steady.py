"""A stride that single reads do not show: the steps differ, their mean stays. Pure.

Rows of 160,000 bytes begin each 39 or 40 pages; faults of a mapping are told by the pages that are there
around them, which differ by up to ``AROUND`` while it is read for the first time. The kernel compares each
step with the one before and calls that random; where reads are over many of them, it is a line.
"""

from __future__ import annotations

from itertools import pairwise

from swmld.patterns.feed import NOT_EARLY, Cursor

AROUND = 17
"""Pages by which a step may differ from the mean: 16 of a fault's neighbours (fault_around_bytes), and one of
rounding."""

SLANT = 0.25
"""Share of the mean by which it may change from one row of counters to the next."""

STEPS = 4
"""Steps among the first reads that must fit. With the latest read being the furthest of all, reads at random
in a file of a thousand steps do so once in 10^10 streams."""


def moves(cursor: Cursor) -> int:
    """Reads that begin elsewhere than the one before."""
    return cursor.sequential + cursor.reverse + cursor.strided + cursor.random


def steady(cursor: Cursor, before: Cursor | None, stride: float) -> float:
    """Pages from read to read, below 0 backward; 0.0 if it is not read so, or in a row without gaps.

    ``before``: the last row of the same books; ``stride``: what was found then.
    """
    found = _goes_on(cursor, before, stride) if before is not None and stride else 0.0
    found = found or _from_start(cursor)
    # What is read from end to end, in whatever pieces, has no stride.
    return found if abs(found) * moves(cursor) > 1.2 * cursor.pages else 0.0


def _goes_on(cursor: Cursor, before: Cursor, stride: float) -> float:
    steps = moves(cursor) - moves(before) + cursor.passes - before.passes
    if steps <= 0:
        return stride
    way = float(cursor.start - before.start)
    slack = AROUND / steps + SLANT * abs(stride)
    # A pass of the file may have ended meanwhile.
    turn = cursor.size if stride > 0 else -cursor.size
    for length in (way, way + turn):
        if abs(length / steps - stride) <= slack:
            return stride + (length / steps - stride) * steps / moves(cursor)
    return 0.0


def _from_start(cursor: Cursor) -> float:
    """By the first reads and the latest one."""
    early = [page for page in cursor.early if page != NOT_EARLY]
    count = moves(cursor)
    if len(early) < len(cursor.early) or cursor.passes or count < len(early):
        return 0.0
    forward = cursor.start > early[-1]
    if cursor.next <= cursor.high if forward else cursor.start > cursor.low:
        return 0.0  # others went further than the latest one
    steps = [b - a for a, b in pairwise(early) if a != b]
    mean = (cursor.start - early[-1]) / max(1, count - len(steps))
    fit = [step for step in steps if step * mean > 0 and abs(step - mean) <= AROUND + SLANT * abs(mean)]
    # The first step may lead from a header to the data.
    return mean if len(fit) >= STEPS and len(fit) >= len(steps) - 1 and fit[-1] == steps[-1] else 0.0
