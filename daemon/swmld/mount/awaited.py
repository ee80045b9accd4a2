"""What came of files that were fetched ahead because of a decision, until somebody opens them.

What has landed waits here until it is used (the file is opened) or wasted: it was evicted, another generation
took its place, or too many others wait.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Protocol

import trio

from swmld.mount.deciding import Brought

MOST = 65_536
"""Files whose first open is waited for: some 20 MB; of more, the oldest count as wasted."""


class Generation(Protocol):
    """The part of ``cache.CacheFile`` that this needs."""

    file_id: int
    dead: bool


@dataclass(slots=True)
class _Unopened:
    """``brought``: bytes by decision."""

    file_id: int
    brought: dict[int, int] = field(default_factory=dict)


class Awaited:
    """Tells ``tell`` of bytes that landed, were used, or were not. Loop-only but for ``evicted``."""

    def __init__(self, tell: Brought, most: int = MOST) -> None:
        self._tell = tell
        self._most = most
        self._files: OrderedDict[int, _Unopened] = OrderedDict()
        """By nodeid, the oldest first."""
        self._nodes: dict[int, int] = {}
        """By file id."""
        self._token: trio.lowlevel.TrioToken | None = None

    def __len__(self) -> int:
        return len(self._files)

    def listen(self) -> None:
        """From here on ``evicted`` may be called; this is the loop that hears of it."""
        self._token = trio.lowlevel.current_trio_token()

    def landed(self, nodeid: int, file: Generation, decision: int, length: int) -> None:
        """Some bytes of a file are in the cache that nobody has opened since they were asked for."""
        self._tell(decision, fetched=length)
        found = self._files.get(nodeid)
        if found is not None and found.file_id != file.file_id:
            self._waste(nodeid)
            found = None
        if found is None:
            found = self._files[nodeid] = _Unopened(file.file_id)
            self._nodes[file.file_id] = nodeid
        found.brought[decision] = found.brought.get(decision, 0) + length
        if file.dead:  # its end was told before it could be found here
            self.gone(file.file_id)
        if len(self._files) > self._most:
            self._waste(next(iter(self._files)))

    def opened(self, nodeid: int) -> None:
        """Somebody opens the file: what has landed of it is used."""
        found = self._take(nodeid)
        for decision, length in found.brought.items() if found is not None else ():
            self._tell(decision, used=length)

    def evicted(self, file_id: int) -> None:
        """A generation went from the cache. Any thread."""
        if file_id not in self._nodes or self._token is None:
            return
        try:
            self._token.run_sync_soon(self.gone, file_id)
        except trio.RunFinishedError:
            return  # nobody asks any more

    def gone(self, file_id: int) -> None:
        """As ``evicted``, on the loop."""
        nodeid = self._nodes.get(file_id)
        if nodeid is not None:
            self._waste(nodeid)

    def _waste(self, nodeid: int) -> None:
        found = self._take(nodeid)
        for decision, length in found.brought.items() if found is not None else ():
            self._tell(decision, wasted=length)

    def _take(self, nodeid: int) -> _Unopened | None:
        found = self._files.pop(nodeid, None)
        if found is not None:
            del self._nodes[found.file_id]
        return found
