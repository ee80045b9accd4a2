"""What pjdfstest asserts, found out instead of written down: the same random calls on the mount and on a
directory of the disk, by root, an owner, a stranger and a user of several groups. Each must answer the same,
down to the errno, and change the same attributes, links and times of every file and directory."""

from __future__ import annotations

import pytest
from support.differential import compare
from support.tree import Tree


def differential(fs: Tree, seed: int, steps: int) -> dict[str, int]:
    plain = fs.source.parent / f"{fs.source.name}-plain"
    for place in (plain, fs.path / "tree"):
        place.mkdir()
        place.chmod(0o777)
    # What is passed through the kernel writes as nobody in particular: set-id bits that a file was given
    # after it was opened go, whoever writes.
    set_id = fs.mode != "passthrough"
    return compare(fs.path / "tree" / "top", plain / "top", seed, steps, chmod_set_id=set_id)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_calls_do_the_same(fs: Tree, seed: int) -> None:
    fine = differential(fs, seed, 600)
    assert sum(fine.values()) > 150, fine
    assert len(fine) > 25, fine


@pytest.mark.stress
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(10, 14))
def test_many_calls_do_the_same(fs: Tree, seed: int) -> None:
    differential(fs, seed, 20_000)
