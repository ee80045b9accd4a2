"""Rows read for the first time from a slow source: 200 MB/s in all, 20 ms for each request.

The source is ``tests/support/slowfs.c``: each request waits its 20 ms, many at a time, and all data shares
one link. ``native`` is the same load on that source without a cache, which is what its users have today.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator
from pathlib import Path

from report import Result, compare
from rig import MIB, SMALL, Rig, Sample
from support.slowfs import SlowFs

RATE = 200  # MB/s
DELAY_MS = 20
READERS = 4
# Attributes live in the source's kernel client this long: less than NFS (3 s), more than no cache at all.
CACHE_SECONDS = 1
NATIVE_SHARE = 8  # the lone reader gets this much less to read: it needs a minute otherwise


def cold(rig: Rig, wanted: list[str]) -> Iterator[Result]:
    """Each round starts with an empty cache and a dropped page cache."""
    backing = rig.directory("cold/backing")
    orders: dict[str, list[str]] = {}
    if "cold-seq" in wanted:
        rig.make_big(backing / "big", rig.sizes.cold)
    if any(key.startswith("cold-small") for key in wanted):
        names = [f"small/{name}" for name in rig.make(backing / "small", rig.sizes.cold_small, SMALL)]
        orders["cold-small"] = names
        orders["cold-small-shuffled"] = random.Random(1).sample(names, len(names))
    rig.settle()
    with SlowFs(
        rig.base / "cold",
        backing,
        read_ms=DELAY_MS,
        meta_ms=DELAY_MS,
        rate=RATE,
        cache_seconds=CACHE_SECONDS,
    ) as slow:
        if "cold-seq" in wanted:
            yield _sequential(rig, slow.path)
        for key, order in orders.items():
            if key in wanted:
                yield _small(rig, slow.path, key, order)


def _sequential(rig: Rig, source: Path) -> Result:
    pairs = []
    for number in range(rig.sizes.rounds):
        rig.drop()
        native = rig.sample(None, "seq", source / "big", MIB, rig.sizes.cold // NATIVE_SHARE)
        pairs.append((native, _mounted(rig, source, f"cold-seq{number}", ["seq", "{root}/big", str(MIB)])))
    ratios = [mount.rate / (RATE * 1e6) for _, mount in pairs]
    row = compare("cold-seq", f"one reader, source of {RATE} MB/s", "MB/s", 0.9, pairs)
    row.note = f"ratio to {RATE} MB/s; {row.note}"
    row.ratios, row.ratio = ratios, statistics.median(ratios)
    return row


def _small(rig: Rig, source: Path, key: str, order: list[str]) -> Result:
    pairs = []
    listed = rig.list_of(f"{key}.native", source, order)
    for number in range(rig.sizes.rounds):
        rig.drop()
        native = rig.sample(None, "files", listed, READERS)
        name = f"{key}{number}"
        rig.list_of(f"{name}.mount", rig.base / name / "mnt", order)
        load = ["files", f"{rig.base}/{name}.mount.list", str(READERS)]
        pairs.append((native, _mounted(rig, source, name, load)))
    goal = 4.0 if key == "cold-small" else None
    return compare(key, f"small files, {READERS} readers", "/s", goal, pairs)


def _mounted(rig: Rig, source: Path, name: str, load: list[str]) -> Sample:
    """The load through a daemon of its own that has never seen the source."""
    with rig.serve(name, source) as daemon:
        rig.drop()
        return rig.sample(daemon, *(word.format(root=daemon.mount) for word in load))
