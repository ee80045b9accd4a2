"""The gate to a remote source: who waits for one that is away, how many ask it, and that no thread waits."""

from __future__ import annotations

import errno
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from support.waiting import until
from swmld.mount import gate
from swmld.mount.gate import SourceGate
from swmld.sources.budgets import Budget
from swmld.sources.errors import Busy
from swmld.sources.retrying import Again, Patience

pytestmark = pytest.mark.timeout(60)

LONG = Patience(limit=1000.0)


class Remote:
    """A source: calls fail with ``error`` while there is one."""

    def __init__(self, error: OSError | None = None) -> None:
        self.error = error
        self.asked = self.probed = 0
        self._lock = threading.Lock()

    def call(self) -> str:
        with self._lock:
            self.asked += 1
        if self.error is not None:
            raise self.error
        return "bytes"

    def probe(self) -> None:
        self.probed += 1
        if self.error is not None:
            raise self.error


class Refusing(Budget):
    """Counts how often it had nothing to give."""

    refused = 0

    def take(self) -> bool:
        taken = super().take()
        self.refused += not taken
        return taken


@asynccontextmanager
async def standing(remote: Remote, again: Again | None) -> AsyncIterator[SourceGate]:
    """A gate before it."""
    made = SourceGate(remote.probe, local=False, timeout=1000.0, again=again)
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        yield made
        nursery.cancel_scope.cancel()
    made.close()


def away() -> OSError:
    return OSError(errno.EHOSTUNREACH, "nobody is there")


@pytest.mark.trio
async def test_many_wait_without_a_thread_while_the_probe_alone_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "PROBE_INTERVAL", 0.01)
    remote, got = Remote(away()), list[str]()

    async def reader(made: SourceGate) -> None:
        got.append(await made.call(remote.call))

    async with standing(remote, Again(LONG, Budget(0.0, 0.0))) as made, trio.open_nursery() as nursery:
        for _ in range(300):
            nursery.start_soon(reader, made)
        await trio.to_thread.run_sync(until, lambda: remote.probed >= 20)
        assert made.down
        assert remote.asked <= gate.THREADS, "whoever had a thread when it went away, and nobody after that"
        assert made._workers.outstanding <= 1, "the probe"
        assert not got
        remote.error = None
    assert got == ["bytes"] * 300
    assert remote.asked <= 300 + gate.THREADS


@pytest.mark.trio
async def test_who_knows_another_answer_does_not_wait() -> None:
    remote = Remote(away())
    async with standing(remote, Again(LONG, Budget(0.0, 0.0))) as made:
        for _ in range(3):
            with pytest.raises(OSError) as caught:
                await made.call(remote.call, patient=False)
            assert caught.value.errno in gate.UNREACHABLE
        assert made.down


@pytest.mark.trio
async def test_what_is_away_for_longer_is_an_error_at_once() -> None:
    remote = Remote(away())
    again = Again(Patience(limit=0.05), Budget(0.0, 0.0))
    async with standing(remote, again) as made:
        for _ in range(2):
            with pytest.raises(OSError):
                await made.call(remote.call)
        assert remote.asked == 1
        # Its time is over for those too that come now.
        began = trio.current_time()
        for _ in range(100):
            with pytest.raises(OSError):
                await made.call(remote.call)
        assert trio.current_time() - began < 100 * 0.05
        assert remote.asked == 1


@pytest.mark.trio
async def test_without_retries_a_call_fails_at_once() -> None:
    remote = Remote(away())
    async with standing(remote, None) as made:
        for _ in range(2):
            with pytest.raises(OSError):
                await made.call(remote.call)
        assert made.down
        assert remote.asked == 1


@pytest.mark.trio
async def test_who_answers_with_errors_is_asked_as_the_budget_allows() -> None:
    """300 wait for one that is there and cannot: two a second ask it, and all get on soon when it can."""
    remote, got = Remote(OSError(errno.EIO, "broken")), list[str]()

    async def reader(made: SourceGate) -> None:
        got.append(await made.call(remote.call))

    budget = Refusing(0.0, 0.0)
    again = Again(Patience(limit=1000.0, first=0.01, longest=0.02), budget)
    async with standing(remote, again) as made, trio.open_nursery() as nursery:
        for _ in range(300):
            nursery.start_soon(reader, made)
        await trio.to_thread.run_sync(until, lambda: budget.refused >= 1000)
        assert remote.asked == 300
        assert made._workers.outstanding == 0
        assert not made.down
        remote.error = None
        budget.answered()
    assert got == ["bytes"] * 300
    assert remote.asked == 600
    assert again.stats.counts().retries == 300


def test_who_asks_for_a_pause_gets_it() -> None:
    again = Again(Patience(limit=20.0), Budget(0.0, 1000.0), chance=lambda: 0.0)
    error = Busy("stat", 7.0)
    assert again.pause(error, 1) == 7.0
    assert again.pause(OSError(errno.ENOENT, "absent"), 1) is None


@pytest.mark.trio
async def test_an_answer_is_an_answer() -> None:
    remote = Remote(OSError(errno.ENOENT, "absent"))
    async with standing(remote, Again(LONG, Budget(0.0, 1000.0))) as made:
        with pytest.raises(FileNotFoundError):
            await made.call(remote.call)
        assert remote.asked == 1
        assert not made.down
