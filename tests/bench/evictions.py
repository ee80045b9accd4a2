"""Which share of reads eviction policies serve from the cache: percent, over traces of our own.

    python tests/bench/evictions.py [--cache] [TRACE...]

The policies are simulated with files of one size, a cache of 1,000 of them and one read each ten seconds;
``swmld`` is ``plan.reuse``, which learns of uses as the cache does: when eviction meets a file. Its columns
``m1`` to ``m4`` have another ``MARGIN``. With ``--cache`` there is a column of the cache itself, index and
data files, with room for 200 files and traces of a fifth: some minutes, numbers should be alike. The first
epoch of epochs is not counted. The same numbers are drawn each time.

Traces
    shuffled-50, -80, -20   epochs in an order of their own each, of which so many percent fit the cache
    loop-110, loop-200      the same order each time, of 1.1 and 2 times what fits
    zipf                    some files often, most hardly ever: 10,000 files, exponent 0.9
    scan                    a working set read twice, then a scan of three times what fits, and so on
    models                  one read in ten is of one of 300 models, the rest a stream that never comes again
    moving-80, moving-150   four working sets one after the other, five shuffled epochs each
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import random
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.cachekit import OVERHEAD, Machine, fill, identity
from swmld.errors import CacheFull
from swmld.plan import reuse
from swmld.types import Identity

ROOM = 1000
SECONDS = 10.0


class Simulated(Protocol):
    """A cache of files of one size."""

    def read(self, file: int) -> bool:
        """Read a file; whether it was there."""
        ...


class Lru:
    """Least recently used first: what the cache did before."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.files: OrderedDict[int, None] = OrderedDict()

    def read(self, file: int) -> bool:
        hit = file in self.files
        self.files[file] = None
        self.files.move_to_end(file)
        if len(self.files) > self.room:
            self.files.popitem(last=False)
        return hit


class Sieve:
    """Zhang et al., NSDI 2024."""

    def __init__(self, room: int) -> None:
        self.room, self.hand = room, 0
        self.queue: list[int] = []
        self.visited: dict[int, bool] = {}

    def read(self, file: int) -> bool:
        if file in self.visited:
            self.visited[file] = True
            return True
        if len(self.queue) >= self.room:
            self.hand %= len(self.queue)
            while self.visited[self.queue[self.hand]]:
                self.visited[self.queue[self.hand]] = False
                self.hand = (self.hand + 1) % len(self.queue)
            del self.visited[self.queue.pop(self.hand)]
        self.queue.append(file)
        self.visited[file] = False
        return False


class S3Fifo:
    """Yang et al., SOSP 2023."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.small: OrderedDict[int, int] = OrderedDict()
        self.main: OrderedDict[int, int] = OrderedDict()
        self.ghosts: OrderedDict[int, None] = OrderedDict()

    def read(self, file: int) -> bool:
        for queue in (self.small, self.main):
            if file in queue:
                queue[file] = min(3, queue[file] + 1)
                return True
        while len(self.small) + len(self.main) >= self.room:
            self._evict()
        known = self.ghosts.pop(file, 0) is None
        (self.main if known else self.small)[file] = 0
        return False

    def _evict(self) -> None:
        if len(self.small) * 10 >= self.room:
            file, used = self.small.popitem(last=False)
            if used > 1:
                self.main[file] = 0
                return
            self.ghosts[file] = None
            if len(self.ghosts) * 10 > self.room * 9:
                self.ghosts.popitem(last=False)
            return
        file, used = self.main.popitem(last=False)
        if used:
            self.main[file] = used - 1


class TwoQ:
    """Johnson, Shasha, VLDB 1994; a quarter for newcomers, ghosts of half the cache."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.fifo: OrderedDict[int, None] = OrderedDict()
        self.main: OrderedDict[int, None] = OrderedDict()
        self.ghosts: OrderedDict[int, None] = OrderedDict()

    def read(self, file: int) -> bool:
        if file in self.main:
            self.main.move_to_end(file)
            return True
        if file in self.fifo:
            return True
        if len(self.fifo) + len(self.main) >= self.room:
            if len(self.fifo) * 4 > self.room or not self.main:
                self.ghosts[self.fifo.popitem(last=False)[0]] = None
                if len(self.ghosts) * 2 > self.room:
                    self.ghosts.popitem(last=False)
            else:
                self.main.popitem(last=False)
        known = self.ghosts.pop(file, 0) is None
        (self.main if known else self.fifo)[file] = None
        return False


