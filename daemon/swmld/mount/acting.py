"""What rules want done with open files, besides what is fetched and kept. Made where there are rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swmld.mount import native as nat
from swmld.mount.deciding import acts_at_opens
from swmld.mount.native import Native
from swmld.mount.prioritizing import IoPriorities

if TYPE_CHECKING:
    from swmld.rules.verdict import Verdict


class Acts:
    """Loop-only."""

    def __init__(self, native: Native) -> None:
        self._native = native
        self._priorities = IoPriorities()

    def opened(self, nodeid: int, fh: int, verdict: Verdict, thread: int) -> bool:
        """A thread has opened the file to read it. True: ``ended`` is to be told."""
        first = verdict.prioritize
        passed = self._native.open_flags(fh) & nat.FOPEN_PASSTHROUGH
        if passed and first is not None and first.io_priority is not None:
            self._priorities.opened(nodeid, thread, first.io_priority)
        return acts_at_opens(verdict)

    def ended(self, nodeid: int) -> None:
        """Nobody has it open any more."""
        self._native.forget_complete(nodeid)
        self._priorities.closed(nodeid)

    def close(self) -> None:
        """The mount is gone."""
        self._priorities.close()
