"""One cached generation of one source file: a sparse data file and which of its chunks are there.

A ``CacheFile`` is shared by all who acquired the same identity. What it knows is in memory and right at
once; the index hears of it in order, through the writer. A *dead* one was dropped while somebody held it:
its data file is unlinked, its holders go on with the open fd, and the index hears of it no more.

Present chunks never change. A chunk is written only while it is ABSENT, and ``commit`` comes after the write.
"""

from __future__ import annotations

import enum
import errno
import os
import sqlite3
import threading
from array import array
from collections.abc import Callable
from dataclasses import dataclass

from swmld.cache import packed
from swmld.cache.changes import AddChunk, CloseFd, RemoveChunk, Respan, TrustChunk
from swmld.cache.checksum import crc32c
from swmld.cache.datafiles import data_size, os_error
from swmld.cache.index import FileRow, Index, Trust
from swmld.cache.packed import BLOCK, Sealed
from swmld.cache.reclaim import Account
from swmld.cache.writer import Writer
from swmld.errors import CacheError
from swmld.plan.reuse import Reuse
from swmld.types import Identity

# A chunk map of more bits than this (64 TiB in chunks of 4 MiB) would cost megabytes a file: such files are
# read without the cache.
MAX_CHUNKS = 1 << 24

# Checksums are read in pieces of this size; larger ones gain nothing (the page cache copies at 4 KiB).
_PIECE = 1 << 20


class ChunkState(enum.Enum):
    """What is known of a chunk. SUSPECT: its row is from before an unclean boot, verify it first."""

    ABSENT = 0
    SUSPECT = 1
    PRESENT = 2


ABSENT, SUSPECT, PRESENT = ChunkState.ABSENT, ChunkState.SUSPECT, ChunkState.PRESENT


@dataclass(slots=True)
class Books:
    """What all files of a cache write to. ``session`` changes with every clean mark."""

    index: Index
    writer: Writer
    account: Account
    trust: Trust
    session: int
    reuse: Reuse


