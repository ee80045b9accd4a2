"""Which files are the next shards of a set: by the numbers in their names, or by an index. Pure.

    shard-000012.tar   train-00001-of-00064.tfrecord   part.3.parquet   data_7.bin.gz

The names of a set differ in one number alone. Of several numbers in a name it is the last one that has other
files: ``epoch1-shard-003`` goes on with ``epoch1-shard-004``, and the ``of-00064`` of a name has none.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator

from swmld.plan.listing import Listing, natural_key

LOOKED = 32
"""Names looked at for each shard that is wanted: a WebDataset or an image set keeps a few files, label and
meta data among them, of each number side by side."""

MOST_LOOKED = 8192
"""Names looked at altogether: the loop waits for 2 µs each."""

MOST_SHARDS = 4096
"""Of an index: as many files as the prefetch queue takes; the largest models have some two hundred."""

INDEX_LIMIT = 64 << 20
"""Bytes of an index that are read; DeepSeek-V3's has 9 MB."""

_NUMBER = re.compile(rb"[0-9]+")
_EXTENSION = re.compile(rb"\.(?=[^.]*[0-9])(?=[^.]*[A-Za-z])[^.]*$")
"""Letters and digits: mp4, h5, bz2 count nothing."""

_INDEX = b".index.json"
_MAP = re.compile(rb'"weight_map"\s*:\s*\{')
_STRING = rb'"([^"\\]*(?:\\.[^"\\]*)*)"'
_PAIR = re.compile(rb"\s*" + _STRING + rb"\s*:\s*" + _STRING + rb"\s*([,}])", re.DOTALL)


def next_shards(listing: Listing, name: bytes, count: int) -> list[bytes]:
    """Up to ``count`` files of the set of ``name`` with larger numbers, smallest first; none where its
    numbers belong to no other file."""
    index = listing.find(name)
    if index is None:
        return []
    extension = _EXTENSION.search(name)
    stop = len(name) if extension is None else extension.start()
    for number in reversed([*_NUMBER.finditer(name, 0, stop)]):
        found = []
        for other in _members(listing, index, name, number, 1, min(LOOKED * count, MOST_LOOKED)):
            found.append(other)
            if len(found) == count:
                break
        if found or next(_members(listing, index, name, number, -1, LOOKED), None) is not None:
            return found
    return []


def _members(
    listing: Listing, index: int, name: bytes, number: re.Match[bytes], step: int, most: int
) -> Iterator[bytes]:
    """The files that differ from ``name`` in ``number`` alone, going up or down from it."""
    prefix, suffix, own = name[: number.start()], name[number.end() :], int(number[0])
    place = listing.number(index)
    for at in range(place + step, min(max(place + step * (most + 1), -1), len(listing)), step):
        other = listing.name(listing.at_number(at))
        found = _NUMBER.match(other, len(prefix)) if other.startswith(prefix) else None
        if found is None:
            return  # in natural order the others of the prefix stand together
        if other.endswith(suffix) and found.end() == len(other) - len(suffix) and int(found[0]) != own:
            yield other


def is_index(name: bytes) -> bool:
    """Whether the file lists shards, as Hugging Face's ``model.safetensors.index.json``."""
    return name.endswith(_INDEX)


def shards_of_index(text: bytes) -> list[bytes]:
    """The files that the ``weight_map`` of an index names, in the order in which loaders read them, which is
    that of their names; nothing where it is malformed.

    For a worker thread: it takes 1.5 s for 64 MiB, in steps that let other threads run (``json.loads`` of as
    much keeps the interpreter lock all the time).
    """
    start = _MAP.search(text)
    if start is None or not text.lstrip().startswith(b"{"):
        return []
    tokens: set[bytes] = set()
    at, end = start.end(), b","
    while end == b",":
        pair = _PAIR.match(text, at)
        if pair is None:
            return []
        tokens.add(pair[2])
        if len(tokens) > MOST_SHARDS:
            return []
        at, end = pair.end(), pair[3]
    try:
        names = [os.fsencode(json.loads(b'"%b"' % token)) for token in tokens]
    except ValueError:
        return []
    return sorted((name for name in names if b"/" not in name), key=natural_key)
