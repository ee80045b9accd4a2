"""Changes on a real SeaweedFS as it tells them, also over a break."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from support.seaweed import DIRECTORY, Cluster
from support.waiting import until
from swmld.sources.interface import Change
from swmld.sources.seaweedfs import SeaweedSource

pytestmark = pytest.mark.timeout(120)


class Watched:
    """What a source tells, gathered by a thread."""

    def __init__(self, source: SeaweedSource) -> None:
        self.source = source
        self.told: list[Change] = []
        self.ready: list[bool] = []
        self._thread = threading.Thread(target=source.watch, args=(self.told.append, self.ready.append))
        self._thread.start()
        self.until(lambda: self.ready == [True], "ready")

    def until(self, done: Callable[[], bool], what: str) -> None:
        until(done, lambda: f"{what}: {self.told} {self.ready}")

    def has(self, *changes: Change) -> None:
        self.until(lambda: set(changes) <= set(self.told), str(changes))
        self.told.clear()

    def end(self) -> None:
        self.source.close()
        self._thread.join(30)
        assert not self._thread.is_alive()
        assert self.ready[-1] is False


@pytest.fixture
def watched(seaweed: Cluster) -> Iterator[Watched]:
    seaweed.put("/watch/first", b"a" * 1000)
    watched = Watched(seaweed.source("watch"))
    yield watched
    watched.end()


def _move(seaweed: Cluster, old: tuple[str, str], new: tuple[str, str]) -> None:
    fields = dict(zip(("old_directory", "old_name", "new_directory", "new_name"), (*old, *new), strict=True))
    seaweed.call("AtomicRenameEntry", **fields)


def test_every_kind_of_change_is_told(seaweed: Cluster, watched: Watched) -> None:
    seaweed.put("/watch/new", b"a" * 1000)
    watched.has(Change(b"new"))
    seaweed.put("/watch/new", b"b" * 1000)
    watched.has(Change(b"new"))
    seaweed.create("/watch", "d", mode=DIRECTORY | 0o755, is_directory=True)
    watched.has(Change(b"d", tree=True))
    seaweed.put("/watch/d/deep", b"c" * 1000)
    watched.has(Change(b"d/deep"))
    _move(seaweed, ("/watch", "new"), ("/watch/d", "moved"))
    watched.has(Change(b"new"), Change(b"d/moved"))
    _move(seaweed, ("/watch", "d"), ("/watch", "e"))
    watched.has(Change(b"d", tree=True), Change(b"e", tree=True))
    seaweed.delete("/watch/e/deep")
    watched.has(Change(b"e/deep"))
    seaweed.call("DeleteEntry", directory="/watch", name="e", is_delete_data=True, is_recursive=True)
    watched.has(Change(b"e", tree=True))


def test_only_what_is_below_the_root_is_told(seaweed: Cluster, watched: Watched) -> None:
    seaweed.put("/watched/other", b"a" * 1000)
    seaweed.put("/elsewhere/in", b"a" * 1000)
    _move(seaweed, ("/elsewhere", "in"), ("/watch", "in"))
    watched.until(lambda: Change(b"in") in watched.told, "moved in")
    _move(seaweed, ("/watch", "in"), ("/elsewhere", "out"))
    watched.until(lambda: watched.told.count(Change(b"in")) == 2, "moved out")
    assert {change.path for change in watched.told} <= {b"in", b"first", b""}


def test_a_filer_that_comes_back_tells_on(seaweed: Cluster) -> None:
    port = seaweed.filer_process("restarted")
    seaweed.put("/w/a", b"a" * 1000, port=port)
    watched = Watched(seaweed.source("w", port=port))
    try:
        seaweed.put("/w/a", b"b" * 1000, port=port)
        watched.has(Change(b"a"))
        seaweed.kill("restarted")
        watched.until(lambda: watched.ready[:2] == [True, False], "away")
        seaweed.filer_process("restarted", port=port)
        watched.until(lambda: watched.ready[-1] is True, "back")
        seaweed.put("/w/b", b"c" * 1000, port=port)
        watched.has(Change(b"b"))
    finally:
        watched.end()
