"""crc32c of bytes and syncfs of a file system, from ``swmld._native``; cffi lets go of the interpreter
lock."""

from __future__ import annotations

import os

from swmld._native import ffi, lib


def crc32c(data: bytes | bytearray | memoryview, crc: int = 0) -> int:
    """crc32c (Castagnoli) of ``data``, going on from ``crc``: 0…2³²-1. ``data`` must be contiguous."""
    return int(lib.sw_crc32c(crc, ffi.from_buffer(data), memoryview(data).nbytes))


def syncfs(fd: int) -> None:
    """Write everything of ``fd``'s file system to the disk. May block for long. Raises ``OSError``."""
    result = lib.sw_syncfs(fd)
    if result < 0:
        raise OSError(-result, os.strerror(-result))
