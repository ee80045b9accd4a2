"""Calls that read without a read, or only look as if: what of them counts, in each serving mode."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import posix
from support.probes import PAGE, Lab
from support.ways import AROUND, BLOCKS, by_read, mapping, opened

SHIFT = 2  # pages by which the surroundings of a fault are others than those of the mapping's first one
LENGTH = BLOCKS * PAGE
MADV_POPULATE_READ = 22  # asm-generic/mman-common.h

_libc = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def must(result: int, wanted: int = 0) -> None:
    assert result == wanted, os.strerror(ctypes.get_errno())


# --- faults in one call ---


def by_populate(path: Path) -> None:
    with mapping(path, BLOCKS, shift=SHIFT, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE):
        pass


def by_populating_later(path: Path) -> None:
    with mapping(path, BLOCKS, shift=SHIFT) as at:
        must(_libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(LENGTH), MADV_POPULATE_READ))


def by_locking(path: Path) -> None:
    with mapping(path, BLOCKS, shift=SHIFT) as at:
        must(_libc.mlock(ctypes.c_void_p(at), ctypes.c_size_t(LENGTH)))


def by_process_vm_readv(path: Path) -> None:
    """As a debugger does; here of the own memory."""
    buffer = ctypes.create_string_buffer(LENGTH)
    with mapping(path, BLOCKS, shift=SHIFT) as at:
        near, far = _Iovec(ctypes.addressof(buffer), LENGTH), _Iovec(at, LENGTH)
        read = _libc.process_vm_readv(os.getpid(), ctypes.byref(near), 1, ctypes.byref(far), 1, 0)
        must(read, LENGTH)


def by_write_elsewhere(path: Path) -> None:
    """write(2) of mapped memory."""
    with mapping(path, BLOCKS, shift=SHIFT) as at, opened(path.with_name("to"), os.O_RDWR | os.O_CREAT) as fd:
        must(_libc.write(fd, ctypes.c_void_p(at), ctypes.c_size_t(LENGTH)), LENGTH)


def by_touching(path: Path) -> None:
    with mapping(path, BLOCKS, shift=SHIFT) as at:
        for block in range(BLOCKS):
            ctypes.string_at(at + block * PAGE, 1)


FAULTS: list[Callable[[Path], None]] = [
    by_populate, by_populating_later, by_locking, by_process_vm_readv, by_write_elsewhere, by_touching,
]  # fmt: skip


@pytest.mark.parametrize("read", FAULTS, ids=lambda read: read.__name__)
def test_mapped_in_one_call(lab: Lab, read: Callable[[Path], None]) -> None:
    """The first fault maps 16 pages from the beginning, the second those around it, from page 14 on: two of
    them are there already."""
    lab.make("data")
    lab.drop("data")  # folios of any size, left by writing, would be mapped whole
    posix.run(lambda: by_read(lab / "data"))
    read(lab / "data")
    stream = lab.stream("data")
    assert (stream.reads, stream.faults, stream.pages, stream.sequential) == (2, 2, BLOCKS, 1)
    assert list(stream.cursors[0].early[:2]) == [0, AROUND]
    assert stream.cold == stream.random == 0


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
def test_a_private_mapping_that_is_written(lab: Lab, warm: bool) -> None:
    """Each page is a fault of its own, told twice by the kernel where it had to come first."""
    lab.make("data")
    lab.drop("data")
    if warm:
        posix.run(lambda: by_read(lab / "data"))
    prot = mmap.PROT_READ | mmap.PROT_WRITE
    with mapping(lab / "data", BLOCKS, prot=prot, flags=mmap.MAP_PRIVATE) as at:
        for block in range(BLOCKS):
            ctypes.memset(at + block * PAGE, 7, 1)
    stream = lab.stream("data")
    assert (stream.reads, stream.faults, stream.pages, stream.sequential) == (
        BLOCKS,
        BLOCKS,
        BLOCKS,
        BLOCKS - 1,
    )
    assert bool(stream.cold) == (not warm)


# --- pipes ---


def test_what_is_teed_was_read_once(lab: Lab) -> None:
    lab.make("data")
    pipes = [*os.pipe(), *os.pipe()]
    with opened(lab / "data") as fd:
        assert os.splice(fd, pipes[1], 8 * PAGE) == 8 * PAGE
        must(_libc.tee(pipes[0], pipes[3], ctypes.c_size_t(8 * PAGE), 0), 8 * PAGE)
    for one in pipes:
        os.close(one)
    stream = lab.stream("data")
    assert (stream.reads, stream.pages) == (1, 8)


def test_mapped_pages_are_lent_to_a_pipe(lab: Lab) -> None:
    lab.make("data")
    lab.drop("data")
    posix.run(lambda: by_read(lab / "data"))
    out, into = os.pipe()
    with mapping(lab / "data", BLOCKS) as at:
        vector = _Iovec(at, 8 * PAGE)
        must(_libc.vmsplice(into, ctypes.byref(vector), 1, 0), 8 * PAGE)
    os.close(out)
    os.close(into)
    stream = lab.stream("data")
    assert (stream.reads, stream.faults, stream.pages) == (1, 1, AROUND)


# --- programs ---


def test_cp_within_the_mount(lab: Lab) -> None:
    """copy_file_range(2), which the kernel makes of splices: two of a pipe's 16 pages."""
    lab.make("data")
    subprocess.run(["cp", "--sparse=never", lab / "data", lab / "copy"], check=True)
    assert (lab.source / "copy").read_bytes() == (lab.source / "data").read_bytes()
    read = lab.stream("data", lab.pid("data"))
    assert (read.reads, read.pages, read.written) == (2, BLOCKS, 0)
    written = lab.stream("copy", lab.pid("copy"))
    assert (written.reads, written.written, written.bursts) == (0, LENGTH, 1)


def test_cp_into_the_mount(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(os.urandom(LENGTH))
    subprocess.run(["cp", tmp_path / "data", lab / "copy"], check=True)
    written = lab.stream("copy", lab.pid("copy"))
    assert (written.reads, written.written, written.bursts) == (0, LENGTH, 1)


# --- no reads and no writes ---


def by_readahead(path: Path) -> None:
    with opened(path) as fd:
        must(_libc.readahead(fd, ctypes.c_long(0), ctypes.c_size_t(LENGTH)))


def by_fadvise(path: Path) -> None:
    with opened(path) as fd:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)


def by_madvise(path: Path) -> None:
    with mapping(path, BLOCKS) as at:
        must(_libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(LENGTH), mmap.MADV_WILLNEED))


@pytest.mark.parametrize("ask", [by_readahead, by_fadvise, by_madvise], ids=lambda ask: ask.__name__)
def test_pages_that_are_asked_for_are_not_read(lab: Lab, ask: Callable[[Path], None]) -> None:
    """Until somebody does."""
    lab.make("data")
    lab.drop("data")
    ask(lab / "data")
    lab.seen.settle()
    assert lab.seen.pids(f"{lab.name}/data") == set()
    with opened(lab / "data") as fd:
        os.pread(fd, PAGE, 0)
    assert lab.stream("data").reads == 1


def test_what_is_allocated_is_not_written(lab: Lab) -> None:
    with opened(lab / "data", os.O_RDWR | os.O_CREAT) as fd:
        os.posix_fallocate(fd, 0, 2 * LENGTH)
        os.ftruncate(fd, LENGTH)
        assert os.pwrite(fd, bytes(PAGE), 0) == PAGE
    assert lab.stream("data").written == PAGE
