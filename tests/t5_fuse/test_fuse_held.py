"""Files that are held open on the mount while they are removed, replaced or moved on the source, beside it.

A local file system answers all that is asked of them until the last close. What is read from the cache alone
holds nothing at the source: of that the attributes stay as they were last seen, and cannot be changed.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import random
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import posix
from support.tree import Tree

SIZE = 300_000
SHARED_OPTIONS = ["--check", "strict", "--metadata-timeout", "0s"]

Keep = Callable[[int], int]


def content(number: int, size: int = SIZE) -> bytes:
    return random.Random(number).randbytes(size)


def removed(source: Path) -> None:
    source.unlink()


def replaced(source: Path) -> None:
    source.with_name("next").write_bytes(content(2))
    source.with_name("next").rename(source)


def moved(source: Path) -> None:
    source.rename(source.with_name("elsewhere"))


GONE = {"removed": removed, "replaced": replaced, "moved": moved}


@pytest.fixture(params=GONE)
def gone(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    return GONE[str(request.param)]


@pytest.fixture
def keep() -> Iterator[Keep]:
    """Closes a descriptor at the end, also of a test that failed: it would keep its daemon from ending."""
    with contextlib.ExitStack() as stack:

        def closed_later(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        yield closed_later


def made(fs: Tree, size: int = SIZE) -> Path:
    """``name``, old enough to be cached."""
    (fs.source / "name").write_bytes(content(1, size))
    (fs.source / "name").chmod(0o644)
    fs.settle()
    return fs / "name"


def looked_at(fs: Tree, gone: Callable[[Path], None]) -> None:
    """Once it is gone: who asks by the name finds what it means now."""
    if gone is replaced:
        assert (fs / "name").read_bytes() == content(2)
    else:
        with posix.fails(errno.ENOENT):
            (fs / "name").stat()


@pytest.mark.parametrize("seen", [False, True], ids=["first", "looked at"])
@pytest.mark.parametrize("size", [40_000, SIZE])
def test_a_reader(fs: Tree, keep: Keep, gone: Callable[[Path], None], size: int, seen: bool) -> None:
    path = made(fs, size)
    reader = keep(os.open(path, os.O_RDONLY))
    before = os.fstat(reader)
    assert os.pread(reader, 100, 0) == content(1, size)[:100]
    gone(fs.source / "name")
    if seen:
        looked_at(fs, gone)
    for _ in "12":
        now = os.fstat(reader)
        assert (now.st_size, now.st_ino, now.st_mode) == (size, before.st_ino, before.st_mode)
        assert now.st_mtime_ns == before.st_mtime_ns
        assert os.pread(reader, size + 1, 0) == content(1, size)
        assert os.lseek(reader, 0, os.SEEK_END) == size
        os.fsync(reader)
    with mmap.mmap(reader, 0, prot=mmap.PROT_READ) as view:
        assert view[:] == content(1, size)
    looked_at(fs, gone)


@pytest.mark.parametrize("cached", [False, True], ids=["", "cached"])
@pytest.mark.parametrize("access", [os.O_RDWR, os.O_WRONLY], ids=["rw", "wo"])
def test_a_writer(fs: Tree, keep: Keep, gone: Callable[[Path], None], access: int, cached: bool) -> None:
    path = made(fs)
    if cached:
        assert path.read_bytes() == content(1)
    writer = keep(os.open(path, access))
    os.pwrite(writer, b"head", 0)
    gone(fs.source / "name")
    links = 1 if gone is moved else 0
    assert os.fstat(writer).st_nlink == links
    os.pwrite(writer, b"tail", SIZE)
    assert os.fstat(writer).st_size == SIZE + 4
    os.fsync(writer)
    os.fdatasync(writer)
    os.fchmod(writer, 0o600)
    os.utime(writer, ns=(10**9, 2 * 10**9))
    os.fchown(writer, 3, 4)
    os.setxattr(writer, "user.kept", b"value")
    assert os.getxattr(writer, "user.kept") == b"value"
    assert os.listxattr(writer) == ["user.kept"]
    now = os.fstat(writer)
    assert (stat.S_IMODE(now.st_mode), now.st_uid, now.st_gid, now.st_mtime_ns) == (0o600, 3, 4, 2 * 10**9)
    os.ftruncate(writer, 1_000)
    assert os.fstat(writer).st_size == 1_000
    os.ftruncate(writer, SIZE)
    assert os.lseek(writer, 0, os.SEEK_END) == SIZE
    if access == os.O_RDWR:
        assert os.pread(writer, SIZE + 1, 0) == b"head" + content(1)[4:1_000] + bytes(SIZE - 1_000)
        with mmap.mmap(writer, 0) as view:
            view[500:506] = b"mapped"
            view.flush()
            assert view[:4] == b"head"
        assert os.pread(writer, 6, 500) == b"mapped"
    looked_at(fs, gone)
    if gone is moved:
        written = (fs.source / "elsewhere").read_bytes()
        assert (fs / "elsewhere").read_bytes() == written
        assert (written[:4], len(written)) == (b"head", SIZE)
        assert (fs.source / "elsewhere").stat().st_uid == 3
    if gone is replaced:  # nothing of that was done to the file that has the name now
        assert (fs.source / "name").read_bytes() == content(2)
        assert (fs.source / "name").stat().st_uid == 0
        assert os.listxattr(fs.source / "name") == []


@pytest.mark.parametrize("first", ["reader", "writer"])
@pytest.mark.parametrize("cached", [False, True], ids=["", "cached"])
def test_a_reader_beside_a_writer(
    fs: Tree, keep: Keep, gone: Callable[[Path], None], first: str, cached: bool
) -> None:
    """The reader's handle has no descriptor of the source, and must see what the writer has written."""
    path = made(fs)
    if cached:
        assert path.read_bytes() == content(1)
    handles = {}
    for who in ["reader", "writer"] if first == "reader" else ["writer", "reader"]:
        handles[who] = keep(os.open(path, os.O_RDONLY if who == "reader" else os.O_WRONLY))
    reader, writer = handles["reader"], handles["writer"]
    gone(fs.source / "name")
    os.pwrite(writer, b"after", 1_000)
    assert os.pread(reader, 5, 1_000) == b"after"
    os.pwrite(writer, b"tail", SIZE)
    assert os.fstat(reader).st_size == os.fstat(writer).st_size == SIZE + 4
    wanted = content(1)[:1_000] + b"after" + content(1)[1_005:] + b"tail"
    assert os.pread(reader, SIZE + 100, 0) == wanted
    os.fsync(reader)
    os.ftruncate(writer, 2_000)
    assert os.fstat(reader).st_size == 2_000
    assert os.pread(reader, SIZE, 0) == wanted[:2_000]
    looked_at(fs, gone)


