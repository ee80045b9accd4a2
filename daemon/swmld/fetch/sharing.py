"""What rules ask of the fetches of a file, and who of those that are bounded may fetch now. Loop-only.

Flights of a file whose rules bound what it takes of the source are held here until they may line up with the
others. Two bounds:

- ``parallel``: so many reads of the file are on their way at once.
- ``share``: of what is fetched while others want the source, the job gets that part. Each job with a share,
  and all others together, have a virtual time that goes on by bytes divided by share; a job may go on while
  no other that wants the source is behind it (weighted fair queueing, Demers et al., SIGCOMM 1989). So shares
  are of the bytes that the source really delivers, a job alone takes all, and what was taken while alone is
  not held against it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from swmld.types import FetchClass

if TYPE_CHECKING:
    from swmld.fetch.flights import Flight

GRACE = 0.05
"""Seconds for which somebody whose fetch has ended still counts as wanting the source: a reader needs a
moment for what it got before it asks again. Also the step in which held fetches are looked at."""

LONGEST_HOLD = 1.0
"""Seconds after which a job may fetch one chunk more, whatever its share: a reader always gets on."""

REST = 0.01
"""Least share of all jobs without one, where the others ask for everything."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How a target is fetched; the default: as without rules.

    ``cls``: the class that all its fetches count as. ``priority``: among fetches of a class, more is sooner.
    ``share``: of the source (0 to 1), for the job ``job``. ``request``: bytes of one read of the source, a
    multiple of 4096. ``parallel``: reads of the source at once.
    """

    cls: FetchClass | None = None
    priority: int = 0
    job: int = 0
    share: float | None = None
    request: int | None = None
    parallel: int | None = None

    @property
    def bounded(self) -> bool:
        """Whether its flights may have to wait before they line up."""
        return self.share is not None or self.parallel is not None


@dataclass(slots=True, eq=False)
class Group:
    """A job with a share, or all that have none."""

    share: float
    virtual: float = 0.0
    open: int = 0
    """Flights that have not ended."""
    wants_until: float = 0.0
    last: float = 0.0
    """When a flight of it was last let go."""
    lined_up: int = 0


@dataclass(slots=True, eq=False)
class _Queue:
    """Held flights, first the one to be let go first; with others that are not held any more."""

    group: Group | None
    heap: list[tuple[tuple[int, bool, int], Flight]] = field(default_factory=list)


class Admission:
    """Holds flights. ``width(flight)``: the reads that it takes at once; ``parallel``: of all."""

    def __init__(self, parallel: int, width: Callable[[Flight], int]) -> None:
        self._parallel = parallel
        self._width = width
        self._rest = Group(1.0)
        self._groups: dict[int, Group] = {}
        self._reads: dict[Hashable, int] = {}
        """By key of the target: of those bounded by ``parallel``, the reads that were let go."""
        self._queues: dict[Hashable, _Queue] = {}

    def came(self, flight: Flight, now: float) -> bool:
        """A flight was asked for; True: it is held, and ``release`` will let it go."""
        terms = flight.terms
        if terms is None or terms.share is None:
            group = self._rest
        else:
            group = self._groups.setdefault(terms.job, Group(terms.share))
            group.share = terms.share
        if not group.open and now >= group.wants_until:
            group.virtual = max(group.virtual, min(self._others(group, now), default=0.0))
            group.last = now
        group.open += 1
        flight.group = group
        if terms is None or not terms.bounded:
            return False
        flight.held = True
        self.hold(flight)
        return True

    def hold(self, flight: Flight) -> None:
        """Also of one that is held and has become more urgent."""
        terms = flight.terms
        assert terms is not None
        name: Hashable = ("job", terms.job) if terms.parallel is None else ("file", flight.target.key)
        queue = self._queues.setdefault(name, _Queue(flight.group if terms.share is not None else None))
        heappush(queue.heap, ((-flight.priority, not flight.demanded, flight.number), flight))

    def started(self, flight: Flight) -> None:
        """The source is asked for it. Who has a share was charged when it was let go."""
        if flight.group is self._rest:
            taken = sum(group.share for group in self._groups.values() if group.open)
            self._rest.virtual += flight.length / max(1.0 - taken, REST)

    def gone(self, flight: Flight, now: float) -> None:
        """The flight has ended, or is not wanted any more."""
        group = flight.group
        if group is None:
            return
        flight.group = None
        group.open -= 1
        group.wants_until = now + GRACE
        if flight.let_go >= 0:
            group.lined_up -= 1
        if flight.let_go > 0:
            key = flight.target.key
            left = self._reads.get(key, 0) - flight.let_go
            if left > 0:
                self._reads[key] = left
            else:
                self._reads.pop(key, None)
        if not group.open and len(self._groups) > 1:  # jobs come and go: those that are done are forgotten
            self._groups = {job: g for job, g in self._groups.items() if g.open or now < g.wants_until}

    def held(self) -> Iterator[Flight]:
        """All that are held."""
        for queue in self._queues.values():
            for _, flight in queue.heap:
                if flight.held:
                    yield flight

    def release(self, now: float, *, everything: bool = False) -> Iterator[Flight]:
        """Lets go what may line up now, ``everything``: whatever its bounds."""
        for name, queue in list(self._queues.items()):
            while queue.heap:
                flight = queue.heap[0][1]
                if not flight.held:
                    heappop(queue.heap)
                    continue
                if not everything and not self._may(flight, queue.group, now):
                    break
                heappop(queue.heap)
                self._let_go(flight, queue.group, now)
                yield flight
            if not queue.heap:
                del self._queues[name]

    @property
    def waiting(self) -> bool:
        """Something is held whose time may come without an event."""
        return any(queue.group is not None for queue in self._queues.values())

    def _may(self, flight: Flight, group: Group | None, now: float) -> bool:
        terms = flight.terms
        if terms is not None and terms.parallel is not None:
            used = self._reads.get(flight.target.key, 0)
            if used and used + self._width(flight) > terms.parallel:
                return False
        if group is None:
            return True
        if group.lined_up >= self._parallel:
            return False  # who comes now is not to wait behind all that it wants
        behind = any(virtual < group.virtual for virtual in self._others(group, now))
        return not behind or now - group.last >= LONGEST_HOLD

    def _let_go(self, flight: Flight, group: Group | None, now: float) -> None:
        flight.held = False
        flight.let_go = 0
        assert flight.group is not None
        flight.group.lined_up += 1
        if flight.terms is not None and flight.terms.parallel is not None:
            flight.let_go = self._width(flight)
            key = flight.target.key
            self._reads[key] = self._reads.get(key, 0) + flight.let_go
        if group is not None:
            group.virtual += flight.length / group.share
            group.last = now

    def _others(self, group: Group, now: float) -> Iterator[float]:
        """Virtual times of the others that want the source."""
        for other in (self._rest, *self._groups.values()):
            if other is not group and (other.open or now < other.wants_until):
                yield other.virtual
