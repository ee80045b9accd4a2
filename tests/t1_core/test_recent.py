"""What is remembered of a source, for how long, and when it is over."""

from __future__ import annotations

import errno
import json
import queue
import stat
import time

import pytest
from swmld._native import ffi, lib
from swmld.mount.grace import Grace
from swmld.mount.lifetimes import Lifetimes
from swmld.mount.recent import MISSED, TOLD, Known, KnownPage, Listed, Parts, Recent
from swmld.sources.interface import Attributes, Change
from swmld.sources.packed import PackedEntries


def known(ino: int = 1, size: int = 1, nlink: int = 1, asked: int = 1, changes: int = 0) -> Known:
    return Known(Attributes(stat.S_IFREG | 0o644, size, nlink=nlink, ino=ino), asked, changes)


def test_an_answer_from_before_a_change_is_not_kept() -> None:
    recent = Recent()
    recent.put(b"d/a", known())
    recent.forget(Change(b"d/a"))
    assert recent.get(b"d/a") is None
    recent.put(b"d/a", known(changes=0))
    assert recent.get(b"d/a") is None
    recent.put(b"d/a", known(changes=1))
    assert recent.get(b"d/a") is not None
    recent.forget(Change(b"d", tree=True))
    assert recent.get(b"d/a") is None


def test_one_name_of_a_file_speaks_for_all() -> None:
    recent = Recent()
    for name in (b"a", b"b"):
        recent.put(name, known(ino=7, nlink=2))
    assert recent.get(b"a")
    assert recent.get(b"b")
    recent.put(b"a", known(ino=7, nlink=2, size=9, asked=2))
    assert recent.get(b"b") is None
    recent.put(b"b", known(ino=7, nlink=2, size=9, asked=3))
    recent.put(b"other", known(ino=8))
    recent.forget(Change(b"b"))
    assert recent.get(b"a") is None
    assert recent.get(b"other") is not None


def test_only_so_many_are_kept() -> None:
    recent = Recent(most=3)
    for number in range(5):
        recent.put(b"%d" % number, known(ino=7, nlink=5))
    assert [recent.get(b"%d" % number) is not None for number in range(5)] == [False] * 2 + [True] * 3
    recent.forget(Change(b"4"))
    assert recent.get(b"2") is None


def parts(*several: Listed) -> Parts:
    made = Parts()
    for each in several:
        made.add(each)
    return made


TWO = [(b"a", known()), (b"b", known())]


def test_listings_are_of_what_did_not_change_since() -> None:
    recent = Recent(listed=5)
    two = parts(TWO)
    recent.put_listing(b"d", two, 0)
    assert recent.listed(b"d") is recent.still_listed(b"d") is two
    for change in (Change(b"d/a"), Change(b"d"), Change(b"", tree=True)):
        before = recent.changes
        recent.forget(change)
        assert recent.listed(b"d") is recent.still_listed(b"d") is None
        recent.put_listing(b"d", two, before)
        assert recent.listed(b"d") is None, "it is from before the change"
        recent.put_listing(b"d", two, recent.changes)
        recent.forget(Change(b"e/a"))
        recent.forget(Change(b"d/a/deeper"))
        assert recent.listed(b"d") is recent.still_listed(b"d") is two
    recent.put_listing(b"e", parts(TWO), recent.changes)
    recent.put_listing(b"f", parts(TWO[:1]), recent.changes)
    assert recent.listed(b"d") is None, "there is room for three entries and two directories"
    assert recent.listed(b"e")
    assert recent.listed(b"f")


def test_a_listing_tells_what_is_not_there_also_after_changes_of_other_names() -> None:
    recent = Recent(listed=8)
    two = parts(TWO)
    recent.put_listing(b"d", two, 0)
    assert recent.names(b"d") is two
    assert [two.lacks(name) for name in (b"a", b"c")] == [False, True]
    recent.forget(Change(b"d/c"))
    recent.forget(Change(b"d/a", tree=True))
    assert recent.listed(b"d") is recent.still_listed(b"d") is None, "it is not what it was"
    assert recent.names(b"d") is two
    assert [two.lacks(name) for name in (b"a", b"b", b"c", b"e")] == [False, False, False, True]
    recent.put_listing(b"d", two, recent.changes)
    assert recent.still_listed(b"d") is two, "as it was read anew"
    for name in (b"v", b"w", b"x", b"y", b"z"):
        recent.forget(Change(b"d/" + name))
        recent.forget(Change(b"d/" + name))
        assert recent.names(b"d")
    recent.forget(Change(b"d/a"))
    assert recent.names(b"d") is None, "changed names count as entries do"


def test_nothing_is_in_a_directory_that_was_made_just_now() -> None:
    recent = Recent()
    recent.made(b"d", recent.changes, asked=5)
    made = recent.still_listed(b"d")
    assert made is not None
    assert made.lacks(b"a")
    assert made.asked == 5
    assert made.after(b"") == ((), False)
    for change in (Change(b"e/a"), Change(b"e"), Change(b"", tree=True)):
        before = recent.changes
        recent.forget(change)  # of another host, while the source was asked
        recent.made(b"e", before, asked=6)
        assert recent.names(b"e") is None
        recent.made(b"e", recent.changes, asked=7)
        assert recent.names(b"e") is not None


