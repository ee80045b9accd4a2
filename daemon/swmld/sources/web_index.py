"""What web servers and people write down as a list of files: index pages and manifests. Pure.

A manifest is text, one file a line: the path below the source's URL, its size in bytes and, where it is
known, the time of its last change in seconds since the epoch; between them a tab, or spaces where the path
has none at its end::

    # comment
    train/00000.tar 1073741824
    train/with space.tar\t1073741824\t1700000000

or JSON: ``[{"path": "train/00000.tar", "size": 1073741824, "mtime": 1700000000, "etag": "\"5f3-1\""}, …]``,
or ``{"train/00000.tar": 1073741824, …}``. Paths are as files are called, without ``%`` escapes. A file
without mtime and etag is taken never to change as long as its line stays the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

from swmld.sources.objects_order import LONGEST


class Line(NamedTuple):
    """One file of a manifest."""

    path: bytes
    size: int
    mtime: int = 0
    tag: str = ""


class Entry(NamedTuple):
    """One entry of an index page."""

    name: bytes
    is_dir: bool


def is_name(name: bytes) -> bool:
    """Whether a file can be called so."""
    return name not in (b"", b".", b"..") and not {0, 0x2F} & set(name) and len(name) <= LONGEST


def read_json_index(body: bytes) -> list[Entry]:
    """nginx's ``autoindex_format json``. ValueError if it is something else."""
    # nginx copies names as they are, whatever their encoding.
    found = json.loads(body.decode("utf-8", "surrogateescape"))
    if not isinstance(found, list) or not all(isinstance(item, dict) and "name" in item for item in found):
        raise ValueError("not a list of files")
    entries = [
        Entry(str(item["name"]).encode("utf-8", "surrogateescape"), item.get("type") == "directory")
        for item in found
    ]
    return [entry for entry in entries if is_name(entry.name)]


def read_html_index(body: bytes, url: str) -> list[Entry]:
    """The links of an index page at ``url`` that lead right below it. ValueError for a page that is none."""
    page = _Page()
    # Names are read from the links, which are ASCII; the rest may be in any encoding.
    page.feed(body.decode("utf-8", "replace"))
    page.close()
    if not page.is_index:
        raise ValueError("a page, and not an index of files")
    root, entries = urlsplit(url), {}
    for link in page.links:
        try:
            parts = urlsplit(urljoin(url, link))
        except ValueError:
            continue
        path = parts.path.removeprefix(root.path)
        if parts.query or parts[:2] != root[:2] or len(path) == len(parts.path):
            continue
        name = unquote_to_bytes(path.removesuffix("/"))
        if is_name(name):
            entries[name] = Entry(name, path.endswith("/"))
    return list(entries.values())


class _Page(HTMLParser):
    """Links, and whether title or heading say that this is an index (nginx, Apache, lighttpd, Python,
    Caddy)."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.links: list[str] = []
        self.is_index = False
        self._heading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._heading = tag in ("title", "h1")
        if tag == "a" and (link := dict(attrs).get("href")):
            self.links.append(link)

    def handle_endtag(self, tag: str) -> None:
        self._heading = False

    def handle_data(self, data: str) -> None:
        words = data.strip().lower()
        if self._heading and words.startswith(("index of", "directory listing", "folder contents")):
            self.is_index = True


def read_manifest(body: bytes) -> dict[bytes, Line]:
    """Files by path. ValueError with the line that cannot be read."""
    lines: dict[bytes, Line] = {}
    for number, line in _lines(body):
        if not all(is_name(part) for part in line.path.split(b"/")) or not 0 <= line.size < 1 << 63:
            raise ValueError(f"line {number}: this is no path of a file with its size")
        if line.path in lines:
            raise ValueError(f"line {number}: this path is there twice")
        lines[line.path] = line
    return lines


def _lines(body: bytes) -> Iterator[tuple[int, Line]]:
    if body.lstrip()[:1] in (b"[", b"{"):
        found: Any = json.loads(body)
        items = (
            [{"path": path, "size": size} for path, size in found.items()]
            if isinstance(found, dict)
            else found
        )
        for number, item in enumerate(items, start=1):
            yield number, _of_json(number, item)
        return
    for number, text in enumerate(body.splitlines(), start=1):
        if text.strip() and not text.startswith(b"#"):
            yield number, _of_text(number, text)


def _of_json(number: int, item: Any) -> Line:
    try:
        path = item["path"].encode("utf-8", "surrogateescape")
        return Line(path, int(item["size"]), int(item.get("mtime", 0)), str(item.get("etag", "")))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(f"entry {number}: expected path and size") from None


def _of_text(number: int, text: bytes) -> Line:
    path, *numbers = text.split(b"\t") if b"\t" in text else text.rsplit(None, 1)
    try:
        size, mtime = ([int(word) for word in numbers] + [0])[:2]
        if len(numbers) > 2:
            raise ValueError
    except ValueError:
        raise ValueError(f"line {number}: expected a path, its size and perhaps its time") from None
    return Line(path, size, mtime)
