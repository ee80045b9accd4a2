"""Calls of the kernel's through ``native/calls.c``: on behalf of another user, or such as Python has not.

All block and belong in a worker thread; cffi releases the GIL around each.
"""

from __future__ import annotations

import os

from swmld._native import ffi, lib

_OMIT = -(1 << 63)
"""Of a time in ns: it stays."""

_LAST = 9_223_372_035 * 10**9
"""ns: the last full second of those that the table can show (``native/table.c``)."""


def must(result: int) -> int:
    """``result``, or where it is ``-errno`` OSError."""
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def pwrite(fd: int, data: bytes | memoryview, offset: int, keep_setid: bool = False) -> int:
    """Blocking. Writes all of it; bytes written, OSError when none were. Unless ``keep_setid``, the source
    clears setuid and setgid bits, as for an unprivileged writer."""
    return must(lib.sw_pwrite(fd, ffi.from_buffer(data), len(data), offset, keep_setid))


def ftruncate(fd: int, size: int, keep_setid: bool = False) -> None:
    """Blocking. ``keep_setid`` as for ``pwrite``."""
    must(lib.sw_ftruncate(fd, size, keep_setid))


def renameat2(olddir: int, old: bytes, newdir: int, new: bytes, flags: int) -> None:
    """Blocking. rename(2) with RENAME_NOREPLACE, RENAME_EXCHANGE and so on."""
    must(lib.sw_renameat2(olddir, old, newdir, new, flags))


def create(directory: int, name: bytes, flags: int, mode: int, uid: int, gid: int) -> int:
    """Blocking. openat(2) with O_CREAT as the caller; the new descriptor."""
    return must(lib.sw_create(directory, name, flags, mode, uid, gid))


def mknod(directory: int, name: bytes, mode: int, rdev: int, uid: int, gid: int) -> None:
    """Blocking. mknodat(2) as the caller."""
    must(lib.sw_mknod(directory, name, mode, rdev, uid, gid))


def mkdir(directory: int, name: bytes, mode: int, uid: int, gid: int) -> None:
    """Blocking. mkdirat(2) as the caller."""
    must(lib.sw_mkdir(directory, name, mode, uid, gid))


def symlink(target: bytes, directory: int, name: bytes, uid: int, gid: int) -> None:
    """Blocking. symlinkat(2) as the caller."""
    must(lib.sw_symlink(target, directory, name, uid, gid))


def link(fd: int, directory: int, name: bytes) -> None:
    """Blocking. A new name for the inode of an O_PATH descriptor."""
    must(lib.sw_link(fd, directory, name))


def chown(fd: int, uid: int | None, gid: int | None) -> None:
    """Blocking. On an O_PATH descriptor; None leaves as is."""
    must(lib.sw_chown(fd, 0xFFFFFFFF if uid is None else uid, 0xFFFFFFFF if gid is None else gid))


def chmod(fd: int, mode: int) -> None:
    """Blocking. On an O_PATH descriptor."""
    must(lib.sw_chmod(fd, mode))


def utimens(fd: int, atime_ns: int | None, mtime_ns: int | None) -> None:
    """Blocking. On an O_PATH descriptor; None leaves as is. What 64 bits cannot hold (before 1677, after
    2262) becomes the nearest that they can, as file systems do at their own limits."""
    times = [_OMIT if ns is None else min(max(ns, -_LAST), _LAST) for ns in (atime_ns, mtime_ns)]
    must(lib.sw_utimens(fd, *times))
