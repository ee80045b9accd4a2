"""The labelled traces of ``tests/corpus``: replayed through the engine, and compared with what was done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from swmld.api.patterns import path_of
from swmld.observe.recording import Reader
from swmld.patterns.engine import Patterns
from swmld.patterns.feed import Place, Shape, Touch, TouchFlag, TouchKind
from swmld.patterns.views import DatasetView, JobView, Snapshot

HERE = Path(__file__).parent.parent / "corpus"
TRACES = HERE / "traces"

EARLY = 0.05
"""Share of an epoch before which an order must be known."""

LEAST = 200
"""Files of an epoch from which that share is more than a handful."""

AGREE = 0.9
"""Of all bytes in streams that a label names, so many must be called by it."""

_READS = (TouchKind.FIRST, TouchKind.PASS)


class Judged(NamedTuple):
    """One label: what the program did, what the engine said. ``what``: pattern, order, epoch, batch, workers,
    phase, early order, early pattern."""

    trace: str
    what: str
    where: str
    wanted: str
    said: str

    @property
    def right(self) -> bool:
        if self.what in ("batch", "workers") and self.said.isdigit():
            wanted = int(self.wanted)
            return abs(int(self.said) - wanted) <= max(1, 0.1 * wanted) if wanted else self.said == "0"
        return self.wanted == self.said


def labels() -> dict[str, dict[str, Any]]:
    """By name of the trace."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((HERE / "labels.yaml").read_text())
    return found


class Survey:
    """What a trace holds, whatever is made of it: files by directory, streams by path."""

    def __init__(self, path: Path) -> None:
        self.ended = float("inf")
        """When the program's first process ended."""
        self.streams: dict[str, set[tuple[int, int]]] = {}
        self.places: dict[int, tuple[str, Place]] = {}
        with Reader(path) as reader:
            for raw in reader:
                for touch in raw.touches:
                    if touch.kind in _READS:
                        self._met(reader, touch)
                    elif touch.kind == TouchKind.EXIT and touch.pid == reader.state["root"]:
                        self.ended = touch.at
            # A listing may have come late.
            self.places = {
                file: (folder, reader.place(file) or place) for file, (folder, place) in self.places.items()
            }
            self.root: int = reader.state["root"]
            self.marks: list[float] = reader.state["marks"]
            self.cut = reader.cut

    def _met(self, reader: Reader, touch: Touch) -> None:
        name = path_of(reader, touch.file)
        place = reader.place(touch.file)
        if name is None or place is None:
            return
        self.streams.setdefault(name, set()).add((touch.pid, touch.file))
        self.places[touch.file] = name.rpartition("/")[0], place

    def below(self, directory: str) -> dict[int, tuple[str, Place]]:
        prefix = directory + "/"
        return {
            file: (folder, place)
            for file, (folder, place) in self.places.items()
            if folder == directory or folder.startswith(prefix)
        }

    def listed_by_name(self, directory: str) -> bool:
        """The kernel lists these files in the order of their names."""
        by_folder: dict[str, list[tuple[int, int]]] = {}
        for folder, place in self.below(directory).values():
            if place.index is not None and place.listed is not None:
                by_folder.setdefault(folder, []).append((place.index, place.listed))
        return all(
            [listed for _, listed in sorted(rows)] == sorted(listed for _, listed in rows)
            for rows in by_folder.values()
        )


