"""Tables of a trace's lines, column by column; see ``encoding`` for what a line holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from swmld.patterns.feed import Cursor, Folder, Place, Process, Tiers, Touch, Wait

ROWS = 1024
"""Most rows of a table in a line: a few milliseconds of the loop, which does other work between two lines."""

MOST_ROWS = 16 * ROWS
"""Of names and processes, which the rows of all tables may need."""

Columns = dict[str, list[Any]]
Table = dict[str, Any]

_FIELDS: Mapping[str, tuple[str, ...]] = {
    "touches": Touch._fields,
    "cursors": ("pid", "file", *Cursor._fields),
    "tiers": ("pid", "file", *Tiers._fields),
    "waits": ("pid", *Wait._fields),
    "files": ("number", "nodeid", *Place._fields),
    "folders": ("nodeid", *Folder._fields),
    "processes": Process._fields,
}
_SECONDS = frozenset(
    ("at", "first_at", "last_at", "event_at", "written_at", "wait", "meta", "read", "write", "started")
)  # microseconds in the line
_CHAINED = frozenset(("at", "first_at", "file", "number", "nodeid", "index"))
# In this order: a base is a column that stands before, or the last but in it.
_WITHIN: Mapping[str, tuple[tuple[str, str], ...]] = {
    "touches": (("size", "known"), ("last", "size")),
    "cursors": (
        ("size", "known"), ("next", "size"), ("asked", "size"), ("high", "size"), ("pages", "size"),
        ("event_pages", "pages"), ("last_at", "first_at"), ("event_at", "last_at"), ("tid", "pid"),
    ),
}  # fmt: skip
_ABSENT: Mapping[str, Any] = {
    "name": "", "path": "", "comm": "", "command": "", "cgroup": "", "container": "",
    "early": (), "histogram": (),
}  # fmt: skip


def pack(table: str, rows: Iterable[Iterable[Any]], known: Sequence[int] = ()) -> Table:
    """``rows`` of ``table`` as they stand in a line; ``known`` is the base of that name."""
    fields = _FIELDS[table]
    columns: Columns = dict(zip(fields, map(list, zip(*rows, strict=True)), strict=True))
    for field in fields:
        if field in _SECONDS:
            columns[field] = [round(value * 1e6) for value in columns[field]]
    bases = {**columns, "known": list(known)}
    for field, base in _WITHIN.get(table, ()):
        columns[field] = [value - other for value, other in zip(bases[field], bases[base], strict=True)]
    packed: Table = {"n": len(columns[fields[0]]), "all": {}, "each": {}}
    for field, column in columns.items():
        first = column[0]
        if field in _CHAINED:
            column = [first, *(value - before for before, value in pairwise(column))]
        elif all(value == first for value in column):
            if first != _ABSENT.get(field, 0):
                packed["all"][field] = first
            continue
        packed["each"][field] = column
    return packed


def columns_of(table: str, packed: Table) -> Columns:
    """The columns of ``packed``, differences to others and times not undone yet.

    Raises ValueError, TypeError or KeyError.
    """
    count = packed["n"]
    if not 0 < count <= MOST_ROWS:
        raise ValueError(f"{count} rows")
    columns: Columns = {}
    for field in _FIELDS[table]:
        column = packed["each"].get(field)
        if column is None:
            column = [packed["all"].get(field, _ABSENT.get(field, 0))] * count
        elif len(column) != count:
            raise ValueError(f"column {field} has {len(column)} rows of {count}")
        elif field in _CHAINED:
            column = list(accumulate(column))
        columns[field] = column
    return columns


def whole(table: str, columns: Columns, known: Sequence[int] = ()) -> Columns:
    """``columns`` with differences and times undone."""
    bases = {**columns, "known": list(known)}
    for field, base in _WITHIN.get(table, ()):
        bases[field] = columns[field] = [
            value + other for value, other in zip(columns[field], bases[base], strict=True)
        ]
    for field in _SECONDS.intersection(columns):
        columns[field] = [value / 1e6 for value in columns[field]]
    return columns


def unpack(table: str, packed: Table, known: Sequence[int] = ()) -> Columns:
    """The columns that were packed. Raises ValueError, TypeError or KeyError."""
    return whole(table, columns_of(table, packed), known)


def rows_of(table: str, columns: Columns) -> Iterator[tuple[Any, ...]]:
    """The rows of ``columns``, fields in their order."""
    return zip(*(columns[field] for field in _FIELDS[table]), strict=True)
