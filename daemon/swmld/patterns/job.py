"""A job: one process tree, its readers, its counters, its datasets. Pure."""

from __future__ import annotations

from collections import deque

from swmld.patterns.dataset import Dataset
from swmld.patterns.feed import Names, Place, Process, Tiers, Wait
from swmld.patterns.grouping import Grouping, Room
from swmld.patterns.output import SAVED, Output, Pauses
from swmld.patterns.roles import MODEL_NAMES, suffix_of
from swmld.patterns.stream import Counts, Stream
from swmld.patterns.views import UNKNOWN, Finding, JobView

SPAN = 5.0
"""Seconds over which the share of waiting is taken."""

MOST_COMMS = 32

_SPAWNED = ("spawn_main", "forkserver", "multiprocessing")


class Member:
    """A process that reads or writes. ``worker``: made by another one of the job to read, not a program of
    its own."""

    __slots__ = ("comm", "dataset", "job", "pid", "wait", "worker")

    def __init__(self, pid: int, job: Job, worker: bool) -> None:
        self.pid = pid
        self.job = job
        self.worker = worker
        self.comm = ""
        self.dataset: Dataset | None = None
        """From which it read last."""
        self.wait: Wait | None = None


def is_worker(process: Process | None, parent: Process | None) -> bool:
    """Forked as it is (DataLoader), or started by Python's multiprocessing."""
    if process is None or process.pid == process.job:
        return False
    if any(word in process.command for word in _SPAWNED):
        return True
    return parent is not None and parent.job == process.job and parent.command == process.command


class Job:
    """Counters are sums over all its processes, also those that have ended."""

    def __init__(
        self, number: int, process: Process | None, names: Names, room: Room, datasets: int, at: float
    ) -> None:
        self.number = number
        self.process = process
        self.members: dict[int, Member] = {}
        """Processes that live, as far as is known."""
        self.grouping = Grouping(number, names, room, datasets)
        self.grouping.on_drop = self._moved
        self.first_at = self.last_at = at
        self.reads = self.cold = self.partial = 0
        self.estimated = False
        """Some of these counts are."""
        self.tiers = Tiers(0, 0, 0, 0)
        self.bytes = 0
        self.comms: set[str] = set()
        """Commands that read or write, at most ``MOST_COMMS``."""
        self.began = False
        """A process of it is or was known."""
        self.rooted = True
        """Its root is not known to have ended; that one may read nothing itself, and start others to read."""
        self.wait = 0.0
        self.waits = 0
        self.writes = 0
        """Requests to write that FUSE saw; ``output`` knows of those that are passed through as well."""
        self.output = Output()
        self.pauses = Pauses()
        self.histogram: tuple[int, ...] = ()
        self.last_write_at = float("-inf")
        self.shares: deque[tuple[float, float]] = deque([(at, 0.0)], maxlen=64)
        """(time, seconds waited until then), one a batch of rows."""
        self.busy: list[Stream] = []
        """Its busiest streams by the latest rows of counters."""
        self.shown: tuple[tuple[float, int, bool], JobView] | None = None
        """The view of it while it is idle, and what it depends on."""
        self.trained_at: float | None = None
        """When it first read from the data that it trains on."""
        self.training: Dataset | None = None
        """The dataset that it trains on, once that is known."""
        self.model_at: float | None = None
        """When it last read from a model."""
        self.phase: Finding = UNKNOWN

    @property
    def datasets(self) -> list[Dataset]:
        return self.grouping.datasets

    @property
    def ended(self) -> bool:
        """No process of it is known to live."""
        return self.began and not self.members and not self.rooted

    def join(self, member: Member) -> None:
        self.began = True
        self.rooted = self.rooted or member.pid == self.number
        self.members[member.pid] = member

    def leave(self, pid: int) -> None:
        """The process has ended, or runs another program."""
        self.members.pop(pid, None)
        for dataset in self.datasets:
            dataset.left(pid)

    def _moved(self, dataset: Dataset, heir: Dataset | None) -> None:
        for member in self.members.values():
            if member.dataset is dataset:
                member.dataset = heir
        if self.training is dataset:
            self.training = heir

    def reads_from(self, member: Member, dataset: Dataset) -> None:
        """A member reads from another dataset than before."""
        before, member.dataset = member.dataset, dataset
        if len(self.comms) < MOST_COMMS:
            self.comms.add(member.comm)
        if before is not None:
            self.grouping.switched(before, dataset)

    def read(self, counts: Counts, nbytes: int, at: float) -> None:
        self.reads += counts.reads
        self.cold += counts.cold
        self.partial += counts.partial
        self.bytes += nbytes
        self.last_at = max(self.last_at, at)

    def wrote(
        self, member: Member, at: float, file: int, place: Place | None, nbytes: int, bursts: int
    ) -> None:
        """A member wrote so much more, the last of it at ``at``."""
        self.output.add(at, file, place, nbytes, bursts)
        if nbytes >= SAVED or (place is not None and suffix_of(place.name) in MODEL_NAMES):
            self.pauses.wrote(at, self._trained_on)
        self.last_write_at = max(self.last_write_at, at)
        self.last_at = max(self.last_at, at)
        if len(self.comms) < MOST_COMMS:
            self.comms.add(member.comm)

    def waited_for(self, member: Member, wait: Wait, at: float) -> None:
        """A process's sums; they replace its last ones."""
        before = member.wait
        if before is None or wait.waits < before.waits or wait.metas < before.metas:
            before = Wait(0.0, 0, 0.0, 0, 0.0, 0, 0.0, 0, (0,) * len(wait.histogram))
        member.wait = wait
        self.wait += max(0.0, wait.wait - before.wait) + max(0.0, wait.meta - before.meta)
        self.waits += max(0, wait.waits - before.waits)
        more = wait.writes - before.writes
        if more > 0:
            self.writes += more
            self.last_write_at = at
            self.last_at = max(self.last_at, at)
            if not self.output.nbytes:
                self.pauses.wrote(at, self._trained_on)
        width = max(len(self.histogram), len(wait.histogram))
        self.histogram = tuple(
            _at(self.histogram, b) + max(0, _at(wait.histogram, b) - _at(before.histogram, b))
            for b in range(width)
        )

    @property
    def _trained_on(self) -> int:
        """What was read of the training data: it grows with each read."""
        return self.training.bytes + self.training.files if self.training is not None else 0

    def mark(self, at: float) -> None:
        """The sums up to ``at`` are in: remember them for the share."""
        if at > self.shares[-1][0]:
            self.shares.append((at, self.wait))

    def wait_share(self, now: float) -> float:
        """Of the wall time of its living readers, over the last seconds, 0 to 1."""
        readers = sum(1 for member in self.members.values() if member.dataset is not None)
        old_at, old_wait = self.shares[0]
        for at, wait in self.shares:
            if at > now - SPAN:
                break
            old_at, old_wait = at, wait
        span = self.shares[-1][0] - old_at
        if span <= 0 or self.shares[-1][0] < now - SPAN:
            return 0.0
        return max(0.0, min(1.0, (self.wait - old_wait) / (span * max(1, readers))))


def _at(values: tuple[int, ...], index: int) -> int:
    return values[index] if index < len(values) else 0
