"""Which files are the next shards of a set: a table of names, a slow model, and indexes good and bad."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from swmld.mount import asked
from swmld.mount.asked import Order
from swmld.plan import shards
from swmld.plan.listing import Listing
from swmld.plan.neighbours import Directory
from swmld.plan.shards import is_index, next_shards
from swmld.plugins.interface import MOST_FILES
from swmld.plugins.shard_index import shards_of
from swmld.rules.actions import Prefetch
from swmld.rules.verdict import Verdict

NAMES = [
    *(f"shard-{number:06}.tar" for number in (0, 1, 2, 12, 13)),
    *(f"shard-{number:06}.json" for number in (0, 1, 2, 3)),
    *(f"train-{number:05}-of-00064.tfrecord" for number in (1, 2, 3, 4)),
    "train-00003-of-00008.tfrecord",
    *(f"part.{number}.parquet" for number in (3, 9, 10, 100)),
    *(f"data_{number}.bin.gz" for number in (7, 8, 11)),
    *(f"epoch{epoch}-shard-{number:03}" for epoch in (1, 2) for number in (0, 1)),
    *("clip1.mp4", "clip1.mp3", "clip2.mp4", "1", "2", "x", "model.safetensors"),
    *("weights.1", "weights.2", "é5.npy", "é6.npy"),
]


@pytest.mark.parametrize(
    ("name", "count", "following"),
    [
        ("shard-000000.tar", 2, ["shard-000001.tar", "shard-000002.tar"]),
        ("shard-000002.tar", 3, ["shard-000012.tar", "shard-000013.tar"]),
        ("shard-000013.tar", 2, []),
        ("train-00001-of-00064.tfrecord", 2, [f"train-0000{n}-of-00064.tfrecord" for n in (2, 3)]),
        ("train-00003-of-00064.tfrecord", 2, []),  # another set has a train-00003
        ("part.3.parquet", 9, ["part.9.parquet", "part.10.parquet", "part.100.parquet"]),
        ("data_7.bin.gz", 1, ["data_8.bin.gz"]),
        ("data_8.bin.gz", 1, ["data_11.bin.gz"]),
        ("epoch1-shard-000", 4, ["epoch1-shard-001"]),
        ("epoch1-shard-001", 4, []),
        ("clip1.mp4", 2, ["clip2.mp4"]),
        ("weights.1", 2, ["weights.2"]),
        ("1", 2, ["2"]),
        ("é5.npy", 2, ["é6.npy"]),
        ("x", 2, []),
        ("model.safetensors", 2, []),
        ("shard-000001.tar", 0, []),
        ("shard-000005.tar", 2, []),  # was not listed
    ],
)
def test_by_names(name: str, count: int, following: list[str]) -> None:
    listing = Listing(other.encode() for other in NAMES)
    assert [found.decode() for found in next_shards(listing, name.encode(), count)] == following


def test_other_files_of_the_same_numbers_are_passed_over_and_not_without_end() -> None:
    beside = shards.LOOKED - 1
    names = [b"%04d.%c%c" % (number, 97 + k // 26, 97 + k % 26) for number in range(8) for k in range(beside)]
    listing = Listing(names)
    assert next_shards(listing, b"0002.aa", 3) == [b"0003.aa", b"0004.aa", b"0005.aa"]
    many = Listing([b"7.bin", *(b"7.bin.%d.x" % number for number in range(20_000)), b"8.bin"])
    assert next_shards(many, b"7.bin", 100_000) == []


PIECES = st.lists(
    st.sampled_from([b"a", b"-", b".tar", b"1", b"2", b"9", b"10", b"11"]), min_size=1, max_size=5
)


def by_pairs(names: list[bytes], name: bytes, count: int) -> list[bytes]:
    """What differs in one number, found by comparing each name with each other."""
    extension = re.search(rb"\.(?=[^.]*[0-9])(?=[^.]*[A-Za-z])[^.]*$", name)
    fields = [
        match.span() for match in re.finditer(rb"[0-9]+", name[: extension.start()] if extension else name)
    ]
    for start, stop in reversed(fields):
        pattern = re.compile(re.escape(name[:start]) + rb"([0-9]+)" + re.escape(name[stop:]))
        found = {other: int(match[1]) for other in names if (match := pattern.fullmatch(other))}
        if len(found) > 1:
            later = [other for other in found if found[other] > found[name]]
            return sorted(later, key=lambda other: found[other])[:count]
    return []


@given(pieces=st.lists(PIECES, min_size=1, max_size=12), which=st.integers(0, 11), count=st.integers(1, 4))
@example(pieces=[[b"a", b"9"], [b"a", b"10"], [b"a", b"-"], [b"a", b"a"]], which=0, count=1)
def test_as_comparing_all_names(pieces: list[list[bytes]], which: int, count: int) -> None:
    names = [*dict.fromkeys(b"".join(parts) for parts in pieces)]
    name = names[which % len(names)]
    assert next_shards(Listing(names), name, count) == by_pairs(names, name, count)


SET = [b"s-1.tar", b"s-2.tar", b"s-3.tar", b"s-4.tar", b"s.index.json"]
MIB = 1 << 20


@pytest.mark.parametrize(
    ("rule", "name", "wanted"),
    [
        (Prefetch(shards=True), SET[0], [(SET[1:3], Order(limit=asked.ANY))]),
        (Prefetch(shards=True, next_files=3), SET[0], [(SET[1:4], Order(limit=asked.ANY))]),
        (Prefetch(shards=True, window=MIB), SET[2], [(SET[3:4], Order(limit=asked.ANY, part=MIB))]),
        (Prefetch(next_files=1), SET[1], [(SET[2:3], Order(limit=asked.ANY, row=1))]),
        (Prefetch(siblings=True, window=MIB), SET[3], [([SET[4], *SET[:3]], Order(limit=MIB))]),
        (Prefetch(siblings=True, depth=3), SET[4], [(SET[:4], Order(limit=asked.ANY, levels=3))]),
        (
            Prefetch(shards=True, siblings=True, next_files=1),
            SET[0],
            [(SET[1:2], Order(limit=asked.ANY)), (SET[2:], Order(limit=asked.ANY))],
        ),
        (
            Prefetch(shards=True),
            SET[4],
            [([], Order(limit=asked.ANY, index=True, files=MOST_FILES))],
        ),
        (Prefetch(shards=True, next_files=7), SET[4], [([], Order(limit=asked.ANY, index=True, files=7))]),
    ],
)
def test_what_a_rule_wants_with_a_file(
    rule: Prefetch, name: bytes, wanted: list[tuple[list[bytes], Order]]
) -> None:
    plan = Directory()
    plan.set_listing(Listing(SET))
    found = list(asked.orders(plan, name, Verdict(5, prefetch=rule), 9.0, room=MOST_FILES))
    expected = [(names, replace(order, decision=5, deadline=9.0)) for names, order in wanted]
    assert [(names, asdict(order)) for order, names in found] == [(n, asdict(o)) for n, o in expected]


def index(names: list[str], **more: object) -> bytes:
    return json.dumps({**more, "weight_map": {f"layer.{i}": name for i, name in enumerate(names)}}).encode()


def test_an_index_lists_its_shards_in_the_order_of_their_names() -> None:
    names = [f"model-{number:05}-of-00163.safetensors" for number in (163, 1, 10, 2, 1, 163)]
    text = index(names, metadata={"total_size": 1, "weight_map": "no"})
    assert shards_of(text) == [name.encode() for name in sorted(set(names))]
    assert shards_of(index(["s10", "s9"])) == [b"s9", b"s10"]
    odd = ['a"b', "c\\d", "\u00e9", "x}y", "new\nline"]
    assert set(shards_of(index(odd))) == {name.encode() for name in odd}
    assert shards_of(index(["../etc/passwd", "/etc/passwd", "a/b", "c"])) == [b"c"]
    assert len(shards_of(index([f"s{number}" for number in range(MOST_FILES + 1)]))) == MOST_FILES
    assert is_index(b"model.safetensors.index.json")
    assert not is_index(b"index.json")


GOOD = index(["a", "b"])


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"{}", b"\0" * 100, GOOD[:-2], GOOD[:-8], GOOD[1:], b'{"weight_map": {}}',
        b'{"weight_map": ["a"]}', b'{"weight_map": {"a": 1}}', b'{"weight_map": {"a": "b", }}',
        b'{"weight_map": {"a": "\\q"}}', b'{"weight_map": {"a": "\\ud800x"}}',
        b'{"weight_map": {"a": "b\xff"}}',
        b'{"x": "\\"weight_map\\": {"}',
    ],
    ids=str,
)  # fmt: skip
def test_a_malformed_index_lists_nothing(text: bytes) -> None:
    assert shards_of(text) == []


@given(st.binary(max_size=60), st.integers(0, len(GOOD)))
def test_any_bytes_are_an_index_or_not(junk: bytes, at: int) -> None:
    assert isinstance(shards_of(GOOD[:at] + junk + GOOD[at:]), list)
    assert isinstance(shards_of(b'{"weight_map": {' + junk), list)
