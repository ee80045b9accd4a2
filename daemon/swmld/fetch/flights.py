"""One flight: how the bytes of one chunk get from the source into the cache file.

    SUSPECT?  ─► verify the bytes that are there; if the checksum holds, that was all
    prepare   ─► the cache has room                                                worker thread
    read      ─► sub-reads in parallel into one buffer                             engine
    seal      ─► the source still is the target's; compressed where that is wanted; crc32c   worker thread
    write     ─► to the cache file                                                 the same, or engine
    commit    ─► the chunk is present

The order is the promise: the chunk is committed after its bytes are in the cache file, and only if the
source, once it was read, still is the generation that the target names (so it was that all the time; asking
before the read as well would cost a slow source a round trip and tell nothing more).
"""

from __future__ import annotations

import enum
import errno
import fcntl
import logging
import os
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Protocol

import trio

from swmld.cache.files import ChunkState
from swmld.cache.packed import Sealed
from swmld.errors import DISK_FULL, CacheError, FetchError
from swmld.fetch.buffers import ALIGNMENT, Buffer
from swmld.fetch.engine import Engine
from swmld.fetch.sharing import Group, Terms
from swmld.fetch.stats import FetchStats, Result
from swmld.fetch.threads import Offload
from swmld.sources.interface import Reader
from swmld.sources.whole import in_one
from swmld.types import FetchClass

log = logging.getLogger(__name__)

RETRIED = frozenset({errno.EIO, errno.EAGAIN, errno.ETIMEDOUT})
"""What a demand tries once more: a server that restarts or a connection that broke answers so."""


class ChunkFile(Protocol):
    """The part of ``cache.CacheFile`` that a flight needs."""

    fd: int
    level: int
    """At which its chunks are compressed; 0: not."""

    def state(self, chunk: int) -> ChunkState:
        """ABSENT, SUSPECT or PRESENT."""
        ...

    def extent(self, chunk: int) -> tuple[int, int]:
        """Offset and length in bytes."""
        ...

    def seal(self, chunk: int, data: memoryview) -> Sealed:
        """Blocking: what is to be stored of the chunk's bytes, and where; may change them. Raises
        ``CacheError``."""
        ...

    def commit(self, chunk: int, crc: int, stored: int) -> None:
        """The bytes are in the file."""
        ...

    def verify(self, chunk: int) -> bool:
        """Blocking: PRESENT if the checksum holds, else ABSENT."""
        ...


class Room(Protocol):
    """The part of ``cache.Cache`` that a flight needs."""

    def reserve(self, nbytes: int) -> None:
        """Blocking; raises ``CacheFull``. ``commit`` of the chunk ends the reservation."""
        ...

    def refused(self) -> None:
        """The disk did not take what was reserved."""
        ...

    def unreserve(self, nbytes: int) -> None:
        """Loop-safe: end the reservation of a chunk that was not committed."""
        ...


class Target(Protocol):
    """What the scheduler fetches into: one open source file and its cache file.

    ``retain`` (when a fetch is queued) and ``release`` are called on the loop. Between them ``source_fd``
    and ``file.fd`` must stay open: an operation that hangs at the source outlives its flight and looks its
    descriptor up late.
    """

    key: Hashable
    source_fd: int
    reader: Reader | None
    """What is read instead of ``source_fd``, in a worker thread."""
    source_direct: bool
    """``source_fd`` is O_DIRECT; set to False by a flight that had to clear the flag."""
    file: Any
    """A ``ChunkFile``."""
    terms: Terms | None
    """What rules ask of its fetches."""

    def check_source(self) -> bool:
        """Blocking, any thread: fstat of ``source_fd`` still gives the identity that ``file`` was acquired
        for. May raise ``OSError``."""
        ...

    def retain(self) -> None:
        """Keep the descriptors open."""
        ...

    def release(self) -> None:
        """A ``retain`` has ended."""
        ...


