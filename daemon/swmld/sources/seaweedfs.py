"""SeaweedFS as a source: names from the filer, bytes straight from the volume servers, both over HTTP.

``seaweed_names`` has what the filer is asked and why by HTTP, ``seaweed_chunks`` why generations do not mix,
``seaweed_volumes`` which server is read and what is done when it fails, ``seaweed_watch`` how changes come
(over gRPC, as where volumes are), ``seaweed_writing`` how files are stored.
"""

from __future__ import annotations

import errno
import stat
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import quote

from swmld.errors import UsageError
from swmld.sources.connections import TIMEOUT, Connections
from swmld.sources.counting import SourceStats
from swmld.sources.errors import failure
from swmld.sources.interface import LISTED, Attributes, Change, Feature, NewAttributes, Page, Reader, Room
from swmld.sources.packed import PackedEntries
from swmld.sources.seaweed_chunks import layout_of, tells_layout
from swmld.sources.seaweed_entries import TOKEN, XATTR, Entry, attributes_of, entry_of, is_xattr, number_at
from swmld.sources.seaweed_filer import FilerClient
from swmld.sources.seaweed_filers import Address, Filers
from swmld.sources.seaweed_names import Names
from swmld.sources.seaweed_reader import SeaweedReader
from swmld.sources.seaweed_security import Security
from swmld.sources.seaweed_volumes import Volumes
from swmld.sources.seaweed_watch import Watch
from swmld.sources.seaweed_writing import Place, Writing
from swmld.urls import SourceUrl

LOOKED = 0.25
"""Seconds for which a directory that was there need not be looked at again before something is made in it.
One that another host removes meanwhile is made again, as by any other client of the filer."""

MOST_LOOKED = 1024
"""Directories that are remembered so."""

GRPC = 10_000
"""What a SeaweedFS server adds to its HTTP port for its gRPC, unless told otherwise."""


