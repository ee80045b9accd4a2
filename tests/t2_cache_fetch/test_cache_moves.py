"""Files whose inode numbers are of their paths are renamed, and stay cached."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import pytest
from support.cachekit import CHUNK, Machine, cached, content, data_files, fill, identity
from swmld.cache.checksum import crc32c
from swmld.cache.files import CacheFile
from swmld.cache.store import Cache
from swmld.types import Identity

OLD = identity(1)
NEW = replace(OLD, ino=2)


def holds(file: CacheFile, of: Identity, chunks: range = range(3)) -> bool:
    """Whether these chunks are there, with the bytes of ``of``."""
    return not file.missing(chunks.start, chunks.stop) and all(
        os.pread(file.fd, CHUNK, chunk * CHUNK) == content(of, chunk * CHUNK, CHUNK) for chunk in chunks
    )


def whole(cache: Cache, of: Identity, path: bytes, first: Identity) -> bool:
    """Whether ``path`` is cached whole with the bytes that ``first`` was filled with."""
    file = cache.acquire(of, path)
    try:
        return holds(file, first)
    finally:
        file.release()


def settled(cache: Cache) -> None:
    cache._writer.flush()
    cache._writer.flush()  # the first one settles files, in memory alone


@pytest.mark.parametrize("where", ["index", "memory", "held"])
def test_a_renamed_file_stays_cached(machine: Machine, where: str) -> None:
    cache = machine.open()
    file = cache.acquire(OLD, b"old")
    fill(file)
    usage = cache.usage()
    if where != "held":
        file.release()
    if where == "index":
        settled(cache)
        assert cache._memory.by_id(file.file_id) is None
    assert cache.follow(OLD, NEW, b"new")
    assert cache.lookup_complete(OLD) is None
    assert cache.find(OLD) is None
    assert cache.lookup_complete(NEW) == file.file_id
    assert whole(cache, NEW, b"new", OLD)
    if where == "held":
        assert holds(file, OLD)
        file.release()
    assert [entry.path for entry in cache.ls()] == [b"new"] or where == "held"
    assert cache.usage() == usage
    settled(cache)
    machine.crash(cache)
    again = machine.open()
    assert again.lookup_complete(OLD) is None
    assert again.lookup_complete(NEW) == file.file_id
    assert whole(again, NEW, b"new", OLD)
    assert again.usage() == usage


def test_a_part_of_a_file_is_filled_up_under_its_new_number(machine: Machine) -> None:
    cache = machine.open()
    file = cache.acquire(OLD, b"old")
    fill(file, [1])
    assert cache.follow(OLD, NEW, b"new")
    other = cache.acquire(NEW, b"new")
    assert other is file
    assert file.missing(0, 3) == [0, 2]
    for chunk in (0, 2):
        data = content(OLD, chunk * CHUNK, CHUNK)
        os.pwrite(file.fd, data, chunk * CHUNK)
        file.commit(chunk, crc32c(data))
    file.release()
    other.release()
    settled(cache)
    machine.crash(cache)
    assert whole(machine.open(), NEW, b"new", OLD)


@pytest.mark.parametrize("held", [False, True])
def test_what_the_new_number_was_goes(machine: Machine, held: bool) -> None:
    cache = machine.open()
    over = replace(NEW, mtime_ns=77)
    kept, gone = cached(cache, OLD, b"old"), cached(cache, over, b"new")
    settled(cache)
    reader = cache.acquire(over, b"new") if held else None
    assert cache.follow(OLD, NEW, b"new")
    if reader is not None:
        assert holds(reader, over), "whoever has it open reads on"
        reader.release()
    assert whole(cache, NEW, b"new", OLD)
    assert cache.lookup_complete(over) is None
    settled(cache)
    assert data_files(machine.directory) == {kept}
    assert kept != gone
    assert cache.usage().files == 1


def test_another_generation_is_not_followed(machine: Machine) -> None:
    cache = machine.open()
    cached(cache, OLD, b"old")
    for other in ({"size": 2 * CHUNK}, {"mtime_ns": 5}, {"ctime_ns": 5}, {"dev": 3}):
        changed = replace(OLD, **other)
        assert not cache.follow(changed, replace(changed, ino=2), b"new")
        assert not cache.follow(OLD, replace(changed, ino=2), b"new")
    assert not cache.follow(OLD, OLD, b"new")
    assert not cache.follow(identity(9), identity(10), b"new")
    assert whole(cache, OLD, b"old", OLD)


def test_a_number_that_was_left_is_another_files_at_once(machine: Machine) -> None:
    """Both changes in one group of the writer's."""
    cache = machine.open()
    cached(cache, OLD, b"old")
    settled(cache)
    other = identity(1, generation=2)
    third = identity(3)
    file = cache.acquire(OLD, b"old")  # in memory, so that nobody waits for the index
    assert cache.follow(OLD, NEW, b"new")
    numbers = [cached(cache, other, b"old"), cached(cache, third, b"third")]
    assert len(set(numbers)) == 2
    file.release()
    settled(cache)
    machine.crash(cache)
    again = machine.open()
    assert whole(again, NEW, b"new", OLD)
    assert whole(again, other, b"old", other)
    assert again.usage().files == 3


