"""A staging area over a directory that does as it is told, and how it is used, killed and found again."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from swmld.sources.directory import DirectorySource
from swmld.sources.interface import LISTED, Attributes, Change, Feature, NewAttributes, Page, Reader
from swmld.staging.area import Staging
from swmld.staging.files import StagedFile
from swmld.staging.flushing import Flush
from swmld.staging.views import Item

from support.waiting import PATIENCE

LIMIT = 1 << 30

Meets = Callable[[str, bytes], None]


def nothing(kind: str, path: bytes) -> None:
    pass


class ToldSource:
    """The tree below ``root``. ``meets`` is asked before each call, ``answers`` after it: both may raise, or
    wait."""

    def __init__(self, root: Path) -> None:
        self.inner = DirectorySource(root)
        self.name = self.inner.name
        self.features: Feature = self.inner.features
        self.meets: Meets = nothing
        self.answers: Meets = nothing
        self.calls: list[tuple[str, bytes]] = []

    @contextlib.contextmanager
    def _called(self, kind: str, path: bytes) -> Iterator[None]:
        self.calls.append((kind, path))
        self.meets(kind, path)
        yield
        self.answers(kind, path)

    def count(self, kind: str) -> int:
        return sum(called == kind for called, _ in self.calls)

    def written(self) -> list[bytes]:
        """What was uploaded, in order."""
        return [path for kind, path in self.calls if kind == "write"]

    def takes(self, path: bytes) -> None:
        self.inner.takes(path)

    def stat(self, path: bytes) -> Attributes:
        with self._called("stat", path):
            return self.inner.stat(path)

    def list(self, path: bytes, after: bytes = b"", limit: int = LISTED) -> Page:
        with self._called("list", path):
            return self.inner.list(path, after, limit)

    def open(self, path: bytes, attributes: Attributes) -> Reader:
        with self._called("open", path):
            return self.inner.open(path, attributes)

    def watch(self, tell: Callable[[Change], None], ready: Callable[[bool], None]) -> None:
        self.inner.watch(tell, ready)

    def close(self) -> None:
        self.inner.close()

    def write(
        self,
        path: bytes,
        fd: int,
        size: int,
        attributes: Attributes,
        expected: Attributes | None,
        token: str,
    ) -> Attributes:
        with self._called("write", path):
            return self.inner.write(path, fd, size, attributes, expected, token)

    def remove(self, path: bytes) -> None:
        with self._called("remove", path):
            self.inner.remove(path)

    def make_dir(self, path: bytes, attributes: Attributes) -> Attributes:
        with self._called("make_dir", path):
            return self.inner.make_dir(path, attributes)

    def remove_dir(self, path: bytes) -> None:
        with self._called("remove_dir", path):
            self.inner.remove_dir(path)

    def rename(self, old: bytes, new: bytes) -> None:
        with self._called("rename", old):
            self.inner.rename(old, new)

    def change(self, path: bytes, new: NewAttributes) -> Attributes:
        with self._called("change", path):
            return self.inner.change(path, new)

    def symlink(self, path: bytes, target: bytes, attributes: Attributes) -> Attributes:
        with self._called("symlink", path):
            return self.inner.symlink(path, target, attributes)

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        return self.inner.xattrs(path)

    def set_xattr(self, path: bytes, name: bytes, value: bytes | None) -> Attributes:
        with self._called("set_xattr", path):
            return self.inner.set_xattr(path, name, value)


class On:
    """As ``meets`` or ``answers``: raises ``code`` at calls of ``kind`` (of ``path``), so many times."""

    def __init__(self, kind: str, code: int, path: bytes | None = None, times: int = 1 << 30) -> None:
        self._kind, self._code, self._path, self.times = kind, code, path, times

    def __call__(self, kind: str, path: bytes) -> None:
        if kind == self._kind and self._path in (None, path) and self.times > 0:
            self.times -= 1
            raise OSError(self._code, os.strerror(self._code))


class Area:
    """``staging`` over ``source``, whose files are in ``root``."""

    def __init__(self, base: Path, *, back: bool, limit: int = LIMIT) -> None:
        self.root = base / "source"
        self.directory = base / "staged"
        self.root.mkdir()
        self.back, self.limit = back, limit
        self.source = ToldSource(self.root)
        self.told: list[bytes] = []
        self._left: list[Staging] = []
        self.staging = self._make()

    def _make(self) -> Staging:
        return Staging(
            self.directory, self.source, back=self.back, limit=self.limit,
            uploaded=lambda path, was, attributes: self.told.append(path),
        )  # fmt: skip

    def killed(self) -> None:
        """What it leaves is taken over by a new one, as after kill -9: nothing is closed but the journal,
        which the kernel does then."""
        self.staging._journal.close()
        self._left.append(self.staging)
        self.staging = self._make()

    def close(self) -> None:
        for staging in (*self._left, self.staging):
            staging.close()
        self.source.close()

    # ---- what programs do

    def create(self, path: bytes, content: bytes | None = None) -> StagedFile:
        """A new file that is open; ``content``: written, not closed."""
        file = self.staging.create(path, Attributes(stat.S_IFREG | 0o644, uid=os.geteuid(), gid=os.getegid()))
        if content is not None:
            os.pwrite(file.fd, content, 0)
        return file

    def open(self, path: bytes, *, truncate: bool = False) -> StagedFile:
        return self.staging.open(path, lambda: self.source.stat(path), truncate)

    def close_file(self, file: StagedFile) -> None:
        """close(2), and the release that follows."""
        try:
            self.staging.flush(file)
        finally:
            self.staging.closed(file)

    def put(self, path: bytes, content: bytes) -> None:
        """A new file, written and closed."""
        self.close_file(self.create(path, content))

    def rewrite(self, path: bytes, content: bytes) -> None:
        file = self.open(path, truncate=True)
        os.pwrite(file.fd, content, 0)
        self.close_file(file)

    # ---- what there is

    def at_source(self, path: bytes) -> bytes | None:
        try:
            return (self.root / os.fsdecode(path)).read_bytes()
        except FileNotFoundError:
            return None

    def tree(self) -> dict[bytes, bytes]:
        found = sorted(path for path in self.root.rglob("*") if path.is_file())
        return {os.fsencode(path.relative_to(self.root)): path.read_bytes() for path in found}

    def items(self) -> dict[bytes, str]:
        """States by path."""
        return {item.path: item.state for item in self.staging.listing()}

    def item(self, path: bytes) -> Item:
        (item,) = (item for item in self.staging.listing() if item.path == path)
        return item

    def files_left(self) -> list[str]:
        """In the staging directory, besides the journal."""
        return sorted(name for name in os.listdir(self.directory) if not name.startswith("journal"))

    @contextlib.contextmanager
    def uploading(self) -> Iterator[None]:
        """``uploads.run`` in its thread."""
        thread = threading.Thread(target=self.staging.uploads.run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.staging.uploads.stop()
            thread.join(PATIENCE)
            assert not thread.is_alive()

    @contextlib.contextmanager
    def uploading_once_awaited(self) -> Iterator[None]:
        """The same from the first flush on: nothing was uploaded when that begins."""
        begun, begin = threading.Event(), self.staging.begin_flush

        def told(path: bytes) -> Flush:
            flush = begin(path)
            begun.set()
            return flush

        def uploads() -> None:
            if begun.wait(PATIENCE):
                self.staging.uploads.run()

        setattr(self.staging, "begin_flush", told)  # noqa: B010
        thread = threading.Thread(target=uploads, daemon=True)
        thread.start()
        try:
            yield
        finally:
            begun.set()
            self.staging.uploads.stop()
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def drained(self) -> list[StagedFile]:
        """Uploads all that waits, as the daemon does before its end; what is left."""
        flush = self.staging.begin_flush(b"")
        with self.uploading():
            assert flush.wait(PATIENCE)
            left = flush.left
        self.staging._table.stopped = False
        return left


def at_once(staging: Staging) -> None:
    """What failed is due again."""
    with staging._table.changed:
        for file in staging.uploads.waiting:
            file.due = time.monotonic()
        staging._table.changed.notify_all()


class Hasty(sqlite3.Connection):
    """Leaves it to the kernel when something is on the disk."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        super().execute("PRAGMA synchronous=OFF")

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement.startswith("PRAGMA synchronous="):
            statement = "PRAGMA synchronous=OFF"
        return super().execute(statement, *values)


def no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test takes the power away."""
    connect = sqlite3.connect
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **k, factory=Hasty))


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))
