"""Rows read from files that are completely cached: page cache warm, and dropped; names and attributes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from report import Pairs, Result, compare, take
from rig import CHECK_SECONDS, MIB, SMALL, Rig, Sample
from support.mount import Daemon


@dataclass(frozen=True)
class Side:
    """One of the two trees: the source directory, or the mount (with its daemon)."""

    name: str
    root: Path
    daemon: Daemon | None


Args = Callable[[Rig, Side], list[object]]


@dataclass(frozen=True)
class Load:
    """A row: what reader.c does on one side, and in which state of the page cache.

    ``dropped``: dropped before each sample. Else dropped and then read once by both sides, anew each round:
    how the kernel lays pages and names out in memory (folio sizes, huge pages, hash chains) depends on luck
    and on who brought them in, lasts until they are dropped, and moves the rates by a third.
    """

    key: str
    title: str
    unit: str
    goal: float | None
    args: Args
    warm_up: Args | None = None  # before a warm sample; None: the load itself
    dropped: bool = False


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
    Load("warm-seq", "sequential", "MB/s", 0.95, _SCAN),
    Load("warm-rand4k", "random 4 KiB", "/s", 0.95, _rand(4096, "rand_warm"), _SCAN),
    Load("warm-rand64k", "random 64 KiB", "/s", 0.95, _rand(65536, "rand64_warm"), _SCAN),
    Load("warm-mmap", "mmap scan", "MB/s", 0.95, _big("mmap"), _SCAN),
    Load("warm-small", "small files", "/s", 0.55, _SMALL),
    Load("warm-stat", "stat of known names", "/s", 0.9, _listed("stat", "stat")),
    Load("warm-readdir", "readdir with stat", "/s", 0.5, _names),
    Load("dropped-seq", "sequential", "MB/s", 0.95, _SCAN, dropped=True),
    Load("dropped-rand4k", "random 4 KiB", "/s", 0.95, _rand(4096, "rand_dropped"), dropped=True),
    Load("dropped-rand64k", "random 64 KiB", "/s", 0.95, _rand(65536, "rand64_dropped"), dropped=True),
    Load("dropped-mmap", "mmap scan", "MB/s", 0.95, _big("mmap"), dropped=True),
    Load("dropped-small", "small files", "/s", 0.85, _SMALL, dropped=True),
    Load("dropped-small-shuffled", "small files, a new order each time", "/s", None, _SMALL, dropped=True),
]


def measure(rig: Rig, load: Load, native: Side, mount: Side) -> Pairs:
    """Interleaved samples; the order of the two changes each round, so that a drift favours neither."""
    sides = {"native": native, "mount": mount}

    def one(number: int) -> tuple[Sample, Sample]:
        got = {}
        if not load.dropped:
            rig.drop()
            # In turn, too: who is first finds memory less broken up.
            for name in sorted(sides, reverse=number // 2 % 2 == 0):
                for args in (load.warm_up or load.args, load.args):
                    rig.sample(None, *args(rig, sides[name]))
            time.sleep(CHECK_SECONDS)
            rig.sample(None, *load.args(rig, native))  # a processor that slept is slow at first
        for name in sorted(sides, reverse=number % 2 == 0):
            if load.dropped:
                rig.drop()
            if load.key.endswith("-shuffled"):
                rig.shuffle(f"small.{name}", number)
            got[name] = rig.sample(sides[name].daemon, *load.args(rig, sides[name]))
        return got["native"], got["mount"]

    return take(rig.sizes.rounds if load.dropped else rig.sizes.rounds_short, one)


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
