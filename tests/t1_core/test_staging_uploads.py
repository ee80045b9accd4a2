"""Uploads: in which order, what failures hold up, conflicts, waiting for all of it, and for room."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from support.source_fakes import Caller, Held
from support.staging_kit import Area, On, at_once, nothing, open_fds
from support.waiting import until
from swmld.staging.views import Figures

pytestmark = pytest.mark.usefixtures("no_waiting_for_disks")


# ---- order


def test_first_closed_first_uploaded(back: Area) -> None:
    files = {name: back.create(name, name) for name in (b"c", b"a", b"b")}
    for name in (b"b", b"c", b"a"):
        back.close_file(files[name])
    back.rewrite(b"b", b"again")
    assert back.drained() == []
    assert back.source.written() == [b"b", b"c", b"a"]
    assert back.at_source(b"b") == b"again"


def test_a_refused_file_lets_others_pass(back: Area) -> None:
    for name in (b"a", b"b", b"c"):
        back.put(name, name)
    back.source.meets = On("write", errno.EACCES, b"b")
    assert [file.path for file in back.drained()] == [b"b"]
    assert back.tree() == {b"a": b"a", b"c": b"c"}
    assert back.items() == {b"b": "failing"}
    assert back.source.count("write") == 3
    back.source.meets = nothing
    assert back.drained() == []
    assert back.at_source(b"b") == b"b"


def test_a_failing_source_holds_the_line(back: Area) -> None:
    for name in (b"a", b"b"):
        back.put(name, name)
    back.source.meets = On("write", errno.EIO)
    assert [file.path for file in back.drained()] == [b"a", b"b"]
    assert back.source.written() == [b"a"]
    assert back.items() == {b"a": "failing", b"b": "waiting"}
    assert back.staging.figures == Figures(files=2, waiting_bytes=2, failing=1, aside=0)
    back.source.meets = nothing
    assert back.drained() == []
    assert back.source.written() == [b"a", b"a", b"b"]
    counters = back.staging.uploads.counters
    assert (counters.uploads, counters.uploaded_bytes, counters.failures) == (2, 2, 1)
    assert back.staging.figures == Figures(0, 0, 0, 0)


def test_a_failed_upload_is_tried_again_when_it_is_due(back: Area) -> None:
    back.put(b"a", b"a")
    back.source.meets = On("write", errno.EIO, times=2)
    with back.uploading():
        for tries in (1, 2):
            until(lambda tries=tries: back.staging.uploads.counters.failures == tries)  # type: ignore[misc]
            (file,) = back.staging.uploads.waiting
            assert file.due > 0
            at_once(back.staging)
        until(lambda: back.items() == {})
    assert back.at_source(b"a") == b"a"


def test_a_bug_of_a_source_keeps_the_file(back: Area) -> None:
    def breaks(kind: str, path: bytes) -> None:
        if path == b"a":
            raise ZeroDivisionError("a bug")

    back.source.meets = breaks
    back.put(b"a", b"a")
    back.put(b"b", b"b")
    assert [file.path for file in back.drained()] == [b"a"]
    assert back.item(b"a").why == "a bug"
    assert back.tree() == {b"b": b"b"}


# ---- what a token stands for


def lost_answer(area: Area, path: bytes) -> On:
    """The next upload is made, and its answer lost."""
    area.source.answers = lost = On("write", errno.EIO, path, times=1)
    return lost


def test_an_upload_whose_answer_was_lost_is_known_again(back: Area) -> None:
    back.put(b"f", b"one")
    lost_answer(back, b"f")
    assert len(back.drained()) == 1
    inode = (back.root / "f").stat().st_ino
    assert back.drained() == []
    assert (back.root / "f").stat().st_ino == inode
    assert back.source.count("write") == 2
    assert back.items() == {}


def test_what_was_written_after_a_lost_answer_is_uploaded(back: Area) -> None:
    back.put(b"f", b"one")
    lost_answer(back, b"f")
    assert len(back.drained()) == 1
    back.rewrite(b"f", b"two")
    assert back.drained() == []
    assert back.at_source(b"f") == b"two"
    assert back.items() == {}


def test_what_was_written_after_a_lost_answer_of_close(through: Area) -> None:
    lost_answer(through, b"f")
    file = through.create(b"f", b"one")
    with pytest.raises(OSError, match="error"):
        through.staging.flush(file)
    os.pwrite(file.fd, b"two", 0)
    through.close_file(file)
    assert through.at_source(b"f") == b"two"


def test_a_try_that_failed_before_anything_was_made(back: Area) -> None:
    back.put(b"f", b"one")
    back.source.meets = On("write", errno.EIO, times=1)
    assert len(back.drained()) == 1
    back.rewrite(b"f", b"two")
    assert back.drained() == []
    assert back.at_source(b"f") == b"two"


# ---- conflicts


def test_a_conflict_is_put_aside(through: Area) -> None:
    (through.root / "f").write_bytes(b"first")
    file = through.open(b"f")
    os.pwrite(file.fd, b"OURS!", 0)
    (through.root / "f").write_bytes(b"theirs")
    before = open_fds()
    with pytest.raises(OSError, match="another generation"):
        through.staging.flush(file)
    with pytest.raises(OSError, match="put aside"):
        through.staging.sync(file)
    attributes = through.staging.attributes_of(file)
    assert attributes is not None
    assert attributes.nlink == 0
    through.staging.closed(file)
    assert open_fds() == before - 1
    assert through.at_source(b"f") == b"theirs"
    assert through.items() == {b"f": "aside"}
    assert through.item(b"f").file.read_bytes() == b"OURS!"
    assert through.staging.attributes(b"f") is None
    counters = through.staging.uploads.counters
    assert (counters.conflicts, counters.failures) == (1, 0)
    through.rewrite(b"f", b"after")
    assert through.at_source(b"f") == b"after"
    assert through.staging.drop(through.item(b"f").number) is True
    assert through.staging.drop(99) is False
    assert through.items() == {}
    assert through.files_left() == []


def test_a_conflict_in_the_background_is_put_aside(back: Area) -> None:
    before = open_fds()
    back.put(b"f", b"ours")
    (back.root / "f").write_bytes(b"theirs")
    back.put(b"g", b"next")
    assert back.drained() == []
    assert back.tree() == {b"f": b"theirs", b"g": b"next"}
    assert back.items() == {b"f": "aside"}
    assert back.item(b"f").file.read_bytes() == b"ours"
    assert open_fds() == before
    assert back.staging.figures.aside == 1


def test_close_tells_of_a_conflict_before(back: Area) -> None:
    file = back.create(b"f", b"ours")
    back.staging.sync(file)
    (back.root / "f").write_bytes(b"theirs")
    assert back.drained() == []
    for call in (back.staging.flush, back.staging.sync):
        with pytest.raises(OSError, match=r"Stale|aside"):
            call(file)
    back.staging.closed(file)
    assert back.at_source(b"f") == b"theirs"


def test_a_file_that_is_gone_at_the_source_is_a_conflict(back: Area) -> None:
    (back.root / "f").write_bytes(b"first")
    file = back.open(b"f")
    os.pwrite(file.fd, b"OURS!", 0)
    (back.root / "f").unlink()
    back.close_file(file)
    assert back.drained() == []
    assert back.items() == {b"f": "aside"}
    assert back.at_source(b"f") is None


# ---- waiting for it


def test_flush_waits_for_what_is_below_the_path(back: Area) -> None:
    for directory in ("d", "e"):
        (back.root / directory).mkdir()
    for path in (b"d/1", b"d/2", b"e/1", b"dd"):
        back.put(path, path)
    held = Held("write")
    back.source.meets = lambda kind, path: held(kind, path) if path == b"e/1" else None
    with back.uploading():
        assert back.staging.uploads.flush(b"d", 30.0) == []
        assert back.at_source(b"d/2") == b"d/2"
        until(lambda: held.inside == 1)
        step = back.staging.begin_flush(b"e/1")
        assert step.wait(0.0) is False
        assert [file.path for file in step.left] == [b"e/1"]
        assert [file.path for file in back.staging.uploads.flush(b"", 0.0)] == [b"e/1", b"dd"]
        held.let_go()
        assert step.wait(30.0) is True
        assert step.left == []
        assert back.staging.uploads.flush(b"", 30.0) == []


def test_flush_of_nothing_ends(back: Area) -> None:
    assert back.staging.uploads.flush(b"", 0.0) == []
    assert back.staging.begin_flush(b"none").wait(0.0) is True


def test_flush_tells_what_waits_behind_a_failing_file(back: Area) -> None:
    """Which is not below the path, and holds the line all the same."""
    (back.root / "d").mkdir()
    back.put(b"first", b"x")
    back.put(b"d/f", b"y")
    back.source.meets = On("write", errno.ETIMEDOUT, b"first")
    with back.uploading():
        left = back.staging.uploads.flush(b"d", 30.0)
    assert [(file.path, file.error) for file in left] == [(b"d/f", "")]


def test_flush_tries_at_once_what_failed_before(back: Area) -> None:
    back.put(b"f", b"x")
    back.source.meets = On("write", errno.EACCES, times=2)
    for tries in (1, 2):
        assert [file.failures for file in back.drained()] == [tries]
    assert back.drained() == []


def test_flush_ends_with_the_uploads(back: Area) -> None:
    back.put(b"f", b"x")
    waiting = Caller(lambda: len(back.staging.uploads.flush(b"", 1e9)))
    until(lambda: threading.active_count() > 1)
    back.staging.uploads.stop()
    assert waiting.result() == 1


# ---- room


def test_who_opens_the_next_file_waits_for_room(tmp_path: Path) -> None:
    area = Area(tmp_path, back=True, limit=100)
    area.put(b"a", bytes(60))
    area.put(b"b", bytes(60))
    waiting = [Caller(lambda: area.create(b"c")), Caller(lambda: area.open(b"a"))]
    area.source.meets = held = Held("write")
    with area.uploading():
        until(lambda: held.inside == 1)
        assert all(each.is_alive() for each in waiting)
        assert area.items().keys() == {b"a", b"b"}
        held.let_go()
        for each in waiting:
            area.close_file(each.result())  # type: ignore[arg-type]
        area.staging.uploads.flush(b"", 30.0)
    assert area.items() == {}
    area.close()


def test_room_counts_what_a_file_has_grown_to(tmp_path: Path) -> None:
    area = Area(tmp_path, back=True, limit=100)
    area.put(b"a", bytes(60))
    file = area.open(b"a")
    os.pwrite(file.fd, bytes(200), 0)
    area.close_file(file)
    assert area.staging.figures.waiting_bytes == 200
    area.staging.remove(b"a")
    assert area.staging.figures.waiting_bytes == 0
    area.close_file(area.create(b"b"))
    area.close()


def test_no_room_behind_what_is_refused(tmp_path: Path) -> None:
    area = Area(tmp_path, back=True, limit=100)
    area.put(b"a", bytes(101))
    area.source.meets = On("write", errno.EROFS)
    waiting = Caller(lambda: area.create(b"b"))
    with area.uploading():
        assert waiting.code() == errno.ENOSPC
    area.source.meets = nothing
    area.staging.remove(b"a")
    area.close_file(area.create(b"b"))
    area.close()


# ---- the end


def test_the_end_leaves_what_is_being_uploaded_its_bytes(back: Area) -> None:
    """A descriptor that is closed under an upload is soon another file's."""
    before = open_fds()
    back.put(b"f", b"one")
    back.put(b"g", b"two")
    back.source.meets = held = Held("write")
    thread = threading.Thread(target=back.staging.uploads.run, daemon=True)
    thread.start()
    until(lambda: held.inside == 1)
    back.staging.close()
    assert open_fds() <= before + 1
    with open("/dev/zero", "rb"):
        held.let_go()
        thread.join(30.0)
    assert back.at_source(b"f") == b"one"
    back.killed()
    assert back.drained() == []
    assert back.tree() == {b"f": b"one", b"g": b"two"}
    assert back.items() == {}


def test_nothing_is_safe_after_the_end(back: Area) -> None:
    file = back.create(b"f", b"one")
    back.staging._journal.close()
    with pytest.raises(OSError, match="closed"):
        back.staging.sync(file)
    with pytest.raises(OSError, match="closed"):
        back.create(b"g")
