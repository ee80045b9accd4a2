"""Changes of the index, as values: what the writer applies, in the order in which they were put.

Changes that only remember something may be lost to a full disk; those that take something back (``must``) may
not.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeVar

from swmld.cache.index import FileRow, encode, set_meta
from swmld.cache.keeping import PROBATION_BYTES, Kept, on_probation

T = TypeVar("T")


class Change(NamedTuple):
    """By how much the totals change: bytes of chunks, files, and what files on probation hold in all."""

    bytes: int = 0
    files: int = 0
    probation: int = 0

    def plus(self, other: Change) -> Change:
        return Change(self.bytes + other.bytes, self.files + other.files, self.probation + other.probation)


NOTHING = Change()


class Op:
    """One change of the index. ``apply`` returns what it changes in all."""

    must: ClassVar[bool] = False
    durable: ClassVar[bool] = False
    alone: ClassVar[bool] = False
    """Needs the totals as they stand, so not in one transaction with others."""

    def apply(self, db: sqlite3.Connection) -> Change:
        raise NotImplementedError

    def done(self) -> None:
        """Called in the writer thread once the change is committed, or lost."""


def _delete(db: sqlite3.Connection, file_id: int) -> Change:
    db.execute("DELETE FROM chunks WHERE file_id=?", (file_id,))
    gone = db.execute("DELETE FROM files WHERE file_id=? RETURNING pinned, bytes", (file_id,)).fetchone()
    return Change(-gone[1], -1, -on_probation(*gone)) if gone else NOTHING


def _grow(
    db: sqlite3.Connection, file_id: int, change: str, values: tuple[object, ...], by: int
) -> Change | None:
    """Change a row by whose change its file holds ``by`` bytes more; None: there is no such row."""
    query = f"UPDATE files SET {change}, bytes=bytes+? WHERE file_id=? RETURNING pinned, bytes"
    row = db.execute(query, (*values, by, file_id)).fetchone()
    if row is None:
        return None
    return Change(by, 0, on_probation(*row) - on_probation(row[0], row[1] - by))


def _keep(
    db: sqlite3.Connection, file_id: int, change: Callable[[Kept], Kept]
) -> tuple[Change, Kept, Kept] | None:
    """Change how a file is kept: with what held before and holds now; None: it is gone."""
    row = db.execute("SELECT pinned, bytes FROM files WHERE file_id=?", (file_id,)).fetchone()
    if row is None:
        return None
    before = Kept.of(row[0])
    now = change(before)
    if now == before:
        return NOTHING, before, now
    db.execute("UPDATE files SET pinned=? WHERE file_id=?", (now.code, file_id))
    return Change(probation=on_probation(now.code, row[1]) - on_probation(*row)), before, now


@dataclass(slots=True)
class AddFile(Op):
    """A new generation. One that still stands under the same inode (its drop could not be written) goes."""

    row: FileRow

    def apply(self, db: sqlite3.Connection) -> Change:
        row = self.row
        key = (row.source, encode(row.dev), encode(row.ino))
        old = db.execute("SELECT file_id FROM files WHERE source=? AND dev=? AND ino=?", key).fetchone()
        change = _delete(db, old[0]) if old else NOTHING
        values = list(row)
        values[2:4] = key[1:]
        values[5:7] = encode(row.mtime_ns), encode(row.ctime_ns)
        db.execute(f"INSERT INTO files VALUES ({','.join('?' * len(values))})", values)
        return change.plus(Change(row.bytes, 1, on_probation(row.pinned, row.bytes)))


@dataclass(slots=True)
class AddFiles(Op):
    """New generations with the chunks that came of them in the same group, as of ``joined``; each of another
    inode."""

    rows: list[FileRow]
    chunks: list[tuple[int, int, int, int]]
    """File id, chunk, checksum, session."""

    def apply(self, db: sqlite3.Connection) -> Change:
        change = NOTHING
        for rows in _parts(self.rows):
            change = change.plus(self._add(db, rows))
        for chunks in _parts(self.chunks):
            db.execute(f"INSERT OR REPLACE INTO chunks VALUES {_places(len(chunks), 4)}", _flat(chunks))
        return change

    @staticmethod
    def _add(db: sqlite3.Connection, rows: list[FileRow]) -> Change:
        change = NOTHING
        values: list[object] = []
        inodes: dict[tuple[int, int | str], list[int | str]] = {}
        for row in rows:
            encoded: list[object] = list(row)
            dev, ino = encode(row.dev), encode(row.ino)
            encoded[2:4] = dev, ino
            encoded[5:7] = encode(row.mtime_ns), encode(row.ctime_ns)
            inodes.setdefault((row.source, dev), []).append(ino)
            values += encoded
            change = change.plus(Change(row.bytes, 1, on_probation(row.pinned, row.bytes)))
        for key, inos in inodes.items():
            # One index, as long as no row values are compared (SQLite then reads all of it).
            query = f"SELECT file_id FROM files WHERE source=? AND dev=? AND ino IN {_places(1, len(inos))}"
            for (old,) in db.execute(query, (*key, *inos)).fetchall():
                change = change.plus(_delete(db, old))
        db.execute(f"INSERT INTO files VALUES {_places(len(rows), len(rows[0]))}", values)
        return change


@dataclass(slots=True)
class AddChunks(Op):
    """Chunks that came of files made before, as of ``joined``."""

    files: list[tuple[int, int, int, int]]
    """File id, each once; chunks that came, bytes of them, session of the last."""
    chunks: list[tuple[int, int, int, int]]
    """As in ``AddFiles``."""

    def apply(self, db: sqlite3.Connection) -> Change:
        change = NOTHING
        for files in _parts(self.files):
            change = change.plus(self._grow(db, files))
        for chunks in _parts(self.chunks):
            db.execute(
                f"INSERT OR REPLACE INTO chunks SELECT * FROM (VALUES {_places(len(chunks), 4)})"
                " WHERE column1 IN (SELECT file_id FROM files)",
                _flat(chunks),
            )
        return change

    @staticmethod
    def _grow(db: sqlite3.Connection, files: list[tuple[int, int, int, int]]) -> Change:
        ids = [file[0] for file in files]
        sums = (
            f"SELECT coalesce(sum(bytes), 0), {PROBATION_BYTES} FROM files"
            f" WHERE file_id IN {_places(1, len(ids))}"
        )
        bytes_before, probation_before = db.execute(sums, ids).fetchone()
        db.execute(
            "UPDATE files SET present=present+column2, bytes=bytes+column3, session=column4"
            f" FROM (VALUES {_places(len(files), 4)}) WHERE file_id=column1",
            _flat(files),
        )
        nbytes, probation = db.execute(sums, ids).fetchone()
        return Change(nbytes - bytes_before, 0, probation - probation_before)


def _flat(rows: list[tuple[int, int, int, int]]) -> list[int]:
    return [value for row in rows for value in row]


def _parts(rows: list[T]) -> Iterator[list[T]]:
    """In numbers of which there are few, since the connection keeps only so many statements prepared."""
    at = 0
    for number in (32, 8, 1):
        while len(rows) - at >= number:
            yield rows[at : at + number]
            at += number


def _places(rows: int, columns: int) -> str:
    row = f"({','.join('?' * columns)})"
    return ",".join([row] * rows)


def joined(ops: list[Op]) -> list[Op]:
    """The same changes with fewer statements, since each costs the interpreter's lock several times: new
    files with the chunks that came of them as one change, then the chunks of files made before as another,
    then all others. What these say of a file follows its making and its growth as ever; what they say of a
    generation that a new one replaces finds that gone, which is what it was to come to."""
    rows: dict[int, FileRow] = {}
    inodes: set[tuple[int, int, int]] = set()
    chunks: list[tuple[int, int, int, int]] = []
    grown: dict[int, tuple[int, int, int, int]] = {}
    more: list[tuple[int, int, int, int]] = []
    shrunk: set[int] = set()
    rest: list[Op] = []
    for op in ops:
        if isinstance(op, AddFile):
            key = op.row.source, op.row.dev, op.row.ino
            if key in inodes:  # two generations in one group, with a drop between them
                return ops
            inodes.add(key)
            rows[op.row.file_id] = op.row
        elif isinstance(op, AddChunk) and op.new:
            chunk = op.file_id, op.chunk, op.crc, op.session
            if (row := rows.get(op.file_id)) is not None:
                rows[op.file_id] = row._replace(
                    bytes=row.bytes + op.more, present=row.present + 1, session=op.session
                )
                chunks.append(chunk)
            else:
                _, count, nbytes, _ = grown.get(op.file_id, (0, 0, 0, 0))
                grown[op.file_id] = op.file_id, count + 1, nbytes + op.more, op.session
                more.append(chunk)
        elif isinstance(op, MoveFile) or (isinstance(op, RemoveChunk | DropFile) and op.file_id in rows):
            return ops  # the number that a file leaves may be another one's in the same group
        else:
            if isinstance(op, RemoveChunk):
                shrunk.add(op.file_id)
            rest.append(op)
    if len(rows) + len(grown) <= 1 or shrunk & grown.keys():  # a chunk may have been removed and come again
        return ops
    first: list[Op] = []
    if rows:
        first.append(AddFiles(list(rows.values()), chunks))
    if grown:
        first.append(AddChunks(list(grown.values()), more))
    return first + rest


@dataclass(slots=True)
class AddChunk(Op):
    """A chunk's bytes are in the file, by which it holds ``more`` bytes; ``new`` is 0 where a suspect chunk
    was fetched again. ``crc``: as ``Index.crc`` has it."""

    file_id: int
    chunk: int
    crc: int
    more: int
    session: int
    new: int

    def apply(self, db: sqlite3.Connection) -> Change:
        values = (self.new, self.session)
        change = _grow(db, self.file_id, "present=present+?, session=?", values, self.more)
        if change is None:  # its AddFile was lost to a full disk
            return NOTHING
        db.execute(
            "INSERT OR REPLACE INTO chunks VALUES (?,?,?,?)",
            (self.file_id, self.chunk, self.crc, self.session),
        )
        return change


@dataclass(slots=True)
class RemoveChunk(Op):
    """A chunk was found bad."""

    must: ClassVar[bool] = True
    file_id: int
    chunk: int
    length: int

    def apply(self, db: sqlite3.Connection) -> Change:
        gone = db.execute("DELETE FROM chunks WHERE file_id=? AND chunk=?", (self.file_id, self.chunk))
        if not gone.rowcount:
            return NOTHING
        return _grow(db, self.file_id, "present=present-1", (), -self.length) or NOTHING


@dataclass(slots=True)
class TrustChunk(Op):
    """A suspect chunk's checksum held: it counts as written in this session."""

    file_id: int
    chunk: int
    session: int

    def apply(self, db: sqlite3.Connection) -> Change:
        db.execute(
            "UPDATE chunks SET session=? WHERE file_id=? AND chunk=?",
            (self.session, self.file_id, self.chunk),
        )
        return NOTHING


