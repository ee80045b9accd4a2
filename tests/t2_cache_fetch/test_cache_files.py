"""Cache files: found, made, filled, shared, replaced and dropped."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from support.cachekit import (
    CHUNK,
    OVERHEAD,
    Machine,
    cached,
    content,
    data_files,
    fill,
    identity,
    right_bytes,
)
from swmld.cache.changes import NOTHING, AddFile, Change, DropFile, Op, Pin
from swmld.cache.checksum import crc32c
from swmld.cache.files import ABSENT, MAX_CHUNKS, PRESENT
from swmld.cache.store import Cache
from swmld.errors import CacheError
from swmld.types import Identity


@pytest.fixture
def cache(machine: Machine) -> Cache:
    return machine.open()


def test_checksum_is_crc32c() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720, appendix B.4
    assert crc32c(memoryview(b"56789"), crc32c(bytearray(b"1234"))) == 0xE3069283


def test_a_file_starts_empty_and_fills_chunk_by_chunk(cache: Cache) -> None:
    of = identity(1, size=2 * CHUNK + 100)
    file = cache.acquire(of, b"a")
    assert (file.nchunks, file.size, file.chunk_size) == (3, of.size, CHUNK)
    assert file.missing(0, 99) == [0, 1, 2]
    assert not file.complete
    assert os.fstat(file.fd).st_size == of.size
    assert stat.S_IMODE(os.stat(file.path).st_mode) == 0o600

    fill(file, [2])
    assert [file.state(chunk) for chunk in range(3)] == [ABSENT, ABSENT, PRESENT]
    assert file.extent(2) == (2 * CHUNK, 100)
    assert file.missing(1, 3) == [1]
    assert file.bitmap() == b"\x04"
    assert (file.present_count, file.complete) == (1, False)

    fill(file, [0, 1])
    assert (file.present_count, file.complete, file.missing(0, 3), file.bitmap()) == (3, True, [], b"\x07")
    file.release()


def test_bitmap_sets_only_bits_of_chunks(cache: Cache) -> None:
    of = identity(1, size=10 * CHUNK)
    cached(cache, of)
    file = cache.find(of)
    assert file is not None
    assert file.bitmap() == b"\xff\x03"
    file.release()
    cache._writer.flush()
    file = cache.find(of)  # now from the index
    assert file is not None
    assert (file.bitmap(), file.present_count) == (b"\xff\x03", 10)
    file.release()


def test_chunks_beyond_the_end_are_refused(cache: Cache) -> None:
    file = cache.acquire(identity(1), b"a")
    for chunk in (-1, 3):
        with pytest.raises(IndexError):
            file.state(chunk)
        with pytest.raises(IndexError):
            file.commit(chunk, 0)
    file.release()


def test_data_files_keep_no_access_times(machine: Machine) -> None:
    long_ago = (1_000_000_000, 1_000_000_000)
    plain = machine.base / "plain"
    plain.write_bytes(b"x")
    cache = machine.open()
    file = cache.acquire(identity(1, size=10), b"a")
    fill(file)
    for path in (plain, Path(file.path)):
        os.utime(path, long_ago)
        path.read_bytes()
    assert plain.stat().st_atime > 1_000_000_000, "this file system keeps none at all: the test needs another"
    assert Path(file.path).stat().st_atime == 1_000_000_000


def test_an_empty_file_is_complete_at_once(cache: Cache) -> None:
    of = identity(1, size=0)
    file = cache.acquire(of, b"empty")
    assert file.complete
    assert file.bitmap() == b""
    assert file.missing(0, 5) == []
    file.release()
    assert cache.lookup_complete(of) == file.file_id
    cache._writer.flush()
    assert cache.lookup_complete(of) == file.file_id


def test_acquire_after_commit_gets_the_same_file(cache: Cache) -> None:
    first = cache.acquire(identity(1), b"a")
    fill(first, [0])
    second = cache.acquire(identity(1), b"a")
    assert second is first
    first.release()
    assert second.fd >= 0
    second.release()
    assert second.fd == -1
    with pytest.raises(ValueError, match="released more often"):
        second.release()


@pytest.mark.parametrize("written", [False, True], ids=["before the index knows", "after"])
def test_a_released_file_is_found_again(cache: Cache, written: bool) -> None:
    of = identity(1)
    file = cache.acquire(of, b"a")
    fill(file, [0, 2])
    file.release()
    if written:
        cache._writer.flush()
    again = cache.acquire(of, b"a")
    assert again.file_id == file.file_id
    assert again.missing(0, 3) == [1]
    assert right_bytes(again, 0)
    assert right_bytes(again, 2)
    fill(again, [1])
    again.release()
    assert cache.lookup_complete(of) == file.file_id


def test_a_file_taken_again_while_the_index_catches_up_stays_one_file(cache: Cache) -> None:
    first = cache.acquire(identity(1), b"a")
    first.release()
    again = cache.acquire(identity(1), b"a")
    cache._writer.flush()  # what the release had queued comes true now
    third = cache.acquire(identity(1), b"a")
    assert first is again is third
    again.release()
    third.release()


def test_a_tombstone_stands_until_the_last_drop_is_written(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    queued: list[Op] = []
    monkeypatch.setattr(cache._writer, "put", queued.append)
    cache._memory.bury((0, 1), 5)
    cache._memory.bury((0, 1), 9)
    queued[0].done()
    assert cache._memory.buried((0, 1))
    queued[1].done()
    assert not cache._memory.buried((0, 1))


def test_memory_holds_only_what_is_held(cache: Cache) -> None:
    for ino in range(100):
        cached(cache, identity(ino))
    cache._writer.flush()
    assert cache._memory.get((0, 5)) is None
    assert not cache._memory._files
    assert not cache._memory._by_id
    assert not cache._memory._tombs


def test_find_makes_and_drops_nothing(cache: Cache) -> None:
    assert cache.find(identity(1)) is None
    old = cached(cache, identity(1, generation=1))
    assert cache.find(identity(1, generation=2)) is None
    cache._writer.flush()
    assert cache.find(identity(1, generation=2)) is None
    assert cache.lookup_complete(identity(1, generation=1)) == old


def test_only_a_complete_file_is_looked_up(cache: Cache) -> None:
    of = identity(1)
    file = cache.acquire(of, b"a")
    for chunk in range(3):
        assert cache.lookup_complete(of) is None
        fill(file, [chunk])
    assert cache.lookup_complete(of) == file.file_id
    for other in (
        replace(of, size=of.size + 1),
        replace(of, mtime_ns=9),
        replace(of, ctime_ns=9),
        replace(of, ino=2),
        replace(of, dev=1),
    ):
        assert cache.lookup_complete(other) is None
    file.release()
    cache._writer.flush()
    assert cache.lookup_complete(of) == file.file_id
    assert cache.lookup_complete(replace(of, ctime_ns=9)) is None


@pytest.mark.parametrize("held", [True, False])
def test_a_new_generation_replaces_the_old(machine: Machine, held: bool) -> None:
    cache = machine.open()
    told: list[tuple[int, bool, bool]] = []
    cache.on_evict = lambda file_id, of: told.append(
        (file_id, os.path.exists(cache.data_path(file_id)), cache._books.index.by_id(file_id) is not None)
    )
    old = cache.acquire(identity(1, generation=1), b"a")
    fill(old, [0])
    if not held:
        old.release()
        cache._writer.flush()
    new = cache.acquire(identity(1, generation=2), b"a")

    assert new.file_id > old.file_id
    assert new.missing(0, 3) == [0, 1, 2]
    # Told while the data file was still there and the rows were gone.
    assert told == [(old.file_id, True, False)]
    assert data_files(machine.directory) == {new.file_id}
    if held:  # its reader goes on, and may fetch for itself
        assert right_bytes(old, 0)
        fill(old, [1])
        assert old.state(1) is PRESENT
        old.release()
    new.release()
    cache._writer.flush()
    assert cache.find(identity(1, generation=1)) is None
    assert cache.usage().bytes == OVERHEAD
    assert cache._books.index.chunks(old.file_id) == []


@pytest.mark.parametrize("how", ["id", "inode", "path"])
@pytest.mark.parametrize("where", ["held", "idle", "index"])
def test_drop_takes_rows_and_data(machine: Machine, how: str, where: str) -> None:
    cache = machine.open()
    of = identity(1)
    file = cache.acquire(of, b"dir/a")
    fill(file)
    if where != "held":
        file.release()
    if where == "index":
        cache._writer.flush()
    if how == "id":
        cache.drop(file.file_id)
    elif how == "inode":
        cache.drop_inode(of.dev, of.ino)
    else:
        assert cache.drop_path(b"dir") == 1
    assert cache.lookup_complete(of) is None
    assert cache.find(of) is None
    assert data_files(machine.directory) == set()
    assert cache.usage()[:2] == (0, 0)
    if where == "held":
        assert right_bytes(file, 2)
        file.release()
    cache.drop(file.file_id)
    cache.drop_inode(of.dev, of.ino)
    fresh = cache.acquire(of, b"dir/a")
    assert fresh.missing(0, 3) == [0, 1, 2]
    fresh.release()


def test_a_vanished_data_file_is_met_as_nothing(cache: Cache) -> None:
    for committed in (False, True):
        file_id = cached(cache, identity(1))
        if committed:
            cache._writer.flush()
        os.unlink(cache.data_path(file_id))
        file = cache.acquire(identity(1), b"a")
        assert file.file_id != file_id
        assert file.missing(0, 3) == [0, 1, 2]
        file.release()
    assert cache.usage().files == 1


def test_a_data_file_of_another_length_is_not_believed(cache: Cache) -> None:
    file_id = cached(cache, identity(1))
    os.truncate(cache.data_path(file_id), CHUNK)
    cache._writer.flush()
    assert cache.find(identity(1)) is None
    assert cache.usage().files == 0


def test_everything_is_there_after_a_clean_restart(machine: Machine) -> None:
    cache = machine.open()
    whole = cached(cache, identity(1), b"whole")
    part = cache.acquire(identity(2, size=10 * CHUNK + 5), b"part")
    fill(part, [0, 7, 10])
    part.release()
    usage = cache.usage()
    assert usage.bytes == 3 * CHUNK + 2 * CHUNK + 5 + 2 * OVERHEAD
    cache.close()

    machine.reboot()
    cache = machine.open()
    assert cache.usage() == usage
    assert cache.lookup_complete(identity(1)) == whole
    part2 = cache.acquire(identity(2, size=10 * CHUNK + 5), b"part")
    assert part2.missing(0, 11) == [1, 2, 3, 4, 5, 6, 8, 9]
    assert all(right_bytes(part2, chunk) for chunk in (0, 7, 10))
    part2.release()


def test_numbers_that_sqlite_cannot_hold(machine: Machine) -> None:
    cache = machine.open()
    of = replace(identity((1 << 64) - 3, dev=(1 << 63) + 9), mtime_ns=1 << 63, ctime_ns=-(1 << 63) - 7)
    file_id = cached(cache, of)
    cache.close()
    cache = machine.open()
    assert cache.lookup_complete(of) == file_id
    assert cache.lookup_complete(replace(of, ino=of.ino - 1)) is None
    later = replace(of, ctime_ns=1 << 70)
    file_id = cached(cache, later)
    cache._writer.flush()
    assert cache.lookup_complete(later) == file_id
    cache.drop_inode(of.dev, of.ino)
    assert cache.usage().files == 0


def test_another_chunk_size_leaves_old_files_as_they_are(machine: Machine) -> None:
    cache = machine.open()
    cached(cache, identity(1))
    cache.close()
    cache = machine.open(chunk_size=CHUNK * 2)
    old, new = cache.acquire(identity(1), b"a"), cache.acquire(identity(2), b"b")
    assert (old.chunk_size, old.complete) == (CHUNK, True)
    assert (new.chunk_size, new.nchunks) == (CHUNK * 2, 2)
    old.release()
    new.release()


def test_sources_do_not_see_each_other(machine: Machine) -> None:
    cache = machine.open(source_key="one")
    cached(cache, identity(1))
    cache.close()
    cache = machine.open(source_key="two")
    assert cache.lookup_complete(identity(1)) is None
    assert list(cache.ls()) == []
    file_id = cached(cache, identity(1))
    cache.drop_path(b"")
    cache.close()
    cache = machine.open(source_key="one")
    assert cache.lookup_complete(identity(1)) not in (None, file_id)


def test_ids_are_never_used_twice(machine: Machine) -> None:
    ids = []
    for _ in range(3):
        cache = machine.open()
        for ino in range(3):
            ids.append(cached(cache, identity(ino)))
            cache.drop(ids[-1])
        machine.crash(cache)
    cache = machine.open()
    ids_now = cache._finder.ids
    ids_now.next = ids_now.end - 3  # across the end of a block
    for ino in range(6):
        ids.append(cached(cache, identity(ino)))
    assert len(set(ids)) == len(ids)
    assert ids == sorted(ids)


def test_a_block_of_ids_is_asked_for_before_it_ends(machine: Machine) -> None:
    cache = machine.open()
    ids = cache._finder.ids
    before = ids.end
    ids.next = before - 2048
    cached(cache, identity(1))
    ids.next = before
    file_id = cached(cache, identity(2))
    machine.crash(cache)
    assert machine.open()._finder.ids.next > file_id == before


def test_names_are_bytes(cache: Cache) -> None:
    cached(cache, identity(1), b"/caf\xe9/\xff\n")
    assert [entry.path for entry in cache.ls(b"caf\xe9")] == [b"caf\xe9/\xff\n"]


def test_the_path_follows_a_rename(cache: Cache) -> None:
    cached(cache, identity(1), b"old")
    cache.acquire(identity(1), b"new").release()
    assert [entry.path for entry in cache.ls()] == [b"new"]
    cache.acquire(identity(1), b"newer").release()
    assert [entry.path for entry in cache.ls()] == [b"newer"]


def test_what_the_cache_cannot_hold_is_refused_by_errno(machine: Machine) -> None:
    cache = machine.open()
    with pytest.raises(CacheError) as caught:
        cache.acquire(identity(1, size=(1 << 63) - 1), b"huge")
    assert caught.value.errno == errno.EFBIG
    assert cache.usage().files == 0


def test_a_file_too_long_for_the_cache_disk_is_refused(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = machine.open()

    def refuse(_fd: int, _size: int) -> None:
        raise OSError(errno.EFBIG, "File too large")  # ext4 takes 16 TiB in one file

    monkeypatch.setattr(os, "ftruncate", refuse)
    with pytest.raises(CacheError) as caught:
        cache.acquire(identity(2, size=1 << 40), b"huge")
    assert caught.value.errno == errno.EFBIG
    assert data_files(machine.directory) == set()


def test_the_fd_limit_is_an_error_of_the_cache_alone(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    file_id = cached(cache, identity(1))
    cache._writer.flush()

    def refuse(*_args: object, **_kwargs: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        for ino in (1, 2):
            with pytest.raises(CacheError) as caught:
                cache.acquire(identity(ino), b"a")
            assert caught.value.errno == errno.EMFILE
    assert cache.lookup_complete(identity(1)) == file_id
    assert cache.usage().files == 1


def test_a_chunk_that_is_there_stays_as_it_is(cache: Cache) -> None:
    file = cache.acquire(identity(1), b"a")
    fill(file, [0])
    file.commit(0, 0xBAD)
    cache._writer.flush()
    assert file.verify(0)
    assert cache._books.index.crc(file.file_id, 0) == crc32c(content(file.identity, 0, CHUNK))
    assert cache.usage().bytes == CHUNK + OVERHEAD
    file.release()


def test_a_chunk_committed_a_moment_ago_can_be_verified(cache: Cache) -> None:
    file = cache.acquire(identity(1), b"a")
    fill(file, [1])
    assert file.verify(1)
    assert not file.verify(0)
    file.release()


def test_a_held_file_outlives_the_cache(machine: Machine) -> None:
    cache = machine.open()
    file = cache.acquire(identity(1), b"a")
    fill(file, [0])
    cache.close()
    cache.close()
    fill(file, [1])
    assert right_bytes(file, 1)
    file.release()
    cache = machine.open()
    again = cache.acquire(identity(1), b"a")
    assert again.missing(0, 3) == [1, 2]
    again.release()


def test_several_are_made_at_once(machine: Machine, cache: Cache) -> None:
    """Those of which nothing is known, whether in memory, in the index or on its way out of that."""
    held = cache.acquire(identity(1), b"held")
    in_index = cached(cache, identity(2))
    cache._writer.flush()
    cached(cache, identity(3))
    wanted = [(identity(number), b"dir/%d" % number) for number in (1, 2, 3, 4, 5, 5, 6)]
    wanted.append((identity(2, generation=2), b"changed"))
    made = cache.make_several(wanted)
    assert [file is not None for file in made] == [False, False, False, True, False, True, True, False]
    assert cache.make_several(wanted[3:4]) == [None]
    new = [file for file in made if file is not None]
    for file, number in zip(new, (4, 5, 6), strict=True):
        assert file.identity == identity(number)
        assert (file.missing(0, 3), os.fstat(file.fd).st_size) == ([0, 1, 2], file.size)
        assert stat.S_IMODE(os.stat(file.path).st_mode) == 0o600
        assert cache.acquire(identity(number), b"dir/%d" % number) is file
        fill(file)
        file.release()
        file.release()
    held.release()
    assert cache.lookup_complete(identity(2)) == in_index
    cache.close()
    cache = machine.open()
    assert [entry.path for entry in cache.ls(b"dir")] == [b"dir/4", b"dir/5", b"dir/6"]
    assert all(cache.lookup_complete(identity(number)) is not None for number in (4, 5, 6))


def test_one_of_several_cannot_be_made(cache: Cache) -> None:
    first = cache.acquire(identity(1), b"first")
    first.release()
    blocked = cache.data_path(first.file_id + 2)
    with open(blocked, "wb") as file:
        file.write(b"somebody's")
    made = cache.make_several([(identity(number), b"x") for number in (2, 3, 4)])
    assert [file is not None for file in made] == [True, False, True]
    again = cache.acquire(identity(3), b"x")
    assert again.missing(0, 3) == [0, 1, 2]
    for each in (*made, again):
        if each is not None:
            each.release()


def test_one_of_several_is_too_large_for_the_cache(cache: Cache) -> None:
    large = identity(3, size=CHUNK * MAX_CHUNKS + 1)
    made = cache.make_several([(identity(2), b"x"), (large, b"large"), (identity(4), b"x")])
    assert [file is not None for file in made] == [True, False, True]
    with pytest.raises(CacheError, match="too large"):
        cache.acquire(large, b"large")
    for file in made:
        if file is not None:
            file.release()


def test_files_of_one_group_are_entered_as_one_by_one(machine: Machine, cache: Cache) -> None:
    """Whatever else the group has of them: a drop, another generation, a pin."""
    big = 1 << 63  # beyond SQLite's numbers
    cached(cache, identity(7))
    cache._writer.flush()
    old = cache._books.index.by_key(cache._source, 0, 7)
    assert old is not None
    begun, goes_on = threading.Event(), threading.Event()

    class Holds(Op):
        def apply(self, db: sqlite3.Connection) -> Change:
            begun.set()
            goes_on.wait()
            return NOTHING

    cache._writer.put(Holds())
    begun.wait()
    dropped = cached(cache, identity(1))
    pinned = cached(cache, identity(2))
    for number in range(8, 50):
        cached(cache, identity(big + number if number % 2 else number, size=CHUNK + number))
    partly = cache.acquire(identity(100), b"partly")
    fill(partly, [1])
    # Its older generation stands there still, as when its drop could not be written.
    newer = cache._finder.ids.take()
    cache._writer.put(AddFile(old._replace(file_id=newer, bytes=0, present=0)))
    cache._writer.put(Pin(pinned, True))
    cache._writer.put(DropFile(dropped, lambda: None))
    goes_on.set()
    cache._writer.flush()
    rows = {row.file_id: row for row in cache._books.index.scan(cache._source, b"")}
    assert len(rows) == 45
    assert dropped not in rows
    assert rows[pinned].kept.by_hand
    assert old.file_id not in rows
    assert rows[newer].identity == identity(7)
    assert (rows[partly.file_id].present, rows[partly.file_id].bytes) == (1, CHUNK)
    for row in rows.values():
        chunks = cache._books.index.chunks(row.file_id)
        assert len(chunks) == row.present
        assert row.bytes == {partly.file_id: CHUNK, newer: 0}.get(row.file_id, row.size)
    totals = dict(cache._books.index.read(lambda db: db.execute("SELECT key, value FROM meta").fetchall()))
    assert totals["files"] == len(rows)
    assert totals["bytes"] == sum(row.bytes for row in rows.values())
    partly.release()


def _written(machine: Machine, of: Identity) -> tuple[Path, list[int]]:
    """A whole file beside the cache's own, and its checksums."""
    place = machine.directory / "written"
    chunks = [content(of, at, min(CHUNK, of.size - at)) for at in range(0, of.size, CHUNK)]
    place.write_bytes(b"".join(chunks))
    place.chmod(0o644)
    return place, [crc32c(chunk) for chunk in chunks]


