"""Looking the cache over: ls, drop by path, verify and mend."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from support.cachekit import (
    CHUNK,
    OVERHEAD,
    Machine,
    cached,
    data_files,
    fill,
    flip_bit,
    identity,
    right_bytes,
)
from swmld.cache.audit import Entry, VerifyReport
from swmld.cache.files import ABSENT, PRESENT, SUSPECT, CacheFile
from swmld.types import Identity


def test_ls_sees_what_was_committed_a_moment_ago(machine: Machine) -> None:
    cache = machine.open()
    whole = cached(cache, identity(1), b"d/whole")
    part = cache.acquire(identity(2), b"d/part")
    fill(part, [1])
    assert list(cache.ls()) == [
        Entry(b"d/whole", whole, 3 * CHUNK, 3 * CHUNK, 3, 3, machine.now, False, "complete"),
        Entry(b"d/part", part.file_id, 3 * CHUNK, CHUNK, 1, 3, machine.now, False, "partial"),
    ]
    part.release()


PATHS = [b"a", b"a/b", b"a/b/c", b"ab", b"a.txt", b"a/\xff", b"b/a", b"a0"]


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        (b"", PATHS),
        (b"/", PATHS),
        (b".", PATHS),
        (b"a", [b"a", b"a/b", b"a/b/c", b"a/\xff"]),
        (b"/a/", [b"a", b"a/b", b"a/b/c", b"a/\xff"]),
        (b"a/b", [b"a/b", b"a/b/c"]),
        (b"a/\xff", [b"a/\xff"]),
        (b"c", []),
        (b"%", []),
    ],
)
def test_a_prefix_is_of_components(machine: Machine, prefix: bytes, expected: list[bytes]) -> None:
    cache = machine.open()
    for ino, path in enumerate(PATHS):
        cached(cache, identity(ino, size=1), path)
    assert [entry.path for entry in cache.ls(prefix)] == expected
    assert cache.drop_path(prefix) == len(expected)
    assert [entry.path for entry in cache.ls()] == [path for path in PATHS if path not in expected]


def test_long_lists_come_in_batches(machine: Machine) -> None:
    cache = machine.open()
    for ino in range(1100):
        cache.acquire(identity(ino, size=1), b"x/%d" % ino).release()
    assert [entry.path for entry in cache.ls(b"x")] == [b"x/%d" % ino for ino in range(1100)]
    assert cache.drop_path(b"x") == 1100
    assert cache.usage()[:2] == (0, 0)


def test_verify_of_a_good_cache(machine: Machine) -> None:
    cache = machine.open()
    cached(cache, identity(1), b"x/1")
    cached(cache, identity(2, size=CHUNK + 1), b"x/2")
    cached(cache, identity(3), b"y")
    seen: list[tuple[int, int]] = []
    report = cache.verify(b"x", lambda report: seen.append((report.files, report.bytes)))
    assert report == VerifyReport(files=2, chunks=5, bytes=4 * CHUNK + 1)
    assert seen == sorted(seen)
    assert seen[-1] == (2, 4 * CHUNK + 1)


@pytest.mark.parametrize("held", [True, False])
def test_verify_finds_a_flipped_bit_and_mends_in_a_new_file(machine: Machine, held: bool) -> None:
    cache = machine.open()
    of = identity(1)
    reader = cache.acquire(of, b"file")
    fill(reader)
    if not held:
        reader.release()
        cache._writer.flush()
    flip_bit(cache, reader.file_id, 2 * CHUNK + 77)
    wrong = Path(reader.path).read_bytes()
    events: list[str] = []
    cache.on_evict = lambda file_id, _of: events.append(f"evict {file_id}")

    def refetch(file: CacheFile, chunk: int) -> None:
        events.append(f"fetch {file.file_id}/{chunk}")
        cache.reserve(file.extent(chunk)[1])
        fill(file, [chunk])

    report = cache.verify(b"", None, refetch)

    assert report == VerifyReport(files=1, chunks=3, bytes=3 * CHUNK, bad=1, mended=1)
    new_id = cache.lookup_complete(of)
    assert new_id not in (None, reader.file_id)
    assert events == [f"evict {reader.file_id}", f"fetch {new_id}/2"]
    assert data_files(machine.directory) == {new_id}
    new = cache.find(of)
    assert new is not None
    assert all(right_bytes(new, chunk) for chunk in range(3))
    assert new.source_path == b"file"
    new.release()
    if held:  # the old file is not written again under its reader
        assert os.pread(reader.fd, len(wrong), 0) == wrong
        assert reader.state(2) is ABSENT
        reader.release()
    assert cache.verify() == VerifyReport(files=1, chunks=3, bytes=3 * CHUNK)
    assert cache.usage()[:2] == (3 * CHUNK + OVERHEAD, 1)
    assert cache._books.account.in_flight == 0


def test_without_a_refetch_the_bad_chunk_is_only_taken_out(machine: Machine) -> None:
    cache = machine.open()
    file_id = cached(cache, identity(1))
    flip_bit(cache, file_id, 0)
    assert cache.verify() == VerifyReport(files=1, chunks=3, bytes=3 * CHUNK, bad=1, mended=0)
    file = cache.find(identity(1))
    assert file is not None
    assert file.file_id != file_id
    assert file.missing(0, 3) == [0]
    assert right_bytes(file, 1)
    file.release()


def test_a_refetch_that_fails_mends_nothing(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    cache = machine.open()
    flip_bit(cache, cached(cache, identity(1)), 0)

    def refetch(_file: CacheFile, _chunk: int) -> None:
        raise OSError(5, "Input/output error")

    assert cache.verify(refetch=refetch).mended == 0
    assert "could not be fetched" in caplog.text
    assert cache.lookup_complete(identity(1)) is None


def test_a_bad_suspect_chunk_is_mended_in_place(machine: Machine) -> None:
    cache = machine.open()
    file_id = cached(cache, identity(1))
    cache._writer.flush()
    machine.crash(cache)
    machine.reboot()
    cache = machine.open()
    flip_bit(cache, file_id, CHUNK)
    states: list[object] = []

    def refetch(file: CacheFile, chunk: int) -> None:
        states.extend([file.file_id, chunk, file.state(chunk)])
        fill(file, [chunk])

    assert cache.verify(b"", None, refetch) == VerifyReport(1, 3, 3 * CHUNK, bad=1, mended=1)
    assert states == [file_id, 1, ABSENT]
    assert cache.lookup_complete(identity(1)) == file_id


def test_a_part_that_cannot_be_read_counts_as_bad(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = machine.open()
    cached(cache, identity(1))
    cache._writer.flush()

    def refuse(*_args: object) -> int:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", refuse)
        assert cache.verify().bad == 3
    assert cache.lookup_complete(identity(1)) is None


def test_a_full_cache_keeps_what_it_can_carry_over(machine: Machine) -> None:
    cache = machine.open()
    file_id = cached(cache, identity(1))
    flip_bit(cache, file_id, 2 * CHUNK)
    cache.set_limits(OVERHEAD + CHUNK, 0)
    assert cache.verify().bad == 1
    file = cache.find(identity(1))
    assert file is not None
    assert file.missing(0, 3) == [1, 2]
    assert right_bytes(file, 0)
    file.release()


@pytest.mark.parametrize(("size", "kept", "missing"), [(2, 1, []), (1, 1, []), (0.5, 0.5, list(range(6)))])
def test_smaller_chunks_are_kept_and_larger_ones_start_anew(
    machine: Machine, size: float, kept: float, missing: list[int]
) -> None:
    cache = machine.open()
    flip_bit(cache, cached(cache, identity(1)), 0)
    cache.close()
    cache = machine.open(chunk_size=int(size * CHUNK))
    report = cache.verify(refetch=lambda file, chunk: fill(file, [chunk]))
    assert (report.bad, report.mended) == (1, int(not missing))
    file = cache.find(identity(1))
    assert file is not None
    assert (file.chunk_size, file.missing(0, 9)) == (int(kept * CHUNK), missing)
    file.release()


def test_a_file_replaced_during_verify_is_left_alone(machine: Machine) -> None:
    cache = machine.open()
    cached(cache, identity(1), b"a")
    cached(cache, identity(2), b"b")

    def replace_second(_report: VerifyReport) -> None:
        cache.acquire(identity(2, generation=2), b"b").release()

    report = cache.verify(b"", replace_second)
    assert (report.files, report.bad) == (1, 0)
    assert cache.find(identity(2)) is None


def test_a_file_dropped_during_its_own_check_is_not_called_bad(machine: Machine) -> None:
    cache = machine.open()
    file_id = cached(cache, identity(1))
    report = cache.verify(b"", lambda _report: cache.drop(file_id))
    assert (report.chunks, report.bad) == (2, 0)


def test_a_present_chunk_that_proves_bad_in_use_drops_the_generation(machine: Machine) -> None:
    cache = machine.open()
    told: list[Identity] = []
    cache.on_evict = lambda _file_id, of: told.append(of)
    file = cache.acquire(identity(1), b"a")
    fill(file)
    flip_bit(cache, file.file_id, CHUNK)
    assert file.verify(0)
    assert not file.verify(1)
    assert told == [identity(1)]
    assert file.dead
    assert [file.state(chunk) for chunk in range(3)] == [PRESENT, ABSENT, PRESENT]
    file.release()
    assert cache.find(identity(1)) is None


def test_verify_of_a_dead_file_touches_no_row(machine: Machine) -> None:
    cache = machine.open()
    file_id = cached(cache, identity(1))
    cache._writer.flush()
    machine.crash(cache)
    machine.reboot()
    cache = machine.open()
    old = cache.acquire(identity(1), b"a")
    flip_bit(cache, file_id, 0)
    new = cache.acquire(replace(identity(1), mtime_ns=2), b"a")
    usage = cache.usage()
    assert [old.state(0), old.verify(1)] == [
        SUSPECT,
        False,
    ]  # its rows are gone, so nothing can be vouched for
    fill(old, [1])
    assert old.state(1) is PRESENT
    assert cache.usage() == usage
    old.release()
    new.release()
