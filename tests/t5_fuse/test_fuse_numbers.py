"""What the daemon says it did: counters move with reads, hits, fetches, writes and errors."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator

import pytest
from support.mount import Daemon, total
from support.tree import DISK, Tree, modes, require_mode, work_dir

CHUNK = 65_536
SIZE = 6 * CHUNK
OPTIONS = ["--chunk-size", "64KiB", "--readahead-max", "0", "--neighbours", "off"]

_numbers = itertools.count(1)


class Counted:
    """One cold file in a daemon that the module's tests share, and what was counted before it came."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon, self.name = daemon, f"name{next(_numbers)}"
        self.path, self.source = daemon.mount / self.name, daemon.source / self.name
        self.source.write_bytes(random.Random(1).randbytes(SIZE))
        Tree(daemon.mount, daemon.source, daemon.mode, daemon).settle()
        self._before = daemon.metrics()

    def metric(self, name: str, **labels: str) -> float:
        """How much it has grown."""
        now = self.daemon.metrics()
        return total(now, name, **labels) - total(self._before, name, **labels)


@pytest.fixture(scope="module", params=[mode for mode in modes() if mode != DISK])
def served(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """In each mode, a daemon that fetches what is read and nothing else."""
    require_mode(request.param)
    with work_dir() as base, Daemon(base, request.param, options=OPTIONS) as daemon:
        yield daemon


@pytest.fixture
def cold(served: Daemon) -> Counted:
    return Counted(served)


def test_cold_reads_count_as_fetches(cold: Counted) -> None:
    cold.path.read_bytes()
    assert cold.metric("swmld_fetched_bytes_total") == SIZE
    assert cold.metric("swmld_fetches_total") == SIZE / CHUNK
    assert cold.metric("swmld_fetch_duration_seconds_count") == SIZE / CHUNK
    # A cached file counts with what it costs on the disk, a block more than its bytes.
    assert SIZE <= cold.metric("swmld_cache_bytes") <= SIZE + 8_192
    assert cold.metric("swmld_cache_files") == 1
    assert cold.metric("swmld_reads_total", how="miss") > 0


def test_warm_reads_fetch_nothing_and_are_no_misses(cold: Counted) -> None:
    cold.path.read_bytes()
    fetched = cold.metric("swmld_fetches_total")
    misses = cold.metric("swmld_reads_total", how="miss")
    opens = cold.metric("swmld_opens_total")
    passed = cold.metric("swmld_opens_total", how="passthrough")
    for _ in range(10):
        cold.path.read_bytes()
    assert cold.metric("swmld_fetches_total") == fetched
    assert cold.metric("swmld_reads_total", how="miss") == misses
    assert cold.metric("swmld_opens_total") == opens + 10
    if cold.daemon.mode == "passthrough":
        assert cold.metric("swmld_opens_total", how="passthrough") == passed + 10


def test_gauges_come_back_to_zero(cold: Counted) -> None:
    fds = [os.open(cold.path, os.O_RDONLY) for _ in range(5)]
    for fd in fds:
        os.pread(fd, SIZE, 0)
    assert cold.daemon.metric("swmld_open_files") >= 1
    for fd in fds:
        os.close(fd)
    os.listdir(cold.daemon.mount)  # a later request: the kernel does not wait for the answer to a close
    for gauge in (
        "fetch_in_flight",
        "fetch_queue_length",
        "source_reads_in_flight",
        "parked_reads",
        "source_reads_stuck",
    ):
        assert cold.daemon.metric(f"swmld_{gauge}") == 0, gauge


def test_writes_and_errors(cold: Counted) -> None:
    cold.path.with_name(f"{cold.name}-written").write_bytes(b"x" * 100_000)
    if cold.daemon.mode != "passthrough":  # there the kernel writes to the source by itself
        assert cold.metric("swmld_written_bytes_total") == 100_000
        assert cold.metric("swmld_writes_total") >= 1
    assert cold.daemon.metric("swmld_errors_total") == 0


def test_stats_and_prometheus_agree(cold: Counted) -> None:
    cold.path.read_bytes()
    stats = cold.daemon.stats()
    assert stats["cache_bytes"] == cold.daemon.metric("swmld_cache_bytes") > 0
    assert sum(stats["fetched_bytes_total"].values()) == cold.daemon.metric("swmld_fetched_bytes_total")


def test_drop_and_warmup(cold: Counted) -> None:
    cold.path.read_bytes()
    cold.daemon.ask("cache", "drop", cold.path)
    assert cold.metric("swmld_cache_bytes") == 0
    said = cold.daemon.ask("warmup", cold.path)
    assert "1 files" in said
    assert cold.daemon.cached_bytes(cold.name) == SIZE
    fetched = cold.metric("swmld_fetched_bytes_total")
    cold.daemon.ask("warmup", cold.path)
    assert cold.metric("swmld_fetched_bytes_total") == fetched
    assert cold.path.read_bytes() == cold.source.read_bytes()
    assert cold.metric("swmld_fetched_bytes_total") == fetched
