"""TensorFlow: records as another library writes them, checkpoints as their format says."""

from __future__ import annotations

import functools
import gzip
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.formats import damaged, hints, knows
from swmld.plugins.interface import NONE, Range
from swmld.plugins.tensorflow import TensorFlow

PLUGIN = TensorFlow()
MAGIC = 0xDB4775248B80FB57


def checksum(data: bytes) -> bytes:
    """Masked, as tensorflow/core/lib/hash/crc32c.h has it; the sum itself by another implementation."""
    crc = int(pytest.importorskip("crc32c").crc32c(data))
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


@functools.cache
def records(count: int = 50) -> bytes:
    found = b""
    for number in range(count):
        length, data = struct.pack("<Q", 2000 + number), bytes([number]) * (2000 + number)
        found += length + checksum(length) + data + checksum(data)
    return found


def test_records_are_known_by_their_checksum_and_read_whole() -> None:
    data = records()
    assert knows(PLUGIN, "train-00000-of-01024", data)
    assert hints(PLUGIN, "train-00000-of-01024", data).whole
    # In any order: there is no index.
    steps = [Range(n * 20_000, 4096) for n in range(4)]
    assert not hints(PLUGIN, "train-00000-of-01024", data, steps).whole
    other = bytes([data[0] ^ 1]) + data[1:]
    assert not knows(PLUGIN, "x.tfrecord", other)
    assert hints(PLUGIN, "x.tfrecord", other) == NONE


def test_records_in_gzip() -> None:
    data = gzip.compress(records())
    assert PLUGIN.detect("x.tfrecord.gz", data) == 0.7
    found = hints(PLUGIN, "x.tfrecord.gz", data)
    assert found.whole
    assert found.compressed is True
    assert PLUGIN.detect("x.gz", data) == 0


def varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found += bytes([value & 127 | 128])
        value >>= 7
    return found + bytes([value])


def block(entries: list[tuple[bytes, bytes]], compression: int = 0) -> bytes:
    """Entries that share nothing, one restart point, type and checksum (which nobody looks at here)."""
    body = b"".join(b"\0" + varint(len(key)) + varint(len(value)) + key + value for key, value in entries)
    return body + struct.pack("<II", 0, 1) + bytes([compression]) + bytes(4)


@functools.cache
def index(shards: int = 3, compression: int = 0, *, header: bool = True, key: bytes = b"") -> bytes:
    """A table of a block of data, an index and a footer: table_format.txt."""
    entries = [(key, b"\x08" + varint(shards) + b"\x1a\x02\x08\x01")] if header else []
    entries += [(f"layer/{n}".encode(), bytes(40)) for n in range(30)]
    data = block(entries, compression)
    handles = block([(b"layer/~", varint(0) + varint(len(data) - 5))])
    meta = block([])
    at = len(data) + len(meta)
    handle = varint(len(data)) + varint(len(meta) - 5) + varint(at) + varint(len(handles) - 5)
    return data + meta + handles + handle.ljust(40, b"\0") + MAGIC.to_bytes(8, "little")


@pytest.mark.parametrize("shards", [1, 3, 200])
def test_after_an_index_its_data_files_are_read(shards: int) -> None:
    assert knows(PLUGIN, "ckpt/model.index", index(shards))
    found = hints(PLUGIN, "ckpt/model.index", index(shards))
    assert found.whole
    assert list(found.files) == [f"model.data-{n:05}-of-{shards:05}" for n in range(shards)]


def test_after_a_data_file_the_later_ones() -> None:
    found = hints(PLUGIN, "ckpt/model.data-00001-of-00004", bytes(5000))
    assert found.whole
    assert found.files == ("model.data-00002-of-00004", "model.data-00003-of-00004")
    assert PLUGIN.detect("ckpt/model.data-00001-of-00004", b"\0" * 64) == 0.8


@pytest.mark.parametrize(
    "data",
    [
        index(compression=1),
        index(header=False),
        index(key=b"a"),
        index()[:-1],
        b"\xff" * 40 + MAGIC.to_bytes(8, "little"),
        bytes(100),
        b"",
    ],
    ids=["compressed", "no header", "another key", "cut off", "long numbers", "zeros", "empty"],
)
def test_indexes_that_are_not_understood_say_nothing(data: bytes) -> None:
    assert hints(PLUGIN, "model.index", data) == NONE


def test_no_more_data_files_than_an_answer_may_have() -> None:
    assert len(hints(PLUGIN, "model.index", index(1 << 60)).files) == 4096


def test_after_a_saved_model_its_variables() -> None:
    data = b"\x08\x01\x12\x04meta"
    assert knows(PLUGIN, "m/saved_model.pb", data)
    found = hints(PLUGIN, "m/saved_model.pb", data)
    assert found.whole
    assert found.files == ("variables/variables.index", "variables/variables.data-00000-of-00001")


@pytest.mark.parametrize(
    ("path", "head", "sure"),
    [
        ("m/saved_model.pb", b"", 0.9),
        ("m/saved_model.pb", b"text", 0),
        ("m/other.pb", b"\x08\x01\x12", 0),
        ("x.tfrecord", b"", 0.7),
        ("x.tfrecord-00001-of-00002", b"", 0.7),
        ("x.tfrecord", b"text, not records", 0),
        ("faiss.index", b"IxF2", 0),
        ("notes.txt", b"", 0),
    ],
)
def test_how_sure(path: str, head: bytes, sure: float) -> None:
    assert PLUGIN.detect(path, head) == sure


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["model.index", "saved_model.pb", "x"]), damaged(index()))
def test_damaged_files_are_survived(path: str, data: bytes) -> None:
    hints(PLUGIN, path, data)
    assert 0 <= PLUGIN.detect(path, data[:4096]) <= 1
