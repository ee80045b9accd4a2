"""Second requests: when they are sent, who wins, what they cost, and that a loser touches nothing."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
from support.source_fakes import Caller, Failing, FakeClock, FakeSource, PatientClock
from support.waiting import PATIENCE, until
from swmld.sources.budgets import Budget
from swmld.sources.hedging import ENOUGH, RECENT, Delays, Hedging
from swmld.sources.interface import Cut, Reader
from swmld.sources.racing import SMALLEST, Memory, Runners
from swmld.sources.whole import Get
from swmld.sources.wrapping import WrappedReader

pytestmark = pytest.mark.timeout(60)

CONTENT = bytes(range(256)) * 4
LENGTH = 1000


class Requests:
    """The reads that reach the source: each waits for its answer. ``FakeSource.fills``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._go: list[threading.Event] = []
        self._answers: dict[int, bytes | OSError] = {}
        self.views: list[memoryview] = []
        self.ended = 0

    @property
    def made(self) -> int:
        return len(self.views)

    def __call__(self, view: memoryview, offset: int) -> int:
        with self._lock:
            number = len(self._go)
            self._go.append(threading.Event())
            self.views.append(view)
        assert self._go[number].wait(PATIENCE)
        answer = self._answers[number]
        try:
            if isinstance(answer, OSError):
                raise answer
            view[: len(answer)] = answer
            return len(answer)
        finally:
            with self._lock:
                self.ended += 1

    def answer(self, number: int, answer: bytes | OSError) -> None:
        """What the ``number``-th request gets, once it is made."""
        until(lambda: self.made > number)
        self._answers[number] = answer
        self._go[number].set()


class World:
    """A fake source, hedged; reads of any size are known to take ``usual`` seconds."""

    def __init__(self, *, usual: float | None = 0.5, **options: Any) -> None:
        self.source = FakeSource(file=CONTENT)
        self.clock = options.pop("clock", None) or FakeClock()
        options.setdefault("budget", Budget(1.0, clock=self.clock))
        self.hedging = Hedging(self.source, clock=self.clock, **options)
        if usual is not None:
            for _ in range(ENOUGH):
                self.hedging.delays.took(LENGTH, usual)
        self.memory = bytearray(LENGTH)

    def reader(self) -> Reader:
        return self.hedging.open(b"file", self.hedging.stat(b"file"))

    def requests(self) -> Requests:
        self.source.fills = requests = Requests()
        return requests

    def read(self) -> Callable[[], int]:
        reader = self.reader()
        return lambda: reader.read(memoryview(self.memory), 0)

    def hedges(self) -> tuple[int, int]:
        counts = self.hedging.stats.counts()
        return counts.hedges, counts.hedges_won


def test_a_quick_read_has_no_second() -> None:
    world = World(clock=PatientClock())
    assert world.read()() == LENGTH
    assert world.memory == CONTENT[:LENGTH]
    assert world.clock.waits == [0.5]
    assert len(world.source.reads) == 1
    assert world.hedges() == (0, 0)


def test_a_slow_read_has_a_second_that_wins() -> None:
    world = World()
    requests = world.requests()
    caller = Caller(world.read())
    requests.answer(1, b"\2" * LENGTH)
    assert caller.result() == LENGTH
    assert world.memory == b"\2" * LENGTH
    assert world.hedges() == (1, 1)
    assert world.source.reads == [(0, LENGTH)] * 2
    # The first answers at last: neither the caller's buffer nor the memory of others is its.
    assert world.hedging.held == SMALLEST
    requests.answer(0, b"\1" * LENGTH)
    until(lambda: world.hedging.held == 0)
    assert world.memory == b"\2" * LENGTH


def test_the_first_may_win_all_the_same() -> None:
    world = World()
    requests = world.requests()
    caller = Caller(world.read())
    until(lambda: requests.made == 2)
    requests.answer(0, b"\1" * LENGTH)
    assert caller.result() == LENGTH
    requests.answer(1, b"\2" * LENGTH)
    until(lambda: world.hedging.held == 0)
    assert world.memory == b"\1" * LENGTH
    assert world.hedges() == (1, 0)


def test_neither_reads_into_the_caller_s_buffer() -> None:
    world = World()
    requests = world.requests()
    caller = Caller(world.read())
    until(lambda: requests.made == 2)
    places = [view.obj for view in requests.views]
    assert places[0] is not places[1]
    assert all(place is not world.memory for place in places)
    requests.answer(0, b"")
    requests.answer(1, b"")
    caller.result()


