"""Conformance of sources that can be changed: names and attributes. See ``support.source_conformance``."""

from __future__ import annotations

import errno
import os
import stat

import pytest
from swmld.sources.interface import ROOT, Attributes, Feature, NewAttributes, Page

from support.source_kit import (
    CONTROL,
    NAMES,
    NOT_UTF8,
    Can,
    MadeSource,
    content,
    names_of,
    read_all,
)
from support.source_written import MTIME, attributes, code, owner, write


class WrittenNames:
    """Directories, moves and ends."""

    def test_names_that_are_made(self, made: MadeSource) -> None:
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
    def test_no_new_name_leads_elsewhere(self, made: MadeSource, path: bytes) -> None:
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

    def test_extended_attributes(self, made: MadeSource) -> None:
        source = made.source
        said = write(source, b"file", b"x")
        if Feature.XATTRS not in source.features:
            assert code(source.set_xattr, b"file", b"user.a", b"1") == errno.EOPNOTSUPP
            assert code(source.xattrs, b"file") == errno.EOPNOTSUPP
            return
        source.make_dir(b"d", Attributes(stat.S_IFDIR | 0o755))
        assert said.bare
        assert code(source.set_xattr, b"file", b"user.a", None) == errno.ENODATA
        for path in (b"file", b"d"):
            assert source.xattrs(path) == {}
            wanted = {b"user.a": b"", b"user.\xc3\xa4 =": bytes(range(256)), b"trusted.b": b"v" * 60_000}
            for name, value in wanted.items():
                source.set_xattr(path, name, b"before")
                said = source.set_xattr(path, name, value)
                assert not said.bare
                assert source.stat(path) == said
            assert source.xattrs(path) == wanted
            directory = {name: attributes for name, attributes in source.list(ROOT).entries}
            assert directory[path] == said
            # What changes other things leaves them alone.
            source.change(path, NewAttributes(mode=0o700))
            if path == b"file":
                said = write(source, path, content(made.unit + 1), source.stat(path))
                assert not said.bare
                source.rename(path, b"other")
                source.rename(b"other", path)
            assert source.xattrs(path) == wanted
            source.set_xattr(path, b"user.a", None)
            assert source.xattrs(path) == {name: wanted[name] for name in wanted if name != b"user.a"}
            for name in list(wanted)[1:]:
                said = source.set_xattr(path, name, None)
            assert said.bare
            assert source.xattrs(path) == {}
            assert code(source.set_xattr, path, b"user.a", None) == errno.ENODATA
        assert read_all(source, b"file") == content(made.unit + 1)
        assert code(source.set_xattr, b"absent", b"user.a", b"1") == errno.ENOENT
        assert code(source.xattrs, b"absent") == errno.ENOENT

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
