"""How much is asked of a source at once, and how much a second: first come, first served.

A call takes a turn, and with it its place in time by the rates: who came first starts first, a large read is
not passed by small ones. The time in the queue comes on top of the source's own limits; the queue is as long
as there are threads that call.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeVar

from swmld.sources.budgets import Rate
from swmld.sources.interface import Attributes, Source
from swmld.sources.wrapping import MONOTONIC, Clock, Kind, WrappedReader, Wrapper, closed

T = TypeVar("T")

BURST = 0.1
"""Seconds of a rate that may pass at once after a calm: more smoothing than that is delay for nothing."""

FREE = frozenset({Kind.OPEN, Kind.CURRENT})
"""What asks the source nothing by itself, where there is a request to be saved: see ``Reader.current``."""


class Limiting(Wrapper):
    """At most ``parallel`` calls at once, ``requests`` and ``nbytes`` a second; None: any number."""

    def __init__(
        self,
        inner: Source,
        *,
        parallel: int,
        requests: float | None = None,
        nbytes: float | None = None,
        clock: Clock = MONOTONIC,
    ) -> None:
        super().__init__(inner)
        if parallel < 1:
            raise ValueError(f"{parallel} calls at once are none")
        self._clock = clock
        self._lock = threading.Lock()
        self._free = parallel
        self._queue: deque[_Turn] = deque()
        self._requests = Rate(requests, BURST) if requests else None
        self._bytes = Rate(nbytes, BURST) if nbytes else None
        self._closing = threading.Event()

    @property
    def waiting(self) -> int:
        """Calls in the queue, now."""
        return len(self._queue)

    def around(self, kind: Kind, path: bytes, call: Callable[[], T]) -> T:
        """See ``Wrapper.around``."""
        if kind in FREE:
            return call()
        with self._turn(kind, path, 0):
            return call()

    def read(self, reader: WrappedReader, view: memoryview, offset: int) -> int:
        """See ``Wrapper.read``."""
        with self._turn(Kind.READ, reader.path, reader.within(len(view), offset)):
            return reader.inner.read(view, offset)

    def write(
        self,
        path: bytes,
        fd: int,
        size: int,
        attributes: Attributes,
        expected: Attributes | None,
        token: str,
    ) -> Attributes:
        """See ``Source.write``: its bytes count as those of a read do."""
        with self._turn(Kind.WRITE, path, size):
            return self.inner.write(path, fd, size, attributes, expected, token)

    def close(self) -> None:
        """Who waits fails with ESHUTDOWN."""
        with self._lock:
            self._closing.set()
            while self._queue:
                self._queue.popleft().granted.set()
        super().close()

    @contextlib.contextmanager
    def _turn(self, kind: Kind, path: bytes, nbytes: int) -> Iterator[None]:
        turn = _Turn(nbytes)
        with self._lock:
            if self._free and not self._closing.is_set():
                self._grant(turn)
            elif not self._closing.is_set():
                self._queue.append(turn)
            else:
                turn.granted.set()
        turn.granted.wait()
        try:
            wait = turn.start - self._clock.now()
            if self._closing.is_set() or (wait > 0 and self._clock.wait(self._closing, wait)):
                raise closed(kind.value, path)
            yield
        finally:
            if turn.counts:
                self._leave()

    def _grant(self, turn: _Turn) -> None:
        self._free -= 1
        turn.counts = True
        turn.start = self._clock.now()
        if self._requests is not None:
            turn.start = self._requests.reserve(1, turn.start)
        if self._bytes is not None and turn.nbytes:
            turn.start = self._bytes.reserve(turn.nbytes, turn.start)
        turn.granted.set()

    def _leave(self) -> None:
        with self._lock:
            self._free += 1
            if self._queue:
                self._grant(self._queue.popleft())


class _Turn:
    """One call's: granted once it is among the ``parallel``, to start not before ``start``."""

    __slots__ = ("counts", "granted", "nbytes", "start")

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.granted = threading.Event()
        self.start = 0.0
        self.counts = False
        """Whether it is one of the ``parallel``."""
