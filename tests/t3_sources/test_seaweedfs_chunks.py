"""What is seen of overlapping chunks, what a tag holds, and what the filer's words mean; without a server."""

from __future__ import annotations

import itertools
import stat
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.seaweed import DIRECTORY, MESSAGES, SYMLINK, chunk
from swmld.errors import UsageError
from swmld.sources.interface import Attributes, Change, generation_ns
from swmld.sources.seaweed_chunks import (
    COMPRESSED,
    ENCRYPTED,
    INLINE,
    MANIFEST,
    SHORT,
    Chunk,
    Layout,
    chunk_of,
    layout_of,
    visible,
    within,
)
from swmld.sources.seaweed_entries import attributes_of, entry_of, entry_of_document, mode_of
from swmld.sources.seaweed_security import Security
from swmld.sources.seaweed_watch import changes_of
from swmld.sources.seaweedfs import addresses

_HOLE = 255


def _chunks(ranges: list[tuple[int, int, int]]) -> list[Chunk]:
    return [Chunk(f"1,{number:04x}00000001", *numbers, 0) for number, numbers in enumerate(ranges)]


def _painted(chunks: list[Chunk], size: int) -> list[int]:
    """Each byte of the file as the number of the chunk that it is seen through."""
    file = [_HOLE] * size
    for number in sorted(
        range(len(chunks)), key=lambda each: (chunks[each].modified_ns, -chunks[each].offset)
    ):
        one = chunks[number]
        file[one.offset : one.stop] = [number] * one.size
    return file


_range = st.tuples(st.integers(0, 40), st.integers(0, 20), st.integers(0, 1000))


@given(st.lists(_range, max_size=12, unique_by=lambda each: each[2]), st.integers(0, 60), st.integers(0, 60))
@example([(0, 10, 1), (5, 10, 2), (0, 20, 0)], 3, 18)
def test_what_is_seen_is_what_was_painted_last(
    ranges: list[tuple[int, int, int]], start: int, more: int
) -> None:
    chunks = _chunks(ranges)
    pieces = visible(chunks)
    assert all(one.stop <= two.start for one, two in itertools.pairwise(pieces))
    seen = [_HOLE] * 60
    for piece in pieces:
        assert piece.chunk.offset <= piece.start < piece.stop <= piece.chunk.stop
        seen[piece.start : piece.stop] = [chunks.index(piece.chunk)] * (piece.stop - piece.start)
    assert seen == _painted(chunks, 60)
    asked = [_HOLE] * 60
    for piece in within(pieces, start, start + more):
        asked[piece.start : piece.stop] = [chunks.index(piece.chunk)] * (piece.stop - piece.start)
    expected = [number if start <= at < start + more else _HOLE for at, number in enumerate(seen)]
    assert asked == expected


def test_of_two_modified_at_the_same_time_the_earlier_one_is_seen() -> None:
    chunks = _chunks([(0, 10, 7), (5, 10, 7)])
    assert [(piece.start, piece.stop) for piece in visible(reversed(chunks))] == [(0, 10), (10, 15)]


_stored = st.builds(
    lambda volume, key, cookie, *rest: Chunk(f"{volume},{key.hex()}{cookie:08x}", *rest),
    st.integers(1, 2**32 - 1),
    st.binary(min_size=1, max_size=8).filter(lambda key: key[0] != 0),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**62),
    st.integers(0, 2**62),
    st.integers(0, 2**62),
    st.integers(0, 15),
)


@given(st.lists(_stored, max_size=SHORT + 2))
def test_a_tag_is_the_layout_or_says_that_it_is_not(chunks: list[Chunk]) -> None:
    layout = Layout(tuple(chunks))
    assert bool(layout.tag) == bool(chunks)
    if chunks:
        assert layout_of(layout.tag) == (layout if len(chunks) <= SHORT else None)


@given(st.binary(min_size=1, max_size=INLINE + 8))
def test_content_is_in_the_tag_if_it_is_short(content: bytes) -> None:
    layout = Layout(content=content)
    assert layout_of(layout.tag) == (layout if len(content) <= INLINE else None)


def test_every_generation_has_another_tag() -> None:
    first = Chunk("1,0100000001", 0, 10, 5, 0)
    layouts = [Layout((first,)), Layout((first._replace(fid="1,0200000001"),)), Layout((first, first))]
    layouts += [
        Layout((first,) * SHORT * 2),
        Layout((first,) * SHORT * 3),
        Layout(remote=b"tag"),
        Layout(content=b"tag"),
    ]
    layouts += [Layout(content=b"a" * INLINE * 2), Layout(content=b"b" * INLINE * 2), Layout()]
    assert len({layout.tag for layout in layouts}) == len(layouts)


