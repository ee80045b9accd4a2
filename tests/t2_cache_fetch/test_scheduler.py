"""The scheduler on fakes and trio's clock: its three rules, one by one, and what each failure costs."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from support.fakes import FakeCache, FakeEngine, FakeFile, FakeOffload, FakeTarget, check_nothing_left
from swmld.cache.files import ChunkState
from swmld.errors import FetchError
from swmld.fetch.buffers import BufferPool
from swmld.fetch.scheduler import Fetcher
from swmld.fetch.stats import Result
from swmld.types import FetchClass

DEMAND, PREFETCH = FetchClass.DEMAND, FetchClass.PREFETCH
SUB_READ = 4096
CHUNK = 4 * SUB_READ

pytestmark = pytest.mark.timeout(60)


class World:
    """One fetcher on fakes."""

    def __init__(self, *, buffers: int = 16, **options: Any) -> None:
        self.engine = FakeEngine()
        self.cache = FakeCache()
        self.pool = BufferPool(buffers, CHUNK)
        self.events: list[tuple[object, int, int]] = []
        """(key, chunk, errno) in order; errno 0: landed."""
        settings: dict[str, Any] = {
            "parallel": 8, "prefetch_parallel": 4, "queue": 100, "sub_read": SUB_READ, "timeout": 5.0,
        }  # fmt: skip
        self.fetcher = Fetcher(
            self.engine,
            self.pool,
            self.cache,
            on_landed=lambda target, chunk: self.events.append((target.key, chunk, 0)),
            on_failed=lambda target, chunk, code: self.events.append((target.key, chunk, code)),
            offload=FakeOffload(),
            **(settings | options),
        )

    def target(self, key: object = "a", size: int = 10 * CHUNK) -> FakeTarget:
        content = bytearray((hash(str(key)) + i * 31) % 251 for i in range(min(size, 997)))
        source = bytearray((content * (size // max(1, len(content)) + 1))[:size])
        file = FakeFile(size, CHUNK, self.cache, self.engine)
        target = FakeTarget(key, self.engine.open(source), file)
        target.source = source  # type: ignore[attr-defined]
        return target

    @property
    def chunks(self) -> list[int]:
        return [chunk for _, chunk, code in self.events if code == 0]

    def read_order(self, target: FakeTarget) -> list[int]:
        """Chunks in the order in which their first read started."""
        order = [offset // CHUNK for fd, offset, _ in self.engine.reads if fd == target.source_fd]
        return list(dict.fromkeys(order))

    def check_nothing_left(self) -> None:
        check_nothing_left(self.fetcher, self.pool, self.cache)


@asynccontextmanager
async def running(world: World) -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        await nursery.start(world.fetcher.run)
        yield nursery
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_ensure_brings_the_bytes(autojump_clock: object) -> None:
    world = World()
    target = world.target(size=3 * CHUNK + 100)
    async with running(world):
        await world.fetcher.ensure(target, range(4))
        assert bytes(target.file.data) == target.source  # type: ignore[attr-defined]
        assert sorted(world.events) == [("a", chunk, 0) for chunk in range(4)]
        world.check_nothing_left()
        assert target.retained == 0
        assert world.fetcher.stats.flights[DEMAND, Result.LANDED] == 4
        assert world.fetcher.stats.bytes[DEMAND] == 3 * CHUNK + 100
        assert world.fetcher.stats.latency[DEMAND].count == 4
        # All there: nothing is read again, and a demand says so.
        reads = len(world.engine.reads)
        await world.fetcher.ensure(target, range(4))
        assert not world.fetcher.request(target, 0, DEMAND)
        assert not world.fetcher.request(target, 0, PREFETCH)
        assert len(world.engine.reads) == reads


@pytest.mark.trio
async def test_single_flight(autojump_clock: object) -> None:
    world = World()
    target = world.target()
    async with running(world), trio.open_nursery() as readers:
        assert world.fetcher.request(target, 0, DEMAND)
        assert world.fetcher.request(target, 0, DEMAND)  # under way: the end will be told
        assert not world.fetcher.request(target, 0, PREFETCH)
        for _ in range(5):
            readers.start_soon(world.fetcher.ensure, target, [0, 1])
    assert sorted(world.events) == [("a", 0, 0), ("a", 1, 0)]
    assert len(world.engine.reads) == 2 * CHUNK // SUB_READ


@pytest.mark.trio
async def test_demand_before_prefetch(autojump_clock: object) -> None:
    world = World(parallel=4, prefetch_parallel=4)
    target = world.target()
    async with running(world):
        for chunk in (5, 6, 7):
            assert world.fetcher.request(target, chunk, PREFETCH)
        assert world.fetcher.request(target, 1, DEMAND)
        await trio.sleep(1)
    assert world.read_order(target)[0] == 1


@pytest.mark.trio
async def test_a_small_prefetch_does_not_slip_past_a_waiting_demand(autojump_clock: object) -> None:
    world = World(parallel=4, prefetch_parallel=4)
    large, first, second = world.target("large"), world.target("1", SUB_READ), world.target("2", SUB_READ)
    async with running(world):
        world.engine.hang = True
        world.fetcher.request(first, 0, PREFETCH)
        await trio.testing.wait_all_tasks_blocked()
        world.engine.hang = False
        world.fetcher.request(large, 0, DEMAND)  # wants four slots, three are free
        world.fetcher.request(second, 0, PREFETCH)  # wants one
        await trio.testing.wait_all_tasks_blocked()
        assert [fd for fd, _, _ in world.engine.reads] == [first.source_fd]
        world.engine.let_go()
        await trio.sleep(1)
        assert [key for key, _, _ in world.events] == ["1", "large", "2"]


@pytest.mark.trio
async def test_a_demand_finds_room_at_once_among_prefetch(autojump_clock: object) -> None:
    world = World()
    target = world.target(size=100 * CHUNK)
    async with running(world):
        for chunk in range(50):
            world.fetcher.request(target, chunk, PREFETCH)
        await trio.sleep(0.015)
        assert world.engine.most_reading <= 4
        before = trio.current_time()
        world.fetcher.request(target, 99, DEMAND)
        await trio.testing.wait_all_tasks_blocked()
        assert world.engine.reads[-1][1] // CHUNK == 99, "the demand is read now"
        await world.fetcher.ensure(target, [99])
        assert trio.current_time() - before < 0.021  # one read, one write
        assert world.engine.most_reading <= 8


@pytest.mark.trio
async def test_prefetch_leaves_buffers_to_demand(autojump_clock: object) -> None:
    world = World(buffers=4, prefetch_parallel=100, parallel=200)
    target = world.target(size=100 * CHUNK)
    async with running(world):
        for chunk in range(50):
            world.fetcher.request(target, chunk, PREFETCH)
        await trio.testing.wait_all_tasks_blocked()
        world.fetcher.request(target, 99, DEMAND)
        await trio.testing.wait_all_tasks_blocked()
        assert 99 in world.read_order(target)


@pytest.mark.trio
async def test_parallel_bounds_the_reads(autojump_clock: object) -> None:
    world = World(parallel=6, prefetch_parallel=2)
    target = world.target(size=40 * CHUNK)
    async with running(world):
        await world.fetcher.ensure(target, range(20))
        assert world.engine.most_reading <= 6
        world.engine.most_reading = 0
        for chunk in range(20, 40):
            world.fetcher.request(target, chunk, PREFETCH)
        await trio.sleep(5)
        # Fewer slots than a chunk has parts: it takes turns.
        assert world.engine.most_reading == 2
        assert len(world.events) == 40


@pytest.mark.trio
async def test_prefetch_order(autojump_clock: object) -> None:
    world = World(parallel=4, prefetch_parallel=4)
    target = world.target(size=20 * CHUNK)
    async with running(world):
        world.fetcher.request(target, 0, PREFETCH)
        world.fetcher.request(target, 1, PREFETCH, priority=1)
        world.fetcher.request(target, 2, PREFETCH, priority=1, deadline=9.0)
        world.fetcher.request(target, 3, PREFETCH, priority=1, deadline=3.0)
        world.fetcher.request(target, 4, PREFETCH, priority=-1)
        world.fetcher.request(target, 5, PREFETCH)
        await trio.sleep(2)
    assert world.read_order(target) == [3, 2, 1, 0, 5, 4]


@pytest.mark.trio
async def test_full_queue_drops_prefetch_never_demand(autojump_clock: object) -> None:
    world = World(queue=3)
    target = world.target(size=100 * CHUNK)
    async with running(world):
        answers = [world.fetcher.request(target, chunk, PREFETCH) for chunk in range(5)]
        assert answers == [True] * 3 + [False] * 2
        assert world.fetcher.stats.dropped == 2
        assert all(world.fetcher.request(target, chunk, DEMAND) for chunk in range(10, 30))
        await trio.sleep(2)
    assert sorted(world.chunks) == [0, 1, 2, *range(10, 30)]


@pytest.mark.trio
async def test_promotion(autojump_clock: object) -> None:
    world = World(parallel=4, prefetch_parallel=4)
    target = world.target(size=20 * CHUNK)
    async with running(world):
        for chunk in range(8):
            world.fetcher.request(target, chunk, PREFETCH)
        await trio.testing.wait_all_tasks_blocked()  # 0 flies
        assert world.fetcher.request(target, 7, DEMAND)
        assert world.fetcher.request(target, 0, DEMAND)
        assert world.fetcher.stats.promoted == 2
        await world.fetcher.ensure(target, [7])
        assert world.read_order(target)[:2] == [0, 7]
        await trio.sleep(2)
        assert sorted(world.chunks) == list(range(8))
        world.check_nothing_left()
        assert world.fetcher.stats.flights[DEMAND, Result.LANDED] == 2


@pytest.mark.trio
async def test_forget_drops_queued_prefetch_alone(autojump_clock: object) -> None:
    world = World(parallel=4, prefetch_parallel=4)
    target, other = world.target("a"), world.target("b")
    async with running(world):
        for chunk in range(4):
            world.fetcher.request(target, chunk, PREFETCH)
        world.fetcher.request(other, 0, PREFETCH)
        await trio.testing.wait_all_tasks_blocked()  # a/0 flies
        world.fetcher.request(target, 3, DEMAND)
        world.fetcher.forget(target)
        await trio.sleep(2)
        assert sorted(world.events) == [("a", 0, 0), ("a", 3, 0), ("b", 0, 0)]
        assert world.fetcher.stats.forgotten == 2
        world.check_nothing_left()


@pytest.mark.trio
async def test_what_is_queued_at_its_deadline_is_dropped_and_told(autojump_clock: object) -> None:
    world = World(parallel=4, prefetch_parallel=4)
    target, late = world.target(size=20 * CHUNK), []
    async with running(world):
        world.engine.hang = True

        def ask(chunk: int, deadline: float | None, priority: int = 0) -> bool:
            return world.fetcher.request(
                target, chunk, PREFETCH, priority=priority, deadline=deadline,
                on_late=lambda which, number: late.append((which, number, trio.current_time())),
            )  # fmt: skip

        assert ask(0, 1.0)
        await trio.testing.wait_all_tasks_blocked()  # 0 flies: its deadline is over
        assert ask(1, 3.0)
        assert ask(2, 1.0)
        assert ask(3, None)
        assert ask(4, 1.0)
        assert ask(5, 2.0, priority=-1)
        assert world.fetcher.request(target, 4, DEMAND)  # nor has what is demanded a deadline any more
        await trio.sleep(1.5)
        assert late == [(target, 2, 1.0)]
        assert not ask(6, 1.4), "too late already"
        await trio.sleep(1.0)
        assert late[1:] == [(target, 5, 2.0)], "behind others in the queue, and yet in time"
        world.engine.let_go()
        await trio.sleep(1)
        assert len(late) == 2
        assert sorted(world.chunks) == [0, 1, 3, 4]
        assert len(world.events) == 4, "who was told of a late one hears no more of it"
        assert world.fetcher.stats.forgotten == 2
        world.check_nothing_left()
        assert target.retained == 0


@pytest.mark.trio
async def test_many_deadlines_take_few_looks_and_nothing_late_is_started(autojump_clock: object) -> None:
    world = World(parallel=4, prefetch_parallel=4)
    target, late = world.target(size=100 * CHUNK), []
    async with running(world):
        world.engine.hang = True
        world.fetcher.request(target, 0, PREFETCH)
        await trio.testing.wait_all_tasks_blocked()
        for chunk in range(1, 100):
            world.fetcher.request(
                target, chunk, PREFETCH, deadline=1 + chunk / 1000,
                on_late=lambda _, number: late.append((number, trio.current_time())),
            )  # fmt: skip
        await trio.sleep(1.03)
        world.engine.let_go()  # between two looks: those from 1.001 to 1.03 s must not fly
        await trio.sleep(1)
        assert not {chunk for chunk in range(1, 31)} & set(world.chunks)
        assert {number for number, _ in late} >= set(range(1, 31))
        assert sorted([*world.chunks, *(number for number, _ in late)]) == list(range(100))
        assert all(0 <= when - (1 + number / 1000) <= 0.05 for number, when in late)
        world.check_nothing_left()


@pytest.mark.trio
async def test_a_target_is_kept_while_it_waits(autojump_clock: object) -> None:
    """Its opener may leave before its turn comes: a closed descriptor could be another file by then."""
    world = World(parallel=4, prefetch_parallel=4)
    first, waiting, forgotten = world.target("first"), world.target("waiting"), world.target("forgotten")
    async with running(world):
        world.fetcher.request(first, 0, DEMAND)
        world.fetcher.request(waiting, 0, DEMAND)
        world.fetcher.request(forgotten, 0, PREFETCH)
        assert (waiting.retained, forgotten.retained) == (1, 1)
        world.fetcher.forget(forgotten)
        assert forgotten.retained == 0
        await trio.sleep(1)
        assert (first.retained, waiting.retained) == (0, 0)


@pytest.mark.trio
async def test_forget_leaves_the_prefetch_of_another_target_of_the_same_key(autojump_clock: object) -> None:
    world = World()
    target = world.target("a")
    twin = FakeTarget("a", target.source_fd, target.file)
    async with running(world):
        world.fetcher.request(twin, 0, PREFETCH)
        world.fetcher.forget(target)
        await trio.sleep(1)
        assert world.chunks == [0]


@pytest.mark.trio
@pytest.mark.parametrize("code", [errno.EIO, errno.EAGAIN, errno.ETIMEDOUT])
async def test_a_demand_is_tried_once_more(autojump_clock: object, code: int) -> None:
    world = World()
    target = world.target(size=SUB_READ)
    async with running(world):
        world.engine.faults = [code]
        await world.fetcher.ensure(target, [0])
        assert world.fetcher.stats.retries == 1
        other = world.target("b", size=SUB_READ)
        world.engine.faults = [code, code]
        with pytest.raises(FetchError) as caught:
            await world.fetcher.ensure(other, [0])
        assert caught.value.errno == code
        assert world.events == [("a", 0, 0), ("b", 0, code)]
        world.check_nothing_left()
        await world.fetcher.ensure(other, [0])  # and the next one starts afresh


@pytest.mark.trio
@pytest.mark.parametrize(("cls", "code"), [(PREFETCH, errno.EIO), (DEMAND, errno.EACCES)])
async def test_not_tried_again(autojump_clock: object, cls: FetchClass, code: int) -> None:
    world = World()
    target = world.target(size=SUB_READ)
    async with running(world):
        world.engine.faults = [code]
        world.fetcher.request(target, 0, cls)
        await trio.sleep(1)
        assert world.events == [("a", 0, code)]
        assert world.fetcher.stats.flights[cls, Result.ERROR] == 1
        assert len(world.engine.reads) == 1


@pytest.mark.trio
async def test_one_failing_part_fails_the_chunk_with_its_errno(autojump_clock: object) -> None:
    world = World()
    target = world.target()
    async with running(world):
        world.engine.faults = [0, 0, errno.EACCES, errno.EACCES]
        with pytest.raises(FetchError) as caught:
            await world.fetcher.ensure(target, [0])
        assert caught.value.errno == errno.EACCES
        assert target.file.state(0) is ChunkState.ABSENT
        world.check_nothing_left()


@pytest.mark.trio
async def test_after_a_failed_part_no_other_is_begun(autojump_clock: object) -> None:
    world = World(parallel=2, prefetch_parallel=2)
    target = world.target()
    async with running(world):
        world.engine.faults = [errno.EACCES]
        world.fetcher.request(target, 0, DEMAND)
        await trio.sleep(1)
        assert len(world.engine.reads) == 2  # of four


@pytest.mark.trio
async def test_a_changed_source_is_stale(autojump_clock: object) -> None:
    world = World()
    target = world.target()
    target.change_at_check = 1
    async with running(world):
        with pytest.raises(FetchError) as caught:
            await world.fetcher.ensure(target, [0])
    assert caught.value.errno == errno.ESTALE
    assert world.events == [("a", 0, errno.ESTALE)]
    assert not target.file.commits
    assert len(world.engine.reads) == 4


@pytest.mark.trio
async def test_a_truncated_source_is_stale(autojump_clock: object) -> None:
    world = World()
    target = world.target(size=2 * CHUNK)
    del target.source[CHUNK + 5 :]  # type: ignore[attr-defined]
    async with running(world):
        await world.fetcher.ensure(target, [0])
        with pytest.raises(FetchError) as caught:
            await world.fetcher.ensure(target, [1])
        assert caught.value.errno == errno.ESTALE
        assert target.file.commits == [0]
        world.check_nothing_left()


@pytest.mark.trio
async def test_a_full_cache_says_enospc(autojump_clock: object) -> None:
    world = World()
    target = world.target()
    async with running(world):
        world.cache.full = True
        world.fetcher.request(target, 0, DEMAND)
        await trio.sleep(1)
        assert world.events == [("a", 0, errno.ENOSPC)]
        world.cache.full = False
        world.engine.write_fault = errno.EIO  # its disk fails: for the reader the same
        world.fetcher.request(target, 0, DEMAND)
        await trio.sleep(1)
        assert world.events[1:] == [("a", 0, errno.ENOSPC)]
        assert not target.file.commits
        world.check_nothing_left()


@pytest.mark.trio
async def test_suspect_chunks_are_verified_first(autojump_clock: object) -> None:
    world = World()
    target = world.target()
    target.file.states[:2] = [ChunkState.SUSPECT] * 2
    async with running(world):
        await world.fetcher.ensure(target, [0])
        assert not world.engine.reads
        assert world.fetcher.stats.flights[DEMAND, Result.VERIFIED] == 1
        target.file.verify_answer = False
        await world.fetcher.ensure(target, [1])
        assert target.file.verified == [0, 1]
        assert target.file.commits == [1]
        assert world.events == [("a", 0, 0), ("a", 1, 0)]


@pytest.mark.trio
async def test_a_hung_read_costs_its_timeout_and_no_slot(autojump_clock: object) -> None:
    world = World()
    target, other = world.target("a", size=SUB_READ), world.target("b")
    async with running(world):
        world.engine.hang = True
        before = trio.current_time()
        with pytest.raises(FetchError) as caught:
            await world.fetcher.ensure(target, [0])
        assert caught.value.errno == errno.EIO
        assert trio.current_time() - before == pytest.approx(5.0)
        stats = world.fetcher.stats
        assert (stats.stuck, stats.timeouts, stats.reads_in_flight) == (1, 1, 0)
        assert world.pool.quarantined == 1
        assert target.retained == 1, "its descriptors are still in use"
        assert world.cache.reserved == SUB_READ, "its room is not given away while the kernel may write"
        world.engine.hang = False  # for new reads: the old one still hangs
        await world.fetcher.ensure(other, range(10))
        world.engine.let_go()
        assert target.retained == 0
        world.check_nothing_left()


@pytest.mark.trio
async def test_a_hanging_source_fails_fast_until_it_answers(autojump_clock: object) -> None:
    world = World(parallel=4, prefetch_parallel=2, buffers=100)
    target = world.target("a", size=100 * CHUNK)
    async with running(world):
        world.engine.hang = True
        for chunk in range(3):
            world.fetcher.request(target, chunk, DEMAND)
        await trio.sleep(16)
        assert world.fetcher.stats.stuck == 4
        before = trio.current_time()
        with pytest.raises(FetchError) as caught:
            await world.fetcher.ensure(target, [50])
        assert caught.value.errno == errno.EIO
        assert trio.current_time() == before
        assert world.fetcher.stats.refused >= 1
        assert world.fetcher.stats.stuck == 4, "it is bounded"
        assert world.fetcher.request(target, 60, PREFETCH)  # waits; costs nothing
        await trio.testing.wait_all_tasks_blocked()
        world.engine.let_go()
        await trio.sleep(1)
        assert target.file.state(60) is ChunkState.PRESENT
        await world.fetcher.ensure(target, [50])
        world.check_nothing_left()


@pytest.mark.trio
async def test_no_buffer_left_but_quarantined_ones_fails_fast(autojump_clock: object) -> None:
    world = World(parallel=100, prefetch_parallel=1, buffers=2)
    target = world.target(size=100 * CHUNK)
    async with running(world):
        world.engine.hang = True
        for chunk in range(5):
            world.fetcher.request(target, chunk, DEMAND)
        await trio.sleep(5.1)
        assert sorted(world.events) == [("a", chunk, errno.EIO) for chunk in range(5)]
        world.engine.let_go()
        await world.fetcher.ensure(target, [7])
        world.check_nothing_left()


@pytest.mark.trio
async def test_a_cancelled_ensure_takes_its_queue_back(autojump_clock: object) -> None:
    world = World(parallel=4, prefetch_parallel=4)
    target = world.target(size=100 * CHUNK)
    async with running(world):
        async with trio.open_nursery() as readers:
            readers.start_soon(world.fetcher.ensure, target, range(100))
            await trio.testing.wait_all_tasks_blocked()
            world.fetcher.request(target, 3, DEMAND)  # somebody else wants this one
            readers.cancel_scope.cancel()
        await trio.sleep(2)
        assert sorted(world.chunks) == [0, 3]
        world.check_nothing_left()


@pytest.mark.trio
async def test_the_end_of_run_fails_what_is_left(autojump_clock: object) -> None:
    world = World(parallel=4, prefetch_parallel=4)
    target = world.target(size=100 * CHUNK)
    outcomes: list[int] = []

    async def reader() -> None:
        try:
            await world.fetcher.ensure(target, [0])
        except FetchError as error:
            outcomes.append(error.errno)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        async with running(world):
            world.engine.hang = True
            world.fetcher.request(target, 9, DEMAND)
            await trio.testing.wait_all_tasks_blocked()
    world.engine.let_go()
    assert outcomes == [errno.EIO]
    assert sorted(world.events) == [("a", 0, errno.EIO), ("a", 9, errno.EIO)]
    world.check_nothing_left()


@pytest.mark.trio
async def test_an_unexpected_error_ends_one_flight_alone(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    target, other = world.target("a"), world.target("b")
    target.check_source = lambda: 1 // 0  # type: ignore[assignment,method-assign]
    async with running(world):
        with pytest.raises(FetchError):
            await world.fetcher.ensure(target, [0])
        await world.fetcher.ensure(other, [0])
        world.check_nothing_left()
    assert "ZeroDivisionError" in caplog.text
