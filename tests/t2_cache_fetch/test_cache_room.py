"""Limits, reservations and eviction."""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest
from support.cachekit import (
    CHUNK,
    OVERHEAD,
    Machine,
    aged,
    cached,
    data_files,
    fill,
    identity,
    left,
    right_bytes,
)
from swmld.cache import evicting, reclaim
from swmld.cache.files import CacheFile
from swmld.errors import CacheError, CacheFull
from swmld.plan.eviction import Candidate, Lru
from swmld.types import Identity

WHOLE = 3 * CHUNK + OVERHEAD
"""What one file of three chunks counts."""


def test_usage_counts_chunks_and_a_block_a_file(machine: Machine) -> None:
    cache = machine.open(size_limit=10 * WHOLE)
    machine.free = 12345
    assert cache.usage() == reclaim.Usage(0, 0, 10 * WHOLE, 12345)
    cached(cache, identity(1))
    cached(cache, identity(2, size=10))
    assert cache.usage()[:2] == (WHOLE + 10 + OVERHEAD, 2)


def test_room_within_the_limit_evicts_nothing(machine: Machine) -> None:
    cache = machine.open(size_limit=3 * WHOLE)
    ids = aged(machine, cache, 2)
    cache.reserve(WHOLE)
    assert left(cache) == ids
    assert cache.evicted == 0


def test_the_least_recently_used_goes(machine: Machine) -> None:
    cache = machine.open(size_limit=4 * WHOLE)
    ids = aged(machine, cache, 4)
    held = cache.acquire(identity(1), b"file")  # used again: now the youngest
    held.release()
    cache.reserve(WHOLE)
    # One file to make room, one for the low-water mark (2 % is less than a file, but goes in whole files).
    assert left(cache) == [ids[0], ids[3]]
    assert data_files(machine.directory) == {ids[0], ids[3]}
    assert cache.evicted == 2
    assert cache.usage()[:2] == (2 * WHOLE, 2)
    assert cache.lookup_complete(identity(2)) is None


def test_small_files_go_down_to_the_low_water_mark(machine: Machine) -> None:
    cache = machine.open(size_limit=300 * (100 + OVERHEAD))
    for ino in range(300):
        machine.now += 60
        cached(cache, identity(ino, size=100))
    cache._writer.flush()
    cache.reserve(100)
    assert cache.usage().files == 300 - 1 - 6  # 2 % of 300
    cache.unreserve(100)


def test_open_and_pinned_files_stay(machine: Machine) -> None:
    cache = machine.open(size_limit=4 * WHOLE)
    ids = aged(machine, cache, 4)
    held = cache.acquire(identity(1), b"file")
    cache.pin(ids[1])
    cache.reserve(WHOLE)
    assert left(cache) == ids[:2]
    held.release()
    machine.now += 1
    cache.reserve(WHOLE)  # room is left from the first time
    with pytest.raises(CacheFull):
        cache.reserve(3 * WHOLE)
    assert ids[1] in left(cache)
    assert [entry.pinned for entry in cache.ls() if entry.file_id == ids[1]] == [True]


def test_a_file_that_is_taken_between_choice_and_eviction_stays(machine: Machine) -> None:
    class Late(Lru):
        def pick(self, candidates: Iterable[Candidate], need_bytes: int) -> list[int]:
            picked = super().pick(candidates, need_bytes)
            if not held:
                held.append(cache.acquire(identity(1), b"file"))
                cache.pin(ids[1])
                cache.drop(ids[2])
            return picked

    cache = machine.open(size_limit=6 * WHOLE, policy=Late())
    ids = aged(machine, cache, 6)
    held: list[CacheFile] = []
    cache.reserve(4 * WHOLE)
    assert left(cache) == ids[:2]
    assert cache.evicted == 3  # the one that was dropped meanwhile is not counted
    assert cache.usage()[:2] == (2 * WHOLE, 2)
    held[0].release()


def test_a_hand_pin_holds_across_restarts_until_taken_off(machine: Machine) -> None:
    cache = machine.open()
    (file_id,) = aged(machine, cache, 1)
    cache.pin(file_id)
    cache.close()
    cache = machine.open(size_limit=WHOLE)
    with pytest.raises(CacheFull):
        cache.reserve(WHOLE)
    cache.pin(file_id, False)
    cache.reserve(WHOLE)
    assert left(cache) == []


