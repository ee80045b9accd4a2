"""Memory of the pattern engine after ten million files, through the engine itself.

    python tests/bench/patterns_memory.py [--files N] [LAYOUT...]

Each layout in a process of its own: seconds, microseconds a file, bytes of bitmaps, and by how many MB the
process's memory grew until a tenth and until all of the files were read. Exit 1 where that is more than
``MOST``. Each file is read once, in no order; the names are made up as they are asked for.

Layouts
    one        one directory
    unlisted   one directory that cannot be listed
    classes    1,000 directories
    hashes     100,000 directories, more than are followed
    closed     2,500 directories that cannot be listed
    jobs       256 jobs that have ended, each with several data sets
    commands   each file by a process of its own
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.many import Layout, Many, reads
from swmld.patterns.engine import Patterns

FILES = 10_000_000

MOST = 300
"""MB: 128 MiB of bitmaps, and what else ``patterns.limits`` allows. After ten million files it was 12 MB
(one, classes, commands), 30 (unlisted; 87 s of CPU, 9 us a file as with the first million, and 5 % of the
files are taken for seen ones), 46 (jobs), 56 (hashes) and 112 (closed)."""

BATCH = 1000
"""Touches that are handed over at once."""


def layouts(files: int) -> dict[str, Layout]:
    return {
        "one": Layout(files, files),
        "unlisted": Layout(files, files, listed=False),
        "classes": Layout(files, files // 1_000),
        "hashes": Layout(files, files // 100_000),
        "closed": Layout(files, files // 2_500, listed=False),
        "jobs": Layout(files, files // (256 * 5), job=-(-files // 256), mixed=True),
        "commands": Layout(files, files // 1_000, process=1),
    }


def grown() -> float:
    """MB that are resident now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(name: str, layout: Layout) -> bool:
    names = Many(layout)
    patterns = Patterns(names, names)
    before, early = grown(), 0.0
    begun = time.process_time()
    touches, told = reads(layout), 0
    while batch := list(islice(touches, BATCH)):
        patterns.touch(batch)
        told += len(batch)
        if not early and told >= layout.files // 10:
            early = grown() - before
    seconds = time.process_time() - begun
    snapshot = patterns.snapshot(1.0 + layout.files * 1e-5)
    seen = sum(dataset.files_seen for job in snapshot.jobs for dataset in job.datasets)
    late = grown() - before
    print(
        f"{name:10} {seconds:6.1f} s {seconds / layout.files * 1e6:6.2f} us"
        f" {patterns.seen_bytes / 1e6:8.1f} MB {early:8.1f} MB {late:8.1f} MB"
        f"   {seen} files in {len(snapshot.jobs)} jobs are shown",
        flush=True,
    )
    return late <= MOST


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("layouts", nargs="*", metavar="LAYOUT")
    parser.add_argument("--files", type=int, default=FILES)
    args = parser.parse_args()
    known = layouts(args.files)
    if len(args.layouts) == 1:
        return not measure(args.layouts[0], known[args.layouts[0]])
    print(f"{'layout':10} {'CPU':>8} {'a file':>9} {'bitmaps':>11} {'a tenth':>11} {'all':>11}", flush=True)
    command = [sys.executable, __file__, "--files", str(args.files)]
    return max(subprocess.run([*command, name], check=False).returncode for name in args.layouts or known)


if __name__ == "__main__":
    sys.exit(main())