@dataclass(slots=True)
class Respan(Op):
    """Work out anew which sessions wrote a file, once its last suspect chunk is settled."""

    file_id: int
    session: int

    def apply(self, db: sqlite3.Connection) -> Change:
        db.execute(
            "UPDATE files SET session=?2, session_first="
            "coalesce((SELECT min(session) FROM chunks WHERE file_id=?1), ?2) WHERE file_id=?1",
            (self.file_id, self.session),
        )
        return NOTHING


@dataclass(slots=True)
class DropFile(Op):
    """A generation goes; ``forget`` runs when it has gone."""

    must: ClassVar[bool] = True
    file_id: int
    forget: Callable[[], None]

    def apply(self, db: sqlite3.Connection) -> Change:
        return _delete(db, self.file_id)

    def done(self) -> None:
        self.forget()


@dataclass(slots=True)
class Touch(Op):
    """A file was used (``None``: not noted); ``settled`` runs when all before it is in the index. ``again``:
    it is to be protected, which holds for what is kept NORMAL alone."""

    file_id: int
    last_used: float | None
    settled: Callable[[], None] | None = None
    again: bool = False

    def apply(self, db: sqlite3.Connection) -> Change:
        if self.last_used is not None:
            db.execute("UPDATE files SET last_used=? WHERE file_id=?", (self.last_used, self.file_id))
        found = _keep(db, self.file_id, Kept.used_again) if self.again else None
        return found[0] if found else NOTHING

    def done(self) -> None:
        if self.settled is not None:
            self.settled()


