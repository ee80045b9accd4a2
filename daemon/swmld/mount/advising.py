"""What the page cache is told about cached files: calls that may wait for a disk, in a thread of their own.

All of it is advice: what cannot be done is not done, and when more is asked for than can be done, the rest is
forgotten.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterable

from swmld.mount.native import Native

log = logging.getLogger(__name__)

QUEUE = 4096
"""Calls that may wait: a file's chunks, and some thousand small files that were closed."""

STOP_SECONDS = 2.0
"""At the end the call that runs is waited for; one that hangs longer hangs at a disk, and dies with us."""

_ADVICE = {
    "normal": os.POSIX_FADV_NORMAL,
    "sequential": os.POSIX_FADV_SEQUENTIAL,
    "random": os.POSIX_FADV_RANDOM,
    "noreuse": os.POSIX_FADV_NOREUSE,
}
"""Of those in ``actions.Advise``, what is said of an open file; the others are said of its pages."""

LOAD_STEP = 128 << 10
"""Bytes of one request to read ahead. Of a larger one the kernel does only the first part, as much as it
would read ahead on that disk by itself; no disk has less than this."""

_WRITE_AND_WAIT = 7  # SYNC_FILE_RANGE_WAIT_BEFORE | _WRITE | _WAIT_AFTER

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def advise(fd: int, advice: str) -> None:
    """Of reads through ``fd``; nothing for what is said of pages."""
    if advice in _ADVICE:
        with contextlib.suppress(OSError):
            os.posix_fadvise(fd, 0, 0, _ADVICE[advice])


class PageCache:
    """Its methods only queue; any thread."""

    def __init__(self, native: Native) -> None:
        self._native = native
        self._calls: queue.Queue[Callable[[], None] | None] = queue.Queue(QUEUE)
        self._thread: threading.Thread | None = None

    def load(self, path: str, spans: Iterable[tuple[int, int]]) -> None:
        """Reads these (offset, length) of a cache file into memory, as many as half of its room takes."""
        wanted = list(spans)
        self._queue(lambda: _on_file(path, lambda fd: _load(fd, wanted)))

    def forget(self, nodeid: int, path: str, offset: int = 0, length: int = 0, front: int = 0) -> None:
        """Lets go of these bytes (0: to the end) of a file in the mount and of its cache file, whose chunks
        begin at ``front``."""

        def call() -> None:
            self._native.forget_pages(nodeid, offset, length)
            _on_file(path, lambda fd: _forget(fd, offset + front, length))

        self._queue(call)

    def forget_source(self, fd: int, offset: int, length: int) -> None:
        """As ``forget``, of what was read of the source through ``fd``, which may be closed meanwhile."""
        with contextlib.suppress(OSError):
            own = os.dup(fd)
            if not self._queue(lambda: _forget_and_close(own, offset, length)):
                os.close(own)

    def _queue(self, call: Callable[[], None]) -> bool:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="swmld-pages", daemon=True)
            self._thread.start()
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            return False
        return True

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception:
                log.exception("the page cache could not be told")

    def close(self) -> None:
        """Nothing is called any more."""
        if self._thread is None:
            return
        with contextlib.suppress(queue.Empty):
            while True:
                self._calls.get_nowait()
        self._calls.put(None)
        self._thread.join(STOP_SECONDS)


def _on_file(path: str, call: Callable[[int], None]) -> None:
    """It may have been evicted meanwhile."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            call(fd)
        finally:
            os.close(fd)


def _load(fd: int, spans: Iterable[tuple[int, int]]) -> None:
    room = _available() // 2
    for offset, length in spans:
        for start in range(offset, offset + min(length, room), LOAD_STEP):
            size = min(LOAD_STEP, offset + length - start, room)
            os.posix_fadvise(fd, start, size, os.POSIX_FADV_WILLNEED)
            room -= size


def _available() -> int:
    """Bytes that can be had without taking them from programs."""
    with open("/proc/meminfo", "rb") as file:
        lines = file.read().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(b"MemAvailable:"))


def _forget(fd: int, offset: int, length: int) -> None:
    # Pages that are not on the disk yet would stay: what was just fetched is written now instead of soon.
    _libc.sync_file_range(fd, offset, length, _WRITE_AND_WAIT)
    os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)


def _forget_and_close(fd: int, offset: int, length: int) -> None:
    try:
        os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)
    except OSError:
        pass
    finally:
        os.close(fd)
