"""Finding cache files, and making them: in memory, else in the index, else new.

A look-up takes the first that it finds: the file in memory, a tombstone (nothing is cached), the index
(``swmld.cache.memory``). So it never waits for a write, and what was committed a moment ago is seen.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

from swmld.cache.changes import AddFile, SetMeta, SetPath, Touch
from swmld.cache.datafiles import (
    create_data_file,
    create_data_files,
    open_data_file,
    open_row,
    take_data_file,
)
from swmld.cache.files import MAX_CHUNKS, Books, CacheFile, chunk_count
from swmld.cache.index import ID_BLOCK, FileRow
from swmld.cache.keeping import Kept
from swmld.cache.layout import Layout
from swmld.cache.memory import Key, Memory, key_of
from swmld.cache.moves import Moves
from swmld.cache.opening import Trouble
from swmld.cache.packed import PACKED
from swmld.cache.removal import Remover
from swmld.cache.writer import Writer
from swmld.errors import CacheError
from swmld.plan.reuse import SAME_USE
from swmld.types import Identity

Number = Callable[[bytes], int]
"""The inode number that a file had at another path, before a directory was renamed; 0: that is not known."""

UNOPENED = 65_536
"""Files that came before they were opened, and whose first open is waited for: some 15 MB; of more, the first
open of the oldest counts as a second use."""


class Unopened:
    """Files that were made for somebody who does not read them yet: their first open is their first use,
    however late it comes. In memory alone. Any thread."""

    def __init__(self, most: int = UNOPENED) -> None:
        self._most = most
        self._files: OrderedDict[Key, tuple[int, float]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, key: Key, file_id: int, now: float) -> None:
        """The generation ``file_id`` came."""
        with self._lock:
            self._files[key] = file_id, now
            self._files.move_to_end(key)
            if len(self._files) > self._most:
                self._files.popitem(last=False)

    def has(self, key: Key, file_id: int) -> bool:
        """Whether nobody has opened it."""
        with self._lock:
            return self._files.get(key, (0, 0.0))[0] == file_id

    def take(self, key: Key) -> tuple[int, float] | None:
        """It is opened: which generation came, and when; None: it is not the first time."""
        with self._lock:
            return self._files.pop(key, None)


class Ids:
    """Gives out file ids from blocks that the index has set aside, so that none is ever used twice."""

    def __init__(self, first: int, writer: Writer) -> None:
        self.next = first
        self.end = first + ID_BLOCK
        self._writer = writer
        self._lock = threading.Lock()

    def take(self) -> int:
        """The next id. Blocks once in a block at most."""
        with self._lock:
            if self.next == self.end - ID_BLOCK // 2:  # half is left: ask for more in time
                self._writer.put(SetMeta({"next_id": self.end + ID_BLOCK}))
            if self.next == self.end:
                # Asked for half a block ago; the queue is in order, so a flush sees it written.
                self._writer.flush()
                self.end += ID_BLOCK
            self.next += 1
            return self.next - 1


class Finder:
    """Finds and makes the files of one source. Everything here blocks: worker threads alone."""

    def __init__(
        self,
        books: Books,
        memory: Memory,
        remover: Remover,
        layout: Layout,
        trouble: Trouble,
        ids: Ids,
        *,
        source: int,
        chunk_size: int,
        clock: Callable[[], float],
        moves: Moves,
    ) -> None:
        self.ids = ids
        self.on_move: Callable[[int, Identity], None] | None = None
        self._moves = moves
        self._unopened = Unopened()
        self._books = books
        self._memory = memory
        self._remover = remover
        self._layout = layout
        self._trouble = trouble
        self._source = source
        self.chunk_size = chunk_size
        self._clock = clock

    def acquire(
        self,
        identity: Identity,
        path: bytes,
        *,
        opened: bool,
        level: int,
        chunk_size: int = 0,
        number: Number | None = None,
    ) -> CacheFile:
        """See ``Cache.acquire``; ``path`` is in normal form."""
        self._books.writer.wait_for_room()
        key = key_of(identity)
        if number is not None and (earlier := self._moves.earlier(path)):
            self._follow_moves(identity, path, [number(place) for place in earlier])
        with self._memory.stripe(key):
            file = self._find(key, identity, replace=True, opened=opened)
            if file is None:
                file = self._create(identity, path, level, chunk_size or self.chunk_size)
                if not opened:
                    self._unopened.add(key, file.file_id, file.last_used)
            if file.source_path != path:
                file.source_path = path
                self._books.writer.put(SetPath(file.file_id, path))
            return file

    def follow(self, before: Identity, now: Identity, path: bytes) -> bool:
        """See ``Cache.follow``; ``path`` is in normal form."""
        self._books.writer.wait_for_room()
        return self._follow(before, now, path, pinned=True) != 0

    def _follow_moves(self, identity: Identity, path: bytes, numbers: Sequence[int]) -> None:
        """What is cached of this generation under one of the inode numbers that it had becomes its. Not what
        somebody has open by that number: it is another file to the mount."""
        there = self._stands(key_of(identity))
        if isinstance(there, CacheFile) or (there is not None and there.identity == identity):
            return
        for ino in numbers:
            before = replace(identity, ino=ino)
            if ino and (file_id := self._follow(before, identity, path, pinned=False)):
                if self.on_move is not None:
                    self.on_move(file_id, before)
                return

    def _follow(self, before: Identity, now: Identity, path: bytes, *, pinned: bool) -> int:
        """The file id; 0: it is not to be had."""
        old, new = key_of(before), key_of(now)
        if old == new or replace(before, ino=now.ino) != now:
            return 0
        with self._memory.stripes([old, new]):
            there = self._stands(old)
            if there is None or there.identity != before or not self._clear(new, now):
                return 0
            file_id = self._move(before, now, path, pinned)
            if file_id and (came := self._unopened.take(old)) is not None:
                self._unopened.add(new, *came)
        return file_id

    def _stands(self, key: Key) -> CacheFile | FileRow | None:
        """What is cached under a number, in memory or in the index alone."""
        file = self._memory.get(key)
        return file if file is not None or self._memory.buried(key) else self.row(key)

    def _move(self, before: Identity, now: Identity, path: bytes, pinned: bool) -> int:
        """The file id; 0: it may not be moved. Holds both stripes."""
        key = key_of(before)
        file = self._memory.get(key)
        if file is not None and self._memory.move(file, now, path, self._source, pinned=pinned):
            return file.file_id
        row = self._stands(key)  # it may have left memory for the index a moment ago
        if not isinstance(row, FileRow) or row.identity != before:
            return 0
        self._memory.move_row(row, now, path)
        self._books.writer.flush()
        return row.file_id

    def _clear(self, key: Key, identity: Identity) -> bool:
        """Drops what stands under a number that another file has now; False if it is ``identity`` itself.
        Holds the stripe."""
        there = self._stands(key)
        if there is not None and there.identity == identity:
            return False
        if isinstance(there, CacheFile):
            self._remover.finish([self._remover.retire_file(there)])
        elif there is not None:
            self._remover.finish([self._remover.retire_row(there)])
        return True

    def make_several(self, wanted: Sequence[tuple[Identity, bytes]]) -> list[CacheFile | None]:
        """See ``Cache.make_several``; paths are in normal form."""
        self._books.writer.wait_for_room()
        made: list[CacheFile | None] = [None] * len(wanted)
        keys = [key_of(identity) for identity, _ in wanted]
        with self._memory.stripes(keys):
            numbers = [n for n in self._unknown(keys) if not self._moves.earlier(wanted[n][1])]
            numbers = [n for n in numbers if chunk_count(wanted[n][0].size, self.chunk_size) <= MAX_CHUNKS]
            rows = [self._row(*wanted[number], 0, self.chunk_size) for number in numbers]
            paths = [self._layout.data_path(row.file_id) for row in rows]
            fds = create_data_files(paths, [row.size for row in rows])
            for number, row, data_path, fd in zip(numbers, rows, paths, fds, strict=True):
                if fd >= 0:
                    made[number] = file = self._made(row, data_path, fd, 0)
                    self._unopened.add(keys[number], file.file_id, file.last_used)
        return made

    def _unknown(self, keys: Sequence[Key]) -> list[int]:
        """The places of those of which nothing is cached, each key once. Holds their stripes."""
        places = {
            key: number
            for number, key in enumerate(keys)
            if self._memory.get(key) is None and not self._memory.buried(key)
        }
        for dev in {dev for dev, _ in places}:
            inos = [ino for other, ino in places if other == dev]
            try:
                known = self._books.index.known_inodes(self._source, dev, inos)
            except sqlite3.Error as error:
                self._trouble.note(error)
                return []
            for ino in known:
                del places[dev, ino]
        return sorted(places.values())

    def adopt(
        self, identity: Identity, path: bytes, place: os.PathLike[str], checksums: Sequence[int]
    ) -> bool:
        """See ``Cache.adopt``; ``path`` is in normal form."""
        self._books.writer.wait_for_room()
        key = key_of(identity)
        with self._memory.stripe(key):
            file = self._find(key, identity, replace=True, opened=False)
            new = file is None
            if file is None:
                file = self._create(identity, path, 0, self.chunk_size, place)
                self._unopened.add(key, file.file_id, file.last_used)
                # Before anybody else can have it: who finds it finds it whole.
                for chunk, checksum in enumerate(checksums):
                    file.commit(chunk, checksum)
        file.release()
        return new

    def find(self, identity: Identity) -> CacheFile | None:
        """See ``Cache.find``."""
        key = key_of(identity)
        with self._memory.stripe(key):
            return self._find(key, identity, replace=False, opened=True)

    def opened(self, identity: Identity) -> None:
        """See ``Cache.opened``."""
        key, now = key_of(identity), self._clock()
        came = self._unopened.take(key)
        if came is None or abs(now - came[1]) < SAME_USE:
            return
        file = self._memory.get(key)
        if file is not None and file.file_id == came[0]:
            file.last_used = now
        self._books.writer.put(Touch(came[0], now))

    def lookup_complete(self, identity: Identity) -> int | None:
        """See ``Cache.lookup_complete``."""
        key = key_of(identity)
        file = self._memory.get(key)
        if file is not None:
            return file.file_id if file.identity == identity and file.complete else None
        if self._memory.buried(key):
            return None
        try:
            row = self._books.index.by_key(self._source, *key)
        except sqlite3.Error as error:
            self._trouble.note(error)
            return None
        if row is None or row.present != row.nchunks or row.identity != identity:
            return None
        return None if self._any_suspect(row) else row.file_id

    def _find(self, key: Key, identity: Identity, *, replace: bool, opened: bool) -> CacheFile | None:
        """From memory, else from the index; drops what stands in the way. Holds the stripe."""
        file = self._memory.get(key)
        if file is not None:
            same = file.identity == identity
            if same and self._pin(file):
                self._use(key, file, opened)
                return file
            if not same and not replace:
                return None
            gone = None if file.settled else self._remover.retire_file(file)
            if gone is not None:
                self._remover.finish([gone])
                return None
        if self._memory.buried(key):
            return None
        row = self.row(key)
        if row is None or (row.identity != identity and not replace):
            return None
        file = self._load(row) if row.identity == identity and self._fits(row) else None
        if file is None:
            self._remover.finish([self._remover.retire_row(row)])
        else:
            self._use(key, file, opened)
        return file

    def _fits(self, row: FileRow) -> bool:
        """Whether what is not there of it can be fetched: a chunk larger than the cache's own, from a start
        with another chunk size, finds no buffer."""
        if row.chunk_size <= self.chunk_size:
            return True
        return row.present == row.nchunks and not self._any_suspect(row)

    def _use(self, key: Key, file: CacheFile, opened: bool) -> None:
        if self._unopened.has(key, file.file_id):
            if opened:
                self._unopened.take(key)
        elif self._books.reuse.protects(file.last_used, self._clock()):
            file.used_again = True

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
            fd = open_data_file(file.path, file.data_size)
        finally:
            with file.lock:
                if fd is None:
                    file.pins -= 1
                else:
                    file.fd = fd
        return fd is not None

    def row(self, key: Key) -> FileRow | None:
        """The index's row of a source inode. ``CacheError`` if it cannot be read."""
        try:
            return self._books.index.by_key(self._source, *key)
        except sqlite3.Error as error:
            self._trouble.unreadable(error)

    def _load(self, row: FileRow) -> CacheFile | None:
        path = self._layout.data_path(row.file_id)
        found = open_row(path, row)
        if found is None:
            return None
        fd, level = found
        file = CacheFile(self._books, row, path, fd, self._went_idle, self._proved_bad, level)
        try:
            file.load(row)
        except sqlite3.Error as error:
            os.close(fd)
            self._trouble.unreadable(error)
        self._memory.add(file)
        return file

    def _create(
        self,
        identity: Identity,
        path: bytes,
        level: int,
        chunk_size: int,
        place: os.PathLike[str] | None = None,
    ) -> CacheFile:
        """``place``: of a file that is to be its data file; else that is new."""
        row = self._row(identity, path, level, chunk_size)
        data_path = self._layout.data_path(row.file_id)
        fd = take_data_file(data_path, row, place) if place else create_data_file(data_path, row, level)
        return self._made(row, data_path, fd, level)

    def _row(self, identity: Identity, path: bytes, level: int, chunk_size: int) -> FileRow:
        nchunks = chunk_count(identity.size, chunk_size)
        if nchunks > MAX_CHUNKS:
            raise CacheError(f"cache: a file of {nchunks} chunks is too large for it", errno.EFBIG)
        session, now = self._books.session, self._clock()
        file_id = self.ids.take() | (PACKED if level else 0)
        kept = Kept(protected=self._books.reuse.back(identity, now))
        return FileRow(
            file_id=file_id,
            source=self._source,
            dev=identity.dev,
            ino=identity.ino,
            size=identity.size,
            mtime_ns=identity.mtime_ns,
            ctime_ns=identity.ctime_ns,
            path=path,
            chunk_size=chunk_size,
            bytes=0,
            nchunks=nchunks,
            present=0,
            last_used=now,
            pinned=kept.code,
            session_first=session,
            session=session,
        )

    def _made(self, row: FileRow, data_path: str, fd: int, level: int) -> CacheFile:
        file = CacheFile(self._books, row, data_path, fd, self._went_idle, self._proved_bad, level)
        self._books.account.add(0, 1)
        self._memory.add(file, AddFile(row))
        return file

    def _went_idle(self, file: CacheFile) -> None:
        """Nobody holds ``file`` any more: note the use, and let go of it once the index knows all of it."""
        now, uses = self._clock(), file.uses
        used = None
        if abs(now - file.last_used) >= SAME_USE:  # saves an index write for each open of a busy file
            used = file.last_used = now
        again, file.used_again = file.used_again, False
        self._books.writer.put(Touch(file.file_id, used, lambda: self._memory.settle(file, uses), again))

    def _any_suspect(self, row: FileRow) -> bool:
        trust = self._books.trust
        if not trust.suspects(row.session_first, row.session):
            return False
        try:
            return self._books.index.any_suspect(row.file_id, trust)
        except sqlite3.Error as error:
            self._trouble.note(error)
            return True

    def _proved_bad(self, file: CacheFile) -> None:
        self._remover.drop_file(file)
