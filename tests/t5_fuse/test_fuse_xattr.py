"""Extended attributes, capabilities and POSIX access control lists."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
from pathlib import Path

import pytest
from support import posix
from support.posix import ALICE, BOB, CAROL, fails
from support.tree import Tree


@pytest.mark.parametrize("kind", ["file", "dir"])
def test_user_attributes(fs: Tree, kind: str) -> None:
    posix.make(kind, fs / "name")
    os.setxattr(fs / "name", "user.one", b"1")
    os.setxattr(fs / "name", "user.empty", b"")
    os.setxattr(fs / "name", "user.binary", bytes(range(256)))
    assert sorted(os.listxattr(fs / "name")) == ["user.binary", "user.empty", "user.one"]
    for path in (fs / "name", fs.source / "name"):
        assert os.getxattr(path, "user.one") == b"1"
        assert os.getxattr(path, "user.empty") == b""
        assert os.getxattr(path, "user.binary") == bytes(range(256))
    os.removexattr(fs / "name", "user.one")
    with fails(errno.ENODATA):
        os.getxattr(fs / "name", "user.one")
    with fails(errno.ENODATA):
        os.removexattr(fs / "name", "user.one")


def test_create_and_replace(fs: Tree) -> None:
    posix.make("file", fs / "name")
    with fails(errno.ENODATA):
        os.setxattr(fs / "name", "user.a", b"1", os.XATTR_REPLACE)
    os.setxattr(fs / "name", "user.a", b"1", os.XATTR_CREATE)
    with fails(errno.EEXIST):
        os.setxattr(fs / "name", "user.a", b"2", os.XATTR_CREATE)
    os.setxattr(fs / "name", "user.a", b"longer than before", os.XATTR_REPLACE)
    assert os.getxattr(fs / "name", "user.a") == b"longer than before"


def test_limits(fs: Tree) -> None:
    posix.make("file", fs / "name")
    os.setxattr(fs / "name", "user." + "n" * 250, b"long name")
    with fails(errno.ERANGE):
        os.setxattr(fs / "name", "user." + "n" * 251, b"")
    with fails(errno.E2BIG):
        os.setxattr(fs / "name", "user.big", b"x" * 65_537)
    with fails(errno.ENOSPC, errno.E2BIG, errno.ERANGE):
        os.setxattr(fs / "name", "user.big", b"x" * 65_536)
    os.setxattr(fs / "name", "user.most", b"x" * 3_000)
    assert os.getxattr(fs / "name", "user.most") == b"x" * 3_000
    with fails(errno.EOPNOTSUPP):
        os.setxattr(fs / "name", "unknown.space", b"")


def test_many_attributes(fs: Tree) -> None:
    posix.make("file", fs / "name")
    names = [f"user.attribute{number:03}" for number in range(60)]
    for name in names:
        os.setxattr(fs / "name", name, name.encode())
    assert sorted(os.listxattr(fs / "name")) == names
    assert all(os.getxattr(fs / "name", name) == name.encode() for name in names)


def test_user_attributes_need_a_file_or_directory(fs: Tree) -> None:
    for kind in ("fifo", "socket", "char", "block"):
        posix.make(kind, fs / kind)
        with fails(errno.EPERM):
            os.setxattr(fs / kind, "user.a", b"")
    (fs / "link").symlink_to("nowhere")
    with fails(errno.EPERM):
        os.setxattr(fs / "link", "user.a", b"", follow_symlinks=False)
    os.setxattr(fs / "link", "trusted.a", b"of the link", follow_symlinks=False)
    assert os.getxattr(fs / "link", "trusted.a", follow_symlinks=False) == b"of the link"


def test_user_attributes_follow_the_mode(fs: Tree) -> None:
    posix.make("file", fs / "name", 0o600)
    os.chown(fs / "name", ALICE.uid, ALICE.gid)
    posix.run(lambda: os.setxattr(fs / "name", "user.a", b"1"), ALICE)
    with fails(errno.EACCES):
        posix.run(lambda: os.getxattr(fs / "name", "user.a"), BOB)
    (fs / "name").chmod(0o644)
    assert posix.run(lambda: os.getxattr(fs / "name", "user.a"), BOB) == b"1"
    with fails(errno.EACCES):
        posix.run(lambda: os.setxattr(fs / "name", "user.a", b"2"), BOB)


def test_trusted_attributes_are_roots(fs: Tree) -> None:
    posix.make("file", fs / "name", 0o666)
    os.setxattr(fs / "name", "trusted.a", b"1")
    assert os.getxattr(fs / "name", "trusted.a") == os.getxattr(fs.source / "name", "trusted.a") == b"1"
    with fails(errno.ENODATA, errno.EPERM):
        posix.run(lambda: os.getxattr(fs / "name", "trusted.a"), ALICE)
    with fails(errno.EPERM):
        posix.run(lambda: os.setxattr(fs / "name", "trusted.a", b"2"), ALICE)
    assert "trusted.a" in os.listxattr(fs / "name")
    os.setxattr(fs / "name", "user.a", b"1")
    assert posix.run(lambda: os.listxattr(fs / "name"), ALICE) == ["user.a"]


def _capability() -> bytes:
    """VFS_CAP_REVISION_2, effective, CAP_NET_RAW permitted."""
    return struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


def test_file_capabilities(fs: Tree) -> None:
    posix.make("file", fs / "name", 0o755)
    os.setxattr(fs / "name", "security.capability", _capability())
    assert os.getxattr(fs / "name", "security.capability") == _capability()
    assert os.getxattr(fs.source / "name", "security.capability") == _capability()
    with fails(errno.EPERM):
        posix.run(lambda: os.setxattr(fs / "name", "security.capability", _capability()), ALICE)


@pytest.mark.parametrize("change", ["write", "truncate", "chown"])
def test_capabilities_are_lost_with_the_content(fs: Tree, change: str) -> None:
    posix.make("file", fs / "name", 0o777)
    (fs / "name").write_bytes(b"0123456789")
    os.setxattr(fs / "name", "security.capability", _capability())
    if change == "write":
        posix.run(lambda: (fs / "name").open("ab").write(b"x"), BOB)
    elif change == "truncate":
        posix.run(lambda: os.truncate(fs / "name", 1), BOB)
    else:
        os.chown(fs / "name", ALICE.uid, ALICE.gid)
    for path in (fs / "name", fs.source / "name"):
        with fails(errno.ENODATA):
            os.getxattr(path, "security.capability")


# --- access control lists ---


def setfacl(path: Path, *args: str) -> None:
    subprocess.run(["setfacl", *args, path], check=True, timeout=30)


def getfacl(path: Path) -> list[str]:
    out = subprocess.check_output(
        ["getfacl", "--omit-header", "--numeric", "--absolute-names", path], timeout=30
    )
    return [line.split("\t")[0] for line in out.decode().split("\n") if line]


def test_acl_shows_on_both_sides(fs: Tree) -> None:
    posix.make("file", fs / "name", 0o640)
    setfacl(fs / "name", "-m", f"u:{BOB.uid}:rw,g:{ALICE.gid}:r")
    wanted = [
        "user::rw-",
        f"user:{BOB.uid}:rw-",
        "group::r--",
        f"group:{ALICE.gid}:r--",
        "mask::rw-",
        "other::---",
    ]
    assert getfacl(fs / "name") == getfacl(fs.source / "name") == wanted
    assert (fs / "name").stat().st_mode & 0o777 == 0o660  # the mask shows as the group's mode
    assert "system.posix_acl_access" in os.listxattr(fs / "name")


def test_acl_decides(fs: Tree) -> None:
    (fs / "name").write_bytes(b"for some")
    (fs / "name").chmod(0o600)
    read = (fs / "name").read_bytes
    with fails(errno.EACCES):
        posix.run(read, BOB)
    setfacl(fs / "name", "-m", f"u:{BOB.uid}:r,g:{ALICE.gid}:r")
    assert posix.run(read, BOB) == b"for some"
    assert posix.run(read, CAROL) == b"for some"  # by a supplementary group
    with fails(errno.EACCES):
        posix.run(lambda: (fs / "name").open("r+b"), BOB)
    setfacl(fs / "name", "-m", "m::-")
    with fails(errno.EACCES):
        posix.run(read, BOB)
    setfacl(fs / "name", "-m", "m::r", "-m", f"u:{BOB.uid}:-")
    with fails(errno.EACCES):
        posix.run(read, BOB)
    setfacl(fs / "name", "-b")
    assert "system.posix_acl_access" not in os.listxattr(fs / "name")
    with fails(errno.EACCES):
        posix.run(read, CAROL)


def test_acl_decides_who_enters_and_creates(fs: Tree) -> None:
    (fs / "dir").mkdir()
    (fs / "dir").chmod(0o700)
    create = lambda: (fs.path / "dir" / "name").write_bytes(b"")  # noqa: E731
    with fails(errno.EACCES):
        posix.run(create, BOB)
    setfacl(fs / "dir", "-m", f"u:{BOB.uid}:rwx")
    posix.run(create, BOB)
    with fails(errno.EACCES):
        posix.run(lambda: os.listdir(fs / "dir"), ALICE)


@pytest.mark.parametrize("umask", [0, 0o077])
def test_default_acl_is_inherited_and_beats_the_umask(fs: Tree, umask: int) -> None:
    setfacl(fs.path, "-d", "-m", f"u::rwx,g::rx,o::-,u:{BOB.uid}:rwx,m::rwx")
    fs.path.chmod(0o777)

    def work() -> None:
        os.close(os.open(fs / "file", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mkdir(fs / "dir", 0o777)

    posix.run(work, ALICE, umask)
    wanted = ["user::rw-", f"user:{BOB.uid}:rwx", "group::r-x", "mask::rw-", "other::---"]
    assert getfacl(fs / "file") == getfacl(fs.source / "file") == wanted
    assert [line for line in getfacl(fs / "dir") if line.startswith("default:")] == [
        "default:user::rwx", f"default:user:{BOB.uid}:rwx", "default:group::r-x", "default:mask::rwx",
        "default:other::---",
    ]  # fmt: skip
    assert (fs / "dir").stat().st_mode & 0o777 == 0o770
    assert (fs / "file").stat().st_mode & 0o777 == 0o660


def test_chmod_with_an_acl_sets_the_mask(fs: Tree) -> None:
    posix.make("file", fs / "name", 0o640)
    setfacl(fs / "name", "-m", f"u:{BOB.uid}:rw")
    (fs / "name").chmod(0o640)
    assert "mask::r--" in getfacl(fs / "name")
    assert "group::r--" in getfacl(fs / "name")


def test_only_the_owner_sets_an_acl(fs: Tree) -> None:
    posix.make("file", fs / "name", 0o666)
    setfacl(fs / "name", "-m", f"u:{BOB.uid}:rw")
    value = os.getxattr(fs / "name", "system.posix_acl_access")
    with fails(errno.EPERM):
        posix.run(lambda: os.setxattr(fs / "name", "system.posix_acl_access", value), BOB)
    os.chown(fs / "name", ALICE.uid, ALICE.gid)
    posix.run(lambda: os.setxattr(fs / "name", "system.posix_acl_access", value), ALICE)
