"""The model of a stream's books in Python, and ``bpf/stream.h``: the same for any reads."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.streams import StreamModel
from swmld._native import ffi, lib
from swmld.patterns.feed import NOT_EARLY, Cursor, Shape, TouchKind

READS = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 70), st.sampled_from([0, 16, 32, 48]), st.integers(0, 5000)),
        st.one_of(st.sampled_from([0, 0, 7, 15]), st.integers(0, 40), st.just(1500)),
        st.integers(0, 1),
    ),
    max_size=60,
)


def native_cursor(cursor: object) -> dict[str, object]:
    """Its fields that ``lib.sw_stream_enter`` keeps, by the names of ``Cursor``."""
    names = {"first_at": "first_ns", "last_at": "last_ns", "event_at": "event_ns", "written_at": "written_ns"}
    kept = [
        name for name in Cursor._fields
        if name not in ("cold", "partial", "faults", "direct", "wait", "tid", "pending", "missed", "early")
    ]  # fmt: skip
    values = {name: getattr(cursor, names.get(name, name)) for name in kept}
    return {**values, "early": tuple(cursor.early)}  # type: ignore[attr-defined]


@settings(max_examples=400, deadline=None)
@given(READS, st.sampled_from([0, 1, 2, 25, 64, 4096]))
def test_model_and_native_books_agree(reads: list[tuple[int, int, int]], size: int) -> None:
    cursor = ffi.new("struct swp_cursor *")
    model = StreamModel(1, 1, size)
    at = 1
    for first, length, ticks in reads:
        at += ticks
        said = model.read(first, first + length, float(at))
        event = lib.sw_stream_enter(cursor, first, first + length, size, at)
        assert event == (said[0].kind if said else 0)
        mine, theirs = model.cursor._asdict(), native_cursor(cursor)
        assert {name: mine[name] for name in theirs} == theirs
    assert NOT_EARLY == 0xFFFFFFFF


PAUSE = None
"""In a list of first pages: what follows was not looked at until the next one."""

SIZE = 4096


def sampled(firsts: list[int | None], weight: int = 1) -> tuple[Any, list[int]]:
    """The books of reads of one page, and the events."""
    cursor, events, paused = ffi.new("struct swp_cursor *"), [], False
    for at, first in enumerate(firsts, 1):
        if first is not None:
            events.append(lib.sw_stream_sample(cursor, first, first, SIZE, at, weight, paused))
        paused = first is None
    return cursor, [event for event in events if event]


FIRST_KIND = [TouchKind.FIRST, TouchKind.KIND]


@pytest.mark.parametrize(
    ("firsts", "shape"),
    [
        ([0, 1, 2, 3, PAUSE, 900, 901, 902, PAUSE, 17, 18], Shape.SEQUENTIAL),
        ([0, 1, 2, 3, PAUSE, 900, PAUSE, 40, PAUSE, 3000, PAUSE, 7], Shape.SEQUENTIAL),
        ([900, 899, 898, 897, PAUSE, 400, 399], Shape.REVERSE),
        ([0, 10, 20, 30, PAUSE, 205, 215, 225], Shape.STRIDED),
        ([900, 5, 2000, 77, 3000, PAUSE, 3001, PAUSE, 3002, PAUSE, 3003, PAUSE, 3004], Shape.RANDOM),
    ],
)
def test_what_lies_around_a_pause_says_nothing(firsts: list[int | None], shape: Shape) -> None:
    cursor, events = sampled(firsts)
    assert cursor.kind == shape
    assert events == FIRST_KIND
    assert getattr(cursor, shape.name.lower()) + 3 >= cursor.reads == sum(one is not None for one in firsts)


def test_without_a_pause_it_would_be_a_break() -> None:
    _, events = sampled([0, 1, 2, 3, 900])
    assert events == [*FIRST_KIND, TouchKind.BREAK]


def test_a_change_after_a_pause_is_told_by_the_reads_after_it() -> None:
    _, events = sampled([0, 1, 2, 3, PAUSE, 900, 70, 3000, 400])
    assert events == [*FIRST_KIND, TouchKind.BREAK, TouchKind.KIND]


def test_a_pass_over_the_end_is_one_and_no_more() -> None:
    """What a weight stands for are reads; how many passes there were between is not known."""
    cursor, events = sampled([SIZE - 3, SIZE - 2, SIZE - 1, 0, 1, PAUSE, 7, 8], weight=10)
    assert (cursor.passes, cursor.reads, cursor.pages) == (1, 61, 61)
    assert TouchKind.PASS in events


@settings(max_examples=400, deadline=None)
@given(
    READS,
    st.sampled_from([0, 1, 2, 25, 64, 4096]),
    st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=60, max_size=60),
)
def test_each_read_counts_for_its_weight(
    reads: list[tuple[int, int, int]], size: int, how: list[tuple[int, bool]]
) -> None:
    cursor, plain = ffi.new("struct swp_cursor *"), ffi.new("struct swp_cursor *")
    at = 1
    for (first, length, ticks), (weight, paused) in zip(reads, how, strict=False):
        at += ticks
        begun, before, passes, pages = cursor.next > 0, cursor.reads, cursor.passes, cursor.pages
        event = lib.sw_stream_sample(cursor, first, first + length, size, at, weight, paused)
        expected = 1 if not begun else max(1, weight) if cursor.passes > passes else weight
        assert cursor.reads - before == expected
        assert cursor.pages - pages <= max(1, weight) * (length + 1)
        if begun and paused:
            assert event in (0, TouchKind.PASS, TouchKind.WINDOW)
        lib.sw_stream_enter(plain, first, first + length, size, at)
    assert (cursor.passes, cursor.low, cursor.high, cursor.next) == (
        plain.passes,
        plain.low,
        plain.high,
        plain.next,
    )
