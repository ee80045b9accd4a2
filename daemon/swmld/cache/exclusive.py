"""SQLite on a disk that may be full."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import quote


def connect_alone(path: Path, *, timeout: float = 5.0, cached_statements: int = 128) -> sqlite3.Connection:
    """A connection to a database that this process alone uses, by as many of them as it likes; it may move
    between threads, one at a time, and begins no transaction by itself. ``timeout``: seconds that it waits
    for another's lock; as it is, like ``cached_statements``, what sqlite3 does unless it is told.

    SQLite then keeps the index of its log (``-shm``) in memory. Else that is a file of the cache's disk that
    is written through a mapping, and where the disk or a quota is full that is no error but a SIGBUS: on a
    file system that writes to another place each time (btrfs), even a page that has been written needs room.
    """
    return sqlite3.connect(
        f"file:{quote(bytes(path.absolute()))}?vfs=unix-excl",
        uri=True,
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=cached_statements,
    )
