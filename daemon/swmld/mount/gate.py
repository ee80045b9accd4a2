"""The gate to the source: every call that may block on it goes through here, in a worker thread.

A remote source may stop answering. Then a call ends after ``timeout`` seconds with EIO, the gate closes, and
until a probe of the source's root succeeds again further calls fail at once: a thousand processes do not
wait a minute each, and no thread is added to those that already hang.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import queue
import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

import trio

from swmld.fetch.threads import Workers

log = logging.getLogger(__name__)
T = TypeVar("T")

THREADS = 48
"""Calls on the source at once. A hung one holds its thread; the gate closes long before all do."""

CLOSERS = 16
"""Threads that close files of a remote source: 800 a second at 20 ms each."""

PROBE_INTERVAL = 1.0
"""Seconds between two looks whether the source is back."""

NOBODY = frozenset({errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ECONNABORTED})
"""Nobody is there to answer for the source."""

UNREACHABLE = NOBODY | {errno.EIO}
"""What a source that cannot be asked answers; cached bytes are served on."""


def as_read(code: int) -> int:
    """The errno that programs get for one of the source: reads of files fail with EIO (read(2))."""
    return errno.EIO if code in NOBODY else code


class Store(Protocol):
    """Runs what writes, in a worker thread: ``SourceGate.call``, or something without its time limit."""

    async def __call__(self, function: Callable[[], T], discard: Callable[[T], None] | None = None) -> T: ...


class SourceGate:
    """``call`` runs a blocking function; ``local`` sources have no time limit, as the kernel has none.
    ``probe`` asks the source for its root; OSError."""

    def __init__(self, probe: Callable[[], object], *, local: bool, timeout: float) -> None:
        self._probe = probe
        self._local = local
        self._timeout = timeout
        self._workers = Workers(THREADS, "swmld-source")
        self._down = False
        self._wake = trio.Event()
        self.timeouts = 0
        self._closing: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._closers = 0 if local else CLOSERS
        for _ in range(self._closers):
            threading.Thread(target=self._close_fds, name="swmld-close", daemon=True).start()

    @property
    def down(self) -> bool:
        """Whether the source was last seen not to answer."""
        return self._down

    async def call(self, function: Callable[[], T], discard: Callable[[T], None] | None = None) -> T:
        """What ``function`` returns or raises; OSError EIO when the source does not answer.

        ``discard`` gets a result that nobody waits for any more (a descriptor to close).
        """
        if self._local:
            return await self._workers.call(function)
        if self._down:
            raise OSError(errno.EIO, "the source does not answer")
        waiting = True

        def guarded() -> T:
            result = function()
            if not waiting and discard is not None:
                discard(result)
            return result

        with trio.move_on_after(self._timeout):
            try:
                return await self._workers.call(guarded)
            except OSError as error:
                if error.errno in NOBODY:
                    self._close(f" ({error.strerror})")
                raise
            finally:
                waiting = False
        self.timeouts += 1
        self._close(f" for {self._timeout:g} s")
        raise OSError(errno.EIO, "the source does not answer")

    def close_fd(self, fd: int) -> None:
        """Closes a descriptor of the source without waiting: close(2) of a remote file is a round trip."""
        if self._local:
            os.close(fd)
        else:
            self._closing.put(fd)

    def _close_fds(self) -> None:
        while (fd := self._closing.get()) >= 0:
            with contextlib.suppress(OSError):  # it is closed even if the source reports an error (close(2))
                os.close(fd)

    async def open(self, function: Callable[[], int]) -> int:
        """``call`` of a function that returns a descriptor."""
        return await self.call(function, self.close_fd)

    def _close(self, why: str) -> None:
        if not self._down:
            self._down = True
            self._wake.set()
            log.warning("source does not answer%s: uncached reads fail with EIO until it does", why)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hands out results and watches a source that went away, until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._workers.run)
            task_status.started()
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                await self._until_back()

    async def _until_back(self) -> None:
        while True:
            # One probe at a time: it may hang as long as the source does, and then is the sign of life.
            try:
                await self._workers.call(self._probe)
                break
            except OSError:
                await trio.sleep(PROBE_INTERVAL)
        self._down = False
        log.warning("source answers again")

    def close(self) -> None:
        """Lets the idle threads end."""
        self._workers.close()
        for _ in range(self._closers):
            self._closing.put(-1)
