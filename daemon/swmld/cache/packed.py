"""Data files with compressed chunks: their numbers, and what ``native/packed.c`` does with them.

A file is such a one, or is not, from when it is made; its number says so (``PACKED``), and its data file has
a name of its own (``layout``). So an swmld from before this finds no data file under the name that it knows,
and drops the generation, instead of taking compressed bytes for the file's.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from swmld._native import ffi, lib

PACKED = int(lib.SW_PACKED)
"""Bit of a file's number: beyond all numbers that are given out, and within what JSON carries exactly."""

ENTRIES_AT = 64
"""Where a data file has the entry of its first chunk; see ``native/packed.c``."""

BLOCK = 4096
"""Bytes of the disk's blocks, by which what is stored counts."""


class Sealed(NamedTuple):
    """A chunk as it is stored: ``length`` bytes from ``offset`` of the data file, and their checksum."""

    crc: int
    offset: int
    length: int


def _must(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def front(size: int, chunk_size: int) -> int:
    """Bytes of a data file before its first chunk; sizes in bytes."""
    return int(lib.sw_packed_front(size, chunk_size))


def begin(fd: int, size: int, chunk_size: int, level: int) -> None:
    """Write what a new data file begins with. Raises ``OSError``."""
    _must(lib.sw_packed_begin(fd, size, chunk_size, level))


def level_of(fd: int, size: int, chunk_size: int) -> int:
    """The level of zstd that an existing file goes on with; 0: it is damaged. Raises ``OSError``."""
    found = int(lib.sw_packed_level(fd, size, chunk_size))
    return 0 if found == -errno.EBADMSG else _must(found)


def pack(chunk: memoryview, chunk_size: int, level: int) -> tuple[int, bytes]:
    """Compress a chunk's bytes in place: how many are to be stored, and the chunk's entry. Blocks for long:
    10 ms for 4 MiB at level 3, a second at most at any. Raises ``OSError`` (no memory)."""
    entry = ffi.new("unsigned char[]", entry_size(chunk_size))
    stored = _must(lib.sw_pack(ffi.from_buffer(chunk), chunk.nbytes, chunk_size, level, entry))
    return stored, bytes(ffi.buffer(entry))


def entry_size(chunk_size: int) -> int:
    """Bytes of a chunk's entry."""
    return int(lib.sw_packed_entry(chunk_size))


def read(fd: int, size: int, chunk_size: int, offset: int, length: int) -> bytes:
    """Bytes of the file that a data file stands for; short only at its end. Blocks. Raises ``OSError``,
    EBADMSG where chunks are damaged or not there."""
    buffer = bytearray(max(0, min(length, size - offset)))
    if buffer:
        _must(lib.sw_packed_read(fd, size, chunk_size, offset, len(buffer), ffi.from_buffer(buffer)))
    return bytes(buffer)
