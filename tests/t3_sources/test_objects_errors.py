"""Servers of the S3 protocol that fail: the errno, one line without a secret, never wrong bytes."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from functools import partial

import pytest
from support.source_kit import failing, names_of, part
from support.webservers import KEY, SECRET, Answer, Hostile, check_message, parts_of, respond, unused_port
from swmld.sources.errors import Busy
from swmld.sources.interface import ROOT, Attributes, Source
from swmld.sources.opening import open_source
from swmld.urls import parse

BODY = bytes(range(256)) * 40
TAG = '"tag"'
CHANGED = "Tue, 14 Nov 2023 22:13:20 GMT"
FILE = Attributes(0o100644, len(BODY), 1_700_000_000 * 10**9, 1_700_000_000 * 10**9, tag=b"tag")
HEADERS = {"ETag": TAG, "Last-Modified": CHANGED}
HUSH = "hush-hush"
"""In answers and redirects, where no message may take it from."""


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


@pytest.fixture(scope="module")
def hostile() -> Iterator[Hostile]:
    with Hostile() as server:
        yield server


def source_at(endpoint: str, options: str = "", timeout: float = 20.0) -> Source:
    return open_source(parse(f"s3://b/p?endpoint={endpoint}{options}"), timeout=timeout, parallel=2)


@pytest.fixture
def source(hostile: Hostile, credentials: None) -> Iterator[Source]:
    hostile.answers.clear()
    hostile.asked.clear()
    source = source_at(f"http://{hostile.address}")
    yield source
    source.close()


line_of = partial(check_message, secrets=(KEY, SECRET, HUSH, "Authorization", "Signature"))
partly = parts_of(BODY, HEADERS)
RIGHT = partly(lambda first, last: (BODY[first : last + 1], {}))


def test_a_right_answer_is_read(source: Source, hostile: Hostile) -> None:
    hostile.answers["/b/p/file"] = RIGHT
    reader = source.open(b"file", FILE)
    assert part(reader, 100, 1000) == BODY[100:1100]
    assert part(reader, len(BODY) - 5, 100) == BODY[-5:]
    assert reader.current()
    (_, _, headers), *_ = hostile.asked
    assert headers["if-match"] == TAG
    assert f"Credential={KEY}/" in headers["authorization"]
    assert all(asked == "GET" for asked, _, _ in hostile.asked)


SHORTER = (
    partly(lambda first, last: (BODY[first:last], {}), length=0),
    partly(lambda first, last: (b"", {}), length=0),
)
OTHER_BYTES = (
    respond(200, BODY, HEADERS),
    partly(
        lambda first, last: (
            BODY[: last + 1 - first],
            {"Content-Range": f"bytes 0-{last - first}/{len(BODY)}"},
        )
    ),
    partly(
        lambda first, last: (BODY[first:last], {"Content-Range": f"bytes {first}-{last - 1}/{len(BODY)}"})
    ),
    partly(lambda first, last: (BODY[first:last], {})),
    partly(lambda first, last: (BODY[first : last + 1], {"Content-Range": "bytes x-y/z"})),
)


@pytest.mark.parametrize("answer", SHORTER + OTHER_BYTES)
def test_wrong_bodies_are_eio(source: Source, hostile: Hostile, answer: Answer) -> None:
    hostile.answers["/b/p/file"] = answer
    error = failing(partial(part, source.open(b"file", FILE), 100, 1000))
    assert error.errno == errno.EIO
    line_of(error, "/file")


@pytest.mark.parametrize(
    "headers",
    [{"ETag": '"other"'}, {"ETag": ""}, {"Content-Range": f"bytes 100-1099/{len(BODY) + 1}"}],
)
def test_another_generation_is_estale(source: Source, hostile: Hostile, headers: dict[str, str]) -> None:
    """From a server that does not know If-Match."""
    hostile.answers["/b/p/file"] = partly(lambda first, last: (BODY[first : last + 1], headers))
    error = failing(partial(part, source.open(b"file", FILE), 100, 1000))
    assert error.errno == errno.ESTALE
    line_of(error, "/file")


STATUSES = {
    401: errno.EACCES,
    403: errno.EACCES,
    404: errno.ENOENT,
    412: errno.ESTALE,
    416: errno.ESTALE,
    400: errno.EIO,
    500: errno.EIO,
    502: errno.EIO,
}
ERROR = f"<Error><Code>SlowDown</Code><Message>{HUSH}</Message></Error>".encode()


@pytest.mark.parametrize("status", STATUSES)
def test_statuses(source: Source, hostile: Hostile, status: int) -> None:
    hostile.answers |= {"/b/p/file": respond(status, ERROR), "/b": respond(status, ERROR)}
    calls = (partial(part, source.open(b"file", FILE), 100, 1000), partial(source.stat, b"file"))
    for call in (*calls, partial(source.list, b"file")):
        error = failing(call)
        assert error.errno == STATUSES[status]
        line_of(error, "/file")


@pytest.mark.parametrize("status", [429, 503])
def test_busy(source: Source, hostile: Hostile, status: int) -> None:
    busy = respond(status, ERROR, {"Retry-After": "7"})
    hostile.answers |= {"/b/p/file": busy, "/b": busy}
    for call in (partial(source.list, b"file"), partial(part, source.open(b"file", FILE), 0, 10)):
        error = failing(call)
        assert isinstance(error, Busy)
        assert error.retry_after == 7
        line_of(error, "/file")
    assert isinstance(failing(partial(source.stat, b"file")), Busy)


@pytest.mark.parametrize("kind", ["refused", "name", "tls"])
def test_what_cannot_be_reached(hostile: Hostile, kind: str) -> None:
    places = {
        "refused": f"http://127.0.0.1:{unused_port()}",
        "name": "http://no-such-host.invalid",
        # It speaks no TLS.
        "tls": f"https://{hostile.address}",
    }
    source = source_at(places[kind])
    try:
        calls = (partial(part, source.open(b"file", FILE), 0, 10), partial(source.stat, b"file"))
        for call in (*calls, partial(source.list, b"file")):
            error = failing(call)
            assert error.errno == errno.EHOSTUNREACH
            line_of(error, "/file")
    finally:
        source.close()


def test_a_server_that_does_not_answer(credentials: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        source = source_at(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.3)
        try:
            for call in (partial(part, source.open(b"file", FILE), 0, 10), partial(source.list, b"file")):
                error = failing(call)
                assert error.errno == errno.ETIMEDOUT
                line_of(error, "/file")
        finally:
            source.close()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not XML",
        b"<html></html>",
        b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
        b"<ListBucketResult><Contents><Key>elsewhere</Key><Size>1</Size></Contents></ListBucketResult>",
        b"<ListBucketResult><Contents><Key>p/a</Key><Size>x</Size></Contents></ListBucketResult>",
        b"<ListBucketResult><Contents><Size>1</Size></Contents></ListBucketResult>",
    ],
)
def test_listings_that_are_none(source: Source, hostile: Hostile, body: bytes) -> None:
    hostile.answers["/b"] = respond(200, body)
    error = failing(partial(source.list, ROOT))
    assert error.errno == errno.EIO
    line_of(error, "list /")


def test_keys_that_xml_cannot_hold(source: Source, hostile: Hostile) -> None:
    keys = (b"p/a&#x1;b", b"p/a\x02b", b"p/\xff", b"p/good&amp;&#233;&#13;", b"p/good&amp;&#233;")
    rest = b"<Size>1</Size><LastModified>2023-11-14T22:13:20.123Z</LastModified>"
    body = b"".join(b"<Contents><Key>%s</Key>%s</Contents>" % (key, rest) for key in keys)
    hostile.answers["/b"] = respond(200, b'<ListBucketResult xmlns="any">%s</ListBucketResult>' % body)
    page = source.list(ROOT)
    assert names_of(page) == ["good&é".encode()]
    assert page.entries[0][1].mtime_ns == 1_700_000_000 * 10**9
    assert source.left_out == 4  # type: ignore[attr-defined]


def test_without_credentials_nothing_is_asked(
    monkeypatch: pytest.MonkeyPatch, hostile: Hostile, tmp_path: os.PathLike[str]
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    hostile.asked.clear()
    source = source_at(f"http://{hostile.address}")
    try:
        for call in (partial(part, source.open(b"file", FILE), 0, 10), partial(source.stat, b"file")):
            error = failing(call)
            assert error.errno == errno.EACCES
            assert "credentials of S3: none" in str(error)
        assert not hostile.asked
    finally:
        source.close()


def test_anonymous_requests_are_not_signed(hostile: Hostile) -> None:
    hostile.answers |= {"/b/p/file": RIGHT, "/b": respond(200, b"<ListBucketResult></ListBucketResult>")}
    hostile.asked.clear()
    source = source_at(f"http://{hostile.address}", "&anonymous=true")
    try:
        assert part(source.open(b"file", FILE), 0, 10) == BODY[:10]
        assert source.list(ROOT).entries == ()
    finally:
        source.close()
    assert len(hostile.asked) == 2
    assert not any("authorization" in headers for _, _, headers in hostile.asked)


def test_attributes_as_the_url_says(hostile: Hostile) -> None:
    hostile.answers["/b"] = respond(
        200,
        b"<ListBucketResult><Contents><Key>p/a</Key><Size>1</Size></Contents>"
        b"<CommonPrefixes><Prefix>p/d/</Prefix></CommonPrefixes></ListBucketResult>",
    )
    source = source_at(f"http://{hostile.address}", "&uid=7&gid=8&mode=600&dir_mode=0700")
    try:
        found = {name: (it.mode, it.uid, it.gid) for name, it in source.list(ROOT).entries}
    finally:
        source.close()
    assert found == {b"a": (0o100600, 7, 8), b"d": (0o040700, 7, 8)}
