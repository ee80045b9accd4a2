"""Millions of files and how they are read, made up as they are asked for: what grows is the engine's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd

from swmld.patterns.feed import Folder, Place, Process, Shape, Touch, TouchFlag, TouchKind

ROOT = 1
FIRST = 1 << 40
"""Nodeid of the first file; directories come after ``ROOT``."""


@dataclass(frozen=True)
class Layout:
    """``files`` in directories of ``folder`` files each; each job reads ``job`` of them, 0: one reads all,
    and each of its processes ``process``, 0: one reads all. ``mixed``: each directory has files of another
    kind, so that it is a dataset of its own."""

    files: int
    folder: int
    job: int = 0
    process: int = 0
    listed: bool = True
    mixed: bool = False

    def folders(self) -> int:
        return -(-self.files // self.folder)


class Many:
    """``Names`` and ``Processes`` of a layout, from arithmetic alone."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def place(self, file: int) -> Place | None:
        folder, index = divmod(file - FIRST, self.layout.folder)
        kind = f".{folder:x}" if self.layout.mixed else ".jpg"
        places = (index, index) if self.layout.listed else (None, None)
        return Place(ROOT + 1 + folder, b"%08d%s" % (index, kind.encode()), 4096, *places)

    def folder(self, directory: int) -> Folder | None:
        if directory == ROOT:
            return Folder(None, "", 0)
        files = self.layout.folder if self.layout.listed else None
        return Folder(ROOT, f"d{directory - ROOT - 1:07d}", files)

    def of(self, pid: int) -> Process | None:
        """Pids are 16 bits of the job's number, 16 of the process's in it; the root is process 0."""
        return Process(pid, pid & ~0xFFFF, pid & ~0xFFFF, "python3", "python3 train.py", 1e9, "/", "")


def reads(layout: Layout, step: float = 1e-5) -> Iterator[Touch]:
    """Each file once, the files of a job in no order, and the ends of processes that have read their part."""
    touch = Touch(TouchKind.FIRST, 0.0, 0, 0, 0, 0, 1, 0, TouchFlag.WHOLE, Shape.NEW)
    end = touch._replace(kind=TouchKind.EXIT, flags=TouchFlag(0))
    at = 1.0
    part = layout.job or layout.files
    for number, begin in enumerate(range(0, layout.files, part), 1):
        count = min(part, layout.files - begin)
        stride = next(n for n in range(int(count * 0.618) | 1, 2 * count + 2) if gcd(n, count) == 1)
        pid = number << 16
        for position in range(count):
            at += step
            file = FIRST + begin + position * stride % count
            yield touch._replace(at=at, pid=pid, file=file)
            if layout.process and position % layout.process == layout.process - 1:
                yield end._replace(at=at, pid=pid, file=0)
                pid = (number << 16) + (pid + 1) % (1 << 16)
        yield end._replace(at=at, pid=pid, file=0)
        if pid != number << 16:
            yield end._replace(at=at, pid=number << 16, file=0)
