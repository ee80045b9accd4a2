"""Calls on files of the cache's disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from swmld.sources.interface import Reader

PIECE = 4 << 20
"""Bytes that are fetched at once of a file that is opened to be changed."""

TRIED = 1 << 20
"""More than what SQLite asks for at once."""


def again(fd: int, flags: int) -> int:
    """Another descriptor of the file, opened anew with the access and synchrony of ``flags``."""
    keep = flags & (os.O_ACCMODE | os.O_SYNC | os.O_DSYNC)
    return os.open(f"/proc/self/fd/{fd}", keep | os.O_CLOEXEC)


def sync_directory(directory: Path) -> None:
    """Names in it are on the disk afterwards."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def copy(reader: Reader, fd: int, size: int) -> None:
    """All ``size`` bytes; EIO if there are fewer."""
    buffer = memoryview(bytearray(min(size, PIECE)))
    for offset in range(0, size, PIECE):
        piece = buffer[: min(PIECE, size - offset)]
        if reader.read(piece, offset) != len(piece):
            raise OSError(errno.EIO, "the source's file ends too early")
        done = 0
        while done < len(piece):
            done += os.pwrite(fd, piece[done:], offset + done)


def why_refused(directory: Path) -> int:
    """Found out by trying after an error that names no reason: ENOSPC, EDQUOT or such if a file there cannot
    grow by ``TRIED`` bytes, else EIO."""
    try:
        fd = os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            done = 0
            while done < TRIED:
                done += os.pwrite(fd, bytes(TRIED - done), done)
        finally:
            os.close(fd)
    except OSError as error:
        return error.errno or errno.EIO
    return errno.EIO
