"""Cases after the subjects of pjdfstest, by system call: what is there, and which calls who makes then.

Nothing here says what must come of them: a directory of the disk does (``differential``). Each table is a
product of what the call can meet: kinds of files, owners, users, modes, flags.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from support import posix
from support.differential import NOWHERE, USERS, Actor, Result, Side, contents_differ, perform, snapshot

Call = tuple[Any, ...]
"""A name of ``differential.OPERATIONS`` and its arguments."""

KINDS = {
    "file": stat.S_IFREG, "dir": stat.S_IFDIR, "fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK,
    "char": stat.S_IFCHR, "block": stat.S_IFBLK, "symlink": stat.S_IFLNK,
}  # fmt: skip
IDS = {"root": 0, "alice": 65534, "bob": 65533, "carol": 65532}
ALL = tuple(USERS)
NO_LINKS = tuple(kind for kind in KINDS if kind != "symlink")
WR_CREATE = os.O_WRONLY | os.O_CREAT
HUGE = 999_999_999_999_999


@dataclass(frozen=True)
class Case:
    """What root makes first, and the calls that are compared, each by its user."""

    name: str
    setup: list[Call]
    calls: list[tuple[str, Call]]


def made(path: bytes, kind: str, owner: str | int = "root", mode: int = 0o644, group: int = -1) -> list[Call]:
    """One file of a kind, of an owner and his group; a symlink leads to ``t``, a regular file has bytes."""
    uid = IDS[owner] if isinstance(owner, str) else owner
    calls: list[Call] = []
    if kind == "symlink":
        calls.append(("symlink", b"t", path))
    elif kind == "dir":
        calls.append(("mkdir", path, 0o700))
    else:
        calls.append(("mknod", path, KINDS[kind] | 0o600, 0x103 if kind in ("char", "block") else 0))
    if kind == "file":
        calls += [("open", 9, path, os.O_WRONLY, 0), ("pwrite", 9, 5000, 0), ("close", 9)]
    calls.append(("lchown", path, uid, uid if group < 0 else group))
    if kind != "symlink":
        calls.append(("chmod", path, mode))
    return calls


def _by(user: str, *calls: Call) -> list[tuple[str, Call]]:
    return [(user, call) for call in calls]


OPEN_DIR: list[Call] = [("chmod", b".", 0o777)]


def chmod() -> Iterator[Case]:
    """chmod/00, 05, 07, 11, 12; fchmod of each kind that can be opened."""
    for kind, user, mode in itertools.product(KINDS, ALL, (0o111, 0o1777, 0o2775, 0o6755)):
        setup = [*OPEN_DIR, *made(b"t", "file", "alice", 0o640), *made(b"n", kind, "alice", 0o640)]
        yield Case(f"chmod {kind} {user} {mode:o}", setup, _by(user, ("chmod", b"n", mode)))
    for kind, user in itertools.product(NO_LINKS, ALL):
        # Of a group that the owner is not in: the set-group bit goes.
        setup = [*OPEN_DIR, *made(b"n", kind, "alice", 0o640, 65533)]
        yield Case(f"chmod set-group {kind} {user}", setup, _by(user, ("chmod", b"n", 0o2755)))
    for bits, user, shut in itertools.product((0o4777, 0o2777, 0o6777, 0o2767, 0o6767), ALL, (0, 1)):
        if not bits & stat.S_IXGRP and user in ("alice", "carol"):
            continue  # members of the group keep that bit, and whose groups they are a server does not know
        setup = [*OPEN_DIR, *made(b"n", "file", "alice", bits)]
        for name, call in {
            "pwrite": ("pwrite", 0, 1, 0), "ftruncate": ("ftruncate", 0, 3), "append": ("append", 0, 7),
            "falloc": ("fallocate", 0, 0, 0, 9000), "punch": ("fallocate", 0, 3, 0, 4096),
        }.items():  # fmt: skip
            calls = [("open", 0, b"n", os.O_WRONLY, 0), call, ("fstat", 0)]
            yield Case(f"{name} on {bits:o} {user} {shut}", setup, _by(user, *calls, *[("close", 0)] * shut))
        yield Case(f"truncate of {bits:o} {user}", setup, _by(user, ("truncate", b"n", 100)))
        yield Case(
            f"O_TRUNC of {bits:o} {user}", setup, _by(user, ("open", 0, b"n", os.O_WRONLY | os.O_TRUNC, 0))
        )
    for user in ALL:
        setup = [*OPEN_DIR, *made(b"n", "file", "alice", 0o666)]
        opened = ("open", 0, b"n", os.O_RDWR, 0)
        yield Case(f"fchmod {user}", setup, _by(user, opened, ("fchmod", 0, 0o1751), ("fstat", 0)))
        calls = [opened, ("unlink", b"n"), ("fchmod", 0, 0o711), ("fstat", 0)]
        yield Case(f"fchmod of what is removed {user}", setup, _by(user, *calls))


def chown() -> Iterator[Case]:
    """chown/00, 02, 03, 07: owners, groups, and the set-id bits that are left."""
    changes = ((-1, -1), (65534, -1), (-1, 65534), (65533, -1), (-1, 65531), (65533, 65533), (0, 0))
    for kind, user, (uid, gid) in itertools.product(KINDS, ALL, changes):
        for name in ("chown", "lchown"):
            setup = [*OPEN_DIR, *made(b"t", "dir", "carol", 0o755), *made(b"n", kind, "carol", 0o6755)]
            yield Case(f"{name} {kind} {user} {uid} {gid}", setup, _by(user, (name, b"n", uid, gid)))
    for mode, user in itertools.product((0o4111, 0o2111, 0o2767, 0o6644, 0o7777, 0o2070), ALL):
        for kind, gid in itertools.product(("file", "dir", "fifo"), (65534, 65531, -1)):
            setup = [*OPEN_DIR, *made(b"n", kind, "carol", mode)]
            yield Case(f"chown {kind} of {mode:o} {user} {gid}", setup, _by(user, ("chown", b"n", -1, gid)))
    for user in ALL:
        setup = [*OPEN_DIR, *made(b"n", "file", "carol", 0o666)]
        calls = [("open", 0, b"n", os.O_RDWR, 0), ("fchown", 0, -1, 65531), ("fstat", 0)]
        yield Case(f"fchown {user}", setup, _by(user, *calls))


def sticky() -> Iterator[Case]:
    """unlink/11, rmdir/11, rename/09, 10: whose directory, whose file, who."""
    for top, owner, user in itertools.product(("root", "alice", "bob"), ("alice", "bob"), ALL):
        for kind in KINDS:
            setup = [*made(b"d", "dir", top, 0o1777), *made(b"d/n", kind, owner)]
            setup += [*made(b"e", "dir", user, 0o777), *made(b"e/own", kind, user)]
            where = f"{kind} of {owner} in {top}'s by {user}"
            yield Case(f"remove {where}", setup, _by(user, ("remove", b"d/n"), ("remove", b"d/n")))
            yield Case(f"move out {where}", setup, _by(user, ("rename", b"d/n", b"e/n")))
            yield Case(f"move over {where}", setup, _by(user, ("rename", b"e/own", b"d/n")))
            yield Case(f"exchange {where}", setup, _by(user, ("renameat2", b"e/own", b"d/n", 2)))
            yield Case(f"move within {where}", setup, _by(user, ("rename", b"d/n", b"d/m")))


def rename() -> Iterator[Case]:
    """rename/00, 13, 14, 20 to 24: what is moved, over what, link counts and times."""
    for old, new in itertools.product(KINDS, (*KINDS, "full", "none")):
        setup = [*made(b"d", "dir"), *made(b"e", "dir"), *made(b"d/a", old)]
        if new == "full":
            setup += [*made(b"e/b", "dir"), *made(b"e/b/x", "file")]
        elif new != "none":
            setup += made(b"e/b", new)
        if new == "file":
            setup.append(("link", b"e/b", b"e/second"))
        if new in ("file", "none"):
            setup += [("linkat", b"d/a", b"d/other", 0)] if old != "dir" else []
        for name, call in {
            "over": ("rename", b"d/a", b"e/b"), "exchange": ("renameat2", b"d/a", b"e/b", 2),
            "noreplace": ("renameat2", b"d/a", b"e/b", 1),
        }.items():  # fmt: skip
            yield Case(f"rename {old} {name} {new}", setup, _by("root", call))
    for kind in KINDS:
        same: list[Call] = [*made(b"a", kind)]
        same += [("linkat", b"a", b"b", 0)] if kind != "dir" else []
        yield Case(
            f"rename {kind} to itself", same, _by("root", ("rename", b"a", b"a"), ("rename", b"a", b"b"))
        )
    for user, mode in itertools.product(ALL, (0o777, 0o555, 0o755)):
        setup = [*made(b"d", "dir", "root", 0o777), *made(b"e", "dir", "root", 0o777)]
        setup += made(b"d/a", "dir", "alice", mode)
        yield Case(f"move directory {mode:o} {user}", setup, _by(user, ("rename", b"d/a", b"e/a")))
        yield Case(f"rename directory {mode:o} {user}", setup, _by(user, ("rename", b"d/a", b"d/b")))
    for a, b in (
        (b"d", b"d/x"), (b"d/.", b"x"), (b"d/..", b"x"), (b"f", b"d/."), (b"d", b"."), (b"f/", b"x"),
        (b"d/", b"x/"), (b"f", b"x/"), (b"l", b"x"), (b"l/", b"x"), (b"d", b"f"), (b"f", b"d"),
        (b"d", b"d/f"), (b"d/f", b"d"), (b"no", b"x"), (b"f", b"no/x"), (b"d/f", b"f"), (b"f", b"l"),
        (b"f", b"l/"),
    ):  # fmt: skip
        setup = [*made(b"d", "dir"), *made(b"d/f", "file"), *made(b"f", "file"), ("symlink", b"d", b"l")]
        yield Case(f"rename {a!r} {b!r}", setup, _by("root", ("rename", a, b), ("renameat2", a, b, 2)))


def link_and_unlink() -> Iterator[Case]:
    """link/00, 11, unlink/00, 08, 14, rmdir/00, 06, 12."""
    for kind, user, owner in itertools.product(KINDS, ALL, ("alice", "root")):
        setup = [*OPEN_DIR, *made(b"n", kind, owner, 0o644), *made(b"d", "dir", "root", 0o777)]
        calls: list[Call] = [
            ("link", b"n", b"d/m"), ("chmod", b"d/m", 0o600), ("lchown", b"n", -1, -1), ("unlink", b"n"),
            ("unlink", b"d/m"),
        ]  # fmt: skip
        yield Case(f"link {kind} of {owner} {user}", setup, _by(user, *calls))
        calls = [("unlink", b"n"), ("rmdir", b"n"), ("rmdir", b"d"), ("mkdir", b"d", 0o755)]
        yield Case(f"remove {kind} of {owner} {user}", setup, _by(user, *calls))
    for kind in KINDS:
        setup = [*made(b"n", kind), *made(b"f", "file"), ("symlink", b"f", b"l"), *made(b"d", "dir")]
        calls = [("link", b"f", b"n"), ("linkat", b"l", b"x", 0x400), ("linkat", b"l", b"y", 0)]
        yield Case(f"link over {kind}", setup, _by("root", *calls))
    for flags in (os.O_RDWR, os.O_RDONLY, os.O_WRONLY):
        setup = [*made(b"n", "file", "alice", 0o666), *OPEN_DIR]
        calls = [
            ("open", 0, b"n", flags, 0), ("link", b"n", b"m"), ("unlink", b"n"), ("fstat", 0),
            ("unlink", b"m"), ("fstat", 0), ("pwrite", 0, 100, 7), ("pread", 0, 200, 0, True),
            ("ftruncate", 0, 3), ("fstat", 0),
            ("futimens", 0, (1, 2, 3, 4)), ("fchown", 0, -1, 65534), ("fstat", 0), ("fsync", 0), ("close", 0),
        ]  # fmt: skip
        for user in ("root", "alice"):
            yield Case(f"open and removed {flags} {user}", setup, _by(user, *calls))
    for name in (b"d", b"d/", b"d/.", b"d/..", b".", b"..", b"full", b"f", b"f/", b"l", b"l/", b"no"):
        setup = [*made(b"d", "dir"), *made(b"full", "dir"), *made(b"full/x", "fifo"), *made(b"f", "file")]
        setup.append(("symlink", b"d", b"l"))
        yield Case(f"rmdir {name!r}", setup, _by("root", ("rmdir", name), ("unlink", name)))


def opening() -> Iterator[Case]:
    """open/00 to 25: permission by every mode, creation, truncation, kinds that cannot be opened so."""
    access = {"r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR, "t": os.O_RDONLY | os.O_TRUNC}
    for bits, shift, kind in itertools.product(range(8), (0, 3, 6), ("file", "dir", "fifo")):
        calls = [
            (user, ("open", 0, b"n", flags, 0))
            for user in ("alice", "carol", "bob")
            for flags in access.values()
        ]
        setup = [*OPEN_DIR, *made(b"n", kind, "alice", bits << shift)]
        yield Case(f"open {kind} of {bits << shift:o}", setup, calls)
    kinds = {"w": os.O_WRONLY, "rw": os.O_RDWR, "r": 0, "c": WR_CREATE, "x": WR_CREATE | os.O_EXCL,
             "dir": os.O_DIRECTORY, "nf": os.O_NOFOLLOW, "wt": os.O_WRONLY | os.O_TRUNC, "cdir": os.O_CREAT |
             os.O_DIRECTORY, "path": os.O_PATH | os.O_NOFOLLOW, "xr": os.O_CREAT | os.O_EXCL}  # fmt: skip
    for kind, (name, flags) in itertools.product(KINDS, kinds.items()):
        if kind in ("char", "block"):
            continue  # device 1:3 is what opens then, or ENXIO: no matter of the file system's
        setup = made(b"n", kind)
        calls = [("root", ("open", 0, b"n", flags, 0o644)), ("root", ("fstat", 0))]
        yield Case(f"open {kind} {name}", setup, calls)
    for mode, mask, user in itertools.product((0, 0o755, 0o7777, 0o151), (0, 0o22, 0o77, 0o777), ALL):
        made_by = [
            ("umask", mask), ("open", 0, b"f", WR_CREATE | os.O_EXCL, mode), ("mkdir", b"d", mode),
            ("mkfifo", b"p", mode), ("mknod", b"s", stat.S_IFSOCK | mode, 0), ("symlink", b"x", b"l"),
            ("mknod", b"r", stat.S_IFREG | mode, 0), ("mknod", b"c", stat.S_IFCHR | mode, 0x103),
            ("umask", 0),
        ]  # fmt: skip
        yield Case(f"make {mode:o} {mask:o} {user}", OPEN_DIR, _by(user, *made_by))
        setup = [("lchown", b".", 65533, 65533), ("chmod", b".", 0o2777)]
        yield Case(f"make in set-group {mode:o} {mask:o} {user}", setup, _by(user, *made_by))
    for size, flags in itertools.product((0, 1, 5000), (os.O_TRUNC, os.O_TRUNC | os.O_CREAT, os.O_CREAT, 0)):
        setup = [*made(b"n", "file"), ("truncate", b"n", size)]
        calls = _by("root", ("open", 0, b"n", os.O_WRONLY | flags, 0o644), ("close", 0))
        yield Case(f"open {size} with {flags:o}", setup, calls)


def sizes() -> Iterator[Case]:
    """truncate, ftruncate and posix_fallocate: kinds, users, sizes, times also where nothing changes."""
    for size, user in itertools.product((0, 1, 4999, 5000, 5001, 1_000_000, -1, -HUGE, HUGE), ALL):
        setup = [*OPEN_DIR, *made(b"n", "file", "alice", 0o644)]
        yield Case(f"truncate {size} {user}", setup, _by(user, ("truncate", b"n", size)))
        calls = [("open", 0, b"n", os.O_RDWR, 0), ("ftruncate", 0, size), ("close", 0)]
        yield Case(f"ftruncate {size} {user}", setup, _by(user, *calls))
    empty = [*made(b"n", "file"), ("truncate", b"n", 0)]
    yield Case("truncate 0 of 0", empty, _by("root", ("truncate", b"n", 0)))
    for kind, flags in itertools.product(KINDS, (os.O_RDONLY, os.O_RDWR)):
        if kind in ("char", "block"):
            yield Case(f"truncate {kind}", made(b"n", kind), _by("root", ("truncate", b"n", 7)))
            continue
        calls = [
            ("truncate", b"n", 7), ("open", 0, b"n", flags, 0), ("ftruncate", 0, 9),
            ("posix_fallocate", 0, 0, 1), ("fallocate", 0, 0, 0, 100),
        ]  # fmt: skip
        yield Case(f"sizes of {kind} {flags}", made(b"n", kind), _by("root", *calls))
    for at, length in itertools.product((0, 100, 5000, 9000, -1, HUGE * 10_000), (0, 1, 10_000, -1)):
        setup = made(b"n", "file")
        calls = [("open", 0, b"n", os.O_RDWR, 0), ("posix_fallocate", 0, at, length), ("fstat", 0)]
        yield Case(f"posix_fallocate {at} {length}", setup, _by("root", *calls))
    for mode in (1, 2, 3, 16, 17, 64, 128):  # the kernel has no other for FUSE
        setup = [*made(b"n", "file"), ("truncate", b"n", 40_960)]
        calls = [("open", 0, b"n", os.O_RDWR, 0), ("fallocate", 0, mode, 4096, 8192), ("fstat", 0)]
        calls.append(("pread", 0, 60_000, 0, True))
        yield Case(f"fallocate {mode}", setup, _by("root", *calls))


def times() -> Iterator[Case]:
    """utimensat/00 to 09."""
    now, omit, late = posix.UTIME_NOW, posix.UTIME_OMIT, 2**32 + 5
    values: tuple[tuple[int, ...] | None, ...] = (
        None, (1, 2, 3, 4), (0, now, 0, now), (0, omit, 5, 6), (7, 8, 0, omit), (0, omit, 0, omit),
        (0, now, 5, 6), (5, 6, 0, now), (0, now, 0, omit), (0, omit, 0, now), (2**31, 0, late, 999_999_999),
        (0, 10**9, 0, 0), (-1, 1, -2, 2), (2**33, 1, -(2**31), 2), (0, -1, 0, 0),
    )  # fmt: skip
    for kind, value, user in itertools.product(KINDS, values, ALL):
        setup = [*OPEN_DIR, *made(b"t", "file", "alice", 0o646), *made(b"n", kind, "alice", 0o646)]
        for flags in (0, 0x100) if kind in ("file", "symlink") else (0,):
            calls = _by(user, ("utimensat", b"n", value, flags))
            yield Case(f"utimensat {kind} {value} {user} {flags}", setup, calls)
    for flags in (0x1000, 0x1, 0x400, 0x2000):
        yield Case(
            f"utimensat flags {flags}", made(b"n", "file"), _by("root", ("utimensat", b"n", None, flags))
        )


def _each(path: bytes) -> list[Call]:
    """Every call that takes a path, on this one."""
    return [
        ("chmod", path, 0o600), ("chown", path, 0, 0), ("lchown", path, 0, 0), ("truncate", path, 1),
        ("open", 0, path, os.O_RDONLY, 0), ("open", 0, path, WR_CREATE, 0o644), ("stat", path, True),
        ("stat", path, False), ("access", path, 0), ("access", path, 7), ("utimensat", path, None, 0),
        ("utimensat", path, None, 0x100), ("readlink", path, 100), ("listing", path), ("link", path, b"new"),
        ("rename", path, b"new2"), ("unlink", path), ("rmdir", path), ("mkdir", path, 0o755), ("rmdir", path),
        ("mkfifo", path, 0o644), ("unlink", path), ("mknod", path, stat.S_IFSOCK | 0o644, 0),
        ("unlink", path), ("symlink", b"x", path), ("unlink", path), ("link", b"f", path), ("unlink", path),
        ("rename", b"g", path),
        ("unlink", path), ("symlink", path, b"new3"), ("getxattr", path, b"user.a", 100), ("listxattr", path),
        ("setxattr", path, b"user.a", b"v", 1, 0), ("removexattr", path, b"user.a"),
        ("renameat2", b"f", path, 2), ("renameat2", path, b"f", 1),
    ]  # fmt: skip


def paths() -> Iterator[Case]:
    """What each call says of a path that is too long, leads in a circle, through a file, nowhere, or where
    one may not go: of ENAMETOOLONG, ELOOP, ENOTDIR, ENOENT, EACCES and EFAULT."""
    there = [
        *OPEN_DIR,
        *made(b"f", "file", "alice"),
        *made(b"g", "file", "alice"),
        *made(b"d", "dir", "alice", 0o755),
    ]
    there += [("symlink", b"loop", b"loop"), ("symlink", b"d", b"l"), ("symlink", b"no", b"dangling")]
    for kind in KINDS:
        there += made(b"k-" + kind.encode(), kind)
    long = [b"x" * 255, b"y" * 256, b"d/" + b"z" * 255, b"d/" + b"z" * 256]
    long += [b"./" * 2046 + b"abc", b"./" * 2047 + b"ab", b"./" * 2047 + b"a", b"d/../" * 818 + b"d/a"]
    odd = [b"loop", b"loop/x", b"no/x", b"no", b"", b".", b"..", b"d/.", b"f/", b"d/", b"l/", b"dangling"]
    odd += [b"l/x", b"dangling/x", b"f/x", b"f/.", b"f/..", b"no/..", b"/", b"\xff\xfe", NOWHERE]
    odd += [b"k-" + kind.encode() + b"/x" for kind in KINDS]
    for path in [*long, *odd]:
        if path == b"/":
            continue
        for user in ("root", "alice"):
            yield Case(f"path {path[:20]!r} {len(path)} {user}", there, _by(user, *_each(path)))
    for owner, mode, user in itertools.product(
        ("alice", "bob"), (0o644, 0o555, 0o311, 0o777, 0), ("alice", "carol")
    ):
        setup = [*there, *made(b"s", "dir", owner, mode, 65534), *made(b"s/n", "file", user, 0o644)]
        for path in (b"s/n", b"s/new"):
            yield Case(f"in {mode:o} of {owner} {path!r} {user}", setup, _by(user, *_each(path)))
    for first, second in (("rename", "link"), ("link", "symlink"), ("symlink", "rename")):
        calls = _by("root", (first, NOWHERE, b"x"), (second, b"f", NOWHERE), (first, NOWHERE, NOWHERE))
        yield Case(f"EFAULT {first}", there, calls)


TABLES = {
    "chmod": chmod, "chown": chown, "sticky": sticky, "rename": rename, "link": link_and_unlink,
    "open": opening, "sizes": sizes, "times": times, "paths": paths,
}  # fmt: skip
"""By name: functions that give cases."""


def _root(side: Side, calls: list[Call]) -> list[Result]:
    return [perform(side, *call) for call in calls]


def differences(one: Path, two: Path, cases: list[Case], warm: Any = None) -> tuple[list[str], int]:
    """Runs each case in a directory of its own below both; what was not the same, a text each, and how many
    calls succeeded. ``warm``: called with the first directory when all that is to be there is."""
    actors = {name: Actor(user) for name, user in USERS.items()}
    found: list[str] = []
    fine = 0
    pairs: list[tuple[Side, Side]] = []
    try:
        for number, case in enumerate(cases):
            made_sides = []
            for top in (one / str(number), two / str(number)):
                top.mkdir()
                side = Side(top, os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
                results = actors["root"].do(partial(_root, side, case.setup))
                wrong = [(c, r) for c, r in zip(case.setup, results, strict=True) if r and r[0] in _FAILED]
                assert not wrong, f"{case.name}: {wrong}"
                made_sides.append(side)
            pairs.append((made_sides[0], made_sides[1]))
        if warm is not None:
            warm(one)
        for case, pair in zip(cases, pairs, strict=True):
            text, did = _one(case, pair, actors)
            fine += did
            if text:
                found.append(text)
    finally:
        for pair in pairs:
            for side in pair:
                for fd in [side.at, *side.fds.values()]:
                    os.close(fd)
        for actor in actors.values():
            actor.close()
    return found, fine


_FAILED = {-code for code in errno.errorcode}


def _one(case: Case, pair: tuple[Side, Side], actors: dict[str, Actor]) -> tuple[str, int]:
    fine = 0
    for side in pair:
        snapshot(side)
    for user, call in case.calls:
        posix.tick()
        results = [actors[user].do(partial(perform, side, *call)) for side in pair]
        shown = [snapshot(side) for side in pair]
        if results[0] != results[1] or shown[0] != shown[1]:
            names = [
                n for n in sorted(shown[0].keys() | shown[1].keys()) if shown[0].get(n) != shown[1].get(n)
            ]
            unlike = "".join(f"\n   {n[:40]!r}: {shown[0].get(n)} != {shown[1].get(n)}" for n in names[:5])
            return f"{case.name}: {user} {str(call)[:200]}: {results[0]} != {results[1]}{unlike}", fine
        fine += bool(results[0]) and isinstance(results[0][0], int) and results[0][0] >= 0
    if unlike := contents_differ(*pair):
        return f"{case.name}: other bytes in {unlike}", fine
    return "", fine
