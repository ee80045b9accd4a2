"""Several processes change one tree at random at the same time; afterwards mount and source must agree.

What fsstress does. Operations may fail, since the processes step on each other's names; what they leave must
be one consistent tree, and what a process keeps for itself alone must be exactly what it left.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support import posix
from support.compare import assert_same
from support.tree import Tree

WORKERS = 4
FINE = {
    errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ELOOP,
    errno.EPERM, errno.EAGAIN, errno.ENXIO, errno.ENODATA, errno.EBUSY, errno.ENAMETOOLONG, errno.EMLINK,
    errno.ENOSPC,
}  # fmt: skip
"""What stepping on each other's names can give. Anything else (EIO, ESTALE, ETXTBSY, …) is a fault."""


class Worker:
    """Random operations below one directory; deterministic for a seed as far as the others allow."""

    def __init__(self, top: Path, seed: int) -> None:
        self.top, self.dice = top, random.Random(seed)

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
            self.utime: 3, self.xattr: 3, self.listing: 5, self.stat: 10,
        }  # fmt: skip
        for operation in self.dice.choices(list(weights), list(weights.values()), k=steps):
            try:
                operation()
            except OSError as error:
                if error.errno not in FINE:
                    raise AssertionError(f"{operation.__name__}: {error!r}") from error


def stress(fs: Tree, seed: int, steps: int, timeout: float) -> None:
    shared = fs / "shared"
    shared.mkdir()
    tops = [shared] * WORKERS
    for number in range(2):
        (fs / f"own{number}").mkdir()
        tops.append(fs / f"own{number}")
    children = [posix.Child(partial(Worker(top, seed * 100 + at).run, steps)) for at, top in enumerate(tops)]
    for child in children:
        child.wait(timeout)
    assert sum(len(files) for _, _, files in os.walk(fs.path)) > 8, "the operations cancel each other out"
    assert_same(fs.path, fs.source)
    _alone(fs, seed, steps)


def _alone(fs: Tree, seed: int, steps: int) -> None:
    """The trees that one process had to itself must equal those of the same operations on a plain disk."""
    plain = fs.source / "plain"
    for number in range(2):
        plain.mkdir()
        posix.run(partial(Worker(plain, seed * 100 + WORKERS + number).run, steps))
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
