"""Which files of a directory to fetch before they are opened. Pure.

Data sets of small files are read one directory at a time, by several workers at once. Two ways of reading
are told apart, by looking at each open's place in the directory:

- *In order* (sorted, natural or as listed), each worker from its own place, perhaps every k-th file: a
  ``_Cursor`` follows each of them, and the files ahead of a cursor are asked for in a window that doubles as
  they get opened.
- *In no order, all of it* (a shuffled epoch): once enough different files were opened and hardly any twice,
  the rest of the directory is asked for in listing order, a few files an open. An epoch opens each of them.

What is asked for in order and not opened within ``patience`` opens is waste, and halves the window. In no
order, nothing tells a subset from the whole before the epoch ends: at most ``sweep_ratio`` files are asked
for per file opened, and a directory of which an epoch opened only a part is not swept again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from swmld.plan.listing import Listing


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds the prefetch of a directory; counts of files or opens.

    ``first_window`` and ``max_window``: 512 files of 110 KiB are 0.3 s of a 200 MB/s source, and 25 round
    trips of 20 ms at 32 in parallel in the same time. ``cursors``: twice the four workers of an ordinary
    DataLoader. ``slack``: how far from its expected place an open may be, since threads overtake each other.
    ``patience``: every cursor's largest window opened in turn. ``sweep_opens``: different files (or 2 % of
    the directory, if that is less, at least 16) before a directory read in no order counts as read whole.
    ``sweep_step``: files asked for an open then: the fetch queue holds 4,096. ``sweep_ratio``: asked for
    per file opened; 8 lets a shuffled epoch run up to nine times faster than its readers alone.
    """

    first_window: int = 8
    max_window: int = 512
    cursors: int = 8
    slack: int = 4
    patience: int = 4096
    sweep_opens: int = 1000
    sweep_step: int = 64
    sweep_ratio: int = 8


_IN_ORDER = 0.5
"""Share of recent opens that a cursor foresaw, from which a directory counts as read in order."""

_MEMORY = 1 / 16
"""Weight of the latest open in that share: about the last 16 opens count."""

_NEARLY = 0.9
"""An open beside the place where it was expected counts as so much of one foreseen: every second file of
1000, 1001, … is near the next one in sorted order, and exactly there in natural order."""

_WHOLE = 0.9
"""Share of a directory that an epoch opened, from which the next epoch counts as one of the whole
directory."""


