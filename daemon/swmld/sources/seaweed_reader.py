"""One generation of a file of SeaweedFS, read from the volume servers, or through the filer where it must be.

The list of chunks that was known when the file was opened is read to its end: their bytes never change, so no
generations mix. Through the filer, which names no generation, the entry is asked for after each read: only
if it is as it was, the bytes count.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable

from google.protobuf.message import DecodeError

from swmld.sources.errors import failure
from swmld.sources.seaweed_chunks import (
    ENCRYPTED,
    MANIFEST,
    SEALED,
    Chunk,
    Layout,
    Piece,
    chunk_of,
    visible,
    within,
)
from swmld.sources.seaweed_messages import FileChunkManifest
from swmld.sources.seaweed_volumes import Volumes
from swmld.sources.whole import Get

log = logging.getLogger(__name__)

DEPTH = 4
"""Manifests within manifests: each has up to 10,000 chunks, so this many are beyond any file."""

_ZEROS = memoryview(bytes(1 << 16))


class SeaweedReader:
    """See ``Reader``."""

    in_one = True
    """See ``whole.in_one``: a stored chunk is one request."""

    def __init__(
        self,
        path: str,
        size: int,
        layout: Layout,
        volumes: Volumes,
        through: Callable[[memoryview, int], None],
        same: Callable[[], bool],
    ) -> None:
        """``through``: reads through the filer, of whichever generation. ``same``: asks whether the entry
        still is this generation. Both raise ``OSError``."""
        self.size = size
        self._path, self._layout, self._volumes = path, layout, volumes
        self._through, self._same = through, same
        self._lock = threading.Lock()
        self._pieces: list[Piece] | None = None
        flags = self._flags(layout.chunks)
        if flags & SEALED:
            raise failure(
                errno.EOPNOTSUPP, f"open of {path}: it is encrypted by the S3 gateway; read it through that"
            )
        # The key is in the entry, but nothing here decrypts.
        self._raw = not (layout.remote or flags & ENCRYPTED)
        chunks = layout.chunks
        self.plain = (
            self._raw
            and volumes.plain
            and len(chunks) == 1
            and not chunks[0].flags
            and not chunks[0].offset
            and chunks[0].size == size > 0
        )
        """It is one chunk, stored as it is."""

    @staticmethod
    def _flags(chunks: tuple[Chunk, ...]) -> int:
        flags = 0
        for chunk in chunks:
            flags |= chunk.flags
        return flags

    def read(self, view: memoryview, offset: int) -> int:
        """See ``Reader.read``."""
        wanted = view[: max(self.size - offset, 0)]
        if not wanted:
            return 0
        if self._layout.content:
            wanted[:] = self._layout.content[offset : offset + len(wanted)]
        elif not self._raw:
            self._by_filer(wanted, offset)
        else:
            try:
                self._by_chunks(wanted, offset)
            except OSError as error:
                self._after(error, wanted, offset)
        return len(wanted)

    def whole(self) -> Get | None:
        """See ``whole.whole_of``."""
        return self._volumes.whole(self._layout.chunks[0])

    def _by_chunks(self, view: memoryview, offset: int) -> None:
        at, stop = offset, offset + len(view)
        for piece in within(self._seen(), offset, stop):
            _clear(view[at - offset : piece.start - offset])
            chunk = piece.chunk
            self._volumes.read(
                chunk, piece.start - chunk.offset, view[piece.start - offset : piece.stop - offset]
            )
            at = piece.stop
        _clear(view[at - offset :])

    def _after(self, error: OSError, view: memoryview, offset: int) -> None:
        """What is left where a chunk could not be had."""
        if error.errno == errno.ENOENT:
            if not self._unchanged():
                raise failure(errno.ESTALE, f"read of {self._path}") from None
            raise failure(
                errno.EIO, f"read of {self._path}: a chunk is on no server: {error.strerror}"
            ) from None
        if error.errno not in (errno.EIO, errno.EACCES) or type(error) not in (OSError, PermissionError):
            # Nobody answers, or asks for a pause, or the bytes are not those of their checksum: what the
            # filer gives of a file has none.
            raise error
        if self._volumes.told.again("through the filer"):
            log.warning(
                "a chunk cannot be read as it is stored, through the filer instead: %s", error.strerror
            )
        self._by_filer(view, offset)

    def _by_filer(self, view: memoryview, offset: int) -> None:
        try:
            self._through(view, offset)
        except OSError as error:
            if error.errno in (errno.EIO, errno.ESTALE, errno.ENOENT) and not self._unchanged():
                raise failure(errno.ESTALE, f"read of {self._path}") from None
            raise
        if not self._unchanged():
            raise failure(errno.ESTALE, f"read of {self._path}")

    def _unchanged(self) -> bool:
        try:
            return self._same()
        except OSError as error:
            if error.errno == errno.ENOENT:
                return False
            raise

    def _seen(self) -> list[Piece]:
        """What is seen of each chunk; the manifests are fetched by the first who reads."""
        with self._lock:
            if self._pieces is None:
                self._pieces = visible(self._resolved(self._layout.chunks, DEPTH))
            return self._pieces

    def _resolved(self, chunks: tuple[Chunk, ...], depth: int) -> list[Chunk]:
        found: list[Chunk] = []
        for chunk in chunks:
            if not chunk.flags & MANIFEST:
                found.append(chunk)
                continue
            what = f"manifest {chunk.fid} of {self._path}"
            if not depth:
                raise failure(errno.EIO, f"{what}: too deep")
            try:
                listed = FileChunkManifest.FromString(self._volumes.document(chunk)).chunks
                inner = tuple(chunk_of(message) for message in listed)
            except (DecodeError, ValueError) as error:
                raise failure(errno.EIO, f"{what}: {error}") from None
            if self._flags(inner) & (ENCRYPTED | SEALED):
                raise failure(errno.EIO, f"{what}: its chunks are encrypted")
            found += self._resolved(inner, depth - 1)
        return found

    def current(self) -> bool:
        """See ``Reader.current``: True, since a chunk's bytes never change and reads through the filer
        ask."""
        return True

    def close(self) -> None:
        """See ``Reader.close``; there is nothing of its own to let go."""


def _clear(view: memoryview) -> None:
    """Fills a hole."""
    for start in range(0, len(view), len(_ZEROS)):
        part = view[start : start + len(_ZEROS)]
        part[:] = _ZEROS[: len(part)]
