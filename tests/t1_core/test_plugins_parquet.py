"""Parquet: columns that are read of one row group are hinted of the next, before they are read."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.formats import PAGE, Asked, damaged, hints, knows, pages, traced
from swmld.plugins import parquet_layout, thrift
from swmld.plugins.interface import NONE, Range
from swmld.plugins.parquet import Parquet
from swmld.plugins.parsing import Malformed, Pieces

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
np = pytest.importorskip("numpy")

READAHEAD = 128 << 10


@functools.cache
def table(columns: int = 6, groups: int = 8, rows: int = 8000, **options: Any) -> bytes:
    numbers = np.random.default_rng(1)
    out = io.BytesIO()
    whole = pa.table({f"c{n}": numbers.random(rows * groups) for n in range(columns)})
    pq.write_table(whole, out, row_group_size=rows, use_dictionary=False, **options)
    return out.getvalue()


@functools.cache
def chunks(data: bytes) -> list[list[Range]]:
    """By group and column, as pyarrow says."""
    metadata = pq.read_metadata(io.BytesIO(data))
    found = []
    for group in range(metadata.num_row_groups):
        of = [metadata.row_group(group).column(n) for n in range(metadata.num_columns)]
        found.append(
            [
                Range(each.dictionary_page_offset or each.data_page_offset, each.total_compressed_size)
                for each in of
            ]
        )
    return found


def layout(data: bytes) -> parquet_layout.Layout:
    where, metadata = parquet_layout.footer(Pieces(Asked(data).context))
    return parquet_layout.layout(metadata, where.offset)


def kernel(reads: Sequence[Range], size: int) -> list[Range]:
    """As whole pages that are read ahead, merged where they meet."""
    found: list[Range] = []
    for each in reads:
        start = each.offset // PAGE * PAGE
        end = min(-(-each.end // PAGE) * PAGE + READAHEAD, size)
        near = next((n for n, one in enumerate(found) if one.offset <= start <= one.end), None)
        if near is None:
            found.append(Range(start, end - start))
        else:
            one = found[near]
            found[near] = Range(one.offset, max(one.end, end) - one.offset)
    return found


def _in_order(file: Any, columns: list[str]) -> None:
    """As pyarrow's scanner does, but without its threads, whose order is not always the same."""
    opened = pq.ParquetFile(file, pre_buffer=False)
    for group in range(opened.num_row_groups):
        opened.read_row_group(group, columns=columns, use_threads=False)


def following(data: bytes, reads: Sequence[Range], *, ahead: bool) -> tuple[set[int], list[bool]]:
    """The pages that were hinted in the course of these reads; and of each read whether it was foretold."""
    plugin = Parquet()
    hinted = pages(hints(plugin, "x.parquet", data).ranges)
    foretold = []
    for number, each in enumerate(reads, 1):
        foretold.append(pages([each]) <= hinted)
        touched = kernel(reads[:number], len(data)) if ahead else reads[:number]
        hinted |= pages(hints(plugin, "x.parquet", data, touched).ranges)
    return hinted, foretold


@pytest.mark.parametrize("ahead", [False, True], ids=["reads", "with readahead"])
@pytest.mark.parametrize("columns", [["c1"], ["c1", "c4"], ["c0", "c2", "c4"]], ids=len)
def test_the_same_columns_of_the_next_row_groups(tmp_path: Path, columns: list[str], ahead: bool) -> None:
    rows = 40_000 if ahead else 8000  # chunks of which readahead is a part
    data = table(rows=rows)
    path = tmp_path / "x.parquet"
    path.write_bytes(data)
    reads = traced(path, lambda file: _in_order(file, columns))
    assert reads[0].end == len(data)
    hinted, foretold = following(data, reads[1:], ahead=ahead)
    first = len(columns)
    assert foretold[:first] == [False] * first  # nothing says which columns it will be
    assert foretold[first:] == [True] * first * 7
    read = pages(reads)
    assert len(hinted - read) <= 0.1 * len(hinted)


def test_a_column_of_all_row_groups_and_then_the_next() -> None:
    data = table()
    of = chunks(data)
    reads = [of[group][column] for column in (1, 4) for group in range(8)]
    _, foretold = following(data, reads, ahead=False)
    assert foretold == ([False] + [True] * 7) * 2


def test_of_the_open_file_only_the_footer_is_known() -> None:
    data = table()
    found = hints(Parquet(), "x.parquet", data)
    assert [each.end for each in found.ranges] == [len(data)]
    assert data[found.ranges[0].offset : -8][:1] == b"\x15"  # a struct's first field: the version
    assert found.again
    assert found.compressed is True
    assert hints(Parquet(), "x.parquet", table(compression="none")).compressed is False


