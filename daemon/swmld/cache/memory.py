"""Cache files that are known in memory, and tombstones of those that went while the index still has them.

A released file stays until the index knows all of it, a tombstone until the index knows that its file is
gone: whoever finds neither can believe the index.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from functools import partial

from swmld.cache.changes import AddFile, DropFile, MoveFile
from swmld.cache.files import Books, CacheFile
from swmld.cache.index import FileRow
from swmld.types import Identity

Key = tuple[int, int]
"""``(dev, ino)`` of the source file."""

# More stripes than trio has worker threads (40): two files rarely share one.
_STRIPES = 64


def key_of(identity: Identity) -> Key:
    """The source inode of ``identity``."""
    return identity.dev, identity.ino


class Memory:
    """Look-ups take no lock. Changes take ``_lock``, which is held for dictionary work alone."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._lock = threading.Lock()
        self._stripes = [threading.Lock() for _ in range(_STRIPES)]
        self._files: dict[Key, CacheFile] = {}
        self._by_id: dict[int, CacheFile] = {}
        self._tombs: dict[Key, int] = {}

    def stripe(self, key: Key) -> threading.Lock:
        """Held, in worker threads alone, around whatever finds, makes or drops the file of ``key``."""
        return self._stripes[hash(key) % _STRIPES]

    @contextlib.contextmanager
    def stripes(self, keys: Iterable[Key]) -> Iterator[None]:
        """Those of several keys, each once. Whoever holds one takes no other, so their order is free of
        circles."""
        wanted = [self._stripes[number] for number in sorted({hash(key) % _STRIPES for key in keys})]
        for stripe in wanted:
            stripe.acquire()
        try:
            yield
        finally:
            for stripe in wanted:
                stripe.release()

    def get(self, key: Key) -> CacheFile | None:
        """The file in memory under ``key``."""
        return self._files.get(key)

    def by_id(self, file_id: int) -> CacheFile | None:
        """The file in memory with this id."""
        return self._by_id.get(file_id)

    def buried(self, key: Key) -> bool:
        """Whether the index's row of ``key``, if it has one, is of a file that went."""
        return key in self._tombs

    def add(self, file: CacheFile, op: AddFile | None = None) -> None:
        """Take in a file; ``op`` tells the index of a new one. Holds the stripe."""
        with self._lock:
            self._files[key_of(file.identity)] = file
            self._by_id[file.file_id] = file
            if op is not None:
                self._books.writer.put(op)

    def settle(self, file: CacheFile, uses: int) -> None:
        """The index knows all of ``file`` up to its release number ``uses``: forget it if it was the last."""
        with self._lock, file.lock:
            if file.pins == 0 and file.uses == uses and not file.dead:
                file.settled = True
                self._remove(file)

    def retire(self, file: CacheFile) -> int | None:
        """Take ``file`` out and queue its drop; returns the chunk bytes it had. Holds the stripe.

        ``None``: it has left memory already, the index knows more.
        """
        key = key_of(file.identity)
        with self._lock:
            if self._files.get(key) is not file:
                return None
            nbytes = file.retire()
            self._bury(key, file.file_id)  # before it leaves: a look-up reads files first, then tombs
            self._remove(file)
            return nbytes

    def bury(self, key: Key, file_id: int) -> None:
        """Queue the drop of a file that is in the index alone. Holds the stripe."""
        with self._lock:
            self._bury(key, file_id)

    def move(self, file: CacheFile, now: Identity, path: bytes, source: int, *, pinned: bool) -> bool:
        """``file`` is that of another source inode now, under which there is nothing. False where it has left
        memory, or somebody has it, it is not whole, and not ``pinned``. Holds both stripes."""
        with self._lock, file.lock:
            key = key_of(file.identity)
            if file.settled or file.dead or self._files.get(key) is not file:
                return False
            # Of a whole one nothing is fetched any more that two would wait for.
            if file.pins and not pinned and file.present_count < file.nchunks:
                return False
            self._tombs[key] = file.file_id  # before it leaves: see ``retire``
            self._files[key_of(now)] = file
            file.identity, file.source_path = now, path
            del self._files[key]
            self._put_move(file.file_id, key, now, path, source)
        return True

    def move_row(self, row: FileRow, now: Identity, path: bytes) -> None:
        """The same of a file that is in the index alone, which is to be waited for. Holds both stripes."""
        key = key_of(row.identity)
        with self._lock:
            self._tombs[key] = row.file_id
            self._put_move(row.file_id, key, now, path, row.source)

    def _put_move(self, file_id: int, key: Key, now: Identity, path: bytes, source: int) -> None:
        forget = partial(self._unbury, key, file_id)
        self._books.writer.put(MoveFile(file_id, source, *key_of(now), path, forget))

    def _bury(self, key: Key, file_id: int) -> None:
        self._tombs[key] = file_id
        self._books.writer.put(DropFile(file_id, lambda: self._unbury(key, file_id)))

    def _unbury(self, key: Key, file_id: int) -> None:
        with self._lock:
            if self._tombs.get(key) == file_id:
                del self._tombs[key]

    def _remove(self, file: CacheFile) -> None:
        key = key_of(file.identity)
        if self._files.get(key) is file:
            del self._files[key]
        self._by_id.pop(file.file_id, None)
