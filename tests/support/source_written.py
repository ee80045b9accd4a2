"""Conformance of sources that can be changed: files that are written. See ``support.source_conformance``."""

from __future__ import annotations

import errno
import itertools
import os
import random
import stat
import tempfile
import threading
from functools import partial

import pytest
from swmld.sources.interface import ROOT, Attributes, Source

from support.source_kit import (
    Can,
    MadeSource,
    content,
    failing,
    identity,
    listed,
    names_of,
    part,
    read_all,
    together,
    unless_gone,
)

MTIME = 1_600_000_000_123_456_789

_tokens = itertools.count()


def owner() -> tuple[int, int]:
    """Somebody whom files can be given to."""
    return (1234, 5678) if os.geteuid() == 0 else (os.geteuid(), os.getegid())


def attributes(mode: int = 0o644, mtime_ns: int = MTIME) -> Attributes:
    """What a file is to be written with."""
    uid, gid = owner()
    return Attributes(stat.S_IFREG | mode, mtime_ns=mtime_ns, uid=uid, gid=gid)


def write(
    source: Source,
    path: bytes,
    stored: bytes,
    expected: Attributes | None = None,
    token: str = "",
    given: Attributes | None = None,
) -> Attributes:
    """``Source.write`` of bytes, from a file that goes on behind them and whose position is elsewhere."""
    with tempfile.TemporaryFile() as file:
        file.write(stored + b"behind the end")
        file.flush()
        file.seek(3)
        fd = file.fileno()
        token = token or f"token-{next(_tokens)}"
        made = source.write(path, fd, len(stored), given or attributes(), expected, token)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 3
        return made


def code(call: object, *arguments: object) -> int | None:
    """The errno that a call ends with."""
    return failing(partial(call, *arguments)).errno  # type: ignore[arg-type]


