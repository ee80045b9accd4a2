"""What a job writes, by the kernel's counters of each process and file. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import NamedTuple

from swmld.patterns.feed import Cursor, Place
from swmld.patterns.roles import DATA_NAMES, MODEL_NAMES, suffix_of

MOST_ROWS = 256
"""Rows of counters that are remembered; one comes for each file and second in which it is written."""


class Row(NamedTuple):
    """``nbytes`` more of a file; ``at`` in seconds: the last of them."""

    at: float
    file: int
    nbytes: int
    name: bytes


class Recent(NamedTuple):
    """What was written lately: bytes, files, how many of these have names of models or of data sets, and the
    name of the one written last ("" if it has none any more)."""

    nbytes: int
    files: int
    models: int
    data: int
    name: str


class Told:
    """What the counters of ``limit`` streams have said of writes, so that the next ones say how much more."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: OrderedDict[tuple[int, int], tuple[float, int, int]] = OrderedDict()

    def more(self, pid: int, file: int, cursor: Cursor) -> tuple[int, int]:
        """Bytes and bursts since the last row; bytes are 0 if it came for what was read."""
        key = (pid, file)
        first_at, written, bursts = self._known.pop(key, (cursor.first_at, 0, 0))
        if first_at != cursor.first_at or written > cursor.written:  # forgotten by the kernel and begun anew
            written = bursts = 0
        self._known[key] = cursor.first_at, cursor.written, cursor.bursts
        if len(self._known) > self._limit:
            self._known.popitem(last=False)
        return cursor.written - written, cursor.bursts - bursts

    def __len__(self) -> int:
        return len(self._known)


class Output:
    """``nbytes`` written and ``bursts`` of writing since the job was first seen. ``nbytes`` is 0 where the
    probes tell no bytes: recordings of older versions, formatted tracepoints."""

    __slots__ = ("_rows", "bursts", "nbytes")

    def __init__(self) -> None:
        self.nbytes = 0
        self.bursts = 0
        self._rows: deque[Row] = deque(maxlen=MOST_ROWS)

    def add(self, at: float, file: int, place: Place | None, nbytes: int, bursts: int) -> None:
        """A row of counters said so much more."""
        self.nbytes += nbytes
        self.bursts += bursts
        self._rows.append(Row(at, file, nbytes, place.name if place is not None else b""))

    def since(self, at: float) -> Recent:
        """What was written from then on (seconds), as far as it is remembered."""
        rows = [row for row in self._rows if row.at >= at]
        names = {row.file: suffix_of(row.name) for row in rows}
        return Recent(
            nbytes=sum(row.nbytes for row in rows),
            files=len(names),
            models=sum(suffix in MODEL_NAMES for suffix in names.values()),
            data=sum(suffix in DATA_NAMES for suffix in names.values()),
            name=rows[-1].name.decode(errors="surrogateescape") if rows else "",
        )
