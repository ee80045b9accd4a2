"""WebDataset: tar archives, as Python and tar(1) write them."""

from __future__ import annotations

import functools
import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from support.formats import damaged, hints, knows, pages, traced
from swmld.plugins.interface import NONE, Range
from swmld.plugins.webdataset import WebDataset

PLUGIN = WebDataset()
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


@functools.cache
def shard(form: str = "ustar", suffix: str = "jpg", mode: str = "w", samples: int = 40) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=FORMATS[form]) as archive:  # type: ignore[call-overload]
        for number in range(samples):
            for name, data in ((f"{number:06}.cls", b"7"), (f"{number:06}.{suffix}", bytes(5000))):
                info = tarfile.TarInfo("é" * 80 + name if form == "pax" else name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize("form", FORMATS)
def test_an_archive_is_read_whole(tmp_path: Path, form: str) -> None:
    data = shard(form)
    path = tmp_path / "x.tar"
    path.write_bytes(data)

    def load(file: io.FileIO) -> None:
        with tarfile.open(fileobj=file, mode="r|") as archive:
            for member in archive:
                archive.extractfile(member)

    reads = traced(path, load)
    assert [each.offset for each in reads] == sorted(each.offset for each in reads)
    assert pages(reads) == pages([Range(0, len(data))])
    found = hints(PLUGIN, "x.tar", data)
    assert found.whole
    assert knows(PLUGIN, "x.tar", data)


def test_what_tar_writes_is_known(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(bytes(3000))
    packed = subprocess.run(
        ["tar", "-C", tmp_path, "-c", "a.png"], capture_output=True, check=True, timeout=20
    )
    assert knows(PLUGIN, "x.tar", packed.stdout)
    assert hints(PLUGIN, "x.tar", packed.stdout).compressed is True


def test_images_are_compressed_already_numbers_may_not_be() -> None:
    assert hints(PLUGIN, "x.tar", shard()).compressed is True
    assert hints(PLUGIN, "x.tar", shard(suffix="npy")).compressed is None


def test_what_is_read_in_steps_has_an_index_elsewhere() -> None:
    data = shard(samples=100)
    assert hints(PLUGIN, "x.tar", data).again
    steps = [Range(n * 100_000, 6000) for n in range(4)]
    assert hints(PLUGIN, "x.tar", data, steps[:3]).whole
    found = hints(PLUGIN, "x.tar", data, steps)
    assert not found.whole
    assert not found.ranges


def test_in_gzip_there_is_only_one_way_to_read() -> None:
    data = shard(mode="w:gz")
    assert PLUGIN.detect("x.tar.gz", data) == 0.6
    assert PLUGIN.detect("x.tar", data) == 0
    found = hints(PLUGIN, "x.tar.gz", data)
    assert found.whole
    assert found.compressed is True


@pytest.mark.parametrize(
    "data",
    [b"", b"text" * 500, bytes(1024), shard()[1:], b"x" + shard()[1:]],
    ids=["", "text", "zeros", "off", "changed"],
)
def test_others_are_not_known(data: bytes) -> None:
    assert PLUGIN.detect("x.tar", data) == (0.6 if not data else 0)
    assert hints(PLUGIN, "x.tar", data) == NONE


@settings(max_examples=40, deadline=None)
@given(damaged(shard(samples=2)))
def test_damaged_archives_are_survived(data: bytes) -> None:
    hints(PLUGIN, "x.tar", data)
    assert 0 <= PLUGIN.detect("x.tar", data[:4096]) <= 1
