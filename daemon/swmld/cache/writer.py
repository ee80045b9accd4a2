"""The index's one writer: a thread that applies queued operations in order, a group in one transaction.

A group is closed 50 ms after its first operation, at 256 operations, or at once when somebody waits
(``flush``). Measured here: a group costs about 150 µs and an operation about 10 µs, so 256 chunks cost 3
ms.

When the disk is full or the index damaged, operations are tried one by one. Those that only remember (a new
chunk, a use) are lost and counted: the daemon fetches again what it forgot. Those that take something back
(``must``: a file dropped, a chunk found bad) are kept and tried again with every later group.

The queue holds at most 65,536 operations, some tens of MB, before chunks are lost in the same way; who adds
files waits instead (``wait_for_room``). That many wait only when the disk has stood still for seconds.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from swmld.cache.index import FileRow, encode, set_meta, transaction
from swmld.types import Identity

log = logging.getLogger(__name__)

GROUP_SECONDS = 0.05
GROUP_OPS = 256
QUEUE_LIMIT = 65_536


class Op:
    """One change of the index. ``apply`` returns by how much (bytes, files) change in all."""

    must: ClassVar[bool] = False
    durable: ClassVar[bool] = False
    alone: ClassVar[bool] = False
    """Needs the totals as they stand, so not in one transaction with others."""

    def apply(self, db: sqlite3.Connection) -> tuple[int, int]:
        raise NotImplementedError

    def done(self) -> None:
        """Called in the writer thread once the change is committed, or lost."""


def _delete(db: sqlite3.Connection, file_id: int) -> tuple[int, int]:
    db.execute("DELETE FROM chunks WHERE file_id=?", (file_id,))
    gone = db.execute("DELETE FROM files WHERE file_id=? RETURNING bytes", (file_id,)).fetchone()
    return (-gone[0], -1) if gone else (0, 0)


@dataclass(slots=True)
class AddFile(Op):
    """A new generation. One that still stands under the same inode (its drop could not be written) goes."""

    row: FileRow

    def apply(self, db: sqlite3.Connection) -> tuple[int, int]:
        row = self.row
        key = (row.source, encode(row.dev), encode(row.ino))
        old = db.execute("SELECT file_id FROM files WHERE source=? AND dev=? AND ino=?", key).fetchone()
        nbytes, files = _delete(db, old[0]) if old else (0, 0)
        values = list(row)
        values[2:4] = key[1:]
        values[5:7] = encode(row.mtime_ns), encode(row.ctime_ns)
        db.execute(f"INSERT INTO files VALUES ({','.join('?' * len(values))})", values)
        return nbytes + row.bytes, files + 1


@dataclass(slots=True)
class AddChunk(Op):
    """A chunk's bytes are in the file; ``new`` is 0 where a suspect chunk was fetched again."""

    file_id: int
    chunk: int
    crc: int
    length: int
    session: int
    new: int

    def apply(self, db: sqlite3.Connection) -> tuple[int, int]:
        nbytes = self.length * self.new
        changed = db.execute(
            "UPDATE files SET present=present+?, bytes=bytes+?, session=? WHERE file_id=?",
            (self.new, nbytes, self.session, self.file_id),
        )
        if not changed.rowcount:  # its AddFile was lost to a full disk
            return 0, 0
        db.execute(
            "INSERT OR REPLACE INTO chunks VALUES (?,?,?,?)",
            (self.file_id, self.chunk, self.crc, self.session),
        )
        return nbytes, 0


@dataclass(slots=True)
class RemoveChunk(Op):
    """A chunk was found bad."""

    must: ClassVar[bool] = True
    file_id: int
    chunk: int
    length: int

    def apply(self, db: sqlite3.Connection) -> tuple[int, int]:
        gone = db.execute("DELETE FROM chunks WHERE file_id=? AND chunk=?", (self.file_id, self.chunk))
        if not gone.rowcount:
            return 0, 0
        db.execute(
            "UPDATE files SET present=present-1, bytes=bytes-? WHERE file_id=?", (self.length, self.file_id)
        )
        return -self.length, 0


