"""Which files were seen, in bounded memory. Pure.

Where the folder is listed: one bit a file, exact. Where it is not: nodeids, exact up to ``EXACT`` of them
and a quarter of the memory that all have, then a filter of bits that grows by layers: of the files that are
new, it takes up to 7 % for seen ones at 10 million (five layers, each at most 1.4 % when it is full). It
never forgets one.
"""

from __future__ import annotations

EXACT = 4096
"""Nodeids in a set: 0.4 MiB, and looked up in the listing in about 4 ms once there is one."""

STEP = 64
"""Nodeids by which a set asks for more room."""

NODEID = 100
"""Bytes of a nodeid in a set, by its resident memory."""

LARGER = 4
"""Times the bits of a layer that the next one has; ``FIRST``: times the nodeids of a set that the first one
is for."""

FIRST = 16

LAST_BITS = 26
"""Binary logarithm of the largest layer: 8 MiB."""

PER_FILE = 16
"""Bits a file: with two bits set for each, (1 - exp(-2/16))^2 = 1.4 % of others look alike in a full
layer."""

MOST_INDEX = 1 << 27
"""Largest index that gets a bit (16 MiB of them); files beyond go to the filter."""

# The finishing steps of splitmix64 (Steele, Lea and Flood 2014): nodeids are inode numbers, in series.
_MIX = 0xBF58476D1CE4E5B9
_MIX_AGAIN = 0x94D049BB133111EB
_WORD = (1 << 64) - 1


class Budget:
    """Bytes that all bitmaps and sets together may take; ``exact`` is the sets' share."""

    __slots__ = ("exact", "limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.exact = 0

    def take(self, nbytes: int) -> bool:
        """False if they are not there."""
        if self.used + nbytes > self.limit:
            return False
        self.used += nbytes
        return True

    def give(self, nbytes: int) -> None:
        self.used -= nbytes

    def take_exact(self, nbytes: int) -> bool:
        """The same for sets, which may have a quarter of all."""
        if self.exact + nbytes > self.limit >> 2 or not self.take(nbytes):
            return False
        self.exact += nbytes
        return True

    def give_exact(self, nbytes: int) -> None:
        self.exact -= nbytes
        self.give(nbytes)


class Bits:
    """One bit for each index of a listing."""

    __slots__ = ("_bits", "_budget")

    def __init__(self, budget: Budget) -> None:
        self._bits = bytearray()
        self._budget = budget

    def add(self, index: int) -> bool | None:
        """True if it is new, ``None`` if there is no room for its bit."""
        place = index >> 3
        mask = 1 << (index & 7)
        try:
            byte = self._bits[place]
        except IndexError:
            if not self._grow(place):
                return None
            byte = 0
        if byte & mask:
            return False
        self._bits[place] = byte | mask
        return True

    def _grow(self, place: int) -> bool:
        # By half at least, so that a folder of unknown size is not copied for every eighth file.
        wanted = max(place + 1, len(self._bits) * 3 // 2, 16) - len(self._bits)
        if place >= MOST_INDEX >> 3 or not self._budget.take(wanted):
            return False
        self._bits += bytes(wanted)
        return True

    def clear(self) -> None:
        """All are unseen; their room is kept."""
        self._bits[:] = bytes(len(self._bits))

    def drop(self) -> None:
        """As ``clear``, and gives the memory back."""
        self._budget.give(len(self._bits))
        self._bits = bytearray()


class Filter:
    """Nodeids, without a listing."""

    __slots__ = ("_budget", "_exact", "_layers", "_left", "_room")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._exact: set[int] | None = set()
        self._room = 0  # nodeids for which memory was taken
        self._layers: list[tuple[bytearray, int]] = []  # and its binary logarithm of bits
        self._left = 0

    @property
    def exact(self) -> set[int] | None:
        """The nodeids themselves, while they are few."""
        return self._exact

    def add(self, file: int) -> bool:
        """True if it is new, or looks so."""
        exact = self._exact
        if exact is None:
            return self._insert(file)
        if file in exact:
            return False
        if len(exact) >= self._room:
            if self._room >= EXACT or not self._budget.take_exact(STEP * NODEID):
                self._to_layers(exact)
                return self._insert(file)
            self._room += STEP
        exact.add(file)
        return True

    def _to_layers(self, files: set[int]) -> None:
        self._give_exact()
        self._exact = None
        self._extend(max(STEP, len(files)) * FIRST)
        for file in files:
            self._insert(file)

    def _insert(self, file: int) -> bool:
        word = (file ^ file >> 30) * _MIX & _WORD
        word = (word ^ word >> 27) * _MIX_AGAIN & _WORD
        one = word >> 32
        two = word ^ word >> 31
        for bits, power in self._layers:
            mask = (1 << power) - 1
            a, b = one & mask, two & mask
            if bits[a >> 3] >> (a & 7) & 1 and bits[b >> 3] >> (b & 7) & 1:
                return False
        if self._left <= 0:
            self._extend((1 << self._layers[-1][1]) // PER_FILE * LARGER if self._layers else STEP * FIRST)
        if not self._layers:
            return True  # no memory at all: everything looks new
        bits, power = self._layers[-1]
        mask = (1 << power) - 1
        for bit in (one & mask, two & mask):
            bits[bit >> 3] |= 1 << (bit & 7)
        self._left -= 1
        return True

    def _extend(self, files: int) -> None:
        """Another layer, for so many files."""
        power = min((files * PER_FILE - 1).bit_length(), LAST_BITS)
        if self._budget.take(1 << power >> 3):
            self._layers.append((bytearray(1 << power >> 3), power))
            self._left = (1 << power) // PER_FILE

    def _give_exact(self) -> None:
        self._budget.give_exact(self._room * NODEID)
        self._room = 0

    def clear(self) -> None:
        for bits, _ in self._layers:
            self._budget.give(len(bits))
        self._layers = []
        self._left = 0
        self._give_exact()
        self._exact = set()
