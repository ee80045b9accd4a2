"""Conformance of sources that can be changed. See ``support.source_conformance``."""

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
from swmld.sources.interface import ROOT, Attributes, Feature, NewAttributes, Page, Source

from support.source_kit import (
    CONTROL,
    NAMES,
    NOT_UTF8,
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
    def test_an_open_file_keeps_its_bytes_or_fails(self, made: MadeSource, sizes: str) -> None:
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


class WrittenNames:
    """Directories, moves and ends."""

    def test_names(self, made: MadeSource) -> None:
        source = made.source
        names = [name for name in NAMES if name not in made.impossible]
        names += CONTROL if Can.CONTROL_NAMES in made.can else ()
        names += NOT_UTF8 if Can.NOT_UTF8 in made.can else ()
        for directory in (b"d", b"e"):
            source.make_dir(directory, Attributes(stat.S_IFDIR | 0o755))
        for name in names:
            write(source, b"d/" + name, b"content of " + name)
        assert names_of(source.list(b"d")) == sorted(names)
        for name in names:
            assert read_all(source, b"d/" + name) == b"content of " + name
            source.rename(b"d/" + name, b"e/" + name)
        assert source.list(b"d") == Page((), False)
        assert names_of(source.list(b"e")) == sorted(names)
        for name in names:
            assert source.stat(b"e/" + name).size == len(b"content of " + name)
            source.remove(b"e/" + name)
        assert source.list(b"e") == Page((), False)

    @pytest.mark.parametrize("path", [b"..", b"d/../x", b".", b"d/.", b"d//file", b"d\0", b"../x"])
    def test_no_name_leads_elsewhere(self, made: MadeSource, path: bytes) -> None:
        source = made.source
        source.make_dir(b"d", Attributes(stat.S_IFDIR | 0o755))
        write(source, b"file", b"x")
        directory = Attributes(stat.S_IFDIR | 0o755)
        codes = {errno.ENOENT, errno.EINVAL}
        assert code(write, source, path, b"x") in codes
        assert code(source.make_dir, path, directory) in codes
        assert code(source.rename, b"file", path) in codes
        for call in (source.remove, source.remove_dir):
            assert made.unsure or code(call, path) in codes
        assert sorted(names_of(source.list(ROOT))) == [b"d", b"file"]

    def test_a_name_can_be_too_long(self, made: MadeSource) -> None:
        name = b"n" * 5000
        assert code(write, made.source, name, b"x") == errno.ENAMETOOLONG
        assert code(made.source.make_dir, name, Attributes(stat.S_IFDIR | 0o755)) == errno.ENAMETOOLONG
        assert made.source.list(ROOT) == Page((), False)

    def test_a_directory_is_no_file(self, made: MadeSource) -> None:
        source = made.source
        said = source.make_dir(b"d", Attributes(stat.S_IFDIR | 0o755))
        for expected in (None, said):
            assert code(write, source, b"d", b"x", expected) == errno.EISDIR
        assert code(source.remove, b"d") == errno.EISDIR
        write(source, b"file", b"x")
        assert code(source.remove_dir, b"file") == errno.ENOTDIR
        assert read_all(source, b"file") == b"x"
        assert source.stat(b"d").is_dir

    def test_a_file_needs_its_directory(self, made: MadeSource) -> None:
        if Can.PARENTS not in made.can:
            pytest.skip("the server has no directories")
        source = made.source
        directory = Attributes(stat.S_IFDIR | 0o755)
        write(source, b"file", b"x")
        assert code(write, source, b"absent/file", b"x") == errno.ENOENT
        assert code(source.make_dir, b"absent/d", directory) == errno.ENOENT
        assert code(source.rename, b"file", b"absent/file") == errno.ENOENT
        assert code(write, source, b"file/x", b"x") == errno.ENOTDIR
        assert code(source.make_dir, b"file/x", directory) == errno.ENOTDIR
        assert names_of(source.list(ROOT)) == [b"file"]

    def test_directories_are_made_and_removed(self, made: MadeSource) -> None:
        source = made.source
        uid, gid = owner()
        given = Attributes(stat.S_IFDIR | 0o750, uid=uid, gid=gid)
        for path in (b"d", b"d/e"):
            said = source.make_dir(path, given)
            assert said.is_dir
            assert source.stat(path) == said
            if Feature.ATTRIBUTES in source.features:
                assert (stat.S_IMODE(said.mode), said.uid, said.gid) == (0o750, uid, gid)
        assert names_of(source.list(b"d")) == [b"e"]
        assert code(source.make_dir, b"d", given) == errno.EEXIST
        write(source, b"d/e/file", b"x")
        assert code(source.make_dir, b"d/e/file", given) == errno.EEXIST
        for path in (b"d", b"d/e"):
            assert code(source.remove_dir, path) == errno.ENOTEMPTY
        assert read_all(source, b"d/e/file") == b"x"
        source.remove(b"d/e/file")
        assert source.list(b"d/e") == Page((), False)
        source.remove_dir(b"d/e")
        assert code(source.stat, b"d/e") == errno.ENOENT
        source.remove_dir(b"d")
        assert source.list(ROOT) == Page((), False)

    def test_what_is_not_there_cannot_be_removed(self, made: MadeSource) -> None:
        source = made.source
        write(source, b"there", b"x")
        for path in (b"absent", b"ther", b"absent/x"):
            assert made.unsure or code(source.remove, path) == errno.ENOENT
            assert made.unsure or code(source.remove_dir, path) == errno.ENOENT
            assert code(source.rename, path, b"new") == errno.ENOENT
        source.remove(b"there")
        assert made.unsure or code(source.remove, b"there") == errno.ENOENT
        assert code(source.stat, b"there") == errno.ENOENT

    def test_files_are_renamed(self, made: MadeSource) -> None:
        source = made.source
        for directory in (b"d", b"e"):
            source.make_dir(directory, Attributes(stat.S_IFDIR | 0o755))
        size = made.unit + 5
        write(source, b"d/file", content(size))
        source.rename(b"d/file", b"e/other")
        assert code(source.stat, b"d/file") == errno.ENOENT
        assert read_all(source, b"e/other") == content(size)
        write(source, b"e/file", b"goes")
        source.rename(b"e/other", b"e/file")
        assert names_of(source.list(b"e")) == [b"file"]
        assert read_all(source, b"e/file") == content(size)
        source.rename(b"e/file", b"e/file")
        assert read_all(source, b"e/file") == content(size)
        assert code(source.rename, b"e/file", b"d") == errno.EISDIR
        assert read_all(source, b"e/file") == content(size)

    def test_a_renamed_file_can_be_replaced(self, made: MadeSource) -> None:
        source = made.source
        write(source, b"file", b"old")
        write(source, b"new", b"new", token="token")
        source.rename(b"new", b"file")
        said = source.stat(b"file")
        assert write(source, b"file", b"newer", said) == source.stat(b"file")
        assert read_all(source, b"file") == b"newer"
        assert names_of(source.list(ROOT)) == [b"file"]

    def test_directories_are_renamed(self, made: MadeSource) -> None:
        source = made.source
        given = Attributes(stat.S_IFDIR | 0o755)
        for path in (b"d", b"d/e", b"empty", b"full"):
            source.make_dir(path, given)
        for path in (b"d/one", b"d/e/two", b"full/file", b"file"):
            write(source, path, path)
        if Feature.MOVE not in source.features:
            assert code(source.rename, b"d", b"moved") == errno.EXDEV
            assert read_all(source, b"d/e/two") == b"d/e/two"
            return
        source.rename(b"d", b"moved")
        assert code(source.stat, b"d") == errno.ENOENT
        assert names_of(source.list(b"moved")) == [b"e", b"one"]
        assert read_all(source, b"moved/e/two") == b"d/e/two"
        assert code(source.rename, b"moved", b"full") in (errno.ENOTEMPTY, errno.EEXIST)
        assert code(source.rename, b"moved", b"file") == errno.ENOTDIR
        assert code(source.rename, b"moved", b"moved/e/below") == errno.EINVAL
        assert code(source.rename, b"file", b"empty") == errno.EISDIR
        source.rename(b"moved", b"moved")
        source.rename(b"moved", b"empty")
        assert names_of(source.list(ROOT)) == [b"empty", b"file", b"full"]
        assert read_all(source, b"empty/e/two") == b"d/e/two"
        assert read_all(source, b"full/file") == b"full/file"
        assert read_all(source, b"file") == b"file"


class WrittenAttributes:
    """Modes, owners, times and links."""

    def test_attributes_are_kept(self, made: MadeSource) -> None:
        source = made.source
        if Feature.ATTRIBUTES not in source.features:
            write(source, b"file", b"x")
            assert code(source.change, b"file", NewAttributes(mode=0o600)) == errno.EOPNOTSUPP
            return
        uid, gid = owner()
        said = None
        for mode, mtime_ns in (
            (0o644, MTIME),
            (0o400, 1),
            (0o4711, 10**9),
            (0o2755, 2**32 * 10**9 + 7),
            (0o1666, MTIME - 1),
        ):
            said = write(source, b"file", b"x", said, given=attributes(mode, mtime_ns))
            assert (said.mode, said.mtime_ns) == (stat.S_IFREG | mode, mtime_ns)
            assert (said.uid, said.gid) == (uid, gid)
            assert source.stat(b"file") == said

    def test_attributes_are_changed(self, made: MadeSource) -> None:
        source = made.source
        if Feature.ATTRIBUTES not in source.features:
            pytest.skip("the server has no attributes")
        uid, gid = owner()
        for size in (0, 10, made.unit + 1):
            path = b"file-%d" % size
            said = write(source, path, content(size), given=Attributes(stat.S_IFREG | 0o644, mtime_ns=MTIME))
            for new in (
                NewAttributes(mode=0o600),
                NewAttributes(uid=uid),
                NewAttributes(gid=gid),
                NewAttributes(mtime_ns=MTIME + 1),
                NewAttributes(0o4755, 0 if os.geteuid() == 0 else uid, gid, 2 * MTIME),
                NewAttributes(),
            ):
                mode = said.mode if new.mode is None else stat.S_IFREG | new.mode
                wanted = (
                    mode,
                    said.uid if new.uid is None else new.uid,
                    said.gid if new.gid is None else new.gid,
                    said.mtime_ns if new.mtime_ns is None else new.mtime_ns,
                )
                said = source.change(path, new)
                assert (said.mode, said.uid, said.gid, said.mtime_ns) == wanted
                assert said.size == size
                assert source.stat(path) == said
            assert read_all(source, path) == content(size)
            # What was changed can be replaced, and its generation is known.
            write(source, path, b"new", said)
        source.make_dir(b"d", Attributes(stat.S_IFDIR | 0o755))
        write(source, b"d/file", b"x")
        said = source.change(b"d", NewAttributes(mode=0o700, mtime_ns=MTIME))
        assert (said.mode, said.mtime_ns) == (stat.S_IFDIR | 0o700, MTIME)
        assert source.stat(b"d") == said
        assert names_of(source.list(b"d")) == [b"file"]
        assert code(source.change, b"absent", NewAttributes(mode=0o600)) == errno.ENOENT

    def test_symlinks_are_made(self, made: MadeSource) -> None:
        source = made.source
        uid, gid = owner()
        given = Attributes(stat.S_IFLNK | 0o777, uid=uid, gid=gid)
        if Feature.SYMLINK not in source.features:
            assert code(source.symlink, b"link", b"to", given) == errno.EOPNOTSUPP
            return
        source.make_dir(b"d", Attributes(stat.S_IFDIR | 0o755))
        for path, to in ((b"link", b"d"), (b"d/link", b"../a b%\xc3\xa4"), (b"d/dangling", b"/nowhere")):
            said = source.symlink(path, to, given)
            assert stat.S_ISLNK(said.mode)
            assert (said.link, said.uid, said.gid) == (to, uid, gid)
            assert source.stat(path) == said
        assert code(source.symlink, b"link", b"else", given) == errno.EEXIST
        assert code(source.symlink, b"d", b"else", given) == errno.EEXIST
        assert code(write, source, b"link", b"x") == errno.ESTALE
        source.rename(b"d/link", b"moved")
        assert source.stat(b"moved").link == b"../a b%\xc3\xa4"
        write(source, b"file", b"x")
        source.rename(b"file", b"moved")
        assert read_all(source, b"moved") == b"x"
        source.remove(b"link")
        assert code(source.stat, b"link") == errno.ENOENT
        assert names_of(source.list(b"d")) == [b"dangling"]


class Writes(WrittenFiles, WrittenNames, WrittenAttributes):
    """All of it."""
