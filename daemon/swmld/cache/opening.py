"""From a directory to an open cache: lay it out, lock it, open its index or make a new one."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from swmld.cache.index import Index, Start
from swmld.cache.layout import Layout
from swmld.errors import CacheError, UsageError

log = logging.getLogger(__name__)

# sqlite3.h, primary result codes. SQLITE_ERROR at start means that tables or columns are missing.
SQLITE_ERROR = 1
SQLITE_CORRUPT = 11
SQLITE_NOTADB = 26


@dataclass(slots=True)
class Opened:
    """An open index, what it said at the start, and the fd that holds the directory's lock."""

    index: Index
    start: Start
    lock_fd: int


def is_corruption(error: sqlite3.Error) -> bool:
    """Whether ``error`` says that the index itself is damaged (not: full, busy, or refused by the disk)."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (SQLITE_CORRUPT, SQLITE_NOTADB)


def _unusable(error: Exception) -> bool:
    """At start an index without its tables or with values that make no sense counts as damaged, too."""
    if not isinstance(error, sqlite3.Error):
        return True
    code = getattr(error, "sqlite_errorcode", None)
    return code is None or code & 0xFF in (SQLITE_ERROR, SQLITE_CORRUPT, SQLITE_NOTADB)


class Trouble:
    """What happens when the index fails while in use: said once of each kind, and reads go on."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._said: set[str] = set()

    def note(self, error: sqlite3.Error) -> None:
        """Log ``error``; an index that is damaged is made anew by the next start."""
        kind = getattr(error, "sqlite_errorname", type(error).__name__)
        if kind in self._said:
            return
        self._said.add(kind)
        log.warning("cache index: %s; reads go on, what is fetched may be forgotten", error)
        if is_corruption(error):
            try:
                self._layout.damaged.touch()
            except OSError as touch_error:
                log.warning("cache index: cannot be marked as damaged: %s", touch_error.strerror)

    def unreadable(self, error: sqlite3.Error) -> NoReturn:
        """``note`` and raise ``CacheError``."""
        self.note(error)
        raise CacheError(f"cache: the index cannot be read: {error}") from error


def open_cache(
    layout: Layout, source_key: str, mount: str, boot_id_path: Path, clock: Callable[[], float]
) -> Opened:
    """Open or make the cache at ``layout``. ``UsageError`` if it cannot be used. Blocks."""
    layout.prepare()
    lock_fd = layout.lock(mount)
    try:
        boot_id = boot_id_path.read_text(encoding="ascii").strip()
        index, start = _open_index(layout, source_key, boot_id, int(clock()))
    except BaseException as error:
        os.close(lock_fd)
        if isinstance(error, sqlite3.Error | OSError):
            raise UsageError(f"cache directory {layout.root}: {error}") from error
        raise
    return Opened(index, start, lock_fd)


def _open_index(layout: Layout, source_key: str, boot_id: str, stamp: int) -> tuple[Index, Start]:
    if layout.damaged.exists():
        _give_up_index(layout, stamp, "it was found damaged while in use")
    elif not layout.index.exists() and layout.has_data():
        # File ids would start anew and meet these files.
        layout.set_data_aside(stamp)
    try:
        return _start_index(layout, source_key, boot_id)
    except (sqlite3.Error, KeyError, TypeError, ValueError) as error:
        if not _unusable(error):
            raise
        _give_up_index(layout, stamp, str(error) or type(error).__name__)
    return _start_index(layout, source_key, boot_id)


def _start_index(layout: Layout, source_key: str, boot_id: str) -> tuple[Index, Start]:
    index = Index(layout.index)
    try:
        return index, index.start(source_key, boot_id)
    except BaseException:
        index.close()
        raise


def _give_up_index(layout: Layout, stamp: int, reason: str) -> None:
    aside = layout.index.with_name(f"index.db.corrupt-{stamp}")
    with contextlib.suppress(FileNotFoundError):
        layout.index.replace(aside)
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{layout.index}{suffix}").replace(f"{aside}{suffix}")
    layout.set_data_aside(stamp)
    with contextlib.suppress(FileNotFoundError):
        layout.damaged.unlink()
    log.warning(
        "cache index is corrupt (%s); it was moved to %s and the cache starts empty", reason, aside.name
    )
