"""How far eviction has come in one line of files: what it need not look at again.

A job may hold a hundred thousand files that are the oldest of all. To pass them for each fetch would cost
half a second, so they are passed once: they cannot go before it is said that a hold has ended (``stale``).
Files that are open are passed as well, but nobody says when they are closed: some are remembered and asked
about each time.
"""

from __future__ import annotations

from collections.abc import Collection

from swmld.cache.index import FileRow
from swmld.cache.keeping import Line, Place

# Uses are noted some time after they were (the index's writer waits 50 ms): what is younger than this is not
# passed, or a use that was earlier would be noted behind it.
_SETTLED = 1.0

# Seconds after which all of a line is looked at again, for what nobody said and for clocks that are set back:
# 100,000 held files take half a second.
_ANEW = 600.0


class Trail:
    """Of one line. Used by one thread at a time; ``stale`` may be set by any."""

    def __init__(self, line: Line, limit: int) -> None:
        self.line = line
        self.stale = False
        """Start again from the head of the line with the next attempt."""
        self.after = Place(line)
        """Nothing up to here can go, but for what is ``open``."""
        self._open: dict[int, FileRow] = {}
        self._limit = limit
        self._now = self._began = 0.0
        self.stopped = False
        """This attempt met files that must be met again; ``after`` stays before them."""

    def start(self, now: float) -> list[FileRow]:
        """Begin an attempt at ``now``: the files to look at before those that come ``after``."""
        anew = self.stale or self.after.moment > now or not self._began <= now < self._began + _ANEW
        if anew:
            self.stale = False
            self.after, self._began = Place(self.line), now
        self._now, self.stopped = now, False
        # Those that stand after it, now that their last use is noted, will be met.
        rows = [row for row in self._open.values() if row.place(self.line) <= self.after]
        self._open = {}
        return rows

    def again(self, row: FileRow) -> bool:
        """Look at a file again in the next attempt; False if those are too many."""
        if len(self._open) >= self._limit and row.file_id not in self._open:
            return False
        self._open[row.file_id] = row
        return True

    def passed(self, rows: list[FileRow], stay: Collection[int]) -> None:
        """Go on to after ``rows``, or to before the first of them that must be met again (``stay``)."""
        if self.stopped:
            return
        settled = self._now - _SETTLED
        if not stay and rows[-1].place(self.line).moment <= settled:
            self.after = rows[-1].place(self.line)
            return
        for row in rows:
            place = row.place(self.line)
            if row.file_id in stay or place.moment > settled:
                self.stopped = True
                return
            self.after = place
