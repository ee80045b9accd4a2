"""What is staged: by name, in which order it is to be uploaded, and what was put aside.

Nothing here waits for the source. ``lock`` is the one of all that is known of staged files, ``changed`` is
told of what others may wait for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from swmld.sources.interface import Attributes
from swmld.staging.files import StagedFile, shown
from swmld.staging.journal import Journal, Row

log = logging.getLogger(__name__)


class Kept(Protocol):
    """What somebody makes of a file that is not staged any more; ``mount.keeping.Kept``."""

    def take(self, place: Path) -> None:
        """It may be had; whatever is left there goes."""
        ...

    def leave(self) -> None:
        """It may not."""
        ...


Offer = Callable[[bytes, Attributes, int], Kept | None]


class Table:
    """Of one directory of the cache's disk."""

    def __init__(self, directory: Path, journal: Journal) -> None:
        self.directory = directory
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.files: dict[bytes, StagedFile] = {}
        self.aside: dict[int, Row] = {}
        self.line: dict[int, StagedFile] = {}
        """What waits to be uploaded, by its turn and in that order."""
        self.line_bytes = 0
        self.failing: set[int] = set()
        """Numbers of those that wait and whose last upload failed."""
        self.stopped = False
        """Nothing is uploaded any more."""
        self.offer: Offer | None = None
        """Told of a file that the source has, with path, attributes and descriptor: what it makes of it."""
        self._journal = journal
        self._in: dict[bytes, dict[bytes, StagedFile]] = {}
        self._moving: list[bytes] = []
        self._turn = 0

    def place(self, number: int) -> Path:
        """Where the bytes are."""
        return self.directory / str(number)

    # ---- names

    def children(self, directory: bytes) -> list[tuple[bytes, Attributes]]:
        """The staged files of a directory, by name."""
        with self.lock:
            return sorted((name, file.attributes()) for name, file in self._in.get(directory, {}).items())

    def below(self, directory: bytes) -> list[StagedFile]:
        """All in it and in what is below it, by number."""
        start = directory + b"/" if directory else b""
        with self.lock:
            found = [file for path, file in self.files.items() if path.startswith(start)]
        return sorted(found, key=_number)

    def enter(self, file: StagedFile) -> None:
        """Under its name, which nobody has."""
        self.files[file.path] = file
        directory, _, name = file.path.rpartition(b"/")
        self._in.setdefault(directory, {})[name] = file

    def leave(self, file: StagedFile) -> None:
        """Its name is another file's, or nobody's."""
        if self.files.get(file.path) is not file:
            return
        del self.files[file.path]
        directory, _, name = file.path.rpartition(b"/")
        del self._in[directory][name]
        if not self._in[directory]:
            del self._in[directory]

    def move(self, file: StagedFile, path: bytes) -> None:
        """It has another name."""
        self.leave(file)
        file.path = path
        self.enter(file)

    # ---- who uses it

    def hold(self, path: bytes) -> StagedFile | None:
        """What is staged there, with one more user."""
        with self.lock:
            file = self.files.get(path)
            if file is not None:
                file.users += 1
            return file

    @contextlib.contextmanager
    def locked(
        self, let_go: Callable[[StagedFile], None], *paths: bytes
    ) -> Iterator[tuple[StagedFile | None, ...]]:
        """What is staged under these names, neither filled nor uploaded nor let go of meanwhile."""
        while True:
            with self.lock:
                files = tuple(self.files.get(path) for path in paths)
                held = sorted({file for file in files if file is not None}, key=_number)
                for file in held:
                    file.users += 1
            try:
                with contextlib.ExitStack() as locks:
                    for file in held:
                        locks.enter_context(file.lock)
                    if files == tuple(self.files.get(path) for path in paths):
                        yield files
                        return
            finally:
                for file in held:
                    let_go(file)

    @contextlib.contextmanager
    def moving(self, directory: bytes) -> Iterator[None]:
        """Nothing new is staged below it meanwhile."""
        with self.lock:
            self._moving.append(directory + b"/")
        try:
            yield
        finally:
            with self.changed:
                self._moving.remove(directory + b"/")
                self.changed.notify_all()

    def still(self, path: bytes) -> None:
        """Waits until no directory above it is being renamed. Lets go of the lock."""
        with self.changed:
            while self.is_moving(path):
                self.changed.wait()

    def is_moving(self, path: bytes) -> bool:
        """Whether a directory above it is being renamed."""
        return any(path.startswith(start) for start in self._moving)

    # ---- turns

    def queue(self, file: StagedFile) -> int:
        """Its turn comes after all the others; it has none."""
        self._turn += 1
        file.turn, file.waiting_bytes = self._turn, os.fstat(file.fd).st_size
        self.line[file.turn] = file
        self.line_bytes += file.waiting_bytes
        self.changed.notify_all()
        return file.turn

    def resize(self, file: StagedFile) -> None:
        """It waits already, and was closed or synced again."""
        size = os.fstat(file.fd).st_size
        self.line_bytes += size - file.waiting_bytes
        file.waiting_bytes = size

    def unqueue(self, file: StagedFile) -> None:
        """It waits no more."""
        if self.line.pop(file.turn, None) is None:
            return
        self.line_bytes -= file.waiting_bytes
        self.failing.discard(file.number)
        file.turn = file.waiting_bytes = 0
        self.changed.notify_all()

    # ---- what goes

    def gone(self, file: StagedFile) -> None:
        """It was removed, or never came to be: nothing of it is left but for those who have it open."""
        with self.lock:
            self.leave(file)
            file.gone = True
            self.unqueue(file)
            if not file.aside:
                self.place(file.number).unlink(missing_ok=True)
                self._journal.remove(file.number)

    def put_aside(self, file: StagedFile, why: str) -> None:
        """It is kept for a person to look at, and its name is the source's again."""
        with self.lock:
            log.error("%s is put aside as %s: %s", shown(file.path), self.place(file.number), why)
            self._journal.put_aside(file.number, why)
            self.aside[file.number] = Row(file.number, file.path, file.base, aside=why)
            self.leave(file)
            file.gone, file.aside = True, why
            self.unqueue(file)

    def settle(self, file: StagedFile) -> None:
        """It is not staged any more if nobody uses it and the source has it, or nobody is to have it. What
        the source has is offered to whoever can use it."""
        kept, base, path = None, None, b""
        with self.lock:
            if not self._unused(file):
                return
            base, path = file.base, file.path
            # A mapping may outlive its descriptor, and is written unseen: such bytes are nobody's to keep.
            useless = file.gone or file.broken is not None or file.mapped
            if useless or base is None or self.offer is None:
                fd = self._end(file)
            else:
                fd = -1
                file.users += 1  # nobody else settles it meanwhile
        if fd < 0:
            assert base is not None
            assert self.offer is not None
            try:
                kept = self.offer(path, base, file.fd)
            finally:
                fd = self._offered(file, base, path, kept)
            if fd < 0:
                return
        if not file.aside:
            self.place(file.number).unlink(missing_ok=True)
            self._journal.remove(file.number)
        os.close(fd)  # frees its blocks, which may take a while

    def _offered(self, file: StagedFile, base: Attributes, path: bytes, kept: Kept | None) -> int:
        """Its descriptor, to be closed; -1: somebody uses it again."""
        with self.lock:
            file.users -= 1
            unused = self._unused(file)
            same = unused and not (file.gone or file.mapped) and file.base == base and file.path == path
            if kept is not None and same:
                # First: a row without its file, after a kill in between, would be bytes that were lost.
                self._journal.remove(file.number)
                kept.take(self.place(file.number))
            elif kept is not None:
                kept.leave()
            return self._end(file) if unused else -1

    def _unused(self, file: StagedFile) -> bool:
        if file.users or file.fd < 0:
            return False
        return file.gone or file.broken is not None or not file.dirty

    def _end(self, file: StagedFile) -> int:
        fd, file.fd = file.fd, -1
        self.leave(file)
        self.unqueue(file)
        return fd

    def drop(self, number: int) -> bool:
        """Deletes what was put aside; False: there is no such thing."""
        with self.lock:
            if self.aside.pop(number, None) is None:
                return False
        self.place(number).unlink(missing_ok=True)
        self._journal.remove(number)
        return True

    def close(self) -> None:
        """Lets go of all but what is being uploaded or filled: whoever does that would go on with another
        file's descriptor. What is left open ends with the process."""
        with self.lock:
            for file in self.files.values():
                if file.lock.acquire(blocking=False):
                    os.close(file.fd)
                    file.fd = -1
                    file.lock.release()
            self.files.clear()
            self._in.clear()
            self.line.clear()
            self.failing.clear()
            self.line_bytes = 0
            self.changed.notify_all()


def _number(file: StagedFile) -> int:
    return file.number
