"""Index pages of web servers and manifests: what is read, and what is refused."""

# ruff: noqa: E501  pages as servers send them
from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swmld.sources.web_index import Entry, Line, read_html_index, read_json_index, read_manifest

NGINX = b"""<html>\r\n<head><title>Index of /data/</title></head>\r\n<body>\r\n<h1>Index of /data/</h1><hr><pre>
<a href="../">../</a>\r\n<a href="a%20b/">a b/</a>    22-Nov-2026 21:00    -
<a href="long-name-that-is-cut.tar">long-name-that..&gt;</a>   22-Nov-2026 21:00    12
<a href="a&amp;b">a&amp;b</a>  22-Nov-2026 21:00    1\n</pre><hr></body></html>"""
APACHE = b"""<!DOCTYPE HTML><html><head><title>Index of /data</title></head><body><h1>Index of /data</h1>
<table><tr><th><a href="?C=N;O=D">Name</a></th><th><a href="?C=M;O=A">Last modified</a></th></tr>
<tr><td><a href="/">Parent Directory</a></td></tr><tr><td><a href="file.bin">file.bin</a></td><td>1.2M</td></tr>
<tr><td><a href="sub/">sub/</a></td></tr></table><address>Apache/2.4</address></body></html>"""
PYTHON = b"""<html><head><title>Directory listing for /data/</title></head><body><h1>Directory listing for /data/</h1>
<ul><li><a href="%C3%A4">\xc3\xa4</a></li><li><a href="link%40">link@</a></li><li><a href="dir/">dir/</a></li></ul>"""
HOSTILE = b"""<h1>Index of /</h1><a href="https://h/data/ok">1</a><a href="/data/ok2">2</a><a href="//h/data/ok3">3</a>
<a href="http://h/data/plain">other scheme</a><a href="https://o/data/x">other host</a><a href="/etc/passwd">above</a>
<a href="../up">above</a><a href="a/b">deeper</a><a href="./">itself</a><a href="">none</a><a>none</a>
<a href="%2e%2e">dots</a><a href="a%2fb">slash</a><a href="a%00b">nul</a><a href="#top">here</a><a href="ok?x=1">query</a>
<a href="javascript:x">code</a><a href="mailto:x@y">mail</a><a href="https://[">none</a><a href="LONG">long</a>""".replace(
    b"LONG", b"n" * 256
)


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (NGINX, {b"a b": True, b"long-name-that-is-cut.tar": False, b"a&b": False}),
        (APACHE, {b"file.bin": False, b"sub": True}),
        (PYTHON, {"ä".encode(): False, b"link@": False, b"dir": True}),
        (HOSTILE, {b"ok": False, b"ok2": False, b"ok3": False}),
    ],
    ids=["nginx", "apache", "python", "hostile"],
)
def test_index_pages(page: bytes, expected: dict[bytes, bool]) -> None:
    assert dict(read_html_index(page, "https://h/data/")) == expected


@pytest.mark.parametrize(
    "page", [b"", b"<html><title>Welcome</title><a href='a'>a</a>", b"<p>Index of /</p>"]
)
def test_pages_that_are_none(page: bytes) -> None:
    with pytest.raises(ValueError, match="not an index"):
        read_html_index(page, "http://h/")


def test_json_of_nginx() -> None:
    found = b"""[{"name":"d", "type":"directory", "mtime":"Sun, 22 Nov 2026 21:00:00 GMT"},
    {"name":"f\xff", "type":"file", "size":7}, {"name":"..", "type":"directory"}, {"name":"a/b", "type":"file"}]"""
    assert read_json_index(found) == [Entry(b"d", True), Entry(b"f\xff", False)]


@pytest.mark.parametrize("found", [b"", b"{}", b"[1]", b'[{"type":"file"}]', b"null"])
def test_json_that_is_none(found: bytes) -> None:
    with pytest.raises(ValueError):
        read_json_index(found)


def test_manifests_as_text() -> None:
    text = b"# files\n\ntrain/0.tar 10\nother space 11\r\nwith space\t13\t1700000000\n"
    assert read_manifest(text) == {
        b"train/0.tar": Line(b"train/0.tar", 10),
        b"other space": Line(b"other space", 11),
        b"with space": Line(b"with space", 13, 1_700_000_000),
    }


def test_manifests_as_json() -> None:
    listed = [{"path": "a/b", "size": 1, "mtime": 5, "etag": '"x"'}, {"path": "c", "size": 2}]
    expected = {b"a/b": Line(b"a/b", 1, 5, '"x"'), b"c": Line(b"c", 2)}
    assert read_manifest(json.dumps(listed).encode()) == expected
    assert read_manifest(b' {"c": 2}') == {b"c": Line(b"c", 2)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"a", "line 1: expected a path"),
        (b"ok 1\na x", "line 2: expected a path"),
        (b"a\t1\t2\t3", "line 1: expected"),
        (b"/a 1", "line 1: this is no path"),
        (b"../a 1", "line 1: this is no path"),
        (b"a//b 1", "line 1: this is no path"),
        (b"a -1", "line 1: this is no path"),
        (b"a 9223372036854775808", "line 1: this is no path"),
        (b"a 1\na 1", "line 2: this path is there twice"),
        (b'[{"path": "a"}]', "entry 1: expected path and size"),
        (b'[{"path": 1, "size": 1}]', "entry 1: expected path and size"),
        (b"[3]", "entry 1: expected path and size"),
        (b'{"a": null}', "entry 1: expected path and size"),
        (b"[", "Expecting value"),
    ],
)
def test_manifests_that_are_refused(text: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_manifest(text)


@given(st.binary(max_size=60))
def test_anything_is_read_or_refused(text: bytes) -> None:
    for read in (read_manifest, read_json_index, lambda page: read_html_index(page, "http://h/d/")):
        for before in (b"", b"[", b"<h1>Index of <a href='"):
            with contextlib.suppress(ValueError, RecursionError):
                read(before + text)


# What no line of text can hold: ends of lines, and what looks like a comment or JSON.
NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0\n\r\t\x0b\x0c\x1c\x1d\x1e\x85"),
    min_size=1,
    max_size=9,
)
PATHS = NAMES.filter(lambda name: name not in (".", "..") and name[0] not in "#[{" and name.strip() == name)


@given(st.dictionaries(PATHS, st.integers(0, (1 << 63) - 1)))
def test_what_is_written_is_read(files: dict[str, int]) -> None:
    expected = {name.encode(): Line(name.encode(), size) for name, size in files.items()}
    assert read_manifest("".join(f"{name}\t{size}\n" for name, size in files.items()).encode()) == expected
    assert read_manifest("".join(f"{name} {size}\n" for name, size in files.items()).encode()) == expected
    assert read_manifest(json.dumps(files).encode()) == expected
