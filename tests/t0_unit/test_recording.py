"""Recordings: what was said comes back, in little space, up to where the file ends."""

from __future__ import annotations

import gzip
import json
import random
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.traces import Table, batch, cursor, touch
from swmld.errors import HostError, UsageError
from swmld.observe import encoding, recording
from swmld.observe.columns import pack, unpack
from swmld.observe.encoding import LATE_BATCHES, ROWS, Decoder, Encoder, Raw
from swmld.observe.libraries import Program
from swmld.observe.recording import Reader, Writer
from swmld.patterns.feed import (
    NOT_EARLY,
    Cursor,
    Folder,
    Place,
    Process,
    Shape,
    Tiers,
    Touch,
    TouchFlag,
    TouchKind,
    Wait,
)

COUNTS = st.integers(0, 1 << 62)
PAGES = st.integers(0, 1 << 40)
PIDS = st.integers(1, 1 << 22)
FILES = st.integers(2, 1 << 64)
# Whole microseconds, as the recording keeps them.
TIMES = st.integers(0, 10**13).map(lambda us: us / 1e6)

FILED = st.sampled_from([kind for kind in TouchKind if kind < TouchKind.CLOSE])
TOUCHES = st.builds(
    Touch, kind=FILED, at=TIMES, pid=PIDS, file=FILES, first=PAGES, last=PAGES, size=PAGES,
    stride=st.integers(-(1 << 40), 1 << 40), flags=st.integers(0, 15).map(TouchFlag),
    shape=st.sampled_from(Shape),
)  # fmt: skip
OF_PROCESSES = st.builds(
    Touch, kind=st.sampled_from([TouchKind.FORK, TouchKind.EXEC, TouchKind.EXIT]), at=TIMES, pid=PIDS,
    file=st.integers(0, 1 << 22), first=st.just(0), last=st.just(0), size=st.just(0), stride=st.just(0),
    flags=st.just(TouchFlag(0)), shape=st.just(Shape.NEW),
)  # fmt: skip
SECONDS = {"first_at", "last_at", "event_at", "written_at", "wait", "meta", "read", "write"}
CURSORS = st.builds(
    Cursor,
    **{
        field: TIMES
        if field in SECONDS
        else st.integers(-(1 << 40), 1 << 40)
        if field == "stride"
        else COUNTS
        for field in Cursor._fields[:-1]
    },
    early=st.lists(st.integers(0, NOT_EARLY), min_size=8, max_size=8).map(tuple),
)
WAITS = st.builds(
    Wait,
    **{field: TIMES if field in SECONDS else COUNTS for field in Wait._fields[:-1]},
    histogram=st.lists(COUNTS, min_size=24, max_size=24).map(tuple),
)
RAWS = st.builds(
    Raw,
    at=TIMES,
    touches=st.lists(TOUCHES | OF_PROCESSES, max_size=8),
    cursors=st.lists(st.tuples(PIDS, FILES, CURSORS), max_size=5),
    tiers=st.lists(st.tuples(PIDS, FILES, st.builds(Tiers, COUNTS, COUNTS, COUNTS, COUNTS)), max_size=5),
    waits=st.lists(st.tuples(PIDS, WAITS), max_size=5),
    lost=st.integers(0, 1000),
)
NAMES = st.binary(min_size=1, max_size=20)


def ordered(raw: Raw) -> tuple[Any, ...]:
    """``raw`` without the order that its counters have by chance."""
    return raw.at, raw.touches, sorted(raw.cursors), sorted(raw.tiers), raw.waits, raw.lost


def through(encoder: Encoder, decoder: Decoder, raw: Raw) -> list[Raw]:
    """``raw`` as it arrives behind a socket or a file."""
    return [decoder.raw(json.loads(json.dumps(line))) for line in encoder.lines(raw)]


