"""A secured SeaweedFS with two replicas of everything, and what is read of it when parts of it fail."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from support.seaweed import MESSAGES, Cluster
from support.source_kit import content, failing, read_all
from support.source_writes import write
from support.wholes import got
from swmld.sources.errors import failure
from swmld.sources.http1 import Sent
from swmld.sources.interface import Reader
from swmld.sources.seaweed_filer import FilerClient
from swmld.sources.seaweedfs import SeaweedSource
from swmld.sources.whole import whole_of

pytestmark = pytest.mark.timeout(120)

KEY = "a key that nobody may see"
WRITE_KEY = "and one to write with"

UNWRITABLE = {errno.ENOSPC, errno.EIO, errno.ETIMEDOUT, errno.EHOSTUNREACH}


@pytest.fixture(scope="module")
def secured() -> Iterator[Cluster]:
    settings = {"WEED_JWT_SIGNING_READ_KEY": KEY, "WEED_JWT_SIGNING_KEY": WRITE_KEY}
    with Cluster(volumes=2, replication="001", settings=settings) as cluster:
        yield cluster


def _read(reader: Reader) -> bytes:
    view = memoryview(bytearray(reader.size))
    return bytes(view[: reader.read(view, 0)])


def _files(cluster: Cluster, source: SeaweedSource, name: str) -> dict[Reader, bytes]:
    """Files on several volumes, open."""
    found = {}
    for number in range(12):
        body = os.urandom(20_000)
        cluster.put(f"/f/{name}{number}", body)
        path = f"f/{name}{number}".encode()
        found[source.open(path, source.stat(path))] = body
    return found


def _refused(*_: object) -> None:
    raise failure(errno.ESTALE, "refused")


def test_without_the_key_all_is_read_through_the_filer(
    secured: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    source = secured.source()
    for reader, body in _files(secured, source, "proxied").items():
        assert _read(reader) == body
        assert got(reader) is None
    assert len([record for record in caplog.records if "refuse" in record.message]) == 1
    source.close()


def test_with_the_key_volume_servers_are_read(secured: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEED_JWT_SIGNING_READ_KEY", KEY)
    source = secured.source()
    # Nobody listens there.
    source._volumes._proxy = "127.0.0.1:1"
    for reader, body in _files(secured, source, "signed").items():
        assert _read(reader) == body
        assert got(reader) == body
        assert "Bearer" not in repr(whole_of(reader))
    source.close()


def test_a_wrong_key_is_no_harm_and_is_not_shown(
    secured: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WEED_JWT_SIGNING_READ_KEY", "wrong, but secret")
    source = secured.source()
    for reader, body in _files(secured, source, "wrong").items():
        assert _read(reader) == body
    shown = caplog.text + source.name + repr(vars(source))
    assert "secret" not in shown
    assert "Bearer" not in shown
    source.close()


@pytest.mark.parametrize("signed", ["by the master", "here"])
def test_writes_carry_a_token(secured: Cluster, monkeypatch: pytest.MonkeyPatch, signed: str) -> None:
    monkeypatch.setenv("WEED_JWT_SIGNING_READ_KEY", KEY)
    assign = FilerClient.assign
    given: list[Any] = []

    def assigned(*arguments: Any) -> Any:
        answer = assign(*arguments)
        given.append(MESSAGES["AssignVolumeResponse"].FromString(answer.SerializeToString()))
        assert answer.auth
        if signed == "here":
            answer.auth = ""
        return answer

    monkeypatch.setattr(FilerClient, "assign", assigned)
    if signed == "here":
        monkeypatch.setenv("WEED_JWT_SIGNING_KEY", WRITE_KEY)
    source = secured.source()
    source.writing.chunk = 1 << 16
    path = f"written {signed}".encode()
    write(source, path, content(200_000))
    assert read_all(source, path) == content(200_000)
    for number in range(20):  # of which most have the token of another one
        write(source, path + b" %d" % number, content(5000 + number))
    for number in range(20):
        assert read_all(source, path + b" %d" % number) == content(5000 + number)
    assert len(given) < 15
    assert source._volumes._refused == 0.0, "it was read through the filer"
    # Without one nothing is taken, and with it a chunk that no entry has is deleted.
    one = given[0]
    with tempfile.TemporaryFile() as file:
        error = failing(
            lambda: source._connections.put(one.location.url, f"/{one.file_id}", Sent(file.fileno(), 0, 5))
        )
    assert error.errno == errno.EACCES
    with monkeypatch.context() as patched:
        patched.setattr(FilerClient, "create", _refused)
        given.clear()
        assert failing(lambda: write(source, b"refused", content(100_000))).errno == errno.ESTALE
    for one in given:
        headers = source._security.volume_headers(one.file_id)
        error = failing(
            lambda: source._connections.get(one.location.url, f"/{one.file_id}", headers=headers)  # noqa: B023
        )
        assert error.errno == errno.ENOENT
    assert len(given) == 2
    source.close()


def test_a_volume_server_dies_and_its_replica_is_read(
    secured: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WEED_JWT_SIGNING_READ_KEY", KEY)
    source = secured.source()
    files = _files(secured, source, "replica")
    for reader, body in files.items():
        assert _read(reader) == body
    secured.kill("volume1")
    for _ in range(2):
        for reader, body in files.items():
            assert _read(reader) == body
    told = [record for record in caplog.records if "does not answer" in record.message]
    assert len(told) == 1
    # Two copies are asked for, so nothing can be written: what was there stays.
    old = source.stat(b"f/replica1")
    hasty = secured.source(timeout=2.0)
    assert failing(lambda: write(hasty, b"f/replica1", content(100_000), old)).errno in UNWRITABLE
    hasty.close()
    assert source.stat(b"f/replica1") == old
    # The filer hangs with the other volume server: what nobody can give is an error in time.
    with secured.stopped():
        hasty = secured.source(timeout=1.0)
        with pytest.raises(OSError) as caught:
            hasty.stat(b"f/replica1")
        assert caught.value.errno == errno.ETIMEDOUT
        hasty.close()
    assert _read(next(iter(files))) == next(iter(files.values()))
    source.close()
