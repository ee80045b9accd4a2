"""What is decided about a file's eviction, as one number in the index, and the lines in which files wait.

The number is the column ``pinned``, which older versions knew as 0 or 1: bit 0 is a pin by hand, bits 1 and 2
are the ``Keep`` (0 is NORMAL), the rest the time to live in seconds. So the cache's format is the same; an
older swmld takes every file that something was decided about as pinned.
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


class Kept(NamedTuple):
    """``ttl``: whole seconds after its last use from which the file is to go FIRST, 0: never. A pin
    ``by_hand`` is stronger than either."""

    keep: Keep = Keep.NORMAL
    ttl: int = 0
    by_hand: bool = False

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
        return cls(_KEEPS[code >> 1 & 3], code >> 3, bool(code & 1))

    @property
    def code(self) -> int:
        """As the index holds it."""
        return self.ttl << 3 | _CODES[self.keep] << 1 | self.by_hand

    def at(self, last_used: float, now: float) -> Keep:
        """What holds at ``now`` for a file that was last used at ``last_used``; seconds since the epoch."""
        if self.by_hand:
            return Keep.NEVER
        if self.ttl and last_used + self.ttl <= now:
            return Keep.FIRST
        return self.keep


class Line(enum.IntEnum):
    """The lines in which files wait for their eviction, in the order in which lines are gone through.

    Each is in the order of a moment: that of the last use, of EXPIRED that at which the time to live ended.
    A file with a time to live stands in EXPIRED and, unless it is kept NEVER, in the line of its ``Keep``.
    """

    FIRST = 0
    EXPIRED = 1
    NORMAL = 2
    LAST = 3


KEEP_OF_LINE = {Line.FIRST: Keep.FIRST, Line.NORMAL: Keep.NORMAL, Line.LAST: Keep.LAST}


class Place(NamedTuple):
    """A place in a line: after the file ``file_id``, whose moment is ``moment`` (seconds since the epoch)."""

    line: Line
    moment: float = -math.inf
    file_id: int = -1


def lines_of(kept: Kept) -> set[Line]:
    """The lines in which a file may wait that is kept like this."""
    if kept.by_hand:
        return set()
    lines = {line for line, keep in KEEP_OF_LINE.items() if keep is kept.keep}
    return lines | {Line.EXPIRED} if kept.ttl else lines


# The lines in the index: all that wait by last use, and those that have a time to live by its end.
_END = "last_used + (pinned >> 3)"
_HAS_END = "pinned>=8 AND (pinned & 1)=0"
INDEXES = f"""
CREATE INDEX files_keep ON files(pinned & 7, last_used);
CREATE INDEX files_end ON files({_END}) WHERE {_HAS_END};
"""


def line_queries(line: Line, columns: str) -> tuple[str, str]:
    """Two statements for the rows after a ``Place``: those of the same moment, and those of later ones.

    Parameters: ``moment``, ``now``, ``limit``, ``after`` (the file id, in the first alone). Two, because many
    files may share a moment, and SQLite does not search its index by (moment, file_id).
    """
    if line is Line.EXPIRED:
        where, moment = f"{_HAS_END} AND {_END}<=:now", _END
    else:
        where, moment = f"(pinned & 7)={Kept(KEEP_OF_LINE[line]).code}", "last_used"
    select = f"SELECT {columns} FROM files WHERE {where} AND {moment}"
    return (
        f"{select}=:moment AND file_id>:after ORDER BY file_id LIMIT :limit",
        f"{select}>:moment ORDER BY {moment}, file_id LIMIT :limit",
    )
