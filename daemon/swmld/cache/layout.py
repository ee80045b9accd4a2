"""The cache directory on disk: its names, its format number and its lock.

    cache_dir/            0700
      FORMAT              one line "swmld-cache 1"
      lock                flock held while a daemon lives; "pid mount" for the error message
      index.db (+wal)
      index.damaged       left by a daemon that met a corrupt index; the next start makes a new one
      data/ab/<file_id>   ab = file_id % 256 as two hex digits; 0600
      data/ab/<number>.z  where chunks are compressed: file_id without ``packed.PACKED``
      data.old-<time>     data files of an index that was given up; removed by the sweep

A directory that holds other people's files is refused: the cache would take their access away (0700).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from swmld.cache.packed import PACKED
from swmld.errors import UsageError

FORMAT_NAME = "swmld-cache"
FORMAT_VERSION = 1
DATA_DIRS = 256

_OURS = ("FORMAT", "lock", "index.", "data")
_PACKED_NAME = re.compile(r"[0-9]+\.z")
# include/uapi/linux/fs.h: inode flags, and the ioctls that read and write them (they say long, it is an int).
_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS = 0x80086601, 0x40086602
_FS_NOATIME_FL = 0x80
# What mkfs leaves in the root of a fresh file system.
_HARMLESS = ("lost+found",)


def _refuse(directory: Path, error: OSError) -> UsageError:
    return UsageError(f"cache directory {directory}: {error.strerror or error}")


class Layout:
    """Paths of one cache directory. ``prepare`` makes and checks it; ``lock`` takes it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.index = root / "index.db"
        self.damaged = root / "index.damaged"
        self._data = os.fspath(root / "data")

    def data_path(self, file_id: int) -> str:
        """Path of the data file of ``file_id``."""
        end = ".z" if file_id & PACKED else ""
        return f"{self._data}/{file_id % DATA_DIRS:02x}/{file_id & ~PACKED}{end}"

    def prepare(self) -> None:
        """Create what is missing; ``UsageError`` if this cannot be a cache directory of this version."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_contents()
            if stat.S_IMODE(self.root.stat().st_mode) != 0o700:
                self.root.chmod(0o700)
            self._make_data_dirs()
            self._write_format()
        except FileExistsError:
            raise UsageError(f"cache directory {self.root}: not a directory") from None
        except OSError as error:
            raise _refuse(self.root, error) from error

    def _check_contents(self) -> None:
        if self._check_format():
            return
        for name in os.listdir(self.root):
            if not name.startswith(_OURS) and name not in _HARMLESS:
                raise UsageError(
                    f"cache directory {self.root}: holds other files ({name}); "
                    "expected an empty directory or an swmld cache"
                )

    def _check_format(self) -> bool:
        try:
            with open(self.root / "FORMAT", encoding="utf-8", errors="replace") as file:
                words = file.read(100).split()
        except FileNotFoundError:
            return False
        if words == [FORMAT_NAME, str(FORMAT_VERSION)]:
            return True
        if not words:  # the power went between creating the file and writing its line
            return False
        found = words[1] if len(words) == 2 and words[0] == FORMAT_NAME else " ".join(words)
        raise UsageError(
            f"cache directory {self.root}: has format {found}, this swmld reads format {FORMAT_VERSION}; "
            "give another --cache-dir or remove it"
        )

    def _write_format(self) -> None:
        path = self.root / "FORMAT"
        if path.exists() and path.stat().st_size:
            # Opening for append finds a read-only file system now and not in the middle of a fetch.
            with open(path, "ab"):
                return
        fresh = self.root / "FORMAT.new"
        fresh.write_text(f"{FORMAT_NAME} {FORMAT_VERSION}\n", encoding="utf-8")
        fresh.replace(path)

    def _make_data_dirs(self) -> None:
        os.makedirs(self._data, mode=0o700, exist_ok=True)
        present = set(os.listdir(self._data))
        for number in range(DATA_DIRS):
            if f"{number:02x}" not in present:
                os.mkdir(f"{self._data}/{number:02x}", 0o700)
        self._keep_no_atimes()

    def _keep_no_atimes(self) -> None:
        """Data files that are made from now on keep no access times, where the file system can do that.

        Nobody asks for a data file's access time, but each read through the mount would look whether it is
        due: 65 of 1,400 ns of a read of 4 KiB that is passed through (ext4 with relatime, measured by perf).
        ext4 and XFS hand the flag on to what is made in a directory; file systems that do not, or know no
        flags, go on as they were.
        """
        with contextlib.suppress(OSError):
            if not _has_no_atime(self._data):
                for number in range(DATA_DIRS):
                    _set_no_atime(f"{self._data}/{number:02x}")
                _set_no_atime(self._data)  # the last: it says that all have it

    def lock(self, mount: str) -> int:
        """Take the lock for this process's life and say who holds it; returns the fd that holds it.

        ``UsageError`` names the pid and the mount of the daemon that has it.
        """
        try:
            fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _refuse(self.root, error) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()} {mount}\n".encode("utf-8", "surrogateescape"), 0)
        except BlockingIOError:
            holder = os.pread(fd, 8192, 0).decode("utf-8", "replace").strip()
            os.close(fd)
            pid, _, where = holder.partition(" ")
            raise UsageError(
                f"cache directory {self.root}: in use by swmld pid {pid or '?'} which serves {where or '?'}"
            ) from None
        except OSError as error:
            os.close(fd)
            raise _refuse(self.root, error) from error
        return fd

    def set_data_aside(self, stamp: int) -> None:
        """Part with all data files at once (a rename); ``old_data`` finds them for the sweep."""
        os.rename(self._data, f"{self._data}.old-{stamp}")
        self._make_data_dirs()

    def remove_old_data(self) -> int:
        """Delete data directories that were set aside; returns how many. Blocks for long."""
        removed = 0
        for name in os.listdir(self.root):
            if name.startswith("data.old-"):
                shutil.rmtree(self.root / name, ignore_errors=True)
                removed += 1
        return removed

    def has_data(self) -> bool:
        """Whether there is any data file."""
        return any(self.data_ids())

    def data_ids(self) -> Iterator[list[int]]:
        """The file ids that have a data file, one list a directory."""
        for number in range(DATA_DIRS):
            ids: list[int] = []
            with contextlib.suppress(OSError):
                names = os.listdir(f"{self._data}/{number:02x}")
                ids = [int(name) for name in names if name.isdecimal()]
                ids += [int(name[:-2]) | PACKED for name in names if _PACKED_NAME.fullmatch(name)]
            yield ids


def free_bytes(directory: Path) -> int:
    """Bytes of ``directory``'s file system that anybody may still use."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def _has_no_atime(directory: str) -> bool:
    """``OSError`` where directories have no flags."""
    with _opened(directory) as fd:
        return bool(_flags(fd) & _FS_NOATIME_FL)


def _set_no_atime(directory: str) -> None:
    with _opened(directory) as fd:
        fcntl.ioctl(fd, _FS_IOC_SETFLAGS, struct.pack("iI", _flags(fd) | _FS_NOATIME_FL, 0))


@contextlib.contextmanager
def _opened(directory: str) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _flags(fd: int) -> int:
    """Inode flags (``FS_IOC_GETFLAGS``)."""
    said = bytearray(8)
    fcntl.ioctl(fd, _FS_IOC_GETFLAGS, said)
    (flags,) = struct.unpack_from("i", said)
    return int(flags)
