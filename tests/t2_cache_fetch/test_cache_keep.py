"""Eviction by what was decided about each file: first, last, never, after a time, not while a job lives."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.cachekit import CHUNK, OVERHEAD, Machine, aged, cached, fill, flip_bit, identity, left
from swmld.cache import evicting, reclaim
from swmld.cache.files import CacheFile
from swmld.cache.index import FileRow
from swmld.cache.keeping import Kept, Line
from swmld.cache.store import Cache
from swmld.errors import CacheFull
from swmld.plan.eviction import Candidate, Keep, Lru
from swmld.types import Identity

SMALL = 100
ONE = SMALL + OVERHEAD
"""What a small file counts."""


def age(machine: Machine, cache: Cache, count: int, first: int = 1) -> list[int]:
    return aged(machine, cache, count, first, SMALL)


def order_of_going(cache: Cache) -> list[int]:
    """Evict one file after the other; returns their ids in the order in which they went."""
    gone: list[int] = []
    cache.on_evict = lambda file_id, _of: gone.append(file_id)
    room, before = 0, -1
    while len(gone) > before:
        before = len(gone)
        free = cache.usage().limit - cache.usage().bytes - room
        try:
            cache.reserve(free + 1)
        except CacheFull:
            break
        room += free + 1
    cache.unreserve(room)
    return gone


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches smaller than the cache, and no file goes but what must."""
    monkeypatch.setattr(evicting, "_BATCH", 4)
    monkeypatch.setattr(reclaim, "_SLACK", 1 << 40)


@pytest.mark.usefixtures("small_steps")
def test_the_order_holds_across_the_whole_cache(machine: Machine) -> None:
    cache = machine.open(size_limit=20 * ONE)
    ids = age(machine, cache, 20)
    last, first, never, others = ids[:6], ids[14:], ids[6:8], ids[8:14]
    for file_id in last:
        cache.set_keep(file_id, Keep.LAST)
    for file_id in first:
        cache.set_keep(file_id, Keep.FIRST)
    for file_id in never:
        cache.set_keep(file_id, Keep.NEVER)
    assert order_of_going(cache) == first + others + last
    assert left(cache) == never
    cache.set_keep(never[0], Keep.NORMAL)
    cache._writer.flush()
    assert order_of_going(cache) == never[:1]


def test_a_decision_holds_for_the_eviction_that_follows_it_at_once(machine: Machine) -> None:
    cache = machine.open(size_limit=2 * ONE)
    ids = age(machine, cache, 2)
    cache.set_keep(ids[0], Keep.NEVER)
    cache.reserve(ONE)
    assert left(cache) == ids[:1]
    # Nothing goes any more, until it is decided otherwise: then the cache is not taken for full any longer.
    with pytest.raises(CacheFull):
        cache.reserve(ONE)
    cache.set_keep(ids[0], Keep.LAST)
    cache._writer.flush()
    cache.reserve(ONE)
    assert left(cache) == []


def test_a_decision_between_choice_and_eviction_counts(machine: Machine) -> None:
    class Late(Lru):
        def pick(self, candidates: Iterable[Candidate], need_bytes: int) -> list[int]:
            picked = super().pick(candidates, need_bytes)
            cache.set_keep(ids[0], Keep.NEVER)
            cache._writer.flush()
            return picked

    cache = machine.open(size_limit=4 * ONE, policy=Late())
    ids = age(machine, cache, 4)
    cache.reserve(ONE)
    assert ids[0] in left(cache)
    assert ids[1] not in left(cache)


@pytest.mark.usefixtures("small_steps")
def test_a_file_is_to_go_first_once_its_time_to_live_ended(machine: Machine) -> None:
    cache = machine.open(size_limit=8 * ONE)
    ids = age(machine, cache, 8)  # used a minute apart, the last a minute ago
    cache.set_keep(ids[7], Keep.NORMAL, ttl=59.5)  # ended: rounded up, just now
    cache.set_keep(ids[6], Keep.NEVER, ttl=100)  # ended 20 s ago
    cache.set_keep(ids[5], Keep.LAST, ttl=181)  # ends in a second
    cache.set_keep(ids[0], Keep.NEVER, ttl=10_000)
    cache.set_keep(ids[1], Keep.FIRST)
    cache.pin(ids[4])
    cache.set_keep(ids[4], Keep.FIRST, ttl=1)  # the pin by hand is stronger
    assert order_of_going(cache) == [ids[1], ids[6], ids[7], ids[2], ids[3], ids[5]]
    assert left(cache) == [ids[0], ids[4]]
    machine.now += 10_000
    assert order_of_going(cache) == [ids[0]]
    assert left(cache) == [ids[4]]


