"""Keys as names: order over pages, markers, collisions, names that no file can have; against a model of a
bucket."""

from __future__ import annotations

import bisect
import logging
from collections.abc import Iterable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.source_kit import failing, listed, names_of
from swmld.sources.interface import ROOT
from swmld.sources.objects import ObjectSource
from swmld.sources.objects_order import FOLDER, Key, is_name
from swmld.sources.objects_s3 import Listed, Listing
from swmld.sources.urls import parse


class Bucket(Listing):
    """What ``ListObjectsV2`` answers of these keys, without a server; counts what is asked."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.keys = sorted(key.encode() for key in keys)
        self.asked = 0

    def page(
        self,
        prefix: str,
        after: str = "",
        *,
        token: str = "",
        limit: int = 1000,
        deep: bool = False,
        what: str = "",
    ) -> Listed:
        self.asked += 1
        start, found, last = prefix.encode(), [], b""
        floor = token.encode("latin-1") if token else start + after.encode()
        at = bisect.bisect_left(self.keys, start) if floor == start else bisect.bisect_right(self.keys, floor)
        while at < len(self.keys) and self.keys[at].startswith(start):
            if len(found) == limit:
                return Listed(found, (start + last).decode("latin-1"))
            name, slash, _ = self.keys[at][len(start) :].partition(b"/")
            if slash and not deep:
                found.append(Key(name.decode(), True))
                last = name + b"/\xff"
                at = bisect.bisect_left(self.keys, start + name + b"0", at)
            else:
                last = self.keys[at][len(start) :]
                found.append(Key(last.decode(), size=1, mtime=1, tag=b"tag"))
                at += 1
        return Listed(found, "")

    def close(self) -> None:
        pass


SOURCE = ObjectSource(parse("s3://b?anonymous=true&endpoint=http://127.0.0.1:1"), timeout=1, parallel=1)


def source_of(keys: Iterable[str]) -> tuple[ObjectSource, Bucket]:
    """The same source each time, since a new one of obstore reads the system's certificates."""
    SOURCE._keys, SOURCE.left_out = (bucket := Bucket(keys)), 0
    return SOURCE, bucket


WORDS = st.text("ab-./!~é", min_size=1, max_size=6)


@settings(deadline=None, max_examples=300)
@given(st.sets(WORDS, max_size=25), st.integers(1, 5))
@example({"a", "a/b", "a-", "a.", "a!/x", "b"}, 1)
@example({"a-1", "a-2", "a-3", "a-4", "a/x"}, 1)
@example({"a", "a-", "a/b"}, 1)
def test_pages_are_the_names_in_order(keys: set[str], limit: int) -> None:
    source, _ = source_of(keys)
    expected = {key.partition("/")[0] for key in keys}
    got = listed(source, ROOT, limit)
    assert got == sorted(name.encode() for name in expected if is_name(name))
    directories = {key.partition("/")[0] for key in keys if "/" in key}
    for name, attributes in source.list(ROOT).entries:
        assert attributes.is_dir == (name.decode() in directories)


def test_a_large_directory_costs_about_a_request_a_page() -> None:
    """Names that may all have a directory come after them, as shards have."""
    source, bucket = source_of(f"train-{number:06d}-of-100000.tar" for number in range(100_000))
    names = listed(source, ROOT, 1000)
    assert len(names) == 100_000
    assert bucket.asked <= 2.2 * 100


@pytest.mark.parametrize("marker", ["d/", f"d{FOLDER}"])
def test_markers_are_directories(marker: str) -> None:
    source, _ = source_of([marker, "c", f"e/{marker}"])
    entries = dict(source.list(ROOT).entries)
    assert list(entries) == [b"c", b"d", b"e"]
    assert entries[b"d"].is_dir
    assert names_of(source.list(b"e")) == [b"d"]


def test_an_object_that_is_also_a_prefix_is_the_directory() -> None:
    source, _ = source_of(["a", "a/b", "a-b"])
    assert [(name, it.is_dir) for name, it in source.list(ROOT).entries] == [(b"a", True), (b"a-b", False)]
    assert names_of(source.list(b"a")) == [b"b"]


HARD = ["a//b", "/a", "x/../y", "x/./y", "n" * 256, "tab\there", "\ufffd", "é" * 128]


def test_names_that_no_file_can_have(caplog: pytest.LogCaptureFixture) -> None:
    source, _ = source_of([*HARD, "good", "n" * 255])
    with caplog.at_level(logging.WARNING):
        assert names_of(source.list(ROOT)) == [b"a", b"good", b"n" * 255, b"x"]
        first = source.left_out
        assert names_of(source.list(b"x")) == []
        assert names_of(source.list(b"a")) == []
    assert first == 5
    assert source.left_out == 8
    assert len([record for record in caplog.records if "left out" in record.getMessage()]) == 1


@pytest.mark.parametrize("path", [b"a//b", b"x/../y", b"\xff", b"n" * 256, b"a\nb"])
def test_they_are_not_there(path: bytes) -> None:
    source, bucket = source_of(HARD)
    for call in (source.stat, source.list):
        assert isinstance(failing(lambda call=call: call(path)), FileNotFoundError)
    assert not bucket.asked
