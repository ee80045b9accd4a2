"""Known workloads give exact counts, in each serving mode: of reads, pages, faults, misses and files."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
from support import posix
from support.probes import PAGE, Lab, Stream
from support.ways import (
    AROUND,
    BLOCKS,
    WAYS,
    by_odd_sizes,
    by_pread,
    by_read,
    by_uring,
    by_uring_workers,
    mapped,
    opened,
    placed,
    present,
)
from swmld.observe.mapped import FOLIO
from swmld.patterns.feed import TouchFlag, TouchKind


@pytest.mark.parametrize(("read", "reads"), WAYS, ids=[read.__name__ for read, _ in WAYS])
@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
def test_every_way_to_read(lab: Lab, read: Callable[[Path], None], reads: int, warm: bool) -> None:
    if read is by_odd_sizes and not warm:
        pytest.skip(
            "short reads that end in one page look like pieces of one that waited: bpf/books.h, goes_on"
        )
    lab.make("data")
    if warm:
        posix.run(lambda: by_read(lab / "data"))  # by another process
    else:
        lab.drop("data")
    read(lab / "data")
    stream = lab.stream("data")
    assert stream.reads == reads
    assert stream.faults == stream.direct == 0
    if read not in (by_uring, by_uring_workers):  # a page that has to come is asked for twice, in any order
        assert (
            stream.pages <= BLOCKS
        )  # cold: the kernel is silent on a piece that ends before a page under way
    if warm and read is not by_uring_workers:  # they begin in any order
        assert stream.pages == BLOCKS
        assert stream.sequential + stream.same == reads - 1
        assert stream.kinds() == [TouchKind.FIRST, TouchKind.KIND][: reads - 1]


def test_dd_of_23_blocks(lab: Lab) -> None:
    lab.make("data")
    subprocess.run(["dd", f"if={lab / 'data'}", "of=/dev/null", f"bs={PAGE}", "status=none"], check=True)
    stream = lab.stream("data", lab.pid("data"))
    assert (stream.reads, stream.pages, stream.sequential) == (BLOCKS, BLOCKS, BLOCKS - 1)


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "cold"])
def test_large_reads_come_in_pieces_and_count_once(lab: Lab, cached: bool) -> None:
    lab.make("data", pages=1024)
    if cached:
        posix.run(lambda: (lab / "data").read_bytes())
    else:
        lab.drop("data")
    with opened(lab / "data") as fd:
        for offset in range(0, 1024 * PAGE, 256 * PAGE):
            assert len(os.pread(fd, 256 * PAGE, offset)) == 256 * PAGE
    stream = lab.stream("data")
    assert stream.reads == 4
    if cached:
        assert (stream.pages, stream.sequential) == (1024, 3)


def test_large_reads_at_random_count_once(lab: Lab) -> None:
    lab.make("data", pages=1024)
    posix.run(lambda: (lab / "data").read_bytes())
    places = [512, 0, 768, 256, 640, 128]
    with opened(lab / "data") as fd:
        for page in places:
            assert len(os.pread(fd, 100 * PAGE, page * PAGE)) == 100 * PAGE
    stream = lab.stream("data")
    assert (stream.reads, stream.pages, stream.random) == (6, 600, 5)
    assert stream.cursors[0].early[:6] == tuple(places)


def test_direct_reads_as_fuse_sees_them(lab: Lab) -> None:
    lab.make("data")
    buffer = mmap.mmap(-1, 4 * PAGE)
    with opened(lab / "data", os.O_RDONLY | os.O_DIRECT) as fd:
        for block in range(0, 20, 4):
            assert os.preadv(fd, [buffer], block * PAGE) == 4 * PAGE
    stream = lab.stream("data")
    assert (stream.reads, stream.direct, stream.pages) == (5, 5, 20)
    assert stream.touches[0].flags == TouchFlag.DIRECT


def test_threads_are_folded_into_their_process(lab: Lab) -> None:
    """The first two reads are apart: reads count atomically from when a second thread was seen (SWP_ADD)."""
    lab.make("data", pages=258)

    def part(number: int) -> None:
        with opened(lab / "data") as fd:
            for page in range(64 * number, 64 * (number + 1)):
                os.pread(fd, PAGE, page * PAGE)

    def one(page: int) -> None:
        with opened(lab / "data") as fd:
            os.pread(fd, PAGE, page * PAGE)

    one(256)
    apart = threading.Thread(target=one, args=[257])
    apart.start()
    apart.join()
    threads = [threading.Thread(target=part, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stream = lab.stream("data")
    assert stream.reads == 258
    assert lab.seen.pids(f"{lab.name}/data") == {os.getpid()}


# --- pages of the page cache that are there, and that are not ---


def test_cold_and_cached_reads(lab: Lab) -> None:
    """Far apart, so that the kernel reads nothing ahead."""
    lab.make("data", pages=1024)
    lab.drop("data")
    for times in (1, 2):
        with opened(lab / "data") as fd:
            for page in range(64, 1024, 128):
                os.pread(fd, PAGE, page * PAGE)
        stream = lab.stream("data")
        assert (stream.reads, stream.cold, stream.partial) == (8 * times, 8, 0)


@pytest.mark.parametrize("pages", [2, 4, 64])
def test_partly_cached_reads(lab: Lab, pages: int) -> None:
    """The first page of the second read is there, the next is not."""
    lab.make("data", pages=1024)
    lab.drop("data")
    with opened(lab / "data") as fd:
        os.pread(fd, PAGE, 300 * PAGE)
        os.pread(fd, pages * PAGE, 300 * PAGE)
    stream = lab.stream("data")
    assert (stream.reads, stream.cold, stream.partial) == (2, 1, 1)
    assert stream.touches[0].flags == TouchFlag.COLD


def test_sequential_cold_reads_wait_once_a_window(lab: Lab) -> None:
    """Readahead is always ahead of one who reads page by page; only the first one is a miss."""
    lab.make("data", pages=256)
    lab.drop("data")
    with opened(lab / "data") as fd:
        for page in range(256):
            os.pread(fd, PAGE, page * PAGE)
    stream = lab.stream("data")
    assert (stream.reads, stream.pages, stream.cold, stream.partial) == (256, 256, 1, 0)


# --- mappings ---


def touches(
    lab: Lab, order: Iterable[int], pages: int, *, warm: bool, advice: int | None = None
) -> tuple[Stream, list[int]]:
    """What is told of a mapping whose pages are touched in this order, and at which of them it faulted."""
    lab.make("data", pages=pages)
    # Also before it is read: writing leaves folios of any size in the page cache, which faults map whole.
    lab.drop("data")
    if warm:
        posix.run(lambda: (lab / "data").read_bytes())
    with mapped(lab / "data", pages, advice) as touch:
        faults = [page for page in order if touch(page)]
    return lab.stream("data"), faults


def windows(order: Iterable[int]) -> list[int]:
    """The first touch of a window maps all of it that is in the page cache."""
    return list(dict.fromkeys(page // AROUND for page in order))


ORDERS = {
    "in order": range(128),
    "in stride": range(5, 128, 32),
    "at random": random.Random(1).sample(range(128), 128),
    "a few": [100, 3, 101, 40, 4],
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_mapped_pages_in_the_page_cache(lab: Lab, order: list[int]) -> None:
    stream, faults = touches(lab, order, 128, warm=True)
    touched = windows(order)
    assert stream.reads == stream.faults == len(faults) == len(touched)
    assert stream.pages == AROUND * len(faults)
    assert stream.cold == stream.partial == 0
    assert list(stream.cursors[0].early[: len(faults)]) == [AROUND * window for window in touched]
    assert all(touch.flags & TouchFlag.FAULT for touch in stream.touches)


LARGE = 1500
"""Pages of a file of which a fault maps more than its window, where the page cache has it in large folios."""

LARGE_ORDERS = {
    "in order": range(LARGE),
    "in reverse": range(LARGE - 1, -1, -1),
    "at random": random.Random(2).sample(range(LARGE), 40),
}


@pytest.mark.parametrize("order", LARGE_ORDERS.values(), ids=LARGE_ORDERS)
@pytest.mark.parametrize("large", [True, False], ids=["as it was fetched", "as it was read"])
def test_mapped_pages_of_large_folios(lab: Lab, order: Sequence[int], large: bool) -> None:
    """All of a folio is mapped by the first touch of it (kernel 6.18)."""
    lab.make("data", pages=LARGE)
    if not large:
        lab.drop("data")
    posix.run(lambda: by_read(lab / "data"))
    faults = 0
    with placed(lab / "data", LARGE) as at, opened(Path("/proc/self/pagemap")) as table:
        for page in order:
            place = at + page * PAGE
            faults += not present(table, place, 1)
            ctypes.string_at(place, 1)
        pages = present(table, at, LARGE)
    stream = lab.stream("data")
    assert (stream.faults, stream.reads, stream.pages) == (faults, faults, pages)
    if isinstance(order, range):
        assert stream.sequential + stream.reverse == faults - 1


def in_large_folios(path: Path, pages: int) -> None:
    """Into the page cache in folios of 2 MiB, whatever the host reads ahead."""
    libc = ctypes.CDLL(None, use_errno=True)
    with placed(path, pages) as at:
        assert libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(pages * PAGE), mmap.MADV_HUGEPAGE) == 0
        for page in range(0, pages, FOLIO):
            ctypes.string_at(at + page * PAGE, 1)


HUGE_ORDERS = {
    "in order": range(4 * FOLIO + 300),
    "a few": [3 * FOLIO + 7, 40, 3 * FOLIO + 8, FOLIO],
}


@pytest.mark.parametrize("order", HUGE_ORDERS.values(), ids=HUGE_ORDERS)
def test_mapped_pages_of_huge_folios(lab: Lab, order: Sequence[int]) -> None:
    """They are mapped by one entry each, and no event tells it: page tables are looked into."""
    pages = 4 * FOLIO + 300
    lab.make("data", pages=pages)
    lab.drop("data")
    posix.run(lambda: in_large_folios(lab / "data", pages))
    posix.run(lambda: by_read(lab / "data"))
    faults = huge = 0
    with placed(lab / "data", pages) as at, opened(Path("/proc/self/pagemap")) as table:
        for page in order:
            place, before = at + page * PAGE, present(table, at, pages)
            ctypes.string_at(place, 1)
            found = present(table, at, pages)
            faults += found > before
            huge += found - before == FOLIO
        lab.seen.wait_for(lambda: lab.pages("data") >= found, "what is mapped was not told")
    if lab.mode == "passthrough" and not huge:
        pytest.skip("this file system has no folios of 2 MiB")
    stream = lab.stream("data")
    assert (stream.faults, stream.reads, stream.pages) == (faults, faults, found)
    if isinstance(order, range):
        assert stream.random == stream.strided == 0


@pytest.mark.parametrize("order", [range(32), range(5, 32, 16)], ids=["in order", "in stride"])
def test_mapped_pages_that_come_by_readahead(lab: Lab, order: range) -> None:
    """The first touch reads 128 KiB or more around it, and counts once, though the kernel faults twice.

    Of what it reads it maps the pages that have come by then; the others fault when they are touched.
    """
    stream, faults = touches(lab, order, 32, warm=False)
    assert len(faults) >= 2
    assert stream.reads == stream.faults == len(faults)
    assert stream.cold >= 1  # more, where a touch finds its page still under way


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_mapped_pages_one_by_one(lab: Lab, order: list[int]) -> None:
    """With MADV_RANDOM each touch of a page that is not there is a fault, a miss, and one page read."""
    stream, faults = touches(lab, order, 128, warm=False, advice=mmap.MADV_RANDOM)
    assert faults == list(order)
    assert stream.reads == stream.faults == stream.cold == len(order)


@pytest.mark.parametrize("between", [False, True], ids=["at once", "after a sleep"])
def test_a_sleep_after_another_file_tears_no_read_of_this_one(lab: Lab, between: bool) -> None:
    """Who starts a program sleeps until it runs, as who waits for a page does: that is noted for the file
    that was read before, and for no other."""
    lab.make("before", "data")
    posix.run(lambda: [by_pread(lab / name) for name in ("before", "data")])
    (lab / "before").read_bytes()
    if between:
        subprocess.run(["true"], check=True)  # by vfork
    by_odd_sizes(lab / "data")
    stream = lab.stream("data")
    assert (stream.reads, stream.pages) == (-(-BLOCKS * PAGE // 1000), BLOCKS)


# --- files, passes ---


def test_a_prime_number_of_files_each_seen_once(lab: Lab) -> None:
    names = [f"{number:03}" for number in range(211)]
    lab.make(*names, size=10_000)
    for name in names:
        (lab / name).read_bytes()
    lab.seen.settle()
    for name in names:
        (touch,) = lab.seen.stream(f"{lab.name}/{name}").touches
        assert (touch.kind, touch.first, touch.last, touch.size) == (TouchKind.FIRST, 0, 2, 3)
        assert touch.flags & TouchFlag.WHOLE
    assert {path for path in lab.seen.paths() if path.startswith(f"{lab.name}/")} == {
        f"{lab.name}/{name}" for name in names
    }
    for name in names:
        (lab / name).read_bytes()
    lab.seen.settle()
    for name in names:
        stream = lab.seen.stream(f"{lab.name}/{name}")
        assert stream.kinds() == [TouchKind.FIRST, TouchKind.PASS]
        assert (stream.reads, stream.pages, stream.passes) == (2, 6, 1)


def test_files_whose_cache_files_get_one_inode_number_after_another(lab: Lab) -> None:
    """As those of files that are evicted do: each file is read once, and shown with its own reads."""
    names = [f"{number:02}" for number in range(12)]
    lab.make(*names, cached=False)
    numbers, before = set[int](), lab.cache_files()
    for name in names:
        lab.daemon.call("warmup", paths=[f"{lab.name}/{name}"])
        numbers |= lab.cache_files() - before
        by_pread(lab / name)
        lab.daemon.call("cache.drop", path=f"{lab.name}/{name}")
    if len(numbers) == len(names):
        pytest.skip("this file system uses no inode number again so soon")
    lab.seen.settle()
    for name in names:
        stream = lab.seen.stream(f"{lab.name}/{name}")
        assert stream.kinds() == [TouchKind.FIRST, TouchKind.KIND]
        assert (stream.reads, stream.pages, stream.passes) == (BLOCKS, BLOCKS, 0)


def test_files_that_get_one_inode_number_after_another(lab: Lab) -> None:
    """As checkpoints do that replace each other: the last one is shown with what was read and written of it
    alone. Both began in one tick of the clock, or nearly so."""
    numbers = []
    for _ in range(8):
        (lab / "new").write_bytes(os.urandom(BLOCKS * PAGE))
        (lab / "new").rename(lab / "data")
        by_pread(lab / "data")
        numbers.append((lab / "data").stat().st_ino)
    if numbers[-1] not in numbers[:-1]:
        pytest.skip("this file system uses no inode number again so soon")
    stream = lab.stream("data")
    assert stream.kinds() == [TouchKind.FIRST, TouchKind.KIND]
    assert (stream.reads, stream.pages, stream.passes) == (BLOCKS, BLOCKS, 0)
    assert stream.written == BLOCKS * PAGE


def test_what_is_elsewhere_is_not_seen(lab: Lab, tmp_path: Path) -> None:
    lab.make("data")
    beside = lab.daemon.base / "beside"  # on the disk of source and cache
    memory = Path("/dev/shm") / f"swmld-test-{os.getpid()}"
    before = lab.seen.paths()
    try:
        for path in (beside, memory):
            path.write_bytes(bytes(BLOCKS * PAGE))
            by_pread(path)
        by_pread(lab.source / "data")  # the source itself, not through the mount
        lab.seen.settle()
        assert lab.seen.paths() == before
    finally:
        memory.unlink(missing_ok=True)


def test_the_daemon_is_not_seen_to_read(lab: Lab) -> None:
    lab.make("data", pages=512, cached=False)
    by_pread(lab / "data")
    lab.daemon.call("warmup", paths=[lab.name])
    lab.daemon.call("cache.verify", path=lab.name)
    lab.seen.settle()
    assert lab.seen.pids(f"{lab.name}/data") == {os.getpid()}
