"""What a daemon's probes say of readers, gathered until everything up to now has been told.

    with Watched(daemon) as seen:
        read(daemon.mount / "file")
        seen.settle()
        assert seen.stream("file").reads == 23

The daemon under test reads its counters ten times a second instead of once: ``quick.py``.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from swmld.api.client import Client
from swmld.api.patterns import path_of
from swmld.errors import HostError
from swmld.observe.encoding import Decoder
from swmld.patterns.feed import PAGE, Cursor, Process, Tiers, Touch, TouchKind, Wait

from support.mount import Daemon

LIMIT = 60.0
"""Seconds until what was read must have been told; one batch takes a tenth."""

QUICK = [sys.executable, "-P", str(Path(__file__).with_name("quick.py"))]
"""``wrap`` of a Daemon: its counters are read every tenth of a second."""

_FENCED = ".fences"


def probing(base: Path, probe: str = "ebpf", state: Path | None = None, rate: int = 0) -> list[str]:
    """``options`` of a Daemon. ``state``: where the compiled probes are kept, else in ``base``; ``rate``: of
    ``--probe-rate``, 0: each read is looked at, whatever else this machine reads."""
    return ["--probe", probe, "--probe-rate", str(rate), "--state-dir", str(state or base / "state")]


class Stream(NamedTuple):
    """One file as read by one process; all its streams together (mount, cache file) where it has several."""

    cursors: tuple[Cursor, ...]
    touches: tuple[Touch, ...]
    tiers: Tiers | None

    def __getattr__(self, name: str) -> Any:
        return sum(getattr(cursor, name) for cursor in self.cursors)

    def kinds(self) -> list[TouchKind]:
        return [touch.kind for touch in self.touches]


class Watched:
    """Listens to a daemon from when its probes (``how``) are attached; see the head of the module."""

    def __init__(self, daemon: Daemon, how: str = "btf") -> None:
        self.daemon, self._how = daemon, how
        self._decoder = Decoder()
        self._changed = threading.Condition()
        self._cursors: dict[tuple[int, int], list[Cursor]] = defaultdict(list)
        self._touches: dict[tuple[int, int], list[Touch]] = defaultdict(list)
        self._tiers: dict[tuple[int, int], Tiers] = {}
        self._batches = 0
        self._rows: dict[int, int] = {}  # by file: the last batch of counters that had it
        self._fences: Iterator[int] = itertools.count(1)
        self._state: dict[str, Any] = {}
        self._error: BaseException | None = None
        self.waits: dict[int, Wait] = {}
        self.about: list[Touch] = []  # forks, execs, exits
        self.lost = 0

    # ---- the daemon's side

    def __enter__(self) -> Watched:
        with suppress(FileExistsError):
            (self.daemon.source / _FENCED).mkdir()
        (socket,) = self.daemon.run_dir.glob("*.sock")
        self._client = Client(socket, timeout=LIMIT)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        self._until(lambda: bool(self._state) and self.probe()["how"] == self._how, f"no probe {self._how}")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.interrupt()
        self._thread.join(LIMIT)
        self._client.close()

    def _listen(self) -> None:
        try:
            self._client.call("trace", {"raw": True, "interval": 0.2}, self._told)
        except HostError as error:  # the end of the block
            self._end(error)
        except BaseException as error:
            self._end(error)
            raise

    def _end(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _told(self, message: dict[str, Any]) -> None:
        with self._changed:
            if "snapshot" in message:
                self._state = message["snapshot"]
            else:
                self._take(message["raw"])
            self._changed.notify_all()

    def _take(self, line: dict[str, Any]) -> None:
        raw = self._decoder.raw(line)
        self.lost += raw.lost
        for touch in raw.touches:
            if touch.kind >= TouchKind.FORK:
                self.about.append(touch)
            else:
                self._touches[touch.pid, touch.file].append(touch)
        self._batches += bool(raw.cursors)
        for pid, file, cursor in raw.cursors:
            self._count(self._cursors[pid, file], cursor)
            self._rows[file] = self._batches
        self._tiers.update({(pid, file): tiers for pid, file, tiers in raw.tiers})
        self.waits.update(raw.waits)

    @staticmethod
    def _count(known: list[Cursor], new: Cursor) -> None:
        """As one that is known and went on, or one more. Of a file that is written through FUSE there are
        books of what was written and others of what is read, which may be begun in one tick of the clock.
        """
        for place, old in enumerate(known):
            if old.first_at == new.first_at and old.reads <= new.reads and old.written <= new.written:
                known[place] = new
                return
        known.append(new)

    def _until(self, done: Callable[[], bool], what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._error or done(), LIMIT) or self._error:
                raise AssertionError(f"{what}: {self._error}\n{self.daemon.tail()}")

    # ---- the test's side

    def wait_for(self, done: Callable[[], bool], what: str) -> None:
        """Until the condition holds, which is asked after each message of the daemon."""
        self._until(done, what)

    def settle(self) -> None:
        """Everything that was read before is known afterwards, with its final counters.

        A file of its own is read: when its first event is here, so are all earlier ones, as the ring keeps
        their order; when its counters came twice, the second look at them began after everything before.
        """
        name = f"{next(self._fences)}-{time.monotonic_ns()}"
        (self.daemon.source / _FENCED / name).write_bytes(bytes(8192))
        path = self.daemon.mount / _FENCED / name
        self._until(lambda: not self._error, "the daemon is gone")
        seen: set[int] = set()

        def again() -> bool:
            file = self.file(f"{_FENCED}/{name}")
            if file is not None and (pid, file) in self._touches and file in self._rows:
                seen.add(self._rows[file])
            return len(seen) > 1

        pid = os.getpid()
        deadline = time.monotonic() + LIMIT
        fd = os.open(path, os.O_RDONLY)
        try:
            while time.monotonic() < deadline:
                for offset in (0, 4096):
                    os.pread(fd, 4096, offset)
                with self._changed:
                    if self._error:
                        raise AssertionError(f"the trace ended: {self._error}\n{self.daemon.tail()}")
                    if again():
                        return
                    self._changed.wait(0.1)  # then the fence is read again
        finally:
            os.close(fd)
        raise AssertionError(f"what was read is not told within {LIMIT} s\n{self.daemon.tail()}")

    def file(self, path: str | Path) -> int | None:
        """The nodeid of what lies there, relative to the mount; None: no reader of it was told."""
        wanted = str(path)
        files = {file for _, file in [*self._touches, *self._cursors, *self._tiers]}
        return next((file for file in files if path_of(self._decoder, file) == wanted), None)

    def paths(self) -> set[str]:
        """Of all files that were told, without those of ``settle``."""
        with self._changed:
            files = {file for _, file in [*self._touches, *self._cursors, *self._tiers]}
            found = {path_of(self._decoder, file) or f"?{file}" for file in files}
        return {path for path in found if not path.startswith(_FENCED)}

    def pids(self, path: str | Path) -> set[int]:
        """Who read it."""
        with self._changed:
            file = self.file(path)
            return {pid for pid, other in [*self._touches, *self._cursors] if other == file and pid}

    def cursors(self, pid: int, file: int) -> tuple[Cursor, ...]:
        """As they are known by now."""
        key = pid, file
        return tuple(self._cursors[key]) if key in self._cursors else ()

    def stream(self, path: str | Path, pid: int | None = None) -> Stream:
        """``pid``: the test's own process unless told."""
        pid = os.getpid() if pid is None else pid
        with self._changed:
            file = self.file(path)
            assert file is not None, f"{path} was not seen; seen: {self.paths()}"
            key = pid, file
            cursors = self.cursors(pid, file)
            touches = tuple(self._touches[key]) if key in self._touches else ()
            assert cursors or touches, f"{path} was not seen to be read by {pid}, but by {self.pids(path)}"
            return Stream(cursors, touches, self._tiers.get(key))

    def process(self, pid: int) -> Process | None:
        """As the daemon told it."""
        with self._changed:
            return self._decoder.of(pid)

    def probe(self) -> dict[str, Any]:
        """Of the last snapshot: how, why, lost."""
        found: dict[str, Any] = self._state["probe"]
        return found

    def snapshot(self) -> dict[str, Any]:
        """The next one to come."""
        with self._changed:
            before = self._state
        self._until(lambda: self._state is not before, "no snapshot came")
        return self._state


