"""The directories of one dataset in the order of their paths, and how many files lie before each. Pure."""

from __future__ import annotations

from bisect import bisect_left

from swmld.patterns.leaf import Leaf

LATE = 8
"""Once an eighth of the directories are new, the counts are made again: each costs a few steps in all."""


class Catalog:
    """Reading in order goes through directories by path and through each by name: a file's place in that is
    ``leaf.base`` plus its index. Bases are exact but for directories that came lately."""

    __slots__ = ("_leaves", "_paths", "_since", "_unlisted", "files")

    def __init__(self) -> None:
        self._paths: list[str] = []
        self._leaves: list[Leaf] = []
        self._since = 0
        self._unlisted = 0
        self.files = 0
        """In all directories that are listed."""

    def __len__(self) -> int:
        return len(self._leaves)

    @property
    def total(self) -> int | None:
        """Files in all directories; ``None`` while one is not listed."""
        return None if self._unlisted else self.files

    def add(self, leaf: Leaf) -> None:
        at = bisect_left(self._paths, leaf.path)
        self._paths.insert(at, leaf.path)
        self._leaves.insert(at, leaf)
        before = self._leaves[at - 1] if at else None
        leaf.base = before.base + (before.files or 0) if before is not None else 0
        self.files += leaf.files or 0
        self._unlisted += leaf.files is None
        if at + 1 < len(self._leaves):
            self._since += 1
            if self._since * LATE >= len(self._leaves):
                self._count()

    def listed(self, leaf: Leaf, before: int | None) -> None:
        """A directory has ``leaf.files`` files now and had ``before``."""
        self._unlisted += (leaf.files is None) - (before is None)
        self.files += (leaf.files or 0) - (before or 0)
        self._since += 1
        if self._since * LATE >= len(self._leaves):
            self._count()

    def _count(self) -> None:
        self._since = 0
        base = 0
        for leaf in self._leaves:
            leaf.base = base
            base += leaf.files or 0
