"""One daemon with probes for each module and mode; each test has a directory of its own in it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import gates, kernel, posix, tree
from support.mount import MODES, Daemon
from support.probes import QUICK, Lab, Watched, probing

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory for daemons with the same probes: the first one compiles them, the others load what
    it kept, which counts the same (test_bpf_kept)."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module", params=MODES)
def watched(request: pytest.FixtureRequest, compiled: Path) -> Iterator[Watched]:
    """In each serving mode: a daemon whose probes are attached, and what it says."""
    gates.require("bpf")
    tree.require_mode(request.param)
    with (
        tree.work_dir() as base,
        Daemon(base, request.param, options=probing(base, state=compiled), wrap=QUICK) as daemon,
        Watched(daemon) as seen,
    ):
        yield seen
        assert seen.snapshot()["probe"]["lost"] == {"events": 0, "cursors": 0, "processes": 0}
        assert seen.lost == 0


@pytest.fixture
def lab(watched: Watched) -> Iterator[Lab]:
    """A directory of the test's own; the daemon is shared."""
    yield Lab(watched, f"t{next(_numbers)}")
    watched.daemon.check_log()


@pytest.fixture
def quick(base: Path) -> Callable[..., Daemon]:
    """Make a daemon of the test's own, with probes unless told; arguments are those of Daemon."""
    gates.require("fuse", "passthrough")

    def make(name: str = "own", mode: str = "passthrough", probe: str = "ebpf") -> Daemon:
        place = base / name
        place.mkdir()
        return Daemon(place, mode, options=probing(place, probe), wrap=QUICK)

    return make


@pytest.fixture
def nothing_stays() -> Iterator[None]:
    """What is new after the test belongs to a living process: another daemon on this machine."""
    before, mounts = kernel.in_kernel(), posix.mounts()
    yield
    deadline = time.monotonic() + kernel.GONE
    while left := kernel.in_kernel() - before - kernel.held(*kernel.pids()):
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.05)
    assert [place for place, kind in posix.mount_list() if kind == "tracefs" and place not in mounts] == []
