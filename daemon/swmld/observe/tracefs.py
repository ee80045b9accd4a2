"""tracefs: where the kernel describes its tracepoints, for probes that are attached by name."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

from swmld.errors import HostError
from swmld.mount import mountpoint

PLACES = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
FILESYSTEMS = Path("/proc/filesystems")

# unshare(2) and mount(2), from linux/sched.h and linux/mount.h. Python has os.unshare from 3.12 on.
_CLONE_NEWNS = 0x20000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 2, 4, 8, 1 << 14, 1 << 18


def mounted(places: tuple[Path, ...] = PLACES) -> Path | None:
    """Where this process sees tracefs; None if nowhere."""
    return next((place for place in places if (place / "events").is_dir()), None)


def available(filesystems: Path = FILESYSTEMS) -> bool:
    """Whether this kernel has tracefs, mounted or not."""
    try:
        return "tracefs" in filesystems.read_text().split()
    except OSError:
        return False


def ensure(places: tuple[Path, ...] = PLACES) -> Path:
    """Where tracefs is; mounted for the calling thread alone if it is not there.

    For short-lived processes with one thread: the mount lies in a mount namespace that ends with the process,
    and what the host mounts later does not come into it. Raises HostError in one line.
    """
    place = mounted(places)
    if place is not None:
        return place
    if not available():
        raise HostError("this kernel has no tracefs: it was built without CONFIG_TRACING")
    place = places[0]
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.unshare(_CLONE_NEWNS), "unshare")
    # Else the mount would spread to where the namespace was copied from.
    _check(libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None), "make / private")
    _let_go()
    flags = ctypes.c_ulong(_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    _check(libc.mount(b"tracefs", os.fsencode(place), b"tracefs", flags, None), f"mount on {place}")
    return place


def _let_go() -> None:
    """A copy of a FUSE mount keeps the mount alive: unmounted where people see it, its daemon would wait for
    this process to end."""
    for each in reversed(mountpoint.mounts()):
        if each.fstype.startswith("fuse"):
            with contextlib.suppress(OSError):
                mountpoint.unmount(Path(os.fsdecode(each.path)), mountpoint.MNT_DETACH)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise HostError(f"cannot mount tracefs: {what}: {os.strerror(number)}")