def test_after_all_columns_of_two_row_groups_the_rest_is_read_whole() -> None:
    data = table()
    of = chunks(data)
    one = Range(of[0][0].offset, of[0][-1].end - of[0][0].offset)
    found = hints(Parquet(), "x.parquet", data, [one])
    assert not found.whole
    assert pages(found.ranges) == pages(of[1] + of[2] + of[3] + of[4])
    both = Range(one.offset, of[1][-1].end - one.offset)
    assert hints(Parquet(), "x.parquet", data, [both]).whole


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([0], [1, 2, 3, 4]),  # no more than some: a reader may look at the first alone
        ([5], [6]),
        ([0, 1], [2, 3, 4, 5, 6, 7]),
        ([0, 1, 3, 2], [4, 5, 6, 7]),  # several threads
        ([0, 2, 4], [6]),
        ([7, 6, 5], [4, 3, 2, 1, 0]),
        ([6, 0, 3], []),
    ],
    ids=str,
)
def test_the_row_groups_that_follow(groups: list[int], expected: list[int]) -> None:
    data = table()
    of = chunks(data)
    found = hints(Parquet(), "x.parquet", data, [of[group][2] for group in groups])
    assert list(found.ranges) == [of[group][2] for group in expected]


def test_columns_that_were_read_before_are_read_of_this_row_group_too() -> None:
    data = table()
    of = chunks(data)
    found = hints(Parquet(), "x.parquet", data, [of[0][3], of[0][1], of[1][3]])
    assert list(found.ranges[:3]) == [of[1][1], of[2][3], of[2][1]]


def test_a_column_counts_from_its_first_page_on_or_once_half_of_it_was_read() -> None:
    data = table()
    of = chunks(data)
    one = of[0][2]
    next_ones = [of[group][2] for group in range(1, 5)]
    assert list(hints(Parquet(), "x.parquet", data, [Range(one.offset - 100, 4096)]).ranges) == [
        one,
        *next_ones,
    ]
    assert list(hints(Parquet(), "x.parquet", data, [Range(one.offset + 8192, 4096)]).ranges) != next_ones
    inner = [Range(one.offset + n, one.length // 4 + 1) for n in (one.length // 2, one.length // 8)]
    assert list(hints(Parquet(), "x.parquet", data, inner[:1]).ranges) != next_ones
    assert list(hints(Parquet(), "x.parquet", data, inner).ranges) == next_ones


def test_a_touch_of_the_end_is_no_read_of_columns() -> None:
    data = table(groups=2)
    end = Range(len(data) - (64 << 10), 64 << 10)
    assert hints(Parquet(), "x.parquet", data, [end]) == hints(Parquet(), "x.parquet", data)


def test_the_layout_is_as_pyarrow_says() -> None:
    for data in (table(), table(groups=3, rows=200), table(columns=40, groups=20, rows=50)):
        found = layout(data)
        assert list(found.chunks) == [each for group in chunks(data) for each in group]


def test_a_long_footer_costs_one_more_read() -> None:
    data = table(columns=40, groups=20, rows=50)
    assert int.from_bytes(data[-8:-4], "little") > 64 << 10
    assert hints(Parquet(), "x.parquet", data).why == "the footer of 20 row groups"


def test_of_a_footer_with_too_much_in_it_the_first_row_groups_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parquet_layout, "STEPS", 2000)
    data = table(columns=10, groups=20, rows=50)
    found = layout(data)
    assert 0 < found.groups < 20
    expected = [each for group in chunks(data)[: found.groups] for each in group]
    assert list(found.chunks) == expected


def test_how_sure() -> None:
    assert knows(Parquet(), "x.parquet", table())
    assert Parquet().detect("x.parquet", b"") == 0.7
    assert Parquet().detect("x.parquet", b"PK\3\4") == 0
    assert hints(Parquet(), "x.parquet", b"PAR1" + bytes(100) + b"PARE") == NONE  # encrypted


def varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


@pytest.mark.parametrize(
    "data",
    [
        b"\x1c" * 5000,  # structs in structs
        b"\x19" + b"\xf9" * 5000,  # lists in lists
        b"\x19\xfc" + varint(1 << 60) + b"\0" * 50,
        b"\x1b" + varint(1 << 60) + b"\x88" + b"\0" * 50,
        b"\x18" + varint(1 << 62),
        b"\x16" + b"\xff" * 5000,
        b"\x1e\0",
        b"\x15",
    ],
    ids=["structs", "lists", "list", "map", "binary", "number", "kind", "short"],
)
def test_thrift_that_lies_ends(data: bytes) -> None:
    reader = thrift.Reader(data, 10_000)
    with pytest.raises((Malformed, IndexError)):
        reader.skip(thrift.STRUCT)
    assert parquet_layout.layout(data, 1 << 40).groups == 0


SMALL = table(columns=3, groups=4, rows=20)


@settings(max_examples=60, deadline=None)
@given(damaged(SMALL), st.lists(st.builds(Range, st.integers(0, 5000), st.integers(0, 3000)), max_size=5))
def test_damaged_files_are_survived(data: bytes, touched: list[Range]) -> None:
    hints(Parquet(), "x.parquet", data, touched)
