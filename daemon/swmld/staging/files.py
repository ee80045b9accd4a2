"""One staged file: its bytes on the cache's disk, and what is known of it."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from swmld.sources.interface import Attributes, birth_ns, number_of

TICK_NS = 20_000_000
"""What two changes may be apart and have one time stamp, where the kernel's stamps are its ticks: 10 ms with
HZ=100, and as much again."""

TRIES = 50
"""Changes within a tick or two."""

MARKS = 8
"""Tries to mark a file that is written all the while."""


class Stamp(NamedTuple):
    """What tells whether a file has changed."""

    size: int
    mtime_ns: int
    ctime_ns: int

    @property
    def text(self) -> str:
        """For the journal."""
        return ",".join(map(str, self))


@dataclass(slots=True, eq=False)
class StagedFile:
    """``path`` and what follows are changed under the lock of the table that it belongs to; ``lock`` is held
    while it is filled, uploaded or renamed, and taken before the table's. ``fd`` is closed once ``users`` is
    0."""

    number: int
    fd: int
    path: bytes
    base: Attributes | None
    """The generation at the source that it replaces."""
    ino: int
    born_ns: int
    users: int = 0
    """Those that have it open to be written, or are about to change it."""
    stamp: Stamp | None = None
    """Of what the source has; None: it has none of it, or that cannot be told."""
    turn: int = 0
    """When it is to be uploaded; 0: nobody closed or synced it yet, or it has been."""
    waiting_bytes: int = 0
    """Its size when it was closed or synced, while it waits for its turn."""
    token: str = ""
    """Of the next upload, or of one that may have been made; empty: there is none yet."""
    tried: bool = False
    """It may have been made."""
    sent: str = ""
    """The stamp of the bytes that the token is of, as text; empty: it cannot be told."""
    made: int = 0
    """How often the source has got it."""
    uploading: bool = False
    again: bool = False
    """It was closed or synced while it was being uploaded."""
    gone: bool = False
    """It was removed, put aside, or never came to be."""
    aside: str = ""
    """Why it is kept for a person to look at."""
    broken: OSError | None = None
    """Why what it begins with could not be fetched."""
    error: str = ""
    """Of the last upload."""
    refused: bool = False
    """That error was of this file alone."""
    failures: int = 0
    due: float = 0.0
    """The monotonic clock's time from which it may be tried again."""
    mapped: bool = False
    """It was open for reading and writing, so that it may be written through a mapping."""
    filled: threading.Event = field(default_factory=threading.Event)
    """It has what it begins with, or is broken."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def attributes(self) -> Attributes:
        """As the mount shows them; with ``fd`` open."""
        st = os.fstat(self.fd)
        return Attributes(
            st.st_mode, st.st_size, st.st_mtime_ns, st.st_ctime_ns, self.born_ns, st.st_uid, st.st_gid,
            ino=self.ino,
        )  # fmt: skip

    def become(self, base: Attributes) -> Attributes:
        """The source has this of it now, and the mount shows the file as that; gives what it was shown as."""
        was = self.attributes()
        self.base, self.ino, self.born_ns = base, base.ino, birth_ns(base)
        return was

    def now(self) -> Stamp:
        """As it is."""
        st = os.fstat(self.fd)
        return Stamp(st.st_size, st.st_mtime_ns, st.st_ctime_ns)

    @property
    def dirty(self) -> bool:
        """Whether the source has something else."""
        return self.stamp is None or self.now() != self.stamp

    def mark(self, fine: bool) -> Stamp | None:
        """A stamp that it has not after the next change. Unless time stamps are ``fine``, that change may
        get the time of the last one, which is put back by a nanosecond then. None: it changes all the
        while."""
        for _ in range(MARKS):
            st = os.fstat(self.fd)
            if fine or abs(time.time_ns() - st.st_mtime_ns) > TICK_NS:
                return Stamp(st.st_size, st.st_mtime_ns, st.st_ctime_ns)
            os.utime(self.fd, ns=(st.st_atime_ns, st.st_mtime_ns - 1))
            after = self.now()
            if after.mtime_ns == st.st_mtime_ns - 1:
                return after
        return None


def staged(directory: Path, number: int, fd: int, path: bytes, base: Attributes | None) -> StagedFile:
    """A file that is changed stays the file that it was; a new one gets a number of its own."""
    if base is not None:
        return StagedFile(number, fd, path, base, base.ino, birth_ns(base))
    own = number_of(b"%d staged in %s" % (number, bytes(directory)))
    return StagedFile(number, fd, path, None, own, time.time_ns())


def fine_stamps(directory: Path) -> bool:
    """Whether each change of a file that was looked at gives it another time stamp, as with the kernel's
    multigrain timestamps (6.13, ext4, XFS, btrfs, tmpfs). Found out by trying."""
    try:
        fd = os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError:  # a file system without such files
        return False
    try:
        seen = set()
        for _ in range(TRIES):
            os.pwrite(fd, b"x", 0)
            seen.add(os.fstat(fd).st_mtime_ns)
        return len(seen) == TRIES
    finally:
        os.close(fd)


def shown(path: bytes) -> str:
    """For people."""
    return path.decode("utf-8", "backslashreplace")
