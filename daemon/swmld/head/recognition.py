"""Which framework a file and a process are of, as facts: ``file_framework``, ``framework``, ``libraries``.

Who knows has to be asked in worker threads: plugins look at a file's path and head, the libraries of a
process are in ``/proc``. ``of`` tells what is known; what is not is asked for, so that the next opening finds
it, and ``prepare`` waits for that where an opening can wait.
"""

from __future__ import annotations

from typing import Protocol

import trio

from swmld.observe.libraries import Program
from swmld.patterns.feed import Process
from swmld.plugins.known import Match
from swmld.rules.kinds import Value

WAIT = 0.2
"""Seconds that an opening waits at most. A look takes a millisecond; what takes longer is known to the next
opening."""

ASKED = 1024
"""Files that may wait to be asked about; more are when they are opened again."""


class Files(Protocol):
    """``plugins.known.Plugins``."""

    def concerns(self, path: str) -> bool: ...
    def recall(self, path: str) -> Match | None: ...
    def remembers(self, path: str) -> bool: ...
    async def framework(self, path: str, head: bytes = b"") -> Match | None: ...


class Programs(Protocol):
    """``observe.libraries.Programs``."""

    def of(self, process: Process) -> Program | None: ...
    async def look(self, process: Process) -> Program | None: ...
    async def run(self) -> None: ...


class Recognition:
    """Loop-only. ``run`` must run for what is not known to be asked."""

    def __init__(self, files: Files, programs: Programs) -> None:
        self._files = files
        self._programs = programs
        self._wanted: dict[str, tuple[bytes, trio.Event]] = {}
        self._woken = trio.Event()

    def of(self, path: str, head: bytes, process: Process | None) -> dict[str, Value]:
        """What is known now. ``path`` "" and ``process`` None: not known. Some microseconds."""
        known: dict[str, Value] = {}
        if path and self._asks(path, head) is None:
            match = self._files.recall(path)
            if match is not None:
                known["file_framework"] = match.framework
        program = self._programs.of(process) if process is not None else None
        if program is not None:
            known["libraries"] = program.libraries
            if program.frameworks:
                known["framework"] = program.frameworks[0]
        return known

    async def prepare(self, path: str, head: bytes, process: Process | None) -> None:
        """Wait until ``of`` knows, ``WAIT`` seconds at most; where it does already, this does not wait."""
        with trio.move_on_after(WAIT):
            event = self._asks(path, head) if path else None
            if process is not None and self._programs.of(process) is None:
                await self._programs.look(process)
            if event is not None:
                await event.wait()

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._programs.run)
            while True:
                while not self._wanted:
                    self._woken = trio.Event()
                    await self._woken.wait()
                path = next(iter(self._wanted))
                head, event = self._wanted[path]
                try:
                    await self._files.framework(path, head)
                finally:
                    del self._wanted[path]
                    event.set()

    def _asks(self, path: str, head: bytes) -> trio.Event | None:
        """Who tells that a file has been asked about; None: it was, or no plugin wants to be."""
        waits = self._wanted.get(path)
        if waits is not None:
            return waits[1]
        if self._files.remembers(path) or not self._files.concerns(path):
            return None
        event = trio.Event()
        if len(self._wanted) < ASKED:
            self._wanted[path] = head, event
            self._woken.set()
        else:
            event.set()
        return event
