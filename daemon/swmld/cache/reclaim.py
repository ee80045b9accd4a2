"""How much the cache may hold, and making room by eviction.

Two limits hold at once: the bytes of the cache (chunks, plus 4 KiB a file for its inode and block map) stay
within ``limit``, and the file system that carries it keeps ``floor`` bytes free whoever else writes to it.
Room is reserved before a fetch and counted until its chunk is committed or given back; what is in flight
counts against both limits, so that several fetches together cannot fill the disk.

When room is short, one thread evicts to a low-water mark 2 % below, so that the next fetches find room at
once; of small files a batch at a time, so that a demand read waits for 256 of them at most (20 ms on ext4).
What goes is the business of ``evicting``.

A quota may hold where statvfs(2) tells of free space (a user's or, on btrfs, a subvolume's): then the disk
refuses what was reserved (``refused``). Where the cache stood then, less the same 2 %, is its ceiling for
some time, as if that were its limit; after that the disk is asked again, at the cost of one fetch in vain.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from swmld.cache.evicting import BACKOFF_MAX, Evictor
from swmld.cache.keeping import FILE_OVERHEAD
from swmld.errors import CacheFull

log = logging.getLogger(__name__)

CEILING_SECONDS = 60.0
"""For which the cache keeps below what the disk has refused more than."""

# Room made beyond what is needed, as a part of the cache: 1/50.
_SLACK = 50


class Usage(NamedTuple):
    """Bytes and files held, the limit, and the free bytes of the cache's file system."""

    bytes: int
    files: int
    limit: int
    free: int


class Account:
    """Totals in memory, right at once; the index holds the same for the next start."""

    def __init__(self, chunk_bytes: int, files: int) -> None:
        self.lock = threading.Lock()
        self.chunk_bytes = chunk_bytes
        self.files = files
        self.in_flight = 0
        self.compressed_from = 0
        """Bytes of the chunks that were compressed since the start, and what they take on the disk."""
        self.compressed_to = 0

    @property
    def held(self) -> int:
        """Bytes that count against the limit, without those in flight."""
        return self.chunk_bytes + self.files * FILE_OVERHEAD

    def add(self, chunk_bytes: int, files: int = 0) -> None:
        """Count more (or, negative, fewer) bytes and files. Loop-safe."""
        with self.lock:
            self.chunk_bytes += chunk_bytes
            self.files += files

    def compressed(self, nbytes: int, stored: int) -> None:
        """Count a chunk that was stored compressed. Loop-safe."""
        with self.lock:
            self.compressed_from += nbytes
            self.compressed_to += stored

    def unreserve(self, nbytes: int) -> None:
        """End a reservation. Loop-safe."""
        with self.lock:
            self.in_flight = max(0, self.in_flight - nbytes)


@dataclass(slots=True)
class Limits:
    """``limit``: bytes the cache may hold. ``floor``: bytes to leave free on its file system."""

    limit: int
    floor: int


class Reclaimer:
    """Grants room. Thread-safe; blocks while it evicts."""

    def __init__(
        self,
        account: Account,
        limits: Limits,
        evictor: Evictor,
        *,
        free_bytes: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        self.limits = limits
        self._account = account
        self._evictor = evictor
        self._free_bytes = free_bytes
        self._clock = clock
        self._one_at_a_time = threading.Lock()
        self._full_until = 0.0
        self._retry = False
        self._ceiling: int | None = None
        self._ceiling_until = 0.0
        self._told = False

    def refused(self) -> None:
        """The disk has no room for what was reserved. Thread-safe."""
        account = self._account
        with account.lock:
            held, now = account.held, self._clock()
            if held > self._below(now):  # by what was under way already when it refused for the first time
                return
            self._ceiling, self._ceiling_until = held - held // _SLACK, now + CEILING_SECONDS
            self._full_until = 0.0
            told, self._told = self._told, True
        if not told:
            log.warning(
                "cache: its disk is full with %d bytes of it, though it told of free space (a quota?); "
                "old files go for new ones from here on",
                held,
            )

    def _below(self, now: float) -> int:
        """What the cache may hold. A clock that was set back ends a ceiling, too."""
        limit = self.limits.limit
        if self._ceiling is None or not now < self._ceiling_until <= now + CEILING_SECONDS:
            return limit
        return min(limit, self._ceiling)

    def reserve(self, nbytes: int) -> None:
        """Count ``nbytes`` as in flight, evicting first if need be. ``CacheFull`` if there is no room."""
        if self._try_reserve(nbytes):
            return
        with self._one_at_a_time:
            # Another thread may have made room meanwhile; a third may take it before us, hence twice.
            for _ in range(2):
                if self._try_reserve(nbytes):
                    return
                if not self._make_room(nbytes):
                    break
            if self._try_reserve(nbytes):
                return
        raise CacheFull

    def retry_now(self) -> None:
        """Something was dropped: forget that the cache was full. Loop-safe."""
        self._full_until = 0.0

    def retry(self) -> None:
        """There may be room now, also if an attempt under way does not find it. Loop-safe."""
        self._retry = True

    def _lacking(self, nbytes: int) -> int:
        """Bytes that must go before ``nbytes`` more may come; 0 or less if none."""
        return self._lacking_with(nbytes, self._free_bytes())

    def _lacking_with(self, nbytes: int, free: int) -> int:
        wanted = self._account.in_flight + nbytes
        over = self._account.held + wanted - self._below(self._clock())
        return max(over, self.limits.floor + wanted - free)

    def _try_reserve(self, nbytes: int) -> bool:
        free = self._free_bytes()  # not under the lock: the event loop takes it in commit
        with self._account.lock:
            if self._lacking_with(nbytes, free) > 0:
                return False
            self._account.in_flight += nbytes
            return True

    def _make_room(self, nbytes: int) -> bool:
        """Evict what ``nbytes`` need and a little more; False if that did not succeed."""
        now = self._clock()
        lacking = self._lacking(nbytes)
        # Where even an empty cache would not do, evicting would only lose data. A clock that was set back
        # must not keep the cache full for hours, hence both bounds.
        hopeless = lacking > self._account.held
        if hopeless or (not self._retry and now < self._full_until <= now + BACKOFF_MAX):
            return False
        self._retry = False
        slack = min(self.limits.limit, self._account.held) // _SLACK
        attempt = self._evictor.evict(lacking, slack, self._account.held)
        if attempt.freed < lacking:
            self._full_until = now + attempt.backoff
            return False
        return True
