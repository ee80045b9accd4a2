"""The structs of bpf/swmld.h as C has them are those that Python reads."""

from __future__ import annotations

import struct
from typing import NamedTuple

import pytest
from swmld._native import ffi
from swmld.observe import records
from swmld.patterns.feed import Cursor, Shape, TouchFlag, TouchKind


class Layout(NamedTuple):
    fields: list[tuple[str, int, int]]  # name, offset, size
    size: int


def layout(name: str) -> Layout:
    """As the compiler laid it out; an array is one field."""
    kind = ffi.typeof(name)
    return Layout([(field, at.offset, ffi.sizeof(at.type)) for field, at in kind.fields], ffi.sizeof(kind))


def spans(form: struct.Struct) -> list[tuple[int, int]]:
    """Offset and size of each item of a struct format; ``24Q`` is 24 of them, ``16s`` one."""
    found, at = [], 0
    for count, code in _items(form.format):
        size = struct.calcsize("=" + code)
        if code == "s":
            found.append((at, count))
            at += count
            continue
        for _ in range(count):
            found.append((at, size))
            at += size
    assert at == form.size
    return found


def _items(text: str) -> list[tuple[int, str]]:
    assert text[0] == "=", "native alignment would hide a hole"
    items, digits = [], ""
    for char in text[1:]:
        if char.isdigit():
            digits += char
        else:
            items.append((int(digits or 1), char))
            digits = ""
    return items


FORMATS = {
    "struct swp_event": records.EVENT,
    "struct swp_key": records.KEY,
    "struct swp_cursor": records.CURSOR,
    "struct swp_row": records.ROW,
    "struct sw_view_row": records.VIEW_ROW,
    "struct swp_process": records.PROCESS,
    "struct swp_config": records.CONFIG,
    "struct swp_watch": records.WATCH,
}


@pytest.mark.parametrize("name", FORMATS)
def test_sizes(name: str) -> None:
    assert FORMATS[name].size == layout(name).size


@pytest.mark.parametrize(
    "name",
    [
        *FORMATS,
        "struct swp_thread",
        "struct swp_request",
        "struct swp_file",
        "struct swp_stranger",
    ],
)
def test_no_padding(name: str) -> None:
    """Bytes that nobody writes would be refused by the verifier, and differ in keys."""
    fields, size = layout(name)
    at = 0
    for field, offset, length in fields:
        assert offset == at, f"a hole before {field}"
        at += length
    assert at == size


@pytest.mark.parametrize("name", ["swp_event", "swp_key", "swp_cursor", "swp_process"])
def test_items_lie_where_fields_lie(name: str) -> None:
    starts = {offset for offset, _ in spans(FORMATS[f"struct {name}"])}
    assert {offset for _, offset, _ in layout(f"struct {name}").fields} <= starts


def test_the_books_of_a_stream_fill_cache_lines() -> None:
    """Else what each read touches would lie in three of them, not two: the array begins with a page."""
    line = 64
    key, cursor = layout("struct swp_key"), layout("struct swp_cursor")
    assert layout("struct swp_row").size == key.size + cursor.size
    assert (key.size + cursor.size) % line == 0
    touched = [at + size for field, at, size in cursor.fields if field in ("event_pages", "epoch", "random")]
    assert key.size + max(touched) <= 2 * line


def test_an_event() -> None:
    event = ffi.new("struct swp_event *")
    event.ns, event.ino, event.node, event.first, event.last, event.size = 1_500_000_000, 2, 3, 4, 5, 6
    event.stride, event.dev, event.pid, event.kind, event.flags, event.shape = -7, 8, 9, 3, 5, 2
    ((ino, node, touch),) = records.events(bytes(ffi.buffer(event)))
    assert (ino, node) == (2, 3)
    assert touch == (
        TouchKind.KIND, 1.5, 9, 3, 4, 5, 6, -7, TouchFlag.FAULT | TouchFlag.COLD, Shape.REVERSE,
    )  # fmt: skip


def test_a_fork_tells_the_child() -> None:
    event = ffi.new("struct swp_event *", {"ino": 77, "pid": 9, "kind": 7})
    ((_, _, touch),) = records.events(bytes(ffi.buffer(event)))
    assert (touch.kind, touch.pid, touch.file) == (TouchKind.FORK, 9, 77)


def test_every_field_of_a_cursor() -> None:
    """Each field gets a value of its own, and comes out under its own name."""
    row = ffi.new("struct swp_row *")
    row.key.ino, row.key.dev, row.key.pid = 1001, 1002, 1003
    seconds = {"first_ns": "first_at", "last_ns": "last_at", "event_ns": "event_at", "wait_ns": "wait"}
    seconds["written_ns"] = "written_at"
    wanted: dict[str, object] = {}
    for number, (field, _) in enumerate(ffi.typeof("struct swp_cursor").fields, 1):
        if field == "pad":
            continue
        if field == "early":
            values = range(500, 508)
            row.cursor.early = list(values)
            wanted[field] = tuple(values)
        elif field in seconds:
            setattr(row.cursor, field, number * 10**9)
            wanted[seconds[field]] = float(number)
        else:
            setattr(row.cursor, field, number)
            wanted[field] = number
    (got,) = records.rows(bytes(ffi.buffer(row)))
    assert (got.ino, got.pid, got.node) == (1001, 1003, wanted["node"])
    cursor = got.cursor._asdict()
    assert set(cursor) <= set(wanted)
    assert {name: pytest.approx(wanted[name]) for name in cursor} == cursor
    assert got.tiers is None
    assert len(Cursor._fields) == len(cursor)


def test_a_row_of_what_fuse_saw() -> None:
    row = ffi.new("struct sw_view_row *")
    row.key.ino, row.key.pid, row.cursor.node = 5, 6, 5
    row.disk_reads, row.disk_bytes, row.source_reads, row.source_bytes = 1, 2, 3, 4
    (got,) = records.view_rows(bytes(ffi.buffer(row)))
    assert (got.ino, got.pid, got.node) == (5, 6, 5)
    assert got.tiers == (1, 2, 3, 4)


def test_a_process() -> None:
    process = ffi.new("struct swp_process *")
    process.seen_ns = 14 * 10**9
    process.cgroup, process.parent, process.session, process.comm = 11, 12, 13, b"python3"
    process.above, process.ended = [14, 15, 16], 1
    process.wait_ns, process.waits, process.meta_ns, process.metas = 10**9, 2, 3 * 10**9, 4
    process.fuse_read_ns, process.fuse_reads = 5 * 10**9, 6
    process.fuse_write_ns, process.fuse_writes = 7 * 10**9, 8
    process.histogram = list(range(24))
    seen = records.process(bytes(ffi.buffer(process)))
    assert seen.at == pytest.approx(14)
    assert (seen.comm, seen.parent, seen.session, seen.cgroup) == (b"python3", 12, 13, 11)
    assert seen.above == (14, 15, 16)
    assert [pytest.approx(value) for value in (1, 2, 3, 4, 5, 6, 7, 8)] == list(seen.wait[:8])
    assert seen.wait.histogram == tuple(range(24))
