"""The structs of ``bpf/swmld.h`` as Python reads them: formats and rows."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from swmld.patterns.feed import Cursor, Shape, Tiers, Touch, TouchFlag, TouchKind, Wait

EVENT = Struct("=6Qq2I2HI")
KEY = Struct("=Q2I")
CURSOR = Struct("=3Qq6Q2I2HI2BHI17Q2I8I3Q")
ROW = Struct(KEY.format + CURSOR.format[1:])
VIEW_ROW = Struct(ROW.format + "4Q")
PROCESS = Struct("=10Q24Q2I3II16s")
CONFIG = Struct("=6I2Q")
WATCH = Struct("=Q")

_NS = 1e-9
_NODE = 28  # of a row's values
_KINDS = {kind.value: kind for kind in TouchKind}
_FLAGS = [TouchFlag(bits) for bits in range(16)]
_SHAPES = list(Shape)


class Row(NamedTuple):
    """One stream: ``node`` is 0 where ``ino`` is the mount's own inode number."""

    ino: int
    pid: int
    node: int
    cursor: Cursor
    tiers: Tiers | None


class Seen(NamedTuple):
    """One process as the kernel knows it; ``at``: when it began to read or write, seconds, monotonic."""

    at: float
    comm: bytes
    parent: int
    session: int
    cgroup: int
    wait: Wait
    above: tuple[int, ...]
    """Its parent's parent and so on; 0: not known, or there is none."""


def events(data: bytes | memoryview) -> Iterator[tuple[int, int, Touch]]:
    """(ino, node, touch) of each; ``touch.file`` is the node, or what ``ino`` says of a process's event."""
    kinds, flagged, shapes = _KINDS, _FLAGS, _SHAPES
    for ns, ino, node, first, last, size, stride, _, pid, kind, flags, shape in EVENT.iter_unpack(data):
        yield (
            ino,
            node,
            Touch(
                kinds[kind], ns * _NS, pid, node if kind < 7 else ino, first, last, size, stride,
                flagged[flags & 15], shapes[shape],
            ),
        )  # fmt: skip


def rows(data: bytes | memoryview) -> Iterator[Row]:
    """Of ``struct swp_row``."""
    for values in ROW.iter_unpack(data):
        yield Row(values[0], values[2], values[_NODE], _cursor(values), None)


def view_rows(data: bytes | memoryview) -> Iterator[Row]:
    """Of ``struct sw_view_row``."""
    for values in VIEW_ROW.iter_unpack(data):
        yield Row(values[0], values[2], values[_NODE], _cursor(values), Tiers(*values[-4:]))


def _cursor(values: tuple[int, ...]) -> Cursor:
    (
        following, start, asked, stride, size, low, high, last_ns, pages, event_pages, run, tid, kind, guess,
        pending, _, missed, _, _, random, sequential, strided, reverse, same, reads, _, first_ns, event_ns,
        cold, partial, faults, direct, wait_ns, written, written_ns, bursts, passes, _,
    ) = values[3:41]  # fmt: skip
    return Cursor(
        first_ns * _NS, last_ns * _NS, event_ns * _NS, following, start, asked, stride, size, low, high,
        reads, pages, cold, partial, faults, direct, wait_ns * _NS, sequential, reverse, strided, random,
        same, event_pages, run, tid, kind, guess, pending, passes, missed,
        written, written_ns * _NS, bursts, values[41:49],
    )  # fmt: skip


def process(data: bytes | memoryview) -> Seen:
    """Of ``struct swp_process``."""
    values = PROCESS.unpack(data)
    sums = values[2:10]
    wait = Wait(
        sums[0] * _NS, sums[1], sums[2] * _NS, sums[3], sums[4] * _NS, sums[5], sums[6] * _NS, sums[7],
        values[10:34],
    )  # fmt: skip
    comm, above = values[40].rstrip(b"\0"), values[36:39]
    return Seen(values[0] * _NS, comm, values[34], values[35], values[1], wait, above)