class Directory:
    """What is known of one directory's readers. ``needs_listing`` says when to give it one
    (``set_listing``)."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._listing: Listing | None = None
        self._early: dict[bytes, None] = {}
        self._orders: list[_Order] = []
        self._opened = bytearray()
        self._asked = bytearray()
        self._opens = 0
        self._window = self._limits.first_window
        self._used = 0  # asked for and opened, and the other way, since the window last changed
        self._wasted = 0
        self._waiting: deque[tuple[int, int]] = deque()  # (number of the open that asked, index)
        self._covered: bool | None = None
        """Whether the latest epoch opened the whole directory; ``None`` in the first."""
        self._large = bytearray()
        """Asked for and passed over in this epoch."""
        self.epoch = 0
        """How often its readers began anew."""
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        size = len(self._listing) if self._listing else 0
        self._opened = bytearray(-(-size // 8))
        self._asked = bytearray(-(-size // 8))
        self._large = bytearray(-(-size // 8))
        for order in self._orders:
            order.looked.clear()
        self._distinct = 0
        self._again = 0
        self._waiting.clear()
        self._sweep_at = 0
        self._swept = 0

    @property
    def needs_listing(self) -> bool:
        """Two different files were opened: somebody may be going through the directory."""
        return self._listing is None and len(self._early) >= 2

    def set_listing(self, listing: Listing) -> None:
        """The directory's regular files. Also when it changed: what was learned of its readers is kept, what
        was asked for is forgotten."""
        self._listing = listing
        self._orders = [_Order(self._limits, lambda index: index, lambda place: place)]
        if not listing.sorted_as_numbered:
            self._orders.append(_Order(self._limits, listing.number, listing.at_number))
        if not listing.sorted_as_listed:
            self._orders.append(_Order(self._limits, listing.place, listing.at_place))
        self._begin_epoch()
        early, self._early = self._early, {}
        for name in early:
            self._note_open(name)

    def on_open(self, name: bytes, now: float, most: int | None = None) -> list[bytes]:
        """A file was opened; returns the names to fetch now, nearest first, none of them twice in an
        ``epoch``.

        ``now`` in seconds, for later policies: order alone counts. ``most``: files ahead of all cursors
        together, for callers to whom early is as bad as late. A name that the listing lacks gives nothing.
        """
        if self._listing is None:
            if len(self._early) < self._limits.first_window:
                self._early[name] = None
            return []
        index = self._note_open(name)
        if index is None:
            return []
        best = max(self._orders, key=lambda order: order.foreseen)
        if best.foreseen >= _IN_ORDER and best.cursor is not None:
            wanted = self._ahead(best, best.cursor, most)
            self._waiting.extend((self._opens, other) for other in wanted)
        else:
            wanted = self._sweep()
        return [self._listing.name(other) for other in wanted]

    @property
    def listing(self) -> Listing | None:
        """The latest that it was given."""
        return self._listing

    def following(self, name: bytes, count: int, most: int) -> list[bytes]:
        """Of the ``count`` files that come after ``name`` in the order that its readers keep to (sorted,
        until they show another), whatever they did so far, the first ``most`` that were not asked for in this
        ``epoch``. Looks at each file once, however large ``count`` is."""
        order, places = self._after(name, count)
        return self._left(order, places, most) if order is not None else []

    def beyond(self, name: bytes, count: int) -> list[bytes]:
        """Up to ``count`` files that come after ``name`` in that order, asked for or not."""
        order, places = self._after(name, count)
        return [self._listed(order.index(place)) for place in places] if order is not None else []

    def _after(self, name: bytes, count: int) -> tuple[_Order | None, range]:
        index = self._listing.find(name) if self._listing is not None else None
        if self._listing is None or index is None:
            return None, range(0)
        order = max(self._orders, key=lambda order: order.foreseen)
        first = order.place(index) + 1
        return order, range(first, min(first + count, len(self._listing)))

    def _listed(self, index: int) -> bytes:
        assert self._listing is not None
        return self._listing.name(index)

    def others(self, name: bytes, most: int) -> list[bytes]:
        """The first ``most`` of all other files that were not asked for in this ``epoch``: those after
        ``name``, then those before it; all where it was not listed. Looks at each file once."""
        if self._listing is None:
            return []
        own = self._listing.find(name)
        after, before = (own + 1, own) if own is not None else (0, 0)
        wanted = self._left(self._orders[0], range(after, len(self._listing)), most)
        return wanted + self._left(self._orders[0], range(before), most - len(wanted))

    def _left(self, order: _Order, places: range, most: int) -> list[bytes]:
        """The first of these places that were not asked for."""
        wanted: list[bytes] = []
        at = order.looked.past(places.start)
        while at < places.stop and len(wanted) < most:
            index = order.index(at)
            if self._want(index):
                wanted.append(self._listed(index))
            at = order.looked.past(at + 1)
        order.looked.add(places.start, at)
        return wanted

    def _look_again(self, index: int) -> None:
        """It may be asked for once more."""
        for order in self._orders:
            order.looked.remove(order.place(index))

    def ask(self, names: Iterable[bytes]) -> list[bytes]:
        """Those of ``names`` that are listed; none twice in an ``epoch``."""
        if self._listing is None:
            return []
        found = ((name, self._listing.find(name)) for name in names)
        return [name for name, index in found if index is not None and self._want(index)]

    def passed_over(self, name: bytes) -> None:
        """It was asked for and is too large for that; ``following``, ``others`` and ``ask`` may want it
        still, for they know of no such limit."""
        index = self._listing.find(name) if self._listing is not None else None
        if index is not None:
            self._large[index >> 3] |= 1 << (index & 7)
            self._look_again(index)

    def _want(self, index: int) -> bool:
        if not _has(self._large, index):
            return self._ask(index)
        self._large[index >> 3] &= ~(1 << (index & 7))
        return not _has(self._opened, index)

    def on_dropped(self, names: Iterable[bytes]) -> None:
        """These were asked for and not taken (the fetch queue was full): they may be asked for again."""
        if self._listing is None:
            return
        for name in names:
            index = self._listing.find(name)
            if index is not None and _has(self._asked, index) and not _has(self._opened, index):
                self._asked[index >> 3] &= ~(1 << (index & 7))
                self._look_again(index)
                self._sweep_at = min(self._sweep_at, self._orders[-1].place(index))
                for order in self._orders:
                    order.go_back(order.place(index))

    # ---- what an open says

    def _note_open(self, name: bytes) -> int | None:
        assert self._listing is not None
        index = self._listing.find(name)
        if index is None:
            return None
        self._opens += 1
        if _has(self._opened, index):
            self._opened_again()
        if not _has(self._opened, index):
            self._opened[index >> 3] |= 1 << (index & 7)
            self._distinct += 1
            if _has(self._asked, index):
                self._asked_was_opened()
        for order in self._orders:
            order.observe(order.place(index))
        self._expire()
        return index

    def _opened_again(self) -> None:
        """Files opened a second time, many of them, are the next epoch."""
        assert self._listing is not None
        self._again += 1
        whole = self._distinct >= _WHOLE * len(self._listing)
        enough = self._limits.first_window if whole else max(self._limits.first_window, self._distinct // 2)
        if self._again >= enough:
            self._covered = whole
            self.epoch += 1
            self._begin_epoch()

    def _asked_was_opened(self) -> None:
        self._used += 1
        if 2 * self._used >= self._window:
            self._resize(min(2 * self._window, self._limits.max_window))

    def _expire(self) -> None:
        while self._waiting and self._waiting[0][0] + self._limits.patience < self._opens:
            if not _has(self._opened, self._waiting.popleft()[1]):
                self._wasted += 1
        if 2 * self._wasted >= self._window:
            self._resize(max(1, self._window // 2))

    def _resize(self, window: int) -> None:
        self._window = window
        self._used = self._wasted = 0

    # ---- asking

    def _ahead(self, order: _Order, cursor: _Cursor, most: int | None) -> list[int]:
        assert self._listing is not None
        window = self._window if most is None else max(1, min(self._window, most // order.active))
        stop = min(cursor.place + window * cursor.stride + 1, len(self._listing))
        # The next step beyond what was asked for; the stride's places are counted from the cursor.
        first = cursor.place + cursor.stride
        if cursor.front > first:
            first += -(-(cursor.front - first) // cursor.stride) * cursor.stride
        cursor.front = max(cursor.front, stop)
        ahead = (order.index(place) for place in range(first, stop, cursor.stride))
        return [index for index in ahead if self._ask(index)]

    def _sweep(self) -> list[int]:
        if not self._read_whole():
            return []
        assert self._listing is not None
        order = self._orders[-1]
        wanted: list[int] = []
        allowed = self._limits.sweep_ratio * self._distinct - self._swept
        step = min(self._window, self._limits.sweep_step, allowed)
        # A bound for what is looked at, too: most of a large directory may have been asked for.
        stop = min(self._sweep_at + 16 * step, len(self._listing))
        while self._sweep_at < stop and len(wanted) < step:
            index = order.index(self._sweep_at)
            self._sweep_at += 1
            if self._ask(index):
                wanted.append(index)
        self._swept += len(wanted)
        return wanted

    def _read_whole(self) -> bool:
        assert self._listing is not None
        if self._covered is not None:
            return self._covered
        few = max(16, min(len(self._listing) // 50, self._limits.sweep_opens))
        return self._distinct >= few and self._again <= self._distinct // 8

    def _ask(self, index: int) -> bool:
        if _has(self._asked, index) or _has(self._opened, index):
            return False
        self._asked[index >> 3] |= 1 << (index & 7)
        return True


class _Looked:
    """A set of places, as few ranges; of more than ``most`` the oldest are forgotten."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._ranges: list[tuple[int, int]] = []  # none touches another

    def past(self, place: int) -> int:
        """The first one from this on that is not in it."""
        return next((stop for start, stop in self._ranges if start <= place < stop), place)

    def add(self, start: int, stop: int) -> None:
        """Those from ``start`` to before ``stop``."""
        if start >= stop:
            return
        apart = [each for each in self._ranges if each[1] < start or stop < each[0]]
        touching = [each for each in self._ranges if not (each[1] < start or stop < each[0])]
        start = min([start, *(first for first, _ in touching)])
        stop = max([stop, *(last for _, last in touching)])
        self._ranges = [*apart, (start, stop)][-self._most :]

    def remove(self, place: int) -> None:
        """One of them."""
        for start, stop in self._ranges:
            if start <= place < stop:
                self._ranges.remove((start, stop))
                parts = [(start, place), (place + 1, stop)]
                self._ranges += [part for part in parts if part[0] < part[1]]
                self._ranges = self._ranges[-self._most :]
                return

    def clear(self) -> None:
        """All of them."""
        self._ranges.clear()


