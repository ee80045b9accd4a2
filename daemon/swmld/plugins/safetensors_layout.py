"""Where the tensors of a safetensors file lie. Its format: huggingface/safetensors, README, "Format"."""

from __future__ import annotations

import json

from swmld.plugins.interface import Context, Hints, Range
from swmld.plugins.parsing import Malformed, Pieces, merged, span

LONGEST_HEADER = 100_000_000
"""Bytes of the longest that safetensors reads (MAX_HEADER_SIZE in its tensor.rs)."""

PARSED_HEADER = 1 << 20
"""Bytes of a header that is looked into; json keeps the interpreter lock for some 10 ms a MiB. A model of
a thousand tensors has 100 kB."""


def is_safetensors(head: bytes) -> bool:
    """The length of the header as a little-endian u64, then the header, a JSON object."""
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= LONGEST_HEADER


def tensors(header: bytes) -> list[tuple[int, int]]:
    """Start and end of each tensor's bytes after the header, in their order. Malformed."""
    entries = json.loads(header)
    if not isinstance(entries, dict):
        raise Malformed("the header is no object")
    found = []
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
        if not isinstance(offsets, list) or len(offsets) != 2:
            raise Malformed("no offsets")
        start, end = offsets
        if type(start) is not int or type(end) is not int or not 0 <= start <= end:
            raise Malformed("no range")
        found.append((start, end))
    return sorted(found)


def hints(context: Context) -> Hints:
    """Header and tensors; the whole file, where they leave nothing out. Malformed, OSError."""
    pieces = Pieces(context)
    if not is_safetensors(pieces.head(9)):
        raise Malformed("no safetensors")
    length = int.from_bytes(pieces.head(8), "little")
    if length > PARSED_HEADER:
        # The format leaves no holes between tensors.
        return Hints(whole=8 + length < context.size, compressed=False, why="a header of many tensors")
    data = 8 + length
    order = tensors(pieces.at(8, length))
    ranges = merged([Range(0, data), *(span(data + start, data + end) for start, end in order)], context.size)
    if ranges == (Range(0, context.size),):
        return Hints(whole=True, compressed=False, why=f"{len(order)} tensors in order")
    return Hints(ranges, compressed=False, why=f"{len(order)} tensors with holes")
