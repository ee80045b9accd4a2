"""A source in memory that does as it is told, and clocks that do not make anybody wait."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable

from swmld.sources.interface import LISTED, ROOT, Attributes, Change, Feature, Page, ReadOnly

from support.waiting import PATIENCE


class FakeClock:
    """Time passes only while somebody waits, and then at once."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.waits: list[float] = []
        self.meanwhile: Callable[[], None] = lambda: None
        """Happens in each wait."""

    def now(self) -> float:
        return self.time

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.waits.append(seconds)
        self.meanwhile()
        if not event.is_set():
            self.time += seconds
        return event.is_set()


class PatientClock(FakeClock):
    """A wait lasts until the event, as if its time were never over; ``waiting`` tells that one has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = threading.Event()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.waits.append(seconds)
        self.waiting.set()
        return event.wait(PATIENCE)


class FakeSource(ReadOnly):
    """Files in memory. Before each call ``meets`` is asked with its kind and path; it may raise, or wait.

    ``reads``: (offset, length) of each. ``fills`` takes the place of what a read does, where it is set.
    """

    name = "fake://"
    features = Feature.NONE

    def __init__(self, **files: bytes) -> None:
        self.files = {name.encode(): content for name, content in files.items()}
        self.meets: Callable[[str, bytes], None] = lambda kind, path: None
        self.fills: Callable[[memoryview, int], int] | None = None
        self.calls: list[tuple[str, bytes]] = []
        self.reads: list[tuple[int, int]] = []
        self.is_current = True
        self.closed = False

    def called(self, kind: str, path: bytes) -> None:
        self.calls.append((kind, path))
        self.meets(kind, path)

    def stat(self, path: bytes) -> Attributes:
        self.called("stat", path)
        if path == ROOT:
            return Attributes(stat.S_IFDIR | 0o755, ino=1)
        if path not in self.files:
            raise OSError(errno.ENOENT, "absent")
        return Attributes(stat.S_IFREG | 0o644, len(self.files[path]), ino=2)

    def list(self, path: bytes, after: bytes = b"", limit: int = LISTED) -> Page:
        self.called("list", path)
        names = sorted(name for name in self.files if name > after)
        return Page(tuple((name, self.stat(name)) for name in names[:limit]), len(names) > limit)

    def open(self, path: bytes, attributes: Attributes) -> FakeReader:
        self.called("open", path)
        return FakeReader(self, path)

    def write(
        self,
        path: bytes,
        fd: int,
        size: int,
        attributes: Attributes,
        expected: Attributes | None,
        token: str,
    ) -> Attributes:
        self.called("write", path)
        self.files[path] = os.pread(fd, size, 0)
        return Attributes(stat.S_IFREG | 0o644, size, ino=2)

    def watch(self, tell: Callable[[Change], None], ready: Callable[[bool], None]) -> None:
        self.called("watch", ROOT)

    def close(self) -> None:
        self.closed = True


class FakeReader:
    """See ``FakeSource``."""

    def __init__(self, source: FakeSource, path: bytes) -> None:
        self._source = source
        self._path = path
        self.size = len(source.files[path])

    def read(self, view: memoryview, offset: int) -> int:
        self._source.reads.append((offset, len(view)))
        self._source.called("read", self._path)
        if self._source.fills is not None:
            return self._source.fills(view, offset)
        return self.fill(view, offset)

    def fill(self, view: memoryview, offset: int) -> int:
        """What a read does unless told otherwise."""
        found = self._source.files[self._path][offset : offset + len(view)]
        view[: len(found)] = found
        return len(found)

    def current(self) -> bool:
        self._source.called("current", self._path)
        return self._source.is_current

    def close(self) -> None:
        self._source.called("close", self._path)


class Failing:
    """As ``meets``: raises these, one a call (None: nothing), then nothing."""

    def __init__(self, *errors: OSError | None, kind: str | None = None) -> None:
        self._errors = list(errors)
        self._kind = kind

    def __call__(self, kind: str, path: bytes) -> None:
        if self._kind in (None, kind) and self._errors:
            error = self._errors.pop(0)
            if error is not None:
                raise error


class Held:
    """As ``meets``: calls of ``kind`` wait until they are let go; ``inside`` of them do, now."""

    def __init__(self, kind: str = "read") -> None:
        self._kind = kind
        self._go = threading.Event()
        self._lock = threading.Lock()
        self.inside = 0
        self.most = 0

    def __call__(self, kind: str, path: bytes) -> None:
        if kind != self._kind:
            return
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        assert self._go.wait(PATIENCE)
        with self._lock:
            self.inside -= 1

    def let_go(self) -> None:
        self._go.set()


class Caller(threading.Thread):
    """One call in a thread of its own: ``result`` waits for what it returned or raised."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._returned: object = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._returned = self._call()
        except BaseException as error:
            self.error = error

    def ended(self) -> Caller:
        self.join(PATIENCE)
        assert not self.is_alive(), "a call has not ended"
        return self

    def result(self) -> object:
        if self.ended().error is not None:
            raise self.error  # type: ignore[misc]
        return self._returned

    def code(self) -> int | None:
        """The errno that it ended with; None: it returned."""
        error = self.ended().error
        return error.errno if isinstance(error, OSError) else None
