"""S3 sources on moto's server, and on SeaweedFS's gateway: the suite, and what only buckets have."""

from __future__ import annotations

import errno
import http.client
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from support.seaweed import Cluster
from support.source_conformance import (
    Can,
    Generations,
    MadeSource,
    Names,
    Pages,
    SourceConformance,
    Writes,
)
from support.source_kit import content, failing, names_of, read_all
from support.source_writes import WrittenFiles, write
from support.webservers import BUCKET, KEY, SECRET, MadeBucket, client_of, moto_server
from support.wholes import got
from swmld.sources.interface import ROOT
from swmld.sources.whole import is_plain, whole_of

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


@pytest.fixture(scope="module")
def moto() -> Iterator[tuple[str, Any]]:
    with moto_server() as endpoint:
        yield endpoint, client_of(endpoint)


@pytest.fixture(scope="module")
def gateway(seaweed: Cluster) -> tuple[str, Any]:
    endpoint = f"http://127.0.0.1:{seaweed.s3}"
    return endpoint, client_of(endpoint, "key", "secret-of-tests")


@pytest.fixture
def bucket(moto: tuple[str, Any]) -> Iterator[MadeBucket]:
    made = MadeBucket(moto[1], moto[0])
    yield made
    made.source.close()


UNIT = 20_000
"""Bytes of one request here, so that the tests write parts of some requests."""

LEAST = 5 << 20
"""Bytes of a part at least, as AWS and the gateway have it."""


class TestMoto(Names, Pages, Generations):
    """Not the rest of the suite: it is the same code for both servers, and moto is slow."""

    @pytest.fixture
    def made(self, bucket: MadeBucket) -> MadeSource:
        bucket.can = Can.EMPTY_DIRECTORIES
        return bucket


class TestMotoWrites(WrittenFiles):
    """It has conditions and conflicts as AWS has them; for names see there."""

    @pytest.fixture
    def made(self, bucket: MadeBucket, monkeypatch: pytest.MonkeyPatch) -> MadeSource:
        monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", UNIT)
        bucket.unit = bucket.source.objects.part = UNIT  # type: ignore[attr-defined]
        return bucket


class TestSeaweedGateway(Writes, SourceConformance):
    @pytest.fixture
    def made(self, gateway: tuple[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[MadeSource]:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        made = MadeBucket(gateway[1], gateway[0])
        made.impossible = frozenset([b"a\\b"])  # the gateway makes a slash of it
        made.unit = made.source.objects.part = LEAST  # type: ignore[attr-defined]
        yield made
        made.source.close()


@pytest.fixture(params=["moto", "gateway"])
def made(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[MadeBucket]:
    endpoint, client = request.getfixturevalue(request.param)
    if request.param == "gateway":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    made = MadeBucket(client, endpoint)
    yield made
    made.source.close()


def test_markers_collisions_and_keys_that_are_no_names(
    made: MadeBucket, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = "gateway" in request.node.callspec.id
    # A file system is behind the gateway: it has no object beside a directory of its name, and no empty name.
    hard = [] if gateway else ["a//b", "/x", "a/../c", "both", "tab\t"]
    for key in ["slash/", "hadoop_$folder$", "both/file", "a/b", *hard]:
        made.key(key)
    entries = dict(made.source.list(ROOT).entries)
    assert sorted(entries) == [b"a", b"both", b"hadoop", b"slash"]
    assert all(it.is_dir for it in entries.values())
    assert all(made.source.stat(name).is_dir for name in entries)
    assert made.source.list(b"slash").entries == ()
    assert made.source.list(b"hadoop").entries == ()
    assert names_of(made.source.list(b"a")) == [b"b"]
    assert made.source.left_out == (0 if gateway else 4)
    assert sum("left out" in record.getMessage() for record in caplog.records) == (not gateway)


def test_what_is_one_plain_get(made: MadeBucket) -> None:
    made.put(b"file", content(50_000))
    made.put(b"empty", b"")
    source = made.source
    reader = source.open(b"file", source.stat(b"file"))
    get = whole_of(reader)
    assert get is not None
    assert got(reader) == content(50_000)
    assert get.tag == source.stat(b"file").tag
    assert "Signature" not in repr(get)
    assert not is_plain(source.open(b"empty", source.stat(b"empty")))
    # Of another generation the server does not give it, or not with this ETag, which whoever asks compares.
    made.put(b"file", content(50_001)[1:])
    with socket.create_connection((get.ip, get.port), 20) as connection:
        connection.sendall(get.request)
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.status == 412 or response.headers["ETag"].strip('"') != get.tag.decode()


def test_the_gateway_holds_to_conditions(gateway: tuple[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of an upload, of a copy and of a removal too, which moto does not; and it counts."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    made = MadeBucket(gateway[1], gateway[0])
    source: Any = made.source
    bucket, source.objects.part = source.objects._bucket, LEAST
    ask = bucket.ask

    def races(method: str, key: str, **given: Any) -> Any:
        if (method, list(given.get("query") or {})) in (("POST", ["uploadId"]), ("DELETE", [])):
            made.put(b"file", b"theirs")
        if "x-amz-copy-source" in (given.get("headers") or {}):
            given["headers"] = {**given["headers"], "x-amz-copy-source-if-match": '"another"'}
        return ask(method, key, **given)

    try:
        old = write(source, b"file", b"old")
        monkeypatch.setattr(bucket, "ask", races)
        assert failing(lambda: write(source, b"file", content(LEAST + 1), old)).errno == errno.ESTALE
        assert read_all(source, b"file") == b"theirs"
        assert failing(lambda: source.rename(b"file", b"new")).errno == errno.ESTALE
        found = gateway[1].list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        assert [upload for upload in found if upload["Key"].startswith(made.prefix)] == []
        monkeypatch.setattr(bucket, "ask", ask)
        headers = {"x-amz-checksum-crc32c": "AAAAAA=="}
        answer = ask("PUT", f"{made.prefix}/bad", headers=headers, body=memoryview(b"x"), what="write /bad")
        assert (answer.status, answer.code) == (400, "BadDigest")
        assert names_of(source.list(ROOT)) == [b"file"]
    finally:
        source.close()
