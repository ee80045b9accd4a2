"""Files that are renamed, removed or given other attributes while they are staged."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest
from support.source_fakes import Caller, Held
from support.staging_kit import Area, On, nothing, open_fds
from support.waiting import until
from swmld.sources.interface import Feature, NewAttributes
from swmld.staging.files import StagedFile

pytestmark = pytest.mark.usefixtures("no_waiting_for_disks")


def code(call: Callable[[], object]) -> int | None:
    try:
        call()
    except OSError as error:
        return error.errno
    return None


# ---- rename


def test_a_file_that_is_not_staged(area: Area) -> None:
    (area.root / "f").write_bytes(b"one")
    area.staging.rename(b"f", b"g")
    assert area.tree() == {b"g": b"one"}
    assert code(lambda: area.staging.rename(b"f", b"g")) == errno.ENOENT


def test_a_new_file_is_uploaded_under_its_last_name(back: Area) -> None:
    back.put(b"f.tmp", b"one")
    back.staging.rename(b"f.tmp", b"f")
    assert back.source.count("rename") == 0
    assert back.drained() == []
    assert back.source.written() == [b"f"]
    assert back.tree() == {b"f": b"one"}


def test_a_new_file_that_is_open(area: Area) -> None:
    file = area.create(b"f.tmp", b"one")
    area.staging.rename(b"f.tmp", b"f")
    assert area.staging.children(b"")[0][0] == b"f"
    area.close_file(file)
    assert area.drained() == []
    assert area.tree() == {b"f": b"one"}


def test_a_known_file_is_renamed_at_the_source(area: Area) -> None:
    (area.root / "f").write_bytes(b"one")
    file = area.open(b"f")
    os.pwrite(file.fd, b"two", 0)
    area.staging.rename(b"f", b"g")
    assert area.tree() == {b"g": b"one"}
    area.close_file(file)
    assert area.drained() == []
    assert area.tree() == {b"g": b"two"}
    assert area.items() == {}


def test_over_what_the_source_has(area: Area) -> None:
    (area.root / "f").write_bytes(b"old")
    file = area.create(b"f.tmp", b"new")
    area.staging.rename(b"f.tmp", b"f")
    area.close_file(file)
    assert area.drained() == []
    assert area.tree() == {b"f": b"new"}


def test_over_a_staged_file(back: Area) -> None:
    before = open_fds()
    back.put(b"f", b"old")
    back.put(b"f.tmp", b"new")
    back.staging.rename(b"f.tmp", b"f")
    assert back.items() == {b"f": "waiting"}
    assert back.drained() == []
    assert back.source.written() == [b"f"]
    assert back.tree() == {b"f": b"new"}
    assert open_fds() == before


def test_over_a_file_that_is_open(area: Area) -> None:
    (area.root / "f").write_bytes(b"old")
    over = area.open(b"f")
    os.pwrite(over.fd, b"OLD", 0)
    file = area.create(b"f.tmp", b"new")
    area.staging.rename(b"f.tmp", b"f")
    attributes = area.staging.attributes_of(over)
    assert attributes is not None
    assert attributes.nlink == 0
    area.close_file(over)
    area.close_file(file)
    assert area.drained() == []
    assert area.tree() == {b"f": b"new"}
    assert area.items() == {}


def test_over_a_file_whose_upload_may_have_been_made(back: Area) -> None:
    back.put(b"f", b"old")
    back.source.answers = On("write", errno.EIO, times=1)
    assert len(back.drained()) == 1
    back.put(b"f.tmp", b"new")
    back.staging.rename(b"f.tmp", b"f")
    assert back.drained() == []
    assert back.tree() == {b"f": b"new"}
    assert back.items() == {}


def test_an_unstaged_file_over_a_staged_one(area: Area) -> None:
    (area.root / "new").write_bytes(b"new")
    over = area.create(b"f", b"old")
    area.staging.rename(b"new", b"f")
    area.close_file(over)
    assert area.drained() == []
    assert area.tree() == {b"f": b"new"}
    assert area.items() == {}


def test_a_file_whose_upload_may_have_been_made(area: Area) -> None:
    area.source.answers = On("write", errno.EIO, times=1)
    file = area.create(b"f", b"one")
    if area.back:
        area.close_file(file)
        assert len(area.drained()) == 1
    else:
        assert code(lambda: area.close_file(file)) == errno.EIO
    area.staging.rename(b"f", b"g")
    assert area.drained() == []
    assert area.tree() == {b"g": b"one"}
    assert area.items() == {}


def test_a_failing_file(back: Area) -> None:
    back.put(b"f", b"one")
    back.source.meets = On("write", errno.EIO)
    assert len(back.drained()) == 1
    assert code(lambda: back.staging.rename(b"f", b"g")) == errno.EIO
    assert back.items() == {b"f": "failing"}
    back.source.meets = nothing
    back.staging.rename(b"f", b"g")
    assert back.drained() == []
    assert back.tree() == {b"g": b"one"}


def test_a_file_over_itself_or_a_directory(area: Area) -> None:
    (area.root / "d").mkdir()
    file = area.create(b"f", b"one")
    area.staging.rename(b"f", b"f")
    assert code(lambda: area.staging.rename(b"f", b"d")) == errno.EISDIR
    area.close_file(file)
    assert area.drained() == []
    assert area.tree() == {b"f": b"one"}


def test_a_rename_waits_for_the_upload(back: Area) -> None:
    back.put(b"f", b"one")
    back.source.meets = held = Held("write")
    with back.uploading():
        until(lambda: held.inside == 1)
        renamed = Caller(lambda: back.staging.rename(b"f", b"g"))
        until(lambda: back.staging._table.files[b"f"].users == 1)
        assert renamed.is_alive()
        held.let_go()
        renamed.result()
    assert back.tree() == {b"g": b"one"}
    assert back.items() == {}


def test_somebody_elses_file_that_we_rename_is_not_overwritten(area: Area) -> None:
    (area.root / "f").write_bytes(b"one")
    file = area.open(b"f")
    os.pwrite(file.fd, b"OUR", 0)
    (area.root / "f").write_bytes(b"theirs")
    area.staging.rename(b"f", b"g")
    assert code(lambda: area.close_file(file)) == (None if area.back else errno.ESTALE)
    assert area.drained() == []
    assert area.tree() == {b"g": b"theirs"}
    assert area.items() == {b"g": "aside"}


def test_a_rename_of_which_the_source_tells_no_more(area: Area) -> None:
    """It is done, and only what it made cannot be asked for."""
    (area.root / "f").write_bytes(b"one")
    file = area.open(b"f")
    area.source.meets = On("stat", errno.EIO)
    area.staging.rename(b"f", b"g")
    area.source.meets = nothing
    area.close_file(file)
    assert area.tree() == {b"g": b"one"}
    assert area.items() == {}


def test_a_source_that_copies_to_rename(area: Area) -> None:
    """Times and inode are others then; the size is all that can be compared."""
    area.source.features = Feature.WRITE
    (area.root / "f").write_bytes(b"one")
    file = area.open(b"f")
    os.pwrite(file.fd, b"two", 0)

    def copied(kind: str, path: bytes) -> None:
        if kind == "rename":
            (area.root / "g").unlink()
            (area.root / "g").write_bytes(b"one")

    area.source.answers = copied
    area.staging.rename(b"f", b"g")
    area.close_file(file)
    assert area.drained() == []
    assert area.tree() == {b"g": b"two"}


# ---- rename of directories


def test_a_directory_with_what_is_staged_below(area: Area) -> None:
    (area.root / "d" / "e").mkdir(parents=True)
    (area.root / "d" / "known").write_bytes(b"known")
    known = area.open(b"d/known")
    new = area.create(b"d/e/new", b"new")
    area.put(b"d/closed", b"closed")
    area.put(b"dd", b"beside")
    area.staging.rename_directory(b"d", b"x")
    assert {path for path in area.items() if path != b"dd"} == {b"x/known", b"x/e/new"}
    os.pwrite(known.fd, b"K", 0)
    os.pwrite(new.fd, b"N", 0)
    area.close_file(known)
    area.close_file(new)
    assert area.drained() == []
    assert area.tree() == {
        b"x/known": b"Known", b"x/e/new": b"New", b"x/closed": b"closed", b"dd": b"beside",
    }  # fmt: skip
    assert area.items() == {}


def test_a_directory_below_which_something_fails(back: Area) -> None:
    (back.root / "d").mkdir()
    back.put(b"d/f", b"one")
    back.source.meets = On("write", errno.EIO)
    assert code(lambda: back.staging.rename_directory(b"d", b"x")) == errno.EIO
    back.source.meets = nothing
    assert back.drained() == []
    assert back.tree() == {b"d/f": b"one"}


@pytest.mark.parametrize("how", ["create", "open"])
def test_nothing_is_staged_in_a_directory_that_is_being_renamed(back: Area, how: str) -> None:
    (back.root / "d").mkdir()
    (back.root / "d" / "f").write_bytes(b"one")
    back.source.meets = held = Held("rename")
    renamed = Caller(lambda: back.staging.rename_directory(b"d", b"x"))
    until(lambda: held.inside == 1)
    path = b"d/g" if how == "create" else b"d/f"
    made = Caller(lambda: back.create(path) if how == "create" else back.open(path))
    late = Caller(lambda: back.create(b"elsewhere"))
    elsewhere = late.result()
    assert made.is_alive()
    assert b"d/f" not in back.items()
    held.let_go()
    renamed.result()
    if how == "create":
        assert made.code() is None
    else:
        assert made.code() == errno.ENOENT
    assert isinstance(elsewhere, StagedFile)
    back.close_file(elsewhere)


def test_a_directory_to_its_own_name(area: Area) -> None:
    area.staging.rename_directory(b"d", b"d")
    assert area.source.calls == []


# ---- remove


def test_remove_of_what_is_where(area: Area) -> None:
    before = open_fds()
    (area.root / "source").write_bytes(b"x")
    (area.root / "both").write_bytes(b"x")
    both = area.open(b"both")
    new = area.create(b"new", b"x")
    for path in (b"source", b"both", b"new"):
        area.staging.remove(path)
    assert area.items() == {}
    assert area.source.count("remove") == 2
    assert os.pread(both.fd, 1, 0) == b"x"
    os.pwrite(both.fd, b"later", 0)
    area.close_file(both)
    area.close_file(new)
    area.staging.sync(new)
    assert area.drained() == []
    assert area.tree() == {}
    assert (area.files_left(), open_fds()) == ([], before)
    assert code(lambda: area.staging.remove(b"source")) == errno.ENOENT


def test_what_was_removed_can_be_made_again(back: Area) -> None:
    first = back.create(b"f", b"one")
    back.staging.flush(first)
    back.staging.remove(b"f")
    back.put(b"f", b"two")
    back.close_file(first)
    assert back.drained() == []
    assert back.tree() == {b"f": b"two"}


def test_remove_waits_for_the_upload(back: Area) -> None:
    back.put(b"f", b"one")
    back.source.meets = held = Held("write")
    with back.uploading():
        until(lambda: held.inside == 1)
        removed = Caller(lambda: back.staging.remove(b"f"))
        until(lambda: back.staging._table.files[b"f"].users == 1)
        assert removed.is_alive()
        assert back.tree() == {}
        held.let_go()
        removed.result()
    assert back.tree() == {}
    assert back.items() == {}
    assert back.files_left() == []


def test_remove_of_what_may_have_been_uploaded(back: Area) -> None:
    back.put(b"f", b"one")
    back.source.answers = On("write", errno.EIO, times=1)
    assert len(back.drained()) == 1
    assert back.tree() == {b"f": b"one"}
    back.staging.remove(b"f")
    assert back.tree() == {}
    assert back.drained() == []


def test_a_remove_that_fails_keeps_the_file(area: Area) -> None:
    (area.root / "f").write_bytes(b"one")
    file = area.open(b"f")
    os.pwrite(file.fd, b"two", 0)
    area.source.meets = On("remove", errno.EIO, times=1)
    assert code(lambda: area.staging.remove(b"f")) == errno.EIO
    area.close_file(file)
    assert area.drained() == []
    assert area.tree() == {b"f": b"two"}


# ---- attributes


def test_change_of_what_is_not_staged(area: Area) -> None:
    (area.root / "f").write_bytes(b"one")
    area.staging.change(b"f", NewAttributes(mode=0o600))
    assert (area.root / "f").stat().st_mode & 0o777 == 0o600


def test_change_of_what_was_written_goes_with_the_upload(area: Area) -> None:
    file = area.create(b"f", b"one")
    area.staging.change(b"f", NewAttributes(mode=0o600, mtime_ns=1_500_000_000_000_000_001))
    assert area.source.count("change") == 0
    area.close_file(file)
    assert area.drained() == []
    st = (area.root / "f").stat()
    assert (st.st_mode & 0o777, st.st_mtime_ns) == (0o600, 1_500_000_000_000_000_001)


def test_change_of_what_was_only_opened_is_no_upload(area: Area) -> None:
    """As touch(1) does it."""
    (area.root / "f").write_bytes(b"one")
    file = area.open(b"f")
    area.staging.change(b"f", NewAttributes(mtime_ns=1_500_000_000_000_000_001))
    area.staging.change(b"f", NewAttributes(mode=0o600))
    assert not file.dirty
    area.close_file(file)
    assert area.drained() == []
    assert area.source.count("write") == 0
    st = (area.root / "f").stat()
    assert (st.st_mode & 0o777, st.st_mtime_ns) == (0o600, 1_500_000_000_000_000_001)
    file = area.open(b"f")
    os.pwrite(file.fd, b"two", 0)
    area.close_file(file)
    assert area.drained() == []
    assert area.tree() == {b"f": b"two"}


@pytest.mark.parametrize("content", [b"two", b"longer"])
def test_what_is_written_during_a_change_is_uploaded(area: Area, content: bytes) -> None:
    (area.root / "f").write_bytes(b"one")
    file = area.open(b"f")

    def write(kind: str, path: bytes) -> None:
        if kind == "change":
            os.pwrite(file.fd, content, 0)

    area.source.answers = write
    area.staging.change(b"f", NewAttributes(mode=0o600))
    assert file.dirty
    area.close_file(file)
    assert area.drained() == []
    assert area.tree() == {b"f": content}
    assert area.items() == {}


def test_what_is_appended_while_the_time_is_set_is_uploaded(
    area: Area, monkeypatch: pytest.MonkeyPatch
) -> None:
    (area.root / "f").write_bytes(b"one")
    file = area.open(b"f")

    def appended(fd: int, new: NewAttributes) -> None:
        os.pwrite(fd, b"longer", 0)
        os.utime(fd, ns=(1, 1))

    monkeypatch.setattr("swmld.staging.changes.give", appended)
    area.staging.change(b"f", NewAttributes(mtime_ns=1))
    area.close_file(file)
    assert area.drained() == []
    assert area.tree() == {b"f": b"longer"}


def test_a_change_does_not_hide_a_conflict(area: Area) -> None:
    (area.root / "f").write_bytes(b"one")
    file = area.open(b"f")
    (area.root / "f").write_bytes(b"theirs")
    area.staging.change(b"f", NewAttributes(mode=0o600))
    os.pwrite(file.fd, b"OUR", 0)
    assert code(lambda: area.close_file(file)) == (None if area.back else errno.ESTALE)
    assert area.drained() == []
    assert area.tree() == {b"f": b"theirs"}
    assert area.items() == {b"f": "aside"}


def test_a_change_that_fails_changes_nothing(area: Area) -> None:
    (area.root / "f").write_bytes(b"one")
    file = area.open(b"f")
    area.source.meets = On("change", errno.EPERM)
    assert code(lambda: area.staging.change(b"f", NewAttributes(mode=0o600))) == errno.EPERM
    assert not file.dirty
    area.close_file(file)
    assert area.source.count("write") == 0


def test_change_where_the_source_keeps_none(area: Area) -> None:
    area.source.features = Feature.WRITE
    file = area.create(b"f", b"one")
    assert code(lambda: area.staging.change(b"f", NewAttributes(mode=0o600))) == errno.EOPNOTSUPP
    area.close_file(file)
    area.drained()


def test_change_of_what_has_no_name(area: Area) -> None:
    file = area.create(b"f", b"one")
    area.staging.remove(b"f")
    area.staging.change_open(file, NewAttributes(mode=0o600, uid=os.geteuid(), gid=os.getegid()))
    assert os.fstat(file.fd).st_mode & 0o777 == 0o600
    area.close_file(file)
    area.staging.change_open(file, NewAttributes(mode=0o644))
