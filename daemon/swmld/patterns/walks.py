"""A dataset's files as they come, held against every order they may come in. Pure."""

from __future__ import annotations

from swmld.patterns.feed import Numbers, Place, no_numbers
from swmld.patterns.leaf import Leaf
from swmld.patterns.order import Histories, History, Track, judge
from swmld.patterns.readers import Reader
from swmld.patterns.views import Finding


class Walks:
    """The orders of one dataset. ``by_number`` is natural order, digits in names compared as numbers."""

    __slots__ = (
        "_natural",
        "as_before",
        "as_listed",
        "by_name",
        "by_number",
        "history",
        "numbered",
        "twisted",
    )

    def __init__(self, natural: Numbers = no_numbers, histories: Histories | None = None) -> None:
        self._natural = natural
        self.by_name = Track()
        self.by_number = Track()
        self.as_listed = Track()
        self.as_before = Track()
        self.numbered = False
        """In some directory natural order is not that of the names' bytes; ``twisted``: the kernel's is
        not."""
        self.twisted = False
        self.history = History(histories or Histories())

    def resize(self, files: int) -> None:
        """The dataset has so many, as far as known."""
        for track in (self.by_name, self.by_number, self.as_listed):
            track.resize(files)

    def begin(self) -> None:
        """A new epoch."""
        for track in (self.by_name, self.by_number, self.as_listed, self.as_before):
            track.begin()
        self.history.begin()
        self.as_before.resize(len(self.history.last))

    def absorb(self, other: Walks) -> None:
        """Another dataset has become part of this one."""
        self.twisted |= other.twisted
        self.numbered |= other.numbered

    def step(self, reader: Reader, leaf: Leaf, file: int, place: Place, said: str) -> None:
        """The reader went on to a file; ``said``: the order that was found last."""
        index = place.index
        before = reader.leaf
        number = -1
        if index is not None:
            natural = self._natural(place.directory, index)
            self.numbered |= natural is not None
            number = index if natural is None else natural
        if before is not None and index is not None and reader.index >= 0:
            reader.stepped(self._by_places(reader, leaf, before, place, index, number, said))
        elif before is not None:
            self._by_bytes(reader, leaf, place.name)  # not listed, or the listing has just come
        if not self.history.full:
            if self.history.last:
                self._as_before(reader, file)
            self.history.add(file)
        reader.at(leaf, place, number)

    def _by_places(
        self, reader: Reader, leaf: Leaf, before: Leaf, place: Place, index: int, number: int, said: str
    ) -> int:
        """Returns the step by which runs are counted: in the order that it is read in."""
        away = leaf.base - before.base if before is not leaf else 0
        delta = index - reader.index + away
        reader.sorted.step(self.by_name, delta or 1)
        if self.numbered:
            step = number - reader.natural.last + away
            reader.natural.step(self.by_number, step or 1)
            if self.by_number.fits_better(self.by_name):
                delta = step
        listed = place.listed
        if listed is not None and (listed != index or self.twisted):
            delta = self._as_listed(reader, leaf, listed, delta, said)
        return delta

    def _by_bytes(self, reader: Reader, leaf: Leaf, name: bytes) -> None:
        before = reader.leaf
        if before is None or not reader.name:
            return
        forward = name > reader.name if before is leaf else leaf.path > before.path
        reader.sorted.sign(self.by_name, forward)

    def _as_listed(self, reader: Reader, leaf: Leaf, listed: int, delta: int, said: str) -> int:
        """Returns ``delta``, or the step in this order if it is the one that is kept to."""
        self.twisted = True
        last = reader.listed.last
        track = self.as_listed
        if last < 0:
            return delta
        if reader.leaf is not leaf:
            # Directories have no order of their own here; but a reader in order leaves one at its end.
            if reader.leaf is not None and (reader.leaf.files or 0) - last > track.slack:
                track.odd()
            return delta
        reader.listed.step(track, listed - last)
        return listed - last if said == "listed" or track.score > self.by_name.score else delta

    def _as_before(self, reader: Reader, file: int) -> None:
        history = self.history
        track = self.as_before
        if history.length >= len(history.last):
            return
        place = history.last.get(file)
        if place is None:
            # The last epoch read it later than the files that are remembered of it.
            if history.length < 0.9 * len(history.last):
                track.odd()
            return
        if reader.before.last >= 0:
            reader.before.step(track, place - reader.before.last)
        reader.before.last = place

    def judged(self, group: tuple[int, float]) -> Finding:
        """The order; ``group`` as ``order.judge`` has it."""
        return judge(
            self.by_name,
            self.by_number if self.numbered else None,
            self.as_listed if self.twisted else None,
            self.as_before if self.history.last else None,
            group,
        )
