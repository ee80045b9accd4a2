"""The pattern engine: events, counters and names in, findings out. Pure.

Loop-only and never blocking; memory is bounded by ``Limits``. Small files, read whole by one read each,
take the short way through: no ``Stream`` is made for them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import nlargest
from itertools import islice
from operator import itemgetter

from swmld.patterns import phases, present
from swmld.patterns.dataset import SAMPLE, WHOLE, Dataset
from swmld.patterns.feed import (
    PAGE,
    Cursor,
    Names,
    Numbers,
    Place,
    Processes,
    Shape,
    Tiers,
    Touch,
    TouchFlag,
    TouchKind,
    Wait,
    no_numbers,
)
from swmld.patterns.grouping import Room
from swmld.patterns.job import Job, Member
from swmld.patterns.leaf import Leaf
from swmld.patterns.limits import Limits
from swmld.patterns.order import Histories
from swmld.patterns.output import Told
from swmld.patterns.population import Population
from swmld.patterns.readers import Reader
from swmld.patterns.roles import LARGE
from swmld.patterns.seen import Budget
from swmld.patterns.stream import NO_TIERS, Counts, Small, Stream, again, as_small
from swmld.patterns.views import DatasetView, JobView, Snapshot, StreamView

_PASS = int(TouchKind.PASS)
_WHOLE = int(TouchFlag.WHOLE)
_COLD = int(TouchFlag.COLD)
_bits = int.__and__  # of an IntFlag, without making another one: ten times faster

ASK = 1.0
"""Seconds between two questions whether a directory has been listed meanwhile."""

ACTIVE = 2.0
"""Seconds after its last read for which a job's phase is looked at with each batch of rows."""


IDLE = 10.0
"""Seconds without a read after which a job's view is the same each time: all its rates are 0."""

SAMPLES = 32
"""Reads at random from which a large file is read sample by sample."""

LOOK = 512
"""Streams, touched last of all, among which the most active ones are looked for."""


@dataclass(slots=True)
class Totals:
    """Reads since the start. ``whole``: of a file in one read; ``shapes``: others, by ``Shape``. ``missed``:
    not all of their pages were in the page cache; ``source``: FUSE's READs that waited for the source."""

    whole: int = 0
    shapes: list[int] = field(default_factory=lambda: [0] * len(Shape))
    missed: int = 0
    source: int = 0

    def read(self, counts: Counts, shape: int) -> None:
        self.shapes[shape] += counts.reads
        self.missed += counts.cold + counts.partial


