"""One file, thousands of random operations of every kind, each read compared with a model in memory.

Reads, writes, truncation, mappings, holes, direct I/O, copies, reopening, through several fds of one file.
What fsx does, with the seed in the test's name to run a failure again.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import random
from collections.abc import Callable
from functools import partial

import pytest
from support import posix
from support.compare import first_difference
from support.tree import Tree

PAGE = mmap.PAGESIZE
MOST = 700_000  # bytes; several chunks of the smallest chunk size
STEPS = 600
OPEN_FDS = 3


class Exerciser:
    """The file under test, its model, and one method an operation."""

    def __init__(self, tree: Tree, seed: int, data: bytes = b"", name: str = "file") -> None:
        """The file may be there already, with this data."""
        self.tree, self.path, self.source = tree, tree / name, tree.source / name
        self.dice, self.model = random.Random(seed), bytearray(data)
        self.log: list[str] = []
        self.path.touch()
        self.fds = [os.open(self.path, os.O_RDWR) for _ in range(OPEN_FDS)]

    @property
    def fd(self) -> int:
        return self.dice.choice(self.fds)

    def span(self, past_the_end: bool) -> tuple[int, int]:
        most = MOST if past_the_end else max(1, len(self.model))
        start = self.dice.randrange(most)
        if self.dice.random() < 0.3:
            start -= start % PAGE
        longest = self.dice.choice([10, PAGE, 20_000, 140_000])
        return start, min(self.dice.randrange(1, longest + 1), most - start)

    def data(self, length: int) -> bytes:
        return self.dice.randbytes(length)

    def put(self, at: int, data: bytes) -> None:
        if at > len(self.model):
            self.model.extend(bytes(at - len(self.model)))
        self.model[at : at + len(data)] = data

    def same(self, got: bytes, at: int, length: int) -> None:
        wanted = self.model[at : at + length]
        if got != wanted:
            history = "\n".join(self.log[-25:])
            raise AssertionError(f"{first_difference(got, wanted)} (from {at})\n{history}")

    # --- operations ---

    def read(self) -> None:
        at, length = self.span(past_the_end=True)
        self.log.append(f"read {at} {length}")
        self.same(os.pread(self.fd, length, at), at, length)

    def write(self) -> None:
        at, length = self.span(past_the_end=True)
        self.log.append(f"write {at} {length}")
        data = self.data(length)
        assert os.pwrite(self.fd, data, at) == length
        self.put(at, data)

    def append(self) -> None:
        data = self.data(self.dice.randrange(1, 9_000))
        self.log.append(f"append {len(data)}")
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, data)
        os.close(fd)
        self.put(len(self.model), data)
        if len(self.model) > MOST:
            self.truncate()

    def truncate(self) -> None:
        size = self.dice.randrange(MOST) if self.dice.random() < 0.7 else len(self.model) // 2
        self.log.append(f"truncate {size}")
        if self.dice.random() < 0.5:
            os.ftruncate(self.fd, size)
        else:
            os.truncate(self.path, size)
        self.put(size, b"")
        del self.model[size:]

    def map_read(self) -> None:
        if not self.model:
            return
        at, length = self.span(past_the_end=False)
        self.log.append(f"map read {at} {length}")
        with mmap.mmap(self.fd, len(self.model), prot=mmap.PROT_READ) as view:
            self.same(view[at : at + length], at, length)

    def map_write(self) -> None:
        if not self.model:
            return
        at, length = self.span(past_the_end=False)
        self.log.append(f"map write {at} {length}")
        data = self.data(length)
        with mmap.mmap(self.fd, len(self.model)) as view:
            view[at : at + length] = data
            if self.dice.random() < 0.5:
                view.flush()
        self.put(at, data)

    def direct(self) -> None:
        at, length = self.span(past_the_end=True)
        at, length = at - at % PAGE, PAGE * (1 + length // PAGE)
        write = self.dice.random() < 0.5
        self.log.append(f"direct {'write' if write else 'read'} {at} {length}")
        fd = os.open(self.path, os.O_RDWR | os.O_DIRECT)
        with mmap.mmap(-1, length) as buffer:
            if write:
                buffer[:] = self.data(length)
                assert os.pwritev(fd, [buffer], at) == length
                self.put(at, buffer[:])
            else:
                got = os.preadv(fd, [buffer], at)
                self.same(buffer[:got], at, length)
        os.close(fd)

    def punch(self) -> None:
        at, length = self.span(past_the_end=True)
        self.log.append(f"punch {at} {length}")
        posix.fallocate(self.fd, posix.FALLOC_PUNCH_HOLE | posix.FALLOC_KEEP_SIZE, at, length)
        end = min(at + length, len(self.model))
        self.model[at:end] = bytes(max(0, end - at))

    def zero(self) -> None:
        """Sometimes past the end, which grows the file unless that is not wanted."""
        at, length = self.span(past_the_end=True)
        keep = self.dice.random() < 0.5
        self.log.append(f"zero {at} {length} keep {keep}")
        posix.fallocate(
            self.fd, posix.FALLOC_ZERO_RANGE | (posix.FALLOC_KEEP_SIZE if keep else 0), at, length
        )
        end = min(at + length, len(self.model)) if keep else at + length
        if end > at:
            self.put(at, bytes(end - at))

    def allocate(self) -> None:
        at, length = self.span(past_the_end=True)
        keep = self.dice.random() < 0.5
        self.log.append(f"allocate {at} {length} keep {keep}")
        posix.fallocate(self.fd, posix.FALLOC_KEEP_SIZE if keep else 0, at, length)
        if not keep:
            self.put(max(at + length, len(self.model)), b"")

    def let_go(self) -> None:
        """The kernel's pages of it go, and what the cache holds where that is asked for."""
        self.log.append("let go")
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        daemon = self.tree.daemon
        if daemon is not None and self.dice.random() < 0.3:
            daemon.call("cache.drop", path=str(self.path.relative_to(daemon.mount)))
        self.read()

    def seek(self) -> None:
        """What is said to be a hole reads as zeros."""
        at = self.dice.randrange(MOST)
        try:
            data = os.lseek(self.fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            data = len(self.model)
        self.log.append(f"seek {at}: {data}")
        assert not any(self.model[at:data]), "\n".join(self.log[-25:])

    def reopen(self) -> None:
        self.log.append("reopen")
        at = self.dice.randrange(OPEN_FDS)
        os.close(self.fds[at])
        flags = self.dice.choice([os.O_RDWR, os.O_RDWR | os.O_SYNC])
        self.fds[at] = os.open(self.path, flags)

    def close_all(self) -> None:
        """The kernel and the daemon may let go of everything here."""
        self.log.append("close all")
        for fd in self.fds:
            os.close(fd)
        self.fds = []
        self.same(self.path.read_bytes(), 0, MOST * 2)
        self.fds = [os.open(self.path, os.O_RDWR) for _ in range(OPEN_FDS)]

    def sync(self) -> None:
        self.log.append("sync")
        os.fsync(self.fd)
        got = self.source.read_bytes()
        self.same(got, 0, MOST * 2)

    def sizes(self) -> None:
        sizes = {os.fstat(fd).st_size for fd in self.fds} | {self.path.stat().st_size}
        assert sizes == {len(self.model)}, "\n".join(self.log[-25:])

    def copy(self) -> None:
        if not self.model:
            return
        at, length = self.span(past_the_end=False)
        to = self.dice.randrange(MOST)
        if abs(to - at) < length:  # overlapping ranges are refused
            return
        self.log.append(f"copy {at} {length} to {to}")
        done = os.copy_file_range(self.fd, self.fd, length, at, to)
        self.put(to, bytes(self.model[at : at + done]))

    def settle(self) -> None:
        """Let the file grow old enough to be cached, then read it: what follows meets a cached file."""
        self.log.append("settle")
        self.tree.settle()
        self.read()

    def finish(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.same(self.path.read_bytes(), 0, MOST * 2)
        self.same(self.source.read_bytes(), 0, MOST * 2)


WEIGHTS: dict[Callable[[Exerciser], None], int] = {
    Exerciser.read: 25, Exerciser.write: 20, Exerciser.append: 4, Exerciser.truncate: 8,
    Exerciser.map_read: 10, Exerciser.map_write: 8, Exerciser.direct: 8, Exerciser.punch: 3,
    Exerciser.reopen: 6, Exerciser.zero: 3, Exerciser.allocate: 3, Exerciser.let_go: 2, Exerciser.seek: 3,
    Exerciser.close_all: 3, Exerciser.sync: 3, Exerciser.settle: 2, Exerciser.sizes: 4, Exerciser.copy: 3,
}  # fmt: skip


DIRECT: dict[Callable[[Exerciser], None], int] = {
    Exerciser.direct: 50, Exerciser.truncate: 8, Exerciser.punch: 4, Exerciser.zero: 4, Exerciser.allocate: 4,
    Exerciser.map_read: 4, Exerciser.map_write: 4, Exerciser.close_all: 2, Exerciser.settle: 2,
    Exerciser.sizes: 4,
}  # fmt: skip


def exercise(
    fs: Tree,
    seed: int,
    steps: int,
    data: bytes = b"",
    *,
    weights: dict[Callable[[Exerciser], None], int] = WEIGHTS,
    files: int = 1,
    meanwhile: Callable[[int], None] | None = None,
) -> None:
    """In children, one for each of ``files``: a page that cannot be had is a SIGBUS. ``meanwhile`` is called
    over and over, with a number that counts up, until the first has ended."""

    def main(number: int) -> None:
        one = Exerciser(fs, seed + number, data, f"file{number}" if number else "file")
        for operation in one.dice.choices(list(weights), list(weights.values()), k=steps):
            operation(one)
        one.finish()

    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(posix.Child(partial(main, number))) for number in range(files)]
        turn = 0
        while meanwhile is not None and not children[0].answered:
            meanwhile(turn)
            turn += 1
        for child in children:
            child.wait(max(90, steps / 10))


@pytest.mark.parametrize("seed", range(3))
def test_random_operations(fs: Tree, seed: int) -> None:
    exercise(fs, seed, STEPS)


@pytest.mark.stress
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(100, 110))
def test_many_random_operations(fs: Tree, seed: int) -> None:
    exercise(fs, seed, 20_000)


