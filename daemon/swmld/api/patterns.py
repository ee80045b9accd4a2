"""What was found out about the readers, for the control socket and for HTTP: snapshots, and what they are
made of.

``patterns`` answers once, ``trace`` goes on until the client goes away. Both send what ``Wanted`` lets
through, and both are bounded, whatever the readers do: a snapshot has at most ``limit`` jobs, and of each
so many datasets and streams, the busiest ones; raw batches go at the client's pace, and the feed drops (and
counts) what it is too slow for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from swmld.api.messages import Handler, LeftOut, PatternsParams, PatternsResult, Progress, TraceParams
from swmld.api.params import from_query, has_path, text, whole_number
from swmld.errors import UsageError
from swmld.observe.encoding import Encoder, Raw
from swmld.observe.libraries import Program
from swmld.patterns.feed import Names, Process, Processes, Touch, TouchKind

LIMIT = 100
"""Jobs, and datasets and streams of each, if the client names no number: more than a screen shows."""
MOST = 10_000

INTERVAL = 1.0
SHORTEST_INTERVAL = 0.1
LONGEST_INTERVAL = 3600.0

FRESH = 0.1
"""Seconds for which one snapshot does for all clients."""

_OF_PROCESSES = frozenset((TouchKind.FORK, TouchKind.EXEC, TouchKind.EXIT))


class Feed(Protocol):
    """The observer, as far as clients are told of it. Loop-only."""

    names: Names
    processes: Processes

    def snapshot(self) -> dict[str, Any]:
        """``as_json`` of the patterns now, with ``probe`` and ``prefetch`` (see
        ``messages.PatternsResult``).
        """
        ...

    def subscribe(self) -> AbstractContextManager[trio.MemoryReceiveChannel[Raw]]:
        """Batches from now on; a receiver that is slow loses some, told in ``Raw.lost``."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client asks for; None: all. ``path`` is relative to the mount: a file, all below it, or a
    glob.
    """

    job: int | None = None
    pid: int | None = None
    path: str | None = None
    limit: int = LIMIT

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Wanted:
        """From the parameters of a request; raises UsageError."""
        path = text(params, "path")
        return cls(
            whole_number(params, "job", 1, 1 << 31),
            whole_number(params, "pid", 1, 1 << 31),
            path.strip("/") or None if path is not None else None,
            whole_number(params, "limit", 1, MOST) or LIMIT,
        )

    def words(self) -> str:
        """What is left out by them is not of these; empty: nothing is."""
        named = {"job": self.job, "pid": self.pid, "path": self.path}
        return ", ".join(f"{name} {value}" for name, value in named.items() if value is not None)

    def has_path(self, path: str) -> bool:
        return self.path is None or has_path(self.path, path)

    def filtered(self, snapshot: Mapping[str, Any]) -> PatternsResult:
        """``snapshot`` without what is not wanted, and with how much did not fit."""
        left_out: LeftOut = {"jobs": 0, "datasets": 0, "streams": 0}
        jobs = [found for job in snapshot["jobs"] if (found := self._job(job)) is not None]
        shown = _busiest(jobs, self.limit)
        left_out["jobs"] = len(jobs) - len(shown)
        for number, job in enumerate(shown):
            datasets = _busiest(job["datasets"], self.limit)
            streams = _busiest(job["streams"], self.limit)
            left_out["datasets"] += len(job["datasets"]) - len(datasets)
            left_out["streams"] += len(job["streams"]) - len(streams)
            shown[number] = {**job, "datasets": datasets, "streams": streams}
        return PatternsResult(
            at=snapshot["at"], jobs=shown, probe=snapshot["probe"], prefetch=snapshot["prefetch"],
            left_out=left_out,
        )  # fmt: skip

    def _job(self, job: Mapping[str, Any]) -> dict[str, Any] | None:
        if self.job not in (None, job["job"]):
            return None
        if self.pid is not None and self.pid != job["job"] and self.pid not in job["pids"]:
            return None
        streams = [
            one for one in job["streams"] if self.pid in (None, one["pid"]) and self.has_path(one["path"])
        ]
        datasets = [one for one in job["datasets"] if self.has_path(one["path"])]
        if self.path is not None and not streams and not datasets:
            return None
        return {**job, "streams": streams, "datasets": datasets}


def _busiest(views: Sequence[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """The ``limit`` views that read most now, and of those that rest the ones that read last, in that
    order.
    """
    return sorted(views, key=lambda view: (-(view["rate"] or 0), -(view.get("last_at") or 0)))[:limit]


class PatternsApi:
    """Answers from one ``feed``; loop-only. ``program``: what a process runs, as far as it is known by now
    (``observe.libraries.Programs.of``), for recordings."""

    def __init__(
        self,
        feed: Feed,
        clock: Callable[[], float] = trio.current_time,
        *,
        program: Callable[[Process], Program | None] = lambda process: None,
    ) -> None:
        self._feed = feed
        self._program = program
        self._clock = clock
        self._taken: tuple[float, dict[str, Any]] | None = None

    def handlers(self) -> Mapping[str, Handler]:
        """By method name; see ``messages.METHODS``."""
        return {"patterns": self._patterns, "trace": self._trace}

    def page(self, query: str) -> bytes:
        """What ``GET /ml/patterns?query`` answers, JSON. Raises UsageError."""
        wanted = Wanted.of(from_query(query, PatternsParams))
        return json.dumps(wanted.filtered(self._snapshot())).encode("ascii") + b"\n"

    async def _patterns(self, params: PatternsParams | dict[str, Any], progress: Progress) -> PatternsResult:
        wanted = Wanted.of(params)
        self._check(wanted)
        return wanted.filtered(self._snapshot())

    async def _trace(self, params: TraceParams | dict[str, Any], progress: Progress) -> None:
        wanted, interval = Wanted.of(params), _interval(params.get("interval", INTERVAL))
        self._check(wanted)
        if not params.get("raw"):
            while True:
                await progress({"snapshot": wanted.filtered(self._snapshot())})
                await trio.sleep(interval)
        encoder = Encoder(self._feed.names, self._feed.processes, self._program)
        # One task for both kinds of lines: two would write into each other's.
        with self._feed.subscribe() as batches:
            due = trio.current_time()
            while True:
                if trio.current_time() >= due:
                    await progress({"snapshot": wanted.filtered(self._snapshot())})
                    due = max(due + interval, trio.current_time())
                raw: Raw | None = None
                with trio.move_on_at(due):
                    try:
                        raw = await batches.receive()
                    except trio.EndOfChannel:
                        return
                if raw is not None:
                    for line in encoder.lines(self._chosen(raw, wanted)):
                        await progress({"raw": line})

    def _snapshot(self) -> dict[str, Any]:
        now = self._clock()
        if self._taken is None or now - self._taken[0] >= FRESH:
            self._taken = now, self._feed.snapshot()
        return self._taken[1]

    def _check(self, wanted: Wanted) -> None:
        """Raises UsageError for a process that the mount never saw: a mistyped number would wait for ever."""
        for name, pid in (("job", wanted.job), ("process", wanted.pid)):
            if pid is None or self._feed.processes.of(pid) is not None:
                continue
            if not any(pid == job["job"] or pid in job["pids"] for job in self._snapshot()["jobs"]):
                raise UsageError(f"no {name} {pid} has read this mount")

    # ---- raw batches

    def _chosen(self, raw: Raw, wanted: Wanted) -> Raw:
        """``raw`` without what is not wanted."""
        if wanted.job is None and wanted.pid is None and wanted.path is None:
            return raw
        choice = _Choice(self._feed, wanted)
        return raw._replace(
            touches=[touch for touch in raw.touches if choice.touch(touch)],
            cursors=[row for row in raw.cursors if choice.stream(row[0], row[1])],
            tiers=[row for row in raw.tiers if choice.stream(row[0], row[1])],
            waits=[row for row in raw.waits if choice.process(row[0])],
        )


class _Choice:
    """Which rows of one batch are wanted; asks for each file and process once."""

    def __init__(self, feed: Feed, wanted: Wanted) -> None:
        self._feed = feed
        self._wanted = wanted
        self._processes: dict[int, bool] = {}
        self._files: dict[int, bool] = {}

    def touch(self, touch: Touch) -> bool:
        if touch.kind in _OF_PROCESSES:
            return self.process(touch.pid)
        if touch.kind is TouchKind.CLOSE:
            return self._file(touch.file)
        return self.stream(touch.pid, touch.file)

    def stream(self, pid: int, file: int) -> bool:
        return self.process(pid) and self._file(file)

    def process(self, pid: int) -> bool:
        if (found := self._processes.get(pid)) is None:
            wanted = self._wanted
            found = wanted.pid in (None, pid)
            if found and wanted.job is not None:
                process = self._feed.processes.of(pid)
                found = process is not None and process.job == wanted.job
            self._processes[pid] = found
        return found

    def _file(self, file: int) -> bool:
        if self._wanted.path is None:
            return True
        if (found := self._files.get(file)) is None:
            path = path_of(self._feed.names, file)
            found = self._files[file] = path is not None and self._wanted.has_path(path)
        return found


def path_of(names: Names, file: int) -> str | None:
    """Where the file lies, relative to the mount; None if that is not known."""
    place = names.place(file)
    folder = names.folder(place.directory) if place is not None else None
    if place is None or folder is None:
        return None
    return os.path.join(folder.path, os.fsdecode(place.name))


def _interval(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"interval: expected seconds, got {value!r}")
    if not SHORTEST_INTERVAL <= value <= LONGEST_INTERVAL:
        raise UsageError(
            f"interval: expected {SHORTEST_INTERVAL} to {LONGEST_INTERVAL:g} seconds, got {value!r}"
        )
    return float(value)