@dataclass(slots=True)
class SetPath(Op):
    """The source file was seen under another name."""

    file_id: int
    path: bytes

    def apply(self, db: sqlite3.Connection) -> Change:
        db.execute("UPDATE files SET path=? WHERE file_id=?", (self.path, self.file_id))
        return NOTHING


@dataclass(slots=True)
class MoveFile(Op):
    """The source file has another inode number now, and another name; ``forget`` runs when the old number has
    none here. What still stands under the new one goes, as of ``AddFile``."""

    file_id: int
    source: int
    dev: int
    ino: int
    path: bytes
    forget: Callable[[], None]

    def apply(self, db: sqlite3.Connection) -> Change:
        ino = encode(self.ino)
        key = (self.source, encode(self.dev), ino)
        old = db.execute("SELECT file_id FROM files WHERE source=? AND dev=? AND ino=?", key).fetchone()
        change = _delete(db, old[0]) if old and old[0] != self.file_id else NOTHING
        db.execute("UPDATE files SET ino=?, path=? WHERE file_id=?", (ino, self.path, self.file_id))
        return change

    def done(self) -> None:
        self.forget()


@dataclass(slots=True)
class KeepText(Op):
    """A row of ``meta`` that may be lost."""

    key: str
    text: str

    def apply(self, db: sqlite3.Connection) -> Change:
        db.execute("INSERT OR REPLACE INTO meta VALUES (?,?)", (self.key, self.text))
        return NOTHING


