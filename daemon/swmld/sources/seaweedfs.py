"""SeaweedFS as a source: names from the filer, bytes straight from the volume servers, both over HTTP.

``seaweed_names`` has what the filer is asked and why by HTTP, ``seaweed_chunks`` why generations do not mix,
``seaweed_volumes`` which server is read and what is done when it fails, ``seaweed_watch`` how changes come
(over gRPC, as where volumes are).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from urllib.parse import quote

from swmld.errors import UsageError
from swmld.sources.connections import TIMEOUT, Connections
from swmld.sources.errors import failure
from swmld.sources.interface import LISTED, Attributes, Change, Feature, Page, Reader, ReadOnly
from swmld.sources.seaweed_chunks import layout_of
from swmld.sources.seaweed_entries import Entry, attributes_of
from swmld.sources.seaweed_filer import FilerClient
from swmld.sources.seaweed_names import Names
from swmld.sources.seaweed_reader import SeaweedReader
from swmld.sources.seaweed_security import Security
from swmld.sources.seaweed_volumes import Volumes
from swmld.sources.seaweed_watch import Watch
from swmld.urls import SourceUrl

GRPC = 10_000
"""What a SeaweedFS server adds to its HTTP port for its gRPC, unless told otherwise."""


class SeaweedSource(ReadOnly):
    """The tree at ``url.path`` of the filer at ``url.host``; makes no request before it is asked
    something."""

    def __init__(self, url: SourceUrl, *, timeout: float = TIMEOUT, parallel: int = 32) -> None:
        """``timeout``: seconds for a call. ``parallel`` is kept to by the callers' number of threads.
        ``UsageError`` for what cannot be an address, and for keys that cannot be read."""
        del parallel
        self.name, self.features = url.name, Feature.WATCH
        self._root = f"/{_text(url.path)}" if url.path else ""
        http, grpc = addresses(url.host)
        security = Security.found()
        secure = url.scheme.endswith("+https")
        tls = security.https(url.options.get("ca", "")) if secure else None
        self._http, self._security = http, security
        self._connections = Connections(timeout=timeout, tls=tls)
        self._filer = FilerClient(grpc, timeout=timeout, certificates=security.grpc())
        self._names = Names(self._connections, http, security, self._filer)
        self._volumes = Volumes(self._filer, self._connections, http, security, timeout)
        self._watch = Watch(self._filer, self._root)

    def _entry(self, path: bytes) -> Entry:
        return self._names.entry(f"{self._root}/{_text(path)}" if path else self._root)

    def _attributes(self, entry: Entry, path: bytes) -> Attributes:
        return attributes_of(entry, b"%s/%s" % (self._root.encode(), path) if path else self._root.encode())

    def stat(self, path: bytes) -> Attributes:
        """See ``Source.stat``."""
        return self._attributes(self._entry(path), path)

    def list(self, path: bytes, after: bytes = b"", limit: int = LISTED) -> Page:
        """See ``Source.list``. In the order of the filer's store, which is that of bytes in all but some SQL
        databases; ``after`` is understood by the same store."""
        directory = f"{self._root}/{_text(path)}" if path else self._root
        entries, more = self._names.entries(directory, _text(after), limit)
        if not entries and not self.stat(path).is_dir:
            raise failure(errno.ENOTDIR, f"listing of {_shown(path)}")
        below = path + b"/" if path else b""
        names = [(entry.name.encode(), entry) for entry in entries]
        return Page(tuple((name, self._attributes(entry, below + name)) for name, entry in names), more)

    def open(self, path: bytes, attributes: Attributes) -> Reader:
        """See ``Source.open``. Asks the filer only for a file of many chunks. ESTALE; EOPNOTSUPP for files
        that only the S3 gateway can decrypt."""
        shown, tag = _shown(path), attributes.tag
        layout = layout_of(tag) if tag else layout_of(b"L")
        if layout is None:
            layout = self._entry(path).layout
            if layout.tag != tag:
                raise failure(errno.ESTALE, f"open of {shown}")

        def through(view: memoryview, offset: int) -> None:
            self._read_through(path, view, offset, attributes.size)

        def same() -> bool:
            return self.stat(path).tag == tag

        return SeaweedReader(shown, attributes.size, layout, self._volumes, through, same)

    def _read_through(self, path: bytes, view: memoryview, offset: int, size: int) -> None:
        """Fills ``view`` by the filer's HTTP, of the file that now is at ``path``."""
        response = self._connections.read(
            self._http,
            quote(f"{self._root}/{_text(path)}"),
            view,
            offset,
            whole=not offset and len(view) == size,
            headers=self._security.filer_headers(),
            what=_shown(path),
        )
        if response.length != len(view):
            raise failure(errno.EIO, f"read of {_shown(path)} through the filer: it ends too early")

    def watch(self, tell: Callable[[Change], None], ready: Callable[[bool], None]) -> None:
        """See ``Source.watch``."""
        self._watch.run(tell, ready)

    def close(self) -> None:
        """See ``Source.close``."""
        self._watch.close()
        self._filer.close()
        self._connections.close()


def addresses(host: str) -> tuple[str, str]:
    """HOST:PORT of HTTP and of gRPC, of ``HOST:PORT`` or as SeaweedFS writes another port,
    ``HOST:PORT.GRPC``."""
    name, _, ports = host.rpartition(":")
    http, _, grpc = ports.partition(".")
    if not name or not http.isdigit() or not (grpc or "0").isdigit():
        raise UsageError(f"source seaweedfs://{host}: expected HOST:PORT of the filer, such as filer:8888")
    return f"{name}:{http}", f"{name}:{grpc or int(http) + GRPC}"


def _text(path: bytes) -> str:
    """The filer's names are UTF-8, so nothing else is there; dots it would follow out of the root."""
    try:
        text = path.decode()
    except UnicodeDecodeError:
        raise failure(errno.ENOENT, _shown(path)) from None
    if any(part in (".", "..") for part in text.split("/")):
        raise failure(errno.ENOENT, _shown(path))
    return text


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace") or "the root"
