"""Shared words: the values that pass between rooms.

Nothing here does I/O. Units are in the names or the docstrings: sizes and offsets in bytes, times in
nanoseconds since the epoch where the name ends in ``_ns``, else in seconds.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Identity:
    """One generation of one source file: if any field differs, the bytes may differ.

    ``dev`` is 0 for files on the source root's own device (device numbers of NFS and FUSE mounts change
    with every mount, and the cache outlives them), else the ``st_dev`` of the nested mount.
    """

    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int


class Check(enum.Enum):
    """How often an open compares the source with what is cached."""

    STRICT = "strict"
    RELAXED = "relaxed"
    IMMUTABLE = "immutable"


class Served(enum.Enum):
    """How a read was answered; the label ``how`` of ``swmld_reads_total``."""

    PASSTHROUGH = "passthrough"
    NATIVE = "native"
    PYTHON = "python"
    MISS = "miss"


class FetchClass(enum.IntEnum):
    """Order of fetches: a demand fetch never waits behind a prefetch."""

    DEMAND = 0
    PREFETCH = 1


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Half-open: ``[start, stop)`` in bytes."""

    start: int
    stop: int

    def __len__(self) -> int:
        return max(0, self.stop - self.start)


@dataclass(frozen=True, slots=True)
class Span:
    """Half-open range of chunk numbers ``[first, stop)``."""

    first: int
    stop: int

    def __iter__(self):  # type: ignore[no-untyped-def]  # noqa: ANN204
        return iter(range(self.first, self.stop))

    def __len__(self) -> int:
        return max(0, self.stop - self.first)