class _Cursor:
    """One reader's place in an order. What lies before ``front`` was asked for."""

    __slots__ = ("front", "place", "seen", "step", "stride")

    def __init__(self, place: int, stride: int = 1) -> None:
        self.place = place
        self.front = place + 1
        self.stride = stride
        self.step = 0
        """The latest distance that it went."""
        self.seen = 0
        """Number of the open that it followed last."""

    def move(self, place: int) -> None:
        step = place - self.place
        if step <= 0:  # overtaken by another thread: it is no strided reader
            self.step = 0
            self._take_stride(1)
            return
        if step == 1 or step == self.step:
            self._take_stride(step)
        self.step = step
        self.place = place
        self.front = max(self.front, place + 1)

    def _take_stride(self, stride: int) -> None:
        if stride != self.stride:
            self.stride = stride
            self.front = self.place + 1


class _Order:
    """The cursors in one order of the directory, and how well they foresee what is opened."""

    def __init__(self, limits: Limits, place: Callable[[int], int], index: Callable[[int], int]) -> None:
        self.place = place
        self.index = index
        self.looked = _Looked(limits.cursors)
        """Where nothing is left to be asked for by rules."""
        self.cursor: _Cursor | None = None
        """The one that foresaw the latest open, if one did."""
        self.foreseen = _IN_ORDER
        self._limits = limits
        self._cursors: list[_Cursor] = []  # least recently used first
        self._count = 0
        self._surprises: deque[int] = deque(maxlen=3)

    def observe(self, place: int) -> None:
        """A file at ``place`` was opened."""
        exact = self._expecting(place)
        cursor = exact or self._near(place) or self._strided(place)
        self.cursor = cursor
        if self._cursors:  # the very first open could not be foreseen
            worth = 1.0 if exact else _NEARLY if cursor else 0.0
            self.foreseen += (worth - self.foreseen) * _MEMORY
        if cursor is None:
            cursor = _Cursor(place)
            self._surprises.append(place)
        else:
            cursor.move(place)
            if cursor in self._cursors:
                self._cursors.remove(cursor)
        self._count += 1
        cursor.seen = self._count
        self._cursors.append(cursor)
        if len(self._cursors) > self._limits.cursors:
            del self._cursors[0]

    @property
    def active(self) -> int:
        """Cursors that followed one of the latest opens, at least 1."""
        recent = self._count - 4 * self._limits.cursors
        return max(1, sum(cursor.seen > recent for cursor in self._cursors))

    def go_back(self, place: int) -> None:
        """What is at ``place`` must be asked for again."""
        for cursor in self._cursors:
            if cursor.place < place < cursor.front:
                cursor.front = place

    def _expecting(self, place: int) -> _Cursor | None:
        for cursor in reversed(self._cursors):
            if place == cursor.place + cursor.stride:
                return cursor
        return None

    def _near(self, place: int) -> _Cursor | None:
        best: _Cursor | None = None
        for cursor in self._cursors:
            distance = abs(place - cursor.place)
            if distance <= self._limits.slack and (best is None or distance < abs(place - best.place)):
                best = cursor
        return best

    def _strided(self, place: int) -> _Cursor | None:
        """Four surprises at equal distances forward are a reader of every k-th file, beyond the slack."""
        if len(self._surprises) < 3:
            return None
        first, second, third = self._surprises
        stride = place - third
        if stride <= 0 or third - second != stride or second - first != stride:
            return None
        self._cursors = [cursor for cursor in self._cursors if cursor.place not in (first, second, third)]
        self._surprises.clear()
        cursor = _Cursor(third, stride)
        cursor.step = stride
        return cursor


def _has(bits: bytearray, index: int) -> bool:
    return bool(bits[index >> 3] >> (index & 7) & 1)
