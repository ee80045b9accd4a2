"""The same calls on two directories: what they answer and what they change must be the same.

Calls are made by libc, so that what Python would check, repeat or refuse by itself reaches the kernel. Each
user is a thread with credentials, working directory and umask of its own (in Linux all three are a thread's).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import queue
import random
import stat
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from support import posix
from support.posix import ALICE, BOB, CAROL, ROOT, User

USERS = {"root": ROOT, "alice": ALICE, "bob": BOB, "carol": CAROL}

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_FS = 0x200
_SETGROUPS, _SETRESGID, _SETRESUID = (116, 119, 117) if os.uname().machine == "x86_64" else (159, 149, 147)
_NOWHERE = ctypes.c_void_p(1)
"""No memory is there: EFAULT."""

NOWHERE = b"\0nowhere"
"""Of a path: such a pointer."""

Result = tuple[Any, ...]


def _path(path: bytes) -> Any:
    return _NOWHERE if path == NOWHERE else path


def _call(function: str, *args: Any) -> int:
    """What it returns, or -errno."""
    wrapped = [ctypes.c_long(a) if isinstance(a, int) and not isinstance(a, bool) else a for a in args]
    result = int(getattr(_libc, function)(*wrapped))
    return -ctypes.get_errno() if result == -1 else result


@dataclass
class Side:
    """One of the two directories: where it is, and what is open there, by slot."""

    top: Path
    at: int
    fds: dict[int, int] = field(default_factory=dict)
    before: dict[bytes, os.stat_result] = field(default_factory=dict)


class Actor:
    """A thread that acts as one user."""

    def __init__(self, user: User) -> None:
        self._user = user
        self._asked: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._told: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()
        self.do(self._become)

    def do(self, work: Callable[[], Any]) -> Any:
        self._asked.put(work)
        value, error = self._told.get(timeout=60)
        if error is not None:
            raise error
        return value

    def close(self) -> None:
        self._asked.put(None)
        self._thread.join(60)

    def _main(self) -> None:
        while (work := self._asked.get()) is not None:
            try:
                self._told.put((work(), None))
            except BaseException as error:  # it is raised by who asked
                self._told.put((None, error))

    def _become(self) -> None:
        uid, gid, groups = self._user
        array = (ctypes.c_uint * len(groups))(*groups)
        assert _call("unshare", _CLONE_FS) == 0
        assert _call("syscall", _SETGROUPS, len(groups), array) == 0
        assert _call("syscall", _SETRESGID, gid, gid, gid) == 0
        assert _call("syscall", _SETRESUID, uid, uid, uid) == 0


def _times(values: tuple[int, ...] | None) -> Any:
    return None if values is None else (ctypes.c_long * 4)(*values)


def perform(side: Side, name: str, *args: Any) -> Result:
    """One operation, in the thread that it is to be done by."""
    if (failed := _call("fchdir", side.at)) < 0:
        return ("fchdir", failed)
    return OPERATIONS[name](side, *args)


def _open(side: Side, slot: int, path: bytes, flags: int, mode: int) -> Result:
    # Not blocking, since the path may be a fifo that nobody else has open.
    fd = _call("open", _path(path), flags | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    if fd < 0:
        return (fd,)
    old = side.fds.pop(slot, None)
    if old is not None:
        os.close(old)
    side.fds[slot] = fd
    return (0,)


def _by_fd(function: str) -> Callable[..., Result]:
    def run(side: Side, slot: int, *args: Any) -> Result:
        return (_call(function, side.fds.get(slot, -1), *args),)

    return run


def _by_path(function: str) -> Callable[..., Result]:
    def run(side: Side, *args: Any) -> Result:
        return (_call(function, *[_path(a) if isinstance(a, bytes) else a for a in args]),)

    return run


def _close(side: Side, slot: int) -> Result:
    return (_call("close", side.fds.pop(slot, -1)),)


def _write(side: Side, slot: int, size: int, offset: int) -> Result:
    data = bytes(i * 7 % 251 for i in range(size))
    return (_call("pwrite", side.fds.get(slot, -1), data, size, offset),)


def _append(side: Side, slot: int, size: int) -> Result:
    fd = side.fds.get(slot, -1)
    if fd >= 0 and stat.S_ISFIFO(os.fstat(fd).st_mode):
        return ("fifo",)  # no server of files hears of what is written to it: its times stay
    return (_call("write", fd, b"a" * size, size),)


def _read(side: Side, slot: int, size: int, offset: int, there: bool) -> Result:
    buffer = ctypes.create_string_buffer(size) if there else _NOWHERE
    got = _call("pread", side.fds.get(slot, -1), buffer, size, offset)
    return (got, zlib.crc32(buffer.raw[:got]) if there and got > 0 else 0)  # type: ignore[union-attr]


def _readlink(side: Side, path: bytes, size: int) -> Result:
    buffer = ctypes.create_string_buffer(max(1, size))
    got = _call("readlink", _path(path), buffer, size)
    return (got, buffer.raw[: max(0, got)])


def _utimens(side: Side, path: bytes, values: tuple[int, ...] | None, flags: int) -> Result:
    return (_call("utimensat", posix.AT_FDCWD, _path(path), _times(values), flags),)


def _futimens(side: Side, slot: int, values: tuple[int, ...] | None) -> Result:
    return (_call("futimens", side.fds.get(slot, -1), _times(values)),)


def _getxattr(side: Side, path: bytes, name: bytes, size: int) -> Result:
    buffer = ctypes.create_string_buffer(max(1, size))
    got = _call("getxattr", _path(path), name, buffer, size)
    return (got, buffer.raw[: max(0, min(got, size))])


def _listxattr(side: Side, path: bytes) -> Result:
    buffer = ctypes.create_string_buffer(65536)
    got = _call("llistxattr", _path(path), buffer, 65536)
    return (got, sorted(buffer.raw[: max(0, got)].split(b"\0")))


def _listing(side: Side, path: bytes) -> Result:
    fd = _call("open", _path(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if fd < 0:
        return (fd,)
    try:
        return (0, sorted((entry.name, entry.kind) for entry in posix.read_dir(fd) if entry.name != b".."))
    finally:
        os.close(fd)


def _look(side: Side, path: bytes, follow: bool) -> Result:
    if path == NOWHERE:
        return (-errno.EFAULT,)
    try:
        return (0, *_shown(os.stat(path, follow_symlinks=follow)))
    except OSError as error:
        return (-(error.errno or 0),)


def _look_fd(side: Side, slot: int) -> Result:
    try:
        return (0, *_shown(os.fstat(side.fds.get(slot, -1))))
    except OSError as error:
        return (-(error.errno or 0),)


def _umask(side: Side, mask: int) -> Result:
    _call("umask", mask)
    return ()


OPERATIONS: dict[str, Callable[..., Result]] = {
    "open": _open, "close": _close, "pwrite": _write, "append": _append, "pread": _read, "umask": _umask,
    "stat": _look, "fstat": _look_fd, "listing": _listing, "readlink": _readlink,
    "utimensat": _utimens, "futimens": _futimens, "getxattr": _getxattr, "listxattr": _listxattr,
    "setxattr": _by_path("setxattr"), "lsetxattr": _by_path("lsetxattr"),
    "removexattr": _by_path("removexattr"),
    "mkdir": _by_path("mkdir"), "rmdir": _by_path("rmdir"), "unlink": _by_path("unlink"),
    "rename": _by_path("rename"), "link": _by_path("link"), "symlink": _by_path("symlink"),
    "mknod": _by_path("mknod"), "mkfifo": _by_path("mkfifo"), "chmod": _by_path("chmod"),
    "chown": _by_path("chown"), "lchown": _by_path("lchown"), "truncate": _by_path("truncate"),
    "access": _by_path("access"), "remove": _by_path("remove"),
    "renameat2": lambda _, a, b, flags: (
        _call("renameat2", posix.AT_FDCWD, _path(a), posix.AT_FDCWD, _path(b), flags),
    ),
    "linkat": lambda _, a, b, flags: (
        _call("linkat", posix.AT_FDCWD, _path(a), posix.AT_FDCWD, _path(b), flags),
    ),
    "ftruncate": _by_fd("ftruncate"), "fchmod": _by_fd("fchmod"), "fchown": _by_fd("fchown"),
    "fallocate": _by_fd("fallocate"), "posix_fallocate": _by_fd("posix_fallocate"), "fsync": _by_fd("fsync"),
    "lseek": _by_fd("lseek"),
}  # fmt: skip


def _shown(status: os.stat_result) -> Result:
    return (
        oct(status.st_mode), status.st_nlink, status.st_uid, status.st_gid, status.st_size, status.st_rdev,
    )  # fmt: skip


def _moved(now: os.stat_result, before: os.stat_result | None) -> Result:
    """Which of its times changed; times that were set are what they are."""
    changed = before is None or now.st_ino != before.st_ino
    shown: list[Any] = []
    for kind in ("st_mtime_ns", "st_ctime_ns"):
        at = getattr(now, kind)
        if at < 1_500_000_000 * 10**9:
            shown.append(at)
        else:
            shown.append("new" if changed else at != getattr(before, kind))
    return tuple(shown)


def snapshot(side: Side) -> dict[bytes, Result]:
    """All that is there: attributes, what of them changed since the last one, names of one file."""
    found: dict[bytes, os.stat_result] = {}
    root = os.fsencode(side.top)
    todo = [b"."]
    while todo:
        name = todo.pop()
        status = os.lstat(os.path.join(root, name))
        found[name] = status
        if stat.S_ISDIR(status.st_mode):
            todo += [os.path.join(name, child) for child in os.listdir(os.path.join(root, name))]
    first: dict[int, bytes] = {}
    shown = {}
    for name in sorted(found):
        status = found[name]
        same = first.setdefault(status.st_ino, name)
        shown[name] = (*_shown(status), *_moved(status, side.before.get(name)), same)
    side.before = found
    return shown


class Dice:
    """Random calls that mostly have something to act on."""

    NAMES = (
        b"a", b"b", b"c", b"d", b"e", b"l", b"p", b"d/a", b"d/b", b"d/l", b"d/e", b"d/e/a", b"e/a", b"e/d",
    )  # fmt: skip
    ODD = (
        b"", b".", b"..", b"d/.", b"d/..", b"a/", b"d/", b"l/", b"e//", b"a/b", b"p/x", b"no/x", b"loop",
        b"loop/x", b"\xff\xfe", b"d/\xe4", b"l/a", b"d/l/a",
        b"x" * 255, b"y" * 256, b"d/" + b"z" * 255, b"d/" + b"z" * 256, b"x" * 255 + b"/x", NOWHERE,
        b"./" * 2047 + b"a", b"./" * 2047 + b"ab", b"d/../" * 818 + b"d/a",
    )  # fmt: skip
    MODES = (0, 0o444, 0o600, 0o644, 0o664, 0o666, 0o700, 0o755, 0o777, 0o1777)
    SET_ID = (0o2775, 0o2755, 0o4755, 0o6755)
    KINDS = (0o100000, 0o10000, 0o140000, 0o20000, 0o60000, 0o40000)
    IDS = (-1, 0, 65534, 65533, 65532, 65531)
    SIZES = (0, 1, 100, 4095, 4096, 5000, 65536, 70_000)
    TIMES = (
        None, (1, 2, 3, 4), (0, posix.UTIME_NOW, 0, posix.UTIME_NOW), (0, posix.UTIME_OMIT, 5, 6),
        (7, 8, 0, posix.UTIME_OMIT), (0, posix.UTIME_OMIT, 0, posix.UTIME_OMIT), (0, 10**9, 0, 0),
        (0, posix.UTIME_NOW, 0, posix.UTIME_OMIT), (-5, 0, -5, 999_999_999),
    )  # fmt: skip

    def __init__(self, seed: int, chmod_set_id: bool) -> None:
        self._dice = random.Random(seed)
        self._chmod = (*self.MODES, *self.SET_ID) if chmod_set_id else self.MODES

    def user(self) -> str:
        return self._dice.choices(list(USERS), [3, 4, 2, 4])[0]

    def name(self) -> bytes:
        return self._dice.choice(self.NAMES if self._dice.random() < 0.85 else self.ODD)

    def call(self) -> tuple[Any, ...]:
        dice, name = self._dice, self.name
        mode, slot = dice.choice((*self.MODES, *self.SET_ID)), dice.randrange(5)
        size, at = dice.choice(self.SIZES), dice.choice(self.SIZES)
        there = dice.random() < 0.97
        calls: list[tuple[int, tuple[Any, ...]]] = [
            (16, ("open", slot, name(), self._flags(), mode)),
            (3, ("close", slot)),
            (10, ("pwrite", slot, size, at)),
            (3, ("append", slot, size)),
            (4, ("pread", slot, size, at, there)),
            (5, ("ftruncate", slot, dice.choice((*self.SIZES, -1)))),
            (4, ("truncate", name(), dice.choice((*self.SIZES, -1)))),
            (5, ("mkdir", name(), mode)),
            (3, ("rmdir", name())),
            (5, ("unlink", name())),
            (1, ("remove", name())),
            (7, ("rename", name(), name())),
            (4, ("renameat2", name(), name(), dice.choice((0, 1, 2, 2, 3, 8)))),
            (5, ("link", name(), name())),
            (2, ("linkat", name(), name(), dice.choice((0, 0x400, 0x100)))),
            (3, ("symlink", name(), name())),
            (1, ("readlink", name(), dice.choice((0, 1, 100)))),
            (3, ("mkfifo", name(), mode)),
            (3, ("mknod", name(), dice.choice(self.KINDS) | mode, 0x103)),
            (7, ("chmod", name(), dice.choice(self._chmod))),
            (4, ("fchmod", slot, dice.choice(self._chmod))),
            (6, ("chown", name(), dice.choice(self.IDS), dice.choice(self.IDS))),
            (3, ("lchown", name(), dice.choice(self.IDS), dice.choice(self.IDS))),
            (3, ("fchown", slot, dice.choice(self.IDS), dice.choice(self.IDS))),
            (4, ("utimensat", name(), dice.choice(self.TIMES), dice.choice((0, 0x100, 0x100, 0x1000)))),
            (3, ("futimens", slot, dice.choice(self.TIMES))),
            (3, ("access", name(), dice.randrange(8))),
            (2, ("stat", name(), dice.random() < 0.5)),
            (2, ("fstat", slot)),
            (2, ("listing", name())),
            (2, ("setxattr", name(), self._attribute(), b"v" * (size // 20), size // 20, 0)),
            (1, ("lsetxattr", name(), self._attribute(), b"w", 1, 0)),
            (1, ("getxattr", name(), self._attribute(), dice.choice((0, 3, 4096)))),
            (1, ("listxattr", name())),
            (1, ("removexattr", name(), self._attribute())),
            (2, ("posix_fallocate", slot, at, size)),
            (2, ("fallocate", slot, dice.choice((0, 1, 3, 16)), at, size)),
            (1, ("fsync", slot)),
            (1, ("lseek", slot, at, dice.randrange(3))),
            # Not of the group's x: a set-group bit without it is kept by writers of the group, and whose
            # groups these are a server of files does not know.
            (1, ("umask", dice.choice((0, 0o22, 0o27, 0o707)))),
            # What the others act on.
            (8, ("mkdir", dice.choice((b"d", b"e", b"d/e")), 0o777)),
            (5, ("chmod", dice.choice((b"d", b"e", b"d/e", b".")), 0o777)),
            (10, ("open", slot, dice.choice(self.NAMES), os.O_RDWR | os.O_CREAT, 0o666)),
        ]
        return dice.choices([call for _, call in calls], [weight for weight, _ in calls])[0]

    def _flags(self) -> int:
        flags = self._dice.choice((os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR))
        for flag, chance in (
            (os.O_CREAT, 0.5), (os.O_EXCL, 0.15), (os.O_TRUNC, 0.2), (os.O_APPEND, 0.15),
            (os.O_NOFOLLOW, 0.1), (os.O_DIRECTORY, 0.07), (os.O_PATH, 0.05), (os.O_SYNC, 0.05),
            (os.O_NOATIME, 0.03),
        ):  # fmt: skip
            if self._dice.random() < chance:
                flags |= flag
        return flags

    def _attribute(self) -> bytes:
        names = (b"user.a", b"user.b", b"trusted.t", b"user.", b"nothing", b"user." + b"n" * 251)
        return self._dice.choice(names)


@contextlib.contextmanager
def sides(*tops: Path) -> Iterator[list[Side]]:
    """The two directories; a file of each kind is there already."""
    made = []
    for top in tops:
        top.mkdir()
        top.chmod(0o777)
        for name in ("d", "e"):
            (top / name).mkdir()
            (top / name).chmod(0o777)
        (top / "a").write_bytes(b"content")
        (top / "loop").symlink_to("loop")
        (top / "l").symlink_to("d")
        made.append(Side(top, os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)))
    try:
        yield made
    finally:
        for side in made:
            for fd in [side.at, *side.fds.values()]:
                os.close(fd)


def compare(one: Path, two: Path, seed: int, steps: int, *, chmod_set_id: bool = True) -> dict[str, int]:
    """Random calls by four users; AssertionError at the first difference. Returns how many calls of each name
    succeeded. ``chmod_set_id``: also files that are open are given set-id bits."""
    dice = Dice(seed, chmod_set_id)
    actors = {name: Actor(user) for name, user in USERS.items()}
    fine: dict[str, int] = {}
    past: list[str] = []
    try:
        with sides(one, two) as pair:
            for side in pair:
                snapshot(side)
            for step in range(steps):
                user, call = dice.user(), dice.call()
                posix.tick()
                results = [actors[user].do(partial(perform, side, *call)) for side in pair]
                past.append(f"{user}: {call}: {results[0]}")
                if results[0] != results[1]:
                    raise AssertionError(_story(past, f"{results[0]} != {results[1]}"))
                shown = [snapshot(side) for side in pair]
                if shown[0] != shown[1]:
                    raise AssertionError(_story(past, _difference(*shown)))
                if step % 50 == 49 and (unlike := contents_differ(*pair)):
                    raise AssertionError(_story(past, f"other bytes in {unlike}"))
                if results[0] and isinstance(results[0][0], int) and results[0][0] >= 0:
                    fine[call[0]] = fine.get(call[0], 0) + 1
    finally:
        for actor in actors.values():
            actor.close()
    return fine


def contents_differ(one: Side, two: Side) -> list[bytes]:
    """Files whose bytes are not the same."""
    files = [name for name, status in one.before.items() if stat.S_ISREG(status.st_mode)]
    return [name for name in files if _bytes(one, name) != _bytes(two, name)]


def _bytes(side: Side, name: bytes) -> bytes:
    return Path(os.path.join(side.top, os.fsdecode(name))).read_bytes()


def _story(past: list[str], what: str) -> str:
    lines = [line if len(line) < 300 else line[:300] + "..." for line in past[-25:]]
    return "\n".join([*lines, what])


def _difference(one: dict[bytes, Result], two: dict[bytes, Result]) -> str:
    names = [name for name in sorted(one.keys() | two.keys()) if one.get(name) != two.get(name)]
    return "\n".join(f"{name[:40]!r}: {one.get(name)} != {two.get(name)}" for name in names[:5])
