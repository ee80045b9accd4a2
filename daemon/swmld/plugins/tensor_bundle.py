"""TensorFlow's checkpoints: an index, which is a sorted table as LevelDB's, and its data files.

tensorflow/core/lib/io/table_format.txt; tensorflow/core/protobuf/tensor_bundle.proto.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from swmld.plugins.parsing import Malformed, Pieces
from swmld.plugins.protobuf import VARINT, Message

_MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
_FOOTER = 48
_TRAILER = 5  # type of compression, checksum
_SHARD = re.compile(r"(.+)\.data-(\d{5})-of-(\d{5})$", re.DOTALL)
_STEPS = 1000


def begins_index(head: bytes) -> bool:
    """The first entry of a table that begins with the bundle's header: nothing shared, the key "", a short
    value that begins with field 1."""
    return head[:2] == b"\0\0" and 2 <= head[2] < 64 and head[3] == 8 if len(head) > 4 else False


def shards(pieces: Pieces) -> int:
    """Into how many data files the tensors of an index are split. Two reads or three. Malformed, OSError."""
    footer = pieces.tail(_FOOTER)
    if footer[-8:] != _MAGIC:
        raise Malformed("no table")
    numbers = Message(footer, _STEPS)
    at = 0
    handle: list[int] = []
    for _ in range(4):  # offset and size of the metaindex, of the index
        value, at = numbers.varint(at)
        handle.append(value)
    _, first, _ = _entry(_block(pieces, *handle[2:]))
    data = Message(first, _STEPS)
    offset, at = data.varint(0)
    size, _ = data.varint(at)
    _, header, key = _entry(_block(pieces, offset, size))
    if key:
        raise Malformed("no header")
    for number, kind, value, _ in Message(header, _STEPS).fields(0, len(header)):
        if (number, kind) == (1, VARINT):
            return value
    raise Malformed("no number of shards")


def _block(pieces: Pieces, offset: int, size: int) -> bytes:
    block = pieces.at(offset, size + _TRAILER)
    if block[size] != 0:
        raise Malformed("a compressed block")
    return block[:size]


def _entry(block: bytes) -> tuple[int, bytes, bytes]:
    """The first one: where it ends, its value and its key."""
    numbers = Message(block, _STEPS)
    _, at = numbers.varint(0)  # nothing is shared with a key before
    key, at = numbers.varint(at)
    length, at = numbers.varint(at)
    end = at + key + length
    if end > len(block):
        raise Malformed("past the end")
    return end, block[at + key : end], block[at : at + key]


def data_files(prefix: str, count: int, first: int = 0) -> Iterator[str]:
    """Names from the one with the number ``first``: tensorflow/core/util/tensor_bundle/naming.cc."""
    return (f"{prefix}.data-{number:05}-of-{count:05}" for number in range(first, count))


def shard_of(name: str) -> tuple[str, int, int] | None:
    """Prefix, number and how many there are, of a data file's name."""
    found = _SHARD.match(name)
    return (found[1], int(found[2]), int(found[3])) if found is not None else None
