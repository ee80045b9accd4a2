"""Files that end by themselves (TTL): when their time is over they are not served any more.

The source decides, by its own clock: when a file's time has come by ours, it is asked again. While it cannot
be asked, ours counts.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from swmld.sources.interface import Attributes

KEPT = 1 << 16
"""Files whose end is waited for; of more, each is asked for at every use."""

SOONEST_NS = 1_000_000_000
"""Until a file that the source still has, though its time is over, is asked for again."""


class Lifetimes:
    """``ended`` is told of each path whose time is over, in a thread of this."""

    def __init__(self, ended: Callable[[bytes], None], most: int = KEPT) -> None:
        self._ended = ended
        self._most = most
        self._changed = threading.Condition()
        self._ends: dict[bytes, int] = {}
        self._heap: list[tuple[int, bytes]] = []
        self._over: OrderedDict[bytes, None] = OrderedDict()
        self._thread: threading.Thread | None = None

    def note(self, path: bytes, attributes: Attributes) -> None:
        """What the source has answered just now."""
        end = attributes.expires_ns
        if not end and not self.any:
            return
        with self._changed:
            self._over.pop(path, None)
            if not end:
                self._ends.pop(path, None)
                return
            end = max(end, time.time_ns() + SOONEST_NS)
            if self._ends.get(path) == end or len(self._heap) >= self._most:
                return
            self._ends[path] = end
            heapq.heappush(self._heap, (end, path))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="swmld-lifetimes", daemon=True)
                self._thread.start()
            self._changed.notify()

    @property
    def any(self) -> bool:
        """Whether there is a file that is to end, or has."""
        return bool(self._ends or self._over)

    def awaits(self, path: bytes) -> bool:
        """Whether the end of it will be told."""
        with self._changed:
            return path in self._ends

    def over(self, path: bytes) -> bool:
        """Whether it was to end before now, and the source has said nothing else since."""
        if not self.any:
            return False
        with self._changed:
            return path in self._over or time.time_ns() >= self._ends.get(path, 1 << 63)

    def _run(self) -> None:
        while True:
            self._ended(self._next())

    def _next(self) -> bytes:
        """Waits for it."""
        with self._changed:
            while True:
                now = time.time_ns()
                if self._heap and self._heap[0][0] <= now:
                    end, path = heapq.heappop(self._heap)
                    if self._ends.get(path) != end:  # it was given another end
                        continue
                    del self._ends[path]
                    self._over[path] = None
                    if len(self._over) > self._most:
                        self._over.popitem(last=False)
                    return path
                self._changed.wait((self._heap[0][0] - now) / 1e9 if self._heap else None)