@pytest.mark.usefixtures("small_steps")
def test_a_use_that_only_the_mount_saw_puts_the_end_off(machine: Machine) -> None:
    cache = machine.open(size_limit=3 * ONE)
    ids = age(machine, cache, 3)
    cache.set_keep(ids[0], Keep.NEVER, ttl=30)
    cache.set_keep(ids[1], Keep.LAST, ttl=30)
    cache.usage_of = lambda of: (machine.now - 5 if of.ino <= 2 else 0.0, False)
    assert order_of_going(cache) == [ids[2], ids[1]]
    cache.usage_of = None
    machine.now += 30
    assert order_of_going(cache) == ids[:1]


@pytest.mark.parametrize("ttl", [-1, float("nan")])
def test_a_time_to_live_that_makes_no_sense_is_refused(machine: Machine, ttl: float) -> None:
    with pytest.raises(ValueError, match="time to live"):
        machine.open().set_keep(1, Keep.NORMAL, ttl)


@pytest.mark.parametrize("keep", Keep)
@pytest.mark.parametrize("ttl", [0, 1, 59, 2**32 - 1])
@pytest.mark.parametrize("by_hand", [False, True])
def test_what_the_index_holds_is_what_was_decided(keep: Keep, ttl: int, by_hand: bool) -> None:
    kept = Kept(keep, ttl, by_hand)
    assert Kept.of(kept.code) == kept
    assert -(1 << 63) <= kept.code < 1 << 63
    assert Kept.decided(keep, 1e300).ttl == 2**32 - 1
    assert Kept.decided(keep, 59.5).ttl == 60
    assert Kept.decided(keep, 0).at(99.0, 100.0) is Keep.FIRST
    assert Kept(keep, ttl, by_hand=True).at(99.0, 1e12) is Keep.NEVER


def test_decisions_outlive_a_restart_and_a_crash(machine: Machine) -> None:
    cache = machine.open()
    ids = age(machine, cache, 4)
    cache.set_keep(ids[0], Keep.NEVER)
    cache.set_keep(ids[1], Keep.LAST)
    cache.pin(ids[2])
    cache.set_keep(ids[3], Keep.NORMAL, ttl=7)
    cache.close()
    cache = machine.open()
    cache.set_keep(ids[1], Keep.FIRST)
    cache._writer.flush()
    machine.crash(cache)
    cache = machine.open(size_limit=4 * ONE)
    assert order_of_going(cache) == [ids[1], ids[3]]
    assert [(entry.file_id, entry.pinned) for entry in cache.ls()] == [(ids[0], True), (ids[2], True)]


def test_a_cache_from_before_there_were_decisions_is_taken_over(machine: Machine) -> None:
    cache = machine.open()
    ids = age(machine, cache, 3)
    cache.pin(ids[0])
    cache.close()
    with sqlite3.connect(machine.directory / "index.db") as db:
        db.executescript(
            "DROP INDEX files_line; DROP INDEX files_expiry; DELETE FROM meta WHERE key='probation';"
            "CREATE INDEX files_last_used ON files(last_used);"
        )
    db.close()
    cache = machine.open(size_limit=3 * ONE)
    cache.set_keep(ids[2], Keep.FIRST)
    cache.reserve(ONE)
    assert left(cache) == ids[:2]
    assert [entry.pinned for entry in cache.ls()] == [True, False]
    query = "SELECT name FROM sqlite_master WHERE type='index' AND tbl_name='files' AND sql IS NOT NULL"
    names = {name for (name,) in cache._books.index.writer_db.execute(query)}
    assert names == {"files_identity", "files_line", "files_expiry"}


def test_what_a_user_drops_goes_however_it_is_kept(machine: Machine) -> None:
    cache = machine.open()
    ids = age(machine, cache, 4)
    for file_id in ids:
        cache.set_keep(file_id, Keep.NEVER)
    cache.held = lambda _of: True
    assert cache.drop_path(b"f1") == 1
    cache.drop(ids[1])
    cache.drop_inode(0, 3)
    assert left(cache) == ids[3:]