def chunk_count(size: int, chunk_size: int) -> int:
    """How many chunks ``size`` bytes make."""
    return -(-size // chunk_size)


class CacheFile:
    """A pinned, open cache file; made by ``Cache.acquire`` and ``Cache.find``, given back with
    ``release``."""

    def __init__(
        self,
        books: Books,
        row: FileRow,
        path: str,
        fd: int,
        on_idle: Callable[[CacheFile], None],
        on_bad: Callable[[CacheFile], None],
        level: int = 0,
    ) -> None:
        self.file_id = row.file_id
        self.identity: Identity = row.identity
        self.chunk_size = row.chunk_size
        self.size = row.size
        self.nchunks = row.nchunks
        self.level = level
        """Of zstd, by which its chunks are compressed; 0: they are stored as they are."""
        self.data_size = data_size(row)
        """Bytes of the data file, holes included."""
        self.front = self.data_size - self.size
        """Bytes of the data file before the first chunk."""
        self.fd = fd
        """Readable and writable; -1 once released."""
        self.path = path
        """Path of the data file."""
        self.source_path = row.path
        """Where the source file was last seen, relative to the source's root."""
        self.last_used = row.last_used
        """As the index knows it: seconds since the epoch."""
        self.used_again = False
        """To be protected from its next release on."""
        self.present_count = 0
        self.pins = 1
        self.uses = 0
        """How often it went idle; tells an old settling from a later one."""
        self.dead = False
        self.settled = False
        """No longer in memory: the index knows all of it."""
        self.lock = threading.Lock()
        """Guards everything above that changes, and the bits. Held for no I/O: the event loop takes it."""
        self._books = books
        self._on_idle = on_idle
        self._on_bad = on_bad
        self._bits = bytearray((self.nchunks + 7) // 8)
        self._suspect: set[int] = set()
        self._held = array("I", bytes(4 * self.nchunks if level else 0))
        """Where chunks are compressed: how many bytes of the disk each takes."""

    def load(self, row: FileRow) -> None:
        """Take over the chunks that the index holds. Blocks; raises ``sqlite3.Error``."""
        trust = self._books.trust
        trusted = not trust.suspects(row.session_first, row.session)
        if trusted and row.present == row.nchunks and not self.level:
            self._fill()
            return
        for chunk, session, stored in self._books.index.chunks(self.file_id):
            if self.level:
                self._held[chunk] = self._taken(chunk, stored)
            if not trusted and trust.suspects(session, session):
                self._suspect.add(chunk)
            else:
                self._bits[chunk >> 3] |= 1 << (chunk & 7)
                self.present_count += 1

    def _fill(self) -> None:
        self._bits[:] = b"\xff" * len(self._bits)
        if self.nchunks & 7:
            self._bits[-1] = (1 << (self.nchunks & 7)) - 1
        self.present_count = self.nchunks

    @property
    def complete(self) -> bool:
        """Every chunk is there and trusted. An empty file is complete."""
        return self.present_count == self.nchunks

    def state(self, chunk: int) -> ChunkState:
        """What is known of ``chunk``; ``IndexError`` beyond the end."""
        if not 0 <= chunk < self.nchunks:
            raise IndexError(f"chunk {chunk} of {self.nchunks}")
        if self._bits[chunk >> 3] >> (chunk & 7) & 1:
            return PRESENT
        return SUSPECT if chunk in self._suspect else ABSENT

    def missing(self, first: int, stop: int) -> list[int]:
        """Chunks in ``[first, stop)``, cut to the file, that are not PRESENT."""
        if self.complete:
            return []
        bits = self._bits
        return [n for n in range(max(0, first), min(stop, self.nchunks)) if not bits[n >> 3] >> (n & 7) & 1]

    def extent(self, chunk: int) -> tuple[int, int]:
        """``(offset, length)`` in bytes; the last chunk may be short."""
        offset = chunk * self.chunk_size
        return offset, min(self.chunk_size, self.size - offset)

    def _taken(self, chunk: int, stored: int) -> int:
        """Bytes of the disk that a compressed chunk takes; the first one's have what the file begins with."""
        return -(-stored // BLOCK) * BLOCK + (0 if chunk else self.front)

    def held(self, chunk: int) -> int:
        """Bytes of the cache that ``chunk`` counts as; of one that is compressed and ABSENT, 0."""
        return self._held[chunk] if self.level else self.extent(chunk)[1]

    def bitmap(self) -> bytes:
        """One bit a chunk, least significant first, set for PRESENT."""
        return bytes(self._bits)

    def stored_bytes(self) -> int:
        """Bytes of the chunks that have a row, suspect ones too. Holds ``lock``."""
        if self.level:
            return sum(self._held)
        count = self.present_count + len(self._suspect)
        if not self.nchunks or self.state(self.nchunks - 1) is ABSENT:
            return count * self.chunk_size
        return (count - 1) * self.chunk_size + self.extent(self.nchunks - 1)[1]

    def retire(self) -> int:
        """Become dead: the index hears no more of it. Returns ``stored_bytes``, which the cache gives up."""
        with self.lock:
            self.dead = True
            return self.stored_bytes()

    def seal(self, chunk: int, data: memoryview) -> Sealed:
        """Make of ``chunk``'s bytes what is to be stored of them, in place where it is compressed. Blocks.

        ``commit`` comes once the first ``length`` bytes of ``data`` are written. Raises ``CacheError``.
        """
        if not self.level:
            return Sealed(crc32c(data), self.extent(chunk)[0], data.nbytes)
        try:
            stored, entry = packed.pack(data, self.chunk_size, self.level)
            if os.pwrite(self.fd, entry, self._entry_at(chunk)) != len(entry):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise os_error(error, "compressing a chunk") from error
        return Sealed(crc32c(entry, crc32c(data[:stored])), self._place(chunk), stored)

    def _place(self, chunk: int) -> int:
        return self.front + self.extent(chunk)[0]

    def _entry_at(self, chunk: int) -> int:
        return packed.ENTRIES_AT + chunk * packed.entry_size(self.chunk_size)

    def commit(self, chunk: int, crc: int, stored: int = 0) -> None:
        """``chunk``'s bytes are in the data file, ``stored`` of them where they are compressed, and have the
        checksum ``crc``, both as ``seal`` says. Loop-safe.

        Ends the reservation of its bytes (``Cache.reserve``). A chunk that is PRESENT already stays as it is.
        """
        length = self.extent(chunk)[1]
        books = self._books
        code = stored << 32 | crc if self.level else crc
        with self.lock:
            state = self.state(chunk)
            new = int(state is ABSENT)
            if state is not PRESENT:
                before = 0 if new else self.held(chunk)
                if self.level:
                    self._held[chunk] = self._taken(chunk, stored)
                    books.account.compressed(length, self._held[chunk])
                more = self.held(chunk) - before
                self._bits[chunk >> 3] |= 1 << (chunk & 7)
                self.present_count += 1
                # Queued under the lock: a drop that comes now finds it in the queue before its own change.
                if not self.dead:
                    books.writer.put(AddChunk(self.file_id, chunk, code, more, books.session, new))
                    books.account.add(more)
                    self._settle(chunk)
        books.account.unreserve(length)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the file, of chunks that are PRESENT; short only at its end. Blocks. Raises ``OSError``,
        EBADMSG where compressed bytes are damaged."""
        if self.level:
            return packed.read(self.fd, self.size, self.chunk_size, offset, length)
        data = os.pread(self.fd, length, offset)
        if len(data) == length or not data:
            return data
        parts = [
            data
        ]  # a read may stop early at a signal or a page boundary: only the end of the file is short
        done = len(data)
        while done < length and (data := os.pread(self.fd, length - done, offset + done)):
            parts.append(data)
            done += len(data)
        return b"".join(parts)

    def verify(self, chunk: int) -> bool:
        """Read ``chunk`` and compare its checksum; afterwards it is PRESENT (True) or ABSENT (False). Blocks.

        A PRESENT chunk that proves bad takes the whole generation out of the cache: somebody may be reading
        it without the daemon, so it must not be written again in place.
        """
        state = self.state(chunk)
        if state is ABSENT:
            return False
        good = self.check(chunk)
        if state is PRESENT:
            if not good:
                self.condemn([chunk])
            return good
        with self.lock:
            if self.state(chunk) is SUSPECT:  # not fetched anew or settled by another thread meanwhile
                self._settle_suspect(chunk, good)
            return self.state(chunk) is PRESENT

    def condemn(self, chunks: list[int]) -> None:
        """These PRESENT chunks are bad: drop the generation; for its holders they are ABSENT. Blocks."""
        self._on_bad(self)
        with self.lock:
            for chunk in chunks:
                if self.state(chunk) is PRESENT:
                    self._bits[chunk >> 3] &= ~(1 << (chunk & 7))
                    self.present_count -= 1
                    if self.level:
                        self._held[chunk] = 0

    def _settle_suspect(self, chunk: int, good: bool) -> None:
        books = self._books
        length = self.held(chunk)
        if good:
            self._bits[chunk >> 3] |= 1 << (chunk & 7)
            self.present_count += 1
        if self.dead:
            self._suspect.discard(chunk)
            return
        if good:
            books.writer.put(TrustChunk(self.file_id, chunk, books.session))
        else:
            books.writer.put(RemoveChunk(self.file_id, chunk, length))
            books.account.add(-length)
            if self.level:
                self._held[chunk] = 0
        self._settle(chunk)

    def _settle(self, chunk: int) -> None:
        """``chunk`` is suspect no more; with the last one the file is trusted whole."""
        if chunk in self._suspect:
            self._suspect.discard(chunk)
            if not self._suspect:
                self._books.writer.put(Respan(self.file_id, self._books.session))

    def check(self, chunk: int) -> bool:
        """Whether the bytes match the index, without consequences. Blocks.

        A chunk that cannot be read does not match, nor one without a row: absent, or of a dead file.
        ``CacheError`` if the index cannot be read.
        """
        code = self._expected(chunk)
        if code is None:
            return False
        offset, left = (self._place(chunk), code >> 32) if self.level else self.extent(chunk)
        buffer = memoryview(bytearray(min(left, _PIECE)))
        crc = 0
        try:
            while left:
                got = os.preadv(self.fd, [buffer[: min(left, _PIECE)]], offset)
                if not got:
                    return False
                crc = crc32c(buffer[:got], crc)
                offset, left = offset + got, left - got
            if self.level:
                crc = crc32c(
                    os.pread(self.fd, packed.entry_size(self.chunk_size), self._entry_at(chunk)), crc
                )
        except OSError:
            return False
        return crc == code & 0xFFFF_FFFF

    def _expected(self, chunk: int) -> int | None:
        index, writer = self._books.index, self._books.writer
        try:
            crc = index.crc(self.file_id, chunk)
            if crc is None:  # committed a moment ago
                writer.flush()
                crc = index.crc(self.file_id, chunk)
        except sqlite3.Error as error:
            raise CacheError(f"cache: the index cannot be read: {error}") from error
        return crc

    def release(self) -> None:
        """Give it back; the last release closes the fd. Loop-safe."""
        with self.lock:
            if self.pins <= 0:
                raise ValueError("released more often than acquired")
            self.pins -= 1
            if self.pins:
                return
            fd, self.fd = self.fd, -1
            self.uses += 1
        if self.dead:
            self._books.writer.put(CloseFd(fd))
        else:
            os.close(fd)
            self._on_idle(self)
