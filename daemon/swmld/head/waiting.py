"""How long readers waited for what they read, with a rule and without it. Pure, bounded, loop-only.

*Waiting* is the time that the probes see a process sleep for pages of a file that it reads, and for the
answers to its requests other than reads and writes: names, attributes, opens; a small file that is fetched
when it is opened is waited for in its open. The first is known for each file. The second is known for each
process and second, and is shared out equally among the files that the process began to read in that second; a
second in which it began none is added to the next one, and then forgotten. What FUSE alone sees, and what is
read with O_DIRECT, is not counted: nobody knows how long that was waited for.

*After* is what a job read of files on which a rule acted: from the decision at the open on, to about a
second, until the next decision about the file. *Before* is what was read while the rule did not act on it,
because it was not loaded yet or did not match: by the same job of the same dataset, else by other jobs of
that dataset, else by the job of other datasets; of fewer than ``FEW`` reads it is not known. Only files count
about whose opening rules were asked, else those that lie in the cache since the last start, and are not
waited for at all, would be on one side alone. For each job and dataset the bytes that were read after are
taken at the rate of before, so that one with little on one side does not count for much on the other.

It is no experiment: what the cache has by then is not waited for either, whoever brought it there.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from swmld.patterns.feed import PAGE, Cursor, Touch, TouchFlag, TouchKind, Wait

FEW = 16
"""Reads from which a rate is known."""

ACTING = 32_768
"""Files of which the latest decision is remembered, for about 500 bytes each: a second's opens many times."""

STREAMS = 32_768
"""Streams whose counters are remembered, for about 250 bytes each; a stream is told of within a second."""

PROCESSES = 8192
"""Processes likewise."""

SUMS = 16_384
"""Sums of all jobs and datasets, one for each rule and action that acted there: 3 MB, and looked through in
some milliseconds. Of more, the job and dataset read least recently goes, whole."""

LATE = 2.0
"""Seconds after which a stream must have been told of: an older one that nobody remembers was counted."""


TICK = 0.02
"""Seconds by which the coarse clock of the events may differ from that of the counters."""

_WHOLE = int(TouchFlag.WHOLE)


class Key(NamedTuple):
    """What is compared with itself."""

    job: int
    dataset: str


class Name(NamedTuple):
    """Whose waiting: ``kind`` rule (``name``: its title), action (its name) or any (of the rules)."""

    kind: str
    name: str = ""


ANY = Name("any")


class Place(NamedTuple):
    """``began``: when the job did, seconds since the epoch: its number may have been another's."""

    key: Key
    began: float


Places = Callable[[int, int], Place | None]
"""Of a process and a file: who reads there, as part of what. None: not known."""

Jobs = Callable[[int], int]
"""Of a process: its job, 0 not known. The same as ``Places`` says, which takes ten times as long."""


class Waited(NamedTuple):
    """``seconds`` waited for ``bytes`` (whole pages) in so many ``reads``."""

    seconds: float = 0.0
    bytes: int = 0
    reads: int = 0

    def plus(self, other: Waited) -> Waited:
        return Waited(self.seconds + other[0], self.bytes + other[1], self.reads + other[2])

    def minus(self, other: Waited) -> Waited:
        return Waited(max(0.0, self.seconds - other[0]), self.bytes - other[1], self.reads - other[2])


NOTHING = Waited()

Tell = Callable[[Key, Waited], None]
"""Takes what was read under a decision, by whom and of what."""


@dataclass(slots=True)
class Account:
    """What was read under a decision; ``key``: by whom, of what, the last time."""

    waited: Waited = NOTHING
    key: Key | None = None


class _Acting(NamedTuple):
    """A decision that acts on a file: for whom it counts, and how to tell the decision itself."""

    names: tuple[Name, ...]
    tell: Tell


@dataclass(slots=True)
class _Home:
    """``all``: what was read there; ``under``: of that, where a rule, an action, or any rule acted."""

    began: float
    all: Waited = NOTHING
    under: dict[Name, Waited] = field(default_factory=dict)


@dataclass(slots=True)
class _Read:
    """What a process read under one decision since the last time; ``begun``: files."""

    waited: Waited = NOTHING
    begun: int = 0


