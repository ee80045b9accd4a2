"""What plugins bring: a cold read through a mount that fetches nothing ahead (``native`` here) and one with
plugins, both on a source where each request takes 5 ms. The readers are the real libraries.

``plugin-safetensors``  a model of many tensors is loaded, each by its name
``plugin-safetensors-far``  the same from a source of 20 ms, as an object store's first byte takes: a load
                        gains the waiting, until copying takes all CPUs
``plugin-torch``        a checkpoint is loaded by ``torch.load``, mapped: storages are read as they are used
``plugin-parquet``      one column in ten of a table of many row groups

The note says what readahead reaches without plugins, and which share of the bytes fetched ahead was read.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from report import Pairs, Result, compare
from rig import MIB, READER_SECONDS, Rig, Sample
from support.mount import Daemon
from support.slowfs import SlowFs

DELAY_MS = 5
FAR_MS = 20
TENSOR = 8 * MIB
COLUMNS = 20
ROW_GROUPS = 16

ROWS = ["plugin-safetensors", "plugin-safetensors-far", "plugin-torch", "plugin-parquet"]
ENDINGS = {"safetensors": ".safetensors", "torch": ".pt", "parquet": ".parquet"}

# Each prints the bytes that it read and the seconds that it took, the imports not counted.
READERS = {
    "safetensors": """
import sys, time
import numpy as np
from safetensors import safe_open
began, read = time.monotonic(), 0
with safe_open(sys.argv[1], "numpy") as model:
    for name in sorted(model.keys()):
        tensor = model.get_tensor(name)
        read += tensor.nbytes
print(read, time.monotonic() - began)
""",
    "torch": """
import sys, time
import torch
began, read = time.monotonic(), 0
for tensor in torch.load(sys.argv[1], weights_only=True, mmap=True).values():
    tensor.float().sum()
    read += tensor.numel() * tensor.element_size()
print(read, time.monotonic() - began)
""",
    "parquet": """
import sys, time
import pyarrow.parquet as pq
began, read = time.monotonic(), 0
table = pq.ParquetFile(sys.argv[1])
for group in range(table.num_row_groups):
    read += table.read_row_group(group, columns=["c3", "c11"], use_threads=False).nbytes
print(read, time.monotonic() - began)
""",
}

MAKERS = {
    "safetensors": """
import sys
import numpy as np
from safetensors.numpy import save_file
path, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
kinds = (np.float32, np.float16)
def tensor(n):
    return np.frombuffer(np.random.bytes(size), np.uint8).view(kinds[n % 2])
save_file({f"layer.{n}": tensor(n) for n in range(count)}, path)
""",
    "torch": """
import sys, torch
path, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
tensors = (torch.randint(-99, 99, (size // 4,), dtype=torch.int32) for _ in range(count))
torch.save({f"layer.{n}": tensor for n, tensor in enumerate(tensors)}, path)
""",
    "parquet": """
import sys
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
path, columns, groups, rows = sys.argv[1], *map(int, sys.argv[2:])
table = pa.table({f"c{n}": np.random.default_rng(n).random(rows * groups) for n in range(columns)})
pq.write_table(table, path, row_group_size=rows, compression="none", use_dictionary=False)
""",
}


def plugged(rig: Rig, wanted: list[str]) -> Iterator[Result]:
    """Rows named in ``wanted``."""
    backing = rig.directory("plugins/backing")
    tensors = rig.sizes.cold // TENSOR
    rows = rig.sizes.cold // (8 * COLUMNS * ROW_GROUPS)
    given = {"parquet": (COLUMNS, ROW_GROUPS, rows)}
    for kind in {key.split("-")[1] for key in wanted}:
        _python(MAKERS[kind], backing / f"model{ENDINGS[kind]}", *given.get(kind, (tensors, TENSOR)))
    rig.settle()
    for delay in (DELAY_MS, FAR_MS):
        keys = [key for key in wanted if key.endswith("-far") == (delay == FAR_MS)]
        with SlowFs(rig.base / "plugins", backing, read_ms=delay, meta_ms=delay, cache_seconds=1) as slow:
            for key in keys:
                yield _row(rig, key, slow.path)


def _row(rig: Rig, key: str, source: Path) -> Result:
    kind = key.split("-")[1]
    goals = {"safetensors": 3.0, "parquet": 2.0}
    sides: dict[str, list[str]] = {
        "off": ["--no-plugins", "--readahead-max", "0"], "readahead": ["--no-plugins"], "on": [],
    }  # fmt: skip
    alone: list[float] = []
    pairs: Pairs = []
    shares = []
    for number in range(rig.sizes.rounds):
        taken: dict[str, Sample] = {}
        for side in sorted(sides, reverse=number % 2 == 0):
            name = f"{key}-{side}-{number}"
            with rig.serve(name, source, sides[side]) as daemon:
                rig.drop()
                taken[side], share = _read(kind, daemon)
                shares += [share] if side == "on" else []
            shutil.rmtree(rig.base / name)
        pairs.append((taken["off"], taken["on"]))
        alone.append(taken["readahead"].rate / taken["off"].rate)
    title = f"{key.removeprefix('plugin-')}, cold, nothing ahead and plugins"
    row = compare(key, title, "MB/s", goals.get(kind), pairs)
    used = f"of what was fetched ahead {min(shares):.0%} was read"
    row.note = f"readahead alone {statistics.median(alone):.2f}; {used}; {row.note}"
    return row


def _read(kind: str, daemon: Daemon) -> tuple[Sample, float]:
    """One cold pass, and which share of the bytes fetched ahead was read."""
    count, seconds = _python(READERS[kind], daemon.mount / f"model{ENDINGS[kind]}").split()
    stats = daemon.stats()
    ahead = stats["fetched_bytes_total"]["prefetch"]
    used = min(ahead, stats["prefetch_bytes_total"]["used"])
    return Sample(float(count), float(seconds)), used / ahead if ahead else 1.0


def _python(program: str, *arguments: object) -> str:
    argv = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=READER_SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout
