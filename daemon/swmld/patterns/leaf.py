"""One directory as read by one job: which of its files were seen in the present epoch. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swmld.patterns.feed import Folder, Names
from swmld.patterns.seen import Bits, Budget, Filter

if TYPE_CHECKING:
    from swmld.patterns.dataset import Dataset


class Leaf:
    """``number`` is the directory's nodeid. ``epoch`` says of which epoch ``seen`` is."""

    __slots__ = (
        "_before",
        "_bits",
        "_budget",
        "_filter",
        "asked_at",
        "base",
        "dataset",
        "epoch",
        "files",
        "number",
        "path",
        "seen",
    )

    def __init__(self, number: int, folder: Folder, budget: Budget) -> None:
        self.number = number
        self.path = folder.path
        self.files = folder.files
        self.dataset: Dataset | None = None
        """``None`` once it is forgotten."""
        self.asked_at = float("-inf")
        """When somebody last looked whether it has been listed."""
        self.base = 0
        """Files of its dataset that lie in directories before it, by path."""
        self.epoch = 0
        self.seen = 0
        self._budget = budget
        self._bits: Bits | None = None
        self._before: Bits | None = None
        """What the last epoch saw, while somebody may still be at it."""
        self._filter: Filter | None = None
        if folder.files is not None:
            self._bits = Bits(budget)

    def add(self, file: int, index: int | None) -> bool:
        """True if the file is new in this epoch."""
        new: bool | None = None
        if index is not None and self._bits is not None:
            new = self._bits.add(index)
        if new is None:
            if self._filter is None:
                self._filter = Filter(self._budget)
            new = self._filter.add(file)
        if new and (self.files is None or self.seen < self.files):
            self.seen += 1
        return new

    def begin(self, epoch: int, *, keep: bool = False) -> None:
        """Forget what the last epoch saw; ``keep``: not yet (``add_before``)."""
        self.forget_before()
        if keep and self.epoch == epoch - 1:
            self._before, self._bits = self._bits, None
        self.epoch = epoch
        self.seen = 0
        self._clear_filter()
        if self._bits is not None:
            self._bits.clear()
        elif self.files is not None:
            self._bits = Bits(self._budget)

    def add_before(self, index: int) -> bool:
        """True if the last epoch had not seen it, as far as that is known."""
        return self._before is not None and self._before.add(index) is True

    def forget_before(self) -> None:
        """Everybody is at this epoch."""
        if self._before is not None:
            self._before.drop()
            self._before = None

    def listed(self, files: int, names: Names) -> None:
        """The directory was listed: from now on by index, if what was seen can be looked up."""
        self.files = files
        exact = self._filter.exact if self._filter is not None else set()
        if self._bits is not None or exact is None:
            return
        bits = Bits(self._budget)
        left = set()
        for file in exact:
            place = names.place(file)
            if place is None or place.index is None or bits.add(place.index) is None:
                left.add(file)
        self._bits = bits
        self._clear_filter()
        if left:
            self._filter = Filter(self._budget)
            for file in left:
                self._filter.add(file)
        self.seen = min(self.seen, files)

    def drop(self) -> None:
        """Gives its memory back; it belongs to no dataset any more."""
        self.dataset = None
        self._clear_filter()
        self.forget_before()
        if self._bits is not None:
            self._bits.drop()

    def _clear_filter(self) -> None:
        if self._filter is not None:
            self._filter.clear()
            self._filter = None
