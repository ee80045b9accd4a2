"""Changes on a real SeaweedFS as it tells them, also over a break."""

from __future__ import annotations

import errno
import stat
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from support.seaweed import DIRECTORY, Cluster
from support.source_kit import failing
from support.source_writes import write
from support.waiting import until
from swmld.sources.interface import Attributes, Change, NewAttributes
from swmld.sources.seaweed_watch import Watch
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


def test_a_filer_that_comes_back_tells_on(seaweed: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    port = seaweed.filer_process("restarted")
    seaweed.put("/w/a", b"a" * 1000, port=port)
    watched = Watched(seaweed.source("w", port=port))
    try:
        seaweed.put("/w/a", b"b" * 1000, port=port)
        watched.has(Change(b"a"))
        seaweed.kill("restarted")
        watched.until(lambda: watched.ready[:2] == [True, False], "away")
        watched.until(lambda: watched.ready.count(False) > 3, "asked again")
        assert caplog.text.count("changes at the source are not told") == 1
        seaweed.filer_process("restarted", port=port)
        watched.until(lambda: watched.ready[-1] is True, "back")
        seaweed.put("/w/b", b"c" * 1000, port=port)
        watched.has(Change(b"b"))
    finally:
        watched.end()


def test_what_this_client_does_is_not_told(seaweed: Cluster, watched: Watched) -> None:
    """Its answer was; but others tell theirs."""
    source, directory = watched.source, Attributes(stat.S_IFDIR | 0o755)
    said = write(source, b"mine", b"x" * 5000)
    write(source, b"mine", b"y" * 5000, said)
    source.make_dir(b"d", directory)
    source.rename(b"mine", b"d/mine")
    source.change(b"d/mine", NewAttributes(mode=0o600))
    source.rename(b"d", b"e")
    source.remove(b"e/mine")
    source.remove_dir(b"e")
    seaweed.put("/watch/theirs", b"a" * 1000)
    watched.until(lambda: bool(watched.told), "theirs")
    assert watched.told == [Change(b"theirs")]
    watched.told.clear()
    other = seaweed.source("watch")
    try:
        write(other, b"another", b"x" * 5000)
        other.make_dir(b"f", directory)
    finally:
        other.close()
    watched.has(Change(b"another"), Change(b"f", tree=True))


def test_what_came_of_a_change_without_an_answer_is_told(
    seaweed: Cluster, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, call = watched.source, watched.source._filer._calls[0]["CreateEntry"]

    class Lost(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.DEADLINE_EXCEEDED

        def details(self) -> str:
            return "lost"

    def losing(request: Any, timeout: float) -> Any:
        call(request, timeout=timeout)
        raise Lost

    with monkeypatch.context() as patched:
        patched.setitem(source._filer._calls[0], "CreateEntry", losing)
        assert failing(lambda: write(source, b"lost", b"x" * 5000)).errno == errno.ETIMEDOUT
    watched.has(Change(b"lost", tree=True), Change(b"lost"))
    write(source, b"known", b"x")
    seaweed.put("/watch/theirs", b"b" * 1000)
    watched.has(Change(b"theirs"))
    assert Change(b"known") not in watched.told


def test_a_change_that_is_made_late_is_told(seaweed: Cluster, watched: Watched) -> None:
    """With the signature that it was sent with, before others were heard of or after."""
    filer = watched.source._filer
    signature = filer.signature
    filer.doubted(["/watch/late"])
    watched.has(Change(b"late", tree=True))
    for number in range(3):
        seaweed.put("/watch/theirs", b"b" * 1000)
        seaweed.call("UpdateEntry", directory="/watch", entry=_entry(seaweed, number), signatures=[signature])
        watched.has(Change(b"first"))
    write(watched.source, b"since then", b"x")
    seaweed.put("/watch/theirs", b"b" * 1000)
    watched.has(Change(b"theirs"))
    assert watched.ready[-1] is True


def _entry(seaweed: Cluster, number: int) -> Any:
    entry = seaweed.entry("/watch/first")
    entry.attributes.mtime += 1 + number
    return entry


def test_the_filer_does_not_tell_us_what_we_do(
    seaweed: Cluster, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, inner = [], Watch._heard

    def hearing(self: Watch, answer: Any, tell: Any) -> None:
        heard.append(answer)
        inner(self, answer, tell)

    monkeypatch.setattr(Watch, "_heard", hearing)
    for number in range(5):
        write(watched.source, b"f%d" % number, b"x" * 5000)
    seaweed.put("/watch/theirs", b"b" * 1000)
    watched.has(Change(b"theirs"))
    ours = watched.source._filer.signature
    assert not [each for each in heard if ours in each.event_notification.signatures]


def test_a_filer_that_hangs_leaves_its_answers_in_doubt(seaweed: Cluster) -> None:
    seaweed.put("/watch/first", b"a" * 1000)
    watched = Watched(seaweed.source("watch", timeout=1.0))
    try:
        with seaweed.stopped():
            error = failing(lambda: watched.source._filer.delete("/watch", "late"))
            assert error.errno == errno.ETIMEDOUT
            watched.has(Change(b"late", tree=True))
        seaweed.put("/watch/later", b"a" * 1000)
        watched.has(Change(b"later"))
    finally:
        watched.end()
