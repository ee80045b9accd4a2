"""Faults on demand: each kind, in the order of a script and by odds that can be repeated."""

from __future__ import annotations

import errno
import random
from pathlib import Path
from typing import Any

import pytest
from support.source_fakes import Caller, FakeClock, FakeSource, PatientClock
from support.waiting import until
from swmld.sources.errors import Busy
from swmld.sources.injecting import HANG, Fault, Injecting, Odds
from swmld.sources.interface import Cut, Reader
from swmld.sources.wrapping import Kind

pytestmark = pytest.mark.timeout(60)

CONTENT = bytes(range(250)) * 4


class World:
    """A fake source, made worse."""

    def __init__(self, **options: Any) -> None:
        self.source = FakeSource(file=CONTENT)
        self.clock = options.pop("clock", None) or FakeClock()
        self.injecting = Injecting(self.source, clock=self.clock, **options)

    def reader(self) -> Reader:
        return self.injecting.open(b"file", self.source.stat(b"file"))

    def code(self) -> int:
        """What a ``stat`` ends with; 0: well."""
        try:
            self.injecting.stat(b"file")
        except OSError as error:
            return error.errno or 0
        return 0


def test_a_delay_for_all() -> None:
    world = World(delay=0.02)
    reader = world.reader()
    reader.read(memoryview(bytearray(10)), 0)
    reader.current()
    world.injecting.stat(b"file")
    world.injecting.list(b"")
    assert world.clock.waits == [0.02] * 5


def test_a_delay_of_one_kind() -> None:
    world = World(delay={Kind.STAT: 0.5})
    world.reader().read(memoryview(bytearray(10)), 0)
    world.injecting.stat(b"file")
    assert world.clock.waits == [0.5]


def test_a_slow_line() -> None:
    world = World(rate=1000.0, delay={Kind.READ: 0.25})
    reader = world.reader()
    for number in range(4):
        assert reader.read(memoryview(bytearray(500)), number * 250) == min(500, 1000 - number * 250)
    # 1,750 bytes in all, and four requests one after the other: the line is idle while each is on its way.
    assert world.clock.time == pytest.approx(1000.0 + 4 * 0.25 + 1.75)


def test_readers_share_the_line() -> None:
    world = World(rate=1000.0)
    readers = [world.reader(), world.reader()]
    ends = []
    for reader in readers:
        world.clock.time = 1000.0
        reader.read(memoryview(bytearray(1000)), 0)
        ends.append(world.clock.time)
    assert ends == pytest.approx([1001.0, 1002.0])


def test_a_script_comes_in_order() -> None:
    world = World()
    world.injecting.script(Fault(errno.EIO), None, Fault(errno.ETIMEDOUT), Fault(delay=3.0))
    assert [world.code() for _ in range(5)] == [errno.EIO, 0, errno.ETIMEDOUT, 0, 0]
    assert world.clock.waits == [3.0]
    assert world.source.calls == [("stat", b"file")] * 3, "what fails does not reach the source"


def test_a_script_for_one_kind() -> None:
    world = World()
    world.injecting.script(Fault(errno.EIO), kind=Kind.LIST)
    assert world.code() == 0
    with pytest.raises(OSError):
        world.injecting.list(b"")
    world.injecting.list(b"")


def test_errors_say_that_they_are_not_real() -> None:
    world = World()
    world.injecting.script(Fault(errno.EIO), Fault(retry_after=2.5))
    with pytest.raises(OSError, match=r"stat 'file'.*injected"):
        world.injecting.stat(b"file")
    with pytest.raises(Busy) as raised:
        world.injecting.stat(b"file")
    assert raised.value.retry_after == 2.5


def test_a_read_that_is_cut() -> None:
    world = World()
    reader = world.reader()
    world.injecting.script(Fault(errno.ECONNRESET, got=0.25), kind=Kind.READ)
    memory = bytearray(400)
    with pytest.raises(Cut) as raised:
        reader.read(memoryview(memory), 800)
    assert raised.value.errno == errno.ECONNRESET
    assert raised.value.got == 50, "a quarter of what is there"
    assert memory == CONTENT[800:850] + bytes(350)


