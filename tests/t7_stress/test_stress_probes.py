"""Ten minutes of fifty readers, each in its own way, again and again: the observer's memory stays flat, and
every read is counted.

With --stress; SWMLD_SOAK_SECONDS makes it shorter or longer. It goes on until each reader has done its share,
and what is compared is memory by reads done, not by the clock: on a busy machine it takes longer, and checks
the same.
"""

from __future__ import annotations

import itertools
import mmap
import os
import random
import struct
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from support import posix
from support.mount import Daemon
from support.probes import LIMIT, Watched

pytestmark = [pytest.mark.stress, pytest.mark.timeout(3600)]

SECONDS = int(os.environ.get("SWMLD_SOAK_SECONDS", "600"))
READERS = 50
ROUNDS = 20
"""Of each reader, at least."""
SAMPLES = 60
PAGE = 4096
GROWTH = 1.15
"""Of memory: most of it in the last sixth of all reads by most of it in the second sixth."""
STARVED = 0.8
"""Of the time between two samples (with these readers alone 0.55): where the daemon waits longer than that
for a CPU, the ring may overflow."""

FENCES = round(2 * LIMIT / 0.1)
"""Reads of ``Watched.settle``, at most."""


class Sample(NamedTuple):
    seconds: float
    resident: float  # MiB
    own: float  # MiB, without files and maps
    reads: int  # made so far
    starved: float  # seconds for which the daemon's loop waited for a CPU so far


class Done:
    """What the readers have done, in memory that they share: rounds, reads, loads through a mapping."""

    _ROW = struct.Struct("qqq")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, PAGE)

    def add(self, reader: int, reads: int, loads: int) -> None:
        rounds, before, loaded = self.of(reader)
        at = reader * self._ROW.size
        self._ROW.pack_into(self._memory, at, rounds + 1, before + reads, loaded + loads)

    def of(self, reader: int) -> tuple[int, int, int]:
        found: tuple[int, int, int] = self._ROW.unpack_from(self._memory, reader * self._ROW.size)
        return found

    def rounds(self) -> int:
        """Of the slowest."""
        return min(self.of(reader)[0] for reader in range(READERS))

    def reads(self) -> int:
        return sum(self.of(reader)[1] for reader in range(READERS))

    def loads(self) -> int:
        return sum(self.of(reader)[2] for reader in range(READERS))

    def end(self) -> None:
        self._memory[-1] = 1

    @property
    def ended(self) -> bool:
        return bool(self._memory[-1])


def sample(pid: int, begun: float, done: Done) -> Sample:
    lines = [line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    sizes = {line[0]: int(line[1]) / 1024 for line in lines if line[0] in ("VmRSS:", "RssAnon:")}
    waited = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    return Sample(time.monotonic() - begun, sizes["VmRSS:"], sizes["RssAnon:"], done.reads(), waited)


# Each returns how many calls of read it made, and loads through a mapping.


def small_files(mount: Path, dice: random.Random) -> tuple[int, int]:
    names = os.listdir(mount / "small")
    dice.shuffle(names)
    for name in names[:200]:
        (mount / "small" / name).read_bytes()
    return 200, 0


def random_pages(mount: Path, dice: random.Random) -> tuple[int, int]:
    with (mount / "big").open("rb", buffering=0) as file:
        for _ in range(500):
            os.pread(file.fileno(), PAGE, dice.randrange(4096) * PAGE)
    return 500, 0


def one_pass(mount: Path, dice: random.Random) -> tuple[int, int]:
    reads = 0
    with (mount / "big").open("rb", buffering=0) as file:
        while file.read(131072):
            reads += 1
    return reads, 0


def mapped(mount: Path, dice: random.Random) -> tuple[int, int]:
    with (mount / "big").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        for _ in range(200):
            view[dice.randrange(len(view))]
    return 0, 200


def forked(mount: Path, dice: random.Random) -> tuple[int, int]:
    seed = dice.random()
    posix.Child(lambda: small_files(mount, random.Random(seed))).wait(120)
    return 200, 0


WORKS = (small_files, random_pages, one_pass, mapped, forked)


def read_on(mount: Path, number: int, done: Done) -> None:
    dice = random.Random(number)
    while not done.ended:
        done.add(number, *WORKS[number % len(WORKS)](mount, dice))
        time.sleep(0.05)  # fifty of them on two cores: the load, not a wait for something


def runs(child: posix.Child) -> bool:
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def part(samples: list[Sample], first: float, last: float) -> list[Sample]:
    """Those taken between these parts of all reads."""
    reads = samples[-1].reads
    return [one for one in samples if first * reads <= one.reads <= last * reads]


def seen_reads(daemon: Daemon) -> int:
    return round(daemon.metric("swmld_seen_reads_total"))


def test_fifty_readers_for_ten_minutes(daemon: Callable[..., Daemon]) -> None:
    one = daemon(options=["--probe", "ebpf", "--probe-rate", "0"])
    (one.source / "small").mkdir()
    for number in range(2000):
        (one.source / "small" / f"{number:05}").write_bytes(os.urandom(5000))
    (one.source / "big").write_bytes(os.urandom(4096 * PAGE))
    with Watched(one):
        pass  # from here on every read is seen
    done, begun = Done(), time.monotonic()
    children = [posix.Child(partial(read_on, one.mount, number, done)) for number in range(READERS)]
    samples = [sample(one.pid, begun, done)]
    while (samples[-1].seconds < SECONDS or done.rounds() < ROUNDS) and all(map(runs, children)):
        time.sleep(SECONDS / SAMPLES)
        samples.append(sample(one.pid, begun, done))
    done.end()
    for child in children:
        child.wait(300)
    said = "\n".join(
        f"{at.seconds:5.0f} s {at.resident:6.1f} MiB, own {at.own:6.1f}, {at.reads:9,} reads, "
        f"{at.starved:6.1f} s without a CPU"
        for at in samples
    )
    print(said)
    early, late = (max(one.resident for one in part(samples, *of)) for of in ((1 / 6, 1 / 3), (5 / 6, 1)))
    assert late <= early * GROWTH, f"{late} MiB resident, {early} after a third of the reads:\n{said}"

    probe = one.call("patterns")["probe"]
    assert probe["how"] == "btf", probe
    made, loads = done.reads(), done.loads()
    with Watched(one) as watched:
        watched.settle()
    seen = seen_reads(one)
    print(f"{made:,} reads and {loads:,} loads made, {seen:,} reads seen, lost: {probe['lost']}")
    pairs = itertools.pairwise(samples)
    starved = max((b.starved - a.starved) / (b.seconds - a.seconds) for a, b in pairs)
    if any(probe["lost"].values()) and starved > STARVED:
        pytest.skip(f"for {starved:.0%} of a time the daemon had no CPU; lost {probe['lost']}")
    assert not any(probe["lost"].values()), f"{probe}\n{said}"
    assert made <= seen <= made + loads + FENCES, f"{seen} reads seen of {made} and {loads} loads"
