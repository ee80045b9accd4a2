"""What is in a directory for who goes down into others: its files and its directories. Blocking."""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

from swmld.mount.native import Native
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


def read(native: Native, parent: int, name: bytes | None = None) -> Found:
    """Of the directory ``parent``, or of ``name`` in it; OSError, ENOTDIR where that is a symbolic link."""
    nodeid = parent
    if name is not None:
        entry = native.lookup(parent, name, ref=False)
        if not stat.S_ISDIR(entry.mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        nodeid = entry.nodeid
    files: list[bytes] = []
    directories: list[bytes] = []
    fd = native.open_dir(nodeid)
    try:
        with os.scandir(fd) as entries:
            for each in entries:
                if each.is_dir(follow_symlinks=False):
                    directories.append(os.fsencode(each.name))
                elif name is not None and each.is_file(follow_symlinks=False):
                    files.append(os.fsencode(each.name))
    finally:
        os.close(fd)
    return Found(nodeid, Listing(files), sorted(directories)[:DIRECTORIES])
