"""Files that are opened to be written: what they begin with, when the source has them, what counts as a
change."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from pathlib import Path

import pytest
from support.source_fakes import Caller, Held
from support.staging_kit import Area, On, nothing, open_fds
from support.waiting import until
from swmld.sources.interface import Attributes, Feature
from swmld.staging.files import StagedFile, fine_stamps

pytestmark = pytest.mark.usefixtures("no_waiting_for_disks")


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time stamps of a kernel whose clock for files stands still."""
    monkeypatch.setattr("swmld.staging.area.fine_stamps", lambda directory: False)


# ---- when the source has it


def test_through_has_it_when_close_returns(through: Area) -> None:
    file = through.create(b"f", b"one")
    assert through.items() == {b"f": "open"}
    assert through.at_source(b"f") is None
    through.staging.flush(file)
    assert through.at_source(b"f") == b"one"
    assert through.told == [b"f"]
    through.staging.closed(file)
    assert through.items() == {}
    assert through.files_left() == []
    assert through.source.count("write") == 1


def test_back_has_it_later(back: Area) -> None:
    back.put(b"f", b"one")
    assert back.at_source(b"f") is None
    assert back.items() == {b"f": "waiting"}
    assert back.item(b"f").file.read_bytes() == b"one"
    attributes = back.staging.attributes(b"f")
    assert attributes is not None
    assert attributes.size == 3
    assert back.drained() == []
    assert back.at_source(b"f") == b"one"
    assert back.items() == {}
    assert back.files_left() == []


def test_sync_of_through_is_an_upload(through: Area) -> None:
    file = through.create(b"f", b"one")
    through.staging.sync(file)
    assert through.at_source(b"f") == b"one"
    through.close_file(file)
    assert through.source.count("write") == 1
    through.staging.sync_path(b"f")
    through.staging.sync_path(b"none")
    assert through.source.count("write") == 1


def test_sync_of_back_gives_it_its_turn(back: Area) -> None:
    file = back.create(b"f", b"one")
    assert back.staging.uploads.waiting == []
    back.staging.sync_path(b"f")
    assert back.staging.uploads.waiting == [file]
    back.staging.sync_names()
    back.close_file(file)
    assert back.drained() == []
    assert back.source.written() == [b"f"]


def test_an_error_is_told_by_close_and_kept(through: Area) -> None:
    through.source.meets = On("write", errno.EIO)
    file = through.create(b"f", b"one")
    with pytest.raises(OSError, match="Input/output error"):
        through.close_file(file)
    assert through.items() == {b"f": "failing"}
    assert through.item(b"f").why == os.strerror(errno.EIO)
    assert through.staging.uploads.counters.failures == 1
    reader = through.staging.reader(b"f")
    assert reader is not None
    assert os.pread(reader, 10, 0) == b"one"
    os.close(reader)
    through.source.meets = nothing
    assert through.drained() == []
    assert through.at_source(b"f") == b"one"
    assert through.items() == {}


def test_what_failed_is_tried_again_though_somebody_has_it_open(through: Area) -> None:
    through.source.meets = On("write", errno.EIO, times=1)
    file = through.create(b"f", b"one")
    with pytest.raises(OSError, match="error"):
        through.staging.flush(file)
    assert through.drained() == []
    assert through.at_source(b"f") == b"one"
    through.close_file(file)


def test_a_file_is_closed_with_the_last_that_has_it_open(area: Area) -> None:
    before = open_fds()
    first = area.create(b"f", b"one")
    second = area.open(b"f")
    assert second is first
    assert area.staging.children(b"") == [(b"f", area.staging.attributes(b"f"))]
    area.close_file(first)
    assert area.staging.attributes(b"f") is not None
    os.pwrite(second.fd, b"two", 3)
    area.close_file(second)
    assert area.drained() == []
    assert area.at_source(b"f") == b"onetwo"
    assert open_fds() == before


def test_what_was_not_changed_is_not_uploaded(area: Area) -> None:
    (area.root / "f").write_bytes(b"theirs")
    area.close_file(area.open(b"f"))
    assert area.drained() == []
    assert area.source.count("write") == 0
    assert area.items() == {}
    assert area.files_left() == []


