"""Attributes of files whose source keeps neither owners nor permissions: object stores, web servers."""

from __future__ import annotations

import stat
import time

from swmld.sources.interface import Attributes, number_of
from swmld.sources.urls import SourceUrl

SECOND = 1_000_000_000


class Owners:
    """Whose the files are and who may read them, as the URL says: root and everybody otherwise."""

    def __init__(self, url: SourceUrl) -> None:
        self._uid, self._gid = int(url.options.get("uid", "0")), int(url.options.get("gid", "0"))
        self._file = stat.S_IFREG | int(url.options.get("mode", "644"), 8)
        self._directory = stat.S_IFDIR | int(url.options.get("dir_mode", "755"), 8)
        # A prefix has no time of its own; one that does not change is the best that can be said.
        self._since = int(time.time()) * SECOND

    def file(self, path: bytes, size: int, mtime_ns: int, tag: bytes) -> Attributes:
        """A file; ``mtime_ns`` is also the time of its last change, since nothing else can be changed."""
        return Attributes(
            self._file, size, mtime_ns, mtime_ns, uid=self._uid, gid=self._gid, ino=number_of(path), tag=tag
        )

    def directory(self, path: bytes) -> Attributes:
        """A directory, whose times are those of when the source was opened."""
        return Attributes(
            self._directory, 0, self._since, self._since, uid=self._uid, gid=self._gid, ino=number_of(path)
        )
