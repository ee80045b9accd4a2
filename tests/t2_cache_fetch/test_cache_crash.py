"""Kills, power cuts, corrupt or full indexes, and directories that cannot be a cache."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
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
    flip_bit,
    identity,
    right_bytes,
)
from swmld.cache.changes import AddChunk, AddFile, DropFile
from swmld.cache.checksum import crc32c
from swmld.cache.files import ABSENT, PRESENT, SUSPECT
from swmld.cache.index import SCHEMA, FileRow, Trust
from swmld.cache.store import Cache
from swmld.errors import CacheError, CacheFull, UsageError

# -- kill -9 -------------------------------------------------------------------------------------------

WORKER = """
import random, sys
from pathlib import Path
from support.cachekit import Machine, fill, identity
machine = Machine(Path(sys.argv[1]))
machine._boot_id.write_text("boot-1\\n")
cache = machine.open(size_limit=400 * 16384)
rng = random.Random(int(sys.argv[2]))
print("go", flush=True)
for step in range(10**9):
    file = cache.acquire(identity(rng.randrange(40), generation=rng.choice((1, 1, 1, 2))), b"f%d" % step)
    for chunk in file.missing(0, 3):
        if rng.random() < 0.8:
            cache.reserve(file.extent(chunk)[1])
            fill(file, [chunk])
    file.release()
    if rng.random() < 0.05:
        cache.drop(file.file_id)
    if step % 50 == 49:
        print(step, flush=True)
"""


def kill_at_step(base: Path, seed: int, steps: int) -> None:
    """Run the worker and kill it in the middle of whatever it does after ``steps`` lines of progress."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(base), str(seed)], stdout=subprocess.PIPE, env=environment
    )
    try:
        assert worker.stdout is not None
        for _ in range(steps + 1):
            assert worker.stdout.readline(), "the worker died by itself"
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.communicate(timeout=60)
    assert worker.returncode == -signal.SIGKILL


@pytest.mark.timeout(120)
def test_kill_at_any_point_leaves_only_right_bytes(machine: Machine) -> None:
    rng = random.Random(7)
    recorded = 0
    for seed in range(6):
        kill_at_step(machine.base, seed, rng.randrange(1, 8))
        machine._boot_id.write_text("boot-1\n")
        cache = machine.open()
        for entry in list(cache.ls()):
            row = cache._books.index.by_id(entry.file_id)
            assert row is not None
            file = cache.find(row.identity)
            assert file is not None
            for chunk in range(file.nchunks):
                assert file.state(chunk) in (ABSENT, PRESENT)  # same boot: nothing is suspect
                if file.state(chunk) is PRESENT:
                    recorded += 1
                    assert right_bytes(file, chunk), f"seed {seed}: chunk {chunk} of {row.identity}"
            file.release()
        cache.sweep()
        entries = list(cache.ls())
        assert data_files(machine.directory) == {entry.file_id for entry in entries}
        held = sum(entry.cached_bytes + OVERHEAD for entry in entries)
        assert cache.usage()[:2] == (held, len(entries))
        assert all(cache._books.index.chunks(e.file_id).__len__() == e.present for e in entries)
        cache.close()
    assert recorded > 100


def test_a_kill_needs_no_verification(machine: Machine) -> None:
    cache = machine.open()
    file_id = cached(cache, identity(1))
    cache._writer.flush()
    machine.crash(cache)
    cache = machine.open()
    assert cache.lookup_complete(identity(1)) == file_id


def test_sweep_removes_what_a_kill_left(machine: Machine) -> None:
    cache = machine.open()
    kept = cached(cache, identity(1))
    lost = cached(cache, identity(2))
    cache._writer.flush()
    machine.crash(cache)
    with sqlite3.connect(machine.directory / "index.db") as db:
        db.execute("DELETE FROM files WHERE file_id=?", (lost,))
    db.close()
    cache = machine.open()
    young = cached(cache, identity(3))
    assert cache.sweep() == 1
    assert data_files(machine.directory) == {kept, young}
    cache._writer.flush()
    # The row was deleted behind the totals' back: the sweep counts anew.
    assert cache.usage()[:2] == (2 * (3 * CHUNK + OVERHEAD), 2)
    cache.close()
    assert machine.open().sweep() == 0


