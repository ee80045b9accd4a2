"""A web server's files, read-only: names from index pages or a manifest, bytes by range requests.

- **Directories** are index pages of nginx (JSON or HTML), Apache and others, or what a manifest
  (``web_index``) says. An index tells rounded sizes and times, so every file that it lists is asked for by
  HEAD, several at once.
- **A generation** is size, Last-Modified and ETag. Each answer is held against them, whether or not the
  server knows If-Match and If-Unmodified-Since: bytes of two generations are never mixed.
- **A server without ranges** (200 instead of 206) sends a file from its start for each read: right, slow, and
  told once.

Nothing is asked for in gzip: a range of it would be one of other bytes.
"""

from __future__ import annotations

import email.utils
import errno
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urljoin

from swmld.sources import web_index
from swmld.sources.connections import Response
from swmld.sources.errors import failure
from swmld.sources.interface import LISTED, ROOT, Attributes, Change, Feature, Page, Reader, ReadOnly
from swmld.sources.owners import SECOND, Owners
from swmld.sources.threads import Threads
from swmld.sources.web_index import Entry, Line
from swmld.sources.web_requests import Requests
from swmld.urls import SourceUrl

_log = logging.getLogger("swmld.sources")

_WHOLE = 64 << 20
"""Bytes of an index or manifest at most."""

_FRESH = 60.0
"""Seconds for which an index serves its other pages, and a manifest everything."""

_KEPT = 4
"""Indexes kept at once for their other pages."""


