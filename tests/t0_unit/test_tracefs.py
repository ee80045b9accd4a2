"""tracefs where it is, else in a mount namespace that ends with its process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.slowfs import SlowFs
from swmld.errors import HostError
from swmld.observe import tracefs

# Mounts where nothing is, in a namespace of its own, and says what is there and whether the thread moved.
CHILD = """
import os, sys
from pathlib import Path
from swmld.observe import tracefs
before = os.readlink("/proc/self/ns/mnt")
place = tracefs.ensure((Path(sys.argv[1]),))
print(place, (place / "events/sched/sched_switch/id").read_text().strip().isdigit())
print(os.readlink("/proc/self/ns/mnt") != before, tracefs.ensure((place,)) == place)
print(" - fuse" in Path("/proc/self/mountinfo").read_text())
"""


def run(place: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(place)], capture_output=True, text=True, timeout=60, check=False
    )


def mounts_below(path: Path) -> list[str]:
    """Lines of mountinfo; other tests mount elsewhere at the same time."""
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(path) in line]


def test_what_is_mounted_is_taken(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    assert tracefs.mounted((first, second)) is None
    (second / "events").mkdir(parents=True)
    assert tracefs.ensure((first, second)) == second
    (first / "events").mkdir(parents=True)
    assert tracefs.ensure((first, second)) == first


def test_whether_the_kernel_has_it(tmp_path: Path) -> None:
    filesystems = tmp_path / "filesystems"
    assert not tracefs.available(filesystems)
    filesystems.write_text("nodev\tsysfs\nnodev\tdebugfs\n\text4\n")
    assert not tracefs.available(filesystems)
    filesystems.write_text("nodev\tsysfs\nnodev\ttracefs\n")
    assert tracefs.available(filesystems)


def test_a_kernel_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tracefs, "available", lambda: False)
    with pytest.raises(HostError, match="CONFIG_TRACING"):
        tracefs.ensure((tmp_path,))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
@pytest.mark.skipif(not tracefs.available(), reason="this kernel has no tracefs")
def test_a_private_mount_that_nobody_else_sees(tmp_path: Path) -> None:
    # A tree that spreads its mounts, as systemd makes / on most hosts: there the mount must not show up.
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], check=True, timeout=60)
    try:
        subprocess.run(["mount", "--make-rshared", str(tmp_path)], check=True, timeout=60)
        place = tmp_path / "tracing"
        place.mkdir()
        (tmp_path / "backing").mkdir()
        # A FUSE mount beside it, which the namespace must not keep alive.
        with SlowFs(tmp_path / "fuse", tmp_path / "backing"):
            before = mounts_below(tmp_path)
            assert any(" - fuse" in line for line in before)
            done = run(place)
            assert (done.stdout.split(), done.stderr) == ([str(place), "True", "True", "True", "False"], "")
            assert mounts_below(tmp_path) == before
        assert not any(place.iterdir())
    finally:
        subprocess.run(["umount", "-R", str(tmp_path)], check=True, timeout=60)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
@pytest.mark.skipif(not tracefs.available(), reason="this kernel has no tracefs")
def test_a_mount_that_is_refused_is_one_line(tmp_path: Path) -> None:
    done = run(tmp_path / "gone")
    line = done.stderr.strip().splitlines()[-1]
    assert line == (
        f"swmld.errors.HostError: cannot mount tracefs: mount on {tmp_path}/gone: No such file or directory"
    )
