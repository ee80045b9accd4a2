"""What a plugin answered, held to the interface: a clean copy, or ValueError that says what is wrong.

Called in the plugin's thread and within its time: what an answer is made of may be code of the plugin too.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from swmld.plugins.interface import MOST_FILES, MOST_RANGES, Hints, Range

LONGEST_NAME = 4096
"""Bytes of a path (PATH_MAX)."""
LONGEST_WHY = 200
_LARGEST = (1 << 63) - 1  # loff_t


def confidence(answer: Any) -> float:
    """A number from 0 to 1."""
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        raise ValueError(f"expected a number from 0 to 1, got {answer!r:.80}")
    if not 0 <= answer <= 1:  # nor NaN
        raise ValueError(f"expected a number from 0 to 1, got {answer}")
    return float(answer)


def hints(answer: Any, size: int) -> Hints:
    """Hints with ranges that lie in a file of ``size`` bytes, of which none is empty, and names in or below
    its directory."""
    if not isinstance(answer, Hints):
        raise ValueError(f"expected Hints, got {answer!r:.80}")
    for name in ("whole", "again"):
        if not isinstance(getattr(answer, name), bool):
            raise ValueError(f"{name}: expected True or False, got {getattr(answer, name)!r:.80}")
    if not (answer.compressed is None or isinstance(answer.compressed, bool)):
        raise ValueError(f"compressed: expected True, False or None, got {answer.compressed!r:.80}")
    if not isinstance(answer.why, str):
        raise ValueError(f"why: expected a text, got {answer.why!r:.80}")
    return Hints(
        ranges=_ranges(answer.ranges, size),
        whole=answer.whole,
        files=_files(answer.files),
        compressed=answer.compressed,
        again=answer.again,
        why=" ".join(answer.why[:LONGEST_WHY].split()),
    )


def _ranges(given: Any, size: int) -> tuple[Range, ...]:
    if not isinstance(given, list | tuple):
        raise ValueError(f"ranges: expected a tuple of Range, got {given!r:.80}")
    found = []
    for each in islice(given, MOST_RANGES):
        if not isinstance(each, Range) or not all(type(n) is int for n in (each.offset, each.length)):
            raise ValueError(f"ranges: expected Range(offset, length) of whole numbers, got {each!r:.80}")
        if not (0 <= each.offset <= _LARGEST and 0 <= each.length <= _LARGEST):
            raise ValueError(f"ranges: expected nothing below 0 nor beyond 63 bits, got {each!r:.80}")
        length = min(each.length, size - each.offset)
        if length > 0:
            found.append(each if length == each.length else Range(each.offset, length))
    return tuple(found)


def _files(given: Any) -> tuple[str, ...]:
    if not isinstance(given, list | tuple):
        raise ValueError(f"files: expected a tuple of names, got {given!r:.80}")
    found = []
    for name in islice(given, MOST_FILES):
        if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or "\0" in name:
            raise ValueError(f"files: expected names, got {name!r:.80}")
        if name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"files: expected names in the file's directory or below, got {name!r:.80}")
        found.append(str(name))
    return tuple(found)