def test_one_that_fails_waits_for_the_other() -> None:
    for failing in (0, 1):
        world = World()
        requests = world.requests()
        caller = Caller(world.read())
        until(lambda requests=requests: requests.made == 2)  # type: ignore[misc]
        requests.answer(failing, OSError(errno.EIO, "broken"))
        until(lambda requests=requests: requests.ended == 1)  # type: ignore[misc]
        requests.answer(1 - failing, b"\3" * LENGTH)
        assert caller.result() == LENGTH
        assert world.memory == b"\3" * LENGTH


def test_both_fail() -> None:
    world = World()
    requests = world.requests()
    caller = Caller(world.read())
    until(lambda: requests.made == 2)
    requests.answer(1, OSError(errno.EIO, "second"))
    until(lambda: requests.ended == 1)
    requests.answer(0, OSError(errno.ETIMEDOUT, "first"))
    assert caller.code() in (errno.EIO, errno.ETIMEDOUT)
    until(lambda: world.hedging.held == 0)
    assert world.memory == bytes(LENGTH)


def test_an_error_in_time_has_no_second() -> None:
    world = World(clock=PatientClock())
    world.source.meets = Failing(OSError(errno.EIO, "broken"), kind="read")
    assert Caller(world.read()).code() == errno.EIO
    assert world.hedges() == (0, 0)
    assert world.hedging.held == 0


def test_part_of_a_read_is_not_said_to_be_in_the_caller_s_buffer() -> None:
    world = World(clock=PatientClock())
    world.source.meets = Failing(Cut(errno.ECONNRESET, "cut", 100), kind="read")
    error = Caller(world.read()).ended().error
    assert isinstance(error, OSError)
    assert not isinstance(error, Cut)
    assert error.errno == errno.ECONNRESET


def test_without_a_percentile_a_read_goes_straight_to_the_caller() -> None:
    world = World(usual=None)
    requests = world.requests()
    caller = Caller(world.read())
    until(lambda: requests.made == 1)
    assert requests.views[0].obj is world.memory
    requests.answer(0, b"\1" * LENGTH)
    assert caller.result() == LENGTH
    assert world.clock.waits == []


def test_reads_make_the_percentile_known() -> None:
    world = World(usual=None)

    def meets(kind: str, path: bytes) -> None:
        world.clock.time += 2.0 if kind == "read" else 0.0

    world.source.meets = meets
    read = world.read()
    for _ in range(ENOUGH):
        read()
    assert world.hedging.delays.after(LENGTH) == pytest.approx(2.0)


def test_the_delay_is_the_95th_percentile_of_reads_as_long() -> None:
    delays = Delays(least=0.01)
    for number in range(100):
        delays.took(4 << 20, number / 10)
        delays.took(100_000, number / 1000)
    assert delays.after(4 << 20) == pytest.approx(9.5)
    assert delays.after(3 << 20) == pytest.approx(9.5), "about as long"
    assert delays.after(110_000) == pytest.approx(0.095)
    assert delays.after(1000) is None
    for _ in range(RECENT):
        delays.took(4 << 20, 0.002)
    assert delays.after(4 << 20) == 0.01, "what was is forgotten, and no wait is shorter than this"


def test_few_are_not_enough_for_a_percentile() -> None:
    delays = Delays()
    for _ in range(ENOUGH - 1):
        delays.took(1000, 1.0)
    assert delays.after(1000) is None
    delays.took(1000, 1.0)
    assert delays.after(1000) == 1.0


def test_one_in_twenty_has_a_second_at_most() -> None:
    world = World(budget=None)
    read = world.read()
    for _ in range(400):
        read()
    assert world.hedges()[0] <= 20
    assert len(world.source.reads) <= 420


def test_a_slow_source_is_asked_one_in_twenty_times_more() -> None:
    world = World(budget=None)
    requests = world.requests()
    read, number = world.read(), 0
    for _ in range(100):
        caller = Caller(read)
        number += 1
        until(lambda number=number: requests.made >= number)  # type: ignore[misc]
        if number in (20, 41, 62, 83, 104):
            # The twentieth first request has one.
            number += 1
            until(lambda number=number: requests.made >= number)  # type: ignore[misc]
            requests.answer(number - 2, b"")
        requests.answer(number - 1, b"")
        caller.result()
    assert world.hedges()[0] == 5
    assert requests.made == 105


def test_memory_and_threads_are_bounded() -> None:
    for options in ({"memory": 2 * SMALLEST}, {"threads": 2}):
        world = World(budget=Budget(0.0), **options)
        requests = world.requests()
        callers = [Caller(world.read()) for _ in range(2)]
        until(lambda requests=requests: requests.made == 2)  # type: ignore[misc]
        assert world.hedging.held == 2 * SMALLEST
        callers.append(Caller(world.read()))
        until(lambda requests=requests: requests.made == 3)  # type: ignore[misc]
        assert requests.views[2].obj is world.memory, "without memory or a thread: straight to the caller"
        assert world.hedging.held == 2 * SMALLEST
        for number in range(3):
            requests.answer(number, b"\1" * LENGTH)
        assert [caller.result() for caller in callers] == [LENGTH] * 3
        until(lambda world=world: world.hedging.held == 0)  # type: ignore[misc]


