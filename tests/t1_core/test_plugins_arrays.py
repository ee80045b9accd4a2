"""Arrays: NumPy's files, HDF5 and Zarr."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.formats import Asked, assert_foretold, damaged, hints, knows, traced
from swmld.plugins.arrays import Arrays
from swmld.plugins.interface import NONE, Context, Range

np = pytest.importorskip("numpy")

PLUGIN = Arrays()
GIB = 1 << 30


@functools.cache
def saved(how: str, numbers: int = 20_000) -> bytes:
    out = io.BytesIO()
    arrays = {f"a{n}": np.arange(numbers) for n in range(9)}
    {
        "npy": lambda: np.save(out, arrays["a0"]),
        "npz": lambda: np.savez(out, **arrays),
        "compressed": lambda: np.savez_compressed(out, **arrays),
    }[how]()
    return out.getvalue()


@functools.cache
def hdf5(version: str = "earliest", user_block: int = 0) -> bytes:
    h5py = pytest.importorskip("h5py")
    out = io.BytesIO()
    with h5py.File(out, "w", libver=version, userblock_size=user_block) as file:
        file["a"] = np.arange(1000)
        file["b/c"] = np.arange(5000)
    return out.getvalue()


@pytest.mark.parametrize("how", ["npz", "compressed"])
def test_what_numpy_reads_of_npz_is_hinted_in_its_order(tmp_path: Path, how: str) -> None:
    data = saved(how)
    path = tmp_path / "x.npz"
    path.write_bytes(data)

    def load(file: Any) -> list[Any]:
        with np.load(file) as arrays:
            return [arrays[name] for name in arrays]

    reads = traced(path, load)
    found = hints(PLUGIN, "x.npz", data)
    assert found.compressed is (how == "compressed")
    assert_foretold(found.ranges, reads)
    assert found.ranges[0].end == len(data)


def test_npy_is_read_whole() -> None:
    found = hints(PLUGIN, "x.npy", saved("npy"))
    assert found.whole
    assert found.compressed is False


def large(*touched: Range) -> Context:
    asked = Asked(saved("npy"), touched=touched).context
    return Context(asked.path, 64 * GIB, asked.head, asked.read, asked.touched)


def test_a_large_npy_may_be_mapped_until_it_is_read_in_order() -> None:
    opened = PLUGIN.hints(large())
    assert not opened.whole
    assert opened.again
    assert not PLUGIN.hints(large(Range(0, 1 << 20))).whole
    assert PLUGIN.hints(large(Range(0, 9 << 20))).whole
    stepped = PLUGIN.hints(large(Range(0, 9 << 20), *(Range(n * GIB, 4096) for n in range(1, 5))))
    assert not stepped.whole


@pytest.mark.parametrize("user_block", [0, 2048])
@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_what_hdf5_reads_first_is_hinted(tmp_path: Path, version: str, user_block: int) -> None:
    h5py = pytest.importorskip("h5py")
    data = hdf5(version, user_block)
    assert knows(PLUGIN, "x", data)
    path = tmp_path / "x.h5"
    path.write_bytes(data)

    reads = traced(path, lambda file: h5py.File(file, "r").close())
    found = hints(PLUGIN, "x.h5", data)
    assert not found.whole  # which data sets are read nobody knows
    assert len(reads) >= 2
    (hinted,) = found.ranges
    assert all(each.end <= hinted.end for each in reads)
    assert hinted.end < user_block + 2000


def test_hdf5_that_was_cut_off_says_nothing() -> None:
    assert hints(PLUGIN, "x.h5", hdf5()[:-1]) == NONE


@pytest.mark.parametrize(
    ("path", "files"),
    [
        ("t.zarr/x/0.0.7", [f"0.0.{n}" for n in range(8, 16)]),
        ("t.zarr/x/c/2/19", [f"{n}" for n in range(20, 28)]),
        ("t.zarr/5", [f"{n}" for n in range(6, 14)]),
        ("other/0.0.7", []),
        ("t.zarr/x/notes", []),
        ("t.zarr/x/" + "9" * 30, []),
    ],
)
def test_after_a_chunk_its_neighbours_are_read(path: str, files: list[str]) -> None:
    chunk = bytes(range(100)) * 10
    assert (PLUGIN.detect(path, chunk) >= 0.5) is bool(files)
    found = hints(PLUGIN, path, chunk)
    assert list(found.files) == files
    assert found.whole is bool(files)


@pytest.mark.parametrize(
    ("path", "head", "sure"),
    [
        ("x.npy", b"", 0.7),
        ("x.npy", b"text", 0),
        ("x", b"\x93NUMPY\1\0", 0.95),
        ("x.npz", b"", 0.7),
        ("photos.zip", b"PK\3\4" + bytes(26) + b"a.jpg", 0),
        ("x.h5", b"", 0.7),
        ("t.zarr/x/.zarray", b"", 0.9),
        ("t.zarr/x/0.0", b"", 0.7),
        ("x/0.0", b"", 0),
    ],
)
def test_how_sure(path: str, head: bytes, sure: float) -> None:
    assert PLUGIN.detect(path, head) == sure


@pytest.mark.parametrize("how", ["npy", "npz", "compressed"])
def test_numpy_s_own_files_are_known(how: str) -> None:
    assert knows(PLUGIN, "x", saved(how))


MAKERS: list[Callable[[], bytes]] = [lambda: saved("npz", 40), lambda: saved("npy", 40), hdf5]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(MAKERS).flatmap(lambda make: damaged(make())))
def test_damaged_files_are_survived(data: bytes) -> None:
    hints(PLUGIN, "x", data)
    assert 0 <= PLUGIN.detect("x", data[:4096]) <= 1
