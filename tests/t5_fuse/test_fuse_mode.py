"""chmod, chown, umask, set-id bits, sticky directories and supplementary groups: who may do what."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support import posix
from support.posix import ALICE, BOB, CAROL, ROOT, User, fails
from support.tree import Tree

DAVE = User(65530, 65530)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def owner_of(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


def owned(path: Path, user: User, mode: int, kind: str = "file") -> Path:
    posix.make(kind, path)
    os.lchown(path, user.uid, user.gid)
    if kind != "symlink":
        path.chmod(mode)
    return path


# --- chmod ---


@pytest.mark.parametrize("kind", [kind for kind in posix.KINDS if kind != "symlink"])
@pytest.mark.parametrize("mode", [0, 0o111, 0o444, 0o755, 0o1777, 0o2775, 0o4755, 0o7777], ids=oct)
def test_chmod(fs: Tree, kind: str, mode: int) -> None:
    posix.make(kind, fs / "name")
    before = (fs / "name").lstat()
    posix.tick()
    (fs / "name").chmod(mode)
    after = (fs / "name").lstat()
    assert stat.S_IMODE(after.st_mode) == mode
    assert stat.S_IFMT(after.st_mode) == stat.S_IFMT(before.st_mode)
    assert after.st_ctime_ns > before.st_ctime_ns
    assert after.st_mtime_ns == before.st_mtime_ns
    assert mode_of(fs.source / "name") == mode


def test_fchmod_of_an_open_file_whose_name_is_gone(fs: Tree) -> None:
    with (fs / "name").open("wb") as file:
        (fs / "name").unlink()
        os.fchmod(file.fileno(), 0o640)
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o640


def test_chmod_follows_a_symlink(fs: Tree) -> None:
    posix.make("file", fs / "name")
    (fs / "link").symlink_to("name")
    (fs / "link").chmod(0o600)
    assert mode_of(fs / "name") == 0o600
    assert mode_of(fs / "link") == 0o777


def test_only_the_owner_changes_the_mode(fs: Tree) -> None:
    name = owned(fs / "name", ALICE, 0o644)
    posix.run(lambda: name.chmod(0o600), ALICE)
    assert mode_of(name) == 0o600
    with fails(errno.EPERM):
        posix.run(lambda: name.chmod(0o777), BOB)
    with fails(errno.EPERM):
        posix.run(lambda: name.chmod(0o777), CAROL)  # of the owner's group
    assert mode_of(name) == 0o600


def test_set_group_bit_is_dropped_outside_the_group(fs: Tree) -> None:
    name = owned(fs / "name", ALICE, 0o644)
    os.chown(name, ALICE.uid, BOB.gid)
    posix.run(lambda: name.chmod(0o2755), ALICE)
    assert mode_of(name) == 0o755
    os.chown(name, ALICE.uid, ALICE.gid)
    posix.run(lambda: name.chmod(0o2755), ALICE)
    assert mode_of(name) == 0o2755


# --- chown ---


@pytest.mark.parametrize("kind", posix.KINDS)
def test_chown_by_root(fs: Tree, kind: str) -> None:
    posix.make(kind, fs / "name")
    before = (fs / "name").lstat()
    posix.tick()
    os.lchown(fs / "name", 123, 456)
    assert owner_of(fs / "name") == (123, 456)
    assert owner_of(fs.source / "name") == (123, 456)
    assert (fs / "name").lstat().st_ctime_ns > before.st_ctime_ns
    os.lchown(fs / "name", 124, -1)
    assert owner_of(fs / "name") == (124, 456)
    os.lchown(fs / "name", -1, 457)
    assert owner_of(fs / "name") == (124, 457)


def test_chown_follows_a_symlink_and_lchown_does_not(fs: Tree) -> None:
    posix.make("file", fs / "name")
    (fs / "link").symlink_to("name")
    os.chown(fs / "link", 123, 456)
    os.lchown(fs / "link", 321, 654)
    assert owner_of(fs / "name") == (123, 456)
    assert owner_of(fs / "link") == (321, 654)


def test_an_owner_gives_a_file_to_his_groups_only(fs: Tree) -> None:
    name = owned(fs / "name", CAROL, 0o644)
    for group in CAROL.groups:
        posix.run(partial(os.chown, name, -1, group), CAROL)
        assert owner_of(name) == (CAROL.uid, group)
    with fails(errno.EPERM):
        posix.run(lambda: os.chown(name, -1, BOB.gid), CAROL)
    with fails(errno.EPERM):
        posix.run(lambda: os.chown(name, BOB.uid, -1), CAROL)
    with fails(errno.EPERM):
        posix.run(lambda: os.chown(name, -1, CAROL.gid), ALICE)
    assert owner_of(name) == (CAROL.uid, CAROL.groups[-1])


@pytest.mark.parametrize(
    ("mode", "left"), [(0o6755, 0o755), (0o4711, 0o711), (0o2755, 0o755), (0o2644, 0o2644)]
)
def test_chown_clears_the_set_id_bits(fs: Tree, mode: int, left: int) -> None:
    name = owned(fs / "name", CAROL, mode)
    assert mode_of(name) == mode
    posix.run(lambda: os.chown(name, -1, CAROL.groups[0]), CAROL)
    # The set-group bit without group execution is not a privilege: whether it stays is the kernel's business.
    assert mode_of(name) in ({left, 0o644} if mode == 0o2644 else {left})


@pytest.mark.parametrize("kind", ["file", "fifo", "char", "socket"])
def test_who_may_not_change_a_file_does_not_clear_its_set_id_bits(fs: Tree, kind: str) -> None:
    """By a chown(2) that changes neither owner nor group."""
    posix.make(kind, fs / "name")
    os.chown(fs / "name", ALICE.uid, ALICE.gid)
    (fs / "name").chmod(0o6755)
    for user in (BOB, CAROL):
        with fails(errno.EPERM):
            posix.run(lambda: os.chown(fs / "name", -1, -1), user)
        assert mode_of(fs.source / "name") == 0o6755
    posix.run(lambda: os.chown(fs / "name", -1, -1), ALICE)
    assert mode_of(fs / "name") == mode_of(fs.source / "name") == 0o755


def test_root_chown_clears_set_id_bits_of_files_not_directories(fs: Tree) -> None:
    owned(fs / "file", ALICE, 0o6755)
    owned(fs / "dir", ALICE, 0o6755, "dir")
    os.chown(fs / "file", BOB.uid, BOB.gid)
    os.chown(fs / "dir", BOB.uid, BOB.gid)
    assert mode_of(fs / "file") == 0o755
    assert mode_of(fs / "dir") == 0o6755


# --- set-id bits and writing ---


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def rewrite_mapped(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.pwrite(fd, b"x", 0)
    os.close(fd)


@pytest.mark.parametrize("write", [append, rewrite_mapped, lambda path: os.truncate(path, 2)])
@pytest.mark.parametrize(("mode", "left"), [(0o4777, 0o777), (0o2777, 0o777), (0o6777, 0o777)])
def test_writing_by_another_user_clears_set_id(
    fs: Tree, write: Callable[[Path], None], mode: int, left: int
) -> None:
    name = owned(fs / "name", ALICE, mode)
    os.truncate(name, 4)
    name.chmod(mode)
    posix.run(lambda: write(name), BOB)
    assert mode_of(name) == left
    assert mode_of(fs.source / "name") == left


def test_writing_by_root_keeps_set_id(fs: Tree) -> None:
    name = owned(fs / "name", ALICE, 0o6777)
    append(name)
    assert mode_of(name) == 0o6777


@pytest.mark.parametrize(("opener", "writer", "left"), [(ROOT, BOB, 0o777), (BOB, ROOT, 0o6777)])
def test_set_id_goes_by_who_writes_not_by_who_opened(fs: Tree, opener: User, writer: User, left: int) -> None:
    """The open file may have been handed on."""
    name = owned(fs / "name", ALICE, 0o6777)

    def open_and_hand_on() -> None:
        os.setresuid(opener.uid, opener.uid, 0)
        fd = os.open(name, os.O_WRONLY)
        os.setresuid(0, 0, 0)
        posix.run(lambda: os.write(fd, b"x"), writer)

    posix.run(open_and_hand_on)
    assert mode_of(name) == left


# --- creating ---


MAKERS: dict[str, Callable[[Path], object]] = {
    "open": lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o7777)),
    "mkdir": lambda path: os.mkdir(path, 0o777),
    "mkfifo": lambda path: os.mkfifo(path, 0o777),
    "mknod": lambda path: os.mknod(path, 0o777 | stat.S_IFSOCK),
    "symlink": lambda path: os.symlink("target", path),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777], ids=oct)
def test_umask(fs: Tree, make: Callable[[Path], object], umask: int) -> None:
    fs.path.chmod(0o777)
    posix.run(lambda: make(fs / "name"), BOB, umask)
    wanted = 0o777 if make is MAKERS["symlink"] else 0o777 & ~umask
    assert mode_of(fs / "name") & 0o777 == wanted
    assert mode_of(fs.source / "name") & 0o777 == wanted


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_new_files_belong_to_their_maker(fs: Tree, make: Callable[[Path], object]) -> None:
    fs.path.chmod(0o777)
    before = fs.path.stat()
    posix.tick()
    posix.run(lambda: make(fs / "name"), CAROL, 0)
    made, after = (fs / "name").lstat(), fs.path.stat()
    assert owner_of(fs / "name") == owner_of(fs.source / "name") == (CAROL.uid, CAROL.gid)
    assert min(made.st_atime_ns, made.st_mtime_ns, made.st_ctime_ns) > before.st_ctime_ns
    assert min(after.st_mtime_ns, after.st_ctime_ns) > before.st_ctime_ns


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_set_group_directory_gives_its_group(fs: Tree, make: Callable[[Path], object]) -> None:
    os.chown(fs.path, 0, BOB.gid)
    fs.path.chmod(0o2777)
    posix.run(lambda: make(fs / "name"), CAROL, 0o022)
    assert owner_of(fs / "name") == (CAROL.uid, BOB.gid)
    is_dir = (fs / "name").is_dir()
    assert bool(mode_of(fs / "name") & stat.S_ISGID) == is_dir


def test_set_group_bit_of_a_new_file_needs_the_group(fs: Tree) -> None:
    os.chown(fs.path, 0, BOB.gid)
    fs.path.chmod(0o2777)
    create = lambda: os.close(os.open(fs / "name", os.O_CREAT | os.O_WRONLY, 0o2777))  # noqa: E731
    posix.run(create, CAROL, 0)
    assert mode_of(fs / "name") == 0o777
    (fs / "name").unlink()
    posix.run(create, BOB, 0)
    assert mode_of(fs / "name") == 0o2777


def test_a_file_made_read_only_can_be_written_by_its_maker(fs: Tree) -> None:
    fs.path.chmod(0o777)

    def work() -> None:
        fd = os.open(fs / "name", os.O_CREAT | os.O_RDWR, 0)
        os.write(fd, b"kept")
        assert os.pread(fd, 4, 0) == b"kept"
        os.close(fd)
        with fails(errno.EACCES):
            os.open(fs / "name", os.O_RDONLY)

    posix.run(work, ALICE, 0)
    assert (fs / "name").read_bytes() == b"kept"


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
def test_devices_are_made_by_root_only(fs: Tree, kind: int) -> None:
    fs.path.chmod(0o777)
    with fails(errno.EPERM):
        posix.run(lambda: os.mknod(fs / "name", 0o666 | kind, os.makedev(1, 3)), ALICE)
    os.mknod(fs / "name", 0o640 | kind, os.makedev(11, 258))
    made = (fs / "name").lstat()
    assert stat.S_IFMT(made.st_mode) == kind
    assert (os.major(made.st_rdev), os.minor(made.st_rdev)) == (11, 258)


# --- access ---


@pytest.mark.parametrize(
    ("user", "mode", "reads", "writes"),
    [
        (ALICE, 0o600, True, True), (ALICE, 0o400, True, False), (ALICE, 0o077, False, False),
        (CAROL, 0o640, True, False), (CAROL, 0o060, True, True), (CAROL, 0o606, False, False),
        (BOB, 0o604, True, False), (BOB, 0o602, False, True), (BOB, 0o660, False, False),
    ],
)  # fmt: skip
def test_owner_group_and_others(fs: Tree, user: User, mode: int, reads: bool, writes: bool) -> None:
    name = owned(fs / "name", ALICE, mode)

    def opens(flags: int) -> bool:
        try:
            os.close(os.open(name, flags))
        except PermissionError as error:
            return error.errno != errno.EACCES
        return True

    def work() -> tuple[bool, bool, bool, bool]:
        return opens(os.O_RDONLY), opens(os.O_WRONLY), os.access(name, os.R_OK), os.access(name, os.W_OK)

    assert posix.run(work, user) == (reads, writes, reads, writes)


def test_a_directory_lists_with_read_and_enters_with_search(fs: Tree) -> None:
    directory = owned(fs / "dir", ALICE, 0o700, "dir")
    (directory / "name").write_bytes(b"")
    for mode, lists, enters in ((0o704, True, False), (0o701, False, True), (0o700, False, False)):
        directory.chmod(mode)
        for allowed, work in ((lists, lambda: os.listdir(directory)), (enters, (directory / "name").stat)):
            if allowed:
                posix.run(work, BOB)
            else:
                with fails(errno.EACCES):
                    posix.run(work, BOB)


def test_losing_access_counts_at_once(fs: Tree) -> None:
    """Attributes may be cached: a mode changed through the mount must still count for the next open."""
    name = owned(fs / "name", ALICE, 0o644)
    name.write_bytes(b"secret")
    for _ in range(20):
        assert posix.run(name.read_bytes, BOB) == b"secret"
        name.chmod(0o600)
        with fails(errno.EACCES):
            posix.run(name.read_bytes, BOB)
        name.chmod(0o644)


def test_permission_is_checked_at_open_not_at_read(fs: Tree) -> None:
    name = owned(fs / "name", ALICE, 0o666)

    def work() -> bytes:
        fd = os.open(name, os.O_RDWR)
        os.write(fd, b"one")
        ready.send(b".")
        go.recv(1)
        os.write(fd, b"two")
        return os.pread(fd, 6, 0)

    ready, seen = socket.socketpair()
    go, start = socket.socketpair()
    child = posix.Child(work, BOB)
    seen.recv(1)
    name.chmod(0)
    start.send(b".")
    assert child.wait() == b"onetwo"


def test_executing(fs: Tree) -> None:
    script = owned(fs / "run", ALICE, 0o755)
    script.write_text("#!/bin/sh\nexit 7\n")
    run: Callable[[], int] = lambda: os.spawnv(os.P_WAIT, script, [os.fspath(script)])  # noqa: E731
    assert posix.run(run, BOB) == 7
    script.chmod(0o644)
    assert posix.run(run, BOB) == 127
    assert run() == 127  # not even root, without one execute bit


# --- sticky directories ---


@pytest.mark.parametrize("action", ["unlink", "rename", "replace", "rmdir"])
def test_sticky_directory(fs: Tree, action: str) -> None:
    fs.path.chmod(0o1777)
    owned(fs / "name", ALICE, 0o777)
    owned(fs / "dir", ALICE, 0o777, "dir")
    for user in (ALICE, BOB):
        owned(fs / str(user.uid), user, 0o777)
    actions: dict[str, Callable[[], object]] = {
        "unlink": (fs / "name").unlink,
        "rename": lambda: (fs / "name").rename(fs / "moved"),
        "replace": lambda: (fs / str(os.getuid())).rename(fs / "name"),
        "rmdir": (fs / "dir").rmdir,
    }
    with fails(errno.EPERM):
        posix.run(actions[action], BOB)
    posix.run(actions[action], ALICE)


def test_sticky_directory_of_ones_own(fs: Tree) -> None:
    directory = owned(fs / "dir", BOB, 0o1777, "dir")
    owned(directory / "name", ALICE, 0o644)
    with fails(errno.EPERM):
        posix.run((directory / "name").unlink, DAVE)
    posix.run((directory / "name").unlink, BOB)


def test_moving_a_directory_needs_write_permission_in_it(fs: Tree) -> None:
    """Its ``..`` changes."""
    one = owned(fs / "one", ALICE, 0o777, "dir")
    two = owned(fs / "two", ALICE, 0o777, "dir")
    owned(one / "sub", BOB, 0o755, "dir")
    with fails(errno.EACCES):
        posix.run(lambda: (one / "sub").rename(two / "sub"), ALICE)
    posix.run(lambda: (one / "sub").rename(one / "other"), ALICE)
    posix.run(lambda: (one / "other").rename(two / "sub"), BOB)
