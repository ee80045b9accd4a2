"""Where the record batches of an Arrow IPC file lie.

Arrow columnar format, "IPC File Format"; format/File.fbs; flatbuffers' docs/source/internals.md.
"""

from __future__ import annotations

import struct

from swmld.plugins.interface import MOST_RANGES, Range
from swmld.plugins.parsing import Malformed, Pieces, span

FILE = b"ARROW1\0\0"
_CONTINUATION = b"\xff\xff\xff\xff"
_BLOCK = struct.Struct("<qi4xq")
_DICTIONARIES, _BATCHES = 2, 3  # numbers of the fields of Footer
_LONGEST_SCHEMA = 64 << 20


def is_stream(head: bytes) -> bool:
    """A continuation mark, then the length of the metadata, a multiple of 8."""
    length = int.from_bytes(head[4:8], "little")
    return len(head) >= 8 and head[:4] == _CONTINUATION and 0 < length <= _LONGEST_SCHEMA and length % 8 == 0


def blocks(pieces: Pieces) -> tuple[Range, list[Range]]:
    """Where the footer is, to the end of the file; dictionaries and record batches in their order, with
    their metadata. One or two reads. Malformed, OSError."""
    tail = pieces.tail()
    if tail[-6:] != FILE[:6] or len(tail) < 10:
        raise Malformed("no end of an Arrow file")
    (length,) = struct.unpack_from("<i", tail, len(tail) - 10)
    start = pieces.size - 10 - length
    if length < 8 or start < len(FILE):
        raise Malformed("no footer")
    footer = _Table(pieces.at(start, length))
    found = [each for field in (_DICTIONARIES, _BATCHES) for each in footer.blocks(field)]
    return span(start, pieces.size), [each for each in found if 0 < each.offset < each.end <= start]


class _Table:
    """The root table of a flatbuffer."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._table = self._unsigned(0)
        (back,) = struct.unpack_from("<i", data, self._within(self._table))
        self._fields = self._within(self._table - back)
        (self._size,) = struct.unpack_from("<H", data, self._fields)

    def blocks(self, field: int) -> list[Range]:
        """A vector of structs Block: offset, length of the metadata, length of the body."""
        slot = 4 + 2 * field
        if slot + 2 > self._size:
            return []
        (inside,) = struct.unpack_from("<H", self._data, self._within(self._fields + slot))
        if not inside:
            return []
        at = self._table + inside
        vector = at + self._unsigned(at)
        count = min(self._unsigned(vector), MOST_RANGES)
        if vector + 4 + count * _BLOCK.size > len(self._data):
            raise Malformed("more blocks than bytes")
        entries = _BLOCK.iter_unpack(self._data[vector + 4 : vector + 4 + count * _BLOCK.size])
        return [Range(offset, max(head, 0) + max(body, 0)) for offset, head, body in entries]

    def _unsigned(self, at: int) -> int:
        (value,) = struct.unpack_from("<I", self._data, self._within(at))
        return int(value)

    def _within(self, at: int) -> int:
        """struct would take a negative offset from the end."""
        if not 0 <= at < len(self._data):
            raise Malformed("past the end")
        return at
