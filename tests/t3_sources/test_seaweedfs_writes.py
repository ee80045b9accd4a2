"""What is written to a real SeaweedFS: how it lies there, who sees it, and what is left when it fails."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import stat
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.seaweed import DIRECTORY, MESSAGES, Cluster
from support.source_kit import content, failing, read_all
from support.source_writes import write
from support.waiting import until
from swmld.sources import seaweed_filer
from swmld.sources.errors import failure
from swmld.sources.interface import Attributes, Change, NewAttributes
from swmld.sources.seaweed_chunks import INLINE
from swmld.sources.seaweed_filer import FilerClient
from swmld.sources.seaweed_writing import Writing
from swmld.sources.seaweedfs import SeaweedSource

pytestmark = pytest.mark.timeout(120)

UNIT = 1 << 17

_numbers = itertools.count()


@pytest.fixture
def root(seaweed: Cluster) -> str:
    """A directory of its own for each test."""
    name = f"writes-{next(_numbers)}-{time.time_ns()}"
    seaweed.create("/", name, mode=DIRECTORY | 0o755, is_directory=True)
    return name


@pytest.fixture
def source(seaweed: Cluster, root: str) -> Iterator[SeaweedSource]:
    source = seaweed.source(root)
    source.writing.chunk = UNIT
    yield source
    source.close()


def _got(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=20) as answer:
        return bytes(answer.read())


def _stored(seaweed: Cluster, fids: list[str]) -> list[bool]:
    """Whether the volume server has them."""
    found = []
    for fid in fids:
        try:
            _got(seaweed.volume_ports[0], fid)
        except urllib.error.HTTPError as error:
            error.close()
            found.append(False)
        else:
            found.append(True)
    return found


def _fids(seaweed: Cluster, path: str) -> list[str]:
    fids = [chunk.fid for chunk in seaweed.entry(path).chunks]
    return [f"{fid.volume_id},{fid.file_key:x}{fid.cookie:08x}" for fid in fids]


def _before(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, happens: Callable[[int], None]
) -> list[Any]:
    """``happens`` with the number of each call of a method, before it; what the calls returned."""
    inner = getattr(owner, name)
    results: list[Any] = []
    calls = itertools.count(1)

    def call(*arguments: Any, **named: Any) -> Any:
        happens(next(calls))
        results.append(inner(*arguments, **named))
        return results[-1]

    monkeypatch.setattr(owner, name, call)
    return results


@pytest.mark.parametrize("size", [0, INLINE, INLINE + 1, UNIT, 3 * UNIT + 5])
def test_others_see_what_was_written(seaweed: Cluster, source: SeaweedSource, root: str, size: int) -> None:
    stored = content(size)
    write(source, b"a b", stored)
    assert _got(seaweed.filer, f"{root}/a%20b") == stored
    entry = seaweed.entry(f"/{root}/a b")
    parts = [stored[start : start + UNIT] for start in range(0, size, UNIT)] if size > INLINE else []
    assert [chunk.size for chunk in entry.chunks] == list(map(len, parts))
    assert [chunk.offset for chunk in entry.chunks] == [UNIT * number for number in range(len(parts))]
    assert entry.content == (b"" if parts else stored)
    assert entry.attributes.file_size == size


@pytest.mark.parametrize("size", [0, 10, INLINE + 1, UNIT, UNIT + 1])
def test_generations_have_etags(seaweed: Cluster, source: SeaweedSource, root: str, size: int) -> None:
    """By which readers through the S3 gateway, and the filer's HTTP, tell them."""

    def etag() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{seaweed.filer}/{root}/file", timeout=20) as answer:
            return str(answer.headers["ETag"]).strip('"')

    said, seen = None, set()
    for number in range(3):
        stored = content(size, number)
        said = write(source, b"file", stored, said)
        seen.add(etag())
        if size <= UNIT:
            assert etag() == hashlib.md5(stored).hexdigest()
        else:
            assert etag().endswith("-2")
    assert len(seen) == (3 if size else 1)