def test_a_chunk_is_named_by_parts_or_by_text() -> None:
    flagged = chunk("3,01637037d6", 5, 7, modified_ts_ns=9, is_compressed=True, is_chunk_manifest=True)
    assert chunk_of(flagged) == Chunk("3,01637037d6", 5, 7, 9, COMPRESSED | MANIFEST)
    written = MESSAGES["FileChunk"](file_id="3,01637037d6_2", size=7, cipher_key=b"k")
    assert chunk_of(written) == Chunk("3,03637037d6", 0, 7, 0, ENCRYPTED)
    with pytest.raises(ValueError):
        chunk_of(MESSAGES["FileChunk"](file_id="nothing", size=7))


@pytest.mark.parametrize(
    ("said", "directory", "mode"),
    [
        (0o640, False, stat.S_IFREG | 0o640),
        (DIRECTORY | 0o755, True, stat.S_IFDIR | 0o755),
        (0o755, True, stat.S_IFDIR | 0o755),
        (SYMLINK | 0o777, False, stat.S_IFLNK | 0o777),
        (1 << 26 | 1 << 21 | 0o600, False, stat.S_IFCHR | 0o600),
        (1 << 26 | 0o600, False, stat.S_IFBLK | 0o600),
        (1 << 25 | 0o600, False, stat.S_IFIFO | 0o600),
        (1 << 24 | 0o600, False, stat.S_IFSOCK | 0o600),
        (1 << 23 | 1 << 22 | 0o755, False, stat.S_IFREG | stat.S_ISUID | stat.S_ISGID | 0o755),
        (DIRECTORY | 1 << 20 | 0o777, True, stat.S_IFDIR | stat.S_ISVTX | 0o777),
    ],
)
def test_modes_are_translated_from_go(said: int, directory: bool, mode: int) -> None:
    assert mode_of(said, directory) == mode


def _attributes(path: bytes = b"f", **fields: Any) -> Attributes:
    return attributes_of(entry_of(_entry(**fields)), path)


def _entry(**fields: Any) -> Any:
    attributes = MESSAGES["FuseAttributes"](**{"file_mode": 0o644, **fields.pop("attributes", {})})
    return MESSAGES["Entry"](name="f", attributes=attributes, **fields)


def test_a_file_is_as_long_as_its_chunks_reach_or_as_it_says() -> None:
    parts = [chunk("1,0100000001", 0, 10), chunk("1,0200000001", 30, 5)]
    assert _attributes(chunks=parts).size == 35
    assert _attributes(chunks=parts, attributes={"file_size": 50}).size == 50
    assert _attributes(content=b"abc", attributes={"file_size": 9}).size == 3
    remote = MESSAGES["RemoteEntry"](remote_size=70, remote_e_tag="x")
    assert _attributes(remote_entry=remote).size == 70
    assert entry_of(_entry(remote_entry=remote)).layout.remote


def test_times_are_whole_where_the_filer_has_no_better() -> None:
    # -62135596800: what Go writes for no time.
    old = _attributes(attributes={"mtime": 5, "crtime": 4, "ctime": -62135596800})
    assert (old.mtime_ns, old.ctime_ns, old.btime_ns) == (5 * 10**9, 5 * 10**9, 4 * 10**9)
    times = {"mtime": 5, "mtime_ns": 1, "ctime": 6, "ctime_ns": 2, "crtime": 4, "crtime_ns": 3}
    new = _attributes(attributes=times)
    assert (new.mtime_ns, new.ctime_ns, new.btime_ns) == (5 * 10**9 + 1, 6 * 10**9 + 2, 4 * 10**9 + 3)


def _document(**fields: Any) -> dict[str, Any]:
    times = dict.fromkeys(("Mtime", "Crtime", "Ctime"), "2026-11-22T22:00:43Z")
    return {"FullPath": "/a/f", "Mode": 0o644, "FileSize": 0, "Uid": 0, "Gid": 0, **times, **fields}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-22T22:00:43Z", 1_795_384_843_000_000_000),
        ("2026-11-22T22:00:43.510135527Z", 1_795_384_843_510_135_527),
        ("2026-11-22T23:00:43.5+01:00", 1_795_384_843_500_000_000),
        ("2026-11-22T16:30:43.05-05:30", 1_795_384_843_050_000_000),
        ("0001-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59Z", 0),
    ],
)
def test_times_are_read_as_go_writes_them(text: str, expected: int) -> None:
    assert entry_of_document(_document(Mtime=text)).mtime_ns == expected


