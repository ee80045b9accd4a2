"""The source as nodes: names, attributes, opened bytes. Blocking, for worker threads (``gate.SourceGate``).

``DirectoryTree`` is a directory of this host: C asks it. ``remote.RemoteTree`` is everything else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from swmld.mount.native import Entry, Native
from swmld.sources.interface import Reader
from swmld.types import Identity

DIRECT_MINIMUM = 256 << 10
"""Bytes from which a remote file is read with O_DIRECT."""


@dataclass(frozen=True, slots=True)
class Opened:
    """Bytes of one file at the source: behind a descriptor, or a ``reader``."""

    fd: int = -1
    direct: bool = False
    """``fd`` is O_DIRECT."""
    reader: Reader | None = None

    def close(self, close_fd: Callable[[int], None]) -> None:
        """Lets go of it; descriptors by ``close_fd``, which does not block."""
        if self.fd >= 0:
            close_fd(self.fd)
        if self.reader is not None:
            self.reader.close()


class Found(NamedTuple):
    """A regular file that was opened by its name."""

    name: bytes
    path: bytes
    nodeid: int
    identity: Identity
    opened: Opened


class Tree(Protocol):
    """What is asked of a source, by node. OSError; ESTALE: the node's name means another file."""

    remembers: bool
    """``open_known`` may find some."""
    tagged: bool
    """A fraction of a second in the ctime of a file tells its generations from each other
    (``sources.interface.generation_ns``)."""

    def lookup(self, parent: int, name: bytes, ref: bool = True) -> Entry:
        """The child; with ``ref`` the kernel holds one more reference to it."""
        ...

    def getattr(self, nodeid: int) -> Entry:
        """The node, asked for just now or as recently as ``check`` allows."""
        ...

    def scan(self, nodeid: int) -> Iterator[tuple[bytes, int]]:
        """Each entry of a directory: its name, and its type as in ``st_mode``."""
        ...

    def open(self, nodeid: int, size: int) -> Opened:
        """To fill the cache with: perhaps another generation by now, which the flight finds out."""
        ...

    def open_child(self, parent: int, name: bytes) -> tuple[Entry, Opened]:
        """A child that is known to be a regular file and that nobody has opened yet."""
        ...

    def open_known(self, parent: int, names: Sequence[bytes], limit: int) -> list[Found]:
        """As ``open_child`` of those that have 1 to ``limit`` bytes and of which the source need not be asked
        again; the others are left out."""
        ...

    def reopen(self, nodeid: int, opened: Opened, *, held: bool = False) -> Opened:
        """To be read past the cache: the file that is ``opened``, else that of the node; ``held``: for who
        has it open, even if its name means another one by now."""
        ...

    def number(self, path: bytes) -> Callable[[bytes], int] | None:
        """Of the file at ``path``, see ``Source.number_at``; None: its number is not that of a path, or it
        was not asked about of late."""
        ...

    def staged(self, nodeid: int) -> bool:
        """Whether its bytes are not the source's yet: they are read past the cache."""
        ...

    def doubt(self, nodeid: int) -> None:
        """The source has other bytes than those of the generation that is known: ask. Loop-safe."""
        ...

    def offline(self, nodeid: int) -> bool:
        """Whether what is known of it may be shown while the source does not answer. Loop-safe."""
        ...


class Writes(Protocol):
    """Files that are open to be written, by node. OSError. Blocking, for as long as it takes."""

    late: bool
    """What is written to a descriptor is not the source's before ``sync``, even if it is open with O_SYNC."""

    def open(self, nodeid: int, flags: int) -> int:
        """A descriptor of the file to write to, and to read if that can be; ended by ``closed``."""
        ...

    def closed(self, nodeid: int, fd: int) -> None:
        """The kernel has let go of it, mappings too: closes it."""
        ...

    def flush(self, nodeid: int, fd: int) -> None:
        """close(2) of one of its descriptors: reports what the source's own close would."""
        ...

    def sync(self, nodeid: int, fd: int, how: Callable[[int], None]) -> None:
        """What was written of the file, through whichever descriptor, is safe afterwards; ``how``: fsync(2)
        or fdatasync(2). ``fd`` -1: asked by somebody who only reads."""
        ...