def test_changes_are_told_to_others(seaweed: Cluster, source: SeaweedSource, root: str) -> None:
    other = seaweed.source(root)
    told: list[Change] = []
    ready = threading.Event()
    thread = threading.Thread(target=other.watch, args=(told.append, lambda now: now and ready.set()))
    thread.start()
    try:
        assert ready.wait(30)
        said = write(source, b"file", b"old")
        write(source, b"file", content(UNIT + 1), said)
        source.make_dir(b"d", Attributes(stat.S_IFDIR | 0o755))
        source.rename(b"file", b"d/moved")
        source.change(b"d/moved", NewAttributes(mode=0o600))
        source.remove(b"d/moved")
        source.remove_dir(b"d")
        until(lambda: told[-1:] == [Change(b"d", tree=True)] and len(told) > 6, f"told: {told}", 30)
        paths = [change.path for change in told]
        assert paths[:2] == [b"file", b"file"]
        assert paths.count(b"d/moved") >= 3
    finally:
        other.close()
        thread.join(30)


def test_replaced_chunks_go_and_the_file_stays_itself(
    seaweed: Cluster, source: SeaweedSource, root: str
) -> None:
    said = write(source, b"file", content(2 * UNIT))
    old = _fids(seaweed, f"/{root}/file")
    entry = seaweed.entry(f"/{root}/file")
    entry.extended["xattr-user.kept"], entry.extended["Seaweed-of-the-old"] = b"kept", b"x"
    seaweed.call("UpdateEntry", directory=f"/{root}", entry=entry)
    again = write(source, b"file", content(2 * UNIT, 1), said)
    assert (again.ino, again.btime_ns // 10**9) == (said.ino, said.btime_ns // 10**9)
    extended = dict(seaweed.entry(f"/{root}/file").extended)
    assert extended.pop("xattr-user.swmld.token")
    assert extended == {"xattr-user.kept": b"kept"}
    assert _stored(seaweed, _fids(seaweed, f"/{root}/file")) == [True, True]
    until(lambda: _stored(seaweed, old) == [False, False], "the old chunks are deleted", 30)


def test_all_names_of_a_file_are_written(seaweed: Cluster, source: SeaweedSource, root: str) -> None:
    write(source, b"one", content(UNIT + 1))
    entry = seaweed.entry(f"/{root}/one")
    for name in ("one", "two"):
        entry.name, entry.hard_link_id, entry.hard_link_counter = name, f"{root}\x01".encode(), 2
        seaweed.call("CreateEntry", directory=f"/{root}", entry=entry)
    write(source, b"one", content(UNIT + 9, 1), source.stat(b"one"))
    assert read_all(source, b"two") == content(UNIT + 9, 1)
    assert source.stat(b"one").ino == source.stat(b"two").ino
    source.remove(b"one")
    assert read_all(source, b"two") == content(UNIT + 9, 1)


@pytest.mark.parametrize("replaced", [False, True])
def test_who_comes_between_is_not_overwritten(
    seaweed: Cluster, source: SeaweedSource, root: str, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    said = write(source, b"file", b"old") if replaced else None

    def happens(number: int) -> None:
        if number == 1:
            seaweed.put(f"/{root}/file", b"theirs")

    given = _before(monkeypatch, FilerClient, "assign", happens)
    error = failing(lambda: write(source, b"file", content(3 * UNIT), said))
    assert error.errno == errno.ESTALE
    assert read_all(source, b"file") == b"theirs"
    # Nothing is left of it.
    assert len(given) == 3
    assert not any(_stored(seaweed, [one.file_id for one in given]))


def test_a_write_that_is_cut_leaves_the_old(
    seaweed: Cluster,
    source: SeaweedSource,
    root: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    said = write(source, b"file", content(UNIT + 1))
    source.writing._timeout = 0.1

    def happens(number: int) -> None:
        if number > 2:
            raise failure(errno.EHOSTUNREACH, "cut off")

    uploaded = _before(monkeypatch, Writing, "_stored", happens)
    assert failing(lambda: write(source, b"file", content(20 * UNIT, 1), said)).errno == errno.EHOSTUNREACH
    assert source.stat(b"file") == said
    assert read_all(source, b"file") == content(UNIT + 1)
    assert len(uploaded) == 2
    assert not any(_stored(seaweed, [one.fid for one in uploaded]))
    assert "stored elsewhere" in caplog.text


def test_a_chunk_is_stored_elsewhere_where_a_server_fails(
    seaweed: Cluster, source: SeaweedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def happens(number: int) -> None:
        if number % 3 == 1:
            raise failure(errno.EIO, "a full disk")

    _before(monkeypatch, Writing, "_stored", happens)
    write(source, b"file", content(5 * UNIT))
    assert read_all(source, b"file") == content(5 * UNIT)


def test_an_entry_whose_answer_was_lost_keeps_its_bytes(
    source: SeaweedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry was made, for all that is known: its chunks must stay."""
    with monkeypatch.context() as patched:
        create = FilerClient.create

        def lost(*arguments: Any) -> Any:
            create(*arguments)
            raise failure(errno.ETIMEDOUT, "lost")

        patched.setattr(FilerClient, "create", lost)
        error = failing(lambda: write(source, b"file", content(3 * UNIT), token="one"))
        assert error.errno == errno.ETIMEDOUT
    assert read_all(source, b"file") == content(3 * UNIT)
    assert write(source, b"file", content(3 * UNIT), token="one") == source.stat(b"file")


def test_a_change_keeps_what_others_write_meanwhile(
    seaweed: Cluster, source: SeaweedSource, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(source, b"file", content(UNIT + 1))

    def happens(number: int) -> None:
        if number < 3:
            seaweed.put(f"/{root}/file?mode=0644", b"theirs %d" % number * 200)

    _before(monkeypatch, FilerClient, "update", happens)
    said = source.change(b"file", NewAttributes(mode=0o640, uid=77))
    assert (stat.S_IMODE(said.mode), said.uid, said.size) == (0o640, 77, 1600)
    assert source.stat(b"file") == said
    assert read_all(source, b"file") == b"theirs 2" * 200


@pytest.mark.parametrize("changed", [False, True])
def test_filers_that_do_not_know_the_condition_are_asked_before(
    seaweed: Cluster, source: SeaweedSource, root: str, monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    """They refuse a condition that they do not know, whatever is there."""
    said = write(source, b"file", b"old")
    call = source._filer._calls[0]["CreateEntry"]

    def refusing(request: Any, timeout: float) -> Any:
        if not request.HasField("condition"):
            return call(request, timeout=timeout)
        if changed:
            seaweed.put(f"/{root}/file", b"theirs")
        return MESSAGES["CreateEntryResponse"](error="precondition failed", error_code=6)

    monkeypatch.setitem(source._filer._calls[0], "CreateEntry", refusing)
    if changed:
        assert failing(lambda: write(source, b"file", b"new", said)).errno == errno.ESTALE
        assert read_all(source, b"file") == b"theirs"
        return
    again = write(source, b"file", b"new", said)
    assert again == source.stat(b"file")
    assert read_all(source, b"file") == b"new"


def _counted(
    source: SeaweedSource, monkeypatch: pytest.MonkeyPatch, name: str, plain: bool = False
) -> list[Any]:
    """The requests of a call of the filer; ``plain``: as it takes them that knows no conditions."""
    call, requests = source._filer._calls[0][name], []

    def counting(request: Any, timeout: float) -> Any:
        requests.append(request)
        if plain:
            request.ClearField("condition")
        return call(request, timeout=timeout)

    monkeypatch.setitem(source._filer._calls[0], name, counting)
    return requests


def test_who_made_a_file_writes_it_again_without_asking(
    seaweed: Cluster, source: SeaweedSource, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookups = _counted(source, monkeypatch, "LookupDirectoryEntry")
    said = write(source, b"file", b"")
    for number in range(3):
        said = write(source, b"file", b"%d" % number * UNIT, said)
    assert all(one.directory == "/etc/seaweedfs" for one in lookups)
    lookups.clear()
    assert said == source.stat(b"file")
    assert read_all(source, b"file") == b"2" * UNIT
    seaweed.put(f"/{root}/file", b"theirs")
    assert failing(lambda: write(source, b"file", b"ours", said)).errno == errno.ESTALE
    assert lookups, "it is asked what is there now"
    assert read_all(source, b"file") == b"theirs"
    said = write(source, b"file", b"ours", source.stat(b"file"))
    seaweed.put(f"/{root}/file", b"theirs again")
    assert failing(lambda: write(source, b"file", b"x" * UNIT, said)).errno == errno.ESTALE
    assert read_all(source, b"file") == b"theirs again"


def test_filers_that_keep_no_conditions_are_asked_before_each_write(
    seaweed: Cluster, source: SeaweedSource, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookups = _counted(source, monkeypatch, "LookupDirectoryEntry")
    for name in ("CreateEntry", "UpdateEntry"):
        _counted(source, monkeypatch, name, plain=True)
    said = write(source, b"file", b"")
    said = write(source, b"file", b"one" * UNIT, said)
    assert len(lookups) == 1
    assert said == source.stat(b"file")
    seaweed.put(f"/{root}/file", b"theirs")
    assert failing(lambda: write(source, b"file", b"ours", said)).errno == errno.ESTALE
    assert read_all(source, b"file") == b"theirs"


def test_names_that_are_no_utf_8_cannot_be_made(source: SeaweedSource) -> None:
    given = Attributes(stat.S_IFDIR | 0o755)
    for call in (
        lambda: write(source, b"\xff", b"x"),
        lambda: source.takes(b"\xff"),
        lambda: source.make_dir(b"a\xe4", given),
        lambda: source.symlink(b"link", b"\xff", given),
    ):
        assert failing(call).errno == errno.EILSEQ
    assert failing(lambda: source.remove(b"\xff")).errno == errno.ENOENT


def test_the_root_stays(seaweed: Cluster, source: SeaweedSource, root: str) -> None:
    write(source, b"file", b"x")
    for call, code in (
        (lambda: write(source, b"", b"x"), errno.EISDIR),
        (lambda: source.remove(b""), errno.EISDIR),
        (lambda: source.remove_dir(b""), errno.EBUSY),
        (lambda: source.rename(b"", b"x"), errno.EBUSY),
        (lambda: source.rename(b"file", b""), errno.EBUSY),
        (lambda: source.make_dir(b"", Attributes(stat.S_IFDIR | 0o755)), errno.EEXIST),
    ):
        assert failing(call).errno == code
    said = source.change(b"", NewAttributes(mode=0o711))
    assert said == source.stat(b"")
    assert stat.S_IMODE(said.mode) == 0o711
    whole = seaweed.source()
    with contextlib.closing(whole):
        assert failing(lambda: whole.change(b"", NewAttributes(mode=0o711))).errno == errno.EBUSY
        write(whole, f"{root}/other".encode(), b"y")
        assert read_all(source, b"other") == b"y"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("assign volume: rpc error: No writable volumes and no free volumes left", errno.ENOSPC),
        ("assign volume result: No more free space left", errno.ENOSPC),
        ("write /a/no space: no space left on device", errno.ENOSPC),
        ("read only", errno.ENOSPC),
        ("fail to delete non-empty folder: /a/no space", errno.ENOTEMPTY),
        ("/a/no space: operation not permitted", errno.EPERM),
        ("/a/no space: something else", errno.EIO),
    ],
)
def test_what_the_filer_says_is_an_error(text: str, code: int) -> None:
    """The path is none of it, whatever it is called."""
    assert seaweed_filer._refusal(0, text, "/a/no space", "making").errno == code