def test_a_file_that_verify_makes_anew_is_kept_as_before(machine: Machine) -> None:
    cache = machine.open()
    ids = [cached(cache, identity(ino), b"f%d" % ino) for ino in (1, 2)]
    cache.pin(ids[0])
    cache.set_keep(ids[1], Keep.LAST, ttl=77)
    for file_id in ids:
        flip_bit(cache, file_id, CHUNK + 5)
    assert cache.verify().bad == 2
    cache._writer.flush()
    new = left(cache)
    assert not set(new) & set(ids)
    rows = [cache._books.index.by_id(file_id) for file_id in new]
    assert [row.kept for row in rows if row] == [Kept(by_hand=True), Kept(Keep.LAST, 77)]


def test_a_new_generation_is_kept_as_any_other(machine: Machine) -> None:
    cache = machine.open(size_limit=2 * ONE)
    (old,) = age(machine, cache, 1)
    cache.set_keep(old, Keep.NEVER)
    new = cached(cache, identity(1, SMALL, generation=2))
    cache.set_keep(old, Keep.NEVER)  # said too late: nothing of it is left
    assert order_of_going(cache) == [new]


# -- held by a job -------------------------------------------------------------------------------------


def test_what_a_job_holds_stays_as_long_as_it_does(machine: Machine) -> None:
    cache = machine.open(size_limit=4 * ONE)
    ids = age(machine, cache, 4)
    cache.set_keep(ids[0], Keep.FIRST)
    cache.held = lambda of: of.ino in (1, 2)
    cache.reserve(ONE)
    assert left(cache) == ids[:2]
    cache.close()
    cache = machine.open(size_limit=2 * ONE)  # nothing of it is kept
    assert order_of_going(cache) == ids[:2]


def test_the_end_of_a_hold_ends_a_full_cache_at_once(machine: Machine) -> None:
    cache = machine.open(size_limit=4 * ONE)
    ids = age(machine, cache, 4)
    held = {1, 2, 3, 4}
    asked: list[int] = []

    def holds(of: Identity) -> bool:
        asked.append(of.ino)
        return of.ino in held

    cache.held = holds
    for _ in range(10):
        with pytest.raises(CacheFull):
            cache.reserve(ONE)
        machine.now += 2  # beyond any back-off
    assert sorted(asked) == [1, 2, 3, 4]  # once each
    held.remove(2)
    cache.released()
    cache.reserve(ONE)
    assert left(cache) == [ids[0], *ids[2:]]
    machine.now += 1000  # whoever forgot to say so
    held.clear()
    cache.reserve(4 * ONE - ONE)
    assert left(cache) == []


def test_a_full_cache_of_held_files_is_passed_in_short_steps(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evicting, "_BATCH", 4)
    monkeypatch.setattr(evicting, "_PATIENCE", 8)
    cache = machine.open(size_limit=31 * ONE)
    ids = age(machine, cache, 31)
    cache.set_keep(ids[0], Keep.LAST)
    asked: list[int] = []

    def holds(of: Identity) -> bool:
        asked.append(of.ino)
        return of.ino not in (1, 31)

    cache.held = holds
    for attempt in (1, 2, 3):
        with pytest.raises(CacheFull):
            cache.reserve(ONE)
        assert len(asked) == 8 * attempt
        with pytest.raises(CacheFull):  # not at once again
            cache.reserve(ONE)
        assert len(asked) == 8 * attempt
        machine.now += 0.001
    cache.reserve(ONE)
    assert asked == list(range(2, 32))
    assert left(cache) == ids[:-1]  # the only normal one went; that which is to go last was not in turn


def test_files_that_were_open_when_they_were_passed_go_once_they_are_not(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reclaim, "_SLACK", 1 << 40)
    cache = machine.open(size_limit=6 * ONE)
    ids = age(machine, cache, 6)
    in_use = {1: (0.0, True), 2: (machine.now, True)}
    cache.usage_of = lambda of: in_use.get(of.ino)
    cache.held = lambda of: of.ino == 3
    cache.reserve(ONE)
    assert left(cache) == [*ids[:3], *ids[4:]]
    machine.now += 60
    in_use.clear()
    cache.reserve(ONE)
    assert left(cache) == [*ids[1:3], *ids[4:]]  # the oldest; the other was used later than the last
    cache.reserve(2 * ONE)
    assert left(cache) == ids[1:3]
    cache.reserve(ONE)
    assert left(cache) == [ids[2]]


@pytest.mark.parametrize("back", [150, 10_000])
def test_a_clock_set_back_hides_no_file(machine: Machine, back: int) -> None:
    cache = machine.open(size_limit=4 * ONE)
    cache.held = lambda of: of.ino <= 4
    age(machine, cache, 2)
    with pytest.raises(CacheFull):
        cache.reserve(3 * ONE)
    age(machine, cache, 2, first=3)
    with pytest.raises(CacheFull):
        cache.reserve(ONE)
    machine.now -= (
        back  # to after the first attempt, but before what the second has passed; or to before both
    )
    new = cached(cache, identity(5, SMALL))
    assert order_of_going(cache) == [new]


