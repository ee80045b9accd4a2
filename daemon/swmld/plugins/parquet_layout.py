"""Where the column chunks of a parquet file lie, and which come next of those that are read.

Structs and field numbers: parquet.thrift of apache/parquet-format.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from swmld.plugins import thrift
from swmld.plugins.interface import MOST_RANGES, Range
from swmld.plugins.parsing import BROKEN, LONGEST, PAGE, TAIL, Malformed, Pieces, span

MAGIC = b"PAR1"
_ENCRYPTED = b"PARE"

STEPS = 300_000
"""Values of a footer that are looked at: of some 8,000 column chunks, in some 0.3 s."""

AHEAD = 4
"""Row groups that are hinted when only the first was read: a reader may want no more than a look at it."""


_TOUCHED = 8192
"""Ranges that were touched: more than are told of; the latest are looked at."""


@dataclass(frozen=True, slots=True)
class Layout:
    """``chunks``: of the row groups one after the other, each with ``columns`` of them, as many as could be
    looked at."""

    columns: int
    chunks: tuple[Range, ...]
    compressed: bool

    @property
    def groups(self) -> int:
        return len(self.chunks) // self.columns if self.columns else 0


@dataclass(frozen=True, slots=True)
class Progress:
    """``columns`` and ``groups`` that were read, in the order in which they were met, and the ``chunks`` of
    which half was; the row group of the ``last`` one."""

    columns: tuple[int, ...]
    groups: tuple[int, ...]
    chunks: frozenset[int]
    last: int


def footer(pieces: Pieces) -> tuple[Range, bytes]:
    """Where it is, up to the file's end, and its metadata, of a longer one the first ``LONGEST`` bytes.
    One or two reads. Malformed, OSError."""
    tail = pieces.tail(TAIL)
    if tail[-4:] == _ENCRYPTED or tail[-4:] != MAGIC:
        raise Malformed("no footer in plain")
    (length,) = struct.unpack_from("<I", tail, len(tail) - 8)
    start = pieces.size - 8 - length
    return span(start, pieces.size), pieces.at(start, min(length, LONGEST))


def layout(metadata: bytes, end: int) -> Layout:
    """Of the bytes before ``end``, as far as the metadata can be read."""
    found: list[Range] = []
    groups: list[int] = []
    compressed = False
    reader = thrift.Reader(metadata, STEPS)
    try:
        for number, kind in reader.fields():
            if (number, kind) != (4, thrift.LIST):
                reader.skip(kind)
                continue
            count, _ = reader.elements()
            for _ in range(count):
                group, codecs = _group(reader, end)
                # Each row group has every column; one that has not is not understood.
                if groups and len(group) != groups[0]:
                    raise Malformed("row groups differ")
                found += group
                groups.append(len(group))
                compressed = compressed or any(codecs)
            break
    except BROKEN:
        pass  # a footer cut short, or too long to look at in full: the row groups so far
    return Layout(groups[0] if groups else 0, tuple(found), compressed)


def _group(reader: thrift.Reader, end: int) -> tuple[list[Range], list[int]]:
    """RowGroup: chunk by chunk, and their codecs."""
    chunks: list[Range] = []
    codecs: list[int] = []
    for number, kind in reader.fields():
        if (number, kind) == (1, thrift.LIST):
            count, _ = reader.elements()
            for _ in range(count):
                chunk, codec = _chunk(reader, end)
                chunks.append(chunk)
                codecs.append(codec)
        else:
            reader.skip(kind)
    return chunks, codecs


def _chunk(reader: thrift.Reader, end: int) -> tuple[Range, int]:
    """ColumnChunk: that of its ColumnMetaData."""
    values: dict[int, int] = {}
    for number, kind in reader.fields():
        if number == 1:
            raise Malformed("a column in another file")
        if (number, kind) == (3, thrift.STRUCT):
            values = reader.integers()
        else:
            reader.skip(kind)
    codec, length, data, dictionary = (values.get(key, 0) for key in (4, 7, 9, 11))
    # A dictionary comes first; some writers say 0 where there is none.
    start = dictionary if 0 < dictionary < data else data
    if start < 0 or length < 0 or start + length > end:
        raise Malformed("a column past the end")
    return Range(start, length), codec


def progress(found: Layout, touched: Sequence[Range], end: int) -> Progress:
    """Which chunks were read, with what the kernel reads ahead of a reader left out: those of which half was
    touched, or with whose first page a range begins. ``end``: where what is read of the file with its footer
    begins."""
    order = sorted(range(len(found.chunks)), key=lambda index: found.chunks[index].offset)
    starts = [found.chunks[index].offset for index in order]
    covered: Counter[int] = Counter()
    met: dict[int, None] = {}
    looks = len(order) + 2 * _TOUCHED  # more only where ranges overlap
    for each in touched[-_TOUCHED:]:
        stop = min(each.end, end)
        # One chunk that began before it, and all that begin in it.
        at = max(bisect_left(starts, each.offset + 1) - 1, 0)
        for index in order[at : min(bisect_left(starts, stop), at + looks)]:
            looks -= 1
            chunk = found.chunks[index]
            covered[index] += max(min(stop, chunk.end) - max(each.offset, chunk.offset), 0)
            begins = chunk.offset - PAGE < each.offset <= chunk.offset
            if chunk.length and (begins or covered[index] * 2 >= chunk.length):
                met.setdefault(index)
    columns = dict.fromkeys(index % found.columns for index in met)
    groups = dict.fromkeys(index // found.columns for index in met)
    last = next(reversed(met), 0) // max(found.columns, 1)
    half = frozenset(index for index in met if covered[index] * 2 >= found.chunks[index].length)
    return Progress(tuple(columns), tuple(groups), half, last)


def step(groups: Sequence[int]) -> int:
    """From one row group to the next, 0: in no order. Readers that go on in several threads meet a few in
    another order."""
    if len(groups) < 2:
        return 1
    (usual, times), *_ = Counter(after - before for before, after in pairwise(groups)).most_common(1)
    if times * 4 >= (len(groups) - 1) * 3:
        return usual
    return 1 if max(groups) - min(groups) < 2 * len(groups) else 0


def following(found: Layout, read: Progress) -> Iterable[Range]:
    """The same columns of the last row group and of those that come next, in the order of reading. Whoever
    reads a column of all row groups, and then the next, begins again with the first."""
    by = step(read.groups)
    limit = MOST_RANGES
    if len(read.groups) == 1:
        limit = AHEAD if read.groups[0] == 0 else 1
    group, ahead = read.last, 0
    while 0 <= group < found.groups and ahead <= limit:
        for column in read.columns:
            index = group * found.columns + column
            if index not in read.chunks:
                yield found.chunks[index]
        if not by:
            return
        group, ahead = group + by, ahead + 1
