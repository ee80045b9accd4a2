"""The names of one directory in little memory, and two orders of them. Pure.

A directory of a million images is common, and a Python list of its names with a dictionary over it is 200
MB. Here the names lie sorted in one byte string: about 30 bytes each with all tables. Readers go through a
directory in one of two orders: sorted (``sorted(os.listdir())``, torchvision, shell globs) or as the kernel
lists it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from heapq import merge

RUN = 8192
"""Names sorted in one go: sorting keeps the interpreter lock, 8,192 of them for 3 ms, and readers wait that
long."""


class Listing:
    """``names`` as they were listed; each has an *index*, its place in sorted order. Duplicates are kept
    once.

    Building it takes about 3 s for a million names: do it in a worker thread. It never changes.
    """

    def __init__(self, names: Iterable[bytes]) -> None:
        listed = list(names)
        order = _sorted_places(listed)
        if len(order) < len(listed):
            listed = list(dict.fromkeys(listed))
            order = _sorted_places(listed)
        self._place = order
        self._index = array("I", bytes(order.itemsize * len(order)))
        self._starts = array("Q", [0])
        start = 0
        for index, place in enumerate(order):
            self._index[place] = index
            start += len(listed[place])
            self._starts.append(start)
        self._names = b"".join(listed[place] for place in order)
        self.sorted_as_listed = all(index == place for index, place in enumerate(self._place))
        """Both orders are the same."""

    def __len__(self) -> int:
        return len(self._place)

    @property
    def nbytes(self) -> int:
        """Memory that it takes, in bytes."""
        tables = (self._starts, self._place, self._index)
        return len(self._names) + sum(len(table) * table.itemsize for table in tables)

    def name(self, index: int) -> bytes:
        """The name at ``index`` of the sorted order."""
        return self._names[self._starts[index] : self._starts[index + 1]]

    def find(self, name: bytes) -> int | None:
        """Its index; ``None`` for a name that was not listed."""
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self.name(middle) < name:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self) and self.name(low) == name else None

    def place(self, index: int) -> int:
        """Where the kernel listed the name at ``index``."""
        return self._place[index]

    def at_place(self, place: int) -> int:
        """The index of the name that the kernel listed there."""
        return self._index[place]


def _sorted_places(listed: list[bytes]) -> array[int]:
    """Places in the order of their names; of equal names one alone."""
    runs = [
        sorted(range(start, min(start + RUN, len(listed))), key=listed.__getitem__)
        for start in range(0, len(listed), RUN)
    ]
    places = array("I")
    previous: bytes | None = None
    for place in merge(*runs, key=listed.__getitem__):
        if listed[place] != previous:
            places.append(place)
        previous = listed[place]
    return places
