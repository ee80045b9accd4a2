"""What the daemon says it did: counters move with reads, hits, fetches, writes and errors."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest
from support.mount import Daemon
from support.tree import Tree

CHUNK = 65_536
SIZE = 6 * CHUNK
OPTIONS = ["--chunk-size", "64KiB", "--readahead-max", "0"]


@pytest.fixture
def started(daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon that fetches what is read and nothing else, with one cold file."""
    one = daemon(options=OPTIONS)
    (one.source / "name").write_bytes(random.Random(1).randbytes(SIZE))
    Tree(one.mount, one.source, one.mode, one).settle()
    return one


def test_cold_reads_count_as_fetches(started: Daemon) -> None:
    (started.mount / "name").read_bytes()
    assert started.metric("swmld_fetched_bytes_total") == SIZE
    assert started.metric("swmld_fetches_total") == SIZE / CHUNK
    assert started.metric("swmld_fetch_duration_seconds_count") == SIZE / CHUNK
    # A cached file counts with what it costs on the disk, a block more than its bytes.
    assert SIZE <= started.metric("swmld_cache_bytes") <= SIZE + 8_192
    assert started.metric("swmld_cache_files") == 1
    assert started.metric("swmld_reads_total", how="miss") > 0


def test_warm_reads_fetch_nothing_and_are_no_misses(started: Daemon) -> None:
    (started.mount / "name").read_bytes()
    fetched = started.metric("swmld_fetches_total")
    misses = started.metric("swmld_reads_total", how="miss")
    opens = started.metric("swmld_opens_total")
    for _ in range(10):
        (started.mount / "name").read_bytes()
    assert started.metric("swmld_fetches_total") == fetched
    assert started.metric("swmld_reads_total", how="miss") == misses
    assert started.metric("swmld_opens_total") == opens + 10
    if started.mode == "passthrough":
        assert started.metric("swmld_opens_total", how="passthrough") >= 10


def test_gauges_come_back_to_zero(started: Daemon) -> None:
    fds = [os.open(started.mount / "name", os.O_RDONLY) for _ in range(5)]
    for fd in fds:
        os.pread(fd, SIZE, 0)
    assert started.metric("swmld_open_files") >= 1
    for fd in fds:
        os.close(fd)
    os.listdir(started.mount)  # a later request: the kernel does not wait for the answer to a close
    for gauge in (
        "fetch_in_flight",
        "fetch_queue_length",
        "source_reads_in_flight",
        "parked_reads",
        "source_reads_stuck",
    ):
        assert started.metric(f"swmld_{gauge}") == 0, gauge


def test_writes_and_errors(started: Daemon) -> None:
    (started.mount / "new").write_bytes(b"x" * 100_000)
    if started.mode != "passthrough":  # there the kernel writes to the source by itself
        assert started.metric("swmld_written_bytes_total") == 100_000
        assert started.metric("swmld_writes_total") >= 1
    assert started.metric("swmld_errors_total") == 0


def test_stats_and_prometheus_agree(started: Daemon) -> None:
    (started.mount / "name").read_bytes()
    stats = started.stats()
    assert stats["cache_bytes"] == started.metric("swmld_cache_bytes")
    assert sum(stats["fetched_bytes_total"].values()) == started.metric("swmld_fetched_bytes_total")


def test_drop_and_warmup(started: Daemon) -> None:
    (started.mount / "name").read_bytes()
    started.ask("cache", "drop", started.mount / "name")
    assert started.metric("swmld_cache_bytes") == 0
    said = started.ask("warmup", started.mount)
    assert "1 files" in said
    assert started.cached_bytes("name") == SIZE
    fetched = started.metric("swmld_fetched_bytes_total")
    started.ask("warmup", started.mount)
    assert started.metric("swmld_fetched_bytes_total") == fetched
    assert (started.mount / "name").read_bytes() == (started.source / "name").read_bytes()
    assert started.metric("swmld_fetched_bytes_total") == fetched
