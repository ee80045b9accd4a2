"""Processes that wait for each other at an open: a barrier until all have come, one writer at a time.

Every wait ends: with what it waits for, at its timeout, when the open is cancelled, or when the mount is
taken away: by the daemon, which says so (``end``), or by somebody else, which who waits looks for. A waiting
open holds one of the tasks that answer requests, so only so many may wait; who comes then waits for nobody.
Readers that are killed meanwhile are let go by C as from any request.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from swmld.mount.processes import process_of

if TYPE_CHECKING:
    from swmld.rules.actions import Coordinate

log = logging.getLogger(__name__)

LOOK = 0.5
"""Seconds between two looks whether the mount is still there, while somebody waits."""

MOST_WAITING = 128
"""Opens that wait at once: half of the requests that Python works on (``app.FUSE_TASKS``), so that others are
answered meanwhile."""


@dataclass(slots=True, eq=False)
class _Barrier:
    """One round: those that came, until all have."""

    processes: set[int] = field(default_factory=set)
    passed: trio.Event = field(default_factory=trio.Event)


@dataclass(slots=True, eq=False)
class _Writing:
    """A file that is being written: by whom, how often it has it open, and what its end is told to."""

    process: int
    opens: int = 1
    done: trio.Event = field(default_factory=trio.Event)


class Coordinator:
    """Loop-only. ``process``: of a thread, None where it cannot be known. ``gone``: whether the mount was
    taken away by somebody else; of it the kernel tells nothing as long as files are open or being opened."""

    def __init__(
        self,
        process: Callable[[int], int | None] = process_of,
        gone: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self._process = process
        self._gone = gone
        self._next_look = 0.0
        self._barriers: dict[int, _Barrier] = {}
        self._writing: dict[int, _Writing] = {}
        self.waiting = 0
        self._ended = False

    async def meet(self, nodeid: int, thread: int, rule: Coordinate) -> None:
        """A reader has opened the file: returns when so many processes have, or at the timeout, after which
        the ones that have waited do so no more and the next round begins."""
        process = self._process(thread)
        if process is None or rule.processes < 2 or self._ended:
            return
        barrier = self._barriers.setdefault(nodeid, _Barrier())
        barrier.processes.add(process)
        if len(barrier.processes) >= rule.processes or self.waiting >= MOST_WAITING:
            self._pass(nodeid, barrier)
            return
        try:
            came = await self._wait(barrier.passed, trio.current_time() + rule.timeout)
        finally:
            if not barrier.passed.is_set():
                self._pass(nodeid, barrier)
        if not came:
            log.info("%d of %d processes came to a barrier in time", len(barrier.processes), rule.processes)

    def end(self) -> None:
        """The mount is taken away: nobody else can come to a barrier, and who has a file open to write may
        keep it for as long as it lives. Who waits at a barrier goes on, who waits to write gets EBUSY, and
        who comes still waits for nobody."""
        self._ended = True
        for nodeid, barrier in list(self._barriers.items()):
            self._pass(nodeid, barrier)
        for writing in self._writing.values():
            writing.done.set()

    def _pass(self, nodeid: int, barrier: _Barrier) -> None:
        barrier.passed.set()
        if self._barriers.get(nodeid) is barrier:
            del self._barriers[nodeid]

    async def begin_write(self, nodeid: int, thread: int, rule: Coordinate) -> int:
        """Waits until nobody else writes the file; the process, for ``end_write``. OSError EBUSY at the
        timeout, where too many wait already, and at the end of the mount."""
        process = self._process(thread) or -thread
        until = trio.current_time() + rule.timeout
        while (writing := self._writing.get(nodeid)) is not None:
            if writing.process == process:
                writing.opens += 1
                return process
            alone = self._ended or self.waiting >= MOST_WAITING
            if alone or not await self._wait(writing.done, until):
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        self._writing[nodeid] = _Writing(process)
        return process

    async def _wait(self, event: trio.Event, until: float) -> bool:
        """False: not until then."""
        self.waiting += 1
        try:
            with trio.move_on_at(until):
                while not event.is_set():
                    with trio.move_on_after(LOOK):
                        await event.wait()
                    if not event.is_set():
                        await self._look()
                return True
            return False
        finally:
            self.waiting -= 1

    async def _look(self) -> None:
        """One of those that wait looks for all."""
        now = trio.current_time()
        if self._gone is None or now < self._next_look:
            return
        self._next_look = now + LOOK
        if await self._gone():
            log.info("the mount was taken away: nobody waits for others at an open any more")
            self.end()

    def end_write(self, nodeid: int, process: int) -> None:
        """One of its opens has ended."""
        writing = self._writing.get(nodeid)
        if writing is None or writing.process != process:
            return
        writing.opens -= 1
        if not writing.opens:
            del self._writing[nodeid]
            writing.done.set()
