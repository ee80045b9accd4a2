"""Conformance of sources: names, attributes and listings. See ``support.source_conformance``."""

from __future__ import annotations

import errno
import stat
from functools import partial

import pytest
from swmld.sources.interface import ROOT, Page

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
    made_order,
    names_of,
    read_all,
)


class Names:
    """Names, attributes and listings."""

    def test_an_empty_source_has_a_root(self, made: MadeSource) -> None:
        assert made.source.stat(ROOT).is_dir
        assert made.source.list(ROOT) == Page((), False)

    def test_its_name_is_for_people(self, made: MadeSource) -> None:
        assert made.source.name
        assert made.source.name.isprintable()

    def test_what_is_not_there_is_enoent(self, made: MadeSource) -> None:
        made.put(b"there/file", b"x")
        made.refresh()
        for path in (b"absent", b"there/absent", b"absent/absent", b"there/fil", b"there/file2", b"ther"):
            error = failing(partial(made.source.stat, path))
            assert error.errno == errno.ENOENT
            assert path.decode() in str(error)
            error = failing(partial(made.source.list, path))
            assert error.errno == errno.ENOENT

    def test_a_file_has_no_entries(self, made: MadeSource) -> None:
        made.put(b"there/file", b"x")
        made.refresh()
        assert failing(lambda: made.source.list(b"there/file")).errno == errno.ENOTDIR
        # A key has no parents: an object store cannot tell one from the other without asking again.
        assert failing(lambda: made.source.stat(b"there/file/x")).errno in (errno.ENOTDIR, errno.ENOENT)

    @pytest.mark.parametrize(
        "path", [b"..", b"../..", b"d/../../d", b"d/..", b".", b"d/.", b"d//file", b"d\0"]
    )
    def test_no_name_leads_elsewhere(self, made: MadeSource, path: bytes) -> None:
        made.put(b"d/file", b"x")
        made.refresh()
        for call in (made.source.stat, made.source.list):
            assert failing(partial(call, path)).errno in (errno.ENOENT, errno.EINVAL)

    def test_attributes_are_the_same_in_stat_and_list(self, made: MadeSource) -> None:
        for path, size in (
            (b"d/empty", 0),
            (b"d/small", 100),
            (b"d/large", made.chunk + 1),
            (b"d/e/file", 5),
        ):
            made.put(path, content(size))
        made.refresh()
        entries = dict(made.source.list(b"d").entries)
        assert sorted(entries) == [b"e", b"empty", b"large", b"small"]
        for name, attributes in entries.items():
            asked = made.source.stat(b"d/" + name)
            assert identity(asked) == identity(attributes)
            assert asked.mode == attributes.mode
            assert asked.is_dir == (name == b"e")
            assert identity(made.source.stat(b"d/" + name)) == identity(asked)
        assert [entries[name].size for name in (b"empty", b"small", b"large")] == [0, 100, made.chunk + 1]
        assert all(entries[name].is_file for name in (b"empty", b"small", b"large"))
        assert all(entries[name].mtime_ns > 10**18 for name in (b"empty", b"small", b"large"))

    def test_numbers_are_there_and_differ(self, made: MadeSource) -> None:
        for name in (b"d/a", b"d/b", b"d/c/a", b"a"):
            made.put(name, b"the same bytes")
        made.refresh()
        paths = (ROOT, b"d", b"d/a", b"d/b", b"d/c", b"d/c/a", b"a")
        numbers = [made.source.stat(path).ino for path in paths]
        assert all(0 < number < 1 << 63 for number in numbers)
        assert len(set(numbers)) == len(paths)

    def test_names(self, made: MadeSource) -> None:
        names = [name for name in NAMES if name not in made.impossible]
        names += CONTROL if Can.CONTROL_NAMES in made.can else ()
        names += NOT_UTF8 if Can.NOT_UTF8 in made.can else ()
        for name in names:
            made.put(b"d/" + name, b"content of " + name)
        made.refresh()
        page = made.source.list(b"d")
        assert names_of(page) == sorted(names)
        for name, attributes in page.entries:
            assert identity(made.source.stat(b"d/" + name)) == identity(attributes)
            assert read_all(made.source, b"d/" + name) == b"content of " + name

    def test_names_of_directories(self, made: MadeSource) -> None:
        names = [name for name in NAMES if name not in made.impossible]
        for name in names:
            made.put(b"d/" + name + b"/file", name)
        made.refresh()
        page = made.source.list(b"d")
        assert names_of(page) == sorted(names)
        assert all(attributes.is_dir for _, attributes in page.entries)
        for name in names:
            assert names_of(made.source.list(b"d/" + name)) == [b"file"]
            assert made.source.stat(b"d/" + name + b"/file").size == len(name)

    def test_directories(self, made: MadeSource) -> None:
        made.put(b"a/b/c/file", b"x")
        made.refresh()
        for path, name in ((ROOT, b"a"), (b"a", b"b"), (b"a/b", b"c")):
            (entry,) = made.source.list(path).entries
            assert entry[0] == name
            assert entry[1].is_dir
            assert made.source.stat(path).is_dir
        assert names_of(made.source.list(b"a/b/c")) == [b"file"]

    def test_empty_directories(self, made: MadeSource) -> None:
        if Can.EMPTY_DIRECTORIES not in made.can:
            pytest.skip("the server has no empty directories")
        made.mkdir(b"d")
        made.mkdir(b"d/e")
        made.refresh()
        assert names_of(made.source.list(b"d")) == [b"e"]
        assert made.source.stat(b"d/e").is_dir
        assert made.source.list(b"d/e") == Page((), False)

    def test_symlinks_are_entries(self, made: MadeSource) -> None:
        if Can.SYMLINKS not in made.can:
            pytest.skip("the server has no symlinks")
        made.put(b"d/file", b"x")
        for path, to in (
            (b"link", b"d"),
            (b"up", b"../.."),
            (b"d/dangling", b"/nowhere"),
            (b"d/link", b"file"),
        ):
            made.symlink(path, to)
        made.refresh()
        for path, to in (
            (b"link", b"d"),
            (b"up", b"../.."),
            (b"d/dangling", b"/nowhere"),
            (b"d/link", b"file"),
        ):
            attributes = made.source.stat(path)
            assert stat.S_ISLNK(attributes.mode)
            assert attributes.link == to
        assert dict(made.source.list(b"d").entries)[b"link"].link == b"file"
        for path in (b"link/file", b"up/etc"):
            error = failing(partial(made.source.stat, path))
            assert error.errno in (errno.ENOTDIR, errno.ENOENT)
        assert failing(lambda: made.source.list(b"link")).errno == errno.ENOTDIR

    def test_modes(self, made: MadeSource) -> None:
        if Can.MODES not in made.can:
            pytest.skip("the server has no modes")
        for mode in (0o400, 0o644, 0o755):
            name = b"f%o" % mode
            made.put(name, b"x")
            made.chmod(name, mode)
        made.refresh()
        for name, attributes in made.source.list(ROOT).entries:
            assert stat.S_IMODE(attributes.mode) == int(name[1:], 8)