class Waiting:
    """``acts`` hears of decisions; ``touched``, ``take`` and ``settle`` of what the probes counted."""

    def __init__(self, sums: int = SUMS, acting: int = ACTING, streams: int = STREAMS) -> None:
        self._most_sums, self._most_acting, self._most_streams = sums, acting, streams
        self._sums = 0
        self._acting: OrderedDict[tuple[int, int], _Acting | None] = OrderedDict()
        self._streams: OrderedDict[tuple[int, int, float], tuple[int, int, float, int]] = OrderedDict()
        self._whole: dict[tuple[int, int], tuple[float, int]] = {}
        self._told: OrderedDict[tuple[int, int], tuple[float, int]] = OrderedDict()
        self._names: OrderedDict[int, float] = OrderedDict()
        self._held: dict[int, float] = {}
        self._homes: OrderedDict[Key, _Home] = OrderedDict()
        self._read: dict[int, dict[tuple[Place, _Acting | None], _Read]] = {}
        self._since = 0.0

    # ---- decisions

    def acts(
        self,
        job: int,
        file: int,
        names: Iterable[Name] = (),
        tell: Callable[[Key, Waited], None] | None = None,
    ) -> None:
        """From now on these act on what the job reads of the file; none: no rule does. ``job`` 0: whoever
        reads it, unless there is a decision for the job."""
        known = self._acting
        known[job, file] = None if tell is None else _Acting((ANY, *names), tell)
        known.move_to_end((job, file))
        if len(known) > self._most_acting:
            known.popitem(last=False)

    # ---- counters

    def touched(self, touches: Iterable[Touch]) -> None:
        """Events, as ``patterns.Patterns.touch``: no counters follow of a file that is read whole at once and
        was not waited for."""
        for touch in touches:
            if touch.kind == TouchKind.FIRST and int(touch.flags) & _WHOLE:
                self._whole[touch.pid, touch.file] = touch.at, touch.last - touch.first + 1

    def take(self, rows: Iterable[tuple[int, int, Cursor]], places: Places, jobs: Jobs) -> None:
        """(pid, file, counters) of streams, as ``patterns.Patterns.cursors``; then comes ``settle``."""
        for pid, file, cursor in rows:
            self._whole.pop((pid, file), None)
            more = self._more(pid, file, cursor)
            if more is None:
                continue
            self._add(pid, file, places, jobs, *more)

    def _add(self, pid: int, file: int, places: Places, jobs: Jobs, waited: Waited, begun: int) -> None:
        # Also what counts for nobody takes its share of what the process waited for.
        reads = self._read.setdefault(pid, {})
        known = self._acting
        slot = jobs(pid), file
        if slot not in known:
            slot = 0, file
        place, acting = _NOWHERE, None
        if slot in known:
            place, acting = places(pid, file) or _NOWHERE, known[slot]
        read = reads.get((place, acting))
        if read is None:
            read = reads[place, acting] = _Read()
        read.waited = read.waited.plus(waited)
        read.begun += begun

    def _more(self, pid: int, file: int, cursor: Cursor) -> tuple[Waited, int] | None:
        """What the stream has more than it had, and how often it was begun since. None: nothing to count."""
        if not cursor.reads or cursor.direct:
            return None
        slot = pid, file, cursor.first_at
        before = self._streams.get(slot)
        self._streams[slot] = cursor.reads, cursor.pages, cursor.wait, cursor.passes
        self._streams.move_to_end(slot)
        if len(self._streams) > self._most_streams:
            self._streams.popitem(last=False)
        if before is None:
            if cursor.first_at < self._since - LATE:
                return None  # forgotten meanwhile: how much of it was counted is not known
            at, pages = self._told.pop((pid, file), (-1.0, 0))
            told = at >= cursor.first_at - TICK  # its first read is counted already
            waited = Waited(cursor.wait, max(0, cursor.pages - told * pages) * PAGE, cursor.reads - told)
            return waited, 1 + cursor.passes - told
        reads, pages, wait, passes = before
        if cursor.reads <= reads and cursor.wait <= wait:
            return None
        more = Waited(
            max(0.0, cursor.wait - wait), max(0, cursor.pages - pages) * PAGE, max(0, cursor.reads - reads)
        )
        return more, max(0, cursor.passes - passes)

    def settle(self, waits: Iterable[tuple[int, Wait]], now: float, places: Places, jobs: Jobs) -> None:
        """(pid, sums) of processes that waited, as ``patterns.Patterns.waits``: all that was taken since the
        last time is counted. ``now``: CLOCK_MONOTONIC seconds."""
        for (pid, file), (at, pages) in self._whole.items():
            self._told[pid, file] = at, pages
            self._told.move_to_end((pid, file))
            self._add(pid, file, places, jobs, Waited(0.0, pages * PAGE, 1), 1)
        while len(self._told) > self._most_streams:
            self._told.popitem(last=False)
        self._whole = {}
        held, self._held = self._held, {}
        for pid, wait in waits:
            for_names = wait.meta - self._names.get(pid, 0.0)
            self._names[pid] = wait.meta
            self._names.move_to_end(pid)
            if len(self._names) > PROCESSES:
                self._names.popitem(last=False)
            if for_names < 0:  # the number is another process's by now
                for_names = wait.meta
            for_names += held.pop(pid, 0.0)
            begun = sum(read.begun for read in self._read.get(pid, {}).values())
            if begun:
                self._share(pid, for_names / begun)
            elif for_names:
                self._held[pid] = for_names
        for pid, left in held.items():
            begun = sum(read.begun for read in self._read.get(pid, {}).values())
            if begun:
                self._share(pid, left / begun)
        self._count()
        self._since = now

    def _share(self, pid: int, seconds: float) -> None:
        for read in self._read[pid].values():
            read.waited = read.waited.plus(Waited(seconds * read.begun))

    def _count(self) -> None:
        sums: defaultdict[tuple[Place, tuple[Name, ...]], Waited] = defaultdict(Waited)
        for reads in self._read.values():
            for (place, acting), read in reads.items():
                if place is _NOWHERE:
                    continue
                names = acting.names if acting is not None else ()
                sums[place, names] = sums[place, names].plus(read.waited)
                if acting is not None:
                    acting.tell(place.key, read.waited)
        self._read = {}
        for (place, names), waited in sums.items():
            home = self._home(place)
            home.all = home.all.plus(waited)
            for name in names:
                before = home.under.get(name)
                self._sums += before is None
                home.under[name] = waited if before is None else before.plus(waited)
        while self._sums > self._most_sums and len(self._homes) > 1:
            self._sums -= 1 + len(self._homes.popitem(last=False)[1].under)

    def _home(self, place: Place) -> _Home:
        key, began = place
        home = self._homes.get(key)
        if home is None or home.began != began:
            self._sums += 1 if home is None else -len(home.under)
            home = self._homes[key] = _Home(began)
        self._homes.move_to_end(key)
        return home

    def homes(self) -> Homes:
        """As it is now, for any thread."""
        return Homes({key: (home.all, home.under.copy()) for key, home in self._homes.items()})


