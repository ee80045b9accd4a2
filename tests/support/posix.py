"""System calls that Python lacks, and running code as another user or where it may hang.

Everything here raises ``OSError`` as ``os`` does. Linux, 64 bit.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import pickle
import select
import signal
import stat
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]

_libc = ctypes.CDLL(None, use_errno=True)

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
MNT_DETACH = 2
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 1, 2, 16
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW = 36, 37, 38
_SYS_GETDENTS64 = {"x86_64": 217, "aarch64": 61}[os.uname().machine]
_CLOCK_REALTIME_COARSE = 5
DIE = 60.0  # seconds a child gets unless told: longer than any honest operation of a test


def _check(result: int, *paths: AnyPath) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), *[os.fsdecode(path) for path in paths[:1]])
    return result


def renameat2(old: AnyPath, new: AnyPath, flags: int) -> None:
    _check(_libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags), old)


def link_fd(fd: int, new: AnyPath) -> None:
    """Give an O_TMPFILE a name."""
    old = f"/proc/self/fd/{fd}".encode()
    _check(_libc.linkat(AT_FDCWD, old, AT_FDCWD, os.fsencode(new), 0x400), new)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    _libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong]
    _check(_libc.fallocate(fd, mode, offset, length))


def utimensat(path: AnyPath, atime: tuple[int, int], mtime: tuple[int, int], flags: int = 0) -> None:
    """Times as (seconds, nanoseconds); nanoseconds may be UTIME_NOW or UTIME_OMIT."""
    times = (ctypes.c_long * 4)(*atime, *mtime)
    _check(_libc.utimensat(AT_FDCWD, os.fsencode(path), times, flags), path)


def mount(source: str, target: AnyPath, fstype: str, flags: int = 0, options: str = "") -> None:
    result = _libc.mount(source.encode(), os.fsencode(target), fstype.encode(), flags, options.encode())
    _check(result, target)


def umount(target: AnyPath, flags: int = MNT_DETACH) -> None:
    _check(_libc.umount2(os.fsencode(target), flags), target)


def access(path: AnyPath, mode: int) -> int:
    """access(2) with its errno, which ``os.access`` hides."""
    return _check(_libc.access(os.fsencode(path), mode), path)


def tick() -> None:
    """Wait until the kernel's coarse clock, which file times are taken from, has moved on."""
    start = time.time_ns()  # times that were asked for are finer than the coarse clock, and ahead of it
    while time.clock_gettime_ns(_CLOCK_REALTIME_COARSE) <= start:
        time.sleep(0.001)


KINDS = ("file", "dir", "fifo", "socket", "char", "block", "symlink")
MAKEABLE = tuple(kind for kind in KINDS if kind not in ("symlink", "dir"))


def make(kind: str, path: AnyPath, mode: int = 0o644) -> None:
    """One file of a kind, whatever the umask says; a symlink points nowhere."""
    if kind == "symlink":
        os.symlink("nowhere", path)
        return
    if kind == "dir":
        os.mkdir(path)
    elif kind == "file":
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    else:
        types = {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK, "char": stat.S_IFCHR, "block": stat.S_IFBLK}
        os.mknod(path, types[kind] | 0o600, os.makedev(1, 7) if kind in ("char", "block") else 0)
    os.chmod(path, mode)


def remove(path: AnyPath) -> None:
    if stat.S_ISDIR(os.lstat(path).st_mode):
        os.rmdir(path)
    else:
        os.unlink(path)


class Dirent(NamedTuple):
    """One entry as the kernel gives it; ``offset`` is the cookie to go on from after it."""

    ino: int
    offset: int
    kind: int
    name: bytes


def getdents(fd: int, size: int = 32768) -> list[Dirent]:
    """One getdents64 call; empty at the end of the directory."""
    buffer = ctypes.create_string_buffer(size)
    got = _check(_libc.syscall(_SYS_GETDENTS64, fd, buffer, size))
    entries, at = [], 0
    while at < got:
        ino, offset, length, kind = struct.unpack_from("<QqHB", buffer, at)
        entries.append(Dirent(ino, offset, kind, buffer.raw[at + 19 : at + length].split(b"\0", 1)[0]))
        at += length
    return entries


def read_dir(fd: int, size: int = 32768) -> list[Dirent]:
    """Every entry from where the directory fd stands, with ``.`` and ``..``."""
    entries: list[Dirent] = []
    while batch := getdents(fd, size):
        entries += batch
    return entries


def ofd_lock(fd: int, kind: int, start: int = 0, length: int = 0, command: int = F_OFD_SETLK) -> int:
    """Open-file-description lock; returns the ``l_type`` that came back (for F_OFD_GETLK)."""
    answer = fcntl.fcntl(fd, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0))
    return int(struct.unpack("hhqqi4x", answer)[0])


