"""Sources around a source: what ``retrying``, ``limiting``, ``hedging``, ``injecting``, ``counting`` share.

Each is a ``Source`` and may stand around any other, so a pipeline is put together from the inside out, as
``Counting(Retrying(Limiting(Counting(source))))``: the outer one counts what was asked for, the inner one
what the source was asked. ``watch`` is handed on as it is: it is one call for as long as the source lives.
"""

from __future__ import annotations

import enum
import errno
import os
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from swmld.sources.interface import (
    LISTED,
    ROOT,
    Attributes,
    Change,
    NewAttributes,
    Page,
    Reader,
    Room,
    Source,
)
from swmld.sources.whole import Get, in_one, is_plain, opens_unasked, whole_of

T = TypeVar("T")


class Kind(enum.Enum):
    """What a source is asked."""

    STAT = "stat"
    LIST = "list"
    OPEN = "open"
    READ = "read"
    CURRENT = "current"
    WRITE = "write"
    REMOVE = "remove"
    MAKE_DIR = "make_dir"
    REMOVE_DIR = "remove_dir"
    RENAME = "rename"
    CHANGE = "change"
    SYMLINK = "symlink"
    XATTRS = "xattrs"
    SET_XATTR = "set_xattr"
    ROOM = "room"


class Clock(Protocol):
    """Where time comes from, and how it is waited for."""

    def now(self) -> float:
        """Seconds that never go back."""
        ...

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Until ``event`` is set (True) or so many seconds have passed."""
        ...


class _Monotonic:
    def now(self) -> float:
        return time.monotonic()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return event.wait(seconds)


MONOTONIC: Clock = _Monotonic()


class Wrapper:
    """Hands everything on; what stands around a source overrides ``around``, ``read`` or both. Whoever has
    nothing to do with a read that goes well may say so: ``passes``, and ``whole`` if it is to hear of it."""

    passes = False
    """Files may be opened and read past it, where that asks nobody or is one GET (``sources.whole``)."""

    def __init__(self, inner: Source) -> None:
        self.inner = inner
        self.name = inner.name
        self.features = inner.features

    def around(self, kind: Kind, path: bytes, call: Callable[[], T]) -> T:
        """Makes one call of the inner source; reads come here from ``read`` alone."""
        return call()

    def read(self, reader: WrappedReader, view: memoryview, offset: int) -> int:
        """Makes one ``Reader.read`` of the inner source."""
        return self.around(Kind.READ, reader.path, lambda: reader.inner.read(view, offset))

    def whole(self, reader: WrappedReader) -> Get | None:
        """See ``whole.whole_of``; only where ``passes``."""
        return whole_of(reader.inner)

    def stat(self, path: bytes) -> Attributes:
        """See ``Source.stat``."""
        return self.around(Kind.STAT, path, lambda: self.inner.stat(path))

    def list(self, path: bytes, after: bytes = b"", limit: int = LISTED) -> Page:
        """See ``Source.list``."""
        return self.around(Kind.LIST, path, lambda: self.inner.list(path, after, limit))

    def open(self, path: bytes, attributes: Attributes) -> Reader:
        """See ``Source.open``."""
        if self.opens_unasked(attributes):
            return WrappedReader(self, path, self.inner.open(path, attributes))
        inner = self.around(Kind.OPEN, path, lambda: self.inner.open(path, attributes))
        return WrappedReader(self, path, inner)

    def opens_unasked(self, attributes: Attributes) -> bool:
        """See ``whole.opens_unasked``."""
        return self.passes and opens_unasked(self.inner, attributes)

    def write(
        self,
        path: bytes,
        fd: int,
        size: int,
        attributes: Attributes,
        expected: Attributes | None,
        token: str,
    ) -> Attributes:
        """See ``Source.write``."""
        inner = self.inner
        return self.around(Kind.WRITE, path, lambda: inner.write(path, fd, size, attributes, expected, token))

    def remove(self, path: bytes) -> None:
        """See ``Source.remove``."""
        self.around(Kind.REMOVE, path, lambda: self.inner.remove(path))

    def make_dir(self, path: bytes, attributes: Attributes) -> Attributes:
        """See ``Source.make_dir``."""
        return self.around(Kind.MAKE_DIR, path, lambda: self.inner.make_dir(path, attributes))

    def remove_dir(self, path: bytes) -> None:
        """See ``Source.remove_dir``."""
        self.around(Kind.REMOVE_DIR, path, lambda: self.inner.remove_dir(path))

    def rename(self, old: bytes, new: bytes) -> None:
        """See ``Source.rename``."""
        self.around(Kind.RENAME, old, lambda: self.inner.rename(old, new))

    def change(self, path: bytes, new: NewAttributes) -> Attributes:
        """See ``Source.change``."""
        return self.around(Kind.CHANGE, path, lambda: self.inner.change(path, new))

    def symlink(self, path: bytes, target: bytes, attributes: Attributes) -> Attributes:
        """See ``Source.symlink``."""
        return self.around(Kind.SYMLINK, path, lambda: self.inner.symlink(path, target, attributes))

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """See ``Source.xattrs``."""
        return self.around(Kind.XATTRS, path, lambda: self.inner.xattrs(path))

    def number_at(self, path: bytes, attributes: Attributes) -> int:
        """See ``Source.number_at``."""
        return self.inner.number_at(path, attributes)

    def takes(self, path: bytes) -> None:
        """See ``Source.takes``."""
        self.inner.takes(path)

    def room(self) -> Room | None:
        """See ``Source.room``."""
        return self.around(Kind.ROOM, ROOT, self.inner.room)

    def set_xattr(self, path: bytes, name: bytes, value: bytes | None) -> Attributes:
        """See ``Source.set_xattr``."""
        return self.around(Kind.SET_XATTR, path, lambda: self.inner.set_xattr(path, name, value))

    def watch(self, tell: Callable[[Change], None], ready: Callable[[bool], None]) -> None:
        """See ``Source.watch``."""
        self.inner.watch(tell, ready)

    def close(self) -> None:
        """See ``Source.close``."""
        self.inner.close()


class WrappedReader:
    """A reader whose calls go through the wrapper that opened it."""

    def __init__(self, source: Wrapper, path: bytes, inner: Reader) -> None:
        self.inner = inner
        self.path = path
        self.size = inner.size
        self.plain = source.passes and is_plain(inner)
        self.in_one = in_one(inner)
        self._source = source

    def within(self, length: int, offset: int) -> int:
        """Bytes that a read of ``length`` bytes must give: fewer at the end of the file."""
        return max(0, min(length, self.size - offset))

    def read(self, view: memoryview, offset: int) -> int:
        """See ``Reader.read``."""
        return self._source.read(self, view, offset)

    def whole(self) -> Get | None:
        """See ``whole.whole_of``."""
        return self._source.whole(self)

    def current(self) -> bool:
        """See ``Reader.current``."""
        return self._source.around(Kind.CURRENT, self.path, self.inner.current)

    def close(self) -> None:
        """See ``Reader.close``."""
        self.inner.close()


def failure(code: int, operation: str, path: bytes, why: str = "") -> OSError:
    """An error that names operation and path; ``why``: other words than those of the errno."""
    return OSError(code, f"{operation} {os.fsdecode(path) or '/'!r}: {why or os.strerror(code)}")


def closed(operation: str, path: bytes) -> OSError:
    """What a call ends with whose source was closed while it waited."""
    return failure(errno.ESHUTDOWN, operation, path, "the source is closed")
