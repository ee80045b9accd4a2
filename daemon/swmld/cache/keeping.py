"""What is decided about a file's eviction, as one number in the index, and the lines in which files wait.

The number is the column ``pinned``, which older versions knew as 0 or 1: bit 0 is a pin by hand, bits 1 and 2
are the ``Keep`` (0 is NORMAL), bits 3 to 34 the time to live in seconds, bit 40 says that the file is
protected (``swmld.plan.reuse``). So the cache's format is the same. An older swmld takes a protected file as
one with a time to live of some thousand years; a still older one takes every file that has any of this as
pinned.
"""

from __future__ import annotations

import enum
import math
from typing import NamedTuple

from swmld.plan.eviction import Keep

_CODES = {Keep.NORMAL: 0, Keep.FIRST: 1, Keep.LAST: 2, Keep.NEVER: 3}
_KEEPS = (Keep.NORMAL, Keep.FIRST, Keep.LAST, Keep.NEVER)

# A time to live beyond 136 years is one without end; the number stays within 35 bits.
_MAX_TTL = (1 << 32) - 1
_TTL_BITS = _MAX_TTL << 3

_PROTECTED = 1 << 40
_LINE_BITS = _PROTECTED | 7

FILE_OVERHEAD = 4096
"""What ext4 and xfs spend at least on a small file: an inode, a directory entry, one block. In bytes."""


class Kept(NamedTuple):
    """``ttl``: whole seconds after its last use from which the file is to go FIRST, 0: never. A pin
    ``by_hand`` is stronger than either. ``protected``: it was read again; only of what is kept NORMAL."""

    keep: Keep = Keep.NORMAL
    ttl: int = 0
    by_hand: bool = False
    protected: bool = False

    @classmethod
    def decided(cls, keep: Keep, ttl: float | None) -> Kept:
        """``ttl`` in seconds, rounded up; ``ValueError`` if it is negative or no number."""
        if ttl is None:
            return cls(keep)
        if not ttl >= 0:
            raise ValueError(f"a time to live of {ttl} seconds")
        return cls(keep, max(1, math.ceil(min(ttl, _MAX_TTL))))

    @classmethod
    def of(cls, code: int) -> Kept:
        """What the index holds as ``code``."""
        ttl = (code & _TTL_BITS) >> 3
        return cls(_KEEPS[code >> 1 & 3], ttl, bool(code & 1), bool(code & _PROTECTED))

    @property
    def code(self) -> int:
        """As the index holds it."""
        protected = _PROTECTED if self.protected else 0
        return protected | self.ttl << 3 | _CODES[self.keep] << 1 | self.by_hand

    def after(self, before: Kept) -> Kept:
        """This decision about a file that was kept like ``before``: what is no decision stays as it is."""
        protected = before.protected and self.keep is Keep.NORMAL
        return self._replace(by_hand=before.by_hand, protected=protected)

    def used_again(self) -> Kept:
        """Of a file that is to be protected."""
        return self._replace(protected=True) if self.keep is Keep.NORMAL else self

    def at(self, last_used: float, now: float) -> Keep:
        """What holds at ``now`` for a file that was last used at ``last_used``; seconds since the epoch."""
        if self.by_hand:
            return Keep.NEVER
        if self.ttl and last_used + self.ttl <= now:
            return Keep.FIRST
        return self.keep


class Line(enum.IntEnum):
    """The lines in which files wait for their eviction, in the order in which lines are gone through; but of
    PROBATION and PROTECTED, where files that are kept NORMAL wait, either may come first (``plan.reuse``).

    Each is in the order of a moment: that of the last use, of EXPIRED that at which the time to live ended.
    A file with a time to live stands in EXPIRED and, unless it is kept NEVER, in the line of its ``Keep``.
    """

    FIRST = 0
    EXPIRED = 1
    PROBATION = 2
    PROTECTED = 3
    LAST = 4


_KEPT_IN = {
    Line.FIRST: Kept(Keep.FIRST),
    Line.PROBATION: Kept(),
    Line.PROTECTED: Kept(protected=True),
    Line.LAST: Kept(Keep.LAST),
}


class Place(NamedTuple):
    """A place in a line: after the file ``file_id``, whose moment is ``moment`` (seconds since the epoch)."""

    line: Line
    moment: float = -math.inf
    file_id: int = -1


def lines_of(kept: Kept) -> set[Line]:
    """The lines in which a file may wait that is kept like this."""
    if kept.by_hand:
        return set()
    lines = {line for line, there in _KEPT_IN.items() if there == kept._replace(ttl=0)}
    return lines | {Line.EXPIRED} if kept.ttl else lines


# The lines in the index: all that wait by last use, and those that have a time to live by its end.
_END = f"last_used + ((pinned & {_TTL_BITS}) >> 3)"
_HAS_END = f"(pinned & {_TTL_BITS})>0 AND (pinned & 1)=0"
INDEXES = f"""
CREATE INDEX files_line ON files(pinned & {_LINE_BITS}, last_used);
CREATE INDEX files_expiry ON files({_END}) WHERE {_HAS_END};
"""
OLD_INDEXES = ("files_last_used", "files_keep", "files_end")
"""Of older versions, which do not keep ``meta`` as this one does either."""

PROBATION_BYTES = (
    f"coalesce(sum(bytes + {FILE_OVERHEAD}) FILTER (WHERE (pinned & {_LINE_BITS})={Kept().code}), 0)"
)
"""What ``on_probation`` makes of all rows."""


def on_probation(code: int, nbytes: int) -> int:
    """What a file that is kept as ``code`` says counts as on probation: all it holds, or nothing."""
    return nbytes + FILE_OVERHEAD if code & _LINE_BITS == Kept().code else 0


def line_queries(line: Line, columns: str) -> tuple[str, str]:
    """Two statements for the rows after a ``Place``: those of the same moment, and those of later ones.

    Parameters: ``moment``, ``now``, ``limit``, ``after`` (the file id, in the first alone). Two, because many
    files may share a moment, and SQLite does not search its index by (moment, file_id).
    """
    if line is Line.EXPIRED:
        where, moment = f"{_HAS_END} AND {_END}<=:now", _END
    else:
        where, moment = f"(pinned & {_LINE_BITS})={_KEPT_IN[line].code}", "last_used"
    select = f"SELECT {columns} FROM files WHERE {where} AND {moment}"
    return (
        f"{select}=:moment AND file_id>:after ORDER BY file_id LIMIT :limit",
        f"{select}>:moment ORDER BY {moment}, file_id LIMIT :limit",
    )
