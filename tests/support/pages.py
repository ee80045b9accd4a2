"""Which pages of a file are in memory (mincore(2)), and how to have none of them there."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
)  # fmt: skip
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


def resident(path: Path, offset: int = 0, length: int = 0) -> int:
    """How many pages of these bytes (0: to the end) are there."""
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        assert address != ctypes.c_void_p(-1).value, os.strerror(ctypes.get_errno())
        try:
            found = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
            assert _libc.mincore(address, size, found) == 0, os.strerror(ctypes.get_errno())
        finally:
            _libc.munmap(address, size)
    finally:
        os.close(fd)
    pages = bytes(found)[offset // mmap.PAGESIZE : -(-(offset + (length or size)) // mmap.PAGESIZE)]
    return sum(page & 1 for page in pages)


def forget(path: Path) -> None:
    """Write what is not written, and let all of its pages go."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
