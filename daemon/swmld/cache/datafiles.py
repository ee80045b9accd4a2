"""Data files on the disk: making and opening them. Blocking; errors are the room's own."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from swmld._native import ffi, lib
from swmld.cache import packed
from swmld.cache.index import FileRow
from swmld.cache.packed import PACKED
from swmld.errors import DISK_FULL, CacheError, CacheFull


def os_error(error: OSError, what: str) -> CacheError:
    """``error`` as the room's own exception."""
    message = f"cache: {what}: {error.strerror}"
    if error.errno in DISK_FULL:
        return CacheFull(message)
    return CacheError(message, error.errno or errno.EIO)


def data_size(row: FileRow) -> int:
    """Bytes of the data file of ``row``, holes included."""
    return row.size + (packed.front(row.size, row.chunk_size) if row.file_id & PACKED else 0)


def create_data_file(path: str, row: FileRow, level: int = 0) -> int:
    """Make the sparse data file of ``row``; returns its fd. Raises ``CacheError``."""
    try:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:  # an id is new, so whatever lies there is nobody's
            os.unlink(path)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, data_size(row))
            if level:
                packed.begin(fd, row.size, row.chunk_size, level)
        except OSError:
            os.close(fd)
            os.unlink(path)
            raise
    except OSError as error:
        raise os_error(error, "making a data file") from error
    return fd


def create_data_files(paths: Sequence[str], sizes: Sequence[int]) -> list[int]:
    """Make sparse data files by one call; of each its fd, or ``-errno``: ``create_data_file`` may do
    better."""
    names = [ffi.from_buffer(os.fsencode(path) + b"\0") for path in paths]
    fds = ffi.new("int[]", len(names))
    lib.sw_data_files(ffi.new("char *[]", names), ffi.new("uint64_t[]", list(sizes)), len(names), fds)
    return list(fds)


def take_data_file(path: str, row: FileRow, place: os.PathLike[str]) -> int:
    """Make a file of the same file system the data file of ``row``, which it must be as long as; returns its
    fd. Raises ``CacheError``, and leaves the file where it is."""
    try:
        fd = os.open(place, os.O_RDWR | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_size != data_size(row):
                raise OSError(errno.EINVAL, "it has another size")
            os.fchown(fd, os.geteuid(), os.getegid())
            os.fchmod(fd, 0o600)
            os.rename(place, path)
        except OSError:
            os.close(fd)
            raise
    except OSError as error:
        raise os_error(error, "taking a file over") from error
    return fd


def open_data_file(path: str, size: int) -> int | None:
    """The fd of an existing data file; ``None`` if it is gone or not as long as it must be.

    Raises ``CacheError`` for all else (fd limit, I/O error): the file may be good.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise os_error(error, "opening a data file") from error
    if os.fstat(fd).st_size != size:
        os.close(fd)
        return None
    return fd


def open_row(path: str, row: FileRow) -> tuple[int, int] | None:
    """The fd of the data file of ``row``, and its level of compression (0: none); as ``open_data_file``."""
    fd = open_data_file(path, data_size(row))
    if fd is None or not row.file_id & PACKED:
        return None if fd is None else (fd, 0)
    try:
        level = packed.level_of(fd, row.size, row.chunk_size)
    except OSError as error:
        os.close(fd)
        raise os_error(error, "opening a data file") from error
    if not level:
        os.close(fd)
        return None
    return fd, level
