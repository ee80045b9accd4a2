"""Which shards an index lists: Hugging Face's ``model.safetensors.index.json``. For worker threads.

Plugins and rules read it with this: ``files`` for the one, ``shards_of`` for the other.
"""

from __future__ import annotations

import json
import os
import re

from swmld.plugins.interface import MOST_FILES
from swmld.plugins.parsing import Malformed, names

INDEX_LIMIT = 64 << 20
"""Bytes of an index that are read; DeepSeek-V3's has 9 MB."""

_MAP = re.compile(rb'"weight_map"\s*:\s*\{')
_STRING = rb'"([^"\\]*(?:\\.[^"\\]*)*)"'
_PAIR = re.compile(rb"\s*" + _STRING + rb"\s*:\s*" + _STRING + rb"\s*([,}])", re.DOTALL)


def files(text: bytes) -> tuple[str, ...]:
    """The files that the ``weight_map`` of an index names, ``MOST_FILES`` at most, in the order of their
    names, in which loaders read them; those that may be named in an answer, so none outside its directory.

    Malformed, also where the end is missing: one that is half written names half a model. It takes 1.5 s for
    64 MiB, in steps that let other threads run (``json.loads`` of as much keeps the interpreter lock all the
    time).
    """
    start = _MAP.search(text)
    if start is None or not text.lstrip().startswith(b"{"):
        raise Malformed("no weight_map")
    tokens: set[bytes] = set()
    at, end = start.end(), b","
    while end == b"," and len(tokens) < MOST_FILES and (pair := _PAIR.match(text, at)) is not None:
        tokens.add(pair[2])
        at, end = pair.end(), pair[3]
    if end == b"," and len(tokens) < MOST_FILES:
        raise Malformed(f"no pair at byte {at} of the weight_map")
    return names(sorted((json.loads(b'"%b"' % token) for token in tokens), key=_natural))


def shards_of(text: bytes) -> list[bytes]:
    """Those of ``files`` that lie beside the index; nothing where it is malformed."""
    try:
        found = files(text)
    except ValueError:
        return []
    return [os.fsencode(name) for name in found if "/" not in name]


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Numbers in names by their value."""
    return [
        (part.isdecimal(), int(part) if part.isdecimal() else 0, part)
        for part in re.split(r"(\d{1,18})", name)
    ]
