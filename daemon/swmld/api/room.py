"""What a warm-up may bring: no more than the cache can hold at once, so that it does not evict its own files.

Files are counted in the order in which the warm-up comes to them, against what the cache may hold in all.
That may be more than it will: what is pinned, in use or was read more than once stays, and some of the
warm-up's files go. It shows in the first of them, and ends the warm-up: what it would bring it would lose.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, Protocol

from swmld.cache.audit import Entry
from swmld.cache.keeping import FILE_OVERHEAD
from swmld.cache.reclaim import Usage
from swmld.plan.reuse import SAME_USE
from swmld.types import Identity

FIRST = 64
"""Of its files, which are looked at again: those that came first go first. 20 µs each."""
LOST = 2
"""So many of them that are gone are no accident: one may have changed at the source."""

Full = Literal["", "size", "disk", "use"]


class Keeper(Protocol):
    """The part of ``cache.store.Cache`` that this needs."""

    @property
    def evicted(self) -> int: ...
    def usage(self) -> Usage: ...
    def lookup_complete(self, identity: Identity) -> int | None: ...
    def ls(self, path_prefix: bytes = b"") -> Iterator[Entry]: ...


class Room:
    """``bytes``: what the cache can hold. ``floor``: bytes that stay free on its disk. For the loop, but for
    the methods that block.
    """

    def __init__(self, cache: Keeper, floor: int, clock: Callable[[], float] = time.time) -> None:
        usage = cache.usage()
        on_disk = usage.bytes + usage.free - floor
        self.bytes = max(0, min(usage.limit, on_disk))
        self.closed = False
        """Nothing more is to be fetched."""
        self._by_disk = on_disk < usage.limit
        self._short = False
        self._taken = 0
        self._cache = cache
        self._evicted = self._seen = cache.evicted
        self._first: list[Identity] = []
        # A use that soon after another is not written down.
        self._since = clock() - SAME_USE - 1

    @property
    def full(self) -> Full:
        """Why something was left out: the cache's limit, its disk, or what it keeps; "": nothing."""
        if not (self._short or self.closed):
            return ""
        return "disk" if self._by_disk else "size" if self._short else "use"

    def take(self, size: int) -> int:
        """How many of a file's ``size`` bytes fit: all or none, if it is not larger than the cache."""
        if self.closed:
            return 0
        left = self.bytes - self._taken - FILE_OVERHEAD
        fits = size if size <= left else max(0, left) if size > self.bytes - FILE_OVERHEAD else 0
        self._short |= fits < size
        self._taken += fits + FILE_OVERHEAD if fits else 0
        return fits

    def give_back(self, fits: int) -> None:
        """What ``take`` gave is not needed: the file is not to be cached."""
        self._taken -= fits + FILE_OVERHEAD if fits else 0

    def close(self) -> None:
        """The cache refused: there is less room than there seemed to be."""
        self.closed = True

    def brought(self, identity: Identity) -> None:
        """A file is there, whole."""
        if len(self._first) < FIRST:
            self._first.append(identity)

    @property
    def stirred(self) -> bool:
        """Whether something was evicted since the last ``look``."""
        return self._cache.evicted != self._seen

    def look(self) -> None:
        """Close if our own files go. Blocks."""
        self._seen = self._cache.evicted
        first = list(self._first)
        gone = sum(1 for identity in first if self._cache.lookup_complete(identity) is None)
        if gone >= min(LOST, len(first)) > 0:
            self.closed = True

    def complete(self, identity: Identity) -> bool:
        """Whether all of a file is in the cache. Blocks."""
        return self._cache.lookup_complete(identity) is not None

    def lost(self, paths: Iterable[bytes], files: int, nbytes: int) -> tuple[int, int]:
        """How many of so many files below ``paths``, which were there whole, and of their bytes, are not any
        more. Blocks, for long in a large cache if something was evicted."""
        if self._cache.evicted == self._evicted:
            return 0, 0
        entries = itertools.chain.from_iterable(map(self._cache.ls, paths))
        there = [e.cached_bytes for e in entries if e.state == "complete" and e.last_used >= self._since]
        return max(0, files - len(there)), max(0, nbytes - sum(there))


def outermost(paths: Iterable[bytes]) -> list[bytes]:
    """The paths, each once, that do not lie below another one of them."""
    every = dict.fromkeys(path.strip(b"/") for path in paths)
    return [path for path in every if not any(above in every for above in _above(path))]


def _above(path: bytes) -> Iterator[bytes]:
    while path:
        path = path.rpartition(b"/")[0]
        yield path
