"""Thrift's compact protocol, as much of it as the parquet footer needs.

doc/specs/thrift-compact-protocol.md of Apache Thrift. Every value has a byte at least, so that the time is
linear in the bytes; how many values are looked at is limited on top of that.
"""

from __future__ import annotations

from collections.abc import Iterator

from swmld.plugins.parsing import Malformed

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT, UUID = range(1, 14)

_FIXED = {BYTE: 1, DOUBLE: 8, UUID: 16}
_DEEPEST = 32
"""Structs and lists within one another; parquet's have six."""
_WIDEST = 70
"""Bits of the longest varint, in sevens."""


class Reader:
    """Values from ``data``, one after the other. Malformed or IndexError where they end.

    ``steps``: how many values may be read, some 0.2 µs each.
    """

    def __init__(self, data: bytes, steps: int) -> None:
        self._data = data
        self._at = 0
        self._steps = steps

    def varint(self) -> int:
        """An unsigned one."""
        data, at = self._data, self._at
        byte = data[at]
        value, shift = byte & 127, 7
        while byte > 127:
            at += 1
            byte = data[at]
            value |= (byte & 127) << shift
            shift += 7
            if shift > _WIDEST:
                raise Malformed("a number without end")
        self._at = at + 1
        return value

    def integer(self) -> int:
        """A signed one: I16, I32, I64."""
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def fields(self) -> Iterator[tuple[int, int]]:
        """Number and kind of each field of a struct; the caller reads or skips its value before the next."""
        number = 0
        while True:
            head = self._data[self._at]
            self._at += 1
            if head & 15 == 0:
                return
            self._spend(1)
            number = number + (head >> 4) if head > 15 else self.integer()
            yield number, head & 15

    def elements(self) -> tuple[int, int]:
        """Number and kind of the elements of a list or set; there may be fewer."""
        head = self._data[self._at]
        self._at += 1
        return (head >> 4 if head >> 4 < 15 else self.varint()), head & 15

    def skip(self, kind: int, deep: int = 0) -> None:
        if deep > _DEEPEST:
            raise Malformed("nested too deep")
        if kind == BINARY:
            self._advance(self.varint())
        elif kind == STRUCT:
            self.integers(deep)
        elif kind in (LIST, SET):
            count, inner = self.elements()
            self._skip_elements(count, inner, deep)
        elif I16 <= kind <= I64:
            self.varint()
        elif kind == MAP:
            self._skip_map(deep)
        elif kind in _FIXED:
            self._advance(_FIXED[kind])
        elif kind not in (TRUE, FALSE):  # the value is the kind
            raise Malformed(f"kind {kind}")

    def integers(self, deep: int = 0) -> dict[int, int]:
        """A struct's fields of the kinds I16, I32 and I64; the others are skipped.

        In line what most fields are, since most of a footer's bytes pass here.
        """
        data, at, number, seen = self._data, self._at, 0, 0
        found: dict[int, int] = {}
        while head := data[at]:
            self._at = at = at + 1
            seen += 1
            kind = head & 15
            if head > 15:
                number += head >> 4
            else:
                number = self.integer()
                at = self._at
            if I16 <= kind <= I64:
                value = data[at]
                at += 1
                if value > 127:
                    self._at = at - 1
                    value = self.varint()
                    at = self._at
                found[number] = (value >> 1) ^ -(value & 1)
            elif kind == BINARY and data[at] < 128:
                at += 1 + data[at]
            elif kind > FALSE:
                self._at = at
                self.skip(kind, deep + 1)
                at = self._at
        self._at = at + 1
        self._spend(seen)
        return found

    def _skip_elements(self, count: int, kind: int, deep: int) -> None:
        if kind in (TRUE, FALSE):
            self._advance(count)
        elif kind in _FIXED:
            self._advance(count * _FIXED[kind])
        elif I16 <= kind <= I64:
            data, at = self._data, self._at
            for _ in range(count):
                while data[at] > 127:
                    at += 1
                at += 1
            self._at = at
            self._spend(count)
        else:
            for _ in range(count):
                self._spend(1)
                self.skip(kind, deep + 1)

    def _skip_map(self, deep: int) -> None:
        count = self.varint()
        if not count:
            return
        kinds = self._data[self._at]
        self._at += 1
        for _ in range(count):
            self._skip_elements(1, kinds >> 4, deep + 1)
            self._skip_elements(1, kinds & 15, deep + 1)
            self._spend(1)

    def _spend(self, steps: int) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise Malformed("too much to read")

    def _advance(self, length: int) -> None:
        self._at += length
        if self._at > len(self._data):
            raise Malformed("past the end")
