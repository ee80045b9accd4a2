"""How much disk a run takes, and what becomes of what its visits leave there.

Nothing of a visit is deleted while a run measures. ext4 does not hand out an inode that was freed within the
last minutes: it passes over each of them (``recently_deleted`` in fs/ext4/ialloc.c), so whoever makes files
where another's were deleted would pay for it, up to 1.2 ms a file instead of 20 µs.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rig import MIB, SMALL, Sizes

BLOCK = 4096
LEFT = 32 * MIB  # of a visit, beside the bytes of files: index, names, log
MARGIN = 1.05


@dataclass(frozen=True)
class Plan:
    """What a run does. ``cache_bytes``: of each peer; ``copies``: made by stored.c in a round."""

    peers: Sequence[str]
    groups: Sequence[str]
    rounds: int
    sizes: Sizes
    cache_bytes: int
    copies: int
    emptied: bool = False

    def need(self) -> int:
        """Bytes of disk that it takes at its fullest, the cluster's included."""
        read = self._read()
        stock = sum(read[kind] for kind in {group.removeprefix("slow-") for group in self.groups} & set(read))
        total = 2 * stock  # the files, and the cluster's copy
        if "juicefs" in self.peers:
            total += stock + min(stock, self.cache_bytes)  # its objects, and the cache of who made them
        left = 0  # by visits
        largest = self.sizes.cold  # while one is there: what raw checkpoints write
        for group in self.groups:
            visits = self.rounds * (1 if group == "back" else len(self.peers))
            bytes_read = read.get(group.removeprefix("slow-"), 0)
            if group in ("write", "back"):
                total += visits * self.sizes.cold  # volume servers keep what is removed
                bytes_read = self.sizes.cold
            each = min(bytes_read, self.cache_bytes)
            left += visits * each
            largest = max(largest, each)
            total += visits * LEFT
            if group in read:
                left += self.rounds * self.copies * bytes_read
                largest = max(largest, bytes_read)
        if "weed" in self.peers:
            largest = max(largest, self.cache_bytes)  # it reserves all of it at each start
        return int((total + largest + (0 if self.emptied else left)) * MARGIN)

    def _read(self) -> dict[str, int]:
        """Bytes of disk of what a visit of each kind reads."""
        small = -(-SMALL // BLOCK) * BLOCK
        return {"seq": self.sizes.cold, "small": self.sizes.cold_small * small}


def leave(base: Path, emptied: bool) -> None:
    """Gives back what files below ``base`` reserve past their end (``weed mount``: all of its cache from the
    start on); ``emptied``: what they hold, too. All inodes stay."""
    for directory, _, names in os.walk(base):
        for name in names:
            path = os.path.join(directory, name)
            found = os.lstat(path)
            size = 0 if emptied else found.st_size
            if stat.S_ISREG(found.st_mode) and found.st_blocks * 512 > size:
                os.truncate(path, size)


def refusal(need: int, free: int, directory: str, emptied: bool) -> str:
    """Why a run cannot be made; empty where it can."""
    if need <= free:
        return ""
    advice = "--only, --rows, --rounds or --quick" + ("" if emptied else ", or --emptied")
    return f"{said(need, free, directory)}: free some, or take less by {advice}"


def said(need: int, free: int, directory: str) -> str:
    return f"disk: this run takes up to {need / 2**30:.1f} GiB, {directory} has {free / 2**30:.1f} GiB free"
