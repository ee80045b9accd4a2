"""What a source has said of late, by path, and which changes it told: any thread."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import overload

from swmld.sources.interface import Attributes, Change
from swmld.sources.packed import PackedEntries

KEPT = 1 << 16
"""Files whose attributes are remembered with all that their source says of them: about 25 MB."""

LISTED = 1 << 17
"""Entries of directories that are remembered as they were listed, for when the source is away: 12 MB of names
beside the attributes that are remembered anyway."""

PAGED = 1 << 18
"""Entries of pages that C has read, remembered as they are there: 20 MB, with a chunk each 27 MB. Of them no
attributes are remembered besides."""

MISSED = 256
"""Names that were asked for of late and not there."""

TOLD = 4096
"""Changes that are remembered, to tell whether an answer is older than one of them."""


@dataclass(frozen=True, slots=True)
class Known:
    """Attributes, when they were asked for (``native.now``), and how many changes had been told by then."""

    attributes: Attributes
    asked: int
    changes: int


Listed = Sequence[tuple[bytes, Known]]


class KnownPage(Sequence[tuple[bytes, Known]]):
    """Entries of a directory that were asked for together, made when they are wanted."""

    def __init__(self, entries: PackedEntries, asked: int, changes: int) -> None:
        self.entries, self.asked, self.changes = entries, asked, changes
        self.first = entries[0][0] if entries else b""
        self.last = entries[-1][0] if entries else b""
        self.hidden: set[bytes] = set()
        """Names of which something newer is known, or that what is known does not hold: ``Recent``'s."""

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> tuple[bytes, Known]: ...

    @overload
    def __getitem__(self, index: slice) -> list[tuple[bytes, Known]]: ...

    def __getitem__(self, index: int | slice) -> tuple[bytes, Known] | list[tuple[bytes, Known]]:
        if isinstance(index, slice):
            return [(name, self._known(attributes)) for name, attributes in self.entries[index]]
        name, attributes = self.entries[index]
        return name, self._known(attributes)

    def __iter__(self) -> Iterator[tuple[bytes, Known]]:
        return ((name, self._known(attributes)) for name, attributes in self.entries)

    def _known(self, attributes: Attributes) -> Known:
        return Known(attributes, self.asked, self.changes)

    def find(self, name: bytes) -> Known | None:
        """What was said of a name; None: it is not here."""
        if not self.first <= name <= self.last or (place := self.entries.find(name)) < 0:
            return None
        return self[place][1]


class Parts(Sequence[tuple[bytes, Known]]):
    """A directory as it came, page after page."""

    def __init__(self) -> None:
        self._parts: list[Listed] = []
        self._count = 0
        self.changes = 0
        """How many had been told when none of them was known to have been in it: ``Recent``'s."""
        self.asked: int | None = None
        """When the oldest entry was."""
        self.touched: set[bytes] = set()
        """Names that changes were told of since, or that we have changed: what is said of them here does not
        hold. ``Recent``'s."""

    def add(self, part: Listed) -> None:
        """What comes after all the others."""
        self._parts.append(part)
        self._count += len(part)
        asked = [part.asked] if isinstance(part, KnownPage) else [known.asked for _, known in part]
        if self.asked is not None:
            asked.append(self.asked)
        self.asked = min(asked, default=None)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[bytes, Known]]:
        return chain.from_iterable(self._parts)

    @overload
    def __getitem__(self, index: int) -> tuple[bytes, Known]: ...

    @overload
    def __getitem__(self, index: slice) -> list[tuple[bytes, Known]]: ...

    def __getitem__(self, index: int | slice) -> tuple[bytes, Known] | list[tuple[bytes, Known]]:
        return list(self)[index]

    def after(self, name: bytes) -> tuple[Listed, bool]:
        """The entries behind a name, up to the end of the part that they are in, and whether more follow."""
        for number, part in enumerate(self._parts):
            if part and part[-1][0] > name:
                rest = part if part[0][0] > name else [entry for entry in part if entry[0] > name]
                return rest, number + 1 < len(self._parts)
        return (), False

    def renew(self, changes: int) -> None:
        """None of the changes that have been told by now was in it."""
        self.changes = changes
        for part in self._parts:
            if isinstance(part, KnownPage):
                part.changes = changes

    def lacks(self, name: bytes) -> bool:
        """Whether there is no such name for certain."""
        return name not in self.touched and self.find(name) is None

    def find(self, name: bytes) -> Known | None:
        """What was said of a name; None: it is not here."""
        for part in self._parts:
            known = part.find(name) if isinstance(part, KnownPage) else dict(part).get(name)
            if known is not None:
                return known
        return None


