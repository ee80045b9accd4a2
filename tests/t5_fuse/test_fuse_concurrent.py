"""Many readers and writers at once, in threads and processes, on cold, warm and changing files."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from support import posix
from support.compare import first_difference
from support.tree import Tree

CHUNK = 65_536
RECORD = 4_096


def content(name: str, size: int) -> bytes:
    return random.Random(name).randbytes(size)


def read_randomly(path: Path, wanted: bytes, seed: int, times: int) -> None:
    dice = random.Random(seed)
    fd = os.open(path, os.O_RDONLY)
    for _ in range(times):
        at, length = dice.randrange(len(wanted)), dice.randrange(1, 3 * CHUNK)
        got = os.pread(fd, length, at)
        assert got == wanted[at : at + length], (
            f"{path.name} at {at}: {first_difference(got, wanted[at : at + length])}"
        )
    os.close(fd)


@pytest.fixture
def small_chunks(own: Callable[..., Tree]) -> Tree:
    return own(options=["--chunk-size", "64KiB"])


def test_many_processes_read_one_cold_file(small_chunks: Tree) -> None:
    """As DataLoader workers do with one shard: all want the same chunks at once."""
    wanted = content("shard", 40 * CHUNK + 77)
    (small_chunks.source / "shard").write_bytes(wanted)
    small_chunks.settle()
    children = [
        posix.Child(partial(read_randomly, small_chunks / "shard", wanted, seed, 60)) for seed in range(8)
    ]
    for child in children:
        child.wait()


def test_one_fetch_for_all_readers(small_chunks: Tree) -> None:
    """However many want it: what the source gives is the file once, give or take readahead past the end."""
    if small_chunks.daemon is None:
        pytest.skip("needs a daemon")
    wanted = content("shard", 40 * CHUNK)
    (small_chunks.source / "shard").write_bytes(wanted)
    small_chunks.settle()
    children = [
        posix.Child(partial(read_randomly, small_chunks / "shard", wanted, seed, 60)) for seed in range(8)
    ]
    for child in children:
        child.wait()
    fetched = small_chunks.daemon.metric("swmld_fetched_bytes_total")
    assert 0 < fetched <= len(wanted)


def test_threads_open_many_small_files(small_chunks: Tree) -> None:
    names = [f"{number}" for number in range(300)]
    for name in names:
        (small_chunks.source / name).write_bytes(content(name, 1 + int(name) * 307 % 90_000))

    small_chunks.settle()

    def work(seed: int) -> None:
        dice = random.Random(seed)
        for name in dice.sample(names, len(names)):
            assert (small_chunks / name).read_bytes() == content(name, 1 + int(name) * 307 % 90_000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_readers_and_writers_of_records(fs: Tree) -> None:
    """Writers replace whole records at random; a reader may see an old or a new record, never a mixture."""
    records = 200
    fd = os.open(fs / "table", os.O_CREAT | os.O_RDWR)
    for number in range(records):
        os.pwrite(fd, bytes([number % 251]) * RECORD, number * RECORD)

    def write(seed: int) -> None:
        dice = random.Random(seed)
        own = os.open(fs / "table", os.O_RDWR)
        for _ in range(400):
            number = dice.randrange(records)
            os.pwrite(own, bytes([dice.randrange(251)]) * RECORD, number * RECORD)
        os.close(own)

    def read(seed: int) -> None:
        dice = random.Random(seed)
        own = os.open(fs / "table", os.O_RDONLY)
        for _ in range(400):
            # Aligned to a page, which the kernel locks whole: on the disk this holds as well.
            data = os.pread(own, RECORD, dice.randrange(records) * RECORD)
            assert data == data[:1] * RECORD
        os.close(own)

    children = [posix.Child(partial(write, seed)) for seed in range(3)]
    children += [posix.Child(partial(read, seed)) for seed in range(3)]
    for child in children:
        child.wait()
    os.close(fd)
    assert (fs / "table").read_bytes() == (fs.source / "table").read_bytes()


def test_writers_of_their_own_parts(fs: Tree) -> None:
    """Several processes fill one file, each its own part, as a parallel download does."""
    part, parts = 150_001, 6

    def write(number: int) -> None:
        data = content(str(number), part)
        own = os.open(fs / "whole", os.O_CREAT | os.O_RDWR)
        for at in range(0, part, 10_007):
            os.pwrite(own, data[at : at + 10_007], number * part + at)
            assert os.pread(own, 100, number * part + at) == data[at : at + 100]
        os.close(own)

    children = [posix.Child(partial(write, number)) for number in range(parts)]
    for child in children:
        child.wait()
    wanted = b"".join(content(str(number), part) for number in range(parts))
    assert (fs / "whole").read_bytes() == wanted
    assert (fs.source / "whole").read_bytes() == wanted


def test_opens_race_with_writers(fs: Tree) -> None:
    """Readers open and close a cached file all the time while writers come and go: no open may fail."""
    wanted = content("file", 100_000)
    (fs / "file").write_bytes(wanted)
    fs.settle()
    (fs / "file").read_bytes()

    def read(seed: int) -> None:
        for _ in range(150):
            assert (fs / "file").read_bytes() == wanted

    def write(seed: int) -> None:
        for _ in range(150):
            own = os.open(fs / "file", os.O_RDWR)
            os.pwrite(own, wanted[:10], 0)
            os.close(own)

    children = [posix.Child(partial(work, seed)) for work in (read, read, write, write) for seed in (1,)]
    for child in children:
        child.wait()


def test_a_file_that_is_rewritten(fs: Tree) -> None:
    """Cut off and written again all the time: readers find nothing or a byte that somebody wrote, no zero."""
    file = fs / "file"
    file.write_bytes(b"1")

    def write(seed: int) -> None:
        for _ in range(300):
            file.write_bytes(b"%d" % seed)

    def read(seed: int) -> None:
        for _ in range(1000):
            assert file.read_bytes() in (b"", b"1", b"2")

    children = [posix.Child(partial(work, seed)) for work in (read, write) for seed in (1, 2)]
    for child in children:
        child.wait()


def test_names_race(fs: Tree) -> None:
    """Create, rename and remove the same few names from several processes: each answer is a sensible one.

    A page that is read while its file is cut comes from FUSE with fewer bytes, and the kernel fills it with
    zeros (fuse_short_read in fs/fuse/file.c). Where another process writes the file before the reader looks
    at its size, it gets them: once in 10,000 reads here, and of any FUSE file system (seen of slowfs.c, too).
    What is passed through has no such pages.
    """
    seen = {b"", b"0", b"1", b"2", b"3"} | ({b"\0"} if fs.mode != "passthrough" else set())

    def work(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(300):
            one, two = (fs / str(dice.randrange(4)) for _ in "ab")
            try:
                action = dice.randrange(4)
                if action == 0:
                    one.write_bytes(b"%d" % seed)
                elif action == 1:
                    one.rename(two)
                elif action == 2:
                    one.unlink()
                else:
                    assert one.read_bytes() in seen
            except FileNotFoundError:
                pass

    children = [posix.Child(partial(work, seed)) for seed in range(4)]
    for child in children:
        child.wait()
    assert sorted(os.listdir(fs.path)) == sorted(os.listdir(fs.source))


def test_eviction_under_readers(own: Callable[..., Tree]) -> None:
    """A cache of 2 MiB under readers of 6 MiB: everything is evicted all the time, nothing is read wrong."""
    tree = own(options=["--chunk-size", "64KiB", "--cache-size", "2MiB"])
    names = [f"{number}" for number in range(24)]
    for name in names:
        (tree.source / name).write_bytes(content(name, 4 * CHUNK - int(name)))
    tree.settle()

    def work(seed: int) -> None:
        dice = random.Random(seed)
        for name in dice.choices(names, k=60):
            assert (tree / name).read_bytes() == content(name, 4 * CHUNK - int(name))

    children = [posix.Child(partial(work, seed)) for seed in range(4)]
    for child in children:
        child.wait()
    if tree.daemon is not None:
        assert tree.daemon.status()["cache"]["bytes"] <= 2 << 20
        assert tree.daemon.metric("swmld_evictions_total") > 0


def test_two_thousand_open_files(small_chunks: Tree) -> None:
    """2,000 files open at once, each read at several places, then all closed."""
    for number in range(2_000):
        (small_chunks.source / f"{number}").write_bytes(content(str(number), 5_000))
    small_chunks.settle()
    fds = [os.open(small_chunks / f"{number}", os.O_RDONLY) for number in range(2_000)]
    stop = threading.Event()

    def work(seed: int) -> None:
        dice = random.Random(seed)
        for number in dice.sample(range(2_000), 2_000):
            if stop.is_set():
                return
            assert os.pread(fds[number], 5_000, 1_000) == content(str(number), 5_000)[1_000:]

    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
    finally:
        stop.set()
        for fd in fds:
            os.close(fd)
