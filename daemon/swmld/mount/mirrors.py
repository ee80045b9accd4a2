"""Cache files that passed-through readers see, while somebody writes the source: each write goes there, too.

``native/hot.c`` tells why they cannot be sent to the source instead.
"""

from __future__ import annotations

import os

from swmld.fetch.threads import Workers
from swmld.mount.native import Entry, Native
from swmld.mount.opens import OpenFile


class Mirrors:
    """A node's own mirror is in its ``OpenFile``; here are those of superseded nodes whose readers live, by
    the file that other nodes are now. Loop-only."""

    def __init__(self, native: Native, disk: Workers) -> None:
        self._native = native
        self._disk = disk
        self._fds: dict[tuple[int, int], dict[int, int]] = {}
        """By (device, inode number): of each superseded node the cache file that is read."""

    def of(self, file: OpenFile) -> list[int]:
        """Descriptors of all to which writes of this file go as well."""
        if file.mirror_fd >= 0:
            return [file.mirror_fd]
        entry = self._native.cached_entry(file.nodeid) if self._fds else None
        return list(self._fds.get((entry.dev, entry.ino), {}).values()) if entry is not None else []

    async def own(self, file: OpenFile) -> None:
        """Writes to this node reach its passed-through readers from now on."""
        if file.mirror_fd < 0:
            file.mirror_fd = await self._disk.call(lambda: self._native.mirror_fd(file.nodeid))

    async def leave(self, file: OpenFile, entry: Entry) -> None:
        """The node will be superseded: writes to the one that comes reach its readers until ``end``."""
        nodeid, key = file.nodeid, (entry.dev, entry.ino)
        if nodeid not in self._fds.get(key, {}):
            mirror = await self._disk.call(lambda: self._native.mirror_fd(nodeid))
            self._fds.setdefault(key, {})[nodeid] = mirror
            file.mirrors_for = key
            self._native.attach(nodeid)  # its IDLE ends the mirror

    def end(self, file: OpenFile) -> None:
        """Nobody has a superseded node open any more."""
        if file.mirrors_for is None:
            return
        mirrors = self._fds[file.mirrors_for]
        os.close(mirrors.pop(file.nodeid))
        if not mirrors:
            del self._fds[file.mirrors_for]

    def close(self) -> None:
        """The mount is gone."""
        for mirrors in self._fds.values():
            for fd in mirrors.values():
                os.close(fd)
        self._fds.clear()
