"""Google's and Azure's stores, as their protocols are: what is asked, and what becomes of the answers."""

from __future__ import annotations

import errno
import http.server
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest
from support.source_conformance import Can, MadeSource
from support.source_kit import content, failing, names_of, part, read_all
from support.source_writes import WrittenAttributes, WrittenFiles, WrittenNames, write
from support.webservers import Answer, Hostile, respond
from swmld.sources.errors import Busy
from swmld.sources.interface import ROOT, Attributes, Source
from swmld.sources.opening import open_source
from swmld.urls import parse

FILES = {"p/a": b"alpha", "p/d/x": b"xi", "p/d-1": b"dash", "p/e/": b"", "p/z": b"zeta"}
CHANGED = "Tue, 14 Nov 2023 22:13:20 GMT"
URLS = {
    "gs": "gs://b/p?endpoint=http://{}&anonymous=true",
    "az": "az://b/p?account=me&endpoint=http://{}&anonymous=true",
}
_GS = "<Contents><Key>{}</Key><LastModified>{}</LastModified><ETag>{}</ETag><Size>{}</Size></Contents>"
_AZ = (
    "<Blob><Name>{}</Name><Properties><Last-Modified>{}</Last-Modified><Etag>{}</Etag>"
    "<Content-Length>{}</Content-Length><Content-Type>x</Content-Type></Properties></Blob>"
)


