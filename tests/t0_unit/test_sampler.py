"""Who attaches and detaches: in which order, with which weights, and what is told of it."""

from __future__ import annotations

import errno
import logging
import os
import time

import pytest
import trio
from swmld.observe import sampler as module
from swmld.observe.sampler import Sampler, Slice
from swmld.observe.switch import cpus

pytestmark = pytest.mark.trio

LIMIT = 1000


class Played(Exception):
    """The script is over."""


class FakeSwitch:
    """``rates``: reads a second, at one look after the other; ``done``: what was asked of it."""

    def __init__(self, *rates: float) -> None:
        self._rates = iter(rates)
        self._rate = 0.0
        self._looked = time.monotonic()
        self.attached = True
        self.done: list[str] = []
        self.weights: list[int] = []
        self.refuses = False

    def calls(self) -> int:
        assert self.attached
        before, self._looked = self._looked, time.monotonic()
        return round(self._rate * (self._looked - before))

    def look(self) -> None:
        try:
            self._rate = next(self._rates)
        except StopIteration:
            raise Played from None

    def detach(self) -> None:
        self.attached = False
        self.done.append("detach")

    def slice(self, weight: int, seconds: float) -> Slice:
        assert not self.attached
        if self.refuses:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        self.weights.append(weight)
        began = time.monotonic()
        time.sleep(seconds)
        ended = time.monotonic()
        return Slice(began, ended, round(self._rate * (ended - began)))

    def attach(self) -> None:
        assert not self.attached
        self.attached = True
        self._looked = time.monotonic()
        self.done.append("attach")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK", 0.1)
    monkeypatch.setattr(module, "SLICE", 0.005)


async def played(
    switch: FakeSwitch, monkeypatch: pytest.MonkeyPatch
) -> tuple[Sampler, list[tuple[int, float]]]:
    """What weight and share each look led to."""
    found: list[tuple[int, float]] = []
    sampler = Sampler(LIMIT)

    class Budget(module.Budget):
        def look(self, rate: float) -> int:
            weight = super().look(rate)
            found.append((weight, sampler.share))
            switch.look()
            return weight

    monkeypatch.setattr(module, "Budget", Budget)
    switch.look()
    with pytest.raises(Played):
        await sampler.run(switch)
    return sampler, found


async def test_it_comes_and_goes(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fast = 8 * LIMIT - LIMIT // 2
    switch = FakeSwitch(fast, fast, fast, fast, fast, 10, 10, 10, 10)
    sampler, found = await played(switch, monkeypatch)
    assert [weight for weight, _ in found] == [1, 1, 8, 8, 8, 2, 1, 1, 1]
    assert switch.done == ["detach", "attach"]
    assert switch.attached
    assert switch.weights
    assert set(switch.weights[:3]) <= {*range(2, 41)}
    shares = [share for _, share in found]
    assert shares[:3] == [1, 1, 1]
    assert all(0 < share < 0.5 for share in shares[3:6])
    assert (shares[-1], sampler.share) == (1, 1)
    assert sampler.seconds > 0.3
    said = [one.getMessage() for one in caplog.records if one.name == module.__name__]
    assert len(said) == 2, "a line at each change, no more"
    assert "--probe-rate" in said[0]
    assert said[1].endswith("each is looked at again")


async def test_below_the_limit_nothing_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    switch = FakeSwitch(*[LIMIT * 0.8] * 5)
    _, found = await played(switch, monkeypatch)
    assert found == [(1, 1.0)] * 5
    assert switch.done == []


async def test_a_refusal_is_the_owners() -> None:
    switch = FakeSwitch()
    switch._rate, switch.refuses = 100.0 * LIMIT, True
    sampler = Sampler(LIMIT)
    with trio.fail_after(60), pytest.raises(OSError, match="allocate"):
        await sampler.run(switch)
    assert sampler.share == 1


@pytest.mark.parametrize(("text", "count"), [("0\n", 1), ("0-1\n", 2), ("0-3,8-15\n", 16), ("0,2\n", 3)])
async def test_how_many_cpus_there_may_be(text: str, count: int) -> None:
    assert cpus(text) == count
