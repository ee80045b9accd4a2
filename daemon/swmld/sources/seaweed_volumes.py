"""Chunks read from the volume servers that have them, else through the filer.

Where volumes are is asked of the filer once and again when no server that was named gave the bytes. One that
does not answer is left for last for a while, so a dead replica costs each of its volumes' readers one
attempt, not one a read.
"""

from __future__ import annotations

import errno
import itertools
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from swmld.cache.checksum import crc32c
from swmld.sources.connections import Connections, plain_get
from swmld.sources.counting import SourceStats, Told, outcome_of
from swmld.sources.errors import Busy, Corrupt, failure
from swmld.sources.seaweed_chunks import Chunk
from swmld.sources.seaweed_filer import FilerClient
from swmld.sources.seaweed_security import Security
from swmld.sources.whole import Addresses, Get

log = logging.getLogger(__name__)

_SUM = re.compile(r'"[0-9a-f]{8}"')

DOWN = 5.0
"""Seconds that a server that did not answer is asked last."""

PAUSE = 60.0
"""The longest of the pauses that a server asks for; it is asked last meanwhile."""

MANIFEST = 64 << 20
"""Bytes of a manifest at most; the filer's own, of 10,000 chunks, have about 1 MiB."""

REFUSED = 60.0
"""Seconds that the filer is asked first after a volume server refused: another key takes another start."""

_UNANSWERED = (errno.EHOSTUNREACH, errno.ETIMEDOUT)
_Read = TypeVar("_Read")


