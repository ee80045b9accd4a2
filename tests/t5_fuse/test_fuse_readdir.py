"""Directories: listing, seeking, changing while listed, very many entries, strange names, great depth."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest
from support import posix
from support.posix import fails
from support.tree import Tree

MANY = 100_000


def names_of(path: Path) -> list[bytes]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return [entry.name for entry in posix.read_dir(fd)]
    finally:
        os.close(fd)


def test_empty_directory(fs: Tree) -> None:
    assert sorted(names_of(fs.path)) == [b".", b".."]


def test_entries_carry_kind_and_inode(fs: Tree) -> None:
    for kind in posix.KINDS:
        posix.make(kind, fs / kind)
    kinds = {"file": 8, "dir": 4, "fifo": 1, "socket": 12, "char": 2, "block": 6, "symlink": 10}
    fd = os.open(fs.path, os.O_RDONLY | os.O_DIRECTORY)
    listed = {os.fsdecode(entry.name): entry for entry in posix.read_dir(fd)}
    os.close(fd)
    for kind in posix.KINDS:
        assert listed[kind].kind == kinds[kind]
        assert listed[kind].ino == (fs / kind).lstat().st_ino
    assert listed["."].ino == fs.path.stat().st_ino


def test_dot_dot_leads_up(fs: Tree) -> None:
    (fs / "sub").mkdir()
    fd = os.open(fs / "sub", os.O_RDONLY | os.O_DIRECTORY)
    listed = {entry.name: entry.ino for entry in posix.read_dir(fd)}
    os.close(fd)
    assert set(listed) == {b".", b".."}
    assert (fs / "sub" / "..").stat().st_ino == fs.path.stat().st_ino


def test_rewinding_shows_what_is_new(fs: Tree) -> None:
    (fs / "one").write_bytes(b"")
    fd = os.open(fs.path, os.O_RDONLY | os.O_DIRECTORY)
    assert {entry.name for entry in posix.read_dir(fd)} == {b".", b"..", b"one"}
    (fs / "two").write_bytes(b"")
    (fs / "one").unlink()
    os.lseek(fd, 0, os.SEEK_SET)
    assert {entry.name for entry in posix.read_dir(fd)} == {b".", b"..", b"two"}
    os.close(fd)


def test_going_on_from_a_cookie(fs: Tree) -> None:
    """telldir and seekdir: from each entry's cookie the rest of the directory follows, in the same order."""
    for number in range(500):
        (fs / f"name{number:04}").write_bytes(b"")
    fd = os.open(fs.path, os.O_RDONLY | os.O_DIRECTORY)
    entries = posix.read_dir(fd)
    names = [entry.name for entry in entries]
    assert len(set(names)) == len(names) == 502
    for at in [*random.Random(3).sample(range(502), 20), 501]:
        os.lseek(fd, entries[at].offset, os.SEEK_SET)
        assert [entry.name for entry in posix.read_dir(fd)] == names[at + 1 :]
    os.close(fd)


def test_small_buffers(fs: Tree) -> None:
    wanted = {b"n" * 200 + b"%03d" % number for number in range(60)}
    for name in wanted:
        (fs / name.decode()).write_bytes(b"")
    fd = os.open(fs.path, os.O_RDONLY | os.O_DIRECTORY)
    listed = [entry.name for entry in posix.read_dir(fd, size=512)]
    os.close(fd)
    assert sorted(listed) == sorted([*wanted, b".", b".."])


@pytest.mark.parametrize("seed", [1])
def test_changes_while_listing(fs: Tree, seed: int) -> None:
    """What is there throughout is listed exactly once; what comes or goes meanwhile at most once."""
    dice = random.Random(seed)
    stay = {b"stay%05d" % number for number in range(3_000)}
    going = [b"goes%05d" % number for number in range(1_000)]
    for name in [*stay, *going]:
        os.close(os.open(os.fsencode(fs.source) + b"/" + name, os.O_CREAT | os.O_WRONLY))
    listed: list[bytes] = []
    fd = os.open(fs.path, os.O_RDONLY | os.O_DIRECTORY)
    created = 0
    while batch := posix.getdents(fd, 4096):
        listed += [entry.name for entry in batch]
        for _ in range(dice.randrange(12)):
            os.close(os.open(fs / f"comes{created:05}", os.O_CREAT | os.O_WRONLY))
            created += 1
            if going:
                os.unlink(os.fsencode(fs.path) + b"/" + going.pop(dice.randrange(len(going))))
    os.close(fd)
    assert len(listed) == len(set(listed))
    assert stay <= set(listed)


