"""What was read of late, for the plots of the zoom: raw batches in, marks out. Bounded, pure."""

from __future__ import annotations

import math
from collections import deque
from typing import Any, NamedTuple

from swmld.api.patterns import Wanted, path_of
from swmld.cli.trace_plot import Mark
from swmld.cli.trace_source import Batch
from swmld.patterns.feed import NOT_EARLY, PAGE, Names, Processes, TouchKind

KEPT = 50_000
"""Marks; about 150 bytes each. A plot of a wide terminal has 40,000 dots."""

_PLACES = frozenset((TouchKind.FIRST, TouchKind.PASS, TouchKind.KIND, TouchKind.BREAK, TouchKind.WINDOW))
_BEGINNINGS = frozenset((TouchKind.FIRST, TouchKind.PASS))


class _Read(NamedTuple):
    at: float
    pid: int
    file: int
    first: int  # pages
    last: int
    begins: bool


class History:
    """The last ``KEPT`` places where files were read; loop-only."""

    def __init__(self) -> None:
        self._reads: deque[_Read] = deque(maxlen=KEPT)
        self._since = math.inf
        self._names: Names | None = None
        self._processes: Processes | None = None

    def add(self, batch: Batch) -> None:
        """Take what ``batch`` says."""
        self._names, self._processes = batch.names, batch.processes
        self._since = min(self._since, batch.raw.at - 1.0)
        for touch in batch.raw.touches:
            if touch.kind in _PLACES:
                begins = touch.kind in _BEGINNINGS
                self._reads.append(_Read(touch.at, touch.pid, touch.file, touch.first, touch.last, begins))
        for pid, file, cursor in batch.raw.cursors:
            # Where a stream began is told with each of its rows: it is news of those that began since.
            for page in cursor.early if cursor.first_at >= self._since else ():
                if page != NOT_EARLY:
                    self._reads.append(_Read(cursor.first_at, pid, file, page, page, False))
            # Counters of long ago come again with what FUSE answers now, until the file is closed.
            if cursor.last_at >= self._since:
                last = max(cursor.start, cursor.next - 1)
                self._reads.append(_Read(cursor.last_at, pid, file, cursor.start, last, False))

    def offsets(self, pid: int, file: int) -> list[Mark]:
        """Where ``pid`` read ``file``: bytes over time."""
        return [
            Mark(read.at, read.first * PAGE, read.last * PAGE)
            for read in self._reads
            if read.pid == pid and read.file == file
        ]

    def files(self, wanted: Wanted) -> tuple[list[Mark], int]:
        """Which files were begun: their places among those seen, in order of their directories' listings,
        and how many there are. In order is then a line, shuffled is snow."""
        chosen = [read for read in self._reads if read.begins and self._wanted(read, wanted)]
        order = sorted({read.file for read in chosen}, key=self._listing)
        place = {file: number for number, file in enumerate(order)}
        return [Mark(read.at, place[read.file], place[read.file]) for read in chosen], len(order)

    def _wanted(self, read: _Read, wanted: Wanted) -> bool:
        if wanted.pid not in (None, read.pid):
            return False
        if wanted.job is not None:
            process = self._processes.of(read.pid) if self._processes is not None else None
            if process is None or process.job != wanted.job:
                return False
        if wanted.path is None or self._names is None:
            return True
        path = path_of(self._names, read.file)
        return path is not None and wanted.has_path(path)

    def _listing(self, file: int) -> tuple[Any, ...]:
        place = self._names.place(file) if self._names is not None else None
        folder = (
            self._names.folder(place.directory) if self._names is not None and place is not None else None
        )
        if place is None or folder is None:
            return ("", -1, b"", file)
        return (folder.path, place.index if place.index is not None else -1, place.name, file)