class SeaweedSource:
    """The tree at ``url.path`` of the filers at ``url.host``; makes no request before it is asked
    something."""

    def __init__(
        self,
        url: SourceUrl,
        *,
        timeout: float = TIMEOUT,
        parallel: int = 32,
        stats: SourceStats | None = None,
    ) -> None:
        """``timeout``: seconds for a call. ``parallel`` is kept to by the callers' number of threads.
        ``stats`` counts what is asked of one server in vain and then of another. ``UsageError`` for what
        cannot be an address, and for keys that cannot be read."""
        del parallel
        self.name = url.name
        self.features = Feature.WATCH | Feature.WRITE | Feature.MOVE | Feature.ATTRIBUTES
        self.features |= Feature.SYMLINK | Feature.XATTRS
        self._root = f"/{_text(url.path)}" if url.path else ""
        filers = Filers(addresses(url.host))
        security = Security.found()
        secure = url.scheme.endswith("+https")
        tls = security.https(url.options.get("ca", "")) if secure else None
        self._security = security
        self._connections = Connections(timeout=timeout, tls=tls)
        self._filer = FilerClient(filers, timeout=timeout, certificates=security.grpc())
        self._names = Names(self._connections, security, self._filer)
        self._volumes = Volumes(self._filer, self._connections, security, timeout, stats or SourceStats())
        self._watch = Watch(self._filer, self._root)
        self.writing = Writing(self._filer, self._connections, security, timeout)
        self._there: dict[str, float] = {}
        """When directories were last seen, not long ago."""

    def _entry(self, path: bytes) -> Entry:
        return self._names.entry(f"{self._root}/{_text(path)}" if path else self._root)

    def _attributes(self, entry: Entry, path: bytes) -> Attributes:
        return attributes_of(entry, self._in_filer(path))

    def _in_filer(self, path: bytes) -> bytes:
        return b"%s/%s" % (self._root.encode(), path) if path else self._root.encode()

    def number_at(self, path: bytes, attributes: Attributes) -> int:
        """See ``Source.number_at``. A file with hard links, now or before, has none of a path."""
        return number_at(self._in_filer(path), attributes.btime_ns)

    def takes(self, path: bytes) -> None:
        """See ``Source.takes``."""
        self._place(path, "write", errno.EISDIR)

    def stat(self, path: bytes) -> Attributes:
        """See ``Source.stat``."""
        return self._attributes(self._entry(path), path)

    def list(self, path: bytes, after: bytes = b"", limit: int = LISTED) -> Page:
        """See ``Source.list``. In the order of the filer's store, which is that of bytes in all but some SQL
        databases; ``after`` is understood by the same store."""
        directory = f"{self._root}/{_text(path)}" if path else self._root
        entries, more = self._names.page(directory, after, limit)
        if not entries and not self.stat(path).is_dir:
            raise failure(errno.ENOTDIR, f"listing of {_shown(path)}")
        if isinstance(entries, PackedEntries):
            return Page(entries, more)
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

    @staticmethod
    def opens_unasked(attributes: Attributes) -> bool:
        """See ``whole.opens_unasked``: the tag of a file of few chunks holds them."""
        return tells_layout(attributes.tag)

    def _read_through(self, path: bytes, view: memoryview, offset: int, size: int) -> None:
        """Fills ``view`` by the filer's HTTP, of the file that now is at ``path``."""
        filers, target = self._filer.filers, quote(f"{self._root}/{_text(path)}")
        headers = self._security.filer_headers()
        whole = not offset and len(view) == size
        response = filers.ask(
            lambda number: self._connections.read(
                filers.addresses[number].http,
                target,
                view,
                offset,
                whole=whole,
                headers=headers,
                what=_shown(path),
            )
        )
        if response.length != len(view):
            raise failure(errno.EIO, f"read of {_shown(path)} through the filer: it ends too early")

    def write(
        self,
        path: bytes,
        fd: int,
        size: int,
        attributes: Attributes,
        expected: Attributes | None,
        token: str,
    ) -> Attributes:
        """See ``Source.write``. What is replaced keeps its extended attributes and its other names. ENOSPC
        also for a bucket over its quota, and while no volume can be written to."""
        place, shown = self._place(path, "write", errno.EISDIR), f"write of {_shown(path)}"
        if expected is None and size <= self.writing.chunk:
            # What is small is sent unasked: the filer makes no file twice.
            self._directory(place)
            try:
                return self._translated(self.writing.write(place, fd, size, attributes, token, None), path)
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
        elif expected is not None and (made := self._unasked(place, path, expected)) is not None:
            try:
                return self._translated(self.writing.write(place, fd, size, attributes, token, made), path)
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
        before = self._message(place)
        if before is None:
            if expected is not None:
                raise failure(errno.ESTALE, shown)
            self._directory(place)
        else:
            if before.is_directory:
                raise failure(errno.EISDIR, shown)
            if before.extended.get(TOKEN) == token.encode():
                return self._translated(before, path)
            if expected is None or not _is_same(self._translated(before, path), expected):
                raise failure(errno.ESTALE, shown)
        return self._translated(self.writing.write(place, fd, size, attributes, token, before), path)

    def _unasked(self, place: Place, path: bytes, expected: Attributes) -> Any | None:
        """The entry of ``expected`` where we have made it ourselves."""
        entry = self._filer.latest(*place)
        return entry if entry is not None and _is_same(self._translated(entry, path), expected) else None

    def remove(self, path: bytes) -> None:
        """See ``Source.remove``."""
        place = self._place(path, "removal", errno.EISDIR, new=False)
        if self._names.entry(place.path).is_dir:
            raise failure(errno.EISDIR, f"removal of {_shown(path)}")
        self._filer.delete(*place)

    def make_dir(self, path: bytes, attributes: Attributes) -> Attributes:
        """See ``Source.make_dir``."""
        place = self._place(path, "making", errno.EEXIST)
        self._directory(place)
        mode = stat.S_IFDIR | stat.S_IMODE(attributes.mode)
        return self._translated(self.writing.make(place, replace(attributes, mode=mode)), path)

    def remove_dir(self, path: bytes) -> None:
        """See ``Source.remove_dir``; EBUSY for the root."""
        place = self._place(path, "removal", errno.EBUSY, new=False)
        if not self._names.entry(place.path).is_dir:
            raise failure(errno.ENOTDIR, f"removal of {_shown(path)}")
        self._filer.delete(*place)
        self._there.clear()

    def rename(self, old: bytes, new: bytes) -> None:
        """See ``Source.rename``; EBUSY for the root. One operation where the filer's store has transactions:
        without them a directory's entries move one by one."""
        source = self._place(old, "rename", errno.EBUSY, new=False)
        target = self._place(new, "rename", errno.EBUSY)
        shown = f"rename of {_shown(old)} to {_shown(new)}"
        is_dir = self._names.entry(source.path).is_dir
        if source == target:
            return
        if is_dir and target.path.startswith(f"{source.path}/"):
            raise failure(errno.EINVAL, shown)
        try:
            found = self._names.entry(target.path)
        except FileNotFoundError:
            self._directory(target)
        else:
            if found.is_dir != is_dir:
                raise failure(errno.EISDIR if found.is_dir else errno.ENOTDIR, shown)
            # Filers before 4 would put what is moved beside what is there.
            if found.is_dir and self._names.entries(target.path, b"", 1)[0]:
                raise failure(errno.ENOTEMPTY, shown)
        self._filer.rename(source, target)
        if is_dir:
            self._there.clear()

    def change(self, path: bytes, new: NewAttributes) -> Attributes:
        """See ``Source.change``; EBUSY for the filer's root."""
        place = self._place(path, "change", 0 if self._root else errno.EBUSY, new=False)
        return self._translated(self.writing.change(place, new), path)

    def symlink(self, path: bytes, target: bytes, attributes: Attributes) -> Attributes:
        """See ``Source.symlink``. EILSEQ for what is not UTF-8, which the filer cannot keep."""
        place = self._place(path, "making", errno.EEXIST)
        self._directory(place)
        try:
            link = target.decode()
        except UnicodeDecodeError:
            raise failure(errno.EILSEQ, f"making of {_shown(path)}") from None
        given = replace(attributes, mode=stat.S_IFLNK | 0o777)
        return self._translated(self.writing.make(place, given, link), path)

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """See ``Source.xattrs``: those that ``weed mount`` shows, too."""
        directory, _, name = f"{self._root}/{_text(path)}".rstrip("/").rpartition("/")
        extended = self._filer.entry(directory or "/", name).extended
        return {key[len(XATTR) :].encode(): value for key, value in extended.items() if is_xattr(key)}

    def room(self) -> Room | None:
        """See ``Source.room``: the cluster's, as ``weed mount`` shows it; used is what the bucket uses, if it
        is in one, since the filer gives each a collection of its own."""
        parts = self._root.split("/")
        bucket = parts[2] if parts[1:2] == ["buckets"] and len(parts) > 2 else ""
        size, used = self._filer.statistics(bucket)
        return Room(size, used) if size else None

    def set_xattr(self, path: bytes, name: bytes, value: bytes | None) -> Attributes:
        """See ``Source.set_xattr``; EBUSY for the filer's root, EILSEQ for names that are not UTF-8, which
        the filer cannot keep, EPERM for the one that writes are known by."""
        shown = f"change of {_shown(name)} of {_shown(path)}"
        place = self._place(path, "change", 0 if self._root else errno.EBUSY, new=False)
        try:
            text = name.decode()
        except UnicodeDecodeError:
            raise failure(errno.EILSEQ, shown) from None
        if XATTR + text == TOKEN:
            raise failure(errno.EPERM, shown)
        return self._translated(self.writing.set_xattr(place, text, value), path)

    def _place(self, path: bytes, what: str, root: int, *, new: bool = True) -> Place:
        """``root``: the error for it, if any. ENOENT for what can be no name; EILSEQ for a new one that is
        not UTF-8, which the filer cannot keep."""
        what = f"{what} of {_shown(path)}"
        if not path and root:
            raise failure(root, what)
        try:
            parts = f"{self._root[1:]}/{path.decode()}".strip("/").split("/")
        except UnicodeDecodeError:
            raise failure(errno.EILSEQ if new else errno.ENOENT, what) from None
        if any(
            part in ("", ".", "..") or "\0" in part for part in (*parts, *path.decode().split("/")) if path
        ):
            raise failure(errno.ENOENT, what)
        return Place("/" + "/".join(parts[:-1]), parts[-1])

    def _directory(self, place: Place) -> None:
        """ENOENT, ENOTDIR: the filer would make directories of all that leads there."""
        directory, now = place.directory.rstrip("/"), time.monotonic()
        if not directory or now - self._there.get(directory, -LOOKED) < LOOKED:
            return
        if not self._names.entry(directory).is_dir:
            raise failure(errno.ENOTDIR, directory)
        if len(self._there) >= MOST_LOOKED:
            self._there.clear()
        self._there[directory] = now

    def _told(self, tell: Callable[[Change], None], change: Change) -> None:
        if change.tree:
            self._there.clear()
        tell(change)

    def _message(self, place: Place) -> Any | None:
        try:
            return self._filer.entry(*place)
        except FileNotFoundError:
            return None

    def _translated(self, message: Any, path: bytes) -> Attributes:
        return self._attributes(entry_of(message), path)

    def watch(self, tell: Callable[[Change], None], ready: Callable[[bool], None]) -> None:
        """See ``Source.watch``."""
        self._watch.run(partial(self._told, tell), ready)

    def close(self) -> None:
        """See ``Source.close``."""
        self._watch.close()
        self.writing.close()
        self._filer.close()
        self._connections.close()


