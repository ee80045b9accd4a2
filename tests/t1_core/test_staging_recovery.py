"""What becomes of staged files when the daemon is killed, or the machine loses its power."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.staging_kit import Area, On, nothing, open_fds
from swmld.sources.interface import Attributes
from swmld.staging.journal import Journal, Moved, Row, boot_id
from swmld.staging.recovery import LOST, UNFINISHED

pytestmark = pytest.mark.usefixtures("no_waiting_for_disks")


def power_cut(area: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that was written is there still: what is not known is whether it would be."""
    boot = area.root.parent / "boot"
    boot.write_text(f"another one than {boot_id()}\n")
    monkeypatch.setattr("swmld.staging.journal.BOOT_ID", boot)
    area.killed()


# ---- kill -9


def test_what_was_closed_is_uploaded(back: Area) -> None:
    before = open_fds()
    (back.root / "old").write_bytes(b"old")
    back.put(b"b", b"two")
    back.put(b"a", b"one")
    back.rewrite(b"old", b"new")
    back.killed()
    assert back.items() == {b"b": "waiting", b"a": "waiting", b"old": "waiting"}
    assert back.drained() == []
    assert back.source.written() == [b"b", b"a", b"old"]
    assert back.tree() == {b"a": b"one", b"b": b"two", b"old": b"new"}
    assert back.files_left() == []
    assert open_fds() == before + 3  # those of the one that was killed


def test_what_failed_is_tried_again(area: Area) -> None:
    area.source.meets = On("write", errno.EIO)
    file = area.create(b"f", b"one")
    if area.back:
        area.close_file(file)
    else:
        with pytest.raises(OSError, match="error"):
            area.close_file(file)
    area.killed()
    area.source.meets = nothing
    assert area.drained() == []
    assert area.at_source(b"f") == b"one"


def test_an_upload_whose_answer_was_lost_is_not_made_twice(back: Area) -> None:
    back.put(b"f", b"one")
    back.source.answers = On("write", errno.EIO, times=1)
    assert len(back.drained()) == 1
    inode = (back.root / "f").stat().st_ino
    back.killed()
    assert back.drained() == []
    assert (back.root / "f").stat().st_ino == inode
    assert back.source.count("write") == 2
    assert back.files_left() == []


def test_what_was_closed_after_a_lost_answer_is_uploaded(back: Area) -> None:
    back.put(b"f", b"one")
    back.source.answers = On("write", errno.EIO, times=1)
    assert len(back.drained()) == 1
    back.rewrite(b"f", b"two")
    back.killed()
    assert back.drained() == []
    assert back.at_source(b"f") == b"two"


def test_what_was_closed_during_its_upload_is_uploaded(back: Area) -> None:
    file = back.create(b"f", b"one")

    def write(kind: str, path: bytes) -> None:
        if kind == "write" and os.pread(file.fd, 3, 0) == b"one":
            os.pwrite(file.fd, b"two", 0)
            back.staging.flush(file)

    back.source.answers = write
    back.staging.flush(file)
    back.staging.uploads.upload(file)
    back.source.answers = nothing
    back.killed()
    assert back.items() == {b"f": "waiting"}
    assert back.drained() == []
    assert back.at_source(b"f") == b"two"


def test_what_was_neither_closed_nor_synced_is_put_aside(area: Area) -> None:
    (area.root / "old").write_bytes(b"old")
    area.create(b"new", b"half of")
    file = area.open(b"old")
    os.pwrite(file.fd, b"X", 0)
    area.killed()
    assert area.items() == {b"new": "aside", b"old": "aside"}
    assert area.item(b"new").why == UNFINISHED
    assert area.item(b"old").file.read_bytes() == b"Xld"
    assert area.drained() == []
    assert area.tree() == {b"old": b"old"}
    area.killed()
    assert area.items() == {b"new": "aside", b"old": "aside"}
    for item in area.staging.listing():
        assert area.staging.drop(item.number)
    area.killed()
    assert area.items() == {}
    assert area.files_left() == []


