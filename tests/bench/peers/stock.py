"""What the cluster holds: files made on the disk, copied in once, and where their chunks are."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mounts import BUCKET
from rig import SMALL, Rig
from support.seaweed import Cluster, weed
from swmld.sources.seaweed_chunks import Chunk, chunk_of

ROOT = f"/buckets/{BUCKET}"


@dataclass
class Stock:
    """Names below the mount, and lists of requests for raw.c and stored.c."""

    files: Path
    small: list[str]
    many: list[str]
    raw_big: Path
    raw_small: Path


def fill(rig: Rig, cluster: Cluster, rows: set[str]) -> Stock:
    """Makes what these groups of rows need ("seq", "small", "names") and copies it in."""
    files = rig.directory("files")
    small: list[str] = []
    many: list[str] = []
    if "seq" in rows:
        rig.make_big(files / "big", rig.sizes.cold)
    if "small" in rows:
        small = [f"small/{name}" for name in rig.make(files / "small", rig.sizes.cold_small, SMALL)]
    if "names" in rows:
        count = rig.sizes.stat
        many = [f"many/{name}" for name in rig.make(files / "many", count, 0, per_dir=count)]
    (files / "note").write_text("so that there is something\n")
    _copy(rig, cluster, files)
    stock = Stock(files, small, many, rig.base / "big.raw", rig.base / "small.raw")
    for path, names in ((stock.raw_big, ["big"] if "seq" in rows else []), (stock.raw_small, small)):
        path.write_text("".join(_requests(cluster, names)))
    return stock


def _copy(rig: Rig, cluster: Cluster, files: Path) -> None:
    target = f"http://127.0.0.1:{cluster.filer}{ROOT}/"
    done = subprocess.run(
        [weed(), "filer.copy", *map(str, sorted(files.iterdir())), target],
        check=False,
        timeout=3000,
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": str(rig.base)},
    )
    if done.returncode:
        said = done.stderr[-2000:] + done.stdout[-2000:]
        raise RuntimeError(f"weed filer.copy: exit {done.returncode}: {said}")


def _requests(cluster: Cluster, names: list[str]) -> list[str]:
    """The list that get.h describes: all chunks of these files."""
    port = cluster.volume_ports[0]
    return [
        f"{port} {number} {chunk.offset} {chunk.size} /{chunk.fid}\n"
        for number, name in enumerate(names)
        for chunk in _chunks(cluster, name)
    ]


def _chunks(cluster: Cluster, name: str) -> list[Chunk]:
    chunks = sorted(cluster.entry(f"{ROOT}/{name}").chunks, key=lambda chunk: int(chunk.offset))
    if not chunks or any(chunk.is_compressed or chunk.is_chunk_manifest for chunk in chunks):
        raise RuntimeError(f"{name}: its chunks cannot be read raw")
    return [chunk_of(chunk) for chunk in chunks]
