"""SEEK_DATA and SEEK_HOLE: a hole at the source is one on the mount, and data is never called a hole."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
from pathlib import Path

import pytest
from support import posix
from support.tree import Tree

PAGE = mmap.PAGESIZE
MIB = 1 << 20
SIZE = 16 * MIB
DATA = {MIB: b"a" * PAGE, 5 * MIB: b"b" * 70_000, SIZE - PAGE: b"c" * PAGE}

Extents = list[tuple[int, int]]


def extents(fd: int) -> Extents:
    """Start and end of each piece of data."""
    found, at = [], 0
    while True:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return found
        end = os.lseek(fd, at, os.SEEK_HOLE)
        found.append((at, end))
        at = end


def of(path: Path) -> Extents:
    fd = os.open(path, os.O_RDONLY)
    try:
        return extents(fd)
    finally:
        os.close(fd)


def sparse(path: Path) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    os.ftruncate(fd, SIZE)
    for at, data in DATA.items():
        os.pwrite(fd, data, at)
    os.fsync(fd)
    os.close(fd)


def covers(found: Extents, start: int, end: int) -> bool:
    return any(a <= start and end <= b for a, b in found)


@pytest.fixture
def name(fs: Tree) -> Path:
    sparse(fs.source / "name")
    fs.settle()
    return fs / "name"


def test_a_file_that_is_not_cached(fs: Tree, name: Path) -> None:
    wanted = of(fs.source / "name")
    assert len(wanted) == 3
    assert of(name) == wanted


def test_a_file_that_is_partly_cached(fs: Tree, name: Path) -> None:
    with name.open("rb") as file:
        assert os.pread(file.fileno(), 10, 5 * MIB) == b"b" * 10
        assert os.pread(file.fileno(), 10, 8 * MIB) == bytes(10)
        assert extents(file.fileno()) == of(fs.source / "name")


def test_a_file_that_is_cached(fs: Tree, name: Path) -> None:
    assert len(name.read_bytes()) == SIZE
    assert of(name) == of(name) == of(fs.source / "name")


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_WRONLY], ids=["rw", "wo"])
@pytest.mark.parametrize("cached", [False, True], ids=["", "cached"])
def test_a_file_that_is_written(fs: Tree, name: Path, flags: int, cached: bool) -> None:
    if cached:
        name.read_bytes()
    fd = os.open(name, flags)
    os.pwrite(fd, b"new", 9 * MIB)
    os.ftruncate(fd, 2 * SIZE)
    found = extents(fd)
    for at, data in [*DATA.items(), (9 * MIB, b"new")]:
        assert covers(found, at, at + len(data)), found
    assert found[-1][1] <= 2 * SIZE
    if fs.mode in ("passthrough", "disk"):
        assert found == of(fs.source / "name")
    with posix.fails(errno.ENXIO):
        os.lseek(fd, 2 * SIZE, os.SEEK_DATA)
    with posix.fails(errno.ENXIO):
        os.lseek(fd, 2 * SIZE, os.SEEK_HOLE)
    os.close(fd)
    assert of(name) == of(fs.source / "name")


@pytest.mark.parametrize("reader", ["none", "before", "partly", "after"])
def test_what_a_mapping_has_written_is_no_hole(fs: Tree, name: Path, reader: str) -> None:
    """It may be in the kernel's pages alone."""
    if reader != "partly":
        name.read_bytes()
    before = os.open(name, os.O_RDONLY) if reader in ("before", "partly") else -1
    fd = os.open(name, os.O_RDWR)
    with mmap.mmap(fd, SIZE) as view:
        view[9 * MIB : 9 * MIB + 3] = b"new"
        assert covers(extents(fd), 9 * MIB, 9 * MIB + 3)
        if before >= 0 and os.pread(before, 3, 9 * MIB) == b"new":
            assert covers(extents(before), 9 * MIB, 9 * MIB + 3)
        if reader == "after":
            later = os.open(name, os.O_RDONLY)
            assert covers(extents(later), 9 * MIB, 9 * MIB + 3)
            os.close(later)
    os.close(fd)
    if before >= 0:
        os.close(before)
    assert covers(of(name), 9 * MIB, 9 * MIB + 3)


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "partly"])
def test_a_reader_of_an_older_generation_loses_nothing(fs: Tree, name: Path, whole: bool) -> None:
    if fs.daemon is None:
        return  # a disk has one generation
    if whole:
        name.read_bytes()
    fd = os.open(name, os.O_RDONLY)
    assert os.pread(fd, PAGE, MIB) == DATA[MIB]
    with open(fs.source / "next", "wb") as file:
        file.truncate(SIZE)
    (fs.source / "next").rename(fs.source / "name")
    found = extents(fd)
    if os.pread(fd, PAGE, MIB) == DATA[MIB]:
        assert covers(found, MIB, MIB + PAGE), found
    os.close(fd)
    fd = os.open(fs.source / "name", os.O_WRONLY)
    os.pwrite(fd, b"x", 0)
    fs.settle()
    reader = os.open(name, os.O_RDONLY)
    assert os.pread(reader, 1, 0) == b"x"
    posix.fallocate(fd, posix.FALLOC_PUNCH_HOLE | posix.FALLOC_KEEP_SIZE, 0, PAGE)
    os.close(fd)
    found = extents(reader)
    if os.pread(reader, 1, 0) == b"x":
        assert covers(found, 0, 1), found
    os.close(reader)


def test_copies_of_a_huge_file_take_no_time(fs: Tree) -> None:
    with open(fs.source / "huge", "wb") as file:
        file.truncate(1 << 43)
        file.seek(1 << 42)
        file.write(b"data")
    fs.settle()
    done = subprocess.run(["cp", fs / "huge", fs / "copy"], timeout=100, check=False)
    assert done.returncode == 0
    there = (fs / "copy").stat()
    assert (there.st_size, there.st_blocks < 100) == (1 << 43, True)
    with (fs / "copy").open("rb") as file:
        assert os.pread(file.fileno(), 4, 1 << 42) == b"data"


def test_ends(fs: Tree) -> None:
    (fs / "empty").write_bytes(b"")
    with (fs / "empty").open("rb") as file:
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            with posix.fails(errno.ENXIO):
                os.lseek(file.fileno(), 0, whence)
    (fs / "full").write_bytes(b"x" * 10_000)
    fs.settle()
    for _ in "12":
        assert of(fs / "full") == [(0, 10_000)]
        (fs / "full").read_bytes()
