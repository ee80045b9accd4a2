"""Times and sizes: which calls move mtime and ctime, what can be set, and by whom.

No test of atime after a read: reads of cached files must not touch the source, so its atime stays."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import posix
from support.posix import ALICE, BOB, UTIME_NOW, UTIME_OMIT, fails
from support.tree import Tree


def times(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_ctime_ns


Change = Callable[[Path], object]


def _write(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"x")


def _ftruncate(path: Path) -> None:
    with path.open("r+b") as file:
        os.ftruncate(file.fileno(), 3)


def _fallocate(path: Path) -> None:
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 5000)


CONTENT: dict[str, Change] = {
    "write": _write,
    "truncate down": lambda path: os.truncate(path, 2),
    "truncate up": lambda path: os.truncate(path, 2000),
    "ftruncate": _ftruncate,
    "O_TRUNC": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)),
    "posix_fallocate": _fallocate,
}
STATUS: dict[str, Change] = {
    "chmod": lambda path: path.chmod(0o600),
    "chown": lambda path: os.chown(path, 5, 5),
    "chown to nobody else": lambda path: os.chown(path, -1, -1),
    "link": lambda path: os.link(path, path.with_name("linked")),
    "setxattr": lambda path: os.setxattr(path, "user.x", b"1"),
    "rename": lambda path: (path.rename(path.with_name("r")), path.with_name("r").rename(path)),
}


@pytest.mark.parametrize("change", CONTENT.values(), ids=CONTENT)
def test_content_changes_move_mtime_and_ctime(fs: Tree, change: Change) -> None:
    (fs / "name").write_bytes(b"0123456789")
    before = times(fs / "name")
    posix.tick()
    change(fs / "name")
    after = times(fs / "name")
    assert after[0] > before[0]
    assert after[1] > before[1]
    assert times(fs.source / "name") == after


@pytest.mark.parametrize("change", STATUS.values(), ids=STATUS)
def test_status_changes_move_ctime_alone(fs: Tree, change: Change) -> None:
    (fs / "name").write_bytes(b"0123456789")
    before = times(fs / "name")
    posix.tick()
    change(fs / "name")
    after = times(fs / "name")
    assert after[0] == before[0]
    assert after[1] > before[1]
    assert times(fs.source / "name") == after


def test_reading_changes_neither(fs: Tree) -> None:
    (fs / "name").write_bytes(b"0123456789")
    before = times(fs / "name")
    posix.tick()
    (fs / "name").read_bytes()
    assert times(fs / "name") == before


@pytest.mark.parametrize("nsec", [0, 1, 123_456_789, 999_999_999])
@pytest.mark.parametrize("sec", [-1_000, 0, 1, 2**31 - 1, 2**31 + 5, 2**33])
def test_any_time_can_be_set(fs: Tree, sec: int, nsec: int) -> None:
    (fs / "name").write_bytes(b"")
    posix.utimensat(fs / "name", (sec, nsec), (sec + 1, nsec))
    wanted = (sec * 10**9 + nsec, (sec + 1) * 10**9 + nsec)
    for path in (fs / "name", fs.source / "name"):
        assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == wanted


@pytest.mark.parametrize("sec", [2**40, -(2**40)])
def test_a_time_that_no_file_system_has_becomes_its_nearest(fs: Tree, sec: int) -> None:
    (fs / "name").write_bytes(b"")
    posix.utimensat(fs / "name", (sec, 1), (sec, 2))
    set_to = (fs / "name").stat().st_mtime_ns
    assert (fs.source / "name").stat().st_mtime_ns == set_to
    assert set_to < -(2**31) * 10**9 + 1 if sec < 0 else set_to > 9 * 10**18


def test_omit_and_now(fs: Tree) -> None:
    (fs / "name").write_bytes(b"")
    os.utime(fs / "name", ns=(1_000, 2_000))
    posix.utimensat(fs / "name", (0, UTIME_OMIT), (3, 5))
    assert ((fs / "name").stat().st_atime_ns, (fs / "name").stat().st_mtime_ns) == (1_000, 3_000_000_005)
    begun = time.time_ns() - 20_000_000  # file times come from a clock that steps by up to 10 ms
    posix.utimensat(fs / "name", (0, UTIME_NOW), (0, UTIME_OMIT))
    status = (fs / "name").stat()
    assert begun <= status.st_atime_ns <= time.time_ns()
    assert status.st_mtime_ns == 3_000_000_005
    before = times(fs / "name")
    posix.tick()
    posix.utimensat(fs / "name", (0, UTIME_OMIT), (0, UTIME_OMIT))
    assert times(fs / "name") == before


def test_times_of_a_symlink(fs: Tree) -> None:
    (fs / "name").write_bytes(b"")
    (fs / "link").symlink_to("name")
    os.utime(fs / "name", ns=(10, 20))
    os.utime(fs / "link", ns=(30, 40), follow_symlinks=False)
    assert (fs / "name").stat().st_mtime_ns == 20
    assert (fs / "link").lstat().st_mtime_ns == 40


def test_who_may_set_times(fs: Tree) -> None:
    (fs / "name").write_bytes(b"")
    os.chown(fs / "name", ALICE.uid, ALICE.gid)
    (fs / "name").chmod(0o644)
    posix.run(lambda: os.utime(fs / "name", ns=(1, 1)), ALICE)
    with fails(errno.EPERM):
        posix.run(lambda: os.utime(fs / "name", ns=(2, 2)), BOB)
    with fails(errno.EACCES):
        posix.run(lambda: os.utime(fs / "name"), BOB)
    (fs / "name").chmod(0o666)
    posix.run(lambda: os.utime(fs / "name"), BOB)
    with fails(errno.EPERM):
        posix.run(lambda: os.utime(fs / "name", ns=(2, 2)), BOB)
    assert (fs / "name").stat().st_mtime_ns > 10**18


def test_mtime_that_was_set_outlives_the_close(fs: Tree) -> None:
    """As tar and rsync do it: write, set the time by name or by fd, close."""
    with (fs / "name").open("wb") as file:
        file.write(b"x" * 100_000)
        file.flush()
        os.utime(file.fileno(), ns=(5, 7))
    assert (fs / "name").stat().st_mtime_ns == 7
    with (fs / "other").open("wb") as file:
        file.write(b"x" * 100_000)
        file.flush()
        os.utime(fs / "other", ns=(5, 9))
    assert (fs / "other").stat().st_mtime_ns == (fs.source / "other").stat().st_mtime_ns == 9


def test_sizes(fs: Tree) -> None:
    (fs / "name").write_bytes(b"0123456789")
    for size in (0, 10, 1, 4096, 4095, 1_000_003, 65_536):
        os.truncate(fs / "name", size)
        assert (fs / "name").stat().st_size == (fs.source / "name").stat().st_size == size
        assert len((fs / "name").read_bytes()) == size
    for path in (fs / "name", fs.source / "name"):
        assert path.stat().st_blocks * 512 < 2**20


def test_truncating_zeroes_what_comes_back(fs: Tree) -> None:
    (fs / "name").write_bytes(b"x" * 10_000)
    os.truncate(fs / "name", 5_000)
    os.truncate(fs / "name", 10_000)
    assert (fs / "name").read_bytes() == b"x" * 5_000 + b"\0" * 5_000


def test_bad_sizes(fs: Tree) -> None:
    (fs / "name").write_bytes(b"0123456789")
    (fs / "dir").mkdir()
    with fails(errno.EINVAL):
        os.truncate(fs / "name", -1)
    with fails(errno.EISDIR):
        os.truncate(fs / "dir", 0)
    with fails(errno.EFBIG, errno.EINVAL):
        os.truncate(fs / "name", 2**62)
    with (fs / "name").open("rb") as file, fails(errno.EINVAL, errno.EBADF):
        os.ftruncate(file.fileno(), 0)
    assert (fs / "name").read_bytes() == b"0123456789"


def test_who_may_truncate(fs: Tree) -> None:
    (fs / "name").write_bytes(b"0123456789")
    (fs / "name").chmod(0o644)
    with fails(errno.EACCES):
        posix.run(lambda: os.truncate(fs / "name", 0), BOB)
    with fails(errno.EACCES):
        posix.run(lambda: os.open(fs / "name", os.O_RDONLY | os.O_TRUNC), BOB)
    assert (fs / "name").stat().st_size == 10


def test_file_size_limit(fs: Tree) -> None:
    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        fd = os.open(fs / "name", os.O_CREAT | os.O_RDWR)
        assert os.pwrite(fd, b"x" * 20_000, 0) == 10_000
        with fails(errno.EFBIG):
            os.pwrite(fd, b"x", 10_000)
        with fails(errno.EFBIG):
            os.ftruncate(fd, 10_001)

    posix.run(work)
    assert (fs / "name").stat().st_size == 10_000


def test_running_programs_are_not_written(fs: Tree) -> None:
    shutil.copy("/bin/sleep", fs / "sleep")
    with subprocess.Popen([fs / "sleep", "60"]) as running:
        try:
            os.stat(f"/proc/{running.pid}/exe")
            with fails(errno.ETXTBSY):
                os.open(fs / "sleep", os.O_WRONLY)
            with fails(errno.ETXTBSY):
                os.truncate(fs / "sleep", 0)
        finally:
            running.kill()
    with (fs / "sleep").open("r+b"), fails(errno.ETXTBSY):
        subprocess.run([fs / "sleep", "0"], check=True)
    subprocess.run([fs / "sleep", "0"], check=True)
