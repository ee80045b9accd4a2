"""How large a source is, as statfs(2) is told: asked now and then, never waited for long."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import trio

from swmld.mount.gate import SourceGate
from swmld.sources.interface import Room

HOLDS = 5.0
"""Seconds that an answer holds, or that none came."""

LIMIT = 1.0
"""Seconds that df(1) waits for a source at most: then what was known before is shown."""

BLOCK = 4096
FILES = 1 << 40
ENDLESS = Room(1 << 50, 0)
"""1 PiB, free: of a source that has no size of its own, as other mounts of such show them, so that programs
that look for room before they write go on."""


class Capacity:
    """``ask`` is the source's ``room``."""

    def __init__(self, gate: SourceGate, ask: Callable[[], Room | None]) -> None:
        self._gate = gate
        self._ask = ask
        self._room = ENDLESS
        self._until = 0.0
        self._asking = trio.Lock()

    async def shown(self, flags: int, name_max: int) -> os.statvfs_result:
        """As statvfs(3)."""
        room = await self._now()
        blocks, free = room.size // BLOCK, max(0, room.size - room.used) // BLOCK
        return os.statvfs_result((BLOCK, BLOCK, blocks, free, free, FILES, FILES, FILES, flags, name_max))

    async def _now(self) -> Room:
        """As known; asked for by one at a time."""
        async with self._asking:
            if trio.current_time() >= self._until:
                with contextlib.suppress(OSError), trio.move_on_after(LIMIT):
                    told: Room | None = await self._gate.call(self._asked)
                    self._room = told or ENDLESS
                self._until = trio.current_time() + HOLDS
            return self._room

    def _asked(self) -> Room | None:
        """A source that does not tell serves on, for all that this says of it."""
        try:
            return self._ask()
        except OSError:
            return self._room