class Slru:
    """Karedla et al., 1994: promoted at the second use, no ghosts; a fifth for newcomers."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.probation: OrderedDict[int, None] = OrderedDict()
        self.main: OrderedDict[int, None] = OrderedDict()

    def read(self, file: int) -> bool:
        if file in self.main:
            self.main.move_to_end(file)
            return True
        if file in self.probation:
            del self.probation[file]
            self.main[file] = None
            if len(self.main) * 5 > self.room * 4:
                self.probation[self.main.popitem(last=False)[0]] = None
            return True
        self.probation[file] = None
        if len(self.probation) + len(self.main) > self.room:
            self.probation.popitem(last=False)
        return False


class Arc:
    """Megiddo, Modha, FAST 2003."""

    def __init__(self, room: int) -> None:
        self.room, self.target = room, 0
        self.once: OrderedDict[int, None] = OrderedDict()
        self.often: OrderedDict[int, None] = OrderedDict()
        self.once_gone: OrderedDict[int, None] = OrderedDict()
        self.often_gone: OrderedDict[int, None] = OrderedDict()

    def read(self, file: int) -> bool:
        if file in self.once or file in self.often:
            self.once.pop(file, None)
            self.often[file] = None
            self.often.move_to_end(file)
            return True
        once, often = len(self.once_gone), len(self.often_gone)
        if file in self.once_gone:
            self.target = min(self.room, self.target + max(1, often // once))
            self._replace(file)
            del self.once_gone[file]
            self.often[file] = None
        elif file in self.often_gone:
            self.target = max(0, self.target - max(1, once // often))
            self._replace(file)
            del self.often_gone[file]
            self.often[file] = None
        else:
            self._make_room(file)
            self.once[file] = None
        return False

    def _make_room(self, file: int) -> None:
        once = len(self.once) + len(self.once_gone)
        if once == self.room:
            if len(self.once) < self.room:
                self.once_gone.popitem(last=False)
                self._replace(file)
            else:
                self.once.popitem(last=False)
        elif once + len(self.often) + len(self.often_gone) >= self.room:
            if once + len(self.often) + len(self.often_gone) >= 2 * self.room:
                self.often_gone.popitem(last=False)
            self._replace(file)

    def _replace(self, file: int) -> None:
        many = len(self.once) > self.target or (file in self.often_gone and len(self.once) == self.target)
        if self.once and many:
            self.once_gone[self.once.popitem(last=False)[0]] = None
        else:
            self.often_gone[self.often.popitem(last=False)[0]] = None


class Protecting:
    """``plan.reuse`` with uses learned late: ``known`` is what the index has, ``opened`` what C saw."""

    def __init__(self, room: int, margin: float = reuse.MARGIN) -> None:
        self.room, self.margin, self.now = room, margin, 0.0
        self.reuse = reuse.Reuse()
        self.lines: tuple[list[tuple[float, int]], list[tuple[float, int]]] = ([], [])
        self.protected: dict[int, bool] = {}
        self.known: dict[int, float] = {}
        self.opened: dict[int, float] = {}

    def read(self, file: int) -> bool:
        self.now += SECONDS
        before, reuse.MARGIN = reuse.MARGIN, self.margin
        try:
            return self._read(file)
        finally:
            reuse.MARGIN = before

    def _read(self, file: int) -> bool:
        if file in self.protected:
            self.opened[file] = self.now
            return True
        if len(self.protected) >= self.room:
            self._evict(self.room // 50)
        self.protected[file] = self.reuse.back(file, self.now)
        self.opened[file] = self.now
        self._note(file)
        return False

    def _note(self, file: int) -> None:
        self.known[file] = self.opened[file]
        heapq.heappush(self.lines[self.protected[file]], (self.known[file], file))

    def _head(self, protected: bool) -> int | None:
        line = self.lines[protected]
        while line:
            at, file = line[0]
            if self.protected.get(file) is protected and self.known[file] == at:
                return file
            heapq.heappop(line)
        return None

    def _look_at_protected(self) -> None:
        for _ in range(256):
            file = self._head(True)
            self.reuse.oldest = None if file is None else self.known[file]
            if file is None or self.opened[file] == self.known[file]:
                return
            self._note(file)

    def _evict(self, count: int) -> None:
        self._look_at_protected()
        waiting = len(self.protected) - sum(self.protected.values())
        self.reuse.measured(waiting, len(self.protected))
        line = not self.reuse.probation_first
        while count:
            file = self._head(line)
            if file is None:
                line = not line
                continue
            before, used = self.known[file], self.opened[file]
            if used > before:
                if not self.protected[file] and self.reuse.protects(before, used):
                    self.protected[file] = True
                    self.reuse.promoted(1)
                self._note(file)
                continue
            if not self.protected[file]:
                self.reuse.gone(file, used)
            del self.protected[file], self.known[file], self.opened[file]
            count -= 1


class Real:
    """The cache, read as the mount does it: what is whole is opened by C, which says so when it is asked."""

    def __init__(self, room: int, base: Path) -> None:
        self.machine = Machine(base)
        self.opened: dict[int, float] = {}
        self.cache = self.machine.open(size_limit=room * (100 + OVERHEAD))
        self.cache.usage_of = self._usage

    def _usage(self, of: Identity) -> tuple[float, bool] | None:
        return (self.opened[of.ino], False) if of.ino in self.opened else None

    def read(self, file: int) -> bool:
        self.machine.now += SECONDS
        of = identity(file, 100)
        self.opened[file] = self.machine.now
        if self.cache.lookup_complete(of) is not None:
            return True
        held = self.cache.acquire(of, b"f")
        with contextlib.suppress(CacheFull):
            self.cache.reserve(100)
            fill(held)
        held.release()
        return False


def epochs(files: int, count: int, draw: random.Random, first: int = 0) -> list[int]:
    """Shuffled ones."""
    return [first + file for _ in range(count) for file in draw.sample(range(files), files)]


def zipf(files: int, count: int, draw: random.Random) -> list[int]:
    weights = [1 / (place + 1) ** 0.9 for place in range(files)]
    return draw.choices(draw.sample(range(files), files), weights, k=count)


def scans(room: int, draw: random.Random) -> list[int]:
    files = room * 7 // 10
    reads: list[int] = []
    for round_ in range(5):
        reads += epochs(files, 2, draw)
        reads += range((round_ + 1) * 1_000_000, (round_ + 1) * 1_000_000 + 3 * room)
    return reads + epochs(files, 1, draw)


def models(room: int, draw: random.Random) -> list[int]:
    return [
        file
        for at in range(20 * room)
        for file in ([1_000_000 + at] + ([draw.randrange(room * 3 // 10)] if at % 10 == 0 else []))
    ]


def moving(room: int, percent: int, draw: random.Random) -> list[int]:
    files = room * percent // 100
    return [file for turn in range(4) for file in epochs(files, 5, draw, turn * 1_000_000)]


def traces(room: int) -> Iterator[tuple[str, list[int], int]]:
    """Name, files in the order in which they are read, reads that do not count."""
    for percent in (50, 80, 20):
        files = room * 100 // percent
        yield f"shuffled-{percent}", epochs(files, 10, random.Random(1)), files
    for percent in (110, 200):
        files = room * percent // 100
        yield f"loop-{percent}", list(range(files)) * 10, files
    yield "zipf", zipf(10 * room, 60 * room, random.Random(2)), 5 * room
    yield "scan", scans(room, random.Random(3)), 0
    yield "models", models(room, random.Random(4)), 0
    for percent in (80, 150):
        yield f"moving-{percent}", moving(room, percent, random.Random(5)), 0


POLICIES: dict[str, Callable[[int], Simulated]] = {
    "lru": Lru,
    "sieve": Sieve,
    "s3-fifo": S3Fifo,
    "2q": TwoQ,
    "slru": Slru,
    "arc": Arc,
    "swmld": Protecting,
    **{f"m{margin}": lambda room, margin=margin: Protecting(room, margin) for margin in (1, 2, 4)},  # type: ignore[misc]
}


def hits(cache: Simulated, reads: list[int], skip: int) -> float:
    """The share that was there, in percent."""
    found = [cache.read(file) for file in reads]
    return 100 * sum(found[skip:]) / (len(reads) - skip)


def real(name: str) -> float:
    small = ROOM // 5
    for other, reads, skip in traces(small):
        if other == name:
            with tempfile.TemporaryDirectory() as directory:
                cache = Real(small, Path(directory))
                try:
                    return hits(cache, reads, skip)
                finally:
                    cache.machine.close()
    raise ValueError(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cache", action="store_true", help="the cache itself as well")
    parser.add_argument("traces", nargs="*", metavar="TRACE")
    wanted = parser.parse_args()
    columns = [*POLICIES, "cache"] if wanted.cache else list(POLICIES)
    print(f"{'percent':14}" + "".join(f"{column:>9}" for column in columns))
    for name, reads, skip in traces(ROOM):
        if wanted.traces and name not in wanted.traces:
            continue
        row = [hits(policy(ROOM), reads, skip) for policy in POLICIES.values()]
        if wanted.cache:
            row.append(real(name))
        print(f"{name:14}" + "".join(f"{share:9.1f}" for share in row), flush=True)


if __name__ == "__main__":
    main()
