"""Readahead: exact spans for the usual readers, and properties for all others."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swmld.plan.readahead import Limits, Streams
from swmld.types import Span

MIB = 1 << 20


def streams(chunks: int, limits: Limits | None = None) -> Streams:
    return Streams(4 * MIB, chunks * 4 * MIB, limits)


def touch_all(streams: Streams, order: list[int]) -> list[list[Span]]:
    return [streams.on_touch(chunk, float(i)) for i, chunk in enumerate(order)]


def test_sequential_reader_doubles_its_window() -> None:
    asked = touch_all(streams(1000), list(range(6)))
    assert asked == [
        [],  # one touch proves nothing
        [Span(2, 4)],
        [Span(4, 7)],  # 2 was asked for: the window is 4 now
        [Span(7, 12)],
        [Span(12, 21)],
        [Span(21, 38)],  # 32 ahead of 5
    ]


def test_smaller_chunks_are_asked_for_as_far_ahead_and_not_after_one_read_of_two() -> None:
    usual = Limits()
    assert usual.of(4 * MIB, 4 * MIB) == usual.of(8 * MIB, 4 * MIB) == usual
    fine = Streams(MIB, 1000 * MIB, usual.of(MIB, 4 * MIB))
    asked = touch_all(fine, list(range(6)))
    assert asked == [[], [], [], [], [Span(5, 13)], [Span(13, 22)]]
    touch_all(fine, list(range(6, 200)))
    assert len(fine.outstanding) == 128
    random_reads = Streams(MIB, 1000 * MIB, usual.of(MIB, 4 * MIB))
    assert not any(touch_all(random_reads, [n for at in range(10, 900, 30) for n in (at, at + 1)]))


def test_window_is_bounded_by_chunks_and_bytes() -> None:
    many = streams(1000)
    touch_all(many, list(range(100)))
    assert len(many.outstanding) == 32
    wide = Streams(64 * MIB, 1000 * 64 * MIB)
    touch_all(wide, list(range(20)))
    assert len(wide.outstanding) == 2
    huge = Streams(1 << 30, 10 << 30)
    touch_all(huge, [0, 1])
    assert len(huge.outstanding) == 1


def test_a_window_of_nothing_switches_it_off() -> None:
    file = streams(3, Limits(max_window=0))
    assert touch_all(file, [0, 1, 2]) == [[], [], []]
    large = streams(1000, Limits(max_window=0))
    assert not any(touch_all(large, list(range(100))))
    large.on_wasted(1)
    assert not any(touch_all(large, list(range(100, 200))))


def test_small_file_starts_at_once_at_its_beginning() -> None:
    assert streams(3).on_touch(0, 0.0) == [Span(1, 3)]
    assert streams(3).on_touch(1, 0.0) == []
    assert streams(100).on_touch(0, 0.0) == []
    assert streams(1).on_touch(0, 0.0) == []


def test_end_of_file() -> None:
    file = streams(5)
    assert touch_all(file, [2, 3]) == [[], [Span(4, 5)]]
    assert file.on_touch(4, 9.0) == []
    with pytest.raises(IndexError):
        file.on_touch(5, 9.0)


def test_several_readers_at_once() -> None:
    file = streams(1000)
    starts = (0, 200, 400, 600)
    touched: set[int] = set()
    covered = 0
    for step in range(20):
        for start in starts:
            covered += start + step in file.outstanding
            file.on_touch(start + step, 0.0)
            touched.add(start + step)
    assert covered == 4 * 18  # all but the two touches that confirm each


def test_a_reader_behind_another_asks_for_nothing_twice() -> None:
    file = streams(1000)
    ahead = [chunk for spans in touch_all(file, [20, 21, 22]) for span in spans for chunk in span]
    behind = [chunk for spans in touch_all(file, list(range(10))) for span in spans for chunk in span]
    assert set(ahead) == set(range(22, 27))
    assert not set(ahead[1:]) & set(behind)  # 22 itself was touched and is not on its way
    assert 40 in behind


def test_a_fifth_reader_replaces_the_least_recently_used() -> None:
    file = streams(1000)
    for start in (0, 100, 200, 300, 400):
        touch_all(file, [start, start + 1])
    assert file.on_touch(401 + 1, 0.0)
    assert file.on_touch(3, 0.0) == []  # the first one is unknown now


def test_waste_halves_and_asks_for_more_proof() -> None:
    file = streams(1000, Limits(streams=1))
    touch_all(file, list(range(10)))
    assert len(file.outstanding) == 32
    assert touch_all(file, [500, 501]) == [[], []]  # the old stream is dropped with 32 chunks unread
    assert file.on_touch(502, 0.0) == [Span(503, 505)]
    touch_all(file, list(range(503, 540)))
    assert len(file.outstanding) == 64  # used to the full, it wins the window back


def test_on_wasted_shrinks_running_streams() -> None:
    file = streams(1000)
    touch_all(file, list(range(10)))
    file.on_wasted(3)
    assert file.on_touch(10, 0.0) == []  # 32 were ahead, 16 are allowed
    file.on_wasted(0)


def test_what_the_queue_dropped_is_asked_again() -> None:
    file = streams(1000)
    assert touch_all(file, [0, 1, 2])[-1] == [Span(4, 7)]
    file.on_dropped([5, 6])
    assert file.outstanding == {3, 4}
    assert file.on_touch(3, 0.0) == [Span(5, 12)]


def test_skips_inside_the_window_are_waste() -> None:
    file = streams(1000, Limits(streams=1))
    touch_all(file, list(range(5)))
    assert file.on_touch(8, 0.0)[0].first == 21
    assert {5, 6, 7} <= file.outstanding  # on their way: not to be asked for again
    touch_all(file, [9, 900, 901])
    assert file.on_touch(902, 0.0) == [Span(903, 905)], "two confirmations after waste"
    assert file.close() > 3
    assert not file.outstanding


def test_backward_readers_get_nothing() -> None:
    assert not any(touch_all(streams(1000), list(range(999, 0, -1))))


@pytest.mark.parametrize("seed", range(5))
def test_random_access_costs_almost_nothing(seed: int) -> None:
    source = random.Random(seed)
    file = streams(5000)
    asked = sum(len(span) for _ in range(10_000) for span in file.on_touch(source.randrange(5000), 0.0))
    assert asked <= 50  # of 10,000 touches


@settings(max_examples=300, deadline=None)
@given(
    chunks=st.integers(1, 40),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("touch"), st.integers(0, 39)),
            st.tuples(st.just("next"), st.integers(1, 3)),
            st.tuples(st.just("dropped"), st.integers(0, 39)),
            st.tuples(st.just("used"), st.integers(0, 39)),
            st.tuples(st.just("wasted"), st.integers(0, 5)),
        ),
        max_size=120,
    ),
    limits=st.builds(
        Limits, streams=st.integers(1, 4), first_window=st.integers(1, 3), max_chunks=st.integers(1, 16)
    ),
)
def test_never_out_of_range_never_twice(chunks: int, steps: list[tuple[str, int]], limits: Limits) -> None:
    file = streams(chunks, limits)
    outstanding: set[int] = set()
    at = 0
    for what, value in steps:
        if what in ("touch", "next"):
            at = (at + value if what == "next" else value) % chunks
            spans = file.on_touch(at, 0.0)
            asked = [chunk for span in spans for chunk in span]
            assert len(asked) == len(set(asked))
            assert all(0 <= chunk < chunks for chunk in asked)
            assert all(span.first < span.stop for span in spans)
            outstanding.discard(at)
            assert not outstanding & set(asked)
            assert at not in asked
            outstanding |= set(asked)
        elif what == "dropped":
            file.on_dropped([value])
            outstanding.discard(value)
            assert value not in file.outstanding
        elif what == "used":
            file.on_used(value)
            outstanding.discard(value)
            assert value not in file.outstanding
        else:
            file.on_wasted(value)
            outstanding &= file.outstanding
        assert file.outstanding == outstanding
