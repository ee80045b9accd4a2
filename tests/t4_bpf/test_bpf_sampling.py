"""A reader so fast that its reads are looked at for a part of the time: what is told of it stays true, and
what comes later is counted exactly again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import gates, kernel, posix, tree
from support.mount import Daemon
from support.probes import PAGE, QUICK, Lab, Watched, probing
from support.slowfs import compile_c
from swmld.patterns.feed import Shape, TouchKind
from swmld.patterns.stream import ESTIMATED

RATE = 5000
"""Reads a second of one CPU: more than the daemon and the test make, fewer than a hammer on a busy host."""

SIZE = 16 << 20


@pytest.fixture(scope="module")
def hammer() -> Path:
    return compile_c(Path(__file__).parents[1] / "support/hammer.c")


@pytest.fixture(scope="module")
def budgeted(compiled: Path) -> Iterator[Watched]:
    """A daemon that looks at so many reads a second, and what it says."""
    gates.require("bpf")
    tree.require_mode("passthrough")
    with (
        tree.work_dir() as base,
        Daemon(base, "passthrough", options=probing(base, state=compiled, rate=RATE), wrap=QUICK) as daemon,
        Watched(daemon) as seen,
    ):
        yield seen
        assert seen.snapshot()["probe"]["lost"] == {"events": 0, "cursors": 0, "processes": 0}


class Hammer:
    """``reads``: how many it made, once it was ended."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.pid, self.reads = process, process.pid, 0

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.reads = int(self.process.communicate()[0])


@contextlib.contextmanager
def hammering(binary: Path, how: str, path: Path, block: int = PAGE) -> Iterator[Hammer]:
    argv = [binary, how, path, str(block)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Hammer(process)
        finally:
            process.kill()


def sampled(seen: Watched) -> None:
    seen.wait_for(lambda: seen.probe()["share"] < 1, "reads are not sampled")


def exact(seen: Watched) -> None:
    seen.wait_for(lambda: seen.probe()["share"] == 1, "reads are not looked at again")


@pytest.mark.parametrize(
    ("how", "block", "kind"),
    [("rand", PAGE, Shape.RANDOM), ("seq", PAGE, Shape.SEQUENTIAL), ("rand", 1 << 16, Shape.RANDOM)],
)
def test_a_fast_reader(budgeted: Watched, hammer: Path, how: str, block: int, kind: Shape) -> None:
    lab = Lab(budgeted, f"{how}{block}")
    lab.make("data", size=SIZE)
    (lab / "data").read_bytes()
    with hammering(hammer, how, lab / "data", block) as fast:
        sampled(budgeted)
        first = budgeted.stream(f"{lab.name}/data", fast.pid).reads
        budgeted.wait_for(
            lambda: budgeted.stream(f"{lab.name}/data", fast.pid).reads > 2 * first, "few reads are told"
        )
        assert budgeted.probe()["share"] <= 0.55
        fast.end()
    exact(budgeted)
    stream = lab.stream("data", fast.pid)
    (cursor,) = stream.cursors
    assert cursor.kind == kind
    assert cursor.missed & ESTIMATED
    assert 0.6 * fast.reads < stream.reads < 1.5 * fast.reads, "more than a busy machine explains"
    assert 0.6 * fast.reads < stream.pages * PAGE / block < 1.5 * fast.reads
    assert stream.cold + stream.partial < stream.reads / 20, "misses of pauses are no misses of these reads"
    assert stream.faults == stream.direct == 0
    if how == "seq":
        assert stream.random == stream.strided == stream.reverse == 0
        assert not {*stream.kinds()} - {TouchKind.FIRST, TouchKind.KIND, TouchKind.WINDOW, TouchKind.PASS}
        assert stream.kinds().count(TouchKind.KIND) == 1
        assert stream.passes <= fast.reads * block / SIZE, "more passes than there were"
    elif block == PAGE:
        assert stream.sequential + stream.reverse + stream.strided < stream.reads / 50
        assert stream.kinds().count(TouchKind.KIND) == 1
    # The next reads are counted one by one: of a file that was not read before, and of this one.
    lab.make("after")
    for name in ("after", "data"):
        argv = ["dd", f"if={lab / name}", "of=/dev/null", "bs=4096", "count=23", "status=none"]
        subprocess.run(argv, check=True)
    budgeted.settle()
    for name in ("after", "data"):
        (pid,) = budgeted.pids(f"{lab.name}/{name}") - {fast.pid, os.getpid()}
        later = budgeted.stream(f"{lab.name}/{name}", pid)
        assert (later.reads, later.pages, later.sequential) == (23, 23, 22)
        assert not later.cursors[0].missed & ESTIMATED


def test_killed_while_reads_are_sampled(base: Path, compiled: Path, hammer: Path) -> None:
    """Whether the program is attached in that moment or not."""
    gates.require("bpf", "bpftool")
    tree.require_mode("passthrough")
    daemon = Daemon(base, "passthrough", options=probing(base, state=compiled, rate=RATE), wrap=QUICK)
    with daemon:
        (daemon.source / "file").write_bytes(bytes(SIZE))
        outside = base / "elsewhere"
        outside.write_bytes(bytes(SIZE))
        with hammering(hammer, "rand", outside), Watched(daemon) as seen:
            sampled(seen)
            probe = daemon.call("health")["probe"]
            assert probe["share"] < 1
            assert (probe["rate"] > RATE, probe["limit"]) == (True, RATE)
            doctor = json.loads(daemon.command("doctor", "--json", timeout=180).stdout)
            (said,) = (one for one in doctor if one["name"] == f"exact counts, {daemon.mount}")
            assert said["works"] is False
            assert daemon.metric("swmld_seen_share") < 1
            seen.wait_for(lambda: daemon.metric("swmld_seen_sampled_seconds_total") > 0, "not counted")
        ours = kernel.held(daemon.pid)
        assert {kind for kind, _ in ours} == {"prog", "map", "link"}
        daemon.kill9()
        posix.umount(daemon.mount)
    kernel.wait_gone(ours)
