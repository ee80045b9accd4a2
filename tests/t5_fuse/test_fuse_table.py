"""What pjdfstest goes through, call by call: each case on the mount and on a directory of the disk must
answer the same and change the same attributes, links and times of every file and directory, and no others.

The files are in the cache, and their attributes known to the kernel, before the calls are made.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.posix_table import TABLES, differences
from support.tree import Tree


def compared(fs: Tree, table: str, step: int) -> None:
    """Every ``step``th case of the table."""
    plain = fs.source.parent / f"{fs.source.name}-plain"
    for place in (plain, fs.path / "tree"):
        place.mkdir()
        place.chmod(0o777)

    def warm(top: Path) -> None:
        fs.settle()
        for directory, _, files in os.walk(top):
            for name in files:
                path = Path(directory) / name
                if path.is_file() and not path.is_symlink():
                    path.read_bytes()
                    path.read_bytes()

    cases = list(TABLES[table]())[::step]
    found, fine = differences(fs.path / "tree", plain, cases, warm)
    assert not found, "\n".join([f"{len(found)} of {len(cases)} cases:", *found[:30]])
    assert fine > len(cases) // 4, f"{fine} calls of {len(cases)} cases succeeded"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("table", TABLES)
def test_cases_are_as_on_the_disk(fs: Tree, table: str) -> None:
    """A part of each; other steps meet other combinations."""
    compared(fs, table, 3 if fs.mode in ("passthrough", "disk") else 11)


@pytest.mark.stress
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("table", TABLES)
def test_every_case_is_as_on_the_disk(fs: Tree, table: str) -> None:
    compared(fs, table, 1)