@settings(max_examples=150, deadline=None)
@given(st.lists(RAWS, max_size=4), st.dictionaries(FILES, NAMES, max_size=5))
def test_what_goes_in_comes_out(raws: list[Raw], names: dict[int, bytes]) -> None:
    table = Table()
    for number, (file, name) in enumerate(names.items()):
        table.places[file] = Place(2, name, 100_000 + number, number, None)
    encoder, decoder = Encoder(table, table), Decoder()
    for raw in raws:
        (back,) = through(encoder, decoder, raw)
        assert ordered(back) == ordered(raw)
        for one in raw.touches:
            if one.kind < TouchKind.CLOSE:
                assert decoder.place(one.file) == table.places.get(one.file)


def test_kinds_flags_and_shapes_are_what_they_were() -> None:
    raw = Raw(1.0, [touch(1.0, 5, 10, flags=TouchFlag.COLD | TouchFlag.WHOLE, shape=Shape.RANDOM)])
    (back,) = through(Encoder(Table(), Table()), Decoder(), raw)
    assert [type(value) for value in back.touches[0]] == [type(value) for value in raw.touches[0]]


def test_a_recording_from_before_writes_were_counted() -> None:
    """It lacks their columns: nothing was written. What was only written has the books of no read."""
    only = cursor(0.0, 0, reads=0, low=(1 << 64) - 1, written=8192, written_at=3.25, bursts=2)
    rows = [(5, 10, cursor(1.0)), (5, 11, only)]
    (line,) = Encoder(Table(), Table()).lines(Raw(4.0, cursors=rows))
    assert [row[2] for row in Decoder().raw(line).cursors] == [row[2] for row in rows]
    for field in ("written", "written_at", "bursts"):
        del line["cursors"]["each"][field]
    nothing = only._replace(written=0, written_at=0.0, bursts=0)
    assert [row[2] for row in Decoder().raw(line).cursors] == [rows[0][2], nothing]
    (line,) = Encoder(Table(), Table()).lines(Raw(4.0, cursors=rows[:1]))
    assert not {"written", "written_at", "bursts"} & (
        set(line["cursors"]["all"]) | set(line["cursors"]["each"])
    )


def test_names_and_processes_come_with_what_needs_them() -> None:
    table = Table()
    table.start(5, 4)
    table.start(4, 4, "bash")
    table.start(6, 4, "child")
    table.folders[3] = Folder(2, "train/a", 7)
    table.add(10, "x", 99, directory=3, index=4)
    decoder = Decoder()
    fork = touch(1.0, 5, 6, kind=TouchKind.FORK)
    through(Encoder(table, table), decoder, Raw(1.0, [touch(1.0, 5, 10), fork]))
    assert decoder.place(10) == table.places[10]
    assert [decoder.folder(number) for number in (1, 2, 3)] == [table.folders[number] for number in (1, 2, 3)]
    assert [decoder.of(pid) for pid in (4, 5, 6)] == [table.processes[pid] for pid in (4, 5, 6)]
    assert (decoder.place(6), decoder.folder(9), decoder.of(9)) == (None, None, None)


def test_what_processes_run_is_told_once_it_is_known() -> None:
    """Of who has ended nothing is ever known, and it is not asked for ever."""
    table = Table()
    for pid in (5, 6):
        table.start(pid, pid)
    known: dict[int, Program] = {}
    asked: list[int] = []

    def program(process: Process) -> Program | None:
        asked.append(process.pid)
        return known.get(process.pid)

    encoder, decoder = Encoder(table, table, program), Decoder()
    through(encoder, decoder, Raw(1.0, [touch(1.0, 5, 10), touch(1.0, 6, 10)]))
    assert decoder.program(5) is None
    known[5] = Program(frozenset({"libtorch", "torch"}), ("pytorch", "numpy"))
    through(encoder, decoder, Raw(2.0))  # nobody reads any more
    assert decoder.program(5) == known[5]
    (line,) = encoder.lines(batch(3.0, [(5, 10)]))
    assert "programs" not in line
    known[5] = Program(frozenset(), ())
    through(encoder, decoder, batch(4.0, [(5, 10)]))
    assert decoder.program(5) == known[5]
    for at in range(100):
        through(encoder, decoder, Raw(5.0 + at))
    assert decoder.program(6) is None
    assert asked.count(6) == 1 + LATE_BATCHES