@pytest.mark.parametrize("seed", range(3))
def test_random_operations_on_files_that_were_cached(fs: Tree, seed: int) -> None:
    """Starts from a file that the cache holds completely, where the fast path would serve the next open."""
    data = random.Random(seed).randbytes(MOST - 1)
    (fs.source / "file").write_bytes(data)
    fs.settle()
    assert (fs / "file").read_bytes() == data
    assert (fs / "file").read_bytes() == data
    exercise(fs, seed, STEPS // 2, data)


@pytest.mark.parametrize("seed", range(2))
def test_random_operations_by_direct_io(fs: Tree, seed: int) -> None:
    exercise(fs, seed, STEPS, weights=DIRECT)


@pytest.mark.parametrize("seed", range(2))
def test_two_files_at_once(fs: Tree, seed: int) -> None:
    exercise(fs, 10 * seed, STEPS // 2, files=2)


def emptied(own: Callable[..., Tree], seed: int, steps: int) -> None:
    """The cache has room for one file, and others are read: all that it holds is evicted, or dropped."""
    fs = own(options=["--chunk-size", "64KiB", "--cache-size", "1MiB"])
    other = random.Random(seed).randbytes(MOST)
    for number in range(4):
        (fs.source / f"other{number}").write_bytes(other)

    def others(turn: int) -> None:
        assert (fs / f"other{turn % 4}").read_bytes() == other
        if fs.daemon is not None and turn % 3 == 0:
            fs.daemon.call("cache.drop", path="")

    exercise(fs, seed, steps, files=2, meanwhile=others)


@pytest.mark.parametrize("seed", [1])
def test_while_the_cache_is_emptied(own: Callable[..., Tree], seed: int) -> None:
    emptied(own, seed, STEPS // 2)


@pytest.mark.stress
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", ["direct", "two", "emptied"])
def test_a_hundred_thousand_operations(fs: Tree, own: Callable[..., Tree], way: str) -> None:
    if way == "emptied":
        emptied(own, 200, 50_000)
    else:
        exercise(fs, 200, 100_000, weights=DIRECT if way == "direct" else WEIGHTS, files=1 + (way == "two"))
