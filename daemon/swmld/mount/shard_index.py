"""Which shards an index lists: Hugging Face's ``model.safetensors.index.json``. For worker threads."""

from __future__ import annotations

import json
import os
import re

from swmld.plan.listing import natural_key

MOST_SHARDS = 4096
"""Of an index: as many files as the prefetch queue takes; the largest models have some two hundred."""

INDEX_LIMIT = 64 << 20
"""Bytes of an index that are read; DeepSeek-V3's has 9 MB."""

_MAP = re.compile(rb'"weight_map"\s*:\s*\{')
_STRING = rb'"([^"\\]*(?:\\.[^"\\]*)*)"'
_PAIR = re.compile(rb"\s*" + _STRING + rb"\s*:\s*" + _STRING + rb"\s*([,}])", re.DOTALL)


def shards_of(text: bytes) -> list[bytes]:
    """The files that the ``weight_map`` of an index names, in the order in which loaders read them, which is
    that of their names; nothing where it is malformed.

    It takes 1.5 s for 64 MiB, in steps that let other threads run (``json.loads`` of as much keeps the
    interpreter lock all the time).
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
