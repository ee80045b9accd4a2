"""Taking generations out of the cache: dropped by hand, replaced by a newer one, or evicted for room.

In this order: the rows are deleted and the deletion committed, ``on_evict`` is told, the data file is
unlinked. ``kill -9`` between any two leaves at worst a data file without rows, which the next
``Cache.sweep`` removes. Where the index cannot be written (full disk) the file is unlinked all the same,
for the room: a row without a data file is dropped when it is met.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

from swmld.cache.changes import DropFile, Touch
from swmld.cache.files import Books, CacheFile
from swmld.cache.index import FileRow
from swmld.cache.keeping import FILE_OVERHEAD, Place, on_probation
from swmld.cache.layout import Layout
from swmld.cache.memory import Memory, key_of
from swmld.plan.eviction import Candidate, Keep
from swmld.types import Identity

log = logging.getLogger(__name__)

OnEvict = Callable[[int, Identity], None]
UsageOf = Callable[[Identity], tuple[float, bool] | None]
Held = Callable[[Identity], bool]


class Gone(NamedTuple):
    """A generation whose drop is queued."""

    file_id: int
    identity: Identity
    bytes: int


class Remover:
    """Drops files; is the ``Room`` that ``evicting`` evicts from. All methods block: worker threads alone."""

    def __init__(
        self, books: Books, memory: Memory, layout: Layout, source: int, clock: Callable[[], float]
    ) -> None:
        self.on_evict: OnEvict | None = None
        self.usage_of: UsageOf | None = None
        self.held: Held | None = None
        self.on_room: Callable[[], None] = lambda: None
        """Told when something went, so that there is room now."""
        self._books = books
        self._memory = memory
        self._layout = layout
        self._source = source
        self._clock = clock

    # -- taking out ------------------------------------------------------------------------------------

    def retire_file(self, file: CacheFile) -> Gone | None:
        """Queue the drop of a file in memory, pinned or not. Holds its stripe."""
        nbytes = self._memory.retire(file)
        if nbytes is None:
            return None
        self._books.account.add(-nbytes, -1)
        return Gone(file.file_id, file.identity, nbytes)

    def retire_row(self, row: FileRow) -> Gone:
        """Queue the drop of a file that is in the index alone. Holds its stripe."""
        if row.source == self._source:
            self._memory.bury(key_of(row.identity), row.file_id)
        else:
            self._books.writer.put(DropFile(row.file_id, lambda: None))
        self._books.account.add(-row.bytes, -1)
        return Gone(row.file_id, row.identity, row.bytes)

    def finish(self, gone: Iterable[Gone | None]) -> None:
        """Wait until the rows are gone, then tell and unlink."""
        went = [each for each in gone if each is not None]
        if not went:
            return
        self._books.writer.flush()
        for each in went:
            if self.on_evict is not None:
                try:
                    self.on_evict(each.file_id, each.identity)
                except Exception:
                    log.exception("cache: on_evict failed")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._layout.data_path(each.file_id))
        self.on_room()

    def drop_file(self, file: CacheFile) -> bool:
        """Drop a file in memory, pinned or not; False if it has left memory."""
        while True:
            key = key_of(file.identity)
            with self._memory.stripe(key):
                if key_of(file.identity) != key:  # it was moved meanwhile
                    continue
                gone = self.retire_file(file)
                self.finish([gone])
                return gone is not None

    def drop_rows(self, rows: list[FileRow]) -> list[Gone]:
        """Drop files that were seen in the index, pinned or not."""
        return self._drop(rows, even_pinned=True)

    def _drop(self, rows: list[FileRow], *, even_pinned: bool) -> list[Gone]:
        gone = []
        for row in rows:
            with self._memory.stripe(key_of(row.identity)):
                each = self._retire_current(row, even_pinned)
            if each is not None:
                gone.append(each)
        self.finish(gone)
        return gone

    def _retire_current(self, row: FileRow, even_pinned: bool) -> Gone | None:
        """Retire what ``row`` was read of, unless it changed since."""
        key = key_of(row.identity)
        if row.source == self._source:
            file = self._memory.get(key)
            if file is not None:
                if file.file_id != row.file_id:
                    return None
                if not even_pinned and (file.pins or self._current(row, even_pinned) is None):
                    return None
                gone = self.retire_file(file)
                if gone is not None:
                    return gone
            elif self._memory.buried(key):
                return None
        now = self._current(row, even_pinned)
        return None if now is None or key_of(now.identity) != key else self.retire_row(now)

    def _current(self, row: FileRow, even_pinned: bool) -> FileRow | None:
        """What the index has of it now; nothing where its eviction is decided otherwise since."""
        now = self._books.index.by_id(row.file_id)
        return now if now is None or even_pinned or now.pinned == row.pinned else None

    # -- the room that files are evicted from -------------------------------------------------------------

    def oldest(self, after: Place, limit: int) -> list[FileRow]:
        """See ``evicting.Room``."""
        return self._books.index.oldest(after, limit, self._clock())

    def candidate(self, row: FileRow) -> Candidate:
        """See ``evicting.Room``."""
        last_used, in_use, held = row.last_used, False, False
        if row.source == self._source:
            identity = row.identity
            file = self._memory.get(key_of(identity))
            # A file of which nothing could be cached is no loss, whoever holds it.
            if row.bytes or (file is not None and file.present_count):
                held, in_use = self._ask_held(identity)
            if not held:
                used, is_open = self._ask_usage(identity)
                last_used, in_use = max(last_used, used), in_use or is_open
                if file is not None:  # its last release may not be in the index yet
                    last_used, in_use = max(last_used, file.last_used), in_use or file.pins > 0
        keep = Keep.NEVER if held else row.kept.at(last_used, self._clock()) if row.pinned else Keep.NORMAL
        return Candidate(row.file_id, row.bytes + FILE_OVERHEAD, last_used, in_use, keep)

    def _ask_held(self, identity: Identity) -> tuple[bool, bool]:
        """Whether it is held, and whether that could not be had."""
        if self.held is None:
            return False, False
        try:
            return self.held(identity), False
        except Exception:
            log.exception("cache: held failed; the file is kept")
            return False, True

    def _ask_usage(self, identity: Identity) -> tuple[float, bool]:
        if self.usage_of is None:
            return 0.0, False
        try:
            return self.usage_of(identity) or (0.0, False)
        except Exception:
            log.exception("cache: usage_of failed; the file is kept")
            return 0.0, True

    def touch(self, file_id: int, last_used: float, *, again: bool) -> None:
        """See ``evicting.Room``."""
        self._books.writer.put(Touch(file_id, last_used, again=again))

    def on_probation(self) -> int:
        """See ``evicting.Room``."""
        return self._books.writer.probation

    def settle(self) -> None:
        """See ``evicting.Room``."""
        self._books.writer.flush()

    def evict(self, rows: list[FileRow]) -> tuple[int, int]:
        """See ``evicting.Room``."""
        gone = self._drop(rows, even_pinned=False)
        on_trial = {row.file_id: row.last_used for row in rows if on_probation(row.pinned, row.bytes)}
        for each in gone:
            if each.file_id in on_trial:
                self._books.reuse.gone(each.identity, on_trial[each.file_id])
        return sum(each.bytes + FILE_OVERHEAD for each in gone), len(gone)
