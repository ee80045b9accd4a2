"""Probes whose maps cannot be read: said once, borne for a while, then given up for what FUSE sees."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from support.fakes import FakeOffload
from swmld._native import ffi
from swmld.observe import observer as module
from swmld.observe import records
from swmld.observe.observer import Devices, Observer
from swmld.observe.probe import UNREADABLE
from swmld.patterns.feed import Shape, TouchKind

pytestmark = pytest.mark.trio

NODE = 77


class FakeNative:
    """C as the observer sees it. ``seen``: events that FUSE's view has, as ``struct swp_event`` fields."""

    def __init__(self) -> None:
        self.view_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.levels: list[int] = []
        self.watching = False
        self.waiting = 0

    def view(self, level: int) -> None:
        self.levels.append(level)

    def watch(self, *_: int) -> None:
        self.watching = True

    def unwatch(self) -> None:
        self.watching = False

    def read(self) -> None:
        """FUSE sees a read."""
        self.waiting += 1
        os.eventfd_write(self.view_fd, 1)

    def view_events(self, events: Any, count: int) -> tuple[int, int]:
        with suppress(BlockingIOError):
            os.eventfd_read(self.view_fd)
        found, self.waiting = self.waiting, 0
        for number in range(found):
            ffi.memmove(events + number, bytes(records.EVENT.size), records.EVENT.size)
            events[number].kind = TouchKind.FIRST
            events[number].node = NODE
        return found, 0

    def view_rows(self, rows: Any, count: int) -> int:
        return 0

    def nodes_of(self, inos: list[int]) -> list[int]:
        return [0] * len(inos)

    def place(self, file: int) -> None:
        return None

    def close(self) -> None:
        os.close(self.view_fd)


class FakeProbe:
    """Probes whose counters can be read, or not (``broken``). ``asked``: since when."""

    def __init__(self) -> None:
        self.report = dict.fromkeys(("headers", "unkept", "origin", "why"), "") | {
            "way": "btf",
            "seconds": 0.1,
            "tried": {},
        }
        self.event_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.switch = None
        self.watched_fd = self.filter_fd = -1
        self.broken = False
        self.half = False
        self.asked: list[float] = []
        self.closed = False

    def configure(self, *_: int) -> None: ...

    def events(self) -> memoryview:
        return memoryview(b"")

    def cursors(self, since: float) -> bytes:
        assert not self.closed
        self.asked.append(since)
        if self.broken:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return b""

    def processes(self) -> dict[int, records.Seen]:
        if self.half:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return {}

    def process(self, pid: int) -> None:
        return None

    def lost(self) -> dict[str, int]:
        return {"events": 3, "cursors": 0, "processes": 0}

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.close(self.event_fd)


class Loads:
    """``Loading`` that has loaded."""

    probe: FakeProbe

    def __init__(self, state: Path, way: str) -> None: ...

    async def result(self) -> FakeProbe:
        return self.probe

    def close(self) -> None: ...


class Bench:
    def __init__(self, observer: Observer, native: FakeNative, probe: FakeProbe) -> None:
        self.observer = observer
        self.native = native
        self.probe = probe


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bench]:
    native, Loads.probe = FakeNative(), FakeProbe()
    monkeypatch.setattr(module, "Loading", Loads)
    listings: Any = None
    made = Observer(native, listings, FakeOffload(), mode="auto", state=tmp_path, prefetch=dict)  # type: ignore[arg-type]
    yield Bench(made, native, Loads.probe)
    Loads.probe.close()
    native.close()


@asynccontextmanager
async def running(bench: Bench) -> Any:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.observer.run, Devices(1, 2, 3))
        await trio.testing.wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()
    bench.observer.close()


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [
        (one.levelname, one.getMessage()) for one in caplog.records if one.name.startswith("swmld.observe")
    ]


async def test_probes_that_stay_unreadable_are_given_up(
    autojump_clock: trio.testing.MockClock, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with running(bench):
        assert (bench.native.levels, bench.native.watching) == ([2, 1], True)
        bench.probe.broken = True
        await trio.sleep(UNREADABLE - 0.5)
        assert bench.observer.probe()["how"] == "btf"
        assert told(caplog) == [("WARNING", "the probes' counters cannot be read: Bad file descriptor")]
        await trio.sleep(100)
        why = f"the probes' counters could not be read for {UNREADABLE} s: Bad file descriptor"
        assert told(caplog)[1:] == [
            ("WARNING", f"no eBPF probes any more, reads are known as FUSE sees them: {why}")
        ]
        assert (bench.native.levels, bench.native.watching) == ([2, 1, 2], False)
        assert bench.probe.closed
        assert not bench.observer.people.told, "no probe tells of forks"
        assert len(bench.probe.asked) == UNREADABLE
        lost = {"events": 3, "cursors": 0, "processes": 0}
        seen = {"share": 1.0, "rate": 0, "limit": 0, "lost": lost}
        assert bench.observer.probe() == {"how": "fuse", "why": why, **seen}


async def test_what_fuse_sees_is_told_when_the_probes_are_gone(
    autojump_clock: trio.testing.MockClock, bench: Bench
) -> None:
    async with running(bench):
        with bench.observer.subscribe() as batches:
            bench.probe.broken = True
            await trio.sleep(UNREADABLE + 1)
            assert bench.probe.closed
            bench.native.read()
            with trio.fail_after(60):
                raw = await batches.receive()
    (touch,) = raw.touches
    assert (touch.kind, touch.file, touch.shape) == (TouchKind.FIRST, NODE, Shape.NEW)


@pytest.mark.parametrize("part", ["broken", "half"])
async def test_a_map_that_can_be_read_again_is_said_and_nothing_is_missed(
    autojump_clock: trio.testing.MockClock, bench: Bench, caplog: pytest.LogCaptureFixture, part: str
) -> None:
    caplog.set_level(logging.INFO)
    async with running(bench):
        await trio.sleep(2.5)
        good = len(bench.probe.asked)
        for _ in range(2):
            setattr(bench.probe, part, True)
            await trio.sleep(UNREADABLE - 1)
            setattr(bench.probe, part, False)
            await trio.sleep(2)
        assert bench.observer.probe()["how"] == "btf"
        assert not bench.probe.closed
    failed = bench.probe.asked[good : good + UNREADABLE]
    assert len(set(failed)) == 1, "asked from where the last good reading ended"
    assert bench.probe.asked[good + UNREADABLE] > failed[0]
    lines = [line for _, line in told(caplog) if "counters" in line]
    assert [line.partition(":")[0].partition(",")[0] for line in lines] == [
        "the probes' counters cannot be read",
        "the probes' counters can be read again",
    ] * 2


async def test_who_stops_while_the_probes_are_unreadable_closes_them(
    autojump_clock: trio.testing.MockClock, bench: Bench
) -> None:
    async with running(bench):
        bench.probe.broken = True
        await trio.sleep(2.5)
    assert bench.probe.closed
    assert bench.native.levels[-1] == 0
