"""The cache: one directory of sparse data files with an index, shared by all threads of one daemon.

Truth about a file that somebody holds is its ``CacheFile``; of all others it is the index. A look-up takes
the first that it finds: the file in memory, a tombstone (nothing is cached), the index
(``swmld.cache.memory``). So it never waits for a write, and what was committed a moment ago is seen.

Locks, in the order in which they may be taken: the stripe of a source inode (held during I/O, in worker
threads alone), ``Memory._lock``, ``CacheFile.lock``, ``Account.lock``, the writer's. The event loop takes
the last three.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from swmld.cache import audit, opening
from swmld.cache.checksum import syncfs
from swmld.cache.files import (
    MAX_CHUNKS,
    Books,
    CacheFile,
    chunk_count,
    create_data_file,
    open_data_file,
)
from swmld.cache.index import ID_BLOCK, FileRow
from swmld.cache.layout import Layout, free_bytes
from swmld.cache.memory import Key, Memory, key_of
from swmld.cache.reclaim import Account, Limits, Reclaimer, Usage
from swmld.cache.removal import Gone, OnEvict, Remover, UsageOf
from swmld.cache.writer import AddFile, Recount, Rekey, SetMeta, Touch, Writer
from swmld.errors import CacheError
from swmld.plan.eviction import Lru, Policy
from swmld.types import Identity

log = logging.getLogger(__name__)

# Uses closer together than this are one use: saves an index write for each open of a busy file.
TOUCH_SECONDS = 5.0

_DROP_BATCH = 256


@dataclass(slots=True)
class Host:
    """What the cache asks of the machine; tests put their own in place."""

    clock: Callable[[], float] = time.time
    """Seconds since the epoch: uses are compared across restarts."""
    free_bytes: Callable[[Path], int] = free_bytes
    boot_id_path: Path = Path("/proc/sys/kernel/random/boot_id")


class Cache:
    """See the contract in ``daemon/README.md``, section cache. Make one with ``Cache.open``."""

    def __init__(
        self,
        layout: Layout,
        opened: opening.Opened,
        limits: Limits,
        chunk_size: int,
        policy: Policy,
        host: Host,
    ) -> None:
        start = opened.start
        self._layout = layout
        self._opened = opened
        self._host = host
        self._chunk_size = chunk_size
        self._source = start.source
        self._failures: set[str] = set()
        self._writer = Writer(opened.index.writer_db, self._index_failed)
        account = Account(start.bytes, start.files)
        self._books = Books(opened.index, self._writer, account, start.trust, start.session)
        self._memory = Memory(self._books)
        self._remover = Remover(self._books, self._memory, layout, start.source)
        self._reclaimer = Reclaimer(
            account, limits, self._remover, policy, free_bytes=self._free_bytes, clock=host.clock
        )
        self._remover.on_room = self._reclaimer.retry_now
        self._id_lock = threading.Lock()
        self._next_id = start.first_id
        self._ids_end = start.first_id + ID_BLOCK
        self._closed = False

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        *,
        source_key: str,
        mount: str,
        size_limit: int,
        free_floor: int,
        chunk_size: int,
        policy: Policy | None = None,
        host: Host | None = None,
    ) -> Cache:
        """Take ``directory`` as the cache of the source ``source_key``, served at ``mount``. Blocks.

        ``size_limit``, ``free_floor`` and ``chunk_size`` in bytes. ``UsageError`` if the directory cannot
        be used: another format, another daemon, not writable, no room for the index. A corrupt index is set
        aside with one warning, and the cache starts empty. Files of other sources in the same directory
        stay as long as there is room; files cached with another chunk size keep theirs.
        """
        host = host or Host()
        layout = Layout(Path(directory))
        opened = opening.open_cache(layout, source_key, mount, host.boot_id_path, host.clock)
        return cls(layout, opened, Limits(size_limit, free_floor), chunk_size, policy or Lru(), host)

    # -- callbacks -------------------------------------------------------------------------------------

    @property
    def on_evict(self) -> OnEvict | None:
        """``(file_id, identity)`` of every generation that goes, from a worker thread: its rows are gone,
        its data file is not yet unlinked. It must not call into the cache. A newer generation of the same
        inode may be there already: compare the file id."""
        return self._remover.on_evict

    @on_evict.setter
    def on_evict(self, callback: OnEvict | None) -> None:
        self._remover.on_evict = callback

    @property
    def usage_of(self) -> UsageOf | None:
        """Asked before an eviction, from a worker thread: when was this file last opened (seconds since the
        epoch, ``time.time()``) and is it open now, as far as that went without the cache; ``None`` if
        unknown. It must not call into the cache."""
        return self._remover.usage_of

    @usage_of.setter
    def usage_of(self, callback: UsageOf | None) -> None:
        self._remover.usage_of = callback

    # -- finding files ---------------------------------------------------------------------------------

    def acquire(self, identity: Identity, path: bytes) -> CacheFile:
        """The cache file of ``identity``, made if need be, pinned until its ``release``. Blocks.

        ``path`` is relative to the source's root, for ``ls`` and ``drop_path``. Another generation of the
        same inode is dropped first. ``CacheError`` where the cache cannot hold it (no room for the file, fd
        limit, too large for the cache's file system): the source can still be read.
        """
        path = audit.normal(path)
        self._writer.wait_for_room()
        key = key_of(identity)
        with self._memory.stripe(key):
            file = self._find(key, identity, replace=True) or self._create(identity, path)
            if file.source_path != path:
                file.source_path = path
                self._writer.put(Rekey(file.file_id, path=path))
            return file

    def find(self, identity: Identity) -> CacheFile | None:
        """As ``acquire``, but makes nothing and leaves other generations alone. Blocks; ``CacheError`` as
        there."""
        key = key_of(identity)
        with self._memory.stripe(key):
            return self._find(key, identity, replace=False)

    def lookup_complete(self, identity: Identity) -> int | None:
        """The file id if every chunk is there and trusted. Blocks, for about 20 µs; never raises."""
        key = key_of(identity)
        file = self._memory.get(key)
        if file is not None:
            return file.file_id if file.identity == identity and file.complete else None
        if self._memory.buried(key):
            return None
        try:
            row = self._books.index.by_key(self._source, *key)
        except sqlite3.Error as error:
            self._index_failed(error)
            return None
        if row is None or row.present != row.nchunks or row.identity != identity:
            return None
        if self._books.trust.suspects(row.session_first, row.session) and self._any_suspect(row):
            return None
        return row.file_id

    def data_path(self, file_id: int) -> str:
        """Path of the data file of ``file_id``."""
        return self._layout.data_path(file_id)

    def _find(self, key: Key, identity: Identity, *, replace: bool) -> CacheFile | None:
        """From memory, else from the index; drops what stands in the way. Holds the stripe."""
        file = self._memory.get(key)
        if file is not None:
            same = file.identity == identity
            if same and self._pin(file):
                return file
            if not same and not replace:
                return None
            gone = None if file.settled else self._remover.retire_file(file)
            if gone is not None:
                self._remover.finish([gone])
                return None
        if self._memory.buried(key):
            return None
        row = self._row(key)
        if row is None or (row.identity != identity and not replace):
            return None
        file = self._load(row) if row.identity == identity else None
        if file is None:
            self._remover.finish([self._remover.retire_row(row)])
        return file

    @staticmethod
    def _pin(file: CacheFile) -> bool:
        """Pin a file in memory; False if it has just left memory, or its data file is gone. Holds the
        stripe."""
        with file.lock:
            if file.settled or file.dead:
                return False
            file.pins += 1
        if file.fd >= 0:
            return True
        fd = None
        try:
            fd = open_data_file(file.path, file.size)
        finally:
            with file.lock:
                if fd is None:
                    file.pins -= 1
                else:
                    file.fd = fd
        return fd is not None

    def _row(self, key: Key) -> FileRow | None:
        try:
            return self._books.index.by_key(self._source, *key)
        except sqlite3.Error as error:
            self._unreadable(error)

    def _load(self, row: FileRow) -> CacheFile | None:
        path = self._layout.data_path(row.file_id)
        fd = open_data_file(path, row.size)
        if fd is None:
            return None
        file = CacheFile(self._books, row, path, fd, self._went_idle, self._proved_bad)
        try:
            file.load(row)
        except sqlite3.Error as error:
            os.close(fd)
            self._unreadable(error)
        self._memory.add(file)
        return file

    def _create(self, identity: Identity, path: bytes) -> CacheFile:
        nchunks = chunk_count(identity.size, self._chunk_size)
        if nchunks > MAX_CHUNKS:
            raise CacheError(f"cache: a file of {nchunks} chunks is too large for it", errno.EFBIG)
        file_id, session = self._take_id(), self._books.session
        row = FileRow(
            file_id=file_id,
            source=self._source,
            dev=identity.dev,
            ino=identity.ino,
            size=identity.size,
            mtime_ns=identity.mtime_ns,
            ctime_ns=identity.ctime_ns,
            path=path,
            chunk_size=self._chunk_size,
            bytes=0,
            nchunks=nchunks,
            present=0,
            last_used=self._host.clock(),
            pinned=0,
            session_first=session,
            session=session,
        )
        data_path = self._layout.data_path(file_id)
        fd = create_data_file(data_path, identity.size)
        file = CacheFile(self._books, row, data_path, fd, self._went_idle, self._proved_bad)
        self._books.account.add(0, 1)
        self._memory.add(file, AddFile(row))
        return file

    def _take_id(self) -> int:
        with self._id_lock:
            if self._next_id == self._ids_end - ID_BLOCK // 2:  # half is left: ask for more in time
                self._writer.put(SetMeta({"next_id": self._ids_end + ID_BLOCK}))
            if self._next_id == self._ids_end:
                # Asked for half a block ago; the queue is in order, so a flush sees it written.
                self._writer.flush()
                self._ids_end += ID_BLOCK
            self._next_id += 1
            return self._next_id - 1

    def _went_idle(self, file: CacheFile) -> None:
        """Nobody holds ``file`` any more: note the use, and let go of it once the index knows all of it."""
        now, uses = self._host.clock(), file.uses
        used = None
        if abs(now - file.last_used) >= TOUCH_SECONDS:
            used = file.last_used = now
        self._writer.put(Touch(file.file_id, used, lambda: self._memory.settle(file, uses)))

    # -- changing and dropping -------------------------------------------------------------------------

    def rekey(self, file_id: int, identity: Identity) -> None:
        """The same bytes now have ``identity``: our own chmod, rename or link changed the times. Blocks.

        Nothing happens where the file is gone. ``CacheError`` if inode or size differ: other bytes.
        """
        key = key_of(identity)
        with self._memory.stripe(key):
            file = self._memory.by_id(file_id)
            row = None if file else self._row_of(file_id)
            if file is None and row is None:
                return
            old = file.identity if file else row.identity  # type: ignore[union-attr]
            if key_of(old) != key or old.size != identity.size:
                raise CacheError("cache: rekey to another inode or size", errno.EINVAL)
            if file is not None:
                file.identity = identity
            self._writer.put(Rekey(file_id, identity))
            self._writer.flush()

    def drop(self, file_id: int) -> None:
        """Take a generation out, pinned or not; its holders' fds live on. Blocks."""
        file = self._memory.by_id(file_id)
        if file is not None and self._drop_file(file):
            return
        row = self._row_of(file_id)
        if row is not None:
            self._remover.drop_rows([row])

    def drop_inode(self, dev: int, ino: int) -> None:
        """Take out whatever is cached of a source inode. Blocks."""
        file = self._memory.get((dev, ino))
        if file is not None and self._drop_file(file):
            return
        row = self._row((dev, ino))
        if row is not None:
            self._remover.drop_rows([row])

    def drop_path(self, prefix: bytes) -> int:
        """Take out the files at or below ``prefix`` (empty: all of this source); returns how many. Blocks."""
        dropped, rows = 0, []
        for row in self._scan(prefix):
            rows.append(row)
            if len(rows) == _DROP_BATCH:
                dropped += len(self._remover.drop_rows(rows))
                rows = []
        return dropped + len(self._remover.drop_rows(rows))

    def pin(self, file_id: int, pinned: bool = True) -> None:
        """Keep a file from eviction until it is unpinned, across restarts. Blocks."""
        self._writer.put(Rekey(file_id, pinned=pinned))
        self._writer.flush()
        self._reclaimer.retry_now()

    def _drop_file(self, file: CacheFile) -> bool:
        with self._memory.stripe(key_of(file.identity)):
            gone: Gone | None = self._remover.retire_file(file)
            self._remover.finish([gone])
        return gone is not None

    def _proved_bad(self, file: CacheFile) -> None:
        self._drop_file(file)

    def _any_suspect(self, row: FileRow) -> bool:
        try:
            return self._books.index.any_suspect(row.file_id, self._books.trust)
        except sqlite3.Error as error:
            self._index_failed(error)
            return True

    def _row_of(self, file_id: int) -> FileRow | None:
        try:
            return self._books.index.by_id(file_id)
        except sqlite3.Error as error:
            self._unreadable(error)

    # -- room ------------------------------------------------------------------------------------------

    def reserve(self, nbytes: int) -> None:
        """Room for ``nbytes`` that are about to be written, by eviction if need be. Blocks; ``CacheFull``.

        Each reservation ends with the ``commit`` of its chunk, or with ``unreserve``.
        """
        try:
            self._reclaimer.reserve(nbytes)
        except sqlite3.Error as error:
            self._unreadable(error)

    def unreserve(self, nbytes: int) -> None:
        """Give a reservation back: its bytes will not be committed. Loop-safe."""
        self._books.account.unreserve(nbytes)

    def set_limits(self, size_limit: int, free_floor: int) -> None:
        """New limits, in bytes; they hold from the next reservation. Loop-safe."""
        self._reclaimer.limits = Limits(size_limit, free_floor)
        self._reclaimer.retry_now()

    def usage(self) -> Usage:
        """What the cache holds and what is free. Loop-safe."""
        account = self._books.account
        return Usage(account.held, account.files, self._reclaimer.limits.limit, self._free_bytes())

    @property
    def evicted(self) -> int:
        """Files evicted for room since the start."""
        return self._reclaimer.evicted

    @property
    def lost_rows(self) -> int:
        """Changes that the index could not take (full disk) since the start; each costs a fetch later."""
        return self._writer.lost

    def _free_bytes(self) -> int:
        return self._host.free_bytes(self._layout.root)

    # -- looking it over -------------------------------------------------------------------------------

    def ls(self, path_prefix: bytes = b"") -> Iterator[audit.Entry]:
        """The files of this source at or below ``path_prefix``, in the order in which they came. Blocks."""
        return (audit.entry(row, self._books.trust) for row in self._scan(path_prefix))

    def verify(
        self,
        path_prefix: bytes = b"",
        progress: Callable[[audit.VerifyReport], None] | None = None,
        refetch: audit.Refetch | None = None,
    ) -> audit.VerifyReport:
        """Read every cached chunk at or below ``path_prefix`` and compare checksums. Blocks for long.

        A bad chunk that could have been served takes its generation out (``on_evict``); the good chunks
        move to a new data file. ``refetch(file, chunk)`` is called for each bad chunk, with the file
        pinned: what is PRESENT afterwards counts as mended. ``progress`` gets the report as it grows.
        """
        return audit.verify(self, self._scan(path_prefix), progress, refetch)

    def sweep(self) -> int:
        """After an unclean stop: remove data files that have no row, put the totals right. Blocks for long.

        To be called once, in the background, after the start. Returns how many files it removed.
        """
        if self._opened.start.unclean:
            self._writer.put(Recount(self._books.account.add))
        try:
            return audit.sweep_orphans(
                self._layout, self._books.index, self._opened.start, lambda: self._closed
            )
        except sqlite3.Error as error:
            self._unreadable(error)

    def _scan(self, prefix: bytes) -> Iterator[FileRow]:
        self._writer.flush()
        try:
            yield from self._books.index.scan(self._source, audit.normal(prefix))
        except sqlite3.Error as error:
            self._unreadable(error)

    # -- ending ----------------------------------------------------------------------------------------

    def checkpoint(self) -> bool:
        """Make all that is cached now outlive a power cut: afterwards none of it is ever suspect. Blocks.

        One syncfs: it needs no list of the files written, and their data has mostly been written back
        already. False if the disk refused.
        """
        done, books = self._books.session, self._books
        following = SetMeta({"session": done + 1})
        self._writer.put(following)
        self._writer.flush()
        if not following.committed:
            return False
        books.session = done + 1
        # Chunks of the old session: bytes written before commit() was called, rows in the queue by now.
        self._writer.flush()
        if not self._sync():
            return False
        mark = SetMeta({"clean_session": done})
        self._writer.put(mark)
        self._writer.flush()
        return mark.committed

    def close(self) -> None:
        """Write what is queued, sync, leave the clean mark, let go of the directory. Blocks.

        Files that are still held stay readable; what they commit is not remembered.
        """
        if self._closed:
            return
        self._closed = True
        # What is committed from here on is forgotten, so that nothing unsynced can stand below the mark.
        self._writer.seal()
        self._writer.flush()
        if self._sync():
            complete = not self._writer.lost and not self._writer.retrying
            self._writer.put(SetMeta({"clean_session": self._books.session, "clean": int(complete)}))
        self._writer.close()
        self._books.index.close()
        os.close(self._opened.lock_fd)

    def _sync(self) -> bool:
        try:
            fd = os.open(self._layout.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                syncfs(fd)
            finally:
                os.close(fd)
        except OSError as error:
            log.warning("cache: %s could not be synced: %s", self._layout.root, error.strerror)
            return False
        return True

    def _index_failed(self, error: sqlite3.Error) -> None:
        """Say once of each kind of failure; a damaged index is made anew by the next start."""
        kind = getattr(error, "sqlite_errorname", type(error).__name__)
        if kind in self._failures:
            return
        self._failures.add(kind)
        log.warning("cache index: %s; reads go on, what is fetched may be forgotten", error)
        if opening.is_corruption(error):
            try:
                self._layout.damaged.touch()
            except OSError as touch_error:
                log.warning("cache index: cannot be marked as damaged: %s", touch_error.strerror)

    def _unreadable(self, error: sqlite3.Error) -> NoReturn:
        self._index_failed(error)
        raise CacheError(f"cache: the index cannot be read: {error}") from error
