"""What ``hedging`` is made of: memory and threads that have bounds, and a race of two requests."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Protocol

SMALLEST = 64 << 10
"""Bytes of the smallest buffer; each class has twice those of the one before."""


class Filled(Protocol):
    """Memory with the bytes of a read."""

    def view(self, nbytes: int) -> memoryview:
        """Its first bytes."""
        ...

    def put(self) -> None:
        """Gives it back."""
        ...


class Memory:
    """At most ``limit`` bytes of buffers, idle ones included. Any thread."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._idle: dict[int, list[bytearray]] = {}
        self.allocated = 0
        self.lent = 0

    def take(self, nbytes: int) -> Buffer | None:
        """A buffer of ``nbytes`` or more; None where the limit leaves no room for it."""
        size = max(SMALLEST, 1 << (nbytes - 1).bit_length())
        with self._lock:
            if self.lent + size > self._limit:
                return None
            idle = self._idle.get(size)
            if idle:
                data = idle.pop()
            else:
                self._make_room(size)
                data = bytearray(size)
                self.allocated += size
            self.lent += size
        return Buffer(data, self)

    def give_back(self, data: bytearray) -> None:
        """See ``Buffer.put``."""
        with self._lock:
            self.lent -= len(data)
            self._idle.setdefault(len(data), []).append(data)

    def _make_room(self, size: int) -> None:
        for other, idle in self._idle.items():
            while idle and self.allocated + size > self._limit:
                idle.pop()
                self.allocated -= other


class Buffer:
    """See ``Filled``."""

    def __init__(self, data: bytearray, memory: Memory) -> None:
        self._data = data
        self._memory = memory

    def view(self, nbytes: int) -> memoryview:
        """See ``Filled.view``."""
        return memoryview(self._data)[:nbytes]

    def put(self) -> None:
        """See ``Filled.put``."""
        self._memory.give_back(self._data)


class Runners:
    """Up to ``limit`` threads, started as needed; a job that finds none idle is refused, none waits.

    Daemon threads, because one that hangs at a source must not keep the process from ending.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = 0
        self._idle = 0
        self._closed = False

    def run(self, job: Callable[[], None]) -> bool:
        """Whether ``job``, which must not raise, is run."""
        with self._lock:
            if self._closed or (not self._idle and self._threads == self._limit):
                return False
            if self._idle:
                self._idle -= 1
            else:
                self._threads += 1
                name = f"swmld-hedge-{self._threads}"
                threading.Thread(target=self._work, name=name, daemon=True).start()
        self._jobs.put(job)
        return True

    def close(self) -> None:
        """Ends the idle threads, and the others after their job."""
        with self._lock:
            self._closed = True
            for _ in range(self._threads):
                self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            with self._lock:
                self._idle += 1


class Race:
    """Of the requests that entered, the first that succeeds wins; all must fail for an error. Any thread."""

    def __init__(self) -> None:
        self.settled = threading.Event()
        self.entered = 0
        self._lock = threading.Lock()
        self._running = 0
        self._winner: tuple[Filled, int] | None = None
        self._error: BaseException | None = None

    def enter(self) -> bool:
        """Another request; False once it is settled."""
        with self._lock:
            if self.settled.is_set():
                return False
            self.entered += 1
            self._running += 1
            return True

    def leave(self) -> None:
        """It was not made after all."""
        with self._lock:
            self._running -= 1
            if not self._running and self._error is not None:
                self.settled.set()

    def won(self, buffer: Filled, count: int) -> bool:
        """A request succeeded; True: it was the first, and ``take`` gives ``buffer`` back."""
        with self._lock:
            self._running -= 1
            if self.settled.is_set():
                return False
            self._winner = buffer, count
            self.settled.set()
            return True

    def lost(self, error: OSError) -> None:
        """A request failed."""
        with self._lock:
            self._running -= 1
            self._error = self._error or error
            if not self._running:
                self.settled.set()

    def fail(self, error: BaseException) -> None:
        """Nobody waits any longer, whatever still runs."""
        with self._lock:
            if not self.settled.is_set():
                self._error = error
                self.settled.set()

    def take(self, view: memoryview) -> int:
        """The winner's bytes in ``view``, and how many; or the first error. Once, after ``settled``."""
        if self._winner is None:
            assert self._error is not None
            raise self._error
        buffer, count = self._winner
        view[:count] = buffer.view(count)
        buffer.put()
        return count
