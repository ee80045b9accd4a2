"""Mappings by entries of 2 MiB, which the kernel tells by no event: page tables are looked into for them.

A process that opens a large file is looked at a few times within the next two seconds, as who maps a file
does so soon after it was opened; then once a second as long as it has a file of the mount mapped. What is
mapped since the last look counts as faults, in the order of the file: the order of the touches is not known.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

import trio

from swmld.fetch.threads import Offload
from swmld.mount.native import Native, mapped_by

log = logging.getLogger(__name__)

FOLIO = 512
"""``SWP_FOLIO``: pages."""

LOOKS = (0.02, 0.03, 0.05, 0.1, 0.2, 0.6, 1.0)
"""Seconds from an open to the first look, and from each to the next: whoever maps a file and reads it at once
may be gone after a tenth."""

AGAIN = 1.0
"""Seconds between two looks at one that has something mapped."""

MOST = 1024
"""Processes that are looked at."""


class Mapped:
    """Loop-only, its looks are made in threads. ``device``: the mount's, as the kernel numbers it; ``nodes``:
    nodeids by inode numbers, 0 for unknown ones."""

    def __init__(
        self, native: Native, offload: Offload, device: int, nodes: Callable[[Sequence[int]], list[int]]
    ) -> None:
        self._native = native
        self._offload = offload
        self._device = device
        self._nodes = nodes
        self._due: dict[int, tuple[float, int]] = {}
        """By process: when it is looked at next, and how often it was since it opened a file."""
        self._known: dict[int, dict[int, int]] = {}
        """By process and inode number: folios that were mapped at the last look, as bits."""
        self._opened = trio.Event()

    def opened(self, pid: int) -> None:
        """A process has opened a file that has room for a folio of 2 MiB."""
        now = time.monotonic()
        before = self._due.get(pid)
        if before is None and len(self._due) >= MOST:
            return
        # Who opens one file after another is not looked at more often for it.
        when = now + LOOKS[0] if before is None else min(before[0], now + LOOKS[0] + LOOKS[1])
        self._due[pid] = when, 0
        self._opened.set()

    async def run(self) -> None:
        """Until cancelled, or until the kernel turns out not to tell."""
        while True:
            pid = min(self._due, key=self._due.__getitem__, default=None)
            if pid is None or self._due[pid][0] > time.monotonic():
                with trio.move_on_at(self._clock(pid)):
                    await self._opened.wait()
                self._opened = trio.Event()
                continue
            if not await self._look(pid):
                return

    def _clock(self, pid: int | None) -> float:
        if pid is None:
            return float("inf")
        return trio.current_time() + self._due[pid][0] - time.monotonic()

    async def _look(self, pid: int) -> bool:
        times = self._due[pid][1]
        due = time.monotonic() + (LOOKS[times] if times < len(LOOKS) else AGAIN), times + 1
        self._due[pid] = due
        try:
            mappings, runs = await self._offload.call(partial(mapped_by, pid, self._device))
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EINVAL):
                log.info("what is mapped by entries of 2 MiB cannot be told: %s", error.strerror)
                self._due.clear()
                return False
            mappings, runs, times = 0, [], len(LOOKS)  # it has ended
        # Unless it has opened another file meanwhile.
        if not mappings and times >= len(LOOKS) - 1 and self._due[pid] is due:
            del self._due[pid]
        before = self._known.pop(pid, {})
        now: dict[int, int] = {}
        for ino, first, pages in runs:
            now[ino] = now.get(ino, 0) | ((1 << pages // FOLIO) - 1) << first // FOLIO
        if now:
            self._known[pid] = now
            self._tell(pid, {ino: bits & ~before.get(ino, 0) for ino, bits in now.items()})
        return True

    def _tell(self, pid: int, new: dict[int, int]) -> None:
        for bits, node in zip(new.values(), self._nodes([*new]), strict=True):
            first = 0
            while bits and node:
                gap = (bits & -bits).bit_length() - 1
                bits >>= gap
                count = (~bits & bits + 1).bit_length() - 1
                bits >>= count
                self._native.mapped(pid, node, (first + gap) * FOLIO, count)
                first += gap + count
