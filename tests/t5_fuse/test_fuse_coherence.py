"""What changes behind the mount, and what changes through it: who sees it, and when.

Behind the mount the promise is close-to-open: an open later than the check interval after the change sees the
new file, whatever is cached and whoever still holds the old one open. All but one test have a short interval.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import posix
from support.tree import Tree

SIZE = 300_000
SHORT = "100ms"
SHARED_OPTIONS = ["--check-interval", SHORT]
LATER = 0.13  # seconds: the change is promised to show after 0.1; the rest is for the clock's steps
DEFAULT = 1.2  # the same of the default interval, a second


def content(generation: int, size: int = SIZE) -> bytes:
    return random.Random(generation).randbytes(size)


def later(seconds: float = LATER) -> None:
    """Let the check interval pass: the promise is about time, so there is no event to wait for."""
    time.sleep(seconds)


def overwrite(path: Path, data: bytes) -> None:
    """In place, same inode; the size is that of ``data``."""
    with path.open("r+b") as file:
        file.truncate(len(data))
        file.write(data)


def replace(path: Path, data: bytes) -> None:
    path.with_name("next").write_bytes(data)
    path.with_name("next").rename(path)


def overwrite_keeping_mtime(path: Path, data: bytes) -> None:
    """As a careless copy does it: only ctime tells."""
    times = path.stat()
    overwrite(path, data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def by_mapping(path: Path, data: bytes) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[:] = data
        view.flush()


CHANGES: dict[str, Callable[[Path], bytes]] = {}


def change(function: Callable[[Path, bytes], None], data: bytes, name: str) -> None:
    def apply(path: Path) -> bytes:
        function(path, data)
        return data

    CHANGES[name] = apply


change(overwrite, content(2), "same size")
change(overwrite, content(3, 1_000), "shorter")
change(overwrite, content(4, SIZE * 3), "longer")
change(overwrite, b"", "empty")
change(overwrite, content(1)[:200_000], "truncated")
change(overwrite, content(1) + b"more", "appended")
change(overwrite_keeping_mtime, content(5), "same size and mtime")
change(replace, content(6), "replaced, same size")
change(replace, content(7, 77), "replaced, shorter")
change(by_mapping, content(8), "by mapping")


@pytest.fixture
def cached(fs: Tree) -> Tree:
    """``name`` was read whole, twice: the cache and the page cache hold it."""
    (fs.source / "name").write_bytes(content(1))
    fs.settle()
    assert (fs / "name").read_bytes() == content(1)
    assert (fs / "name").read_bytes() == content(1)
    assert fs.cached_bytes("name") in (None, SIZE)
    return fs


def files_for_all_changes(fs: Tree) -> None:
    """One cached file a change, so that the check interval is waited for once."""
    for name in CHANGES:
        (fs.source / name).write_bytes(content(1))
    fs.settle()
    for name in CHANGES:
        assert (fs / name).read_bytes() == content(1)
        assert (fs / name).read_bytes() == content(1)


def seen_right(fs: Tree, wanted: dict[str, bytes]) -> dict[str, bool]:
    return {
        name: all((fs / name).read_bytes() == data and (fs / name).stat().st_size == len(data) for _ in "12")
        for name, data in wanted.items()
    }


def test_the_next_open_sees_a_change(fs: Tree) -> None:
    files_for_all_changes(fs)
    wanted = {name: change(fs.source / name) for name, change in CHANGES.items()}
    later()
    assert seen_right(fs, wanted) == dict.fromkeys(CHANGES, True)


def test_an_open_after_the_default_interval_sees_a_change(own: Callable[..., Tree]) -> None:
    fs = own()
    files_for_all_changes(fs)
    wanted = {name: change(fs.source / name) for name, change in CHANGES.items()}
    later(DEFAULT)
    assert seen_right(fs, wanted) == dict.fromkeys(CHANGES, True)


def test_the_next_open_sees_a_change_while_a_reader_holds_the_old(fs: Tree) -> None:
    files_for_all_changes(fs)
    readers = {name: os.open(fs / name, os.O_RDONLY) for name in CHANGES}
    for reader in readers.values():
        assert os.pread(reader, 1_000, 0) == content(1)[:1_000]
    wanted = {name: change(fs.source / name) for name, change in CHANGES.items()}
    later()
    assert seen_right(fs, wanted) == dict.fromkeys(CHANGES, True)
    for reader in readers.values():
        os.pread(reader, 10_000, 5_000)  # old or new bytes, as on a network file system: no hang, no error
    assert seen_right(fs, wanted) == dict.fromkeys(CHANGES, True)
    for reader in readers.values():
        os.close(reader)
    assert seen_right(fs, wanted) == dict.fromkeys(CHANGES, True)


@pytest.fixture
def closing() -> Iterator[contextlib.ExitStack]:
    """What a test that failed has open would keep its daemon from ending."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("access", [os.O_RDONLY, os.O_RDWR], ids=["reader", "writer"])
