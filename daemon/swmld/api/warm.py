"""``swmld warmup``: brings files into the cache, a bounded number at a time."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Mapping
from functools import partial

import trio

from swmld.api.messages import PathError, Progress, WarmupResult
from swmld.api.room import Room, outermost
from swmld.errors import FetchError, UsageError
from swmld.fetch.scheduler import Fetcher
from swmld.fetch.threads import Workers
from swmld.mount.gate import SourceGate
from swmld.mount.loading import Loader, unload
from swmld.mount.native import ROOT, Entry, Native
from swmld.mount.target import SourceTarget
from swmld.mount.tree import Tree

FILES_AT_ONCE = 24
"""As many requests as prefetch may have at the source: files of one chunk need one each."""

TOLD_FAILURES = 100
PROGRESS_SECONDS = 0.2


Planned = tuple[Entry, int]
"""A file, and how many bytes of it there is room for."""


class Warmup:
    """One run over some paths (bytes, below the source's root). ``disk``: for calls on the cache."""

    def __init__(
        self,
        native: Native,
        tree: Tree,
        gate: SourceGate,
        loader: Loader,
        fetcher: Fetcher,
        disk: Workers,
        room: Room,
    ) -> None:
        self._native = native
        self._tree = tree
        self._gate = gate
        self._loader = loader
        self._fetcher = fetcher
        self._disk = disk
        self._room = room
        self._done_bytes = self._total_bytes = self._done_files = self._total_files = 0
        self._fetched = self._skipped = self._failed_files = 0
        self._there_files = self._there_bytes = self._left_files = self._left_bytes = 0
        self._failed: list[PathError] = []

    async def run(self, paths: list[bytes], progress: Progress) -> WarmupResult:
        """Fetches all that the cache has room for; UsageError when a path does not exist."""
        started = time.monotonic()
        held = [await self._resolve(path) for path in paths]
        tops = outermost(paths)
        entries = {path.strip(b"/"): entry for path, entry in zip(paths, held, strict=True)}
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._report, progress)
                send, receive = trio.open_memory_channel[Planned](FILES_AT_ONCE)
                async with trio.open_nursery() as workers, send:
                    for _ in range(FILES_AT_ONCE):
                        workers.start_soon(self._work, receive.clone())
                    for path in tops:
                        await self._walk(entries[path], send)
                    send.close()
                nursery.cancel_scope.cancel()
            lost = partial(self._room.lost, tops, self._there_files, self._there_bytes)
            lost_files, lost_bytes = await self._disk.call(lost)
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
            full=self._room.full or ("use" if lost_files else ""),
            room_bytes=self._room.bytes,
            left_out_files=self._left_files + lost_files,
            left_out_bytes=self._left_bytes + lost_bytes,
        )

    async def _resolve(self, path: bytes) -> Entry:
        """The entry, with one reference of its node held."""
        entry = await self._gate.call(lambda: self._tree.getattr(ROOT))
        for name in (part for part in path.split(b"/") if part not in (b"", b".")):
            lookup = partial(self._tree.lookup, entry.nodeid, name)
            try:
                child = await self._gate.call(lookup)
            except OSError as error:
                raise UsageError(f"{os.fsdecode(path)}: {error.strerror}") from None
            finally:
                self._native.forget(entry.nodeid, 1)
            entry = child
        return entry

    async def _walk(self, entry: Entry, send: trio.MemorySendChannel[Planned]) -> None:
        """Hands on every regular file at or below ``entry``; each holds one reference of its node."""
        if stat.S_ISREG(entry.mode):
            self._native.ref(entry.nodeid)
            self._total_files += 1
            self._total_bytes += entry.size
            await send.send((entry, self._room.take(entry.size) if entry.size else 0))
        elif stat.S_ISDIR(entry.mode):
            try:
                names = await self._gate.call(lambda: self._names(entry.nodeid))
            except OSError as error:
                self._fail(entry.nodeid, error.strerror or "")
                return
            for name in names:
                await self._child(entry.nodeid, name, send)

    async def _child(self, parent: int, name: bytes, send: trio.MemorySendChannel[Planned]) -> None:
        try:
            child = await self._gate.call(lambda: self._tree.lookup(parent, name))
        except OSError:
            return  # gone meanwhile
        try:
            await self._walk(child, send)
        finally:
            self._native.forget(child.nodeid, 1)

    def _names(self, nodeid: int) -> list[bytes]:
        return sorted(name for name, _ in self._tree.scan(nodeid))

    async def _work(self, receive: trio.MemoryReceiveChannel[Planned]) -> None:
        async with receive:
            async for entry, fits in receive:
                try:
                    if fits or not entry.size or await self._disk.call(partial(self._there, entry)):
                        await self._bring(entry, fits)
                    else:
                        self._leave(entry.size)
                except OSError as error:
                    self._fail(entry.nodeid, error.strerror or "cannot be read")
                except FetchError as error:
                    self._fail(entry.nodeid, os.strerror(error.errno))
                finally:
                    self._done_files += 1
                    self._native.forget(entry.nodeid, 1)

    def _there(self, entry: Entry) -> bool:
        """Whether all of a file is cached that there was no room for; blocks."""
        return self._room.complete(entry.identity)

    async def _bring(self, entry: Entry, fits: int) -> None:
        target: SourceTarget | None
        entry, target = await self._gate.call(lambda: self._loader.load(entry.nodeid), unload)
        if target is None:
            self._room.give_back(fits)
            self._done_bytes += entry.size
            return
        try:
            missing = target.file.missing(0, target.file.nchunks)
            lengths = {chunk: target.file.extent(chunk)[1] for chunk in missing}
            there = entry.size - sum(lengths.values())
            self._skipped += there
            self._done_bytes += there
            left = await self._fetch(target, lengths, entry.size - fits)
            if left:
                self._leave(left)
                return
            self._room.brought(target.identity)
            self._there_files += 1
            self._there_bytes += entry.size
            self._native.set_complete(entry.nodeid, target.file.file_id, target.identity)
        finally:
            target.release()

    async def _fetch(self, target: SourceTarget, lengths: Mapping[int, int], too_much: int) -> int:
        """Brings chunks of a file, but for ``too_much`` bytes at its end; the bytes that were left out."""
        file, left = target.file, sum(lengths.values())
        missing = [chunk for chunk in lengths if sum(file.extent(chunk)) <= file.size - too_much]
        for first in range(0, len(missing), FILES_AT_ONCE):
            if self._room.stirred:
                await self._disk.call(self._room.look)
            if self._room.closed:
                break
            batch = missing[first : first + FILES_AT_ONCE]
            try:
                await self._fetcher.ensure(target, batch)
            except FetchError as error:
                if error.errno != errno.ENOSPC:
                    raise
                self._room.close()
            arrived = sum(lengths[chunk] for chunk in set(batch) - set(file.missing(batch[0], batch[-1] + 1)))
            self._fetched += arrived
            self._done_bytes += arrived
            left -= arrived
        return left

    def _leave(self, nbytes: int) -> None:
        """There is no room for so many bytes of a file."""
        self._left_files += 1
        self._left_bytes += nbytes
        self._done_bytes += nbytes

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
