"""A file system with a directory whose quota runs out long before its disk does.

It is btrfs, whose quotas bind root, too (ext4 lets CAP_SYS_RESOURCE pass), and of which statvfs(2) tells
nothing: writers learn from EDQUOT alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from support import posix

IMAGE_BYTES = 256 << 20
TOOLS = ("mkfs.btrfs", "btrfs", "mount", "losetup")


@contextlib.contextmanager
def quota_disk(base: Path, limit: str) -> Iterator[Path]:
    """A directory below ``base`` that holds ``limit`` (as ``btrfs qgroup limit`` takes it). OSError where it
    cannot be made."""
    image, disk = base / "quota.img", base / "quota"
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    _run("mkfs.btrfs", "-q", "-M", image)
    disk.mkdir()
    _run("mount", "-o", "loop", image, disk)  # the loop device goes with the mount
    try:
        _run("btrfs", "quota", "enable", disk)
        _run("btrfs", "subvolume", "create", disk / "limited")
        _run("btrfs", "qgroup", "limit", limit, disk / "limited")
        yield disk / "limited"
    finally:
        posix.umount(disk)
        image.unlink()


def set_limit(directory: Path, limit: str) -> None:
    """Another one for a directory of ``quota_disk``; ``none``: there is none."""
    _run("btrfs", "qgroup", "limit", limit, directory)


def why_missing(base: Path) -> str | None:
    """Why this host cannot do it, or None; found by trying."""
    for tool in TOOLS:
        if shutil.which(tool) is None:
            return f"{tool} is not installed (btrfs-progs)"
    try:
        with quota_disk(base, "16M") as directory, (directory / "file").open("wb") as file:
            file.write(bytes(32 << 20))
            os.fsync(file.fileno())
    except OSError as error:
        return None if error.errno == errno.EDQUOT else str(error)
    return "a quota on btrfs is not kept"


def _run(*argv: str | Path) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, argv))}: {done.stderr.strip()}")