@pytest.mark.parametrize("size", [40_000, SIZE])
@pytest.mark.parametrize("gone", [True, False], ids=["removed", "replaced"])
def test_who_holds_a_file_that_goes_behind_reads_it_to_its_end(
    own: Callable[..., Tree], closing: contextlib.ExitStack, gone: bool, size: int, access: int
) -> None:
    """A read beyond the end asks for the size, which the name cannot tell any more."""
    fs = own(options=["--check", "strict", "--metadata-timeout", "0s"])
    (fs.source / "name").write_bytes(content(1, size))
    fs.settle()
    held = os.open(fs / "name", access)
    closing.callback(os.close, held)
    assert os.pread(held, 100, 0) == content(1, size)[:100]
    if gone:
        (fs.source / "name").unlink()
    else:
        replace(fs.source / "name", content(2))
    if gone:
        with posix.fails(errno.ENOENT):
            (fs / "name").read_bytes()
    else:
        assert (fs / "name").read_bytes() == content(2)
    for _ in "12":
        assert os.pread(held, size + 1, 0) == content(1, size)
        assert os.pread(held, 100, size - 1) == content(1, size)[-1:]
        assert os.pread(held, 100, size) == b""


def test_a_change_while_a_mapping_lives(cached: Tree) -> None:
    def work() -> None:
        view = mapped(cached / "name")
        assert view[:100] == content(1)[:100]
        replace(cached.source / "name", content(2))
        later()
        assert (cached / "name").read_bytes() == content(2)
        assert view[:] == content(1)

    posix.run(work)


def test_many_changes_in_a_row(fs: Tree) -> None:
    for generation in range(2):
        data = content(generation, 100_000 + generation)
        replace(fs.source / "name", data)
        later()
        assert (fs / "name").read_bytes() == data
        overwrite(fs.source / "name", data[::-1])
        later()
        assert (fs / "name").read_bytes() == data[::-1]


def test_a_change_while_it_is_being_read(fs: Tree) -> None:
    """A reader that is under way may get old or new bytes, but a later open gets the new ones alone."""
    (fs.source / "name").write_bytes(content(1, 4_000_000))
    with (fs / "name").open("rb", buffering=0) as reader:
        reader.read(10_000)
        overwrite(fs.source / "name", content(2, 4_000_000))
        with contextlib.suppress(OSError):  # the file that this reader opened is gone: an error is honest
            while reader.read(100_000):
                pass
    later()
    assert (fs / "name").read_bytes() == content(2, 4_000_000)


def test_files_made_and_removed_behind(cached: Tree) -> None:
    (cached.source / "new").write_bytes(b"new")
    (cached.source / "dir").mkdir()
    (cached.source / "dir" / "inner").write_bytes(b"inner")
    later()
    assert (cached / "new").read_bytes() == b"new"
    assert (cached.path / "dir" / "inner").read_bytes() == b"inner"
    assert set(os.listdir(cached.path)) == {"name", "new", "dir"}
    (cached.source / "name").unlink()
    (cached.source / "dir" / "inner").unlink()
    (cached.source / "dir").rmdir()
    later()
    with pytest.raises(FileNotFoundError):
        (cached / "name").read_bytes()
    assert set(os.listdir(cached.path)) == {"new"}


def test_a_name_looked_for_before_it_was_made(fs: Tree) -> None:
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            (fs / "awaited").stat()
    (fs.source / "awaited").write_bytes(b"here")
    later()
    assert (fs / "awaited").read_bytes() == b"here"


@pytest.fixture
def quick_names(own: Callable[..., Tree]) -> Tree:
    """Names are looked up again as often as contents: a directory is not opened, so its name may be kept."""
    return own(options=[*SHARED_OPTIONS, "--metadata-timeout", SHORT])


def test_another_kind_of_file_under_the_same_name(quick_names: Tree) -> None:
    cached = quick_names
    (cached.source / "name").write_bytes(content(1))
    assert (cached / "name").read_bytes() == content(1)
    (cached.source / "name").unlink()
    (cached.source / "name").mkdir()
    (cached.source / "name" / "inner").write_bytes(b"x")
    later()
    assert os.listdir(cached / "name") == ["inner"]


