"""rename and its flags, link, unlink, rmdir: names, link counts, times, and files that stay open."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from support import posix
from support.posix import ALICE, BOB, fails
from support.tree import Tree


def kind_of(path: Path) -> int:
    return stat.S_IFMT(path.lstat().st_mode)


# --- rename ---


@pytest.mark.parametrize("kind", posix.KINDS)
def test_rename_keeps_the_file(fs: Tree, kind: str) -> None:
    posix.make(kind, fs / "old")
    (fs / "sub").mkdir()
    before, root = (fs / "old").lstat(), fs.path.stat()
    posix.tick()
    (fs / "old").rename(fs.path / "sub" / "new")
    after = (fs.path / "sub" / "new").lstat()
    assert (after.st_ino, after.st_mode, after.st_nlink) == (before.st_ino, before.st_mode, before.st_nlink)
    assert after.st_ctime_ns > before.st_ctime_ns
    assert after.st_mtime_ns == before.st_mtime_ns
    assert fs.path.stat().st_mtime_ns > root.st_mtime_ns
    assert os.listdir(fs.path) == os.listdir(fs.source) == ["sub"]
    assert os.listdir(fs / "sub") == ["new"]
    with fails(errno.ENOENT):
        (fs / "old").lstat()


@pytest.mark.parametrize("old", posix.KINDS)
@pytest.mark.parametrize("new", posix.KINDS)
def test_rename_over(fs: Tree, old: str, new: str) -> None:
    posix.make(old, fs / "old")
    posix.make(new, fs / "new")
    inode = (fs / "old").lstat().st_ino
    if old == "dir" and new != "dir":
        with fails(errno.ENOTDIR):
            (fs / "old").rename(fs / "new")
    elif new == "dir" and old != "dir":
        with fails(errno.EISDIR):
            (fs / "old").rename(fs / "new")
    else:
        (fs / "old").rename(fs / "new")
        assert os.listdir(fs.path) == os.listdir(fs.source) == ["new"]
        assert (fs / "new").lstat().st_ino == inode


def test_rename_over_a_full_directory(fs: Tree) -> None:
    (fs / "old").mkdir()
    (fs / "new").mkdir()
    (fs.path / "new" / "name").write_bytes(b"")
    with fails(errno.ENOTEMPTY, errno.EEXIST):
        (fs / "old").rename(fs / "new")
    (fs.path / "new" / "name").unlink()
    (fs / "old").rename(fs / "new")


def test_rename_into_itself(fs: Tree) -> None:
    (fs.path / "a" / "b").mkdir(parents=True)
    with fails(errno.EINVAL):
        (fs / "a").rename(fs.path / "a" / "b" / "c")
    with fails(errno.ENOTEMPTY):
        (fs.path / "a" / "b").rename(fs / "a")


def test_rename_between_two_names_of_one_file_does_nothing(fs: Tree) -> None:
    (fs / "one").write_bytes(b"x")
    os.link(fs / "one", fs / "two")
    (fs / "one").rename(fs / "two")
    assert sorted(os.listdir(fs.path)) == ["one", "two"]


def test_rename_over_a_hard_link_lowers_its_count(fs: Tree) -> None:
    (fs / "new").write_bytes(b"new")
    os.link(fs / "new", fs / "kept")
    (fs / "old").write_bytes(b"old")
    before = (fs / "kept").stat()
    posix.tick()
    (fs / "old").rename(fs / "new")
    after = (fs / "kept").stat()
    assert (before.st_nlink, after.st_nlink) == (2, 1)
    assert after.st_ctime_ns > before.st_ctime_ns
    assert ((fs / "kept").read_bytes(), (fs / "new").read_bytes()) == (b"new", b"old")


def test_rename_moves_link_counts_of_directories(fs: Tree) -> None:
    for name in ("one/sub", "two"):
        (fs.path / name).mkdir(parents=True)
    assert ((fs / "one").stat().st_nlink, (fs / "two").stat().st_nlink) == (3, 2)
    (fs.path / "one" / "sub").rename(fs / "two" / "sub")
    assert ((fs / "one").stat().st_nlink, (fs / "two").stat().st_nlink) == (2, 3)
    assert (fs / "two" / "sub" / "..").stat().st_ino == (fs / "two").stat().st_ino


def test_rename_of_a_directory_moves_what_is_open_in_it(fs: Tree) -> None:
    (fs.path / "old" / "deep").mkdir(parents=True)
    name = fs.path / "old" / "deep" / "name"
    name.write_bytes(b"before")
    with name.open("r+b") as file:
        (fs / "old").rename(fs / "new")
        assert file.read() == b"before"
        file.write(b" after")
        file.flush()
        assert (fs.path / "new" / "deep" / "name").read_bytes() == b"before after"
        with fails(errno.ENOENT):
            name.stat()
        (fs / "old").mkdir()
        assert os.listdir(fs / "old") == []
        os.fchmod(file.fileno(), 0o611)
    assert (fs.source / "new" / "deep" / "name").stat().st_mode & 0o777 == 0o611


def test_rename_over_an_open_file(fs: Tree) -> None:
    (fs / "name").write_bytes(b"old content")
    (fs / "next").write_bytes(b"new")
    with (fs / "name").open("r+b") as old:
        assert old.read(3) == b"old"
        (fs / "next").rename(fs / "name")
        assert (fs / "name").read_bytes() == b"new"
        assert old.read() == b" content"
        assert os.fstat(old.fileno()).st_nlink == 0
        old.write(b" more")
        old.flush()
        assert os.pread(old.fileno(), 99, 0) == b"old content more"
    assert (fs / "name").read_bytes() == (fs.source / "name").read_bytes() == b"new"


def test_the_usual_safe_save(fs: Tree) -> None:
    """Write beside, fsync, rename over, many times: a reader by name sees one version or the other, whole."""
    (fs / "name").write_bytes(b"0" * 70_000)
    for version in range(1, 30):
        with (fs / "name.tmp").open("wb") as file:
            file.write(b"%d" % (version % 10) * (70_000 + version))
            file.flush()
            os.fsync(file.fileno())
        (fs / "name.tmp").rename(fs / "name")
        data = (fs / "name").read_bytes()
        assert data == b"%d" % (version % 10) * (70_000 + version)
    assert os.listdir(fs.path) == ["name"]


# --- renameat2 ---


def test_noreplace(fs: Tree) -> None:
    (fs / "old").write_bytes(b"old")
    (fs / "new").write_bytes(b"new")
    with fails(errno.EEXIST):
        posix.renameat2(fs / "old", fs / "new", posix.RENAME_NOREPLACE)
    assert (fs / "new").read_bytes() == b"new"
    posix.renameat2(fs / "old", fs / "free", posix.RENAME_NOREPLACE)
    assert (fs / "free").read_bytes() == b"old"


@pytest.mark.parametrize("other", posix.KINDS)
def test_exchange(fs: Tree, other: str) -> None:
    (fs / "one").write_bytes(b"one")
    posix.make(other, fs / "two")
    inodes = [(fs / name).lstat().st_ino for name in ("one", "two")]
    kind = kind_of(fs / "two")
    posix.renameat2(fs / "one", fs / "two", posix.RENAME_EXCHANGE)
    assert [(fs / name).lstat().st_ino for name in ("two", "one")] == inodes
    assert kind_of(fs / "one") == kind_of(fs.source / "one") == kind
    assert (fs / "two").read_bytes() == b"one"


def test_exchange_of_directories_with_content(fs: Tree) -> None:
    for name in ("a/x/1", "b/y/2"):
        (fs.path / name).mkdir(parents=True)
    posix.renameat2(fs / "a" / "x", fs / "b" / "y", posix.RENAME_EXCHANGE)
    assert os.listdir(fs / "a" / "x") == ["2"]
    assert os.listdir(fs / "b" / "y") == ["1"]
    (fs / "a" / "x" / "3").write_bytes(b"3")
    assert (fs.source / "a" / "x" / "3").read_bytes() == b"3"


def test_exchange_needs_both(fs: Tree) -> None:
    (fs / "one").write_bytes(b"")
    with fails(errno.ENOENT):
        posix.renameat2(fs / "one", fs / "two", posix.RENAME_EXCHANGE)
    with fails(errno.EINVAL):
        posix.renameat2(fs / "one", fs / "two", posix.RENAME_EXCHANGE | posix.RENAME_NOREPLACE)


# --- link ---


@pytest.mark.parametrize("kind", [kind for kind in posix.KINDS if kind != "dir"])
def test_link(fs: Tree, kind: str) -> None:
    posix.make(kind, fs / "one")
    (fs / "sub").mkdir()
    before = (fs / "one").lstat()
    posix.tick()
    os.link(fs / "one", fs.path / "sub" / "two", follow_symlinks=False)
    one, two = (fs / "one").lstat(), (fs.path / "sub" / "two").lstat()
    assert one == two
    assert one.st_nlink == 2
    assert one.st_ctime_ns > before.st_ctime_ns
    posix.tick()
    (fs / "one").unlink()
    left = (fs.path / "sub" / "two").lstat()
    assert left.st_nlink == 1
    assert left.st_ctime_ns > one.st_ctime_ns


def test_hard_links_share_everything(fs: Tree) -> None:
    (fs / "one").write_bytes(b"first")
    os.link(fs / "one", fs / "two")
    (fs / "two").write_bytes(b"second, longer")
    assert (fs / "one").read_bytes() == b"second, longer"
    (fs / "one").chmod(0o600)
    assert (fs / "two").stat().st_mode & 0o777 == 0o600
    os.truncate(fs / "one", 6)
    assert (fs / "two").stat().st_size == 6
    assert (fs / "two").stat().st_ino == (fs.source / "one").stat().st_ino


def test_link_of_a_directory(fs: Tree) -> None:
    (fs / "dir").mkdir()
    with fails(errno.EPERM):
        os.link(fs / "dir", fs / "other")


def test_inode_numbers_are_those_of_the_source(fs: Tree) -> None:
    for kind in posix.KINDS:
        posix.make(kind, fs / kind)
    (fs.source / "behind").write_bytes(b"made behind the mount")
    for name in (*posix.KINDS, "behind"):
        assert (fs / name).lstat().st_ino == (fs.source / name).lstat().st_ino
    listed = {entry.name: entry.inode() for entry in os.scandir(fs.path)}
    assert listed == {entry.name: entry.inode() for entry in os.scandir(fs.source)}


# --- unlink and rmdir ---


@pytest.mark.parametrize("kind", [kind for kind in posix.KINDS if kind != "dir"])
def test_unlink(fs: Tree, kind: str) -> None:
    posix.make(kind, fs / "name")
    before = fs.path.stat()
    posix.tick()
    (fs / "name").unlink()
    after = fs.path.stat()
    assert min(after.st_mtime_ns, after.st_ctime_ns) > before.st_mtime_ns
    with fails(errno.ENOENT):
        (fs / "name").lstat()
    with fails(errno.ENOENT):
        (fs / "name").unlink()
    posix.make(kind, fs / "name")


def test_unlink_of_a_directory_and_rmdir_of_a_file(fs: Tree) -> None:
    (fs / "dir").mkdir()
    with fails(errno.EISDIR):
        (fs / "dir").unlink()
    for kind in posix.KINDS:
        if kind != "dir":
            posix.make(kind, fs / kind)
            with fails(errno.ENOTDIR):
                os.rmdir(fs / kind)


def test_rmdir(fs: Tree) -> None:
    (fs.path / "dir" / "sub").mkdir(parents=True)
    with fails(errno.ENOTEMPTY, errno.EEXIST):
        os.rmdir(fs / "dir")
    posix.tick()
    before = fs.path.stat()
    posix.tick()
    os.rmdir(fs.path / "dir" / "sub")
    assert (fs / "dir").stat().st_nlink == 2
    os.rmdir(fs / "dir")
    after = fs.path.stat()
    assert after.st_nlink == before.st_nlink - 1 == 2
    assert min(after.st_mtime_ns, after.st_ctime_ns) > before.st_ctime_ns


def test_a_removed_directory_that_is_somebodys_own(fs: Tree) -> None:
    def work() -> None:
        os.mkdir(fs / "dir")
        os.chdir(fs / "dir")
        os.rmdir(fs / "dir")
        assert os.listdir(".") == []
        with fails(errno.ENOENT):
            os.mkdir("sub")
        with fails(errno.ENOENT):
            os.close(os.open("name", os.O_CREAT | os.O_WRONLY))
        assert os.stat(".").st_nlink == 0

    posix.run(work)


def test_an_unlinked_open_file_lives_on(fs: Tree) -> None:
    (fs / "name").write_bytes(b"x" * 100_000)
    fd = os.open(fs / "name", os.O_RDWR)
    (fs / "name").unlink()
    (fs / "name").write_bytes(b"another file")
    try:
        assert os.fstat(fd).st_nlink == 0
        assert os.fstat(fd).st_size == 100_000
        assert os.pread(fd, 200_000, 0) == b"x" * 100_000
        os.pwrite(fd, b"yz", 99_999)
        os.ftruncate(fd, 100_500)
        os.fsync(fd)
        os.utime(fd, ns=(1_000, 2_000))
        os.fchown(fd, 12, 34)
        status = os.fstat(fd)
        assert (status.st_size, status.st_mtime_ns, status.st_uid) == (100_500, 2_000, 12)
        assert os.pread(fd, 1_000, 99_990) == b"x" * 9 + b"yz" + b"\0" * 499
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
        assert os.pread(again, 2, 99_999) == b"yz"
        os.close(again)
    finally:
        os.close(fd)
    assert (fs / "name").read_bytes() == b"another file"


def test_a_name_used_again_is_another_file(fs: Tree) -> None:
    """The source may hand the inode number out again: nothing of the first file may show in the second."""
    for round_ in range(50):
        data = bytes([round_]) * (1000 + round_)
        (fs / "name").write_bytes(data)
        os.setxattr(fs / "name", "user.round", b"%d" % round_)
        (fs / "name").chmod(0o600 if round_ % 2 else 0o644)
        assert (fs / "name").read_bytes() == data
        (fs / "name").unlink()
    (fs / "name").write_bytes(b"")
    assert os.listxattr(fs / "name") == []


def test_linking_another_users_file(fs: Tree) -> None:
    """fs.protected_hardlinks, where it is on, holds on the mount as on the source."""
    protected = Path("/proc/sys/fs/protected_hardlinks").read_text().strip() == "1"
    fs.path.chmod(0o777)
    (fs / "name").write_bytes(b"")
    os.chown(fs / "name", ALICE.uid, ALICE.gid)
    if protected:
        with fails(errno.EPERM):
            posix.run(lambda: os.link(fs / "name", fs / "mine"), BOB)
    else:
        posix.run(lambda: os.link(fs / "name", fs / "mine"), BOB)
    posix.run(lambda: os.link(fs / "name", fs / "own"), ALICE)


# --- symlink ---


@pytest.mark.parametrize("target", [b"x", b"../up/and/down", b"/absolute", b"\xff\xfe not text", b"t" * 4095])
def test_symlink_targets(fs: Tree, target: bytes) -> None:
    os.symlink(target, os.fsencode(fs / "link"))
    assert os.readlink(os.fsencode(fs / "link")) == target
    assert os.readlink(os.fsencode(fs.source / "link")) == target
    assert (fs / "link").lstat().st_size == len(target)


def test_readlink_of_no_symlink(fs: Tree) -> None:
    for kind in posix.KINDS:
        if kind != "symlink":
            posix.make(kind, fs / kind)
            with fails(errno.EINVAL):
                os.readlink(fs / kind)


def test_symlinks_are_followed_inside_the_mount(fs: Tree) -> None:
    (fs.path / "real" / "sub").mkdir(parents=True)
    (fs / "short").symlink_to("real/sub")
    (fs / "short" / "name").write_bytes(b"through")
    assert (fs.source / "real" / "sub" / "name").read_bytes() == b"through"
    with fails(errno.ELOOP, errno.ENOTDIR):
        os.open(fs / "short", os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    with fails(errno.ELOOP):
        os.open(fs / "short", os.O_RDONLY | os.O_NOFOLLOW)
