"""Which framework a file and a process are of, as facts: ``file_framework``, ``framework``, ``libraries``.

Who knows has to be asked in worker threads: plugins look at a file's path and head, the libraries of a
process are in ``/proc``. ``of`` tells what is known; what is not is asked for, so that the next opening finds
it, and ``prepare`` waits for that where an opening can wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio

from swmld.observe.libraries import Program
from swmld.patterns.feed import Process
from swmld.plugins.known import Match
from swmld.rules.kinds import Value
from swmld.rules.ruleset import RuleSet

OF_FILES = frozenset({"file_framework"})
OF_PROCESSES = frozenset({"framework", "libraries"})
ALL = OF_FILES | OF_PROCESSES
"""The properties that are found here."""

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


def wanted(rules: RuleSet) -> frozenset[str]:
    """Which of the properties active rules ask for."""
    nodes = [node for rule in rules.rules for _, node in rule.conditions]
    nodes += [rule.guard for rule in rules.rules if rule.guard is not None]
    return ALL & {test.what.name for node in nodes for test in node.tests()}


def of_program(program: Program) -> dict[str, Value]:
    """What a process runs, as facts."""
    known: dict[str, Value] = {"libraries": program.libraries}
    if program.frameworks:
        known["framework"] = program.frameworks[0]
    return known


class Recognition:
    """Loop-only. ``run`` must run for what is not known to be asked. ``wants``: the properties that somebody
    asks for now; for others no plugin and no process is looked at, as thousands of files a second are opened.
    """

    def __init__(
        self, files: Files, programs: Programs, wants: Callable[[], frozenset[str]] = lambda: ALL
    ) -> None:
        self._files = files
        self._programs = programs
        self._wants = wants
        self._wanted: dict[str, tuple[bytes, trio.Event]] = {}
        self._woken = trio.Event()

    def of(self, path: str, head: bytes, process: Process | None) -> dict[str, Value]:
        """What is known now. ``path`` "" and ``process`` None: not known. Some microseconds."""
        known: dict[str, Value] = {}
        wants = self._wants()
        if path:
            if OF_FILES & wants:
                self._asks(path, head)
            match = self._files.recall(path)
            if match is not None:
                known["file_framework"] = match.framework
        if process is not None and OF_PROCESSES & wants:
            program = self._programs.of(process)
            if program is not None:
                known |= of_program(program)
        return known

    async def prepare(
        self, path: str, head: bytes, process: Process | None, *, everything: bool = False
    ) -> None:
        """Wait until ``of`` knows, ``WAIT`` seconds at most; where it does already, this does not wait.
        ``everything``: also what no rule asks for."""
        wants = ALL if everything else self._wants()
        with trio.move_on_after(WAIT):
            event = self._asks(path, head) if path and OF_FILES & wants else None
            if process is not None and OF_PROCESSES & wants and self._programs.of(process) is None:
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