def test_a_read_that_ends_too_soon_and_does_not_say_so() -> None:
    world = World()
    reader = world.reader()
    world.injecting.script(Fault(short=True, got=0.5), Fault(short=True), kind=Kind.READ)
    memory = bytearray(100)
    assert reader.read(memoryview(memory), 0) == 50
    assert memory == CONTENT[:50] + bytes(50)
    assert reader.read(memoryview(memory), 0) == 0
    assert reader.read(memoryview(memory), 0) == 100


def test_a_hang_until_told() -> None:
    world = World()
    world.injecting.script(HANG, Fault(errno.EIO, hang=True), HANG)
    callers = [Caller(world.code) for _ in range(3)]
    until(lambda: world.injecting.hanging == 3)
    assert world.code() == 0
    world.injecting.release()
    assert sorted(caller.result() for caller in callers) == [0, 0, errno.EIO]
    world.injecting.script(HANG)
    late = Caller(world.code)
    until(lambda: world.injecting.hanging == 1)
    world.injecting.release()
    assert late.result() == 0
    assert world.injecting.hanging == 0


def test_closing_ends_hangs_and_delays() -> None:
    clock = PatientClock()
    world = World(clock=clock)
    world.injecting.script(HANG, Fault(delay=1e6))
    callers = [Caller(world.code)]
    until(lambda: world.injecting.hanging == 1)
    callers.append(Caller(world.code))
    assert clock.waiting.wait(30)
    world.injecting.close()
    assert [caller.result() for caller in callers] == [errno.ESHUTDOWN] * 2
    world.injecting.script(HANG)
    assert world.code() == errno.ESHUTDOWN
    assert world.source.closed


def outcomes(order: list[int], seed: int) -> dict[int, int]:
    """What reads at these places meet when they are made in this order."""
    world = World(odds=[Odds(0.3, Fault(errno.EIO), Kind.READ)], seed=seed)
    reader = world.reader()
    met = {}
    for offset in order:
        try:
            reader.read(memoryview(bytearray(1)), offset)
            met[offset] = 0
        except OSError as error:
            met[offset] = error.errno or 0
    return met


def test_odds_can_be_repeated_in_any_order() -> None:
    order = list(range(1000))
    first = outcomes(order, seed=1)
    random.Random(0).shuffle(order)
    assert outcomes(order, seed=1) == first
    assert outcomes(order, seed=2) != first
    assert 200 < sum(code == errno.EIO for code in first.values()) < 400


def test_odds_of_the_same_call_are_drawn_anew() -> None:
    world = World(odds=[Odds(0.5, Fault(errno.EIO))])
    codes = {world.code() for _ in range(40)}
    assert codes == {0, errno.EIO}


def test_odds_of_one_kind() -> None:
    world = World(odds=[Odds(1.0, Fault(errno.EIO), Kind.LIST), Odds(0.0, Fault(errno.ENXIO))])
    assert world.code() == 0
    with pytest.raises(OSError):
        world.injecting.list(b"")


def test_an_answer_is_lost(tmp_path: Path) -> None:
    world = World(rate=1000.0)
    world.injecting.script(Fault(errno.ETIMEDOUT, lost=True), Fault(errno.ETIMEDOUT), kind=Kind.WRITE)
    with open(tmp_path / "file", "w+b") as file:
        file.write(CONTENT)
        file.flush()
        for path in (b"lost", b"failed"):
            with pytest.raises(OSError) as raised:
                world.injecting.write(path, file.fileno(), 500, world.source.stat(b"file"), None, "token")
            assert raised.value.errno == errno.ETIMEDOUT
    assert world.source.files == {b"file": CONTENT, b"lost": CONTENT[:500]}
    # What was not done has not passed the line either.
    assert world.clock.time == pytest.approx(1000.5)
