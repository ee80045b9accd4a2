"""A directory tree as read by one job: epochs, order, workers, batches. Pure."""

from __future__ import annotations

from swmld.patterns.catalog import Catalog
from swmld.patterns.epoch import BEHIND, COVERED, FEW, Behind, Boundary, Crew, may_begin_anew
from swmld.patterns.feed import PAGE, Numbers, Place, no_numbers
from swmld.patterns.leaf import Leaf
from swmld.patterns.meter import Meter
from swmld.patterns.order import Histories
from swmld.patterns.readers import Reader, Tally
from swmld.patterns.roles import LARGE, Kinds
from swmld.patterns.views import UNKNOWN, Finding, several
from swmld.patterns.walks import Walks

MOST_READERS = 1024
"""Processes whose way is followed: sixteen GPUs with 64 workers each."""

MOST_PROGRESS = 1024
"""Large files of which it is known how far they were read; 1,024 shards open at once are more than any reader
has."""

WHOLE = 0.9
"""Share of a large file that was read, from which its next reading counts as another epoch's."""

SAMPLE = -1

_NO_ORDER = ("shuffled", "groups", "fixed")
"""In these a file that comes again tells nothing by its place."""

UNKNOWN_PLACE = 0.02
"""Below this share of an epoch its number of workers is still the last epoch's."""