def test_a_moved_file_can_be_dropped_and_evicted(machine: Machine) -> None:
    cache = machine.open()
    told: list[Identity] = []
    cache.on_evict = lambda _id, of: told.append(of)
    file_id = cached(cache, OLD, b"old")
    file = cache.acquire(OLD, b"old")
    cache.follow(OLD, NEW, b"new")
    file.release()
    cache.drop(file_id)
    assert told == [NEW]
    assert cache.lookup_complete(NEW) is None
    assert cache.usage().files == 0
    assert not data_files(machine.directory)


# -- directories ---------------------------------------------------------------------------------------


def number(table: dict[bytes, int]) -> Callable[[bytes], int]:
    return lambda path: table.get(path, 0)


def test_files_of_a_renamed_directory_are_found_where_they_were(machine: Machine) -> None:
    cache = machine.open()
    file_id = cached(cache, OLD, b"a/d/f")
    apart = cached(cache, identity(5), b"ab/f")
    settled(cache)
    cache.renamed(b"a", b"b")
    settled(cache)
    machine.crash(cache)
    cache = machine.open()  # remembered across a crash
    cache.renamed(b"b/d", b"c")
    left: list[tuple[int, Identity]] = []
    cache.on_move = lambda file_id, of: left.append((file_id, of))
    was = number({b"a/d/f": 1, b"b/d/f": 7})
    assert cache.make_several([(NEW, b"c/f")]) == [None]
    file = cache.acquire(NEW, b"c/f", opened=False, number=was)
    assert file.file_id == file_id
    assert holds(file, OLD)
    file.release()
    assert [entry.path for entry in cache.ls(b"c")] == [b"c/f"]
    assert left == [(file_id, OLD)]
    assert cache.lookup_complete(identity(5)) == apart
    # And back again.
    cache.renamed(b"c", b"b/d")
    cache.renamed(b"b", b"a")
    file = cache.acquire(OLD, b"a/d/f", number=number({b"c/f": 2, b"b/d/f": 7, b"a/d/f": 1}))
    assert (file.file_id, holds(file, OLD)) == (file_id, True)
    file.release()
    settled(cache)
    assert data_files(machine.directory) == {file_id, apart}


def test_what_is_there_already_is_taken(machine: Machine) -> None:
    cache = machine.open()
    cached(cache, OLD, b"a/f")
    there = cached(cache, NEW, b"b/f")
    cache.renamed(b"a", b"b")
    file = cache.acquire(NEW, b"b/f", number=number({b"a/f": 1}))
    assert (file.file_id, holds(file, NEW)) == (there, True)
    file.release()


def test_what_somebody_has_open_by_its_old_number_stays_his(machine: Machine) -> None:
    """It is another file to the mount: a fetch that both wait for would be told of to one alone."""
    cache = machine.open()
    reader = cache.acquire(OLD, b"a/f")
    fill(reader, [0])
    cache.renamed(b"a", b"b")
    file = cache.acquire(NEW, b"b/f", number=number({b"a/f": 1}))
    assert file is not reader
    assert file.missing(0, 3) == [0, 1, 2]
    assert reader.missing(0, 3) == [1, 2]
    file.release()
    reader.release()


def test_what_is_whole_is_shared_with_who_has_it_open(machine: Machine) -> None:
    cache = machine.open()
    reader = cache.acquire(OLD, b"a/f")
    fill(reader)
    cache.renamed(b"a", b"b")
    file = cache.acquire(NEW, b"b/f", number=number({b"a/f": 1}))
    assert file is reader
    assert holds(file, OLD)
    file.release()
    reader.release()
    settled(cache)
    assert whole(cache, NEW, b"b/f", OLD)


def test_another_file_at_the_old_place_is_not_taken(machine: Machine) -> None:
    cache = machine.open()
    cached(cache, OLD, b"a/f")
    cache.renamed(b"a", b"b")
    changed = replace(NEW, mtime_ns=99)
    file = cache.acquire(changed, b"b/f", number=number({b"a/f": 1}))
    assert file.missing(0, 3) == [0, 1, 2]
    file.release()
    assert whole(cache, OLD, b"a/f", OLD)


def test_renames_are_remembered_to_a_number(machine: Machine) -> None:
    cache = machine.open()
    cached(cache, OLD, b"a/f")
    cache.renamed(b"a", b"b")
    for other in range(64):
        cache.renamed(b"x%d" % other, b"y%d" % other)
    file = cache.acquire(NEW, b"b/f", number=number({b"a/f": 1}))
    assert file.missing(0, 3) == [0, 1, 2]
    file.release()
    settled(cache)
    cache.close()
    assert len(machine.open()._moves._pairs) == 64


def test_a_row_that_says_nothing_of_renames(machine: Machine) -> None:
    cache = machine.open()
    cache.renamed(b"a", b"b")
    settled(cache)
    cache._writer._db.execute("UPDATE meta SET value='{' WHERE key LIKE 'moves %'")
    cache.close()
    assert not machine.open()._moves._pairs