_NOWHERE = Place(Key(0, ""), 0.0)
"""Of files about whose opening no rule was asked."""


Basis = Literal["dataset", "others", "job", ""]


@dataclass(frozen=True, slots=True)
class Compared:
    """``after``: all that was read while it acted. ``of``: the part for which there is a before, and
    ``before``: the seconds that this part would have been waited for at the rate of before; None: there is
    no such part. ``basis``: what most of that is taken from: dataset (the same job's reads of the same
    dataset), others (those of other jobs), job (the job's reads of other datasets), "" nothing."""

    after: Waited
    of: Waited = NOTHING
    before: float | None = None
    basis: Basis = ""


class Homes:
    """What each job waited for in each dataset, at one moment: immutable."""

    def __init__(self, sums: Mapping[Key, tuple[Waited, Mapping[Name, Waited]]]) -> None:
        self._sums = sums
        self._by_dataset: defaultdict[str, list[Key]] = defaultdict(list)
        self._by_job: defaultdict[int, list[Key]] = defaultdict(list)
        for key in sums:
            self._by_dataset[key.dataset].append(key)
            self._by_job[key.job].append(key)
        self._under: defaultdict[Name, dict[Key, Waited]] = defaultdict(dict)
        for key, (_, under) in sums.items():
            for name, waited in under.items():
                self._under[name][key] = waited

    def of(self, name: Name) -> Compared | None:
        """All that was read where it acted, as far as it is remembered; None: nothing."""
        return self.compared(name, self._under.get(name, {}))

    def compared(self, name: Name, after: Mapping[Key, Waited]) -> Compared | None:
        """What was read where it acted, beside what was read where it did not; None: nothing was."""
        whole = of = NOTHING
        seconds = 0.0
        bases: defaultdict[Basis, int] = defaultdict(int)
        for key, waited in after.items():
            whole = whole.plus(waited)
            before, basis = self._before(name, key)
            if before is not None and waited.bytes:
                of = of.plus(waited)
                seconds += before.seconds / before.bytes * waited.bytes
                bases[basis] += waited.bytes
        if not whole.reads:
            return None
        if not bases:
            return Compared(whole)
        return Compared(whole, of, seconds, max(bases, key=bases.__getitem__))

    def _before(self, name: Name, key: Key) -> tuple[Waited | None, Basis]:
        places: tuple[tuple[Basis, Sequence[Key]], ...] = (
            ("dataset", (key,)),
            ("others", self._by_dataset.get(key.dataset, ())),
            ("job", self._by_job.get(key.job, ())),
        )
        for basis, keys in places:
            without = NOTHING
            for each in keys:
                total, under = self._sums.get(each, (NOTHING, {}))
                without = without.plus(total.minus(under.get(name, NOTHING)))
            if without.reads >= FEW and without.bytes:
                return without, basis
        return None, ""
