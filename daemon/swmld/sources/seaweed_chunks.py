"""What a file's bytes are made of: chunks on volume servers, later ones over earlier ones. Pure.

A chunk's bytes never change: what is written anew gets new chunks. So the list of chunks names a generation
of a file, and who reads by it cannot mix two. ``Layout.tag`` is that list itself where it is short, so that
a file is opened without asking the filer again; a long one's hash, else.
"""

from __future__ import annotations

import bisect
import hashlib
import heapq
import itertools
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

COMPRESSED, ENCRYPTED, MANIFEST, SEALED = 1, 2, 4, 8
"""Flags of a chunk. SEALED: encrypted by the S3 gateway (SSE), so that the filer cannot tell its bytes
either."""

SHORT = 8
"""Chunks of which a tag is the list itself (0.3 KiB, of 32 MiB of file where chunks have 4 MiB, the filer's
default): asking again costs 0.3 ms, little beside fetching that much."""

INLINE = 1024
"""Bytes of content in the filer's entry that a tag holds; more is asked for when the file is opened."""

_CHUNK = struct.Struct("<IQIqQqB")
_LISTED, _HASHED, _CONTENT, _REMOTE = b"L", b"H", b"C", b"R"


class Chunk(NamedTuple):
    """Some bytes of a file, ``size`` of them from ``offset`` on, as needle ``fid`` of a volume."""

    fid: str
    offset: int
    size: int
    modified_ns: int
    flags: int

    @property
    def stop(self) -> int:
        """Where it ends in the file."""
        return self.offset + self.size


class Piece(NamedTuple):
    """A range of a file that is seen through one chunk."""

    start: int
    stop: int
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the bytes of one generation are."""

    chunks: tuple[Chunk, ...] = ()
    content: bytes = b""
    """All bytes, where the filer keeps them itself; there are no chunks then."""
    remote: bytes = b""
    """What names a file of a remote storage that the filer has not fetched; there are no chunks then."""

    @property
    def tag(self) -> bytes:
        """What names the generation: equal where the bytes are. Empty for an empty file."""
        if self.remote:
            return _REMOTE + self.remote
        if self.content:
            return _short(_CONTENT, self.content, INLINE)
        packed = b"".join(_CHUNK.pack(*numbers(chunk.fid), *chunk[1:]) for chunk in self.chunks)
        return _short(_LISTED, packed, SHORT * _CHUNK.size) if packed else b""

    @property
    def stem(self) -> bytes:
        """The chunk that the file begins with: it stays when more is appended, and is another one when the
        file is written anew. Empty where there is none."""
        first = min(self.chunks, key=lambda chunk: (chunk.offset, chunk.modified_ns), default=None)
        return first.fid.encode() if first is not None and not first.offset else b""


def _short(kind: bytes, said: bytes, most: int) -> bytes:
    if len(said) <= most:
        return kind + said
    return _HASHED + hashlib.blake2b(kind + said, digest_size=16).digest()


def tells_layout(tag: bytes) -> bool:
    """Whether ``layout_of`` needs nobody else; an empty file has no tag, and no chunks."""
    return tag[:1] != _HASHED


def layout_of(tag: bytes) -> Layout | None:
    """The layout that a tag holds; None where the filer has to be asked."""
    if not tells_layout(tag):
        return None
    kind, said = tag[:1], tag[1:]
    if kind == _CONTENT:
        return Layout(content=said)
    if kind == _REMOTE:
        return Layout(remote=said)
    unpacked = _CHUNK.iter_unpack(said)
    return Layout(tuple(Chunk(_fid(*found[:3]), *found[3:]) for found in unpacked))


def stem_of(tag: bytes) -> bytes:
    """The stem of the layout that a tag holds."""
    layout = layout_of(tag)
    return layout.stem if layout is not None else b""


def chunk_of(message: Any) -> Chunk:
    """A chunk as the filer says it (``FileChunk``): its id in parts, or as text where an old filer wrote
    it."""
    flags = COMPRESSED * message.is_compressed | ENCRYPTED * bool(message.cipher_key)
    flags |= MANIFEST * message.is_chunk_manifest | SEALED * bool(message.sse_type)
    fid = message.fid
    named = (
        _fid(fid.volume_id, fid.file_key, fid.cookie) if fid.volume_id else _fid(*numbers(message.file_id))
    )
    return Chunk(named, message.offset, message.size, message.modified_ts_ns, flags)


def chunk_of_document(said: Mapping[str, Any]) -> Chunk:
    """The same of the filer's JSON, whose names are those of the messages' fields. ``ValueError``."""
    flags = COMPRESSED * bool(said.get("is_compressed")) | ENCRYPTED * bool(said.get("cipher_key"))
    flags |= MANIFEST * bool(said.get("is_chunk_manifest")) | SEALED * bool(said.get("sse_type"))
    named, fid = said.get("file_id"), said.get("fid")
    if fid:
        named = _fid(fid["volume_id"], fid.get("file_key", 0), fid.get("cookie", 0))
    elif named:
        named = _fid(*numbers(named))
    else:
        raise ValueError("a chunk has no id")
    return Chunk(named, said.get("offset", 0), said.get("size", 0), said.get("modified_ts_ns", 0), flags)


def _fid(volume: int, key: int, cookie: int) -> str:
    """As SeaweedFS writes it: the key's bytes without leading zeros, in hex, then the cookie's four."""
    digits = f"{key:x}"
    return f"{volume},{'0' * (len(digits) % 2)}{digits}{cookie:08x}"


def numbers(fid: str) -> tuple[int, int, int]:
    """``ValueError`` where it is no id. ``_N`` at the end is the N-th key from that on."""
    volume, _, rest = fid.replace("/", ",").partition(",")
    rest, _, more = rest.partition("_")
    return int(volume), int(rest[:-8], 16) + int(more or 0), int(rest[-8:], 16)


def visible(chunks: Iterable[Chunk]) -> list[Piece]:
    """What is seen of each chunk, in the order of the file: of two that overlap the one modified later.

    Of two modified at the same time the one that starts earlier, as the filer takes it. O(n log n)."""
    starts = sorted((chunk for chunk in chunks if chunk.size), key=lambda chunk: chunk.offset)
    if all(one.stop <= two.offset for one, two in itertools.pairwise(starts)):
        return [Piece(chunk.offset, chunk.stop, chunk) for chunk in starts]
    edges = sorted({edge for chunk in starts for edge in (chunk.offset, chunk.stop)})
    waiting = iter(starts)
    following = next(waiting, None)
    heap: list[tuple[int, int, Chunk]] = []
    pieces: list[Piece] = []
    for start, stop in itertools.pairwise(edges):
        while following is not None and following.offset <= start:
            heapq.heappush(heap, (-following.modified_ns, following.offset, following))
            following = next(waiting, None)
        while heap and heap[0][2].stop <= start:
            heapq.heappop(heap)
        if not heap:
            continue
        top = heap[0][2]
        if pieces and pieces[-1].stop == start and pieces[-1].chunk is top:
            start = pieces.pop().start
        pieces.append(Piece(start, stop, top))
    return pieces


def within(pieces: Sequence[Piece], start: int, stop: int) -> Iterable[Piece]:
    """The parts of them that lie between ``start`` and ``stop``."""
    low = bisect.bisect_right(pieces, start, key=lambda piece: piece.stop)
    for piece in itertools.islice(pieces, low, None):
        if piece.start >= stop:
            return
        yield Piece(max(piece.start, start), min(piece.stop, stop), piece.chunk)
