"""Rows about the daemon itself: how soon it is ready, how much memory it needs."""

from __future__ import annotations

import sqlite3
import statistics
from collections.abc import Iterator
from pathlib import Path

from report import Result
from rig import MIB, SMALL, Rig, memory
from support.mount import Daemon

STARTS = 5
MEMORY_PER_DIR = 10_000


def start(rig: Rig, wanted: list[str]) -> Iterator[Result]:
    """From the start of the process to the ready line (looked for every 5 ms)."""
    source = rig.directory("start/src")
    with rig.serve("start", source) as daemon:
        if "start" in wanted:
            yield _starts("start", daemon, f"empty cache, {daemon.mode}")
        if "start-dropped" in wanted:
            yield _starts("start-dropped", daemon, "page cache dropped, as after a boot", before=rig)
        if "start-million" in wanted:
            daemon.stop()
            fill_index(daemon.cache / "index.db", rig.sizes.index)
            daemon.start()
            known = daemon.status()["cache"]["files"]
            yield _starts("start-million", daemon, f"index of {known} files")


def _starts(key: str, daemon: Daemon, note: str, before: Rig | None = None) -> Result:
    seconds = []
    for _ in range(STARTS):
        daemon.stop()
        if before is not None:
            before.drop()
        seconds.append(daemon.start())
    median = statistics.median(seconds)
    return Result(key, "start to ready", "s", 1.5, median, mount=median, ratios=seconds, most=True, note=note)


def fill_index(path: Path, count: int) -> None:
    """Rows of ``count`` small cached files, written while no daemon runs.

    The data files are not made: what a start reads is the index alone. (The sweep that runs after it finds
    them missing; the cache directory is thrown away.)
    """
    with sqlite3.connect(path) as db:
        source, session = (
            db.execute("SELECT max(source) FROM sources").fetchone()[0],
            db.execute("SELECT value FROM meta WHERE key='session'").fetchone()[0],
        )
        db.executemany(
            "INSERT INTO files VALUES (?, ?, 1, ?, ?, 1, 1, ?, 4194304, ?, 1, 1, ?, 0, ?, ?)",
            (
                (
                    n,
                    source,
                    (n * 2654435761) % (1 << 40),  # spread as inode numbers are, no two alike
                    SMALL,
                    b"train/class%05d/image_%08d.jpeg" % (n % 1000, n),
                    SMALL,
                    1000.0 + n,
                    session,
                    session,
                )
                for n in range(1, count + 1)
            ),
        )
        db.execute("INSERT INTO chunks SELECT file_id, 0, 5, session FROM files")
        totals = [(SMALL * count, "bytes"), (count, "files"), (2 * count, "next_id")]
        db.executemany("UPDATE meta SET value=? WHERE key=?", totals)
    db.close()


def memory_of(rig: Rig, wanted: list[str]) -> Iterator[Result]:
    """Resident memory after a stat of each of 1,000,000 files through the mount."""
    source = rig.directory("memory/src")
    names = rig.make(source, rig.sizes.memory, 0, per_dir=MEMORY_PER_DIR)
    with rig.serve("memory", source) as daemon:
        before = memory(daemon.pid)
        listed = rig.list_of("memory.mount", daemon.mount, names)
        done = rig.sample(daemon, "stat", listed)
        after = memory(daemon.pid)
        known = daemon.metric("swmld_known_nodes")
        note = (
            f"RSS; PSS {after['pss'] // MIB}, before {before['rss'] // MIB} MiB; {known:.0f} nodes known"
            f" ({(after['rss'] - before['rss']) / max(known, 1):.0f} bytes each), {done.rate:,.0f} lookups/s"
        )
        value = after["rss"] / MIB
        yield Result("memory", "memory of the daemon", "MiB", 500, value, mount=value, most=True, note=note)
