"""The index: which files and chunks the cache holds, in SQLite.

Reads go through a small pool of connections and never wait for a write (WAL); every statement here is
served by an index, so that a start with a million files reads a handful of rows. Writes are values (``Op``)
that one writer thread applies in order, in groups (``swmld.cache.writer``).

``synchronous=NORMAL``: a killed daemon loses no committed group (it is in the page cache), a power cut may
lose the last ones but keeps the file consistent. Two facts must outlive a power cut and are committed with
``synchronous=FULL``: which file ids were given out (they are never used twice, so an old data file is never
taken for a new one) and the clean mark.

Numbers that do not fit SQLite's signed 64 bits (inode numbers of some network file systems, times after 2262)
are kept as text; the columns have no type, so that both compare exactly.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from swmld.cache.exclusive import connect_alone
from swmld.cache.keeping import (
    INDEXES,
    OLD_INDEXES,
    PROBATION_BYTES,
    Kept,
    Line,
    Place,
    line_queries,
)
from swmld.types import Identity

T = TypeVar("T")

SCHEMA = f"""
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE sources(source INTEGER PRIMARY KEY, source_key TEXT UNIQUE NOT NULL);
CREATE TABLE files(
    file_id INTEGER PRIMARY KEY AUTOINCREMENT, source INTEGER NOT NULL,
    dev, ino, size INTEGER NOT NULL, mtime_ns, ctime_ns, path BLOB NOT NULL,
    chunk_size INTEGER NOT NULL, bytes INTEGER NOT NULL DEFAULT 0,
    nchunks INTEGER NOT NULL, present INTEGER NOT NULL DEFAULT 0,
    last_used REAL NOT NULL, pinned INTEGER NOT NULL DEFAULT 0,
    session_first INTEGER NOT NULL, session INTEGER NOT NULL);
CREATE UNIQUE INDEX files_identity ON files(source, dev, ino);
{INDEXES}CREATE TABLE chunks(
    file_id INTEGER NOT NULL, chunk INTEGER NOT NULL, crc INTEGER NOT NULL, session INTEGER NOT NULL,
    PRIMARY KEY(file_id, chunk)) WITHOUT ROWID;
INSERT INTO meta VALUES ('schema', 1), ('bytes', 0), ('files', 0), ('next_id', 1), ('session', 0),
    ('clean_session', 0), ('clean', 1), ('boot_id', ''), ('suspect', '[]'), ('probation', 0);