def test_an_empty_file_is_made(area: Area) -> None:
    area.put(b"d-less", b"")
    assert area.drained() == []
    assert area.at_source(b"d-less") == b""


# ---- what it begins with


def test_open_has_the_bytes_and_attributes(area: Area) -> None:
    content = os.urandom(3000)
    (area.root / "f").write_bytes(content)
    os.utime(area.root / "f", ns=(1, 1_600_000_000_123_456_789))
    (area.root / "f").chmod(0o640)
    file = area.open(b"f")
    assert os.pread(file.fd, 5000, 0) == content
    attributes = area.staging.attributes(b"f")
    assert attributes is not None
    assert (attributes.mode & 0o777, attributes.mtime_ns) == (0o640, 1_600_000_000_123_456_789)
    assert attributes.ino == (area.root / "f").stat().st_ino
    os.pwrite(file.fd, b"!", 0)
    area.close_file(file)
    assert area.drained() == []
    assert area.at_source(b"f") == b"!" + content[1:]


def test_a_file_of_several_pieces(area: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swmld.staging.disk.PIECE", 1000)
    content = os.urandom(2500)
    (area.root / "f").write_bytes(content)
    file = area.open(b"f")
    assert os.pread(file.fd, 5000, 0) == content
    area.close_file(file)


def test_open_to_truncate_reads_nothing(area: Area) -> None:
    (area.root / "f").write_bytes(b"theirs")
    file = area.open(b"f", truncate=True)
    assert area.source.count("open") == 0
    area.close_file(file)
    assert area.drained() == []
    assert area.at_source(b"f") == b""


def test_what_is_not_there_cannot_be_opened(area: Area) -> None:
    with pytest.raises(FileNotFoundError):
        area.open(b"none")
    assert area.files_left() == []


def test_a_broken_begin_is_told_to_all_and_leaves_nothing(area: Area) -> None:
    (area.root / "f").write_bytes(b"theirs")
    held = Held("open")

    def meets(kind: str, path: bytes) -> None:
        held(kind, path)
        On("open", errno.EIO)(kind, path)

    area.source.meets = meets
    before = open_fds()
    first = Caller(lambda: area.open(b"f"))
    until(lambda: held.inside == 1)
    second = Caller(lambda: area.open(b"f"))
    until(lambda: area.staging._table.files[b"f"].users == 2)
    held.let_go()
    assert (first.code(), second.code()) == (errno.EIO, errno.EIO)
    assert area.items() == {}
    assert area.files_left() == []
    assert open_fds() == before
    area.source.meets = nothing
    area.close_file(area.open(b"f"))


def test_another_opener_waits_for_the_begin(area: Area) -> None:
    (area.root / "f").write_bytes(b"theirs")
    area.source.meets = held = Held("open")
    first = Caller(lambda: area.open(b"f"))
    until(lambda: held.inside == 1)
    second = Caller(lambda: os.pread(area.open(b"f").fd, 10, 0))
    until(lambda: area.staging._table.files[b"f"].users == 2)
    assert second.is_alive()
    held.let_go()
    assert second.result() == b"theirs"
    file = first.result()
    assert isinstance(file, StagedFile)
    assert area.source.count("open") == 1
    area.close_file(file)
    area.close_file(file)


def test_a_file_can_be_opened_while_it_is_uploaded(back: Area) -> None:
    back.put(b"f", b"one")
    back.source.meets = held = Held("write")
    with back.uploading():
        until(lambda: held.inside == 1)
        assert back.items() == {b"f": "uploading"}
        file = Caller(lambda: back.open(b"f")).result()
        assert isinstance(file, StagedFile)
        os.pwrite(file.fd, b"two", 3)
        back.close_file(file)
        held.let_go()
        assert back.staging.uploads.flush(b"", 30.0) == []
    assert back.at_source(b"f") == b"onetwo"
    assert back.items() == {}


def test_the_source_loses_what_it_begins_with(area: Area) -> None:
    (area.root / "f").write_bytes(b"theirs")
    found = area.source.stat(b"f")
    (area.root / "f").write_bytes(b"other")
    with pytest.raises(OSError) as caught:
        area.staging.open(b"f", lambda: found, False)
    assert caught.value.errno == errno.ESTALE
    assert area.items() == {}


def test_a_file_that_cannot_be_made_leaves_nothing(area: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(fd: int, mode: int) -> None:
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(os, "fchmod", fails)
    before = open_fds()
    with pytest.raises(OSError, match="broken disk"):
        area.create(b"f")
    assert (area.files_left(), area.items(), open_fds()) == ([], {}, before)
    area.killed()
    assert area.items() == {}


# ---- O_EXCL


def test_what_is_staged_is_not_made_again(area: Area) -> None:
    file = area.create(b"f")
    with pytest.raises(FileExistsError):
        area.create(b"f")
    area.close_file(file)


def test_a_claim_is_made_once(through: Area) -> None:
    file = through.create(b"f")
    through.staging.claim(file)
    assert through.at_source(b"f") == b""
    through.staging.flush(file)
    assert through.source.count("write") == 1
    os.pwrite(file.fd, b"one", 0)
    through.close_file(file)
    assert through.at_source(b"f") == b"one"


def test_a_claim_is_in_the_journal_before_it_is_made(through: Area) -> None:
    made = Attributes(stat.S_IFREG | 0o644, uid=os.geteuid(), gid=os.getegid())
    file = through.staging.create(b"f", made, claimed=True)
    journal = through.staging._journal
    assert [row.token for row in journal.rows()] == [file.token] != [""]
    through.staging.claim(file)
    assert file.stamp is not None
    assert [(row.token, row.stamp) for row in journal.rows()] == [("", file.stamp.text)]
    os.pwrite(file.fd, b"one", 0)
    through.close_file(file)
    assert through.at_source(b"f") == b"one"
    assert journal.rows() == []


def test_a_claim_of_what_somebody_else_made(through: Area) -> None:
    file = through.create(b"f")
    (through.root / "f").write_bytes(b"theirs")
    with pytest.raises(FileExistsError):
        through.staging.claim(file)
    through.staging.abandon(file)
    assert through.at_source(b"f") == b"theirs"
    assert through.items() == {}
    assert through.files_left() == []


def test_what_is_written_during_a_claim_is_uploaded(through: Area) -> None:
    file = through.create(b"f")

    def write(kind: str, path: bytes) -> None:
        if kind == "write" and not os.fstat(file.fd).st_size:
            os.pwrite(file.fd, b"one", 0)

    through.source.answers = write
    through.staging.claim(file)
    assert through.at_source(b"f") == b""
    through.close_file(file)
    assert through.at_source(b"f") == b"one"


# ---- what counts as a change


def test_fine_stamps_are_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fine_stamps(tmp_path / "none") is False
    release = tuple(map(int, os.uname().release.split(".")[:2]))
    if release >= (6, 13) and fine_stamps(tmp_path):
        monkeypatch.setattr(os, "pwrite", lambda *arguments: 1)
        assert fine_stamps(tmp_path) is False


@pytest.mark.usefixtures("coarse")
def test_a_change_within_a_tick_is_seen_where_stamps_are_ticks(
    area: Area, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each change has the same time, as within one tick: only what was put back tells them apart."""
    file = area.create(b"f", b"aaa")
    tick = os.fstat(file.fd).st_mtime_ns

    def change(content: bytes) -> None:
        os.pwrite(file.fd, content, 0)
        os.utime(file.fd, ns=(tick, tick))

    monkeypatch.setattr("swmld.staging.files.time.time_ns", lambda: tick)
    for content in (b"bbb", b"ccc", b"ddd"):
        change(content)
        area.staging.flush(file)
        assert area.drained() == []
        assert area.at_source(b"f") == content
        assert not file.dirty
        change(content)
        assert file.dirty
    area.close_file(file)
    assert area.drained() == []
    assert area.items() == {}


@pytest.mark.usefixtures("coarse")
def test_nothing_stays_behind_where_stamps_are_ticks(area: Area) -> None:
    for number in range(20):
        area.put(b"f%d" % number, b"x")
    assert area.drained() == []
    assert area.items() == {}
    assert area.source.count("write") == 20


def test_no_mark_holds_on_a_file_that_is_written_all_the_while(
    back: Area, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.utime

    def busy(fd: int, *, ns: tuple[int, int]) -> None:
        real(fd, ns=ns)
        os.pwrite(fd, b"z", 0)

    file = back.create(b"f", b"aaa")
    now = os.fstat(file.fd).st_mtime_ns
    monkeypatch.setattr(os, "utime", busy)
    monkeypatch.setattr("swmld.staging.files.time.time_ns", lambda: now)
    assert file.mark(fine=True) == file.now()
    assert file.mark(fine=False) is None
    back.close_file(file)


def test_a_file_that_is_written_all_the_while_is_uploaded_again(
    area: Area, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = area.create(b"f", b"aaa")
    monkeypatch.setattr(StagedFile, "mark", lambda file, fine: None)
    area.staging.flush(file)
    assert area.drained() == []
    assert file.dirty
    monkeypatch.undo()
    area.close_file(file)
    assert area.drained() == []
    assert area.items() == {}


def mapped(file: StagedFile, area: Area) -> mmap.mmap:
    fd = area.staging.descriptor(file, os.O_RDWR, mapped=True)
    try:
        return mmap.mmap(fd, 4096)
    finally:
        os.close(fd)


def test_stores_through_a_mapping_after_the_close_are_uploaded(area: Area) -> None:
    file = area.create(b"f", bytes(4096))
    with mapped(file, area) as mapping:
        mapping[0:3] = b"one"
        area.staging.flush(file)
        assert area.drained() == []
        assert area.at_source(b"f") == b"one" + bytes(4093)
        mapping[0:3] = b"two"
        assert file.dirty
    area.staging.closed(file)
    assert area.drained() == []
    assert area.at_source(b"f") == b"two" + bytes(4093)
    assert area.items() == {}


def test_stores_through_a_mapping_during_the_upload_are_seen(area: Area) -> None:
    file = area.create(b"f", bytes(4096))
    with mapped(file, area) as mapping:
        mapping[0:3] = b"one"

        def store(kind: str, path: bytes) -> None:
            if kind == "write" and mapping[0:3] != b"two":
                mapping[0:3] = b"two"

        area.source.answers = store
        area.staging.flush(file)
        assert area.drained() == []
        area.source.answers = nothing
    area.staging.closed(file)
    assert area.drained() == []
    assert area.at_source(b"f") == b"two" + bytes(4093)


def test_a_late_store_that_is_a_conflict_is_put_aside(through: Area) -> None:
    file = through.create(b"f", bytes(4096))
    with mapped(file, through) as mapping:
        through.staging.flush(file)
        (through.root / "f").write_bytes(b"theirs")
        mapping[0:3] = b"two"
    before = open_fds()
    through.staging.closed(file)
    assert through.items() == {b"f": "aside"}
    assert through.at_source(b"f") == b"theirs"
    assert open_fds() == before - 1


def test_what_is_written_during_the_upload_is_uploaded_after_it(area: Area) -> None:
    """Closed while it is being uploaded, when it has its turn already."""
    file = area.create(b"f", b"one")

    def write(kind: str, path: bytes) -> None:
        if kind == "write" and os.pread(file.fd, 3, 0) == b"one":
            os.pwrite(file.fd, b"two", 0)
            if area.back:
                area.close_file(file)

    area.source.answers = write
    area.staging.flush(file)
    assert area.drained() == []
    if not area.back:
        area.close_file(file)
    assert area.at_source(b"f") == b"two"
    assert area.items() == {}


def test_open_without_a_descriptor_of_its_own(area: Area) -> None:
    file = area.create(b"f", b"one")
    fd = area.staging.descriptor(file, os.O_RDWR | os.O_APPEND | os.O_TRUNC, mapped=False)
    os.write(fd, b"ONE")
    os.close(fd)
    assert os.pread(file.fd, 10, 0) == b"ONE"
    area.close_file(file)
    area.drained()
    assert area.staging.reader(b"f") is None
    assert area.staging.attributes_of(file) is None


def test_a_source_without_attributes_takes_files(area: Area) -> None:
    area.source.features = Feature.WRITE
    area.put(b"f", b"one")
    assert area.drained() == []
    assert area.at_source(b"f") == b"one"
