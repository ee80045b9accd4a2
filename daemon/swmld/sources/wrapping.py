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

from swmld.sources.interface import LISTED, Attributes, Change, Page, Reader, Source

T = TypeVar("T")


class Kind(enum.Enum):
    """What a source is asked."""

    STAT = "stat"
    LIST = "list"
    OPEN = "open"
    READ = "read"
    CURRENT = "current"


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
    """Hands everything on; what stands around a source overrides ``around``, ``read`` or both."""

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

    def stat(self, path: bytes) -> Attributes:
        """See ``Source.stat``."""
        return self.around(Kind.STAT, path, lambda: self.inner.stat(path))

    def list(self, path: bytes, after: bytes = b"", limit: int = LISTED) -> Page:
        """See ``Source.list``."""
        return self.around(Kind.LIST, path, lambda: self.inner.list(path, after, limit))

    def open(self, path: bytes, attributes: Attributes) -> Reader:
        """See ``Source.open``."""
        inner = self.around(Kind.OPEN, path, lambda: self.inner.open(path, attributes))
        return WrappedReader(self, path, inner)

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
        self._source = source

    def within(self, length: int, offset: int) -> int:
        """Bytes that a read of ``length`` bytes must give: fewer at the end of the file."""
        return max(0, min(length, self.size - offset))

    def read(self, view: memoryview, offset: int) -> int:
        """See ``Reader.read``."""
        return self._source.read(self, view, offset)

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
