"""The I/O class of readers whose rules want another one, as long as they have such a file open.

It counts for what a process reads by itself: files that are passed through, on the cache's disk. What the
daemon reads for it is the daemon's own I/O.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
from dataclasses import dataclass, field

from swmld.mount.processes import process_of

_CLASS_SHIFT = 13  # linux/ioprio.h
_WHO_PROCESS = 1
_CLASSES = {"realtime": 1, "best_effort": 2, "idle": 3}
_MIDDLE = 4
"""Of the levels 0 to 7 of a class, the usual one (``IOPRIO_NORM``); idle has none."""

_NUMBERS = {"x86_64": (251, 252), "aarch64": (30, 31), "riscv64": (30, 31)}
"""ioprio_set and ioprio_get; libc has no functions for them."""

THREADS = 4096
"""Of one process, at most so many are changed: a bound for what is done in one go."""

_libc = ctypes.CDLL(None, use_errno=True)


def value(name: str) -> int:
    """The class of that name (as ``actions.Prioritize`` has it) as ioprio_set(2) takes it."""
    number = _CLASSES[name]
    return number << _CLASS_SHIFT | (0 if name == "idle" else _MIDDLE)


def get(thread: int) -> int:
    """ioprio_get(2) of a thread; OSError."""
    return _call(1, thread)


def _set(thread: int, wanted: int) -> None:
    _call(0, thread, wanted)


def _call(which: int, thread: int, *more: int) -> int:
    numbers = _NUMBERS.get(platform.machine())
    if numbers is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    result = int(_libc.syscall(ctypes.c_long(numbers[which]), _WHO_PROCESS, thread, *more))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


@dataclass(slots=True)
class _Reader:
    before: dict[int, int]
    """Of each thread."""
    files: dict[int, int] = field(default_factory=dict)
    """By nodeid, what its rule wants; the latest counts."""


class IoPriorities:
    """Loop-only: a call takes microseconds a thread, and nothing in it waits."""

    def __init__(self) -> None:
        self._readers: dict[int, _Reader] = {}
        self._by_file: dict[int, set[int]] = {}

    def opened(self, nodeid: int, thread: int, name: str) -> None:
        """This thread's process has the file open, whose rule wants the class ``name``."""
        process = process_of(thread)
        if process is None:
            return
        reader = self._readers.get(process)
        if reader is None:
            reader = self._readers[process] = _Reader({})
        reader.files.pop(nodeid, None)
        reader.files[nodeid] = value(name)
        self._by_file.setdefault(nodeid, set()).add(process)
        self._apply(process, reader)

    def closed(self, nodeid: int) -> None:
        """Nobody has the file open any more."""
        for process in self._by_file.pop(nodeid, ()):
            reader = self._readers[process]
            reader.files.pop(nodeid, None)
            if reader.files:
                self._apply(process, reader)
            else:
                del self._readers[process]
                self._restore(process, reader)

    def close(self) -> None:
        """All as it was."""
        for nodeid in list(self._by_file):
            self.closed(nodeid)

    def _apply(self, process: int, reader: _Reader) -> None:
        wanted = next(reversed(reader.files.values()))
        for thread in _threads(process):
            with contextlib.suppress(OSError):  # it has ended
                now = get(thread)
                if now != wanted:
                    reader.before.setdefault(thread, now)
                    _set(thread, wanted)

    def _restore(self, process: int, reader: _Reader) -> None:
        """Threads that came meanwhile have what their makers had: they get what the first one had before."""
        usual = reader.before.get(process, 0)
        for thread in _threads(process):
            with contextlib.suppress(OSError):
                _set(thread, reader.before.get(thread, usual))


def _threads(process: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{process}/task")[:THREADS]]
    except OSError:
        return []