def test_no_memory_for_a_second() -> None:
    world = World(memory=SMALLEST)
    requests = world.requests()
    caller = Caller(world.read())
    until(lambda: len(world.clock.waits) == 1)
    requests.answer(0, b"\1" * LENGTH)
    assert caller.result() == LENGTH
    assert requests.made == 1
    assert world.hedges() == (0, 0)


def test_closing_lets_readers_go() -> None:
    world = World()
    requests = world.requests()
    caller = Caller(world.read())
    until(lambda: requests.made == 2)
    world.hedging.close()
    assert caller.code() == errno.ESHUTDOWN
    assert world.source.closed
    requests.answer(0, b"\1" * LENGTH)
    requests.answer(1, b"\2" * LENGTH)
    until(lambda: world.hedging.held == 0)
    assert world.memory == bytes(LENGTH)
    assert Caller(world.read()).code() == errno.ESHUTDOWN


def test_the_end_of_the_file() -> None:
    world = World(clock=PatientClock())
    reader = world.reader()
    memory = bytearray(5000)
    assert reader.read(memoryview(memory), 100) == len(CONTENT) - 100
    assert memory[: len(CONTENT) - 100] == CONTENT[100:]
    assert reader.read(memoryview(memory), 5000) == 0


def test_idle_memory_makes_way_for_another_size() -> None:
    memory = Memory(4 * SMALLEST)
    small = [memory.take(1) for _ in range(4)]
    assert memory.take(1) is None
    for buffer in small:
        assert buffer is not None
        buffer.put()
    large = memory.take(4 * SMALLEST)
    assert large is not None
    assert len(large.view(4 * SMALLEST)) == memory.allocated == 4 * SMALLEST
    assert memory.take(1) is None
    large.put()
    assert memory.lent == 0
    assert memory.take(4 * SMALLEST + 1) is None


def test_memory_is_used_again() -> None:
    memory = Memory(4 * SMALLEST)
    first = memory.take(100)
    assert first is not None
    place = first.view(1).obj
    first.put()
    second = memory.take(SMALLEST)
    assert second is not None
    assert second.view(1).obj is place


def test_threads_are_used_again_and_end() -> None:
    runners, threads = Runners(1), set()
    for _ in range(3):
        done = threading.Event()

        def job(done: threading.Event = done) -> None:
            threads.add(threading.current_thread())
            done.set()

        until(lambda job=job: runners.run(job))  # type: ignore[misc]
        assert done.wait(PATIENCE)
    assert len(threads) == 1
    runners.close()
    until(lambda: not any(thread.is_alive() for thread in threads))
    assert not runners.run(lambda: None)


# -- GETs that are made in C


class Whole:
    """A reader that is one plain GET, of each server in turn."""

    plain, in_one, size = True, False, LENGTH

    def __init__(self, servers: list[str]) -> None:
        self.servers = servers
        self.asked = 0
        self.took: list[float] = []

    def whole(self) -> Get:
        self.asked += 1
        ip = self.servers[self.asked % len(self.servers)]
        return Get(ip, 80, b"GET / HTTP/1.1\r\n\r\n", LENGTH, self.took.append)


def test_a_get_has_a_second_of_another_server() -> None:
    whole = Whole(["127.0.0.1", "127.0.0.2"])
    source = Hedging(FakeSource(), budget=Budget(1.0))
    reader = WrappedReader(source, b"file", cast(Reader, whole))
    assert reader.plain
    for number in range(ENOUGH):
        get = reader.whole()
        assert get is not None
        assert get.second is None, "no percentile is known"
        assert get.done is not None
        get.done(1.0 + number)
    assert whole.took == [1.0 + number for number in range(ENOUGH)]
    get = reader.whole()
    assert get is not None
    assert get.second is not None
    assert get.second.after == 20.0
    second = get.second.take()
    assert second is not None
    assert {get.ip, second.ip} == set(whole.servers)
    assert second.second is None
    get.second.won()
    assert (source.stats.counts().hedges, source.stats.counts().hedges_won) == (1, 1)
    source.close()


def test_seconds_of_gets_have_the_budget_of_reads() -> None:
    whole = Whole(["127.0.0.1"])
    source = Hedging(FakeSource(), budget=Budget(0.05))
    reader = WrappedReader(source, b"file", cast(Reader, whole))
    taken = 0
    for _ in range(200):
        get = reader.whole()
        assert get is not None
        assert get.done is not None
        if get.second is not None:
            taken += get.second.take() is not None
        get.done(0.5)
    assert taken == source.stats.counts().hedges == 10
    source.close()
