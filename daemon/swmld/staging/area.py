"""The staging area: files that are written, on the cache's disk, until the source has them.

A file that is opened to be written is given a file here, and everybody on this mount who opens it from then
on has that one: writes and reads go at the disk's speed, and the kernel does them alone where it passes files
through. ``flush`` and ``sync`` are close(2) and fsync(2):

    through   the source has the file when they return, or they fail
    back      the file is uploaded later, in the order in which files were closed or synced; what was synced
              survives a power cut, what was closed a killed daemon

What the source does not take is kept and tried again (``uploads.Uploads``). Where the source has got another
generation meanwhile, neither is overwritten: ours is put aside, listed by ``listing``, and the mount shows
the source's.

All calls block and may be made from any thread. Paths are the source's.

Inside: ``files`` (one file, and whether it has changed), ``table`` (by name, in line, put aside), ``journal``
(the same on the disk), ``uploads`` (turns, tries, tokens), ``flushing`` (waiting for them), ``changes`` (of
names and attributes), ``recovery``, ``draining`` (before the end), ``disk`` (calls), ``views`` (for people).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from swmld.sources.interface import Attributes, NewAttributes, Source
from swmld.staging.changes import Changes
from swmld.staging.disk import again, copy, sync_directory
from swmld.staging.files import StagedFile, fine_stamps, staged
from swmld.staging.flushing import Flush
from swmld.staging.journal import FILLING, Journal
from swmld.staging.recovery import recover
from swmld.staging.table import Offer, Table
from swmld.staging.uploads import Uploads, new_token
from swmld.staging.views import Figures, Item


class Staging:
    """``directory`` is its own, one of each source. ``back``: see above; ``limit``: bytes that may wait to be
    uploaded before whoever opens another file to be written waits. ``uploaded`` is told of each new
    generation at the source, before the file stops being staged: its path, what it was shown as until then,
    and what it is shown as from then on. ``offer``: see ``Table``."""

    def __init__(
        self,
        directory: Path,
        source: Source,
        *,
        back: bool,
        limit: int,
        uploaded: Callable[[bytes, Attributes, Attributes], None],
        offer: Offer | None = None,
    ) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._source = source
        self.back = back
        self._limit = limit
        self._journal = Journal(directory / "journal")
        self._table = Table(directory, self._journal)
        self.uploads = Uploads(
            source, self._journal, self._table,
            back=back, fine=fine_stamps(directory), uploaded=uploaded,
        )  # fmt: skip
        self._changes = Changes(source, self._journal, self._table, self.uploads)
        recover(self._table, self._journal, self.uploads)
        self._table.offer = offer

    # ---- what there is

    @contextlib.contextmanager
    def steady(self) -> Iterator[None]:
        """Files are shown as what they were shown as before, meanwhile."""
        with self._table.lock:
            yield

    def surely_lacks(self, path: bytes) -> bool:
        """Whether it is no staged file. False: perhaps; who asks does not wait."""
        lock = self._table.lock
        if not lock.acquire(blocking=False):
            return False
        try:
            return path not in self._table.files
        finally:
            lock.release()

    def attributes(self, path: bytes) -> Attributes | None:
        """Of a staged file; None: it is not one."""
        with self._table.lock:
            file = self._table.files.get(path)
            return file.attributes() if file is not None else None

    def attributes_of(self, file: StagedFile) -> Attributes | None:
        """Of one that is open to be written, perhaps without a name."""
        with self._table.lock:
            if file.fd < 0:
                return None
            return replace(file.attributes(), nlink=0) if file.gone else file.attributes()

    def children(self, directory: bytes) -> list[tuple[bytes, Attributes]]:
        """The staged files of a directory, by name."""
        return self._table.children(directory)

    def reader(self, path: bytes) -> int | None:
        """A new descriptor to read a staged file; None: it is not one."""
        with self._table.lock:
            file = self._table.files.get(path)
            return again(file.fd, os.O_RDONLY) if file is not None else None

    def reader_of(self, file: StagedFile) -> int | None:
        """The same of one that is open to be written, whatever it is called."""
        with self._table.lock:
            return again(file.fd, os.O_RDONLY) if file.fd >= 0 and not file.aside else None

    @property
    def figures(self) -> Figures:
        """How much there is; without the lock, so that nobody waits."""
        table = self._table
        return Figures(len(table.files), table.line_bytes, len(table.failing), len(table.aside))

    @property
    def failure(self) -> str:
        """The error of the first file in line that has one; empty: none has."""
        with self._table.lock:
            return next((file.error for file in self._table.line.values() if file.error), "")

    def listing(self) -> list[Item]:
        """All that is staged, also what was put aside."""
        with self._table.lock:
            items = [self._item(file) for file in self._table.files.values()]
            aside = list(self._table.aside.values())
        for row in aside:
            place = self._table.place(row.number)
            with contextlib.suppress(FileNotFoundError):
                st = place.stat()
                items.append(
                    Item(row.number, row.path, st.st_size, "aside", row.aside, place, st.st_mtime)
                )  # fmt: skip
        return sorted(items, key=lambda item: item.number)

    def _item(self, file: StagedFile) -> Item:
        state = (
            "uploading" if file.uploading else "failing" if file.error else "waiting" if file.turn else "open"
        )
        st = os.fstat(file.fd)
        place = self._table.place(file.number)
        return Item(file.number, file.path, st.st_size, state, file.error, place, st.st_mtime)

    def drop(self, number: int) -> bool:
        """Deletes what was put aside; False: there is no such thing."""
        return self._table.drop(number)

    # ---- opens

    def create(
        self, path: bytes, attributes: Attributes, base: Attributes | None = None, *, claimed: bool = False
    ) -> StagedFile:
        """A new, empty file that its maker has open, in place of ``base`` if there is one. ``claimed``: by
        ``claim``, which comes next. EEXIST; EILSEQ and such for a name that the source cannot have."""
        self._source.takes(path)
        self._wait_for_room()
        with self._table.lock:
            self._table.still(path)
            if path in self._table.files:
                raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
            file = self._make(path, base, attributes, token=new_token() if claimed else "")
            file.filled.set()
        return file

    def open(self, path: bytes, base: Callable[[], Attributes], truncate: bool) -> StagedFile:
        """A file of the source, or one that is staged, to be changed: with the bytes that it has unless it
        will be truncated at once. ``base``: what the source has, asked if need be."""
        self._wait_for_room()
        file, found = self._table.hold(path), None
        while file is None:
            self._table.still(path)
            found = base()
            with self._table.lock:
                if self._table.is_moving(path):
                    continue
                file = self._table.hold(path)
                if file is None:
                    file = self._make(path, found, found, "" if truncate else FILLING)
                    file.lock.acquire()
                    break
        else:
            found = None
        if found is not None:
            self._fill(file, found, truncate)
        file.filled.wait()
        if file.broken is not None:
            broken = file.broken
            self.closed(file)
            raise OSError(broken.errno, broken.strerror)
        return file

    def _make(
        self,
        path: bytes,
        base: Attributes | None,
        attributes: Attributes,
        stamp: str = "",
        token: str = "",
    ) -> StagedFile:
        """With one user, under its name."""
        number = self._journal.add(path, base, stamp, token)
        place = self._table.place(number)
        fd = -1
        try:
            fd = os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            os.fchown(fd, attributes.uid, attributes.gid)
            os.fchmod(fd, attributes.mode & 0o7777)
        except BaseException:
            if fd >= 0:
                os.close(fd)
                place.unlink(missing_ok=True)
            self._journal.remove(number)
            raise
        file = staged(self._table.directory, number, fd, path, base)
        file.users, file.token = 1, token
        self._table.enter(file)
        return file

    def _fill(self, file: StagedFile, base: Attributes, truncate: bool) -> None:
        """With what the source has; lets go of the file's lock."""
        file.broken = OSError(errno.EIO, os.strerror(errno.EIO))
        try:
            if not truncate:
                with contextlib.closing(self._source.open(file.path, base)) as reader:
                    copy(reader, file.fd, base.size)
                os.utime(file.fd, ns=(base.mtime_ns, base.mtime_ns))
                self.uploads.same(file, base)
            file.broken = None
        except OSError as error:
            file.broken = error
        finally:
            if file.broken is not None:
                with self._table.lock:
                    self._table.leave(file)
            file.filled.set()
            file.lock.release()

    def claim(self, file: StagedFile) -> None:
        """The source has a file that was created just now, and nobody else made it; EEXIST."""
        self.uploads.claim(file)

    def abandon(self, file: StagedFile) -> None:
        """Whoever created it cannot have it after all."""
        with file.lock:
            self._table.gone(file)
        self.closed(file)

    def descriptor(self, file: StagedFile, flags: int, *, mapped: bool) -> int:
        """A new one of a file that is open to be written. ``mapped``: perhaps through a mapping."""
        with self._table.lock:
            file.mapped = file.mapped or mapped
            return again(file.fd, flags)

    def _wait_for_room(self) -> None:
        """ENOSPC where there is none and what waits is refused by the source, one and all."""
        table = self._table
        with table.changed:
            while self.back and table.line_bytes > self._limit and not table.stopped:
                if all(file.refused for file in table.line.values()):
                    raise OSError(errno.ENOSPC, "the source refuses what is staged")
                table.changed.wait()

    # ---- close(2), fsync(2)

    def flush(self, file: StagedFile) -> None:
        """One descriptor was closed."""
        if self.back:
            self.uploads.queue(file)
        else:
            self.uploads.upload(file)

    def sync(self, file: StagedFile) -> None:
        """Its bytes are safe afterwards."""
        if not self.back:
            self.uploads.upload(file)
            return
        with self._table.lock:
            file.users += 1
        try:
            while not self._sync(file):
                pass
        finally:
            self.closed(file)

    def _sync(self, file: StagedFile) -> bool:
        """False: it was uploaded meanwhile, perhaps not as it is on the disk; once more."""
        with self._table.lock:
            if file.aside:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            if file.fd < 0 or file.gone or not file.dirty:
                return True
            made = file.made
            stamp = file.now()
        os.fsync(file.fd)
        sync_directory(self._table.directory)
        with self._table.lock:
            if file.made != made:
                return False
            if not file.tried:
                self.uploads.give_token(file, stamp)
            token, sent = file.token, file.sent
        self._journal.synced(file.number, made, token, sent)
        with self._table.lock:
            if file.made != made:
                return False
            self.uploads.queue(file)
        return True

    def sync_path(self, path: bytes) -> None:
        """``sync`` of what is staged as ``path``, if anything is."""
        file = self._table.hold(path)
        if file is not None:
            try:
                self.sync(file)
            finally:
                self.closed(file)

    def sync_names(self) -> None:
        """What files are called is safe afterwards."""
        sync_directory(self._table.directory)
        self._journal.durable()

    def closed(self, file: StagedFile) -> None:
        """One open ended, and mappings made of it are gone, too."""
        self.uploads.closed(file)

    def begin_flush(self, path: bytes) -> Flush:
        """To wait for what waits at or below ``path``, step by step; it is tried at once."""
        return Flush(self._table, path)

    # ---- names and attributes

    def remove(self, path: bytes) -> None:
        """A file or symlink, here and at the source."""
        self._changes.remove(path)

    def rename(self, old: bytes, new: bytes) -> None:
        """A file or symlink, over what is there."""
        self._changes.rename(old, new)

    def rename_directory(self, old: bytes, new: bytes) -> None:
        """With all that is staged below, which is uploaded before."""
        self._changes.rename_directory(old, new)

    def change(self, path: bytes, new: NewAttributes) -> None:
        """Mode, owner, time. EOPNOTSUPP where the source keeps none."""
        self._changes.change(path, new)

    def base(self, path: bytes) -> Attributes | None:
        """What the source has of a staged file; None: nothing, or it is none."""
        with self._table.lock:
            file = self._table.files.get(path)
            return file.base if file is not None else None

    def set_xattr(self, path: bytes, name: bytes, value: bytes | None) -> Attributes:
        """An extended attribute (None: it goes), at the source at once: what is staged there is uploaded
        before. What the source says of it."""
        return self._changes.set_xattr(path, name, value)

    def change_open(self, file: StagedFile, new: NewAttributes) -> None:
        """Of one that is open and has no name any more."""
        self._changes.change_open(file, new)

    def close(self) -> None:
        """Lets go of everything; what is staged is for the next start."""
        self.uploads.stop()
        self._table.close()
        self._journal.close()