def test_a_reader_whose_writer_has_gone(fs: Tree, keep: Keep, gone: Callable[[Path], None]) -> None:
    path = made(fs)
    writer = os.open(path, os.O_WRONLY)
    reader = keep(os.open(path, os.O_RDONLY))
    os.pwrite(writer, b"tail", SIZE)
    os.close(writer)
    gone(fs.source / "name")
    assert os.fstat(reader).st_size == SIZE + 4
    assert os.pread(reader, SIZE + 100, 0) == content(1) + b"tail"
    os.fchmod(reader, 0o640)
    assert stat.S_IMODE(os.fstat(reader).st_mode) == 0o640
    looked_at(fs, gone)


def test_a_file_that_was_made_through_the_mount(fs: Tree, keep: Keep, gone: Callable[[Path], None]) -> None:
    fd = keep(os.open(fs / "name", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    os.write(fd, content(1))
    gone(fs.source / "name")
    os.write(fd, b"tail")
    assert os.fstat(fd).st_size == SIZE + 4
    assert os.pread(fd, SIZE + 100, 0) == content(1) + b"tail"
    looked_at(fs, gone)


def test_a_reader_changes_what_another_has_open_to_write(fs: Tree, keep: Keep) -> None:
    """Where files are passed through the two have different inodes of the kernel's."""
    path = made(fs)
    assert path.read_bytes() == content(1)
    reader = keep(os.open(path, os.O_RDONLY))
    writer = keep(os.open(path, os.O_RDWR))
    os.fchmod(reader, 0o640)
    os.utime(reader, ns=(10**9, 3 * 10**9))
    os.setxattr(reader, "user.a", b"value")
    os.fsync(reader)
    for fd in (reader, writer):
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o640
        assert os.fstat(fd).st_mtime_ns == 3 * 10**9
        assert os.getxattr(fd, "user.a") == b"value"
    (fs / "name").rename(fs / "renamed")
    os.fchmod(reader, 0o600)
    assert stat.S_IMODE(os.fstat(writer).st_mode) == 0o600
    (fs / "renamed").unlink()
    os.fchmod(reader, 0o604)
    assert stat.S_IMODE(os.fstat(reader).st_mode) == 0o604
    assert os.fstat(reader).st_nlink == 0
    assert os.pread(reader, SIZE, 0) == content(1)


def test_names_that_the_kernel_keeps(own: Callable[..., Tree], keep: Keep) -> None:
    """With the default options the kernel goes by the old name for a while: what is asked by handle is done
    to the open file, and what was asked by the name to the file that has it now."""
    fs = own()
    path = made(fs)
    writer = keep(os.open(path, os.O_RDWR))
    os.pwrite(writer, b"head", 0)
    os.fstat(writer)
    replaced(fs.source / "name")
    os.pwrite(writer, b"tail", SIZE)
    assert os.fstat(writer).st_size == SIZE + 4
    assert os.pread(writer, SIZE + 100, 0) == b"head" + content(1)[4:] + b"tail"
    os.fsync(writer)
    os.fchmod(writer, 0o604)
    os.fchown(writer, 5, 6)
    os.utime(writer, ns=(10**9, 2 * 10**9))
    now, other = os.fstat(writer), (fs.source / "name").stat()
    assert (stat.S_IMODE(now.st_mode), now.st_uid, now.st_gid, now.st_mtime_ns) == (0o604, 5, 6, 2 * 10**9)
    assert (stat.S_IMODE(other.st_mode), other.st_uid) != (0o604, 5)
    assert other.st_mtime_ns != now.st_mtime_ns
    path.chmod(0o751)
    assert stat.S_IMODE((fs.source / "name").stat().st_mode) == 0o751
    assert path.read_bytes() == content(2)
    os.fchmod(writer, 0o600)  # the name has been looked up: this can only be of the handle
    assert stat.S_IMODE(os.fstat(writer).st_mode) == 0o600
    assert stat.S_IMODE((fs.source / "name").stat().st_mode) == 0o751