class Dataset:
    """``root`` is the nodeid of its directory; ``leaves`` those below it that hold files, by nodeid."""

    def __init__(
        self,
        job: int,
        root: int,
        path: str,
        at: float,
        natural: Numbers = no_numbers,
        histories: Histories | None = None,
    ) -> None:
        self.job = job
        self.root = root
        self.path = path
        self.leaves: dict[int, Leaf] = {}
        self.catalog = Catalog()
        self.rest: Leaf | None = None
        """Files of directories that are too many to follow one by one."""
        self.epoch = 1
        self.epoch_at = self.first_at = self.last_at = at
        self.ended_at = at
        """When the last epoch ended."""
        self.seen = 0
        self.last_seen = 0
        self._before_epoch = 0
        """Files read, again or not, before this epoch; ``_before_leaf``: before its last directory came."""
        self._before_leaf = 0
        self.order: Finding = UNKNOWN
        self.walks = Walks(natural, histories)
        self.boundary = Boundary()
        self.behind = Behind()
        self.crew: Crew | None = None
        self.readers: dict[int, Reader] = {}
        self.processes = 0
        """Processes that ever read from it."""
        self.runs = Tally()
        self.bursts = Tally()
        self.active: set[int] = set()
        """Workers that read in this epoch and live, ``most`` the most there were at once."""
        self.leaders: set[int] = set()
        """Reading processes that nobody forked as workers, likewise."""
        self.most = self.most_last = 0
        self.progress: dict[int, float] = {}
        self.meter = Meter()
        self.kinds = Kinds()
        self.bytes = 0
        self.files = 0
        """Files read, again or not; ``sizes`` is the sum of theirs in bytes."""
        self.sizes = 0

    # ---- directories

    def adopt(self, leaf: Leaf) -> None:
        """Files of this directory belong here from now on."""
        self.leaves[leaf.number] = leaf
        self.catalog.add(leaf)
        leaf.dataset = self
        self._before_leaf = self.files
        self._resize()

    def listed(self, leaf: Leaf, before: int | None) -> None:
        """A directory was listed, or listed again; it had ``before`` files."""
        self.catalog.listed(leaf, before)
        self._resize()

    def _resize(self) -> None:
        self.walks.resize(self.catalog.files)

    def absorb(self, other: Dataset) -> None:
        """The other's directories and books become part of this one."""
        for leaf in other.leaves.values():
            current = leaf.epoch == other.epoch
            self.leaves[leaf.number] = leaf
            self.catalog.add(leaf)
            leaf.dataset = self
            leaf.epoch = self.epoch if current else 0
            self.seen += leaf.seen if current else 0
        self._resize()
        self.first_at = min(self.first_at, other.first_at)
        self.last_at = max(self.last_at, other.last_at)
        self.bytes += other.bytes
        self.files += other.files
        self.processes = max(self.processes, other.processes)
        self.sizes += other.sizes
        self._before_epoch += other._before_epoch
        self._before_leaf = self.files
        if other.rest is not None:
            other.rest.drop()
        self.walks.absorb(other.walks)
        other.walks.history.drop()
        self.active |= other.active
        self.leaders |= other.leaders
        self.crew = None
        self.most = max(self.most, len(self.active))
        self.progress.update(list(other.progress.items())[: MOST_PROGRESS - len(self.progress)])
        self.meter.absorb(other.meter)
        self.kinds.absorb(other.kinds)
        self.runs.absorb(other.runs)
        for pid, reader in other.readers.items():
            mine = self.readers.get(pid)
            if mine is None or mine.last_at < reader.last_at:
                self.readers[pid] = reader

    def drop(self) -> None:
        """It is forgotten: gives its memory back."""
        for leaf in self.leaves.values():
            leaf.drop()
        if self.rest is not None:
            self.rest.drop()
        self.walks.history.drop()

    # ---- files

    @property
    def rounds(self) -> int:
        """Times that its one file was read in order, where it is one large file: that begins no epoch, as of
        several files each may be read twice in a row. Else 1."""
        kinds = self.kinds
        if not kinds.large == self.seen == self.epoch == 1 or kinds.in_order <= 3 * kinds.scattered:
            return 1
        return max(1, self.bytes * self.files // max(1, self.sizes))

    def reader(self, pid: int, worker: bool) -> Reader:
        """The process's books; ``worker``: it was forked to read."""
        reader = self.readers.get(pid)
        if reader is None:
            if len(self.readers) >= MOST_READERS:
                self.left(next(iter(self.readers)))
            reader = self.readers[pid] = Reader(pid)
            self.processes += 1
            reader.worker = worker
        return reader

    def opened(self, reader: Reader, leaf: Leaf, file: int, place: Place, at: float, page: int) -> bool:
        """A process began to read a file: at ``page``, or ``SAMPLE`` for one that is read as a whole. True if
        the epoch had not seen it."""
        self.last_at = at
        index = place.index
        if leaf.epoch != self.epoch:
            leaf.begin(self.epoch, keep=self.behind.left > 0)
        if file == reader.last_file:
            return False
        self.files += 1
        self.sizes += place.size
        if reader.behind and self._of_last_epoch(reader, leaf, file, index, at):
            return False
        if not reader.count:
            self._joined(reader)
        reader.count += 1
        new = leaf.add(file, index)
        if self.crew is not None and page <= 0:
            self.crew.read(leaf, file, -1 if index is None else index, new)
        if new:
            self.seen += 1
            if not reader.behind:
                reader.again = 0
            if self.boundary.score:
                self.boundary.new()
            self.walks.step(reader, leaf, file, place, self.order.kind)
        else:
            self._again(reader, leaf, file, place, at, page)
        if self.crew is not None:
            self._look_at(self.crew, at)
        if page != SAMPLE and len(self.progress) < MOST_PROGRESS:
            self.progress.setdefault(file, 0.0)
        reader.last_file = file
        reader.timed(at)
        return new

    def _again(self, reader: Reader, leaf: Leaf, file: int, place: Place, at: float, page: int) -> None:
        if page > 0 or (page == 0 and self.progress.get(file, 1.0) < WHOLE):
            return  # another process joins in, or goes on, before or after it was read
        expected, sure = self.expected()
        index = -1 if place.index is None else place.index
        reads = self.files - self._before_epoch
        reader.again += 1
        crowd = len(self.active) + len(self.leaders)
        if self.crew is None and crowd == 1:
            part = may_begin_anew(self.seen, reads, expected, sure)
            if part is not None and self.review().kind in _NO_ORDER:
                self.crew = Crew(part)
                self.crew.read(leaf, file, index, new=False)
        if self.boundary.seen(leaf, file, index, self.seen, reads, expected, sure, reader.again, crowd):
            if self.crew is not None and self.crew.part is not None:
                self.crew = None  # the epoch has ended as it should
            self._turn(at)
        elif not self.boundary.near:
            self.walks.step(reader, leaf, file, place, self.order.kind)

    def _look_at(self, crew: Crew, at: float) -> None:
        """Workers that were made in the middle of an epoch read a file."""
        if crew.anew:
            stopped = crew.stopped
            crew.trim()
            self._turn(at, stopped=stopped)
        elif crew.settled:
            self.crew = None

    def _of_last_epoch(self, reader: Reader, leaf: Leaf, file: int, index: int | None, at: float) -> bool:
        """A reader that may be behind read a file; True if it is."""
        if self.behind.left <= 0 or self.seen > BEHIND * self.last_seen:
            self._together()
            return False
        if not self.behind.read(reader, leaf, index):
            return False
        self.last_seen = max(self.last_seen, self.behind.seen)
        self._before_epoch += 1
        reader.last_file = file
        reader.timed(at)
        return True

    def _together(self) -> None:
        """Nobody is at the last epoch any more."""
        self.behind.left = 0
        for reader in self.readers.values():
            reader.behind = False
        for leaf in self.leaves.values():
            leaf.forget_before()

    def _joined(self, reader: Reader) -> None:
        if reader.worker and self.most and not self.active and not self.leaders:
            self.crew = Crew()
        crowd = self.active if reader.worker else self.leaders
        crowd.add(reader.pid)
        self.most = max(self.most, len(self.active), len(self.leaders) if not self.active else 0)

    def left(self, pid: int) -> None:
        """The process has ended."""
        reader = self.readers.pop(pid, None)
        if reader is not None:
            reader.tell(self.runs, self.bursts)
        self.active.discard(pid)
        self.leaders.discard(pid)

    def expected(self) -> tuple[int | None, bool]:
        """Files of an epoch, and whether that is sure to be all."""
        if self.last_seen:
            return self.last_seen, True
        total = self.catalog.total
        if not total or (self.seen == 1 and total > 1 and self.progress):
            return None, False
        settled = len(self.leaves) == 1 or self.files - self._before_leaf > 64 + 8 * len(self.leaves)
        return total, settled and self.rest is None

    def _turn(self, at: float, *, stopped: bool = False) -> None:
        """A new epoch. ``stopped``: before the last one had read all its files."""
        if self.order is UNKNOWN or self.walks.by_name.steps > 2:
            self.order = self._judged() or self.order
        if self.crew is not None:  # all that they read is of the new one, also what the last one lacked
            self.boundary.again.clear()
            self.boundary.again.extend(self.crew.reads.values())
            self.seen -= len(self.crew.reads) - len(self.crew.again)
        self.behind.begin(self.seen, *self.expected())
        if stopped:
            self.behind.left = 0
        self.crew = None
        self.epoch += 1
        self.ended_at = self.epoch_at = at
        # What another epoch saw, too, this one only missed: a reader was ahead by a few files.
        if not stopped:
            self.last_seen = max(self.seen, self.last_seen if self.seen >= COVERED * self.last_seen else 0)
        self.seen = 0
        self._before_epoch = self.files - len(self.boundary.again)
        self.walks.begin()
        for reader in self.readers.values():
            reader.count = 0
            reader.behind = self.behind.left > 0 and reader.again < FEW
            reader.forget()
        self.most_last, self.most = self.most, 0
        self.active.clear()
        self.leaders.clear()
        self.progress.clear()
        again = self.boundary.again
        self.boundary.clear()
        for leaf, file, index in again:
            assert isinstance(leaf, Leaf)
            if leaf.epoch != self.epoch:
                leaf.begin(self.epoch, keep=self.behind.left > 0)
            if leaf.add(file, None if index < 0 else index):
                self.seen += 1
                self.walks.history.add(file)

    # ---- order

    def _judged(self) -> Finding | None:
        runs, bursts = Tally(), Tally()
        runs.absorb(self.runs)
        for reader in self.readers.values():
            reader.tell(runs, bursts)
        length, share, _ = runs.mode()
        found = self.walks.judged((length, share))
        return None if found is UNKNOWN else found

    def review(self) -> Finding:
        """The order of this epoch, else of the one before, if that is known."""
        self.order = self._judged() or self.order
        return self._within_files() if self.order is UNKNOWN else self.order

    def _within_files(self) -> Finding:
        """The order of few large files is that of the places in them."""
        kinds = self.kinds
        if max(kinds.scattered, kinds.in_order, kinds.pieces) * PAGE < LARGE:
            return UNKNOWN
        files = several(kinds.large, "large file")
        if kinds.scattered > 3 * kinds.in_order:
            return Finding("shuffled", 0.7, f"{kinds.scattered} pages at random places of {files}")
        if kinds.pieces > 3 * kinds.in_order:
            return Finding("shuffled", 0.7, f"{kinds.pieces} pages in pieces at random places of {files}")
        if kinds.in_order > 3 * (kinds.scattered + kinds.pieces) and kinds.large == 1:
            return Finding("sorted", 0.6, f"{kinds.in_order} pages of {files}, in the order of their places")
        return UNKNOWN

    @property
    def fraction(self) -> float | None:
        """Share of the epoch that was read."""
        expected, _ = self.expected()
        if not expected:
            return None
        missing = sum(1.0 - part for part in self.progress.values())
        return max(0.0, min(1.0, (self.seen - missing) / max(expected, self.seen)))
