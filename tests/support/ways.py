"""Ways to read a file of 23 blocks, and how many reads each makes; pages of a mapping, touched one by one."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import liburing

from support.probes import PAGE

BLOCKS = 23
PIPE = 16 * PAGE  # what splice moves at once: a pipe's capacity
MAP_FIXED = 0x10  # linux/mman.h
PRESENT = 1 << 63  # Documentation/admin-guide/mm/pagemap.rst
AROUND = 16  # pages: fault_around_bytes, 64 KiB unless a debugfs file says otherwise


@contextlib.contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


# --- ways to read a file of 23 blocks ---


def by_pread(path: Path) -> None:
    with opened(path) as fd:
        for block in range(BLOCKS):
            assert len(os.pread(fd, PAGE, block * PAGE)) == PAGE


def by_read(path: Path) -> None:
    with opened(path) as fd:
        while os.read(fd, PAGE):
            pass


def by_readv(path: Path) -> None:
    with opened(path) as fd:
        while os.readv(fd, [bytearray(PAGE), bytearray(3 * PAGE)]):
            pass


def by_preadv(path: Path) -> None:
    with opened(path) as fd:
        for block in range(0, BLOCKS, 4):
            os.preadv(fd, [bytearray(PAGE), bytearray(3 * PAGE)], block * PAGE)


def by_odd_sizes(path: Path) -> None:
    """Of 1000 bytes: many in one page, some across two."""
    with opened(path) as fd:
        while os.read(fd, 1000):
            pass


def by_splice(path: Path) -> None:
    with opened(path) as fd:
        out, into = os.pipe()
        try:
            while moved := os.splice(fd, into, 8 * PAGE):
                assert len(os.read(out, 8 * PAGE)) == moved
        finally:
            os.close(out)
            os.close(into)


def by_sendfile(path: Path) -> None:
    """One call; the kernel reads for it as much as a pipe holds at once."""
    near, far = socket.socketpair()
    with near, far, opened(path) as fd:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        assert os.sendfile(near.fileno(), fd, 0, BLOCKS * PAGE) == BLOCKS * PAGE


def by_copy_file_range(path: Path) -> None:
    """To a file beside it."""
    with opened(path) as fd, opened(path.with_name("copy"), os.O_RDWR | os.O_CREAT) as to:
        left = BLOCKS * PAGE
        while left:
            left -= os.copy_file_range(fd, to, left)


def uring_reads(fd: int, offsets: range, flags: int = 0) -> None:
    """One page at each offset, all submitted at once."""
    ring, cqe = liburing.Ring(), liburing.Cqe()
    liburing.io_uring_queue_init(64, ring)
    try:
        buffers = [bytearray(PAGE) for _ in offsets]
        vectors = [liburing.Iovec([buffer]) for buffer in buffers]
        for number, offset in enumerate(offsets):
            entry = liburing.io_uring_get_sqe(ring)
            liburing.io_uring_prep_readv(entry, fd, vectors[number], offset, 0)
            entry.flags = flags
        liburing.io_uring_submit(ring)
        for _ in offsets:
            liburing.io_uring_wait_cqe(ring, cqe)
            assert cqe[0].res == PAGE
            liburing.io_uring_cqe_seen(ring, cqe[0])
    finally:
        liburing.io_uring_queue_exit(ring)


def by_uring(path: Path) -> None:
    with opened(path) as fd:
        uring_reads(fd, range(0, BLOCKS * PAGE, PAGE))


def by_uring_workers(path: Path) -> None:
    """In the kernel's worker threads, which belong to the process. Two reads are apart, as with threads."""
    with opened(path) as fd:
        os.pread(fd, PAGE, 0)
        uring_reads(fd, range(PAGE, 2 * PAGE, PAGE), liburing.IOSQE_ASYNC)
        uring_reads(fd, range(2 * PAGE, BLOCKS * PAGE, PAGE), liburing.IOSQE_ASYNC)


WAYS: list[tuple[Callable[[Path], None], int]] = [
    (by_pread, BLOCKS),
    (by_read, BLOCKS),
    (by_readv, 6),
    (by_preadv, 6),
    (by_odd_sizes, -(-BLOCKS * PAGE // 1000)),
    (by_splice, 3),
    (by_sendfile, 2),
    (by_copy_file_range, 2),
    (by_uring, BLOCKS),
    (by_uring_workers, BLOCKS),
]


# --- mappings ---


def _with_mmap() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    return libc


@contextlib.contextmanager
def mapping(
    path: Path, pages: int, *, shift: int = 0, prot: int = mmap.PROT_READ, flags: int = mmap.MAP_SHARED
) -> Iterator[int]:
    """The address of a mapping of so many pages of a file, ``shift`` pages after a multiple of a fault's
    surroundings: without, they are pages 0 to 15, 16 to 31 and so on."""
    libc = _with_mmap()
    length, unit = pages * PAGE, AROUND * PAGE
    room = length + 2 * unit
    place = libc.mmap(None, room, mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    at = -(-place // unit) * unit + shift * PAGE
    try:
        with opened(path) as fd:
            assert libc.mmap(at, length, prot, flags | MAP_FIXED, fd, 0) == at
        yield at
    finally:
        libc.munmap(ctypes.c_void_p(place), ctypes.c_size_t(room))


@contextlib.contextmanager
def placed(path: Path, pages: int) -> Iterator[int]:
    """The address of a mapping of the whole file where the kernel puts it: from 2 MiB on such that a folio
    lies in one table of pages."""
    libc = _with_mmap()
    with opened(path) as fd:
        at = libc.mmap(None, pages * PAGE, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        assert at != ctypes.c_void_p(-1).value, os.strerror(ctypes.get_errno())
    try:
        yield at
    finally:
        libc.munmap(ctypes.c_void_p(at), ctypes.c_size_t(pages * PAGE))


def present(table: int, at: int, pages: int) -> int:
    """How many pages of a mapping the page table has; ``table``: /proc/self/pagemap."""
    entries = os.pread(table, 8 * pages, at // PAGE * 8)
    return sum(entry[0] >> 63 for entry in struct.iter_unpack("=Q", entries))


@contextlib.contextmanager
def mapped(path: Path, pages: int, advice: int | None) -> Iterator[Callable[[int], bool]]:
    """A function that touches a page, and tells whether that was a fault: the page table did not have it."""
    libc = ctypes.CDLL(None, use_errno=True)
    with mapping(path, pages) as at, opened(Path("/proc/self/pagemap")) as table:
        if advice is not None:
            assert libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(pages * PAGE), advice) == 0

        def touch(page: int) -> bool:
            place = at + page * PAGE
            (entry,) = struct.unpack("=Q", os.pread(table, 8, place // PAGE * 8))
            ctypes.string_at(place, 1)
            return not entry & PRESENT

        yield touch
