"""Programs that read, as the pattern engine sees them: trees of files, processes, samplers."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

from swmld.patterns.engine import Patterns
from swmld.patterns.feed import Folder, Place, Process, Shape, Touch, TouchFlag, TouchKind, Wait
from swmld.patterns.limits import Limits

from support.streams import StreamModel

PAGE = 4096
SAMPLE = 100_000


class Tree:
    """A mount's files: ``Names``. Directories have nodeids below 1,000,000, files above."""

    def __init__(self) -> None:
        self.folders: dict[int, Folder] = {1: Folder(None, "", 0)}
        self.places: dict[int, Place] = {}
        self._paths = {"": 1}
        self._files = 1_000_000

    def folder(self, directory: int) -> Folder | None:
        return self.folders.get(directory)

    def place(self, file: int) -> Place | None:
        return self.places.get(file)

    def directory(self, path: str) -> int:
        """Its nodeid; made where it is not there, with those above it."""
        if path not in self._paths:
            above = self.directory(path.rpartition("/")[0])
            number = self._paths[path] = len(self._paths) + 1
            self.folders[number] = Folder(above, path, 0)
        return self._paths[path]

    def add(
        self,
        path: str,
        names: Iterable[str],
        size: int = SAMPLE,
        *,
        listed: bool = True,
        kernel_order: random.Random | None = None,
    ) -> list[int]:
        """Files of ``size`` bytes, their nodeids in the order of ``names``. ``kernel_order``: they are listed
        in an order of its own."""
        directory = self.directory(path)
        raw = [name.encode() for name in names]
        order = sorted(raw)
        places = list(range(len(raw)))
        if kernel_order is not None:
            kernel_order.shuffle(places)
        index = {name: number for number, name in enumerate(order)}
        files = []
        for name in raw:
            self._files += 1
            number = index[name]
            place = Place(
                directory, name, size, number if listed else None, places[number] if listed else None
            )
            self.places[self._files] = place
            files.append(self._files)
        old = self.folders[directory]
        self.folders[directory] = old._replace(files=len(raw) if listed else None)
        return files

    def images(self, path: str, count: int, **how: object) -> list[int]:
        return self.add(path, [f"{n:07d}.jpg" for n in range(count)], **how)  # type: ignore[arg-type]


class Table:
    """Processes that were made: ``Processes``."""

    def __init__(self) -> None:
        self.processes: dict[int, Process] = {}

    def of(self, pid: int) -> Process | None:
        return self.processes.get(pid)

    def add(self, pid: int, parent: int = 0, comm: str = "python3", command: str = "python3 train.py") -> int:
        job = self.processes[parent].job if parent in self.processes else pid
        self.processes[pid] = Process(pid, job, parent, comm, command, 1e9, "/", "")
        return pid


class Run:
    """An engine with a tree, processes and a clock that goes on by ``step`` seconds a file."""

    def __init__(self, limits: Limits | None = None, step: float = 0.001) -> None:
        self.tree = Tree()
        self.table = Table()
        self.patterns = Patterns(self.tree, self.table, limits)
        self.now = 1000.0
        self.step = step

    def program(self, comm: str = "python3", command: str = "python3 train.py", parent: int = 0) -> int:
        return self.table.add(100 + len(self.table.processes), parent, comm, command)

    def workers(self, root: int, count: int) -> list[int]:
        command = self.table.processes[root].command
        return [self.program("pt_data_worker", command, root) for _ in range(count)]

    def touch(self, pid: int, file: int, *, kind: TouchKind = TouchKind.FIRST, flags: int = 8) -> None:
        self.now += self.step
        place = self.tree.places[file]
        pages = max(1, -(-place.size // PAGE))
        touch = Touch(
            kind, self.now, pid, file, 0, pages - 1, pages, 0, TouchFlag(flags), Shape.NEW
        )  # fmt: skip
        self.patterns.touch([touch])

    def read(self, pid: int, files: Iterable[int]) -> None:
        for file in files:
            self.touch(pid, file)

    def interleave(self, parts: Sequence[tuple[int, Iterable[int]]]) -> None:
        """Several processes read side by side, a file each in turn."""
        ways: list[tuple[int, Iterator[int]]] = [(pid, iter(files)) for pid, files in parts]
        while ways:
            for way in list(ways):
                file = next(way[1], None)
                if file is None:
                    ways.remove(way)
                else:
                    self.touch(way[0], file)

    def loader(self, workers: Sequence[int], files: Sequence[int], batch: int) -> None:
        """An epoch of torch's DataLoader: batches are dealt to the workers in turn."""
        batches = [files[at : at + batch] for at in range(0, len(files), batch)]
        dealt = [
            (pid, [file for part in batches[number :: len(workers)] for file in part])
            for number, pid in enumerate(workers)
        ]
        self.interleave(dealt)

    def large(
        self, pid: int, file: int, reads: Iterable[tuple[int, int]], *, fault: bool = False
    ) -> StreamModel:
        """A file of several reads; counters follow at its end."""
        model = StreamModel(pid, file, -(-self.tree.places[file].size // PAGE))
        for first, last in reads:
            self.now += self.step
            self.patterns.touch(model.read(first, last, self.now, fault=fault))
        self.patterns.cursors([(pid, file, model.cursor)])
        return model

    def front_to_back(self, pid: int, file: int, length: int = 64) -> StreamModel:
        pages = -(-self.tree.places[file].size // PAGE)
        return self.large(pid, file, [(at, at + length - 1) for at in range(0, pages, length)])

    def exit(self, *pids: int) -> None:
        nothing = TouchFlag(0)
        self.patterns.touch(
            [Touch(TouchKind.EXIT, self.now, pid, 0, 0, 0, 0, 0, nothing, Shape.NEW) for pid in pids]
        )

    def writes(self, pid: int, count: int) -> None:
        self.patterns.waits([(pid, Wait(0.0, 0, 0.0, 0, 0.0, 0, 0.5, count, (0,) * 24))], self.now)

    def wrote(self, pid: int, file: int, nbytes: int, bursts: int = 1, since: float = 900.0) -> None:
        """Counters of a file that the process writes and does not read: sums since it began."""
        cursor = StreamModel(pid, file, 0).cursor._replace(
            first_at=since, reads=0, written=nbytes, written_at=self.now, bursts=bursts
        )
        self.patterns.cursors([(pid, file, cursor)])

    def phase(self, job: int) -> str:
        return self.job(job).phase.kind

    def job(self, job: int):  # noqa: ANN201
        return next(view for view in self.patterns.snapshot(self.now).jobs if view.job == job)

    def dataset(self, job: int, path: str):  # noqa: ANN201
        return next(view for view in self.job(job).datasets if view.path == path)


def shuffled(files: Sequence[int], seed: int) -> list[int]:
    order = list(files)
    random.Random(seed).shuffle(order)
    return order
