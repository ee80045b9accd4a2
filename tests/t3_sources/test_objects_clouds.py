"""Google's and Azure's stores, as their protocols are: what is asked, and what becomes of the answers."""

from __future__ import annotations

import errno
import http.server
from collections.abc import Callable, Iterator
from functools import partial
from urllib.parse import parse_qs, urlsplit

import pytest
from support.source_kit import failing, names_of, part, read_all
from support.webservers import Hostile, respond
from swmld.sources.interface import ROOT, Source
from swmld.sources.urls import open_source, parse

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
    """Lists and gives ``files`` in both protocols."""

    def __init__(self) -> None:
        super().__init__()
        self.files = dict(FILES)
        self.answers["/b"] = self._list

    def _list(self, request: http.server.BaseHTTPRequestHandler) -> None:
        query = {key: value for key, (value,) in parse_qs(urlsplit(request.path).query).items()}
        azure = query.get("comp") == "list"
        prefix, found, prefixes = query.get("prefix", ""), [], {}
        for key, body in sorted(self.files.items()):
            name, slash, _ = key.removeprefix(prefix).partition("/")
            if not key.startswith(prefix):
                continue
            if slash and "delimiter" in query:
                prefixes[prefix + name + "/"] = None
                continue
            changed = CHANGED if azure else "2023-11-14T22:13:20.000Z"
            found.append(
                (_AZ if azure else _GS).format(key, changed, tag_of(body, quoted=not azure), len(body))
            )
        if azure:
            found += [f"<BlobPrefix><Name>{name}</Name></BlobPrefix>" for name in prefixes]
            text = f"<EnumerationResults><Blobs>{''.join(found)}</Blobs><NextMarker/></EnumerationResults>"
        else:
            found += [f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>" for name in prefixes]
            text = f"<ListBucketResult>{''.join(found)}</ListBucketResult>"
        respond(200, text.encode())(request)

    def serve(self) -> None:
        """The answers for the files as they are now."""
        for key, body in self.files.items():
            self.answers[f"/b/{key}"] = partial(self._give, body)

    def _give(self, body: bytes, request: http.server.BaseHTTPRequestHandler) -> None:
        tag = tag_of(body, quoted=True)
        headers = {"ETag": tag, "Last-Modified": CHANGED, "x-ms-blob-type": "BlockBlob"}
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