class _Told:
    """The latest changes, each with its number, from 1 on: looked up by path, as each answer is."""

    def __init__(self) -> None:
        self.count = 0
        self._changes: deque[Change] = deque()
        self._of: dict[bytes, int] = {}
        self._in: dict[bytes, int] = {}
        """By the directory of the path."""
        self._below: dict[bytes, int] = {}
        """Of those that are of all below a path, too."""

    def add(self, change: Change) -> None:
        self.count += 1
        self._changes.append(change)
        for numbers, path in self._places(change):
            numbers[path] = self.count
        if len(self._changes) > TOLD:
            gone, number = self._changes.popleft(), self.count - TOLD
            for numbers, path in self._places(gone):
                if numbers[path] == number:
                    del numbers[path]

    def _places(self, change: Change) -> Iterator[tuple[dict[bytes, int], bytes]]:
        yield self._of, change.path
        if change.path:
            yield self._in, _parent(change.path)
        if change.tree:
            yield self._below, change.path

    def latest(self, path: bytes) -> int:
        """The number of the last one that ``path`` is in, or of the last that was forgotten."""
        found = max(self._of.get(path, 0), self.count - TOLD)
        while self._below and path:
            path = _parent(path)
            found = max(found, self._below.get(path, 0))
        return found

    def latest_in(self, directory: bytes) -> int:
        """The number of the last one of something in it, or 0."""
        return self._in.get(directory, 0)


