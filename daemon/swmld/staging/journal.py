"""What is staged, in SQLite: it outlives the daemon, and what was made durable a power cut, too.

A row is there before the first byte of its file. Most commits are not synced (a killed daemon loses none,
they are in the page cache); ``durable`` ones are, and with them all before.

Where the disk or a quota is full, what somebody waits for is refused: ENOSPC or EDQUOT. What only tells what
has happened is noted later, in its turn (``_note``): uploads go on, and make room. After a kill in between
such a file is taken as it was before, and kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from swmld.cache.exclusive import connect_alone
from swmld.sources.interface import Attributes
from swmld.staging.disk import why_refused

log = logging.getLogger(__name__)

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

FILLING = "filling"
"""As a row's stamp: it is being fetched, nobody has changed it yet."""

PAGES = 4000
"""Of 4 KiB, after which the log is put into the table, which syncs both: about each 500 small files."""

_Statement = tuple[str, tuple[object, ...]]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS staged(
    number INTEGER PRIMARY KEY AUTOINCREMENT, path BLOB NOT NULL, base TEXT, turn INTEGER NOT NULL DEFAULT 0,
    made INTEGER NOT NULL DEFAULT 0, synced INTEGER NOT NULL DEFAULT -1, token TEXT NOT NULL DEFAULT '',
    sent TEXT NOT NULL DEFAULT '', boot TEXT NOT NULL, aside TEXT NOT NULL DEFAULT '',
    stamp TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS marks(number INTEGER NOT NULL);
INSERT INTO marks SELECT 0 WHERE NOT EXISTS (SELECT * FROM marks);
"""
_COLUMNS = "number, path, base, turn, made, synced, token, sent, boot, aside, stamp"


@dataclass(frozen=True, slots=True)
class Row:
    """One staged file, ``number`` in its directory."""

    number: int
    path: bytes
    base: Attributes | None
    """The generation at the source that it replaces; None: there is none."""
    turn: int = 0
    """In which order files are uploaded; 0: it is not to be uploaded as it is, nobody closed or synced it."""
    made: int = 0
    """How often the source has got it."""
    synced: bool = False
    """It was on the disk once since then, whole as it was at that time."""
    token: str = ""
    """Of an upload that may have been made; empty: there is none."""
    sent: str = ""
    """The stamp of the bytes that the token is of; empty: it cannot be told."""
    boot: str = ""
    """The kernel's boot id when it was made, or last uploaded."""
    aside: str = ""
    """Why it is not uploaded but kept for a person to look at; empty: it is not."""
    stamp: str = ""
    """Of what the source has of it, as ``Stamp.text``, or ``FILLING``; empty: the source has it not."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A row that is another path's now."""

    number: int
    path: bytes
    base: Attributes | None


def boot_id() -> str:
    """Another one after each boot."""
    return BOOT_ID.read_text().strip()


class Journal:
    """The rows. Blocking; any thread. After ``close`` what happens is not noted, and what has to be noted is
    EIO."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._late: deque[list[_Statement]] = deque()
        """What could not be noted yet, each to be noted as a whole."""
        self._told = False
        self._directory = path.parent
        self._boot = boot_id()
        self._closed = False
        self._db = connect_alone(path)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute(f"PRAGMA wal_autocheckpoint={PAGES}")
        self._db.executescript(_SCHEMA)

    def rows(self) -> list[Row]:
        """All of them, those first that are uploaded first."""
        with self._lock:
            found = self._db.execute(f"SELECT {_COLUMNS} FROM staged ORDER BY turn, number").fetchall()
        return [
            Row(n, path, _decoded(base), turn, made, synced == made, token, sent, boot, aside, stamp)
            for n, path, base, turn, made, synced, token, sent, boot, aside, stamp in found
        ]

    def add(self, path: bytes, base: Attributes | None, stamp: str = "", token: str = "") -> int:
        """The number of a new row. Numbers are given once. ``token``: of the upload that is made next."""
        statement = "INSERT INTO staged(path, base, boot, stamp, token) VALUES (?, ?, ?, ?, ?)"
        with self._lock:
            self._check()
            cursor = self._now(statement, (path, _encoded(base), self._boot, stamp, token))
            return int(cursor.lastrowid or 0)

    def move(self, moved: Iterable[Moved], over: int | None = None) -> None:
        """They are other paths' now, and the row ``over`` is not needed any more: all of it or nothing."""
        statements: list[_Statement] = []
        if over is not None:
            statements.append(("DELETE FROM staged WHERE number=?", (over,)))
        for one in moved:
            values = (one.path, _encoded(one.base), one.number)
            statements.append(("UPDATE staged SET path=?, base=? WHERE number=?", values))
        self._note(statements)

    def queue(self, number: int, turn: int, *, waits: bool = False) -> None:
        """It is to be uploaded when its turn comes. ``waits``: somebody has to be told if that could not be
        noted; OSError."""
        statement = "UPDATE staged SET turn=? WHERE number=?"
        if not waits:
            self._do(statement, turn, number)
            return
        with self._lock:
            if not self._closed:
                self._now(statement, (turn, number))

    def uploading(self, number: int, token: str, sent: str) -> None:
        """An upload with this token begins, of the bytes with that stamp."""
        self._do("UPDATE staged SET token=?, sent=? WHERE number=?", token, sent, number)

    def replaces(self, number: int, base: Attributes) -> None:
        """The upload was made, of bytes that may not be those of now."""
        self._do("UPDATE staged SET base=?, token='', sent='' WHERE number=?", _encoded(base), number)

    def same(self, number: int, base: Attributes, stamp: str, turn: int, made: int) -> None:
        """That is what the source has of it now, for the ``made``-th time, and with that stamp it is the same
        here. ``turn``: of what was written since."""
        self._do(
            "UPDATE staged SET base=?, stamp=?, token='', sent='', turn=?, made=?, boot=? WHERE number=?",
            _encoded(base), stamp, turn, made, self._boot, number,
        )  # fmt: skip

    def put_aside(self, number: int, why: str) -> None:
        """It is kept, and not uploaded."""
        self._do("UPDATE staged SET aside=? WHERE number=?", why, number)

    def remove(self, number: int) -> None:
        """It is not needed any more."""
        self._do("DELETE FROM staged WHERE number=?", number)

    def synced(self, number: int, made: int, token: str, sent: str) -> None:
        """The bytes that it has since the source got it for the ``made``-th time are on the disk; so is this,
        afterwards, with the token of their upload: if that is made and forgotten, it is found out by it."""
        self._durable("UPDATE staged SET synced=?, token=?, sent=? WHERE number=?", made, token, sent, number)

    def durable(self) -> None:
        """All that was said before is on the disk afterwards."""
        self._durable("UPDATE marks SET number=number+1")

    def _do(self, statement: str, *values: object) -> None:
        self._note([(statement, values)])

    def _note(self, statements: list[_Statement]) -> None:
        """Now, or as soon as the disk takes it."""
        with self._lock:
            if self._closed:
                return
            self._late.append(statements)
            try:
                self._catch_up()
            except OSError as error:
                if not self._told:
                    self._told = True
                    log.warning("%s; what happens to staged files is noted when there is room", error)

    def _catch_up(self) -> None:
        """OSError: not all could be noted."""
        while self._late:
            statements = self._late[0]
            with self._on_disk():
                if len(statements) == 1:
                    self._db.execute(*statements[0])
                else:
                    self._all_or_nothing(statements)
            self._late.popleft()

    def _all_or_nothing(self, statements: list[_Statement]) -> None:
        self._db.execute("BEGIN")
        try:
            for statement in statements:
                self._db.execute(*statement)
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # SQLite ends it by itself after some errors
                self._db.execute("ROLLBACK")
            raise

    def _now(self, statement: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        """After all that came before; OSError."""
        self._catch_up()
        with self._on_disk():
            return self._db.execute(statement, values)

    @contextlib.contextmanager
    def _on_disk(self) -> Iterator[None]:
        """What the disk refuses is an OSError."""
        try:
            yield
        except sqlite3.OperationalError as error:
            code = error.sqlite_errorcode & 0xFF
            if code == sqlite3.SQLITE_FULL:
                raise OSError(errno.ENOSPC, f"staging journal: {error}") from error
            if code == sqlite3.SQLITE_IOERR:  # SQLite tells of no quota
                raise OSError(why_refused(self._directory), f"staging journal: {error}") from error
            raise

    def _durable(self, statement: str, *values: object) -> None:
        with self._lock:
            self._check()
            self._db.execute("PRAGMA synchronous=FULL")
            try:
                self._now(statement, values)
            finally:
                self._db.execute("PRAGMA synchronous=NORMAL")

    def _check(self) -> None:
        if self._closed:
            raise OSError(errno.EIO, "the staging area is closed")

    def close(self) -> None:
        """Ends the connection."""
        with self._lock:
            self._closed = True
            with contextlib.suppress(OSError):
                self._catch_up()
            self._db.close()


_BYTES = ("tag", "stem", "link")
_OTHERS = [field.name for field in dataclasses.fields(Attributes) if field.name not in _BYTES]


def _encoded(base: Attributes | None) -> str | None:
    if base is None:
        return None
    # asdict() copies each value deeply.
    values = {name: getattr(base, name) for name in _OTHERS}
    return json.dumps({**values, **{name: getattr(base, name).hex() for name in _BYTES}})


def _decoded(text: str | None) -> Attributes | None:
    if text is None:
        return None
    values = json.loads(text)
    return Attributes(**{**values, **{name: bytes.fromhex(values[name]) for name in _BYTES}})
