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
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from swmld.sources.interface import Attributes, Feature, NewAttributes, Reader, Source, birth_ns, number_of
from swmld.staging.files import StagedFile, fine_stamps
from swmld.staging.journal import Journal, Row, boot_id
from swmld.staging.uploads import Uploads

log = logging.getLogger(__name__)

PIECE = 4 << 20
"""Bytes that are fetched at once of a file that is opened to be changed."""


@dataclass(frozen=True, slots=True)
class Item:
    """A staged file, for people. ``state``: open, waiting, failing or aside; ``file``: where its bytes
    are."""

    number: int
    path: bytes
    size: int
    state: str
    why: str
    file: Path


class Staging:
    """``directory`` is its own, one of each source. ``back``: see above; ``limit``: bytes that may wait to be
    uploaded before whoever opens another file to be written waits. ``uploaded`` is told of each new
    generation at the source, before the file stops being staged."""

    def __init__(
        self,
        directory: Path,
        source: Source,
        *,
        back: bool,
        limit: int,
        uploaded: Callable[[bytes, Attributes], None],
    ) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._source = source
        self.back = back
        self._limit = limit
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._by_path: dict[bytes, StagedFile] = {}
        self._in: dict[bytes, dict[bytes, StagedFile]] = {}
        self._aside: dict[int, Row] = {}
        self._journal = Journal(directory / "journal")
        self.uploads = Uploads(
            source, self._journal, self._changed, self._by_path, fine=fine_stamps(directory),
            uploaded=uploaded, put_aside=self._put_aside, settle=self._settle,
        )  # fmt: skip
        self._recover()

    # ---- what there is

    def attributes(self, path: bytes) -> Attributes | None:
        """Of a staged file; None: it is not one."""
        with self._lock:
            file = self._by_path.get(path)
            return file.attributes() if file is not None else None

    def attributes_of(self, file: StagedFile) -> Attributes | None:
        """Of one that is open to be written, perhaps without a name."""
        with self._lock:
            if file.fd < 0:
                return None
            return replace(file.attributes(), nlink=0) if file.gone else file.attributes()

    def children(self, directory: bytes) -> list[tuple[bytes, Attributes]]:
        """The staged files of a directory, by name."""
        with self._lock:
            return sorted((name, file.attributes()) for name, file in self._in.get(directory, {}).items())

    def reader(self, path: bytes) -> int | None:
        """A new descriptor to read a staged file; None: it is not one."""
        with self._lock:
            file = self._by_path.get(path)
            return _again(file.fd, os.O_RDONLY) if file is not None else None

    @property
    def waiting(self) -> tuple[int, int]:
        """Files and bytes that are staged and not put aside."""
        with self._lock:
            return len(self._by_path), sum(os.fstat(file.fd).st_size for file in self._by_path.values())

    def listing(self) -> list[Item]:
        """All that is staged, also what was put aside."""
        with self._lock:
            items = [self._item(file) for file in self._by_path.values()]
            aside = list(self._aside.values())
        for row in aside:
            place = self._place(row.number)
            with contextlib.suppress(FileNotFoundError):
                items.append(Item(row.number, row.path, place.stat().st_size, "aside", row.aside, place))
        return sorted(items, key=lambda item: item.number)

    def _item(self, file: StagedFile) -> Item:
        state = "failing" if file.error else "open" if file.users else "waiting"
        size = os.fstat(file.fd).st_size
        return Item(file.number, file.path, size, state, file.error, self._place(file.number))

    def drop(self, number: int) -> bool:
        """Deletes what was put aside; False: there is no such thing."""
        with self._lock:
            if self._aside.pop(number, None) is None:
                return False
        self._place(number).unlink(missing_ok=True)
        self._journal.remove(number)
        return True

    # ---- opens

    def create(self, path: bytes, attributes: Attributes, base: Attributes | None = None) -> StagedFile:
        """A new, empty file that its maker has open, in place of ``base`` if there is one. EEXIST."""
        self._wait_for_room()
        with self._lock:
            if path in self._by_path:
                raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
            file = self._make(path, base, attributes)
            file.users = 1
        return file

    def open(self, path: bytes, base: Callable[[], Attributes], truncate: bool) -> StagedFile:
        """A file of the source, or one that is staged, to be changed: with the bytes that it has unless it
        will be truncated at once. ``base``: what the source has, asked if need be."""
        self._wait_for_room()
        file = self._held(path)
        if file is None:
            found = base()
            with self._lock:
                file = self._held(path)
                if made := file is None:
                    file = self._make(path, found, found)
                    file.users = 1
                    file.lock.acquire()
            assert file is not None
            if made:
                self._fill(file, found, truncate)
        with file.lock:  # until it is filled
            broken = file.broken
        if broken is not None:
            self.closed(file)
            raise OSError(broken.errno, broken.strerror)
        return file

    def _held(self, path: bytes) -> StagedFile | None:
        """One that is staged already, with one more user."""
        with self._lock:
            file = self._by_path.get(path)
            if file is not None:
                file.users += 1
            return file

    def _make(self, path: bytes, base: Attributes | None, attributes: Attributes) -> StagedFile:
        number = self._journal.add(path, base)
        fd = os.open(self._place(number), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        file = self._staged(number, fd, path, base)
        os.fchown(fd, attributes.uid, attributes.gid)
        os.fchmod(fd, attributes.mode & 0o7777)
        self._enter(file)
        return file

    def _staged(self, number: int, fd: int, path: bytes, base: Attributes | None) -> StagedFile:
        """A file that is changed stays the file that it was; a new one gets a number of its own."""
        if base is not None:
            return StagedFile(number, fd, path, base, base.ino, birth_ns(base))
        own = number_of(b"%d staged in %s" % (number, bytes(self._directory)))
        return StagedFile(number, fd, path, None, own, time.time_ns())

    def _fill(self, file: StagedFile, base: Attributes, truncate: bool) -> None:
        """With what the source has; lets go of the file's lock."""
        try:
            if not truncate:
                with contextlib.closing(self._source.open(file.path, base)) as reader:
                    _copy(reader, file.fd, base.size)
                os.utime(file.fd, ns=(base.mtime_ns, base.mtime_ns))
                self.uploads.same(file, base)
        except OSError as error:
            file.broken = error
            with self._lock:
                self._leave(file)
        finally:
            file.lock.release()

    def claim(self, file: StagedFile) -> None:
        """The source has a file that was created just now, and nobody else made it; EEXIST."""
        with file.lock:
            try:
                made = self._source.write(file.path, file.fd, 0, file.attributes(), None, uuid.uuid4().hex)
            except OSError as error:
                if error.errno == errno.ESTALE:
                    raise OSError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
                raise
            self.uploads.same(file, made)

    def abandon(self, file: StagedFile) -> None:
        """Whoever created it cannot have it after all."""
        self._gone(file)
        self.closed(file)

    def descriptor(self, file: StagedFile, flags: int, *, mapped: bool) -> int:
        """A new one of a file that is open to be written. ``mapped``: perhaps through a mapping."""
        with self._lock:
            file.mapped = file.mapped or mapped
            return _again(file.fd, flags)

    def _wait_for_room(self) -> None:
        with self._changed:
            while self.back and self.uploads.waiting and self.waiting[1] > self._limit:
                self._changed.wait(1.0)

    def _enter(self, file: StagedFile) -> None:
        self._by_path[file.path] = file
        directory, _, name = file.path.rpartition(b"/")
        self._in.setdefault(directory, {})[name] = file

    def _leave(self, file: StagedFile) -> None:
        """Its name is another file's, or nobody's."""
        if self._by_path.get(file.path) is not file:
            return
        del self._by_path[file.path]
        directory, _, name = file.path.rpartition(b"/")
        del self._in[directory][name]
        if not self._in[directory]:
            del self._in[directory]

    def _place(self, number: int) -> Path:
        return self._directory / str(number)

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
        with file.lock:
            if file.aside:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            if file.fd < 0 or file.gone:
                return
            os.fsync(file.fd)
            _sync(self._directory)
            self._journal.synced(file.number)
        self.uploads.queue(file)

    def sync_path(self, path: bytes) -> None:
        """``sync`` of what is staged as ``path``, if anything is."""
        with self._lock:
            file = self._by_path.get(path)
        if file is not None:
            self.sync(file)

    def sync_names(self) -> None:
        """What files are called is safe afterwards."""
        _sync(self._directory)
        self._journal.durable()

    def closed(self, file: StagedFile) -> None:
        """One open ended, and mappings made of it are gone, too."""
        with self._lock:
            file.users -= 1
            late = not file.users and not file.gone and file.broken is None and file.dirty
        if late and not (file.turn or self.back or file.error):  # written through a mapping after the close
            with contextlib.suppress(OSError):  # nobody waits for it; it is tried again
                self.uploads.upload(file)
        if late:
            self.uploads.queue(file)
        self._settle(file)

    def _settle(self, file: StagedFile) -> None:
        """It is not staged any more if nobody has it open and the source has it."""
        with self._changed:
            if file.users or file.fd < 0:
                return
            if file.gone or file.broken is not None or not file.dirty:
                self._discard(file)
                self._changed.notify_all()

    def _discard(self, file: StagedFile) -> None:
        self._leave(file)
        os.close(file.fd)
        file.fd = -1
        if not file.aside:
            self._place(file.number).unlink(missing_ok=True)
            self._journal.remove(file.number)

    def _put_aside(self, file: StagedFile, why: str) -> None:
        with self._changed:
            log.error("%s is put aside as %s: %s", shown(file.path), self._place(file.number), why)
            self._journal.put_aside(file.number, why)
            self._aside[file.number] = Row(file.number, file.path, file.base, aside=why)
            self._leave(file)
            file.gone, file.aside, file.turn = True, why, 0
            self._changed.notify_all()

    # ---- names and attributes

    def remove(self, path: bytes) -> None:
        """A file or symlink, here and at the source."""
        with self._locked(path) as (file,):
            if file is None:
                self._source.remove(path)
                return
            if file.base is not None or file.token:
                with contextlib.suppress(FileNotFoundError):
                    self._source.remove(path)
            self._gone(file)
        self._settle(file)

    def rename(self, old: bytes, new: bytes) -> None:
        """A file or symlink, over what is there."""
        with self._lock:
            tried = self._by_path.get(old)
        if tried is not None and tried.token:
            self.uploads.upload(tried)  # the source may have it without our knowing
        with self._locked(old, new) as (file, over):
            if file is not None and file.token:
                raise OSError(errno.EBUSY, f"an upload of {shown(old)} may have been made")
            base = None
            if file is None or file.base is not None:
                self._source.rename(old, new)
                if file is not None:
                    base = self._source.stat(new)
            else:
                base = over.base if over is not None else self._stat(new)
                if base is not None and base.is_dir:
                    raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
            with self._lock:
                if over is not None:
                    self._gone(over)
                if file is not None:
                    self._move(file, new)
                    file.base = base
                    self._journal.move(file.number, new, base)
        if over is not None:
            self._settle(over)

    def rename_directory(self, old: bytes, new: bytes) -> None:
        """With all that is staged below, which is uploaded before."""
        for file in self._below(old):
            self.uploads.upload(file)
        self._source.rename(old, new)
        with self._lock:
            for file in self._below(old):
                self._move(file, new + file.path[len(old) :])
                self._journal.move(file.number, file.path, file.base)

    def change(self, path: bytes, new: NewAttributes) -> None:
        """Mode, owner, time. EOPNOTSUPP where the source keeps none."""
        with self._locked(path) as (file,):
            if file is None:
                self._source.change(path, new)
                return
            if Feature.ATTRIBUTES not in self._source.features:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            clean = not file.dirty
            _set(file.fd, new)
            if clean and file.base is not None:
                self.uploads.same(file, self._source.change(path, new))

    def change_open(self, file: StagedFile, new: NewAttributes) -> None:
        """Of one that is open and has no name any more."""
        with self._lock:
            if file.fd >= 0:
                _set(file.fd, new)

    @contextlib.contextmanager
    def _locked(self, *paths: bytes) -> Iterator[tuple[StagedFile | None, ...]]:
        """What is staged under these names, not being uploaded meanwhile."""
        while True:
            with self._lock:
                files = tuple(self._by_path.get(path) for path in paths)
            held = sorted({file for file in files if file is not None}, key=lambda file: file.number)
            with contextlib.ExitStack() as locks:
                for file in held:
                    locks.enter_context(file.lock)
                if files == tuple(self._by_path.get(path) for path in paths):
                    yield files
                    return

    def _gone(self, file: StagedFile) -> None:
        with self._changed:
            self._leave(file)
            file.gone, file.turn = True, 0
            self._changed.notify_all()

    def _move(self, file: StagedFile, path: bytes) -> None:
        self._leave(file)
        file.path = path
        self._enter(file)

    def _stat(self, path: bytes) -> Attributes | None:
        try:
            return self._source.stat(path)
        except FileNotFoundError:
            return None

    def _below(self, directory: bytes) -> list[StagedFile]:
        start = directory + b"/" if directory else b""
        with self._lock:
            return [file for path, file in self._by_path.items() if path.startswith(start)]

    # ---- the end, and what is left of an end before

    def close(self) -> None:
        """Lets go of everything; what is staged is for the next start."""
        self.uploads.stop()
        with self._lock:
            for file in self._by_path.values():
                os.close(file.fd)
                file.fd = -1
            self._by_path.clear()
            self._in.clear()
            self._journal.close()

    def _recover(self) -> None:
        boot = boot_id()
        for row in self._journal.rows():
            try:
                fd = os.open(self._place(row.number), os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                self._journal.remove(row.number)
                continue
            if row.aside:
                os.close(fd)
                self._aside[row.number] = row
                continue
            file = self._staged(row.number, fd, row.path, row.base)
            file.token = row.token
            if row.stamp and row.stamp == file.now().text:  # nothing of it was changed since
                self._discard(file)
            elif not row.turn and not row.synced:
                self._put_aside(file, "it was being written when swmld ended")
                self._settle(file)
            elif not row.synced and row.boot != boot:
                self._put_aside(file, "the machine went down before it was on the disk")
                self._settle(file)
            else:
                self._enter(file)
                self.uploads.queue(file)
        if self._by_path:
            log.info("%d files are staged from before, and uploaded now", len(self._by_path))


def _again(fd: int, flags: int) -> int:
    keep = flags & (os.O_ACCMODE | os.O_SYNC | os.O_DSYNC)
    return os.open(f"/proc/self/fd/{fd}", keep | os.O_CLOEXEC)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _set(fd: int, new: NewAttributes) -> None:
    """Owner before mode: a change of owner clears setuid bits that the same request may set."""
    if new.uid is not None or new.gid is not None:
        os.fchown(fd, -1 if new.uid is None else new.uid, -1 if new.gid is None else new.gid)
    if new.mode is not None:
        os.fchmod(fd, new.mode & 0o7777)
    if new.mtime_ns is not None:
        os.utime(fd, ns=(os.fstat(fd).st_atime_ns, new.mtime_ns))


def _copy(reader: Reader, fd: int, size: int) -> None:
    buffer = memoryview(bytearray(min(size, PIECE)))
    for offset in range(0, size, PIECE):
        piece = buffer[: min(PIECE, size - offset)]
        if reader.read(piece, offset) != len(piece):
            raise OSError(errno.EIO, "the source's file ends too early")
        done = 0
        while done < len(piece):
            done += os.pwrite(fd, piece[done:], offset + done)


def shown(path: bytes) -> str:
    """For people."""
    return path.decode("utf-8", "backslashreplace")
