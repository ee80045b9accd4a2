"""How fast the mount is, as ratios to the disk's own file system: one row a promise, all in one run.

    make bench ARGS=...    or    .venv/bin/python tests/bench/run.py
        [--quick]                 small files, few rounds: two minutes; to see that rows run, not how fast
        [--rows 'warm-*,start']   names or patterns
        [--mode passthrough|native|python]  [--no-fuse-uring]  [--nice -20]
        [--probe auto]            with the probes attached, as a daemon is run (see probe_cost.py)
        [--dir DIR on the disk under test]

A full run takes half an hour, 26 GB of disk and root. It prints a table and keeps every sample in
``tests/bench/results/<date>-<mode>.json``.

How to read it
    ``native`` is the source directory on the disk's own file system (ext4, XFS ...), ``mount`` the same files
    through the mount, ``ratio`` the median of the rounds' mount/native. ``goal`` is what is promised of the
    default mode: ``ok`` or ``short``. ``±x% of n`` is how far n rounds disagree (half the distance of their
    quartiles, over the median); a ``!`` marks a row too noisy to be believed near its goal: ``best``, the
    ratio of the best sample of each side, is the better guess then. Rates of one run compare with each other,
    never with those of another machine or day. The note says what the daemon did in the last sample: requests
    answered in C and in Python, how opens and reads were served, its CPU time.

What makes such numbers meaningless, and what is done about it
    - A busy machine: the sides take turns within a round, first one then the other first, and rounds go on
      (three times as many) while they disagree. ``--nice -20`` gives readers and daemon the CPUs first,
      and with them all of this session.
    - The state of the page cache: a row says in its name whether it is warm or dropped (``drop_caches`` 3:
      pages, names and inodes). What is warm was dropped and read again by both sides in the same way, since
      pages that a writer left are laid out otherwise than pages that a reader brought.
    - Memory that does not hold both sides: 100,000 small files (11 GB a side) are measured one side at a
      time, each after a drop. On a machine with less than 16 GiB their warm row is not warm.
    - The disk's own cache: a virtual disk's host keeps what was read before, so ``dropped`` compares disks
      with a warm cache. The two sides read different blocks (the source's and the cache's), each laid out by
      the file system at its time: a part of the spread.
    - A source with dirty pages: all is synced before a sample that reads the disk or writes.
    - The load's own cost: it is C (``reader.c``), one process a sample, timed inside.
    - A mount that serves from the wrong path: look at the note. ``passthrough opens`` must be there in the
      mode of that name, and ``py`` near zero on warm rows.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import rows
import rows_big
import rows_cold
import rows_daemon
import rows_plugins
import rows_rules
from report import HEAD, Result, line, machine, save
from rig import QUICK, Rig, Sizes
from support import tree
from support.mount import MODES
from support.watchdog import watchdog

Group = Callable[[Rig, list[str]], Iterator[Result]]

GROUPS: list[tuple[list[str], Group]] = [
    ([load.key for load in rows.LOADS], rows.cached),
    (["warm-small100k", "dropped-small100k"], rows_big.small_many),
    (["partial-seq", "partial-again", "partial-dropped"], rows_big.partial),
    (["cold-seq", "cold-small", "again-small", "cold-small-shuffled"], rows_cold.cold),
    (["checkpoint", "checkpoint-fsync"], rows_big.checkpoint),
    (["start", "start-dropped", "start-million"], rows_daemon.start),
    (["memory"], rows_daemon.memory_of),
    (["rules-ordered", "rules-shuffled", "rules-random", "rules-tools"], rows_rules.ruled),
    (rows_plugins.ROWS, rows_plugins.plugged),
]
RESULTS = Path(__file__).with_name("results")


@contextlib.contextmanager
def session_nice(nice: int) -> Iterator[None]:
    """Where the kernel gives its time to sessions (autogroups), ``nice`` of a process counts within its own
    alone, so the session's is set meanwhile. With ``nice`` 0 nothing is."""
    group = Path("/proc/self/autogroup")
    try:
        before = group.read_text().split()[-1] if nice else ""
    except OSError:
        before = ""
    if before:
        group.write_text(str(nice))
    try:
        yield
    finally:
        if before:
            group.write_text(before)


def main() -> int:
    args = arguments()
    with session_nice(args.nice):
        return run(args)


def run(args: argparse.Namespace) -> int:
    os.environ["SWMLD_TEST_DIR"] = args.dir
    wanted = chosen(args.rows)
    done: list[Result] = []
    with tree.work_dir("swmld-bench-") as base:
        told = ("mode", "fuse_uring", "probe", "quick", "nice")
        about = machine(base, **{name: getattr(args, name) for name in told})
        print(" ".join(f"{key}={value}" for key, value in about.items()), HEAD, sep="\n", flush=True)
        options = ["--probe", args.probe, *([] if args.fuse_uring else ["--no-fuse-uring"])]
        rig = Rig(base, args.mode, QUICK if args.quick else Sizes(), args.nice, options)
        ring = "" if args.fuse_uring else "-device"
        path = RESULTS / f"{datetime.now():%Y-%m-%d-%H%M%S}-{args.mode}{ring}.json"
        for keys, group in GROUPS:
            mine = [key for key in keys if key in wanted]
            if not mine:
                continue
            for row in group(rig, mine):
                done.append(row)
                print(line(row), flush=True)
                save(path, about, done)
    watchdog.close()
    return 0


def arguments() -> argparse.Namespace:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("--quick", action="store_true", help="small files, few rounds: a minute in all")
    parser.add_argument("--rows", default="", help="comma-separated names or patterns")
    parser.add_argument("--mode", choices=list(MODES), default="passthrough")
    parser.add_argument("--fuse-uring", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--probe", choices=["off", "auto"], default="off")
    parser.add_argument("--dir", default="/var/tmp", help="on the disk under test (default: /var/tmp)")
    parser.add_argument("--nice", type=int, default=0, help="of readers and daemon; -20 on a busy machine")
    return parser.parse_args()


def chosen(patterns: str) -> list[str]:
    keys = [key for group, _ in GROUPS for key in group]
    if not patterns:
        return keys
    return [key for key in keys if any(fnmatch(key, p) for p in patterns.split(","))]


if __name__ == "__main__":
    sys.exit(main())
