"""The scheduler decides which chunks are fetched and when. Three rules:

- One flight per (target, chunk), shared by whoever wants it.
- A demand never waits behind a prefetch: it has its own queue, served first, and prefetch may use only a
  part of the parallel reads and of the buffers, so that a demand finds room at once. A prefetch that is
  demanded becomes one.
- A source that hangs costs bounded time and bounded memory: a flight ends after ``timeout`` seconds, its
  slots are given back, what the kernel still has is counted as stuck; with ``parallel`` operations stuck, or
  no buffer left that is not waiting for the kernel, demands fail at once until one of those operations
  completes.

Rules may say otherwise of a target (``Target.terms``): another class, priority among others of the class, and
bounds, which hold its flights back before they line up (``sharing``).

Everything here runs on the event loop; nothing blocks it.
"""

from __future__ import annotations

import errno
import logging
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from heapq import heapify, heappop, heappush

import trio

from swmld.cache.files import ChunkState
from swmld.errors import FetchError
from swmld.fetch.buffers import Buffer, BufferPool
from swmld.fetch.engine import Engine
from swmld.fetch.flights import Carrier, Flight, FlightFailed, Phase, Room, Target
from swmld.fetch.sharing import GRACE, Admission, Terms
from swmld.fetch.stats import FetchStats, Result
from swmld.fetch.threads import Offload
from swmld.fetch.together import MOST, PATIENCE, Came, Loaded, Together
from swmld.types import FetchClass

log = logging.getLogger(__name__)

DEMAND_SHARE = 4
"""One part in so many of the buffer budget is kept from prefetch."""

ENSURE_AHEAD = 2
"""``ensure`` keeps this many times ``parallel`` chunks queued: enough to never starve the source, and a
warm-up of a million chunks neither fills the queue before other readers nor leaves much to take back when it
is cancelled."""

LATE_STEP = 0.05
"""Seconds between two looks through the prefetch queue for what is late, which is not started meanwhile."""

BACKGROUND_WAIT = 5.0
"""Seconds after which a demand that rules have count as prefetch goes with the demands: its reader waits, and
others may want the source without a pause."""