@dataclass(slots=True)
class TrustChunk(Op):
    """A suspect chunk's checksum held: it counts as written in this session."""

    file_id: int
    chunk: int
    session: int

    def apply(self, db: sqlite3.Connection) -> tuple[int, int]:
        db.execute(
            "UPDATE chunks SET session=? WHERE file_id=? AND chunk=?",
            (self.session, self.file_id, self.chunk),
        )
        return 0, 0


@dataclass(slots=True)
class Respan(Op):
    """Work out anew which sessions wrote a file, once its last suspect chunk is settled."""

    file_id: int
    session: int

    def apply(self, db: sqlite3.Connection) -> tuple[int, int]:
        db.execute(
            "UPDATE files SET session=?2, session_first="
            "coalesce((SELECT min(session) FROM chunks WHERE file_id=?1), ?2) WHERE file_id=?1",
            (self.file_id, self.session),
        )
        return 0, 0


@dataclass(slots=True)
class DropFile(Op):
    """A generation goes; ``forget`` runs when it has gone."""

    must: ClassVar[bool] = True
    file_id: int
    forget: Callable[[], None]

    def apply(self, db: sqlite3.Connection) -> tuple[int, int]:
        return _delete(db, self.file_id)

    def done(self) -> None:
        self.forget()


@dataclass(slots=True)
class Touch(Op):
    """A file was used (``None``: not noted); ``settled`` runs when all before it is in the index."""

    file_id: int
    last_used: float | None
    settled: Callable[[], None] | None = None

    def apply(self, db: sqlite3.Connection) -> tuple[int, int]:
        if self.last_used is not None:
            db.execute("UPDATE files SET last_used=? WHERE file_id=?", (self.last_used, self.file_id))
        return 0, 0

    def done(self) -> None:
        if self.settled is not None:
            self.settled()


@dataclass(slots=True)
class Rekey(Op):
    """The same bytes under another identity of the same inode, or another path, or pinned by hand."""

    file_id: int
    identity: Identity | None = None
    path: bytes | None = None
    pinned: bool | None = None

    def apply(self, db: sqlite3.Connection) -> tuple[int, int]:
        if self.identity is not None:
            times = (encode(self.identity.mtime_ns), encode(self.identity.ctime_ns))
            db.execute("UPDATE files SET mtime_ns=?, ctime_ns=? WHERE file_id=?", (*times, self.file_id))
        if self.path is not None:
            db.execute("UPDATE files SET path=? WHERE file_id=?", (self.path, self.file_id))
        if self.pinned is not None:
            db.execute("UPDATE files SET pinned=? WHERE file_id=?", (int(self.pinned), self.file_id))
        return 0, 0


@dataclass(slots=True)
class CloseFd(Op):
    """Close a file that was unlinked: freeing a large one takes long, so not in the event loop."""

    fd: int

    def apply(self, db: sqlite3.Connection) -> tuple[int, int]:
        return 0, 0

    def done(self) -> None:
        os.close(self.fd)


@dataclass(slots=True)
class Recount(Op):
    """Work out the totals from the rows, after an unclean stop; ``counted`` gets the change (bytes,
    files)."""

    alone: ClassVar[bool] = True
    counted: Callable[[int, int], None]
    change: tuple[int, int] = (0, 0)

    def apply(self, db: sqlite3.Connection) -> tuple[int, int]:
        meta = dict(db.execute("SELECT key, value FROM meta WHERE key IN ('bytes', 'files')").fetchall())
        nbytes, files = db.execute("SELECT coalesce(sum(bytes), 0), count(*) FROM files").fetchone()
        self.change = (nbytes - meta["bytes"], files - meta["files"])
        return self.change

    def done(self) -> None:
        self.counted(*self.change)


@dataclass(slots=True)
class SetMeta(Op):
    """Rows of ``meta`` that a power cut may not undo (ids given out, clean marks)."""

    must: ClassVar[bool] = True
    durable: ClassVar[bool] = True
    values: dict[str, int | str]
    committed: bool = False

    def apply(self, db: sqlite3.Connection) -> tuple[int, int]:
        set_meta(db, **self.values)
        return 0, 0

    def done(self) -> None:
        self.committed = True


