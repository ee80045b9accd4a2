"""Reads that come to Python: of the cache, where a chunk may have to be fetched, or of the source itself."""

from __future__ import annotations

import errno
import os

from swmld.errors import FetchError
from swmld.fetch.threads import Workers
from swmld.mount.fetching import READ_SOURCE, Fetching
from swmld.mount.gate import SourceGate, Store
from swmld.mount.loading import Loader
from swmld.mount.native import Native
from swmld.mount.opens import OpenFile, Opens
from swmld.mount.target import SourceTarget
from swmld.mount.tree import Opened, Tree


class FileReads:
    """Loop-only; what may block runs in worker threads: on the cache in ``disk``, on the source in ``gate``,
    on what is staged or written in ``store``."""

    def __init__(
        self,
        native: Native,
        gate: SourceGate,
        disk: Workers,
        tree: Tree,
        store: Store,
        loader: Loader,
        opens: Opens,
        fetching: Fetching,
    ) -> None:
        self._native = native
        self._gate = gate
        self._disk = disk
        self._tree = tree
        self._store = store
        self._loader = loader
        self._opens = opens
        self._fetching = fetching

    async def read(self, fh: int, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes; short only at the end of the file. OSError."""
        file = self._opens.of(fh)
        target = file.target
        data: bytes | None = None
        if target is not None and not file.from_source:
            data = await self._cached(file, target, offset, size)
        elif target is None and not file.from_source:
            data = await self._disk.call(lambda: self._unattended(file.nodeid, offset, size))
        if data is None:
            source = await self._readable(file, fh)
            call = self._store if source.fd >= 0 else self._gate.call
            data = await call(lambda: _read_source(source, size, offset))
        self._opens.counters.reads += 1
        self._opens.counters.read_bytes += len(data)
        return data

    async def open_source(self, nodeid: int, like: Opened, *, held: bool = False) -> Opened:
        """The node's bytes at the source, opened once more; ended by ``close_source``. ``held``: by who has
        it open. OSError."""
        return await self._gate.call(lambda: self._tree.reopen(nodeid, like, held=held), self.close_source)

    def close_source(self, source: Opened) -> None:
        """Does not block."""
        source.close(self._gate.close_fd)

    async def _cached(self, file: OpenFile, target: SourceTarget, offset: int, size: int) -> bytes | None:
        """None: the cache cannot hold it, read the source."""
        cached = target.file
        stop = min(offset + size, cached.size)
        if offset >= stop:
            return b""
        chunks = range(offset // cached.chunk_size, (stop - 1) // cached.chunk_size + 1)
        missing = cached.missing(chunks.start, chunks.stop)
        if chunks[-1] != file.last_chunk:
            file.last_chunk = chunks[-1]
            self._fetching.touch(file, chunks)
            if file.reading is not None:
                file.reading.touched(offset, stop - offset, stop=chunks.stop)
        if missing and not target.fills:  # it was whole, and proved damaged
            return None
        if missing:
            try:
                await self._fetching.ensure(target, missing)
            except FetchError as error:
                if error.errno in READ_SOURCE:
                    return None
                raise OSError(error.errno, os.strerror(error.errno)) from None
        try:
            return await self._disk.call(lambda: cached.read(offset, stop - offset))
        except OSError as error:
            if error.errno != errno.EBADMSG:
                raise
        await self._disk.call(lambda: cached.condemn(list(chunks)))
        return None

    def _unattended(self, nodeid: int, offset: int, size: int) -> bytes | None:
        """Of a file that C has opened alone: what it could not decode is damaged, and goes. Blocks."""
        entry = self._native.cached_entry(nodeid)
        cached = self._loader.find_packed(entry) if entry is not None else None
        if cached is None:
            return None
        try:
            return cached.read(offset, size)
        except OSError:
            stop = min(offset + size, cached.size)
            cached.condemn(list(range(offset // cached.chunk_size, -(-stop // cached.chunk_size))))
            return None
        finally:
            cached.release()

    async def _readable(self, file: OpenFile, fh: int) -> Opened:
        own = self._opens.handles.get(fh)
        if own is not None and own.fd >= 0:
            return Opened(own.fd)
        if file.source is None:
            opened = file.target.opened if file.target is not None else None
            source = await self.open_source(file.nodeid, opened or Opened(), held=True)
            if file.source is not None:
                self.close_source(source)
            else:
                file.source = source
        return file.source


def _read_source(source: Opened, size: int, offset: int) -> bytes:
    reader = source.reader
    if reader is None:
        return _pread(source.fd, size, offset)
    data = bytearray(max(0, min(size, reader.size - offset)))
    return bytes(memoryview(data)[: reader.read(memoryview(data), offset)]) if data else b""


def _pread(fd: int, size: int, offset: int) -> bytes:
    data = os.pread(fd, size, offset)
    if len(data) == size or not data:
        return data
    parts = [data]  # a read may stop early at a signal or a page boundary: only the end of the file is short
    done = len(data)
    while done < size and (data := os.pread(fd, size - done, offset + done)):
        parts.append(data)
        done += len(data)
    return b"".join(parts)
