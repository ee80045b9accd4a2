"""Uploads of staged files: one now (``upload``), or all that wait, one after the other in their turn
(``run``).

In their turn and not several at once: who writes a checkpoint's shards and then a file that names them is to
be read so at the source, too. A source uses many connections for one large file.

Whether an upload was made whose answer was lost is told by its token: another try with it does nothing then.
So a token is of certain bytes: if they have changed since it was given, what was sent with it is settled
first, and then the file is sent as it is now.
"""

from __future__ import annotations

import errno
import logging
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from swmld.sources.interface import Attributes, Source
from swmld.staging.files import StagedFile, Stamp
from swmld.staging.flushing import Flush
from swmld.staging.journal import Journal
from swmld.staging.table import Table

log = logging.getLogger(__name__)

LONGEST_WAIT = 60.0
"""Seconds between two tries of an upload."""

OF_THE_FILE = frozenset(
    {
        errno.EACCES, errno.EFBIG, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR,
        errno.EOPNOTSUPP, errno.EPERM, errno.EROFS,
    }
)  # fmt: skip
"""Errors that say nothing of the next file's upload: that one does not wait."""

OTHER = "the source has another generation of it than the one that it was made of"


@dataclass(slots=True)
class Counters:
    """Since the start."""

    uploads: int = 0
    uploaded_bytes: int = 0
    failures: int = 0
    conflicts: int = 0


