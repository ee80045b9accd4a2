"""Worker threads for calls that may block, and the engine made of them.

``Workers`` stands in for ``trio.to_thread`` because a fetch of a small file needs two such calls: measured
on 2 cores, 130 µs of CPU each through trio and 15 µs here, since completions of several calls arrive with
one wake-up of the loop and no task of its own. A cancelled caller leaves at once; its call, if begun, goes
on in its thread (nothing can stop a thread that a dead source holds) and the buffer that it works on stays
held until it ends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

import outcome
import trio

from swmld.fetch.buffers import Buffer
from swmld.fetch.engine import TransferLoop, os_error

T = TypeVar("T")

THREADS_PER_PARALLEL = 2
"""Threads per parallel transfer: as many may hang at a dead source while as many more go on."""


class Held(Protocol):
    """What a call works on: a ``Buffer``, or several."""

    def hold(self) -> None:
        """The call was handed to a thread. On the loop."""
        ...

    def drop(self) -> None:
        """It has ended, or will never begin. On the loop."""
        ...


class Offload(Protocol):
    """Runs blocking functions off the loop."""

    async def call(self, function: Callable[[], T], hold: Held | None = None) -> T:
        """What ``function`` returns or raises; ``hold`` is held until it has ended, cancelled or not."""
        ...


class _Job:
    __slots__ = ("claims", "function", "hold", "result", "task")

    def __init__(self, function: Callable[[], Any], hold: Held | None) -> None:
        self.function = function
        self.hold = hold
        self.task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        self.result: outcome.Outcome[Any] | None = None
        # Popped by the thread that runs it or by the caller who gives it up, never by both.
        self.claims = [True]

    def claim(self) -> bool:
        try:
            return self.claims.pop()
        except IndexError:
            return False


class Workers:
    """Up to ``limit`` daemon threads, started as needed. ``call`` may be used before ``run``: it waits for
    it.

    Daemon threads, because one that hangs in the kernel must not keep the process from ending.
    """

    def __init__(self, limit: int, name: str = "swmld-worker") -> None:
        self._limit = limit
        self._name = name
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._done: deque[_Job] = deque()
        self._signalled = False
        self._threads = 0
        self._outstanding = 0
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closed = False

    @property
    def outstanding(self) -> int:
        """Calls not ended, those of cancelled callers included."""
        return self._outstanding

    async def call(self, function: Callable[[], T], hold: Held | None = None) -> T:
        """See ``Offload.call``. ``OSError`` ESHUTDOWN after ``close``."""
        if self._closed:
            raise os_error(errno.ESHUTDOWN)
        await trio.lowlevel.checkpoint_if_cancelled()
        job = _Job(function, hold)
        if hold is not None:
            hold.hold()
        self._outstanding += 1
        if self._outstanding > self._threads and self._threads < self._limit:
            self._start_thread()
        self._jobs.put(job)

        def abandon(_: object) -> trio.lowlevel.Abort:
            job.task = None
            if job.claim():
                self._ended(job)
            return trio.lowlevel.Abort.SUCCEEDED

        return cast(T, await trio.lowlevel.wait_task_rescheduled(abandon))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hand results to their callers until cancelled."""
        task_status.started()
        while True:
            await trio.lowlevel.wait_readable(self._eventfd)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._eventfd)
            self._signalled = False  # before the queue is emptied: a result that comes later signals again
            while self._done:
                job = self._done.popleft()
                self._ended(job)
                if job.task is not None:
                    trio.lowlevel.reschedule(job.task, job.result or outcome.Value(None))

    def close(self) -> None:
        """Let the idle threads end. The eventfd stays open while a hung thread may still signal it."""
        self._closed = True
        for _ in range(self._threads):
            self._jobs.put(None)
        if self._outstanding == 0:
            os.close(self._eventfd)
            self._eventfd = -1

    def _ended(self, job: _Job) -> None:
        self._outstanding -= 1
        if job.hold is not None:
            job.hold.drop()

    def _start_thread(self) -> None:
        self._threads += 1
        threading.Thread(target=self._work, name=f"{self._name}-{self._threads}", daemon=True).start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not job.claim():
                continue
            job.result = outcome.capture(job.function)
            self._done.append(job)
            if not self._signalled:
                self._signalled = True
                os.eventfd_write(self._eventfd, 1)


class ThreadEngine(TransferLoop):
    """``Engine`` on worker threads with preadv and pwritev, for hosts without io_uring."""

    name = "threads"

    def __init__(self, *, parallel: int = 32) -> None:
        self._workers = Workers(THREADS_PER_PARALLEL * parallel + 4, "swmld-io")

    @property
    def in_flight(self) -> int:
        """Transfers not ended, those of cancelled callers included."""
        return self._workers.outstanding

    async def transfer(
        self, writing: bool, fd: int, buffer: Buffer, start: int, length: int, offset: int
    ) -> int:
        """See ``TransferLoop.transfer``."""
        part = [buffer.view[start : start + length]]
        move = os.pwritev if writing else os.preadv
        return await self._workers.call(lambda: move(fd, part, offset), hold=buffer)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve transfers until cancelled."""
        await self._workers.run(task_status=task_status)

    def close(self) -> None:
        """Let the threads end; one that hangs in the kernel dies with the process."""
        self._workers.close()