class Replay:
    """One trace through one engine; ``run`` gives what became of each label."""

    def __init__(self, name: str, entry: Mapping[str, Any]) -> None:
        self.name = name
        self.entry = entry
        self.path = TRACES / f"{name}.swt"
        self.survey = Survey(self.path)
        self.found: list[Judged] = []
        self._phases: Sequence[str | None] = entry.get("phases", ())
        self._said = 0
        self._seen: dict[str, set[int]] = {path: set() for path in entry.get("datasets", {})}
        self._needed = {path: ceil(EARLY * len(self.survey.below(path))) for path in self._seen}
        self._young: dict[tuple[int, int], list[Touch]] = {}

    def run(self) -> list[Judged]:
        marks = self.survey.marks
        if self._phases and not 0 <= len(marks) - len(self._phases) <= 1:  # one more: the end of the last
            raise ValueError(f"{self.name}: {len(marks)} marks, labels of {len(self._phases)} phases")
        now = 0.0
        with Reader(self.path) as reader:
            self._patterns = Patterns(reader, reader)
            for raw in reader:
                now = max(now, raw.at)
                for touch in raw.touches:
                    self._until(touch.at)
                    self._patterns.touch((touch,))
                    self._watch(reader, touch)
                if not raw.touches:
                    self._until(raw.at)
                self._patterns.cursors(raw.cursors)
                self._patterns.tiers(raw.tiers)
                self._patterns.waits(raw.waits)
                if raw.at >= self.survey.ended and (raw.cursors or raw.waits):
                    self._last_phase(raw.at)  # the counters that were read after its end
            snapshot = self._patterns.snapshot(now)
            self._last_phase(now)
            self._datasets(snapshot)
            self._streams()
        return self.found

    def _add(self, what: str, where: str, wanted: Any, said: Any) -> None:
        said = "unknown" if said is None else str(said)
        self.found.append(Judged(self.name, what, where, str(wanted), said))

    # ---- phases

    def _until(self, at: float) -> None:
        """The phases that have ended by then: what is said just before the next one begins."""
        marks = self.survey.marks
        while self._said + 1 < len(marks) and at >= marks[self._said + 1]:
            self._phase(self._patterns.snapshot(marks[self._said + 1]))

    def _last_phase(self, at: float) -> None:
        self._until(max(at, self.survey.marks[-1]))
        if self._said < max(1, len(self._phases)):
            self._phase(self._patterns.snapshot(at))

    def _phase(self, snapshot: Snapshot) -> None:
        wanted = self._phases[self._said] if self._said < len(self._phases) else None
        self._said += 1
        if wanted is not None:
            job = self._job(snapshot)
            self._add("phase", str(self._said), wanted, job.phase.kind if job else None)

    def _job(self, snapshot: Snapshot) -> JobView | None:
        """The program's; of a pipeline's the one that read most."""
        mine = [job for job in snapshot.jobs if job.job == self.survey.root]
        return max(mine or snapshot.jobs, key=lambda job: job.bytes, default=None)

    # ---- datasets

    def _datasets(self, snapshot: Snapshot) -> None:
        for path, wanted in self.entry.get("datasets", {}).items():
            views = [view for job in snapshot.jobs for view in job.datasets if view.path == path]
            view = max(views, key=lambda view: view.bytes, default=None)
            said = {
                "order": self._order(path, wanted.get("order"), view),
                "epoch": view and view.passes,
                "batch": view and view.batch,
                "workers": view and view.workers,
            }
            for what, value in wanted.items():
                self._add(what, path, value, said[what])

    def _order(self, path: str, wanted: str | None, view: DatasetView | None) -> str | None:
        if view is None:
            return None
        if wanted == "listed" and view.order.kind == "sorted" and self.survey.listed_by_name(path):
            return "listed"
        return view.order.kind

    def _watch(self, reader: Reader, touch: Touch) -> None:
        if touch.kind in _READS:
            for path, seen in self._seen.items():
                if len(seen) < self._needed[path]:
                    self._watch_order(reader, touch, path, seen)
        if touch.kind < TouchKind.CLOSE:
            self._watch_stream(reader, touch)

    def _watch_order(self, reader: Reader, touch: Touch, path: str, seen: set[int]) -> None:
        found = self.survey.places.get(touch.file)
        if found is None or not (found[0] == path or found[0].startswith(path + "/")) or touch.file in seen:
            return
        seen.add(touch.file)
        process = reader.of(touch.pid)
        wanted = self.entry["datasets"][path].get("order")
        # Which other order it is, the second epoch tells at the earliest.
        wanted = "shuffled" if wanted == "fixed" else wanted
        if len(seen) < self._needed[path] or wanted in (None, "groups") or process is None:
            return
        if len(self.survey.below(path)) >= LEAST:
            view = self._patterns.dataset_of(touch.file, process.job)
            self._add("early order", path, wanted, self._order(path, wanted, view))

    # ---- streams

    def _streams(self) -> None:
        for glob, wanted in self.entry.get("streams", {}).items():
            said = self._kinds(glob)
            kind = None
            if said:
                kind = max(said, key=lambda kind: said[kind])
                if kind == wanted and said[kind] < AGREE * said.total():
                    kind = max((other for other in said if other != wanted), key=lambda kind: said[kind])
            self._add("pattern", glob, wanted, kind)

    def _kinds(self, glob: str) -> Counter[str]:
        """Bytes by pattern: a process that only looks at the headers of a file is another stream of it."""
        said: Counter[str] = Counter()
        for name, streams in self.survey.streams.items():
            if fnmatchcase(name, glob):
                for pid, file in streams:
                    view = self._patterns.stream(pid, file)
                    said[view.pattern.kind if view is not None else "forgotten"] += view.bytes if view else 1
        return said

    def _watch_stream(self, reader: Reader, touch: Touch) -> None:
        """A stream that is read in sequence by reads of one size: what is said after the third one."""
        key = touch.pid, touch.file
        if touch.kind == TouchKind.FIRST and touch.flags & (TouchFlag.WHOLE | TouchFlag.FAULT) == 0:
            name = path_of(reader, touch.file) or ""
            globs = self.entry.get("streams", {}).items()
            if any(wanted == "sequential" and fnmatchcase(name, glob) for glob, wanted in globs):
                self._young[key] = [touch]
            return
        first = self._young.pop(key, None)
        if first is None or touch.kind != TouchKind.KIND or touch.shape != Shape.SEQUENTIAL:
            return
        length = first[0].last - first[0].first + 1
        if touch.first > 2 * length:
            return  # readahead or the program's own buffer make later reads longer
        view = self._patterns.stream(*key)
        self._add("early pattern", "", "sequential", view and view.pattern.kind)


def matrix(judged: Sequence[Judged]) -> str:
    """Rows: what was done; columns: what was said of it."""
    rows = sorted({one.wanted for one in judged})
    columns = [*rows, *sorted({one.said for one in judged} - set(rows))]
    counts = Counter((one.wanted, one.said) for one in judged)
    width = max(map(len, rows), default=0)
    lines = [" " * width + "".join(f"  {column}" for column in columns)]
    for row in rows:
        cells = (counts[row, column] for column in columns)
        lines.append(
            f"{row:<{width}}"
            + "".join(f"  {cell or '.':>{len(column)}}" for cell, column in zip(cells, columns, strict=True))
        )
    return "\n".join(lines)


def numbers(judged: Sequence[Judged]) -> str:
    """Counts of right, wrong and unknown estimates."""
    right = sum(one.right for one in judged)
    unknown = sum(one.said == "unknown" for one in judged)
    return f"{right} right, {len(judged) - right - unknown} wrong, {unknown} unknown"
