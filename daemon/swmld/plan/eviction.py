"""Which cached files to give up when room is needed. Pure: candidates in, file ids out.

The cache offers candidates in batches, first those that are to go first, of equal ones oldest use first, with
the latest use that it or the mount knows. A policy only orders and chooses; limits, pins and the deletion
itself are the cache's business (``swmld.cache.reclaim``).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


class Keep(enum.IntEnum):
    """How hard a file is to evict; a lower one goes before any higher one."""

    FIRST = 0
    NORMAL = 1
    LAST = 2
    NEVER = 3


@dataclass(frozen=True, slots=True)
class Candidate:
    """A cached file that might go.

    ``nbytes`` is what its going frees. ``last_used`` is seconds since the epoch. A ``pinned`` file is open:
    no policy may choose it, nor one to keep NEVER.
    """

    file_id: int
    nbytes: int
    last_used: float
    pinned: bool = False
    keep: Keep = Keep.NORMAL

    @property
    def stays(self) -> bool:
        """Whether no policy may choose it."""
        return self.pinned or self.keep is Keep.NEVER


class Policy(Protocol):
    """Orders candidates for eviction; later policies plug in here."""

    def pick(self, candidates: Iterable[Candidate], need_bytes: int) -> list[int]:
        """File ids to evict, in order: none that ``stays``, none before one of a lower ``keep``, and no more
        than ``need_bytes`` takes.

        Fewer bytes than needed is a fair answer: the cache then offers the next batch.
        """
        ...


class Lru:
    """Least recently used first; of files used at the same moment, the one cached first."""

    def pick(self, candidates: Iterable[Candidate], need_bytes: int) -> list[int]:
        """See ``Policy.pick``; ``need_bytes`` of 0 or less picks nothing."""
        picked: list[int] = []
        for candidate in sorted(candidates, key=lambda each: (each.keep, each.last_used, each.file_id)):
            if need_bytes <= 0:
                break
            if candidate.stays:
                continue
            picked.append(candidate.file_id)
            need_bytes -= candidate.nbytes
        return picked
