"""Changes of names and attributes: at the source at once, and of what is staged with them.

A file that the source has not got yet is renamed here alone, so that "write another one, rename it over" is
one upload. What is being uploaded is waited for.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import replace

from swmld.sources.interface import Attributes, Feature, NewAttributes, Source
from swmld.staging.files import StagedFile
from swmld.staging.journal import Journal, Moved
from swmld.staging.table import Table
from swmld.staging.uploads import Uploads


class Changes:
    """See ``area.Staging``, which has these methods."""

    def __init__(self, source: Source, journal: Journal, table: Table, uploads: Uploads) -> None:
        self._source = source
        self._journal = journal
        self._table = table
        self._uploads = uploads

    def remove(self, path: bytes) -> None:
        """A file or symlink, here and at the source."""
        with self._table.locked(self._uploads.closed, path) as (file,):
            if file is None:
                self._source.remove(path)
                return
            if file.base is not None or file.tried:
                with contextlib.suppress(FileNotFoundError):
                    self._source.remove(path)
            self._table.gone(file)

    # ---- rename(2)

    def rename(self, old: bytes, new: bytes) -> None:
        """A file or symlink, over what is there."""
        if old == new:
            return
        self._source.takes(new)
        while True:
            self._finish(old)
            with self._table.locked(self._uploads.closed, old, new) as (file, over):
                if file is None or not file.tried:
                    self._rename(old, new, file, over)
                    return

    def _finish(self, path: bytes) -> None:
        """Uploads a file of which it is not known whether the source has it."""
        file = self._table.hold(path)
        if file is None:
            return
        try:
            if file.tried:
                self._uploads.upload(file)
        finally:
            self._uploads.closed(file)

    def _rename(self, old: bytes, new: bytes, file: StagedFile | None, over: StagedFile | None) -> None:
        if file is None or file.base is not None:
            self._source.rename(old, new)
            base = self._moved(file.base, new) if file is not None and file.base is not None else None
        else:
            base = over.base if over is not None and not over.tried else self._stat(new)
            if base is not None and base.is_dir:
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        with self._table.lock:
            if file is not None:
                self._journal.move([Moved(file.number, new, base)], over.number if over is not None else None)
            if over is not None:
                self._table.gone(over)
            if file is not None:
                self._table.move(file, new)
                file.base = base

    def _moved(self, base: Attributes, path: bytes) -> Attributes:
        """What the source says now of a generation that it has renamed. If that is another one, or cannot be
        asked for, the next upload is a conflict."""
        try:
            found = self._source.stat(path)
        except OSError:
            return base
        kept = Feature.ATTRIBUTES in self._source.features
        found_it = _same_bytes(replace(base, ino=found.ino), found, kept)  # numbers may be those of names
        return found if found_it or (not kept and base.size == found.size) else base

    def rename_directory(self, old: bytes, new: bytes) -> None:
        """With all that is staged below, which is uploaded before."""
        if old == new:
            return
        with self._table.moving(old):
            for file in self._table.below(old):
                self._finish_all(file)
            with self._held_below(old) as files:
                self._source.rename(old, new)
                self._move_all(files, old, new)

    def _finish_all(self, file: StagedFile) -> None:
        with self._table.lock:
            file.users += 1
        try:
            self._uploads.upload(file)
        finally:
            self._uploads.closed(file)

    @contextlib.contextmanager
    def _held_below(self, directory: bytes) -> Iterator[list[StagedFile]]:
        """What is staged there, not being uploaded meanwhile. It may have been written again."""
        with self._table.lock:
            files = self._table.below(directory)
            for file in files:
                file.users += 1
        try:
            with contextlib.ExitStack() as locks:
                for file in files:
                    locks.enter_context(file.lock)
                yield [file for file in files if not file.gone]
        finally:
            for file in files:
                self._uploads.closed(file)

    def _move_all(self, files: list[StagedFile], old: bytes, new: bytes) -> None:
        moved = []
        for file in files:
            path = new + file.path[len(old) :]
            base = self._moved(file.base, path) if file.base is not None else None
            moved.append((file, Moved(file.number, path, base)))
        with self._table.lock:
            self._journal.move([row for _, row in moved])
            for file, row in moved:
                self._table.move(file, row.path)
                file.base = row.base

    def _stat(self, path: bytes) -> Attributes | None:
        try:
            return self._source.stat(path)
        except FileNotFoundError:
            return None

    # ---- chmod(2), chown(2), utimensat(2)

    def change(self, path: bytes, new: NewAttributes) -> None:
        """Mode, owner, time. EOPNOTSUPP where the source keeps none."""
        with self._table.locked(self._uploads.closed, path) as (file,):
            if file is None:
                self._source.change(path, new)
                return
            if Feature.ATTRIBUTES not in self._source.features:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            if file.dirty or file.base is None:
                give(file.fd, new)
                return
            made = self._source.change(path, new)
            self._changed(file, new, made)

    def set_xattr(self, path: bytes, name: bytes, value: bytes | None) -> Attributes:
        """An extended attribute, at the source: the staged file has none of them."""
        while True:
            file = self._table.hold(path)
            if file is None:
                return self._source.set_xattr(path, name, value)
            try:
                if file.base is None or file.tried:
                    self._uploads.upload(file)
                with file.lock:
                    if file.gone or file.path != path or file.base is None or file.tried:
                        continue
                    made = self._source.set_xattr(path, name, value)
                    self._reattributed(file, made)
                    return made
            finally:
                self._uploads.closed(file)

    def _reattributed(self, file: StagedFile, made: Attributes) -> None:
        """What the source has of it has other attributes now, and it is as dirty as it was. Another
        generation than the one that it replaces is somebody else's: the next upload is a conflict."""
        with self._table.lock:
            if file.base is None or not _same_bytes(file.base, made, True):
                return
            file.base = made
            self._journal.replaces(file.number, made)

    def _changed(self, file: StagedFile, new: NewAttributes, made: Attributes) -> None:
        """Of a file that is open and has not been written yet. A write meanwhile shows by its size, and by
        its time unless that is what was changed: then by the look just before."""
        with self._table.lock:
            base, before = file.base, file.stamp
            clean = not file.dirty
            give(file.fd, new)
            now = file.now()
            if before is None or now.size != before.size:
                clean = False
            if before is not None and new.mtime_ns is None and now.mtime_ns != before.mtime_ns:
                clean = False
            if base is not None and not _same_bytes(base, made, new.mtime_ns is None):
                return  # somebody else's generation: the next upload is a conflict
            if clean:
                self._uploads.same(file, made)
            else:
                file.base = made
                self._journal.replaces(file.number, made)

    def change_open(self, file: StagedFile, new: NewAttributes) -> None:
        """Of one that is open and has no name any more."""
        with self._table.lock:
            if file.fd >= 0:
                give(file.fd, new)


def _same_bytes(one: Attributes, other: Attributes, times: bool) -> bool:
    """Whether two answers of the source are of one generation, but for its name and mode. ``times``: the time
    has not been changed either."""
    if one.tag or other.tag:
        return one.size == other.size and one.tag == other.tag
    return (one.size, one.ino) == (other.size, other.ino) and (not times or one.mtime_ns == other.mtime_ns)


def give(fd: int, new: NewAttributes) -> None:
    """Owner before mode: a change of owner clears setuid bits that the same request may set."""
    if new.uid is not None or new.gid is not None:
        os.fchown(fd, -1 if new.uid is None else new.uid, -1 if new.gid is None else new.gid)
    if new.mode is not None:
        os.fchmod(fd, new.mode & 0o7777)
    if new.mtime_ns is not None:
        os.utime(fd, ns=(os.fstat(fd).st_atime_ns, new.mtime_ns))
