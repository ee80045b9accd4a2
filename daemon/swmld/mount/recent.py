"""What a source has said of late, by path, and which changes it told: any thread."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass
from itertools import islice

from swmld.sources.interface import Attributes, Change

KEPT = 1 << 16
"""Files whose attributes are remembered with all that their source says of them: about 25 MB."""

LISTED = 1 << 17
"""Entries of directories that are remembered as they were listed, for when the source is away: 12 MB of names
beside the attributes that are remembered anyway."""

TOLD = 4096
"""Changes that are remembered, to tell whether an answer is older than one of them."""


@dataclass(frozen=True, slots=True)
class Known:
    """Attributes, when they were asked for (``native.now``), and how many changes had been told by then."""

    attributes: Attributes
    asked: int
    changes: int


Listed = list[tuple[bytes, Known]]


class Recent:
    """The latest attributes by path, whole listings, and the latest changes."""

    def __init__(self, most: int = KEPT, listed: int = LISTED) -> None:
        self._most = most
        self._most_listed = listed
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, Known] = OrderedDict()
        self._names: dict[int, set[bytes]] = {}
        """The paths of files that have several, by inode number."""
        self._listings: OrderedDict[bytes, Listed] = OrderedDict()
        self._entries = 0
        self._told: deque[Change] = deque(maxlen=TOLD)
        self.changes = 0
        """How many were told."""

    # ---- attributes

    def get(self, path: bytes) -> Known | None:
        """What is remembered, however old."""
        with self._lock:
            known = self._known.get(path)
            if known is not None:
                self._known.move_to_end(path)
            return known

    def put(self, path: bytes, known: Known) -> Known:
        """Unless a change was told since it was asked for; gives what is the latest of both. What was known
        of the other names of a file that has several is forgotten where it was of another generation."""
        with self._lock:
            if not self._unchanged(path, known.changes):
                return known
            there = self._known.get(path)
            if there is not None and there.asked > known.asked:
                return there
            self._pop(path)
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

    def drop(self, path: bytes) -> None:
        """It is not there any more."""
        with self._lock:
            self._drop(path)

    def _drop(self, path: bytes) -> None:
        """With what is known of its other names."""
        known = self._pop(path)
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

    # ---- listings

    def listed(self, path: bytes) -> Listed | None:
        """The entries of a directory as they were when nothing was told to have changed there since."""
        with self._lock:
            return self._listings.get(path)

    def put_listing(self, path: bytes, entries: Listed, changes: int) -> None:
        """The whole directory, unless a change in it was told after the first ``changes``."""
        with self._lock:
            if len(entries) > self._most_listed or not self._unchanged_in(path, changes):
                return
            self._pop_listing(path)
            self._listings[path] = entries
            self._entries += len(entries)
            while self._entries > self._most_listed:
                self._pop_listing(next(iter(self._listings)))

    def _pop_listing(self, path: bytes) -> None:
        self._entries -= len(self._listings.pop(path, ()))

    # ---- changes

    def unchanged(self, path: bytes, since: int) -> bool:
        """Whether none of the changes told after the first ``since`` is one of ``path``."""
        if self.changes == since:
            return True
        with self._lock:
            return self._unchanged(path, since)

    def _unchanged(self, path: bytes, since: int) -> bool:
        if (newer := self.changes - since) > TOLD:
            return False
        return not any(path == c.path or _is_below(path, c) for c in islice(reversed(self._told), newer))

    def _unchanged_in(self, directory: bytes, since: int) -> bool:
        if (newer := self.changes - since) > TOLD:
            return False
        return not any(
            _parent(c.path) == directory or directory == c.path or _is_below(directory, c)
            for c in islice(reversed(self._told), newer)
        )

    def forget(self, change: Change) -> None:
        """What was known of it does not hold any more."""
        with self._lock:
            self.changes += 1
            self._told.append(change)
            self._drop(change.path)
            self._pop_listing(change.path)
            if change.path:
                self._pop_listing(_parent(change.path))
            if change.tree:
                for each in [path for path in self._known if _is_below(path, change)]:
                    self._drop(each)
                for each in [path for path in self._listings if _is_below(path, change)]:
                    self._pop_listing(each)


def _is_below(path: bytes, change: Change) -> bool:
    return change.tree and (not change.path or path.startswith(change.path + b"/"))


def _parent(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]