def test_a_sweep_that_did_not_come_about_is_made_up_for(machine: Machine) -> None:
    cache = machine.open()
    cache._writer.flush()
    machine.crash(cache)
    (machine.directory / "data/07/7").touch()
    cache = machine.open()
    cache.close()  # before anybody swept
    cache = machine.open()
    cache._opened.start.first_id = 8
    assert cache.sweep() == 1
    cache.close()
    cache = machine.open()
    assert not cache._opened.start.unclean


# -- power cuts ----------------------------------------------------------------------------------------


def test_after_a_power_cut_chunks_are_suspect_until_verified(machine: Machine) -> None:
    cache = machine.open()
    of = identity(1)
    file_id = cached(cache, of)
    cache._writer.flush()
    machine.crash(cache)
    machine.reboot()
    cache = machine.open()
    flip_bit(cache, file_id, CHUNK + 5)

    assert cache.lookup_complete(of) is None
    file = cache.acquire(of, b"file")
    assert file.file_id == file_id
    assert [file.state(chunk) for chunk in range(3)] == [SUSPECT] * 3
    assert (file.complete, file.present_count, file.bitmap()) == (False, 0, b"\0")
    assert file.missing(0, 3) == [0, 1, 2]
    assert [entry.state for entry in cache.ls()] == ["suspect"]
    assert [file.verify(chunk) for chunk in range(3)] == [True, False, True]
    assert [file.state(chunk) for chunk in range(3)] == [PRESENT, ABSENT, PRESENT]
    assert cache.usage().bytes == 2 * CHUNK + OVERHEAD
    fill(file, [1])
    file.release()
    assert cache.lookup_complete(of) == file_id
    cache._writer.flush()
    assert cache.lookup_complete(of) == file_id
    row = cache._books.index.by_id(file_id)
    assert row is not None
    assert not cache._books.trust.suspects(row.session_first, row.session)  # from now on a quick look-up
    machine.crash(cache)
    cache = machine.open()
    assert cache.lookup_complete(of) == file_id  # same boot: what was verified stays so
    assert cache.usage().bytes == 3 * CHUNK + OVERHEAD


def test_a_suspect_chunk_may_be_fetched_instead(machine: Machine) -> None:
    cache = machine.open()
    of = identity(1)
    cached(cache, of)
    cache._writer.flush()
    machine.crash(cache)
    machine.reboot()
    cache = machine.open()
    usage = cache.usage()
    file = cache.acquire(of, b"file")
    fill(file)
    file.release()
    assert cache.usage() == usage
    cache._writer.flush()
    assert cache.lookup_complete(of) == file.file_id
    machine.crash(cache)
    assert machine.open().usage() == usage


def test_a_suspect_file_cut_short_is_dropped(machine: Machine) -> None:
    cache = machine.open()
    file_id = cached(cache, identity(1))
    cache._writer.flush()
    machine.crash(cache)
    machine.reboot()
    cache = machine.open()
    os.truncate(cache.data_path(file_id), 0)
    file = cache.acquire(identity(1), b"file")
    assert file.file_id != file_id
    assert file.missing(0, 3) == [0, 1, 2]
    file.release()


def test_only_what_came_after_the_mark_is_suspect(machine: Machine) -> None:
    cache = machine.open()
    cached(cache, identity(1))
    cache.close()  # a mark
    machine.reboot()
    cache = machine.open()
    cached(cache, identity(2))
    assert cache.checkpoint()  # another
    cached(cache, identity(3))
    part = cache.acquire(identity(4), b"part")
    fill(part, [0])
    assert cache.checkpoint()
    fill(part, [1, 2])
    part.release()
    cache._writer.flush()
    machine.crash(cache)  # on the same boot: the next session is suspect as well after the cut
    cache = machine.open()
    cached(cache, identity(5))
    cache._writer.flush()
    machine.crash(cache)
    machine.reboot()

    cache = machine.open()
    trusted = [cache.lookup_complete(identity(ino)) is not None for ino in (1, 2, 3, 4, 5)]
    assert trusted == [True, True, True, False, False]
    file = cache.acquire(identity(4), b"part")
    assert [file.state(chunk) for chunk in range(3)] == [PRESENT, SUSPECT, SUSPECT]
    file.release()
    cached(cache, identity(6))
    cache.close()  # a later clean stop does not make them trusted

    machine.reboot()
    cache = machine.open()
    trusted = [cache.lookup_complete(identity(ino)) is not None for ino in (1, 2, 3, 4, 5, 6)]
    assert trusted == [True, True, True, False, False, True]


