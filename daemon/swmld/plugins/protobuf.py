"""Protocol buffers on the wire, read without their definitions. protobuf.dev, "Encoding"."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from swmld.plugins.parsing import Malformed

VARINT, FIXED64, LENGTH, START, END, FIXED32 = range(6)


class Message:
    """Fields of messages within ``data``. ``steps``: how many of them in all, some 0.5 µs each."""

    def __init__(self, data: bytes, steps: int) -> None:
        self.data = data
        self._steps = steps

    def fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Number, wire type, and the value: of a varint or a fixed one (value, 0), else the start and end of
        its bytes, cut off at ``end``. Malformed or IndexError where they are no message."""
        at = start
        while at < end:
            self._steps -= 1
            if self._steps < 0:
                raise Malformed("too much to read")
            tag, at = self.varint(at)
            kind = tag & 7
            if kind == VARINT:
                value, at = self.varint(at)
                yield tag >> 3, kind, value, 0
            elif kind == LENGTH:
                length, at = self.varint(at)
                yield tag >> 3, kind, at, min(at + length, end)
                at += length
            elif kind == FIXED64:
                yield tag >> 3, kind, struct.unpack_from("<Q", self.data, at)[0], 0
                at += 8
            elif kind == FIXED32:
                yield tag >> 3, kind, struct.unpack_from("<I", self.data, at)[0], 0
                at += 4
            else:  # groups are not used by anything that is read here
                raise Malformed(f"wire type {kind}")

    def text(self, start: int, end: int) -> str:
        return self.data[start:end].decode()

    def varint(self, at: int) -> tuple[int, int]:
        """The value and where it ends."""
        value = shift = 0
        while True:
            byte = self.data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, at
            shift += 7
            if shift > 63:
                raise Malformed("a number without end")
