"""Warm-ups of more than the cache holds: a real cache, and files of a real directory."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from support.cachekit import CHUNK, OVERHEAD, Machine, aged, cached, fill, identity
from support.fakes import FakeOffload
from swmld.api.messages import WarmupResult
from swmld.api.room import Room, outermost
from swmld.api.warm import Warmup
from swmld.cache.store import Cache, Host
from swmld.errors import CacheFull, FetchError
from swmld.mount.native import ROOT, Entry
from swmld.mount.target import SourceTarget
from swmld.plan.eviction import Keep

T = TypeVar("T")
SIZE = 2 * CHUNK
ONE = SIZE + OVERHEAD
"""What a file counts."""


class Tree:
    """Nodes of a directory, each held as often as it was looked up."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = {ROOT: b""}
        self.refs: Counter[int] = Counter()

    def add(self, *names: str, size: int = SIZE) -> None:
        for name in names:
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            os.truncate(path, size)

    def getattr(self, nodeid: int) -> Entry:
        found = os.stat(os.path.join(os.fsencode(self.root), self.paths[nodeid]))
        return Entry(
            nodeid, found.st_ino, 0, found.st_size, 0, 0, found.st_mtime_ns, found.st_ctime_ns, found.st_mode,
            1, 0, 0, 0, 4096, 1.0, 0,
        )  # fmt: skip

    def lookup(self, parent: int, name: bytes) -> Entry:
        path = os.path.join(self.paths[parent], name)
        known = {path: nodeid for nodeid, path in self.paths.items()}
        nodeid = known.get(path, ROOT + len(self.paths))
        self.paths[nodeid] = path
        self.refs[nodeid] += 1
        return self.getattr(nodeid)

    def ref(self, nodeid: int) -> None:
        self.refs[nodeid] += 1

    def forget(self, nodeid: int, count: int) -> None:
        self.refs[nodeid] -= count

    def path(self, nodeid: int) -> bytes:
        return self.paths[nodeid]

    def scan(self, nodeid: int) -> Iterable[tuple[bytes, int]]:
        for name in os.listdir(os.path.join(os.fsencode(self.root), self.paths[nodeid])):
            yield name, 0

    def set_complete(self, nodeid: int, file_id: int, of: object) -> None:
        pass


class Gate:
    async def call(self, function: Callable[[], T], discard: Callable[[T], None] | None = None) -> T:
        await trio.lowlevel.checkpoint()
        return function()


class Warmed:
    """A source, a cache, and what a warm-up needs between the two. ``asked``: files that were fetched."""

    def __init__(self, machine: Machine, source: Path, cache: Cache) -> None:
        self.machine, self.cache, self.tree = machine, cache, Tree(source)
        self.asked: list[bytes] = []

    def load(self, nodeid: int) -> tuple[Entry, SourceTarget | None]:
        entry = self.tree.getattr(nodeid)
        if entry.size == 0:
            return entry, None
        file = self.cache.acquire(entry.identity, self.tree.paths[nodeid])
        return entry, SourceTarget(None, file, entry.identity, lambda fd: None)

    async def ensure(self, target: SourceTarget, chunks: Iterable[int]) -> None:
        self.asked.append(target.file.source_path)
        for chunk in chunks:
            await trio.lowlevel.checkpoint()
            self.machine.now += 1
            try:
                self.cache.reserve(target.file.extent(chunk)[1])
            except CacheFull as error:
                raise FetchError("cache", error.errno) from None
            fill(target.file, [chunk])

    async def _progress(self, message: Mapping[str, Any]) -> None:
        self.progress = message

    def run(self, *paths: str, floor: int = 0) -> WarmupResult:
        room = Room(self.cache, floor, lambda: self.machine.now)
        tree: Any = self.tree
        fake: Any = self
        gate: Any = Gate()
        disk: Any = FakeOffload()
        one = Warmup(tree, tree, gate, fake, fake, disk, room)
        found = trio.run(one.run, [os.fsencode(path) for path in paths] or [b""], self._progress)
        assert not +self.tree.refs, "nodes are held"
        assert self.progress["done_bytes"] == self.progress["total_bytes"]
        return found

    def kept(self) -> set[str]:
        """Names of the files below ``data`` that are there whole."""
        return {os.fsdecode(e.path) for e in self.cache.ls(b"data") if e.state == "complete"}


def names(count: int) -> list[str]:
    return [f"data/{number:03}" for number in range(count)]


@pytest.fixture
def warmed(machine: Machine, tmp_path: Path) -> Callable[..., Warmed]:
    return lambda **limits: Warmed(machine, tmp_path / "source", machine.open(**limits))