class WebSource(ReadOnly):
    """What is below one URL."""

    def __init__(self, url: SourceUrl, *, timeout: float, parallel: int) -> None:
        """``timeout``: seconds for one request; ``parallel``: HEADs at once. ``UsageError`` for bad
        options."""
        self.name = url.name
        self.features = Feature.NONE
        path = quote(url.path)
        self._root = f"{url.scheme}://{url.host}/" + (f"{path}/" if path else "")
        self._owners = Owners(url)
        self._requests = Requests(url, timeout=timeout)
        self._threads = Threads(parallel)
        self._lock = threading.Lock()
        self._told = False
        self._indexes: dict[bytes, tuple[float, Sequence[Entry]]] = {}
        manifest = url.options.get("manifest", "")
        self._manifest = _Manifest(manifest, self._root, self._requests) if manifest else None

    def stat(self, path: bytes) -> Attributes:
        """See ``Source.stat``. Of the root the server is asked each time: that is how the mount sees that it
        is back."""
        what = f"stat {_shown(path)}"
        if self._manifest is not None:
            tree = self._manifest.tree(what)
            if path == ROOT:
                self._answers(what)
            if path in tree.directories:
                return self._owners.directory(path)
            if path not in tree.lines:
                raise failure(errno.ENOENT, what)
            return self._of_line(tree.lines[path])
        if path == ROOT:
            if ROOT in self._indexes:
                self._answers(what)
            self._index(path, what, fresh=False)
            return self._owners.directory(path)
        return self._head(path, what)

    def list(self, path: bytes, after: bytes = b"", limit: int = LISTED) -> Page:
        """See ``Source.list``."""
        what = f"list {_shown(path)}"
        if self._manifest is not None:
            return self._listed(self._manifest.tree(what), path, after, limit, what)
        entries = [entry for entry in self._index(path, what, fresh=not after) if entry.name > after]
        shown = entries[: max(limit, 1)]
        root = path + b"/" if path else b""
        found = self._threads.each(lambda entry: self._entry(root, entry), shown, what)
        present = tuple((entry.name, it) for entry, it in zip(shown, found, strict=True) if it is not None)
        if not present and len(entries) > len(shown):
            return self.list(path, shown[-1].name, limit)
        return Page(present, len(entries) > len(shown))

    def open(self, path: bytes, attributes: Attributes) -> Reader:
        """See ``Source.open``: asks nothing."""
        if not attributes.is_file:
            raise failure(errno.EISDIR, f"open {_shown(path)}")
        return WebReader(self._requests, self._url(path, "open"), path, attributes, self._without_ranges)

    def watch(self, tell: Callable[[Change], None], ready: Callable[[bool], None]) -> None:
        """EOPNOTSUPP: nobody tells."""
        raise failure(errno.EOPNOTSUPP, "watch")

    def close(self) -> None:
        """Ends connections, and calls that wait on them."""
        self._threads.close()
        self._requests.close()

    def _without_ranges(self) -> None:
        with self._lock:
            told, self._told = self._told, True
        if not told:
            _log.warning(
                "%s: the server sends whole files where a part is asked for: reads are slow", self.name
            )

    def _url(self, path: bytes, operation: str) -> str:
        if not all(web_index.is_name(part) for part in path.split(b"/")):
            raise failure(errno.ENOENT, f"{operation} {_shown(path)}")
        return self._root + quote(path)

    def _answers(self, what: str) -> None:
        """EHOSTUNREACH or ETIMEDOUT where the server does not answer; whatever it says is an answer."""
        try:
            self._requests.head(self._root, what)
        except OSError as error:
            if error.errno in (errno.EHOSTUNREACH, errno.ETIMEDOUT):
                raise

    def _head(self, path: bytes, what: str) -> Attributes:
        response, is_directory = self._requests.head(self._url(path, "stat"), what)
        if is_directory:
            return self._owners.directory(path)
        size = response.text(b"content-length")
        if not size.isdigit() or response.text(b"content-encoding") not in ("", "identity"):
            raise failure(errno.EIO, f"{what}: its length is not said")
        return self._owners.file(
            path, int(size), _changed(response) * SECOND, response.text(b"etag").encode()
        )

    def _entry(self, root: bytes, entry: Entry) -> Attributes | None:
        """None for what has gone since the index was made, and for a link that leads nowhere."""
        path = root + entry.name
        if entry.is_dir:
            return self._owners.directory(path)
        try:
            return self._head(path, f"stat {_shown(path)}")
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EACCES):
                return None
            raise

    def _index(self, path: bytes, what: str, *, fresh: bool) -> Sequence[Entry]:
        with self._lock:
            taken, entries = self._indexes.get(path, (0.0, []))
        if not fresh and taken and time.monotonic() - taken < _FRESH:
            return entries
        url = (self._url(path, "list") + "/") if path else self._root
        try:
            response, body = self._requests.get(url, what, limit=_WHOLE, accept="application/json, text/html")
        except FileNotFoundError:
            if path and not self._head(path, what).is_dir:
                raise failure(errno.ENOTDIR, what) from None
            raise
        kind = response.text(b"content-type").partition(";")[0].strip().lower()
        try:
            is_json = kind == "application/json"
            found = web_index.read_json_index(body) if is_json else web_index.read_html_index(body, url)
        except (ValueError, RecursionError):
            raise failure(errno.EOPNOTSUPP, f"{what}: no index of files; give ?manifest=") from None
        entries = sorted(found, key=lambda entry: entry.name)
        with self._lock:
            self._indexes.pop(path, None)
            self._indexes[path] = (time.monotonic(), entries)
            while len(self._indexes) > _KEPT:
                del self._indexes[next(iter(self._indexes))]
        return entries

    def _listed(self, tree: _Tree, path: bytes, after: bytes, limit: int, what: str) -> Page:
        if path not in tree.directories:
            raise failure(errno.ENOTDIR if path in tree.lines else errno.ENOENT, what)
        names = [name for name in tree.directories[path] if name > after]
        root = path + b"/" if path else b""
        entries = []
        for name in names[: max(limit, 1)]:
            line = tree.lines.get(root + name)
            entries.append((name, self._of_line(line) if line else self._owners.directory(root + name)))
        return Page(tuple(entries), len(names) > len(entries))

    def _of_line(self, line: Line) -> Attributes:
        return self._owners.file(line.path, line.size, line.mtime * SECOND, line.tag.encode())


