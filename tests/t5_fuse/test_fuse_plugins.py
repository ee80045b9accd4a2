"""What plugins know changes what is fetched of a file, in each mode; every byte stays right."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from support.mount import Daemon
from support.tree import Tree
from swmld.api.client import Client

MIB = 1 << 20
SIZE = 13 * MIB + 777


def make(daemon: Daemon, *names: str) -> dict[str, bytes]:
    made = {name: random.Random(name).randbytes(SIZE) for name in names}
    for name, data in made.items():
        (daemon.source / name).write_bytes(data)
    Tree(daemon.mount, daemon.source, daemon.mode, daemon).settle()
    return made


def part(path: Path, offset: int, length: int) -> bytes:
    """As a reader of one place: the kernel reads nothing ahead."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        return os.pread(fd, length, offset)
    finally:
        os.close(fd)


def cached(daemon: Daemon) -> dict[str, int]:
    found = {}
    (socket,) = daemon.run_dir.glob("*.sock")
    with Client(socket, timeout=30.0) as client:
        client.call(
            "cache.ls", {"path": ""},
            lambda message: found.update({each["path"]: each["cached_bytes"] for each in message["entries"]}),
        )  # fmt: skip
    return found


def test_files_that_are_read_in_pieces_are_fetched_in_smaller_chunks(daemon_mode: str, base: Path) -> None:
    with Daemon(base, daemon_mode, options=["--readahead-max", "0"]) as daemon:
        made = make(daemon, "x.parquet", "x.other")
        for name, data in made.items():
            assert part(daemon.mount / name, 5 * MIB + 100, 3000) == data[5 * MIB + 100 : 5 * MIB + 3100]
        assert cached(daemon) == {"x.parquet": MIB, "x.other": 4 * MIB}
        for name, data in made.items():
            assert (daemon.mount / name).read_bytes() == data
        assert cached(daemon) == dict.fromkeys(made, SIZE)


@pytest.mark.parametrize(("before", "after"), [("4MiB", "64KiB"), ("64KiB", "4MiB"), ("512KiB", "4MiB")])
def test_files_keep_their_chunks_when_the_usual_size_is_another(
    daemon_mode: str, base: Path, before: str, after: str
) -> None:
    daemon = Daemon(base, daemon_mode, options=["--chunk-size", before])
    with daemon:
        made = make(daemon, "x.parquet", "x.other")
        for name, data in made.items():
            assert part(daemon.mount / name, 5 * MIB, 3000) == data[5 * MIB : 5 * MIB + 3000]
    daemon.options[-1] = after
    with daemon:
        for name, data in made.items():
            assert part(daemon.mount / name, 9 * MIB, 3000) == data[9 * MIB : 9 * MIB + 3000]
            assert (daemon.mount / name).read_bytes() == data
        assert cached(daemon) == dict.fromkeys(made, SIZE)


COLUMNS, GROUPS, ROWS = 20, 12, 24_000
TABLE = """
import sys
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
path, columns, groups, rows = sys.argv[1], *map(int, sys.argv[2:])
table = pa.table({f"c{n}": np.random.default_rng(n).random(rows * groups) for n in range(columns)})
pq.write_table(table, path, row_group_size=rows, compression="none", use_dictionary=False)
"""
TWO = """
import sys, zlib
import pyarrow.parquet as pq
table = pq.ParquetFile(sys.argv[1])
total = 0
for group in range(table.num_row_groups):
    for column in table.read_row_group(group, columns=["c3", "c11"], use_threads=False).columns:
        for value in column.chunks:
            total = zlib.crc32(value.buffers()[1], total)
print(total)
"""


def python(program: str, *arguments: object) -> str:
    argv = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_two_columns_of_a_parquet_file(daemon_mode: str, base: Path) -> None:
    """Foretold, and without the columns that lie between."""
    pytest.importorskip("pyarrow")
    fetched = {}
    read = set()
    for side, options in (("off", ["--no-plugins", "--readahead-max", "0"]), ("on", [])):
        directory = base / side
        directory.mkdir()
        with Daemon(directory, daemon_mode, options=options) as daemon:
            python(TABLE, daemon.source / "t.parquet", COLUMNS, GROUPS, ROWS)
            Tree(daemon.mount, daemon.source, daemon.mode, daemon).settle()
            read |= {python(TWO, daemon.source / "t.parquet"), python(TWO, daemon.mount / "t.parquet")}
            stats = daemon.stats()
            fetched[side] = stats["fetched_bytes_total"]
            used = stats["prefetch_bytes_total"]["used"]
    assert len(read) == 1
    assert fetched["off"]["prefetch"] == 0
    assert sum(fetched["on"].values()) < sum(fetched["off"].values()) / 1.4
    assert fetched["on"]["prefetch"] > fetched["on"]["demand"]
    assert used >= 0.9 * fetched["on"]["prefetch"]
