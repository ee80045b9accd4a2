"""Rows read for the first time from a slow source: 200 MB/s in all, 20 ms for each request.

The source is ``tests/support/slowfs.c``: each request waits its 20 ms, many at a time, and all data shares
one link. ``native`` is the same load on that source without a cache, which is what its users have today.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from report import Pairs, Result, compare
from rig import CHECK_SECONDS, MIB, SMALL, Rig
from support.slowfs import SlowFs

RATE = 200  # MB/s
DELAY_MS = 20
READERS = 4
AGAIN = "again-small"  # what a second epoch pays for: the check of each file at the source
# Attributes live in the source's kernel client this long: less than NFS (3 s), more than no cache at all.
CACHE_SECONDS = 1
NATIVE_SHARE = 8  # the lone reader gets this much less to read: it needs a minute otherwise


def cold(rig: Rig, wanted: list[str]) -> Iterator[Result]:
    """Each round starts with an empty cache and a dropped page cache."""
    backing = rig.directory("cold/backing")
    names: list[str] = []
    if "cold-seq" in wanted:
        rig.make_big(backing / "big", rig.sizes.cold)
    if any("small" in key for key in wanted):
        names = [f"small/{name}" for name in rig.make(backing / "small", rig.sizes.cold_small, SMALL)]
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
        if "cold-small" in wanted or AGAIN in wanted:
            rows = _small(rig, slow.path, "cold-small", names)
            yield from (row for row in rows if row.key in wanted)
        if "cold-small-shuffled" in wanted:
            yield _small(rig, slow.path, "cold-small-shuffled", random.Random(1).sample(names, len(names)))[0]


def _sequential(rig: Rig, source: Path) -> Result:
    pairs: Pairs = []
    for number in range(rig.sizes.rounds):
        rig.drop()
        native = rig.sample(None, "seq", source / "big", MIB, rig.sizes.cold // NATIVE_SHARE)
        with rig.serve(f"cold-seq{number}", source) as daemon:
            rig.drop()
            pairs.append((native, rig.sample(daemon, "seq", daemon.mount / "big", MIB)))
    ratios = [mount.rate / (RATE * 1e6) for _, mount in pairs]
    row = compare("cold-seq", f"one reader, source of {RATE} MB/s", "MB/s", 0.9, pairs)
    row.note = f"ratio to {RATE} MB/s; {row.note}"
    row.ratios, row.ratio = ratios, statistics.median(ratios)
    row.samples = {"mount": row.samples["mount"], "lone reader": row.samples["native"]}
    return row


def _small(rig: Rig, source: Path, key: str, order: list[str]) -> tuple[Result, Result]:
    """The first pass over the files, and a second one after the time for which a look at the source holds."""
    cold: Pairs = []
    again: Pairs = []
    listed = rig.list_of(f"{key}.native", source, order)
    for number in range(rig.sizes.rounds):
        rig.drop()
        native = rig.sample(None, "files", listed, READERS)
        name = f"{key}{number}"
        mounted = rig.list_of(f"{name}.mount", rig.base / name / "mnt", order)
        with rig.serve(name, source) as daemon:
            rig.drop()
            cold.append((native, rig.sample(daemon, "files", mounted, READERS)))
            time.sleep(CHECK_SECONDS)
            again.append((native, rig.sample(daemon, "files", mounted, READERS)))
    title = f"small files, {READERS} readers"
    return (
        compare(key, title, "/s", 4.0 if key == "cold-small" else None, cold),
        compare(AGAIN, f"{title}, second pass", "/s", None, again),
    )
