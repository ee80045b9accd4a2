"""What is asked for ahead: by directories' readers (``plan.neighbours``) and by rules."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from swmld.fetch.sharing import Terms
from swmld.mount import below
from swmld.mount.deciding import fetch_terms
from swmld.plan.neighbours import Directory, Limits
from swmld.plan.shards import is_index, next_shards
from swmld.plugins.interface import MOST_FILES

if TYPE_CHECKING:
    from swmld.rules.verdict import Verdict

NEXT_SHARDS = 2
"""Where a rule does not say how many: one that is read next, and one on its way."""

ANY = 1 << 62
"""Bytes: no bound."""

LEAST_AHEAD = 32
"""Files brought ahead of slow readers; as many requests as a source gets in parallel."""

SLOT = 0.25
"""Seconds over which a directory's opens are counted."""


@dataclass(slots=True, eq=False)
class Order:
    """Files of any size up to ``limit`` bytes, the first ``part`` bytes of each, because of ``decision`` (0:
    no rule's). What waits at ``deadline`` (``trio.current_time``) is dropped. ``index``: the shards that the
    file lists. ``levels``: of directories, the file's own among them; ``files`` and ``directories`` may still
    come from those below. ``terms``: how they are fetched."""

    decision: int = 0
    limit: int = 0
    part: int = ANY
    deadline: float = float("inf")
    index: bool = False
    levels: int = 1
    files: int = below.FILES
    directories: int = below.DIRECTORIES
    terms: Terms | None = None
    row: int = 0
    """So many files that follow each other are asked for, and more when they are opened; 0: another set."""


LEARNED = Order()
"""Of readers, without a rule."""


class What(enum.Enum):
    """What is to be done with a ``Wanted``."""

    FILE = enum.auto()
    LISTING = enum.auto()
    INDEX = enum.auto()
    BELOW = enum.auto()


class Wanted(NamedTuple):
    """A file to bring, a directory to list, an index to read, or a directory to fetch from: ``name`` in
    ``parent``, None: ``parent`` itself."""

    what: What
    parent: int
    name: bytes | None = None
    order: Order = LEARNED
    levels: int = 1
    alone: bool = False
    """It was tried with others, and the source has to be asked."""


class Readers:
    """One directory: what its readers do (``plan``) and how fast, and what rules want besides."""

    def __init__(self, limits: Limits, horizon: float) -> None:
        self.plan = Directory(limits)
        self.early: list[tuple[bytes, Verdict, float]] = []
        """Opened before there was a listing, and the deadline."""
        self.walked = -1
        """The epoch in which the directories below were gone through."""
        self._horizon = horizon
        self._rate = 0.0
        self._opens = 0
        self._slot = 0.0

    def opened(self, name: bytes, now: float) -> list[bytes]:
        """The files to bring now: as many ahead as are opened within the horizon."""
        self._opens += 1
        if now - self._slot >= SLOT:
            self._rate = (self._rate + self._opens / (now - self._slot)) / 2
            self._opens, self._slot = 0, now
        return self.plan.on_open(name, now, max(LEAST_AHEAD, int(self._rate * self._horizon)))


def orders(
    plan: Directory, name: bytes, verdict: Verdict, deadline: float, room: int
) -> Iterator[tuple[Order, list[bytes]]]:
    """What a rule wants besides ``name``, which was opened, in a directory that is listed. ``room``: files
    that may be asked for now; what it wants more is asked for at later opens."""
    rule, listing = verdict.prefetch, plan.listing
    assert rule is not None
    assert listing is not None
    window = ANY if rule.window is None else rule.window
    own = fetch_terms(verdict)  # the size of requests and their number are of that file alone
    terms = replace(own, cls=None, request=None, parallel=None) if own is not None else None
    if rule.shards:
        # Shards are larger than most windows: their first bytes are worth more than nothing.
        order = Order(verdict.id, limit=ANY, part=window, deadline=deadline, terms=terms)
        names: list[bytes] = []
        if is_index(name):
            order.index = True
            order.files = rule.next_files or MOST_FILES
        else:
            names = plan.ask(next_shards(listing, name, rule.next_files or NEXT_SHARDS))
        yield order, names
    order = Order(verdict.id, limit=window, deadline=deadline, terms=terms)
    if rule.siblings:
        order.levels = rule.depth
        yield order, plan.others(name, room)
    elif rule.next_files and not rule.shards:
        order.row = rule.next_files
        yield order, plan.following(name, rule.next_files, room)
