"""PyTorch's files: what torch.load and safetensors read is hinted, in their order."""

from __future__ import annotations

import functools
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.formats import assert_foretold, damaged, hints, knows, place, traced
from swmld.plugins.interface import NONE, Range
from swmld.plugins.pytorch import PyTorch

torch = pytest.importorskip("torch")
numpy_save = pytest.importorskip("safetensors.numpy").save
np = pytest.importorskip("numpy")

PLUGIN = PyTorch()


@functools.cache
def checkpoint(tensors: int, numbers: int, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save({f"w{n}": torch.full((numbers,), float(n)) for n in range(tensors)}, out, **options)
    return out.getvalue()


def rewritten(data: bytes, order: Callable[[str], Any], compression: int = zipfile.ZIP_STORED) -> bytes:
    """The same members in another order."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", compression) as new:
        for name in sorted(old.namelist(), key=order):
            new.writestr(name, old.read(name))
    return out.getvalue()


# As older versions of torch wrote them: 0, 1, 10, 11, 2.
BY_TEXT = rewritten(checkpoint(13, 20_000), lambda name: name)


@pytest.mark.parametrize("data", [checkpoint(13, 20_000), BY_TEXT], ids=["as written", "by text"])
def test_what_torch_load_reads_is_hinted_in_its_order(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    reads = traced(path, torch.load)
    found = hints(PLUGIN, "model.pt", data)
    assert not found.whole
    assert found.compressed is False
    assert_foretold(found.ranges, reads)


def test_the_directory_comes_first_then_the_pickle_then_the_storages() -> None:
    data = checkpoint(13, 20_000)
    found = hints(PLUGIN, "model.pt", data)
    assert found.ranges[0].end == len(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        at = {info.filename.partition("/")[2]: info.header_offset for info in archive.infolist()}
    names = ["version", "data.pkl", *(f"data/{n}" for n in range(13))]
    places = [place(found.ranges, Range(at[name], 1)) for name in names]
    assert places == sorted(places)


def test_a_directory_of_zip64_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = hints(PLUGIN, "model.pt", BY_TEXT)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1 << 16)
    data = rewritten(checkpoint(13, 20_000), lambda name: name)
    assert b"PK\x06\x06" in data
    data = data[:-10] + b"\xff" * 8 + data[-2:]  # size and offset, which are in zip64's record alone
    found = hints(PLUGIN, "model.pt", data)
    assert found.ranges[0].end == len(data)
    assert [each.length for each in found.ranges[1:]] == pytest.approx(
        [each.length for each in plain.ranges[1:]], abs=2000
    )


def test_a_directory_of_many_members_costs_two_reads_and_no_more_than_its_length() -> None:
    names = [f"archive/data/{n}" for n in range(3000)]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
        for name in names:
            archive.writestr(name, b"x" * 8)
    data = out.getvalue()
    found = hints(PLUGIN, "model.pt", data)
    assert len(data) - found.ranges[0].offset > 1 << 17  # more than the first look at the end gives
    assert found.ranges == (found.ranges[0], Range(0, found.ranges[0].offset))


def test_members_that_are_compressed_make_a_compressed_file() -> None:
    data = rewritten(checkpoint(3, 20_000), lambda name: name, zipfile.ZIP_DEFLATED)
    assert hints(PLUGIN, "model.pt", data).compressed is True


def test_what_torch_wrote_before_zip_is_read_whole() -> None:
    data = checkpoint(3, 500, _use_new_zipfile_serialization=False)
    assert knows(PLUGIN, "pytorch_model.bin", data)
    assert hints(PLUGIN, "pytorch_model.bin", data).whole


@functools.cache
def tensors() -> bytes:
    arrays = {f"layer.{n:02}": np.full((50, 40), n, np.float32) for n in range(12)}
    return bytes(numpy_save(arrays, metadata={"format": "np"}))


def test_safetensors_are_read_whole() -> None:
    found = hints(PLUGIN, "model.safetensors", tensors())
    assert found.whole
    assert found.why == "12 tensors in order"
    assert knows(PLUGIN, "model.safetensors", tensors())


def without(*names: str) -> bytes:
    """The tensors are there, but the header leaves out some."""
    length = int.from_bytes(tensors()[:8], "little")
    header = json.loads(tensors()[8 : 8 + length])
    for name in names:
        del header[name]
    text = json.dumps(header).encode().ljust(length)
    return tensors()[:8] + text + tensors()[8 + length :]


def test_holes_between_tensors_are_left_out() -> None:
    data = without("layer.03", "layer.07")
    start = 8 + int.from_bytes(data[:8], "little")
    found = hints(PLUGIN, "model.safetensors", data)
    assert not found.whole
    assert found.ranges == (
        Range(0, start + 3 * 8000),
        Range(start + 4 * 8000, 3 * 8000),
        Range(start + 8 * 8000, 4 * 8000),
    )


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b'{"a":1}',
        b'{"a":{"data_offsets":[0]}}',
        b'{"a":{"data_offsets":[8,0]}}',
        b'{"a":{"data_offsets":[-1,8]}}',
        b'{"a":{"data_offsets":[0,1e999]}}',
        b'{"a":{"data_offsets":[false,true]}}',
        b'{"a":' * 50_000,
        b'{"a":{"data_offsets":[0,' + b"9" * 5000 + b"]}}",
        b"{",
    ],
    ids=lambda header: header[:30].decode(),
)
def test_headers_that_lie_are_not_believed(header: bytes) -> None:
    data = len(header).to_bytes(8, "little") + header + bytes(5000)
    assert hints(PLUGIN, "model.safetensors", data) == NONE


def test_a_tensor_beyond_the_end_is_cut_off() -> None:
    header = b'{"a":{"data_offsets":[0,10]},"b":{"data_offsets":[9000000000000000000,9000000000000000001]}}'
    data = len(header).to_bytes(8, "little") + header + bytes(6000)
    assert hints(PLUGIN, "m.safetensors", data).ranges == (Range(0, 8 + len(header) + 10),)


@pytest.mark.parametrize(
    ("path", "head", "least", "most"),
    [
        ("a/model.pt", b"", 0.5, 0.8),
        ("model.safetensors", b"", 0.5, 0.8),
        ("model.bin", b"", 0, 0.4),
        ("model.bin", b"\0" * 4096, 0, 0),
        ("model.pt", pickle.dumps([1]), 0.5, 0.8),
        ("model.bin", pickle.dumps([1]), 0, 0),
        ("photos.pt", b"not torch", 0, 0),
        ("model.safetensors", (64).to_bytes(8, "little") + b"{" + b" " * 63, 0.9, 1),
        ("model.safetensors", b"\xff" * 8 + b"{", 0, 0),
    ],
)
def test_how_sure(path: str, head: bytes, least: float, most: float) -> None:
    assert least <= PLUGIN.detect(path, head) <= most


def test_torch_s_own_archives_are_known() -> None:
    scripted = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), scripted)
    for data in (checkpoint(2, 10), scripted.getvalue()):
        assert knows(PLUGIN, "model.bin", data)
        assert hints(PLUGIN, "model.bin", data).ranges


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([checkpoint(3, 40), tensors()]).flatmap(damaged))
def test_damaged_files_are_survived(data: bytes) -> None:
    hints(PLUGIN, "model.pt", data)
    assert 0 <= PLUGIN.detect("model.pt", data[:4096]) <= 1
