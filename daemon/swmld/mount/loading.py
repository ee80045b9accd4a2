"""From a node to something that its reads can be served from. Blocking: for worker threads."""

from __future__ import annotations

import contextlib
import os
import time

from swmld.cache.store import Cache
from swmld.errors import CacheError
from swmld.mount.native import Entry, Native
from swmld.mount.target import SourceTarget

RACY_NS = 50_000_000
RACY_COARSE_NS = 2_000_000_000
"""A file that changed this recently is served from the source and not cached: another change within the same
tick of its clock would leave (size, mtime, ctime) as they are. Kernel clocks tick every 1 to 10 ms
(CONFIG_HZ); file systems that keep whole seconds (or two: FAT) are known by their timestamps."""

DIRECT_MINIMUM = 256 << 10
"""Bytes from which a remote file is read with O_DIRECT."""


def racy(entry: Entry) -> bool:
    """Whether the file changed so recently that its timestamps may not tell the next change."""
    age = time.time_ns() - max(entry.mtime_ns, entry.ctime_ns)
    coarse = entry.ctime_ns % 1_000_000_000 == 0
    return 0 <= age < (RACY_COARSE_NS if coarse else RACY_NS)


class Loader:
    """Finds or makes the cache file of a node's present generation and opens what it is to be filled from."""

    def __init__(self, native: Native, cache: Cache, *, direct: bool) -> None:
        self._native = native
        self._cache = cache
        self._direct = direct

    def load(self, nodeid: int) -> tuple[Entry, SourceTarget | None]:
        """The attributes now, and the target; None when the file is not to be cached. OSError."""
        return self.load_entry(self._native.getattr(nodeid))

    def load_entry(self, entry: Entry) -> tuple[Entry, SourceTarget | None]:
        """As ``load``, of attributes that were asked for just now."""
        nodeid = entry.nodeid
        if entry.size == 0 or racy(entry):
            return entry, None
        try:
            cached = self._cache.acquire(entry.identity, self._native.path(nodeid))
        except (CacheError, OSError):
            return entry, None
        if cached.complete:
            return entry, SourceTarget(-1, cached, entry.identity)
        try:
            fd, direct = self._open(nodeid, entry.size)
        except BaseException:
            cached.release()
            raise
        return entry, SourceTarget(fd, cached, entry.identity, direct=direct)

    def load_offline(self, entry: Entry) -> SourceTarget | None:
        """The whole cache file of a generation that the source cannot confirm just now."""
        cached = self._cache.find(entry.identity)
        if cached is None:
            return None
        if cached.complete:
            return SourceTarget(-1, cached, entry.identity)
        cached.release()
        return None

    def _open(self, nodeid: int, size: int) -> tuple[int, bool]:
        """(descriptor, O_DIRECT or not). Remote files are read past this host's page cache: a FUSE or NFS
        client then sends a large read as parallel requests instead of one readahead window at a time, and
        memory is left to the cache file's pages."""
        if self._direct and size >= DIRECT_MINIMUM:
            with contextlib.suppress(OSError):
                return self._native.open_source(nodeid, os.O_RDONLY | os.O_DIRECT), True
        return self._native.open_source(nodeid, os.O_RDONLY), False


def unload(loaded: tuple[Entry, SourceTarget | None]) -> None:
    """Gives back what nobody waited for."""
    if loaded[1] is not None:
        loaded[1].release()
