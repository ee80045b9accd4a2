"""Several processes change one tree at random at the same time; afterwards mount and source must agree.

What fsstress does. Operations may fail, since the processes step on each other's names; what they leave must
be one consistent tree, and what a process keeps for itself alone must be exactly what it left.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import random
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from support import posix, waiting
from support.compare import assert_same
from support.tree import Tree

WORKERS = 6
SPARE = 40  # descriptors that may be open for other reasons: of the index, of sockets
FINE = {
    errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ELOOP,
    errno.EPERM, errno.EAGAIN, errno.ENXIO, errno.ENODATA, errno.EBUSY, errno.ENAMETOOLONG, errno.EMLINK,
    errno.ENOSPC, errno.ESPIPE, errno.ENODEV,
}  # fmt: skip
"""What stepping on each other's names can give. Anything else (EIO, ESTALE, ETXTBSY, …) is a fault."""


class Worker:
    """Random operations below one directory; deterministic for a seed as far as the others allow."""

    def __init__(self, top: Path, seed: int, alone: bool = False) -> None:
        self.top, self.dice, self.alone = top, random.Random(seed), alone

    def any_path(self) -> Path:
        path = self.top
        for _ in range(self.dice.randrange(4)):
            path /= f"d{self.dice.randrange(3)}"
        return path / self.dice.choice(["f0", "f1", "f2", "f3", "d0", "d1", "d2", "l0", "l1"])

    def write(self) -> None:
        # Not blocking, since the path may be a fifo that nobody reads.
        flags = os.O_CREAT | os.O_RDWR | os.O_NONBLOCK | self.dice.choice([0, os.O_TRUNC, os.O_APPEND])
        fd = os.open(self.any_path(), flags, 0o644)
        try:
            os.write(fd, self.dice.randbytes(self.dice.choice([1, 100, 5000, 70_000])))
        finally:
            os.close(fd)

    def read(self) -> None:
        fd = os.open(self.any_path(), os.O_RDONLY | os.O_NONBLOCK)
        try:
            while os.read(fd, 65_536):
                pass
        finally:
            os.close(fd)

    def mkdir(self) -> None:
        self.any_path().mkdir()

    def rename(self) -> None:
        posix.renameat2(self.any_path(), self.any_path(), self.dice.choice([0, 0, 1, 2]))

    def unlink(self) -> None:
        self.any_path().unlink()

    def rmdir(self) -> None:
        self.any_path().rmdir()

    def link(self) -> None:
        os.link(self.any_path(), self.any_path())

    def symlink(self) -> None:
        os.symlink(self.dice.choice(["f0", "d1", "../f1", "l0"]), self.any_path())

    def mknod(self) -> None:
        os.mkfifo(self.any_path())

    def chmod(self) -> None:
        self.any_path().chmod(self.dice.choice([0o600, 0o644, 0o755]))

    def chown(self) -> None:
        os.lchown(self.any_path(), self.dice.randrange(9), self.dice.randrange(9))

    def truncate(self) -> None:
        os.truncate(self.any_path(), self.dice.randrange(200_000))

    def utime(self) -> None:
        os.utime(self.any_path(), ns=(self.dice.randrange(10**18), self.dice.randrange(10**18)))

    def xattr(self) -> None:
        os.setxattr(self.any_path(), f"user.{self.dice.randrange(3)}", self.dice.randbytes(20))

    @contextlib.contextmanager
    def opened(self, flags: int = os.O_RDWR) -> Iterator[int]:
        fd = os.open(self.any_path(), flags | os.O_NONBLOCK)
        try:
            yield fd
        finally:
            os.close(fd)

    def mapped(self) -> None:
        with self.opened() as fd:
            size = os.fstat(fd).st_size
            if not stat.S_ISREG(os.fstat(fd).st_mode) or not size:
                return
            if self.alone:  # somebody else may cut it off: SIGBUS
                with mmap.mmap(fd, size) as view:
                    view[size // 2 : size // 2 + 1] = self.dice.randbytes(1)

    def direct(self) -> None:
        pages = mmap.PAGESIZE * self.dice.randrange(1, 20)
        with self.opened(os.O_RDWR | os.O_DIRECT) as fd, mmap.mmap(-1, pages) as buffer:
            buffer[:] = self.dice.randbytes(pages)
            os.pwritev(fd, [buffer], mmap.PAGESIZE * self.dice.randrange(10))
            os.preadv(fd, [buffer], 0)

    def allocate(self) -> None:
        how = self.dice.choice([0, 1, 3, 16, 17])
        with self.opened() as fd:
            posix.fallocate(fd, how, self.dice.randrange(100_000), self.dice.randrange(1, 100_000))

    def copy(self) -> None:
        with self.opened() as fd, self.opened() as to:
            os.copy_file_range(fd, to, self.dice.randrange(1, 100_000), self.dice.randrange(50_000), 0)

    def unlinked(self) -> None:
        """It is open while its name goes, and what then has the name is another."""
        path = self.any_path()
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o644)
        try:
            path.unlink()
            os.write(fd, b"still there")
            os.fchmod(fd, 0o640)
            os.fsync(fd)
            if self.alone:
                assert os.fstat(fd).st_mode & 0o777 == 0o640
        finally:
            os.close(fd)

    def listing(self) -> None:
        for entry in os.scandir(self.any_path().parent):
            with contextlib.suppress(FileNotFoundError):
                entry.stat(follow_symlinks=False)

    def stat(self) -> None:
        self.any_path().lstat()

    def run(self, steps: int) -> None:
        weights: dict[Callable[[], None], int] = {
            self.write: 20, self.read: 15, self.mkdir: 10, self.rename: 15, self.unlink: 8, self.rmdir: 3,
            self.link: 6, self.symlink: 4, self.mknod: 2, self.chmod: 3, self.chown: 3, self.truncate: 5,
            self.utime: 3, self.xattr: 3, self.listing: 5, self.stat: 10, self.mapped: 4, self.direct: 3,
            self.allocate: 4, self.copy: 3, self.unlinked: 3,
        }  # fmt: skip
        for operation in self.dice.choices(list(weights), list(weights.values()), k=steps):
            try:
                operation()
            except OSError as error:
                if error.errno not in FINE:
                    raise AssertionError(f"{operation.__name__}: {error!r}") from error