def test_removing_while_listing(fs: Tree) -> None:
    """As rm -r does it: list a part, remove it, go on, until the directory is empty."""
    for number in range(2_000):
        (fs.source / f"name{number}").write_bytes(b"")
    fd = os.open(fs.path, os.O_RDONLY | os.O_DIRECTORY)
    removed = 0
    while batch := posix.getdents(fd, 2048):
        for entry in batch:
            if entry.name not in (b".", b".."):
                os.unlink(entry.name, dir_fd=fd)
                removed += 1
    os.close(fd)
    assert removed == 2_000
    os.rmdir(fs.path)
    fs.path.mkdir()


def _fill(directory: Path, count: int) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    for number in range(count):
        os.mknod(f"{number:07}", 0o100644, dir_fd=fd)
    os.close(fd)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", [MANY, pytest.param(1_000_000, marks=pytest.mark.stress)])
def test_very_many_entries(fs: Tree, count: int) -> None:
    _fill(fs.source, count)
    names = names_of(fs.path)
    assert len(names) == count + 2
    assert set(names) == {b".", b"..", *(b"%07d" % number for number in range(count))}
    sample = random.Random(5).sample(range(count), 200)
    for number in sample:
        assert (fs / f"{number:07}").stat().st_ino == (fs.source / f"{number:07}").stat().st_ino
    with fails(errno.ENOENT):
        (fs / f"{count:07}").stat()


def test_listing_with_attributes(fs: Tree) -> None:
    """What readdirplus says must be what stat says, also for files changed since."""
    for number in range(300):
        (fs / f"{number}").write_bytes(b"x" * number)
    for entry in os.scandir(fs.path):
        assert entry.stat().st_size == int(entry.name)
    for number in range(300):
        (fs / f"{number}").write_bytes(b"x" * (number + 7))
    for entry in os.scandir(fs.path):
        assert entry.stat().st_size == int(entry.name) + 7


# --- names ---

STRANGE = [
    b"\xff\xfe\x80", b"line\nbreak", b"tab\there", b" ", b"-rf", b"*", b"quote'\"", b"back\\slash", b"...",
    b".hidden", "é".encode(), "e\u0301".encode(), b"\x01\x7f", b"a" * 255, b"\xf0\x9f\x8d\x8e" * 63,
]  # fmt: skip


@pytest.mark.parametrize("name", STRANGE)
def test_any_bytes_make_a_name(fs: Tree, name: bytes) -> None:
    here, there = os.fsencode(fs.path) + b"/" + name, os.fsencode(fs.source) + b"/" + name
    with open(here, "wb") as file:
        file.write(b"content")
    assert os.listdir(os.fsencode(fs.path)) == os.listdir(os.fsencode(fs.source)) == [name]
    with open(there, "rb") as file:
        assert file.read() == b"content"
    os.rename(here, here[:-1] + b"z")
    os.mkdir(here)
    os.symlink(name, here + b"/" + name)
    assert os.readlink(here + b"/" + name) == name
    os.setxattr(here, "user.a", b"1")
    assert os.getxattr(there, "user.a") == b"1"
    os.unlink(here + b"/" + name)
    os.rmdir(here)
    os.unlink(here[:-1] + b"z")


def test_names_that_differ_in_case_or_form(fs: Tree) -> None:
    names = ["name", "Name", "NAME", "é", "e\u0301"]
    for name in names:
        (fs / name).write_text(name)
    assert sorted(os.listdir(fs.path)) == sorted(names)
    assert [(fs / name).read_text() for name in names] == names


def test_deeper_than_a_path_can_say(fs: Tree) -> None:
    """Made and walked by chdir: 60 names of 200 bytes are three times PATH_MAX."""
    name, depth = "d" * 200, 60

    def descend(start: Path, make: bool) -> bytes:
        os.chdir(start)
        for _ in range(depth):
            if make:
                os.mkdir(name)
            os.chdir(name)
        if make:
            Path("bottom").write_bytes(b"deep")
        return Path("bottom").read_bytes()

    assert posix.run(lambda: descend(fs.path, make=True)) == b"deep"
    assert posix.run(lambda: descend(fs.source, make=False)) == b"deep"
    assert posix.run(lambda: descend(fs.path, make=False)) == b"deep"

    def climb() -> int:
        os.chdir(fs.path)
        for _ in range(depth):
            os.chdir(name)
        os.unlink("bottom")
        for _ in range(depth):
            os.chdir("..")
            os.rmdir(name)
        return os.stat(".").st_ino

    assert posix.run(climb) == fs.path.stat().st_ino


def test_link_count_of_a_directory_counts_its_directories(fs: Tree) -> None:
    for number in range(10):
        assert fs.path.stat().st_nlink == number + 2
        (fs / f"sub{number}").mkdir()
        (fs / f"file{number}").write_bytes(b"")
    assert fs.source.stat().st_nlink == 12
