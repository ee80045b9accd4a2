"""The mount point: dead mounts cleaned, the source held before it is covered, unmounting."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from swmld.errors import HostError, UsageError
from swmld.sources.counting import SourceStats
from swmld.sources.interface import Attributes, Feature, Source
from swmld.sources.opening import OpenedSource
from swmld.sources.retrying import Again

log = logging.getLogger(__name__)

MNT_FORCE = 1
MNT_DETACH = 2
FSTYPE = "fuse.swmld"
ANSWER_SECONDS = 5.0

LOCAL_TYPES = frozenset(
    {
        *("bcachefs", "btrfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "jfs", "ntfs3", "overlay"),
        *("ramfs", "reiserfs", "squashfs", "tmpfs", "vfat", "xfs", "zfs"),
    }
)
"""File systems whose metadata is on this host: asking them is as fast as asking our own table, and they do
not hang. All others are asked in worker threads, with a time limit."""

_READ_ONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8
_FLAGS = (
    (os.ST_RDONLY, _READ_ONLY), (os.ST_NOSUID, _NOSUID), (os.ST_NODEV, _NODEV), (os.ST_NOEXEC, _NOEXEC)
)  # fmt: skip
"""(statvfs flag, mount(2) flag) that the mount takes over from the source."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class MountInfo:
    """One line of /proc/self/mountinfo (proc(5))."""

    mount_id: int
    device: str
    path: bytes
    fstype: str


def mounts() -> list[MountInfo]:
    """What is mounted, in order; a later entry on the same path covers the earlier."""
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields = line.split(b" ")
        fstype = fields[fields.index(b"-") + 1].decode()
        path = fields[4].replace(b"\\040", b" ").replace(b"\\011", b"\t").replace(b"\\012", b"\n")
        found.append(MountInfo(int(fields[0]), fields[2].decode(), path.replace(b"\\134", b"\\"), fstype))
    return found


def mount_at(path: Path) -> MountInfo | None:
    """The topmost mount whose root is ``path``, without touching it (it may be dead)."""
    where = os.fsencode(os.path.abspath(path))
    return next((m for m in reversed(mounts()) if m.path == where), None)


def unmount(path: Path, flags: int) -> None:
    """umount2(2); OSError."""
    if _libc.umount2(os.fsencode(path), flags) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))


def clean_dead(path: Path) -> None:
    """Removes what a killed daemon left on ``path``. UsageError when a live one serves it."""
    while (found := mount_at(path)) is not None and found.fstype == FSTYPE:
        if not _is_dead(path):
            raise UsageError(f"{path} is already served by swmld")
        log.info("cleaning up the dead mount on %s", path)
        unmount(path, MNT_DETACH)


def _is_dead(path: Path) -> bool:
    """Whether nobody answers for the mount any more. statfs is asked, since the kernel answers stat from what
    it remembers; a live daemon whose source hangs may take longer than we wait, and is not dead."""
    answer: list[int] = []

    def ask() -> None:
        try:
            os.statvfs(path)
        except OSError as error:
            answer.append(error.errno or errno.EIO)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(ANSWER_SECONDS)
    return bool(answer) and answer[0] in (errno.ENOTCONN, errno.ECONNABORTED)


@dataclass(frozen=True, slots=True)
class SourceDirectory:
    """The source's root, held by a descriptor."""

    fd: int
    path: Path
    fstype: str
    mount_flags: int

    remote: None = None
    """It is a directory; see ``RemoteSource``."""

    @property
    def name(self) -> str:
        """For people, and the cache's key."""
        return str(self.path)

    @property
    def read_only(self) -> bool:
        """Whether nothing can be changed through the mount."""
        return bool(self.mount_flags & _READ_ONLY)

    @property
    def local(self) -> bool:
        """Whether its metadata can be asked inline."""
        return self.fstype in LOCAL_TYPES

    @property
    def acl(self) -> bool:
        """Whether it stores POSIX ACLs: found out by asking for one."""
        try:
            os.getxattr(f"/proc/self/fd/{self.fd}", "system.posix_acl_access")
        except OSError as error:
            return error.errno == errno.ENODATA
        return True


def open_source(path: Path, *, read_only: bool) -> SourceDirectory:
    """Holds the source; UsageError when it is no directory that can be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        flags = os.fstatvfs(fd).f_flag
    except OSError as error:
        raise UsageError(f"source {path}: {error.strerror}") from None
    info = Path(f"/proc/self/fdinfo/{fd}").read_text()
    mount_id = int(next(line.split()[1] for line in info.splitlines() if line.startswith("mnt_id:")))
    fstype = next((m.fstype for m in mounts() if m.mount_id == mount_id), "unknown")
    mount_flags = sum(mount for stat_flag, mount in _FLAGS if flags & stat_flag)
    return SourceDirectory(fd, path, fstype, mount_flags | (_READ_ONLY if read_only else 0))


@dataclass(frozen=True, slots=True)
class RemoteSource:
    """A source that is no directory of this host. ``fd`` holds the mount point instead; ``root`` is what the
    source's root was when it was first asked for."""

    fd: int
    remote: Source
    stats: SourceStats
    root: Attributes
    mount_flags: int
    again: Again | None
    """When calls that failed are made again."""
    local: bool = False
    acl: bool = False

    @property
    def read_only(self) -> bool:
        """Whether nothing can be changed through the mount."""
        return bool(self.mount_flags & _READ_ONLY)

    @property
    def name(self) -> str:
        """For people, and the cache's key."""
        return self.remote.name


def hold_remote(found: OpenedSource, root: Attributes, mount: Path, *, read_only: bool) -> RemoteSource:
    """UsageError when the mount point cannot be opened."""
    try:
        fd = os.open(mount, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"mount point {mount}: {error.strerror}") from None
    read_only = read_only or Feature.WRITE not in found.source.features
    flags = _NOSUID | _NODEV | (_READ_ONLY if read_only else 0)
    return RemoteSource(fd, found.source, found.stats, root, flags, found.again)


def widen_readahead(path: Path, kib: int) -> None:
    """The kernel reads that far ahead on the mount itself (files that are not passed through). It starts
    from 128 KiB whatever the INIT reply says (VM_READAHEAD_PAGES)."""
    found = mount_at(path)
    if found is not None:
        with contextlib.suppress(OSError):
            Path(f"/sys/class/bdi/{found.device}/read_ahead_kb").write_text(str(kib))


def detach(path: Path, mount_id: int) -> bool:
    """Takes our own mount off the path; files that are open stay served. False when it is covered by another
    mount or gone."""
    found = mount_at(path)
    if found is None or found.mount_id != mount_id:
        return False
    try:
        unmount(path, MNT_DETACH)
    except OSError as error:
        raise HostError(f"{path} cannot be unmounted: {error.strerror}") from None
    return True
