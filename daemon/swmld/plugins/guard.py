"""One plugin, asked with care: in a thread of its own, one call at a time, each with a time limit.

A plugin that raises, takes too long or answers nonsense is not asked again: one line in the log says so, and
from then on it knows nothing. Time that passes in ``Context.read`` is not the plugin's; reading has limits of
its own. The thread is a daemon thread, so that a plugin that sleeps for ever keeps nothing from ending.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import trio

from swmld.plugins import answers, bounded, registry
from swmld.plugins.interface import HEAD, NONE, READ_BYTES, READ_CALLS, Context, Hints

log = logging.getLogger(__name__)
T = TypeVar("T")

LIMIT = 2.0
"""Seconds for one answer, reading not counted: a thousand times what the parsing of a header takes, so that
only a host that stands still makes a sound plugin late."""

READ_SECONDS = 10.0
"""In ``Context.read`` for one answer; after that it raises OSError (EDQUOT)."""

LEFT = 3
"""Threads whose callers went away and that still run: with so many a plugin counts as hung."""

_LOOK = 0.01  # seconds between two looks at a plugin that is over its time but for what it reads


class _Job:
    """One call. The thread writes, the loop reads; both see whole values."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.token = trio.lowlevel.current_trio_token()
        self.done = trio.Event()
        self.began = 0.0  # 0: waits for its thread
        self.read = 0.0  # seconds spent reading
        self.reading = 0.0  # since when, 0: not now
        self.given_up = False
        self.unread: OSError | None = None  # the latest that reading raised
        self.result: Any = None
        self.error: BaseException | None = None

    def spent(self) -> float:
        """Seconds of the plugin's own."""
        if not self.began:
            return 0.0
        now = self.reading or time.monotonic()
        return now - self.began - self.read

    def run(self) -> None:
        self.began = time.monotonic()
        try:
            self.result = self.function()
        except bounded.Ended:
            raise
        except BaseException as error:
            self.error = error
        with contextlib.suppress(trio.RunFinishedError):
            self.token.run_sync_soon(self.done.set)


class Guard:
    """``detect`` and ``hints`` are those of the plugin, and never raise. For the event loop, but for what is
    only read: ``disabled`` says why it is not asked any more, "" while it is."""

    def __init__(self, loaded: registry.Loaded, *, limit: float = LIMIT) -> None:
        self.loaded = loaded
        self.name, self.extensions = loaded.name, loaded.extensions
        self.disabled = ""
        self.calls = 0
        self._limit = limit
        self._lock = trio.Lock()
        self._jobs: queue.SimpleQueue[_Job | None] | None = None
        self._thread: threading.Thread | None = None
        self._left: list[threading.Thread] = []

    async def detect(self, path: str, head: bytes) -> float:
        """0 where it is not asked."""
        plugin = self.loaded.plugin
        found = await self._ask(
            "detect", lambda job: answers.confidence(plugin.detect(path, head[:HEAD]))
        )  # fmt: skip
        return 0.0 if found is None else found

    async def hints(self, context: Context) -> Hints:
        """Ranges lie within the file; ``NONE`` where it is not asked."""
        plugin = self.loaded.plugin

        def ask(job: _Job) -> Hints:
            given = replace(context, head=context.head[:HEAD], read=_Reading(job, context).read)
            return answers.hints(plugin.hints(given), context.size)

        found = await self._ask("hints", ask)
        return NONE if found is None else found

    def disable(self, why: str) -> None:
        """Do not ask it again."""
        if not self.disabled:
            self.disabled = why
            log.warning(
                "plugin %s is not used any more: %s", self.name, why, extra={"of": self.loaded.origin}
            )

    def close(self) -> None:
        """Nothing is asked any more; a thread in a call is left to itself."""
        self.disabled = self.disabled or "closed"
        if self._jobs is not None:
            self._jobs.put(None)

    # ---- calls

    async def _ask(self, method: str, function: Callable[[_Job], T]) -> T | None:
        async with self._lock:
            if self.disabled:
                return None
            self._left = [thread for thread in self._left if thread.is_alive()]
            if len(self._left) >= LEFT:
                self.disable(f"{len(self._left)} calls did not come back")
                return None
            job = _Job(lambda: function(job))
            try:
                jobs = self._worker()
            except RuntimeError as error:  # no more threads: not the plugin's fault
                log.debug("plugin %s cannot be asked: %s", self.name, error)
                return None
            self.calls += 1
            jobs.put(job)
            if not await self._came(job):
                self.disable(f"{method} took longer than {self._limit:g} s")
                return None
            found: T = job.result
            return found if self._sound(method, job) else None

    def _sound(self, method: str, job: _Job) -> bool:
        """Whether a call that came back answered; else the plugin is disabled, unless it let pass what
        reading raised: the source is at fault, not the plugin."""
        if job.error is None:
            return True
        if job.error is job.unread:
            return False
        if isinstance(job.error, ValueError) and _ours(job.error):
            self.disable(f"{method}: {job.error}")
        else:
            self.disable(f"{method} {registry.told(job.error)}")
        return False

    async def _came(self, job: _Job) -> bool:
        """Wait for the end of a call; False: it took too long."""
        try:
            while not job.done.is_set():
                left = self._limit - job.spent()
                if left <= 0 and not job.reading:
                    return False
                with trio.move_on_after(max(left, _LOOK)):
                    await job.done.wait()
            return True
        finally:
            if not job.done.is_set():
                self._abandon(job)

    def _abandon(self, job: _Job) -> None:
        """Nobody waits for the call any more: its thread is told to end, the next call has another one."""
        job.given_up = True
        if self._thread is not None and self._jobs is not None:
            self._jobs.put(None)  # where it is done already
            bounded.end(self._thread)
            self._left.append(self._thread)
        self._thread = self._jobs = None

    def _worker(self) -> queue.SimpleQueue[_Job | None]:
        if self._jobs is None:
            jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
            self._thread = bounded.start(lambda: _work(jobs), f"swmld-{self.name}"[:15])
            self._jobs = jobs
        return self._jobs


def _work(jobs: queue.SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        job.run()


def _ours(error: BaseException) -> bool:
    """Whether ``answers`` raised it, not the plugin."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return at is not None and at.tb_frame.f_code.co_filename == answers.__file__


class _Reading:
    """``Context.read`` for one answer."""

    def __init__(self, job: _Job, context: Context) -> None:
        self._job = job
        self._read = context.read
        self._size = context.size
        self._calls, self._bytes = READ_CALLS, READ_BYTES

    def read(self, offset: int, length: int) -> bytes:
        try:
            return self._taken(offset, length)
        except OSError as error:
            self._job.unread = error
            raise

    def _taken(self, offset: int, length: int) -> bytes:
        if type(offset) is not int or type(length) is not int or offset < 0 or length < 0:
            raise TypeError(f"read: expected two whole numbers from 0, got {offset!r:.40} and {length!r:.40}")
        length = max(0, min(length, self._size - offset))
        job = self._job
        if job.given_up or not self._calls or length > self._bytes or job.read > READ_SECONDS:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        self._calls -= 1
        self._bytes -= length
        if not length:
            return b""
        job.reading = time.monotonic()
        try:
            return self._read(offset, length)
        except (OSError, bounded.Ended):
            raise
        except BaseException as error:  # of whoever reads for us: not the plugin's fault
            raise OSError(errno.EIO, f"{type(error).__name__}: {error}") from None
        finally:
            now = time.monotonic()
            # In this order: for a moment less may seem to have been spent, never more.
            job.read += now - job.reading
            job.reading = 0.0
