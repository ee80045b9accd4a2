"""Attaches and detaches the program that sees reads, as ``budget`` says. Loop-only; slices in a thread.

Detached it costs nothing, attached each read of the machine pays for it; faults, misses, waits and writes
have programs of their own, which stay attached. A slice is one call into C (``native/sampler.c``), so that
it ends on time whatever the loop does. Attaching takes a quarter of a millisecond, detaching less, unless it
happens more than some 50 times a second: then the kernel waits for a grace period. A link goes with its
descriptor: a daemon that is killed leaves nothing behind in either state.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

import trio

from swmld.observe.budget import Budget, Ledger

T = TypeVar("T")

log = logging.getLogger(__name__)

LOOK = 1.0
"""Seconds between two looks at the rate."""

SLICE = 0.04
"""Seconds for which the program is attached at once, while reads are sampled."""


class Slice(NamedTuple):
    """Seconds, CLOCK_MONOTONIC; ``calls`` of the program meanwhile, of the CPU that made most."""

    began: float
    ended: float
    calls: int


class Switch(Protocol):
    """Of the program that sees reads (``switch.ReadSwitch``)."""

    def calls(self) -> int:
        """Of the busiest CPU since the last time."""
        ...

    def detach(self) -> None: ...

    def slice(self, weight: int, seconds: float) -> Slice:
        """Attached for so long, and detached again. Blocks."""
        ...

    def attach(self) -> None:
        """For good: each read is seen, and stands for itself."""
        ...


class Sampler:
    """``limit``: reads a second of one CPU up to which each is looked at, 0: there is none; ``share``: of the
    time in which reads are looked at now; ``seconds``: how long they were sampled; ``rate``: reads a second
    of the busiest CPU, as they were seen at the last look."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._thread = trio.CapacityLimiter(1)
        self.share = 1.0
        self.seconds = 0.0
        self.rate = 0.0

    async def run(self, switch: Switch) -> None:
        """Until cancelled. OSError if the program cannot be attached any more."""
        budget = Budget(self.limit)
        while True:
            switch.calls()
            before = time.monotonic()
            await trio.sleep(LOOK)
            self.rate = switch.calls() / (time.monotonic() - before)
            if budget.look(self.rate) > 1:
                await self._sample(switch, budget)

    async def _sample(self, switch: Switch, budget: Budget) -> None:
        log.info(
            "%d reads a second of one CPU, more than %d (--probe-rate): they are looked at for a part of the "
            "time, counts are estimated", self.rate, self.limit,
        )  # fmt: skip
        began, before = time.monotonic(), self.seconds
        await self._in_thread(switch.detach)
        ledger, weight = Ledger(time.monotonic(), SLICE), budget.weight
        try:
            while weight > 1:
                weight = await self._look(switch, budget, ledger)
                self.seconds = before + time.monotonic() - began
            await self._in_thread(switch.attach)
        finally:
            self.share = 1.0
        log.info("%d reads a second of one CPU: each is looked at again", self.rate)

    async def _look(self, switch: Switch, budget: Budget, ledger: Ledger) -> int:
        """As many slices as fit."""
        calls, seen, began = 0, 0.0, time.monotonic()
        while (passed := time.monotonic() - began) < LOOK:
            await trio.sleep(max(0.0, ledger.due(budget.weight) - time.monotonic()))
            weight = ledger.weight_at(time.monotonic())
            one = await self._in_thread(switch.slice, weight, SLICE)
            ledger.took(weight, one.began, one.ended)
            calls += one.calls
            seen += one.ended - one.began
        self.rate, self.share = calls / seen, seen / passed
        return budget.look(self.rate)

    async def _in_thread(self, call: Callable[..., T], *arguments: object) -> T:
        """Not the daemon's workers: these may all wait for a source."""
        return await trio.to_thread.run_sync(call, *arguments, limiter=self._thread)