def test_what_was_told_is_not_told_again() -> None:
    table = Table()
    table.start(5, 5)
    table.add(10, "x", 99, index=0)
    encoder = Encoder(table, table)
    first, second = (next(iter(encoder.lines(batch(at, [(5, 10)])))) for at in (1.0, 2.0))
    assert {"files", "folders", "processes"} <= set(first)
    assert not {"files", "folders", "processes"} & set(second)


def test_a_listing_that_comes_late_is_told() -> None:
    table = Table()
    table.add(10, "x", 99)
    encoder, decoder = Encoder(table, table), Decoder()
    through(encoder, decoder, batch(1.0, [(5, 10)]))
    assert decoder.place(10) == Place(2, b"x", 99, None, None)
    table.folders[2] = Folder(1, "train", 3)
    table.add(10, "x", 99, index=2)
    through(encoder, decoder, Raw(2.0))  # nobody reads it any more
    assert decoder.place(10) == Place(2, b"x", 99, 2, 2)
    assert decoder.folder(2) == Folder(1, "train", 3)


def test_late_listings_come_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "LATE_FILES", 10)
    table = Table()
    files = [(5, 100 + number) for number in range(25)]
    for _, file in files:
        table.add(file, str(file), 99)
    encoder, decoder = Encoder(table, table), Decoder()
    through(encoder, decoder, batch(1.0, files))
    table.folders[2] = Folder(1, "train", 25)
    for number, (_, file) in enumerate(files):
        table.add(file, str(file), 99, index=number)
    told = []
    for at in range(4):
        through(encoder, decoder, Raw(2.0 + at))
        told.append(sum(decoder.place(file).index is not None for _, file in files))  # type: ignore[union-attr]
    assert told == [10, 20, 25, 25]


def test_a_rename_and_an_exec_are_told() -> None:
    table = Table()
    table.add(10, "x", 99, index=0)
    table.start(5, 5, "bash")
    encoder, decoder = Encoder(table, table), Decoder()
    through(encoder, decoder, batch(1.0, [(5, 10)]))
    table.add(10, "y", 99, index=1)
    table.start(5, 5, "python")
    (back,) = through(encoder, decoder, batch(2.0, [(5, 10)]))
    assert decoder.place(10) == Place(2, b"y", 99, 1, 1)
    assert decoder.of(5).comm == "python"  # type: ignore[union-attr]
    assert back.touches[0].file == back.cursors[0][1] == 10


def test_what_is_forgotten_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FILES", "FOLDERS", "PROCESSES"):
        monkeypatch.setattr(encoding, name, 10)
    monkeypatch.setattr(encoding, "MOST_ROWS", 10)
    table = Table()
    for number in range(100):
        table.folders[1000 + number] = Folder(1, f"d{number}", 1)
        table.add(number + 2, f"{number}", 4096 * number, directory=1000 + number, index=0)
        table.start(number + 1, number + 1)
    encoder, decoder = Encoder(table, table), Decoder()
    rng = random.Random(3)
    for at in range(300):
        number = rng.randrange(100)
        raw = batch(float(at), [(number + 1, number + 2)])
        (back,) = through(encoder, decoder, raw)
        assert back == raw
        assert decoder.place(number + 2) == table.places[number + 2]
        assert decoder.of(number + 1) == table.processes[number + 1]
        assert decoder.folder(1000 + number) == table.folders[1000 + number]
        assert max(len(kept) for kept in (*vars(decoder).values(),)) <= 20
        assert max(len(kept) for kept in vars(encoder).values() if isinstance(kept, dict)) <= 11


def test_a_large_batch_comes_in_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = batch(1.0, [(5, 100 + number) for number in range(ROWS + 10)])
    pieces = through(Encoder(Table(), Table()), Decoder(), raw)
    assert [len(piece.touches) for piece in pieces] == [ROWS, 10]
    assert [one for piece in pieces for one in piece.touches] == raw.touches
    assert [one for piece in pieces for one in piece.cursors] == raw.cursors


