"""Uploads of staged files: one now (``upload``), or all that wait, one after the other in their turn
(``run``).

In their turn and not several at once: who writes a checkpoint's shards and then a file that names them is to
be read so at the source, too. A source uses many connections for one large file.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from swmld.sources.interface import Attributes, Source
from swmld.staging.files import TICK_NS, StagedFile
from swmld.staging.journal import Journal

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
    """``changed`` is the area's lock and told of all that becomes otherwise, ``files`` what is staged.
    ``fine``: time stamps tell any two changes apart. ``put_aside`` and ``settle`` are the area's."""

    def __init__(
        self,
        source: Source,
        journal: Journal,
        changed: threading.Condition,
        files: Mapping[bytes, StagedFile],
        *,
        fine: bool,
        uploaded: Callable[[bytes, Attributes], None],
        put_aside: Callable[[StagedFile, str], None],
        settle: Callable[[StagedFile], None],
    ) -> None:
        self._source = source
        self._journal = journal
        self._changed = changed
        self._files = files
        self._fine = fine
        self._uploaded = uploaded
        self._put_aside = put_aside
        self._settle = settle
        self._turn = 0
        self._stopped = False
        self.counters = Counters()

    # ---- one

    def upload(self, file: StagedFile) -> None:
        """The source has the file as it is, afterwards. OSError; ESTALE when it was put aside."""
        with file.lock:
            with self._changed:
                if file.aside:
                    raise OSError(errno.ESTALE, f"{file.aside}: it is put aside")
                if file.gone or file.fd < 0 or not file.dirty:
                    file.turn = 0
                    return
                if not file.token:
                    file.token = uuid.uuid4().hex
                    self._journal.uploading(file.number, file.token)
            if file.mapped:
                os.fdatasync(file.fd)  # the next store through a mapping changes the stamp then
            try:
                self._write(file)
            except OSError as error:
                self._failed(file, error)
                raise

    def _write(self, file: StagedFile) -> None:
        stamp = file.now()
        exact = self._fine or time.time_ns() - stamp.ctime_ns > TICK_NS
        try:
            made = self._source.write(
                file.path, file.fd, stamp.size, file.attributes(), file.base, file.token
            )
        except OSError as error:
            if error.errno not in (errno.ESTALE, errno.EEXIST):
                raise
            self.counters.conflicts += 1
            self._put_aside(file, OTHER)
            raise OSError(errno.ESTALE, OTHER) from None
        with self._changed:
            self.counters.uploads += 1
            self.counters.uploaded_bytes += stamp.size
            if file.failures:
                log.info("%r is uploaded after all", os.fsdecode(file.path))
            file.base, file.token, file.turn, file.error, file.failures = made, "", 0, "", 0
            file.stamp = stamp if exact else None
            self._journal.same(file.number, made, file.stamp.text if file.stamp else "")
            self._uploaded(file.path, made)
            self._changed.notify_all()

    def same(self, file: StagedFile, base: Attributes) -> None:
        """The source has the file as it is now."""
        with self._changed:
            file.base, file.stamp = base, file.now()
            self._journal.same(file.number, base, file.stamp.text)

    def _failed(self, file: StagedFile, error: OSError) -> None:
        with self._changed:
            self.counters.failures += 1
            if not file.failures and not file.aside:
                log.warning("%r is not uploaded yet: %s", os.fsdecode(file.path), error)
            file.error = error.strerror or str(error)
            file.refused = error.errno in OF_THE_FILE
            file.failures += 1
            file.due = time.monotonic() + min(LONGEST_WAIT, 2.0 ** min(file.failures, 6))

    # ---- all that wait

    def queue(self, file: StagedFile) -> None:
        """To be uploaded when its turn comes. ESTALE when it was put aside."""
        with self._changed:
            if file.aside:
                raise OSError(errno.ESTALE, f"{file.aside}: it is put aside")
            if file.gone or file.fd < 0 or file.turn or not file.dirty:
                return
            self._turn += 1
            file.turn = self._turn
            self._journal.queue(file.number, file.turn)
            self._changed.notify_all()

    @property
    def waiting(self) -> list[StagedFile]:
        """In their turn."""
        with self._changed:
            return sorted((file for file in self._files.values() if file.turn), key=lambda file: file.turn)

    def run(self) -> None:
        """Until ``stop``."""
        while (file := self._next()) is not None:
            try:
                self.upload(file)
            except OSError:
                continue
            except Exception as error:  # a bug of ours; the file is kept
                log.exception("upload of %r", os.fsdecode(file.path))
                self._failed(file, OSError(errno.EPERM, str(error)))
                continue
            self._settle(file)

    def _next(self) -> StagedFile | None:
        """Waits for it; None after ``stop``."""
        with self._changed:
            while not self._stopped:
                file, until = self._due()
                if file is not None:
                    return file
                self._changed.wait(None if until is None else max(0.01, until - time.monotonic()))
            return None

    def _due(self) -> tuple[StagedFile | None, float | None]:
        """The file whose turn it is, else when to look again. One that was refused lets others pass; one that
        failed by the source's fault holds them, as theirs would."""
        until = None
        for file in self.waiting:
            if not file.failures or file.due <= time.monotonic():
                return file, None
            until = file.due if until is None else min(until, file.due)
            if not file.refused:
                break
        return None, until

    def flush(self, path: bytes, most: float) -> list[StagedFile]:
        """Waits until what waits at or below ``path`` has been uploaded, and tries at once what failed
        before; gives what failed. ``most``: seconds."""
        start = path + b"/" if path else b""
        deadline = time.monotonic() + most
        with self._changed:
            tried = {file.number: file.failures for file in self.waiting}
            for file in self.waiting:
                file.due = 0.0
            self._changed.notify_all()
            while not self._stopped:
                left = [f for f in self.waiting if f.path == path or f.path.startswith(start)]
                failed = [f for f in left if f.failures > tried.get(f.number, 0)]
                if len(failed) == len(left) or time.monotonic() >= deadline:
                    return left
                if any(not f.refused for f in failed):
                    return left
                self._changed.wait(deadline - time.monotonic())
            return self.waiting

    def stop(self) -> None:
        """``run`` ends after what it is uploading now."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
