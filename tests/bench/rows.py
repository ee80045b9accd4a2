"""Rows read from files that are completely cached: page cache warm, and dropped; names and attributes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatch
from pathlib import Path

from report import Pairs, Result, compare, take
from rig import MIB, SMALL, Rig, Sample
from support.mount import Daemon


@dataclass(frozen=True)
class Side:
    """One of the two trees: the source directory, or the mount (with its daemon)."""

    name: str
    root: Path
    daemon: Daemon | None


Args = Callable[[Rig, Side], list[object]]


class State(Enum):
    """Of the page cache, before a sample.

    Data is warmed anew each round: how the kernel lays pages out in memory (folio sizes, huge pages) depends
    on luck and on who brought them in, lasts until they are dropped, and moves the rates by a third.
    """

    WARM = "dropped, then read once by both sides, each round"
    KEPT = "the same, once: to warm names takes long"
    DROPPED = "dropped before each sample"


@dataclass(frozen=True)
class Load:
    """A row: what reader.c does on one side, and in which state of the page cache."""

    key: str
    title: str
    unit: str
    goal: float | None
    args: Args
    state: State
    warm_up: Args | None = None  # None: the load itself


def _big(what: str, *more: object) -> Args:
    return lambda rig, side: [what, side.root / "big", *more]


def _rand(block: int, count: str) -> Args:
    return lambda rig, side: ["rand", side.root / "big", block, getattr(rig.sizes, count)]


def _listed(what: str, group: str, *more: object) -> Args:
    return lambda rig, side: [what, rig.base / f"{group}.{side.name}.list", *more]


def _names(_: Rig, side: Side) -> list[object]:
    return ["list", side.root / "many/d0000"]


_SCAN = _big("seq", MIB)
_SMALL = _listed("files", "small", 1)
LOADS = [
    Load("warm-seq", "sequential", "MB/s", 0.95, _SCAN, State.WARM),
    Load("warm-rand4k", "random 4 KiB", "/s", 0.95, _rand(4096, "rand_warm"), State.WARM, _SCAN),
    Load("warm-rand64k", "random 64 KiB", "/s", 0.95, _rand(65536, "rand64_warm"), State.WARM, _SCAN),
    Load("warm-mmap", "mmap scan", "MB/s", 0.95, _big("mmap"), State.WARM, _SCAN),
    Load("warm-small", "small files", "/s", 0.55, _SMALL, State.WARM),
    Load("warm-stat", "stat of known names", "/s", 0.9, _listed("stat", "stat"), State.KEPT),
    Load("warm-readdir", "readdir with stat", "/s", 0.5, _names, State.KEPT),
    Load("dropped-seq", "sequential", "MB/s", 0.95, _SCAN, State.DROPPED),
    Load("dropped-rand4k", "random 4 KiB", "/s", 0.95, _rand(4096, "rand_dropped"), State.DROPPED),
    Load("dropped-rand64k", "random 64 KiB", "/s", 0.95, _rand(65536, "rand64_dropped"), State.DROPPED),
    Load("dropped-mmap", "mmap scan", "MB/s", 0.95, _big("mmap"), State.DROPPED),
    Load("dropped-small", "small files", "/s", 0.85, _SMALL, State.DROPPED),
]


def measure(rig: Rig, load: Load, native: Side, mount: Side) -> Pairs:
    """Interleaved samples; the order of the two changes each round, so that a drift favours neither."""
    sides = {"native": native, "mount": mount}

    def one(number: int) -> tuple[Sample, Sample]:
        got = {}
        if load.state is State.WARM or (load.state is State.KEPT and number == 0):
            rig.drop()
            for side in sides.values():
                for args in (load.warm_up or load.args, load.args):
                    rig.sample(None, *args(rig, side))
        for name in sorted(sides, reverse=number % 2 == 0):
            if load.state is State.DROPPED:
                rig.drop()
            got[name] = rig.sample(sides[name].daemon, *load.args(rig, sides[name]))
        return got["native"], got["mount"]

    return take(rig.sizes.rounds if load.state is State.DROPPED else rig.sizes.rounds_short, one)


def cached(rig: Rig, wanted: list[str]) -> Iterator[Result]:
    """Rows on one tree that a warm-up has brought into the cache: a big file, small files, many tiny ones."""
    loads = [load for load in LOADS if load.key in wanted]
    source = rig.directory("cached/src")
    if _any(loads, "*-seq", "*-rand*", "*-mmap"):
        rig.make_big(source / "big", rig.sizes.big)
    lists: dict[str, list[str]] = {}
    if _any(loads, "*-small"):
        lists["small"] = [f"small/{n}" for n in rig.make(source / "small", rig.sizes.small, SMALL)]
    if _any(loads, "warm-stat", "warm-readdir"):
        count = rig.sizes.stat
        lists["stat"] = [f"many/{n}" for n in rig.make(source / "many", count, 0, per_dir=count)]
    rig.settle()
    with rig.serve("cached", source) as daemon:
        native, mount = Side("native", source, None), Side("mount", daemon.mount, daemon)
        for group, names in lists.items():
            for side in (native, mount):
                rig.list_of(f"{group}.{side.name}", side.root, names)
        for name in ("big", "small"):
            if (source / name).exists():
                daemon.ask("warmup", name, "--mount", daemon.mount, timeout=600)
        for load in loads:
            yield compare(load.key, load.title, load.unit, load.goal, measure(rig, load, native, mount))


def _any(loads: list[Load], *patterns: str) -> bool:
    return any(fnmatch(load.key, pattern) for load in loads for pattern in patterns)
