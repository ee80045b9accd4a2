"""Fakes of what the fetch room stands on: an engine, a source, a cache file, a cache, worker threads.

They keep the promises of the real ones where a test could tell: a fake operation holds its buffer until it is
done, cancelled or not; a commit checks that the bytes are in the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import trio
from swmld.cache.checksum import crc32c
from swmld.cache.files import ChunkState
from swmld.cache.packed import Sealed
from swmld.errors import CacheFull
from swmld.fetch.buffers import Buffer, BufferPool
from swmld.fetch.scheduler import Fetcher
from swmld.fetch.sharing import Terms

T = TypeVar("T")


class FakeOffload:
    """Runs blocking functions at once, or after ``delay`` seconds of the test's clock."""

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay

    async def call(self, function: Callable[[], T], hold: Buffer | None = None) -> T:
        await trio.sleep(self.delay)
        return function()


class FakeCache:
    """Counts reservations; ``full`` refuses them."""

    def __init__(self) -> None:
        self.full = False
        self.reserved = 0
        self.refusals = 0

    def refused(self) -> None:
        self.refusals += 1

    def reserve(self, nbytes: int) -> None:
        if self.full:
            raise CacheFull
        self.reserved += nbytes

    def unreserve(self, nbytes: int) -> None:
        self.reserved -= nbytes
        assert self.reserved >= 0


def check_nothing_left(fetcher: Fetcher, pool: BufferPool, cache: FakeCache) -> None:
    """No read, flight, buffer or reservation is left over."""
    stats = fetcher.stats
    assert stats.reads_in_flight == 0
    assert not any(stats.queued.values())
    assert not any(stats.in_flight.values())
    assert (pool.lent, pool.quarantined, pool.stuck) == (0, 0, 0)
    assert cache.reserved == 0


