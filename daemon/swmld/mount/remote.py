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
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import partial

from swmld.mount.grace import Grace
from swmld.mount.lifetimes import Lifetimes
from swmld.mount.native import ROOT, Entry, Native, now
from swmld.mount.recent import Known, KnownPage, Listed, Parts, Recent
from swmld.mount.tree import Found, Opened
from swmld.sources.interface import LISTED, Attributes, Change, Feature, Page, Room, Source, generation_ns
from swmld.sources.interface import ROOT as TOP
from swmld.sources.packed import PackedEntries
from swmld.staging.area import Staging

log = logging.getLogger(__name__)

STRICT, RELAXED = 0, 1
SEVERAL = 4
"""Names of a directory that are worth a request for a part of its listing, instead of one or two for each."""

PART = 256
"""Entries of such a part: several readers that share a directory's files want every few of them, and those
that follow are wanted next. 6 ms of CPU, as much as eight files by themselves."""

MORE = 8192
"""Entries of a page after the first, of a source that gives more than ``LISTED`` of them at once."""

MISSED_SECONDS = 0.25
"""For which a file is made where the source had none, without asking again: the kernel looks a name up just
before. What another host makes meanwhile is found by the source, which makes no file twice."""

WATCHED_SECONDS = 86400.0
"""How long a look at the source holds that tells of its changes."""


