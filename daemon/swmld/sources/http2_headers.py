"""Headers of an answer that somebody reads, in what a server sent that keeps no table of them (RFC 7541).

``hpack`` decodes all of them, some 40 µs a block; one of them has another value each time (a number that the
server gave the request), which nobody reads.
"""

from __future__ import annotations

from hpack.exceptions import HPACKError
from hpack.huffman_table import decode_huffman

NAMES = frozenset({b":status", b"grpc-status", b"grpc-message"})

_STATUS = {8: b"200", 9: b"204", 10: b"206", 11: b"304", 12: b"400", 13: b"404", 14: b"500"}
"""Of the static table, which has 61 rows."""
_STATIC = 61
_KNOWN = 64
"""Names that are remembered, as they were sent."""


class Wanted:
    """Of one connection."""

    def __init__(self) -> None:
        self._names: dict[bytes, bytes] = {}

    def of(self, block: bytes) -> list[tuple[bytes, bytes]] | None:
        """Those of ``NAMES``. None: it is to be decoded by somebody who knows all ways of saying it, as what
        is long, or has to do with a table."""
        try:
            return self._found(block)
        except (IndexError, HPACKError):
            return None

    def _found(self, block: bytes) -> list[tuple[bytes, bytes]] | None:
        found, place = [], 0
        while place < len(block):
            first = block[place]
            place += 1
            if first & 0x80:  # both by a row
                row = first & 0x7F
                if not 0 < row <= _STATIC:
                    return None
                if row in _STATUS:
                    found.append((b":status", _STATUS[row]))
                continue
            if first & 0x40:
                row, most = first & 0x3F, 0x3F
            elif first & 0x20:
                if first != 0x20:  # a table, from here on
                    return None
                continue
            else:
                row, most = first & 0x0F, 0x0F
            if row == most:
                row += block[place]
                place += 1
            if row > _STATIC:
                return None
            if row:
                name = b":status" if row in _STATUS else b""
            else:
                end = _end(block, place)
                if not end:
                    return None
                name = self._name(block[place:end])
                place = end
            end = _end(block, place)
            if not end:
                return None
            if name in NAMES:
                found.append((name, _text(block[place:end])))
            place = end
        return found

    def _name(self, sent: bytes) -> bytes:
        name = self._names.get(sent)
        if name is None:
            if len(self._names) >= _KNOWN:
                self._names.clear()
            name = self._names[sent] = _text(sent)
        return name


def _end(block: bytes, place: int) -> int:
    """Where a text ends; 0 where that is said in another way, or it is cut."""
    length = block[place] & 0x7F
    end = place + 1 + length
    return end if length < 0x7F and end <= len(block) else 0


def _text(sent: bytes) -> bytes:
    return bytes(decode_huffman(sent[1:])) if sent[0] & 0x80 else sent[1:]
