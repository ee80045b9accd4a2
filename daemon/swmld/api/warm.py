"""``swmld warmup``: brings files into the cache, a bounded number at a time."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping
from functools import partial

import trio

from swmld.api.messages import PathError, Progress, WarmupResult
from swmld.errors import FetchError, UsageError
from swmld.fetch.scheduler import Fetcher
from swmld.mount.gate import SourceGate
from swmld.mount.loading import Loader, unload
from swmld.mount.native import ROOT, Entry, Native
from swmld.mount.target import SourceTarget

FILES_AT_ONCE = 24
"""As many requests as prefetch may have at the source: files of one chunk need one each."""

TOLD_FAILURES = 100
PROGRESS_SECONDS = 0.2


class Warmup:
    """One run over some paths (bytes, below the source's root)."""

    def __init__(self, native: Native, gate: SourceGate, loader: Loader, fetcher: Fetcher) -> None:
        self._native = native
        self._gate = gate
        self._loader = loader
        self._fetcher = fetcher
        self._done_bytes = self._total_bytes = self._done_files = self._total_files = 0
        self._fetched = self._skipped = self._failed_files = 0
        self._failed: list[PathError] = []

    async def run(self, paths: list[bytes], progress: Progress) -> WarmupResult:
        """Fetches all; UsageError when a path does not exist."""
        started = time.monotonic()
        held = [await self._resolve(path) for path in paths]
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._report, progress)
                send, receive = trio.open_memory_channel[Entry](FILES_AT_ONCE)
                async with trio.open_nursery() as workers, send:
                    for _ in range(FILES_AT_ONCE):
                        workers.start_soon(self._work, receive.clone())
                    for entry in held:
                        await self._walk(entry, send)
                    send.close()
                nursery.cancel_scope.cancel()
            await progress(self._transfer())
        finally:
            for entry in held:
                self._native.forget(entry.nodeid, 1)
        return WarmupResult(
            files=self._done_files,
            fetched_bytes=self._fetched,
            skipped_bytes=self._skipped,
            failed_files=self._failed_files,
            failed=self._failed,
            seconds=time.monotonic() - started,
        )

    async def _resolve(self, path: bytes) -> Entry:
        """The entry, with one reference of its node held."""
        entry = await self._gate.call(lambda: self._native.getattr(ROOT))
        for name in (part for part in path.split(b"/") if part not in (b"", b".")):
            lookup = partial(self._native.lookup, entry.nodeid, name)
            try:
                child = await self._gate.call(lookup)
            except OSError as error:
                raise UsageError(f"{os.fsdecode(path)}: {error.strerror}") from None
            finally:
                self._native.forget(entry.nodeid, 1)
            entry = child
        return entry

    async def _walk(self, entry: Entry, send: trio.MemorySendChannel[Entry]) -> None:
        """Hands on every regular file at or below ``entry``; each holds one reference of its node."""
        if stat.S_ISREG(entry.mode):
            self._native.ref(entry.nodeid)
            self._total_files += 1
            self._total_bytes += entry.size
            await send.send(entry)
        elif stat.S_ISDIR(entry.mode):
            try:
                names = await self._gate.call(lambda: self._names(entry.nodeid))
            except OSError as error:
                self._fail(entry.nodeid, error.strerror or "")
                return
            for name in names:
                await self._child(entry.nodeid, name, send)

    async def _child(self, parent: int, name: bytes, send: trio.MemorySendChannel[Entry]) -> None:
        try:
            child = await self._gate.call(lambda: self._native.lookup(parent, name))
        except OSError:
            return  # gone meanwhile
        try:
            await self._walk(child, send)
        finally:
            self._native.forget(child.nodeid, 1)

    def _names(self, nodeid: int) -> list[bytes]:
        fd = self._native.open_dir(nodeid)
        try:
            return sorted(os.fsencode(name) for name in os.listdir(fd))
        finally:
            os.close(fd)

    async def _work(self, receive: trio.MemoryReceiveChannel[Entry]) -> None:
        async with receive:
            async for entry in receive:
                try:
                    await self._bring(entry)
                except OSError as error:
                    self._fail(entry.nodeid, error.strerror or "cannot be read")
                except FetchError as error:
                    self._fail(entry.nodeid, os.strerror(error.errno))
                finally:
                    self._done_files += 1
                    self._native.forget(entry.nodeid, 1)

    async def _bring(self, entry: Entry) -> None:
        target: SourceTarget | None
        entry, target = await self._gate.call(lambda: self._loader.load(entry.nodeid), unload)
        if target is None:
            self._done_bytes += entry.size
            return
        try:
            missing = target.file.missing(0, target.file.nchunks)
            lengths = {chunk: target.file.extent(chunk)[1] for chunk in missing}
            there = entry.size - sum(lengths.values())
            self._skipped += there
            self._done_bytes += there
            for first in range(0, len(missing), FILES_AT_ONCE):
                batch = missing[first : first + FILES_AT_ONCE]
                await self._fetcher.ensure(target, batch)
                arrived = sum(lengths[chunk] for chunk in batch)
                self._fetched += arrived
                self._done_bytes += arrived
            self._native.set_complete(entry.nodeid, target.file.file_id, target.identity)
        finally:
            target.release()

    def _fail(self, nodeid: int, why: str) -> None:
        self._failed_files += 1
        if len(self._failed) < TOLD_FAILURES:
            try:
                path = os.fsdecode(self._native.path(nodeid))
            except OSError:
                path = f"node {nodeid}"
            self._failed.append(PathError(path=path, error=why))

    async def _report(self, progress: Progress) -> None:
        while True:
            await trio.sleep(PROGRESS_SECONDS)
            await progress(self._transfer())

    def _transfer(self) -> Mapping[str, int]:
        return {
            "done_bytes": self._done_bytes,
            "total_bytes": self._total_bytes,
            "done_files": self._done_files,
            "total_files": self._total_files,
        }
