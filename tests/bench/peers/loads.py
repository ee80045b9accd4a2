"""The rows: what is done to each freshly mounted peer, and what its ratios are to.

A visit mounts a peer with an empty cache and does one group of loads in order, so that a later one finds what
an earlier one left. Visits of all peers (and of what they are compared with) alternate within a round. What a
visit leaves on the disk stays there until the run ends (room.py).
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mounts import Mounted, Peer, pause
from rig import CHECK_SECONDS, MIB, READER_SECONDS, Rig, Sample
from room import leave
from stock import Stock

READERS = 4
RAW, STORED, NATIVE = "raw", "stored", "native"
REFERENCES = (RAW, STORED, NATIVE)
"""Sides that are no peers: plain GETs; these with a copy on the local disk (stored.c); the local disk's own
file system. The last two bound what a mount with a cache can reach on the machine."""

RAW_CONNECTIONS = (4, 16)
"""Both are tried in every round, the faster counts: a server has a number of requests it likes best."""

DELAY_MS = 20.0
RATE = 100e6  # bytes a second of the line of slow-seq


@dataclass(frozen=True)
class Row:
    """``unit``: "MB/s", "/s" or "MiB" (then less is better). ``goal``: of swmld's ratio to the best peer;
    ``raw_goal``: to the raw load, or to the line's rate."""

    key: str
    group: str
    title: str
    unit: str
    goal: float | None = None
    raw_goal: float | None = None


ROWS = [
    Row("cold-seq", "seq", "one file, one reader, nothing cached", "MB/s", 1.0, 0.9),
    Row("dropped-seq", "seq", "again, page cache dropped", "MB/s", 3.0),
    Row("warm-seq", "seq", "again, page cache warm", "MB/s", 3.0),
    Row("warm-rand64k", "seq", "random 64 KiB, page cache warm", "/s", 3.0),
    Row("dropped-rand64k", "seq", "random 64 KiB, page cache dropped", "/s", 3.0),
    Row("memory-seq", "seq", "resident after these", "MiB", 0.5),
    Row("cold-small", "small", f"small files, {READERS} readers, nothing cached", "/s", 1.0, 0.9),
    Row("dropped-small", "small", "again, page cache and names dropped", "/s", 3.0),
    Row("warm-small", "small", "again, page cache warm", "/s", 3.0),
    Row("memory-small", "small", "resident after these", "MiB", 0.5),
    Row("cold-list", "names", "readdir with lstat of a directory, first time", "/s", 1.0),
    Row("again-list", "names", "again", "/s"),
    Row("again-stat", "names", "lstat of its names", "/s"),
    Row("dropped-stat", "names", "again, the kernel's names dropped", "/s"),
    Row("memory-names", "names", "resident after these", "MiB", 0.5),
    Row("checkpoint", "write", "1 MiB writes of a new file and fsync", "MB/s", 1.0),
    Row("checkpoint-back", "back", "the same with --write back", "MB/s", None, 0.8),
    Row("slow-seq", "slow-seq", f"cold-seq, {DELAY_MS:g} ms more, {RATE / 1e6:g} MB/s", "MB/s", 1.0, 0.9),
    Row("slow-small", "slow-small", f"cold-small, {DELAY_MS:g} ms more", "/s", 5.0),
    Row("slow-list", "slow-names", f"cold-list, {DELAY_MS:g} ms more", "/s"),
]
ALONGSIDE = {
    "seq": REFERENCES,
    "small": REFERENCES,
    "write": (RAW,),
    "back": (RAW,),
    "slow-seq": (RAW,),
    "slow-small": (RAW,),
}
"""What a group's peers are compared with, besides each other."""

Tell = Callable[[str, Sample], None]
BACK = ("--write", "back")
"""Options of swmld for the rows of the group "back", in which it is alone."""


@dataclass
class Taken:
    """Samples by row and side (of ``REFERENCES`` or a peer's name), one a round; memory in bytes instead of
    samples."""

    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)

    def add(self, row: str, side: str, sample: Sample) -> None:
        self.samples.setdefault(row, {}).setdefault(side, []).append(sample)


