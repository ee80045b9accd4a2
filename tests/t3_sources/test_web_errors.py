"""Web servers that fail, move things or know no ranges: the errno, one line, no secret, never wrong bytes."""

from __future__ import annotations

import errno
import http.server
import json
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from support.source_kit import failing, listed, names_of, part, read_all
from support.webservers import Answer, Hostile, check_message, parts_of, respond, unused_port
from swmld.errors import UsageError
from swmld.sources.errors import Busy
from swmld.sources.interface import ROOT, Attributes, Source
from swmld.sources.opening import open_source
from swmld.sources.web_requests import AUTHORIZATION
from swmld.urls import parse

BODY = bytes(range(256)) * 40
TAG, CHANGED, SECOND = '"tag"', "Tue, 14 Nov 2023 22:13:20 GMT", 1_700_000_000 * 10**9
FILE = Attributes(0o100644, len(BODY), SECOND, SECOND, tag=TAG.encode())
HEADERS = {"ETag": TAG, "Last-Modified": CHANGED}
HUSH = "hush-hush"


@pytest.fixture(scope="module")
def hostile() -> Iterator[Hostile]:
    with Hostile() as server:
        yield server


@pytest.fixture(scope="module")
def other() -> Iterator[Hostile]:
    with Hostile() as server:
        yield server


@pytest.fixture
def source(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    hostile.answers.clear()
    hostile.asked.clear()
    monkeypatch.setenv(AUTHORIZATION, f"Bearer {HUSH}")
    source = open_source(parse(f"http://{hostile.address}/p"), timeout=20, parallel=2)
    yield source
    source.close()


line_of = partial(check_message, secrets=(HUSH,))
partly = parts_of(BODY, HEADERS)
RIGHT = partly(lambda first, last: (BODY[first : last + 1], {}))


def test_a_right_answer_is_read(source: Source, hostile: Hostile) -> None:
    hostile.answers["/p/file"] = RIGHT
    assert source.stat(b"file").tag == FILE.tag
    reader = source.open(b"file", FILE)
    assert part(reader, 100, 1000) == BODY[100:1100]
    assert reader.current()
    (_, _, headers) = hostile.asked[-1]
    assert headers["if-match"] == TAG
    assert headers["accept-encoding"] == "identity"
    assert headers["authorization"] == f"Bearer {HUSH}"


def test_weak_tags_are_not_asked_for(source: Source, hostile: Hostile) -> None:
    weak = {"ETag": 'W/"tag"'}
    hostile.answers["/p/file"] = partly(lambda first, last: (BODY[first : last + 1], weak))
    reader = source.open(b"file", Attributes(0o100644, len(BODY), SECOND, SECOND, tag=b'W/"tag"'))
    assert part(reader, 0, 10) == BODY[:10]
    assert "if-match" not in hostile.asked[-1][2]
    assert hostile.asked[-1][2]["if-unmodified-since"] == CHANGED


WRONG = {
    "truncated": partly(lambda first, last: (BODY[first:last], {}), length=0),
    "empty": partly(lambda first, last: (b"", {}), length=0),
    "another range": partly(
        lambda first, last: (
            BODY[: last + 1 - first],
            {"Content-Range": f"bytes 0-{last - first}/{len(BODY)}"},
        )
    ),
    "fewer": partly(
        lambda first, last: (BODY[first:last], {"Content-Range": f"bytes {first}-{last - 1}/{len(BODY)}"})
    ),
    "shorter than it says": partly(lambda first, last: (BODY[first:last], {})),
    "no range": partly(lambda first, last: (BODY[first : last + 1], {"Content-Range": "bytes */5"})),
    "in parts": partly(lambda first, last: (BODY[first : last + 1], {"Content-Range": ""})),
    "gzip": partly(lambda first, last: (BODY[first : last + 1], {"Content-Encoding": "gzip"})),
    "whole in gzip": respond(200, BODY, {**HEADERS, "Content-Encoding": "gzip"}),
    "whole, truncated": respond(200, BODY[:500], HEADERS, length=len(BODY)),
    "whole, too short": respond(200, BODY[:500], HEADERS),
}


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG)
def test_wrong_bodies_are_eio(source: Source, hostile: Hostile, answer: Answer) -> None:
    hostile.answers["/p/file"] = answer
    reader = source.open(b"file", FILE)
    error = failing(partial(part, reader, 100, 1000))
    assert error.errno == errno.EIO
    line_of(error, "/file")
    hostile.answers["/p/file"] = RIGHT
    assert part(reader, 100, 1000) == BODY[100:1100]


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": '"other"'},
        {"ETag": ""},
        {"Last-Modified": "Tue, 14 Nov 2023 22:13:21 GMT"},
        {"Content-Range": f"bytes 100-1099/{len(BODY) + 1}"},
    ],
)
def test_another_generation_is_estale(source: Source, hostile: Hostile, headers: dict[str, str]) -> None:
    """From a server that does not know If-Match."""
    hostile.answers["/p/file"] = partly(lambda first, last: (BODY[first : last + 1], headers))
    error = failing(partial(part, source.open(b"file", FILE), 100, 1000))
    assert error.errno == errno.ESTALE
    line_of(error, "/file")