class DirectoryTree:
    """A directory. ``direct``: large files are read past this host's page cache: a FUSE or NFS client then
    sends a read as parallel requests instead of one readahead window at a time, and memory is left to the
    cache file's pages."""

    remembers = False
    tagged = False

    def __init__(self, native: Native, *, direct: bool) -> None:
        self._native = native
        self._direct = direct

    def lookup(self, parent: int, name: bytes, ref: bool = True) -> Entry:
        """See ``Tree``."""
        return self._native.lookup(parent, name, ref)

    def getattr(self, nodeid: int) -> Entry:
        """See ``Tree``."""
        return self._native.getattr(nodeid)

    def number(self, path: bytes) -> None:
        """A file's number stays its own."""

    def scan(self, nodeid: int) -> Iterator[tuple[bytes, int]]:
        """See ``Tree``."""
        fd = self._native.open_dir(nodeid)
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    kind = 0
                    if entry.is_dir(follow_symlinks=False):
                        kind = stat.S_IFDIR
                    elif entry.is_file(follow_symlinks=False):
                        kind = stat.S_IFREG
                    yield os.fsencode(entry.name), kind
        finally:
            os.close(fd)

    def open(self, nodeid: int, size: int) -> Opened:
        """See ``Tree``."""
        if self._direct and size >= DIRECT_MINIMUM:
            with contextlib.suppress(OSError):
                fd = self._native.open_source(nodeid, os.O_RDONLY | os.O_DIRECT, verify=False)
                return Opened(fd, direct=True)
        return Opened(self._native.open_source(nodeid, os.O_RDONLY, verify=False))

    def open_child(self, parent: int, name: bytes) -> tuple[Entry, Opened]:
        """See ``Tree``."""
        entry, fd = self._native.open_child(parent, name)
        return entry, Opened(fd)

    def open_known(self, parent: int, names: Sequence[bytes], limit: int) -> list[Found]:
        """See ``Tree``: none, a directory is always asked."""
        return []

    def reopen(self, nodeid: int, opened: Opened, *, held: bool = False) -> Opened:
        """See ``Tree``. The open file itself, even if its name means another one by now; without O_DIRECT."""
        if opened.fd >= 0:
            return Opened(os.open(f"/proc/self/fd/{opened.fd}", os.O_RDONLY | os.O_CLOEXEC))
        if held:
            return Opened(self._native.open_held(nodeid, os.O_RDONLY, by_handle=True))
        return Opened(self._native.open_source(nodeid, os.O_RDONLY))

    def staged(self, nodeid: int) -> bool:
        """See ``Tree``."""
        return False

    def doubt(self, nodeid: int) -> None:
        """See ``Tree``. It is asked at each open."""

    def offline(self, nodeid: int) -> bool:
        """See ``Tree``."""
        return True


class NoWrites:
    """See ``Writes``: the mount is read-only, and the kernel refuses them before we are asked."""

    late = False

    def open(self, nodeid: int, flags: int) -> int:
        """EROFS."""
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def closed(self, nodeid: int, fd: int) -> None:
        """Nothing was open."""

    def flush(self, nodeid: int, fd: int) -> None:
        """Nothing was written."""

    def sync(self, nodeid: int, fd: int, how: Callable[[int], None]) -> None:
        """Nothing was written."""


class DirectoryWrites:
    """See ``Writes``: every byte goes to the source at once."""

    late = False

    def __init__(self, native: Native) -> None:
        self._native = native

    def open(self, nodeid: int, flags: int) -> int:
        """See ``Writes``."""
        sync = flags & (os.O_SYNC | os.O_DSYNC)
        try:
            return self._native.open_source(nodeid, os.O_RDWR | sync)
        except PermissionError:
            return self._native.open_source(nodeid, os.O_WRONLY | sync)

    def closed(self, nodeid: int, fd: int) -> None:
        """See ``Writes``."""
        os.close(fd)

    def flush(self, nodeid: int, fd: int) -> None:
        """See ``Writes``. NFS reports all writes then; with no descriptor to spare, an fsync(2)."""
        try:
            copy = os.dup(fd)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            os.fsync(fd)
        else:
            os.close(copy)

    def sync(self, nodeid: int, fd: int, how: Callable[[int], None]) -> None:
        """See ``Writes``."""
        if fd >= 0:
            how(fd)
            return
        try:
            fd = self._native.open_held(nodeid, os.O_RDONLY, by_handle=True)
        except OSError as error:
            if error.errno == errno.ESTALE and self._native.local:
                return  # nobody has written it since it was opened: a writer's file would be held
            raise
        try:
            how(fd)
        finally:
            os.close(fd)
