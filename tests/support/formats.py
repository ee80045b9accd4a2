"""Files as plugins see them, how real readers read them, and what bad disks make of them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from swmld.plugins.interface import HEAD, READ_BYTES, Context, Hints, Plugin, Range

PAGE = 4096
MOST_READS = 4
"""Of a plugin for one answer: each may wait for the source."""


class Traced(io.FileIO):
    """A file that remembers what was read of it, in order."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.reads: list[Range] = []

    def read(self, size: int | None = -1) -> bytes:  # type: ignore[override]
        at = self.tell()
        data = super().read(-1 if size is None else size)
        self.reads.append(Range(at, len(data)))
        return data

    def readall(self) -> bytes:
        at = self.tell()
        data = super().readall()
        self.reads.append(Range(at, len(data)))
        return data

    def readinto(self, buffer: Any) -> int:
        at = self.tell()
        length = super().readinto(buffer)
        self.reads.append(Range(at, length))
        return length


def traced(path: Path, read: Callable[[Traced], object]) -> list[Range]:
    """What a reader reads of a file."""
    with Traced(path) as file:
        read(file)
        return [each for each in file.reads if each.length]


class Asked:
    """A file as a plugin is asked about it, and what the plugin read."""

    def __init__(self, data: bytes, path: str = "x", touched: Sequence[Range] = ()) -> None:
        self.data = data
        self.calls: list[Range] = []
        self.context = Context(path, len(data), data[:HEAD], self._read, tuple(touched))

    def _read(self, offset: int, length: int) -> bytes:
        assert offset >= 0
        assert length >= 0
        self.calls.append(Range(offset, length))
        return self.data[offset : offset + length]


def hints(plugin: Plugin, path: str, data: bytes, touched: Sequence[Range] = ()) -> Hints:
    """Its answer about a file, held to what every answer must be."""
    asked = Asked(data, path, touched)
    found = plugin.hints(asked.context)
    assert isinstance(found, Hints)
    assert all(0 <= each.offset < each.end <= len(data) for each in found.ranges)
    assert len(asked.calls) <= MOST_READS
    assert sum(each.length for each in asked.calls) <= READ_BYTES
    return found


def knows(plugin: Plugin, path: str, data: bytes) -> bool:
    """Surely, by what is in the file."""
    return plugin.detect(path, data[:HEAD]) >= 0.9


def pages(ranges: Iterable[Range]) -> set[int]:
    return {page for each in ranges for page in range(each.offset // PAGE, -(-each.end // PAGE))}


def assert_foretold(ranges: Sequence[Range], reads: Sequence[Range]) -> None:
    """Nine of ten hinted pages are read, all that are read were hinted, and longer reads come in the order
    of the hints."""
    hinted, read = pages(ranges), pages(reads)
    assert read <= hinted
    assert len(read) >= 0.9 * len(hinted)
    places = [place(ranges, each) for each in reads if each.length > PAGE]
    assert len(places) > 1
    assert places == sorted(places)


def place(ranges: Sequence[Range], read: Range) -> int:
    """Where in the hinted bytes, put one after the other, it begins."""
    before = 0
    for each in ranges:
        if each.offset <= read.offset < each.end:
            return before + read.offset - each.offset
        before += each.length
    raise AssertionError(f"{read} was not hinted")


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """A file with some bytes changed, most of them at its ends, where the structure is; and cut off, or not,
    or with a piece left out."""
    found = bytearray(data)
    size = len(data)
    places = (
        st.integers(0, size - 1)
        | st.integers(0, min(size, 600) - 1)
        | st.integers(max(size - 600, 0), size - 1)
    )
    for _ in range(draw(st.integers(0, 8))):
        value = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
        found[draw(places)] = value
    if draw(st.booleans()):
        start = draw(places)
        del found[start : start + draw(st.sampled_from([1, 7, 64, size]))]
    return bytes(found)
