"""What observation tells the pattern engine: events, counters and names, as values. Pure.

The fields and their meaning are those of ``bpf/swmld.h``; here times are in seconds (CLOCK_MONOTONIC) and
places in a file in pages of 4 KiB, unless a field says otherwise.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, Protocol

PAGE = 4096
"""Bytes in a page of the probes: SWP counts in pages of 4 KiB on every machine."""

WINDOW = 1024
"""``SWP_WINDOW``: pages between two WINDOW events of a stream."""

NOT_EARLY = 0xFFFFFFFF
"""In ``Cursor.early``: no such read yet, or one further in than 32 bits of pages can say."""


class TouchKind(enum.IntEnum):
    """``enum swp_event_kind``. MET and OPEN are for the observer alone."""

    FIRST = 1
    PASS = 2
    KIND = 3
    BREAK = 4
    WINDOW = 5
    CLOSE = 6
    FORK = 7
    EXEC = 8
    EXIT = 9
    MET = 10
    OPEN = 11


class TouchFlag(enum.IntFlag):
    """``swp_event.flags``."""

    FAULT = 1
    DIRECT = 2
    COLD = 4
    WHOLE = 8


class Shape(enum.IntEnum):
    """``enum swp_kind``: how a stream is read, as far as single reads tell."""

    NEW = 0
    SEQUENTIAL = 1
    REVERSE = 2
    STRIDED = 3
    RANDOM = 4


class Touch(NamedTuple):
    """One ``swp_event``. ``at`` in seconds; ``file`` is the nodeid (FORK: the child's pid; CLOSE: ``pid`` is
    0); ``first``, ``last``, ``size`` and ``stride`` in pages, ``size`` 0 where it is not known."""

    kind: TouchKind
    at: float
    pid: int
    file: int
    first: int
    last: int
    size: int
    stride: int
    flags: TouchFlag
    shape: Shape


class Cursor(NamedTuple):
    """``swp_cursor`` without its node: what the kernel counted of one stream since it began to follow it.
    Times and ``wait`` in seconds, places and sizes in pages, ``written`` in bytes, the rest are counts. Of a
    file that was only written ``reads`` is 0, and no place says anything."""

    first_at: float
    last_at: float
    event_at: float
    next: int
    start: int
    asked: int
    stride: int
    size: int
    low: int
    high: int
    reads: int
    pages: int
    cold: int
    partial: int
    faults: int
    direct: int
    wait: float
    sequential: int
    reverse: int
    strided: int
    random: int
    same: int
    event_pages: int
    run: int
    tid: int
    kind: int
    guess: int
    pending: int
    passes: int
    missed: int
    written: int
    written_at: float
    bursts: int
    early: tuple[int, ...]


class Tiers(NamedTuple):
    """Reads of one stream that FUSE saw, since the stream began: answered by the cache's disk, or by the
    source. Bytes are bytes."""

    disk_reads: int
    disk_bytes: int
    source_reads: int
    source_bytes: int


class Wait(NamedTuple):
    """``swp_process``: what a process waited for since it was first seen. Sums in seconds, counts of waits
    and requests; ``histogram`` counts waits for pages: bucket b from 2^b to 2^(b+1) microseconds."""

    wait: float
    waits: int
    meta: float
    metas: int
    read: float
    reads: int
    write: float
    writes: int
    histogram: tuple[int, ...]


class Place(NamedTuple):
    """Where a file lies. ``directory`` is a nodeid, ``size`` is bytes. ``index`` is its place in the sorted
    listing of the directory's regular files, ``listed`` its place as the kernel lists them; ``None``: not
    listed yet."""

    directory: int
    name: bytes
    size: int
    index: int | None  # type: ignore[assignment]
    listed: int | None


class Folder(NamedTuple):
    """A directory. ``path`` is relative to the mount ("" is its root; undecodable bytes as surrogates),
    ``files`` the number of its regular files, ``None`` where it is not listed."""

    parent: int | None
    path: str
    files: int | None


class Process(NamedTuple):
    """A process. ``job`` is the pid of the root of its tree; ``command`` its arguments joined, at most 200
    characters; ``started`` in seconds since the epoch."""

    pid: int
    job: int
    parent: int
    comm: str
    command: str
    started: float
    cgroup: str
    container: str


class Names(Protocol):
    """Answers from memory, never blocks."""

    def place(self, file: int) -> Place | None: ...

    def folder(self, directory: int) -> Folder | None: ...


class Numbers(Protocol):
    """The place that the file at ``index`` of a directory's sorted listing has in natural order, where digits
    in names are compared as numbers; ``None``: the same, or nobody knows. Answers from memory."""

    def __call__(self, directory: int, index: int) -> int | None: ...


def no_numbers(directory: int, index: int) -> None:
    """``Numbers`` where there are only names."""


class Processes(Protocol):
    """Answers from memory, also for processes that have ended."""

    def of(self, pid: int) -> Process | None: ...
