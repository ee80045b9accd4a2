"""In which order the files of a dataset are read. Pure.

Every reading process walks on its own: a sampler in order hands each worker a batch, so each goes forward
and jumps over what the others read. Each step from file to file is weighed by how much likelier it is for a
reader in order than for one that shuffles, and the logarithms of the weights are summed over all readers.
The same is done for four orders: sorted by name, sorted by name with digits as numbers, as the kernel lists,
and as the last epoch went.
"""

from __future__ import annotations

from collections import OrderedDict
from math import exp, log

from swmld.patterns.views import UNKNOWN, Finding

DECIDED = 4.0
"""Sum of log weights from which an order is taken for found, or excluded: odds of 55 to 1."""

CLAMP = 12.0
"""The sum goes no further, so that a change of order shows after a few steps."""

SLACK = 64
"""Files that a step of a reader in order may be off: threads of one process overtake each other."""

_IN_ORDER = log(0.9)
"""A step of a reader in order is near or regular nine times in ten."""

_NEXT = log(0.8)
"""A step of one reader of few files is to the very next one eight times in ten."""

FEW = 16

_ODD_FORWARD = log(0.25 / 0.5)
_ODD_BACK = log(0.03 / 0.5)
"""Else it jumps: forward when a batch went to another worker, hardly ever back. Half of all shuffled steps go
each way."""

_MOST_GAIN = 5.0
_NAMES_FORWARD = log(0.97 / 0.5)
_NAMES_BACK = log(0.03 / 0.5)
"""Without a listing, names tell the direction alone."""


class Track:
    """How well one order explains the steps of this epoch. ``size``: files in the order, as far as known."""

    __slots__ = (
        "back",
        "forward",
        "jumps",
        "near",
        "near_gain",
        "next_gain",
        "regular_gain",
        "score",
        "size",
        "slack",
        "steady",
        "steps",
    )

    def __init__(self) -> None:
        self.score = 0.0
        self.begin()
        self.resize(2)

    def begin(self) -> None:
        """Counts and score of a new epoch: what the last one showed proves nothing of this one."""
        self.score = 0.0
        self.steps = self.forward = self.near = 0
        self.jumps = 0
        """Neither near nor as far as one of the reader's last two jumps; ``back`` of them went back."""
        self.back = 0
        self.steady = 0
        """To the very next file, or as far as the step before."""

    def resize(self, size: int) -> None:
        self.size = max(size, 2)
        self.slack = min(SLACK, max(1, self.size >> 6))
        self.near_gain = min(_MOST_GAIN, _IN_ORDER - log(min(1.0, 2 * self.slack / self.size)))
        self.next_gain = self.near_gain
        if self.size <= FEW:
            # Among few files the very next one says more than one of two neighbours.
            self.next_gain = max(self.near_gain, _NEXT + log(self.size - 1))
        self.regular_gain = min(_MOST_GAIN, _IN_ORDER - log(min(1.0, 2 / self.size)))

    def odd(self) -> None:
        """A step forward that this order does not explain."""
        self.steps += 1
        self.score = max(-CLAMP, self.score + _ODD_FORWARD)

    def fits_better(self, other: Track) -> bool:
        """Of two orders of one set of files, whose neighbours are often the same, this one was kept to."""
        if self.jumps != other.jumps:
            return self.jumps < other.jumps
        return self.steady > other.steady


class Walk:
    """One reader's way through one order."""

    __slots__ = ("delta", "jump", "last", "other")

    def __init__(self) -> None:
        self.last = -1
        """Place of the file read last, -1: none."""
        self.delta = 0
        """Its last step."""
        self.jump = self.other = 0
        """Its last two different far jumps: with every k-th file, or a batch a worker, they come again."""

    def step(self, track: Track, delta: int) -> None:
        """It went on by ``delta`` files."""
        track.steps += 1
        if delta > 0:
            track.forward += 1
        if delta == 1 or delta == self.delta:
            track.steady += 1
        self.delta = delta
        if -track.slack <= delta <= track.slack:
            track.near += 1
            gain = track.next_gain if delta == 1 else track.near_gain
        elif delta == self.jump or delta == self.other:
            gain = track.regular_gain if delta > 0 else 0.0
        else:
            track.jumps += 1
            if delta < 0:
                track.back += 1
                gain = _ODD_BACK
            else:
                gain = _ODD_FORWARD
            self.other = self.jump
            self.jump = delta
        score = track.score + gain
        track.score = CLAMP if score > CLAMP else -CLAMP if score < -CLAMP else score

    def sign(self, track: Track, forward: bool) -> None:
        """As ``step``, where only the direction is known."""
        track.steps += 1
        track.forward += forward
        gain = _NAMES_FORWARD if forward else _NAMES_BACK
        if not forward:
            track.jumps += 1
            track.back += 1
        track.score = max(-CLAMP, min(CLAMP, track.score + gain))


LEAST_BACK = 0.2
"""Share of its steps that a shuffle takes back, at least: of ten steps two, which 1 % of shuffles miss."""