class WebReader:
    """One generation of a file."""

    def __init__(
        self, requests: Requests, url: str, path: bytes, attributes: Attributes, slow: Callable[[], None]
    ) -> None:
        """``slow`` is called when the server sends more than it was asked for."""
        self.size = attributes.size
        self._requests, self._url, self._slow = requests, url, slow
        self._what = f"read {_shown(path)}"
        self._mtime, self._tag = attributes.mtime_ns // SECOND, attributes.tag.decode("latin-1")

    def read(self, view: memoryview, offset: int) -> int:
        """See ``Reader.read``."""
        wanted = min(len(view), self.size - offset)
        if wanted <= 0:
            return 0
        response = self._requests.read(self._url, view[:wanted], offset, self._conditions(), self._what)
        self._hold(response)
        if response.length != wanted:
            raise failure(errno.EIO, f"{self._what}: {response.length} bytes instead of {wanted}")
        if response.status == 200 and wanted < self.size:
            self._slow()
        return wanted

    def current(self) -> bool:
        """See ``Reader.current``."""
        if self._tag or self._mtime:
            return True
        response, is_directory = self._requests.head(self._url, self._what)
        return not is_directory and response.text(b"content-length") == str(self.size)

    def close(self) -> None:
        """Nothing is held."""

    def _conditions(self) -> dict[str, str]:
        """Weak ETags never match (RFC 9110, 13.1.1)."""
        if self._tag and not self._tag.startswith("W/"):
            return {"If-Match": self._tag}
        if self._mtime:
            return {"If-Unmodified-Since": email.utils.formatdate(self._mtime, usegmt=True)}
        return {}

    def _hold(self, response: Response) -> None:
        """What came against what was to come: ESTALE where it is another generation."""
        total = response.text(b"content-range").rpartition("/")[2] if response.status == 206 else ""
        if response.status == 200:
            total = response.text(b"content-length")
        same = total in ("*", str(self.size))
        if self._tag:
            same = same and response.text(b"etag") == self._tag
        if self._mtime and b"last-modified" in response.headers:
            same = same and _changed(response) == self._mtime
        if not same:
            raise failure(errno.ESTALE, self._what)


class _Tree(NamedTuple):
    """The files of a manifest, and the directories that they are in with their names in order."""

    lines: dict[bytes, Line]
    directories: dict[bytes, Sequence[bytes]]


class _Manifest:
    """A manifest, read again after a minute."""

    def __init__(self, place: str, root: str, requests: Requests) -> None:
        """``place``: a URL, an absolute path of this host, or a path below ``root``."""
        self._path = Path(place) if place.startswith("/") else None
        self._url = urljoin(root, place)
        self._requests = requests
        self._lock = threading.Lock()
        self._taken, self._tree = 0.0, _Tree({}, {})

    def tree(self, what: str) -> _Tree:
        """What it says now. EIO where it cannot be read."""
        with self._lock:
            if not self._taken or time.monotonic() - self._taken > _FRESH:
                self._tree, self._taken = self._read(f"{what}: manifest"), time.monotonic()
            return self._tree

    def _read(self, what: str) -> _Tree:
        if self._path is not None:
            try:
                body = self._path.read_bytes()
            except OSError as error:
                raise failure(error.errno or errno.EIO, f"{what} {self._path}") from None
        else:
            body = self._requests.get(self._url, what, limit=_WHOLE)[1]
        try:
            lines = web_index.read_manifest(body)
            return _Tree(lines, _directories(lines))
        except (ValueError, RecursionError) as error:
            raise failure(errno.EIO, f"{what}: {error}") from None


def _directories(paths: Iterable[bytes]) -> dict[bytes, Sequence[bytes]]:
    """Names by directory, in order; ValueError where a file is a directory as well."""
    names: dict[bytes, set[bytes]] = {ROOT: set()}
    files = set(paths)
    for path in files:
        while path:
            above, _, name = path.rpartition(b"/")
            names.setdefault(above, set()).add(name)
            path = above
    if both := files & names.keys():
        raise ValueError(f"{_shown(min(both))} is a file and a directory")
    return {directory: sorted(found) for directory, found in names.items()}


def _changed(response: Response) -> int:
    """Last-Modified in seconds; 0 where there is none, or none that can be read."""
    try:
        return int(email.utils.parsedate_to_datetime(response.text(b"last-modified")).timestamp())
    except ValueError:
        return 0


def _shown(path: bytes) -> str:
    return "/" + path.decode("utf-8", "backslashreplace")