class Cloud(Hostile):
    """Lists and gives ``files`` in both protocols, and takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.files = dict(FILES)
        self.tags: dict[str, str] = {}
        """Of files that were taken; the others' are made of their bytes."""
        self.tokens: dict[str, str] = {}
        self.parts: dict[tuple[str, str], bytes] = {}
        self.refusals: list[Answer] = []
        """What comes instead of the next changes."""
        self._changing = threading.RLock()
        self._numbers = itertools.count(1)
        self.answers["/b"] = self._list

    def __enter__(self) -> Cloud:
        super().__enter__()
        outer = self

        def change(self: http.server.BaseHTTPRequestHandler) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            outer.asked.append((self.command, self.path, headers))
            with outer._changing:
                (outer.refusals.pop(0) if outer.refusals else outer._change(self, headers, body))(self)

        handler: Any = self._server.RequestHandlerClass
        # An answer in one packet: its second would wait for the first to be acknowledged, 40 ms.
        handler.wbufsize, handler.disable_nagle_algorithm = -1, True
        handler.do_PUT = handler.do_POST = handler.do_DELETE = change
        return self

    def _change(
        self, request: http.server.BaseHTTPRequestHandler, headers: dict[str, str], body: bytes
    ) -> Answer:
        path, _, query = request.path.partition("?")
        asked = {name: value for name, (value,) in parse_qs(query, keep_blank_values=True).items()}
        key, azure = unquote(path).removeprefix("/b/"), "x-ms-version" in headers
        if asked.get("comp") == "batch":
            return self._batch(body)
        if request.command == "DELETE" and "uploadId" in asked:
            self.parts = {part: sent for part, sent in self.parts.items() if part[0] != key}
            return respond(204)
        if request.command == "DELETE":
            return respond(204 if self.take(key, None) else 404)
        if "uploads" in asked:
            self.tokens[key] = headers.get("x-goog-meta-swmld_token", "")
            return respond(200, b"<R><Bucket>b</Bucket><Key>k</Key><UploadId>up</UploadId></R>")
        if "partNumber" in asked or asked.get("comp") == "block":
            self.parts[key, asked.get("partNumber") or asked["blockid"]] = body
            return respond(201 if azure else 200, headers={"ETag": '"part"'})
        return self._put(key, headers, body, azure, "uploadId" in asked, asked.get("comp") == "blocklist")

    def _put(
        self, key: str, headers: dict[str, str], body: bytes, azure: bool, upload: bool, blocks: bool
    ) -> Answer:
        """One request, the end of an upload, or a copy."""
        token = headers.get("x-ms-meta-swmld_token" if azure else "x-goog-meta-swmld_token", "")
        source = headers.get("x-ms-copy-source") or headers.get("x-goog-copy-source")
        there = self.tag_of(key, quoted=True) if key in self.files else ""
        generation = headers.get("x-goog-if-generation-match")
        known = str(int(there.strip('"'), 16)) if there else "0"
        if headers.get("if-none-match") == "*" and there:
            return respond(409, b"<Error><Code>BlobAlreadyExists</Code></Error>")
        if headers.get("if-match", there) != there or (generation or known) != known:
            return respond(412)
        if source:
            old = unquote(source).partition("/b/" if azure else "b/")[2]
            if old not in self.files:
                return respond(404)
            body, token = self.files[old], self.tokens.get(old, "")
        elif upload or blocks:
            pattern = rb"<PartNumber>(\d+)<" if upload else rb"<Uncommitted>([^<]*)<"
            body = b"".join(self.parts.pop((key, found.decode())) for found in re.findall(pattern, body))
            token = token or self.tokens.get(key, "")
        self.take(key, body, token)
        headers = {"ETag": self.tag_of(key, quoted=True), "x-goog-generation": known}
        done = b"<R><ETag>%s</ETag></R>" % escape(headers["ETag"]).encode() if upload else b""
        return respond(201 if azure else 200, done, headers)

    def _batch(self, body: bytes) -> Answer:
        """Azure's many requests in one."""
        lines = b""
        for number, path in enumerate(re.findall(rb"DELETE (\S+) HTTP", body)):
            found = self.take(unquote(path.decode()).removeprefix("/b/"), None)
            status = b"202 Accepted" if found else b"404 The specified blob does not exist."
            lines += b"--x\r\nContent-Type: application/http\r\nContent-ID: %d\r\n\r\n" % number
            lines += b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n\r\n" % status
        return respond(202, lines + b"--x--\r\n", {"Content-Type": "multipart/mixed; boundary=x"})

    def take(self, key: str, body: bytes | None, token: str = "") -> bool:
        """Makes, replaces or (None) removes a file; whether there was one."""
        with self._changing:
            found = key in self.files
            if body is None:
                self.files.pop(key, None)
                self.answers.pop(f"/b/{key}", None)
            else:
                self.files[key], self.tokens[key] = body, token
                self.tags[key] = f"0x{next(self._numbers):x}"
                self.answers[f"/b/{key}"] = partial(self._give_key, key)
            return found

    def tag_of(self, key: str, *, quoted: bool) -> str:
        if key in self.tags:
            return f'"{self.tags[key]}"' if quoted else self.tags[key]
        return tag_of(self.files[key], quoted=quoted)

    def _give_key(self, key: str, request: http.server.BaseHTTPRequestHandler) -> None:
        with self._changing:
            found = self.files.get(key)
            tag, token = self.tag_of(key, quoted=True) if found is not None else "", self.tokens.get(key, "")
        if found is None:
            respond(404)(request)
        else:
            more = {"x-goog-meta-swmld_token": token, "x-ms-meta-swmld_token": token} if token else {}
            more["x-goog-generation"] = str(int(tag.strip('"'), 16))
            self._give(found, request, tag, more)

    def _list(self, request: http.server.BaseHTTPRequestHandler) -> None:
        query = {key: value for key, (value,) in parse_qs(urlsplit(request.path).query).items()}
        azure = query.get("comp") == "list"
        prefix, found, prefixes = query.get("prefix", ""), [], {}
        with self._changing:
            files = [(key, body, self.tag_of(key, quoted=not azure)) for key, body in self.files.items()]
        for key, body, tag in sorted(files):
            name, slash, _ = key.removeprefix(prefix).partition("/")
            if not key.startswith(prefix):
                continue
            if slash and "delimiter" in query:
                prefixes[prefix + name + "/"] = None
                continue
            changed = CHANGED if azure else "2023-11-14T22:13:20.000Z"
            found.append((_AZ if azure else _GS).format(escape(key), changed, tag, len(body)))
        if azure:
            found += [f"<BlobPrefix><Name>{escape(name)}</Name></BlobPrefix>" for name in prefixes]
            text = f"<EnumerationResults><Blobs>{''.join(found)}</Blobs><NextMarker/></EnumerationResults>"
        else:
            found += [
                f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in prefixes
            ]
            text = f"<ListBucketResult>{''.join(found)}</ListBucketResult>"
        respond(200, text.encode())(request)

    def serve(self) -> None:
        """The answers for the files as they are now."""
        self.tags.clear()
        for key, body in self.files.items():
            self.answers[f"/b/{key}"] = partial(self._give, body)

    def _give(
        self,
        body: bytes,
        request: http.server.BaseHTTPRequestHandler,
        tag: str = "",
        more: dict[str, str] | None = None,
    ) -> None:
        tag = tag or tag_of(body, quoted=True)
        headers = {"ETag": tag, "Last-Modified": CHANGED, "x-ms-blob-type": "BlockBlob", **(more or {})}
        if request.headers.get("If-Match") not in (None, tag):
            respond(412)(request)
        elif request.command == "HEAD":
            respond(200, body, headers)(request)
        else:
            named = request.headers.get("Range") or request.headers["x-ms-range"]
            first, last = map(int, named.removeprefix("bytes=").split("-"))
            headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
            respond(206, body[first : last + 1], headers)(request)