class Writer:
    """Owns the index's writing connection and the thread that uses it. ``put`` never blocks."""

    def __init__(self, db: sqlite3.Connection, on_damage: Callable[[sqlite3.Error], None]) -> None:
        self.lost = 0
        """Operations that could not be remembered since the start."""
        self._db = db
        self._on_damage = on_damage
        self._cond = threading.Condition()
        self._ops: list[Op] = []
        self._retry: list[Op] = []
        self._waiters: list[threading.Event] = []
        self._sealed = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="swmld-index", daemon=True)
        self._thread.start()

    def put(self, op: Op) -> bool:
        """Queue ``op``; loop-safe. False: a chunk was lost, the queue being full or sealed."""
        with self._cond:
            if isinstance(op, AddChunk) and (self._sealed or len(self._ops) >= QUEUE_LIMIT):
                self.lost += 1
                return False
            self._ops.append(op)
            if len(self._ops) in (1, GROUP_OPS):
                self._cond.notify()
            return True

    def wait_for_room(self) -> None:
        """Wait while the queue is full. Blocks."""
        if len(self._ops) >= QUEUE_LIMIT:
            self.flush()

    def flush(self) -> None:
        """Wait until all that was put before is committed (or lost). Blocks."""
        done = threading.Event()
        with self._cond:
            closing = self._closing
            if not closing:
                self._waiters.append(done)
                self._cond.notify()
        if closing:
            self._thread.join()
        else:
            done.wait()

    @property
    def retrying(self) -> bool:
        """Whether changes that must not be lost still wait to be written."""
        return bool(self._retry)

    def seal(self) -> None:
        """Take no more chunks."""
        with self._cond:
            self._sealed = True

    def close(self) -> None:
        """Write what is queued and end the thread. Blocks."""
        with self._cond:
            self._closing = True
            self._cond.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            ops, waiters, closing = self._next_group()
            if ops or self._retry:
                self._write([*self._retry, *ops])
            for waiter in waiters:
                waiter.set()
            if closing:
                return

    def _next_group(self) -> tuple[list[Op], list[threading.Event], bool]:
        with self._cond:
            while not (self._ops or self._waiters or self._closing):
                self._cond.wait()
            deadline = time.monotonic() + GROUP_SECONDS
            while not (self._waiters or self._closing) and len(self._ops) < GROUP_OPS:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._cond.wait(left)
            ops, self._ops = self._ops, []
            waiters, self._waiters = self._waiters, []
            return ops, waiters, self._closing

    def _write(self, ops: list[Op]) -> None:
        self._retry = []
        if any(op.alone for op in ops):
            self._write_singly(ops)
            return
        try:
            self._commit(ops)
        except Exception as error:
            self._failed(error, len(ops))
            self._write_singly(ops)
        else:
            self._finish(ops)

    def _write_singly(self, ops: list[Op]) -> None:
        for op in ops:
            try:
                self._commit([op])
            except Exception:
                if op.must:
                    self._retry.append(op)
                    continue
                self.lost += 1
            self._finish([op])

    @staticmethod
    def _finish(ops: list[Op]) -> None:
        for op in ops:
            try:
                op.done()
            except Exception:
                log.exception("cache index: what follows %s failed", type(op).__name__)

    def _commit(self, ops: list[Op]) -> None:
        nbytes = files = 0
        with transaction(self._db, durable=any(op.durable for op in ops)):
            for op in ops:
                more_bytes, more_files = op.apply(self._db)
                nbytes += more_bytes
                files += more_files
            if nbytes or files:
                change = [(nbytes, "bytes"), (files, "files")]
                self._db.executemany("UPDATE meta SET value=value+? WHERE key=?", change)

    def _failed(self, error: Exception, count: int) -> None:
        if isinstance(error, sqlite3.Error):
            self._on_damage(error)
        else:
            log.error("cache index: a group of %d changes failed", count, exc_info=error)
