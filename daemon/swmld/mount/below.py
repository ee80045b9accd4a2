"""What is in a directory for who goes down into others: its files and its directories. Blocking."""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

from swmld.mount.tree import Tree
from swmld.plan.listing import Listing

DIRECTORIES = 128
"""Directories that one decision fetches from at most, besides the file's own: half of those whose readers are
remembered, and more than a SavedModel, a checkpoint or a model repository has."""

FILES = 4096
"""Files in them altogether: as many as may wait."""


class Found(NamedTuple):
    """Both without symbolic links; ``directories`` sorted, the first ``DIRECTORIES`` of them."""

    nodeid: int
    files: Listing
    directories: list[bytes]


def read(tree: Tree, parent: int, name: bytes | None = None) -> Found:
    """Of the directory ``parent``, or of ``name`` in it; OSError, ENOTDIR where that is a symbolic link."""
    nodeid = parent
    if name is not None:
        entry = tree.lookup(parent, name, ref=False)
        if not stat.S_ISDIR(entry.mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        nodeid = entry.nodeid
    files: list[bytes] = []
    directories: list[bytes] = []
    for each, kind in tree.scan(nodeid):
        if kind == stat.S_IFDIR:
            directories.append(each)
        elif name is not None and kind == stat.S_IFREG:
            files.append(each)
    return Found(nodeid, Listing(files), sorted(directories)[:DIRECTORIES])
