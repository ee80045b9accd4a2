"""Cache files with compressed chunks: what they hold and count as, over restarts, damage and eviction."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from support.cachekit import OVERHEAD, Machine, cached, content, identity
from swmld.cache.files import ABSENT, PRESENT, SUSPECT, CacheFile
from swmld.cache.packed import BLOCK, ENTRIES_AT, PACKED, entry_size
from swmld.cache.store import Cache
from swmld.types import Identity

LARGE = 65_536
"""A chunk that is worth it."""


def data_of(of: Identity, offset: int, length: int) -> bytes:
    """Of the first chunk noise, of the others words."""
    if not offset:
        return content(of, 0, length)
    return (b"%d/%d " % (of.ino, offset) * length)[:length]


def store(cache: Cache, file: CacheFile, chunks: Iterable[int] | None = None) -> None:
    """As the fetcher does."""
    for chunk in range(file.nchunks) if chunks is None else chunks:
        offset, length = file.extent(chunk)
        cache.reserve(length)
        data = memoryview(bytearray(data_of(file.identity, offset, length)))
        sealed = file.seal(chunk, data)
        assert os.pwrite(file.fd, data[: sealed.length], sealed.offset) == sealed.length
        file.commit(chunk, sealed.crc, sealed.length)


def right(file: CacheFile, chunk: int) -> bool:
    offset, length = file.extent(chunk)
    return file.read(offset, length) == data_of(file.identity, offset, length)


def packed(cache: Cache, of: Identity, chunks: Iterable[int] | None = None, level: int = 3) -> int:
    file = cache.acquire(of, b"f%d" % of.ino, level=level)
    store(cache, file, chunks)
    file.release()
    return file.file_id


def blocks(cache: Cache, file_id: int) -> int:
    """Bytes of the disk that the data file takes."""
    return os.stat(cache.data_path(file_id)).st_blocks * 512


def flip(cache: Cache, file_id: int, offset: int) -> None:
    with open(cache.data_path(file_id), "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


@pytest.fixture
def here(machine: Machine) -> Cache:
    return machine.open(chunk_size=LARGE)


OF = identity(1, 3 * LARGE + 100)


def test_it_counts_as_what_it_takes_on_the_disk(machine: Machine, here: Cache) -> None:
    file = here.acquire(OF, b"f1", level=7)
    assert file.level == 7
    assert file.file_id & PACKED
    store(here, file, [1, 0])
    assert file.bitmap() == b"\3"
    assert [file.held(chunk) for chunk in range(4)] == [LARGE + BLOCK, BLOCK, 0, 0]
    store(here, file)
    assert file.complete
    assert all(right(file, chunk) for chunk in range(4))
    assert file.read(LARGE - 5, 10) == data_of(OF, 0, LARGE)[-5:] + data_of(OF, LARGE, LARGE)[:5]
    assert file.read(OF.size - 1, 10) == data_of(OF, 3 * LARGE, 100)[-1:]
    assert file.read(OF.size, 10) == b""
    held = sum(file.held(chunk) for chunk in range(4))
    assert blocks(here, file.file_id) == held
    assert here.usage()[:2] == (held + OVERHEAD, 1)
    assert here._books.account.in_flight == 0
    assert here.compressed == (OF.size, held)
    file.release()
    here._writer.flush()
    (entry,) = here.ls()
    assert (entry.cached_bytes, entry.state) == (held, "complete")
    assert here.lookup_complete(OF) == file.file_id
    here.drop(file.file_id)
    assert here.usage()[:2] == (0, 0)
    assert not list(machine.directory.glob("data/??/*"))


def test_it_is_the_same_after_a_restart(machine: Machine, here: Cache) -> None:
    file_id = packed(here, OF, [0, 1, 3], level=5)
    usage = here.usage()
    here.close()
    again = machine.open(chunk_size=2 * LARGE)  # another chunk size since: it keeps its own
    assert again.usage()[:2] == usage[:2]
    file = again.acquire(OF, b"f1")
    assert (file.file_id, file.level, file.chunk_size) == (file_id, 5, LARGE)
    assert [file.state(chunk) for chunk in range(4)] == [PRESENT, PRESENT, ABSENT, PRESENT]
    assert all(right(file, chunk) for chunk in (0, 1, 3))
    with pytest.raises(OSError, match="Bad message"):
        file.read(2 * LARGE, 10)
    store(again, file, [2])
    assert file.complete
    file.release()
    again._writer.flush()
    assert again.usage().bytes == blocks(again, file_id) + OVERHEAD


def test_a_file_keeps_the_way_it_was_made(here: Cache) -> None:
    raw = cached(here, identity(2, LARGE), b"raw")
    assert not raw & PACKED
    file = here.acquire(identity(2, LARGE), b"raw", level=3)
    assert (file.file_id, file.level) == (raw, 0)
    file.release()
    file_id = packed(here, OF)
    file = here.acquire(OF, b"f1")
    assert (file.file_id, file.level) == (file_id, 3)
    file.release()


def test_a_killed_daemon_loses_nothing(machine: Machine, here: Cache) -> None:
    file_id = packed(here, OF)
    here._writer.flush()
    machine.crash(here)
    again = machine.open(chunk_size=LARGE)
    assert again.lookup_complete(OF) == file_id
    file = again.find(OF)
    assert file is not None
    assert all(right(file, chunk) and file.verify(chunk) for chunk in range(4))
    file.release()


def test_after_a_power_cut_chunks_are_checked(machine: Machine, here: Cache) -> None:
    """What does not match goes and is fetched again."""
    file_id = packed(here, OF)
    file = here.acquire(OF, b"f1")
    front = file.front
    file.release()
    here._writer.flush()
    machine.crash(here)
    machine.reboot()
    again = machine.open(chunk_size=LARGE)
    usage = again.usage().bytes
    flip(again, file_id, front + LARGE + 3)
    flip(again, file_id, front + 7)
    assert again.lookup_complete(OF) is None
    file = again.acquire(OF, b"f1")
    assert file.file_id == file_id
    assert {file.state(chunk) for chunk in range(4)} == {SUSPECT}
    assert [file.verify(chunk) for chunk in range(4)] == [False, False, True, True]
    assert again.usage().bytes == usage - (LARGE + BLOCK) - BLOCK
    store(again, file, [0, 1])
    assert all(right(file, chunk) for chunk in range(4))
    file.release()
    again._writer.flush()
    assert again.usage().bytes == usage


def test_a_suspect_chunk_that_is_fetched_anew_counts_once(machine: Machine, here: Cache) -> None:
    packed(here, OF)
    here._writer.flush()
    machine.crash(here)
    machine.reboot()
    again = machine.open(chunk_size=LARGE)
    file = again.acquire(OF, b"f1")
    usage = again.usage().bytes
    noise = memoryview(bytearray(content(OF, 5, LARGE)))
    sealed = file.seal(1, noise)
    os.pwrite(file.fd, noise[: sealed.length], sealed.offset)
    file.commit(1, sealed.crc, sealed.length)
    assert again.usage().bytes == usage - BLOCK + LARGE
    file.release()
    again._writer.flush()
    (entry,) = again.ls()
    assert entry.cached_bytes + OVERHEAD == again.usage().bytes


@pytest.mark.parametrize("where", [3, 20])
def test_a_file_that_begins_wrong_is_dropped(machine: Machine, here: Cache, where: int) -> None:
    file_id = packed(here, OF)
    here.close()
    flip(here, file_id, where)
    again = machine.open(chunk_size=LARGE)
    assert again.find(OF) is None
    assert again.usage()[:2] == (0, 0)
    assert packed(again, OF) != file_id


@pytest.mark.parametrize("where", ["entry", "frame"])
def test_verify_finds_damage_and_carries_the_rest_over(here: Cache, where: str) -> None:
    file_id = packed(here, OF)
    file = here.acquire(OF, b"f1")
    file.release()
    at = ENTRIES_AT + entry_size(LARGE) + 5 if where == "entry" else file.front + LARGE + 10
    flip(here, file_id, at)
    report = here.verify(b"", None, lambda file, chunk: store(here, file, [chunk]))
    assert (report.bad, report.mended, report.chunks) == (1, 1, 4)
    new = here.acquire(OF, b"f1")
    assert (new.level, new.file_id != file_id) == (3, True)
    assert all(right(new, chunk) for chunk in range(4))
    new.release()
    here._writer.flush()
    assert here.verify(b"").bad == 0
    assert here.usage().bytes == blocks(here, new.file_id) + OVERHEAD


def test_more_files_fit(machine: Machine) -> None:
    """Eviction goes by what they take on the disk."""
    cache = machine.open(chunk_size=LARGE, size_limit=20 * LARGE)
    for ino in range(1, 41):
        machine.now += 10
        packed(cache, identity(ino, 2 * LARGE), [1])
    cache._writer.flush()
    assert cache.evicted == 0
    assert sum(blocks(cache, entry.file_id) for entry in cache.ls()) + 40 * OVERHEAD < 20 * LARGE
    for ino in range(50, 70):
        machine.now += 10
        packed(cache, identity(ino, 2 * LARGE))
    cache._writer.flush()
    assert cache.evicted > 0
    assert cache.usage().bytes <= 20 * LARGE


def test_an_older_swmld_finds_no_data_file(machine: Machine, here: Cache) -> None:
    """It opens ``data/ab/<file_id>``, in Python as in C, and drops a generation that has none."""
    file_id = packed(here, OF)
    assert not os.path.exists(machine.directory / "data" / f"{file_id % 256:02x}" / str(file_id))
    assert Path(here.data_path(file_id)).name == f"{file_id & ~PACKED}.z"
    columns = here._books.index.writer_db.execute("SELECT * FROM chunks").fetchall()
    assert all(len(row) == 4 for row in columns)


def test_files_without_a_row_are_swept(machine: Machine, here: Cache) -> None:
    kept, gone = packed(here, OF), packed(here, identity(2, LARGE))
    here._writer.flush()
    path = Path(here.data_path(gone))
    left = path.read_bytes()
    here.drop(gone)
    path.write_bytes(left)
    machine.crash(here)
    again = machine.open(chunk_size=LARGE)
    assert again.sweep() == 1
    assert [path.name for path in machine.directory.glob("data/??/*")] == [f"{kept & ~PACKED}.z"]
    assert again.lookup_complete(OF) == kept