class Uploads:
    """``back``: nobody waits for them. ``fine``: time stamps tell any two changes apart. ``uploaded`` is told
    of each new generation at the source, before the file stops being staged."""

    def __init__(
        self,
        source: Source,
        journal: Journal,
        table: Table,
        *,
        back: bool,
        fine: bool,
        uploaded: Callable[[bytes, Attributes, Attributes], None],
    ) -> None:
        self._source = source
        self._journal = journal
        self._table = table
        self._changed = table.changed
        self._back = back
        self._fine = fine
        self._uploaded = uploaded
        self.counters = Counters()

    # ---- one

    def upload(self, file: StagedFile) -> None:
        """The source has the file as it is, afterwards. OSError; ESTALE when it was put aside."""
        with file.lock:
            if not self._begin(file):
                return
            try:
                while not self._write(file):
                    pass
            except OSError as error:
                self._failed(file, error)
                raise
            finally:
                file.uploading = False

    def claim(self, file: StagedFile) -> None:
        """The same of one that was created just now. EEXIST: somebody else made one meanwhile."""
        with file.lock:
            if not self._begin(file):
                return
            try:
                self._done(file, *self._ask(file, noted=bool(file.token)))
            except OSError as error:
                if error.errno == errno.ESTALE:
                    raise OSError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
                raise
            finally:
                file.uploading = False

    def _begin(self, file: StagedFile) -> bool:
        """Whether there is something to do."""
        with self._changed:
            if file.aside:
                raise _put_aside(file)
            if file.gone or file.fd < 0:
                return False
            if not file.dirty:
                self._table.unqueue(file)
                return False
            file.uploading, file.again = True, False
            return True

    def _write(self, file: StagedFile) -> bool:
        """False: once more."""
        before = file.sent if file.tried else None
        try:
            made, stamp = self._ask(file)
        except OSError as error:
            if error.errno not in (errno.ESTALE, errno.EEXIST):
                raise
            self.counters.conflicts += 1
            self._table.put_aside(file, OTHER)
            raise OSError(errno.ESTALE, OTHER) from None
        if before is not None and (stamp is None or before != stamp.text):
            # It may have been done already, with what the file was then.
            with self._changed:
                file.base, file.token, file.tried = made, "", False
                self._journal.replaces(file.number, made)
            return False
        self._done(file, made, stamp)
        return True

    def _ask(self, file: StagedFile, *, noted: bool = False) -> tuple[Attributes, Stamp | None]:
        """What the source has then, and the stamp of it. ``noted``: the journal has the token already."""
        attributes = file.attributes()
        stamp = file.mark(self._fine)
        if file.mapped:
            os.fdatasync(file.fd)  # the next store through a mapping changes the stamp then
        with self._changed:
            if not file.tried:
                self.give_token(file, stamp)
                file.tried = True
                if not noted:
                    self._journal.uploading(file.number, file.token, file.sent)
        size = stamp.size if stamp is not None else file.now().size
        made = self._source.write(file.path, file.fd, size, attributes, file.base, file.token)
        return made, stamp

    def give_token(self, file: StagedFile, stamp: Stamp | None) -> None:
        """For the upload of what it is now; not one that may have been used."""
        file.token = file.token or new_token()
        file.sent = stamp.text if stamp is not None else ""

    def _done(self, file: StagedFile, made: Attributes, stamp: Stamp | None) -> None:
        with self._changed:
            self.counters.uploads += 1
            self.counters.uploaded_bytes += made.size
            if file.failures:
                log.info("%r is uploaded after all", os.fsdecode(file.path))
            self._same(file, made, stamp)

    def _same(self, file: StagedFile, made: Attributes, stamp: Stamp | None) -> None:
        """The source has what ``file`` was with this stamp. What was closed since has its turn at the end;
        so has what nobody will close."""
        was, file.stamp = file.become(made), stamp
        file.token = file.sent = file.error = ""
        file.failures, file.refused, file.tried = 0, False, False
        file.made += 1
        self._table.unqueue(file)
        more = (file.again or not file.users) and not file.gone and file.dirty
        turn = self._table.queue(file) if more else 0
        text = stamp.text if stamp is not None else ""
        self._journal.same(file.number, made, text, turn, file.made)
        if not file.gone:
            self._uploaded(file.path, was, made)

    def same(self, file: StagedFile, made: Attributes) -> None:
        """The source has the file as it is now; nobody is writing it."""
        with self._changed:
            file.again = False
            self._same(file, made, file.mark(self._fine))

    def _failed(self, file: StagedFile, error: OSError) -> None:
        with self._changed:
            if file.gone:
                return
            self.counters.failures += 1
            if not file.failures:
                log.warning("%r is not uploaded yet: %s", os.fsdecode(file.path), error)
            file.error = error.strerror or str(error)
            file.refused = error.errno in OF_THE_FILE
            file.failures += 1
            file.due = time.monotonic() + min(LONGEST_WAIT, 2.0 ** min(file.failures, 6))
            if not file.turn:
                self._journal.queue(file.number, self._table.queue(file))
            self._table.failing.add(file.number)
            self._changed.notify_all()

    # ---- all that wait

    def queue(self, file: StagedFile, *, waits: bool = True) -> None:
        """To be uploaded when its turn comes. ESTALE when it was put aside. ``waits``: ENOSPC or EDQUOT if
        that can be forgotten, since the disk is full."""
        with self._changed:
            if file.aside:
                raise _put_aside(file)
            if file.gone or file.fd < 0 or not file.dirty:
                return
            file.again = True
            if file.turn:
                self._table.resize(file)
            else:
                self._journal.queue(file.number, self._table.queue(file), waits=waits)

    def closed(self, file: StagedFile) -> None:
        """It has one user less, and mappings that one made of it are gone, too."""
        with self._changed:
            file.users -= 1
            late = self._late(file)
        if late and not (file.turn or self._back):  # written through a mapping after the close
            try:
                self.upload(file)
            except OSError:  # nobody waits for it; it is tried again, or put aside
                late = False
        with self._changed:
            if late and self._late(file):
                self.queue(file, waits=False)
        self._table.settle(file)

    def _late(self, file: StagedFile) -> bool:
        return not file.users and file.fd >= 0 and not file.gone and file.broken is None and file.dirty

    @property
    def waiting(self) -> list[StagedFile]:
        """In their turn."""
        with self._changed:
            return list(self._table.line.values())

    def run(self) -> None:
        """Until ``stop``."""
        while (file := self._next()) is not None:
            try:
                self.upload(file)
            except OSError:
                pass
            except Exception as error:  # a bug of ours; the file is kept
                log.exception("upload of %r", os.fsdecode(file.path))
                self._failed(file, OSError(errno.EPERM, str(error)))
            self._table.settle(file)

    def _next(self) -> StagedFile | None:
        """Waits for it; None after ``stop``."""
        with self._changed:
            while not self._table.stopped:
                file, until = self._due()
                if file is not None:
                    return file
                self._changed.wait(None if until is None else max(0.01, until - time.monotonic()))
            return None

    def _due(self) -> tuple[StagedFile | None, float | None]:
        """The file whose turn it is, else when to look again. One that was refused lets others pass; one that
        failed by the source's fault holds them, as theirs would."""
        until = None
        for file in self._table.line.values():
            if not file.failures or file.due <= time.monotonic():
                return file, None
            until = file.due if until is None else min(until, file.due)
            if not file.refused:
                break
        return None, until

    def flush(self, path: bytes, most: float) -> list[StagedFile]:
        """Waits until what waits at or below ``path`` has been uploaded, and tries at once what failed
        before; gives what is left. ``most``: seconds."""
        flush = Flush(self._table, path)
        flush.wait(most)
        return flush.left

    def stop(self) -> None:
        """``run`` ends after what it is uploading now."""
        with self._changed:
            self._table.stopped = True
            self._changed.notify_all()


def new_token() -> str:
    """Of one upload."""
    return uuid.uuid4().hex


def _put_aside(file: StagedFile) -> OSError:
    return OSError(errno.ESTALE, f"{file.aside}: it is put aside")
