"""The gate to the source: every call that may block on it goes through here, in a worker thread.

A remote source may stop answering. Then a call ends after ``timeout`` seconds with EIO, the gate closes, and
until a probe of the source's root succeeds again further calls fail at once: a thousand processes do not
wait a minute each, and no thread is added to those that already hang.

A source that is asked again (``sources.retrying``) may be away for so long, and nobody notices: its calls
wait on the event loop, holding no thread. While nobody answers it is the probe alone that asks; who knows
another answer gives that at once, and the others are let in when it succeeds. What fails otherwise is made
again when the source's own budget of retries allows it.
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
from swmld.sources.retrying import Again, hasty

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


class Away(OSError):
    """The source was not asked, since it does not answer."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "the source does not answer")


class Store(Protocol):
    """Runs what writes, in a worker thread: ``SourceGate.call``, or something without its time limit."""

    async def __call__(self, function: Callable[[], T], discard: Callable[[T], None] | None = None) -> T: ...


class SourceGate:
    """``call`` runs a blocking function; ``local`` sources have no time limit, as the kernel has none.
    ``probe`` asks the source for its root; OSError. ``again``: what fails is made again as it says."""

    def __init__(
        self, probe: Callable[[], object], *, local: bool, timeout: float, again: Again | None = None
    ) -> None:
        self._probe = probe
        self._local = local
        self._timeout = timeout
        self._again = again
        self._workers = Workers(THREADS, "swmld-source")
        self._down = False
        self._since = 0.0
        """When the call was made that found it down."""
        self._nobody = False
        """The same, as a thread has found it: those that wait for a thread need not ask."""
        self._why, self._told = "", False
        self._wake = trio.Event()
        self._back = trio.Event()
        self.timeouts = 0
        self._closing: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._closers = 0 if local else CLOSERS
        for _ in range(self._closers):
            threading.Thread(target=self._close_fds, name="swmld-close", daemon=True).start()

    @property
    def down(self) -> bool:
        """Whether the source was last seen not to answer."""
        return self._down

    async def call(
        self,
        function: Callable[[], T],
        discard: Callable[[T], None] | None = None,
        *,
        patient: bool = True,
    ) -> T:
        """What ``function`` returns or raises; OSError EIO when the source does not answer. It may be called
        several times, each as if it were the first.

        ``discard`` gets a result that nobody waits for any more (a descriptor to close). Who is
        not ``patient`` does not wait for a source that nobody answers for.
        """
        if self._local:
            return await self._workers.call(function)
        begun, failed = trio.current_time(), 0
        while True:
            try:
                result = await self._once(function, discard, begun)
            except OSError as error:
                failed += 1
                if not await self._later(error, failed, begun, patient):
                    raise
            else:
                if failed and self._again is not None:
                    self._again.answered()
                return result

    async def _once(self, function: Callable[[], T], discard: Callable[[T], None] | None, begun: float) -> T:
        if self._down:
            raise Away
        waiting = True

        def guarded() -> T:
            if self._down or self._nobody:  # by now: other calls were before it
                raise Away
            try:
                with hasty():
                    result = function()
            except OSError as error:
                if error.errno in NOBODY:
                    self._nobody = True
                raise
            if not waiting and discard is not None:
                discard(result)
            return result

        with trio.move_on_after(self._timeout):
            try:
                return await self._workers.call(guarded)
            except OSError as error:
                if error.errno in NOBODY or self._nobody:
                    # A server that has just been started again is no news, if it answers the probe.
                    quiet = self._again is not None and error.errno != errno.ETIMEDOUT
                    self._close(f" ({error.strerror})", begun, quiet=quiet)
                raise
            finally:
                waiting = False
        self.timeouts += 1
        self._close(f" for {self._timeout:g} s", begun)
        raise Away

    async def _later(self, error: OSError, failed: int, begun: float, patient: bool) -> bool:
        """Waits until a call that failed so often may be made again; False: it has failed."""
        again = self._again
        pause = again.pause(error, failed) if again is not None else None
        if again is None or pause is None:
            return False
        deadline = begun + again.limit
        if self._down:
            if not patient:
                return False
            with trio.move_on_at(min(deadline, self._since + again.limit)):
                await self._back.wait()
            if self._down:
                if not isinstance(error, Away):
                    again.gave_up()
                return False
            if failed == 1:
                return True
        while trio.current_time() + pause <= deadline:
            await trio.sleep(pause)
            # Where it went away meanwhile the next call says so, without asking.
            if self._down or again.take():
                return True
            failed += 1
            pause = again.longer(failed)
        again.gave_up()
        return False

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

    def _close(self, why: str, begun: float, *, quiet: bool = False) -> None:
        if not self._down:
            self._down, self._since, self._why, self._told = True, begun, why, False
            self._back = trio.Event()
            self._wake.set()
            if not quiet:
                self._tell()

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            log.warning("source does not answer%s: uncached reads fail with EIO until it does", self._why)

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
                await self._workers.call(self._look)
                break
            except OSError:
                self._tell()
                await trio.sleep(PROBE_INTERVAL)
        self._down = self._nobody = False
        self._back.set()
        if self._told:
            log.warning("source answers again")

    def _look(self) -> None:
        with hasty():
            self._probe()

    def close(self) -> None:
        """Lets the idle threads end."""
        self._workers.close()
        for _ in range(self._closers):
            self._closing.put(-1)
