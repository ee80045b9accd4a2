"""Everyday tools see the same tree through the mount as in the source, and can copy trees into it."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest
from support import posix
from support.compare import assert_same, describe
from support.tree import Tree


def grow(top: Path, seed: int) -> None:
    """A small tree with one of everything."""
    dice = random.Random(seed)
    directories = [top]
    for number in range(12):
        directory = dice.choice(directories) / f"dir{number}"
        directory.mkdir()
        directories.append(directory)
    files = []
    for number in range(80):
        path = dice.choice(directories) / (f"file {number}\n" if number % 9 == 0 else f"{number}")
        path.write_bytes(dice.randbytes(dice.choice([0, 1, 100, 4096, 70_001])))
        path.chmod(dice.choice([0o600, 0o644, 0o755, 0o4755, 0o444]))
        os.utime(path, ns=(dice.randrange(2 * 10**18), dice.randrange(2 * 10**18)))
        files.append(path)
    for number in range(10):
        os.link(dice.choice(files), dice.choice(directories) / f"link{number}")
        (dice.choice(directories) / f"symlink{number}").symlink_to("../" * number + "x")
        os.setxattr(dice.choice(files), "user.tag", b"%d" % number)
        os.chown(dice.choice(files), number, number + 1)
    for kind in posix.MAKEABLE:
        posix.make(kind, dice.choice(directories) / kind)


def tool(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=120, errors="surrogateescape"
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@pytest.fixture
def grown(fs: Tree) -> Tree:
    (fs.source / "tree").mkdir()
    grow(fs.source / "tree", 7)
    fs.settle()
    return fs


def test_the_mount_shows_the_source(grown: Tree) -> None:
    assert_same(grown / "tree", grown.source / "tree")
    assert_same(grown / "tree", grown.source / "tree")  # now from the cache


def test_find(grown: Tree) -> None:
    wanted = "%P\\0%y\\0%i\\0%n\\0%s\\0%m\\0%U\\0%G\\0%T@\\0%l\\n"
    lists = [tool("find", top / "tree", "-printf", wanted) for top in (grown.path, grown.source)]
    # The size of a directory is the business of its file system, and both are the same one here.
    assert sorted(lists[0].split("\n")) == sorted(lists[1].split("\n"))


@pytest.mark.parametrize("way", ["in", "out"])
def test_cp(grown: Tree, base: Path, way: str) -> None:
    source, target = grown / "tree", base / "copy"
    if way == "in":
        tool("cp", "-a", source, target)
        source, target = base / "copy", grown / "back"
    tool("cp", "-a", source, target)
    assert_same(target, grown.source / "tree")


def test_tar(grown: Tree, base: Path) -> None:
    options = ("--xattrs", "--xattrs-include=*", "--numeric-owner")
    tool("tar", *options, "-cf", base / "tree.tar", "-C", grown.path, "tree")
    (grown / "out").mkdir()
    tool("tar", *options, "-xpf", base / "tree.tar", "-C", grown / "out")
    wanted = {name: entry for name, entry in describe(grown.source / "tree").items() if b"socket" not in name}
    assert describe(grown.source / "out" / "tree") == wanted


def test_rm(grown: Tree) -> None:
    tool("rm", "-r", grown / "tree")
    assert os.listdir(grown.path) == os.listdir(grown.source) == []


def test_mv_within_and_out(grown: Tree, base: Path) -> None:
    before = describe(grown.source / "tree")
    tool("mv", grown / "tree", grown / "moved")
    assert describe(grown / "moved") == before
    tool("mv", grown / "moved", base / "outside")
    assert describe(base / "outside") == before
    assert os.listdir(grown.source) == []


def test_du_and_diff(grown: Tree) -> None:
    sizes = [tool("du", "-s", "--apparent-size", ".", cwd=top / "tree") for top in (grown.path, grown.source)]
    assert sizes[0] == sizes[1]
    tool("diff", "-r", "--no-dereference", "-x", "fifo", "-x", "char", "-x", "block", "-x", "socket",
         grown / "tree", grown.source / "tree")  # fmt: skip


def test_shell_work(fs: Tree) -> None:
    """Redirections, here-documents, in-place edits and sorting with temporary files, all in the mount."""
    script = """
    set -e
    seq 1 5000 > numbers; seq 5001 10000 >> numbers
    sort -R -T . numbers > mixed; sort -n -T . mixed -o sorted; cmp numbers sorted
    sed -i 's/^1$/one/' numbers; head -1 numbers | grep -qx one
    split -l 1000 sorted part.; cat part.* | cmp - sorted
    gzip -k sorted; gunzip -c sorted.gz | cmp - sorted
    dd if=sorted of=copy bs=777 conv=fsync status=none; cmp copy sorted
    truncate -s 10 copy; test $(stat -c %s copy) = 10
    ln copy hard; echo more >> hard; test $(stat -c %h copy) = 2; tail -1 copy | grep -qx more
    tee a b < sorted > c; cmp a b; cmp b c
    install -m 640 a installed; test $(stat -c %a installed) = 640
    """
    tool("sh", "-c", script, cwd=fs.path)
    assert (fs.source / "sorted").read_text() == "".join(f"{number}\n" for number in range(1, 10_001))