@pytest.mark.parametrize(
    "line",
    [
        {}, {"at": "x"}, {"at": 1, "touches": 7}, {"at": 1, "touches": {"n": 1 << 40, "all": {}, "each": {}}},
        {"at": 1, "touches": {"n": 1, "all": {"file": 7}, "each": {}}},
        {"at": 1, "touches": {"n": 2, "all": {"kind": 7}, "each": {"at": [1]}}},
        {"at": 1, "touches": {"n": 1, "all": {"kind": 99}, "each": {}}},
        {"at": 1, "cursors": {"n": 1, "all": {"early": 5}, "each": {}}},
        {"at": 1e400, "waits": {"n": 1, "all": {"wait": "x"}, "each": {}}},
    ],
)  # fmt: skip
def test_a_line_of_another_kind_is_refused(line: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a line of a trace"):
        Decoder().raw(line)


def test_tables_can_be_changed_on_the_way() -> None:
    """As a recording is rid of names: unpacked, changed and packed again, times stay times."""
    row = (5, 4, 1, "python", "python a.py", 1_700_000_000.25, "/", "")
    columns = unpack("processes", json.loads(json.dumps(pack("processes", [row, row]))))
    assert list(zip(*columns.values(), strict=True)) == [row, row]


# --- files


def written(path: Path, count: int = 20) -> list[Raw]:
    """A recording of some batches, and what they were."""
    table = Table()
    table.start(5, 4)
    rng = random.Random(1)
    raws = []
    for number in range(count):
        files = [(5, rng.randrange(2, 1 << 40)) for _ in range(50)]
        for _, file in files:
            table.add(file, f"n0144_{file}.JPEG", 100_000, index=number)
        raws.append(batch(float(number), files, 0.001))
    encoder = Encoder(table, table)
    with Writer(path, mount="/mnt/ml") as writer:
        for raw in raws:
            for line in encoder.lines(raw):
                writer.write(line)
        writer.write({"state": {"prefetch": {"used_bytes": 7}}})
    return raws


def test_a_file_gives_back_the_run(tmp_path: Path) -> None:
    raws = written(tmp_path / "run")
    with Reader(tmp_path / "run") as reader:
        assert reader.header["mount"] == "/mnt/ml"
        assert [ordered(raw) for raw in reader] == [ordered(raw) for raw in raws]
        assert reader.cut is None
        assert reader.state == {"prefetch": {"used_bytes": 7}}
        assert reader.of(5).job == 4  # type: ignore[union-attr]
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o600


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_off_is_read_up_to_the_cut(tmp_path: Path, share: float) -> None:
    raws = [ordered(raw) for raw in written(tmp_path / "whole", 100)]
    data = (tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(data[: int(len(data) * share)])
    with Reader(tmp_path / "cut") as reader:
        found = [ordered(raw) for raw in reader]
        assert reader.cut is not None
        assert str(tmp_path / "cut") in reader.cut
    assert found == raws[: len(found)]
    assert len(found) >= 100 * share * 0.6 - 5


def test_a_flipped_bit_is_told(tmp_path: Path) -> None:
    raws = [ordered(raw) for raw in written(tmp_path / "run", 100)]
    data = bytearray((tmp_path / "run").read_bytes())
    data[-6] ^= 1  # in the checksum: everything was read by then
    (tmp_path / "run").write_bytes(data)
    with Reader(tmp_path / "run") as reader:
        assert [ordered(raw) for raw in reader] == raws[:100]
        assert reader.cut is not None


def test_a_killed_writer_has_flushed(tmp_path: Path) -> None:
    now = 0.0
    encoder = Encoder(Table(), Table())
    writer = Writer(tmp_path / "run", clock=lambda: now)
    for number in range(10):
        now += 1.0
        for line in encoder.lines(batch(float(number), [(5, number + 2)])):
            writer.write(line)
    # What the kernel has of it is all that a kill leaves.
    data = (tmp_path / "run").read_bytes()
    (tmp_path / "left").write_bytes(data)
    with Reader(tmp_path / "left") as reader:
        assert len(list(reader)) == 10
    writer.close()


def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("dear")
    with pytest.raises(UsageError, match="exists already; --force replaces it"):
        Writer(tmp_path / "run")
    assert (tmp_path / "run").read_text() == "dear"
    Writer(tmp_path / "run", force=True).close()
    with Reader(tmp_path / "run") as reader:
        assert list(reader) == []


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    writer = Writer(Path("/dev/full"), force=True)
    writer.write({"at": 0})
    with pytest.raises(HostError, match="No space left"):
        writer.close()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a recording"),
        (b"text", "is not a recording"),
        (gzip.compress(b"text", mtime=0), "is not a recording"),
        (gzip.compress(b"[1]\n", mtime=0), "is not a recording"),
        (
            gzip.compress(b'{"swmld_trace": 99}\n', mtime=0),
            "recording of version 99, this swmld reads version 1",
        ),
        (gzip.compress(b"\x00" * (recording.MAX_LINE + 10), mtime=0), "is not a recording"),
    ],
)
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(UsageError, match=said):
        Reader(tmp_path / "f")


