"""Names and attributes: everything on the source that is not the bytes of an open file.

Directories are reached by descriptor and files by one name in one (``native/source.c``), each operation in
one worker-thread call. Permission was checked by the kernel (``default_permissions``); what is made belongs
to the caller. Raises OSError.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from swmld.cache.store import Cache
from swmld.mount import calls
from swmld.mount.gate import UNREACHABLE, SourceGate
from swmld.mount.native import ROOT, Entry, Native
from swmld.mount.processes import asks_by_descriptor

T = TypeVar("T")

DEFAULT_ACL = "system.posix_acl_default"
LISTING_BATCH = 64
"""Entries of a listing whose attributes are asked for together; about what one READDIRPLUS reply holds."""

RENAME_EXCHANGE = 1 << 1


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a file."""

    uid: int
    gid: int
    umask: int


@dataclass(slots=True)
class Listing:
    """One open directory, read through Python: a snapshot of its names at the last rewind."""

    nodeid: int
    names: list[bytes] = field(default_factory=list)
    ready: dict[int, Entry | None] = field(default_factory=dict)


class Namespace:
    """The operations of FUSE on names, without FUSE."""

    absent_for = 0.0
    """Seconds for which the kernel may answer that a name is not there: asked again each time, as C does."""

    def __init__(self, native: Native, gate: SourceGate, cache: Cache, root_fd: int, *, acl: bool) -> None:
        self._native = native
        self._gate = gate
        self._cache = cache
        self._root_fd = root_fd
        self._acl = acl
        self._listings: dict[int, Listing] = {}
        self._numbers = 0

    # ---- attributes

    async def lookup(self, parent: int, name: bytes) -> Entry:
        """The child; the kernel holds one more reference to it."""
        return await self._gate.call(lambda: self._native.lookup(parent, name), self._unref)

    def _unref(self, entry: Entry) -> None:
        self._native.forget(entry.nodeid, 1)

    async def getattr(self, nodeid: int) -> Entry:
        """As the source has it; what was last known while the source cannot be asked."""
        try:
            return await self._gate.call(lambda: self._native.getattr_held(nodeid))
        except OSError as error:
            entry = self._native.cached_entry(nodeid)
            if error.errno in UNREACHABLE and entry is not None and entry.nlink:
                return entry
            raise

    async def setattr(
        self,
        nodeid: int,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        thread: int = 0,
    ) -> None:
        """Owner before mode: a change of owner clears setuid bits that the same request may set. Nothing to
        change: chown(2) with neither. ``thread``: who waits for it, 0 not known."""

        def run(fd: int) -> None:
            if uid is not None or gid is not None or (mode is atime_ns is mtime_ns is None):
                calls.chown(fd, uid, gid)
            if mode is not None:
                calls.chmod(fd, stat.S_IMODE(mode))
            if atime_ns is not None or mtime_ns is not None:
                calls.utimens(fd, atime_ns, mtime_ns)

        await self._on_node(nodeid, run, thread)
        entry = self._native.cached_entry(nodeid)
        other = self._native.node_of(entry.dev, entry.ino) if entry is not None else 0
        if other not in (0, nodeid):  # a reader's node, that a writer's has taken the place of
            await self._gate.call(lambda: self._native.forget_attributes(other))

    async def _on_node(self, nodeid: int, function: Callable[[int], T], thread: int = 0) -> T:
        """``function`` of an O_PATH descriptor of the node, in a worker thread. FUSE does not say whether the
        change is of an open file or of a name, which may mean another by now: ``thread`` tells."""

        def reach() -> int:
            try:
                return self._native.open_held(nodeid, os.O_PATH)
            except OSError as error:
                if error.errno != errno.ESTALE or not asks_by_descriptor(thread):
                    raise
                return self._native.open_held(nodeid, os.O_PATH, by_handle=True)

        def run() -> T:
            fd = reach()
            try:
                return function(fd)
            finally:
                os.close(fd)

        return await self._gate.call(run)

    @contextlib.contextmanager
    def _directory(self, nodeid: int) -> Iterator[int]:
        fd = self._native.dir_fd(nodeid)
        try:
            yield fd
        finally:
            os.close(fd)

    # ---- making

    def _mode(self, directory: int, mode: int, caller: Caller) -> int:
        """The umask does not count in a directory that has a default ACL: the source applies that."""
        if self._acl:
            with contextlib.suppress(OSError):
                os.getxattr(f"/proc/self/fd/{directory}", DEFAULT_ACL)
                return mode
        return mode & ~caller.umask

    async def create(
        self, parent: int, name: bytes, flags: int, mode: int, caller: Caller
    ) -> tuple[Entry, int]:
        """(entry, descriptor open for reading and writing); as open(2) with O_CREAT."""

        def run() -> tuple[Entry, int]:
            keep = flags & (os.O_EXCL | os.O_TRUNC | os.O_SYNC | os.O_DSYNC)
            with self._directory(parent) as d:
                fd = calls.create(
                    d, name, os.O_RDWR | keep, self._mode(d, mode, caller), caller.uid, caller.gid
                )
                try:
                    entry = self._native.lookup(parent, name)
                    if entry.ino != os.fstat(fd).st_ino:
                        self._unref(entry)
                        raise OSError(116, "replaced while it was created")  # ESTALE: the kernel tries again
                    return entry, fd
                except BaseException:
                    os.close(fd)
                    raise

        def discard(made: tuple[Entry, int]) -> None:
            self._unref(made[0])
            os.close(made[1])

        return await self._gate.call(run, discard)

    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Entry:
        """A file, FIFO, socket or device."""
        return await self._make(
            parent,
            name,
            lambda d: calls.mknod(d, name, self._mode(d, mode, caller), rdev, caller.uid, caller.gid),
        )

    async def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Entry:
        """A directory."""
        return await self._make(
            parent, name, lambda d: calls.mkdir(d, name, self._mode(d, mode, caller), caller.uid, caller.gid)
        )

    async def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Entry:
        """A symbolic link to ``target``."""
        return await self._make(
            parent, name, lambda d: calls.symlink(target, d, name, caller.uid, caller.gid)
        )

    async def link(self, nodeid: int, parent: int, name: bytes) -> Entry:
        """One more name of a file."""

        def run(d: int) -> None:
            fd = self._native.open_held(nodeid, os.O_PATH)
            try:
                calls.link(fd, d, name)
            finally:
                os.close(fd)

        return await self._make(parent, name, run)

    async def _make(self, parent: int, name: bytes, function: Callable[[int], None]) -> Entry:
        def run() -> Entry:
            with self._directory(parent) as d:
                function(d)
            return self._native.lookup(parent, name)

        return await self._gate.call(run, self._unref)

    # ---- removing and renaming

    async def unlink(self, parent: int, name: bytes) -> None:
        """Remove a name; with the last one, what is cached of the file."""

        def run() -> None:
            with self._directory(parent) as d:
                gone = self._last_name(d, name)
                with self._unlinking(parent, name):
                    os.unlink(name, dir_fd=d)
                    self._native.unlinked(parent, name)
            self._drop(gone)

        await self._gate.call(run)

    async def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory."""

        def run() -> None:
            with self._directory(parent) as d, self._unlinking(parent, name):
                os.rmdir(name, dir_fd=d)
                self._native.unlinked(parent, name)

        await self._gate.call(run)

    async def rename(self, old: tuple[int, bytes], new: tuple[int, bytes], flags: int) -> None:
        """rename(2) with its flags."""

        def run() -> None:
            with self._directory(old[0]) as d1, self._directory(new[0]) as d2:
                gone = None if flags & RENAME_EXCHANGE else self._last_name(d2, new[1])
                with self._unlinking(*new):
                    calls.renameat2(d1, old[1], d2, new[1], flags)
                    self._native.renamed(old, new, bool(flags & RENAME_EXCHANGE))
            self._drop(gone)

        await self._gate.call(run)

    @contextlib.contextmanager
    def _unlinking(self, parent: int, name: bytes) -> Iterator[None]:
        """Around the call and what the table is told of it: who meets a node meanwhile waits. The inode stays
        reachable for those who have it open; refused, nothing is kept."""
        with self._native.changing_names():
            self._native.before_unlink(parent, name)
            try:
                yield
            except OSError:
                self._native.not_unlinked(parent, name)
                raise

    @staticmethod
    def _last_name(directory: int, name: bytes) -> os.stat_result | None:
        """The file that loses its last name, if it is one that can be cached."""
        with contextlib.suppress(OSError):
            st = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISREG(st.st_mode) and st.st_nlink == 1:
                return st
        return None

    def _drop(self, gone: os.stat_result | None) -> None:
        if gone is not None:
            dev = gone.st_dev if gone.st_dev != os.fstat(self._root_fd).st_dev else 0
            self._cache.drop_inode(dev, gone.st_ino)

    # ---- reading what is small

    async def readlink(self, nodeid: int) -> bytes:
        """The target."""
        return await self._on_node(nodeid, lambda fd: os.readlink(b"", dir_fd=fd))

    async def statfs(self) -> os.statvfs_result:
        """Of the source."""
        return await self._gate.call(lambda: os.statvfs(self._root_fd))

    async def getxattr(self, nodeid: int, name: bytes) -> bytes:
        """ENODATA when it is not there."""
        return await self._on_node(nodeid, lambda fd: os.getxattr(f"/proc/self/fd/{fd}", name))

    async def setxattr(self, nodeid: int, name: bytes, value: bytes) -> None:
        """pyfuse3 does not carry XATTR_CREATE and XATTR_REPLACE."""
        await self._on_node(nodeid, lambda fd: os.setxattr(f"/proc/self/fd/{fd}", name, value))

    async def listxattr(self, nodeid: int) -> list[bytes]:
        """All names."""
        names = await self._on_node(nodeid, lambda fd: os.listxattr(f"/proc/self/fd/{fd}"))
        return [os.fsencode(name) for name in names]

    async def removexattr(self, nodeid: int, name: bytes) -> None:
        """ENODATA when it is not there."""
        await self._on_node(nodeid, lambda fd: os.removexattr(f"/proc/self/fd/{fd}", name))

    # ---- directories, where C does not list them

    async def opendir(self, nodeid: int) -> int:
        """A handle; EACCES and the like are found now."""
        await self._gate.call(lambda: os.close(self._native.dir_fd(nodeid)))
        self._numbers += 1
        self._listings[self._numbers] = Listing(nodeid)
        return self._numbers

    async def entries(self, fh: int, offset: int) -> tuple[int, list[tuple[bytes, Entry | None]]]:
        """(position, names with attributes) from ``offset`` on, some at a time; empty at the end. A name
        whose file has gone meanwhile has no attributes. Offset 0 reads the directory anew."""
        listing = self._listings[fh]
        if offset == 0:
            names = await self._gate.call(lambda: self._names(listing.nodeid))
            listing.names = [b".", b"..", *names]
            listing.ready.clear()
        wanted = range(offset, min(offset + LISTING_BATCH, len(listing.names)))
        missing = [i for i in wanted if i not in listing.ready]
        if missing:
            found = await self._gate.call(lambda: [self._child(listing, i) for i in missing])
            listing.ready = {i: e for i, e in listing.ready.items() if i in wanted}
            listing.ready.update(zip(missing, found, strict=True))
        return offset, [(listing.names[i], listing.ready[i]) for i in wanted]

    def _names(self, nodeid: int) -> list[bytes]:
        fd = self._native.open_dir(nodeid)
        try:
            return [os.fsencode(name) for name in os.listdir(fd)]
        finally:
            os.close(fd)

    def _child(self, listing: Listing, index: int) -> Entry | None:
        name = listing.names[index]
        with contextlib.suppress(OSError):
            if name == b".":
                return self._native.getattr(listing.nodeid)
            if name == b"..":
                up = self._native.parent(listing.nodeid)[0] if listing.nodeid != ROOT else ROOT
                return self._native.getattr(up)
            return self._native.lookup(listing.nodeid, name, ref=False)
        return None

    def listed(self, entry: Entry) -> None:
        """The kernel took this entry of a listing: it holds a reference now."""
        self._native.ref(entry.nodeid)

    def handed(self, fh: int) -> bool:
        """Whether C goes on where ``entries`` ended."""
        return False

    def releasedir(self, fh: int) -> None:
        """Close a listing."""
        self._listings.pop(fh, None)

    async def fsyncdir(self, fh: int) -> None:
        """The directory's entries to the source's disk."""
        nodeid = self._listings[fh].nodeid

        def run() -> None:
            fd = self._native.open_dir(nodeid)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

        await self._gate.call(run)
