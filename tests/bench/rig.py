"""The rig of the benchmarks: where files lie, who reads them, what state the page cache is in.

Two sides are compared: ``native`` is the source directory on the disk's own file system, ``mount`` the same
names through the mount. The load is ``reader.c`` in a process of its own for each sample, so a sample starts
with no descriptor, no mapping and no warmed heap.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from support import gates
from support.mount import Daemon
from support.slowfs import compile_c

MIB = 1 << 20
SMALL = 110 << 10  # bytes of a small file: an ImageNet photo on average
PER_DIR = 1000  # small files in a directory, about an ImageNet class
READER_SECONDS = 900  # a single sample that takes longer is a hang
TICK_SECONDS = 0.06  # files younger than this are not cached yet (RACY_NS in swmld.mount.loading)
# Longer than --check-interval: each open of a warm row looks at the source, as one a minute later would.
CHECK_SECONDS = 1.05


@dataclass(frozen=True)
class Sizes:
    """How much a run reads; ``--quick`` takes the small ones."""

    big: int = 1 << 30
    rand_warm: int = 200_000
    rand_dropped: int = 20_000
    rand64_warm: int = 30_000
    rand64_dropped: int = 6_000
    small: int = 3_000
    small_many: int = 100_000
    stat: int = 100_000
    checkpoint: int = 2 << 30
    cold: int = 1 << 30
    cold_small: int = 1_000
    rule_files: int = 20_000
    memory: int = 1_000_000
    index: int = 1_000_000
    # Even, so that each side goes first as often as the other; MORE times as many where they disagree.
    rounds: int = 4
    rounds_short: int = 6  # of rows that take less than a second
    rounds_fine: int = 16  # of rows about some per cent; twice as many where that cannot be told


QUICK = Sizes(
    big=256 * MIB,
    rand_warm=50_000,
    rand_dropped=4_000,
    rand64_warm=10_000,
    rand64_dropped=1_500,
    small=1_000,
    small_many=5_000,
    stat=20_000,
    checkpoint=256 * MIB,
    cold=256 * MIB,
    cold_small=200,
    rule_files=1_000,
    memory=20_000,
    index=20_000,
    rounds=1,
    rounds_short=2,
    rounds_fine=2,
)


@dataclass
class Sample:
    """One timed pass: what was done (bytes or operations) in how many seconds; the daemon's share of it."""

    count: float
    seconds: float
    daemon_cpu: float = 0.0  # seconds of CPU time, all threads
    requests: dict[str, float] = field(default_factory=dict)  # counters of the daemon that moved

    @property
    def rate(self) -> float:
        """Bytes or operations a second."""
        return self.count / self.seconds


class Rig:
    """One base directory on the disk under test; everything a row makes lies below it."""

    def __init__(
        self, base: Path, mode: str, sizes: Sizes, nice: int = 0, options: Sequence[str] = ()
    ) -> None:
        gates.require("root", "fuse")
        if mode == "passthrough":
            gates.require("passthrough")
        self.base, self.mode, self.sizes, self.nice = base, mode, sizes, nice
        self.options = options
        self.reader = compile_c(Path(__file__).with_name("reader.c"))

    # --- files ---

    def directory(self, name: str) -> Path:
        path = self.base / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def make(self, directory: Path, count: int, size: int, per_dir: int = PER_DIR) -> list[str]:
        """``count`` files of ``size`` random bytes, ``per_dir`` to a directory; names below ``directory``."""
        names = []
        for first in range(0, count, per_dir):
            sub = directory / f"d{first // per_dir:04d}"
            sub.mkdir(parents=True)
            here = min(per_dir, count - first)
            self._reader("make", sub, first, here, size)
            names += [f"{sub.name}/f{n:07d}" for n in range(first, first + here)]
        return names

    def make_big(self, path: Path, size: int) -> None:
        """One file of ``size`` bytes that do not compress."""
        path.parent.mkdir(parents=True, exist_ok=True)
        block = os.urandom(16 * MIB)
        with path.open("wb") as file:
            for _ in range(0, size, len(block)):
                file.write(block)

    def list_of(self, name: str, root: Path, names: list[str]) -> Path:
        """A file with one full path a line, as reader.c takes it."""
        path = self.base / f"{name}.list"
        path.write_text("".join(f"{root}/{line}\n" for line in names))
        return path

    def shuffle(self, name: str, seed: int) -> None:
        """Another order of what ``list_of`` made."""
        path = self.base / f"{name}.list"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(random.Random(seed).sample(lines, len(lines))))

    def settle(self) -> None:
        """All that was written is on the disk and old enough to be cached (a limit of time, no event)."""
        os.sync()
        time.sleep(TICK_SECONDS)

    def drop(self) -> None:
        """Page cache, names and inodes of the kernel: as after a boot."""
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")

    # --- load ---

    def _reader(self, *args: object) -> tuple[float, float]:
        argv = ["nice", "-n", str(self.nice), str(self.reader), *map(str, args)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=READER_SECONDS, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"reader {argv[4:]}: {done.stderr.strip()}")
        count, seconds = done.stdout.split()[-2:]
        return float(count), float(seconds)

    def sample(self, daemon: Daemon | None, *args: object) -> Sample:
        """One pass of reader.c; with a daemon, what it did meanwhile."""
        if daemon is None:
            return Sample(*self._reader(*args))
        before, cpu = counters(daemon), cpu_seconds(daemon.pid)
        count, seconds = self._reader(*args)
        spent = cpu_seconds(daemon.pid) - cpu
        after = counters(daemon)
        moved = {key: after[key] - before[key] for key in after if after[key] != before[key]}
        return Sample(count, seconds, spent, moved)

    # --- daemon ---

    @contextlib.contextmanager
    def serve(
        self, name: str, source: Path, options: list[str] | None = None, cache: Path | None = None
    ) -> Iterator[Daemon]:
        """A daemon of this run's mode that serves ``source``; its cache and log lie in ``base/name``."""
        base = self.directory(name)
        expected = ["source_slow"]
        daemon = Daemon(
            base,
            self.mode,
            source=source,
            cache=cache,
            options=[*self.options, *(options or [])],
            expect_log=expected,
        )
        with daemon:
            for task in Path(f"/proc/{daemon.pid}/task").iterdir():  # threads that come later inherit it
                os.setpriority(os.PRIO_PROCESS, int(task.name), self.nice)
            yield daemon


_COUNTED = ("swmld_opens_total", "swmld_reads_total", "swmld_requests_total", "swmld_fetches_total")


def counters(daemon: Daemon) -> dict[str, float]:
    """The daemon's counters of opens, reads, requests and fetches, by ``name label``."""
    out = {}
    for key, value in daemon.metrics().items():
        name, _, labels = key.partition("{")
        if name in _COUNTED:
            values = [part.partition("=")[2].strip('"') for part in labels.rstrip("}").split(",")]
            out[f"{name.removeprefix('swmld_').removesuffix('_total')} {' '.join(values)}"] = value
    return out


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, all threads: its CPU clock (clock_getcpuclockid(3)), since
    /proc/PID/stat tells in ticks of 10 ms."""
    return time.clock_gettime(~pid << 3 | 2)


def memory(pid: int) -> dict[str, int]:
    """Resident and proportional set size of a process, in bytes (smaps_rollup)."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        key, value = line.split()[:2]
        if key in ("Rss:", "Pss:", "Private_Dirty:"):
            found[key.rstrip(":").lower()] = int(value) << 10
    return found
