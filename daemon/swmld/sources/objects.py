"""Buckets of S3, Google Cloud Storage and Azure; key prefixes are directories.

- **Bytes** come by conditional range requests (If-Match with the ETag of the listing or of HEAD), and what
  comes is held against ETag and size once more: not every server of the S3 protocol knows If-Match.
- **S3** is listed and read by requests of our own (``objects_s3``): page by page, in the order of names
  (``objects_order``), and straight into the caller's buffer.
- **The others** are listed whole by obstore, once for all pages of a directory (``objects_stores``), and read
  by it: its calls release the GIL, and its buffer is copied once.
- **A name is a directory** where keys are below it or it has a marker (``dir/``, ``dir_$folder$``): asked for
  at the same time as the object itself.
- **Keys that no file can be named by** (``a//b``, ``..``, control characters, over 255 bytes, not UTF-8) are
  left out of listings, counted in ``left_out``, and told once. Where obstore lists they fail it: EIO.

- **Changes**: ``objects_changes`` says what they mean for keys and markers, ``objects_writing`` (S3) and
  ``objects_putting`` (the others) how they are asked for.

Times are in whole seconds, as the headers of an object have them. Nothing is tried again here but the parts
of an upload, one by one.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

import obstore

from swmld.sources.errors import failure
from swmld.sources.interface import (
    LISTED,
    ROOT,
    Attributes,
    Change,
    Feature,
    NewAttributes,
    Page,
    Plain,
    Reader,
)
from swmld.sources.objects_changes import Changes, shown
from swmld.sources.objects_errors import spoken
from swmld.sources.objects_order import FOLDER, Key, is_name, page_of
from swmld.sources.objects_putting import StoreObjects
from swmld.sources.objects_s3 import MOST, Bucket, S3Reader, plain_tag
from swmld.sources.objects_stores import Whole, opened
from swmld.sources.objects_writing import S3Objects
from swmld.sources.owners import SECOND, Owners
from swmld.sources.threads import Threads
from swmld.urls import SourceUrl

_log = logging.getLogger("swmld.sources")


class ObjectSource(Plain):
    """One bucket, or what is below a prefix of it."""

    def __init__(self, url: SourceUrl, *, timeout: float, parallel: int) -> None:
        """``timeout``: seconds for one request; ``parallel``: threads for what is asked at once.

        ``UsageError`` for what cannot work; asks nothing."""
        self.name = url.name
        self.features = Feature.WRITE
        self.left_out = 0
        """Keys met in listings that no file can be named by; each time they are met."""
        self._base = url.path
        self._owners = Owners(url)
        self._store, bucket, chain = opened(url, timeout)
        if bucket is not None:
            self.features |= Feature.PARTS
        self._ready = chain.get if chain is not None else None
        self._keys: Bucket | Whole = bucket or (whole := Whole(self._store))
        self._threads = Threads(parallel)
        self.objects: S3Objects | StoreObjects
        self.objects = S3Objects(bucket, parallel) if bucket else StoreObjects(self._store, whole)
        """What is asked to change something."""
        self._changes = Changes(self.objects, url.path, self._threads.begin, self._is_empty_directory)

    def stat(self, path: bytes) -> Attributes:
        """See ``Source.stat``."""
        if path == ROOT:
            self._keys.page(self._prefix(path), limit=1, what="stat /")
            return self._owners.directory(path)
        key, what = self._key(path, "stat"), f"stat {shown(path)}"
        below = self._threads.begin(lambda: self._is_directory(key, what), what)
        try:
            found = self._head(path, key, what)
        except FileNotFoundError:
            found = None
        if below():
            return self._owners.directory(path)
        if found is not None:
            return found
        try:
            self._head(path, key + FOLDER, what)
        except FileNotFoundError:
            if isinstance(self._keys, Bucket) or not self._keys.marked(key, what):
                raise
        return self._owners.directory(path)

    def list(self, path: bytes, after: bytes = b"", limit: int = LISTED) -> Page:
        """See ``Source.list``."""
        prefix, what = self._prefix(path), f"list {shown(path)}"
        # Two more than are shown: the directory's own marker and the key that is only looked at.
        asked, token = min(max(limit, 1) + 2, MOST), ""
        start = _decodable(after)
        held: tuple[Key, ...] = ()
        while True:
            listed = self._keys.page(prefix, start, token=token, limit=asked, what=what)
            keys = [*held, *listed.keys]
            found, more = page_of(
                keys,
                bool(listed.token),
                after,
                limit,
                lambda name: self._is_beside(prefix + name, what),
            )
            self._leave_out(found.left_out, path)
            if found.entries or not more:
                break
            # The last was only looked at.
            token, held = listed.token, tuple(keys[-1:] if len(keys) > 1 else ())
        if not (listed.keys or after or token or path == ROOT) and not self.stat(path).is_dir:
            raise failure(errno.ENOTDIR, what)
        root = path + b"/" if path else b""
        entries = tuple(
            (key.name.encode(), self._attributes(root + key.name.encode(), key)) for key in found.entries
        )
        return Page(entries, more)

    def open(self, path: bytes, attributes: Attributes) -> Reader:
        """See ``Source.open``: asks nothing."""
        if not attributes.is_file:
            raise failure(errno.EISDIR, f"open {shown(path)}")
        key = self._key(path, "open")
        if isinstance(self._keys, Bucket):
            return S3Reader(self._keys, key, path, attributes)
        return ObjectReader(self._store, key, path, attributes)

    @staticmethod
    def opens_unasked(attributes: Attributes) -> bool:
        """See ``whole.opens_unasked``: ``open`` asks nobody, whatever the file."""
        return True

    def takes(self, path: bytes) -> None:
        """See ``Source.takes``."""
        self._changes.takes(path)

    def write(
        self,
        path: bytes,
        fd: int,
        size: int,
        attributes: Attributes,
        expected: Attributes | None,
        token: str,
    ) -> Attributes:
        """See ``Source.write``, and ``objects_changes`` for this and what follows."""
        made = self._changes.write(path, fd, size, expected, token)
        return self._owners.file(path, made.size, made.mtime * SECOND, made.tag)

    def remove(self, path: bytes) -> None:
        """See ``Source.remove``."""
        self._changes.remove(path)

    def make_dir(self, path: bytes, attributes: Attributes) -> Attributes:
        """See ``Source.make_dir``."""
        self._changes.make_dir(path)
        return self._owners.directory(path)

    def remove_dir(self, path: bytes) -> None:
        """See ``Source.remove_dir``."""
        self._changes.remove_dir(path)

    def rename(self, old: bytes, new: bytes) -> None:
        """See ``Source.rename``."""
        self._changes.rename(old, new)

    def change(self, path: bytes, new: NewAttributes) -> Attributes:
        """EOPNOTSUPP: the attributes are those of the URL's options."""
        raise failure(errno.EOPNOTSUPP, f"change {shown(path)}")

    def symlink(self, path: bytes, target: bytes, attributes: Attributes) -> Attributes:
        """EOPNOTSUPP."""
        raise failure(errno.EOPNOTSUPP, f"symlink {shown(path)}")

    def watch(self, tell: Callable[[Change], None], ready: Callable[[bool], None]) -> None:
        """EOPNOTSUPP: nobody tells."""
        raise failure(errno.EOPNOTSUPP, "watch")

    def close(self) -> None:
        """Ends what is asked here; obstore's requests end with their time limit."""
        self.objects.close()
        self._threads.close()
        self._keys.close()

    def _attributes(self, path: bytes, key: Key) -> Attributes:
        if key.is_dir:
            return self._owners.directory(path)
        return self._owners.file(path, key.size, key.mtime * SECOND, key.tag)

    def _head(self, path: bytes, key: str, what: str) -> Attributes:
        with spoken(what, self._ready):
            meta = obstore.head(self._store, key)
        changed = int(meta["last_modified"].timestamp()) * SECOND
        return self._owners.file(path, meta["size"], changed, plain_tag(meta["e_tag"]))

    def _is_directory(self, key: str, what: str) -> bool:
        """Whether there are keys below ``key``, its marker being one."""
        return bool(self._keys.page(f"{key}/", limit=1, deep=True, what=what).keys)

    def _is_empty_directory(self, path: bytes) -> bool:
        """Whether what is there is a directory; ENOENT."""
        return self.stat(path).is_dir

    def _is_beside(self, key: str, what: str) -> bool:
        """Whether ``key`` is a directory of the one that is being listed."""
        if isinstance(self._keys, Whole):
            return self._keys.marked(key, what)
        return self._is_directory(key, what)

    def _leave_out(self, names: Sequence[str], path: bytes) -> None:
        if names and not self.left_out:
            _log.warning(
                "%s: keys that no file can be named by are left out, the first in /%s: %r",
                self.name, shown(path), names[0][:80],
            )  # fmt: skip
        self.left_out += len(names)

    def _key(self, path: bytes, operation: str) -> str:
        """The key of a file. ENOENT where no key can be called so: keys are UTF-8."""
        try:
            key = (self._base + b"/" + path if self._base else path).decode()
        except UnicodeDecodeError:
            key = ""
        if not key or not all(is_name(part) for part in path.decode().split("/")):
            raise failure(errno.ENOENT, f"{operation} {shown(path)}")
        return key

    def _prefix(self, path: bytes) -> str:
        """What the keys of a directory begin with."""
        if path == ROOT:
            return self._base.decode() + "/" if self._base else ""
        return self._key(path, "list") + "/"


