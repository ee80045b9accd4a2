"""Names of files and directories for the patterns: from the node table, and places from listings."""

from __future__ import annotations

import os
from collections import OrderedDict

from swmld.mount.listings import Listings
from swmld.mount.native import ROOT, Native
from swmld.patterns.feed import Folder, Place

FILES_BEFORE_LISTING = 4
"""Different files of a directory that are asked for before it is listed: most programs read one or two."""

FOLDERS = 65536
"""Directories that are remembered."""


class NodeNames:
    """``patterns.feed.Names``. Loop-only, never blocks.

    A directory is wanted to be listed (``wanted``) once several of its files were asked for.
    """

    def __init__(self, native: Native, listings: Listings) -> None:
        self._native = native
        self._listings = listings
        self._asked: OrderedDict[int, int] = OrderedDict()
        self.wanted: set[int] = set()

    def place(self, file: int) -> Place | None:
        """From the table; None for a file that has no name any more."""
        found = self._native.place(file)
        if found is None:
            return None
        directory, name, size = found
        listing = self._listings.get(directory)
        if listing is None:
            self._count(directory)
            return Place(directory, name, size, None, None)
        index = listing.find(name)
        return Place(directory, name, size, index, None if index is None else listing.place(index))

    def folder(self, directory: int) -> Folder | None:
        """From the table."""
        try:
            path = self._native.path(directory)
            parent = None if directory == ROOT else self._native.parent(directory)[0]
        except OSError:
            return None
        listing = self._listings.get(directory)
        text = os.fsdecode(path)
        return Folder(parent, "" if text == "." else text, None if listing is None else len(listing))

    def _count(self, directory: int) -> None:
        asked = self._asked[directory] = self._asked.pop(directory, 0) + 1
        if asked == FILES_BEFORE_LISTING:
            self.wanted.add(directory)
        if len(self._asked) > FOLDERS:
            self._asked.popitem(last=False)