@dataclass
class Bench:
    """What a visit needs."""

    rig: Rig
    stock: Stock
    raw: Path
    stored: Path
    taken: Taken
    inside: Sequence[str] = ()
    """A command that runs another one at the far end of the slow line."""
    emptied: bool = False
    """Whether files that a visit leaves are emptied."""

    def visit(self, peer: Peer, group: str, number: int) -> None:
        """One peer, one group of rows, all its samples."""
        do = VISITS[group.removeprefix("slow-")]
        base = self.rig.base / f"{peer.name}-{group}-{number}"
        if group == "back":
            peer = replace(peer, options=BACK)
        with peer.mounted(base, self.inside) as found:
            prefix = "slow" if group.startswith("slow-") else ""
            do(self, found, self._tell(peer.name), prefix)
        leave(base, self.emptied)

    def refer(self, side: str, group: str, number: int) -> None:
        """One side of ``REFERENCES``, all its samples of a group."""
        kind = group.removeprefix("slow-")
        cold = f"{'slow' if self.inside else 'cold'}-{kind}"
        if side == NATIVE:
            AGAIN[kind](self, self.stock.files, self._tell(NATIVE))
        elif kind in ("write", "back"):
            saved = self.save(self.rig.base / "save")
            self.taken.add("checkpoint" if kind == "write" else "checkpoint-back", RAW, saved)
        else:
            requests, readers, counted = (
                (self.stock.raw_big, 1, "bytes")
                if kind == "seq"
                else (self.stock.raw_small, READERS, "requests")
            )
            if side == RAW:
                tried = [self._program(self.raw, requests, n, counted) for n in RAW_CONNECTIONS]
            else:
                tried = []
                for n in RAW_CONNECTIONS:
                    place = self.rig.directory(f"stored-{group}-{number}-{n}")
                    tried.append(self._program(self.stored, requests, place, n, readers, counted))
                    leave(place, self.emptied)
            self.taken.add(cold, side, max(tried, key=lambda sample: sample.rate))

    def _tell(self, side: str) -> Tell:
        return lambda row, sample: self.taken.add(row, side, sample)

    def load(self, *args: object) -> Sample:
        """One pass of reader.c."""
        return self.rig.sample(None, *args)

    def dropped(self, *args: object) -> Sample:
        """The same after all the kernel's caches were dropped, the servers' files included."""
        pause(CHECK_SECONDS)
        self.rig.drop()
        return self.load(*args)

    def save(self, file: Path) -> Sample:
        """A checkpoint: as much as the large file has, written, synced and removed."""
        self.rig.settle()
        taken = self.load("write", file, self.rig.sizes.cold, 1)
        file.unlink()
        return taken

    def _program(self, program: Path, *args: object) -> Sample:
        """One run of raw.c or stored.c, nothing in the page cache."""
        self.rig.drop()
        argv = [*self.inside, str(program), *map(str, args)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=READER_SECONDS, check=False)
        if done.returncode:
            raise RuntimeError(f"{program.name}: {done.stderr.strip()}")
        count, seconds = done.stdout.split()
        return Sample(float(count), float(seconds))


def _memory(found: Mounted, row: str, tell: Tell) -> None:
    tell(row, Sample(found.resident(), 1.0, requests={"cache bytes": found.cached()}))


def _seq(bench: Bench, found: Mounted, tell: Tell, prefix: str) -> None:
    big = found.path / "big"
    tell(f"{prefix or 'cold'}-seq", bench.dropped("seq", big, MIB))
    if prefix:
        return
    _seq_again(bench, found.path, tell)
    _memory(found, "memory-seq", tell)


def _seq_again(bench: Bench, root: Path, tell: Tell) -> None:
    big = root / "big"
    tell("dropped-seq", bench.dropped("seq", big, MIB))
    tell("warm-seq", bench.load("seq", big, MIB))
    tell("warm-rand64k", bench.load("rand", big, 65536, bench.rig.sizes.rand64_warm))
    tell("dropped-rand64k", bench.dropped("rand", big, 65536, bench.rig.sizes.rand64_dropped))


def _small(bench: Bench, found: Mounted, tell: Tell, prefix: str) -> None:
    tell(f"{prefix or 'cold'}-small", bench.dropped(*_small_files(bench, found.path)))
    if prefix:
        return
    _small_again(bench, found.path, tell)
    _memory(found, "memory-small", tell)


def _small_again(bench: Bench, root: Path, tell: Tell) -> None:
    args = _small_files(bench, root)
    tell("dropped-small", bench.dropped(*args))
    tell("warm-small", bench.load(*args))


def _small_files(bench: Bench, root: Path) -> tuple[object, ...]:
    return "files", bench.rig.list_of("small", root, bench.stock.small), READERS


def _names(bench: Bench, found: Mounted, tell: Tell, prefix: str) -> None:
    directory = found.path / "many/d0000"
    tell(f"{prefix or 'cold'}-list", bench.dropped("list", directory))
    if prefix:
        return
    tell("again-list", bench.load("list", directory))
    listed = bench.rig.list_of("many", found.path, bench.stock.many)
    tell("again-stat", bench.load("stat", listed))
    tell("dropped-stat", bench.dropped("stat", listed))
    _memory(found, "memory-names", tell)


def _write(bench: Bench, found: Mounted, tell: Tell, _: str) -> None:
    tell("checkpoint", bench.save(found.path / f"save-{found.process.pid}"))


def _back(bench: Bench, found: Mounted, tell: Tell, _: str) -> None:
    tell("checkpoint-back", bench.save(found.path / f"save-{found.process.pid}"))


VISITS = {"seq": _seq, "small": _small, "names": _names, "write": _write, "back": _back}
AGAIN = {"seq": _seq_again, "small": _small_again}
"""Rows that the local disk's own file system has as well."""


def group_of(bench: Bench, group: str, peers: Sequence[Peer], rounds: int) -> None:
    """All rounds of a group; each round in another order, so that a drift of the machine favours nobody."""
    order = random.Random(group)
    sides: list[Peer | str] = [*peers, *ALONGSIDE.get(group, ())]
    for number in range(rounds):
        for side in order.sample(sides, len(sides)):
            if isinstance(side, str):
                bench.refer(side, group, number)
            elif group != "back" or side.name == "swmld":
                bench.visit(side, group, number)