class ObjectReader:
    """One generation of an object of Google's or Azure's."""

    def __init__(self, store: Any, key: str, path: bytes, attributes: Attributes) -> None:
        self.size = attributes.size
        self._store, self._key, self._path, self._attributes = store, key, path, attributes

    def read(self, view: memoryview, offset: int) -> int:
        """See ``Reader.read``."""
        wanted = min(len(view), self.size - offset)
        if wanted <= 0:
            return 0
        what = f"read {shown(self._path)}"
        options: dict[str, Any] = {"range": (offset, offset + wanted)}
        if tag := self._attributes.tag:
            options["if_match"] = f'"{tag.decode()}"'
        with spoken(what):
            result = obstore.get(self._store, self._key, options=cast(Any, options))
            if not self._same(result.meta):
                raise failure(errno.ESTALE, what)
            found = result.bytes()
        if len(found) != wanted:
            raise failure(errno.EIO, f"{what}: {len(found)} bytes instead of {wanted}")
        view[:wanted] = memoryview(found)
        return wanted

    def current(self) -> bool:
        """See ``Reader.current``."""
        if self._attributes.tag:
            return True
        what = f"stat {shown(self._path)}"
        try:
            with spoken(what):
                return self._same(obstore.head(self._store, self._key))
        except FileNotFoundError:
            return False

    def _same(self, meta: Any) -> bool:
        expected = self._attributes
        if meta["size"] != expected.size:
            return False
        if expected.tag:
            return plain_tag(meta["e_tag"]) == expected.tag
        return int(meta["last_modified"].timestamp()) * SECOND == expected.mtime_ns

    def close(self) -> None:
        """Nothing is held."""


def _decodable(name: bytes) -> str:
    """As much of ``name`` as a key can begin with: what comes after it does so after ``name``, too."""
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        return name[: error.start].decode()
