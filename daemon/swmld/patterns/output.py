"""What a job writes, by the kernel's counters of each process and file. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import NamedTuple

from swmld.patterns.feed import Cursor, Place
from swmld.patterns.roles import DATA_NAMES, MODEL_NAMES, suffix_of

MOST_ROWS = 256
"""Rows of counters that are remembered; one comes for each file and second in which it is written."""


SAVED = 1 << 20
"""Bytes within seconds that no log grows by; files with names of models need not be so large."""

MOMENT = 0.5
"""Seconds within which what is written is one save, or a part of one: counters come once a second."""

BETWEEN = 10.0
"""Seconds between two saves, at most, for them to be moments of a training: less often each is told."""

FEW_MOMENTS = 4
"""So many in a row, with reads before each, are such: workers may read ahead while a long save begins."""

MOST_MOMENTS = 64


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


class Pauses:
    """Whether a job that writes now and then reads what it trains on in between: saves that are moments of
    its training, or one long one."""

    __slots__ = ("_moments", "_read")

    def __init__(self) -> None:
        self._moments: deque[tuple[float, bool]] = deque(maxlen=MOST_MOMENTS)
        self._read = 0

    def wrote(self, at: float, read: int) -> None:
        """Something was written at ``at`` (seconds); ``read``: what it had read of its training data by then,
        in any measure that grows."""
        if self._moments and at - self._moments[-1][0] < MOMENT:
            return
        self._moments.append((at, read > self._read))
        self._read = read

    def saves(self, now: float) -> int:
        """Moments of writing in a row up to now, each after reads; 0 where they are too few or too seldom."""
        if not self._moments or now - self._moments[-1][0] > BETWEEN:
            return 0
        count, last = 0, now
        for at, read in reversed(self._moments):
            if not read or last - at > BETWEEN:
                break
            count, last = count + 1, at
        return count if count >= FEW_MOMENTS else 0


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
