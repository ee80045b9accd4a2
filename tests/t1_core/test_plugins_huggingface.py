"""Hugging Face: the hub's cache, indexes of shards, Arrow files."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.formats import Asked, assert_foretold, damaged, hints, knows, traced
from swmld.plugins import arrow_layout, parsing
from swmld.plugins.huggingface import HuggingFace
from swmld.plugins.interface import NONE, Context, Hints, Range
from swmld.plugins.parsing import Pieces

pa = pytest.importorskip("pyarrow")
np = pytest.importorskip("numpy")

PLUGIN = HuggingFace()
BLOB = "hub/models--org--name/blobs/" + "0a" * 32


def index(files: Sequence[str]) -> bytes:
    weights = {f"model.layers.{n}.weight": file for n, file in enumerate(files)}
    return json.dumps({"metadata": {"total_size": 9}, "weight_map": weights}, indent=2).encode()


@functools.cache
def arrow(kind: str, rows: int = 8000) -> bytes:
    out = io.BytesIO()
    numbers = np.random.default_rng(1)
    table = pa.table(
        {"a": numbers.random(rows * 6), "t": pa.array([f"{n}" for n in range(rows * 6)]).dictionary_encode()}
    )
    new = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    with new(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    return out.getvalue()


def test_what_arrow_reads_of_a_file_is_hinted_in_its_order(tmp_path: Path) -> None:
    data = arrow("file")
    path = tmp_path / "x.arrow"
    path.write_bytes(data)

    def load(file: Any) -> None:
        with pa.ipc.open_file(pa.PythonFile(file, mode="r")) as opened:
            for number in range(opened.num_record_batches):
                opened.get_batch(number)

    reads = traced(path, load)
    found = hints(PLUGIN, "x.arrow", data)
    assert not found.whole
    assert found.why == "a footer and 7 record batches"  # six, and a dictionary
    assert_foretold(found.ranges, reads)


def test_a_file_larger_than_memory_may_be_mapped_until_two_batches_were_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = arrow("file")
    batches = arrow_layout.blocks(Pieces(Asked(data).context))[1][1:]
    monkeypatch.setattr(parsing, "SURE", len(data) - 1)

    def after(*touched: Range) -> Hints:
        return hints(PLUGIN, "x.arrow", data, touched)

    assert after() == after(batches[0])
    assert after().again
    assert [each.end for each in after().ranges] == [len(data)]
    assert after(batches[0], batches[1]).ranges == (
        Range(batches[2].offset, batches[-1].end - batches[2].offset),
    )
    assert after(Range(batches[0].offset, batches[3].end - batches[0].offset)).ranges == (
        Range(batches[4].offset, batches[-1].end - batches[4].offset),
    )
    # The end is read first of any file.
    assert after(Range(len(data) - 65536, 65536)) == after()


def test_a_stream_of_arrow_is_read_whole() -> None:
    assert hints(PLUGIN, "x.arrow", arrow("stream")).whole


def test_an_index_says_which_shards_are_read_and_in_which_order() -> None:
    names = [f"model-{n}-of-12.safetensors" for n in (3, 1, 12, 1, 2)]
    found = hints(PLUGIN, "model.safetensors.index.json", index(names))
    assert found.files == tuple(f"model-{n}-of-12.safetensors" for n in (1, 2, 3, 12))
    assert found.whole


def test_a_footer_of_arrow_that_lies_is_not_believed() -> None:
    data = bytearray(arrow("file"))
    length = int.from_bytes(data[-10:-6], "little")
    start = len(data) - 10 - length
    block = arrow_layout.blocks(Pieces(Asked(bytes(data)).context))[1][0]
    at = data.index(block.offset.to_bytes(8, "little"), start)
    for offset in (-8, 1 << 62, start + 8):
        data[at : at + 8] = offset.to_bytes(8, "little", signed=True)
        found = hints(PLUGIN, "x.arrow", bytes(data))
        assert found.why == "a footer and 6 record batches"
    data[start : start + 4] = (0xFFFFFFF0).to_bytes(4, "little")
    assert hints(PLUGIN, "x.arrow", bytes(data)) == NONE
    data[start : start + 4] = (8).to_bytes(4, "little")
    data[start + 8 : start + 12] = (length + 100).to_bytes(
        4, "little", signed=True
    )  # a vtable before the start
    assert hints(PLUGIN, "x.arrow", bytes(data)) == NONE


@pytest.mark.parametrize(
    ("text", "files"),
    [
        (index(["/etc/passwd", "../x", "a/../../x", "", "a\0b", "\ud800", "fine.bin", "sub/fine.bin"]), 2),
        (b"{}", None),
        (b"[]", None),
        (b'"weight_map": {"a": "b"}', None),
        (b'{"weight_map": {"a": ["b"]}}', None),
        (b'{"weight_map": {"a": "b", "c": "d', None),
        (b'{"weight_map": {"a": "\\q"}}', None),
        (index([f"{n}.bin" for n in range(5000)]), 4096),
    ],
    ids=["names", "empty", "list", "no object", "lists", "cut off", "escapes", "many"],
)
def test_indexes_that_lie_are_not_believed(text: bytes, files: int | None) -> None:
    found = hints(PLUGIN, "pytorch_model.bin.index.json", text)
    assert found == NONE if files is None else len(found.files) == files


def test_a_blob_is_known_by_what_is_in_it() -> None:
    save = pytest.importorskip("safetensors.numpy").save
    pq = pytest.importorskip("pyarrow.parquet")
    model = save({"a": np.zeros(3000)})
    out = io.BytesIO()
    pq.write_table(pa.table({"a": [1, 2]}), out)
    for data in (model, arrow("file"), arrow("stream"), out.getvalue()):
        assert knows(PLUGIN, BLOB, data)
        found = hints(PLUGIN, BLOB, data)
        assert found.whole or found.ranges
    assert 0.5 <= PLUGIN.detect(BLOB, b"tokens and text") < 0.9  # another plugin may know it better
    assert hints(PLUGIN, BLOB, b"tokens and text") == NONE


@pytest.mark.parametrize(
    ("path", "head", "sure"),
    [
        (BLOB, b"", 0.97),
        ("x/models--y/notes", b"", 0),
        ("model.safetensors.index.json", b"", 0.9),
        ("model.safetensors.index.json", b"<html>", 0),
        ("x.arrow", b"", 0.7),
        ("x.arrow", b"text", 0),
        ("x.arrow", b"FEA1\0\0\0\0", 0),
        ("x.json", b"{", 0),
    ],
)
def test_how_sure(path: str, head: bytes, sure: float) -> None:
    assert PLUGIN.detect(path, head) == sure


def test_a_file_that_cannot_be_read_says_nothing() -> None:
    def fails(offset: int, length: int) -> bytes:
        raise OSError(5, "Input/output error")

    asked = Asked(arrow("file"), "x.arrow").context
    assert PLUGIN.hints(Context(asked.path, asked.size, asked.head, fails)) == NONE
    short = Context(asked.path, asked.size, asked.head, lambda offset, length: b"")
    assert PLUGIN.hints(short) == NONE


SOME = [
    ("x.arrow", arrow("file", 20)),
    ("x.arrow", arrow("stream", 20)),
    ("a.bin.index.json", index(["b", "c"])),
]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SOME).flatmap(lambda each: st.tuples(st.just(each[0]), damaged(each[1]))))
def test_damaged_files_are_survived(file: tuple[str, bytes]) -> None:
    path, data = file
    hints(PLUGIN, path, data)
    assert 0 <= PLUGIN.detect(path, data[:4096]) <= 1
