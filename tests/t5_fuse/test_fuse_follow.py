"""Small cached files are in the page cache before a reader that keeps to its order comes to them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from support import pages
from support.mount import Daemon
from support.waiting import until

COUNT, SIZE = 60, 20_000
FORESEEN, AHEAD = 8, 16  # native/follow.c: TRUST and AHEAD


@pytest.fixture
def cached(daemon: Callable[..., Daemon]) -> Daemon:
    """Sixty files of 20 kB that are cached whole, and were opened in the order of their names."""
    one = daemon()
    if one.mode != "passthrough":
        pytest.skip("else the page cache of the mount holds them, not that of the cache's disk")
    dice = random.Random(7)
    for number in range(COUNT):
        (one.source / f"{number:02}").write_bytes(dice.randbytes(SIZE))
    one.ask("warmup", one.mount)
    read(one, range(COUNT))
    for file in cache_files(one):
        pages.forget(file)
    return one


def read(daemon: Daemon, numbers: range | list[int]) -> None:
    for number in numbers:
        name = f"{number:02}"
        assert (daemon.mount / name).read_bytes() == (daemon.source / name).read_bytes()


def cache_files(daemon: Daemon) -> list[Path]:
    found = [file for file in (daemon.cache / "data").rglob("*") if file.is_file()]
    assert len(found) == COUNT
    return found


def in_memory(daemon: Daemon) -> int:
    return sum(pages.resident(file) > 0 for file in cache_files(daemon))


def brought(daemon: Daemon) -> int:
    return int(daemon.stats()["followed_files_total"]["missing"])


def test_files_of_a_known_order_are_brought(cached: Daemon) -> None:
    read(cached, range(FORESEEN + 1))
    until(lambda: brought(cached) == AHEAD)
    assert in_memory(cached) == FORESEEN + 1 + AHEAD
    read(cached, list(range(FORESEEN + 1, COUNT)))
    assert in_memory(cached) == COUNT


def test_files_of_no_order_are_not(cached: Daemon) -> None:
    order = random.Random(1).sample(range(COUNT), COUNT)
    read(cached, order[:30])
    assert brought(cached) == 0
    assert in_memory(cached) == 30


def test_it_can_be_switched_off(daemon: Callable[..., Daemon]) -> None:
    one = daemon(options=["--no-follow"])
    for number in range(COUNT):
        (one.source / f"{number:02}").write_bytes(bytes(SIZE))
    one.ask("warmup", one.mount)
    for _ in range(2):
        read(one, range(COUNT))
    assert one.stats()["followed_files_total"]["present"] == 0
