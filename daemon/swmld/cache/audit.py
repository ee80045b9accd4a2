"""Looking over the whole cache: what it lists, checks and sweeps up. Nothing here is in the way of a read."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from swmld.cache.files import ABSENT, PRESENT, CacheFile
from swmld.cache.index import FileRow, Index, Start, Trust
from swmld.cache.keeping import Kept
from swmld.cache.layout import Layout
from swmld.cache.packed import PACKED
from swmld.errors import CacheError
from swmld.plan.eviction import Keep
from swmld.types import Identity

log = logging.getLogger(__name__)

Refetch = Callable[[CacheFile, int], object]


class Entry(NamedTuple):
    """One line of ``ls``. ``state`` is ``complete``, ``partial`` or ``suspect`` (verified before next
    use)."""

    path: bytes
    file_id: int
    size: int
    cached_bytes: int
    present: int
    nchunks: int
    last_used: float
    pinned: bool
    state: str


@dataclass(slots=True)
class VerifyReport:
    """What was checked: ``bad`` chunks did not match, ``mended`` ones of them are good again."""

    files: int = 0
    chunks: int = 0
    bytes: int = 0
    bad: int = 0
    mended: int = 0


class Held(Protocol):
    """What a check needs of the cache; see there."""

    def find(self, identity: Identity) -> CacheFile | None: ...
    def acquire(
        self, identity: Identity, path: bytes, *, level: int = 0, chunk_size: int = 0
    ) -> CacheFile: ...
    def reserve(self, nbytes: int) -> None: ...
    def unreserve(self, nbytes: int) -> None: ...
    def pin(self, file_id: int, pinned: bool = True) -> None: ...
    def set_keep(self, file_id: int, keep: Keep, ttl: float | None = None) -> None: ...


def normal(path: bytes) -> bytes:
    """``path`` relative to the source's root, without slashes at its ends; the root itself is empty."""
    path = path.strip(b"/")
    return b"" if path == b"." else path


def entry(row: FileRow, trust: Trust) -> Entry:
    """``row`` for ``ls``."""
    if row.present and trust.suspects(row.session_first, row.session):
        state = "suspect"
    else:
        state = "complete" if row.present == row.nchunks else "partial"
    return Entry(
        row.path,
        row.file_id,
        row.size,
        row.bytes,
        row.present,
        row.nchunks,
        row.last_used,
        row.kept.by_hand or row.kept.keep is Keep.NEVER,
        state,
    )


def verify(
    cache: Held,
    rows: Iterator[FileRow],
    progress: Callable[[VerifyReport], None] | None,
    refetch: Refetch | None,
) -> VerifyReport:
    """Check every chunk of the files in ``rows``; see ``Cache.verify``."""
    report = VerifyReport()
    for row in rows:
        try:
            file = cache.find(row.identity)
        except CacheError as error:
            log.warning("cache verify: %r left out: %s", row.path, error)
            continue
        if file is None:
            continue
        try:
            _verify_file(cache, file, row.kept, report, progress, refetch)
        finally:
            file.release()
        report.files += 1
        if progress is not None:
            progress(report)
    return report


def _verify_file(
    cache: Held,
    file: CacheFile,
    kept: Kept,
    report: VerifyReport,
    progress: Callable[[VerifyReport], None] | None,
    refetch: Refetch | None,
) -> None:
    served: list[int] = []  # bad ones that were PRESENT
    unserved: list[int] = []
    for chunk in range(file.nchunks):
        before = file.state(chunk)
        if before is ABSENT:
            continue
        report.chunks += 1
        report.bytes += file.extent(chunk)[1]
        # Suspect chunks are settled at once, as nobody is served them; the others together at the end.
        if not (file.check(chunk) if before is PRESENT else file.verify(chunk)):
            if file.dead:  # replaced or dropped meanwhile: its rows are gone
                return
            report.bad += 1
            (served if before is PRESENT else unserved).append(chunk)
        if progress is not None and not chunk % 16:
            progress(report)
    if served:
        # Somebody may read it without the daemon: the good chunks move to a new data file.
        file.condemn(served)
        size = file.chunk_size
        new = cache.acquire(file.identity, file.source_path, level=file.level, chunk_size=size)
        _keep_as(cache, new.file_id, kept)
        _mend(cache, file, new, served + unserved, report, refetch)
    elif unserved and refetch is not None:
        _refetch(file, unserved, report, refetch)


def _keep_as(cache: Held, file_id: int, kept: Kept) -> None:
    if kept.by_hand:
        cache.pin(file_id)
    if kept.keep is not Keep.NORMAL or kept.ttl:
        cache.set_keep(file_id, kept.keep, kept.ttl or None)


def _mend(
    cache: Held,
    old: CacheFile,
    new: CacheFile,
    bad: list[int],
    report: VerifyReport,
    refetch: Refetch | None,
) -> None:
    try:
        if new.chunk_size != old.chunk_size:  # somebody else has made it anew: nothing to carry over
            return
        for chunk in range(old.nchunks):
            if old.state(chunk) is PRESENT and new.state(chunk) is ABSENT:
                _copy(cache, old, new, chunk)
        if refetch is not None:
            _refetch(new, bad, report, refetch)
    except (CacheError, OSError) as error:
        log.warning("cache verify: %r only partly mended: %s", old.source_path, error)
    finally:
        new.release()


def _copy(cache: Held, old: CacheFile, new: CacheFile, chunk: int) -> None:
    """Carry a good chunk over. Raises ``CacheError`` or ``OSError``."""
    offset, length = old.extent(chunk)
    cache.reserve(length)
    try:
        data = memoryview(bytearray(old.read(offset, length)))
        if len(data) != length:
            raise CacheError(f"cache: chunk {chunk} could not be copied")
        sealed = new.seal(chunk, data)
        if os.pwrite(new.fd, data[: sealed.length], sealed.offset) != sealed.length:
            raise CacheError(f"cache: chunk {chunk} could not be copied")
    except BaseException:
        cache.unreserve(length)
        raise
    new.commit(chunk, sealed.crc, sealed.length)


def _refetch(file: CacheFile, bad: list[int], report: VerifyReport, refetch: Refetch) -> None:
    for chunk in bad:
        try:
            refetch(file, chunk)
        except Exception as error:
            log.warning(
                "cache verify: chunk %d of %r could not be fetched: %s", chunk, file.source_path, error
            )
        report.mended += file.state(chunk) is PRESENT


def sweep_orphans(layout: Layout, index: Index, start: Start, stop: Callable[[], bool]) -> int:
    """Remove data files that were left without a row; returns how many. Blocks for long."""
    removed = layout.remove_old_data()
    if not start.unclean:  # a clean stop leaves none
        return removed
    for ids in layout.data_ids():
        old = [file_id for file_id in ids if file_id & ~PACKED < start.first_id]
        for file_id in set(old) - index.known_ids(old):
            if stop():
                return removed
            # Evicted meanwhile, or refused by the disk: either way the next sweep sees.
            with contextlib.suppress(OSError):
                os.unlink(layout.data_path(file_id))
                removed += 1
    return removed