def test_what_comes_right_after_a_checkpoint_is_suspect(machine: Machine) -> None:
    cache = machine.open()
    cached(cache, identity(1))
    assert cache.checkpoint()
    cached(cache, identity(2))
    cache._writer.flush()
    machine.crash(cache)
    machine.reboot()
    cache = machine.open()
    assert [cache.lookup_complete(identity(ino)) for ino in (1, 2)] == [1, None]


def test_what_is_committed_during_the_last_sync_is_not_vouched_for(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = machine.open()
    file = cache.acquire(identity(1), b"a")
    fill(file, [0])
    monkeypatch.setattr("swmld.cache.store.syncfs", lambda _fd: fill(file, [1]))
    cache.close()
    file.release()
    machine.reboot()
    again = machine.open().acquire(identity(1), b"a")
    assert [again.state(chunk) for chunk in range(3)] == [PRESENT, ABSENT, ABSENT]
    again.release()


def test_a_file_around_a_suspect_session_is_trusted_where_it_has_no_chunk(machine: Machine) -> None:
    cache = machine.open()
    file = cache.acquire(identity(1), b"a")
    fill(file, [0])
    file.release()
    cache.close()
    machine.crash(machine.open())  # a session that wrote nothing
    machine.reboot()
    cache = machine.open()
    file = cache.acquire(identity(1), b"a")
    fill(file)
    file.release()
    cache._writer.flush()
    assert cache.lookup_complete(identity(1)) == file.file_id


def test_no_mark_where_the_disk_refuses(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = machine.open()
    cached(cache, identity(1))

    def refuse(_fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("swmld.cache.store.syncfs", refuse)
        assert not cache.checkpoint()
        cache.close()
    machine.reboot()
    assert machine.open().lookup_complete(identity(1)) is None


def test_many_suspect_ranges_are_joined_never_forgotten() -> None:
    trust = Trust()
    for start in range(0, 300, 10):
        trust.add(start, start + 2)
    trust.add(500, 499)
    assert len(trust.ranges) <= Trust.LIMIT
    assert all(trust.suspects(start, start) for start in range(0, 300, 10))
    assert not trust.suspects(295, 600)


# -- a corrupt index -----------------------------------------------------------------------------------


def wreck_header(index: Path) -> None:
    index.write_bytes(b"this is no database" * 1000)


def wreck_pages(index: Path) -> None:
    for suffix in ("-wal", "-shm"):
        Path(f"{index}{suffix}").unlink(missing_ok=True)
    data = bytearray(index.read_bytes())
    data[100:] = os.urandom(len(data) - 100)
    index.write_bytes(data)


def wreck_tables(index: Path) -> None:
    with sqlite3.connect(index) as db:
        db.execute("DROP TABLE chunks")
    db.close()


def wreck_meta(index: Path) -> None:
    with sqlite3.connect(index) as db:
        db.execute("UPDATE meta SET value='what' WHERE key='suspect'")
    db.close()


def mark_damaged(index: Path) -> None:
    index.with_name("index.damaged").touch()


@pytest.mark.parametrize("wreck", [wreck_header, wreck_pages, wreck_tables, wreck_meta, mark_damaged])
def test_a_corrupt_index_is_set_aside(
    machine: Machine, caplog: pytest.LogCaptureFixture, wreck: object
) -> None:
    cache = machine.open()
    cached(cache, identity(1))
    cache.close()
    wreck(machine.directory / "index.db")  # type: ignore[operator]

    cache = machine.open()
    assert len(caplog.records) == 1
    assert "corrupt" in caplog.text
    assert "index.db.corrupt-1000000" in caplog.text
    assert (machine.directory / "index.db.corrupt-1000000").exists()
    assert cache.usage()[:2] == (0, 0)
    assert cache.find(identity(1)) is None
    cached(cache, identity(1))
    cache.sweep()
    assert not list(machine.directory.glob("data.old-*"))
    assert len(data_files(machine.directory)) == 1
    cache.close()
    caplog.clear()
    cache = machine.open()
    assert cache.lookup_complete(identity(1)) is not None
    assert not caplog.records


def test_a_missing_index_never_meets_old_data(machine: Machine) -> None:
    cache = machine.open()
    old = cached(cache, identity(1))
    cache.close()
    for path in machine.directory.glob("index.db*"):
        path.unlink()
    cache = machine.open()
    assert data_files(machine.directory) == set()
    file = cache.acquire(identity(1), b"file")
    assert file.file_id == old  # numbered anew, in a new data directory
    assert os.pread(file.fd, CHUNK, 0) == bytes(CHUNK)
    file.release()
    cache.sweep()
    assert not list(machine.directory.glob("data.old-*"))


def test_damage_met_while_running_costs_no_read(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    cache = machine.open()
    cached(cache, identity(1))
    held = cache.acquire(identity(2), b"held")
    cache._writer.flush()
    cache._books.index.writer_db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    while cache._books.index._pool:
        cache._books.index._pool.pop().close()
    wreck_pages_in_place(machine.directory / "index.db")

    assert cache.lookup_complete(identity(1)) is None
    with pytest.raises(CacheError):
        cache.find(identity(1))
    fill(held, [0])
    assert right_bytes(held, 0)
    held.release()
    cache.close()
    assert [record.levelname for record in caplog.records].count("WARNING") == len(caplog.records) >= 1
    assert (machine.directory / "index.damaged").exists()
    assert machine.open().usage().files == 0


def wreck_pages_in_place(index: Path) -> None:
    with open(index, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(100)
        file.write(os.urandom(size - 100))


# -- a full disk ---------------------------------------------------------------------------------------


def fill_index(cache: Cache) -> None:
    """From here on the index cannot grow, as on a full disk: SQLITE_FULL."""
    cache._writer.flush()
    db = cache._books.index.writer_db
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count={pages}")


def test_a_full_index_forgets_quietly_and_recovers(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    cache = machine.open()
    first = cached(cache, identity(0))
    fill_index(cache)
    for ino in range(1, 300):
        file = cache.acquire(identity(ino), b"x" * 200)
        fill(file)
        assert right_bytes(file, 2)
        file.release()
    cache._writer.flush()
    assert cache.lost_rows > 0
    assert len(caplog.records) == 1
    assert "full" in caplog.text
    assert cache.lookup_complete(identity(0)) == first
    assert not cache._memory._files

    # What is taken back must not come again, and room in the index makes it whole.
    cache.drop(first)
    assert cache.lookup_complete(identity(0)) is None
    cache._books.index.writer_db.execute("PRAGMA max_page_count=1000000")
    kept = cached(cache, identity(1000))
    cache._writer.flush()
    assert cache.lookup_complete(identity(1000)) == kept
    machine.crash(cache)
    cache = machine.open()
    cache.sweep()
    entries = list(cache.ls())
    assert data_files(machine.directory) == {entry.file_id for entry in entries}
    cache._writer.flush()
    assert cache.usage()[:2] == (sum(e.cached_bytes + OVERHEAD for e in entries), len(entries))
    for entry in entries:
        row = cache._books.index.by_id(entry.file_id)
        assert row is not None
        file = cache.acquire(row.identity, b"x")
        assert all(right_bytes(file, n) for n in range(3) if file.state(n) is PRESENT)
        file.release()


def test_changes_whose_fellows_were_lost_leave_no_stray_rows() -> None:
    db = sqlite3.connect(":memory:")
    db.executescript(SCHEMA)

    def row(file_id: int) -> FileRow:
        return FileRow(file_id, 1, 0, 7, CHUNK, 1, 1, b"a", CHUNK, 0, 1, 0, 1.0, 0, 1, 1)

    # The chunk of a file whose own row was lost.
    assert AddChunk(1, 0, 5, CHUNK, 1, 1).apply(db)[:2] == (0, 0)
    # A generation whose drop was lost gives way to the next one of its inode.
    assert AddFile(row(2)).apply(db)[:2] == (0, 1)
    assert AddChunk(2, 0, 5, CHUNK, 1, 1).apply(db)[:2] == (CHUNK, 0)
    assert AddFile(row(3)).apply(db)[:2] == (-CHUNK, 0)
    assert DropFile(2, lambda: None).apply(db)[:2] == (0, 0)
    assert db.execute("SELECT file_id FROM files").fetchall() == [(3,)]
    assert db.execute("SELECT * FROM chunks").fetchall() == []
    db.close()


def test_a_drop_that_cannot_be_written_is_tried_again(machine: Machine) -> None:
    cache = machine.open()
    file_id = cached(cache, identity(1))
    cache._writer.flush()
    db = cache._books.index.writer_db
    db.execute("PRAGMA query_only=1")
    cache.drop(file_id)
    assert cache.lookup_complete(identity(1)) is None
    assert cache._books.index.by_id(file_id) is not None
    assert data_files(machine.directory) == set()
    fresh = cached(cache, identity(1))
    cache._writer.flush()
    assert cache._writer.retrying
    db.execute("PRAGMA query_only=0")
    cached(cache, identity(2))
    cache._writer.flush()
    assert not cache._writer.retrying
    assert cache._books.index.by_id(file_id) is None
    assert fresh != file_id
    assert not cache._memory._tombs


def test_a_full_disk_is_an_error_of_the_cache(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = machine.open()

    def refuse(_fd: int, _size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "ftruncate", refuse)
    with pytest.raises(CacheFull, match="No space left"):
        cache.acquire(identity(1), b"a")
    assert cache.usage().files == 0
    assert data_files(machine.directory) == set()


# -- directories that cannot be a cache ----------------------------------------------------------------


def test_the_directory_is_for_root_alone(machine: Machine) -> None:
    machine.directory.mkdir(mode=0o755)
    machine.open()
    assert machine.directory.stat().st_mode & 0o777 == 0o700
    assert (machine.directory / "FORMAT").read_text() == "swmld-cache 1\n"


def test_a_second_daemon_is_refused(machine: Machine) -> None:
    machine.open(mount="/mnt/a b")
    with pytest.raises(UsageError) as caught:
        machine.open()
    assert str(caught.value) == (
        f"cache directory {machine.directory}: in use by swmld pid {os.getpid()} which serves /mnt/a b"
    )


def test_the_lock_goes_with_the_cache(machine: Machine) -> None:
    machine.open().close()
    machine.open()


@pytest.mark.parametrize(("line", "found"), [("swmld-cache 2\n", "2"), ("else", "else")])
def test_another_format_is_refused_with_both_numbers(machine: Machine, line: str, found: str) -> None:
    machine.open().close()
    (machine.directory / "FORMAT").write_text(line)
    with pytest.raises(UsageError, match=f"has format {found}, this swmld reads format 1"):
        machine.open()


def test_a_format_line_lost_to_a_power_cut_is_written_anew(machine: Machine) -> None:
    machine.open().close()
    (machine.directory / "FORMAT").write_text("")
    machine.open()
    assert (machine.directory / "FORMAT").read_text() == "swmld-cache 1\n"


def test_other_peoples_directories_are_refused(machine: Machine) -> None:
    machine.directory.mkdir(mode=0o755)
    (machine.directory / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"holds other files \(thesis.tex\)"):
        machine.open()
    assert machine.directory.stat().st_mode & 0o777 == 0o755
    assert os.listdir(machine.directory) == ["thesis.tex"]


def test_a_file_is_no_cache_directory(machine: Machine) -> None:
    machine.directory.touch()
    with pytest.raises(UsageError, match="not a directory"):
        machine.open()
    machine.directory = machine.directory / "below"
    with pytest.raises(UsageError, match="Not a directory"):
        machine.open()


def test_what_the_disk_refuses_is_one_line(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "makedirs", refuse)
    with pytest.raises(UsageError) as caught:
        machine.open()
    assert str(caught.value) == f"cache directory {machine.directory}: Read-only file system"


def test_an_index_that_cannot_be_opened_is_not_thrown_away(machine: Machine) -> None:
    machine.open().close()
    for path in machine.directory.glob("index.db*"):
        path.unlink()
    (machine.directory / "index.db").mkdir()
    with pytest.raises(UsageError, match="unable to open database file"):
        machine.open()
    assert (machine.directory / "index.db").is_dir()
    (machine.directory / "index.db").rmdir()
    machine.open()


def test_the_checksum_in_the_index_is_of_the_bytes(machine: Machine) -> None:
    cache = machine.open()
    file_id = cached(cache, identity(1))
    cache._writer.flush()
    assert cache._books.index.crc(file_id, 1) == crc32c(content(identity(1), CHUNK, CHUNK))
