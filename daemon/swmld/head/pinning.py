"""Which files are pinned where rules want a share of what they are about pinned (``cache`` with
``pin_fraction``).

A file is pinned when it is opened for the first time, as long as the bytes that are pinned are at most the
share of those that were opened. So nothing need be known of how much there is, and the share is right at any
time.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from swmld.types import Identity

FILES = 1 << 20
"""Files that are remembered; of more, the oldest stay as they are until they are opened again."""

GROUPS = 65_536
"""Directories, datasets and jobs with a share of their own; those that were not opened in for longest begin
anew."""


@dataclass(slots=True)
class _Group:
    seen: int = 0
    pinned: int = 0


class Shares:
    """Loop-only."""

    def __init__(self) -> None:
        self._groups: OrderedDict[str, _Group] = OrderedDict()
        self._files: OrderedDict[tuple[int, int], tuple[str, int, bool]] = OrderedDict()

    def pins(self, group: str, share: float, identity: Identity) -> bool:
        """Whether a file that is opened is one of those that are pinned; ``share`` in percent."""
        key = identity.dev, identity.ino
        found = self._files.get(key)
        if found is not None and found[:2] == (group, identity.size):
            return found[2]
        if found is not None:
            self._take_back(*found)
        own = self._groups.setdefault(group, _Group())
        self._groups.move_to_end(group)
        own.seen += identity.size
        pinned = own.pinned + identity.size <= own.seen * share / 100
        if pinned:
            own.pinned += identity.size
        self._files[key] = group, identity.size, pinned
        self._files.move_to_end(key)
        if len(self._files) > FILES:
            self._files.popitem(last=False)
        if len(self._groups) > GROUPS:
            self._groups.popitem(last=False)
        return pinned

    def _take_back(self, group: str, size: int, pinned: bool) -> None:
        """The file has another size or is part of another group now."""
        old = self._groups.get(group)
        if old is not None:
            old.seen -= size
            old.pinned -= size if pinned else 0