MEMORY = 8192
"""Files of an epoch whose order is kept for the next one: about 1 MiB a dataset that is read in no other
order, and 5 % of an epoch of 160,000."""


STEP = 256
"""Files by which a history asks for more room."""


class Histories:
    """Room for the histories of all datasets: ``limit`` files together, about 0.1 KiB each. What grew longest
    ago goes first: a dataset without a history is one whose order is not compared with its last epoch's."""

    __slots__ = ("_held", "_limit", "_used")

    def __init__(self, limit: int = 1 << 18) -> None:
        self._limit = limit
        self._used = 0
        self._held: OrderedDict[History, int] = OrderedDict()

    @property
    def used(self) -> int:
        """Files for which there is room now."""
        return self._used

    def hold(self, history: History, files: int) -> None:
        """It has so many, or is about to."""
        self.give(history)
        self._held[history] = files
        self._used += files
        while self._used > self._limit and len(self._held) > 1:
            next(iter(self._held)).drop()

    def give(self, history: History) -> None:
        self._used -= self._held.pop(history, 0)


class History:
    """The order of the first files of this epoch and of the last one."""

    __slots__ = ("_now", "_room", "full", "last")

    def __init__(self, room: Histories) -> None:
        self._room = room
        self.last: dict[int, int] = {}
        self._now: dict[int, int] = {}
        self.full = False
        """The rest of this epoch is not remembered, and not compared with the last one."""

    def add(self, file: int) -> None:
        now = self._now
        if file in now:
            return
        if not len(now) % STEP:
            self._room.hold(self, len(self.last) + len(now) + STEP)
        now[file] = len(now)
        self.full = len(now) >= MEMORY

    def begin(self) -> None:
        self.last, self._now = self._now, {}
        self.full = False

    def drop(self) -> None:
        """Gives its memory back, until the next epoch begins."""
        self._room.give(self)
        self.last, self._now = {}, {}
        self.full = True

    @property
    def length(self) -> int:
        """Files of this epoch remembered so far."""
        return len(self._now)


def confidence(score: float) -> float:
    """From a sum of log weights: what the odds give, short of certainty."""
    return round(min(0.99, 1 / (1 + exp(-abs(score)))), 3)


def judge(
    by_name: Track,
    by_number: Track | None,
    as_listed: Track | None,
    as_before: Track | None,
    group: tuple[int, float],
) -> Finding:
    """The order of a dataset; ``group``: commonest length of its readers' runs and that length's share.

    ``by_number``: ``None`` where natural order is that of the bytes; ``as_listed``: where the kernel lists by
    name; ``as_before``: in the first epoch. Kind unknown until one order is decided or all are excluded.
    """
    if by_name.steps < 2:
        return UNKNOWN
    names = [(by_name, "listing order")]
    if by_number is not None:
        names.insert(0 if by_number.fits_better(by_name) else 1, (by_number, "numeric order of the names"))
    for track, order in names:
        if track.score >= DECIDED:
            return _sorted(track, order, group)
    if as_listed is not None and as_listed.score >= DECIDED:
        words = _forward(as_listed, "the order in which the kernel lists")
        return Finding("listed", confidence(as_listed.score), words)
    if as_before is not None and as_before.score >= DECIDED:
        words = _forward(as_before, "the order of the last epoch")
        return Finding("fixed", confidence(as_before.score), words)
    tracks = (by_name, by_number, as_listed, as_before)
    most = max(track.score for track in tracks if track is not None and track.steps)
    # Half of a shuffle's steps go back. Many workers that share few files go forward by odd steps.
    backwards = by_name.steps - by_name.forward
    ahead = by_name.steps >= 4 and backwards < LEAST_BACK * by_name.steps
    if most <= -DECIDED and not ahead:
        words = f"{backwards} of {by_name.steps} neighbouring reads go back, by no order we know"
        if as_before is None:
            words += "; whether it stays the same shows in the next epoch"
        return Finding("shuffled", confidence(most), words)
    return UNKNOWN


def _sorted(track: Track, order: str, group: tuple[int, float]) -> Finding:
    """An order of the names explains the steps: wholly, backward, or but for jumps between groups."""
    if track.jumps >= 6 and track.back >= track.jumps / 4:
        return _groups(track, group)
    backwards = track.steps - track.forward
    if backwards > 0.8 * track.steps and track.steps >= 3:
        words = f"{backwards} of {track.steps} neighbouring reads go backward in {order}"
        return Finding("reverse", confidence(track.score), words)
    return Finding("sorted", confidence(track.score), _forward(track, order))


def _forward(track: Track, order: str) -> str:
    return f"{track.forward} of {track.steps} neighbouring reads go forward in {order}"


def _groups(track: Track, group: tuple[int, float]) -> Finding:
    length, share = group
    words = (
        f"{track.near} of {track.steps} reads take the next file, {track.back} of {track.jumps} jumps go back"
    )
    if length > 1 and share >= 0.5:
        words += f"; most groups have {length} files"
    return Finding("groups", confidence(track.score), words)