def test_what_fits_is_there_afterwards_and_the_rest_is_not_fetched(warmed: Callable[..., Warmed]) -> None:
    it = warmed(size_limit=20 * ONE)
    it.tree.add(*names(45))
    found = it.run()
    assert it.kept() == set(names(20))
    assert len(it.asked) == 20
    assert (found["files"], found["fetched_bytes"], found["failed_files"]) == (45, 20 * SIZE, 0)
    assert (found["full"], found["room_bytes"]) == ("size", 20 * ONE)
    assert (found["left_out_files"], found["left_out_bytes"]) == (25, 25 * SIZE)
    assert it.cache.evicted == 0

    again = it.run("data", "data/001")
    assert (again["fetched_bytes"], again["skipped_bytes"], again["left_out_files"]) == (0, 20 * SIZE, 25)
    assert (again["files"], it.kept()) == (45, set(names(20)))


def test_all_fits(warmed: Callable[..., Warmed]) -> None:
    it = warmed(size_limit=20 * ONE)
    it.tree.add(*names(20), "empty")
    it.tree.add("empty", size=0)
    found = it.run()
    assert (found["full"], found["left_out_files"], found["left_out_bytes"]) == ("", 0, 0)
    assert it.kept() == set(names(20))


def test_what_was_there_before_goes_for_it(warmed: Callable[..., Warmed]) -> None:
    it = warmed(size_limit=20 * ONE)
    aged(it.machine, it.cache, 20, first=1 << 40, size=SIZE)
    it.tree.add(*names(19))
    found = it.run("data")
    assert (found["left_out_files"], found["full"]) == (0, "")
    assert it.kept() == set(names(19))
    assert it.cache.evicted >= 19


def test_a_full_disk(machine: Machine, tmp_path: Path) -> None:
    """The limit is far away; what other files leave of the disk is not."""
    disk, floor = 30 * ONE, 5 * ONE
    held: list[Cache] = []

    def free(directory: Path) -> int:
        return disk - (held[0]._books.account.held if held else 0)

    host = Host(lambda: machine.now, free, machine.host().boot_id_path)
    held.append(machine.open(free_floor=floor, host=host))
    it = Warmed(machine, tmp_path / "source", held[0])
    it.tree.add(*names(64))
    found = it.run(floor=floor)
    assert (found["full"], found["room_bytes"], found["left_out_files"]) == ("disk", 25 * ONE, 39)
    assert it.kept() == set(names(25))
    assert len(it.asked) == 25


def test_a_cache_that_does_not_let_go(warmed: Callable[..., Warmed]) -> None:
    """Pinned files leave room for two: a refusal ends it, and is no failure of each file."""
    it = warmed(size_limit=20 * ONE)
    for ino in range(18):
        file_id = cached(it.cache, identity((1 << 40) + ino, SIZE), b"pinned/%d" % ino)
        it.cache.set_keep(file_id, Keep.NEVER)
    it.tree.add(*names(10))
    found = it.run("data")
    assert (found["full"], found["failed"], found["failed_files"]) == ("use", [], 0)
    assert found["left_out_files"] == 10 - len(it.kept())
    assert 0 < found["left_out_bytes"] <= SIZE * (10 - len(it.kept()))


def test_own_files_that_go_are_the_end_and_are_counted(warmed: Callable[..., Warmed]) -> None:
    """Protected files stay, newcomers go: more fetching would bring nothing."""
    it = warmed(size_limit=200 * ONE)
    for number in range(200):
        it.machine.now += 60
        cached(it.cache, identity((1 << 40) + number, SIZE), b"old/%d" % number)
    for number in range(200):
        it.machine.now += 60
        it.cache.acquire(identity((1 << 40) + number, SIZE), b"old/%d" % number).release()
    it.tree.add(*names(150))
    found = it.run("data")
    kept = it.kept()
    assert len(it.asked) < 100, "it goes on fetching what cannot be kept"
    assert (found["full"], found["left_out_files"]) == ("use", 150 - len(kept))
    assert found["left_out_bytes"] == SIZE * (150 - len(kept))


def test_a_file_that_is_larger_than_the_cache_is_there_in_part(warmed: Callable[..., Warmed]) -> None:
    it = warmed(size_limit=10 * CHUNK + OVERHEAD)
    it.tree.add("large", size=100 * CHUNK)
    found = it.run("large")
    assert found["fetched_bytes"] == 10 * CHUNK
    assert (found["full"], found["left_out_files"], found["left_out_bytes"]) == ("size", 1, 90 * CHUNK)


def test_room_that_is_not_needed_is_for_others(machine: Machine) -> None:
    room = Room(machine.open(size_limit=2 * ONE), 0)
    assert [room.take(SIZE) for _ in range(3)] == [SIZE, SIZE, 0]
    room.give_back(SIZE)
    room.give_back(0)
    assert [room.take(SIZE) for _ in range(2)] == [SIZE, 0]
    assert room.full == "size"
    room.give_back(SIZE)
    room.close()
    assert room.take(SIZE) == 0


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ([b"a/b", b"a", b"a"], [b"a"]),
        ([b"ab", b"a", b"a/b/c"], [b"ab", b"a"]),
        ([b"a", b""], [b""]),
        ([b"b", b"a"], [b"b", b"a"]),
    ],
)
def test_a_path_below_another_one_is_of_that(given: list[bytes], left: list[bytes]) -> None:
    assert outermost(given) == left
