"""The cache against a dictionary, against many threads, and with many rows."""

from __future__ import annotations

import random
import sqlite3
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.cachekit import CHUNK, OVERHEAD, Machine, cached, data_files, fill, identity, right_bytes
from swmld.cache.files import PRESENT, SUSPECT, CacheFile
from swmld.cache.store import Cache
from swmld.errors import CacheFull
from swmld.types import Identity

INODES = st.integers(1, 5)
GENERATIONS = st.integers(1, 3)
SIZES = {1: 0, 2: 1, 3: CHUNK, 4: CHUNK + 1, 5: 3 * CHUNK}
LIMIT = 8 * CHUNK


class CacheModel(RuleBasedStateMachine):
    """What the model knows: of each inode, the generation cached and the chunks of it that are there.

    Eviction and reservations may take any file that is not held; the model learns of it from ``on_evict``. A
    power cut makes chunks suspect, which the model does not count as there until they are verified.
    """

    @initialize()
    def start(self) -> None:
        self.scratch = tempfile.TemporaryDirectory()
        self.machine = Machine(Path(self.scratch.name))
        self.held: list[CacheFile] = []
        self.model: dict[int, tuple[Identity, set[int]]] = {}
        self.suspect: dict[int, set[int]] = {}
        self.ids: dict[int, int] = {}
        self.open()

    def open(self) -> None:
        self.cache = self.machine.open(size_limit=LIMIT)
        self.cache.on_evict = self.evicted

    def evicted(self, file_id: int, of: Identity) -> None:
        if self.ids.get(of.ino) == file_id:
            del self.model[of.ino], self.ids[of.ino]
            self.suspect.pop(of.ino, None)

    def teardown(self) -> None:
        if hasattr(self, "machine"):
            self.release_all()
            self.machine.close()
            self.scratch.cleanup()

    def release_all(self) -> None:
        while self.held:
            self.held.pop().release()

    @rule(ino=INODES, generation=GENERATIONS)
    def acquire(self, ino: int, generation: int) -> None:
        of = identity(ino, SIZES[ino], generation)
        file = self.cache.acquire(of, b"%d" % ino)
        if ino not in self.model:
            self.model[ino] = (of, set())
            self.ids[ino] = file.file_id
        assert self.model[ino][0] == of
        assert self.ids[ino] == file.file_id
        self.held.append(file)

    @rule(ino=INODES, generation=GENERATIONS)
    def find(self, ino: int, generation: int) -> None:
        of = identity(ino, SIZES[ino], generation)
        file = self.cache.find(of)
        known = ino in self.model and self.model[ino][0] == of
        assert (file is not None) == known
        if file is not None:
            self.held.append(file)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        file = data.draw(st.sampled_from(self.held))
        missing = file.missing(0, file.nchunks)
        if not missing:
            return
        chunk = data.draw(st.sampled_from(missing))
        try:
            self.cache.reserve(file.extent(chunk)[1])
        except CacheFull:
            return
        fill(file, [chunk])
        ino = file.identity.ino
        if self.ids.get(ino) == file.file_id:
            self.model[ino][1].add(chunk)
            self.suspect.get(ino, set()).discard(chunk)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def verify(self, data: st.DataObject) -> None:
        file = data.draw(st.sampled_from(self.held))
        for chunk in range(file.nchunks):
            was = file.state(chunk)
            good = file.verify(chunk)
            if self.ids.get(file.identity.ino) == file.file_id:
                assert good == (was in (PRESENT, SUSPECT))
                if was is SUSPECT:
                    self.suspect[file.identity.ino].discard(chunk)
                    self.model[file.identity.ino][1].add(chunk)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.held.pop(data.draw(st.integers(0, len(self.held) - 1))).release()

    @rule(ino=INODES)
    def drop(self, ino: int) -> None:
        self.cache.drop_inode(0, ino)
        assert ino not in self.model

    @rule(ino=INODES)
    def drop_by_id(self, ino: int) -> None:
        self.cache.drop(self.ids.get(ino, 10**9))
        assert ino not in self.model

    @rule(ino=INODES)
    def drop_by_path(self, ino: int) -> None:
        known = ino in self.model
        assert self.cache.drop_path(b"%d" % ino) == known
        assert ino not in self.model

    @rule(nbytes=st.integers(0, LIMIT))
    def make_room(self, nbytes: int) -> None:
        held = {file.file_id for file in self.held if not file.dead}
        before = set(self.ids.values())
        try:
            self.cache.reserve(nbytes)
        except CacheFull:
            self.machine.now += 1
        else:
            self.cache.unreserve(nbytes)
            assert self.cache.usage().bytes + nbytes <= LIMIT
        assert held & before <= set(self.ids.values())

    @rule(seconds=st.integers(1, 1000))
    def time_passes(self, seconds: int) -> None:
        self.machine.now += seconds

    @rule()
    def index_catches_up(self) -> None:
        self.cache._writer.flush()

    @rule(reboot=st.booleans())
    def restart(self, reboot: bool) -> None:
        self.release_all()
        self.cache.close()
        if reboot:
            self.machine.reboot()
        self.open()

    @rule(reboot=st.booleans())
    def killed(self, reboot: bool) -> None:
        self.release_all()
        self.cache._writer.flush()
        self.machine.crash(self.cache)
        if reboot:
            self.machine.reboot()
        self.open()
        if reboot:  # the cache may trust some of them, from before a clean mark; it says which
            for ino, (of, chunks) in self.model.items():
                file = self.cache.find(of)
                assert file is not None
                gone = {chunk for chunk in chunks if file.state(chunk) is SUSPECT}
                assert all(file.state(chunk) in (PRESENT, SUSPECT) for chunk in chunks)
                file.release()
                chunks -= gone
                self.suspect.setdefault(ino, set()).update(gone)
        assert self.cache.sweep() == 0

    @invariant()
    def cache_is_what_the_model_says(self) -> None:
        if not hasattr(self, "cache"):
            return
        held_bytes = 0
        for ino, (of, chunks) in self.model.items():
            whole = -(-of.size // CHUNK)
            complete = len(chunks) == whole
            assert self.cache.lookup_complete(of) == (self.ids[ino] if complete else None)
            stored = chunks | self.suspect.get(ino, set())
            held_bytes += sum(min(CHUNK, of.size - chunk * CHUNK) for chunk in stored) + OVERHEAD
        assert self.cache.usage()[:2] == (held_bytes, len(self.model))
        assert data_files(self.machine.directory) == set(self.ids.values())
        for file in self.held:
            ino = file.identity.ino
            if self.ids.get(ino) == file.file_id:
                present = {chunk for chunk in range(file.nchunks) if file.state(chunk) is PRESENT}
                assert present == self.model[ino][1]
            else:
                assert file.dead
            assert all(right_bytes(file, n) for n in range(file.nchunks) if file.state(n) is PRESENT)


CacheModel.TestCase.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
TestCacheModel = CacheModel.TestCase


def run_all(workers: list[Callable[[], None]]) -> None:
    """Run ``workers`` at once; the first of their errors is raised."""
    errors: list[BaseException] = []
    gate = threading.Barrier(len(workers))

    def guarded(work: Callable[[], None]) -> None:
        try:
            gate.wait()
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,), daemon=True) for work in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=100)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


