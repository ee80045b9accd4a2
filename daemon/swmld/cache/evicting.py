"""Making room: which files go.

It goes through one line of files after the other (``keeping.Line``): those that are to go first, those whose
time to live ended, the normal ones, and only then those that are to go last. In each line it goes on from
where all before it cannot go (``trail``). Of the normal ones, those on probation go before those that are
protected, unless they are few (``swmld.plan.reuse``). Which were read again shows here: of uses that C alone
saw, the index learns when eviction meets the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from swmld.cache.index import FileRow
from swmld.cache.keeping import Line, Place, on_probation
from swmld.cache.trail import Trail
from swmld.plan.eviction import Candidate, Keep, Policy
from swmld.plan.reuse import Reuse

# Candidates looked at together; dropping one costs about 80 µs.
_BATCH = 256

# Files that turn out to have been used later than the index knew go back in the order. When so many have, the
# oldest of them go: an exact order would mean asking about every file of a large cache.
_LOOK = 2048

# An attempt looks at so many files in vain, about 0.1 s; the next goes on from there.
_PATIENCE = 8192

# After a vain attempt the cache stays full for ten times of what the attempt took: about 20 µs a file, and as
# much as 16 files for the attempt itself. For once of it, if there is more to look at: that ends.
_PER_FILE = 20e-6
_FILES_AN_ATTEMPT = 16
_BACKOFF = 10
BACKOFF_MAX = 1.0


class Room(Protocol):
    """What eviction needs of the cache."""

    def oldest(self, after: Place, limit: int) -> list[FileRow]:
        """Files of one line, from after a place in it."""
        ...

    def candidate(self, row: FileRow) -> Candidate:
        """``row`` with what is known beyond the index: the latest use, whether it is open (``pinned``), and
        how it is kept now; NEVER if a job holds it, until that is said to have ended."""
        ...

    def touch(self, file_id: int, last_used: float, *, again: bool) -> None:
        """Note a use that the index did not know of; ``again``: the file is to be protected."""
        ...

    def on_probation(self) -> int:
        """Bytes of files on probation, as the index has them."""
        ...

    def settle(self) -> None:
        """Return when all touches, and all that was decided before, are in the index."""
        ...

    def evict(self, rows: list[FileRow]) -> tuple[int, int]:
        """Drop those of ``rows`` (with their latest use) that are still not in use and kept as they were;
        returns the bytes freed and the files gone."""
        ...


class Chance(NamedTuple):
    """A row that may be evicted, and what is known of it."""

    row: FileRow
    candidate: Candidate


class Sorted(NamedTuple):
    """A batch, by what may become of it; see ``Reclaimer._sort``."""

    here: dict[int, Chance]
    late: dict[int, Chance]
    again: dict[int, Chance]
    in_use: dict[int, FileRow]


@dataclass(slots=True)
class Attempt:
    """Bytes freed, files looked at, those of them that cannot go, and whether it ended for the sake of its
    length."""

    freed: int = 0
    looked_at: int = 0
    in_vain: int = 0
    cut: bool = False

    @property
    def backoff(self) -> float:
        """Seconds for which no other is worth making."""
        cost = (self.looked_at + _FILES_AN_ATTEMPT) * _PER_FILE
        return cost if self.cut else min(BACKOFF_MAX, cost * _BACKOFF)


@dataclass(slots=True)
class Met:
    """Files of a line that were used later than the index knew: all, those that stay in the line, and those
    that are protected from now on."""

    all: set[int] = field(default_factory=set)
    moved: dict[int, Chance] = field(default_factory=dict)
    again: dict[int, Chance] = field(default_factory=dict)


class Evictor:
    """Used by one thread at a time, but for ``look_again``."""

    def __init__(self, room: Room, policy: Policy, reuse: Reuse, clock: Callable[[], float]) -> None:
        self.evicted = 0
        """Files evicted since the start."""
        self._room = room
        self._policy = policy
        self._reuse = reuse
        self._clock = clock
        self._looked_at: int | None = None
        self._trails = {line: Trail(line, _LOOK) for line in Line}

    def look_again(self, lines: Iterable[Line] = Line) -> None:
        """Files came into ``lines`` at any place, or those there that could not go may go now. Loop-safe."""
        for line in lines:
            self._trails[line].stale = True

    def evict(self, need: int, slack: int, held: int) -> Attempt:
        """Evict ``need`` bytes of the ``held``, by the policy, from one line after the other.

        Up to ``slack`` more go with the batch that fills the need, never a batch for their own sake: a
        demand read may be waiting. It does not watch the free space meanwhile: file systems that free blocks
        later would have it evict all.
        """
        attempt = Attempt()
        self._room.settle()
        self._look_at_protected(attempt)
        self._reuse.measured(self._room.on_probation(), held)
        normal = [Line.PROBATION, Line.PROTECTED]
        if not self._reuse.probation_first:
            normal.reverse()
        for line in (Line.FIRST, Line.EXPIRED, *normal, Line.LAST):
            left = need - attempt.freed
            if left > 0 and not attempt.cut:
                spare = line is Line.PROBATION and line is normal[0]
                attempt.freed += self._evict_line(self._trails[line], left, slack, attempt, spare=spare)
        self._room.settle()
        return attempt

    def _look_at_protected(self, attempt: Attempt) -> None:
        """Learn since when the protected file that is idle longest has been so, and the latest use of those
        that seemed to be. One batch, if something was evicted since the last look: it may find too early a
        moment, never one too late."""
        if self._looked_at == self.evicted:
            return
        self._looked_at = self.evicted
        rows = self._room.oldest(Place(Line.PROTECTED), _BATCH)
        attempt.looked_at += len(rows)
        uses = [rows[-1].last_used] if len(rows) == _BATCH else []
        for row in rows:
            candidate = self._room.candidate(row)
            if candidate.last_used > row.last_used:
                self._room.touch(row.file_id, candidate.last_used, again=False)
            if not candidate.stays:
                uses.append(candidate.last_used)
                if candidate.last_used <= row.last_used:
                    break
        self._reuse.oldest = min(uses, default=None)
        self._room.settle()

    def _evict_line(self, trail: Trail, need: int, slack: int, attempt: Attempt, *, spare: bool) -> int:
        """Evict from one line, in batches in its order; returns the bytes freed. ``spare``: what turns out to
        be protected is met in its own line later."""
        met = Met()
        freed = self._evict_again(trail, need, slack, met, attempt)
        after, at_end = trail.after, False
        while freed < need and not (at_end or attempt.cut):
            rows = self._room.oldest(after, _BATCH)
            at_end = not rows
            here, late, promoted, in_use = self._sort(rows, trail.line, met)
            attempt.looked_at += len(rows)
            attempt.in_vain += len(rows) - len(here) - len(late) - len(promoted)
            freed += self._evict_some(here, need - freed, slack)
            if rows:
                after = rows[-1].place(trail.line)
                crowd = {file_id for file_id, row in in_use.items() if not trail.again(row)}
                trail.passed(rows, here.keys() | late.keys() | promoted.keys() | crowd)
            attempt.cut = attempt.in_vain >= _PATIENCE and not trail.stopped
            enough = attempt.cut or len(met.moved) + len(met.again) >= _LOOK
            if at_end or enough:
                freed += self._evict_some(met.moved, need - freed, slack)
                if met.again and freed < need:
                    self._room.settle()  # they are in their line now
                    freed += 0 if spare and not enough else self._evict_some(met.again, need - freed, slack)
                met.moved, met.again = {}, {}
        return freed

    def _evict_again(self, trail: Trail, need: int, slack: int, met: Met, attempt: Attempt) -> int:
        """Evict from those that earlier attempts passed because they were open."""
        rows = trail.start(self._clock())
        here, late, _promoted, in_use = self._sort(rows, trail.line, met)
        attempt.looked_at += len(rows)
        freed = self._evict_some(here, need, slack)
        for row in in_use.values():
            trail.again(row)
        for row, candidate in (*here.values(), *late.values()):
            trail.again(row._replace(last_used=candidate.last_used))
        return freed

    def _sort(self, rows: list[FileRow], line: Line, met: Met) -> Sorted:
        """What may go now; what was used later than the index knew (and is not in ``met.all``); of that, what
        is protected from now on; what is open, with its latest use."""
        here: dict[int, Chance] = {}
        late: dict[int, Chance] = {}
        promoted: dict[int, Chance] = {}
        in_use: dict[int, FileRow] = {}
        for row in rows:
            candidate = self._room.candidate(row)
            moves = candidate.last_used > row.last_used and row.file_id not in met.all
            again = moves and self._promote(row, candidate)
            if moves:
                met.all.add(row.file_id)
                self._room.touch(row.file_id, candidate.last_used, again=again)
            if again:
                if not candidate.stays:
                    row = row._replace(pinned=row.kept.used_again().code)
                    promoted[row.file_id] = Chance(row, candidate)
            elif candidate.pinned:
                in_use[row.file_id] = row._replace(last_used=max(row.last_used, candidate.last_used))
            elif candidate.keep is not Keep.NEVER and (
                line is not Line.EXPIRED or candidate.keep is Keep.FIRST
            ):
                (late if moves else here)[row.file_id] = Chance(row, candidate)
        met.moved |= late
        met.again |= promoted
        return Sorted(here, late, promoted, in_use)

    def _promote(self, row: FileRow, candidate: Candidate) -> bool:
        """Whether a file that was used again is to be protected, and is not."""
        held = on_probation(row.pinned, row.bytes)
        if not held or not self._reuse.protects(row.last_used, candidate.last_used):
            return False
        self._reuse.promoted(held)
        protected = self._trails[Line.PROTECTED]
        if Place(Line.PROTECTED, candidate.last_used, row.file_id) <= protected.after:
            protected.stale = True
        return True

    def _evict_some(self, chances: dict[int, Chance], need: int, slack: int) -> int:
        """Evict from ``chances``, and go on with those not picked where a picked one was taken meanwhile."""
        freed = 0
        while freed < need and chances:
            candidates = [chance.candidate for chance in chances.values()]
            picked = self._policy.pick(candidates, need - freed + slack)
            if len(picked) > _BATCH:
                picked = self._policy.pick(candidates, need - freed)
            if not picked:
                break
            going = [chances.pop(file_id) for file_id in picked]
            rows = [row._replace(last_used=candidate.last_used) for row, candidate in going]
            nbytes, files = self._room.evict(rows)
            self.evicted += files
            freed += nbytes
        return freed