class Volumes:
    """All volume servers of a cluster. Every method may be called from any thread."""

    def __init__(
        self,
        filer: FilerClient,
        connections: Connections,
        security: Security,
        timeout: float,
        stats: SourceStats,
    ) -> None:
        """``timeout``: seconds for a read, all attempts together. ``stats``: counts those of no use."""
        self._filer, self._connections = filer, connections
        self._proxies = frozenset(address.http for address in filer.filers.addresses)
        self._security, self._timeout = security, timeout
        self._lock = threading.Lock()
        self._places: dict[str, list[str]] = {}
        self._down: dict[str, float] = {}
        self._turns = itertools.count()
        self._refused = 0.0
        self._addresses = Addresses()
        self._stats = stats
        self.told = Told()
        """What was told of late, of all chunks."""

    @property
    def plain(self) -> bool:
        """Whether volume servers speak HTTP without TLS."""
        return self._connections.plain

    def whole(self, chunk: Chunk) -> Get | None:
        """A GET of all of a chunk, of a server that is known to have it and that answered last; None where
        ``read`` may know another way. May ask the filer where the volume is."""
        now = time.monotonic()
        if self._refused > now:
            return None
        for address in self._named(chunk.fid.partition(",")[0], False, []):
            if self._down.get(address, 0.0) > now:
                continue
            lines = self._security.volume_headers(chunk.fid)
            request = plain_get(address, f"/{chunk.fid}", lines)
            return Get(*self._addresses.of(address), request, chunk.size, summed=True)
        return None

    def read(self, chunk: Chunk, start: int, view: memoryview) -> None:
        """Fills ``view`` with the bytes of a chunk from its ``start`` on. ENOENT: it is on no server."""
        whole = not start and len(view) == chunk.size

        def ask(address: str, target: str, headers: dict[str, str], timeout: float) -> None:
            response = self._connections.read(
                address, target, view, start, whole=whole, headers=headers, timeout=timeout, what=chunk.fid
            )
            if response.length != len(view):
                raise failure(errno.EIO, f"{chunk.fid} of {address} is shorter than its entry says")
            if whole and not chunk.flags and not _is_sum(response.text(b"etag"), view):
                raise Corrupt(f"{chunk.fid} of {address}")

        self._anywhere(chunk.fid, ask)

    def document(self, chunk: Chunk) -> bytes:
        """All bytes of a chunk whose length its entry does not say: of a manifest."""

        def ask(address: str, target: str, headers: dict[str, str], timeout: float) -> bytes:
            return self._connections.get(
                address, target, headers=headers, limit=MANIFEST, timeout=timeout, what=chunk.fid
            )[1]

        return self._anywhere(chunk.fid, ask)

    def _anywhere(self, fid: str, ask: Callable[[str, str, dict[str, str], float], _Read]) -> _Read:
        """What the first of the servers gives, tried in the order of ``_ways``."""
        deadline = time.monotonic() + self._timeout
        errors: list[OSError] = []
        for address, target, headers in self._ways(fid, errors):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            try:
                # Half of what is left, so that one that hangs leaves time to ask another.
                found = ask(address, target, headers, left / 2)
            except OSError as error:
                errors.append(error)
                self._note(address, error)
            else:
                self._down.pop(address, None)
                return found
        raise _worst(errors) if errors else failure(errno.ETIMEDOUT, f"GET {fid}")

    def _ways(self, fid: str, errors: list[OSError]) -> Iterator[tuple[str, str, dict[str, str]]]:
        """Address, target and headers: known servers, those that the filer names when asked anew, the filer
        itself (first, where servers refuse), and last the servers that did not answer of late."""
        # The prefix is what the filer compares, so nothing in it is quoted.
        proxy = self._filer.filers.http, f"/?proxyChunkId={fid}", self._security.filer_headers()
        refused = self._refused > time.monotonic()
        if refused:
            yield proxy
        headers = self._security.volume_headers(fid)
        volume = fid.partition(",")[0]
        tried: set[str] = set()
        late: list[str] = []
        for again in (False, True):
            for address in self._named(volume, again, errors):
                if address in tried:
                    continue
                tried.add(address)
                if self._down.get(address, 0.0) > time.monotonic():
                    late.append(address)
                    continue
                yield address, f"/{fid}", headers
        if not refused and (late or not errors or any(error.errno != errno.ENOENT for error in errors)):
            yield proxy
        for address in late:
            yield address, f"/{fid}", headers

    def _named(self, volume: str, again: bool, errors: list[OSError]) -> list[str]:
        """The servers of a volume, another one first each time."""
        with self._lock:
            places = None if again else self._places.get(volume)
        if places is None:
            try:
                places = self._filer.locations(volume)
            except OSError as error:
                errors.append(error)
                return []
            with self._lock:
                self._places[volume] = places
        turn = next(self._turns) % len(places) if places else 0
        return places[turn:] + places[:turn]

    def _note(self, address: str, error: OSError) -> None:
        """One server was of no use: counted, told once a minute of each kind, and remembered."""
        outcome = outcome_of(error)
        self._stats.failed_over(outcome)
        if error.errno == errno.ENOENT or address in self._proxies:
            return
        now, why = time.monotonic(), error.strerror
        if error.errno == errno.EACCES:
            self._refused = now + REFUSED
            if self.told.again(outcome):
                log.warning("volume servers refuse, reading through the filer: %s", why)
            return
        if error.errno in _UNANSWERED:
            self._down[address] = now + DOWN
        elif isinstance(error, Busy):
            self._down[address] = now + min(error.retry_after, PAUSE)
        kind = outcome, type(error)
        if not self.told.again((address, kind)):
            return
        if error.errno in _UNANSWERED:
            log.warning("volume server %s does not answer: %s", address, why)
        elif isinstance(error, Corrupt):
            log.warning("volume server %s, asking elsewhere: %s", address, why)
        else:
            log.info("volume server %s, asking elsewhere: %s", address, why)


def _is_sum(etag: str, view: memoryview) -> bool:
    """Whether bytes are those of an answer's ETag, as far as it tells: the CRC-32C of a chunk that is stored
    as it is. Volumes of early versions have another form of it (weed/storage/needle/crc.go)."""
    if _SUM.fullmatch(etag) is None:
        return True
    crc = crc32c(view)
    return int(etag[1:-1], 16) in (crc, ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _worst(errors: list[OSError]) -> OSError:
    """The one to tell: what is missing on some servers may be on those that did not answer. Where one gave
    other bytes than it should, nothing is taken that has no checksum."""
    if corrupt := next((error for error in errors if isinstance(error, Corrupt)), None):
        return corrupt
    return next((error for error in errors if error.errno != errno.ENOENT), errors[0])
