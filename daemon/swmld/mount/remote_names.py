"""Names and attributes of a source that is no directory of this host: ``namespace.Namespace`` for ``remote``.

Changes are ``remote_changes``'; where there are none the mount is read-only, and the kernel refuses them
before we are asked.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

import trio

from swmld.mount.capacity import Capacity
from swmld.mount.gate import UNREACHABLE, SourceGate, Store
from swmld.mount.namespace import LISTING_BATCH, Caller
from swmld.mount.native import ROOT, Entry, Native
from swmld.mount.recent import LISTED, Known, KnownPage, Listed, Parts
from swmld.mount.remote import MORE, RemoteTree
from swmld.mount.remote_changes import RemoteChanges
from swmld.sources.interface import LISTED as PAGE
from swmld.sources.interface import Feature, NewAttributes

T = TypeVar("T")

NAME_MAX = 255
ABSENT_SECONDS = 1.0
"""How long the kernel may answer that a name is not there. An import in Python asks for dozens of such names,
each a round trip; and a file that others make is to be seen within two seconds."""

_SYSTEM = b"system."
"""What the kernel itself gives a meaning to, such as POSIX ACLs: where it is not asked to heed them, nobody
does."""


@dataclass(slots=True)
class PagedListing:
    """One open directory: the entries that were read last, from number ``start`` on."""

    fh: int
    nodeid: int
    path: bytes
    start: int = 0
    entries: Listed = ()
    more: bool = True
    changes: int = 0
    """How many had been told when it was begun."""
    seen: Parts | None = field(default_factory=Parts)
    """All of them so far; None: too many to be remembered."""
    known: bool = False
    """It is what was known of it while the source did not answer."""
    ahead: Ahead | None = None
    handed: bool = False
    """C has the entries."""
    closed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def rewind(self) -> None:
        """To the first entry, to be read anew."""
        self.start, self.entries, self.more, self.seen, self.known = 0, (), True, Parts(), False
        self.ahead, self.handed = None, False

    @property
    def end(self) -> int:
        """One past the last entry that is there."""
        return self.start + len(self.entries)


class Ahead:
    """A page that is asked for before it is wanted, in a thread."""

    def __init__(self, ask: Callable[[], tuple[Listed, bool]]) -> None:
        self._ask = ask
        self._found: tuple[Listed, bool] | None = None
        self._thread = threading.Thread(target=self._run, name="swmld-ahead", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError):  # who wants it asks again
            self._found = self._ask()

    def take(self) -> tuple[Listed, bool]:
        """Blocking: the page. Raises OSError."""
        self._thread.join()
        return self._found if self._found is not None else self._ask()


class RemoteNames:
    """The operations of FUSE on names."""

    def __init__(
        self, native: Native, gate: SourceGate, tree: RemoteTree, changes: RemoteChanges | None, store: Store
    ) -> None:
        self._native = native
        self._gate = gate
        self._tree = tree
        self._features = tree.features
        self._capacity = Capacity(gate, tree.room)
        self._changing = changes
        self._store = store
        self._listings: dict[int, PagedListing] = {}
        self._numbers = 0
        self.absent_for = ABSENT_SECONDS
        """As in ``Namespace``."""

    async def lookup(self, parent: int, name: bytes) -> Entry:
        """The child; the kernel holds one more reference to it."""
        _check_name(name)
        if self._tree.child_absent(parent, name):  # as before each creat(2)
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return await self._or_known(
            lambda: self._tree.lookup(parent, name),
            lambda: self._tree.lookup_offline(parent, name),
            self._unref,
        )

    async def _or_known(
        self,
        asked: Callable[[], T],
        known: Callable[[], T | None],
        discard: Callable[[T], None] | None = None,
    ) -> T:
        """What the source says; while it cannot be asked what is ``known``, and where nothing is what it says
        when it is back, if that is soon."""
        try:
            return await self._gate.call(asked, discard, patient=False)
        except OSError as error:
            found = known() if error.errno in UNREACHABLE else None
            if found is not None:
                return found
            if error.errno not in UNREACHABLE or not self._gate.down:
                raise
        return await self._gate.call(asked, discard)

    def _unref(self, entry: Entry) -> None:
        self._native.forget(entry.nodeid, 1)

    async def getattr(self, nodeid: int) -> Entry:
        """As the source has it; what was last known while the source cannot be asked, and of a file that was
        removed or replaced there while it is open here."""

        def known() -> Entry | None:
            entry = self._native.cached_entry(nodeid)
            return entry if entry is not None and self._tree.offline(nodeid) else None

        try:
            return await self._or_known(lambda: self._tree.getattr(nodeid), known)
        except OSError as error:
            entry = self._native.cached_entry(nodeid)
            if entry is None:
                raise
            if error.errno == errno.ESTALE and (self._native.usage(nodeid) or (0, False))[1]:
                return replace(entry, nlink=0, valid=0.0)
            raise

    async def readlink(self, nodeid: int) -> bytes:
        """The target."""
        return await self._or_known(
            lambda: self._tree.attributes(nodeid).link, lambda: self._tree.link_offline(nodeid)
        )

    async def statfs(self) -> os.statvfs_result:
        """Of the source; where it has no size, what is shown is large, and nothing of it used."""
        flags = os.ST_RDONLY if self._changing is None else 0
        return await self._capacity.shown(flags, NAME_MAX)

    async def getxattr(self, nodeid: int, name: bytes) -> bytes:
        """ENODATA; EOPNOTSUPP where the source keeps none."""
        self._check_xattr(name)
        found = (await self._xattrs(nodeid)).get(name)
        if found is None:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return found

    async def listxattr(self, nodeid: int) -> list[bytes]:
        """Their names; EOPNOTSUPP where the source keeps none."""
        self._check_xattr()
        return [name for name in await self._xattrs(nodeid) if not name.startswith(_SYSTEM)]

    async def _xattrs(self, nodeid: int) -> dict[bytes, bytes]:
        """ls(1) asks for one of each file: the usual answer, none, is known with the attributes."""
        return await self._or_known(
            lambda: self._tree.xattrs(nodeid), lambda: {} if self._tree.bare(nodeid) else None
        )

    def _check_xattr(self, name: bytes = b"") -> None:
        if Feature.XATTRS not in self._features:
            # ENOSYS makes the kernel say EOPNOTSUPP by itself from then on.
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        if name.startswith(_SYSTEM):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    # ---- directories

    async def opendir(self, nodeid: int) -> int:
        """A handle; EACCES and the like are found with the first entries."""
        self._numbers += 1
        self._listings[self._numbers] = PagedListing(self._numbers, nodeid, self._tree.path(nodeid))
        return self._numbers

    async def entries(self, fh: int, offset: int) -> tuple[int, list[tuple[bytes, Entry | None]]]:
        """(position, names with attributes) from ``offset`` on, some at a time; empty at the end. Offset 0
        reads the directory anew."""
        listing = self._listings[fh]
        if offset == 0:
            self._rewind(listing)
        try:
            return offset, await self._gate.call(lambda: self._batch(listing, offset), patient=False)
        except OSError as error:
            if error.errno not in UNREACHABLE:
                raise
            # Positions are those of one listing: one that has begun cannot go on with another.
            if not listing.end and not listing.known:
                known = await trio.to_thread.run_sync(self._tree.listed, listing.path)
                if known is not None:
                    listing.entries, listing.more, listing.seen, listing.known = known, False, None, True
            if listing.known:
                return offset, self._batch(listing, offset)
            if not self._gate.down:
                raise
        return offset, await self._gate.call(lambda: self._batch(listing, offset))

    def _batch(self, listing: PagedListing, offset: int) -> list[tuple[bytes, Entry | None]]:
        if offset < 2:  # before what is in it
            return [(name, self._dot(listing.nodeid, name)) for name in (b".", b"..")[offset:]]
        first = offset - 2
        if first < listing.start:
            self._rewind(listing)
        while first >= listing.end and listing.more:
            self._turn(listing)
        listing.handed = self._hand(listing)
        place = first - listing.start
        part = listing.entries[place : place + LISTING_BATCH]
        return [(name, self._child(listing, name, known)) for name, known in part]

    def _turn(self, listing: PagedListing) -> None:
        """To the next page."""
        after = listing.entries[-1][0] if listing.entries else b""
        if not after:
            listing.changes = self._tree.changes
        ahead, listing.ahead = listing.ahead, None
        packed = isinstance(listing.entries, KnownPage)
        entries, more = ahead.take() if ahead is not None else self._page(listing.path, after, packed)
        listing.start, listing.entries, listing.more = listing.end, entries, more and bool(entries)
        if isinstance(entries, KnownPage) and listing.more:
            last = entries.last
            listing.ahead = Ahead(lambda: self._page(listing.path, last, True))
        if listing.seen is not None:
            listing.seen.add(entries)
            if len(listing.seen) > LISTED:
                listing.seen = None
            elif not listing.more:
                self._tree.remember(listing.path, listing.seen, listing.changes)

    def _page(self, path: bytes, after: bytes, packed: bool) -> tuple[Listed, bool]:
        return self._tree.page(path, after, MORE if packed else PAGE)

    def _hand(self, listing: PagedListing) -> bool:
        """Gives C what is there to answer from, if nothing has changed in the directory since it was read."""
        page = listing.entries
        if not isinstance(page, KnownPage) or not page or listing.known:
            return False
        changes = self._tree.still(listing.path, page.changes)
        if changes is None:
            return False
        with listing.lock:
            return not listing.closed and self._native.dir_give(
                listing.fh, listing.nodeid, listing.start + 2, page.entries, listing.more, page.asked, changes
            )

    def _rewind(self, listing: PagedListing) -> None:
        self._native.dir_drop(listing.fh)
        listing.rewind()

    def handed(self, fh: int) -> bool:
        """Whether C goes on where ``entries`` ended."""
        listing = self._listings.get(fh)
        return listing is not None and listing.handed

    def _dot(self, nodeid: int, name: bytes) -> Entry:
        if name == b".." and nodeid != ROOT:
            nodeid = self._native.parent(nodeid)[0]
        return self._native.cached_entry(nodeid) or self._tree.getattr(nodeid)

    def _child(self, listing: PagedListing, name: bytes, known: Known) -> Entry:
        path = listing.path + b"/" + name if listing.path else name
        return self._tree.enter(listing.nodeid, name, path, known, ref=False)

    def listed(self, entry: Entry) -> None:
        """The kernel took this entry of a listing: it holds a reference now."""
        self._native.ref(entry.nodeid)

    def releasedir(self, fh: int) -> None:
        """Close a listing."""
        listing = self._listings.pop(fh, None)
        if listing is not None:
            with listing.lock:  # an answer that nobody waits for any more may give it a page still
                listing.closed = True
            self._native.dir_drop(fh)

    async def fsyncdir(self, fh: int) -> None:
        """What files are called is safe afterwards."""
        if self._changing is not None:
            await self._store(self._changing.sync_names)

    # ---- changes

    @property
    def _changes(self) -> RemoteChanges:
        if self._changing is None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return self._changing

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
        """No source keeps the time of the last access, nor open files: ``thread`` does not count."""
        changes, new = self._changes, NewAttributes(mode, uid, gid, mtime_ns)
        await self._store(lambda: changes.change(nodeid, new))

    async def create(
        self, parent: int, name: bytes, flags: int, mode: int, caller: Caller
    ) -> tuple[Entry, int]:
        """(entry, descriptor open for reading and writing); as open(2) with O_CREAT."""
        changes, permissions = self._changes, mode & ~caller.umask
        _check_name(name)

        def discard(made: tuple[Entry, int]) -> None:
            changes.closed(made[0].nodeid, made[1])
            self._unref(made[0])

        return await self._store(
            lambda: changes.create(parent, name, flags, permissions, caller.uid, caller.gid), discard
        )

    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Entry:
        """A regular file; EOPNOTSUPP for what else there is."""
        changes, mode = self._changes, mode & ~caller.umask
        _check_name(name)
        return await self._store(
            lambda: changes.make_file(parent, name, mode, caller.uid, caller.gid), self._unref
        )

    async def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Entry:
        """A directory."""
        changes, mode = self._changes, mode & ~caller.umask
        _check_name(name)
        return await self._store(
            lambda: changes.make_directory(parent, name, mode, caller.uid, caller.gid), self._unref
        )

    async def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Entry:
        """A symbolic link to ``target``."""
        changes = self._changes
        _check_name(name)
        return await self._store(
            lambda: changes.symlink(parent, name, target, caller.uid, caller.gid), self._unref
        )

    async def link(self, nodeid: int, parent: int, name: bytes) -> Entry:
        """EOPNOTSUPP: no source makes hard links."""
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    async def unlink(self, parent: int, name: bytes) -> None:
        """Remove a file or symlink."""
        changes = self._changes
        await self._store(lambda: changes.unlink(parent, name))

    async def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory."""
        changes = self._changes
        await self._store(lambda: changes.rmdir(parent, name))

    async def rename(self, old: tuple[int, bytes], new: tuple[int, bytes], flags: int) -> None:
        """See ``RemoteChanges.rename``."""
        changes = self._changes
        _check_name(new[1])
        await self._store(lambda: changes.rename(old, new, flags))

    async def setxattr(self, nodeid: int, name: bytes, value: bytes) -> None:
        """At the source at once. EOPNOTSUPP where it keeps none, and for ACLs, which nobody would heed."""
        changes = self._changes
        self._check_xattr(name)
        await self._store(lambda: changes.set_xattr(nodeid, name, value))

    async def removexattr(self, nodeid: int, name: bytes) -> None:
        """As ``setxattr``; ENODATA."""
        changes = self._changes
        self._check_xattr(name)
        await self._store(lambda: changes.set_xattr(nodeid, name, None))


def _check_name(name: bytes) -> None:
    if len(name) > NAME_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
