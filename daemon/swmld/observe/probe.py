"""The probes as the daemon has them: loaded by a child process, then maps, a ring and descriptors to hold."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import trio

from swmld._native import ffi, lib
from swmld.errors import HostError
from swmld.fetch.threads import Workers
from swmld.observe import records
from swmld.observe.loader import MAPS, Report
from swmld.observe.programs import SIZES
from swmld.observe.switch import ReadSwitch
from swmld.urls import without_credentials

log = logging.getLogger(__name__)

EVENTS = 4096
"""Taken from the ring at once, so that the loop serves others in between: 15 ms of work."""

ROWS = 1024
"""Elements of a map that are taken in one go."""

LOST = ("events", "cursors", "processes", "")
"""Names of the counters of ``enum SWP_LOST_*``."""

LOAD_TIMEOUT = 60.0
"""Seconds; the compiler needs one on a machine that has nothing else to do."""

DESCRIPTORS = 64

OVERLAP = 0.02
"""Seconds that one read of the counters begins before the last one's end: the coarse clock's ticks."""

UNREADABLE = 10
"""Reads of the counters, one a second, that may fail in a row. A kernel short of memory refuses a batch of a
map for a second or two; a descriptor that is no map any more fails for ever."""


class Probe:
    """Maps and ring of probes that are attached. ``close`` detaches them."""

    def __init__(self, report: Report, descriptors: list[int]) -> None:
        self.report = report
        self._fds = descriptors
        self._maps = dict(zip(MAPS, descriptors, strict=False))
        self._events = ffi.new("struct swp_event[]", EVENTS)
        # Kept: made anew each second, in one thread or another, they would grow the heap of each.
        self._rows = ffi.new("struct swp_row[]", ROWS)
        self._pids, self._values = ffi.new("uint32_t[]", ROWS), ffi.new("struct swp_process[]", ROWS)
        error = ffi.new("int *")
        size = SIZES["SWP_RING_PAGES"] * os.sysconf("SC_PAGESIZE")
        self._ring = lib.sw_ring_open(self._maps["events"], size, error)
        if self._ring == ffi.NULL:
            raise HostError(f"the ring of events cannot be mapped: {os.strerror(-error[0])}")
        # A read of the counters may go on in its thread when the one who wanted it is gone.
        self._reading = threading.Lock()
        self._books = lib.sw_books_open(self._maps["cursors"], SIZES["SWP_CURSORS"], error)
        if self._books == ffi.NULL:
            lib.sw_ring_close(self._ring)
            raise HostError(f"the books of the probes cannot be mapped: {os.strerror(-error[0])}")
        self.switch: ReadSwitch | None = None
        """Of the program that sees reads, where the way has one."""
        if report["switch"]:
            program, link = self._fds.pop(), self._fds.pop(len(MAPS))
            self.switch = ReadSwitch(self._maps["config"], self._maps["calls"], link, program)

    @property
    def event_fd(self) -> int:
        """Readable while events wait."""
        return self._maps["events"]

    @property
    def watched_fd(self) -> int:
        """Map of the files that passthrough reads."""
        return self._maps["watched"]

    @property
    def filter_fd(self) -> int:
        """Bits that spare other files a look into that map."""
        return self._maps["filter"]

    def configure(self, mount_dev: int, cache_dev: int, source_dev: int) -> None:
        """Reads are seen from now on: of the mount's device, and of watched files on the two others."""
        value = records.CONFIG.pack(mount_dev, cache_dev, source_dev, os.getpid(), 0, 1, 0, 0)
        self._must(lib.sw_map_update(self._maps["config"], ffi.new("uint32_t *", 0), value))

    def events(self) -> memoryview:
        """The oldest ``EVENTS`` events, or fewer, as ``struct swp_event``s; valid until the next call."""
        count = lib.sw_ring_read(self._ring, self._events, EVENTS)
        return memoryview(ffi.buffer(self._events, count * records.EVENT.size))

    def cursors(self, since: float) -> bytes:
        """``struct swp_row``s of streams read since then (seconds, CLOCK_MONOTONIC). Blocking, some ms."""
        place, found = ffi.new("uint32_t *"), []
        with self._reading:
            while self._books != ffi.NULL and place[0] < SIZES["SWP_CURSORS"]:
                count = lib.sw_books_read(self._books, int(since * 1e9), place, self._rows, ROWS)
                found.append(bytes(ffi.buffer(self._rows, count * records.ROW.size)))
        return b"".join(found)

    def processes(self) -> dict[int, records.Seen]:
        """All processes that read the mount, most recent ones. Blocking, some ms."""
        token, done, found = ffi.new("uint64_t *"), ffi.new("int *"), {}
        first = 1
        while not done[0]:
            count = self._must(
                lib.sw_map_batch(self._maps["processes"], token, first, self._pids, self._values, ROWS, done)
            )
            first = 0
            data = memoryview(ffi.buffer(self._values, count * records.PROCESS.size))
            for i in range(count):
                at = i * records.PROCESS.size
                found[self._pids[i]] = records.process(data[at : at + records.PROCESS.size])
        return found

    def process(self, pid: int) -> records.Seen | None:
        """One of them; None if the kernel did not keep it."""
        value = ffi.new("struct swp_process *")
        if lib.sw_map_lookup(self._maps["processes"], ffi.new("uint32_t *", pid), value) < 0:
            return None
        return records.process(bytes(ffi.buffer(value)))

    def lost(self) -> dict[str, int]:
        """What did not fit into ring and maps, by name."""
        found, value = {}, ffi.new("uint64_t *")
        for number, name in enumerate(LOST):
            if name and lib.sw_map_lookup(self._maps["lost"], ffi.new("uint32_t *", number), value) >= 0:
                found[name] = int(value[0])
        return found

    def close(self) -> None:
        """Detaches the programs and frees the maps: nothing of them is left in the kernel."""
        lib.sw_ring_close(self._ring)
        self._ring = ffi.NULL
        with self._reading:
            lib.sw_books_close(self._books)
            self._books = ffi.NULL
        if self.switch is not None:
            self.switch.close()
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    @staticmethod
    def _must(result: int) -> int:
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result