@contextlib.contextmanager
def fails(*codes: int) -> Iterator[None]:
    """The block must raise OSError with one of these errnos."""
    names = "/".join(errno.errorcode[code] for code in codes)
    try:
        yield
    except OSError as error:
        got = errno.errorcode.get(error.errno or 0, str(error.errno))
        if error.errno not in codes:
            raise AssertionError(f"expected {names}, got {got}: {error}") from error
    else:
        raise AssertionError(f"expected {names}, but it succeeded")


GONE = (errno.ENOTCONN, errno.ECONNABORTED, errno.ECANCELED)
"""What a mount answers whose server is gone; the last to a request on its way to a ring whose task has ended
(``fuse_uring_send_in_task`` of fs/fuse/dev_uring.c)."""


class User(NamedTuple):
    """Who a child acts as; effective, real and saved ids alike."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


ROOT = User(0, 0)
ALICE = User(65534, 65534)
BOB = User(65533, 65533)
CAROL = User(65532, 65532, (65534, 65531))  # shares Alice's group, and has one more


class ChildHung(AssertionError):
    """The child did not end in time; it was killed."""


class Child:
    """A forked process that runs one function; the value or the exception comes back over a pipe.

    ``wait`` kills it after ``timeout`` seconds, so a hang of the file system fails one test, not the run.
    """

    def __init__(self, work: Callable[[], Any], user: User | None = None, umask: int | None = None) -> None:
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _child_main(work, user, umask, write)
        os.close(write)
        self._reaped = False

    def wait(self, timeout: float = DIE) -> Any:
        payload = b""
        deadline = time.monotonic() + timeout
        while True:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.kill()
                raise ChildHung(f"child {self.pid} did not end within {timeout} s")
            part = os.read(self._read, 65536)
            if not part:
                break
            payload += part
        self.reap()
        if not payload:
            raise AssertionError(f"child {self.pid} died without an answer")
        fine, value = pickle.loads(payload)
        if fine:
            return value
        raise value

    @property
    def answered(self) -> bool:
        """``wait`` would not wait, or not for long."""
        return self._reaped or bool(select.select([self._read], [], [], 0)[0])

    def kill(self, grace: float = 10.0) -> float:
        """SIGKILL; the seconds until the process was gone (a killed process in the kernel may stay)."""
        start = time.monotonic()
        if not self._reaped:
            os.kill(self.pid, signal.SIGKILL)
            while time.monotonic() - start < grace:
                if self.reap(os.WNOHANG):
                    return time.monotonic() - start
                time.sleep(0.005)
            raise ChildHung(f"child {self.pid} outlived SIGKILL by {grace} s: {where(self.pid)}")
        return 0.0

    def reap(self, flags: int = 0) -> bool:
        if not self._reaped:
            self._reaped = os.waitpid(self.pid, flags)[0] == self.pid
            if self._reaped:
                os.close(self._read)
        return self._reaped

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def _child_main(work: Callable[[], Any], user: User | None, umask: int | None, write: int) -> None:
    status = 1
    try:
        if umask is not None:
            os.umask(umask)
        if user is not None:
            os.setgroups(user.groups)
            os.setresgid(user.gid, user.gid, user.gid)
            os.setresuid(user.uid, user.uid, user.uid)
        answer = (True, work())
        status = 0
    except BaseException as error:
        if not isinstance(error, OSError):
            error.add_note("".join(traceback.format_exception(error)))
        answer = (False, error)
    try:
        payload = pickle.dumps(answer)
    except Exception:
        payload = pickle.dumps((False, AssertionError(repr(answer[1]))))
    try:
        os.set_blocking(write, True)
        while payload:
            payload = payload[os.write(write, payload) :]
        sys.stdout.flush()
    finally:
        os._exit(status)


def run(work: Callable[[], T], user: User | None = None, umask: int | None = None, timeout: float = DIE) -> T:
    """Call ``work`` in a child as ``user``; its value, or its exception (OSError keeps its errno)."""
    value: T = Child(work, user, umask).wait(timeout)
    return value


def where(pid: int) -> str:
    """What the kernel says of a process that does not end: state and stack, for a failure message."""
    lines = []
    for name in ("status", "wchan", "stack"):
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/{name}").read_text()
            lines.append("\n".join(text.splitlines()[:12]))
    return "\n".join(lines) or "gone"


def mount_list() -> list[tuple[str, str]]:
    """(mount point, file system type) in this mount namespace, in the order of mounting."""
    table = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        table.append((left.split()[4].encode().decode("unicode_escape"), right.split()[0]))
    return table


def mounts() -> dict[str, str]:
    """Mount point -> type of the uppermost file system there."""
    return dict(mount_list())
