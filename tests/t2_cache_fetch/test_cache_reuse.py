"""Eviction without any rule: what was read again stays, what was read once goes."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable

import pytest
from support.cachekit import OVERHEAD, Machine, aged, cached, fill, identity, left
from swmld.cache.finding import Unopened
from swmld.cache.keeping import Kept
from swmld.cache.store import Cache
from swmld.errors import CacheFull
from swmld.plan.eviction import Keep
from swmld.types import Identity

SIZE = 1000
ONE = SIZE + OVERHEAD
"""What a file counts."""
ROOM = 40
"""Files that the cache has room for."""


class Readers:
    """Read files through a cache as the mount does: what is whole is opened by C alone, which tells the time
    of the last open when it is asked; all else is acquired and filled."""

    def __init__(self, machine: Machine, cache: Cache | None = None) -> None:
        self.machine = machine
        self.opened: dict[int, float] = {}
        self.cache = cache or machine.open(size_limit=ROOM * ONE)
        self.cache.usage_of = self._usage

    def _usage(self, of: Identity) -> tuple[float, bool] | None:
        return (self.opened[of.ino], False) if of.ino in self.opened else None

    def read(self, inos: Iterable[int], seconds: float = 10.0) -> int:
        """Read files, one each ``seconds``; returns how many were there."""
        hits = 0
        for ino in inos:
            self.machine.now += seconds
            of = identity(ino, SIZE)
            self.opened[ino] = self.machine.now
            if self.cache.lookup_complete(of) is not None:
                hits += 1
                continue
            file = self.cache.acquire(of, b"f%d" % ino)
            with contextlib.suppress(CacheFull):
                self.cache.reserve(SIZE)
                fill(file)
            file.release()
        return hits

    def kept(self, inos: Iterable[int]) -> int:
        """How many of them are cached; no use of them."""
        return sum(self.cache.lookup_complete(identity(ino, SIZE)) is not None for ino in inos)


WORK = range(1, 25)


def test_a_scan_does_not_drive_out_what_was_read_again(machine: Machine) -> None:
    """A `grep -r` through three times of what the cache holds."""
    readers = Readers(machine)
    readers.read(WORK)
    assert readers.read(WORK) == len(WORK)
    assert readers.read(range(1000, 1000 + 3 * ROOM)) == 0
    assert readers.kept(WORK) == len(WORK)


def test_a_file_that_is_opened_twice_at_a_time_was_read_once(machine: Machine) -> None:
    readers = Readers(machine)
    readers.read(WORK)
    readers.read(WORK)
    readers.read((ino for ino in range(1000, 1000 + 3 * ROOM) for _ in (1, 2)), seconds=2)
    assert readers.kept(WORK) == len(WORK)


def test_what_python_saw_read_again_counts_as_well(machine: Machine) -> None:
    readers = Readers(machine)
    readers.read(WORK)
    for ino in WORK:
        machine.now += 10
        readers.cache.acquire(identity(ino, SIZE), b"f").release()
    readers.opened.clear()
    readers.read(range(1000, 1000 + 3 * ROOM))
    assert readers.kept(WORK) == len(WORK)


@pytest.mark.parametrize("by", ["Python", "C"])
def test_a_file_that_is_opened_long_after_it_was_fetched_ahead_was_read_once(
    machine: Machine, by: str
) -> None:
    """What is fetched ahead again and again is no more read than what is fetched once."""
    readers = Readers(machine)
    cache = readers.cache
    for ino in WORK:
        for _ in range(2):
            machine.now += 10
            file = cache.acquire(identity(ino, SIZE), b"f", opened=False)
            if not file.complete:
                cache.reserve(SIZE)
                fill(file)
            file.release()
        machine.now += 10
        if by == "Python":
            cache.acquire(identity(ino, SIZE), b"f").release()
        else:
            readers.opened[ino] = machine.now
            cache.opened(identity(ino, SIZE))
    readers.read(range(1000, 1000 + ROOM))
    assert readers.kept(WORK) == 0
    readers.read(WORK)  # the next use is another one again
    readers.read(WORK)
    readers.read(range(2000, 2000 + 3 * ROOM))
    assert readers.kept(WORK) == len(WORK)


def test_of_too_many_that_are_unopened_the_oldest_are_forgotten() -> None:
    unopened = Unopened(most=2)
    for ino in (1, 2, 1, 3):
        unopened.add((0, ino), ino + 10, 5.0)
    assert unopened.take((0, 2)) is None
    assert unopened.has((0, 1), 11)
    assert not unopened.has((0, 1), 12), "another generation"
    assert unopened.take((0, 3)) == (13, 5.0)
    assert unopened.take((0, 3)) is None


def test_a_new_working_set_takes_the_place_of_the_old_one(machine: Machine) -> None:
    readers = Readers(machine)
    for _ in range(3):
        readers.read(range(1, 33))
    new = range(1001, 1033)
    hits = [readers.read(new) for _ in range(6)]
    assert hits[-1] >= 28


def test_a_loop_through_more_than_the_cache_holds_has_hits(machine: Machine) -> None:
    readers = Readers(machine)
    hits = [readers.read(range(1, ROOM * 5 // 4)) for _ in range(5)]
    assert hits[-1] >= ROOM // 2


def test_shuffled_epochs_larger_than_the_cache(machine: Machine) -> None:
    """Twice what the cache holds: by last use 15 % are there."""
    readers, rng = Readers(machine), random.Random(1)
    hits = [readers.read(rng.sample(range(2 * ROOM), 2 * ROOM)) for _ in range(7)]
    assert sum(hits[4:]) / (3 * 2 * ROOM) >= 0.3


def protected(cache: Cache) -> set[int]:
    cache._writer.flush()
    rows = [cache._books.index.by_id(file_id) for file_id in left(cache)]
    return {row.file_id for row in rows if row is not None and row.kept.protected}


def again(machine: Machine, cache: Cache, *inos: int) -> None:
    """Read files again, as Python sees it."""
    for ino in inos:
        machine.now += 60
        cache.acquire(identity(ino), b"f").release()
    cache._writer.flush()


def test_what_is_protected_is_so_across_a_restart_and_a_crash(machine: Machine) -> None:
    cache = machine.open()
    ids = aged(machine, cache, 4)
    again(machine, cache, 2)
    cache.close()
    cache = machine.open()
    assert protected(cache) == {ids[1]}
    again(machine, cache, 3)
    held = cache._books.writer.probation
    machine.crash(cache)
    cache = machine.open()
    assert protected(cache) == set(ids[1:3])
    assert cache._books.writer.probation == held == cache.usage().bytes // 2
    cache._books.writer.probation = 7  # what an unclean start found may be wrong
    cache._books.index.writer_db.execute("UPDATE meta SET value=7 WHERE key='probation'")
    cache.sweep()
    cache._writer.flush()
    assert cache._books.writer.probation == held


def test_decisions_and_pins_and_protection(machine: Machine) -> None:
    cache = machine.open()
    (file_id, other) = aged(machine, cache, 2)
    one = cache.usage().bytes // 2
    again(machine, cache, 1)

    def kept() -> Kept:
        cache._writer.flush()
        row = cache._books.index.by_id(file_id)
        assert row is not None
        return row.kept

    assert cache._books.writer.probation == one
    cache.set_keep(file_id, Keep.NORMAL, ttl=9)
    assert kept() == Kept(ttl=9, protected=True)
    cache.pin(file_id)
    assert kept() == Kept(ttl=9, by_hand=True, protected=True)
    cache.set_keep(file_id, Keep.LAST)
    assert kept() == Kept(Keep.LAST, by_hand=True)
    cache.pin(file_id, False)
    again(machine, cache, 1)
    assert kept() == Kept(Keep.LAST)  # it has its own line
    assert cache._books.writer.probation == one
    cache.set_keep(file_id, Keep.NORMAL)
    assert kept() == Kept()
    assert cache._books.writer.probation == 2 * one
    cache.drop(other)
    assert cache._books.writer.probation == one


def test_a_file_that_is_dropped_is_no_ghost(machine: Machine) -> None:
    cache = machine.open()
    (file_id,) = aged(machine, cache, 1)
    cache.drop(file_id)
    machine.now += 60
    cached(cache, identity(1))
    assert protected(cache) == set()


def test_an_evicted_file_that_comes_back_is_protected(machine: Machine) -> None:
    cache = machine.open(size_limit=2 * (cached_size := 3 * 16384 + OVERHEAD))
    aged(machine, cache, 2)
    cache.reserve(cached_size)
    assert left(cache) == []
    cache.unreserve(cached_size)
    new = cached(cache, identity(1))
    assert protected(cache) == {new}
    assert protected(cache) != {cached(cache, identity(1, generation=2))}


@pytest.mark.parametrize("latest", [0, 3])
def test_where_all_are_read_again_it_goes_by_last_use(machine: Machine, latest: int) -> None:
    readers = Readers(machine)
    for _ in range(2):
        readers.read(range(1, ROOM + 1))
    readers.read(range(1, latest + 1))
    readers.read([1000])
    gone = [ino for ino in range(1, ROOM + 1) if not readers.kept([ino])]
    assert gone
    assert gone == list(range(latest + 1, latest + 1 + len(gone)))
    assert readers.kept([1000])