def tag_of(body: bytes, *, quoted: bool) -> str:
    return f'"0x{body.hex()}"' if quoted else f"0x{body.hex()}"


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with Cloud() as server:
        yield server


@pytest.fixture(params=URLS)
def source(request: pytest.FixtureRequest, cloud: Cloud) -> Iterator[Source]:
    cloud.files = dict(FILES)
    cloud.serve()
    cloud.asked.clear()
    source = open_source(parse(URLS[request.param].format(cloud.address)), timeout=20, parallel=2)
    yield source
    source.close()


def test_names_and_bytes(source: Source) -> None:
    entries = dict(source.list(ROOT).entries)
    assert list(entries) == [b"a", b"d", b"d-1", b"e", b"z"]
    assert [name for name, it in entries.items() if it.is_dir] == [b"d", b"e"]
    assert names_of(source.list(b"d")) == [b"x"]
    assert source.list(b"e").entries == ()
    for path in (b"a", b"d/x", b"d-1"):
        assert read_all(source, path) == FILES[f"p/{path.decode()}"]
    assert source.stat(b"a") == entries[b"a"]
    assert source.stat(b"d").is_dir
    assert source.stat(b"e").is_dir
    calls: list[Callable[[], object]] = [partial(source.stat, b"absent"), partial(source.list, b"absent")]
    assert {failing(call).errno for call in calls} == {errno.ENOENT}
    assert failing(lambda: source.list(b"a")).errno == errno.ENOTDIR


def test_a_directory_is_listed_once_for_all_its_pages(source: Source, cloud: Cloud) -> None:
    names, after = [], b""
    while True:
        page = source.list(ROOT, after, 1)
        names += names_of(page)
        if not page.more:
            break
        after = names[-1]
    assert names == [b"a", b"d", b"d-1", b"e", b"z"]
    assert len(cloud.asked) == 1
    cloud.files["p/b"] = b"beta"
    assert b"b" in names_of(source.list(ROOT))


def test_another_generation_is_estale(source: Source, cloud: Cloud) -> None:
    reader = source.open(b"a", dict(source.list(ROOT).entries)[b"a"])
    assert part(reader, 1, 3) == b"lph"
    cloud.files["p/a"] = b"ALPHA"
    cloud.serve()
    assert failing(lambda: part(reader, 1, 3)).errno == errno.ESTALE


def test_a_key_that_is_no_path_fails_its_own_directory_alone(source: Source, cloud: Cloud) -> None:
    cloud.files["p/q/\x7f"] = b"x"
    error = failing(lambda: source.list(b"q"))
    assert error.errno == errno.EIO
    assert "list /q" in str(error)
    assert b"q" in names_of(source.list(ROOT))


BODY = FILES["p/a"]


def whole(body: bytes) -> Answer:
    return respond(200, body, {"ETag": tag_of(BODY, quoted=True), "Last-Modified": CHANGED})


def ranged(said: str, *, tag: str = "alpha", length: int | None = None) -> Answer:
    headers = {"ETag": tag_of(tag.encode(), quoted=True), "Last-Modified": CHANGED, "Content-Range": said}
    first, last = map(int, said.removeprefix("bytes ").partition("/")[0].split("-"))
    body = BODY[first : last + 1]
    return respond(206, body if length is None else body[:-1], headers, length=length)