"""
# From an older version: the lines served by indexes it did not have. Once, about 1 s a million files.
_TAKE_OVER = f"""
{"".join(f"DROP INDEX IF EXISTS {name};" for name in OLD_INDEXES)}
DROP INDEX IF EXISTS files_line; DROP INDEX IF EXISTS files_expiry;
{INDEXES}INSERT OR REPLACE INTO meta SELECT 'probation', {PROBATION_BYTES} FROM files;
"""

_COLUMNS = (
    "file_id, source, dev, ino, size, mtime_ns, ctime_ns, path, chunk_size, bytes, nchunks, present,"
    " last_used, pinned, session_first, session"
)
_BY_KEY = f"SELECT {_COLUMNS} FROM files WHERE source=? AND dev=? AND ino=?"
_BY_ID = f"SELECT {_COLUMNS} FROM files WHERE file_id=?"
_IN_LINE = {line: line_queries(line, _COLUMNS) for line in Line}

# Ids are taken from the index in blocks, so that making a file needs no write of its own.
ID_BLOCK = 4096

# A reader keeps this much of the index in memory; more would be a second page cache.
_READER_CACHE_KIB = 1024
_WRITER_CACHE_KIB = 16384
_KEPT_READERS = 8


def encode(number: int) -> int | str:
    """``number`` as SQLite can hold it exactly."""
    return number if -(1 << 63) <= number < (1 << 63) else str(number)


class FileRow(NamedTuple):
    """One row of ``files``. ``session_first``…``session`` spans the sessions that wrote its chunks."""

    file_id: int
    source: int
    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int
    path: bytes
    chunk_size: int
    bytes: int
    nchunks: int
    present: int
    last_used: float
    pinned: int
    session_first: int
    session: int

    @property
    def identity(self) -> Identity:
        """The source file generation that this row is of."""
        return Identity(int(self.dev), int(self.ino), self.size, int(self.mtime_ns), int(self.ctime_ns))

    @property
    def kept(self) -> Kept:
        """What is decided about its eviction."""
        return Kept.of(self.pinned)

    def place(self, line: Line) -> Place:
        """Its place in ``line``."""
        moment = self.last_used + (self.kept.ttl if line is Line.EXPIRED else 0)
        return Place(line, moment, self.file_id)


@dataclass(slots=True)
class Trust:
    """Which sessions' chunks cannot be trusted: closed ranges of session numbers.

    A session is one life of a daemon, or the time between two clean marks. The range from the last clean
    mark to the last session becomes suspect when the machine went down in between.
    """

    ranges: list[tuple[int, int]] = field(default_factory=list)

    # More ranges than this (one per unclean boot) are joined: a few more chunks get verified, nothing else.
    LIMIT = 16

    def suspects(self, first: int, last: int) -> bool:
        """Whether any session in ``first…last`` is suspect."""
        return any(first <= high and last >= low for low, high in self.ranges)

    def add(self, first: int, last: int) -> None:
        """Make ``first…last`` suspect."""
        if first > last:
            return
        self.ranges.append((first, last))
        if len(self.ranges) > self.LIMIT:
            self.ranges = [(self.ranges[0][0], self.ranges[1][1]), *self.ranges[2:]]


@dataclass(slots=True)
class Start:
    """What the index said when it was opened."""

    session: int
    source: int
    unclean: bool
    files: int
    bytes: int
    probation: int
    first_id: int
    trust: Trust


def connect(path: Path, cache_kib: int, *, readonly: bool = False) -> sqlite3.Connection:
    """A connection for one role; see ``connect_alone``."""
    db = connect_alone(path, timeout=10, cached_statements=64)
    db.execute(f"PRAGMA cache_size=-{cache_kib}")
    if readonly:
        db.execute("PRAGMA query_only=1")
    return db


class Index:
    """The index of one cache directory: its start-up, its reads, and the writer's connection."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pool: list[sqlite3.Connection] = []
        self.writer_db = connect(path, _WRITER_CACHE_KIB)
        try:
            self._prepare(self.writer_db)
        except BaseException:
            self.writer_db.close()
            raise

    @staticmethod
    def _prepare(db: sqlite3.Connection) -> None:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        # About 16 MB between checkpoints: each costs an fsync of the index, in the writer thread.
        db.execute("PRAGMA wal_autocheckpoint=4000")
        db.execute("PRAGMA journal_size_limit=67108864")
        if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            db.executescript(f"BEGIN;{SCHEMA}COMMIT;")
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        if "files_line" not in names or names.intersection(OLD_INDEXES):
            db.executescript(f"BEGIN;{_TAKE_OVER}COMMIT;")
        # Touch every table: one that is missing or unreadable must be found now.
        for table in ("sources", "files", "chunks"):
            db.execute(f"SELECT * FROM {table} LIMIT 1").fetchone()
        if db.execute("SELECT count(*) FROM meta").fetchone()[0] < 10:
            raise sqlite3.DatabaseError("index has lost its meta rows")

    def start(self, source_key: str, boot_id: str) -> Start:
        """Begin a session: a new number, a block of file ids, and what an unclean boot made suspect."""
        db = self.writer_db
        with transaction(db, durable=True):
            meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
            trust = Trust([(low, high) for low, high in json.loads(meta["suspect"])])
            unclean = not meta["clean"]
            if unclean and meta["boot_id"] != boot_id:
                trust.add(meta["clean_session"] + 1, meta["session"])
            db.execute("INSERT OR IGNORE INTO sources(source_key) VALUES (?)", (source_key,))
            (source,) = db.execute("SELECT source FROM sources WHERE source_key=?", (source_key,)).fetchone()
            session, first_id = meta["session"] + 1, meta["next_id"]
            set_meta(db, session=session, clean=0, boot_id=boot_id, suspect=json.dumps(trust.ranges))
            set_meta(db, next_id=first_id + ID_BLOCK)
        counts = meta["files"], meta["bytes"], meta["probation"]
        return Start(session, source, unclean, *counts, first_id, trust)

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """``work(connection)`` on a reader of its own. Raises ``sqlite3.Error``."""
        try:
            db = self._pool.pop()
        except IndexError:
            db = connect(self.path, _READER_CACHE_KIB, readonly=True)
        try:
            return work(db)
        finally:
            if len(self._pool) < _KEPT_READERS:
                self._pool.append(db)
            else:
                db.close()

    def by_key(self, source: int, dev: int, ino: int) -> FileRow | None:
        """The row of a source inode; one exists for all its generations."""
        key = (source, encode(dev), encode(ino))
        row = self.read(lambda db: db.execute(_BY_KEY, key).fetchone())
        return FileRow(*row) if row else None

    def known_inodes(self, source: int, dev: int, inos: Sequence[int]) -> set[int]:
        """Those of some source inodes of one device that have a row."""
        marks = ",".join("?" * len(inos))
        query = f"SELECT ino FROM files WHERE source=? AND dev=? AND ino IN ({marks})"
        key = (source, encode(dev), *map(encode, inos))
        return {int(ino) for (ino,) in self.read(lambda db: db.execute(query, key).fetchall())}

    def text(self, key: str) -> str:
        """A row of ``meta`` that is kept by ``changes.KeepText``; empty: there is none."""
        query = "SELECT value FROM meta WHERE key=?"
        row = self.read(lambda db: db.execute(query, (key,)).fetchone())
        return str(row[0]) if row else ""

    def by_id(self, file_id: int) -> FileRow | None:
        """The row of ``file_id``."""
        row = self.read(lambda db: db.execute(_BY_ID, (file_id,)).fetchone())
        return FileRow(*row) if row else None

    def chunks(self, file_id: int) -> list[tuple[int, int, int]]:
        """``(chunk, session, stored)`` of every chunk of a file; ``stored`` as in ``crc``."""
        query = "SELECT chunk, session, crc >> 32 FROM chunks WHERE file_id=?"
        return self.read(lambda db: db.execute(query, (file_id,)).fetchall())

    def crc(self, file_id: int, chunk: int) -> int | None:
        """The checksum of a chunk; above its 32 bits, where chunks are compressed, how many bytes are stored
        (in the same column, so that the format is the same)."""
        query = "SELECT crc FROM chunks WHERE file_id=? AND chunk=?"
        row = self.read(lambda db: db.execute(query, (file_id, chunk)).fetchone())
        return row[0] if row else None

    def any_suspect(self, file_id: int, trust: Trust) -> bool:
        """Whether a chunk of the file was written in a suspect session."""
        query = "SELECT 1 FROM chunks WHERE file_id=? AND session BETWEEN ? AND ? LIMIT 1"
        return any(
            self.read(lambda db, span=span: db.execute(query, (file_id, *span)).fetchone())  # type: ignore[misc]
            for span in trust.ranges
        )

    def oldest(self, after: Place, limit: int, now: float) -> list[FileRow]:
        """Files of all sources in one line, from after a place; of EXPIRED, those that are at ``now``."""
        same_moment, later = _IN_LINE[after.line]
        values = {"moment": after.moment, "after": after.file_id, "now": now}

        def work(db: sqlite3.Connection) -> list[FileRow]:
            rows = db.execute(same_moment, {**values, "limit": limit}).fetchall()
            rows += db.execute(later, {**values, "limit": limit - len(rows)}).fetchall()
            return [FileRow(*row) for row in rows]

        return self.read(work)

    def scan(self, source: int, prefix: bytes, batch: int = 512) -> Iterator[FileRow]:
        """Files at or below ``prefix`` (components, empty for all), by file id.

        Reads in batches, so that no reader holds an old view of the index for long (that would keep the
        write-ahead log from being used again).
        """
        # The plus keeps SQLite from going by source, which would sort all of its files for each batch.
        where = ""
        values: tuple[bytes, ...] = ()
        if prefix:
            where = " AND (path=? OR (path>? AND path<?))"
            values = (prefix, prefix + b"/", prefix + b"0")  # "0" follows "/" in ASCII
        query = f"SELECT {_COLUMNS} FROM files WHERE file_id>? AND +source=?{where}"
        query += f" ORDER BY file_id LIMIT {batch}"
        after = 0
        while True:
            params = (after, source, *values)
            rows = self.read(lambda db, params=params: db.execute(query, params).fetchall())  # type: ignore[misc]
            for row in rows:
                yield FileRow(*row)
            if len(rows) < batch:
                return
            after = rows[-1][0]

    def known_ids(self, ids: list[int]) -> set[int]:
        """Those of ``ids`` that have a row."""
        known: set[int] = set()
        for start in range(0, len(ids), 500):
            part = ids[start : start + 500]
            marks = ",".join("?" * len(part))
            query = f"SELECT file_id FROM files WHERE file_id IN ({marks})"
            known.update(
                row[0]
                for row in self.read(lambda db, q=query, p=part: db.execute(q, p).fetchall())  # type: ignore[misc]
            )
        return known

    def close(self) -> None:
        """Close every connection; nobody may be reading."""
        while self._pool:
            self._pool.pop().close()
        self.writer_db.close()


def set_meta(db: sqlite3.Connection, **values: int | str) -> None:
    """Set rows of ``meta``; within the caller's transaction."""
    db.executemany("UPDATE meta SET value=? WHERE key=?", [(value, key) for key, value in values.items()])


@contextlib.contextmanager
def transaction(db: sqlite3.Connection, *, durable: bool = False) -> Iterator[None]:
    """One transaction; ``durable`` costs an fsync and then no power cut can undo it."""
    if durable:
        db.execute("PRAGMA synchronous=FULL")
    try:
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            # A full disk may have rolled it back already.
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
    finally:
        if durable:
            db.execute("PRAGMA synchronous=NORMAL")