class Pages:
    """Listings in parts."""

    @pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
    def test_pages_lose_and_repeat_nothing(self, made: MadeSource, limit: int) -> None:
        names = made_order(made)
        assert listed(made.source, b"order", limit) == names

    def test_a_page_that_is_just_full_is_the_last(self, made: MadeSource) -> None:
        names = made_order(made)
        page = made.source.list(b"order", limit=len(names))
        assert names_of(page) == names
        assert not page.more
        assert made.source.list(b"order", limit=len(names) - 1).more

    def test_after_need_not_be_an_entry(self, made: MadeSource) -> None:
        names = made_order(made)
        for after in (*names, b"!", b"a ", b"a/", b"a!!", b"b", b"b\xff", b"c", b"z", b"\xc3\xbf", b"A"):
            assert names_of(made.source.list(b"order", after)) == [name for name in names if name > after]

    def test_changes_between_pages_touch_no_other_entry(self, made: MadeSource) -> None:
        names = [b"%02d" % number for number in range(20)]
        for name in names:
            made.put(b"d/" + name, b"x")
        made.refresh()
        first = names_of(made.source.list(b"d", limit=10))
        assert first == names[:10]
        made.remove(b"d/09")
        made.remove(b"d/12")
        made.put(b"d/085", b"x")
        made.put(b"d/15", b"replaced")
        made.refresh()
        rest = listed(made.source, b"d", 4, first[-1])
        assert rest == [name for name in names[10:] if name != b"12"]
