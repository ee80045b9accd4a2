"""Takes what the probes and FUSE saw to the patterns, and to who listens. The only owner of the probes."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from swmld._native import ffi
from swmld.errors import HostError
from swmld.fetch.threads import Workers
from swmld.mount.listings import Listings
from swmld.mount.native import Native
from swmld.observe import records
from swmld.observe.encoding import Raw
from swmld.observe.loader import origin_of
from swmld.observe.mapped import Mapped
from swmld.observe.names import NodeNames
from swmld.observe.probe import EVENTS, LOST, Counters, Loading, Probe, any_readable
from swmld.observe.processes import ProcessTable
from swmld.observe.programs import WAYS
from swmld.observe.records import Row
from swmld.observe.sampler import Sampler
from swmld.patterns.engine import Patterns
from swmld.patterns.feed import Cursor, Names, Processes, Shape, Tiers, Touch, TouchFlag, TouchKind, Wait
from swmld.patterns.views import as_json

log = logging.getLogger(__name__)

GATHER = 0.05
"""Seconds for which events gather: at 30,000 a second the loop wakes 20 times, not 30,000."""

TICK = 1.0
"""Seconds between two reads of the counters."""

BATCHES = 64
"""Batches that a listener may be late; then it loses some."""

PROCESSES = 8192
"""Processes whose waits were told last; as many as the kernel keeps."""


LOOKS = 256
"""Processes that are looked for in /proc each time: a millisecond."""


@dataclass(frozen=True, slots=True)
class Devices:
    """As the kernel numbers them (``probe.device_of``)."""

    mount: int
    cache: int
    source: int


class Observer:
    """``api.patterns.Feed``. Loop-only.

    ``mode``: auto, ebpf or one of ``programs.WAYS`` (a HostError where it cannot be had), fuse or off. Probes
    whose maps stay unreadable are given up for FUSE's own view, whatever the mode: serving goes on. They are
    not tried again before the next start, as what broke them was no state that passes. ``rate``: reads a
    second of one CPU beyond which they are looked at for a part of the time (``budget``); 0: never.
    """

    def __init__(
        self,
        native: Native,
        listings: Listings,
        disk: Workers,
        *,
        mode: str,
        state: Path,
        rate: int = 0,
        prefetch: Callable[[], dict[str, int]],
    ) -> None:
        self._native = native
        self._listings = listings
        self._disk = disk
        self._mode = mode
        self._prefetch = prefetch
        self._known = NodeNames(native, listings)
        self.people = ProcessTable()
        self.names: Names = self._known
        self.processes: Processes = self.people
        self.patterns = Patterns(self.names, self.processes, natural=self._natural)
        self._loading: Loading | None = None
        if mode not in ("fuse", "off"):
            self._loading = Loading(state, mode if mode in WAYS else "auto")
        self._probe: Probe | None = None
        self._why = "switched off" if mode == "off" else ""
        if self._loading is not None:
            self._why = "the eBPF probes are being loaded"
        self._view = ffi.new("struct swp_event[]", EVENTS)
        self._view_rows = ffi.new("struct sw_view_row[]", EVENTS)
        self._view_lost = 0
        self._counts: Counters | None = None
        self._sampler = Sampler(rate)
        self._sampling = trio.CancelScope()
        self._mapped: Mapped | None = None
        self._lost = dict.fromkeys(filter(None, LOST), 0)
        """By probes that were given up."""
        self._met: set[int] = set()
        self._waits: dict[int, Wait] = {}
        self._looked = 0
        self._listeners: list[_Listener] = []

    def _natural(self, directory: int, index: int) -> int | None:
        """``patterns.feed.Numbers``."""
        listing = self._listings.get(directory)
        return None if listing is None or listing.sorted_as_numbered else listing.number(index)

    # ---- running

    async def run(self, devices: Devices) -> None:
        """Until cancelled; ``close`` afterwards. HostError if the probes were demanded and cannot be had."""
        if self._mode == "off":
            return
        await self._attach(devices)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._events)
            nursery.start_soon(self._counters)
            nursery.start_soon(self._list)
            if self._probe is not None:
                nursery.start_soon(self._sample, self._probe)
            if self._mapped is not None:
                nursery.start_soon(self._mapped.run)

    async def _attach(self, devices: Devices) -> None:
        # FUSE's own view from the start: whatever is read before the probes are there is seen at least so.
        self._native.view(2)
        if self._loading is None:
            self._why = "asked for"
        else:
            try:
                self._probe = await self._loading.result()
            except HostError as error:
                if self._mode != "auto":
                    raise HostError(f"no probes: {error}") from None
                self._why = str(error)
                log.warning("no eBPF probes, reads are known as FUSE sees them: %s", error)
        if self._probe is not None:
            self._watch(self._probe, devices)

    def _watch(self, probe: Probe, devices: Devices) -> None:
        probe.configure(devices.mount, devices.cache, devices.source)
        self._native.watch(probe.watched_fd, probe.filter_fd, devices.cache, devices.source)
        self._native.view(1)
        self._counts = Counters(probe, self._disk)
        self._mapped = Mapped(self._native, self._disk, devices.mount, self._native.nodes_of)
        self.people.told = True
        report = probe.report
        self._why = f"{origin_of(report)}; headers: {report['headers']}"
        log.info("probes: %s (%s), loaded in %.2f s", report["way"], self._why, report["seconds"])
        if report["unkept"]:
            log.info("probes are not kept for the next start: %s", report["unkept"])
        for way, why in report["tried"].items():
            log.info("a better probe, %s, cannot be had: %s", way, why)

    def close(self) -> None:
        """Detaches; what the loader may still be at ends."""
        self._native.view(0)
        self._native.unwatch()
        if self._loading is not None:
            self._loading.close()
        if self._probe is not None:
            self._probe.close()
            self._probe = None

    # ---- events

    async def _events(self) -> None:
        while True:
            fds = [self._native.view_fd]
            if self._probe is not None:
                fds.append(self._probe.event_fd)
            await any_readable(fds)
            # At once: a process that reads one file is met while it still lives. Then they may gather.
            await self._drain()
            await trio.sleep(GATHER)

    async def _drain(self) -> None:
        """Everything that is there now, in slices."""
        while True:
            touches: list[Touch] = []
            more = False
            if self._probe is not None:
                data = self._probe.events()
                more = len(data) == EVENTS * records.EVENT.size
                touches = self._named(data, threads=False)
            count, self._view_lost = self._native.view_events(self._view, EVENTS)
            if count:
                data = memoryview(ffi.buffer(self._view, count * records.EVENT.size))
                seen = self._named(data, threads=True)
                touches = sorted(touches + seen, key=lambda touch: touch.at)
            if touches:
                self.patterns.touch(touches)
                self._tell(touches=touches)
            if not more and count < EVENTS:
                return
            await trio.lowlevel.checkpoint()

    def _named(self, data: memoryview, *, threads: bool) -> list[Touch]:
        """With nodeids for inode numbers, pids for threads; without events of files that have no name."""
        found = list(records.events(data))
        nodes = self._nodes([ino for ino, node, touch in found if not node and touch.kind < TouchKind.FORK])
        out = []
        for ino, node, touch in found:
            if touch.kind is TouchKind.MET:
                self._person(touch.pid, threads=False)
                continue
            if touch.kind is TouchKind.OPEN:
                if self._mapped is not None:
                    self._mapped.opened(self.people.process_of(touch.pid) or touch.pid)
                continue
            if touch.kind >= TouchKind.FORK:
                self._process(touch)
                out.append(touch)
                continue
            file = node or nodes.get(ino, 0)
            if not file:
                continue
            pid = self._person(touch.pid, threads=threads) if touch.pid else 0
            known = file == touch.file and pid == touch.pid
            out.append(touch if known else touch._replace(file=file, pid=pid))
        return out

    def _nodes(self, inos: list[int]) -> dict[int, int]:
        """Nodeids of the mount's inode numbers, 0 for unknown ones."""
        return dict(zip(inos, self._native.nodes_of(inos), strict=True)) if inos else {}

    def _person(self, pid: int, *, threads: bool, ended: bool = False) -> int:
        """The process of an event or a row, met if it is new; of a row it may have ended meanwhile."""
        if threads:
            pid = self.people.process_of(pid) or pid
        if pid not in self._met and not (ended and self.people.of(pid) is not None):
            seen = self._probe.process(pid) if self._probe is not None else None
            if seen is None:
                self.people.see(pid)
            else:
                self.people.see(pid, seen.parent, seen.comm, seen.session, seen.at, seen.above)
            if len(self._met) >= PROCESSES:
                self._met.clear()
            self._met.add(pid)
        return pid

    def _process(self, touch: Touch) -> None:
        if touch.kind is TouchKind.FORK:
            self.people.fork(touch.pid, touch.file)
            self._met.discard(touch.file)  # the number may have been another's, whose end was lost
        elif touch.kind is TouchKind.EXEC:
            self.people.exec(touch.pid)
            self._met.discard(touch.pid)  # its name is another now
        else:
            self.people.exit(touch.pid, touch.at)
            self._met.discard(touch.pid)

    # ---- how often they are looked at

    async def _sample(self, probe: Probe) -> None:
        if probe.switch is None:
            return
        with self._sampling:
            try:
                await self._sampler.run(probe.switch)
            except OSError as error:
                await self._give_up(probe, f"the probe of reads cannot be attached again: {error.strerror}")

    # ---- counters

    async def _counters(self) -> None:
        while True:
            await trio.sleep(TICK)
            try:
                await self._count()
            except HostError as error:  # no reason to stop serving
                if self._probe is not None:
                    await self._give_up(self._probe, str(error))

    async def _give_up(self, probe: Probe, why: str) -> None:
        """FUSE's own view from now on; the probes are detached."""
        if probe is not self._probe:
            return
        self._probe = self._counts = None
        self._sampling.cancel()
        self._native.view(2)
        self._native.unwatch()
        self.people.told = False
        self._why = why
        self._lost |= probe.lost()
        log.warning("no eBPF probes any more, reads are known as FUSE sees them: %s", self._why)
        trio.lowlevel.notify_closing(probe.event_fd)
        with trio.CancelScope(shield=True):  # nobody else would close it
            await self._disk.call(probe.close)

    async def _count(self) -> None:
        cursors: list[tuple[int, int, Cursor]] = []
        tiers: list[tuple[int, int, Tiers]] = []
        waits: list[tuple[int, Wait]] = []
        if self._counts is not None:
            data, processes = await self._counts.read()
            # First the events of what these counters have counted, else a read would be told twice.
            await self._drain()
            found = self._of_rows(records.rows(data), threads=False)
            cursors = [(pid, file, row.cursor) for pid, file, row in found]
            for pid, seen in processes.items():
                if self._waits.get(pid) != seen.wait:
                    self._waits[pid] = seen.wait
                    waits.append((pid, seen.wait))
            if len(self._waits) > 2 * PROCESSES:
                self._waits = {pid: wait for pid, wait in self._waits.items() if pid in processes}
        for pid, file, row in self._of_view():
            if row.cursor.reads:
                cursors.append((pid, file, row.cursor))
            if row.tiers is not None:
                tiers.append((pid, file, row.tiers))
        self.patterns.cursors(cursors)
        self.patterns.tiers(tiers)
        self.patterns.waits(waits, time.monotonic())
        self._look_for_ended()
        if cursors or tiers or waits:
            self._tell(cursors=cursors, tiers=tiers, waits=waits)

    def _look_for_ended(self) -> None:
        """The kernel tells the end of readers; a job's root may never have read, or an event was lost."""
        roots = self.patterns.roots()
        known = [*self.patterns.pids(), *roots]
        now, ended, untold = time.monotonic(), list[Touch](), list[Touch]()
        first = self._looked % max(1, len(known))
        for pid in [*known[first:], *known[:first]][:LOOKS]:
            if not os.path.exists(f"/proc/{pid}"):
                touch = Touch(TouchKind.EXIT, now, pid, 0, 0, 0, 0, 0, TouchFlag(0), Shape.NEW)
                ended.append(touch)
                if pid in roots:  # of readers the kernel tells it
                    untold.append(touch)
                self.people.exit(pid)
                self._met.discard(pid)
        self._looked += LOOKS
        self.patterns.touch(ended)
        if untold:
            self._tell(touches=untold)

    def _of_view(self) -> Iterator[tuple[int, int, Row]]:
        while count := self._native.view_rows(self._view_rows, EVENTS):
            data = memoryview(ffi.buffer(self._view_rows, count * records.VIEW_ROW.size))
            yield from self._of_rows(records.view_rows(data), threads=True)
            if count < EVENTS:
                return

    def _of_rows(self, rows: Iterator[Row], *, threads: bool) -> Iterator[tuple[int, int, Row]]:
        found = list(rows)
        nodes = self._nodes([row.ino for row in found if not row.node])
        for row in found:
            file = row.node or nodes.get(row.ino, 0)
            if file:
                yield self._person(row.pid, threads=threads, ended=True), file, row

    # ---- listings

    async def _list(self) -> None:
        """Directories whose files are read, one at a time: order is told from places in a listing."""
        while True:
            await trio.sleep(GATHER)
            while self._known.wanted:
                with contextlib.suppress(OSError):
                    await self._listings.load(self._known.wanted.pop())

    # ---- who asks

    def snapshot(self) -> dict[str, Any]:
        """The patterns as JSON, how they were seen, and what prefetch brought."""
        found: dict[str, Any] = as_json(self.patterns.snapshot(time.monotonic()))
        return found | {"probe": self.probe(), "prefetch": self._prefetch()}

    def counters(self) -> dict[str, dict[str, int]]:
        """For the metrics: reads by pattern and by tier, and what was lost. Empty when switched off."""
        if self._mode == "off":
            return {}
        totals = self.patterns.totals
        patterns = {"whole": totals.whole, "single": totals.shapes[Shape.NEW]}
        patterns |= {shape.name.lower(): totals.shapes[shape] for shape in Shape if shape is not Shape.NEW}
        hits = sum(patterns.values()) - totals.missed
        tiers = {"page_cache": hits, "missed": totals.missed, "source": totals.source}
        return {"patterns": patterns, "tiers": tiers, "lost": self.probe()["lost"]}

    def sampling(self) -> tuple[float, float] | tuple[None, None]:
        """For the metrics: share of the time in which reads are looked at, and seconds in which it was less
        than all. None where no probe looks at them."""
        if self._probe is None:
            return None, None
        return self._sampler.share, self._sampler.seconds

    def probe(self) -> dict[str, Any]:
        """How reads are seen, for which share of the time, why so, and what was lost."""
        lost = dict(self._lost)
        how = "off" if self._mode == "off" else "fuse"
        if self._probe is not None:
            lost, how = lost | self._probe.lost(), self._probe.report["way"]
        lost["events"] += self._view_lost
        share = round(self._sampler.share, 4)
        rate, limit = round(self._sampler.rate), self._sampler.limit if self._switched else 0
        return {"how": how, "why": self._why, "share": share, "rate": rate, "limit": limit, "lost": lost}

    @property
    def _switched(self) -> bool:
        """The probes can look at reads for a part of the time."""
        return self._probe is not None and self._probe.switch is not None

    @contextlib.contextmanager
    def subscribe(self) -> Iterator[trio.MemoryReceiveChannel[Raw]]:
        """Batches from now on."""
        send, receive = trio.open_memory_channel[Raw](BATCHES)
        listener = _Listener(send)
        self._listeners.append(listener)
        try:
            yield receive
        finally:
            self._listeners.remove(listener)
            send.close()
            receive.close()

    def _tell(self, **batch: Any) -> None:
        for listener in self._listeners:
            listener.tell(batch)


class _Listener:
    def __init__(self, send: trio.MemorySendChannel[Raw]) -> None:
        self._send = send
        self._lost = 0

    def tell(self, batch: dict[str, Any]) -> None:
        try:
            self._send.send_nowait(Raw(time.monotonic(), **batch, lost=self._lost))
            self._lost = 0
        except trio.WouldBlock:
            self._lost += 1