def check_consistent(cache: Cache, machine: Machine) -> None:
    """Nothing is held: memory, index, totals and data files agree, and every recorded byte is right."""
    cache._writer.flush()
    assert not cache._memory._files
    assert not cache._memory._tombs
    assert cache._books.account.in_flight == 0
    entries = list(cache.ls())
    assert cache.usage()[:2] == (sum(entry.cached_bytes + OVERHEAD for entry in entries), len(entries))
    assert data_files(machine.directory) == {entry.file_id for entry in entries}
    for entry in entries:
        row = cache._books.index.by_id(entry.file_id)
        assert row is not None
        assert len(cache._books.index.chunks(entry.file_id)) == row.present
        file = cache.find(row.identity)
        assert file is not None
        assert all(right_bytes(file, n) for n in range(file.nchunks) if file.state(n) is PRESENT)
        file.release()
    assert cache.verify().bad == 0


@pytest.mark.timeout(120)
def test_threads_that_acquire_commit_drop_and_evict(machine: Machine) -> None:
    cache = machine.open(size_limit=12 * (3 * CHUNK + OVERHEAD))
    owners: dict[tuple[int, int], threading.Lock] = {}
    owners_lock = threading.Lock()

    def fetch_once(file: CacheFile, chunk: int) -> None:
        """Single flight, as the fetcher has it: one thread writes a chunk of a file."""
        with owners_lock:
            lock = owners.setdefault((file.file_id, chunk), threading.Lock())
        with lock:
            if file.state(chunk) is not PRESENT:
                cache.reserve(file.extent(chunk)[1])
                fill(file, [chunk])

    def reader(seed: int) -> Callable[[], None]:
        def work() -> None:
            rng = random.Random(seed)
            for _ in range(150):
                of = identity(rng.randrange(16), generation=rng.choice((1, 1, 1, 2)))
                file = cache.acquire(of, b"f")
                try:
                    for chunk in range(3):
                        fetch_once(file, chunk)
                        assert right_bytes(file, chunk)
                except CacheFull:
                    pass
                finally:
                    file.release()
                found = cache.lookup_complete(of)
                assert found is None or found >= file.file_id

        return work

    def dropper() -> None:
        rng = random.Random(99)
        for _ in range(60):
            cache.drop_inode(0, rng.randrange(16))
            cache.drop(rng.randrange(1, 400))
            list(cache.ls())

    def evicter() -> None:
        for _ in range(40):
            try:
                cache.reserve(5 * CHUNK)
                cache.unreserve(5 * CHUNK)
            except CacheFull:
                pass

    run_all([reader(1), reader(2), reader(3), dropper, evicter])
    check_consistent(cache, machine)
    machine.crash(cache)
    check_consistent(machine.open(), machine)


