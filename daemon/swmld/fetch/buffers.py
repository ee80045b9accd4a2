"""Memory that the kernel reads into: aligned buffers from C under one budget, with quarantine.

A buffer belongs to the kernel while an operation on it has not completed: a read from a hung source may land
minutes after its reader gave up. So every operation *holds* its buffer, and a buffer that is put back while
held is quarantined: it still counts against the budget, and goes back to the free lists only when its last
operation has completed. Nothing here blocks or locks: a pool belongs to the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from swmld._native import ffi, lib

ALIGNMENT = 4096
"""Bytes: the strictest offset and length rule of O_DIRECT that is met in practice (4Kn disks, page size)."""

SIZE_CLASSES = (64 << 10, 256 << 10, 1 << 20, 4 << 20)
"""Bytes. Four times apart: a 110 KiB file takes 256 KiB instead of a whole chunk, at most 4 sizes to
search."""

REST = 2.0
"""Seconds that free memory is kept for the next burst of fetches."""


class Buffer:
    """``size`` bytes at a multiple of ``ALIGNMENT``. ``view`` is the memory; valid until the pool frees
    it."""

    __slots__ = ("_idle", "_pool", "address", "holds", "quarantined", "size", "view")

    def __init__(self, size: int, view: memoryview, pool: BufferPool, address: Any = ffi.NULL) -> None:
        self.size = size
        self.view = view
        self.address = address
        """As C takes it."""
        self.holds = 0
        self.quarantined = False
        self._pool = pool
        self._idle: Callable[[], None] | None = None

    def hold(self) -> None:
        """An operation on this buffer was handed to the kernel or to a worker thread. Loop-only."""
        self.holds += 1

    def drop(self) -> None:
        """That operation has completed. Loop-only."""
        self.holds -= 1
        if self.quarantined:
            self._pool.operation_done(self)

    def when_idle(self, callback: Callable[[], None] | None) -> None:
        """What to call once, on the loop, when the buffer has been put back and no operation holds it."""
        self._idle = callback

    def take_idle_callback(self) -> Callable[[], None] | None:
        """The callback of ``when_idle``, at most once."""
        callback, self._idle = self._idle, None
        return callback


class BufferPool:
    """At most ``count * size`` bytes of buffers in size classes up to ``size`` (the chunk size).

    ``quarantined`` counts buffers that wait for the kernel, ``stuck`` the operations that they wait for.
    ``on_room`` callbacks run on the loop whenever room came back.
    """

    def __init__(self, count: int, size: int) -> None:
        if count < 1 or size < 1:
            raise ValueError(f"a pool of {count} buffers of {size} bytes holds nothing")
        self._largest = _aligned(size)
        self._sizes = (*(s for s in SIZE_CLASSES if s < self._largest), self._largest)
        self.budget = count * self._largest
        self.allocated = 0
        self.lent = 0
        self._most_lent = 0  # since the last ``trim``
        self.quarantined = 0
        self.stuck = 0
        self._free: dict[int, list[Buffer]] = {s: [] for s in self._sizes}
        self._on_room: list[Callable[[], None]] = []
        self._waiters = trio.lowlevel.ParkingLot()

    def on_room(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` on the loop each time a buffer comes back."""
        self._on_room.append(callback)

    def try_get(self, nbytes: int | None = None, *, spare: int = 0) -> Buffer | None:
        """A buffer of at least ``nbytes`` (default: the largest), or ``None`` where less than ``spare`` bytes
        of the budget would be left. ``ValueError`` if ``nbytes`` is more than the largest class."""
        size = self._class_of(self._largest if nbytes is None else nbytes)
        if self.lent + size + spare > self.budget:
            return None
        free = self._free[size]
        buffer = free.pop() if free else self._allocate(size)
        if buffer is not None:
            self.lent += size
            self._most_lent = max(self._most_lent, self.lent)
        return buffer

    def has_room(self, nbytes: int, spare: int = 0) -> bool:
        """Whether ``try_get`` of as much would fit the budget."""
        return self.lent + self._class_of(nbytes) + spare <= self.budget

    async def get(self, nbytes: int | None = None) -> Buffer:
        """As ``try_get``, but waits for room."""
        await trio.lowlevel.checkpoint()
        while (buffer := self.try_get(nbytes)) is None:
            await self._waiters.park()
        return buffer

    def put(self, buffer: Buffer) -> None:
        """Give ``buffer`` back; one that an operation still holds is quarantined until that completes."""
        if buffer.holds:
            buffer.quarantined = True
            self.quarantined += 1
            self.stuck += buffer.holds
        else:
            self._take_back(buffer)

    def operation_done(self, buffer: Buffer) -> None:
        """An operation of a quarantined buffer has completed (called by ``Buffer.drop``)."""
        self.stuck -= 1
        if buffer.holds == 0:
            buffer.quarantined = False
            self.quarantined -= 1
            self._take_back(buffer)
        else:
            self._tell()

    async def run(self) -> None:
        """Gives memory back that nobody has used for a while, until cancelled: buffers, and what malloc keeps
        of all that came and went."""
        while True:
            await trio.sleep(REST)
            self.trim()
            lib.sw_heap_trim()

    def trim(self) -> None:
        """Frees what was more than enough since the last call."""
        for size in reversed(self._sizes):
            free = self._free[size]
            while free and self.allocated - size >= self._most_lent:
                self._release(free.pop(), size)
        self._most_lent = self.lent

    def close(self) -> None:
        """Free the idle buffers. One that the kernel may still write to is left mapped on purpose: unmapping
        it would let a late completion overwrite whatever is mapped there next."""
        for size, free in self._free.items():
            while free:
                self._release(free.pop(), size)

    def _take_back(self, buffer: Buffer) -> None:
        self.lent -= buffer.size
        self._free[buffer.size].append(buffer)
        callback = buffer.take_idle_callback()
        if callback is not None:
            callback()
        self._tell()

    def _tell(self) -> None:
        self._waiters.unpark_all()
        for callback in self._on_room:
            callback()

    def _class_of(self, nbytes: int) -> int:
        for size in self._sizes:
            if nbytes <= size:
                return size
        raise ValueError(f"{nbytes} bytes asked of a pool whose largest buffer is {self._largest}")

    def _allocate(self, size: int) -> Buffer | None:
        # Idle buffers of other classes make way: lent memory alone is what the budget promises to others.
        for other, free in self._free.items():
            while free and self.allocated + size > self.budget:
                self._release(free.pop(), other)
        pointer = lib.sw_buffer_alloc(size)
        if pointer == ffi.NULL:
            return None
        self.allocated += size
        return Buffer(size, memoryview(ffi.buffer(pointer, size)), self, pointer)

    def _release(self, buffer: Buffer, size: int) -> None:
        pointer = ffi.from_buffer(buffer.view)
        lib.sw_buffer_free(pointer, size)
        buffer.view, buffer.address = memoryview(b""), ffi.NULL
        self.allocated -= size


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
