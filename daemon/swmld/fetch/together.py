"""Small files of a remote source, several at once: one call in C makes their GETs (``native/httpget.c``).

What a file of 110 KiB costs is hand-overs: from the loop to a thread and back, and the interpreter's lock
around each call of the kernel. So flights of files that their source gives as one plain GET
(``sources.whole``), and that may start at the same moment, are carried as one: one thread reserves their
room, sends all requests and receives the bodies straight into the cache files. Whatever does not come as it
should is carried alone, by ``flights.Carrier``, from the beginning.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from swmld._native import ffi, lib
from swmld.cache.files import ChunkState
from swmld.errors import CacheError
from swmld.fetch.buffers import Buffer
from swmld.fetch.flights import Flight, Room
from swmld.fetch.threads import Offload
from swmld.sources.whole import Get, is_plain, whole_of

LIMIT = 1 << 20
"""Bytes of a file at most: of larger ones the bytes cost more than the hand-overs."""

MOST = 12
"""Files of one batch: half of what is fetched ahead at once by default, so that the requests of one batch are
under way while the files of another are entered."""

LINGER_NS = 20_000_000
"""How long files that have come wait for the others of their batch: about what a disk takes for each."""

PATIENCE = 0.5
"""Of the time that a flight has: as much is left to try it alone, where other servers are asked."""


class Loaded(NamedTuple):
    """A flight with the buffer that its bytes go through."""

    flight: Flight
    buffer: Buffer


class Came(NamedTuple):
    """What became of one. ``crc``: of its bytes, which are in the cache file; None: it is to be carried
    alone."""

    loaded: Loaded
    crc: int | None


class Together:
    """All batches of one source, and their connections. Loop-only but for what says otherwise."""

    def __init__(self, cache: Room, offload: Offload) -> None:
        """``OSError`` where there is no descriptor for it."""
        self._cache = cache
        self._offload = offload
        code = ffi.new("int *")
        getter = lib.sw_getter_new(code)
        if getter == ffi.NULL:
            raise OSError(-code[0], os.strerror(-code[0]))
        # Batches refer to it as well, from their threads.
        self._getter = ffi.gc(getter, lib.sw_getter_free)
        self._addresses: dict[tuple[str, int], int] = {}
        self._closed = False

    @staticmethod
    def fits(flight: Flight) -> bool:
        """Whether it can be carried so: the whole file, stored as it comes, of which nothing is there."""
        target, file, terms = flight.target, flight.target.file, flight.terms
        return (
            is_plain(target)
            and flight.length == file.size <= LIMIT
            and not file.level
            and (terms is None or terms.request is None)
            and file.state(flight.chunk) is ChunkState.ABSENT
        )

    async def carry(self, batch: Batch) -> Sequence[Came]:
        """The next of a batch that have ended; empty when all have."""
        if not batch.left:
            return ()
        return await self._offload.call(batch.step, batch)

    def batch(self, flights: Sequence[Loaded], seconds: float) -> Batch:
        """To be carried; ``seconds`` until what has not come is given back. It must be closed."""
        return Batch(self, flights, seconds)

    def close(self) -> None:
        """Ends what is under way, and all connections."""
        if not self._closed:
            self._closed = True
            lib.sw_getter_close(self._getter)

    # ---- for batches, in their threads

    def reserve(self, nbytes: int) -> bool:
        """Blocking: room for a whole batch; False: each flight has to see for itself."""
        try:
            self._cache.reserve(nbytes)
        except CacheError:
            return False
        return True

    def address(self, get: Get) -> int:
        """The number of a server; negative: it cannot be had."""
        key = get.ip, get.port
        number = self._addresses.get(key)
        if number is None:
            number = int(lib.sw_getter_address(self._getter, get.ip.encode(), get.port))
            if number >= 0:
                self._addresses[key] = number
        return number

    def send(self, gets: Any, count: int, seconds: float) -> Any:
        """Begins; NULL where it cannot."""
        return lib.sw_gets_new(self._getter, gets, count, int(seconds * 1e9), ffi.new("int *"))


class Batch:
    """Some flights under way; one step at a time. As the ``hold`` of its steps it holds the buffers of what
    has not ended, and ends what C has of it once no step is under way any more."""

    def __init__(self, together: Together, flights: Sequence[Loaded], seconds: float) -> None:
        self._together = together
        self._seconds = seconds
        self._waiting: dict[int, tuple[Loaded, Get]] = {}
        self._unsent: Sequence[Loaded] = flights
        self._held: list[Buffer] = []
        self._gets: Any = ffi.NULL
        self._batch: Any = ffi.NULL
        self._requests: list[Any] = []
        self._late: list[tuple[float, int]] = []
        """When each may be asked for a second time (``time.monotonic``), the next one last."""
        self._closed = False
        self.left: list[Loaded] = list(flights)
        """Those that ``step`` has said nothing of."""

    def hold(self) -> None:
        """A step was handed to a thread. Loop-only."""
        self._held = [loaded.buffer for loaded in self.left]
        for buffer in self._held:
            buffer.hold()

    def drop(self) -> None:
        """It has ended, or will never begin. Loop-only."""
        held, self._held = self._held, []
        if self._closed:
            self._free()
        for buffer in held:
            buffer.drop()

    def close(self) -> None:
        """Nobody asks for more. Loop-only."""
        self._closed = True
        if not self._held:
            self._free()

    def _free(self) -> None:
        batch, self._batch = self._batch, ffi.NULL
        if batch != ffi.NULL:
            lib.sw_gets_free(batch)

    def took(self, came: Iterable[Came]) -> None:
        """They are somebody else's from now on. Loop-only."""
        gone = {id(each.loaded) for each in came}
        self.left = [loaded for loaded in self.left if id(loaded) not in gone]

    def step(self) -> list[Came]:
        """Blocking: those that have ended meanwhile, one at least."""
        came: list[Came] = []
        if self._unsent:
            came = [Came(loaded, None) for loaded in self._send()]
        while self._waiting and not came:
            lib.sw_gets_step(self._batch, LINGER_NS, self._patience())
            came = list(self._ended())
            self._send_late()
        return came

    def _patience(self) -> int:
        """Nanoseconds until one is late; 0: none will be."""
        return max(int((self._late[-1][0] - time.monotonic()) * 1e9), 1) if self._late else 0

    def _send_late(self) -> None:
        """Second requests for those that are late by now."""
        while self._late and self._late[-1][0] <= time.monotonic():
            number = self._late.pop()[1]
            if number not in self._waiting:
                continue
            second = self._waiting[number][1].second
            get = second.take() if second is not None else None
            address = self._together.address(get) if get is not None else -1
            if get is not None and address >= 0:
                request = ffi.from_buffer(get.request)
                self._requests.append(request)
                lib.sw_gets_second(self._batch, number, request, len(get.request), address)

    def _send(self) -> list[Loaded]:
        """Those that cannot go this way."""
        alone: list[Loaded] = []
        asked: list[tuple[Loaded, Get, int]] = []
        flights, self._unsent = self._unsent, ()
        fresh = [loaded.flight for loaded in flights if not loaded.flight.reserved]
        if fresh:
            if not self._together.reserve(sum(flight.length for flight in fresh)):
                return list(flights)
            for flight in fresh:
                flight.reserved = True
        for loaded in flights:
            get = _asked(loaded.flight)
            address = self._together.address(get) if get is not None else -1
            if get is None or address < 0:
                alone.append(loaded)
            else:
                asked.append((loaded, get, address))
        if asked and not self._begin(asked):
            return list(flights)
        return alone

    def _begin(self, asked: Sequence[tuple[Loaded, Get, int]]) -> bool:
        gets = self._gets = ffi.new("struct sw_get[]", len(asked))
        for number, (loaded, get, address) in enumerate(asked):
            flight, file = loaded.flight, loaded.flight.target.file
            one = gets[number]
            request = ffi.from_buffer(get.request)
            self._requests.append(request)
            one.request, one.request_len = request, len(get.request)
            one.buffer, one.length = loaded.buffer.address, flight.length
            one.fd, one.offset, one.address = file.fd, flight.offset, address
            one.summed = get.summed
            if get.tag:
                tag = ffi.from_buffer(get.tag)
                self._requests.append(tag)
                one.tag, one.tag_len = tag, len(get.tag)
            self._waiting[number] = loaded, get
        self._batch = self._together.send(gets, len(asked), self._seconds)
        if self._batch == ffi.NULL:
            self._waiting.clear()
            return False
        began = time.monotonic()
        seconds = [(number, get.second) for number, (_, get) in self._waiting.items()]
        late = [(began + second.after, number) for number, second in seconds if second is not None]
        self._late = sorted(late, reverse=True)
        return True

    def _ended(self) -> Iterator[Came]:
        for number, (loaded, get) in list(self._waiting.items()):
            one = self._gets[number]
            if one.result == lib.SW_GET_WAITS:
                continue
            del self._waiting[number]
            if one.result:
                if get.failed is not None:
                    get.failed(one.status, -one.result)
                yield Came(loaded, None)
                continue
            if get.done is not None:
                get.done(one.took_ns / 1e9)
            if one.second == 2 and get.second is not None:
                get.second.won()
            yield Came(loaded, one.crc)


def _asked(flight: Flight) -> Get | None:
    reader = flight.target.reader
    try:
        get = whole_of(reader)
    except (OSError, ValueError):
        return None
    return get if get is not None and get.length == flight.length else None
