"""What each call must say of a path that cannot work: one table of calls, one test a reason."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support import posix
from support.posix import ALICE, fails
from support.tree import Tree

Call = Callable[[Path, Path], object]
"""Takes the path under test and a plain file beside it."""

EXISTING: dict[str, Call] = {
    "open": lambda path, _: os.close(os.open(path, os.O_RDONLY)),
    "open write": lambda path, _: os.close(os.open(path, os.O_WRONLY)),
    "stat": lambda path, _: path.stat(),
    "lstat": lambda path, _: path.lstat(),
    "access": lambda path, _: posix.access(path, os.R_OK),
    "chmod": lambda path, _: path.chmod(0o600),
    "chown": lambda path, _: os.chown(path, -1, -1),
    "lchown": lambda path, _: os.lchown(path, -1, -1),
    "truncate": lambda path, _: os.truncate(path, 10),
    "utimensat": lambda path, _: os.utime(path, ns=(1, 1)),
    "getxattr": lambda path, _: os.getxattr(path, "user.a"),
    "setxattr": lambda path, _: os.setxattr(path, "user.a", b"1"),
    "listxattr": lambda path, _: os.listxattr(path),
    "unlink": lambda path, _: path.unlink(),
    "link from": lambda path, file: os.link(path, file.with_name("linked")),
    "rename from": lambda path, file: path.rename(file.with_name("renamed")),
    "statvfs": lambda path, _: os.statvfs(path),
}
CREATING: dict[str, Call] = {
    "creat": lambda path, _: os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)),
    "mkdir": lambda path, _: path.mkdir(),
    "mkfifo": lambda path, _: os.mkfifo(path),
    "mknod": lambda path, _: os.mknod(path, 0o644 | 0o100000),
    "symlink": lambda path, _: path.symlink_to("target"),
    "link to": lambda path, file: os.link(file, path),
    "rename to": lambda path, file: file.rename(path),
}
OF_DIRECTORIES: dict[str, Call] = {
    "rmdir": lambda path, _: path.rmdir(),
    "opendir": lambda path, _: os.listdir(path),
}
ALL = {**EXISTING, **CREATING, **OF_DIRECTORIES}
FOLLOWING = {
    "open", "open write", "stat", "access", "chmod", "chown", "truncate", "utimensat", "getxattr", "setxattr",
    "listxattr", "statvfs", "creat", "opendir",
}  # fmt: skip
CHANGING_THE_DIRECTORY = {"unlink", "rmdir", "rename from", *CREATING}


def calls(table: dict[str, Call]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("call", table.values(), ids=table.keys())


@pytest.fixture
def file(fs: Tree) -> Path:
    path = fs / "file"
    path.write_bytes(b"0123456789")
    path.chmod(0o666)
    return path


@calls(ALL)
def test_missing_component(fs: Tree, file: Path, call: Call) -> None:
    with fails(errno.ENOENT):
        call(fs.path / "nothing" / "name", file)


@calls({**EXISTING, **OF_DIRECTORIES})
def test_missing_name(fs: Tree, file: Path, call: Call) -> None:
    with fails(errno.ENOENT):
        call(fs.path / "nothing", file)


@calls(ALL)
@pytest.mark.parametrize("kind", ["file", "fifo", "socket", "char", "block"])
def test_component_is_no_directory(fs: Tree, file: Path, call: Call, kind: str) -> None:
    posix.make(kind, fs / "component")
    with fails(errno.ENOTDIR):
        call(fs.path / "component" / "name", file)


@calls(ALL)
def test_name_of_256_bytes(fs: Tree, file: Path, call: Call) -> None:
    with fails(errno.ENAMETOOLONG):
        call(fs / ("n" * 256), file)
    with fails(errno.ENAMETOOLONG):
        call(fs.path / ("c" * 256) / "name", file)


@calls(CREATING)
def test_name_of_255_bytes(fs: Tree, file: Path, call: Call) -> None:
    name = "é" * 127 + "x"
    assert len(os.fsencode(name)) == 255
    call(fs / name, file)
    assert name in os.listdir(fs.path)
    assert name in os.listdir(fs.source)


@calls(ALL)
def test_path_of_4096_bytes(fs: Tree, file: Path, call: Call) -> None:
    with fails(errno.ENAMETOOLONG):
        call(fs.path.joinpath(*["c"] * 2048), file)


@calls(ALL)
def test_symlinks_in_a_circle(fs: Tree, file: Path, call: Call) -> None:
    (fs / "a").symlink_to("b")
    (fs / "b").symlink_to("a")
    with fails(errno.ELOOP):
        call(fs.path / "a" / "name", file)


@pytest.mark.parametrize("name", sorted(FOLLOWING))
def test_last_symlink_in_a_circle(fs: Tree, file: Path, name: str) -> None:
    (fs / "a").symlink_to("b")
    (fs / "b").symlink_to("a")
    with fails(errno.ELOOP):
        ALL[name](fs / "a", file)


@calls(ALL)
def test_component_without_search_permission(fs: Tree, file: Path, call: Call) -> None:
    (fs / "closed").mkdir()
    (fs / "closed" / "name").write_bytes(b"")
    fs.path.chmod(0o777)
    (fs / "closed").chmod(0o666)
    with fails(errno.EACCES):
        posix.run(lambda: call(fs.path / "closed" / "name", file), ALICE)


@pytest.mark.parametrize("name", sorted(CHANGING_THE_DIRECTORY))
def test_directory_without_write_permission(fs: Tree, file: Path, name: str) -> None:
    fs.path.chmod(0o777)
    posix.run(lambda: (fs / "alices").write_bytes(b""), ALICE)  # whose file may be linked
    (fs / "shut").mkdir()
    target = fs.path / "shut" / "name"
    if name == "rmdir":
        target.mkdir()
    elif name not in CREATING:
        target.write_bytes(b"")
        target.chmod(0o666)
        os.chown(target, ALICE.uid, ALICE.gid)
    (fs / "shut").chmod(0o555)
    with fails(errno.EACCES):
        posix.run(lambda: ALL[name](target, fs / "alices"), ALICE)
    (fs / "shut").chmod(0o777)
    posix.run(lambda: ALL[name](target, fs / "alices"), ALICE)


@calls({name: call for name, call in CREATING.items() if name not in ("creat", "rename to")})
@pytest.mark.parametrize("kind", posix.KINDS)
def test_name_exists(fs: Tree, file: Path, call: Call, kind: str) -> None:
    posix.make(kind, fs / "name")
    before = (fs / "name").lstat()
    with fails(errno.EEXIST):
        call(fs / "name", file)
    assert (fs / "name").lstat().st_ino == before.st_ino


@pytest.mark.parametrize("kind", posix.KINDS)
def test_exclusive_create(fs: Tree, kind: str) -> None:
    posix.make(kind, fs / "name")
    with fails(errno.EEXIST):
        os.open(fs / "name", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    assert not (fs / "nowhere").exists()


def test_trailing_slash(fs: Tree, file: Path) -> None:
    (fs / "dir").mkdir()
    with fails(errno.ENOTDIR):
        os.stat(f"{file}/")
    with fails(errno.ENOTDIR):
        os.unlink(f"{file}/")
    with fails(errno.ENOTDIR):
        os.rename(f"{file}/", fs / "other")
    with fails(errno.EISDIR):
        os.open(f"{fs.path}/new/", os.O_CREAT | os.O_WRONLY)
    os.mkdir(f"{fs.path}/made/")
    os.rename(f"{fs.path}/dir/", f"{fs.path}/moved/")
    assert (fs / "moved").is_dir()


def test_dot_names(fs: Tree) -> None:
    (fs / "dir").mkdir()
    with fails(errno.EINVAL):
        os.rmdir(f"{fs.path}/dir/.")
    with fails(errno.ENOTEMPTY):
        os.rmdir(f"{fs.path}/dir/..")
    for dots in (".", ".."):
        with fails(errno.EBUSY):
            os.rename(f"{fs.path}/dir/{dots}", fs / "other")
        with fails(errno.EEXIST):
            os.mkdir(f"{fs.path}/dir/{dots}")
    assert os.stat(f"{fs.path}/dir/..").st_ino == fs.path.stat().st_ino
