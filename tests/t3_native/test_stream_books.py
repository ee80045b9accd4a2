"""The model of a stream's books in Python, and ``bpf/stream.h``: the same for any reads."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from support.streams import StreamModel
from swmld._native import ffi, lib
from swmld.patterns.feed import NOT_EARLY, Cursor

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