@pytest.mark.parametrize("line", [b"text", b"[]", b"{}", b'{"at": 1, "touches": []}'])
def test_a_foreign_line_is_refused(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "f").write_bytes(gzip.compress(b'{"swmld_trace": 1}\n' + line + b"\n", mtime=0))
    with Reader(tmp_path / "f") as reader, pytest.raises(UsageError, match="line 2"):
        list(reader)


@pytest.mark.parametrize("name", ["none", "dir", "none/f"])
def test_what_cannot_be_opened_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "dir").mkdir()
    with pytest.raises(UsageError, match=f"{tmp_path}/{name}"):
        Reader(tmp_path / name)
    with pytest.raises(UsageError, match=f"{tmp_path}/{name}"):
        Writer(tmp_path / name / "x" if name == "none" else tmp_path / name, force=True)


def size_of_reads(path: Path, count: int) -> int:
    """Bytes for ``count`` small files of many sizes, read in two shuffled epochs by four workers."""
    rng = random.Random(7)
    table = Table()
    for pid in (1, 2, 3, 4):
        table.start(pid, 1)
    files = list(range(count // 2))
    nodeids = [50_000_000 + number for number in files]  # unpacked from an archive, in order
    pages = [rng.randrange(2, 60) for _ in files]
    for number in files:
        name = f"n{1440764 + number // 1300:08}_{number % 1300 * 7 + rng.randrange(7)}.JPEG"
        size = pages[number] * 4096 - rng.randrange(4096)
        table.places[nodeids[number]] = Place(2, name.encode(), size, number, rng.randrange(count))
    encoder = Encoder(table, table)
    at, reads = 1000.0, 0
    with Writer(path) as writer:
        for _ in range(2):
            rng.shuffle(files)
            for start in range(0, len(files), 2000):
                touches, cursors = [], []
                for number in files[start : start + 2000]:
                    at += 0.0005
                    coarse = at - at % 0.004
                    pid, size, file = rng.randrange(1, 5), pages[number], nodeids[number]
                    touches.append(touch(coarse, pid, file, last=size - 1, size=size))
                    wait = rng.random() * 0.001
                    cursors.append((pid, file, cursor(coarse, size, cold=1, wait=wait, tid=pid)))
                    reads += 1
                rng.shuffle(cursors)  # the kernel's map has no order
                for line in encoder.lines(Raw(at, touches, cursors)):
                    writer.write(line)
        writer.close()
    assert reads == count
    return path.stat().st_size


def test_a_million_reads_are_small(tmp_path: Path) -> None:
    # A fiftieth; larger runs cost less a read, since the header and the first names weigh less.
    assert size_of_reads(tmp_path / "run", 20_000) <= 20_000_000 / 50


@pytest.mark.stress
def test_a_million_reads_are_small_indeed(tmp_path: Path) -> None:
    assert size_of_reads(tmp_path / "run", 1_000_000) <= 20_000_000
