"""A cache that is full, damaged, deleted, or was left by a daemon that died: reads stay right."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import posix
from support.index import asked
from support.mount import Daemon
from support.slowfs import SlowFs
from support.tree import work_dir
from support.waiting import until

CHUNK = 65_536
MIB = 1 << 20
OPTIONS = ["--chunk-size", "64KiB", "--check", "strict"]
NAMES = [f"file{number}" for number in range(12)]


def content(name: str, size: int = 5 * CHUNK + 11) -> bytes:
    return random.Random(name).randbytes(size)


def fill(daemon: Daemon, names: list[str] = NAMES) -> None:
    for name in names:
        (daemon.source / name).write_bytes(content(name))
    settle()


def settle() -> None:
    """Let files grow old enough to be cached; see Tree.settle."""
    time.sleep(0.06)


def check(daemon: Daemon, names: list[str] = NAMES) -> None:
    for name in names:
        assert (daemon.mount / name).read_bytes() == content(name), name


def data_files(daemon: Daemon) -> list[Path]:
    return sorted(path for path in (daemon.cache / "data").rglob("*") if path.is_file())


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A file system of its own for the cache."""
    path.mkdir()
    posix.mount("tmpfs", path, "tmpfs", 0, f"size={size}")
    try:
        yield path
    finally:
        posix.umount(path)


# --- full ---


def test_cache_disk_smaller_than_the_data(daemon: Callable[..., Daemon], base: Path) -> None:
    """The disk is far smaller than the cache's limit: it is never filled, and reads are right."""
    with small_disk(base / "disk", "8m") as disk:
        one = daemon(
            cache=disk / "cache", options=[*OPTIONS, "--free-floor", "1MiB"], expect_log=["full|room|space"]
        )
        names = [f"big{number}" for number in range(20)]
        for name in names:
            (one.source / name).write_bytes(content(name, MIB + 3))
        settle()
        for _ in range(2):
            for name in names:
                assert (one.mount / name).read_bytes() == content(name, MIB + 3)
        free = os.statvfs(disk)
        assert free.f_bavail * free.f_frsize >= MIB // 2
        assert "its disk has room for" in warmed_in_part(one, len(names))
        one.stop()


def test_cache_disk_filled_by_others(daemon: Callable[..., Daemon], base: Path) -> None:
    """Not a byte is left: everything is served from the source, and cached again when there is room."""
    with small_disk(base / "disk", "16m") as disk:
        one = daemon(cache=disk / "cache", options=[*OPTIONS, "--free-floor", "0"],
                     expect_log=["full|room|space|ENOSPC"])  # fmt: skip
        fill(one, NAMES[:3])
        check(one, NAMES[:3])
        with (disk / "ballast").open("wb") as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(bytes(MIB))
                ballast.flush()
        fill(one, NAMES[3:])
        check(one)
        (one.mount / "written").write_bytes(b"x" * MIB)
        assert (one.mount / "written").read_bytes() == b"x" * MIB
        (disk / "ballast").unlink()
        check(one)
        one.restart()
        check(one)
        one.stop()


def test_start_on_a_full_disk(daemon: Callable[..., Daemon], base: Path) -> None:
    """It serves, or says in one line why not: both are honest; a traceback or wrong bytes are not."""
    with small_disk(base / "disk", "4m") as disk:
        with (disk / "ballast").open("wb") as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(bytes(65_536))
                ballast.flush()
        try:
            one = daemon(cache=disk / "cache", options=OPTIONS, expect_log=["full|room|space|ENOSPC"])
        except AssertionError as error:
            said = str(error)
            assert "Traceback" not in said
            assert "exit 1 before" in said or "exit 2 before" in said
            assert "swmld: " in said
            return
        fill(one)
        check(one)
        one.stop()


def test_size_limit_is_kept(daemon: Callable[..., Daemon]) -> None:
    one = daemon(options=[*OPTIONS, "--cache-size", "1MiB"])
    fill(one)
    for _ in range(3):
        check(one)
        assert one.status()["cache"]["bytes"] <= MIB
        used = sum(path.stat().st_blocks * 512 for path in data_files(one))
        assert used <= MIB + 6 * CHUNK  # a file that is open may hold what is evicted of it
    assert one.metric("swmld_evictions_total") > 0
    assert "the cache is full: 1MiB (--cache-size); 12 files, 9 left out" in warmed_in_part(one, len(NAMES))


