"""From a node to something that its reads can be served from. Blocking: for worker threads."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from swmld.cache.files import CacheFile
from swmld.cache.store import Cache
from swmld.errors import CacheError
from swmld.mount.deciding import Decider, packing_level
from swmld.mount.native import Entry, Native
from swmld.mount.target import SourceTarget
from swmld.mount.tree import Found, Opened, Tree
from swmld.types import Identity

if TYPE_CHECKING:
    from swmld.rules.verdict import Verdict

RACY_NS = 50_000_000
RACY_COARSE_NS = 2_000_000_000
"""A file that changed this recently is served from the source and not cached: another change within the same
tick of its clock would leave (size, mtime, ctime) as they are. Kernel clocks tick every 1 to 10 ms
(CONFIG_HZ); file systems that keep whole seconds (or two: FAT) are known by their timestamps."""


def racy(entry: Entry | Identity, tagged: bool) -> bool:
    """Whether the file changed so recently that its timestamps may not tell the next change; ``tagged``: see
    ``Tree``."""
    age = time.time_ns() - max(entry.mtime_ns, entry.ctime_ns)
    coarse = entry.ctime_ns % 1_000_000_000 == 0
    if tagged and not coarse:
        return False
    return 0 <= age < (RACY_COARSE_NS if coarse else RACY_NS)


class Loader:
    """Finds or makes the cache file of a node's present generation and opens what it is to be filled from.

    ``decider`` is asked about files that nobody opened; who opens one has asked already. Files larger than
    ``chunk_size``, which is the cache's, are made with chunks of ``pieces(path)`` bytes if these are smaller.
    """

    def __init__(
        self,
        native: Native,
        tree: Tree,
        cache: Cache,
        close: Callable[[int], None],
        *,
        decider: Decider | None = None,
        pieces: Callable[[str], int] | None = None,
        chunk_size: int = 0,
    ) -> None:
        self._native = native
        self._tree = tree
        self._decider = decider
        self._cache = cache
        self._close = close
        self._pieces = pieces
        self._chunk_size = chunk_size

    def load(self, nodeid: int, *, opened: bool = False, level: int = 0) -> tuple[Entry, SourceTarget | None]:
        """The attributes now, and the target; None when the file is not to be cached. OSError. ``level``: at
        which what is fetched of it is to be compressed, as rules want it that were asked about who opens it;
        0 not."""
        return self.load_entry(self._tree.getattr(nodeid), opened=opened, level=level)

    def load_entry(
        self, entry: Entry, *, opened: bool = False, level: int = 0
    ) -> tuple[Entry, SourceTarget | None]:
        """As ``load``, of attributes that were asked for just now."""
        cached = self._cached(entry, opened, level)
        if cached is None:
            return entry, None
        if cached.complete:
            return entry, SourceTarget(None, cached, entry.identity, self._close)
        try:
            opened_source = self._tree.open(entry.nodeid, entry.size)
        except BaseException:
            cached.release()
            raise
        return entry, SourceTarget(opened_source, cached, entry.identity, self._close)

    def load_small(self, parent: int, name: bytes, limit: int) -> tuple[Entry, SourceTarget | None]:
        """As ``load``, of a regular file of at most ``limit`` bytes that nobody has opened yet."""
        if self._native.child_complete(parent, name):  # most likely it only needs to be confirmed
            return self.load_entry(self._tree.lookup(parent, name, ref=False))
        entry, found = self._tree.open_child(parent, name)
        source: Opened | None = found
        cached = self._cached(entry) if entry.size <= limit else None
        if cached is None or cached.complete:
            found.close(self._close)
            source = None
        if cached is None:
            return entry, None
        return entry, SourceTarget(source, cached, entry.identity, self._close)

    def load_known(
        self, parent: int, names: Sequence[bytes], limit: int
    ) -> list[tuple[bytes, int, SourceTarget]]:
        """As ``load_small`` of several, of those of which the source need not be asked and that are to be
        cached as they are: name, node and target of each. The others are left out."""
        wanted: list[tuple[Found, Verdict | None]] = []
        for found in self._tree.open_known(parent, names, limit):
            verdict = None
            if self._decider is not None:
                verdict = self._decider.unopened(found.path, found.identity.size)
            usual = verdict is None or _as_they_are(verdict, found)
            if not usual or racy(found.identity, self._tree.tagged):
                found.opened.close(self._close)
            else:
                wanted.append((found, verdict))
        loaded: list[tuple[bytes, int, SourceTarget]] = []
        made: list[CacheFile | None] = [None] * len(wanted)
        with contextlib.suppress(CacheError, OSError):  # as ``_cached``: each may be had by itself
            if wanted:
                made = self._cache.make_several([(found.identity, found.path) for found, _ in wanted])
        for (found, verdict), cached in zip(wanted, made, strict=True):
            if cached is None:  # ``load_small`` finds what is there of it
                found.opened.close(self._close)
                continue
            if verdict is not None and self._decider is not None:
                self._decider.caching(verdict, found.identity, cached.file_id)
            target = SourceTarget(found.opened, cached, found.identity, self._close)
            loaded.append((found.name, found.nodeid, target))
        return loaded

    def first_opened(self, nodeid: int) -> None:
        """C has opened a file that was fetched ahead, for the first time. Loop-safe."""
        entry = self._native.cached_entry(nodeid)
        if entry is not None:
            self._cache.opened(entry.identity)

    def on_evict(self, tell: Callable[[int], None]) -> None:
        """``tell`` hears, too, of each generation that goes from the cache, by its file id: in a worker
        thread, and it must not call into the cache."""
        before = self._cache.on_evict

        def both(file_id: int, identity: Identity) -> None:
            if before is not None:
                before(file_id, identity)
            tell(file_id)

        self._cache.on_evict = both

    def _cached(self, entry: Entry, opened: bool = False, level: int = 0) -> CacheFile | None:
        if entry.size == 0:
            return None
        if racy(entry, self._tree.tagged):
            return None
        try:
            path = self._native.path(entry.nodeid)
            if opened or self._decider is None:
                level = packing_level(level, path, entry.size)
                return self._acquire(entry, path, opened, level)
            verdict = self._decider.unopened(path, entry.size)
            if verdict is not None and not verdict.cached:
                return None
            level = packing_level(verdict.level if verdict is not None else 0, path, entry.size)
            cached = self._acquire(entry, path, False, level)
            if verdict is not None:
                self._decider.caching(verdict, entry.identity, cached.file_id)
            return cached
        except (CacheError, OSError):
            return None

    def _acquire(self, entry: Entry, path: bytes, opened: bool, level: int) -> CacheFile:
        size = 0
        if self._pieces is not None and entry.size > self._chunk_size:
            size = self._pieces(os.fsdecode(path))
        size = size if size < self._chunk_size else 0
        return self._cache.acquire(
            entry.identity,
            path,
            opened=opened,
            level=level,
            chunk_size=size,
            number=self._tree.number(path),
        )

    def drop(self, nodeid: int) -> None:
        """What is cached of its file goes; who reads it goes on."""
        entry = self._native.cached_entry(nodeid)
        if entry is not None:
            self._cache.drop_inode(entry.dev, entry.ino)

    def find_packed(self, entry: Entry) -> CacheFile | None:
        """The cache file of this generation, if its chunks are compressed and all there."""
        with contextlib.suppress(CacheError):
            cached = self._cache.find(entry.identity)
            if cached is not None and cached.level and cached.complete:
                return cached
            if cached is not None:
                cached.release()
        return None

    def load_offline(self, entry: Entry) -> SourceTarget | None:
        """The whole cache file of a generation that the source cannot confirm just now."""
        cached = self._cache.find(entry.identity)
        if cached is None:
            return None
        if cached.complete:
            return SourceTarget(None, cached, entry.identity, self._close)
        cached.release()
        return None


def unload_several(loaded: list[tuple[bytes, int, SourceTarget]]) -> None:
    """The same of several."""
    for _, _, target in loaded:
        target.release()


def _as_they_are(verdict: Verdict, found: Found) -> bool:
    return verdict.cached and not packing_level(verdict.level, found.path, found.identity.size)


def unload(loaded: tuple[Entry, SourceTarget | None]) -> None:
    """Gives back what nobody waited for."""
    if loaded[1] is not None:
        loaded[1].release()