class WrittenFiles:
    """``write``, and what becomes of it."""

    def test_what_is_written_is_there(self, made: MadeSource) -> None:
        unit = made.unit
        source = made.source
        for size in (0, 1, 511, 4096, unit - 1, unit, unit + 1, 3 * unit + 12345):
            path = b"size-%d" % size
            said = write(source, path, content(size))
            assert said.is_file
            assert said.size == size
            assert source.stat(path) == said
            assert read_all(source, path) == content(size)
        assert len(listed(source, ROOT, 100)) == 8

    def test_what_is_replaced_is_another_generation(self, made: MadeSource) -> None:
        source = made.source
        said = None
        seen = set()
        for number, size in enumerate((5000, 5000, 0, made.unit + 1, 5000)):
            said = write(source, b"file", content(size, number), said)
            assert source.stat(b"file") == said
            assert read_all(source, b"file") == content(size, number)
            seen.add(identity(said))
        assert len(seen) == 5
        assert names_of(source.list(ROOT)) == [b"file"]

    def test_what_others_made_is_replaced(self, made: MadeSource) -> None:
        made.put(b"file", content(made.chunk + 5))
        made.refresh()
        write(made.source, b"file", b"ours", made.source.stat(b"file"))
        assert read_all(made.source, b"file") == b"ours"

    def test_another_generation_is_not_replaced(self, made: MadeSource) -> None:
        source = made.source
        first = write(source, b"file", b"first")
        second = write(source, b"file", b"second", first)
        for expected in (None, first):
            assert code(write, source, b"file", b"third", expected) == errno.ESTALE
        made.put(b"file", b"theirs")
        made.refresh()
        for expected in (None, first, second):
            assert code(write, source, b"file", b"third", expected) == errno.ESTALE
        assert read_all(source, b"file") == b"theirs"

    def test_what_is_gone_is_not_made_again(self, made: MadeSource) -> None:
        source = made.source
        source.make_dir(b"d", Attributes(stat.S_IFDIR | 0o755))
        first = write(source, b"d/file", b"first")
        write(source, b"d/other", b"x")
        source.remove(b"d/file")
        assert code(write, source, b"d/file", b"second", first) == errno.ESTALE
        assert names_of(source.list(b"d")) == [b"other"]

    def test_a_write_is_done_once(self, made: MadeSource) -> None:
        source = made.source
        for size in (10, made.unit + 1):
            path = b"file-%d" % size
            first = write(source, path, content(size), None, "one")
            assert write(source, path, content(size), None, "one") == first
            second = write(source, path, content(size, 1), first, "two")
            assert write(source, path, content(size, 1), first, "two") == second
            # Its own is gone, so it was not the last.
            assert code(write, source, path, content(size), None, "one") == errno.ESTALE
            assert read_all(source, path) == content(size, 1)

    def test_a_file_that_was_cut_meanwhile_is_stored_with_zeros(self, made: MadeSource) -> None:
        size = made.unit + 1000
        for have in (0, 10, made.unit - 1):
            with tempfile.TemporaryFile() as file:
                file.write(content(have))
                file.flush()
                path = b"cut-%d" % have
                made.source.write(path, file.fileno(), size, attributes(), None, "token")
            assert read_all(made.source, path) == content(have) + bytes(size - have)

    def test_holes_are_zeros(self, made: MadeSource) -> None:
        size = 2 * made.unit
        with tempfile.TemporaryFile() as file:
            os.pwrite(file.fileno(), b"end", size - 3)
            made.source.write(b"file", file.fileno(), size, attributes(), None, "token")
        assert read_all(made.source, b"file") == bytes(size - 3) + b"end"

    @pytest.mark.parametrize("sizes", ["small", "large"])
    def test_an_open_file_that_is_written_keeps_its_bytes_or_fails(
        self, made: MadeSource, sizes: str
    ) -> None:
        old, new = (100, 120) if sizes == "small" else (made.unit + 50_000, made.unit + 60_000)
        source = made.source
        said = write(source, b"file", content(old))
        reader = source.open(b"file", said)
        assert part(reader, 10, 50) == content(old)[10:60]
        write(source, b"file", content(new, 1), said)
        for offset, length in ((0, old), (10, 50), (old - 10, 10), (0, new)):
            got = unless_gone(partial(part, reader, offset, length))
            assert got is None or got == content(old)[offset : offset + length]
        reader.close()

    def test_a_file_is_seen_as_a_whole(self, made: MadeSource) -> None:
        """One writes it over and over, others read it: of one letter, or another generation meanwhile."""
        size = made.unit + 100
        source = made.source
        said = write(source, b"file", b"A" * size)
        ended = threading.Event()

        def replace() -> None:
            nonlocal said
            try:
                for number in range(1, 9):
                    said = write(source, b"file", bytes([65 + number]) * (size + number), said)
            finally:
                ended.set()

        def seen() -> bytes:
            assert names_of(source.list(ROOT)) == [b"file"]
            return read_all(source, b"file")

        def read() -> None:
            while not ended.is_set():
                got = unless_gone(seen)
                assert got is None or got == got[:1] * (size + got[0] - 65)

        together([replace, read, read])

    def test_many_threads_write_many_files(self, made: MadeSource) -> None:
        source = made.source

        def work(number: int) -> None:
            for again in range(4):
                path = b"%d-%d" % (number, again)
                size = random.Random(path).choice([10, 5000, made.unit + 7])
                said = write(source, path, content(size, number))
                assert source.stat(path) == said
                assert read_all(source, path) == content(size, number)

        together(partial(work, number) for number in range(8))
        assert len(listed(source, ROOT, 10)) == 32

    def test_many_make_one_file(self, made: MadeSource) -> None:
        source = made.source
        begun = threading.Barrier(6)
        won: list[int] = []
        lost: list[int | None] = []

        def work(number: int) -> None:
            begun.wait()
            try:
                write(source, b"file", b"%d" % number * 2000)
            except OSError as error:
                lost.append(error.errno)
            else:
                won.append(number)

        together(partial(work, number) for number in range(6))
        assert won
        assert set(lost) <= {errno.ESTALE}
        assert len(won) == 1 or Can.ONE_MAKER not in made.can
        assert read_all(source, b"file") in [b"%d" % number * 2000 for number in won]
