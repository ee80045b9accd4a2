"""Where the members of a zip archive lie, by its central directory. PKWARE's APPNOTE 6.3.10, 4.3 and 4.5."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from swmld.plugins.interface import Range
from swmld.plugins.parsing import LONGEST, Malformed, Pieces, span

_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_LONGEST_END = _END.size + 0xFFFF
"""The record at the end with its comment."""

STORED = 0

MOST_MEMBERS = 16384
"""That are looked at, in 0.3 s; the last is taken to go on to the directory, which covers the rest."""


@dataclass(frozen=True, slots=True)
class Member:
    """``data``: its local header, what fills up before its data, the data, up to the next member."""

    name: str
    method: int
    data: Range


@dataclass(frozen=True, slots=True)
class Archive:
    """``directory``: the central directory and all after it. ``members`` in its order, ``MOST_MEMBERS`` of
    them at most."""

    directory: Range
    members: tuple[Member, ...]

    @property
    def compressed(self) -> bool:
        return any(member.method != STORED for member in self.members)


def archive(pieces: Pieces) -> Archive:
    """Reads the end of the file, twice where the directory is long. Malformed, OSError."""
    start, length = _directory(pieces)
    entries = _entries(pieces.at(start, min(length, LONGEST)))
    entries = [entry for entry in entries if 0 <= entry[2] < start]
    starts = sorted({offset for _, _, offset in entries})
    ends = dict(zip(starts, [*starts[1:], start], strict=True))
    members = tuple(Member(name, method, span(offset, ends[offset])) for name, method, offset in entries)
    return Archive(span(start, pieces.size), members)


def _directory(pieces: Pieces) -> tuple[int, int]:
    """Offset and length, as the last record says."""
    tail = pieces.tail(_LONGEST_END)
    first = pieces.size - len(tail)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        raise Malformed("no end of a zip archive")
    *_, length, start, comment = _END.unpack_from(tail, at)
    if at + _END.size + comment > len(tail):
        raise Malformed("a comment past the end")
    end = first + at
    if 0xFFFFFFFF in (start, length):
        end, length, start = _zip64(pieces, end)
    # Bytes before the archive (self-extracting ones) are not looked for: torch and NumPy write none.
    if start + length > end:
        raise Malformed("a directory past the end")
    return start, length


def _zip64(pieces: Pieces, end: int) -> tuple[int, int, int]:
    magic, _, record, _ = _LOCATOR.unpack(pieces.at(end - _LOCATOR.size, _LOCATOR.size))
    if magic != b"PK\x06\x07":
        raise Malformed("no zip64 locator")
    magic, *_, length, start = _END64.unpack(pieces.at(record, _END64.size))
    if magic != b"PK\x06\x06":
        raise Malformed("no zip64 record")
    return record, length, start


def _entries(directory: bytes) -> list[tuple[str, int, int]]:
    """Name, method and offset of the local header; up to where they are malformed."""
    found: list[tuple[str, int, int]] = []
    at = 0
    while at + _ENTRY.size <= len(directory) and len(found) < MOST_MEMBERS:
        magic, _, _, _, method, _, _, _, packed, unpacked, *lengths, _, _, _, offset = _ENTRY.unpack_from(
            directory, at
        )
        if magic != b"PK\x01\x02":
            break
        named, extra, comment = lengths
        at += _ENTRY.size
        name = directory[at : at + named].decode("utf-8", "replace")
        if offset == 0xFFFFFFFF:
            before = (packed, unpacked).count(0xFFFFFFFF)
            offset = _offset64(directory[at + named : at + named + extra], before)
        found.append((name, method, offset))
        at += named + extra + comment
    return found


def _offset64(extra: bytes, before: int) -> int:
    """From the zip64 field (4.5.3), where it stands after the sizes that did not fit either."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1 and length >= 8 * (before + 1):
            (offset,) = struct.unpack_from("<Q", extra[: at + 4 + length], at + 4 + 8 * before)
            return int(offset)
        at += 4 + length
    return -1
