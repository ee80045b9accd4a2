"""The scheduler against any sequence of requests and faults: nobody waits for ever, nothing is read twice at
once, nothing is left, and every byte that landed is the source's."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from support import gates
from support.fakes import DiskFile, FakeCache, FakeEngine, FakeFile, FakeOffload, FakeTarget
from swmld.cache.files import ChunkState
from swmld.cache.store import Cache
from swmld.errors import FetchError
from swmld.fetch.buffers import Buffer, BufferPool
from swmld.fetch.engine import make_engine
from swmld.fetch.scheduler import Fetcher
from swmld.fetch.stats import Result
from swmld.fetch.threads import Workers
from swmld.types import FetchClass, Identity

pytestmark = pytest.mark.timeout(120)

SUB_READ = 4096
CHUNK = 2 * SUB_READ
CHUNKS = 6
PARALLEL, PREFETCH_PARALLEL, TIMEOUT = 4, 2, 5.0


class WatchedEngine(FakeEngine):
    """Fails the test when two flights read the same bytes at once, or too many read."""

    def __init__(self) -> None:
        super().__init__()
        self.active: Counter[tuple[int, int]] = Counter()

    async def read(
        self,
        fd: int,
        buffer: Buffer,
        buf_offset: int,
        length: int,
        offset: int,
        *,
        minimum: int | None = None,
    ) -> int:
        self.active[fd, offset] += 1
        assert self.active[fd, offset] == 1, "two flights for one chunk"
        assert self.active.total() <= PARALLEL
        try:
            return await super().read(fd, buffer, buf_offset, length, offset, minimum=minimum)
        finally:
            self.active[fd, offset] -= 1


class Model:
    """Carries out a script and keeps what must come of it."""

    def __init__(self, delay: float) -> None:
        self.engine = WatchedEngine()
        self.cache = FakeCache()
        self.pool = BufferPool(3, CHUNK)
        self.told: list[tuple[object, int, int]] = []
        self.owed: set[tuple[object, int]] = set()
        """Demands that were promised an end."""
        self.hoped: Counter[tuple[object, int]] = Counter()
        """Prefetches with a deadline: each lands, fails or is late."""
        self.forgot = False
        self.ended = 0
        self.started = 0
        self.fetcher = Fetcher(
            self.engine,
            self.pool,
            self.cache,
            parallel=PARALLEL,
            prefetch_parallel=PREFETCH_PARALLEL,
            queue=4,
            sub_read=SUB_READ,
            timeout=TIMEOUT,
            on_landed=lambda target, chunk: self.tell(target, chunk, 0),
            on_failed=self.tell,
            offload=FakeOffload(delay),
        )
        self.sources = [bytearray(os.urandom(CHUNKS * CHUNK - cut)) for cut in (0, 100)]
        self.targets = [
            FakeTarget(key, self.engine.open(source), FakeFile(len(source), CHUNK, self.cache, self.engine))
            for key, source in enumerate(self.sources)
        ]

    def tell(self, target: FakeTarget, chunk: int, code: int) -> None:
        self.told.append((target.key, chunk, code))
        self.owed.discard((target.key, chunk))
        self.hoped.pop((target.key, chunk), None)
        assert (target.file.state(chunk) is ChunkState.PRESENT) == (code == 0)

    def late(self, target: FakeTarget, chunk: int) -> None:
        assert (target.key, chunk) not in self.owed, "somebody demanded it"
        assert target.file.state(chunk) is not ChunkState.PRESENT
        assert self.hoped.pop((target.key, chunk)) == 1, "told of what was not asked for, or twice"

    async def reader(self, target: FakeTarget, chunks: list[int], patience: float) -> None:
        self.started += 1
        try:
            with trio.move_on_after(patience):
                with contextlib.suppress(FetchError):
                    await self.fetcher.ensure(target, chunks)
                    assert all(target.file.state(chunk) is ChunkState.PRESENT for chunk in chunks)
        finally:
            self.ended += 1

    def step(self, nursery: trio.Nursery, what: str, number: int, chunk: int) -> None:
        target = self.targets[number % 2]
        if what == "demand":
            if self.fetcher.request(target, chunk, FetchClass.DEMAND):
                self.owed.add((target.key, chunk))
            else:
                assert target.file.state(chunk) is ChunkState.PRESENT
        elif what == "prefetch":
            self.fetcher.request(target, chunk, FetchClass.PREFETCH, priority=number)
        elif what == "deadline":
            due = trio.current_time() + (0.0, 0.004, 0.02, 2.0)[number % 4]
            if self.fetcher.request(target, chunk, FetchClass.PREFETCH, deadline=due, on_late=self.late):
                assert number % 4, "it was late when it was asked for"
                self.hoped[target.key, chunk] += 1
        elif what == "read":
            patience = (0.001, 0.015, 1.0, 1000.0)[number % 4]
            nursery.start_soon(self.reader, target, [chunk, (chunk + number) % CHUNKS], patience)
        elif what == "forget":
            self.fetcher.forget(target)
            self.forgot = True
        elif what == "fault":
            self.engine.faults.append((0, errno.EIO, errno.EACCES, errno.EAGAIN)[number % 4])
        elif what == "hang":
            self.engine.hang = True
        elif what == "let_go":
            self.engine.let_go()
        elif what == "full":
            self.cache.full = not self.cache.full
        elif what == "changed":
            target.changed = not target.changed
        elif what == "suspect" and target.file.state(chunk) is ChunkState.ABSENT and self.idle(target, chunk):
            offset, length = target.file.extent(chunk)
            good = number % 2 == 0
            source = self.sources[number % 2]
            target.file.data[offset : offset + length] = source[offset : offset + length]
            target.file.verify_answer = good
            target.file.states[chunk] = ChunkState.SUSPECT

    def idle(self, target: FakeTarget, chunk: int) -> bool:
        stats = self.fetcher.stats
        return not any(stats.in_flight.values()) and not any(stats.queued.values()) and not self.pool.stuck

    def check_end(self) -> None:
        assert self.ended == self.started
        assert not self.owed, "a demand was promised an end and got none"
        assert self.forgot or not self.hoped, "nobody was told how a prefetch ended"
        stats = self.fetcher.stats
        assert (stats.reads_in_flight, stats.stuck) == (0, 0)
        assert not any(stats.queued.values())
        assert not any(stats.in_flight.values())
        assert sum(stats.flights.values()) == len(self.told)
        assert (self.pool.lent, self.pool.quarantined) == (0, 0)
        assert self.cache.reserved == 0
        for target, source in zip(self.targets, self.sources, strict=True):
            assert target.retained == 0
            for chunk in range(CHUNKS):
                if target.file.state(chunk) is ChunkState.PRESENT:
                    offset, length = target.file.extent(chunk)
                    assert target.file.data[offset : offset + length] == source[offset : offset + length]


# Requests more often than faults: else hardly a flight lands.
ACTIONS = ["demand", "prefetch", "read"] * 2 + ["prefetch", "forget", "fault", "hang", "let_go", "full"]
ACTIONS += ["changed", "suspect", "deadline", "deadline"]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(ACTIONS),
        st.integers(0, 7),
        st.integers(0, CHUNKS - 1),
        st.sampled_from([0.0, 0.0, 0.005, 0.01, 0.05, 1.0, 6.0]),
    ),
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(steps=STEPS, delay=st.sampled_from([0.0, 0.002]), cut_short=st.booleans())
def test_any_sequence(steps: list[tuple[str, int, int, float]], delay: float, cut_short: bool) -> None:
    async def main() -> None:
        model = Model(delay)
        async with trio.open_nursery() as readers, trio.open_nursery() as nursery:
            await nursery.start(model.fetcher.run)
            for what, number, chunk, pause in steps:
                model.step(readers, what, number, chunk)
                if pause:
                    await trio.sleep(pause)
            if not cut_short:
                model.engine.let_go()
                await trio.sleep(2000)
            nursery.cancel_scope.cancel()
        model.engine.let_go()
        model.check_end()
        model.pool.close()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# ---- the real engines


def real_fetch(kind: str, content: bytes, *, direct: bool, sub_read: int, chunk_size: int) -> bytes:
    """What the cache file holds after all of ``content`` went through a real engine, asked for in an odd
    order."""

    async def main(source: int, cached: int) -> None:
        engine = make_engine(kind)  # type: ignore[arg-type]
        pool, workers, cache = BufferPool(4, chunk_size), Workers(4), FakeCache()
        failures: list[int] = []
        fetcher = Fetcher(
            engine,
            pool,
            cache,
            parallel=8,
            prefetch_parallel=4,
            sub_read=sub_read,
            on_landed=lambda *_: None,
            on_failed=lambda _target, _chunk, code: failures.append(code),
            offload=workers,
        )
        file = DiskFile(cached, len(content), chunk_size, cache)
        target = FakeTarget("real", source, file, direct=direct)
        async with trio.open_nursery() as nursery:
            for run in (engine.run, workers.run, fetcher.run):
                await nursery.start(run)
            for chunk in range(0, file.nchunks, 3):
                fetcher.request(target, chunk, FetchClass.PREFETCH)
            with trio.fail_after(30):
                await fetcher.ensure(target, reversed(range(file.nchunks)))
            nursery.cancel_scope.cancel()
        for thing in (engine, workers, pool):
            thing.close()
        assert not failures
        assert fetcher.stats.flights[FetchClass.PREFETCH, Result.ERROR] == 0
        assert len(file.commits) == file.nchunks
        assert (pool.lent, pool.allocated, cache.reserved, target.retained) == (0, 0, 0, 0)

    with tempfile.TemporaryDirectory(prefix="swmld-fetch-") as directory:
        source_path, cached_path = Path(directory, "source"), Path(directory, "cached")
        source_path.write_bytes(content)
        cached_path.touch()
        source = os.open(source_path, os.O_RDONLY | (os.O_DIRECT if direct else 0))
        cached = os.open(cached_path, os.O_RDWR)
        try:
            trio.run(main, source, cached)
        finally:
            os.close(source)
            os.close(cached)
        return cached_path.read_bytes()


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("kind", ["uring", "threads"])
@settings(max_examples=15, deadline=None)
@given(
    size=st.integers(1, 1 << 20),
    sub_read=st.sampled_from([4096, 16384, 65536]),
    chunk_size=st.sampled_from([16384, 65536, 262144]),
)
def test_bytes_arrive_through_the_real_engines(
    kind: str, direct: bool, size: int, sub_read: int, chunk_size: int
) -> None:
    if kind == "uring":
        gates.require("uring")
    content = os.urandom(size)
    assert content == real_fetch(kind, content, direct=direct, sub_read=sub_read, chunk_size=chunk_size)


def test_a_source_that_refuses_direct_reads_is_read_through_the_page_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sub-reads at odd offsets: O_DIRECT answers EINVAL, as some network file systems do to every read."""
    content = os.urandom(50_000)
    assert content == real_fetch("threads", content, direct=True, sub_read=10_000, chunk_size=30_000)