class RemoteTree:
    """See ``tree.Tree``. ``strict``: each open asks. ``interval``: seconds that a look at the source holds
    where it tells of no changes. ``ruled``: rules for some paths may say otherwise of both. ``grace``:
    seconds for which what is known is shown while the source does not answer."""

    remembers = True
    tagged = True

    def __init__(
        self,
        native: Native,
        source: Source,
        root: Attributes,
        *,
        strict: bool,
        interval: float,
        ruled: bool = False,
        grace: float = 0.0,
    ) -> None:
        self._native = native
        self._source = source
        self._strict = strict
        self._interval = interval
        self._ruled = ruled
        self.features = source.features
        self._recent = Recent()
        self._lifetimes = Lifetimes(lambda path: self.changed(Change(path)))
        self._grace = Grace(grace)
        self.watched = False
        """The source tells of its changes now."""
        self.staging: Staging | None = None
        """Set by the owner, where files can be written."""
        self.written: Callable[[int], Attributes | None] = _nobody
        """Of a node that is open to be written, whatever its name; set by ``remote_changes``."""
        self.written_reader: Callable[[int], int | None] = _nothing
        """A new descriptor to read it; likewise."""
        native.refresh(ROOT, root, now())

    # ---- what is asked

    def lookup(self, parent: int, name: bytes, ref: bool = True) -> Entry:
        """See ``Tree``."""
        return self._look(parent, name, ref)[0]

    def _look(self, parent: int, name: bytes, ref: bool) -> tuple[Entry, bytes, Known]:
        path = self.below(parent, name)
        staged = self._enter_staged(parent, name, path, ref)
        if staged is not None:
            return staged[0], path, staged[1]
        entry = None
        if self._ruled and (nodeid := self._native.child(parent, name)):
            entry = self._native.cached_entry(nodeid)
        fresh = self._fresh(path, entry)
        if fresh is None:
            try:
                if self._lacks(path):
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
                fresh = self._stat(path)
            except FileNotFoundError:
                self._recent.drop(path)
                self._native.unlinked(parent, name)
                raise
        return self._enter(parent, name, path, fresh, ref), path, fresh

    def enter(self, parent: int, name: bytes, path: bytes, known: Known, ref: bool) -> Entry:
        """Into the table, as the source has it or as it is staged."""
        staged = self._enter_staged(parent, name, path, ref)
        return staged[0] if staged is not None else self._enter(parent, name, path, known, ref)

    def _enter(self, parent: int, name: bytes, path: bytes, known: Known, ref: bool) -> Entry:
        entry = self._native.enter(parent, name, known.attributes, known.asked, ref)
        return self._still(entry, path, known)

    def _enter_staged(self, parent: int, name: bytes, path: bytes, ref: bool) -> tuple[Entry, Known] | None:
        with self._steady():
            if (staged := self._staged(path)) is None:
                return None
            known = Known(staged, now(), self._recent.changes)
            return self._unkept(self._native.enter(parent, name, staged, known.asked, ref)), known

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
        if self._recent.unchanged(path, known.changes) and self._tracked(path, known.attributes):
            return entry
        self._native.expire(entry.nodeid)
        return replace(entry, valid=0.0)

    def _tracked(self, path: bytes, attributes: Attributes) -> bool:
        """Whether it is told, or known, when these do not hold any more. What becomes of a file by a name
        that lies outside of what is served is not told."""
        several = attributes.nlink > 1 and attributes.is_file
        return not several and (not attributes.expires_ns or self._lifetimes.awaits(path))

    def getattr(self, nodeid: int) -> Entry:
        """See ``Tree``."""
        with self._steady():
            staged = self.written(nodeid)
            if staged is None:
                path = self.path(nodeid)
                staged = self._staged(path)
            if staged is not None:
                return self._unkept(self._native.refresh(nodeid, staged, now()))
        entry = self._native.cached_entry(nodeid)
        known = remembered = self._fresh(path, entry)
        if known is None:
            try:
                known = self._stat(path)
            except (FileNotFoundError, NotADirectoryError):
                self._recent.drop(path)
                self._native.expire(nodeid)
                if entry is not None and entry.nlink > 1 and stat.S_ISREG(entry.mode):
                    return self._by_another_name(nodeid, path)
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from None
        now_there = self._native.refresh(nodeid, known.attributes, known.asked)
        if remembered is not None and not now_there.valid:
            # Asked for within the tick of the clock in which the node expired: C keeps none of that time.
            self._recent.drop(path)
        return self._still(now_there, path, known)

    def _by_another_name(self, nodeid: int, path: bytes) -> Entry:
        """Of a file that has lost the name by which it was known. ESTALE: it is known by no other."""
        parent, name = self._native.parent(nodeid)
        if self.below(parent, name) == path:
            self._native.unlinked(parent, name)
        return self.getattr(nodeid)

    def scan(self, nodeid: int) -> Iterator[tuple[bytes, int]]:
        """See ``Tree``."""
        path, after, more = self.path(nodeid), b"", True
        while more:
            entries, more = self.page(path, after, MORE if after else LISTED)
            if isinstance(entries, KnownPage):
                yield from ((name, stat.S_IFMT(mode)) for name, mode in entries.entries.kinds())
            else:
                yield from ((name, stat.S_IFMT(known.attributes.mode)) for name, known in entries)
            after = entries[-1][0] if entries else after
            more = more and bool(entries)

    def open(self, nodeid: int, size: int) -> Opened:
        """See ``Tree``. ESTALE where the source has another generation than the table."""
        if (fd := self.written_reader(nodeid)) is not None:
            return Opened(fd)
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

    def open_known(self, parent: int, names: Sequence[bytes], limit: int) -> list[Found]:
        """See ``Tree``. Where rules for paths say how long a look holds, each has to be asked about."""
        if self._ruled:
            return []
        path = self.path(parent)
        below = path + b"/" if path else b""
        wanted: list[tuple[bytes, Known]] = []
        for name, known in self._known_in(path, names):
            small = known.attributes.is_file and 0 < known.attributes.size <= limit
            if small and self._staged(below + name) is None:
                wanted.append((name, known))
        children = [(name, known.attributes, known.asked) for name, known in wanted]
        found: list[Found] = []
        entered = self._native.enter_several(parent, children) if children else []
        for (name, known), entry in zip(wanted, entered, strict=True):
            if entry is None:
                continue
            if not self._recent.unchanged(below + name, known.changes):  # see ``_still``
                self._native.expire(entry[0])
                continue
            with suppress(OSError):
                reader = self._source.open(below + name, known.attributes)
                found.append(Found(name, below + name, *entry, Opened(reader=reader)))
        return found

    def _known_in(self, path: bytes, names: Sequence[bytes]) -> list[tuple[bytes, Known]]:
        """Names of a directory of which may be relied on what is remembered, or was asked for here."""
        below = path + b"/" if path else b""

        def fresh(names: Sequence[bytes]) -> list[Known | None]:
            known = zip(names, self._recent.get_several(path, names), strict=True)
            return [self._reliable(below + name, found, None) for name, found in known]

        found = dict(zip(names, fresh(names), strict=True))
        missing = [name for name, known in found.items() if known is None]
        if missing and self._look_at(path, missing):
            found.update(zip(missing, fresh(missing), strict=True))
        return [(name, known) for name, known in found.items() if known is not None]

    def _look_at(self, path: bytes, names: Sequence[bytes]) -> bool:
        """Asks for several names of a directory at once, where the source can: those that stand together are
        a part of its listing. What is not found so is asked for by itself. False: nothing was asked."""
        if Feature.PARTS not in self.features or self._strict or len(names) < SEVERAL:
            return False
        first = min(names)
        with suppress(OSError):
            # All but one byte of it comes just before it, and before few others.
            self.page(path, first[:-1], PART)
        return True

    def number(self, path: bytes) -> Callable[[bytes], int] | None:
        """See ``Tree``."""
        return partial(self._number_at, path)

    def _number_at(self, path: bytes, earlier: bytes) -> int:
        with suppress(OSError):  # forgotten since it was looked up, for a change that was told
            known = self._recent.get(path) or self._stat(path)
            return self._source.number_at(earlier, known.attributes)
        return 0

    def reopen(self, nodeid: int, opened: Opened, *, held: bool = False) -> Opened:
        """See ``Tree``."""
        return self.open(nodeid, 0)

    def doubt(self, nodeid: int) -> None:
        """See ``Tree``."""
        with suppress(OSError):  # it has no name
            self._recent.drop(self.path(nodeid))
            self._native.expire(nodeid)

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

    def page(self, path: bytes, after: bytes, limit: int = LISTED) -> tuple[Listed, bool]:
        """Some entries of a directory, and whether there are more. A ``KnownPage`` where the source gave it
        packed and nothing else is known of what is in it."""
        before = self.staging.children(path) if self.staging is not None else []
        if not before and (remembered := self._known_page(path, after)) is not None:
            return remembered
        asked, changes = now(), self._recent.changes
        page: Page = self._grace.asked(lambda: self._source.list(path, after, limit))
        if isinstance(page.entries, PackedEntries) and not before and not self._lifetimes.any:
            packed = KnownPage(page.entries, asked, changes)
            if not (self.staging and self.staging.children(path)) and self._recent.put_page(path, packed):
                return packed, page.more
        entries = [(name, Known(attributes, asked, changes)) for name, attributes in page.entries]
        below = path + b"/" if path else b""
        for name, known in entries:
            self._lifetimes.note(below + name, known.attributes)
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

    def _known_page(self, path: bytes, after: bytes) -> tuple[Listed, bool] | None:
        """From a listing that was read before."""
        listed = self._known_listing(path)
        return listed.after(after) if listed is not None else None

    def _known_listing(self, path: bytes) -> Parts | None:
        """One that was read before, where it would have been told that it does not hold."""
        return self._certain(self._recent.still_listed(path))

    def _certain(self, listed: Parts | None) -> Parts | None:
        if not self.watched or self._strict or self._ruled or self._lifetimes.any:
            return None
        if listed is None or listed.asked is None or now() - listed.asked > WATCHED_SECONDS * 1e9:
            return None
        return listed

    # ---- while the source does not answer

    def probe(self) -> object:
        """Asks for the root; OSError."""
        return self._grace.asked(lambda: self._source.stat(TOP))

    def offline(self, nodeid: int) -> bool:
        """See ``Tree``."""
        try:
            return self._grace.lasts and not self._lifetimes.over(self.path(nodeid))
        except OSError:  # it has no name, and whoever has it open keeps it
            return self._grace.lasts

    def lookup_offline(self, parent: int, name: bytes) -> Entry | None:
        """A child as it was last known; the kernel holds one more reference. None: it is not known; ENOENT
        where its directory is, and it was not there."""
        path = self.below(parent, name)
        if self._lifetimes.over(path):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        if not self._grace.lasts:
            return None
        known = self._recent.get(path)
        if known is None and (listed := self._recent.listed(path.rpartition(b"/")[0])) is not None:
            known = listed.find(name)
            if known is None:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        if known is None:
            nodeid = self._native.child(parent, name)
            entry = self._native.cached_entry(nodeid) if nodeid else None
            if entry is None or not stat.S_ISDIR(entry.mode):
                return None
            self._native.ref(nodeid)
            return replace(entry, valid=0.0)
        return self._unkept(self._native.enter(parent, name, known.attributes, known.asked, True))

    def listed(self, path: bytes) -> list[tuple[bytes, Known]] | None:
        """A directory as it was last listed, with what is staged in it now; None: it is not known."""
        listed = self._recent.listed(path)
        if listed is None or not self._grace.lasts:
            return None
        below = path + b"/" if path else b""
        there = {name: known for name, known in listed if not self._lifetimes.over(below + name)}
        if self.staging is not None:
            for name, attributes in self.staging.children(path):
                there[name] = Known(attributes, now(), self._recent.changes)
        return sorted(there.items())

    def remember(self, path: bytes, entries: Parts, changes: int) -> None:
        """All of a directory, as ``page`` gave it; ``changes``: how many had been told before that."""
        self._recent.put_listing(path, entries, changes)

    @property
    def changes(self) -> int:
        """How many changes were told."""
        return self._recent.changes

    def still(self, path: bytes, since: int) -> int | None:
        """See ``Recent.still``."""
        return self._recent.still(path, since)

    def link_offline(self, nodeid: int) -> bytes | None:
        """Where a symlink led when that was last heard of."""
        known = self._recent.get(self.path(nodeid))
        return known.attributes.link if known is not None and self._grace.lasts else None

    # ---- paths

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

    def absent(self, path: bytes) -> bool:
        """Whether nothing is there, as a listing says that would be told of a change, or the source did a
        moment ago."""
        return self._lacks(path) or self._recent.missed(path, now() - round(MISSED_SECONDS * 1e9))

    def child_absent(self, parent: int, name: bytes) -> bool:
        """Whether it is known that there is no such child, without asking or waiting for anybody."""
        path = self.below(parent, name)
        if self.staging is not None and not self.staging.surely_lacks(path):
            return False
        if not self._lacks(path):
            return False
        self._native.unlinked(parent, name)
        return True

    def _lacks(self, path: bytes) -> bool:
        """Whether a listing is known of the directory that it would be in, and has no such name."""
        directory, _, name = path.rpartition(b"/")
        listed = self._certain(self._recent.names(directory))
        return listed is not None and listed.lacks(name) and self._recent.get(path) is None

    def told(self, path: bytes, was: Attributes | None, attributes: Attributes) -> None:
        """The source has said that of it just now, as the answer to a change that we made; ``was``: what it
        was shown as until now. It stays the node that it is."""
        self._forget(Change(path))
        self._answered(path, attributes)
        if was is not None and (nodeid := self._find(path)[1]):
            self._native.renew(nodeid, was, attributes)

    def made(self, path: bytes, attributes: Attributes, changes: int) -> None:
        """We have made a directory; ``changes``: how many had been told before. What is in it is known."""
        self._recent.made(path, changes, now())
        self._native.dir_changed(self._recent.changes)
        self._answered(path, attributes)

    def _answered(self, path: bytes, attributes: Attributes) -> None:
        self._lifetimes.note(path, attributes)
        # Later than whatever was asked for within this tick of the clock.
        self._recent.put(path, Known(attributes, now() + 1, self._recent.changes))

    def gone(self, path: bytes) -> None:
        """We have removed it, or given it another name."""
        self._forget(Change(path, tree=True))
        self._recent.miss(path, now(), self._recent.changes)

    def known(self, path: bytes) -> Attributes | None:
        """As ``look``, without asking where it would be told that it is not so any more."""
        known = self._fresh(path, None) if self.watched else None
        return known.attributes if known is not None else self.look(path)

    def forget(self, path: bytes, *, tree: bool = False) -> None:
        """We have changed it ourselves, and ``tree``: all below it."""
        self._forget(Change(path, tree))

    def _forget(self, change: Change) -> None:
        """First what is remembered, then what C answers from; the table comes after that."""
        self._recent.forget(change)
        self._native.dir_changed(self._recent.changes)

    def _stat(self, path: bytes) -> Known:
        asked, changes = now(), self._recent.changes
        try:
            known = Known(self._grace.asked(lambda: self._source.stat(path)), asked, changes)
        except FileNotFoundError:
            self._recent.miss(path, asked, changes)
            raise
        self._lifetimes.note(path, known.attributes)
        return self._recent.put(path, known)

    def _fresh(self, path: bytes, entry: Entry | None) -> Known | None:
        """What is remembered, if that may be relied on without asking."""
        return self._reliable(path, self._recent.get(path), entry)

    def _reliable(self, path: bytes, known: Known | None, entry: Entry | None) -> Known | None:
        if known is None:
            return None
        check = entry.check if entry is not None else RELAXED
        if check == STRICT or (entry is None and self._strict):
            return None
        if known.attributes.expires_ns and self._lifetimes.over(path):
            return None
        told = self.watched and (known.attributes.nlink == 1 or not known.attributes.is_file)
        interval = WATCHED_SECONDS if told else self._interval
        if entry is not None and entry.check == RELAXED and told == self.watched:
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
            self._forget(Change(b"", tree=True))
            self._native.expire(0)
        self.watched = on
        self._native.told(on, WATCHED_SECONDS if on else self._interval)
        log.info(
            "%s %s of its changes: attributes hold %s",
            self._source.name, "tells" if on else "does not tell",
            "until it does" if on else f"{self._interval:g} s",
        )  # fmt: skip

    def changed(self, change: Change) -> None:
        """Blocking: forgets what is known of it, here and in the kernel."""
        self._forget(change)
        parent, nodeid, name = self._find(change.path)
        if change.tree:
            self._native.expire(0)
        if nodeid:
            self._native.expire(nodeid)
            self._native.forget_attributes(nodeid)
        if parent:
            self._native.relist(parent)
            self._native.forget_entry(parent, name)


def _nobody(_: int) -> None:
    return None


def _nothing(_: int) -> None:
    return None


def _upto(name: bytes, end: bytes | None) -> bool:
    return end is None or name <= end


def _same(entry: Entry | None, attributes: Attributes) -> bool:
    """Whether the table has this generation."""
    if entry is None:
        return False
    now_there = (attributes.ino, attributes.size, attributes.mtime_ns, generation_ns(attributes))
    return (entry.ino, entry.size, entry.mtime_ns, entry.ctime_ns) == now_there