def addresses(hosts: str) -> list[Address]:
    """Of HTTP and of gRPC, of ``HOST:PORT`` or as SeaweedFS writes another port, ``HOST:PORT.GRPC``; several
    with commas between them."""
    found = []
    for host in hosts.split(","):
        name, _, ports = host.rpartition(":")
        http, _, grpc = ports.partition(".")
        if not name or not http.isdigit() or not (grpc or "0").isdigit():
            raise UsageError(f"source seaweedfs://{hosts}: expected HOST:PORT of filers, such as filer:8888")
        found.append(Address(f"{name}:{http}", f"{name}:{grpc or int(http) + GRPC}"))
    return found


def _is_same(found: Attributes, expected: Attributes) -> bool:
    """Whether they are of one generation: who owns it and who may read it do not matter."""
    one, two = (
        (attributes.ino, attributes.size, attributes.mtime_ns, attributes.tag)
        for attributes in (found, expected)
    )
    return one == two


def _text(path: bytes) -> str:
    """The filer's names are UTF-8, so nothing else is there; dots it would follow out of the root, and it
    takes several slashes for one."""
    try:
        text = path.decode()
    except UnicodeDecodeError:
        raise failure(errno.ENOENT, _shown(path)) from None
    if text and any(part in ("", ".", "..") for part in text.split("/")):
        raise failure(errno.ENOENT, _shown(path))
    return text


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace") or "the root"