FAILING = {
    "busy": (respond(503, b"<Error><Code>SlowDown</Code>hush</Error>"), errno.EIO, "busy"),
    "forbidden": (
        respond(403, b"<Error><Code>AccessDenied</Code>hush</Error>"),
        errno.EACCES,
        "AccessDenied",
    ),
    "unknown": (respond(401, b"hush"), errno.EACCES, "HTTP 401"),
    "gone": (respond(404, b"hush"), errno.ENOENT, "read /a"),
    "changed": (respond(412, b"hush"), errno.ESTALE, "read /a"),
    # From a server that does not know If-Match.
    "another tag": (ranged("bytes 1-3/5", tag="other"), errno.ESTALE, "read /a"),
    "another size": (ranged("bytes 1-3/6"), errno.ESTALE, "read /a"),
    "shorter": (respond(416, b"hush"), errno.ESTALE, "HTTP 416"),
    "broken": (respond(500, b"hush"), errno.EIO, "HTTP 500"),
    "no ranges": (whole(BODY), errno.EIO, "cannot be what was asked for"),
    "another range": (ranged("bytes 0-1/5"), errno.EIO, "cannot be what was asked for"),
    "truncated": (ranged("bytes 1-3/5", length=3), errno.EIO, "ends too early"),
    "fewer": (ranged("bytes 1-2/5"), errno.EIO, "cannot be what was asked for"),
}


@pytest.mark.parametrize("kind", FAILING)
def test_what_obstore_says_is_understood(source: Source, cloud: Cloud, kind: str) -> None:
    """All of it by its text; and nothing of an answer's body is passed on."""
    reader = source.open(b"a", dict(source.list(ROOT).entries)[b"a"])
    cloud.answers["/b/p/a"], number, words = FAILING[kind]
    error = failing(partial(part, reader, 1, 3))
    assert error.errno == number
    assert isinstance(error, Busy) == (kind == "busy")
    assert words in str(error)
    assert "read /a" in str(error)
    assert "hush" not in str(error)
    assert len(str(error).splitlines()) == 1


UNIT = 20_000


class MadeCloud(MadeSource):
    """An empty prefix; the source is the same in all tests, as a new one reads the system's certificates."""

    can = Can.ONE_MAKER
    unit = UNIT

    def __init__(self, cloud: Cloud, source: Source) -> None:
        self.cloud, self.source = cloud, source
        for key in self.keys:
            cloud.take(f"made/{key}", None)
        cloud.asked.clear()
        cloud.refusals.clear()
        self.source.objects.part = UNIT  # type: ignore[attr-defined]
        self.refresh()

    def put(self, path: bytes, body: bytes) -> None:
        self.cloud.take(f"made/{path.decode()}", body)

    def remove(self, path: bytes) -> None:
        self.cloud.take(f"made/{path.decode()}", None)

    def refresh(self) -> None:
        self.source._keys.close()  # type: ignore[attr-defined]

    @property
    def keys(self) -> list[str]:
        return sorted(key.removeprefix("made/") for key in self.cloud.files if key.startswith("made/"))