def test_with_the_real_cache(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    path = tmp_path / "source"
    path.write_bytes(content)
    cache = Cache.open(
        tmp_path / "cache",
        source_key="test",
        mount="/test",
        size_limit=1 << 30,
        free_floor=0,
        chunk_size=1 << 20,
    )
    source = os.open(path, os.O_RDONLY)
    stat = os.fstat(source)
    identity = Identity(0, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    file = cache.acquire(identity, b"source")
    landed: list[int] = []

    async def main() -> None:
        engine = make_engine("auto")
        pool, workers = BufferPool(4, 1 << 20), Workers(4)
        fetcher = Fetcher(
            engine,
            pool,
            cache,
            on_landed=lambda _target, chunk: landed.append(chunk),
            on_failed=lambda *_: None,
            offload=workers,
        )
        target: Any = FakeTarget("real", source, file)  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:
            for run in (engine.run, workers.run, fetcher.run):
                await nursery.start(run)
            with trio.fail_after(30):
                await fetcher.ensure(target, range(file.nchunks))
            nursery.cancel_scope.cancel()
        for thing in (engine, workers, pool):
            thing.close()

    try:
        trio.run(main)
        assert sorted(landed) == [0, 1, 2]
        assert file.complete
        assert os.pread(file.fd, len(content), 0) == content
        assert all(file.verify(chunk) for chunk in range(file.nchunks))
    finally:
        file.release()
        os.close(source)
        cache.close()
