"""Changes of a source that is no directory of this host: names at once, bytes by way of the staging area.

All blocking, for worker threads, for as long as the source takes. OSError.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from swmld.cache.store import Cache
from swmld.errors import CacheError
from swmld.mount.native import Entry, Native, now
from swmld.mount.remote import RemoteTree
from swmld.sources.interface import Attributes, Feature, NewAttributes, Source, generation_ns
from swmld.staging.area import Staging
from swmld.staging.files import StagedFile
from swmld.types import Identity

RENAME_NOREPLACE = 1 << 0

NEW_SECONDS = 0.05
"""For which the kernel may keep what a file was when it was made: it looks again at once (``may_open``), and
what is written through it, it sees itself."""


@dataclass(slots=True)
class Written:
    """A node that is open to be written: by how many."""

    file: StagedFile
    opens: int = 1


class RemoteChanges:
    """``tree.Writes``, and what FUSE changes of names. New files belong to ``uid`` and ``gid`` as they are
    given here."""

    late = True

    def __init__(
        self, native: Native, tree: RemoteTree, source: Source, staging: Staging, cache: Cache
    ) -> None:
        self._cache = cache
        self._native = native
        self._tree = tree
        self._source = source
        self._staging = staging
        self._lock = threading.Lock()
        self._written: dict[int, Written] = {}
        tree.staging = staging
        tree.written = self._attributes
        tree.written_reader = self._reader

    # ---- files that are open to be written

    def open(self, nodeid: int, flags: int) -> int:
        """See ``Writes``. ESTALE where the source has another file by now."""
        with self._lock:
            written = self._written.get(nodeid)
            if written is not None:  # perhaps without a name
                written.opens += 1
        if written is not None:
            try:
                return self._descriptor(written.file, flags)
            except BaseException:
                self._left(nodeid)
                raise
        path = self._tree.path(nodeid)
        file = self._staging.open(path, lambda: self._there(path), bool(flags & os.O_TRUNC))
        try:
            with self._staging.steady():
                attributes = self._staging.attributes_of(file)
                if attributes is None:
                    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
                self._native.refresh(nodeid, attributes, now())
                self._native.expire(nodeid)
            fd = self._descriptor(file, flags)
        except BaseException:
            self._staging.closed(file)
            raise
        self._enter(nodeid, file)
        return fd

    def _there(self, path: bytes) -> Attributes:
        found = self._tree.look(path)
        if found is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return found

    def _enter(self, nodeid: int, file: StagedFile) -> None:
        """Each open counts once in the staging area and once here."""
        with self._lock:
            written = self._written.setdefault(nodeid, Written(file, 0))
            written.opens += 1
            twice = written.opens > 1
        if twice:
            self._staging.closed(file)

    def closed(self, nodeid: int, fd: int) -> None:
        """See ``Writes``."""
        os.close(fd)
        self._left(nodeid)

    def _left(self, nodeid: int) -> None:
        with self._lock:
            written = self._written[nodeid]
            written.opens -= 1
            if not written.opens:
                del self._written[nodeid]
        if not written.opens:
            self._staging.closed(written.file)
            self._native.expire(nodeid)

    def _descriptor(self, file: StagedFile, flags: int) -> int:
        """Read-write: what the kernel passes through for readers goes by it as well. Only an open that asked
        for both can be mapped to be written."""
        return self._staging.descriptor(file, os.O_RDWR, mapped=flags & os.O_ACCMODE == os.O_RDWR)

    def flush(self, nodeid: int, fd: int) -> None:
        """See ``Writes``."""
        self._staging.flush(self._written[nodeid].file)

    def sync(self, nodeid: int, fd: int, how: Callable[[int], None]) -> None:
        """See ``Writes``."""
        written = self._written.get(nodeid)
        if written is not None:
            self._staging.sync(written.file)
            return
        try:
            path = self._tree.path(nodeid)
        except OSError:  # removed, and nobody has it open to be written
            return
        self._staging.sync_path(path)

    def _attributes(self, nodeid: int) -> Attributes | None:
        with self._lock:
            written = self._written.get(nodeid)
        return self._staging.attributes_of(written.file) if written is not None else None

    def _reader(self, nodeid: int) -> int | None:
        with self._lock:
            written = self._written.get(nodeid)
        return self._staging.reader_of(written.file) if written is not None else None

    def sync_names(self) -> None:
        """See ``Staging.sync_names``."""
        self._staging.sync_names()

    # ---- new names

    def create(
        self, parent: int, name: bytes, flags: int, mode: int, uid: int, gid: int
    ) -> tuple[Entry, int]:
        """A new file, with a descriptor to write to. Where it is to be a new one for all hosts (O_EXCL) the
        source has it afterwards. ESTALE: it is there, and the kernel is to look."""
        path = self._tree.below(parent, name)
        attributes = self._new(parent, stat.S_IFREG | mode, uid, gid)
        exclusive = bool(flags & os.O_EXCL)
        if self._staging.attributes(path) is not None or not self._absent(path):
            code = errno.EEXIST if exclusive else errno.ESTALE
            raise OSError(code, os.strerror(code))
        claimed = exclusive and not self._staging.back
        file = self._staging.create(path, attributes, claimed=claimed)
        try:
            if claimed:
                self._staging.claim(file)
            entry = replace(self._show(parent, name), valid=NEW_SECONDS)
            fd = self._descriptor(file, flags)
        except BaseException:
            self._staging.abandon(file)
            raise
        self._enter(entry.nodeid, file)
        return entry, fd

    def _absent(self, path: bytes) -> bool:
        return self._tree.absent(path) or self._tree.look(path) is None

    def _show(self, parent: int, name: bytes) -> Entry:
        """What is there now, as the kernel is answered; its listing of the directory is old."""
        entry = self._tree.lookup(parent, name)
        self._native.relist(parent)
        return entry

    def _new(self, parent: int, mode: int, uid: int, gid: int) -> Attributes:
        """With the group of a directory that hands it on (inode_init_owner)."""
        directory = self._native.cached_entry(parent)
        if directory is not None and directory.mode & stat.S_ISGID:
            gid = directory.gid
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
        return Attributes(mode, uid=uid, gid=gid, mtime_ns=time.time_ns())

    def make_file(self, parent: int, name: bytes, mode: int, uid: int, gid: int) -> Entry:
        """mknod(2) of a regular file; EOPNOTSUPP for others."""
        if not stat.S_ISREG(mode):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        entry, fd = self.create(parent, name, os.O_EXCL, mode, uid, gid)
        try:
            self.flush(entry.nodeid, fd)
        finally:
            self.closed(entry.nodeid, fd)
        return entry

    def make_directory(self, parent: int, name: bytes, mode: int, uid: int, gid: int) -> Entry:
        """mkdir(2)."""
        path, changes = self._tree.below(parent, name), self._tree.changes
        made = self._source.make_dir(path, self._new(parent, stat.S_IFDIR | mode, uid, gid))
        self._tree.made(path, made, changes)
        return self._show(parent, name)

    def symlink(self, parent: int, name: bytes, target: bytes, uid: int, gid: int) -> Entry:
        """symlink(2)."""
        path = self._tree.below(parent, name)
        made = self._source.symlink(path, target, self._new(parent, stat.S_IFLNK | 0o777, uid, gid))
        self._tree.told(path, None, made)
        return self._show(parent, name)

    # ---- names that go

    def unlink(self, parent: int, name: bytes) -> None:
        """unlink(2)."""
        path = self._tree.below(parent, name)
        self._staging.remove(path)
        self._went(parent, name, path)

    def rmdir(self, parent: int, name: bytes) -> None:
        """rmdir(2)."""
        path = self._tree.below(parent, name)
        if self._staging.children(path):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        self._source.remove_dir(path)
        self._went(parent, name, path)

    def _went(self, parent: int, name: bytes, path: bytes) -> None:
        self._native.unlinked(parent, name)
        self._tree.gone(path)
        self._native.relist(parent)

    def rename(self, old: tuple[int, bytes], new: tuple[int, bytes], flags: int) -> None:
        """rename(2). EXDEV for directories where the source cannot move them; EINVAL for flags but
        RENAME_NOREPLACE, which is not one operation with it."""
        if flags & ~RENAME_NOREPLACE:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        source, target = self._tree.below(*old), self._tree.below(*new)
        if flags and (self._staging.attributes(target) or self._tree.look(target)):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        moved = self._staging.attributes(source) or self._tree.known(source)
        if moved is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        if not moved.is_dir:
            self._staging.rename(source, target)
        elif Feature.MOVE not in self._source.features:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        elif self._staging.children(target):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        else:
            self._staging.rename_directory(source, target)
            self._cache.renamed(source, target)
        self._native.renamed(old, new, False)
        self._tree.gone(source)
        self._tree.forget(target, tree=True)
        if not moved.is_dir and self._staging.attributes(target) is None:
            there = self._tree.look(target)
            if there is not None:
                self._follow(moved, there, target)
                self._tree.told(target, moved, there)
        for parent in (old[0], new[0]):
            self._native.relist(parent)
        if moved.is_dir:
            self._native.expire(0)  # what is below it may have other numbers

    def _follow(self, before: Attributes, now: Attributes, path: bytes) -> None:
        """What is cached of a file that was renamed stays cached."""
        if now.is_file and now.tag and before.tag == now.tag:
            with suppress(CacheError):  # it is fetched again
                self._cache.follow(_identity(before), _identity(now), path)

    # ---- attributes

    def change(self, nodeid: int, new: NewAttributes) -> None:
        """chmod(2), chown(2), utimensat(2). EOPNOTSUPP where the source keeps no such thing, unless nothing
        would change."""
        with self._lock:
            written = self._written.get(nodeid)
        if Feature.ATTRIBUTES not in self._source.features:
            if _would_change(self._attributes(nodeid) or self._tree.attributes(nodeid), new):
                raise OSError(errno.EOPNOTSUPP, "the source keeps no modes, owners and times")
            return
        if written is not None and written.file.gone:
            self._staging.change_open(written.file, new)
            return
        path = self._tree.path(nodeid)
        self._staging.change(path, new)
        self._tree.forget(path)
        self._native.expire(nodeid)

    def set_xattr(self, nodeid: int, name: bytes, value: bytes | None) -> None:
        """setxattr(2), and removexattr(2) for None."""
        path = self._tree.path(nodeid)
        self._staging.set_xattr(path, name, value)
        self._tree.forget(path)
        self._native.expire(nodeid)


def _identity(attributes: Attributes) -> Identity:
    return Identity(0, attributes.ino, attributes.size, attributes.mtime_ns, generation_ns(attributes))


def _would_change(now: Attributes, new: NewAttributes) -> bool:
    return (
        (new.mode is not None and stat.S_IMODE(new.mode) != stat.S_IMODE(now.mode))
        or (new.uid is not None and new.uid != now.uid)
        or (new.gid is not None and new.gid != now.gid)
        or (new.mtime_ns is not None and new.mtime_ns != now.mtime_ns)
    )