def warmed_in_part(one: Daemon, files: int) -> str:
    """Warm up all of the mount, more than fits: what it says is what is there. Returns its one line."""
    done = one.command("warmup", one.mount)
    entries = [json.loads(line) for line in one.ask("cache", "ls", "--json").splitlines()]
    complete = sum(entry["state"] == "complete" for entry in entries)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert f"; {files} files, {files - complete} left out (" in done.stderr
    assert 0 < complete < files
    return done.stderr


def test_least_recently_used_goes_first(daemon: Callable[..., Daemon]) -> None:
    one = daemon(options=[*OPTIONS, "--cache-size", "2MiB"])
    fill(one)
    check(one, NAMES[:4])
    check(one, NAMES[:1])
    check(one, NAMES[4:8])
    assert one.cached_bytes(NAMES[0]) > 0
    assert one.cached_bytes(NAMES[1]) == 0


# --- damaged ---

# The index and the cache's files are the same in every mode.
one_mode = pytest.mark.parametrize("daemon_mode", ["passthrough"], indirect=True)


@one_mode
@pytest.mark.parametrize("how", ["garbage", "truncated", "empty", "removed", "wrong tables"])
def test_index_that_cannot_be_read(daemon: Callable[..., Daemon], how: str) -> None:
    """Rebuilt or dropped, with a message; the files that it told of do not pile up on the disk."""
    one = daemon(options=OPTIONS, expect_log=["index"])
    fill(one)
    check(one)
    one.stop()
    index = one.cache / "index.db"
    for extra in ("-wal", "-shm"):
        index.with_name(index.name + extra).unlink(missing_ok=True)
    if how == "garbage":
        index.write_bytes(os.urandom(100_000))
    elif how == "truncated":
        os.truncate(index, index.stat().st_size // 2 + 17)
    elif how == "empty":
        index.write_bytes(b"")
    elif how == "removed":
        index.unlink()
    else:
        index.unlink()
        with sqlite3.connect(index) as db:
            db.execute("create table files (other int)")
    one.start()
    check(one)
    check(one)
    cached = sum(path.stat().st_blocks * 512 for path in data_files(one))
    assert cached <= 2 * len(NAMES) * len(content("x"))
    one.stop()


def test_a_flipped_bit_is_found_and_mended(daemon: Callable[..., Daemon]) -> None:
    one = daemon(options=OPTIONS, expect_log=["damaged|checksum|bad|mended"])
    fill(one)
    check(one)
    one.stop()
    victims = data_files(one)[:3]
    for path in victims:
        with path.open("r+b") as file:
            file.seek(CHUNK + 100)
            byte = file.read(1)
            file.seek(CHUNK + 100)
            file.write(bytes([byte[0] ^ 4]))
    one.start()
    done = one.command("cache", "verify", str(one.mount), "--json")
    assert done.returncode == 0, done.stderr
    assert '"bad": 3' in done.stdout
    assert '"mended": 3' in done.stdout
    check(one)
    again = one.command("cache", "verify", str(one.mount), "--json")
    assert '"bad": 0' in again.stdout


@one_mode
@pytest.mark.parametrize("how", ["removed", "shorter", "empty", "directory"])
def test_data_files_that_are_not_what_the_index_says(daemon: Callable[..., Daemon], how: str) -> None:
    one = daemon(options=OPTIONS, expect_log=["cache|missing|damaged|short"])
    fill(one)
    check(one)
    one.stop()
    for path in data_files(one)[::2]:
        if how == "shorter":
            os.truncate(path, CHUNK + 5)
        elif how == "empty":
            os.truncate(path, 0)
        else:
            path.unlink()
            if how == "directory":
                path.mkdir()
    one.start()
    check(one)
    check(one)
    one.stop()


def test_cache_directory_deleted_under_the_daemon(daemon: Callable[..., Daemon]) -> None:
    one = daemon(options=OPTIONS, expect_log=["."])
    fill(one)
    check(one, NAMES[:6])
    shutil.rmtree(one.cache)
    check(one)
    (one.mount / "written").write_bytes(b"still works")
    assert (one.source / "written").read_bytes() == b"still works"
    one.stop()


# --- restarts ---


def source_free(base: Path, daemon: Callable[..., Daemon]) -> tuple[SlowFs, Daemon]:
    (base / "backing").mkdir()
    slow = SlowFs(base, base / "backing")
    slow.__enter__()
    for name in NAMES:
        (base / "backing" / name).write_bytes(content(name))
    settle()
    return slow, daemon(source=slow.path, options=["--chunk-size", "64KiB"], expect_log=["source|unclean"])


@pytest.mark.parametrize("end", ["stop", "kill9"])
def test_cached_files_survive_the_daemon(daemon: Callable[..., Daemon], base: Path, end: str) -> None:
    """After a restart nothing that was cached is read from the source again."""
    slow, one = source_free(base, daemon)
    try:
        check(one)
        if end == "kill9":
            flushed(one)
        getattr(one, end)()
        slow.set("eio")  # of data; names and attributes are still asked for
        before = slow.stats()["bytes_read"]
        one.start()
        check(one)
        assert slow.stats()["bytes_read"] == before
        slow.set("ok")
        one.stop()
    finally:
        slow.__exit__(None, None, None)


def flushed(daemon: Daemon) -> None:
    """Wait until the index on disk has every chunk: rows are written in groups, some 50 ms late."""

    def written() -> bool:
        ((chunks,),) = asked(daemon.cache, "select count(*) from chunks")
        return bool(chunks >= len(NAMES) * 6)

    until(written, "the index is written")


def test_dead_mount_is_cleaned(daemon: Callable[..., Daemon]) -> None:
    one = daemon(options=OPTIONS, expect_log=["dead|unclean"])
    fill(one)
    check(one)
    for _ in range(3):
        one.kill9()
        with posix.fails(*posix.GONE):
            os.listdir(one.mount)
        one.start()
        check(one)
        assert [point for point, _ in posix.mount_list()].count(str(one.mount)) == 1


@pytest.mark.parametrize("seed", range(1))
def test_killed_at_random_points(daemon: Callable[..., Daemon], seed: int) -> None:
    """Readers and a writer at work, kill -9 after a random while, again and again: nothing wrong is
    ever read, and nothing that was acknowledged is lost."""
    dice = random.Random(seed)
    one = daemon(options=OPTIONS, expect_log=["dead|unclean|suspect"])
    fill(one)
    written = 0
    for _ in range(4):
        reached = Path(one.base / "reached")

        def write(start: int = written, reached: Path = reached) -> None:
            for number in range(start, start + 100_000):
                data = content(f"w{number}", 1 + number * 977 % 100_000)
                (one.mount / f"w{number}").write_bytes(data)
                reached.write_text(str(number))

        def read() -> None:
            while True:
                for name in NAMES:
                    assert (one.mount / name).read_bytes() == content(name)

        reached.write_text(str(written - 1))
        children = [posix.Child(write), posix.Child(read), posix.Child(read)]
        delay = dice.uniform(0.05, 0.6)
        time.sleep(delay)
        one.kill9()
        for child in children:
            with contextlib.suppress(OSError):
                child.wait(20)
        last = int(reached.read_text() or -1)
        for number in range(max(written, 0), last + 1):
            assert (one.source / f"w{number}").read_bytes() == content(
                f"w{number}", 1 + number * 977 % 100_000
            )
        one.start()
        check(one)
        for number in range(max(written, 0), last + 1):
            assert (one.mount / f"w{number}").read_bytes() == content(
                f"w{number}", 1 + number * 977 % 100_000
            )
        written = last + 2


def test_two_daemons_on_one_source(daemon: Callable[..., Daemon]) -> None:
    """Told apart by their mounts; a change through one shows in the other at its next check."""
    one = daemon(options=OPTIONS)
    with work_dir() as other_base, Daemon(other_base, one.mode, source=one.source, options=OPTIONS) as two:
        fill(one)
        check(one)
        check(two)
        (one.mount / NAMES[0]).write_bytes(b"changed through one")
        assert (two.mount / NAMES[0]).read_bytes() == b"changed through one"
        assert one.status()["mount"] == str(one.mount)
        assert two.status()["mount"] == str(two.mount)
        one.stop()
        check(two, NAMES[1:])
