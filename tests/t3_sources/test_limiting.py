"""Limits: how many calls at once, how much a second, and in which order."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.source_fakes import Caller, Failing, FakeClock, FakeSource, Held, PatientClock
from support.waiting import until
from swmld.sources.budgets import Rate
from swmld.sources.interface import Reader
from swmld.sources.limiting import Limiting

pytestmark = pytest.mark.timeout(60)

MEGABYTE = 1_000_000


class World:
    """A fake source, limited; ``starts`` are the times of its calls."""

    def __init__(self, parallel: int = 4, **options: Any) -> None:
        self.source = FakeSource(file=bytes(10 * MEGABYTE), small=b"ten bytes.")
        self.clock = options.pop("clock", None) or FakeClock()
        self.limiting = Limiting(self.source, parallel=parallel, clock=self.clock, **options)

    def reader(self, path: bytes = b"file") -> Reader:
        return self.limiting.open(path, self.source.stat(path))

    def starts(self, kind: str) -> list[float]:
        """From now on, relative to now."""
        began, starts = self.clock.now(), []

        def note(called: str, path: bytes) -> None:
            if called == kind:
                starts.append(round(self.clock.now() - began, 6))

        self.source.meets = note
        return starts


def test_so_many_at_once_and_no_more() -> None:
    world = World(parallel=3)
    held = Held("stat")
    world.source.meets = held
    callers = [Caller(lambda: world.limiting.stat(b"file")) for _ in range(10)]
    until(lambda: held.inside == 3 and world.limiting.waiting == 7)
    held.let_go()
    for caller in callers:
        caller.result()
    assert held.most == 3
    assert world.limiting.waiting == 0


def test_first_come_first_served() -> None:
    world = World(parallel=1)
    held = Held("list")
    order: list[bytes] = []

    def meets(kind: str, path: bytes) -> None:
        held(kind, path)
        order.append(path)

    world.source.files |= {b"%d" % number: b"" for number in range(8)}
    world.source.meets = meets
    callers = [Caller(lambda: world.limiting.list(b"", limit=0))]
    until(lambda: held.inside == 1)
    for number in range(8):
        callers.append(Caller(lambda number=number: world.limiting.stat(b"%d" % number)))  # type: ignore[misc]
        until(lambda number=number: world.limiting.waiting == number + 1)  # type: ignore[misc]
    held.let_go()
    for caller in callers:
        caller.result()
    assert order == [b"", *(b"%d" % number for number in range(8))]


def test_what_fails_gives_its_place_back() -> None:
    world = World(parallel=1)
    world.source.meets = Failing(OSError(errno.EIO, "broken"), OSError(errno.ENOENT, "absent"))
    for _ in range(2):
        with pytest.raises(OSError):
            world.limiting.stat(b"file")
    assert Caller(lambda: world.limiting.stat(b"file").size).result() == 10 * MEGABYTE


def test_what_asks_nothing_waits_for_nobody() -> None:
    world = World(parallel=1)
    reader = world.reader()
    held = Held("stat")
    world.source.meets = held
    caller = Caller(lambda: world.limiting.stat(b"file"))
    until(lambda: held.inside == 1)
    attributes = FakeSource(file=b"").stat(b"file")
    assert Caller(reader.current).result()
    Caller(lambda: world.limiting.open(b"file", attributes)).result()
    held.let_go()
    caller.result()


def test_requests_a_second() -> None:
    world = World(requests=10)
    starts = world.starts("stat")
    for _ in range(6):
        world.limiting.stat(b"file")
    # One may be early by the burst of a tenth of a second.
    assert starts == [0.0, 0.0, 0.1, 0.2, 0.3, 0.4]
    world.clock.time += 10.0
    for _ in range(3):
        world.limiting.stat(b"file")
    assert starts[6:] == [10.4, 10.4, 10.5]


def test_bytes_a_second() -> None:
    world = World(nbytes=MEGABYTE)
    reader = world.reader()
    starts = world.starts("read")
    for number in range(4):
        reader.read(memoryview(bytearray(MEGABYTE)), number * MEGABYTE)
    # Each is more than the burst: it passes, and those after it wait for it.
    assert starts == [0.0, 0.9, 1.9, 2.9]


def test_bytes_that_are_not_there_are_not_counted() -> None:
    world = World(nbytes=MEGABYTE)
    reader = world.reader(b"small")
    starts = world.starts("read")
    for _ in range(5):
        reader.read(memoryview(bytearray(MEGABYTE)), 0)
        reader.read(memoryview(bytearray(MEGABYTE)), 1000)
    assert starts == [0.0] * 10


def test_closing_ends_waiting_for_a_place() -> None:
    world = World(parallel=1)
    held = Held("stat")
    world.source.meets = held
    first = Caller(lambda: world.limiting.stat(b"file"))
    until(lambda: held.inside == 1)
    waiting = [Caller(lambda: world.limiting.stat(b"file")) for _ in range(3)]
    until(lambda: world.limiting.waiting == 3)
    world.limiting.close()
    assert [caller.code() for caller in waiting] == [errno.ESHUTDOWN] * 3
    held.let_go()
    first.result()
    with pytest.raises(OSError) as raised:
        world.limiting.stat(b"file")
    assert raised.value.errno == errno.ESHUTDOWN
    assert world.source.closed


def test_closing_ends_waiting_for_the_rate() -> None:
    clock = PatientClock()
    world = World(requests=1, clock=clock)
    world.limiting.stat(b"file")
    caller = Caller(lambda: world.limiting.stat(b"file"))
    assert clock.waiting.wait(30)
    world.limiting.close()
    assert caller.code() == errno.ESHUTDOWN


@pytest.mark.parametrize("options", [{"parallel": 0}, {"requests": -1.0}, {"nbytes": -5.0}])
def test_limits_that_let_nothing_pass(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at once|lets nothing pass"):
        World(**options)


@given(
    st.floats(0.5, 1e6),
    st.floats(0.0, 2.0),
    st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(0.0, 1e6)), min_size=2, max_size=30),
)
def test_no_span_of_time_has_more_than_the_rate(
    per_second: float, burst: float, asked: list[tuple[float, float]]
) -> None:
    rate = Rate(per_second, burst)
    now, passed = 0.0, []
    for pause, amount in asked:
        now += pause
        start = rate.reserve(amount, now)
        assert start >= now
        now = max(now, start)
        passed.append((start, amount))
    for first in range(len(passed)):
        total = 0.0
        for last in range(first, len(passed)):
            # What begins at the end of the span is paid for after it.
            span = passed[last][0] - passed[first][0]
            assert total <= (span + burst) * per_second * (1 + 1e-9) + 1e-6
            total += passed[last][1]


def test_bytes_written_count(tmp_path: Path) -> None:
    world = World(nbytes=float(MEGABYTE))
    starts = world.starts("write")
    given = world.source.stat(b"small")
    with open(tmp_path / "file", "w+b") as file:
        file.truncate(MEGABYTE)
        for number in range(3):
            world.limiting.write(b"%d" % number, file.fileno(), MEGABYTE, given, None, "token")
    assert starts == pytest.approx([0.0, 0.9, 1.9])
    assert world.source.files[b"2"] == bytes(MEGABYTE)
