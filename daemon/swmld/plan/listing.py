"""The names of one directory in little memory, and three orders of them. Pure.

A directory of a million images is common, and a Python list of its names with a dictionary over it is 200
MB. Here the names lie sorted in one byte string: about 30 bytes each with all tables, and eight more where
the natural order is another one. Readers go through a directory in one of three orders: sorted
(``sorted(os.listdir())``, torchvision, shell globs), natural, with digits compared as numbers (``for n in
range(count)``, ``ls -v``), or as the kernel lists it.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable
from heapq import merge

RUN = 8192
"""Names sorted in one go: sorting keeps the interpreter lock, 8,192 of them for 3 ms, and readers wait that
long."""

_DIGITS = re.compile(rb"[0-9]+")
_AS_ZERO = bytes(ord("0") if chr(byte) in "0123456789" else byte for byte in range(256))


class Listing:
    """``names`` as they were listed; each has an *index*, its place in sorted order. Duplicates are kept
    once.

    Building it takes about 4 s for a million names, 8 s where they hold numbers without leading zeros: do it
    in a worker thread. It never changes.
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
        """The kernel's order is that of the names."""
        self._number, self._at_number = array("I"), array("I")
        self._count()

    def _count(self) -> None:
        """Tables of the natural order, where it is not the sorted one."""
        if self._padded():
            return
        self._at_number = _ordered(len(self), lambda index: natural_key(self.name(index)))
        self._number = array("I", bytes(len(self._at_number) * self._at_number.itemsize))
        for number, index in enumerate(self._at_number):
            self._number[index] = number

    def _padded(self) -> bool:
        """Sorted order is natural order: mostly told from names that differ in nothing but their digits."""
        count = len(self)
        shape = self.name(0).translate(_AS_ZERO) if count else b""
        if all(self.name(index).translate(_AS_ZERO) == shape for index in range(count)):
            return True
        last = b""
        for index in range(count):
            key = natural_key(self.name(index))
            if key < last:
                return False
            last = key
        return True

    def __len__(self) -> int:
        return len(self._place)

    @property
    def nbytes(self) -> int:
        """Memory that it takes, in bytes."""
        tables = (self._starts, self._place, self._index, self._number, self._at_number)
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

    @property
    def sorted_as_numbered(self) -> bool:
        """Sorted order is natural order: numbers in names have leading zeros, or there are none."""
        return not self._number

    def number(self, index: int) -> int:
        """The place of the name at ``index`` in natural order."""
        return self._number[index] if self._number else index

    def at_number(self, number: int) -> int:
        """The index of the name at that place of the natural order."""
        return self._at_number[number] if self._number else number


def natural_key(name: bytes) -> bytes:
    """Keys compare as names do with their digits taken for numbers: ``2`` comes before ``10``. Names that
    differ in leading zeros alone have one key."""
    return _DIGITS.sub(_numeral, name)


def _numeral(match: re.Match[bytes]) -> bytes:
    # The length first: of two numbers the one of more digits is larger. 255 bytes are the longest name.
    digits = match[0].lstrip(b"0")
    return b"0%c%b" % (min(len(digits), 255), digits)


def _sorted_places(listed: list[bytes]) -> array[int]:
    """Places in the order of their names; of equal names one alone."""
    places = array("I")
    previous: bytes | None = None
    for place in _ordered(len(listed), listed.__getitem__):
        if listed[place] != previous:
            places.append(place)
        previous = listed[place]
    return places


def _ordered(count: int, key: Callable[[int], bytes]) -> array[int]:
    """The numbers below ``count`` in the order of their keys, in their own among equal ones."""
    runs = [
        array("I", sorted(range(start, min(start + RUN, count)), key=key)) for start in range(0, count, RUN)
    ]
    return array("I", merge(*runs, key=key))
