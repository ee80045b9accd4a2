"""The same counts by formatted tracepoints, which tell no sizes of files: see ``bpf/README.md``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import gates, posix, tree
from support.mount import Daemon
from support.probes import PAGE, QUICK, Lab, Watched, probing
from support.ways import AROUND, BLOCKS, WAYS, by_pread, by_uring_workers, mapped
from swmld.patterns.feed import TouchFlag, TouchKind

TICK = 0.02  # seconds: longer than one of the coarse clock's


@pytest.fixture(scope="module", params=["passthrough", "native"])
def watched(request: pytest.FixtureRequest, compiled: Path) -> Iterator[Watched]:
    gates.require("bpf")
    tree.require_mode(request.param)
    with (
        tree.work_dir() as base,
        Daemon(
            base, request.param, options=probing(base, "tracepoint", compiled / "tracepoint"), wrap=QUICK
        ) as daemon,
        Watched(daemon, "tracepoint") as seen,
    ):
        yield seen
        assert seen.snapshot()["probe"]["lost"] == {"events": 0, "cursors": 0, "processes": 0}


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
def test_23_blocks(lab: Lab, warm: bool) -> None:
    lab.make("data")
    if warm:
        posix.run(lambda: by_pread(lab / "data"))  # by another process
    else:
        lab.drop("data")
    by_pread(lab / "data")
    stream = lab.stream("data")
    assert (stream.reads, stream.pages, stream.sequential) == (BLOCKS, BLOCKS, BLOCKS - 1)
    assert stream.faults == stream.direct == 0
    assert stream.kinds() == [TouchKind.FIRST, TouchKind.KIND]
    assert bool(stream.cold) != warm
    assert stream.touches[0].size == 0  # not known


EXACT = [(read, reads) for read, reads in WAYS if read is not by_uring_workers]


@pytest.mark.parametrize(("read", "reads"), EXACT, ids=[read.__name__ for read, _ in EXACT])
def test_every_way_to_read(lab: Lab, read: Callable[[Path], None], reads: int) -> None:
    """Warm, as in test_bpf_counts. A read that goes beyond the end counts pages up to what it asked for."""
    lab.make("data")
    posix.run(lambda: by_pread(lab / "data"))
    read(lab / "data")
    stream = lab.stream("data")
    assert stream.reads == reads
    assert BLOCKS <= stream.pages <= BLOCKS + 16


def test_mapped_pages_in_order(lab: Lab) -> None:
    lab.make("data", pages=128)
    lab.drop("data")
    posix.run(lambda: (lab / "data").read_bytes())
    with mapped(lab / "data", 128, None) as touch:
        for page in range(128):
            touch(page)
    stream = lab.stream("data")
    assert stream.reads == stream.faults == 128 // AROUND
    assert (stream.pages, stream.cold, stream.partial) == (128, 0, 0)
    assert all(one.flags & TouchFlag.FAULT for one in stream.touches)


def test_a_prime_number_of_files_each_seen_once_and_once_more(lab: Lab) -> None:
    """Files of three pages. None is called whole, and its counters tell the second epoch."""
    names = [f"{number:03}" for number in range(211)]
    lab.make(*names, size=3 * PAGE)

    def epoch() -> None:
        for name in names:
            fd = os.open(lab / name, os.O_RDONLY)
            assert len(os.pread(fd, 3 * PAGE, 0)) == 3 * PAGE
            os.close(fd)

    epoch()
    lab.seen.settle()
    for name in names:
        (touch,) = lab.seen.stream(f"{lab.name}/{name}").touches
        assert (touch.kind, touch.first, touch.last, touch.size) == (TouchKind.FIRST, 0, 2, 0)
        assert not touch.flags & TouchFlag.WHOLE
    assert {path for path in lab.seen.paths() if path.startswith(f"{lab.name}/")} == {
        f"{lab.name}/{name}" for name in names
    }
    time.sleep(TICK)
    epoch()
    lab.seen.settle()
    for name in names:
        stream = lab.seen.stream(f"{lab.name}/{name}")
        assert stream.kinds() == [TouchKind.FIRST, TouchKind.PASS]
        assert (stream.reads, stream.pages, stream.passes) == (2, 6, 1)


def test_what_is_elsewhere_and_the_daemon_are_not_seen(lab: Lab) -> None:
    before = lab.seen.paths()
    beside = lab.daemon.base / "beside"
    beside.write_bytes(bytes(BLOCKS * PAGE))
    by_pread(beside)
    lab.make("data")
    lab.daemon.call("cache.verify", path=lab.name)
    lab.seen.settle()
    assert lab.seen.paths() == before


def test_writes_that_fuse_sees_are_counted_by_process(lab: Lab) -> None:
    """Not by file, and not where they are passed through: no device is told."""

    def work() -> None:
        with (lab / "out").open("wb", buffering=0) as file:
            for _ in range(7):
                file.write(bytes(PAGE))

    with posix.Child(work) as child:
        child.wait()
    lab.seen.settle()
    if lab.mode == "passthrough":
        assert child.pid not in lab.seen.waits
    else:
        assert lab.seen.waits[child.pid].writes == 7
    assert lab.seen.paths().isdisjoint({f"{lab.name}/out"})
