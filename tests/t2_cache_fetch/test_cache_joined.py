"""Changes of the index that are written with fewer statements: what they come to is the same."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st
from swmld.cache.changes import (
    NOTHING,
    AddChunk,
    AddFile,
    Change,
    DropFile,
    MoveFile,
    Op,
    Pin,
    RemoveChunk,
    Respan,
    SetKept,
    SetPath,
    Touch,
    TrustChunk,
    joined,
)
from swmld.cache.index import SCHEMA, FileRow
from swmld.cache.keeping import Kept
from swmld.plan.eviction import Keep

CHUNK = 1 << 20
CHUNKS = 3
SESSION = 2

Tables = tuple[Change, list[tuple[object, ...]], list[tuple[object, ...]]]


def row(file_id: int, ino: int) -> FileRow:
    return FileRow(
        file_id,
        1,
        0,
        ino,
        CHUNKS * CHUNK,
        1,
        1,
        b"a",
        CHUNK,
        0,
        CHUNKS,
        0,
        1.0,
        Kept().code,
        SESSION,
        SESSION,
    )


def add_chunk(file_id: int, chunk: int, new: int = 1) -> AddChunk:
    return AddChunk(file_id, chunk, 100 * file_id + chunk, CHUNK * new, SESSION, new)


def applied(before: Sequence[Op], ops: Sequence[Op]) -> Tables:
    """What ``ops`` change in all, and the tables after them."""
    db = sqlite3.connect(":memory:")
    db.executescript(SCHEMA)
    for op in before:
        op.apply(db)
    total = NOTHING
    for op in ops:
        total = total.plus(op.apply(db))
    files = db.execute("SELECT * FROM files ORDER BY file_id").fetchall()
    chunks = db.execute("SELECT * FROM chunks ORDER BY file_id, chunk").fetchall()
    db.close()
    return total, files, chunks


@dataclass
class Room:
    """What the cache believes, so that what it puts is what a cache puts."""

    inodes: dict[int, int] = field(default_factory=dict)
    """File id by inode."""
    present: dict[int, set[int]] = field(default_factory=dict)
    ids: int = 0

    def make(self, ino: int) -> list[Op]:
        """A generation in the place of the one that the inode had."""
        gone = self.drop(ino)
        self.ids += 1
        self.inodes[ino], self.present[self.ids] = self.ids, set()
        return [*gone, AddFile(row(self.ids, ino))]

    def drop(self, ino: int) -> list[Op]:
        file_id = self.inodes.pop(ino, 0)
        if not file_id:
            return []
        del self.present[file_id]
        return [DropFile(file_id, lambda: None)]

    def change(self, what: str, ino: int, chunk: int, to: int) -> list[Op]:
        """One thing that a cache does, as what it puts for it."""
        if what == "make":
            return self.make(ino)
        if what == "drop":
            return self.drop(ino)
        file_id = self.inodes.get(ino, 0)
        present = self.present.get(file_id, set())
        if not file_id:
            return []
        if what == "chunk":
            if chunk in present:
                return [TrustChunk(file_id, chunk, SESSION), add_chunk(file_id, chunk, new=0)]
            present.add(chunk)
            return [add_chunk(file_id, chunk)]
        if what == "bad":
            if chunk not in present:
                return []
            present.discard(chunk)
            return [RemoveChunk(file_id, chunk, CHUNK)]
        if what == "move":
            if to in self.inodes:
                return []
            self.inodes[to] = self.inodes.pop(ino)
            return [MoveFile(file_id, 1, 0, to, b"moved", lambda: None)]
        others: dict[str, Op] = {
            "touch": Touch(file_id, 5.0, None, again=True),
            "path": SetPath(file_id, b"b"),
            "pin": Pin(file_id, chunk > 0),
            "kept": SetKept(file_id, Kept(Keep.LAST), lambda before, now: None),
            "span": Respan(file_id, SESSION),
        }
        return [others[what]]


KINDS = ("make", "drop", "bad", "move", "touch", "path", "pin", "kept", "span", *["chunk"] * 4)

STEP = st.tuples(
    st.sampled_from(KINDS),
    st.integers(1, 4),
    st.integers(0, CHUNKS - 1),
    st.integers(1, 6),
)


def put(room: Room, steps: Sequence[tuple[str, int, int, int]]) -> list[Op]:
    return [op for step in steps for op in room.change(*step)]


@given(st.lists(STEP, max_size=25), st.lists(STEP, max_size=25), st.data())
def test_a_group_comes_to_the_same_as_its_changes_one_by_one(
    earlier: list[tuple[str, int, int, int]], steps: list[tuple[str, int, int, int]], data: st.DataObject
) -> None:
    room = Room()
    before = put(room, earlier)
    ops = put(room, steps)
    # Whatever only remembers may have been lost to a full disk.
    lost = data.draw(st.sets(st.sampled_from(range(len(before))))) if before else set()
    before = [op for number, op in enumerate(before) if op.must or number not in lost]
    assert applied(before, joined(ops)) == applied(before, ops)


def test_chunks_of_files_made_before_are_few_statements() -> None:
    before = [AddFile(row(file_id, file_id)) for file_id in range(1, 101)]
    ops: list[Op] = [add_chunk(file_id, chunk) for file_id in range(1, 101) for chunk in (0, 1)]
    fewer = joined(ops)
    assert len(fewer) == 1
    total, files, chunks = applied(before, fewer)
    assert (total, files, chunks) == applied(before, ops)
    assert total[:2] == (200 * CHUNK, 0)
    assert len(chunks) == 200


def test_a_chunk_that_was_bad_and_came_again_is_there() -> None:
    before = [AddFile(row(1, 1)), AddFile(row(2, 2)), add_chunk(1, 0)]
    ops: list[Op] = [RemoveChunk(1, 0, CHUNK), add_chunk(1, 0), add_chunk(2, 0)]
    total, _, chunks = applied(before, joined(ops))
    assert total.bytes == CHUNK
    assert [chunk[:2] for chunk in chunks] == [(1, 0), (2, 0)]


def test_chunks_of_files_that_were_lost_leave_no_stray_rows() -> None:
    before = [AddFile(row(1, 1))]
    ops: list[Op] = [add_chunk(1, 0), add_chunk(2, 0), add_chunk(3, 1)]
    total, files, chunks = applied(before, joined(ops))
    assert total.bytes == CHUNK
    assert [each[0] for each in files] == [each[0] for each in chunks] == [1]


def test_a_file_that_left_its_inode_to_another_stays() -> None:
    before = [AddFile(row(1, 1)), add_chunk(1, 0)]
    move = MoveFile(1, 1, 0, 5, b"moved", lambda: None)
    ops: list[Op] = [move, AddFile(row(2, 1)), AddFile(row(3, 3))]
    _, files, chunks = applied(before, joined(ops))
    assert [each[0] for each in files] == [1, 2, 3]
    assert [each[:2] for each in chunks] == [(1, 0)]