@pytest.mark.parametrize("path", [b"", b"a", b"a/b", b"a/b/c"])
def test_which_changes_an_answer_is_older_than(path: bytes) -> None:
    """Against the plain reading of what each change says."""
    paths = [b"", b"a", b"a/b", b"a/b/c", b"a/b/c/d", b"b", b"ab", b"a/bc"]
    for each in paths:
        for tree in (False, True):
            recent = Recent()
            for _ in range(3):
                recent.forget(Change(b"other/one"))
            recent.forget(Change(each, tree))
            recent.forget(Change(b"other/one"))
            below = tree and (not each or path.startswith(each + b"/"))
            inside = bool(each) and each.rpartition(b"/")[0] == path
            for since in range(6):
                hit = since < 4 and (each == path or below)
                assert recent.unchanged(path, since) is not hit, (each, tree, since)
                still = not hit and not (since < 4 and inside)
                assert (recent.still(path, since) is not None) is still, (each, tree, since)
            for _ in range(TOLD - 2):
                recent.forget(Change(b"other/two"))
            assert recent.unchanged(path, 4), "exactly so many are remembered"
            recent.forget(Change(b"other/two"))
            assert not recent.unchanged(path, 2)


def test_a_listing_is_certain_as_long_as_the_changes_are_remembered() -> None:
    recent, pages = Recent(), [page("ab"), page("cd")]
    recent.put_listing(b"d", parts(*pages), 0)
    for _ in range(3):
        for _ in range(TOLD):
            recent.forget(Change(b"e/a"))
        assert recent.still_listed(b"d"), "it was looked at in time"
        assert [p.changes for p in pages] == [recent.changes] * 2
        assert recent.still(b"d", pages[0].changes) == recent.changes
    for _ in range(TOLD + 1):
        recent.forget(Change(b"e/a"))
    assert recent.listed(b"d")
    assert recent.still_listed(b"d") is None


def test_what_was_not_there_a_moment_ago() -> None:
    recent = Recent()
    recent.miss(b"d/a", 10, 0)
    assert recent.missed(b"d/a", 9)
    assert not recent.missed(b"d/a", 10)
    assert not recent.missed(b"d/b", 0)
    recent.forget(Change(b"d/b"))
    assert recent.missed(b"d/a", 9)
    for change in (Change(b"d/a"), Change(b"d", tree=True)):
        recent.miss(b"d/a", 10, recent.changes)
        recent.forget(change)
        assert not recent.missed(b"d/a", 9)
    recent.miss(b"d/a", 10, recent.changes)
    recent.put(b"d/a", known(asked=11, changes=recent.changes))
    assert not recent.missed(b"d/a", 9)
    for number in range(MISSED + 1):
        recent.miss(b"%d" % number, 10, recent.changes)
    assert not recent.missed(b"0", 9)
    assert recent.missed(b"1", 9)


def test_the_entries_of_a_listing_behind_a_name() -> None:
    listed = parts(TWO, [], page("cdef"))
    assert listed.after(b"") == (TWO, True)
    assert listed.after(b"a") == (TWO[1:], True)
    for name, more in ((b"b", "cdef"), (b"ba", "cdef"), (b"d", "ef"), (b"f", ""), (b"g", "")):
        found, further = listed.after(name)
        assert (b"".join(name for name, _ in found).decode(), further) == (more, False)
    assert isinstance(listed.after(b"b")[0], KnownPage)
    assert parts().after(b"") == ((), False)


def page(names: str, size: int = 1, asked: int = 5, changes: int = 0) -> KnownPage:
    """Files of one letter each, as C reads them."""
    moment = "2026-11-23T07:53:08Z"
    entries = [
        {"FullPath": f"/d/{name}", "Mode": 420, "Uid": 0, "Gid": 0, "FileSize": size, "Mtime": moment}
        | {"Crtime": moment}
        for name in names
    ]
    text = json.dumps({"Entries": entries}).encode()
    listing = lib.sw_listing_parse(text, len(text), b"/d/", len(names), ffi.new("int *"))
    return KnownPage(PackedEntries(listing, bytes), asked, changes)


def size_of(recent: Recent, path: bytes) -> int | None:
    found = recent.get(path)
    return found.attributes.size if found is not None else None


def test_pages_say_what_is_in_them() -> None:
    recent = Recent()
    assert recent.put_page(b"d", page("bcd"))
    assert recent.put_page(b"d", page("fg"))
    assert recent.put_page(b"", page("d", 7))
    assert [size_of(recent, b"d/" + name) for name in (b"b", b"d", b"f", b"g")] == [1] * 4
    assert [size_of(recent, b"d/" + name) for name in (b"a", b"bb", b"e", b"z", b"")] == [None] * 5
    assert size_of(recent, b"d") == 7
    assert recent.get(b"d/b") == Known(page("b")[0][1].attributes, 5, 0)
    assert recent.put_page(b"d", page("cdefg", 2)), "in the place of both"
    assert size_of(recent, b"d/b") is None
    assert size_of(recent, b"d/g") == 2


