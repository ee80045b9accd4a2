"""A made-up run for tests of what shows and stores findings: names, processes, batches and snapshots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import trio
from swmld.observe.encoding import Raw
from swmld.patterns.feed import (
    NOT_EARLY,
    Cursor,
    Folder,
    Place,
    Process,
    Shape,
    Tiers,
    Touch,
    TouchFlag,
    TouchKind,
    Wait,
)

HISTOGRAM = (0,) * 24


class Table:
    """Names and Processes from dicts."""

    def __init__(self) -> None:
        self.places: dict[int, Place] = {}
        self.folders: dict[int, Folder] = {1: Folder(None, "", 0), 2: Folder(1, "train", None)}
        self.processes: dict[int, Process] = {}

    def place(self, file: int) -> Place | None:
        return self.places.get(file)

    def folder(self, directory: int) -> Folder | None:
        return self.folders.get(directory)

    def of(self, pid: int) -> Process | None:
        return self.processes.get(pid)

    def add(self, file: int, name: str, size: int, directory: int = 2, index: int | None = None) -> None:
        self.places[file] = Place(directory, name.encode(), size, index, index)

    def start(self, pid: int, job: int, comm: str = "python") -> None:
        self.processes[pid] = Process(pid, job, 1, comm, f"{comm} train.py", 1.7e9, "/ml", "")


def touch(at: float, pid: int, file: int, **fields: Any) -> Touch:
    """A first read of the whole of a file of 25 pages, unless ``fields`` say otherwise."""
    values: dict[str, Any] = {
        "kind": TouchKind.FIRST, "first": 0, "last": 24, "size": 25, "stride": 0, "flags": TouchFlag.WHOLE,
        "shape": Shape.NEW, **fields,
    }  # fmt: skip
    return Touch(at=at, pid=pid, file=file, **values)


def cursor(at: float, pages: int = 25, **fields: Any) -> Cursor:
    """After one read of a whole file of ``pages``."""
    values = dict.fromkeys(Cursor._fields, 0) | {
        "first_at": at, "last_at": at, "event_at": at, "next": pages, "asked": pages - 1, "size": pages,
        "high": pages - 1, "reads": 1, "pages": pages, "event_pages": pages, "wait": 0.0,
        "early": (0, *(NOT_EARLY,) * 7), **fields,
    }  # fmt: skip
    return Cursor(**values)


def batch(at: float, files: Sequence[tuple[int, int]], step: float = 0.0) -> Raw:
    """One batch in which each (pid, file) was read whole, ``step`` seconds after the one before."""
    times = [round(at + number * step, 6) for number in range(len(files))]
    return Raw(
        times[-1] if times else at,
        [touch(time, pid, file) for time, (pid, file) in zip(times, files, strict=True)],
        [(pid, file, cursor(time)) for time, (pid, file) in zip(times, files, strict=True)],
        [(pid, file, Tiers(1, 102400, 0, 0)) for pid, file in files],
        [(pid, Wait(0.25, 3, 0.5, 4, 0.0, 0, 0.0, 0, HISTOGRAM)) for pid in dict(files)],
    )


def finding(kind: str, confidence: float = 0.9, evidence: str = "as the reads lie") -> dict[str, Any]:
    return {"kind": kind, "confidence": confidence, "evidence": evidence}


def stream(**fields: Any) -> dict[str, Any]:
    return {
        "pid": 4243, "file": 77, "path": "train/shard-0001.tar", "pattern": finding("sequential"),
        "shape": "sequential", "stride": 0, "size": 1 << 30, "reads": 4096, "estimated": False,
        "bytes": 1 << 29, "hits": 4000, "cold": 90, "partial": 6, "faults": 0, "direct": 0, "wait": 1.25,
        "disk_bytes": 1 << 20, "source_bytes": 3 << 20, "rate": 200e6, "passes": 0, "position": 1 << 29,
        "first_at": 90.0, "last_at": 100.0, **fields,
    }  # fmt: skip


def dataset(**fields: Any) -> dict[str, Any]:
    return {
        "job": 4242, "path": "train", "order": finding("shuffled", 0.97, "812 of 1000 files out of order"),
        "role": finding("shards"), "epoch": 2, "passes": 2,
        "epoch_at": 80.0, "fraction": 0.51, "files_seen": 510,
        "files_total": 1000, "files_per_second": 85.0, "sample_size": 120_000, "batch": 64,
        "batch_found": finding("batch"), "workers": 4, "workers_found": finding("workers"), "folders": 1,
        "bytes": 5 << 30, "rate": 250e6, "last_at": 100.0, **fields,
    }  # fmt: skip


def job(**fields: Any) -> dict[str, Any]:
    return {
        "job": 4242, "comm": "python", "command": "python train.py --epochs 90", "container": "",
        "ended": False, "pids": [4243, 4244],
        "phase": finding("training", 0.95, "epochs of the same files, shuffled"),
        "workers": 4, "batch": 64, "reads": 10_000, "estimated": False, "bytes": 6 << 30, "rate": 250e6,
        "hits": 9_000, "cold": 900, "partial": 100, "disk_reads": 10, "disk_bytes": 1 << 20,
        "source_reads": 30,
        "source_bytes": 3 << 20, "writes": 0, "written_bytes": 0, "write_bursts": 0, "wait": 12.5,
        "wait_share": 0.12, "waits": 1000,
        "wait_p50": 0.000128, "wait_p99": 0.032768, "histogram": list(HISTOGRAM), "first_at": 10.0,
        "last_at": 100.0, "datasets": [dataset()], "streams": [stream()], **fields,
    }  # fmt: skip


def snapshot(*jobs: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "at": 100.0, "jobs": list(jobs) if jobs else [job()],
        "probe": {
            "how": "btf", "why": "", "share": 1.0, "rate": 0, "limit": 0,
            "lost": {"events": 0, "cursors": 0, "processes": 0},
        },
        "prefetch": {"used_bytes": 1 << 30, "wasted_bytes": 3 << 20},
        "left_out": {"jobs": 0, "datasets": 0, "streams": 0}, **fields,
    }  # fmt: skip


class FakeFeed:
    """A feed of what the test sets: ``found`` is the snapshot, ``send`` gives batches to whoever listens."""

    def __init__(self) -> None:
        self.names = self.processes = Table()
        self.found = snapshot()
        self.left = trio.Event()
        self.taken = 0
        self.subscribed = trio.Event()
        self._to: list[trio.MemorySendChannel[Raw]] = []

    @property
    def listeners(self) -> int:
        return len(self._to)

    def snapshot(self) -> dict[str, Any]:
        self.taken += 1
        return self.found

    @contextmanager
    def subscribe(self) -> Iterator[trio.MemoryReceiveChannel[Raw]]:
        send, receive = trio.open_memory_channel[Raw](100)
        self._to.append(send)
        self.subscribed.set()
        try:
            with send, receive:
                yield receive
        finally:
            self._to.remove(send)
            self.left.set()

    def send(self, raw: Raw) -> None:
        for one in self._to:
            one.send_nowait(raw)

    def end(self) -> None:
        for one in self._to:
            one.close()
