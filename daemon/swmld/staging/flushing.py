"""Waiting for uploads, step by step."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from swmld.staging.files import StagedFile, shown
from swmld.staging.table import Table


@dataclass(frozen=True, slots=True)
class Flushed:
    """``files``, of ``size`` bytes: what there was to upload; ``uploaded``: what the source has of it;
    ``failed``: what it has not, by path, and why ("": it waits for its turn)."""

    files: int
    size: int
    uploaded: int
    uploaded_bytes: int
    failed: list[tuple[bytes, str]]


class Flush:
    """What waits at or below ``path`` is tried at once, also what failed before."""

    def __init__(self, table: Table, path: bytes) -> None:
        self._table = table
        self._path = path
        self._below = path + b"/" if path else b""
        with table.changed:
            self._tried = {file.number: file.failures for file in table.line.values()}
            for file in table.line.values():
                file.due = 0.0
            table.changed.notify_all()
            self._seen = {file.number: (file, file.waiting_bytes) for file in self.left}

    @property
    def left(self) -> list[StagedFile]:
        """What still waits, in its turn."""
        with self._table.lock:
            return [f for f in self._table.line.values() if self._is_ours(f)]

    def progress(self) -> Flushed:
        """How far it is."""
        with self._table.lock:
            left = self.left
            for file in left:
                self._seen[file.number] = file, file.waiting_bytes
            waiting = {file.number for file in left}
            over = [each for number, each in self._seen.items() if number not in waiting]
            done = [(file, size) for file, size in over if not file.gone]
            failed = [(file.path, file.error) for file in left]
            blamed = next((f for f in self._table.line.values() if f.error and not f.refused), None)
            if blamed is not None:
                behind = f"waits behind {shown(blamed.path)}: {blamed.error}"
                failed = [(path, error or behind) for path, error in failed]
            return Flushed(
                files=len(self._seen), size=sum(size for _, size in self._seen.values()),
                uploaded=len(done), uploaded_bytes=sum(size for _, size in done),
                failed=[*((file.path, file.aside) for file, _ in over if file.aside), *failed],
            )  # fmt: skip

    def wait(self, most: float) -> bool:
        """Whether it has come to its end: all of it was uploaded, or has failed, or waits behind what failed
        by the source's fault. ``most``: seconds."""
        deadline = time.monotonic() + most
        with self._table.changed:
            while not self._ended():
                if (left := deadline - time.monotonic()) <= 0:
                    return False
                self._table.changed.wait(min(left, threading.TIMEOUT_MAX))
            return True

    def _ended(self) -> bool:
        line = self._table.line.values()
        failed = {f.number for f in line if f.failures > self._tried.get(f.number, 0)}
        return (
            self._table.stopped
            or all(f.number in failed for f in line if self._is_ours(f))
            or any(not f.refused for f in line if f.number in failed)
        )

    def _is_ours(self, file: StagedFile) -> bool:
        return file.path == self._path or file.path.startswith(self._below)