class Counters:
    """What the probes counted, read about once a second; a map may be unreadable for a while."""

    def __init__(self, probe: Probe, disk: Workers) -> None:
        self._probe = probe
        self._disk = disk
        self._since = 0.0
        self._failed = 0

    async def read(self) -> tuple[bytes, dict[int, records.Seen]]:
        """``cursors`` since the last time and ``processes``; nothing if they cannot be read. The first
        failure is logged; HostError at the last of ``UNREADABLE`` in a row."""
        probe, since, now = self._probe, self._since, time.monotonic() - OVERLAP
        try:
            found = await self._disk.call(lambda: (probe.cursors(since), probe.processes()))
        except OSError as error:
            why = error.strerror or str(error)
            self._failed += 1
            if self._failed == 1:
                log.warning("the probes' counters cannot be read: %s", why)
            if self._failed >= UNREADABLE:
                message = f"the probes' counters could not be read for {self._failed} s: {why}"
                raise HostError(message) from None
            return b"", {}
        self._since = now  # not after a failure: the next time tells of those seconds, too
        if self._failed:
            log.info("the probes' counters can be read again, after %d s", self._failed)
            self._failed = 0
        return found


class Loading:
    """The child that loads the probes, from its start to its end; starting it early saves its time."""

    def __init__(self, state: Path, way: str = "auto") -> None:
        self._way = way
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # -P: a types.py in the working directory is nobody's business here.
        arguments = ("-P", "-m", "swmld.observe.loader", "--state", str(state), "--way", way)
        with theirs:
            os.set_inheritable(theirs.fileno(), True)
            self._pid = os.posix_spawn(
                sys.executable,
                [sys.executable, *arguments, "--socket", str(theirs.fileno())],
                without_credentials(os.environ) | {"PYTHONDONTWRITEBYTECODE": "1"},
                setsigdef=[2, 15],
            )

    async def result(self) -> Probe:
        """Raises HostError: one line that says why no way worked."""
        message, fds = b"", list[int]()
        try:
            self._ours.setblocking(False)
            with trio.move_on_after(LOAD_TIMEOUT):
                await trio.lowlevel.wait_readable(self._ours)
                message, fds, _, _ = socket.recv_fds(self._ours, 1 << 16, DESCRIPTORS)
        finally:
            self.close()
        if not message:
            raise HostError("the loader of the probes ended without a word")
        report: Report = json.loads(message)
        for way, why in report["tried"].items():
            log.debug("probe %s: %s", way, why)
        if not report["way"]:
            raise HostError("; ".join(f"{way}: {why}" for way, why in _grouped(report["tried"])))
        return Probe(report, fds)

    def close(self) -> None:
        """Ends the child if it still runs."""
        if self._pid:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._pid, 9)
                os.waitpid(self._pid, 0)
            self._pid = 0
        self._ours.close()


def _grouped(tried: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Ways that failed for one reason are named together."""
    ways: dict[str, list[str]] = {}
    for way, why in tried.items():
        ways.setdefault(why, []).append(way)
    yield from ((", ".join(names), why) for why, names in ways.items())


async def any_readable(fds: list[int]) -> None:
    """Returns when one of them is, or was closed (``trio.lowlevel.notify_closing``)."""
    async with trio.open_nursery() as nursery:

        async def wait(fd: int) -> None:
            with contextlib.suppress(trio.ClosedResourceError):
                await trio.lowlevel.wait_readable(fd)
            nursery.cancel_scope.cancel()

        for fd in fds:
            nursery.start_soon(wait, fd)


def device_of(fd: int) -> int:
    """The device of the file system that ``fd`` is on, as the kernel numbers it.

    Not stat's: btrfs gives each subvolume a number of its own there.
    """
    wanted = b""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_bytes().splitlines():
        if line.startswith(b"mnt_id:"):
            wanted = line.split()[1]
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields = line.split(b" ")
        if fields[0] == wanted:
            return kernel_device(fields[2].decode())
    status = os.fstat(fd)  # a detached mount
    return os.major(status.st_dev) << 20 | os.minor(status.st_dev)


def kernel_device(text: str) -> int:
    """MKDEV of ``MAJOR:MINOR`` (include/linux/kdev_t.h)."""
    major, _, minor = text.partition(":")
    return int(major) << 20 | int(minor)


__all__ = ["Counters", "Loading", "Probe", "any_readable", "device_of", "kernel_device"]