def test_a_directory_moved_behind(quick_names: Tree) -> None:
    fs = quick_names
    (fs.source / "old").mkdir()
    (fs.source / "old" / "name").write_bytes(content(1))
    assert (fs.path / "old" / "name").read_bytes() == content(1)
    (fs.source / "old").rename(fs.source / "new")
    (fs.source / "old").mkdir()
    (fs.source / "old" / "name").write_bytes(content(2))
    later()
    assert (fs.path / "old" / "name").read_bytes() == content(2)
    assert (fs.path / "new" / "name").read_bytes() == content(1)


# --- through the mount: at once ---


def test_write_through_one_fd_shows_in_the_other_at_once(cached: Tree) -> None:
    """In whichever way the reader's file is served, a writer that comes later must not be missed."""
    reader = os.open(cached / "name", os.O_RDONLY)
    assert os.pread(reader, 100, 0) == content(1)[:100]
    writer = os.open(cached / "name", os.O_WRONLY)
    for number in range(30):
        os.pwrite(writer, b"%010d" % number, number * 9_973)
        assert os.pread(reader, 10, number * 9_973) == b"%010d" % number
        fresh = os.open(cached / "name", os.O_RDONLY)
        assert os.pread(fresh, 10, number * 9_973) == b"%010d" % number
        os.close(fresh)
    os.close(writer)
    assert os.pread(reader, 10, 0) == b"%010d" % 0
    os.close(reader)
    assert (cached / "name").read_bytes() == (cached.source / "name").read_bytes()


ADVICE = {
    "willneed": os.POSIX_FADV_WILLNEED,
    "sequential": os.POSIX_FADV_SEQUENTIAL,
    "dontneed": os.POSIX_FADV_DONTNEED,
}


@pytest.mark.parametrize("advice", ADVICE)
def test_advice_on_a_cached_file(cached: Tree, advice: str) -> None:
    """Readahead that a program asks for reaches a passed-through file as READs; what it brings in must not be
    shown once the file has changed."""
    reader = os.open(cached / "name", os.O_RDONLY)
    os.posix_fadvise(reader, 0, SIZE, ADVICE[advice])
    assert os.pread(reader, SIZE, 0) == content(1)
    os.close(reader)
    with (cached / "name").open("r+b") as file:
        file.write(content(2))
    assert (cached / "name").read_bytes() == content(2)
    cached.settle()
    again = os.open(cached / "name", os.O_RDONLY)
    os.posix_fadvise(again, 0, SIZE, ADVICE[advice])
    assert os.pread(again, SIZE, 0) == content(2)
    replace(cached.source / "name", content(3))
    later()
    assert (cached / "name").read_bytes() == content(3)
    os.close(again)
    assert (cached / "name").read_bytes() == content(3)


def mapped(path: Path, access: int = mmap.PROT_READ) -> mmap.mmap:
    """The file, mapped shared; its descriptor is closed. Use it in a child: a missing page is a SIGBUS."""
    fd = os.open(path, os.O_RDWR if access & mmap.PROT_WRITE else os.O_RDONLY)
    try:
        return mmap.mmap(fd, 0, prot=access)
    finally:
        os.close(fd)


def test_write_shows_in_a_mapping_that_was_there_before(cached: Tree) -> None:
    def work() -> None:
        view = mapped(cached / "name")
        assert view[:] == content(1)
        with (cached / "name").open("r+b", buffering=0) as writer:
            os.pwrite(writer.fileno(), b"changed", 100_000)
            assert view[100_000:100_007] == b"changed"
        assert view[100_000:100_007] == b"changed"
        assert view[:100_000] == content(1)[:100_000]
        assert view[100_007:] == content(1)[100_007:]

    posix.run(work)