def test_files_that_only_the_mount_saw_in_use(machine: Machine) -> None:
    cache = machine.open(size_limit=4 * WHOLE)
    ids = aged(machine, cache, 4)
    now = machine.now
    uses: dict[Identity, tuple[float, bool]] = {
        identity(1): (now, False),  # read a moment ago
        identity(2): (0.0, True),  # open
        identity(3): (5.0, False),  # the mount's news are older than the index's
    }
    cache.usage_of = uses.get
    cache.reserve(WHOLE)
    assert left(cache) == ids[:2]
    row = cache._books.index.by_id(ids[0])
    assert row is not None
    assert row.last_used == now
    # The touch is in the order now: next time the file that is not open goes.
    cache.unreserve(WHOLE)
    cache.reserve(3 * WHOLE)
    assert left(cache) == [ids[1]]


def test_where_all_are_hot_the_oldest_of_those_seen_go(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evicting, "_LOOK", 8)
    monkeypatch.setattr(evicting, "_BATCH", 4)
    cache = machine.open(size_limit=40 * WHOLE)
    aged(machine, cache, 40)
    asked: list[int] = []

    def usage_of(of: Identity) -> tuple[float, bool]:
        asked.append(of.ino)
        return machine.now + 100 - of.ino, False  # hot, in the reverse order

    cache.usage_of = usage_of
    cache.reserve(1)
    assert sorted(asked) == list(range(1, 9))
    gone = set(range(1, 41)) - {cache._books.index.by_id(i).identity.ino for i in left(cache)}  # type: ignore[union-attr]
    assert gone == {8}


def test_a_file_that_is_used_all_the_time_ends_no_thread(machine: Machine) -> None:
    cache = machine.open(size_limit=2 * WHOLE)
    aged(machine, cache, 2)

    def usage_of(_of: Identity) -> tuple[float, bool]:
        machine.now += 1
        return machine.now, True

    cache.usage_of = usage_of
    with pytest.raises(CacheFull):
        cache.reserve(WHOLE)
    assert cache.usage().files == 2


def test_the_floor_of_free_disk_space_holds(machine: Machine) -> None:
    cache = machine.open(free_floor=10 * WHOLE)
    ids = aged(machine, cache, 4)
    machine.free = 11 * WHOLE
    cache.reserve(WHOLE)
    assert left(cache) == ids
    # What is reserved and not yet written counts: two fetches together do not break the floor.
    cache.on_evict = lambda _id, _of: setattr(machine, "free", machine.free + WHOLE)
    cache.reserve(WHOLE)
    assert left(cache) == ids[2:]
    assert machine.free >= 10 * WHOLE + 2 * WHOLE


def test_others_filling_the_disk_costs_no_cached_data(machine: Machine) -> None:
    cache = machine.open(free_floor=100 * WHOLE)
    ids = aged(machine, cache, 4)
    machine.free = WHOLE
    with pytest.raises(CacheFull) as caught:
        cache.reserve(CHUNK)
    assert caught.value.errno == 28
    assert left(cache) == ids


def test_space_that_is_freed_later_does_not_empty_the_cache(machine: Machine) -> None:
    cache = machine.open(free_floor=10 * WHOLE)
    ids = aged(machine, cache, 8)
    machine.free = 10 * WHOLE
    with pytest.raises(CacheFull):
        cache.reserve(WHOLE)  # evicts enough, but the file system does not show it yet
    assert 2 <= len(left(cache)) < len(ids)


def test_more_than_the_limit_is_refused_at_once(machine: Machine) -> None:
    cache = machine.open(size_limit=4 * WHOLE)
    ids = aged(machine, cache, 4)
    with pytest.raises(CacheFull):
        cache.reserve(4 * WHOLE + 1)
    assert left(cache) == ids


def test_reservations_end_with_commit_or_unreserve(machine: Machine) -> None:
    cache = machine.open(size_limit=WHOLE)
    file = cache.acquire(identity(1), b"a")
    for _ in range(3):
        cache.reserve(CHUNK)
    with pytest.raises(CacheFull):
        cache.reserve(1)
    cache.unreserve(CHUNK)
    cache.reserve(CHUNK)
    fill(file)
    assert cache._books.account.in_flight == 0
    fill(file, [0])  # fetched twice: its reservation ends, too
    cache.unreserve(CHUNK)
    assert cache._books.account.in_flight == 0
    with pytest.raises(CacheFull):
        cache.reserve(1)
    assert right_bytes(file, 0)
    file.release()


