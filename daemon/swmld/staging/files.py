"""One staged file: its bytes on the cache's disk, and what is known of it."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from swmld.sources.interface import Attributes

TICK_NS = 20_000_000
"""What two changes may be apart and have one time stamp, where the kernel's stamps are its ticks: 10 ms with
HZ=100, and as much again."""


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
    """``path`` and what follows are changed under the lock of the area that it belongs to, which closes
    ``fd``, too; ``lock`` is held while it is filled or uploaded, and taken before the area's."""

    number: int
    fd: int
    path: bytes
    base: Attributes | None
    """The generation at the source that it replaces."""
    ino: int
    born_ns: int
    users: int = 0
    """Those that have it open to be written."""
    stamp: Stamp | None = None
    """Of what the source has; None: it has none of it, or that cannot be told."""
    turn: int = 0
    """When it is to be uploaded; 0: nobody closed or synced it yet, or it has been."""
    token: str = ""
    """Of an upload that may have been made."""
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
    lock: threading.Lock = field(default_factory=threading.Lock)

    def attributes(self) -> Attributes:
        """As the mount shows them; with ``fd`` open."""
        st = os.fstat(self.fd)
        return Attributes(
            st.st_mode, st.st_size, st.st_mtime_ns, st.st_ctime_ns, self.born_ns, st.st_uid, st.st_gid,
            ino=self.ino,
        )  # fmt: skip

    def now(self) -> Stamp:
        """As it is."""
        st = os.fstat(self.fd)
        return Stamp(st.st_size, st.st_mtime_ns, st.st_ctime_ns)

    @property
    def dirty(self) -> bool:
        """Whether the source has something else."""
        return self.stamp is None or self.now() != self.stamp


def fine_stamps(directory: Path) -> bool:
    """Whether each change of a file that was looked at gives it another time stamp, as with the kernel's
    multigrain timestamps (6.13, ext4, XFS, btrfs, tmpfs). Found out by trying."""
    fd = os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600)
    try:
        seen = set()
        for _ in range(TRIES):
            os.pwrite(fd, b"x", 0)
            seen.add(os.fstat(fd).st_mtime_ns)
        return len(seen) == TRIES
    finally:
        os.close(fd)


TRIES = 50
"""Changes within a tick or two."""