class FlightFailed(FetchError):
    """A flight's end without the chunk. ``again``: the source may do better at once. ``full``: the cache's
    disk has no room."""

    def __init__(
        self, message: str, code: int, result: Result, *, again: bool = False, full: bool = False
    ) -> None:
        super().__init__(message, code)
        self.result = result
        self.again = again
        self.full = full


class Phase(enum.Enum):
    """Where a flight is."""

    QUEUED = enum.auto()
    RUNNING = enum.auto()
    DONE = enum.auto()


class Flight:
    """One chunk on its way. Owned by the scheduler."""

    __slots__ = (
        "asked", "chunk", "cls", "deadline", "demanded", "done", "errno", "group", "held", "key", "length",
        "let_go", "number", "offset", "on_late", "phase", "priority", "requested_at", "reserved", "slots",
        "target", "terms", "waiters",
    )  # fmt: skip

    def __init__(
        self, target: Target, chunk: int, cls: FetchClass, priority: int, deadline: float | None, number: int
    ) -> None:
        self.key = (target.key, chunk)
        self.target = target
        self.chunk = chunk
        self.cls = cls
        self.priority = priority
        self.deadline = float("inf") if deadline is None else deadline
        self.number = number
        extent: tuple[int, int] = target.file.extent(chunk)
        self.offset, self.length = extent
        self.phase = Phase.QUEUED
        self.slots = 0
        self.reserved = False
        """Room is counted in the cache; set in a worker thread, which holds the flight's buffer meanwhile."""
        self.waiters = 0
        self.demanded = cls is FetchClass.DEMAND
        """Somebody waits for it, whatever class rules have it count as."""
        self.terms = target.terms
        self.group: Group | None = None
        self.held = False
        """It waits until ``sharing.Admission`` lets it line up."""
        self.let_go = -1
        """Reads that were let go with it, 0 where they are not bounded; -1: it was not let go."""
        self.asked = True
        """Somebody wants it who does not wait in ``ensure``."""
        self.done: trio.Event | None = None
        self.on_late: Callable[[Target, int], None] | None = None
        """Told when it is dropped because its deadline passed in the queue."""
        self.errno = 0
        self.requested_at = trio.current_time()

    def __lt__(self, other: Flight) -> bool:
        """Prefetch order: priority (high first), deadline (early first), age."""
        return (-self.priority, self.deadline, self.number) < (-other.priority, other.deadline, other.number)


