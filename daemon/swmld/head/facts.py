"""What is known when a file is opened, by the names of ``rules.catalogue`` and in canonical units.

All of it comes from memory: the node table, the patterns, the process table, what ``Host`` looked at last.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

import trio

from swmld.cache.reclaim import Usage
from swmld.fetch.stats import FetchStats
from swmld.head.filetype import type_of
from swmld.head.host import Host, percent
from swmld.head.meters import Openings, Source
from swmld.head.recognition import Recognition
from swmld.head.waiting import Key, Place
from swmld.mount.native import Mode, Native
from swmld.patterns.engine import Patterns
from swmld.patterns.feed import Process, Processes
from swmld.patterns.views import DatasetView, JobView, StreamView
from swmld.rules.catalogue import PROPERTIES, XATTR
from swmld.rules.facts import of_path
from swmld.rules.kinds import Kind, Value

NOT_PRODUCED: Mapping[str, str] = {}
"""Properties that nobody produces yet, and why: a rule that asks for one never finds it known."""

FROM_OPENING: Mapping[str, str] = {
    "xattrs": "known only to who asked the source for them",
    "cached": "known only to who has the cache file; 100 % is known of files that the kernel reads by itself",
}
"""Properties that are known where the ``Opening`` says them; ``xattr.NAME`` likewise."""

RECENT = 0.5
"""Seconds for which what a job and a dataset do is taken as it was: looking takes some 0.2 ms, and thousands
of files a second are opened."""

REMEMBERED = 256
"""Jobs and datasets of which it is remembered."""

HOMES = 16384
"""Directories of which it is remembered to which dataset they belong, as long as that is looked at."""

TICK = 1.0
"""Seconds between two looks at the cache's and the fetcher's counters."""


class Opening(NamedTuple):
    """A file that is being opened. ``pid``: the process or thread as FUSE names it, 0: not known; ``uid``
    -1 likewise. What follows is None or empty where nobody asked: ``xattrs`` (name: value), ``cached``
    (share of the bytes that the cache holds, 0 to 1), ``head`` (its first bytes, ``filetype.HEAD`` of them
    or more)."""

    nodeid: int
    pid: int = 0
    uid: int = -1
    xattrs: Mapping[str, str] | None = None
    cached: float | None = None
    head: bytes = b""


class People(Processes, Protocol):
    """``observe.processes.ProcessTable``."""

    def reader(self, tid: int) -> Process | None: ...


# ---- views as facts

_Field = tuple[str, Kind, Callable[[Any], Any]]

_EMPTY = frozenset({"container", "dataset"})
"""Texts that are known to be empty: outside of a container, the mount's root. Else: not known."""


def _fields(owner: str) -> tuple[_Field, ...]:
    """The properties whose source is ``OWNER.ATTRIBUTE...``."""
    found = []
    for what in PROPERTIES:
        first, _, path = what.source.partition(".")
        if first == owner and path:
            found.append((what.name, what.kind, attrgetter(path)))
    return tuple(found)


_STREAM, _DATASET, _JOB, _PROCESS = (_fields(owner) for owner in ("stream", "dataset", "job", "process"))


def _facts(fields: tuple[_Field, ...], view: Any) -> dict[str, Value]:
    """What a view knows."""
    found: dict[str, Value] = {}
    if view is None:
        return found
    for name, kind, get in fields:
        value = get(view)
        if value is None:
            continue
        if kind is Kind.PERCENT:
            value = percent(value)
        elif kind is Kind.RATE:
            value = round(value)
        elif kind is Kind.NUMBER and isinstance(value, tuple):
            value = len(value)
        elif value == "" and name not in _EMPTY:
            continue
        found[name] = value
    if not found.get("sample_size", 1):
        del found["sample_size"]  # 0: not known
    return found


def of_views(
    stream: StreamView | None, dataset: DatasetView | None, job: JobView | None, process: Process | None
) -> dict[str, Value]:
    """What patterns and the process table know of one file and who reads it, of a recorded run too."""
    known = _facts(_STREAM, stream) | _facts(_PROCESS, process) | _facts(_JOB, job)
    return known | _facts(_DATASET, dataset)