def test_a_vain_attempt_is_not_repeated_for_each_fetch(machine: Machine) -> None:
    cache = machine.open(size_limit=4 * WHOLE)
    aged(machine, cache, 4)
    asked: list[Identity] = []
    usages = {"open": True}

    def usage_of(of: Identity) -> tuple[float, bool]:
        asked.append(of)
        return 0.0, usages["open"]

    cache.usage_of = usage_of
    for _ in range(10):
        with pytest.raises(CacheFull):
            cache.reserve(WHOLE)
    assert len(asked) == 4
    usages["open"] = False
    machine.now += 1.0
    cache.reserve(WHOLE)
    assert len(asked) == 8


def test_a_clock_set_back_does_not_keep_the_cache_full(machine: Machine) -> None:
    cache = machine.open(size_limit=2 * WHOLE)
    aged(machine, cache, 2)
    held = [cache.acquire(identity(ino), b"a") for ino in (1, 2)]
    with pytest.raises(CacheFull):
        cache.reserve(WHOLE)
    for file in held:
        file.release()
    cache._writer.flush()
    machine.now -= 10_000
    cache.reserve(WHOLE)


def test_a_drop_makes_room_at_once(machine: Machine) -> None:
    cache = machine.open(size_limit=2 * WHOLE)
    ids = aged(machine, cache, 2)
    held = [cache.acquire(identity(ino), b"a") for ino in (1, 2)]
    with pytest.raises(CacheFull):
        cache.reserve(WHOLE)
    cache.drop(ids[0])
    cache.reserve(WHOLE)
    assert right_bytes(held[0], 0)
    for file in held:
        file.release()


def test_new_limits_hold_from_the_next_reservation(machine: Machine) -> None:
    cache = machine.open()
    ids = aged(machine, cache, 4)
    cache.set_limits(2 * WHOLE, 0)
    assert cache.usage().limit == 2 * WHOLE
    assert left(cache) == ids
    cache.reserve(0)
    assert len(left(cache)) < 3


def test_files_of_other_sources_go_too(machine: Machine) -> None:
    cache = machine.open(source_key="one")
    ids = aged(machine, cache, 2)
    cache.close()
    cache = machine.open(source_key="two", size_limit=4 * WHOLE)
    mine = aged(machine, cache, 2)
    cache.usage_of = lambda _of: (machine.now, True)  # of this source's inodes, which have the same numbers
    told: list[int] = []
    cache.on_evict = lambda file_id, _of: told.append(file_id)
    cache.reserve(WHOLE)
    assert told == ids
    assert left(cache) == mine
    assert data_files(machine.directory) == set(mine)
    assert cache.usage()[:2] == (2 * WHOLE, 2)


def test_eviction_tells_before_it_unlinks(machine: Machine) -> None:
    cache = machine.open(size_limit=2 * WHOLE)
    ids = aged(machine, cache, 2)
    told: list[tuple[int, Identity, bool, bool]] = []
    cache.on_evict = lambda file_id, of: told.append(
        (file_id, of, cache._books.index.by_id(file_id) is None, os.path.exists(cache.data_path(file_id)))
    )
    cache.reserve(WHOLE)
    assert told == [(ids[0], identity(1), True, True), (ids[1], identity(2), True, True)]
    assert data_files(machine.directory) == set()


def test_a_failing_listener_stops_no_eviction(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    cache = machine.open(size_limit=2 * WHOLE)
    aged(machine, cache, 2)

    def fail(_file_id: int, _of: Identity) -> None:
        raise RuntimeError("listener")

    cache.on_evict = fail
    cache.reserve(2 * WHOLE)
    assert "on_evict failed" in caplog.text
    assert data_files(machine.directory) == set()


def test_a_failing_answer_keeps_the_file(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    cache = machine.open(size_limit=2 * WHOLE)
    ids = aged(machine, cache, 2)

    def usage_of(of: Identity) -> None:
        if of.ino == 1:
            raise RuntimeError("answer")

    cache.usage_of = usage_of
    cache.reserve(WHOLE)
    assert left(cache) == ids[:1]
    assert "usage_of failed" in caplog.text


def test_an_unreadable_index_is_an_error_of_the_cache(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    import sqlite3

    cache = machine.open(size_limit=WHOLE)
    aged(machine, cache, 1)

    def fail(_after: object, _limit: int) -> list[object]:
        raise sqlite3.OperationalError("disk I/O error")

    cache._remover.oldest = fail  # type: ignore[method-assign,assignment]
    with pytest.raises(CacheError, match="index cannot be read"):
        cache.reserve(WHOLE)
    assert "disk I/O error" in caplog.text