def test_what_is_newer_than_a_page_counts() -> None:
    recent = Recent(most=1)
    assert recent.put_page(b"d", page("abc"))
    assert recent.put(b"d/a", known(size=9, asked=4)).attributes.size == 1, "the page is newer"
    recent.put(b"d/a", known(size=9, asked=6))
    assert size_of(recent, b"d/a") == 9
    assert not recent.put_page(b"d", page("abc", asked=6)), "perhaps as old as what is known of a"
    recent.put(b"e/x", known(asked=3))
    recent.put(b"f/x", known(asked=3))
    assert size_of(recent, b"d/a") is None, "nor is it what the page said once that is forgotten"
    assert not recent.put_page(b"d", page("abc", asked=6)), "which was not forgotten with it"
    assert recent.put_page(b"d", page("abc", size=3, asked=7))
    assert size_of(recent, b"d/a") == 3
    recent.drop(b"d/b")
    assert [size_of(recent, b"d/" + name) for name in (b"a", b"b", b"c")] == [3, None, 3]


def test_a_change_ends_what_a_page_says() -> None:
    recent = Recent()
    assert recent.put_page(b"d", page("abc"))
    recent.forget(Change(b"d/a"))
    assert [size_of(recent, b"d/" + name) for name in (b"a", b"b")] == [None, 1]
    assert not recent.put_page(b"d", page("abc")), "it is from before the change"
    assert recent.still(b"d", 0) is None
    assert recent.still(b"e", 0) == 1
    assert recent.put_page(b"d", page("abc", changes=1))
    assert recent.put_page(b"d/e", page("x", changes=1))
    recent.forget(Change(b"e", tree=True))
    assert size_of(recent, b"d/a") == 1
    recent.forget(Change(b"d", tree=True))
    assert size_of(recent, b"d/a") is None
    assert size_of(recent, b"d/e/x") is None
    assert recent.put_page(b"d", page("abc", changes=3))
    recent.forget(Change(b"", tree=True))
    assert size_of(recent, b"d/a") is None


def test_only_so_many_entries_of_pages_are_kept() -> None:
    recent = Recent(paged=4)
    for directory in (b"d", b"e", b"f"):
        assert recent.put_page(directory, page("ab"))
    assert [size_of(recent, directory + b"/b") for directory in (b"d", b"e", b"f")] == [None, 1, 1]
    assert recent.put_page(b"f", page("abc"))
    assert [size_of(recent, directory + b"/b") for directory in (b"e", b"f")] == [None, 1]
    assert recent.put_page(b"g", page(""))


def test_a_listing_of_pages() -> None:
    parts = Parts()
    parts.add(page("abc"))
    parts.add([(b"d", known())])
    parts.add(page("e"))
    assert [name for name, _ in parts] == [b"a", b"b", b"c", b"d", b"e"]
    assert len(parts) == 5
    assert parts[3][0] == b"d"
    assert [name for name, _ in parts[1:3]] == [b"b", b"c"]
    for name in (b"a", b"d", b"e"):
        assert parts.find(name) is not None
    assert parts.find(b"x") is None


def test_grace_lasts_from_the_first_failure_on() -> None:
    now = 100.0
    grace = Grace(10.0, lambda: now)

    def fail(code: int) -> None:
        raise OSError(code, "")

    assert grace.lasts
    with pytest.raises(OSError):
        grace.asked(lambda: fail(errno.EHOSTUNREACH))
    now = 109.0
    with pytest.raises(OSError):
        grace.asked(lambda: fail(errno.EIO))
    assert grace.lasts
    now = 110.0
    assert not grace.lasts
    with pytest.raises(OSError):  # that is an answer
        grace.asked(lambda: fail(errno.ENOENT))
    assert grace.lasts
    assert not Grace(0.0).lasts


def test_an_end_is_told_once_and_an_answer_gives_another() -> None:
    told: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    lifetimes = Lifetimes(told.put, most=2)

    def ends(seconds: float) -> Attributes:
        return Attributes(stat.S_IFREG, expires_ns=time.time_ns() + int(seconds * 1e9))

    lifetimes.note(b"stays", Attributes(stat.S_IFREG))
    lifetimes.note(b"later", ends(3600))
    lifetimes.note(b"soon", ends(0.1))
    assert lifetimes.awaits(b"later")
    assert lifetimes.awaits(b"soon")
    assert not lifetimes.awaits(b"stays")
    lifetimes.note(b"too many", ends(3600))
    assert not lifetimes.awaits(b"too many")
    assert told.get(timeout=30) == b"soon"
    assert lifetimes.over(b"soon")
    assert not lifetimes.over(b"later")
    lifetimes.note(b"soon", ends(3600))
    assert not lifetimes.over(b"soon")
    assert told.empty()