def descriptors(fs: Tree) -> int:
    return len(os.listdir(f"/proc/{fs.daemon.pid}/fd")) if fs.daemon is not None else 0


def stress(fs: Tree, seed: int, steps: int, timeout: float) -> None:
    shared = fs / "shared"
    shared.mkdir()
    tops = [shared] * WORKERS
    for number in range(2):
        (fs / f"own{number}").mkdir()
        tops.append(fs / f"own{number}")
    worker = lambda at: Worker(tops[at], seed * 100 + at, at >= WORKERS)  # noqa: E731
    before = descriptors(fs)
    children = [posix.Child(partial(worker(at).run, steps)) for at in range(len(tops))]
    for child in children:
        child.wait(timeout)
    assert sum(len(files) for _, _, files in os.walk(fs.path)) > 8, "the operations cancel each other out"
    assert_same(fs.path, fs.source)
    _alone(fs, seed, steps)
    assert os.spawnlp(os.P_WAIT, "rm", "rm", "-r", *[os.fspath(top) for top in {*tops}]) == 0
    waiting.until(
        lambda: descriptors(fs) <= before + SPARE, lambda: f"{before}, {descriptors(fs)} descriptors"
    )


def _alone(fs: Tree, seed: int, steps: int) -> None:
    """The trees that one process had to itself must equal those of the same operations on a plain disk."""
    plain = fs.source / "plain"
    for number in range(2):
        plain.mkdir()
        posix.run(partial(Worker(plain, seed * 100 + WORKERS + number, True).run, steps))
        left, right = set(os.listdir(plain)), set(os.listdir(fs / f"own{number}"))
        assert left == right
        _compare_content(plain, fs / f"own{number}")
        assert os.spawnlp(os.P_WAIT, "rm", "rm", "-r", plain) == 0


def _compare_content(one: Path, two: Path) -> None:
    for directory, dirs, files in os.walk(one):
        there = two / Path(directory).relative_to(one)
        assert sorted([*dirs, *files]) == sorted(os.listdir(there)), there
        for name in files:
            mine, other = Path(directory) / name, there / name
            assert mine.lstat().st_mode == other.lstat().st_mode, other
            assert mine.lstat().st_nlink == other.lstat().st_nlink, other
            if mine.is_symlink():
                assert os.readlink(mine) == os.readlink(other)
            elif mine.is_file():
                assert mine.read_bytes() == other.read_bytes(), other


@pytest.mark.parametrize("seed", [1])
def test_random_changes_by_several_processes(fs: Tree, seed: int) -> None:
    stress(fs, seed, steps=700, timeout=120)


@pytest.mark.stress
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(10, 14))
def test_many_random_changes_by_several_processes(fs: Tree, seed: int) -> None:
    stress(fs, seed, steps=30_000, timeout=1200)