def test_a_server_without_ranges(source: Source, hostile: Hostile, caplog: pytest.LogCaptureFixture) -> None:
    hostile.answers["/p/file"] = respond(200, BODY, HEADERS)
    with caplog.at_level(logging.WARNING):
        reader = source.open(b"file", FILE)
        for offset, length in ((0, 10), (100, 1000), (len(BODY) - 7, 100), (0, len(BODY))):
            assert part(reader, offset, length) == BODY[offset : offset + length]
    assert len([record for record in caplog.records if "whole files" in record.getMessage()]) == 1
    hostile.answers["/p/file"] = respond(200, BODY + b"more", HEADERS)
    assert failing(partial(part, reader, 100, 1000)).errno == errno.ESTALE


STATUSES = {
    401: errno.EACCES,
    403: errno.EACCES,
    404: errno.ENOENT,
    410: errno.ENOENT,
    412: errno.ESTALE,
    416: errno.ESTALE,
    500: errno.EIO,
    504: errno.ETIMEDOUT,
}


@pytest.mark.parametrize("status", STATUSES)
def test_statuses(source: Source, hostile: Hostile, status: int) -> None:
    hostile.answers |= {path: respond(status, HUSH.encode()) for path in ("/p/file", "/p/file/")}
    calls = (partial(part, source.open(b"file", FILE), 100, 1000), partial(source.stat, b"file"))
    for call in (*calls, partial(source.list, b"file")):
        error = failing(call)
        assert error.errno == STATUSES[status]
        line_of(error, "/file")


@pytest.mark.parametrize("status", [429, 503])
def test_busy(source: Source, hostile: Hostile, status: int) -> None:
    hostile.answers |= {path: respond(status, b"", {"Retry-After": "7"}) for path in ("/p/file", "/p/")}
    calls = (partial(part, source.open(b"file", FILE), 0, 1), partial(source.stat, b"file"))
    for call in (*calls, partial(source.list, ROOT)):
        error = failing(call)
        assert isinstance(error, Busy)
        assert error.retry_after == 7


def moved(to: str, status: int = 302) -> Answer:
    return respond(status, b"", {"Location": to})


def test_redirects_are_followed_without_the_credentials(
    source: Source, hostile: Hostile, other: Hostile
) -> None:
    hostile.answers |= {
        "/p/file": moved("/q/file"),
        "/q/file": moved(f"http://{other.address}/r?sign={HUSH}"),
    }
    other.answers["/r"] = RIGHT
    other.asked.clear()
    assert source.stat(b"file").size == len(BODY)
    assert part(source.open(b"file", FILE), 100, 1000) == BODY[100:1100]
    assert [asked for asked, _, _ in other.asked] == ["HEAD", "GET"]
    assert not any("authorization" in headers for _, _, headers in other.asked)
    assert all(headers["authorization"] for _, _, headers in hostile.asked)
    other.answers["/r"] = respond(403)
    line_of(failing(partial(source.stat, b"file")), "/file")


@pytest.mark.parametrize(
    ("to", "number"),
    [
        ("/p/file", errno.ELOOP),
        ("file:///etc/passwd", errno.EIO),
        ("http://h h/", errno.EIO),
        ("http://[", errno.EIO),
    ],
)
def test_redirects_that_are_not_followed(source: Source, hostile: Hostile, to: str, number: int) -> None:
    hostile.answers["/p/file"] = moved(to)
    for call in (partial(source.stat, b"file"), partial(part, source.open(b"file", FILE), 0, 10)):
        error = failing(call)
        assert error.errno == number
        line_of(error, "/file")


def test_a_redirect_to_a_slash_is_a_directory(source: Source, hostile: Hostile) -> None:
    page = b"<h1>Index of /p/d/</h1><a href='x'>x</a><a href='gone'>gone</a><a href='e/'>e</a>"
    hostile.answers |= {"/p/d": moved("d/", 301), "/p/d/": respond(200, page), "/p/d/x": RIGHT}
    assert source.stat(b"d").is_dir
    entries = dict(source.list(b"d").entries)
    assert {name: it.is_dir for name, it in entries.items()} == {b"e": True, b"x": False}
    assert entries[b"x"] == source.stat(b"d/x")
    assert read_all(source, b"d/x") == BODY


def test_a_directory_without_an_index(source: Source, hostile: Hostile) -> None:
    hostile.answers["/p/"] = respond(
        200, b"<html><title>Welcome</title></html>", {"Content-Type": "text/html"}
    )
    for call in (partial(source.list, ROOT), partial(source.stat, ROOT)):
        error = failing(call)
        assert error.errno == errno.EOPNOTSUPP
        assert "?manifest=" in str(error)