class Patterns:
    """See the module. ``names``, ``processes`` and ``natural`` answer from memory."""

    def __init__(
        self,
        names: Names,
        processes: Processes,
        limits: Limits | None = None,
        natural: Numbers = no_numbers,
    ) -> None:
        self._names = names
        self._limits = limits or Limits()
        self._room = Room(
            self._limits.folders,
            Budget(self._limits.seen_bytes),
            Histories(self._limits.ordered),
            natural,
        )
        self._population = Population(names, processes, self._room, self._limits)
        self._jobs = self._population.jobs
        self._members = self._population.members
        # Least recently used first. Ordered ones: the first key of a dict that loses its first keys is found
        # by a search over all that were there.
        self._streams: OrderedDict[tuple[int, int], Stream] = OrderedDict()
        self._small: OrderedDict[tuple[int, int], Touch | Small] = OrderedDict()
        self._written = Told(self._limits.written)
        self._now = 0.0
        self.totals = Totals()

    @property
    def seen_bytes(self) -> int:
        """Memory of the bitmaps of files seen, bytes: at most ``Limits.seen_bytes``."""
        return self._room.budget.used

    # ---- what comes in

    def touch(self, touches: Iterable[Touch]) -> None:
        """Events in order of time."""
        for touch in touches:
            if touch.kind <= _PASS:
                self._opened(touch)
            else:
                self._went_on(touch)

    def cursors(self, rows: Iterable[tuple[int, int, Cursor]]) -> None:
        """(pid, file, counters) of streams read or written since the last call; about once a second."""
        most = self._limits.shown_streams
        read: dict[Job, list[tuple[int, Stream]]] = {}
        for pid, file, cursor in rows:
            if cursor.written:
                self._wrote(pid, file, cursor)
                if not cursor.reads:
                    continue
            small = self._small.get((pid, file))
            if small is not None and as_small(small).says(cursor):
                continue
            member = self._members.get(pid) or self._population.member(pid, cursor.last_at)
            stream = self._stream(member, file, cursor.last_at)
            more = stream.counted(cursor)
            self._now = max(self._now, cursor.last_at)
            self._count(member.job, stream, more, cursor)
            read.setdefault(member.job, []).append((more.pages, stream))
        for job, counts in read.items():
            job.busy = [stream for _, stream in nlargest(most, counts, key=itemgetter(0))]
            phases.review(job, self._now)

    def tiers(self, rows: Iterable[tuple[int, int, Tiers]]) -> None:
        """(pid, file, sums of what FUSE answered) of streams that FUSE saw since the last call."""
        for pid, file, tiers in rows:
            member = self._members.get(pid) or self._population.member(pid, self._now)
            before = self._answered(member, file, tiers)
            if tiers.disk_reads < before.disk_reads or tiers.source_reads < before.source_reads:
                before = NO_TIERS
            self.totals.source += max(0, tiers.source_reads - before.source_reads)
            job = member.job
            job.tiers = Tiers(
                *(total + max(0, new - old) for total, new, old in zip(job.tiers, tiers, before, strict=True))
            )

    def _answered(self, member: Member, file: int, tiers: Tiers) -> Tiers:
        """Keeps what FUSE answered of a stream, and returns what was kept of it before."""
        key = (member.pid, file)
        small = self._small.get(key)
        if small is None:
            stream = self._stream(member, file, self._now)
            before, stream.tiers = stream.tiers, tiers
            return before
        # A file read by one read stays small also where that read went through FUSE: after a drop of the page
        # cache all of a data set's files do, for each process that reads it.
        small = as_small(small)
        self._small[key] = small._replace(tiers=tiers)
        return small.tiers

    def waits(self, rows: Iterable[tuple[int, Wait]], now: float | None = None) -> None:
        """(pid, sums of what it waited for) of processes that waited since the last call. ``now`` in seconds:
        when they were read, else the time of the latest event."""
        at = self._now if now is None else now
        self._now = max(self._now, at)
        for pid, wait in rows:
            member = self._members.get(pid) or self._population.member(pid, at)
            member.job.waited_for(member, wait, at)
        for job in self._jobs.values():
            job.mark(at)
            if job.last_at >= at - ACTIVE:
                phases.review(job, at)

    def pids(self) -> list[int]:
        """Readers that are not known to have ended."""
        return list(self._members)

    def roots(self) -> list[int]:
        """Roots of jobs, not known to have ended, that read nothing themselves."""
        return self._population.roots()

    # ---- what goes out

    def snapshot(self, now: float) -> Snapshot:
        """The jobs with their datasets and most active streams."""
        recent = self._recent()
        jobs = nlargest(self._limits.shown_jobs, self._jobs.values(), key=lambda job: job.last_at)
        return Snapshot(tuple(self._view(job, recent.get(job, []), now) for job in jobs), now)

    def _recent(self) -> dict[Job, list[Stream]]:
        """Streams by job: the busiest of the latest rows, those touched last, and where these are few the
        small files that were read last.
        """
        found = {job: dict.fromkeys(job.busy) for job in self._jobs.values()}
        for stream in islice(reversed(self._streams.values()), LOOK):
            member = self._members.get(stream.pid)
            if member is not None:
                found[member.job][stream] = None
        most = self._limits.shown_streams
        for (pid, file), small in islice(reversed(self._small.items()), LOOK):
            member = self._members.get(pid)
            if member is not None and len(found[member.job]) < most:
                found[member.job][self._of_small(pid, file, as_small(small))] = None
        return {job: list(streams) for job, streams in found.items()}

    @staticmethod
    def _of_small(pid: int, file: int, small: Small) -> Stream:
        stream = Stream(pid, file, small.touch.at)
        stream.grown(small)
        return stream

    def _view(self, job: Job, streams: list[Stream], now: float) -> JobView:
        state = (job.last_at, len(job.members), job.ended)
        if job.shown is not None and job.shown[0] == state:
            return job.shown[1]
        streams = nlargest(self._limits.shown_streams, streams, key=lambda stream: stream.activity(now))
        view = present.job_view(job, streams, self._limits.shown_datasets, self._names, now)
        if job.last_at < now - IDLE:
            job.shown = state, view
        return view

    def stream(self, pid: int, file: int) -> StreamView | None:
        """One file as read by one process; ``None`` if nothing is remembered of it."""
        stream = self._streams.get((pid, file))
        if stream is None:
            small = self._small.get((pid, file))
            if small is None:
                return None
            stream = self._of_small(pid, file, as_small(small))
        return present.stream_view(stream, self._names, self._now)

    def dataset_of(self, file: int, job: int) -> DatasetView | None:
        """The dataset that the file belongs to, as the job reads it."""
        place = self._names.place(file)
        found = self._jobs.get(job)
        leaf = found.grouping.leaves.get(place.directory) if found is not None and place is not None else None
        if found is None or leaf is None or leaf.dataset is None:
            return None
        return present.dataset_view(leaf.dataset, found, self._now)

    def job(self, number: int) -> JobView | None:
        """One job's own numbers, without its datasets and streams, and so without workers and batch."""
        job = self._jobs.get(number)
        return None if job is None else present.job_view(job, [], 0, self._names, self._now)

    # ---- touches

    def _opened(self, touch: Touch) -> None:
        """FIRST and PASS: 30,000 a second, so that some calls are written out here."""
        _, at, pid, file, first, last, _, _, flags, _ = touch
        if at > self._now:
            self._now = at
        member = self._members.get(pid) or self._population.member(pid, at)
        job = member.job
        if at > job.last_at:
            job.last_at = at
        place = self._names.place(file)
        whole = _bits(flags, _WHOLE)
        key = (pid, file)
        stream: Stream | None = None
        if whole and key not in self._streams:
            nbytes = (last - first + 1) * PAGE
            if place is not None and place.size < nbytes:
                nbytes = place.size
            job.reads += 1
            self.totals.whole += 1
            job.bytes += nbytes
            if _bits(flags, _COLD):
                job.cold += 1
                self.totals.missed += 1
            self._note_small(key, touch)
        else:
            stream = self._stream(member, file, at)
            more = stream.touched(touch)
            nbytes = more.pages * PAGE
            if more.reads:
                job.read(more, nbytes, at)
                self.totals.read(more, int(touch.shape))
        if place is None:
            return
        leaf = job.grouping.leaves.get(place.directory) or job.grouping.leaf(place, at)
        if leaf is None:
            return
        if stream is not None:
            stream.home = leaf
        index = place.index
        if leaf.number != place.directory:
            place = place._replace(index=None, listed=None)
        elif leaf.files is None or (index is not None and index >= leaf.files):
            self._ask(leaf, at, listed=index is not None)
        dataset = leaf.dataset
        if dataset is not member.dataset and dataset is not None:
            job.reads_from(member, dataset)
            dataset = leaf.dataset
        if dataset is None:
            return
        reader = dataset.readers.get(pid) or dataset.reader(pid, member.worker)
        if place.size < LARGE:
            dataset.opened(reader, leaf, file, place, at, SAMPLE)
        else:
            self._opened_large(dataset, reader, leaf, place, touch)
        dataset.bytes += nbytes
        meter = dataset.meter
        if at >= meter.until:
            meter.turn(int(at))
        meter.files += 1
        meter.nbytes += nbytes

    def _opened_large(self, dataset: Dataset, reader: Reader, leaf: Leaf, place: Place, touch: Touch) -> None:
        file = touch.file
        if touch.kind == _PASS and file in dataset.progress:
            dataset.progress[file] = 1.0  # its last page was read, whatever the counters said last
        page = SAMPLE if _bits(touch.flags, _WHOLE) else touch.first
        dataset.kinds.opened += place.size
        new = dataset.opened(reader, leaf, file, place, touch.at, page)
        if new and dataset.epoch == 1:
            dataset.kinds.add(place.name, leaf.path)

    def _note_small(self, key: tuple[int, int], touch: Touch) -> None:
        small = self._small
        before = small.get(key)
        if before is None:
            small[key] = touch
            if len(small) > self._limits.small:
                small.popitem(last=False)
        else:
            small[key] = again(before, touch)
            small.move_to_end(key)

    def _went_on(self, touch: Touch) -> None:
        kind = touch.kind
        if touch.at > self._now:
            self._now = touch.at
        if kind == TouchKind.EXIT:
            self._population.exit(touch.pid)
        elif kind == TouchKind.FORK:
            self._population.exit(touch.file)  # one that had this pid before, if its end was missed
        elif kind == TouchKind.EXEC:
            self._population.leave(touch.pid)
        elif kind != TouchKind.CLOSE:
            if kind == TouchKind.BREAK and _begins_anew(touch):
                self._opened(touch._replace(kind=TouchKind.PASS))
                return
            member = self._members.get(touch.pid) or self._population.member(touch.pid, touch.at)
            member.job.last_at = max(member.job.last_at, touch.at)
            stream = self._stream(member, touch.file, touch.at)
            stream.touched(touch)
            self._progress(stream)

    def _progress(self, stream: Stream) -> None:
        dataset = stream.home.dataset if stream.home is not None else None
        if dataset is None:
            return
        dataset.last_at = max(dataset.last_at, stream.last_at)
        part = dataset.progress.get(stream.file)
        if part is not None and stream.progress > part:
            dataset.progress[stream.file] = stream.progress

    def _count(self, job: Job, stream: Stream, more: Counts, cursor: Cursor) -> None:
        nbytes = more.pages * PAGE
        job.read(more, nbytes, cursor.last_at)
        job.estimated = job.estimated or stream.estimated
        kind = Shape.STRIDED if stream.paced else cursor.kind
        self.totals.read(more, kind)
        if stream.home is None:
            stream.home = self._home(job, stream.file, cursor.last_at)
        dataset = stream.home.dataset if stream.home is not None else None
        if dataset is None:
            return
        dataset.bytes += nbytes
        dataset.meter.add(cursor.last_at, 0, nbytes)
        if cursor.size * PAGE >= LARGE:
            if kind == Shape.RANDOM:
                # A column of a table is a few ranges of it, in whatever order; samples are many.
                dataset.kinds.scattered += more.pages if cursor.random >= SAMPLES else 0
            elif stream.in_pieces:
                dataset.kinds.pieces += more.pages
            else:
                dataset.kinds.in_order += more.pages
        self._progress(stream)

    def _wrote(self, pid: int, file: int, cursor: Cursor) -> None:
        written, bursts = self._written.more(pid, file, cursor)
        if written:
            at = cursor.written_at
            self._now = max(self._now, at)
            member = self._members.get(pid) or self._population.member(pid, at)
            member.job.wrote(member, at, file, self._names.place(file), written, bursts)

    def _home(self, job: Job, file: int, at: float) -> Leaf | None:
        place = self._names.place(file)
        return None if place is None else job.grouping.leaf(place, at)

    def _ask(self, leaf: Leaf, at: float, *, listed: bool) -> None:
        """Has the directory been listed meanwhile, or grown? ``listed``: one of its files has a place."""
        if at < leaf.asked_at + ASK and not (listed and leaf.files is None):
            return
        leaf.asked_at = at
        folder = self._names.folder(leaf.number)
        if folder is not None and folder.files is not None and folder.files != leaf.files:
            before = leaf.files
            leaf.listed(folder.files, self._names)
            if leaf.dataset is not None:
                leaf.dataset.listed(leaf, before)

    def _stream(self, member: Member, file: int, at: float) -> Stream:
        key = (member.pid, file)
        stream = self._streams.get(key)
        if stream is not None:
            self._streams.move_to_end(key)
        else:
            stream = Stream(member.pid, file, at)
            small = self._small.pop(key, None)
            if small is not None:
                stream.grown(as_small(small))
            if len(self._streams) >= self._limits.streams:
                self._streams.popitem(last=False)
            self._streams[key] = stream
        return stream


def _begins_anew(touch: Touch) -> bool:
    """From the end of the file to its start, without its very last page: tar files end in padding that
    readers leave out."""
    return (
        touch.first == 0
        and touch.shape == Shape.SEQUENTIAL
        and touch.size > 0
        and -touch.stride >= WHOLE * touch.size
    )