class Lab:
    """A directory in a watched daemon; names are relative to it."""

    def __init__(self, seen: Watched, name: str) -> None:
        self.seen, self.name = seen, name
        self.daemon, self.mode = seen.daemon, seen.daemon.mode
        self.path, self.source = self.daemon.mount / name, self.daemon.source / name
        self.source.mkdir()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def make(self, *names: str, pages: int = 23, size: int | None = None, cached: bool = True) -> None:
        """Files of so many pages, or ``size`` bytes; ``cached``: swmld's cache has them whole."""
        for name in names:
            (self.source / name).write_bytes(os.urandom(pages * PAGE if size is None else size))
        # Old enough to be cached (RACY_NS in swmld.mount.loading): a limit of time, there is no event.
        time.sleep(0.06)
        if cached:
            self.daemon.call("warmup", paths=[f"{self.name}/{name}" for name in names])

    def stream(self, name: str, pid: int | None = None) -> Stream:
        """Settled."""
        self.seen.settle()
        return self.seen.stream(f"{self.name}/{name}", pid)

    def pages(self, name: str) -> int:
        """What the test's own process is known by now to have read of it."""
        known = self.seen.file(f"{self.name}/{name}")
        cursors = self.seen.cursors(os.getpid(), known) if known is not None else ()
        return sum(cursor.pages for cursor in cursors)

    def pid(self, name: str) -> int:
        """Of the one process that read it, settled."""
        self.seen.settle()
        (pid,) = self.seen.pids(f"{self.name}/{name}")
        return pid

    def cache_files(self) -> set[int]:
        """Inode numbers of all files in swmld's cache."""
        return {path.stat().st_ino for path in self.daemon.cache.glob("data/*/*")}

    def drop(self, *names: str) -> None:
        """These files leave the kernel's page cache: as files of the mount, and as files of swmld's cache."""
        for path in [*(self.path / name for name in names), *self.daemon.cache.glob("data/*/*")]:
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fdatasync(fd)  # what is dirty would stay
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)