@pytest.fixture(scope="module")
def sources(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Source]]:
    # An account whose requests go without a token, as emulators want it.
    names = ("client_email", "private_key", "private_key_id")
    account = {"gcs_base_url": f"http://{cloud.address}", "disable_oauth": True, **dict.fromkeys(names, "")}
    path = tmp_path_factory.mktemp("account") / "account"
    path.write_text(json.dumps(account))
    urls = (
        f"gs://b/made?endpoint=http://{cloud.address}",
        f"az://b/made?account=me&endpoint=http://{cloud.address}&anonymous=true",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GOOGLE_SERVICE_ACCOUNT", str(path))
        found = {url[:2]: open_source(parse(url), timeout=20, parallel=4) for url in urls}
    yield found
    for source in found.values():
        source.close()


@pytest.fixture(params=["gs", "az"])
def made(request: pytest.FixtureRequest, cloud: Cloud, sources: dict[str, Source]) -> MadeCloud:
    return MadeCloud(cloud, sources[request.param])


class TestWrites(WrittenFiles, WrittenNames, WrittenAttributes):
    """What reading is held to is above, since the cloud is as slow as its listings are whole."""


def test_what_was_lost_is_found_done(made: MadeCloud) -> None:
    def lost(request: http.server.BaseHTTPRequestHandler) -> None:
        made.cloud.take("made/file", b"new", "token")
        respond(500)(request)

    made.cloud.refusals = [lost]
    said = write(made.source, b"file", b"new", token="token")
    assert made.source.stat(b"file") == said
    made.cloud.refusals = [respond(500)]
    assert failing(lambda: write(made.source, b"file", b"newer", said)).errno == errno.EIO
    assert read_all(made.source, b"file") == b"new"


@pytest.mark.parametrize("there", [False, True])
def test_a_race_is_lost(made: MadeCloud, there: bool) -> None:
    old = write(made.source, b"file", b"old") if there else None

    def race(request: http.server.BaseHTTPRequestHandler) -> None:
        made.put(b"file", b"theirs")
        # The request's body is gone; the answer to its condition is what it would be.
        azure = made.source.name.startswith("az")
        conflict = b"<Error><Code>BlobAlreadyExists</Code></Error>"
        (respond(409, conflict) if azure and not there else respond(412))(request)

    made.cloud.refusals = [race]
    assert failing(lambda: write(made.source, b"file", b"ours", old)).errno == errno.ESTALE
    assert read_all(made.source, b"file") == b"theirs"
    conditions = {"if-match", "if-none-match", "x-goog-if-generation-match"}
    changes = [headers for method, _, headers in made.cloud.asked if method == "PUT"]
    assert all(conditions & set(headers) for headers in changes)


def test_parts_that_fail_leave_nothing(made: MadeCloud) -> None:
    old = write(made.source, b"file", b"old")
    steps = made.source.name.startswith("gs")
    made.cloud.refusals = [
        respond(200, b"<R><Bucket>b</Bucket><Key>k</Key><UploadId>up</UploadId></R>")
    ] * steps
    made.cloud.refusals += [respond(507)] * 4
    made.cloud.asked.clear()
    error = failing(lambda: write(made.source, b"file", content(3 * UNIT), old))
    assert error.errno == errno.ENOSPC
    assert "write /file" in str(error)
    assert "\n" not in str(error)
    made.cloud.refusals = []
    assert read_all(made.source, b"file") == b"old"
    aborted = [path for method, path, _ in made.cloud.asked if method == "DELETE"]
    assert len(aborted) == steps


def test_markers(made: MadeCloud) -> None:
    directory = Attributes(0o40755)
    made.source.make_dir(b"d", directory)
    assert made.keys == ["d_$folder$"]
    write(made.source, b"e/file", b"x")
    assert names_of(made.source.list(ROOT)) == [b"d", b"e"]
    made.source.remove(b"e/file")
    assert made.keys == ["d_$folder$", "e_$folder$"]
    # What the listing of before says of it is not believed.
    made.source.remove_dir(b"e")
    made.source.make_dir(b"e", directory)
    assert names_of(made.source.list(ROOT)) == [b"d", b"e"]
    for path in (b"d", b"e"):
        made.source.remove_dir(path)
    assert made.source.list(ROOT).entries == ()
    # A marker that obstore has no name for.
    made.put(b"f/", b"")
    made.refresh()
    assert failing(lambda: made.source.make_dir(b"f", directory)).errno == errno.EEXIST
    assert failing(lambda: made.source.remove_dir(b"f")).errno == errno.EOPNOTSUPP
    assert made.source.stat(b"f").is_dir


@pytest.mark.parametrize("copied", [None, b"", b"xx"])
def test_a_copy_that_is_none_removes_nothing(made: MadeCloud, copied: bytes | None) -> None:
    """Azure's may say that it will be made."""

    def begun(request: http.server.BaseHTTPRequestHandler) -> None:
        if copied is not None:
            made.cloud.take("made/new", copied, "token")
        respond(202)(request)

    write(made.source, b"old", b"x", token="token")
    made.cloud.refusals = [begun]
    error = failing(lambda: made.source.rename(b"old", b"new"))
    assert error.errno == (errno.ENOENT if copied is None else errno.EIO)
    assert read_all(made.source, b"old") == b"x"