class Fetcher:
    """Fetches chunks of targets into their cache files. ``run`` must run for anything to move.

    ``parallel``: sub-reads (of ``sub_read`` bytes) in flight at the source; ``prefetch_parallel`` of them at
    most for prefetch. ``queue``: prefetch requests that may wait. ``timeout``: seconds a flight.
    ``on_landed(target, chunk)`` and ``on_failed(target, chunk, errno)`` are called on the loop, once per
    flight: ESTALE means the source is another file now (or shorter), ENOSPC that the cache could not take
    the chunk (read it from the source), anything else is the source's own errno.
    """

    def __init__(
        self,
        engine: Engine,
        pool: BufferPool,
        cache: Room,
        *,
        parallel: int = 32,
        prefetch_parallel: int = 24,
        queue: int = 4096,
        sub_read: int = 1 << 20,
        timeout: float = 30.0,
        on_landed: Callable[[Target, int], None],
        on_failed: Callable[[Target, int, int], None],
        offload: Offload,
        stats: FetchStats | None = None,
        together: Together | None = None,
    ) -> None:
        if not 0 < prefetch_parallel <= parallel:
            raise ValueError(f"prefetch_parallel {prefetch_parallel} not in 1..{parallel}")
        self._stats = stats or FetchStats()
        self._pool = pool
        self._together = together
        self._gathered: list[Loaded] = []
        """Flights that ``_dispatch`` has started and will carry together."""
        self._carrier = Carrier(engine, cache, offload, self._stats, sub_read=sub_read)
        self._parallel = parallel
        self._prefetch_parallel = prefetch_parallel
        self._queue_limit = queue
        self._timeout = timeout
        self._on_landed = on_landed
        self._on_failed = on_failed
        self._flights: dict[tuple[Hashable, int], Flight] = {}
        self._demand: deque[Flight] = deque()
        self._ranked: list[tuple[int, bool, int, Flight]] = []
        """Heap of those of class demand that have a priority, or that nobody waits for."""
        self._admission: Admission | None = None
        """Made for the first target with bounds."""
        self._prefetch: list[Flight] = []  # heap; entries that were promoted or forgotten are skipped
        self._next_late = float("inf")
        """When to look for late ones among them; no later than the earliest deadline, but for the step."""
        self._used = {FetchClass.DEMAND: 0, FetchClass.PREFETCH: 0}
        self._numbers = 0
        self._nursery: trio.Nursery | None = None
        self._dispatcher: trio.lowlevel.Task | None = None
        pool.on_room(self._wake)

    # ---- what others call

    def set_prefetch_parallel(self, count: int) -> None:
        """How many sub-reads prefetch may have at once, from now on."""
        self._prefetch_parallel = min(count, self._parallel)
        self._wake()

    @property
    def stats(self) -> FetchStats:
        """The counters; the same object each time, its *now* values as of this call."""
        self._stats.stuck = self._pool.stuck
        self._stats.reads_in_flight = sum(self._used.values())
        return self._stats

    def request(
        self,
        target: Target,
        chunk: int,
        cls: FetchClass,
        *,
        priority: int = 0,
        deadline: float | None = None,
        on_late: Callable[[Target, int], None] | None = None,
    ) -> bool:
        """Ask for a chunk; loop-only, never waits.

        DEMAND: True means that ``on_landed`` or ``on_failed`` will follow (a new flight or one that was
        under way), False that the chunk is PRESENT. PREFETCH: True if it was queued, False if it is there,
        under way, or dropped because the queue is full or the deadline has passed.

        ``deadline`` is a ``trio.current_time()``, for prefetch alone: the earlier comes first, and what is
        still queued then (nobody has demanded it meanwhile) is dropped; ``on_late(target, chunk)`` is called
        on the loop instead of ``on_landed`` and ``on_failed``.
        """
        flight = self._flights.get((target.key, chunk))
        if flight is not None:
            if cls is FetchClass.PREFETCH:
                return False
            flight.asked = True
            self._promote(flight, target.terms)
            return True
        if target.file.state(chunk) is ChunkState.PRESENT:
            return False
        if cls is FetchClass.PREFETCH:
            if self._stats.queued[cls] + len(self._ranked) >= self._queue_limit:
                self._stats.dropped += 1
                return False
            if deadline is not None and deadline <= trio.current_time():
                return False
        flight = self._enqueue(target, chunk, cls, priority, deadline)
        flight.on_late = on_late
        return True

    def under_way(self, target: Target, chunk: int) -> bool:
        """Whether somebody has asked for the chunk and it has neither landed nor failed."""
        return (target.key, chunk) in self._flights

    async def ensure(self, target: Target, chunks: Iterable[int]) -> None:
        """Demand ``chunks`` and return when all are PRESENT; ``FetchError`` with the errno of the first that
        failed.

        Cancelled, or after a failure, it takes back what is still queued and nobody else wants."""
        await trio.lowlevel.checkpoint_if_cancelled()
        pending: deque[Flight] = deque()
        try:
            for chunk in chunks:
                flight = self._join(target, chunk)
                if flight is not None:
                    pending.append(flight)
                if len(pending) >= ENSURE_AHEAD * self._parallel:
                    await self._wait(pending)
            while pending:
                await self._wait(pending)
        finally:
            for flight in pending:
                self._leave(flight)

    def forget(self, target: Target) -> None:
        """Drop the queued prefetch that was asked for with this very ``target`` (another of the same key
        keeps its own); nobody is told. What is in flight finishes."""
        for flight in self._prefetch:
            if flight.target is target and self._is_queued_prefetch(flight) and not flight.demanded:
                self._take_back(flight)
        self._sweep_prefetch()
        if self._ranked or self._admission is not None:
            held = self._admission.held() if self._admission is not None else ()
            for flight in [*(entry[3] for entry in self._ranked), *held]:
                if flight.target is target and flight.phase is Phase.QUEUED and not flight.demanded:
                    self._take_back(flight)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start flights until cancelled; then fail what is left with EIO, so that no reader waits for
        ever."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await self._dispatch()
        finally:
            self._nursery = None
            for flight in list(self._flights.values()):
                self._end(flight, Result.ERROR, errno.EIO)

    # ---- queues

    def _enqueue(
        self, target: Target, chunk: int, cls: FetchClass, priority: int = 0, deadline: float | None = None
    ) -> Flight:
        self._numbers += 1
        flight = Flight(target, chunk, cls, priority, deadline, self._numbers)
        target.retain()  # until ``Carrier.settle``: its opener may leave while this waits
        self._flights[flight.key] = flight
        terms = target.terms
        if terms is not None:
            self._agree(flight, terms)
        self._stats.queued[flight.cls] += 1
        if self._admission is None or not self._admission.came(flight, flight.requested_at):
            self._line_up(flight)
        self._wake()
        return flight

    def _agree(self, flight: Flight, terms: Terms) -> None:
        flight.priority += terms.priority
        if terms.cls is not None:
            flight.cls = terms.cls
            if flight.demanded and _background(terms):
                flight.deadline = flight.requested_at + BACKGROUND_WAIT
        if terms.bounded and self._admission is None:
            self._admission = Admission(self._parallel, self._width)

    def _line_up(self, flight: Flight) -> None:
        if flight.cls is FetchClass.PREFETCH:
            heappush(self._prefetch, flight)
            self._next_late = min(self._next_late, flight.deadline)
            if len(self._prefetch) > 2 * self._queue_limit:
                self._sweep_prefetch()
        elif flight.demanded and not flight.priority:
            self._demand.append(flight)
        else:
            heappush(self._ranked, (-flight.priority, not flight.demanded, flight.number, flight))

    def _join(self, target: Target, chunk: int) -> Flight | None:
        flight = self._flights.get((target.key, chunk))
        if flight is None:
            if target.file.state(chunk) is ChunkState.PRESENT:
                return None
            flight = self._enqueue(target, chunk, FetchClass.DEMAND)
            flight.asked = False
        self._promote(flight, target.terms)
        flight.waiters += 1
        if flight.done is None:
            flight.done = trio.Event()
        return flight

    async def _wait(self, pending: deque[Flight]) -> None:
        flight = pending[0]
        assert flight.done is not None
        await flight.done.wait()
        pending.popleft()
        flight.waiters -= 1
        if flight.errno:
            raise FetchError(f"chunk {flight.chunk} could not be fetched", flight.errno)

    def _leave(self, flight: Flight) -> None:
        flight.waiters -= 1
        if flight.phase is Phase.QUEUED and not flight.waiters and not flight.asked:
            self._take_back(flight)

    def _promote(self, flight: Flight, terms: Terms | None) -> None:
        """Somebody waits for it; ``terms``: those of what it is read for."""
        if flight.demanded and (flight.cls is FetchClass.DEMAND or _background(terms)):
            return
        flight.demanded = True
        queued = flight.phase is Phase.QUEUED
        if flight.cls is FetchClass.PREFETCH:
            if _background(terms):
                if queued:
                    flight.deadline = min(flight.deadline, trio.current_time() + BACKGROUND_WAIT)
                    self._next_late = min(self._next_late, flight.deadline)
                    self._sweep_prefetch()
                    self._wake()
                return
            self._stats.promoted += 1
            counts = self._stats.queued if queued else self._stats.in_flight
            counts[FetchClass.PREFETCH] -= 1
            counts[FetchClass.DEMAND] += 1
            self._used[FetchClass.PREFETCH] -= flight.slots
            self._used[FetchClass.DEMAND] += flight.slots
            flight.cls = FetchClass.DEMAND
        if queued and flight.held and self._admission is not None:
            self._admission.hold(flight)
        elif queued:
            self._line_up(flight)
        self._wake()

    def _take_back(self, flight: Flight) -> None:
        """Forget a queued flight: nobody waits for it. The prefetch queue skips it later."""
        if flight.cls is FetchClass.DEMAND and flight.demanded and not (flight.priority or flight.held):
            self._demand.remove(flight)
        flight.phase = Phase.DONE
        flight.held = False
        self._stats.queued[flight.cls] -= 1
        self._stats.forgotten += 1
        del self._flights[flight.key]
        if self._admission is not None:
            self._admission.gone(flight, trio.current_time())
        self._carrier.settle(flight)

    def _sweep_prefetch(self) -> None:
        """Take out what was promoted or forgotten; what starts flights would come to it only in time."""
        self._prefetch = [flight for flight in self._prefetch if self._is_queued_prefetch(flight)]
        heapify(self._prefetch)

    def _drop_late(self) -> None:
        now = trio.current_time()
        if now < self._next_late:
            return
        for flight in [flight for flight in self._prefetch if flight.deadline <= now]:
            self._late(flight)
        self._sweep_prefetch()
        earliest = min((flight.deadline for flight in self._prefetch), default=float("inf"))
        self._next_late = max(earliest, now + LATE_STEP)

    def _late(self, flight: Flight) -> None:
        if not self._is_queued_prefetch(flight):
            return
        if flight.demanded:
            self._promote(flight, None)
        else:
            self._take_back(flight)
            if flight.on_late is not None:
                flight.on_late(flight.target, flight.chunk)

    @staticmethod
    def _is_queued_prefetch(flight: Flight) -> bool:
        return flight.phase is Phase.QUEUED and flight.cls is FetchClass.PREFETCH

    # ---- starting

    def _wake(self) -> None:
        task, self._dispatcher = self._dispatcher, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    async def _dispatch(self) -> None:
        def stop(_: object) -> trio.lowlevel.Abort:
            self._dispatcher = None
            return trio.lowlevel.Abort.SUCCEEDED

        while True:
            look = self._next_late
            if self._admission is not None:
                look = min(look, self._admit(self._admission))
            self._drop_late()
            if self._start_demand():
                self._start_prefetch()
            self._send_gathered()
            with trio.CancelScope(deadline=min(look, self._next_late)):
                self._dispatcher = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(stop)

    def _admit(self, admission: Admission) -> float:
        """Lets those line up that may; returns when to look again."""
        now = trio.current_time()
        hangs = self._pool.stuck >= self._parallel  # then all are refused, and soon
        for flight in admission.release(now, everything=hangs):
            self._line_up(flight)
        return now + GRACE if admission.waiting else float("inf")

    def _start_demand(self) -> bool:
        """False: one of them waits for room."""
        if not self._ranked:
            return self._start_in_turn()
        return self._start_ranked(0) and self._start_in_turn() and self._start_ranked()

    def _start_in_turn(self) -> bool:
        while self._demand:
            if not self._started(self._demand[0]):
                return False
            self._demand.popleft()
        return True

    def _start_ranked(self, above: int | None = None) -> bool:
        """Those of a priority above this one, or all."""
        while self._ranked:
            flight = self._ranked[0][3]
            if above is not None and flight.priority <= above:
                break
            if not self._started(flight):
                return False
            heappop(self._ranked)
        return True

    def _started(self, flight: Flight) -> bool:
        """Whether a demand need not be looked at again."""
        if flight.phase is not Phase.QUEUED:
            return True
        if self._hangs(flight):
            self._stats.refused += 1
            self._end(flight, Result.ERROR, errno.EIO)
            return True
        return self._start(flight, self._parallel, spare=0)

    def _start_prefetch(self) -> None:
        if self._pool.stuck >= self._parallel:
            return  # a prefetch can wait until something completes
        spare = self._pool.budget // DEMAND_SHARE
        while self._prefetch:
            flight = self._prefetch[0]
            if flight.deadline <= trio.current_time() and not flight.demanded:
                self._late(flight)
            elif self._is_queued_prefetch(flight) and not self._start(
                flight, self._prefetch_parallel - self._used[FetchClass.PREFETCH], spare
            ):
                return
            heappop(self._prefetch)

    def _hangs(self, flight: Flight) -> bool:
        """Starting ``flight`` would only add to what hangs, or nothing that is under way can make room for
        it."""
        if self._pool.stuck >= self._parallel:
            return True
        nothing_flies = not any(self._stats.in_flight.values())
        return nothing_flies and self._pool.quarantined > 0 and not self._pool.has_room(flight.length)

    def _start(self, flight: Flight, allowed: int, spare: int) -> bool:
        """Start ``flight`` if its slots and its buffer can be had now. The slots that it wants are bounded
        by what its class may ever have, so that a chunk of many sub-reads takes turns instead of waiting for
        ever."""
        slots = self._width(flight)
        free = self._parallel - sum(self._used.values())
        if self._nursery is None or slots > min(free, allowed):
            return False
        buffer = self._pool.try_get(flight.length, spare=spare)
        if buffer is None:
            return False
        flight.phase = Phase.RUNNING
        flight.slots = slots
        self._used[flight.cls] += slots
        self._stats.queued[flight.cls] -= 1
        self._stats.in_flight[flight.cls] += 1
        if self._admission is not None:
            self._admission.started(flight)
        if self._together is not None and self._together.fits(flight):
            self._gathered.append(Loaded(flight, buffer))
        else:
            self._nursery.start_soon(self._fly, flight, buffer, self._timeout)
        return True

    def _width(self, flight: Flight) -> int:
        """The sub-reads that it may have in flight."""
        most = self._parallel if flight.cls is FetchClass.DEMAND else self._prefetch_parallel
        terms = flight.terms
        if terms is not None and terms.parallel is not None:
            most = min(most, terms.parallel)
        return min(self._carrier.parts(flight), most)

    # ---- flying

    def _send_gathered(self) -> None:
        gathered, self._gathered = self._gathered, []
        assert self._nursery is not None
        # As even as they can be: a batch of one costs as much as a batch of many.
        count = -(-len(gathered) // MOST)
        for number in range(count):
            self._nursery.start_soon(self._fly_together, gathered[number::count])

    async def _fly_together(self, flights: list[Loaded]) -> None:
        """Each ends by itself, or goes on alone."""
        assert self._together is not None
        began = trio.current_time()
        batch = self._together.batch(flights, self._timeout * PATIENCE)
        result = Result.ERROR
        try:
            with trio.move_on_after(self._timeout) as scope:
                try:
                    while came := await self._together.carry(batch):
                        batch.took(came)
                        for each in came:
                            self._came(each, began + self._timeout - trio.current_time())
                except Exception:
                    log.exception("fetch of %d files together failed", len(flights))
            if scope.cancelled_caught:
                result = Result.TIMEOUT
                self._stats.timeouts += len(batch.left)
                log.warning("source did not answer within %g s", self._timeout)
        finally:
            batch.close()
            for flight, buffer in batch.left:
                self._landing(flight, buffer, result, errno.EIO)

    def _came(self, came: Came, seconds: float) -> None:
        """One of several; ``seconds`` are left for it."""
        flight, buffer = came.loaded
        if came.crc is None:
            assert self._nursery is not None
            self._nursery.start_soon(self._fly, flight, buffer, seconds)
            return
        result, code = Result.NO_ROOM, errno.ENOSPC
        try:
            self._carrier.arrived(flight, came.crc)
            result, code = Result.LANDED, 0
        except Exception:
            log.exception("what came of chunk %d could not be entered", flight.chunk)
        finally:
            self._landing(flight, buffer, result, code)

    async def _fly(self, flight: Flight, buffer: Buffer, seconds: float) -> None:
        result, code = Result.ERROR, errno.EIO
        try:
            with trio.move_on_after(seconds) as scope:
                try:
                    result = await self._carrier.carry(
                        flight, buffer, flight.slots, lambda: self._give_slots_back(flight)
                    )
                    code = 0
                except FlightFailed as failure:
                    result, code = failure.result, failure.errno
                    log.debug("fetch of chunk %d failed: %s", flight.chunk, failure)
                except Exception:
                    log.exception("fetch of chunk %d failed", flight.chunk)
            if scope.cancelled_caught:
                result = Result.TIMEOUT
                self._stats.timeouts += 1
                log.warning("source did not answer within %g s", self._timeout)
        finally:
            self._landing(flight, buffer, result, code)

    def _landing(self, flight: Flight, buffer: Buffer, result: Result, code: int) -> None:
        self._give_slots_back(flight)
        buffer.when_idle(partial(self._carrier.settle, flight))
        self._pool.put(buffer)
        self._end(flight, result, code)

    def _give_slots_back(self, flight: Flight) -> None:
        self._used[flight.cls] -= flight.slots
        flight.slots = 0
        self._wake()

    def _end(self, flight: Flight, result: Result, code: int) -> None:
        begun = flight.phase is Phase.RUNNING
        counts = self._stats.in_flight if begun else self._stats.queued
        counts[flight.cls] -= 1
        flight.phase = Phase.DONE
        flight.held = False
        flight.errno = code
        del self._flights[flight.key]
        if self._admission is not None:
            self._admission.gone(flight, trio.current_time())
        self._stats.flights[flight.cls, result] += 1
        if code == 0:
            self._stats.bytes[flight.cls] += flight.length if result is Result.LANDED else 0
            self._stats.latency[flight.cls].observe(trio.current_time() - flight.requested_at)
            self._on_landed(flight.target, flight.chunk)
        else:
            self._on_failed(flight.target, flight.chunk, code)
        if flight.done is not None:
            flight.done.set()
        if not begun:  # no buffer will tell when it is idle
            self._carrier.settle(flight)


def _background(terms: Terms | None) -> bool:
    """Its demands count as prefetch."""
    return terms is not None and terms.cls is FetchClass.PREFETCH