@dataclass(slots=True)
class Pin(Op):
    """Pinned by hand, or not any more."""

    file_id: int
    pinned: bool

    def apply(self, db: sqlite3.Connection) -> Change:
        found = _keep(db, self.file_id, lambda before: before._replace(by_hand=self.pinned))
        return found[0] if found else NOTHING


@dataclass(slots=True)
class SetKept(Op):
    """What is decided about a file's eviction, but for a pin by hand, which stays as it is.

    ``changed`` gets what held before and what holds now, unless that is the same: then nothing is written.
    """

    file_id: int
    kept: Kept
    changed: Callable[[Kept, Kept], None]
    before: Kept | None = None

    def apply(self, db: sqlite3.Connection) -> Change:
        found = _keep(db, self.file_id, self.kept.after)
        if found is None:
            return NOTHING
        change, self.before, self.kept = found
        return change

    def done(self) -> None:
        if self.before is not None and self.before != self.kept:
            self.changed(self.before, self.kept)


@dataclass(slots=True)
class CloseFd(Op):
    """Close a file that was unlinked: freeing a large one takes long, so not in the event loop."""

    fd: int

    def apply(self, db: sqlite3.Connection) -> Change:
        return NOTHING

    def done(self) -> None:
        os.close(self.fd)


@dataclass(slots=True)
class Recount(Op):
    """Work out the totals from the rows, after an unclean stop; ``counted`` gets the change (bytes,
    files)."""

    alone: ClassVar[bool] = True
    counted: Callable[[int, int], None]
    change: Change = NOTHING

    def apply(self, db: sqlite3.Connection) -> Change:
        meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
        query = f"SELECT coalesce(sum(bytes), 0), count(*), {PROBATION_BYTES} FROM files"
        nbytes, files, probation = db.execute(query).fetchone()
        self.change = Change(nbytes - meta["bytes"], files - meta["files"], probation - meta["probation"])
        return self.change

    def done(self) -> None:
        self.counted(self.change.bytes, self.change.files)


@dataclass(slots=True)
class SetMeta(Op):
    """Rows of ``meta`` that a power cut may not undo (ids given out, clean marks)."""

    must: ClassVar[bool] = True
    durable: ClassVar[bool] = True
    values: dict[str, int | str]
    committed: bool = False

    def apply(self, db: sqlite3.Connection) -> Change:
        set_meta(db, **self.values)
        return NOTHING

    def done(self) -> None:
        self.committed = True
