"""The cache: one directory of sparse data files with an index, shared by all threads of one daemon.

Truth about a file that somebody holds is its ``CacheFile``; of all others it is the index. The reading
order of the room is: this facade, ``finding``, ``memory``, ``files``, ``index``, ``writer``, ``removal``,
``keeping``, ``reclaim``, ``evicting``, ``trail``, ``audit``.

Locks, in the order in which they may be taken: the stripe of a source inode (held during I/O, in worker
threads alone), ``Memory._lock``, ``CacheFile.lock``, ``Account.lock``, the writer's. The event loop takes
the last three.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from swmld.cache import audit, opening
from swmld.cache.changes import KeepText, Pin, Recount, SetKept, SetMeta
from swmld.cache.checksum import syncfs
from swmld.cache.evicting import Evictor
from swmld.cache.files import Books, CacheFile
from swmld.cache.finding import Finder, Ids, Number
from swmld.cache.index import FileRow
from swmld.cache.keeping import FILE_OVERHEAD, Kept, lines_of
from swmld.cache.layout import Layout, free_bytes
from swmld.cache.memory import Memory
from swmld.cache.moves import Moves
from swmld.cache.reclaim import Account, Limits, Reclaimer, Usage
from swmld.cache.removal import Held, OnEvict, Remover, UsageOf
from swmld.cache.writer import Writer
from swmld.errors import CacheError, CacheFull
from swmld.plan.eviction import Keep, Lru, Policy
from swmld.plan.reuse import Reuse
from swmld.types import Identity

log = logging.getLogger(__name__)

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
        self._source = start.source
        self._trouble = opening.Trouble(layout)
        self._writer = Writer(opened.index.writer_db, self._trouble.note, start.probation)
        account = Account(start.bytes, start.files)
        reuse = Reuse()
        self._books = Books(opened.index, self._writer, account, start.trust, start.session, reuse)
        self._memory = Memory(self._books)
        self._remover = Remover(self._books, self._memory, layout, start.source, host.clock)
        self._evictor = Evictor(self._remover, policy, reuse, host.clock)
        self._reclaimer = Reclaimer(
            account, limits, self._evictor, free_bytes=self._free_bytes, clock=host.clock
        )
        self._remover.on_room = self._reclaimer.retry_now
        key = f"moves {start.source}"
        self._moves = Moves(opened.index.text(key), lambda text: self._writer.put(KeepText(key, text)))
        self._finder = Finder(
            self._books,
            self._memory,
            self._remover,
            layout,
            self._trouble,
            Ids(start.first_id, self._writer),
            source=start.source,
            chunk_size=chunk_size,
            clock=host.clock,
            moves=self._moves,
        )
        self._swept = not start.unclean
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
        stay as long as there is room; files cached with another chunk size keep theirs,
        but for those with larger chunks that are not whole.
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
    def on_move(self) -> Callable[[int, Identity], None] | None:
        """``(file_id, identity)`` of each file that is found under another inode number (``renamed``), with
        the number that it leaves, from a worker thread: what goes by that one is not told of it any more."""
        return self._finder.on_move

    @on_move.setter
    def on_move(self, callback: Callable[[int, Identity], None] | None) -> None:
        self._finder.on_move = callback

    @property
    def usage_of(self) -> UsageOf | None:
        """Asked before an eviction, from a worker thread: when was this file last opened (seconds since the
        epoch, ``time.time()``) and is it open now, as far as that went without the cache; ``None`` if
        unknown. It must not call into the cache."""
        return self._remover.usage_of

    @usage_of.setter
    def usage_of(self, callback: UsageOf | None) -> None:
        self._remover.usage_of = callback

    @property
    def held(self) -> Held | None:
        """Asked before an eviction, from a worker thread: does a living job hold this file (strategy
        ``no_evict``)? Such a file is not evicted, whatever is decided about it, and nothing of that is kept
        across a restart. It may not be asked about a held file again before ``released`` (10 minutes at
        most). It must be quick and not call into the cache."""
        return self._remover.held

    @held.setter
    def held(self, callback: Held | None) -> None:
        self._remover.held = callback

    # -- finding files ---------------------------------------------------------------------------------

    def acquire(
        self,
        identity: Identity,
        path: bytes,
        *,
        opened: bool = True,
        level: int = 0,
        chunk_size: int = 0,
        number: Number | None = None,
    ) -> CacheFile:
        """The cache file of ``identity``, made if need be, pinned until its ``release``. Blocks.

        ``path`` is relative to the source's root, for ``ls`` and ``drop_path``. Another generation of the
        same inode is dropped first. ``opened``: for who opens it; if not, and this makes the file, its first
        open is its first use, not a second one that would protect it. ``level``: of zstd, for the chunks of a
        file that this makes; 0 they are stored as they are. ``chunk_size``: of a file that this makes, a
        power of two, if it is less than the cache's own, which it is without. ``number``: which inode number
        the file had at another path, for what is cached under that (``renamed``). ``CacheError`` where the
        cache cannot hold it (no room for the file, fd limit, too large for the cache's file system): the
        source can still be read.
        """
        size = min(chunk_size or self.chunk_size, self.chunk_size)
        path = audit.normal(path)

        def acquire() -> CacheFile:
            return self._finder.acquire(
                identity, path, opened=opened, level=level, chunk_size=size, number=number
            )

        try:
            return acquire()
        except CacheFull as full:
            self.refused()
            try:
                self.reserve(FILE_OVERHEAD)  # evicts
            except CacheFull:
                raise full from None
        self.unreserve(FILE_OVERHEAD)
        return acquire()

    def make_several(self, wanted: Sequence[tuple[Identity, bytes]]) -> list[CacheFile | None]:
        """As ``acquire`` of files that nobody opened yet and of whose inodes nothing is cached: with one look
        into the index and one call of the kernel's for all. None for any other: ``acquire`` it. Blocks."""
        return self._finder.make_several([(identity, audit.normal(path)) for identity, path in wanted])

    def adopt(
        self, identity: Identity, path: bytes, place: os.PathLike[str], checksums: Sequence[int]
    ) -> bool:
        """Make the file at ``place`` the whole cache file of ``identity``, unopened. Blocks.

        It must lie on the cache's file system, nobody may write it any more, and room for all its bytes has
        been reserved, which ends with this. ``checksums``: crc32c of each chunk of ``chunk_size`` bytes.
        False where this generation is there already, or cannot be taken: then ``place`` is as it was.
        """
        try:
            if self._finder.adopt(identity, audit.normal(path), place, checksums):
                return True
        except CacheError as error:
            log.warning("%s", error)
        self.unreserve(identity.size)
        return False

    @property
    def chunk_size(self) -> int:
        """Of files that are new, in bytes."""
        return self._finder.chunk_size

    def opened(self, identity: Identity) -> None:
        """Somebody has opened a file that came unopened (``acquire``), by its number. Loop-safe."""
        self._finder.opened(identity)

    def find(self, identity: Identity) -> CacheFile | None:
        """As ``acquire``, but makes nothing and leaves other generations alone. Blocks; ``CacheError`` as
        there."""
        return self._finder.find(identity)

    def lookup_complete(self, identity: Identity) -> int | None:
        """The file id if every chunk is there and trusted. Blocks, for about 20 µs; never raises."""
        return self._finder.lookup_complete(identity)

    def data_path(self, file_id: int) -> str:
        """Path of the data file of ``file_id``."""
        return self._layout.data_path(file_id)

    # -- changing and dropping -------------------------------------------------------------------------

    def renamed(self, old: bytes, new: bytes) -> None:
        """A directory of a source whose files have other inode numbers then was renamed: what is cached below
        it is found again by those who ``acquire`` it with ``number``. Loop-safe."""
        self._moves.add(audit.normal(old), audit.normal(new))

    def follow(self, before: Identity, now: Identity, path: bytes) -> bool:
        """A file was renamed to ``path`` and has another inode number now, the same bytes and times: what is
        cached of it, open or not, is that of ``now``. False: nothing is, or all else is not the same. Blocks;
        ``CacheError`` where the index cannot be read."""
        return self._finder.follow(before, now, audit.normal(path))

    def drop(self, file_id: int) -> None:
        """Take a generation out, pinned or not; its holders' fds live on. Blocks."""
        file = self._memory.by_id(file_id)
        if file is not None and self._remover.drop_file(file):
            return
        row = self._row_of(file_id)
        if row is not None:
            self._remover.drop_rows([row])

    def drop_inode(self, dev: int, ino: int) -> None:
        """Take out whatever is cached of a source inode. Blocks."""
        file = self._memory.get((dev, ino))
        if file is not None and self._remover.drop_file(file):
            return
        row = self._finder.row((dev, ino))
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

    # -- what is kept ----------------------------------------------------------------------------------

    def pin(self, file_id: int, pinned: bool = True) -> None:
        """Keep a file from eviction until it is unpinned, by hand and across restarts. Blocks."""
        self._writer.put(Pin(file_id, pinned))
        self._writer.flush()
        if not pinned:
            self.released()

    def set_keep(self, file_id: int, keep: Keep, ttl: float | None = None) -> None:
        """What rules decided about a file's eviction; it holds across restarts. Loop-safe.

        With ``ttl`` the file is to go FIRST once it has not been used for that many seconds (rounded up to
        whole ones); ``ValueError`` if negative. A pin by hand is stronger. Written in a group with other
        changes; each eviction that begins later goes by it. A file that is gone is left alone.
        """
        self._writer.put(SetKept(file_id, Kept.decided(keep, ttl), self._kept_anew))

    def _kept_anew(self, before: Kept, now: Kept) -> None:
        self._evictor.look_again(lines_of(now))
        if before.keep is Keep.NEVER:
            self._reclaimer.retry()

    def released(self) -> None:
        """A job's hold on files has ended: ``held`` is asked again about all. Loop-safe."""
        self._evictor.look_again()
        self._reclaimer.retry()

    def _row_of(self, file_id: int) -> FileRow | None:
        try:
            return self._books.index.by_id(file_id)
        except sqlite3.Error as error:
            self._trouble.unreadable(error)

    # -- room ------------------------------------------------------------------------------------------

    def reserve(self, nbytes: int) -> None:
        """Room for ``nbytes`` that are about to be written, by eviction if need be. Blocks; ``CacheFull``.

        Each reservation ends with the ``commit`` of its chunk, or with ``unreserve``.
        """
        try:
            self._reclaimer.reserve(nbytes)
        except sqlite3.Error as error:
            self._trouble.unreadable(error)

    def refused(self) -> None:
        """The disk had no room for what was reserved, whatever it says of free space: less is held from here
        on. Thread-safe."""
        self._reclaimer.refused()

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
        return self._evictor.evicted

    @property
    def compressed(self) -> tuple[int, int]:
        """Bytes of the chunks that were stored compressed since the start, and what they take on the disk."""
        return self._books.account.compressed_from, self._books.account.compressed_to

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

        To be called once, in the background, after the start. Returns how many files it removed. One that
        ``close`` or an unreadable index cuts short is made up for after the next start; it never raises.
        """
        start = self._opened.start
        if start.unclean:
            self._writer.put(Recount(self._books.account.add))
        try:
            removed = audit.sweep_orphans(self._layout, self._books.index, start, lambda: self._closed)
        except sqlite3.Error as error:
            self._trouble.note(error)
            return 0
        self._swept = not self._closed
        return removed

    def _scan(self, prefix: bytes) -> Iterator[FileRow]:
        self._writer.flush()
        try:
            yield from self._books.index.scan(self._source, audit.normal(prefix))
        except sqlite3.Error as error:
            self._trouble.unreadable(error)

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
            # Without this mark the next start sweeps.
            complete = self._swept and not self._writer.lost and not self._writer.retrying
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
