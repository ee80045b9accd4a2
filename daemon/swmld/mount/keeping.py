"""What was written here and uploaded becomes the cached file: it need not be fetched again.

The staging area and the cache are on one disk, so that the file only gets another name. It is read once for
its checksums, from memory as a rule.
"""

from __future__ import annotations

import os
from pathlib import Path

from swmld.cache.checksum import crc32c
from swmld.cache.store import Cache
from swmld.errors import CacheError
from swmld.mount.deciding import Decider, packing_level
from swmld.sources.interface import Attributes, generation_ns
from swmld.types import Identity


class Kept:
    """The bytes of one generation, with room for them in the cache; ``take`` or ``leave`` ends it."""

    def __init__(self, cache: Cache, identity: Identity, path: bytes, checksums: list[int]) -> None:
        self._cache = cache
        self._identity = identity
        self._path = path
        self._checksums = checksums

    def take(self, place: Path) -> None:
        """The file at ``place``, which nobody writes any more, is the cache's; or stays where it is."""
        self._cache.adopt(self._identity, self._path, place, self._checksums)

    def leave(self) -> None:
        """It has changed since."""
        self._cache.unreserve(self._identity.size)


class Keeper:
    """``decider`` is asked, where there are rules, whether a file is to be cached as it is."""

    def __init__(self, cache: Cache, decider: Decider | None) -> None:
        self._cache = cache
        self._decider = decider

    def offer(self, path: bytes, attributes: Attributes, fd: int) -> Kept | None:
        """Of a file that the source has as ``attributes`` says. None: it is not to be cached, or nothing else
        is to go for it. Blocks: 0.3 s a GiB that is in memory."""
        size, usage = attributes.size, self._cache.usage()
        if not size or usage.bytes + size > usage.limit or not self._wanted(path, size):
            return None
        try:
            self._cache.reserve(size)
        except CacheError:
            return None
        try:
            checksums = self._checksums(fd, size)
        except OSError:
            self._cache.unreserve(size)
            return None
        times = attributes.mtime_ns, generation_ns(attributes)
        return Kept(self._cache, Identity(0, attributes.ino, size, *times), path, checksums)

    def _wanted(self, path: bytes, size: int) -> bool:
        verdict = self._decider.unopened(path, size) if self._decider is not None else None
        return verdict is None or (verdict.cached and not packing_level(verdict.level, path, size))

    def _checksums(self, fd: int, size: int) -> list[int]:
        chunk = self._cache.chunk_size
        buffer = memoryview(bytearray(min(chunk, size)))
        found = []
        for start in range(0, size, chunk):
            view = buffer[: min(chunk, size - start)]
            done = 0
            while done < len(view):
                got = os.preadv(fd, [view[done:]], start + done)
                if not got:
                    raise OSError(0, "the file is shorter than it was")
                done += got
            found.append(crc32c(view))
        return found
