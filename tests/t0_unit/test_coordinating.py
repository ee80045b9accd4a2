"""Barriers and single writers: every wait ends, and nobody is let in who should not be."""

from __future__ import annotations

import errno

import pytest
import trio
import trio.testing
from swmld.mount import coordinating
from swmld.mount.coordinating import Coordinator
from swmld.rules.actions import Coordinate

FILE = 7
MEET = Coordinate("barrier", processes=3, timeout=10.0)
WRITE = Coordinate("single_writer", timeout=10.0)


def coordinator() -> Coordinator:
    """Threads 10 to 19 are of process 1, and so on."""
    return Coordinator(lambda thread: thread // 10 or None)


@pytest.mark.trio
async def test_a_barrier_opens_when_all_have_come_and_then_anew(autojump_clock: object) -> None:
    here, passed = coordinator(), []

    async def come(thread: int) -> None:
        await here.meet(FILE, thread, MEET)
        passed.append(thread)

    for _ in range(2):
        passed.clear()
        async with trio.open_nursery() as nursery:
            for thread in (10, 11, 20):  # two of them are one process
                nursery.start_soon(come, thread)
            await trio.sleep(9)
            assert (passed, here.waiting) == ([], 3)
            await come(30)
        assert sorted(passed) == [10, 11, 20, 30]
        assert here.waiting == 0


@pytest.mark.trio
async def test_barriers_end_with_the_mount(autojump_clock: object) -> None:
    here = coordinator()
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        for file in (FILE, FILE + 1):
            nursery.start_soon(here.meet, file, 10, MEET)
        await trio.sleep(1)
        here.end()
    await here.meet(FILE, 20, MEET)
    assert (trio.current_time(), here.waiting) == (begun + 1, 0)


@pytest.mark.trio
async def test_who_waits_finds_out_that_the_mount_was_taken_away(autojump_clock: object) -> None:
    """One of them asks for all, and nobody is asked while nobody waits."""
    asked: list[float] = []

    async def gone() -> bool:
        asked.append(trio.current_time())
        await trio.sleep(0.1)
        return trio.current_time() > begun + 3

    here = Coordinator(lambda thread: thread // 10 or None, gone)
    await here.begin_write(FILE, 10, WRITE)
    await trio.sleep(60)
    begun = trio.current_time()
    assert asked == []
    async with trio.open_nursery() as nursery:
        for file in range(20):
            nursery.start_soon(here.meet, FILE + file, 10, MEET)
        with pytest.raises(OSError, match="busy"):
            await here.begin_write(FILE, 20, WRITE)
    assert begun + 3 < trio.current_time() < begun + 4
    assert len(asked) <= 8
    assert here.waiting == 0


@pytest.mark.trio
async def test_who_waits_to_write_is_refused_when_the_mount_ends(autojump_clock: object) -> None:
    here, refused = coordinator(), []
    begun = trio.current_time()

    async def write(thread: int) -> None:
        with pytest.raises(OSError, match="busy") as caught:
            await here.begin_write(FILE, thread, WRITE)
        refused.append((caught.value.errno, trio.current_time()))

    first = await here.begin_write(FILE, 10, WRITE)
    async with trio.open_nursery() as nursery:
        for thread in (20, 30):
            nursery.start_soon(write, thread)
        await trio.sleep(1)
        here.end()
    await write(40)
    assert refused == [(errno.EBUSY, begun + 1)] * 3
    assert here.waiting == 0
    assert await here.begin_write(FILE, 11, WRITE) == first  # who writes already may open it again
    here.end_write(FILE, first)
    here.end_write(FILE, first)
    assert await here.begin_write(FILE, 20, WRITE) == 2  # and when nobody does, whoever comes


@pytest.mark.trio
async def test_a_barrier_ends_at_its_timeout_and_for_the_unknown(autojump_clock: object) -> None:
    here = coordinator()
    begun = trio.current_time()
    await here.meet(FILE, 0, MEET)
    await here.meet(FILE, 10, Coordinate("barrier"))
    assert trio.current_time() == begun
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.meet, FILE, 10, MEET)
        await trio.sleep(5)
        await here.meet(FILE, 20, MEET)
        assert trio.current_time() == begun + 10  # the round of both is over with the first
    with trio.move_on_after(1):
        await here.meet(FILE, 10, MEET)
    assert here.waiting == 0


@pytest.mark.trio
async def test_not_all_tasks_may_wait(autojump_clock: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinating, "MOST_WAITING", 2)
    here = coordinator()
    await here.begin_write(FILE, 90, WRITE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.meet, FILE + 1, 10, MEET)
        nursery.start_soon(here.meet, FILE, 20, MEET)
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        with pytest.raises(OSError, match="busy"):
            await here.begin_write(FILE, 30, WRITE)
        await here.meet(FILE, 30, MEET)
        assert trio.current_time() == begun
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_one_writer_at_a_time(autojump_clock: object) -> None:
    here, writing = coordinator(), set()

    async def write(thread: int) -> None:
        process = await here.begin_write(FILE, thread, WRITE)
        assert not writing
        writing.add(process)
        await trio.sleep(1)
        writing.discard(process)
        here.end_write(FILE, process)

    async with trio.open_nursery() as nursery:
        for thread in range(10, 60, 10):
            nursery.start_soon(write, thread)
    first = await here.begin_write(FILE, 10, WRITE)
    assert await here.begin_write(FILE, 12, WRITE) == first  # its own second open
    here.end_write(FILE, first)
    begun = trio.current_time()
    with pytest.raises(OSError, match="busy") as caught:
        await here.begin_write(FILE, 20, WRITE)
    assert (caught.value.errno, trio.current_time()) == (errno.EBUSY, begun + 10)
    here.end_write(FILE, 2)  # not its to end
    here.end_write(FILE, first)
    await here.begin_write(FILE, 20, WRITE)
    assert here.waiting == 0
