"""How much the cache may hold, and making room by eviction.

Two limits hold at once: the bytes of the cache (chunks, plus 4 KiB a file for its inode and block map) stay
within ``limit``, and the file system that carries it keeps ``floor`` bytes free whoever else writes to it.
Room is reserved before a fetch and counted until its chunk is committed or given back; what is in flight
counts against both limits, so that several fetches together cannot fill the disk.

When room is short, one thread evicts to a low-water mark 2 % below, so that the next fetches find room at
once; of small files a batch at a time, so that a demand read waits for 256 of them at most (20 ms on ext4).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from swmld.cache.index import FileRow
from swmld.errors import CacheFull
from swmld.plan.eviction import Candidate, Policy

# What ext4 and xfs spend at least on a small file: an inode, a directory entry, one block.
FILE_OVERHEAD = 4096

# Room made beyond what is needed, as a part of the cache: 1/50.
_SLACK = 50

# Candidates looked at together; dropping one costs about 80 µs.
_BATCH = 256

# Files that turn out to have been used later than the index knew go back in the order. When so many have, the
# oldest of them go: an exact order would mean asking about every file of a large cache.
_LOOK = 2048

# After a vain attempt the cache stays full for ten times of what the attempt took (about 20 µs a file).
_BACKOFF_PER_FILE = 200e-6
_BACKOFF_MAX = 1.0


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

    @property
    def held(self) -> int:
        """Bytes that count against the limit, without those in flight."""
        return self.chunk_bytes + self.files * FILE_OVERHEAD

    def add(self, chunk_bytes: int, files: int = 0) -> None:
        """Count more (or, negative, fewer) bytes and files. Loop-safe."""
        with self.lock:
            self.chunk_bytes += chunk_bytes
            self.files += files

    def unreserve(self, nbytes: int) -> None:
        """End a reservation. Loop-safe."""
        with self.lock:
            self.in_flight = max(0, self.in_flight - nbytes)


class Room(Protocol):
    """What eviction needs of the cache."""

    def oldest(self, after: tuple[float, int], limit: int) -> list[FileRow]:
        """Files by last use, from after ``(last_used, file_id)``."""
        ...

    def candidate(self, row: FileRow) -> Candidate:
        """``row`` with what is known beyond the index: the latest use, and whether it is open."""
        ...

    def touch(self, file_id: int, last_used: float) -> None:
        """Note a use that the index did not know of."""
        ...

    def settle(self) -> None:
        """Return when all touches are in the index."""
        ...

    def evict(self, rows: list[FileRow]) -> tuple[int, int]:
        """Drop those of ``rows`` that are still not in use; returns the bytes freed and the files gone."""
        ...


@dataclass(slots=True)
class Limits:
    """``limit``: bytes the cache may hold. ``floor``: bytes to leave free on its file system."""

    limit: int
    floor: int


class Chance(NamedTuple):
    """A row that may be evicted, and what is known of it."""

    row: FileRow
    candidate: Candidate


class Reclaimer:
    """Grants room. Thread-safe; blocks while it evicts."""

    def __init__(
        self,
        account: Account,
        limits: Limits,
        room: Room,
        policy: Policy,
        *,
        free_bytes: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        self.limits = limits
        self.evicted = 0
        """Files evicted since the start."""
        self._account = account
        self._room = room
        self._policy = policy
        self._free_bytes = free_bytes
        self._clock = clock
        self._one_at_a_time = threading.Lock()
        self._full_until = 0.0
        self._looked_at = 0

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
        """Something was dropped: forget that the cache was full."""
        self._full_until = 0.0

    def _lacking(self, nbytes: int) -> int:
        """Bytes that must go before ``nbytes`` more may come; 0 or less if none."""
        return self._lacking_with(nbytes, self._free_bytes())

    def _lacking_with(self, nbytes: int, free: int) -> int:
        wanted = self._account.in_flight + nbytes
        over = self._account.held + wanted - self.limits.limit
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
        if hopeless or now < self._full_until <= now + _BACKOFF_MAX:
            return False
        slack = min(self.limits.limit, self._account.held) // _SLACK
        self._looked_at = 0
        if self._evict(lacking, slack) < lacking:
            self._full_until = now + min(_BACKOFF_MAX, self._looked_at * _BACKOFF_PER_FILE)
            return False
        return True

    def _evict(self, need: int, slack: int) -> int:
        """Evict ``need`` bytes, by the policy, from batches in order of last use; returns the bytes freed.

        Up to ``slack`` more go with the batch that fills the need, never a batch for their own sake: a
        demand read may be waiting. It does not watch the free space meanwhile: file systems that free blocks
        later would have it evict all.
        """
        freed = 0
        moved: dict[int, Chance] = {}
        touched: set[int] = set()
        after = (-math.inf, -1)
        while freed < need:
            rows = self._room.oldest(after, _BATCH)
            self._looked_at += len(rows)
            here: dict[int, Chance] = {}
            for row in rows:
                after = (row.last_used, row.file_id)
                candidate = self._room.candidate(row)
                if candidate.last_used <= row.last_used or row.file_id in touched:
                    here[row.file_id] = Chance(row, candidate)
                else:
                    touched.add(row.file_id)
                    moved[row.file_id] = Chance(row, candidate)
                    self._room.touch(row.file_id, candidate.last_used)
            freed += self._evict_some(here, need - freed, slack)
            if not rows or len(moved) >= _LOOK:
                freed += self._evict_some(moved, need - freed, slack)
                moved = {}
            if not rows:
                break
        self._room.settle()
        return freed

    def _evict_some(self, chances: dict[int, Chance], need: int, slack: int) -> int:
        """Evict from ``chances``, and go on with those not picked where a picked one was taken meanwhile."""
        freed = 0
        while freed < need and chances:
            candidates = [chance.candidate for chance in chances.values()]
            picked = self._policy.pick(candidates, need - freed + slack)
            if len(picked) > _BATCH:
                picked = self._policy.pick(candidates, need - freed)
            if not picked:
                break
            nbytes, files = self._room.evict([chances.pop(file_id).row for file_id in picked])
            self.evicted += files
            freed += nbytes
        return freed
