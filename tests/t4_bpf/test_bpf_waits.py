"""How long readers wait: at least what the source takes, at most what the reader itself measures."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import gates, posix, tree
from support.mount import Daemon
from support.probes import PAGE, QUICK, Lab, Watched, probing
from support.slowfs import SlowFs
from swmld.patterns.feed import Wait

DELAY = 0.15  # seconds: what the source takes for one request when it is slow
CHUNK = 64 << 10
NONE = Wait(0.0, 0, 0.0, 0, 0.0, 0, 0.0, 0, (0,) * 24)


class Slow(Lab):
    """A directory whose source becomes slow on request."""

    def __init__(self, seen: Watched, name: str, source: SlowFs) -> None:
        self._slow = source
        super().__init__(seen, name)

    def wait_of(self, work: Callable[[], object], slow: str = "read") -> tuple[int, Wait, float]:
        """A process that does ``work`` on a source that is slow to ``slow`` (read, meta): its pid, its waits,
        and how long it took."""

        def run() -> float:
            begun = time.monotonic()
            work()
            return time.monotonic() - begun

        self._slow.set(f"delay-{slow}", DELAY * 1000)
        try:
            with posix.Child(run) as child:
                took: float = child.wait()
        finally:
            self._slow.set(f"delay-{slow}", 0)
        self.seen.settle()
        return child.pid, self.seen.waits.get(child.pid, NONE), took


@pytest.fixture(scope="module", params=["passthrough", "native", "python"])
def slow_daemon(request: pytest.FixtureRequest, compiled: Path) -> Iterator[tuple[Watched, SlowFs]]:
    gates.require("bpf")
    tree.require_mode(request.param)
    with tree.work_dir() as base:
        backing = base / "backing"
        backing.mkdir()
        options = [*probing(base, state=compiled), "--chunk-size", "64KiB"]
        options += ["--neighbours", "off", "--readahead-max", "0"]
        with (
            SlowFs(base, backing) as slow,
            Daemon(base, request.param, source=slow.path, options=options, wrap=QUICK) as daemon,
            Watched(daemon) as seen,
        ):
            yield seen, slow


_names = iter(range(1, 1000))


@pytest.fixture
def lab(slow_daemon: tuple[Watched, SlowFs]) -> Iterator[Slow]:
    seen, slow = slow_daemon
    yield Slow(seen, f"t{next(_names)}", slow)
    seen.daemon.check_log()


def read_page(lab: Slow, name: str, page: int) -> None:
    fd = os.open(lab / name, os.O_RDONLY)
    try:
        assert len(os.pread(fd, PAGE, page * PAGE)) == PAGE
    finally:
        os.close(fd)


def test_a_read_waits_for_the_source(lab: Slow) -> None:
    """One page of a large file that the cache does not have: a chunk is fetched, which is one slow read."""
    lab.make("large", size=8 * CHUNK, cached=False)
    pid, wait, took = lab.wait_of(lambda: read_page(lab, "large", 50))
    assert DELAY <= wait.wait <= took
    assert wait.waits >= 1
    assert sum(wait.histogram) == wait.waits
    assert sum(wait.histogram[17:]) >= 1  # one of 131 ms or more
    stream = lab.seen.stream(f"{lab.name}/large", pid)
    assert (stream.reads, stream.cold) == (1, 1)
    assert DELAY <= stream.wait <= took


def test_the_first_read_of_a_small_file_waits_in_open(lab: Slow) -> None:
    """It is fetched whole before it is open, so that the kernel can read it without the daemon."""
    lab.make("small", size=PAGE, cached=False)
    _, wait, took = lab.wait_of(lambda: (lab / "small").read_bytes())
    assert DELAY <= wait.meta + wait.wait <= took
    assert wait.meta >= DELAY
    assert wait.metas >= 1


def test_what_the_page_cache_has_is_not_waited_for(lab: Slow) -> None:
    lab.make("file", size=4 * CHUNK)
    (lab / "file").read_bytes()
    pid, wait, _ = lab.wait_of(lambda: read_page(lab, "file", 3))
    assert (wait.wait, wait.waits) == (0.0, 0)
    assert lab.seen.stream(f"{lab.name}/file", pid).wait == 0.0


def test_a_fault_waits_for_the_source(lab: Slow) -> None:
    lab.make("large", size=8 * CHUNK, cached=False)

    def touch() -> None:
        with (lab / "large").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as map_:
            assert len(map_[50 * PAGE : 50 * PAGE + 1]) == 1

    pid, wait, took = lab.wait_of(touch)
    assert DELAY <= wait.wait <= took
    stream = lab.seen.stream(f"{lab.name}/large", pid)
    assert stream.cold == 1
    assert DELAY <= stream.wait <= took


def test_what_is_waited_for_before_the_first_read_counts(lab: Slow) -> None:
    """Names that are not known yet are asked of the source, which takes its time."""
    lab.make(*(f"file{number}" for number in range(5)), cached=False)

    def work() -> None:
        for number in range(5):
            assert (lab / f"file{number}").stat().st_size
        read_page(lab, "file0", 0)

    _, wait, took = lab.wait_of(work, "meta")
    assert wait.metas >= 6  # five lookups and an open
    assert 5 * DELAY <= wait.meta <= took


def test_who_only_asks_for_names_is_no_reader(lab: Slow) -> None:
    lab.make("file", cached=False)
    pid, wait, _ = lab.wait_of(lambda: (lab / "file").stat())
    assert wait == NONE
    assert pid not in lab.seen.pids(f"{lab.name}/file")


def test_who_only_writes_waits_for_names_and_writes(lab: Slow) -> None:
    if lab.mode == "passthrough":
        pytest.skip("what is passed through to a source that is FUSE itself makes no page dirty")

    def work() -> None:
        with (lab / "out").open("wb", buffering=0) as file:
            for _ in range(7):
                file.write(bytes(PAGE))

    pid, wait, took = lab.wait_of(work)
    assert wait.metas >= 2  # lookup, create
    assert wait.writes == 7
    assert wait.meta + wait.write <= took
    assert lab.seen.stream(f"{lab.name}/out", pid).written == 7 * PAGE