def test_what_has_no_length(source: Source, hostile: Hostile) -> None:
    def endless(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()

    hostile.answers["/p/file"] = endless
    error = failing(partial(source.stat, b"file"))
    assert error.errno == errno.EIO
    line_of(error, "/file")


@pytest.mark.parametrize("kind", ["refused", "name", "tls"])
def test_what_cannot_be_reached(hostile: Hostile, kind: str) -> None:
    places = {
        "refused": f"http://127.0.0.1:{unused_port()}/p",
        "name": "http://no-such-host.invalid/p",
        "tls": f"https://{hostile.address}/p",
    }
    source = open_source(parse(places[kind]), timeout=20, parallel=2)
    try:
        calls = (partial(part, source.open(b"file", FILE), 0, 10), partial(source.stat, b"file"))
        for call in (*calls, partial(source.list, b"file")):
            error = failing(call)
            assert error.errno == errno.EHOSTUNREACH
            line_of(error, "/file")
    finally:
        source.close()


@pytest.mark.parametrize("scheme", ["https", "s3"])
def test_certificates(scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of one's own authority: trusted with ``ca``, and not without."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of tests")
    with Hostile(tls=tmp_path) as server:
        server.answers |= {"/p/file": RIGHT, "/p": respond(200, b"<ListBucketResult></ListBucketResult>")}
        url = (
            f"https://{server.address}/p?"
            if scheme == "https"
            else f"s3://p?endpoint=https://{server.address}&"
        )
        trusting = open_source(parse(f"{url}ca={tmp_path}/ca.pem"), timeout=20, parallel=2)
        doubting = open_source(parse(url.rstrip("?&")), timeout=20, parallel=2)
        try:
            assert trusting.stat(b"file").size == len(BODY)
            found = Attributes(
                0o100644, len(BODY), SECOND, SECOND, tag=b"tag" if scheme == "s3" else TAG.encode()
            )
            assert part(trusting.open(b"file", found), 100, 1000) == BODY[100:1100]
            for call in (partial(doubting.stat, b"file"), partial(part, doubting.open(b"file", found), 0, 1)):
                error = failing(call)
                assert error.errno == errno.EHOSTUNREACH
                assert "certificate" in str(error)
                line_of(error, "/file")
        finally:
            trusting.close()
            doubting.close()


@pytest.fixture(params=["url", "relative", "path"])
def manifest(request: pytest.FixtureRequest, hostile: Hostile, tmp_path: Path) -> Iterator[Source]:
    lines = [
        {"path": "d/file", "size": len(BODY), "etag": TAG},
        {"path": "d/e/x", "size": 3},
        {"path": "a", "size": 1},
    ]
    body = json.dumps(lines).encode()
    (tmp_path / "list").write_bytes(body)
    hostile.answers.clear()
    hostile.asked.clear()
    hostile.answers |= {"/p/list": respond(200, body), "/p/d/file": RIGHT}
    places = {"url": f"http://{hostile.address}/p/list", "relative": "list", "path": str(tmp_path / "list")}
    url = f"http://{hostile.address}/p?manifest={places[request.param]}"
    source = open_source(parse(url), timeout=20, parallel=2)
    yield source
    source.close()


def test_manifests(manifest: Source, hostile: Hostile) -> None:
    assert listed(manifest, ROOT, 1) == [b"a", b"d"]
    assert names_of(manifest.list(b"d")) == [b"e", b"file"]
    assert manifest.stat(b"d/e").is_dir
    assert manifest.stat(b"d/file") == dict(manifest.list(b"d").entries)[b"file"]
    assert failing(partial(manifest.stat, b"b")).errno == errno.ENOENT
    assert failing(partial(manifest.list, b"a")).errno == errno.ENOTDIR
    assert failing(partial(manifest.list, b"b")).errno == errno.ENOENT
    assert len(hostile.asked) <= 1
    assert read_all(manifest, b"d/file") == BODY
    assert hostile.asked[-1][2]["if-match"] == TAG
    # As long as the manifest says, or not at all.
    reader = manifest.open(b"d/file", Attributes(0o100644, len(BODY) - 1))
    assert failing(partial(part, reader, 0, 10)).errno == errno.ESTALE


@pytest.mark.parametrize(
    ("body", "words"),
    [(b"a", "line 1"), (b"a 1\na/b 2", "/a is a file and a directory"), (b"[", "Expecting value")],
)
def test_manifests_that_cannot_be_read(hostile: Hostile, body: bytes, words: str) -> None:
    hostile.answers["/p/list"] = respond(200, body)
    source = open_source(parse(f"http://{hostile.address}/p?manifest=list"), timeout=20, parallel=1)
    try:
        for call in (partial(source.stat, b"a"), partial(source.list, ROOT)):
            error = failing(call)
            assert error.errno == errno.EIO
            assert words in str(error)
    finally:
        source.close()


def test_a_header_of_two_lines_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(AUTHORIZATION, f"{HUSH}\r\nX: y")
    with pytest.raises(UsageError, match="one line") as raised:
        open_source(parse("http://h/p"), timeout=1, parallel=1)
    assert HUSH not in str(raised.value)
