"""A source that is no directory of this host, as nodes: what ``sources`` give, entered into C's table.

Attributes are asked for as ``check`` says, unless the source tells of its changes: then what is known holds
until it does. Files that are being written are ``staging``'s until the source has them: what they are is
looked at each time. ``remote_changes`` makes changes.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice

from swmld.mount.native import ROOT, Entry, Native, now
from swmld.mount.tree import Opened
from swmld.sources.interface import Attributes, Change, Feature, Room, Source, generation_ns
from swmld.staging.area import Staging

log = logging.getLogger(__name__)

KEPT = 1 << 16
"""Files whose attributes are remembered with all that their source says of them: about 25 MB."""

TOLD = 4096
"""Changes that are remembered, to tell whether an answer is older than one of them."""

STRICT, RELAXED = 0, 1
WATCHED_SECONDS = 86400.0
"""How long a look at the source holds that tells of its changes."""


@dataclass(frozen=True, slots=True)
class Known:
    """Attributes, when they were asked for (``native.now``), and how many changes had been told by then."""

    attributes: Attributes
    asked: int
    changes: int


class Recent:
    """The latest attributes by path, and the latest changes; any thread."""

    def __init__(self, most: int = KEPT) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, Known] = OrderedDict()
        self._told: deque[Change] = deque(maxlen=TOLD)
        self.changes = 0
        """How many were told."""

    def get(self, path: bytes) -> Known | None:
        """What is remembered, however old."""
        with self._lock:
            known = self._known.get(path)
            if known is not None:
                self._known.move_to_end(path)
            return known

    def put(self, path: bytes, known: Known) -> Known:
        """Unless a change was told since it was asked for; gives what is the latest of both."""
        with self._lock:
            if not self._unchanged(path, known.changes):
                return known
            there = self._known.get(path)
            if there is not None and there.asked > known.asked:
                return there
            self._known[path] = known
            self._known.move_to_end(path)
            if len(self._known) > self._most:
                self._known.popitem(last=False)
            return known

    def drop(self, path: bytes) -> None:
        """It is not there any more."""
        with self._lock:
            self._known.pop(path, None)

    def unchanged(self, path: bytes, since: int) -> bool:
        """Whether none of the changes told after the first ``since`` is one of ``path``."""
        with self._lock:
            return self._unchanged(path, since)

    def _unchanged(self, path: bytes, since: int) -> bool:
        if (newer := self.changes - since) > TOLD:
            return False
        return not any(
            path == c.path or (c.tree and (not c.path or path.startswith(c.path + b"/")))
            for c in islice(reversed(self._told), newer)
        )

    def forget(self, change: Change) -> None:
        """What was known of it does not hold any more."""
        with self._lock:
            self.changes += 1
            self._told.append(change)
            self._known.pop(change.path, None)
            if change.tree:
                below = change.path + b"/" if change.path else b""
                for each in [other for other in self._known if other.startswith(below)]:
                    del self._known[each]


class RemoteTree:
    """See ``tree.Tree``. ``strict``: each open asks. ``interval``: seconds that a look at the source holds
    where it tells of no changes. ``ruled``: rules for some paths may say otherwise of both."""

    def __init__(
        self,
        native: Native,
        source: Source,
        root: Attributes,
        *,
        strict: bool,
        interval: float,
        ruled: bool = False,
    ) -> None:
        self._native = native
        self._source = source
        self._strict = strict
        self._interval = interval
        self._ruled = ruled
        self.features = source.features
        self._recent = Recent()
        self.watched = False
        """The source tells of its changes now."""
        self.staging: Staging | None = None
        """Set by the owner, where files can be written."""
        self.written: Callable[[int], Attributes | None] = _nobody
        """Of a node that is open to be written, whatever its name; set by ``remote_changes``."""
        native.refresh(ROOT, root, now())

    # ---- what is asked

    def lookup(self, parent: int, name: bytes, ref: bool = True) -> Entry:
        """See ``Tree``."""
        return self._look(parent, name, ref)[0]

    def _look(self, parent: int, name: bytes, ref: bool) -> tuple[Entry, bytes, Known]:
        path = self.below(parent, name)
        with self._steady():
            if (staged := self._staged(path)) is not None:
                known = Known(staged, now(), self._recent.changes)
                return self._unkept(self._native.enter(parent, name, staged, known.asked, ref)), path, known
        entry = None
        if self._ruled and (nodeid := self._native.child(parent, name)):
            entry = self._native.cached_entry(nodeid)
        fresh = self._fresh(path, entry)
        if fresh is None:
            try:
                fresh = self._stat(path)
            except FileNotFoundError:
                self._recent.drop(path)
                self._native.unlinked(parent, name)
                raise
        return self.enter(parent, name, path, fresh, ref), path, fresh

    def enter(self, parent: int, name: bytes, path: bytes, known: Known, ref: bool) -> Entry:
        """Into the table."""
        entry = self._native.enter(parent, name, known.attributes, known.asked, ref)
        return self._still(entry, path, known)

    def _steady(self) -> AbstractContextManager[None]:
        return self.staging.steady() if self.staging is not None else nullcontext()

    def _staged(self, path: bytes) -> Attributes | None:
        return self.staging.attributes(path) if self.staging is not None else None

    def _unkept(self, entry: Entry) -> Entry:
        """It may be written at any time: neither the table nor the kernel keeps what it is."""
        self._native.expire(entry.nodeid)
        return replace(entry, valid=0.0)

    def _still(self, entry: Entry, path: bytes, known: Known) -> Entry:
        """Whoever tells of a change logs it first and then looks into the table; here it is the other way
        round, so that one of the two sees that what was entered is old."""
        if self._recent.unchanged(path, known.changes):
            return entry
        self._native.expire(entry.nodeid)
        return replace(entry, valid=0.0)

    def getattr(self, nodeid: int) -> Entry:
        """See ``Tree``."""
        with self._steady():
            staged = self.written(nodeid)
            if staged is None:
                path = self.path(nodeid)
                staged = self._staged(path)
            if staged is not None:
                return self._unkept(self._native.refresh(nodeid, staged, now()))
        known = self._fresh(path, self._native.cached_entry(nodeid))
        if known is None:
            try:
                known = self._stat(path)
            except (FileNotFoundError, NotADirectoryError):
                self._recent.drop(path)
                self._native.expire(nodeid)
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from None
        return self._still(self._native.refresh(nodeid, known.attributes, known.asked), path, known)

    def scan(self, nodeid: int) -> Iterator[tuple[bytes, int]]:
        """See ``Tree``."""
        path, after, more = self.path(nodeid), b"", True
        while more:
            entries, more = self.page(path, after)
            for name, known in entries:
                yield name, stat.S_IFMT(known.attributes.mode)
            after = entries[-1][0] if entries else after
            more = more and bool(entries)

    def open(self, nodeid: int, size: int) -> Opened:
        """See ``Tree``. ESTALE where the source has another generation than the table."""
        path = self.path(nodeid)
        if self.staging is not None and (fd := self.staging.reader(path)) is not None:
            return Opened(fd)
        entry = self._native.cached_entry(nodeid)
        known = self._recent.get(path)
        if known is None or not _same(entry, known.attributes):
            known = self._stat(path)
        if not _same(entry, known.attributes):
            self._native.expire(nodeid)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return Opened(reader=self._source.open(path, known.attributes))

    def open_child(self, parent: int, name: bytes) -> tuple[Entry, Opened]:
        """See ``Tree``."""
        entry, path, known = self._look(parent, name, ref=False)
        if not stat.S_ISREG(entry.mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if self._staged(path) is not None:
            raise OSError(errno.EBUSY, "it is being written")
        if not _same(entry, known.attributes):  # the table knew a newer one
            return entry, self.open(entry.nodeid, entry.size)
        return entry, Opened(reader=self._source.open(path, known.attributes))

    def reopen(self, nodeid: int, opened: Opened) -> Opened:
        """See ``Tree``."""
        return self.open(nodeid, 0)

    def staged(self, nodeid: int) -> bool:
        """See ``Tree``."""
        if self.staging is None:
            return False
        return self.written(nodeid) is not None or self._staged(self.path(nodeid)) is not None

    def attributes(self, nodeid: int) -> Attributes:
        """All that the source says of a node, asked for now if need be."""
        path = self.path(nodeid)
        if (staged := self._staged(path)) is not None:
            return staged
        known = self._fresh(path, self._native.cached_entry(nodeid)) or self._stat(path)
        return known.attributes

    def xattrs(self, nodeid: int) -> dict[bytes, bytes]:
        """The extended attributes of a node, which are the source's, also of a file that is staged."""
        path = self.path(nodeid)
        if self._staged(path) is None:
            if self.attributes(nodeid).bare:
                return {}
        elif self.staging is not None:
            base = self.staging.base(path)
            if base is None or base.bare:
                return {}
        try:
            return self._source.xattrs(path)
        except FileNotFoundError:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from None

    def bare(self, nodeid: int) -> bool:
        """Whether it had no extended attributes when that was last heard of."""
        known = self._recent.get(self.path(nodeid))
        return known is not None and known.attributes.bare

    def room(self) -> Room | None:
        """See ``Source.room``."""
        return self._source.room()

    def page(self, path: bytes, after: bytes) -> tuple[list[tuple[bytes, Known]], bool]:
        """Some entries of a directory, and whether there are more."""
        asked, changes = now(), self._recent.changes
        before = self.staging.children(path) if self.staging is not None else []
        page = self._source.list(path, after)
        entries = [(name, Known(attributes, asked, changes)) for name, attributes in page.entries]
        below = path + b"/" if path else b""
        entries = [(n, self._recent.put(below + n, k) if k.attributes.is_file else k) for n, k in entries]
        if self.staging is not None:
            staged = dict(self.staging.children(path))
            listed = dict(entries)
            for name, _ in before:
                if name not in staged:  # uploaded while the source was asked, or removed
                    listed.pop(name, None)
                    there = self.look(below + name)
                    if there is not None:
                        staged[name] = there
            end = entries[-1][0] if page.more and entries else None
            own = {n: Known(a, asked, changes) for n, a in staged.items() if after < n and _upto(n, end)}
            entries = sorted((listed | own).items()) if before or own else entries
        return entries, page.more

    def path(self, nodeid: int) -> bytes:
        """From the source's root; ESTALE for a node without a name."""
        path = self._native.path(nodeid)
        return b"" if path == b"." else path

    def below(self, parent: int, name: bytes) -> bytes:
        """The path of a child."""
        path = self.path(parent)
        return path + b"/" + name if path else name

    def look(self, path: bytes) -> Attributes | None:
        """What the source has now; None: nothing."""
        try:
            return self._stat(path).attributes
        except FileNotFoundError:
            self._recent.drop(path)
            return None

    def told(self, path: bytes, was: Attributes | None, attributes: Attributes) -> None:
        """The source has said that of it just now, as the answer to a change that we made; ``was``: what it
        was shown as until now. It stays the node that it is."""
        # Later than whatever was asked for within this tick of the clock.
        self._recent.put(path, Known(attributes, now() + 1, self._recent.changes))
        if was is not None and (nodeid := self._find(path)[1]):
            self._native.renew(nodeid, was, attributes)

    def forget(self, path: bytes, *, tree: bool = False) -> None:
        """We have changed it ourselves, and ``tree``: all below it."""
        self._recent.forget(Change(path, tree))

    def _stat(self, path: bytes) -> Known:
        asked, changes = now(), self._recent.changes
        known = Known(self._source.stat(path), asked, changes)
        return self._recent.put(path, known)

    def _fresh(self, path: bytes, entry: Entry | None) -> Known | None:
        """What is remembered, if that may be relied on without asking."""
        known = self._recent.get(path)
        if known is None:
            return None
        check = entry.check if entry is not None else RELAXED
        if check == STRICT or (entry is None and self._strict):
            return None
        interval = WATCHED_SECONDS if self.watched else self._interval
        if entry is not None and entry.check == RELAXED:
            interval = entry.check_interval
        return known if check != RELAXED or now() - known.asked < interval * 1e9 else None

    def _find(self, path: bytes) -> tuple[int, int, bytes]:
        """The last directory on the way to a path that the table knows, the node of the path, 0 where it
        knows none, and the name where the way ends."""
        parent, nodeid, name = 0, ROOT, b""
        for name in path.split(b"/") if path else ():
            parent, nodeid = nodeid, self._native.child(nodeid, name)
            if not nodeid:
                break
        return parent, nodeid, name

    # ---- what the source tells

    def watch(self) -> None:
        """Blocking, until the source is closed: changes at the source are seen at once."""
        if Feature.WATCH not in self._source.features:
            return
        try:
            self._source.watch(self.changed, self._watching)
        except OSError as error:
            log.warning("%s does not tell of changes any more: %s", self._source.name, error)
            self._watching(False)

    def _watching(self, on: bool) -> None:
        if on == self.watched:
            return
        if on:  # what changed while nobody told is not known
            self._recent.forget(Change(b"", tree=True))
            self._native.expire(0)
        log.info(
            "%s %s of its changes: attributes hold %s",
            self._source.name, "tells" if on else "does not tell",
            "until it does" if on else f"{self._interval:g} s",
        )  # fmt: skip
        self.watched = on
        self._native.told(on, WATCHED_SECONDS if on else self._interval)

    def changed(self, change: Change) -> None:
        """Blocking: forgets what is known of it, here and in the kernel."""
        self._recent.forget(change)
        parent, nodeid, name = self._find(change.path)
        if change.tree:
            self._native.expire(0)
        if nodeid:
            self._native.expire(nodeid)
            self._native.forget_attributes(nodeid)
        if parent:
            self._native.expire(parent)  # a listing that the kernel keeps is another now
            self._native.forget_entry(parent, name)


def _nobody(_: int) -> None:
    return None


def _upto(name: bytes, end: bytes | None) -> bool:
    return end is None or name <= end


def _same(entry: Entry | None, attributes: Attributes) -> bool:
    """Whether the table has this generation."""
    if entry is None:
        return False
    now_there = (attributes.ino, attributes.size, attributes.mtime_ns, generation_ns(attributes))
    return (entry.ino, entry.size, entry.mtime_ns, entry.ctime_ns) == now_there