def test_what_was_written_after_an_upload_is_put_aside(back: Area) -> None:
    file = back.create(b"f", b"one")
    back.staging.sync(file)
    assert back.drained() == []
    os.pwrite(file.fd, b"two", 0)
    back.killed()
    assert back.items() == {b"f": "aside"}
    assert back.at_source(b"f") == b"one"


def test_what_was_not_changed_is_dropped(area: Area) -> None:
    (area.root / "f").write_bytes(b"theirs")
    area.open(b"f")
    area.killed()
    assert area.items() == {}
    assert area.files_left() == []


def test_what_was_being_fetched_is_dropped(area: Area) -> None:
    (area.root / "f").write_bytes(b"theirs")

    def killed(kind: str, path: bytes) -> None:
        if kind == "open":
            area.source.meets = nothing
            area.killed()

    area.source.meets = killed
    area.open(b"f")
    assert area.items() == {}


def test_what_was_removed_while_it_was_open_does_not_come_back(back: Area) -> None:
    back.create(b"f", b"one")
    file = back.open(b"f")
    back.staging.flush(file)
    back.staging.remove(b"f")
    assert os.pread(file.fd, 3, 0) == b"one"
    back.killed()
    assert back.items() == {}
    assert back.drained() == []
    assert back.tree() == {}
    assert back.files_left() == []


def test_what_was_renamed_over_does_not_come_back(back: Area) -> None:
    back.put(b"f", b"over")
    back.put(b"new", b"one")
    back.staging.rename(b"new", b"f")
    back.killed()
    assert back.items() == {b"f": "waiting"}
    assert back.drained() == []
    assert back.tree() == {b"f": b"one"}


def test_order_and_turns_go_on(back: Area) -> None:
    for name in (b"c", b"a", b"b"):
        back.put(name, name)
    back.killed()
    back.put(b"0", b"0")
    back.killed()
    assert back.drained() == []
    assert back.source.written() == [b"c", b"a", b"b", b"0"]


def test_a_row_whose_file_is_gone(back: Area) -> None:
    back.put(b"f", b"one")
    back.item(b"f").file.unlink()
    back.killed()
    assert back.items() == {}


def test_a_file_without_a_row_is_not_in_the_way(back: Area) -> None:
    """As after a power cut: the file came to the disk, its row did not, and its number is given again."""
    number = back.staging._journal.add(b"x", None) + 1
    (back.directory / str(number)).write_bytes(b"orphan")
    (back.directory / "journal.note").write_bytes(b"not ours")
    back.killed()
    back.put(b"f", b"one")
    assert back.drained() == []
    assert back.at_source(b"f") == b"one"
    assert back.files_left() == []


# ---- power cuts


