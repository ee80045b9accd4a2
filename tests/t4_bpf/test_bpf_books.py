"""Where the books of streams lie: few of them, found by hints that are mostly wrong, taken over when idle.

The probes are made with room for 64 streams and two hints, so that what needs 65,536 files in the daemon
happens here with a hundred.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import gates, posix
from swmld._native import ffi, lib
from swmld.observe import programs, records
from swmld.observe.loader import Loader
from swmld.observe.probe import Probe, device_of
from swmld.patterns.feed import Cursor, TouchKind

PAGE = 4096
BLOCKS = 23
BOOKS = 64
IDLE = 2.1  # seconds: more than SWP_IDLE_NS
FRESH = 0.15  # more than SWP_FRESH_NS
SMALL = {"SWP_CURSORS": BOOKS, "SWP_HINT_BITS": 1}

# Compiled in a process of its own, as always: bcc would stay in this one.
_COMPILE = """
import sys
from swmld.observe import loader, programs
programs.SIZES |= dict(SWP_CURSORS=int(sys.argv[1]), SWP_HINT_BITS=int(sys.argv[2]))
sys.argv[1:] = ["--state", sys.argv[3], "--way", "btf"]
loader.main()
"""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    gates.require("bpf")
    state = tmp_path_factory.mktemp("state")
    argv = [sys.executable, "-P", "-c", _COMPILE, *map(str, SMALL.values()), str(state)]
    subprocess.run(argv, check=True, capture_output=True)
    return state


class Few:
    """Files that are watched, each as the node of its number, and probes with few books."""

    def __init__(self, probe: Probe, directory: Path) -> None:
        self.probe = probe
        self._directory = directory

    def make(self, first: int, count: int, pages: int = BLOCKS) -> list[Path]:
        paths = [self._directory / f"{number}" for number in range(first, first + count)]
        for number, path in enumerate(paths, first):
            path.write_bytes(os.urandom(pages * PAGE))
            with path.open("rb") as file:
                ino, dev = path.stat().st_ino, device_of(file.fileno())
            self.probe.configure(0xFFFFFFFF, dev, dev)
            key = ffi.new("struct swp_file *", {"ino": ino, "dev": dev})
            watch = ffi.new("struct swp_watch *", {"node": number})
            assert not lib.sw_map_update(self.probe.watched_fd, key, watch)
            word, bits = ffi.new("uint32_t *", ino % 262144 // 64), ffi.new("struct swp_filter *")
            lib.sw_map_lookup(self.probe.filter_fd, word, bits)
            bits.bits |= 1 << ino % 64
            assert not lib.sw_map_update(self.probe.filter_fd, word, bits)
        return paths

    def rows(self) -> dict[int, Cursor]:
        """By node."""
        found = list(records.rows(self.probe.cursors(0.0)))
        assert len({row.node for row in found}) == len(found), "a stream has books twice"
        return {row.node: row.cursor for row in found}

    def firsts(self) -> list[int]:
        """Nodes whose first read was told, since the last time."""
        return [
            node for _, node, touch in records.events(self.probe.events()) if touch.kind is TouchKind.FIRST
        ]


@pytest.fixture
def few(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Few]:
    for name, value in SMALL.items():
        monkeypatch.setitem(programs.SIZES, name, value)
    loader = Loader(kept)
    loader.run(("btf",))
    assert loader.report["origin"] == "kept", loader.report
    probe = Probe(loader.report, loader.descriptors)
    try:
        yield Few(probe, tmp_path)
    finally:
        probe.close()


def in_turn(paths: list[Path]) -> Callable[[], None]:
    """One block of each file, then the next one of each."""

    def work() -> None:
        files = [os.open(path, os.O_RDONLY) for path in paths]
        for block in range(BLOCKS):
            for fd in files:
                assert len(os.pread(fd, PAGE, block * PAGE)) == PAGE

    return work


def test_streams_that_share_a_hint(few: Few) -> None:
    paths = few.make(1, 40)
    posix.run(in_turn(paths))
    rows = few.rows()
    assert {node: (row.reads, row.pages, row.sequential) for node, row in rows.items()} == {
        node: (BLOCKS, BLOCKS, BLOCKS - 1) for node in range(1, 41)
    }
    assert sorted(few.firsts()) == list(range(1, 41))
    assert not any(few.probe.lost().values())


def test_threads_that_begin_at_once_share_books(few: Few) -> None:
    """Both look for a place; one of them gives its own back."""
    paths = few.make(1, 40)

    def work() -> None:
        together = threading.Barrier(2)

        def read(start: int) -> None:
            for path in paths:
                fd = os.open(path, os.O_RDONLY)
                together.wait()
                for block in range(start, 20, 2):
                    os.pread(fd, PAGE, block * PAGE)
                os.close(fd)

        threads = [threading.Thread(target=read, args=(start,)) for start in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    posix.run(work)
    rows = few.rows()
    assert set(rows) == set(range(1, 41))
    assert all(19 <= row.reads <= 20 for row in rows.values()), "the very first two may count as one"
    assert not any(few.probe.lost().values())


def test_books_in_use_are_kept_and_what_finds_none_is_counted_as_lost(few: Few) -> None:
    paths = few.make(1, BOOKS + 6)
    posix.run(in_turn(paths))
    rows = few.rows()
    assert set(rows) == set(range(1, BOOKS + 1))
    assert {row.reads for row in rows.values()} == {BLOCKS}
    assert few.probe.lost()["cursors"] == 6 * BLOCKS


def test_idle_books_are_taken_over(few: Few) -> None:
    """The ones that were begun first; a stream that had them begins anew."""
    paths = few.make(1, BOOKS + 6)

    def work() -> None:
        in_turn(paths[:BOOKS])()
        time.sleep(IDLE)  # a limit of time: there is no event
        in_turn(paths[BOOKS:])()
        in_turn(paths[:1])()

    posix.run(work)
    rows = few.rows()
    assert set(rows) == {1, *range(8, BOOKS + 7)}
    assert {row.reads for row in rows.values()} == {BLOCKS}
    assert few.firsts() == [*range(1, BOOKS + 7), 1]
    assert not any(few.probe.lost().values())


def test_a_row_of_books_in_use_is_passed_over(few: Few) -> None:
    """As streams that begin together and go on are; there is room behind them."""
    paths, used = few.make(1, BOOKS + 10), BOOKS * 3 // 8

    def work() -> None:
        in_turn(paths[:BOOKS])()
        time.sleep(IDLE)  # a limit of time: there is no event
        in_turn(paths[:used])()
        in_turn(paths[BOOKS:])()

    posix.run(work)
    rows = few.rows()
    assert {node for node, row in rows.items() if row.reads == 2 * BLOCKS} == set(range(1, used + 1))
    assert set(rows) >= set(range(BOOKS + 1, BOOKS + 11))
    assert not any(few.probe.lost().values())


def test_what_was_told_in_full_makes_room_at_once(few: Few) -> None:
    """Small files that are read whole, one event each: far more in two seconds than there are books."""
    paths = few.make(1, 5 * BOOKS, pages=1)

    def work() -> None:
        for at in range(0, len(paths), BOOKS // 2):
            for path in paths[at : at + BOOKS // 2]:
                path.read_bytes()
            time.sleep(FRESH)

    posix.run(work)
    assert few.firsts() == list(range(1, 5 * BOOKS + 1))
    assert not any(few.probe.lost().values())
