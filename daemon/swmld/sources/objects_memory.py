"""Memory for what is being written to an object store: bounded over all writes of a source."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from swmld.cache.checksum import crc32c

LIMIT = 128 << 20
"""Bytes of parts that are under way at the same time: 8 of 16 MiB."""


class Memory:
    """Buffers for parts, first come first served, reused while any is in use and freed after that."""

    def __init__(self, limit: int = LIMIT) -> None:
        """``limit``: bytes at once; a greater part has it alone."""
        self._limit = limit
        self._changed = threading.Condition()
        self._used = 0
        self._next = self._serving = 0
        self._free: dict[int, list[bytearray]] = {}

    @contextlib.contextmanager
    def part(self, size: int) -> Iterator[memoryview]:
        """``size`` bytes, of whatever content; waits for them."""
        buffer = self._take(size)
        try:
            yield memoryview(buffer)
        finally:
            self._give(buffer, size)

    def _take(self, size: int) -> bytearray:
        with self._changed:
            number = self._next
            self._next += 1
            self._changed.wait_for(
                lambda: self._serving == number and (not self._used or self._used + size <= self._limit)
            )
            self._serving += 1
            self._used += size
            self._changed.notify_all()
            if kept := self._free.get(size):
                return kept.pop()
            self._free.clear()
        return bytearray(size)

    def _give(self, buffer: bytearray, size: int) -> None:
        with self._changed:
            self._used -= size
            # Of one size alone: the parts of a large file. With another size they go, so that those kept and
            # those used together are no more than were used at once.
            if self._used:
                self._free = {size: [*self._free.get(size, []), buffer]}
            else:
                self._free.clear()
            self._changed.notify_all()


def fill(view: memoryview, fd: int, offset: int) -> int:
    """Reads the view from the file, not at its position, and returns the crc32c of what is then in it. What
    was cut off meanwhile is zeros, as if the file had been made longer again. ``OSError`` of the file."""
    done = 0
    while done < len(view):
        got = os.preadv(fd, [view[done:]], offset + done)
        if not got:
            view[done:] = bytes(len(view) - done)
            break
        done += got
    return crc32c(view)