class ChunkMap:
    """States of the chunks of ``size`` bytes and what was committed; bytes come from ``_bytes_of``."""

    level = 0

    def __init__(self, size: int, chunk_size: int, cache: FakeCache) -> None:
        self.size = size
        self.chunk_size = chunk_size
        self.nchunks = -(-size // chunk_size)
        self.states = [ChunkState.ABSENT] * self.nchunks
        self.commits: list[int] = []
        self.verify_answer = True
        self.verified: list[int] = []
        self._cache = cache

    def state(self, chunk: int) -> ChunkState:
        if not 0 <= chunk < self.nchunks:
            raise IndexError(chunk)
        return self.states[chunk]

    def extent(self, chunk: int) -> tuple[int, int]:
        offset = chunk * self.chunk_size
        return offset, min(self.chunk_size, self.size - offset)

    def seal(self, chunk: int, data: memoryview) -> Sealed:
        return Sealed(crc32c(data), self.extent(chunk)[0], data.nbytes)

    def commit(self, chunk: int, crc: int, stored: int) -> None:
        offset, length = self.extent(chunk)
        assert self.states[chunk] is not ChunkState.PRESENT
        assert crc == crc32c(self._bytes_of(offset, length)), "committed before the bytes were in the file"
        self.states[chunk] = ChunkState.PRESENT
        self.commits.append(chunk)
        self._cache.unreserve(length)

    def verify(self, chunk: int) -> bool:
        self.verified.append(chunk)
        self.states[chunk] = ChunkState.PRESENT if self.verify_answer else ChunkState.ABSENT
        return self.verify_answer

    def _bytes_of(self, offset: int, length: int) -> bytes:
        raise NotImplementedError


class FakeFile(ChunkMap):
    """A cache file in memory; the fake engine writes to it by its number ``fd``."""

    def __init__(self, size: int, chunk_size: int, cache: FakeCache, engine: FakeEngine) -> None:
        super().__init__(size, chunk_size, cache)
        self.data = bytearray(size)
        self.fd = engine.open(self.data)

    def _bytes_of(self, offset: int, length: int) -> bytes:
        return bytes(self.data[offset : offset + length])


class DiskFile(ChunkMap):
    """A cache file on disk, for the real engines."""

    def __init__(self, fd: int, size: int, chunk_size: int, cache: FakeCache) -> None:
        super().__init__(size, chunk_size, cache)
        self.fd = fd
        os.ftruncate(fd, size)

    def _bytes_of(self, offset: int, length: int) -> bytes:
        return os.pread(self.fd, length, offset)


class FakeTarget:
    """A ``Target``. ``changed`` makes ``check_source`` say no; ``retained`` counts."""

    def __init__(self, key: object, source_fd: int, file: ChunkMap, *, direct: bool = False) -> None:
        self.key = key
        self.source_fd = source_fd
        self.source_direct = direct
        self.reader = None
        self.file = file
        self.terms: Terms | None = None
        self.changed = False
        self.checks = 0
        self.change_at_check = 0
        self.retained = 0

    def check_source(self) -> bool:
        self.checks += 1
        if self.checks == self.change_at_check:
            self.changed = True
        return not self.changed

    def retain(self) -> None:
        self.retained += 1

    def release(self) -> None:
        self.retained -= 1
        assert self.retained >= 0


class FakeEngine:
    """Byte arrays instead of files, ``delay`` seconds an operation, and faults.

    ``faults``: popped once a read; an errno fails it, 0 does not. ``hang`` makes reads wait for ``let_go``,
    as the kernel does with a dead source: cancelling the caller does not end the operation.
    """

    name = "fake"

    def __init__(self, delay: float = 0.01) -> None:
        self.delay = delay
        self.faults: list[int] = []
        self.write_fault = 0
        self.hang = False
        self.reads: list[tuple[int, int, int]] = []
        """(fd, offset, length) in the order of their start."""
        self.reading = 0
        self.most_reading = 0
        self._files: dict[int, bytearray] = {}
        self._hung: list[Buffer] = []
        self._go = trio.Event()

    def open(self, data: bytearray) -> int:
        """A number that stands for ``data``."""
        fd = 1000 + len(self._files)
        self._files[fd] = data
        return fd

    def let_go(self) -> None:
        """The source answers again: what hung completes."""
        self.hang = False
        self._go.set()
        self._go = trio.Event()
        hung, self._hung = self._hung, []
        for buffer in hung:
            buffer.drop()

    async def read(
        self,
        fd: int,
        buffer: Buffer,
        buf_offset: int,
        length: int,
        offset: int,
        *,
        minimum: int | None = None,
    ) -> int:
        self.reads.append((fd, offset, length))
        buffer.hold()
        self.reading += 1
        self.most_reading = max(self.most_reading, self.reading)
        hung = self.hang
        try:
            if hung:
                await self._go.wait()
            else:
                await trio.sleep(self.delay)
            fault = self.faults.pop(0) if self.faults else 0
            if fault:
                raise OSError(fault, os.strerror(fault))
            part = self._files[fd][offset : offset + length]
            buffer.view[buf_offset : buf_offset + len(part)] = part
            return len(part)
        finally:
            self.reading -= 1
            if hung and self.hang:
                self._hung.append(buffer)
            else:
                buffer.drop()

    async def write(self, fd: int, buffer: Buffer, buf_offset: int, length: int, offset: int) -> None:
        buffer.hold()
        try:
            await trio.sleep(self.delay)
            if self.write_fault:
                raise OSError(self.write_fault, os.strerror(self.write_fault))
            self._files[fd][offset : offset + length] = buffer.view[buf_offset : buf_offset + length]
        finally:
            buffer.drop()

    def put(self, fd: int, data: memoryview, offset: int) -> None:
        if self.write_fault:
            raise OSError(self.write_fault, os.strerror(self.write_fault))
        self._files[fd][offset : offset + len(data)] = data

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.sleep_forever()

    def close(self) -> None:
        assert not self._hung, "operations still hang"
