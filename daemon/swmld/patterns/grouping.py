"""Which directories one job reads as one dataset. Pure.

A dataset begins as one directory. Directories side by side become one when a job reads from four or more of
them files of the same kind (train/<class>/*.jpg), or when one process goes back and forth between two.
Those that are named for different purposes (train, val) stay apart unless they are read back and forth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from swmld.patterns.dataset import Dataset
from swmld.patterns.feed import Folder, Names, Numbers, Place, no_numbers
from swmld.patterns.leaf import Leaf
from swmld.patterns.order import Histories
from swmld.patterns.roles import is_split, suffix_of
from swmld.patterns.seen import Budget

DEPTH = 6
"""Directories above a file's own that are looked at: deeper trees are hashes or dates, alike at every
level."""

ALIKE = 4
"""Directories side by side, with files of the same kind, that make one dataset: train, val and test are
three."""

SWITCHES = 8
"""Changes of one process from one directory to the other, and at least one in 16 files of both, that make one
dataset: a validation set is entered once an epoch."""

MOST_PAIRS = 256


@dataclass(slots=True)
class Room:
    """What all jobs share: directories that may be followed, bytes for their bitmaps, files whose order is
    remembered, natural order."""

    folders: int
    budget: Budget
    histories: Histories
    natural: Numbers = no_numbers
    used: int = 0


@dataclass(slots=True)
class _Child:
    """A directory below one where datasets may meet."""

    name: str
    suffix: bytes
    datasets: set[int] = field(default_factory=set)  # their roots


class Grouping:
    """The datasets of one job. ``datasets`` in order of their beginning."""

    def __init__(self, job: int, names: Names, room: Room, most: int) -> None:
        self.job = job
        self._names = names
        self._room = room
        self._most = most
        self.leaves: dict[int, Leaf] = {}
        self.datasets: list[Dataset] = []
        self._roots: dict[int, Dataset] = {}
        self._deep: set[int] = set()
        """Roots below which every directory belongs to the dataset."""
        self._under: dict[int, dict[int, _Child]] = {}
        self._switches: dict[tuple[int, int], int] = {}
        self.on_drop: Callable[[Dataset, Dataset | None], None] = lambda dataset, heir: None
        """Told when a dataset ends, with the one that takes its place."""

    def leaf(self, place: Place, at: float) -> Leaf | None:
        """The directory of a file, in its dataset; ``None`` if nothing is known of it."""
        found = self.leaves.get(place.directory)
        if found is not None:
            return found
        folder = self._names.folder(place.directory)
        if folder is None:
            return None
        chain = self._chain(place.directory, folder)
        owner = self._owner(place.directory, chain)
        if self._room.used >= self._room.folders:
            if owner is not None:
                return self._rest(owner, folder)
            if not self._forget_oldest():
                return None
        leaf = self.leaves[place.directory] = Leaf(place.directory, folder, self._room.budget)
        self._room.used += 1
        if owner is None:
            owner = self._begin(place, folder, at)
            owner.adopt(leaf)
            self._meet(owner, chain, suffix_of(place.name))
        else:
            owner.adopt(leaf)
        return leaf

    def _chain(self, directory: int, folder: Folder) -> list[tuple[int, Folder]]:
        """The directory and those above it, nearest first."""
        chain = [(directory, folder)]
        while folder.parent is not None and len(chain) <= DEPTH:
            above = self._names.folder(folder.parent)
            if above is None:
                break
            chain.append((folder.parent, above))
            folder = above
        return chain

    def _owner(self, directory: int, chain: list[tuple[int, Folder]]) -> Dataset | None:
        if directory in self._roots:
            return self._roots[directory]
        for (_, child), (above, _) in pairwise(chain):
            if is_split(_base(child.path)):
                return None
            if above in self._deep:
                return self._roots[above]
        return None

    def _rest(self, owner: Dataset, folder: Folder) -> Leaf:
        if owner.rest is None:
            owner.rest = Leaf(0, Folder(folder.parent, owner.path, None), self._room.budget)
            owner.rest.dataset = owner
        return owner.rest

    def _begin(self, place: Place, folder: Folder, at: float) -> Dataset:
        if len(self.datasets) >= self._most:
            self._forget_oldest()
        room = self._room
        dataset = Dataset(self.job, place.directory, folder.path, at, room.natural, room.histories)
        self.datasets.append(dataset)
        self._roots[place.directory] = dataset
        return dataset

    # ---- meeting

    def _meet(self, dataset: Dataset, chain: list[tuple[int, Folder]], suffix: bytes) -> None:
        """A new dataset: do enough like it lie side by side below one of the directories above?"""
        for (number, child), (above, folder) in pairwise(chain):
            name = _base(child.path)
            children = self._under.setdefault(above, {})
            entry = children.setdefault(number, _Child(name, suffix))
            entry.datasets.add(dataset.root)
            alike = {
                key: other
                for key, other in children.items()
                if other.suffix == suffix and not is_split(other.name)
            }
            if number in alike and len(alike) >= ALIKE:
                roots = {root for other in alike.values() for root in other.datasets}
                self._merge(roots, above, folder.path, deep=True)
                return
            if is_split(name):
                return

    def switched(self, before: Dataset, after: Dataset) -> None:
        """A process that read from one dataset reads from the other now."""
        pair = (min(before.root, after.root), max(before.root, after.root))
        if pair not in self._switches and len(self._switches) >= MOST_PAIRS:
            self._switches.clear()
        count = self._switches[pair] = self._switches.get(pair, 0) + 1
        if count < SWITCHES or count * 16 < before.files + after.files:
            return
        self._switches[pair] = 0
        above = self._common(before, after)
        if above is not None:
            self._merge({before.root, after.root}, *above, deep=False)

    def _common(self, one: Dataset, other: Dataset) -> tuple[int, str] | None:
        """The directory in which both lie, at most two levels up."""
        mine = self._above(one.root)
        theirs = self._above(other.root)
        for number in mine[:3]:
            if number in theirs[:3]:
                folder = self._names.folder(number)
                return None if folder is None else (number, folder.path)
        return None

    def _above(self, directory: int) -> list[int]:
        folder = self._names.folder(directory)
        return [] if folder is None else [number for number, _ in self._chain(directory, folder)]

    def _merge(self, roots: set[int], root: int, path: str, *, deep: bool) -> None:
        parts = list(dict.fromkeys(self._roots[number] for number in roots if number in self._roots))
        if not parts:
            return
        heir, *others = sorted(parts, key=lambda dataset: -dataset.files)
        for other in others:
            heir.absorb(other)
        for number, dataset in list(self._roots.items()):
            if dataset in others:
                self._roots[number] = heir
        self.datasets = [dataset for dataset in self.datasets if dataset not in others]
        self._switches = {pair: n for pair, n in self._switches.items() if not roots.intersection(pair)}
        heir.path = path
        if deep:
            heir.root = root
            self._roots[root] = heir
            self._deep.add(root)
        for other in others:
            self.on_drop(other, heir)

    # ---- forgetting

    def _forget_oldest(self) -> bool:
        if not self.datasets:
            return False
        self.forget(min(self.datasets, key=lambda dataset: dataset.last_at))
        return True

    def forget(self, dataset: Dataset) -> None:
        """Drops a dataset with its directories."""
        self.datasets.remove(dataset)
        dataset.drop()
        for number in dataset.leaves:
            self.leaves.pop(number, None)
        self._room.used -= len(dataset.leaves)
        gone = {number for number, owner in self._roots.items() if owner is dataset}
        for number in gone:
            del self._roots[number]
        self._deep -= gone
        for above, children in list(self._under.items()):
            for number, child in list(children.items()):
                child.datasets -= gone
                if not child.datasets:
                    del children[number]
            if not children:
                del self._under[above]
        self.on_drop(dataset, None)

    def forget_all(self) -> None:
        for dataset in list(self.datasets):
            self.forget(dataset)


def _base(path: str) -> str:
    return path.rpartition("/")[2]