def test_a_document_is_read_as_the_message_of_the_same() -> None:
    listed = {"file_id": "3,01637037d6", "offset": 5, "size": 7, "modified_ts_ns": 9, "is_compressed": True}
    message = chunk("3,01637037d6", 5, 7, modified_ts_ns=9, is_compressed=True)
    assert entry_of_document(_document(chunks=[listed])).layout == Layout((chunk_of(message),))
    by_parts = {**listed, "file_id": "", "fid": {"volume_id": 3, "file_key": 0x63, "cookie": 0x7037D6}}
    assert entry_of_document(_document(chunks=[by_parts])).layout.chunks[0].fid == "3,63007037d6"
    remote = {"remote_e_tag": "x", "remote_mtime": 5, "remote_size": 70}
    assert entry_of_document(_document(Remote=remote)).layout == Layout(remote=b"x 5 70")
    assert entry_of_document(_document(Remote=remote, chunks=[listed])).size == 12
    small = entry_of_document(_document(Content="AAECAw==", HardLinkId="aDE=", HardLinkCounter=2, FileSize=4))
    assert (small.layout.content, small.size, small.hard_link, small.names) == (b"\0\1\2\3", 4, b"h1", 2)
    for wrong in ({"chunks": [{"size": 1}]}, {"chunks": [{"file_id": "x"}]}, {"Mtime": "yesterday"}):
        with pytest.raises(ValueError):
            entry_of_document(_document(**wrong))


def test_two_generations_of_one_second_differ() -> None:
    one, two = (
        _attributes(chunks=[chunk(fid, 0, 9)], attributes={"mtime": 5})
        for fid in ("1,0100000001", "1,0200000001")
    )
    assert (one.mtime_ns, one.size, one.ino) == (two.mtime_ns, two.size, two.ino)
    assert generation_ns(one) != generation_ns(two)


def test_names_of_one_file_have_one_number() -> None:
    linked = {"hard_link_id": b"h1", "hard_link_counter": 2}
    one, two = _attributes(b"a", **linked), _attributes(b"b", **linked)
    assert (one.ino, one.nlink) == (two.ino, 2)
    assert _attributes(b"a").ino != _attributes(b"b").ino
    assert _attributes(b"a").ino != _attributes(b"a", attributes={"crtime": 12}).ino


def _event(directory: str, old: Any = None, new: Any = None, parent: str = "") -> Any:
    event = MESSAGES["EventNotification"](old_entry=old, new_entry=new, new_parent_path=parent)
    return MESSAGES["SubscribeMetadataResponse"](directory=directory, event_notification=event)


def test_an_event_names_what_changed_below_the_root() -> None:
    file, tree = _entry(), MESSAGES["Entry"](name="d", is_directory=True)
    assert changes_of(_event("/b/x", new=file, parent="/b/x"), "/b") == [Change(b"x/f")]
    assert changes_of(_event("/b/x", old=file), "/b") == [Change(b"x/f")]
    assert changes_of(_event("/b/x", old=file, new=file, parent="/b/x"), "/b") == [Change(b"x/f")]
    assert changes_of(_event("/b", old=file, new=file, parent="/b/y"), "/b") == [Change(b"f"), Change(b"y/f")]
    assert changes_of(_event("/b", old=tree), "/b") == [Change(b"d", tree=True)]
    assert changes_of(_event("/b", old=tree, new=tree, parent="/b"), "/b") == [Change(b"d")]
    assert changes_of(_event("/c", old=tree, new=tree, parent="/b"), "/b") == [Change(b"d", tree=True)]
    assert changes_of(_event("/bb", new=file, parent="/bb"), "/b") == []
    assert changes_of(_event("/", old=MESSAGES["Entry"](name="b", is_directory=True)), "/b") == [
        Change(b"", tree=True)
    ]
    assert changes_of(_event("/", new=file, parent="/"), "") == [Change(b"f")]
    assert changes_of(MESSAGES["SubscribeMetadataResponse"](ts_ns=5), "/b") == []


def test_addresses_are_written_as_seaweedfs_writes_them() -> None:
    assert addresses("filer:8888") == [("filer:8888", "filer:18888")]
    assert addresses("[::1]:8888.9999") == [("[::1]:8888", "[::1]:9999")]
    assert addresses("a:1,b:2") == [("a:1", "a:10001"), ("b:2", "b:10002")]
    for wrong in ("a:1,", "a:1,b", "filer", "filer:", "filer:x", "filer:1.y", ":8888"):
        with pytest.raises(UsageError):
            addresses(wrong)


def test_keys_come_from_the_file_and_variables_win() -> None:
    settings = {"jwt": {"signing": {"read": {"key": "file"}}, "filer_signing": {"read": {"key": "filer"}}}}
    assert Security(settings, {}).volume_key == b"file"
    both = Security(settings, {"WEED_JWT_SIGNING_READ_KEY": "variable"})
    assert (both.volume_key, both.filer_key) == (b"variable", b"filer")
    assert both.volume_headers("3,01637037d6")["Authorization"].startswith("Bearer ")
    assert Security({}, {}).volume_headers("3,01637037d6") == {}