class Carrier:
    """Carries the bytes of flights. Holds no state of its own."""

    def __init__(
        self, engine: Engine, cache: Room, offload: Offload, stats: FetchStats, *, sub_read: int
    ) -> None:
        self._engine = engine
        self._cache = cache
        self._offload = offload
        self._stats = stats
        self._sub_read = sub_read

    def step(self, flight: Flight) -> int:
        """Bytes of one sub-read."""
        terms = flight.terms
        if terms is not None and terms.request is not None:
            return terms.request
        return max(flight.length, 1) if in_one(flight.target.reader) else self._sub_read

    def parts(self, flight: Flight) -> int:
        """Sub-reads that it takes."""
        return max(1, -(-flight.length // self.step(flight)))

    async def carry(self, flight: Flight, buffer: Buffer, width: int, after_read: Any) -> Result:
        """Fetch ``flight``'s chunk through ``buffer`` with up to ``width`` sub-reads at once; ``after_read``
        is called as soon as the source is no longer needed for bytes. ``FlightFailed`` if it could not be
        had."""
        try:
            return await self._carry(flight, buffer, width, after_read)
        except FlightFailed as failure:
            if failure.full and flight.reserved:
                self._cache.refused()
            raise

    async def _carry(self, flight: Flight, buffer: Buffer, width: int, after_read: Any) -> Result:
        target, file, chunk = flight.target, flight.target.file, flight.chunk
        if file.state(chunk) is ChunkState.SUSPECT and await self._verified(file, chunk, buffer):
            return Result.VERIFIED
        # A flight that is given up goes on in its thread: what it may still write then is what the next one
        # writes, but for chunks that are compressed.
        at_once = target.reader is not None and flight.length <= self.step(flight) and not file.level
        sealed: Sealed | None = None
        retried = False
        while True:
            try:
                if at_once:
                    sealed = await self._at_once(flight, buffer)
                else:
                    await self._prepare(flight, buffer)
                    await self._read(flight, buffer, width)
                break
            except FlightFailed as failure:
                if not failure.again or retried or not flight.demanded:
                    raise
                retried = True
                self._stats.retries += 1
                log.debug("fetch of chunk %d tried again: %s", chunk, failure)
        after_read()
        try:
            if sealed is None and not file.level:
                sealed = await self._store(flight, buffer)
            elif sealed is None:
                sealed = await self._seal(target, chunk, buffer, flight.length)
                await self._engine.write(file.fd, buffer, 0, sealed.length, sealed.offset)
            file.commit(chunk, sealed.crc, sealed.length)
            flight.reserved = False
        except (OSError, CacheError) as error:
            raise _cache_failed(error) from error
        return Result.LANDED

    def arrived(self, flight: Flight, crc: int) -> None:
        """Its bytes, which have this checksum, are in the cache file, and the source's as they were asked
        for."""
        flight.target.file.commit(flight.chunk, crc, flight.length)
        flight.reserved = False

    def settle(self, flight: Flight) -> None:
        """Nothing of ``flight`` is under way any more, in the kernel or in a thread: give back what it
        kept."""
        if flight.reserved:
            flight.reserved = False
            self._cache.unreserve(flight.length)
        flight.target.release()

    async def _at_once(self, flight: Flight, buffer: Buffer) -> Sealed:
        """All that one request to a remote source brings, in one call in a thread: the hand-overs between
        loop, threads and ring would cost more than a small file's bytes."""
        return await self._in_thread(partial(_at_once, self._cache, self._engine, flight, buffer), buffer)

    async def _verified(self, file: ChunkFile, chunk: int, buffer: Buffer) -> bool:
        try:
            return await self._offload.call(partial(file.verify, chunk), buffer)
        except (OSError, CacheError) as error:
            raise _cache_failed(error) from error

    async def _prepare(self, flight: Flight, buffer: Buffer) -> None:
        try:
            await self._offload.call(partial(_prepare, self._cache, flight), buffer)
        except CacheError as error:
            raise _cache_failed(error) from error

    async def _store(self, flight: Flight, buffer: Buffer) -> Sealed:
        """Seals and writes in one call in a thread, while the bytes are in the CPU's cache."""
        return await self._in_thread(partial(_stored, self._engine, flight, buffer), buffer)

    async def _in_thread(self, call: Callable[[], Sealed], buffer: Buffer) -> Sealed:
        """What fails of it is the cache's fault or the source's."""
        try:
            return await self._offload.call(call, buffer)
        except CacheError as error:
            raise _cache_failed(error) from error
        except _DiskError as error:
            raise _cache_failed(error.error) from error
        except OSError as error:
            raise _remote_failed(error) from error

    async def _seal(self, target: Target, chunk: int, buffer: Buffer, length: int) -> Sealed:
        try:
            sealed = await self._offload.call(partial(_seal, target, chunk, buffer, length), buffer)
        except CacheError as error:
            raise _cache_failed(error) from error
        except OSError as error:
            raise _source_failed(error) from error
        if sealed is None:
            raise _stale("changed while it was read")
        return sealed

    async def _read(self, flight: Flight, buffer: Buffer, width: int) -> None:
        step = self.step(flight)
        if flight.length <= step:  # no task of its own for the common small file
            await self._part(flight, buffer, 0, step)
            return
        starts = iter(range(0, flight.length, step))
        failure: FlightFailed | None = None

        async def next_parts() -> None:
            nonlocal failure
            for start in starts:
                try:
                    await self._part(flight, buffer, start, step)
                except FlightFailed as error:
                    failure = failure or error
                # The others end what they have begun: a cancelled read might write to the buffer during the
                # next try, or after the checksum was taken.
                if failure is not None:
                    return

        async with trio.open_nursery() as nursery:
            for _ in range(min(width, self.parts(flight))):
                nursery.start_soon(next_parts)
        if failure is not None:
            raise failure

    async def _part(self, flight: Flight, buffer: Buffer, start: int, step: int) -> None:
        target = flight.target
        length = min(step, flight.length - start)
        if target.reader is not None:
            await self._remote(target.reader, buffer, start, length, flight.offset)
            return
        while True:
            direct = target.source_direct
            # Never past the buffer: every size class is a multiple of ALIGNMENT.
            ask = -(-length // ALIGNMENT) * ALIGNMENT if direct else length
            try:
                count = await self._engine.read(
                    target.source_fd, buffer, start, ask, flight.offset + start, minimum=length
                )
            except OSError as error:
                if error.errno == errno.EINVAL and direct:
                    _clear_direct(target)  # once, or again for a part that was on its way meanwhile
                    continue
                raise _source_failed(error) from error
            if count < length:
                raise _stale(f"ends at byte {flight.offset + start + count}")
            return

    async def _remote(self, reader: Reader, buffer: Buffer, start: int, length: int, offset: int) -> None:
        view = buffer.view[start : start + length]
        try:
            count = await self._offload.call(partial(reader.read, view, offset + start), buffer)
        except OSError as error:
            raise _remote_failed(error) from error
        if count < length:
            raise _stale(f"ends at byte {offset + start + count}")


def _prepare(cache: Room, flight: Flight) -> None:
    if not flight.reserved:
        cache.reserve(flight.length)
        flight.reserved = True


class _DiskError(Exception):
    """The cache's disk refused the bytes."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def _at_once(cache: Room, engine: Engine, flight: Flight, buffer: Buffer) -> Sealed:
    target, length = flight.target, flight.length
    assert target.reader is not None
    _prepare(cache, flight)
    if target.reader.read(buffer.view[:length], flight.offset) < length:
        raise OSError(errno.ESTALE, "it is shorter now")
    return _stored(engine, flight, buffer)


def _stored(engine: Engine, flight: Flight, buffer: Buffer) -> Sealed:
    """Raises OSError of the source (ESTALE: it is another file now), _DiskError, CacheError."""
    sealed = _seal(flight.target, flight.chunk, buffer, flight.length)
    if sealed is None:
        raise OSError(errno.ESTALE, "it is another file now")
    try:
        engine.put(flight.target.file.fd, buffer.view[: sealed.length], sealed.offset)
    except OSError as error:
        raise _DiskError(error) from error
    return sealed


def _seal(target: Target, chunk: int, buffer: Buffer, length: int) -> Sealed | None:
    if not target.check_source():
        return None
    sealed: Sealed = target.file.seal(chunk, buffer.view[:length])
    return sealed


def _clear_direct(target: Target) -> None:
    """Some file systems take O_DIRECT at open and refuse the reads: go on through the page cache."""
    target.source_direct = False
    flags = fcntl.fcntl(target.source_fd, fcntl.F_GETFL)
    fcntl.fcntl(target.source_fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)


def _stale(what: str) -> FlightFailed:
    return FlightFailed(f"source file {what}", errno.ESTALE, Result.STALE)


def _source_failed(error: OSError) -> FlightFailed:
    code = error.errno or errno.EIO
    return FlightFailed(f"source: {error}", code, Result.ERROR, again=code in RETRIED)


def _remote_failed(error: OSError) -> FlightFailed:
    """Of a ``Reader``, which says itself that its generation is gone."""
    return _stale("changed while it was read") if error.errno == errno.ESTALE else _source_failed(error)


def _cache_failed(error: OSError | CacheError) -> FlightFailed:
    """The source is fine: ENOSPC tells the mount to read this chunk from it, past the cache."""
    return FlightFailed(f"cache: {error}", errno.ENOSPC, Result.NO_ROOM, full=error.errno in DISK_FULL)