class Facts:
    """``of`` tells what is known now. Loop-only but for what ``Host`` does by itself.

    ``run`` must run for facts of the host, the cache and the source, and of frameworks, which are known to
    ``recognition`` (None: to nobody). ``clock`` gives seconds since the epoch, ``monotonic`` those of
    CLOCK_MONOTONIC.
    """

    def __init__(
        self,
        native: Native,
        patterns: Patterns,
        processes: People,
        host: Host,
        cache_usage: Callable[[], Usage],
        fetch_stats: FetchStats,
        environment: str | None,
        *,
        recognition: Recognition | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._native = native
        self._patterns = patterns
        self._processes = processes
        self._host = host
        self._cache_usage = cache_usage
        self._recognition = recognition
        self._clock = clock
        self._monotonic = monotonic
        self._openings = Openings()
        self._jobs = _Recent()
        self._datasets = _Recent()
        self._homes: OrderedDict[tuple[int, int], str] = OrderedDict()
        self._source = Source(fetch_stats)
        self._lasting: dict[str, Value] = {} if environment is None else {"environment": environment}
        self._slow: dict[str, Value] = {}

    async def run(self) -> None:
        """Until cancelled. The host's own ``run`` is part of it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._host.run)
            if self._recognition is not None:
                nursery.start_soon(self._recognition.run)
            while True:
                usage = self._cache_usage()
                fill = percent(usage.bytes / usage.limit) if usage.limit > 0 else 100.0
                self._slow = {"cache_fill": fill, **self._source.look(trio.current_time())}
                await trio.sleep(TICK)

    def opened(self, nodeid: int, *, prefetched: bool = False) -> None:
        """An opening that Python answers; ``prefetched``: C answered it and tells of it."""
        usage = self._native.usage(nodeid)
        if usage is not None:
            self._openings.opened(nodeid, usage[0], self._clock(), answered=prefetched)

    def of(self, opening: Opening) -> dict[str, Value]:
        """What is known; best asked before the opening is answered, so that ``last_access`` is the one
        before. About 50 microseconds, twice as much where the job was not looked at lately."""
        known = {**self._host.facts(), **self._lasting, **self._slow}
        path = self._path(opening, known)
        process = self._process(opening.pid)
        stream = self._patterns.stream(process.pid, opening.nodeid) if process is not None else None
        known |= _facts(_STREAM, stream)
        known |= self._file(opening, stream)
        if process is not None:
            known |= _facts(_PROCESS, process)
            known |= self._job(process.job)
            if path:
                known |= self._dataset(opening.nodeid, process.job)
        if self._recognition is not None:
            known |= self._recognition.of(path, opening.head, process)
        if opening.uid >= 0 and (user := self._host.user(opening.uid)) is not None:
            known["user"] = user
        return known

    async def prepare(self, opening: Opening, *, everything: bool = False) -> None:
        """Wait for what worker threads alone can tell of the file and the process, so that ``of`` tells it;
        ``recognition.WAIT`` seconds at most, mostly a millisecond, and only before the first opening.
        ``everything``: also what no rule asks for."""
        if self._recognition is None:
            return
        try:
            path = os.fsdecode(self._native.path(opening.nodeid))
        except OSError:
            path = ""
        process = self._process(opening.pid)
        await self._recognition.prepare(path, opening.head, process, everything=everything)

    def place(self, pid: int, nodeid: int) -> Place | None:
        """Who reads the file, as part of what: the dataset, as far as it is known, else the directory. None:
        the process is not known, or the file has no name any more. A few microseconds."""
        process = self._processes.of(pid)
        if process is None:
            return None
        root = self._processes.of(process.job)
        dataset = self._dataset(nodeid, process.job).get("dataset")
        if not isinstance(dataset, str):
            try:
                dataset = os.fsdecode(os.path.dirname(self._native.path(nodeid)))
            except OSError:
                return None
        return Place(Key(process.job, dataset), root.started if root is not None else 0.0)

    def job(self, pid: int) -> int:
        """Of a process; 0: it is not known."""
        process = self._processes.of(pid)
        return process.job if process is not None else 0

    # ---- the file

    def _path(self, opening: Opening, known: dict[str, Value]) -> str:
        try:
            path = os.fsdecode(self._native.path(opening.nodeid))
        except OSError:
            return ""  # it has no name any more
        known |= of_path(path)
        kind, form = type_of(path, opening.head)
        known["type"] = kind
        if form:
            known["format"] = form
        return path

    def _file(self, opening: Opening, stream: StreamView | None) -> dict[str, Value]:
        known: dict[str, Value] = {}
        nodeid, now = opening.nodeid, self._clock()
        entry = self._native.cached_entry(nodeid)
        if entry is not None:
            known["size"] = entry.size
            known["age"] = max(0.0, now - entry.mtime_ns / 1e9)
            cached = self._cached(opening)
            if cached is not None:
                known["cached"] = percent(cached)
        usage = self._native.usage(nodeid)
        if usage is not None:
            last = usage[0]
            known["access_frequency"] = self._openings.frequency(nodeid, last, now)
            since = [now - last] if last else []
            if stream is not None:
                since.append(self._monotonic() - stream.last_at)
            if since:
                known["last_access"] = max(0.0, min(since))
        if opening.xattrs is not None:
            known["xattrs"] = frozenset(opening.xattrs)
            known |= {XATTR + name: value for name, value in opening.xattrs.items()}
        return known

    def _cached(self, opening: Opening) -> float | None:
        if opening.cached is not None:
            return opening.cached
        try:
            return 1.0 if self._native.mode(opening.nodeid) is Mode.PASS_CACHE else None
        except OSError:
            return None

    # ---- who reads

    def _process(self, tid: int) -> Process | None:
        return self._processes.reader(tid) if tid > 0 else None

    def _job(self, number: int) -> dict[str, Value]:
        now = self._monotonic()
        found = self._jobs.get(number, now)
        if found is None:
            view = self._patterns.job(number)
            # A job that has not read yet is known by its root process.
            found = _facts(_JOB, view) if view is not None else self._root(number)
            self._jobs.put(number, found, now)
        return found

    def _root(self, number: int) -> dict[str, Value]:
        root = self._processes.of(number)
        known: dict[str, Value] = {"job": number}
        if root is not None:
            known |= {"job_comm": root.comm, "job_command": root.command, "container": root.container}
        return {name: value for name, value in known.items() if value != "" or name in _EMPTY}

    def _dataset(self, nodeid: int, job: int) -> dict[str, Value]:
        """By its path: one dataset may be a thousand directories, each of them opened from now and then."""
        try:
            key = (job, self._native.parent(nodeid)[0])
        except OSError:
            return {}
        now = self._monotonic()
        path = self._homes.get(key)
        found = self._datasets.get((job, path), now) if path is not None else None
        if found is None:
            view = self._patterns.dataset_of(nodeid, job)
            if view is None:
                return {}
            found = _facts(_DATASET, view)
            self._datasets.put((job, view.path), found, now)
            self._homes[key] = view.path
            self._homes.move_to_end(key)
            if len(self._homes) > HOMES:
                self._homes.popitem(last=False)
        return found


class _Recent:
    """What was found within the last ``RECENT`` seconds, of ``REMEMBERED`` things."""

    def __init__(self) -> None:
        self._found: OrderedDict[object, tuple[float, dict[str, Value]]] = OrderedDict()

    def get(self, key: object, now: float) -> dict[str, Value] | None:
        found = self._found.get(key)
        return found[1] if found is not None and now < found[0] + RECENT else None

    def put(self, key: object, found: dict[str, Value], now: float) -> None:
        self._found[key] = now, found
        self._found.move_to_end(key)
        if len(self._found) > REMEMBERED:
            self._found.popitem(last=False)
