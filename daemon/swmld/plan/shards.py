"""Which files are the next shards of a set: by the numbers in their names. Pure.

    shard-000012.tar   train-00001-of-00064.tfrecord   part.3.parquet   data_7.bin.gz

The names of a set differ in one number alone. Of several numbers in a name it is the last one that has other
files: ``epoch1-shard-003`` goes on with ``epoch1-shard-004``, and the ``of-00064`` of a name has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from swmld.plan.listing import Listing

LOOKED = 32
"""Names looked at for each shard that is wanted: a WebDataset or an image set keeps a few files, label and
meta data among them, of each number side by side."""

MOST_LOOKED = 8192
"""Names looked at altogether: the loop waits for 2 µs each."""

_NUMBER = re.compile(rb"[0-9]+")
_EXTENSION = re.compile(rb"\.(?=[^.]*[0-9])(?=[^.]*[A-Za-z])[^.]*$")
"""Letters and digits: mp4, h5, bz2 count nothing."""

_INDEX = b".index.json"


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
