"""Rows that need a daemon of their own: 100,000 small files, a partly cached file, checkpoint writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from report import Pairs, Result, compare, take
from rig import MIB, SMALL, Rig, Sample
from support.mount import Daemon

PARTIAL_SHARE = 0.75  # of the file's chunks are in the cache
ROUNDS_MANY = 5  # a round of 100,000 small files takes two minutes


def small_many(rig: Rig, wanted: list[str]) -> Iterator[Result]:
    """100,000 small files (11 GB a side): too many for both sides' pages to stay in memory at once.

    So each side is measured alone: everything is dropped, then one pass is the dropped sample and the pass
    after it the warm one. The sides still take turns, round by round.
    """
    source = rig.directory("small100k/src")
    names = rig.make(source, rig.sizes.small_many, SMALL)
    rig.settle()
    with rig.serve("small100k", source) as daemon:
        daemon.ask("warmup", ".", "--mount", daemon.mount, timeout=1800)
        sides: dict[str, tuple[Daemon | None, Path]] = {
            "native": (None, rig.list_of("small100k.native", source, names)),
            "mount": (daemon, rig.list_of("small100k.mount", daemon.mount, names)),
        }
        states = (
            "dropped-small100k",
            "warm-small100k",
        )  # in this order: the first pass makes the second one warm
        taken: dict[str, Pairs] = {key: [] for key in states}

        def one(number: int) -> tuple[Sample, Sample]:
            got: dict[tuple[str, str], Sample] = {}
            for name in sorted(sides, reverse=number % 2 == 0):
                rig.drop()
                for key in states:
                    got[key, name] = rig.sample(sides[name][0], "files", sides[name][1], 1)
            for key in states:
                taken[key].append((got[key, "native"], got[key, "mount"]))
            return taken[states[-1]][-1]

        take(rig.sizes.rounds, one, most=ROUNDS_MANY)
    for key, goal in (("warm-small100k", 0.55), ("dropped-small100k", 0.85)):
        if key in wanted:
            yield compare(key, f"{len(names)} small files", "/s", goal, taken[key])


def partial(rig: Rig, wanted: list[str]) -> Iterator[Result]:
    """A file whose first three quarters are cached, read up to there.

    ``partial-seq``: the mount's own pages are dropped and the cache file's are warm, so each read is answered
    from the cache file. ``partial-again``: as a second reader finds it. ``partial-dropped``: from the disk.
    """
    source = rig.directory("partial/src")
    rig.make_big(source / "big", rig.sizes.big)
    rig.settle()
    share = int(rig.sizes.big * PARTIAL_SHARE) // (4 * MIB) * 4 * MIB
    with rig.serve("partial", source, ["--readahead-max", "0"]) as daemon:
        native, mount = source / "big", daemon.mount / "big"
        rig.sample(None, "seq", mount, MIB, share)
        if not share <= daemon.cached_bytes("big") < rig.sizes.big:
            raise RuntimeError(f"not partly cached: {daemon.cached_bytes('big')} of {rig.sizes.big} bytes")
        (data,) = (path for path in (daemon.cache / "data").rglob("*") if path.is_file())
        states = {"partial-seq": [native, data], "partial-again": [native, mount], "partial-dropped": []}
        for key, warmed in states.items():
            if key not in wanted:
                continue

            def one(_: int, warmed: list[Path] = warmed) -> tuple[Sample, Sample]:
                rig.drop()
                for path in warmed:
                    rig.sample(None, "seq", path, MIB, share)
                first = rig.sample(None, "seq", native, MIB, share)
                if not warmed:
                    rig.drop()
                return first, rig.sample(daemon, "seq", mount, MIB, share)

            goal = 0.25 if key == "partial-seq" else None
            yield compare(key, "partly cached file", "MB/s", goal, take(rig.sizes.rounds, one))


def checkpoint(rig: Rig, wanted: list[str]) -> Iterator[Result]:
    """One large file in 1 MiB writes; the disk is idle and nothing is dirty before each."""
    source = rig.directory("checkpoint/src")
    with rig.serve("checkpoint", source) as daemon:
        for key, sync in (("checkpoint", 0), ("checkpoint-fsync", 1)):
            if key not in wanted:
                continue

            def one(number: int, sync: int = sync) -> tuple[Sample, Sample]:
                sides: list[tuple[Daemon | None, Path]] = [(None, source), (daemon, daemon.mount)]
                got = {}
                for who, root in sides if number % 2 else reversed(sides):
                    rig.drop()
                    path = root / "checkpoint"
                    got[who is not None] = rig.sample(who, "write", path, rig.sizes.checkpoint, sync)
                    path.unlink()
                return got[False], got[True]

            yield compare(key, "checkpoint write", "MB/s", 0.8, take(rig.sizes.rounds, one))