def test_a_file_is_adopted_whole(machine: Machine, cache: Cache) -> None:
    of = identity(1, size=2 * CHUNK + 100)
    place, checksums = _written(machine, of)
    before = cache.usage().bytes
    cache.reserve(of.size)
    assert cache.adopt(of, b"a", place, checksums)
    assert not place.exists()
    assert cache.lookup_complete(of) is not None
    file = cache.find(of)
    assert file is not None
    assert file.complete
    assert all(right_bytes(file, chunk) for chunk in range(3))
    assert stat.S_IMODE(os.stat(file.path).st_mode) == 0o600
    file.release()
    assert cache.verify().bad == 0
    assert cache.usage().bytes - before == of.size + OVERHEAD


def test_what_cannot_be_adopted_stays_where_it_is(machine: Machine, cache: Cache) -> None:
    of = identity(1, size=2 * CHUNK)
    cached(cache, of)
    held = cache.usage().bytes
    place, checksums = _written(machine, of)
    cache.reserve(of.size)
    assert not cache.adopt(of, b"a", place, checksums), "it is there already"
    other = identity(2, size=3 * CHUNK)
    cache.reserve(other.size)
    assert not cache.adopt(other, b"b", place, checksums), "it is not as long as it is to be"
    assert [crc32c(place.read_bytes()[at:][:CHUNK]) for at in (0, CHUNK)] == checksums
    assert cache.usage().bytes == held
    assert cache.lookup_complete(of) is not None
    assert cache.lookup_complete(other) is None