def test_one_file_for_all_threads_that_ask_at_once(machine: Machine) -> None:
    cache = machine.open()
    for ino in range(30):
        got: list[CacheFile] = []
        run_all([lambda ino=ino, got=got: got.append(cache.acquire(identity(ino), b"a"))] * 4)  # type: ignore[misc]
        assert len({id(file) for file in got}) == 1
        for file in got:
            file.release()
    assert cache.usage().files == 30


def test_reservations_of_many_threads_stay_within_the_limit(machine: Machine) -> None:
    cache = machine.open(size_limit=100 * CHUNK)
    granted: list[int] = []

    def work() -> None:
        for _ in range(60):
            try:
                cache.reserve(CHUNK)
                granted.append(1)
            except CacheFull:
                pass

    run_all([work] * 4)
    assert len(granted) == 100


@pytest.mark.timeout(120)
def test_many_files_cost_nothing_at_the_start(machine: Machine) -> None:
    count = 200_000
    cache = machine.open()
    cache.close()
    with sqlite3.connect(machine.directory / "index.db") as db:
        db.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<?) INSERT INTO files "
            "SELECT i, 1, 0, i, 10, 1, 1, CAST('f' || i AS BLOB), ?, 10, 1, 1, 500, 0, 1, 1 FROM n",
            (count, CHUNK),
        )
        db.execute("INSERT INTO chunks SELECT file_id, 0, 0, 1 FROM files")
        db.executemany(
            "UPDATE meta SET value=? WHERE key=?",
            [(10 * count, "bytes"), (count, "files"), (10**6, "next_id")],
        )
    db.close()

    statements: list[str] = []
    cache = machine.open(size_limit=count * (10 + OVERHEAD))
    cache._books.index.writer_db.set_trace_callback(statements.append)
    assert cache.usage()[:2] == (count * (10 + OVERHEAD), count)
    assert cache.lookup_complete(identity(1, size=10)) == 1
    assert cache.lookup_complete(identity(count, size=10)) == count
    assert cache.lookup_complete(identity(count + 1, size=10)) is None
    assert not statements  # look-ups do not ask the writer
    # All were used at the same moment: eviction still goes through them in order, a batch at a time.
    cache.reserve(1000)
    assert cache.usage().files == count - 256
    assert cache.lookup_complete(identity(1, size=10)) is None
    file_id = cached(cache, identity(10**9))
    assert cache.lookup_complete(identity(10**9)) == file_id


def test_no_statement_reads_a_whole_table(machine: Machine) -> None:
    cache = machine.open(size_limit=100 * CHUNK)
    statements: list[str] = []
    index = cache._books.index
    cached(cache, identity(1))
    list(cache.ls())
    for db in (*index._pool, index.writer_db):
        db.set_trace_callback(statements.append)

    file = cache.acquire(identity(2), b"b")
    fill(file)
    assert file.verify(1)
    file.release()
    cache._writer.flush()
    machine.now += 60
    cache.find(identity(2)).release()  # type: ignore[union-attr]
    cache.pin(file.file_id, False)
    list(cache.ls(b"b"))
    cache._reclaimer.reserve(98 * CHUNK)
    cache.drop(file.file_id)
    cache.drop_inode(0, 1)
    index.known_ids([1, 2, 3])

    for db in (*index._pool, index.writer_db):
        db.set_trace_callback(None)
    looked_at = 0
    for statement in sorted({statement.replace("-Inf", "0") for statement in statements}):
        if statement.split()[0] in ("SELECT", "UPDATE", "DELETE"):
            plan = [row[3] for row in index.writer_db.execute(f"EXPLAIN QUERY PLAN {statement}")]
            assert all(step.startswith("SEARCH") for step in plan), (statement, plan)
            looked_at += 1
    assert looked_at >= 12
