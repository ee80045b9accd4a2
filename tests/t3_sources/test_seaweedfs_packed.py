"""What C reads of the filer's pages is what Python reads."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from swmld._native import ffi, lib
from swmld.sources.interface import Attributes, birth_ns, generation_ns, number_of
from swmld.sources.packed import PackedEntries
from swmld.sources.seaweed_chunks import stem_of
from swmld.sources.seaweed_entries import attributes_of, entry_of_document

DIRECTORY = "/buckets/train/ä dir"


def packed(text: bytes, limit: int = 1000) -> PackedEntries | None:
    found = lib.sw_listing_parse(text, len(text), f"{DIRECTORY}/".encode(), limit, ffi.new("int *"))
    return None if found == ffi.NULL else PackedEntries(found, stem_of)


def text_of(entries: list[dict[str, Any]], **more: Any) -> bytes:
    return json.dumps({"Path": DIRECTORY, "Entries": entries, **more}, ensure_ascii=False).encode()


def by_python(document: dict[str, Any]) -> tuple[bytes, Attributes]:
    entry = entry_of_document(document)
    name = entry.name.encode()
    return name, attributes_of(entry, f"{DIRECTORY}/".encode() + name)


def entry(name: str, **more: Any) -> dict[str, Any]:
    """As a filer of version 4 writes it."""
    return {
        "FullPath": f"{DIRECTORY}/{name}", "Mtime": "2026-11-23T07:53:08.474847271Z",
        "Crtime": "2026-11-23T07:53:08Z", "Ctime": "0001-01-01T00:00:00Z", "Mode": 432, "Uid": 0, "Gid": 0,
        "Mime": "", "TtlSec": 0, "UserName": "", "GroupNames": None, "SymlinkTarget": "", "Md5": None,
        "FileSize": 0, "Rdev": 0, "Inode": 1694937351017666781, "Extended": None, "HardLinkId": None,
        "HardLinkCounter": 0, "Content": None, "Remote": None, "Quota": 0,
    } | more  # fmt: skip


def chunk(rng: random.Random, offset: int) -> dict[str, Any]:
    key = rng.choice([1, 0xFFF, rng.randrange(1 << 32), rng.randrange(1 << 64)])
    said: dict[str, Any] = {
        "file_id": "13,0914de5ada", "size": rng.randrange(1 << 24), "e_tag": "m5tVkjyTLrLHXVrp6nsLBw==",
        "modified_ts_ns": rng.randrange(1 << 61), "offset": offset,
        "fid": {"volume_id": rng.randrange(1, 1 << 31), "file_key": key, "cookie": rng.randrange(1 << 32)},
    }  # fmt: skip
    if not offset and rng.random() < 0.5:
        del said["offset"]
    for flag, value in (("is_compressed", True), ("cipher_key", "a2V5"), ("sse_type", 1)):
        if rng.random() < 0.2:
            said[flag] = value
    return said


def random_entry(rng: random.Random, number: int) -> dict[str, Any]:
    zone = rng.choice(["Z", "+01:00", "-11:30"])
    fraction = rng.choice(["", ".5", ".510135527", ".000000001"])
    time = f"{rng.randrange(1969, 2200)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}T23:59:01"
    said = entry(
        f"{number:05}" + rng.choice(["", " ä", "日本", "&<>", '"', "\\", "x" * 200]),
        Mtime=time + fraction + zone,
        Crtime=time + zone,
        Ctime=rng.choice(["0001-01-01T00:00:00Z", time + fraction + zone]),
        Mode=rng.choice([0o644, 0o600, 1 << 23 | 0o755, 1 << 31 | 0o775, 1 << 31 | 1 << 20 | 0o777]),
        Uid=rng.randrange(1 << 32),
        Gid=rng.randrange(1 << 32),
        FileSize=rng.choice([0, rng.randrange(1 << 40)]),
        Extended=rng.choice(
            [
                None,
                {},
                {"xattr-user.swmld.token": "dA=="},
                {"xattr-user.a": "Yg=="},
                {"x-amz": "", "k": "dg=="},
            ]
        ),
    )
    if not said["Mode"] & 1 << 31 and (count := rng.choice([0, 1, 1, 2, 8])):
        first = rng.choice([0, 0, 0, 4096])
        said["chunks"] = [chunk(rng, first + number * (4 << 20)) for number in range(count)]
        rng.shuffle(said["chunks"])
    return said


@pytest.mark.parametrize("seed", range(20))
def test_packed_entries_are_those_that_python_reads(seed: int) -> None:
    rng = random.Random(seed)
    documents = [random_entry(rng, number) for number in range(50)]
    text = text_of(documents)
    if seed % 2:  # as Go writes them
        text = text.replace(b"&", b"\\u0026").replace(b"<", b"\\u003c").replace("日".encode(), b"\\u65e5")
    found = packed(text)
    assert found is not None
    expected = [by_python(document) for document in documents]
    assert list(found) == expected
    assert found[-1] == expected[-1]
    assert found[3:7] == expected[3:7]
    assert list(found.kinds()) == [(name, a.mode) for name, a in expected]
    for number, (name, attributes) in enumerate(expected):
        assert found.find(name) == number
        said = ffi.new("struct sw_listed *")
        lib.sw_listing_entry(found.listing, number, said)
        a = said.a
        assert (a.ctime_ns, a.btime_ns) == (generation_ns(attributes), birth_ns(attributes))
    assert found.find(b"") == found.find(b"99") == found.find(expected[0][0] + b" ") == -1
    with pytest.raises(IndexError):
        found[len(found)]


@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 256, 4097])
def test_numbers_are_those_of_hashlib(size: int) -> None:
    identity = random.Random(size).randbytes(size)
    assert lib.sw_blake2b8(identity, size, b"") >> 1 | 1 << 48 == number_of(identity)


UNUSUAL: list[dict[str, Any]] = [
    {"SymlinkTarget": "there"},
    {"TtlSec": 60},
    {"HardLinkId": "aWQ=", "HardLinkCounter": 2},
    {"Content": "Yg=="},
    {"Remote": {"remote_size": 3}},
    {"Rdev": 5},
    {"Mode": 1 << 25 | 0o644},
    {"chunks": [{"file_id": "13,0914de5ada", "size": 1}]},
    {"chunks": [chunk(random.Random(1), number) for number in range(9)]},
    {"Mtime": "yesterday"},
    {"Mtime": "2026-02-30T00:00:00Z"},
    {"FileSize": 1.5},
    {"FileSize": 1 << 64},
    {"Mode": -1},
    {"FullPath": f"{DIRECTORY}/"},
    {"FullPath": f"{DIRECTORY}/.."},
    {"FullPath": None},
]


@pytest.mark.parametrize("unusual", UNUSUAL, ids=str)
def test_a_page_with_something_unusual_is_left_to_python(unusual: dict[str, Any]) -> None:
    assert packed(text_of([entry("a"), entry("b")]))
    assert packed(text_of([entry("a"), entry("b", **unusual)])) is None


def test_what_is_missing_or_out_of_order_is_left_to_python() -> None:
    for key in ("FullPath", "Mode", "FileSize", "Mtime", "Crtime", "Uid", "Gid"):
        document = entry("a")
        del document[key]
        assert packed(text_of([document])) is None, key
    assert packed(text_of([entry("b"), entry("a")])) is None
    assert packed(text_of([entry("a"), entry("a")])) is None


def test_every_prefix_of_a_page_is_refused() -> None:
    text = text_of([random_entry(random.Random(3), number) for number in range(3)])
    assert packed(text)
    for length in range(len(text)):
        assert packed(text[:length]) is None, length
    assert packed(text + b"x") is None


def test_more_is_what_the_filer_says_or_has_given() -> None:
    names = [entry(name) for name in "abc"]
    for text, limit, count, more in (
        (text_of(names), 3, 3, False),
        (text_of(names), 2, 2, True),
        (text_of(names, ShouldDisplayLoadMore=True), 3, 3, True),
        (text_of([], ShouldDisplayLoadMore=True), 3, 0, False),
        (json.dumps({"Entries": None}).encode(), 3, 0, False),
    ):
        found = packed(text, limit)
        assert found is not None
        assert (len(found), bool(lib.sw_listing_more(found.listing))) == (count, more)
