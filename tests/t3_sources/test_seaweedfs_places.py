"""Places for small files, several asked for at once, of a real SeaweedFS."""

from __future__ import annotations

import errno
import itertools
import json
import logging
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.seaweed import DIRECTORY, Cluster
from support.source_kit import content, read_all
from support.source_writes import write
from support.waiting import until
from swmld.sources import seaweed_places
from swmld.sources.errors import failure
from swmld.sources.interface import Attributes
from swmld.sources.seaweed_filer import FilerClient
from swmld.sources.seaweed_messages import MESSAGES, described
from swmld.sources.seaweed_places import COUNTED, MOST, Places
from swmld.sources.seaweed_writing import Writing
from swmld.sources.seaweedfs import SeaweedSource

pytestmark = pytest.mark.timeout(120)

FILES = 60
Placed = described("Placed: file_id=1 string, collection=6 string")["Placed"]
_numbers = itertools.count()


@pytest.fixture
def root(seaweed: Cluster) -> str:
    name = f"places-{next(_numbers)}-{time.time_ns()}"
    seaweed.create("/", name, mode=DIRECTORY | 0o755, is_directory=True)
    return name


@pytest.fixture
def source(seaweed: Cluster, root: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SeaweedSource]:
    monkeypatch.setattr(seaweed_places, "LIFE", 60.0)  # however slow this machine is
    source = seaweed.source(root)
    yield source
    source.close()


@pytest.fixture
def asked(source: SeaweedSource, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The paths that places were asked for, each with how many."""
    call, found = source._filer._calls[0]["AssignVolume"], []

    def counting(request: Any, timeout: float) -> Any:
        found.append((request.path, request.count))
        return call(request, timeout=timeout)

    monkeypatch.setitem(source._filer._calls[0], "AssignVolume", counting)
    return found


def _write(source: SeaweedSource, count: int = FILES, name: str = "f", size: int = 4000) -> list[Attributes]:
    return [write(source, f"{name}{n}".encode(), content(size + n)) for n in range(count)]


def _fids(seaweed: Cluster, path: str) -> list[tuple[int, int, int]]:
    return [(c.fid.volume_id, c.fid.file_key, c.fid.cookie) for c in seaweed.entry(path).chunks]


def _collection(seaweed: Cluster, path: str) -> str:
    """Where the filer would put a file."""
    asked = MESSAGES["AssignVolumeRequest"](count=1, path=path)
    name = "/filer_pb.SeaweedFiler/AssignVolume"
    call = seaweed._channel.unary_unary(name, type(asked).SerializeToString, Placed.FromString)
    return str(call(asked, timeout=20).collection)


def test_many_small_files_have_places_of_their_own(
    seaweed: Cluster, source: SeaweedSource, root: str, asked: list[tuple[str, int]]
) -> None:
    _write(source)
    assert [count for _, count in asked] == [1, 2, 4, 8, 16, 16, 16]
    fids = [fid for n in range(FILES) for fid in _fids(seaweed, f"/{root}/f{n}")]
    assert len(set(fids)) == FILES
    others = seaweed.source(root)
    for n in range(FILES):
        assert read_all(others, f"f{n}".encode()) == content(4000 + n)
    others.close()
    assert source._volumes._refused == 0.0


def test_those_who_are_not_in_a_hurry_get_one(
    source: SeaweedSource, asked: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seaweed_places, "LIFE", 0.0)
    _write(source, 5)
    assert [count for _, count in asked] == [1] * 5


def test_large_files_and_those_that_end_get_one(source: SeaweedSource, asked: list[tuple[str, int]]) -> None:
    source.writing.chunk = 4000
    _write(source, 5, size=8000)
    source.writing.chunk = 2 << 20
    _write(source, 5, "g", size=1 << 20)
    assert [count for _, count in asked][:10] == [1] * 10
    for _ in range(3):
        source.writing._places.small("/a/b", 100, ttl=60)
    assert [count for _, count in asked][-3:] == [1] * 3


def test_a_rule_for_some_files_of_a_directory_is_kept(
    seaweed: Cluster, source: SeaweedSource, root: str, asked: list[tuple[str, int]]
) -> None:
    rule = {"locationPrefix": f"/{root}/log", "collection": f"c{root}"}
    seaweed.create(
        "/etc/seaweedfs", "filer.conf", content=json.dumps({"version": 1, "locations": [rule]}).encode()
    )
    try:
        # The filer reads it when it is told of it; a collection has volumes of its own.
        until(lambda: _collection(seaweed, f"/{root}/log") == f"c{root}", "the filer has read its rules")
        for n in range(20):
            write(source, b"%s%d" % (b"log" if n % 2 else b"f", n), content(5000))
        logs = {fid[0] for n in range(1, 20, 2) for fid in _fids(seaweed, f"/{root}/log{n}")}
        rest = {fid[0] for n in range(0, 20, 2) for fid in _fids(seaweed, f"/{root}/f{n}")}
        assert not logs & rest
        assert asked == [(f"/{root}/{'log' if n % 2 else 'f'}{n}", 1) for n in range(20)]
        asked.clear()
        source.make_dir(b"other", Attributes(0o755 | 0o40000))
        _write(source, 20, "other/f")
        assert max(count for _, count in asked) == MOST
    finally:
        seaweed.call("DeleteEntry", directory="/etc/seaweedfs", name="filer.conf", is_delete_data=True)


def test_what_cannot_be_stored_there_is_stored_elsewhere(
    source: SeaweedSource,
    asked: list[tuple[str, int]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    inner, tried = Writing._stored, itertools.count()
    given = []

    def stored(self: Writing, place: Any, *more: Any) -> Any:
        given.append(place.fid)
        if next(tried) == 20:
            raise failure(errno.EIO, "a full disk")
        return inner(self, place, *more)

    monkeypatch.setattr(Writing, "_stored", stored)
    _write(source)
    assert "_" in given[20], "it was one of several"
    assert "_" not in given[21]
    assert ("f20", 1) in [(path.rpartition("/")[2], count) for path, count in asked]
    for n in range(FILES):
        assert read_all(source, f"f{n}".encode()) == content(4000 + n)


class _Filer:
    """Of a master that numbers as ``key`` says, and gives ``most`` at once."""

    def __init__(self, key: int, most: int = MOST) -> None:
        self._key, self._most = key, most
        self.counts: list[int] = []

    def assign(self, path: str, size: int, ttl: int, count: int = 1) -> Any:
        self.counts.append(count)
        fid, self._key = f"3,{self._key:x}01020304", self._key + 100
        location = SimpleNamespace(url="a:1")
        return SimpleNamespace(
            file_id=fid, count=min(count, self._most), auth="", fsync=False, location=location
        )

    def entry(self, *_: str) -> Any:
        raise failure(errno.ENOENT, "no rules")


@pytest.mark.parametrize(
    ("filer", "counts"),
    [
        (_Filer(0x10), [1, 2, 4, 8]),
        (_Filer(COUNTED - 250), [1, 2, 4, 8, 16, 16, 16, 16]),  # of the time, from the fourth on
        (_Filer(1 << 60), [1, 2, 4, 8, 16, 16, 16, 16, 16, 16, 16, 16]),
        (_Filer(0x10, most=1), [1, 2, 4, 8, 16, 16, 16, 16, 16, 16, 16, 16]),
    ],
)
def test_no_more_are_used_than_were_given(filer: _Filer, counts: list[int]) -> None:
    places = Places(cast(FilerClient, filer))
    found = [places.small("/d/f", 1000, 0).fid for _ in range(12)]
    assert len(set(found)) == 12
    assert filer.counts == counts