@pytest.mark.parametrize("reader", ["none", "open", "mapped", "comes later"])
def test_mapped_writes_reach_the_source(cached: Tree, reader: str) -> None:
    """Whoever else has the cached file open, and however that one is served. ENODEV would be honest."""

    def work() -> None:
        held: object = None
        if reader == "open":
            held = (cached / "name").open("rb")
        elif reader == "mapped":
            held = mapped(cached / "name")
        try:
            view = mapped(cached / "name", mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError as error:
            assert error.errno == errno.ENODEV  # noqa: PT017
            assert reader in ("open", "mapped")
            return
        if reader == "comes later":
            held = (cached / "name").open("rb")
        view[5_000:5_003] = b"new"
        view.flush()
        assert (cached.source / "name").read_bytes()[5_000:5_003] == b"new"
        assert (cached / "name").read_bytes()[5_000:5_003] == b"new"
        view[250_000:250_004] = b"more"
        view.close()
        del held

    posix.run(work)
    later()
    assert (cached / "name").read_bytes() == (cached.source / "name").read_bytes()


def test_a_reader_that_was_there_before_the_writer_reads_on(cached: Tree) -> None:
    """Opened while the file was whole in the cache; its pages are dropped, so that each read is asked for."""
    reader = os.open(cached / "name", os.O_RDONLY)
    writer = os.open(cached / "name", os.O_RDWR)
    for at in range(0, SIZE, 50_000):
        os.pwrite(writer, b"%010d" % at, at)
        os.posix_fadvise(reader, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(reader, 10, at) == b"%010d" % at
    os.close(writer)
    os.posix_fadvise(reader, 0, 0, os.POSIX_FADV_DONTNEED)
    assert os.pread(reader, SIZE, 0) == (cached.source / "name").read_bytes()
    os.close(reader)


def test_who_only_writes_has_the_same_file_open_as_its_readers(cached: Tree) -> None:
    """Its size is the same for all, and so are its locks, which go by the kernel's inode: ``tail -f`` of a
    log, and a lock file that one program opens to read and another one to append."""
    path = cached / "name"
    reader = os.open(path, os.O_RDONLY)
    fcntl.flock(reader, fcntl.LOCK_EX)
    writer = os.open(path, os.O_WRONLY | os.O_APPEND)
    fresh = os.open(path, os.O_RDONLY)
    for other in (writer, fresh):
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for number in range(1, 4):
        os.write(writer, b"%0100d" % number)
        end = SIZE + number * 100
        assert os.fstat(reader).st_size == os.lseek(reader, 0, os.SEEK_END) == end
        assert os.pread(reader, 200, end - 100) == os.pread(fresh, 200, end - 100) == b"%0100d" % number
    os.ftruncate(writer, 1_000)
    assert os.fstat(reader).st_size == os.lseek(reader, 0, os.SEEK_END) == 1_000
    assert os.pread(reader, 5_000, 0) == os.pread(fresh, 5_000, 0) == content(1)[:1_000]
    os.close(writer)
    late = os.open(path, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(late, fcntl.LOCK_SH | fcntl.LOCK_NB)
    assert os.pread(late, 5_000, 0) == content(1)[:1_000]
    os.close(reader)
    fcntl.flock(late, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(late)
    os.close(fresh)
    assert path.read_bytes() == (cached.source / "name").read_bytes()


def test_truncating_through_the_mount_shows_at_once(cached: Tree) -> None:
    reader = os.open(cached / "name", os.O_RDONLY)
    os.truncate(cached / "name", 1_000)
    assert os.fstat(reader).st_size == 1_000
    assert os.pread(reader, 5_000, 0) == content(1)[:1_000]
    os.truncate(cached / "name", 2_000)
    assert os.pread(reader, 5_000, 0) == content(1)[:1_000] + bytes(1_000)
    os.close(reader)


def test_write_right_after_a_read_and_read_again(fs: Tree) -> None:
    """Reads, writes and reads without any time between: nothing may be taken from before the write."""
    for number in range(40):
        data = content(number, 50_000 + number)
        (fs / "name").write_bytes(data)
        assert (fs / "name").read_bytes() == data
        assert (fs / "name").read_bytes() == data
        with (fs / "name").open("r+b") as file:
            file.write(b"head")
        assert (fs / "name").read_bytes() == b"head" + data[4:]


def test_names_changed_through_the_mount_show_at_once(fs: Tree) -> None:
    for number in range(30):
        (fs / "name").write_bytes(b"%d" % number)
        assert (fs / "name").read_bytes() == b"%d" % number
        (fs / "name").rename(fs / "other")
        assert not (fs / "name").exists()
        assert (fs / "other").read_bytes() == b"%d" % number
        (fs / "other").unlink()
        assert not (fs / "other").exists()
        assert os.listdir(fs.path) == []


def test_readers_in_other_processes_see_each_version_whole(fs: Tree) -> None:
    """A writer replaces the file by rename over and over; each read must be one version, entire."""
    (fs / "name").write_bytes(b"0" * 100_000)

    def read_on() -> int:
        seen = 0
        last = -1
        while last < 40:
            data = (fs / "name").read_bytes()
            assert len(data) == 100_000
            assert data == data[:1] * 100_000
            number = data[0]
            assert number >= last or number == ord("0")
            last = -1 if number == ord("0") else number
            seen += 1
        return seen

    children = [posix.Child(read_on) for _ in range(2)]
    for number in range(1, 41):
        (fs / "next").write_bytes(bytes([number]) * 100_000)
        (fs / "next").rename(fs / "name")
    for child in children:
        assert child.wait() > 0
