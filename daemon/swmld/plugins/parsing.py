"""What the plugins share: bytes of a file by few reads, and ranges as an answer has them.

Nothing that stands in a file is trusted: a length or an offset is looked at only if it is within the file,
and a parser that runs into nonsense ends with one of ``BROKEN``, which ``tolerant`` makes an empty answer.
"""

from __future__ import annotations

import functools
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import TypeVar

from swmld.plugins.interface import HEAD, MOST_FILES, MOST_RANGES, NONE, Context, Hints, Range

LONGEST = 16 << 20
"""Bytes that are read in one piece. More takes Python more than half a second to look at."""

TAIL = 64 << 10
"""Bytes that are read first of a file with its directory at the end, as pyarrow does: most are shorter."""

PAGE = 4096
"""The kernel reads whole pages; ranges with less between them are one."""

SURE = 1 << 30
"""Bytes up to which a file is taken to be read whole; larger ones may be mapped and read here and there."""

PROOF = 8 << 20
"""Bytes read in order from the start of a larger file that show that it is read whole."""

STEPS = 4
"""Ranges apart from one another that show that a file is read in steps: header, end and two more."""


_LONGEST_NAME = 4096  # PATH_MAX


class Malformed(ValueError):
    """A file is not what its format says."""


BROKEN = (OSError, ValueError, IndexError, struct.error, RecursionError)

_Plugin = TypeVar("_Plugin")


def tolerant(hints: Callable[[_Plugin, Context], Hints]) -> Callable[[_Plugin, Context], Hints]:
    """``hints`` that answers ``NONE`` where the file cannot be read or is malformed."""

    @functools.wraps(hints)
    def answer(plugin: _Plugin, context: Context) -> Hints:
        try:
            return hints(plugin, context)
        except BROKEN:
            return NONE

    return answer


class Pieces:
    """Bytes of a file, each piece read once."""

    def __init__(self, context: Context) -> None:
        self.size = context.size
        self._read = context.read
        self._pieces = [(0, context.head)]

    def at(self, offset: int, length: int) -> bytes:
        """Exactly these. Malformed if the file has not got them or they are more than LONGEST; OSError."""
        if offset < 0 or not 0 <= length <= LONGEST or offset + length > self.size:
            raise Malformed(f"{length} bytes at {offset} of {self.size}")
        for start, piece in self._pieces:
            if start <= offset and offset + length <= start + len(piece):
                return piece[offset - start : offset - start + length]
        piece = self._read(offset, length)
        if len(piece) != length:
            raise Malformed(f"{len(piece)} bytes at {offset} instead of {length}")
        self._pieces.append((offset, piece))
        return piece

    def head(self, length: int = HEAD) -> bytes:
        """The first bytes, fewer of a smaller file."""
        return self.at(0, min(length, self.size))

    def tail(self, length: int = TAIL) -> bytes:
        """The last bytes, fewer of a smaller file."""
        length = min(length, self.size)
        return self.at(self.size - length, length)


def span(start: int, end: int) -> Range:
    """Nothing where the end is before the start."""
    return Range(start, max(end - start, 0))


def merged(ranges: Iterable[Range], size: int) -> tuple[Range, ...]:
    """In the same order, cut to the file, those next to each other as one; as many as an answer may have."""
    found: list[Range] = []
    for each in ranges:
        start, end = max(each.offset, 0), min(each.end, size)
        if end <= start:
            continue
        if found and found[-1].offset <= start <= found[-1].end + PAGE:
            found[-1] = span(found[-1].offset, max(found[-1].end, end))
        elif len(found) == MOST_RANGES:
            break
        else:
            found.append(span(start, end))
    return tuple(found)


def in_steps(context: Context) -> bool:
    """Whether the file is read here and there: most of what lies between its first and last byte read so
    far was left out."""
    touched = context.touched
    if len(touched) < STEPS:
        return False
    # The end alone, where directories are, says nothing of how the rest is read.
    inner = [each for each in touched if each.end < context.size - TAIL] or touched
    between = max(each.end for each in inner) - min(each.offset for each in inner)
    return sum(each.length for each in inner) * 2 < between


def parts(
    context: Context, directory: Range, order: Sequence[Range], why: str, *, compressed: bool | None = None
) -> Hints:
    """Of a format with a directory, whose parts are mostly read in this order: all parts of a file that fits
    into memory, and of a larger one those that follow, once two were read."""
    if context.size <= SURE:
        return Hints(merged(chain([directory], order), context.size), compressed=compressed, why=why)
    following = order[_reached(context, order) :]
    ranges = merged(following or [directory], context.size)
    return Hints(ranges, again=not following, compressed=compressed, why=why)


def _reached(context: Context, order: Sequence[Range]) -> int:
    """After how many parts a reader is who read two; all of them: not known."""
    places = {part.offset: number for number, part in enumerate(order)}
    starts = sorted(places)
    read: list[int] = []
    for each in context.touched:
        if each.offset < context.size - TAIL:  # where directories are
            begun = starts[bisect_left(starts, each.offset - PAGE + 1) : bisect_left(starts, each.end)]
            read += [places[start] for start in begun[-2:]]
    return max(read) + 1 if len(read) > 1 else len(order)


def sequential(context: Context, why: str, *, compressed: bool | None = None, sure: int = SURE) -> Hints:
    """Of a format that is read from start to end, as far as nothing speaks against it."""
    if in_steps(context):
        return Hints(compressed=compressed, why="read in steps")
    proven = any(each.offset < PAGE and each.length >= PROOF for each in context.touched)
    if proven or context.size <= sure:
        return Hints(whole=True, compressed=compressed, again=not proven, why=why)
    return Hints(compressed=compressed, again=True, why="may be read in part")


def names(given: Iterable[str]) -> tuple[str, ...]:
    """Those that an answer may have, each once: names in a file's directory or below it."""
    found: dict[str, None] = {}
    for name in given:
        if len(found) == MOST_FILES:
            break
        if _may_be_named(name):
            found.setdefault(name)
    return tuple(found)


def _may_be_named(name: str) -> bool:
    try:
        length = len(name.encode())
    except UnicodeEncodeError:  # half a surrogate, as JSON can have it
        return False
    return 0 < length <= _LONGEST_NAME and name[0] != "/" and "\0" not in name and ".." not in name.split("/")
