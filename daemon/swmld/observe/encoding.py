"""What the probes said, as lines of JSON: the body of a recording, and what ``trace`` streams.

A line holds one batch as tables, column by column, because gzip finds more in a column than in a row::

    {"at": 81000000, "processes": {...}, "folders": {...}, "files": {...},
     "touches": {"n": 2, "all": {"pid": 4242, "kind": 1}, "each": {"at": [81000000, 4000], "file": [7, 1]}},
     ...}

A column with one value for all rows is in ``all``, one that is 0 (or empty) throughout is left out. Times
are whole microseconds. Names and processes come in the first line that needs them; files are numbered as
they are met, and the rows have the number instead of the nodeid, because numbers that follow one another
cost next to nothing. Then

- the columns of ``columns._CHAINED`` are differences to the row before,
- others are differences to a column of the same row (``columns._WITHIN``): a small file that is read
  whole costs zeros; the base ``known`` is the size that the file was announced with, in pages, and is not
  written.

``programs`` has rows of a process's pid, the frameworks that it has loaded and the libraries that it has
mapped, once that is known, and again when it changes.

Both ends forget what was announced longest ago, the encoder first, so their memory is bounded; what is met
again is announced again. The encoder announces again too what has changed: a listing that came late, an exec.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from swmld.observe.columns import MOST_ROWS, ROWS, Table, columns_of, pack, rows_of, unpack, whole
from swmld.observe.libraries import Program
from swmld.patterns.feed import (
    NOT_EARLY,
    PAGE,
    Cursor,
    Folder,
    Names,
    Place,
    Process,
    Processes,
    Shape,
    Tiers,
    Touch,
    TouchFlag,
    TouchKind,
    Wait,
)

# What the encoder remembers to have said, about 250 bytes each; the decoder keeps a line's worth more, since
# it forgets in the order of the rows. What is forgotten costs 12 bytes in the file to be told again.
FILES = 1 << 18
FOLDERS = 1 << 15
PROCESSES = 1 << 14

# Listings that came late are looked for in this many folders a batch, and so many files announced again.
LATE_FOLDERS = 500
LATE_FILES = 1000

# Of so many processes it is asked again, so many batches long, what they run: a look takes some milliseconds,
# and who has ended meanwhile cannot be looked at.
LATE_PROCESSES = 100
LATE_BATCHES = 8

_EARLY = 8
_BUCKETS = 24

_FILED = frozenset((TouchKind.FIRST, TouchKind.PASS, TouchKind.KIND, TouchKind.BREAK, TouchKind.WINDOW,
                    TouchKind.CLOSE))  # fmt: skip


class Raw(NamedTuple):
    """One batch of what the probes said, in order of time; ``at`` seconds, CLOCK_MONOTONIC.

    ``lost``: batches that the receiver was too slow for, since the one before.
    """

    at: float
    touches: Sequence[Touch] = ()
    cursors: Sequence[tuple[int, int, Cursor]] = ()
    tiers: Sequence[tuple[int, int, Tiers]] = ()
    waits: Sequence[tuple[int, Wait]] = ()
    lost: int = 0


def _bounded(kept: OrderedDict[int, Any], limit: int) -> None:
    """Forget what was put in longest ago. A plain dict would look for it past all that went before."""
    while len(kept) > limit:
        kept.popitem(last=False)


class _Met(NamedTuple):
    number: int
    pages: int  # as announced
    place: int  # hash of the Place, None's too


class Encoder:
    """Makes lines of batches; one for each receiver, since it knows what that one was told.

    Loop-only if ``names``, ``processes`` and ``program`` are, which tells what a process runs as soon as that
    is known. About 4 µs a row.
    """

    def __init__(
        self,
        names: Names,
        processes: Processes,
        program: Callable[[Process], Program | None] = lambda process: None,
    ) -> None:
        self._names = names
        self._processes = processes
        self._program = program
        self._programs: OrderedDict[int, Program] = OrderedDict()
        self._unlooked: OrderedDict[int, int] = OrderedDict()
        """Processes that were met and of which it is not known yet what they run: how often it is asked."""
        self._files: OrderedDict[int, _Met] = OrderedDict()
        self._folders: OrderedDict[int, int | None] = OrderedDict()
        self._told: OrderedDict[int, Process] = OrderedDict()
        self._unlisted: OrderedDict[int, list[int]] = OrderedDict()
        self._late = 0
        self._next = 0
        self._new: dict[str, list[tuple[Any, ...]]] = {}

    def lines(self, raw: Raw) -> Iterator[dict[str, Any]]:
        """``raw`` in order, at most ``ROWS`` rows of each kind a line; one line at least."""
        longest = max(len(raw.touches), len(raw.cursors), len(raw.tiers), len(raw.waits), 1)
        for start in range(0, longest, ROWS):
            part = slice(start, start + ROWS)
            piece = Raw(raw.at, raw.touches[part], raw.cursors[part], raw.tiers[part], raw.waits[part])
            line = self._line(piece)
            if raw.lost and not start:
                line["lost"] = raw.lost
            yield line

    def _line(self, raw: Raw) -> dict[str, Any]:
        self._new = {"processes": [], "folders": [], "files": []}
        self._listed_late()
        programs = self._meet_processes(raw)
        tables: dict[str, Table] = {}
        if raw.touches:
            met = [self._of_touch(touch) for touch in raw.touches]
            rows = [touch._replace(file=one.number) for touch, one in zip(raw.touches, met, strict=True)]
            tables["touches"] = pack("touches", rows, [one.pages for one in met])
        if raw.cursors:
            tables["cursors"] = self._pack_cursors(raw.cursors)
        if raw.tiers:
            by_file = sorted((self._meet(file).number, pid, tiers) for pid, file, tiers in raw.tiers)
            tables["tiers"] = pack("tiers", [(pid, number, *tiers) for number, pid, tiers in by_file])
        if raw.waits:
            by_process = [(pid, *wait[:-1], _cut(wait.histogram, 0)) for pid, wait in raw.waits]
            tables["waits"] = pack("waits", by_process)
        # In order of their listings: neighbours have most of their names in common.
        self._new["files"].sort(key=lambda row: (row[2] or 0, row[5], row[3], row[0]))
        new = {table: pack(table, rows) for table, rows in self._new.items() if rows}
        _bounded(self._files, FILES)
        _bounded(self._folders, FOLDERS)
        _bounded(self._told, PROCESSES)
        _bounded(self._programs, PROCESSES)
        _bounded(self._unlooked, LATE_PROCESSES)
        return {"at": round(raw.at * 1e6), **new, **({"programs": programs} if programs else {}), **tables}

    def _pack_cursors(self, cursors: Sequence[tuple[int, int, Cursor]]) -> Table:
        # Which stream stands first says nothing: in order of their numbers they cost least.
        met = sorted(
            ((self._meet(file), pid, cursor) for pid, file, cursor in cursors), key=lambda row: row[:2]
        )
        rows = [(pid, one.number, *cursor[:-1], _cut(cursor.early, NOT_EARLY)) for one, pid, cursor in met]
        return pack("cursors", rows, [one.pages for one, _, _ in met])

    # ---- files

    def _of_touch(self, touch: Touch) -> _Met:
        if touch.kind in _FILED:
            return self._meet(touch.file, again=touch.kind is TouchKind.FIRST)
        return _Met(touch.file, 0, 0)  # a process's: the number is the child's pid

    def _meet(self, file: int, *, again: bool = False) -> _Met:
        """What the receiver knows of ``file``; ``again``: look whether that has changed."""
        met = self._files.get(file)
        if met is None:
            return self._announce(file, self._names.place(file))
        if again or met.place == _NO_PLACE:
            place = self._names.place(file)
            if hash(place) != met.place:
                return self._announce(file, place)
        return met

    def _announce(self, file: int, place: Place | None) -> _Met:
        self._files.pop(file, None)
        pages = -(-place.size // PAGE) if place is not None else 0
        met = self._files[file] = _Met(self._next, pages, hash(place))
        self._next += 1
        if place is None:
            self._new["files"].append((met.number, file, None, "", 0, _UNLISTED, None))
            return met
        index = _UNLISTED if place.index is None else place.index
        name = os.fsdecode(place.name)
        self._new["files"].append((met.number, file, place.directory, name, place.size, index, place.listed))
        self._meet_folder(place.directory)
        if place.index is None and self._late < FILES:
            self._unlisted.setdefault(place.directory, []).append(file)
            self._late += 1
        return met

    def _meet_folder(self, directory: int | None) -> None:
        while directory is not None and directory not in self._folders:
            folder = self._names.folder(directory)
            if folder is None:
                return
            self._folders[directory] = folder.files
            self._new["folders"].append((directory, *folder))
            directory = folder.parent

    def _listed_late(self) -> None:
        """Announce again what was met before its folder had been listed."""
        budget = LATE_FILES
        for directory in list(islice(self._unlisted, LATE_FOLDERS)):
            files = self._unlisted.pop(directory)
            folder = self._names.folder(directory)
            if folder is None:
                self._late -= len(files)
                continue
            if folder.files is None:
                self._unlisted[directory] = files  # at the end: each gets its turn
                continue
            if self._folders.pop(directory, None) != folder.files:
                self._meet_folder(directory)
            part = files[-budget:]
            del files[-budget:]
            budget -= len(part)
            self._late -= len(part)
            for file in part:
                if (
                    file in self._files
                    and (place := self._names.place(file)) is not None
                    and place.index is not None
                ):
                    self._announce(file, place)
            if files:
                self._unlisted[directory] = files
                return

    # ---- processes

    def _meet_processes(self, raw: Raw) -> list[tuple[int, list[str], list[str]]]:
        """Announces them; the rows of ``programs``."""
        pids = {touch.pid for touch in raw.touches}
        pids |= {touch.file for touch in raw.touches if touch.kind is TouchKind.FORK}
        for rows in (raw.cursors, raw.tiers, raw.waits):
            pids |= {row[0] for row in rows}
        readers = pids | set(self._unlooked)
        looked: set[int] = {0}
        while pids:
            pid = pids.pop()
            looked.add(pid)
            process = self._processes.of(pid)
            if process is None or self._told.get(pid) == process:
                continue
            self._told.pop(pid, None)
            self._told[pid] = process
            self._new["processes"].append(tuple(process))
            pids |= {process.job, process.parent} - looked
        return [row for pid in readers if (row := self._look(pid)) is not None]

    def _look(self, pid: int) -> tuple[int, list[str], list[str]] | None:
        """What is new of what a process runs."""
        left = self._unlooked.pop(pid, LATE_BATCHES)
        process = self._processes.of(pid)
        program = self._program(process) if process is not None else None
        if program is None:
            if process is not None and left:
                self._unlooked[pid] = left - 1
            return None
        if self._programs.get(pid) == program:
            return None
        self._programs[pid] = program
        return pid, list(program.frameworks), sorted(program.libraries)


_NO_PLACE = hash(None)
_UNLISTED = -1  # as index in a line: a difference needs a number


def _cut(values: Sequence[int], filler: int) -> list[int]:
    """``values`` without the fillers at their end."""
    end = len(values)
    while end and values[end - 1] == filler:
        end -= 1
    return list(values[:end])


def _filled(values: Sequence[int], filler: int, length: int) -> tuple[int, ...]:
    return (*values, *([filler] * (length - len(values))))


class _File(NamedTuple):
    nodeid: int
    pages: int


class Decoder:
    """Makes batches of lines, and is the Names and Processes that they came with."""

    def __init__(self) -> None:
        self._numbers: OrderedDict[int, _File] = OrderedDict()
        self._number_of: OrderedDict[int, int] = OrderedDict()
        self._places: OrderedDict[int, Place] = OrderedDict()
        self._folders: OrderedDict[int, Folder] = OrderedDict()
        self._known: OrderedDict[int, Process] = OrderedDict()
        self._programs: OrderedDict[int, Program] = OrderedDict()

    def place(self, file: int) -> Place | None:
        """Where the file of this nodeid lies; None: never announced, or forgotten."""
        return self._places.get(file)

    def folder(self, directory: int) -> Folder | None:
        """As ``place``."""
        return self._folders.get(directory)

    def of(self, pid: int) -> Process | None:
        """As ``place``."""
        return self._known.get(pid)

    def program(self, pid: int) -> Program | None:
        """What the process ran when it was last looked at; None: that was never known, or it is forgotten."""
        return self._programs.get(pid)

    def raw(self, line: Mapping[str, Any]) -> Raw:
        """The batch of one line. Raises ValueError if an encoder did not make it."""
        try:
            self._learn(line)
            return Raw(
                line["at"] / 1e6,
                self._touches(line["touches"]) if "touches" in line else [],
                self._cursors(line["cursors"]) if "cursors" in line else [],
                self._tiers(line["tiers"]) if "tiers" in line else [],
                self._waits(line["waits"]) if "waits" in line else [],
                line.get("lost", 0),
            )
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"not a line of a trace: {type(error).__name__}: {error}") from None

    def _learn(self, line: Mapping[str, Any]) -> None:
        if "processes" in line:
            for row in rows_of("processes", unpack("processes", line["processes"])):
                process = Process._make(row)
                self._known.pop(process.pid, None)
                self._known[process.pid] = process
        for pid, frameworks, libraries in line.get("programs", ()):
            self._programs.pop(pid, None)
            self._programs[pid] = Program(frozenset(map(str, libraries)), tuple(map(str, frameworks)))
        if "folders" in line:
            for nodeid, *rest in rows_of("folders", unpack("folders", line["folders"])):
                self._folders.pop(nodeid, None)
                self._folders[nodeid] = Folder._make(rest)
        if "files" in line:
            files = rows_of("files", unpack("files", line["files"]))
            for number, nodeid, directory, name, size, index, listed in files:
                self._numbers.pop(self._number_of.pop(nodeid, number), None)
                self._numbers[number] = _File(nodeid, -(-size // PAGE))
                self._number_of[nodeid] = number
                self._places.pop(nodeid, None)
                if directory is not None:
                    place = Place(directory, os.fsencode(name), size, None if index < 0 else index, listed)
                    self._places[nodeid] = place
        for kept in (self._numbers, self._number_of, self._places):
            _bounded(kept, FILES + MOST_ROWS)
        _bounded(self._folders, FOLDERS + MOST_ROWS)
        _bounded(self._known, PROCESSES + MOST_ROWS)
        _bounded(self._programs, PROCESSES + MOST_ROWS)

    def _touches(self, packed: Table) -> list[Touch]:
        columns = columns_of("touches", packed)
        columns["kind"] = [_KINDS[kind] for kind in columns["kind"]]
        none = _File(0, 0)
        files = [
            self._numbers[number] if kind in _FILED else none
            for number, kind in zip(columns["file"], columns["kind"], strict=True)
        ]
        columns["file"] = [
            file.nodeid if kind in _FILED else number
            for file, number, kind in zip(files, columns["file"], columns["kind"], strict=True)
        ]
        columns["flags"] = [TouchFlag(flags) for flags in columns["flags"]]
        columns["shape"] = [_SHAPES[shape] for shape in columns["shape"]]
        undone = whole("touches", columns, [file.pages for file in files])
        return [Touch._make(row) for row in rows_of("touches", undone)]

    def _cursors(self, packed: Table) -> list[tuple[int, int, Cursor]]:
        columns = columns_of("cursors", packed)
        files = [self._numbers[number] for number in columns["file"]]
        columns["file"] = [file.nodeid for file in files]
        columns["early"] = [_filled(early, NOT_EARLY, _EARLY) for early in columns["early"]]
        undone = whole("cursors", columns, [file.pages for file in files])
        return [(pid, file, Cursor._make(rest)) for pid, file, *rest in rows_of("cursors", undone)]

    def _tiers(self, packed: Table) -> list[tuple[int, int, Tiers]]:
        rows = rows_of("tiers", unpack("tiers", packed))
        return [(pid, self._numbers[number].nodeid, Tiers._make(rest)) for pid, number, *rest in rows]

    def _waits(self, packed: Table) -> list[tuple[int, Wait]]:
        columns = unpack("waits", packed)
        columns["histogram"] = [_filled(counts, 0, _BUCKETS) for counts in columns["histogram"]]
        return [(pid, Wait._make(rest)) for pid, *rest in rows_of("waits", columns)]


_KINDS: Mapping[int, TouchKind] = {int(kind): kind for kind in TouchKind}
_SHAPES: Mapping[int, Shape] = {int(shape): shape for shape in Shape}
