"""Rates over the last few seconds. Pure."""

from __future__ import annotations

SPAN = 5
"""Seconds that a rate looks back: long enough for rows that come once a second, short enough to watch."""


class Meter:
    """Counts files and bytes by second; gives both a second over about the last ``SPAN`` seconds."""

    __slots__ = ("_older", "_second", "_since", "files", "nbytes", "until")

    def __init__(self) -> None:
        self.files = 0
        """Of the current second, as ``nbytes``."""
        self.nbytes = 0
        self.until = 0.0
        """When the current second ends: ``turn`` is due."""
        self._second = -1
        self._since = -1
        self._older: list[tuple[int, int, int]] = []

    def add(self, at: float, files: int, nbytes: int) -> None:
        """``at`` in seconds; an earlier second than the last one counts as the last one."""
        if at >= self.until:
            self.turn(int(at))
        self.files += files
        self.nbytes += nbytes

    def turn(self, second: int) -> None:
        """Another second begins."""
        if self._second < 0 or second > self._second + SPAN:
            self._since = second
            self._older.clear()
        else:
            self._older.append((self._second, self.files, self.nbytes))
            if len(self._older) > SPAN + 1:
                del self._older[0]
        self.files = self.nbytes = 0
        self._second = second
        self.until = float(second + 1)

    def rates(self, now: float) -> tuple[float, float]:
        """Files a second and bytes a second."""
        if self._second < 0 or now >= self._second + SPAN + 1:
            return 0.0, 0.0
        oldest = int(now) - SPAN
        rows = [row for row in self._older if row[0] >= oldest]
        if self._second >= oldest:
            rows.append((self._second, self.files, self.nbytes))
        span = max(1.0, now - max(self._since, oldest))
        return sum(row[1] for row in rows) / span, sum(row[2] for row in rows) / span

    def absorb(self, other: Meter) -> None:
        """The other's current second and past count here too."""
        if other._second > self._second:
            self.turn(other._second)
        if other._second == self._second:
            self.files += other.files
            self.nbytes += other.nbytes
