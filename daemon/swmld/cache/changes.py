"""Changes of the index, as values: what the writer applies, in the order in which they were put.

Changes that only remember something may be lost to a full disk; those that take something back (``must``) may
not.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from swmld.cache.index import FileRow, encode, set_meta
from swmld.cache.keeping import Kept
from swmld.types import Identity


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
            db.execute(
                "UPDATE files SET pinned=(pinned & ~1) | ? WHERE file_id=?", (int(self.pinned), self.file_id)
            )
        return 0, 0


@dataclass(slots=True)
class SetKept(Op):
    """What is decided about a file's eviction, but for a pin by hand, which stays as it is.

    ``changed`` gets what held before and what holds now, unless that is the same: then nothing is written.
    """

    file_id: int
    kept: Kept
    changed: Callable[[Kept, Kept], None]
    before: Kept | None = None

    def apply(self, db: sqlite3.Connection) -> tuple[int, int]:
        row = db.execute("SELECT pinned FROM files WHERE file_id=?", (self.file_id,)).fetchone()
        if row is None:
            return 0, 0
        before = Kept.of(row[0])
        self.kept = self.kept._replace(by_hand=before.by_hand)
        if self.kept != before:
            self.before = before
            db.execute("UPDATE files SET pinned=? WHERE file_id=?", (self.kept.code, self.file_id))
        return 0, 0

    def done(self) -> None:
        if self.before is not None:
            self.changed(self.before, self.kept)


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
