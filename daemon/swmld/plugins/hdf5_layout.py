"""The superblock of an HDF5 file, and where its root group begins. HDF5 File Format Specification 3.0, II.A
and, of the root group's entry in old files, III.C."""

from __future__ import annotations

from swmld.plugins.interface import Range
from swmld.plugins.parsing import Malformed, Pieces, span

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_PLACES = (0, 512, 1024, 2048)
"""Where a superblock may stand behind a user block, as far as the head goes."""

_LONGEST = 128
"""Bytes of a superblock with offsets of 8 bytes: 96, or 100 of version 1."""

_OBJECT = 512
"""Bytes of an object header that the library reads first (H5O_SPEC_READ_SIZE in H5Opkg.h)."""


def place(head: bytes) -> int | None:
    """Where the superblock is."""
    return next((at for at in _PLACES if head.startswith(SIGNATURE, at)), None)


def first_ranges(pieces: Pieces) -> tuple[int, list[Range]]:
    """The superblock's version; what every reader reads first: superblock, root group, of old files its
    B-tree and heap. Malformed, also where the file is shorter than it says; OSError."""
    base = place(pieces.head())
    if base is None:
        raise Malformed("no superblock")
    block = pieces.head()[base : base + _LONGEST]
    version = block[8]
    if version > 3:
        raise Malformed("a later version")
    width = block[13] if version < 2 else block[9]
    if width not in (2, 4, 8):
        raise Malformed("no size of offsets")
    at = {0: 24, 1: 28}.get(version, 12)
    words = [int.from_bytes(block[at + n * width : at + (n + 1) * width], "little") for n in range(6)]
    # Base, (of files in parts) extension, end of file, then the root group, in old ones as a table entry.
    told, _, end, *rest = words
    if told not in (0, base) or end > pieces.size:
        raise Malformed("longer than the file")
    objects = [rest[0]]
    if version < 2:
        objects = [rest[2]]
        scratch = at + 6 * width + 8
        if block[at + 6 * width] == 1:  # its B-tree and heap are known from the entry
            objects += [
                int.from_bytes(block[scratch + n * width : scratch + (n + 1) * width], "little")
                for n in (0, 1)
            ]
    inside = [told + each for each in objects if told + each < pieces.size]
    return version, [span(0, base + _LONGEST), *(Range(each, _OBJECT) for each in inside)]
