"""Probes are loaded, or it is said why not; whatever ends the daemon, nothing of them stays in the kernel."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from support import gates, kernel, posix
from support.mount import LIVE, Daemon
from support.probes import PAGE, Watched
from support.waiting import until
from support.watchdog import watchdog
from swmld.observe import programs


@pytest.fixture(autouse=True)
def _bpf() -> None:
    gates.require("bpf", "bpftool")


@pytest.mark.parametrize("way", programs.WAYS)
def test_each_way_loads_or_says_why_not(tmp_path: Path, way: str, nothing_stays: None) -> None:
    report = kernel.load(tmp_path, way)
    if not report["way"]:
        assert set(report["tried"]) == {way}
        reason = report["tried"][way]
        assert reason
        assert "\n" not in reason
        if way == programs.WAYS[0]:
            pytest.fail(reason)
        pytest.skip(f"{way}: {reason}")
    assert report["way"] == way
    assert report["tried"] == {}
    assert report["descriptors"] > 7
    assert report["headers"]


def test_auto_takes_the_first_that_works(tmp_path: Path) -> None:
    assert kernel.load(tmp_path, "auto")["way"] == programs.WAYS[0]


def forget(daemon: Daemon) -> None:
    """It has ended by itself."""
    watchdog.unwatch(daemon.pid)
    LIVE.discard(daemon)
    daemon.process = None


def start(daemon: Daemon) -> None:
    """With probes attached: a read is seen."""
    (daemon.source / "file").write_bytes(bytes(2 * PAGE))
    with Watched(daemon) as seen:
        (daemon.mount / "file").read_bytes()
        seen.wait_for(lambda: seen.file("file") is not None, "the read was not seen")


def test_ended_daemon_leaves_nothing(quick: Callable[..., Daemon], nothing_stays: None) -> None:
    with quick() as daemon:
        start(daemon)
        ids = kernel.held(daemon.pid)
        assert {kind for kind, _ in ids} == set(kernel.KINDS)
        assert ids <= kernel.in_kernel()
    kernel.wait_gone(ids)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda number: number.name)
def test_killed_daemon_leaves_nothing(
    quick: Callable[..., Daemon], nothing_stays: None, number: signal.Signals
) -> None:
    daemon = quick()
    with daemon:
        start(daemon)
        ids = kernel.held(daemon.pid)
        assert {kind for kind, _ in ids} == set(kernel.KINDS)
        if number == signal.SIGKILL:
            daemon.kill9()
            posix.umount(daemon.mount)
        else:
            process = daemon.process
            assert process is not None
            process.send_signal(number)
            process.wait(30)
            forget(daemon)
    kernel.wait_gone(ids)


def test_daemon_killed_while_it_loads_leaves_nothing(
    quick: Callable[..., Daemon], nothing_stays: None
) -> None:
    """The loader is in its compiler then; with nobody to hand over to it ends."""
    daemon = quick()
    with daemon:
        children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
        daemon.kill9()
        posix.umount(daemon.mount)
        until(
            lambda: not any(Path(f"/proc/{child}").exists() for child in children),
            f"still there: {children}",
            kernel.GONE,
        )


CHOICES = [("ebpf", "btf"), ("auto", "btf"), ("fuse", "fuse"), ("off", "off")]


@pytest.mark.parametrize(("probe", "how"), CHOICES)
def test_choice(quick: Callable[..., Daemon], probe: str, how: str) -> None:
    with quick(mode="native", probe=probe) as daemon, Watched(daemon, how) as seen:
        assert bool(kernel.held(daemon.pid)) == (how == "btf")
        (daemon.source / "file").write_bytes(bytes(64 * PAGE))
        (daemon.mount / "file").read_bytes()
        if how != "off":
            seen.wait_for(lambda: seen.file("file") is not None, "the read was not seen")
            assert seen.pids("file") == {os.getpid()}
        else:
            seen.snapshot()
            seen.snapshot()
            assert seen.paths() == set()


def test_without_bcc_fuse_is_asked(
    quick: Callable[..., Daemon], base: Path, monkeypatch: pytest.MonkeyPatch, nothing_stays: None
) -> None:
    for name, value in kernel.without_bcc(base).items():
        monkeypatch.setenv(name, value)
    daemon = quick(mode="native", probe="auto")
    daemon.expect_log("no eBPF probes, .*bcc is not installed")
    with daemon, Watched(daemon, "fuse") as seen:
        (daemon.source / "file").write_bytes(bytes(64 * PAGE))
        (daemon.mount / "file").read_bytes()
        seen.wait_for(lambda: seen.file("file") is not None, "the read was not seen")
        seen.wait_for(lambda: "bcc is not installed" in seen.probe()["why"], "it was not said why")
    warnings = [line for line in daemon.log_text().splitlines() if " warning " in line]
    assert len(warnings) == 1


def test_without_bcc_demanded_probes_end_it(
    quick: Callable[..., Daemon], base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in kernel.without_bcc(base).items():
        monkeypatch.setenv(name, value)
    daemon = quick(probe="ebpf")
    try:
        daemon.start()
        process = daemon.process
        assert process is not None
        assert process.wait(30) == 1
        forget(daemon)
    finally:
        if daemon.process is not None:
            daemon.kill9()
            with contextlib.suppress(OSError):
                posix.umount(daemon.mount)
    lines = [line for line in daemon.log_text().splitlines() if "ready" not in line]
    assert len(lines) == 1, lines
    assert "no probes" in lines[0]
    assert "bcc is not installed" in lines[0]
    assert str(daemon.mount) not in posix.mounts()


def test_a_state_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """It is needed where headers are merged; where the running kernel's are there, it is not."""
    (tmp_path / "state").write_text("a file")
    report = kernel.load(tmp_path / "state", "btf")
    if report["way"]:
        assert report["headers"]
    else:
        assert "state" in report["tried"]["btf"]


def test_two_daemons_each_see_their_own_mount(quick: Callable[..., Daemon]) -> None:
    with quick("one") as one, quick("two", "native") as two:
        for daemon in (one, two):
            (daemon.source / f"of-{daemon.base.name}").write_bytes(bytes(8 * PAGE))
        with Watched(one) as first, Watched(two) as second:
            for _ in range(2):
                for daemon in (one, two):
                    (daemon.mount / f"of-{daemon.base.name}").read_bytes()
            first.settle()
            second.settle()
            assert first.paths() == {"of-one"}
            assert second.paths() == {"of-two"}


@pytest.mark.parametrize(
    "flags",
    [("-Xclang", "-no-such-flag"), ("-DSWITCH_STATE=((u32)ctx[99])",)],
    ids=["do not compile", "the kernel refuses one"],
)
def test_flags_that_do_not_serve_are_left_out(tmp_path: Path, base: Path, flags: tuple[str, ...]) -> None:
    """Of another compiler, or another kernel's verifier: the same probes, compiled the slower way."""
    code = f"from swmld.observe import programs\nprograms.QUICKLY = {flags!r}\n"
    report = kernel.load(tmp_path, "btf", **kernel.python(base, code))
    assert (report["way"], report["missing"], report["origin"]) == ("btf", [], "compiled")
