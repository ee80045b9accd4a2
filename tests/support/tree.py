"""The directory a file system test works in: seen through a mount, or on the disk itself.

``SWMLD_TEST_BACKEND=native`` runs every such test on a plain directory: what a test asserts of the mount
must be true of the disk's own file system. ``SWMLD_TEST_MODES`` (default ``passthrough,native,python``) picks
the modes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support import gates, posix
from support.mount import MODES, Daemon

DISK = "disk"


def modes() -> list[str]:
    """Parameters of the mount fixtures."""
    if os.environ.get("SWMLD_TEST_BACKEND") == "native":
        return [DISK]
    return os.environ.get("SWMLD_TEST_MODES", ",".join(MODES)).split(",")


def require_mode(mode: str) -> None:
    gates.require("root")
    if mode != DISK:
        gates.require("fuse")
    if mode == "passthrough":
        gates.require("passthrough")


@dataclass(frozen=True)
class Tree:
    """``path`` is where a test works, ``source`` that directory behind the mount (on a disk: ``path``)."""

    path: Path
    source: Path
    mode: str
    daemon: Daemon | None

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def settle(self) -> None:
        """Let what was written so far grow old enough to be cached.

        A file is not cached while another change of it could hide in the same tick of the file system's
        clock; the limit is one of time (RACY_NS in swmld.mount.loading): there is no event to wait for.
        """
        if self.daemon is not None:
            time.sleep(0.06)

    def cached_bytes(self, name: str) -> int | None:
        """What the cache holds of this file; None where there is no cache."""
        if self.daemon is None:
            return None
        return self.daemon.cached_bytes(str((self.path / name).relative_to(self.daemon.mount)))

    @property
    def mounted(self) -> bool:
        return self.daemon is not None


@contextlib.contextmanager
def work_dir(prefix: str = "swmld-test-") -> Iterator[Path]:
    """A directory that every user can enter; removed afterwards unless something is still mounted in it."""
    # Resolved, since mount tables hold real paths; short, since Unix sockets allow 107 bytes.
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=os.environ.get("SWMLD_TEST_DIR"))).resolve()
    path.chmod(0o755)
    try:
        yield path
    finally:
        left = [point for point in posix.mounts() if Path(point).is_relative_to(path)]
        for point in sorted(left, reverse=True):
            with contextlib.suppress(OSError):
                posix.umount(point)
        shutil.rmtree(path, ignore_errors=True)
        assert not left, f"mounts left behind: {left}"


@contextlib.contextmanager
def backend(mode: str, base: Path, **daemon: object) -> Iterator[Tree]:
    """A tree of its own in one mode; ``daemon`` are further arguments of Daemon."""
    if mode == DISK:
        (base / "mnt").mkdir(exist_ok=True)
        (base / "mnt").chmod(0o755)
        yield Tree(base / "mnt", base / "mnt", mode, None)
        return
    with Daemon(base, mode, **daemon) as running:  # type: ignore[arg-type]
        yield Tree(running.mount, running.source, mode, running)