def test_what_was_closed_and_not_synced_is_put_aside(area: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    area.source.meets = On("write", errno.EIO)
    file = area.create(b"f", b"one")
    if area.back:
        area.close_file(file)
    else:
        with pytest.raises(OSError, match="error"):
            area.close_file(file)
    area.source.meets = nothing
    power_cut(area, monkeypatch)
    assert area.items() == {b"f": "aside"}
    assert area.item(b"f").why == LOST


def test_what_was_synced_is_uploaded(back: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    file = back.create(b"f", b"one")
    back.staging.sync(file)
    power_cut(back, monkeypatch)
    assert back.drained() == []
    assert back.at_source(b"f") == b"one"
    assert back.source.count("write") == 1


def test_a_sync_vouches_for_nothing_after_the_upload(back: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    file = back.create(b"f", b"one")
    back.staging.sync(file)
    assert back.drained() == []
    os.pwrite(file.fd, b"two", 0)
    back.staging.flush(file)
    power_cut(back, monkeypatch)
    assert back.items() == {b"f": "aside"}
    assert back.at_source(b"f") == b"one"


def test_a_sync_of_what_the_source_has_vouches_for_nothing(
    back: Area, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = back.create(b"f", b"one")
    back.staging.flush(file)
    assert back.drained() == []
    back.staging.sync(file)
    os.pwrite(file.fd, b"two", 0)
    back.staging.flush(file)
    power_cut(back, monkeypatch)
    assert back.items() == {b"f": "aside"}


def test_an_upload_during_a_sync_is_not_taken_for_it(back: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has begun before the bytes that are synced were written."""
    file = back.create(b"f", b"one")
    back.staging.flush(file)

    def uploaded(fd: int) -> None:
        monkeypatch.setattr(os, "fsync", lambda fd: None)
        assert back.drained() == []
        os.pwrite(file.fd, b"two", 0)

    monkeypatch.setattr(os, "fsync", uploaded)
    back.staging.sync(file)
    power_cut(back, monkeypatch)
    assert back.items() == {b"f": "waiting"}
    assert back.drained() == []
    assert back.at_source(b"f") == b"two"


def test_an_upload_before_a_sync_is_noted(back: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    file = back.create(b"f", b"one")
    back.staging.flush(file)
    noted = back.staging._journal.synced

    def uploaded(number: int, made: int, token: str, sent: str) -> None:
        monkeypatch.setattr(back.staging._journal, "synced", noted)
        assert back.drained() == []
        os.pwrite(file.fd, b"two", 0)
        noted(number, made, token, sent)

    monkeypatch.setattr(back.staging._journal, "synced", uploaded)
    back.staging.sync(file)
    power_cut(back, monkeypatch)
    assert back.drained() == []
    assert back.at_source(b"f") == b"two"
    assert back.items() == {}


def test_an_upload_that_the_journal_has_forgotten(back: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is synced is sure to be there after a power cut: not that an upload began or ended."""
    file = back.create(b"f", b"one")
    back.staging.sync(file)
    for forgotten in ("uploading", "same", "remove"):
        monkeypatch.setattr(back.staging._journal, forgotten, lambda *arguments: None)
    assert back.drained() == []
    inode = (back.root / "f").stat().st_ino
    power_cut(back, monkeypatch)
    assert back.items() == {b"f": "waiting"}
    assert back.drained() == []
    assert back.items() == {}
    assert (back.root / "f").stat().st_ino == inode


def test_what_goes_on_after_a_power_cut(back: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is uploaded in this boot and then closed is the kernel's again."""
    file = back.create(b"f", b"one")
    back.staging.sync(file)
    power_cut(back, monkeypatch)
    file = back.open(b"f")
    assert back.drained() == []
    os.pwrite(file.fd, b"two", 0)
    back.staging.flush(file)
    back.killed()
    assert back.drained() == []
    assert back.at_source(b"f") == b"two"


# ---- the journal


def test_rows_are_what_was_said(tmp_path: Path) -> None:
    base = Attributes(
        stat.S_IFREG | 0o644, 3, 4, 5, 6, 7, 8, ino=1 << 60, tag=b"\xff\0", stem=b"s", link=b"l"
    )
    journal = Journal(tmp_path / "journal")
    first, second, third = (
        journal.add(b"p\xff", None),
        journal.add(b"q", base),
        journal.add(b"r", None, "x"),
    )
    journal.queue(second, 1)
    journal.uploading(second, "token", "1,2,3")
    journal.synced(second, 0, "token", "1,2,3")
    journal.put_aside(third, "why")
    journal.move([Moved(first, b"s", base)])
    journal.durable()
    journal.close()
    journal.queue(first, 9)
    journal = Journal(tmp_path / "journal")
    boot = boot_id()
    assert journal.rows() == [
        Row(first, b"s", base, boot=boot),
        Row(third, b"r", None, aside="why", boot=boot, stamp="x"),
        Row(second, b"q", base, 1, 0, True, "token", "1,2,3", boot),
    ]
    journal.same(second, base, "4,5,6", 2, 1)
    journal.move([Moved(first, b"t", None)], third)
    assert journal.rows() == [
        Row(first, b"t", None, boot=boot),
        Row(second, b"q", base, 2, 1, False, "", "", boot, stamp="4,5,6"),
    ]
    journal.remove(first)
    assert journal.add(b"new", None) > third
    journal.close()


def test_moves_are_made_together_or_not_at_all(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    first, second = journal.add(b"a", None), journal.add(b"b", None)

    def rows() -> Iterator[Moved]:
        yield Moved(first, b"c", None)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        journal.move(rows(), second)
    assert [row.path for row in journal.rows()] == [b"a", b"b"]
    journal.close()