def test_a_failing_answer_keeps_the_file_for_now(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    cache = machine.open(size_limit=2 * ONE)
    ids = age(machine, cache, 2)

    def fail(_of: Identity) -> bool:
        raise RuntimeError("answer")

    cache.held = fail
    with pytest.raises(CacheFull):
        cache.reserve(ONE)
    assert "held failed" in caplog.text
    cache.held = None
    machine.now += 1
    cache.reserve(ONE)
    assert left(cache) != ids


# -- a shuffled epoch larger than the cache ------------------------------------------------------------


def second_epoch_hits(base: Path, *, hold: bool) -> float:
    """Two epochs over 200 files in an order of their own each, through a cache with room for half of them;
    returns the share of the second that was there."""
    machine, rng = Machine(base), random.Random(4)
    count = 200
    cache = machine.open(size_limit=count // 2 * ONE)
    if hold:
        cache.held = lambda _of: True
    hits = 0
    for _ in range(2):
        hits = 0
        for ino in rng.sample(range(count), count):
            machine.now += 10
            of = identity(ino, SMALL)
            hits += cache.lookup_complete(of) is not None
            file = cache.acquire(of, b"f")
            if not file.complete:
                with contextlib.suppress(CacheFull):  # then it is read from the source
                    cache.reserve(SMALL)
                    fill(file)
            file.release()
    # Files of which nothing could be cached leave nothing behind.
    assert cache.usage().files <= count // 2 + 2
    machine.close()
    return hits / count


def test_half_of_a_shuffled_epoch_is_there_where_a_job_holds_it(tmp_path: Path) -> None:
    for name in ("held", "lru"):
        (tmp_path / name).mkdir()
    held = second_epoch_hits(tmp_path / "held", hold=True)
    lru = second_epoch_hits(tmp_path / "lru", hold=False)
    assert held >= 0.49
    assert lru < held - 0.1


# -- against a model -----------------------------------------------------------------------------------

LIMIT_FILES = 6


class KeepModel(RuleBasedStateMachine):
    """The model sorts all files each time; the cache goes on from where it was."""

    @initialize()
    def start(self) -> None:
        self.scratch = tempfile.TemporaryDirectory()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(evicting, "_BATCH", 2)
        self.patch.setattr(reclaim, "_SLACK", 1 << 40)
        self.machine = Machine(Path(self.scratch.name))
        self.kept: dict[int, Kept] = {}
        self.used: dict[int, float] = {}
        self.ino: dict[int, int] = {}
        self.held: set[int] = set()
        self.in_use: dict[int, CacheFile] = {}
        self.next_ino = 1
        self.gone: list[int] = []
        self.open()
        for _ in range(LIMIT_FILES):
            self.read_new()

    def open(self) -> None:
        self.cache = self.machine.open(size_limit=LIMIT_FILES * ONE)
        self.cache.on_evict = lambda file_id, _of: self.gone.append(file_id)
        self.cache.held = lambda of: of.ino in self.held

    def teardown(self) -> None:
        if hasattr(self, "machine"):
            self.close_all()
            self.machine.close()
            self.scratch.cleanup()
            self.patch.undo()

    def may_go(self) -> list[int]:
        """Which file must go now; if times to live have ended, any of those."""
        now = self.machine.now
        self.cache._writer.flush()
        order = []
        for file_id, kept in self.kept.items():
            used = self.used[file_id]
            keep = kept.at(used, now)
            stays = file_id in self.in_use or self.ino[file_id] in self.held
            if not stays and keep is not Keep.NEVER:
                ended = keep is Keep.FIRST and kept.keep is not Keep.FIRST
                protected = keep is Keep.NORMAL and self.row(file_id).kept.protected
                order.append((keep, ended, protected, 0 if ended else used, file_id))
        return [each[-1] for each in order if each[:4] == min(order)[:4]]

    def row(self, file_id: int) -> FileRow:
        row = self.cache._books.index.by_id(file_id)
        assert row is not None
        return row

    @rule(seconds=st.integers(6, 300))
    def time_passes(self, seconds: int) -> None:
        self.machine.now += seconds

    @rule()
    def read_new(self) -> None:
        may_go = self.may_go() if len(self.kept) == LIMIT_FILES else []
        self.gone.clear()
        try:
            self.cache.reserve(ONE)
        except CacheFull:
            assert not may_go
            assert len(self.kept) == LIMIT_FILES
            return
        assert len(self.gone) == (len(self.kept) == LIMIT_FILES)
        assert set(self.gone) <= set(may_go)
        self.forget(self.gone)
        self.machine.now += 10
        file_id = cached(self.cache, identity(self.next_ino, SMALL))
        self.cache.unreserve(OVERHEAD)
        self.kept[file_id], self.used[file_id] = Kept(), self.machine.now
        self.ino[file_id] = self.next_ino
        self.next_ino += 1
        self.machine.now += 10
        self.cache._writer.flush()

    def forget(self, gone: list[int]) -> None:
        for file_id in gone:
            del self.kept[file_id], self.used[file_id], self.ino[file_id]

    @rule(data=st.data())
    def open_one(self, data: st.DataObject) -> None:
        if self.ino:
            file_id = data.draw(st.sampled_from(sorted(self.ino)))
            if file_id not in self.in_use:
                self.in_use[file_id] = self.cache.acquire(identity(self.ino[file_id], SMALL), b"file")

    @rule()
    def close_all(self) -> None:
        self.machine.now += 10
        for file_id, file in self.in_use.items():
            file.release()
            self.used[file_id] = self.machine.now
        self.in_use.clear()

    @rule(data=st.data())
    def read_again(self, data: st.DataObject) -> None:
        if self.ino:
            file_id = data.draw(st.sampled_from(sorted(self.ino)))
            self.machine.now += 10
            self.cache.acquire(identity(self.ino[file_id], SMALL), b"file").release()
            if file_id not in self.in_use:
                self.used[file_id] = self.machine.now

    @rule(data=st.data(), keep=st.sampled_from(Keep), ttl=st.none() | st.integers(1, 400))
    def decide(self, data: st.DataObject, keep: Keep, ttl: int | None) -> None:
        if self.ino:
            file_id = data.draw(st.sampled_from(sorted(self.ino)))
            self.cache.set_keep(file_id, keep, ttl)
            self.kept[file_id] = Kept(keep, ttl or 0, self.kept[file_id].by_hand)
            self.cache._writer.flush()

    @rule(data=st.data(), pinned=st.booleans())
    def pin(self, data: st.DataObject, pinned: bool) -> None:
        if self.ino:
            file_id = data.draw(st.sampled_from(sorted(self.ino)))
            self.cache.pin(file_id, pinned)
            self.kept[file_id] = self.kept[file_id]._replace(by_hand=pinned)

    @rule(inos=st.sets(st.integers(1, 12)))
    def jobs_change(self, inos: set[int]) -> None:
        self.held = inos
        self.cache.released()

    @rule()
    def restart(self) -> None:
        self.close_all()
        self.cache.close()
        self.open()

    @invariant()
    def the_index_knows_what_was_decided(self) -> None:
        if hasattr(self, "cache"):
            kept = [self.row(file_id).kept._replace(protected=False) for file_id in self.kept]
            assert kept == list(self.kept.values())
            waiting = [
                file_id for file_id in self.kept if self.row(file_id).kept == Kept(ttl=self.kept[file_id].ttl)
            ]
            assert self.cache._books.writer.probation == len(waiting) * ONE


KeepModel.TestCase.settings = settings(max_examples=10, stateful_step_count=30, deadline=None)
TestKeepModel = KeepModel.TestCase


def test_every_line_is_served_by_an_index(machine: Machine) -> None:
    cache = machine.open(size_limit=2 * ONE)
    age(machine, cache, 2)
    statements: list[str] = []
    index = cache._books.index
    for db in (*index._pool, index.writer_db):
        db.set_trace_callback(statements.append)
    cache.held = lambda _of: True
    cache.set_keep(1, Keep.NORMAL, ttl=1)
    with pytest.raises(CacheFull):
        cache.reserve(ONE)
    for db in (*index._pool, index.writer_db):
        db.set_trace_callback(None)
    selects = {text.replace("-Inf", "0") for text in statements if " FROM files WHERE " in text}
    plans = [[row[3] for row in index.writer_db.execute(f"EXPLAIN QUERY PLAN {text}")] for text in selects]
    assert sum(
        "USING INDEX files_line" in plan[0] or "USING INDEX files_expiry" in plan[0] for plan in plans
    ) >= (2 * len(Line))
    assert all(step.startswith("SEARCH") for plan in plans for step in plan), plans