class Recent:
    """The latest attributes by path, whole listings, and the latest changes."""

    def __init__(self, most: int = KEPT, listed: int = LISTED, paged: int = PAGED) -> None:
        self._most = most
        self._most_listed = listed
        self._most_paged = paged
        self._pages: OrderedDict[bytes, list[KnownPage]] = OrderedDict()
        self._paged = 0
        self._newest: dict[bytes, int] = {}
        """When something in a directory was last asked for by its name."""
        self._newest_of_all = 0
        """The same of the directories that are not in there."""
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, Known] = OrderedDict()
        self._names: dict[int, set[bytes]] = {}
        """The paths of files that have several, by inode number."""
        self._listings: OrderedDict[bytes, Parts] = OrderedDict()
        self._entries = 0
        self._missed: OrderedDict[bytes, tuple[int, int]] = OrderedDict()
        self._told = _Told()

    @property
    def changes(self) -> int:
        """How many were told."""
        return self._told.count

    # ---- attributes

    def get(self, path: bytes) -> Known | None:
        """What is remembered, however old."""
        directory, _, name = path.rpartition(b"/")
        return self.get_several(directory, [name])[0]

    def get_several(self, directory: bytes, names: Sequence[bytes]) -> list[Known | None]:
        """What is remembered of several names of a directory, however old."""
        below = directory + b"/" if directory else b""
        with self._lock:
            pages = self._pages.get(directory, ())
            found = [self._known.get(below + name) for name in names]
            for number, name in enumerate(names):
                if found[number] is None:
                    found[number] = _in_pages(pages, name)[1]
                else:
                    self._known.move_to_end(below + name)
            return found

    def _in_page(self, path: bytes) -> tuple[KnownPage | None, Known | None]:
        directory, _, name = path.rpartition(b"/")
        return _in_pages(self._pages.get(directory, ()), name)

    def put(self, path: bytes, known: Known) -> Known:
        """Unless a change was told since it was asked for; gives what is the latest of both. What was known
        of the other names of a file that has several is forgotten where it was of another generation."""
        with self._lock:
            if not self._unchanged(path, known.changes):
                return known
            there = self._known.get(path) or self._in_page(path)[1]
            if there is not None and there.asked > known.asked:
                return there
            self._pop(path)
            self._hide(path)
            self._missed.pop(path, None)
            self._asked(_parent(path), known.asked)
            self._known[path] = known
            if known.attributes.nlink > 1 and known.attributes.is_file:
                names = self._names.setdefault(known.attributes.ino, set())
                for other in names - {path}:
                    if self._known[other].attributes != known.attributes:
                        self._pop(other)
                self._names.setdefault(known.attributes.ino, names).add(path)
            if len(self._known) > self._most:
                self._pop(next(iter(self._known)))
            return known

    def _asked(self, directory: bytes, asked: int) -> None:
        if len(self._newest) >= self._most and directory not in self._newest:
            self._newest_of_all = max(self._newest_of_all, *self._newest.values())
            self._newest.clear()
        self._newest[directory] = max(self._newest.get(directory, 0), asked)

    def put_page(self, directory: bytes, page: KnownPage) -> bool:
        """Some entries of a directory, in the place of what its pages have there. False: something newer is
        known of one of them perhaps; ``put`` them one by one. None of them may be a file of several names."""
        with self._lock:
            if not self._unchanged_in(directory, page.changes):
                return False
            if self._newest.get(directory, self._newest_of_all) >= page.asked:
                return False
            if not page:
                return True
            there = self._pages.setdefault(directory, [])
            self._pages.move_to_end(directory)
            for old in [old for old in there if old.last >= page.first and old.first <= page.last]:
                there.remove(old)
                self._paged -= len(old)
            there.append(page)
            self._paged += len(page)
            while self._paged > self._most_paged:
                self._pop_pages(next(iter(self._pages)))
            return True

    def _pop_pages(self, directory: bytes) -> None:
        self._paged -= sum(map(len, self._pages.pop(directory, ())))

    def _hide(self, path: bytes) -> None:
        """What pages say of it does not count any more."""
        page = self._in_page(path)[0]
        if page is not None:
            page.hidden.add(path.rpartition(b"/")[2])

    def drop(self, path: bytes) -> None:
        """It is not there any more."""
        with self._lock:
            self._drop(path)

    def _drop(self, path: bytes) -> None:
        """With what is known of its other names."""
        known = self._pop(path)
        self._hide(path)
        if known is not None:
            for other in list(self._names.get(known.attributes.ino, ())):
                self._pop(other)

    def _pop(self, path: bytes) -> Known | None:
        known = self._known.pop(path, None)
        if known is not None and (names := self._names.get(known.attributes.ino)) is not None:
            names.discard(path)
            if not names:
                del self._names[known.attributes.ino]
        return known

    def miss(self, path: bytes, asked: int, changes: int) -> None:
        """The source had nothing there."""
        with self._lock:
            self._missed[path] = (asked, changes)
            if len(self._missed) > MISSED:
                self._missed.popitem(last=False)

    def missed(self, path: bytes, since: int) -> bool:
        """Whether that was so at some time after ``since``, and nothing was told of it from then on."""
        with self._lock:
            asked, changes = self._missed.get(path, (0, 0))
            return asked > since and self._unchanged(path, changes)

    # ---- listings

    def listed(self, path: bytes) -> Parts | None:
        """The entries of a directory as they were when nothing was told to have changed there since."""
        with self._lock:
            listed = self._listings.get(path)
            return None if listed is None or listed.touched else listed

    def still_listed(self, path: bytes) -> Parts | None:
        """The same, if that is certain: not so many changes were told since that some are forgotten."""
        with self._lock:
            listed = self._listings.get(path)
            if listed is None or listed.touched or not self._unchanged_in(path, listed.changes):
                return None
            self._listings.move_to_end(path)
            listed.renew(self.changes)
            return listed

    def names(self, path: bytes) -> Parts | None:
        """The same, also if some names (``touched``) have changed since: what it ``lacks`` is not there."""
        with self._lock:
            listed = self._listings.get(path)
            if listed is not None:
                self._listings.move_to_end(path)
            return listed

    def still(self, directory: bytes, since: int) -> int | None:
        """How many changes have been told by now, if none of those after the first ``since`` was one in the
        directory."""
        with self._lock:
            return self.changes if self._unchanged_in(directory, since) else None

    def put_listing(self, path: bytes, entries: Parts, changes: int) -> None:
        """The whole directory, unless a change in it was told after the first ``changes``."""
        with self._lock:
            if len(entries) > self._most_listed or not self._unchanged_in(path, changes):
                return
            self._pop_listing(path)
            entries.changes, entries.touched = changes, set()
            self._put_listing(path, entries)

    def made(self, path: bytes, changes: int, asked: int) -> None:
        """A directory that we have made, and nobody else anything in it since: there is nothing in it.
        ``changes``: how many had been told before that; forgets what was known of the name."""
        with self._lock:
            unchanged = self._unchanged_in(path, changes)
            self._forget(Change(path, tree=True))
            if unchanged:
                empty = Parts()
                empty.asked, empty.changes = asked, self.changes
                self._put_listing(path, empty)

    def _put_listing(self, path: bytes, entries: Parts) -> None:
        self._listings[path] = entries
        self._entries += 1 + len(entries)
        self._trim()

    def _trim(self) -> None:
        while self._entries > self._most_listed:
            self._pop_listing(next(iter(self._listings)))

    def _pop_listing(self, path: bytes) -> None:
        listed = self._listings.pop(path, None)
        if listed is not None:
            self._entries -= 1 + len(listed) + len(listed.touched)

    def _touch(self, path: bytes) -> None:
        """What the listing of the directory that it is in says of it does not hold."""
        directory, _, name = path.rpartition(b"/")
        listed = self._listings.get(directory)
        if listed is not None and name not in listed.touched:
            listed.touched.add(name)
            self._entries += 1
            self._trim()

    # ---- changes

    def unchanged(self, path: bytes, since: int) -> bool:
        """Whether none of the changes told after the first ``since`` is one of ``path``."""
        if self.changes == since:
            return True
        with self._lock:
            return self._unchanged(path, since)

    def _unchanged(self, path: bytes, since: int) -> bool:
        return self._told.latest(path) <= since

    def _unchanged_in(self, directory: bytes, since: int) -> bool:
        return max(self._told.latest(directory), self._told.latest_in(directory)) <= since

    def forget(self, change: Change) -> None:
        """What was known of it does not hold any more."""
        with self._lock:
            self._forget(change)

    def _forget(self, change: Change) -> None:
        self._told.add(change)
        self._drop(change.path)
        self._pop_listing(change.path)
        if change.path:
            self._touch(change.path)
        if change.tree:
            for each in [path for path in self._known if _is_below(path, change)]:
                self._drop(each)
            for each in [path for path in self._listings if _is_below(path, change)]:
                self._pop_listing(each)
            for each in [path for path in self._pages if path == change.path or _is_below(path, change)]:
                self._pop_pages(each)


def _in_pages(pages: Iterable[KnownPage], name: bytes) -> tuple[KnownPage | None, Known | None]:
    for page in pages:
        if name not in page.hidden and (known := page.find(name)) is not None:
            return page, known
    return None, None


def _is_below(path: bytes, change: Change) -> bool:
    return change.tree and (not change.path or path.startswith(change.path + b"/"))


def _parent(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]
