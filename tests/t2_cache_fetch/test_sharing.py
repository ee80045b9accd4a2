"""What rules ask of a target's fetches, on the scheduler's fakes: classes, priorities, shares, requests."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
import trio.testing
from support.fakes import FakeTarget
from swmld.errors import FetchError
from swmld.fetch.scheduler import BACKGROUND_WAIT
from swmld.fetch.sharing import LONGEST_HOLD, Terms
from swmld.types import FetchClass
from test_scheduler import CHUNK, SUB_READ, World, running

DEMAND, PREFETCH = FetchClass.DEMAND, FetchClass.PREFETCH

pytestmark = pytest.mark.timeout(60)


def on_terms(world: World, key: object, chunks: int = 10, **terms: object) -> FakeTarget:
    target = world.target(key, chunks * CHUNK)
    target.terms = Terms(**terms)  # type: ignore[arg-type]
    return target


@pytest.mark.trio
async def test_priorities_go_before_and_behind_other_demands(autojump_clock: object) -> None:
    world = World(parallel=4, prefetch_parallel=4)
    usual, later, soon = world.target("usual"), on_terms(world, "later", priority=-1), on_terms(world, "soon")
    soon.terms = Terms(priority=7)
    async with running(world), trio.open_nursery() as readers:
        readers.start_soon(world.fetcher.ensure, usual, [0])
        await trio.testing.wait_all_tasks_blocked()  # it has all the slots
        for target in (later, usual, soon):
            readers.start_soon(world.fetcher.ensure, target, [1])
            await trio.testing.wait_all_tasks_blocked()
    assert world.events == [("usual", 0, 0), ("soon", 1, 0), ("usual", 1, 0), ("later", 1, 0)]
    world.check_nothing_left()


@pytest.mark.trio
async def test_a_demand_in_the_background_waits_for_the_others_but_not_for_ever(
    autojump_clock: object,
) -> None:
    world = World(parallel=4, prefetch_parallel=4)
    usual, back = world.target("usual", 1000 * CHUNK), on_terms(world, "back", cls=PREFETCH)
    done: dict[str, float] = {}

    async def read(name: str, target: FakeTarget, chunks: list[int]) -> None:
        await world.fetcher.ensure(target, chunks)
        done[name] = trio.current_time()

    async with running(world), trio.open_nursery() as readers:
        begun = trio.current_time()
        readers.start_soon(read, "usual", usual, list(range(3)))
        await trio.testing.wait_all_tasks_blocked()
        readers.start_soon(read, "back", back, [0])
        await trio.testing.wait_all_tasks_blocked()
        assert not world.fetcher.request(back, 0, PREFETCH)
        world.fetcher.forget(back)  # somebody waits for it: it is not dropped
    assert done["usual"] < done["back"] < begun + 1
    async with running(world), trio.open_nursery() as readers:
        begun = trio.current_time()
        readers.start_soon(read, "usual", usual, list(range(3, 1000)))
        await trio.testing.wait_all_tasks_blocked()
        readers.start_soon(read, "back", back, [1])
    assert begun + BACKGROUND_WAIT <= done["back"] < begun + BACKGROUND_WAIT + 2 < done["usual"]
    world.check_nothing_left()


@pytest.mark.trio
async def test_a_prefetch_of_a_background_file_may_be_waited_for(autojump_clock: object) -> None:
    world = World(parallel=4, prefetch_parallel=4)
    usual, back = world.target("usual", 1000 * CHUNK), on_terms(world, "back", cls=PREFETCH)
    async with running(world), trio.open_nursery() as readers:
        readers.start_soon(world.fetcher.ensure, usual, range(1000))
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        assert world.fetcher.request(back, 0, PREFETCH)
        assert world.fetcher.request(back, 0, DEMAND)
        await world.fetcher.ensure(back, [0])
        assert trio.current_time() < begun + BACKGROUND_WAIT + 2
        back.terms = None  # who reads it now is not bound by the rule
        assert world.fetcher.request(replace_terms(back, cls=PREFETCH), 1, DEMAND)
        begun = trio.current_time()
        await world.fetcher.ensure(replace_terms(back), [1])
        assert trio.current_time() < begun + BACKGROUND_WAIT
        readers.cancel_scope.cancel()


def replace_terms(target: FakeTarget, **terms: object) -> FakeTarget:
    target.terms = Terms(**terms) if terms else None  # type: ignore[arg-type]
    return target


@pytest.mark.trio
async def test_prefetch_as_demand_takes_all_reads_and_lets_demands_pass(autojump_clock: object) -> None:
    world = World(parallel=8, prefetch_parallel=4)
    ahead, other, usual = on_terms(world, "ahead", cls=DEMAND), world.target("other"), world.target("usual")
    async with running(world), trio.open_nursery() as readers:
        world.fetcher.request(other, 0, PREFETCH)
        for chunk in range(4):
            assert world.fetcher.request(ahead, chunk, PREFETCH)
        await trio.testing.wait_all_tasks_blocked()
        assert world.engine.reading == 8
        readers.start_soon(world.fetcher.ensure, usual, [0])
        readers.start_soon(world.fetcher.ensure, ahead, [3])
        await trio.testing.wait_all_tasks_blocked()
        world.fetcher.forget(ahead)
    assert sorted(world.events[:2]) == [("ahead", 0, 0), ("ahead", 1, 0)]
    assert sorted(world.events[2:4]) == [("ahead", 3, 0), ("usual", 0, 0)]
    world.check_nothing_left()


@pytest.mark.trio
@pytest.mark.parametrize("shares", [(0.1, None), (0.25, None), (0.2, 0.6), (0.3, 0.3), (0.9, 0.9)])
async def test_shares_of_what_is_fetched(shares: tuple[float, float | None], autojump_clock: object) -> None:
    """Two readers, one chunk after the other each: bytes go by their shares while both read."""
    world = World(parallel=4, prefetch_parallel=4, timeout=60.0)
    readers = [
        on_terms(world, number, 400, job=number + 1, share=share) for number, share in enumerate(shares)
    ]
    count, enough = {0: 0, 1: 0}, trio.Event()

    async def read(target: FakeTarget, number: int) -> None:
        for chunk in range(400):
            await world.fetcher.ensure(target, [chunk])
            count[number] += 1
            if count[number] == 200:
                enough.set()

    async with running(world) as nursery:
        for number, target in enumerate(readers):
            nursery.start_soon(read, target, number)
        await enough.wait()
        nursery.cancel_scope.cancel()
    first, second = shares[0], 1 - shares[0] if shares[1] is None else shares[1]
    assert first is not None
    assert count[0] / count[1] == pytest.approx(first / second, rel=0.15)


@pytest.mark.trio
async def test_a_job_alone_takes_all_and_the_next_does_not_wait_for_that(autojump_clock: object) -> None:
    world = World(parallel=4, prefetch_parallel=4)
    alone, usual = on_terms(world, "alone", 400, job=1, share=0.05), world.target("usual", 400 * CHUNK)
    free = world.target("free", 400 * CHUNK)
    async with running(world):
        begun = trio.current_time()
        await world.fetcher.ensure(free, range(100))
        taken = trio.current_time() - begun
        await trio.sleep(1)
        begun = trio.current_time()
        await world.fetcher.ensure(alone, range(100))
        assert trio.current_time() - begun == pytest.approx(taken, rel=0.1)
        async with trio.open_nursery() as readers:
            readers.start_soon(world.fetcher.ensure, alone, range(100, 400))
            await trio.sleep(0.1)
            begun = trio.current_time()
            await world.fetcher.ensure(usual, range(100))
            assert trio.current_time() - begun < 1.3 * taken
            readers.cancel_scope.cancel()
    world.check_nothing_left()


@pytest.mark.trio
async def test_a_held_reader_gets_on(autojump_clock: object) -> None:
    """The others hang at the source, or fetch without end: one chunk a second comes all the same."""
    world = World(parallel=8, prefetch_parallel=4, timeout=100.0)
    small, usual = on_terms(world, "small", job=1, share=0.01), world.target("usual", 10_000 * CHUNK)
    async with running(world), trio.open_nursery() as readers:
        readers.start_soon(world.fetcher.ensure, usual, range(10_000))
        await trio.sleep(0.5)
        begun = trio.current_time()
        await world.fetcher.ensure(small, [0, 1, 2])
        assert trio.current_time() - begun < 3 * (LONGEST_HOLD + 0.2)
        with trio.move_on_after(0.2):
            await world.fetcher.ensure(small, [3, 4])
        assert world.fetcher.request(small, 5, PREFETCH)
        world.fetcher.forget(small)
        readers.cancel_scope.cancel()
    world.check_nothing_left()
    assert small.retained == 0


@pytest.mark.trio
async def test_a_held_demand_is_refused_with_the_others(autojump_clock: object) -> None:
    world = World(parallel=4, prefetch_parallel=4, timeout=1.0)
    small, usual = on_terms(world, "small", job=1, share=0.01), world.target("usual")
    async with running(world), trio.open_nursery() as readers:
        await world.fetcher.ensure(small, [0])
        world.engine.hang = True

        async def hang() -> None:
            with pytest.raises(FetchError):
                await world.fetcher.ensure(usual, [0])

        readers.start_soon(hang)
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        with pytest.raises(FetchError):
            await world.fetcher.ensure(small, range(1, 9))
        assert trio.current_time() - begun < 1.2
        world.engine.let_go()


@pytest.mark.trio
async def test_requests_and_how_many_at_once(autojump_clock: object) -> None:
    world = World(parallel=8, prefetch_parallel=8)
    fine, coarse = on_terms(world, "fine", parallel=3), on_terms(world, "coarse", request=2 * SUB_READ)
    async with running(world):
        await world.fetcher.ensure(fine, range(6))
        assert world.engine.most_reading == 3
        await world.fetcher.ensure(coarse, range(2))
        lengths = {length for fd, _, length in world.engine.reads if fd == coarse.source_fd}
        assert lengths == {2 * SUB_READ}
        assert len(world.engine.reads) == 6 * CHUNK // SUB_READ + 2 * CHUNK // (2 * SUB_READ)
        assert fine.terms is not None
        fine.terms = replace(fine.terms, parallel=8)
        await world.fetcher.ensure(fine, range(6, 10))
        assert world.engine.most_reading == 8
        for target in (fine, coarse):
            assert bytes(target.file.data)[: 2 * CHUNK] == target.source[: 2 * CHUNK]  # type: ignore[attr-defined]
        assert bytes(fine.file.data) == fine.source  # type: ignore[attr-defined]
    world.check_nothing_left()
