"""What processes run, by the shared libraries that they have mapped: a name can be anything, these cannot.

    Programs.of(process)      from memory, at once; what is not known yet is looked at soon
    await Programs.look(...)  at least once, now

``/proc/PID/maps`` is read in worker threads, since the kernel makes its reader wait while the process changes
its mappings: once when a process is first asked about, and a few times more, because a program imports its
framework after it was started.
"""

from __future__ import annotations

import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import trio

from swmld.patterns.feed import Process

MOST_BYTES = 8 << 20
"""Of a maps file: 65,530 mappings (vm.max_map_count) in lines of 120 bytes. More is not looked at."""
MOST_LIBRARIES = 1024
REMEMBERED = 4096
"""Processes, some 50 MB if each had the 150 libraries of a framework; those asked about last stay."""

AGAIN = (2.0, 8.0, 30.0)
"""Seconds from one look to the next; then ``SELDOM``, and no more once a framework is known."""
SELDOM = 60.0
CHANGED = 1.0
"""Seconds for which what was seen counts although the process shows another command line: some write their
progress there."""

THREADS = 2
WAITING = 1024
"""Processes that may wait to be looked at; more are when they are asked about again."""

_READ = 256 << 10
_PLACES = frozenset({"site-packages", "dist-packages"})
_LIBRARY = re.compile(r"\.so(?:\.[^/]*)?$")
_BUILT = re.compile(r"\.(?:cpython-|pypy|abi)\d.*$")
_OCTAL = re.compile(r"\\([0-7]{3})")


class Program(NamedTuple):
    """``libraries``: short names; ``frameworks``: what it has loaded, first what counts."""

    libraries: frozenset[str]
    frameworks: tuple[str, ...]


def mapped(proc: str, pid: int) -> tuple[str, ...] | None:
    """The shared libraries that a process has mapped, by their paths; None if it cannot be asked. Blocks."""
    try:
        fd = os.open(f"{proc}/{pid}/maps", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    found: dict[str, None] = {}
    rest, left = b"", MOST_BYTES
    try:
        while left > 0 and (part := os.read(fd, min(_READ, left))):
            left -= len(part)
            *lines, rest = (rest + part).split(b"\n")
            _gather(lines, found)
            if len(found) >= MOST_LIBRARIES:
                break
    except OSError:  # it ends just now
        pass
    finally:
        os.close(fd)
    return tuple(found)


def _gather(lines: Iterable[bytes], found: dict[str, None]) -> None:
    """A line of proc(5) has address, permissions, offset, device, inode, path (newline: ``\\012``)."""
    for line in lines:
        if b".so" not in line:
            continue
        path = os.fsdecode(line[line.find(b"/") :]).removesuffix(" (deleted)")
        if path.startswith("/") and _LIBRARY.search(path):
            found[_OCTAL.sub(lambda digits: chr(int(digits[1], 8)), path)] = None


def short(paths: Iterable[str]) -> frozenset[str]:
    """Names of libraries without directory and version (``libtorch_cpu``), of extension modules
    (``_multiarray_umath``), and of the Python packages that they belong to (``torch``, ``numpy``)."""
    found = set()
    for path in paths:
        parts = path.split("/")
        found.add(_BUILT.sub("", _LIBRARY.sub("", parts[-1])))
        for place in _PLACES & set(parts[:-2]):
            found.add(parts[parts.index(place) + 1].removesuffix(".libs"))
    found.discard("")
    return frozenset(found)


class _Entry(NamedTuple):
    process: Process
    program: Program
    at: float
    looks: int

    def due(self, now: float) -> bool:
        if self.looks <= len(AGAIN):
            return now >= self.at + AGAIN[self.looks - 1]
        return not self.program.frameworks and now >= self.at + SELDOM


class Programs:
    """Loop-only. ``frameworks_of`` is called in worker threads with the paths of libraries."""

    def __init__(
        self,
        frameworks_of: Callable[[Sequence[str]], Sequence[str]],
        *,
        proc: str = "/proc",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._frameworks_of = frameworks_of
        self._proc = proc
        self._clock = clock
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._under_way: dict[int, trio.Event] = {}
        self._wanted: dict[int, Process] = {}
        self._woken = trio.Event()
        self._limiter: trio.CapacityLimiter | None = None

    def of(self, process: Process) -> Program | None:
        """What is known of it; None: nothing yet. Where a look is due, ``run`` takes it soon."""
        entry = self._current(process)
        due = entry is None or entry.due(self._clock())
        if due and process.pid not in self._under_way and len(self._wanted) < WAITING:
            self._wanted[process.pid] = process
            self._woken.set()
        return entry.program if entry is not None else None

    async def look(self, process: Process) -> Program | None:
        """As ``of``, looked at now if it never was; None: it is gone, or cannot be asked."""
        entry = self._current(process)
        if entry is None:
            await self._look(process)
            entry = self._current(process)
        return entry.program if entry is not None else None

    async def run(self) -> None:
        """Look at what ``of`` was asked about, until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(THREADS):
                nursery.start_soon(self._serve)

    async def _serve(self) -> None:
        while True:
            while not self._wanted:
                self._woken = trio.Event() if self._woken.is_set() else self._woken
                await self._woken.wait()
            await self._look(self._wanted.pop(next(iter(self._wanted))))

    def _current(self, process: Process) -> _Entry | None:
        """What was seen of this very process, running this very program."""
        entry = self._entries.get(process.pid)
        if entry is None:
            return None
        seen = entry.process
        changed = (seen.comm, seen.command) != (process.comm, process.command)
        if seen.started != process.started or (changed and self._clock() >= entry.at + CHANGED):
            del self._entries[process.pid]
            return None
        self._entries.move_to_end(process.pid)
        return entry

    async def _look(self, process: Process) -> None:
        pid = process.pid
        under_way = self._under_way.get(pid)
        if under_way is not None:
            await under_way.wait()
            return
        if self._limiter is None:
            self._limiter = trio.CapacityLimiter(THREADS)
        done = self._under_way[pid] = trio.Event()
        try:
            program = await trio.to_thread.run_sync(
                self._program, pid, abandon_on_cancel=True, limiter=self._limiter
            )
        finally:
            del self._under_way[pid]
            done.set()
        if program is None:
            return
        before = self._current(process)
        looks = before.looks if before is not None else 0
        self._entries[pid] = _Entry(process, program, self._clock(), looks + 1)
        self._entries.move_to_end(pid)
        if len(self._entries) > REMEMBERED:
            self._entries.popitem(last=False)

    def _program(self, pid: int) -> Program | None:
        paths = mapped(self._proc, pid)
        return None if paths is None else Program(short(paths), tuple(self._frameworks_of(paths)))
