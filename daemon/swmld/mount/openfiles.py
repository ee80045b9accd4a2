"""Open files: who serves their reads, where their writes go, and what is fetched for them.

One ``OpenFile`` per node that Python knows to be open. Its life: made by the first open that comes here,
ended by C's IDLE event, when no open of the node is left. It is in one of these states:

    whole      every chunk is in the cache: C and the kernel serve it alone
    partial    C serves what is there; a missing chunk is fetched while its READ is parked
    source     it was, or is being, written, or cannot be cached: every byte comes from the source itself

A writer's open drops the cached generation first (the index commits that before a byte changes), so no crash
can leave cached bytes that are older than the source's. Readers whose kernel inode is passed through to the
cache file see the writes because they are mirrored into that file (``native/hot.c`` tells why).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

import trio

from swmld.cache.files import ChunkState
from swmld.cache.store import Cache
from swmld.errors import FetchError
from swmld.fetch.flights import Target
from swmld.fetch.scheduler import Fetcher
from swmld.fetch.threads import Workers
from swmld.mount import native as nat
from swmld.mount.acting import Acts
from swmld.mount.deciding import Decider, at_once, file_limits, single_writer
from swmld.mount.gate import UNREACHABLE, SourceGate, as_read
from swmld.mount.hinting import Hinting, Reading
from swmld.mount.loading import Loader, unload
from swmld.mount.native import Entry, Event, EventKind, Mode, Native, Want
from swmld.mount.target import SourceTarget
from swmld.mount.tree import Opened, Tree, Writes
from swmld.plan.readahead import Limits, Streams
from swmld.types import FetchClass, Span

if TYPE_CHECKING:
    from swmld.rules.verdict import Verdict

T = TypeVar("T")

_WRITING = os.O_WRONLY | os.O_RDWR
_READ_SOURCE = frozenset({errno.ENOSPC, errno.ESTALE})
"""A fetch that ends so says nothing against the source: the bytes are read from there."""


@dataclass(slots=True)
class Counters:
    """What Python served, operations and bytes. ``misses``: reads and opens that waited for a fetch."""

    opens: int = 0
    reads: int = 0
    read_bytes: int = 0
    writes: int = 0
    written_bytes: int = 0
    misses: int = 0
    prefetch_used: int = 0
    prefetch_wasted: int = 0


@dataclass(slots=True)
class OpenFile:
    """The state of one open node; changed on the loop alone, opens one at a time under ``lock``."""

    nodeid: int
    lock: trio.Lock = field(default_factory=trio.Lock)
    pending: int = 0
    from_source: bool = False
    target: SourceTarget | None = None
    """What reads are served from while not ``from_source`` and not passed through."""
    source: Opened | None = None
    """For reads from the source; opened when the first one comes."""
    mirror_fd: int = -1
    """The cache file that passed-through readers see, while a writer changes the source."""
    streams: Streams | None = None
    ahead: set[int] = field(default_factory=set)
    """Chunks fetched ahead and not touched yet."""
    coming: set[int] = field(default_factory=set)
    """Those of them that were asked for because of a rule and have not landed."""
    decision: int = 0
    """Of the rules that say what is fetched ahead; 0: none does."""
    reading: Reading | None = None
    """What plugins say of it, where one may know it."""
    acted: bool = False
    """Rules had something done with it as long as it is open."""
    last_chunk: int = -1
    mirrors_for: tuple[int, int] | None = None
    """(device, inode number) of the file whose later writes are mirrored for this node's readers."""


@dataclass(slots=True)
class Handle:
    """One open that Python answered. ``fd`` is the writer's own descriptor of the source, else -1; ``uid`` is
    who opened it (root keeps set-id bits where others clear them). ``writer``: the process of a writer that
    others wait for, 0: nobody does. ``sync``: each write is to be synced before it is answered."""

    file: OpenFile
    fd: int = -1
    uid: int = 0
    writer: int = 0
    sync: bool = False


class Store(Protocol):
    """Runs what writes, in a worker thread: ``SourceGate.call``, or something without its time limit."""

    async def __call__(self, function: Callable[[], T], discard: Callable[[T], None] | None = None) -> T: ...


class OnOpen(Protocol):
    """Told of a file that is opened to be read from the cache."""

    def __call__(self, nodeid: int, *, verdict: Verdict | None = None) -> None: ...


class OpenFiles:
    """Opens, reads and writes of regular files. Loop-only; what may block runs in worker threads."""

    def __init__(
        self,
        native: Native,
        gate: SourceGate,
        disk: Workers,
        cache: Cache,
        tree: Tree,
        writes: Writes,
        store: Store,
        loader: Loader,
        *,
        whole_limit: int,
        limits: Limits,
        on_open: OnOpen,
        decider: Decider | None = None,
    ) -> None:
        self._native = native
        self._gate = gate
        self._disk = disk
        self._cache = cache
        self._tree = tree
        self._writes = writes
        self._store = store
        self._loader = loader
        self._whole_limit = whole_limit
        self._limits = limits
        self._on_open = on_open
        self._decider = decider
        self._acts: Acts | None = None
        if decider is not None:
            self._acts = Acts(native)
            native.watched = lambda: decider.watches
        self._files: dict[int, OpenFile] = {}
        self._by_key: dict[object, OpenFile] = {}
        self._handles: dict[int, Handle] = {}
        self._mirrors: dict[tuple[int, int], dict[int, int]] = {}
        """By (device, inode number): of each superseded node whose readers live, the cache file they read."""
        self.counters = Counters()
        self.fetcher: Fetcher  # set by the owner: the fetcher's callbacks are methods of this object
        self.hinting: Hinting | None = None
        """Set by the owner, where there are plugins."""

    @property
    def count(self) -> int:
        """Files that Python holds state of."""
        return len(self._files)

    # ---- open

    async def open(self, nodeid: int, flags: int, uid: int, pid: int = 0) -> int:
        """The file handle, entered into C's books; OSError. ``pid``: the thread that opens, 0 not known."""
        self.counters.opens += 1
        file = self._hold(nodeid)
        try:
            if not flags & (_WRITING | os.O_TRUNC):
                async with file.lock:
                    fh = await self._open_reader(file, uid, pid)
                if file.acted and self._acts is not None:
                    await self._acts.meet(nodeid, pid)
                return fh

            async def write() -> int:
                async with file.lock:
                    fd = await self._open_writable(nodeid, flags)
                    return await self._open_writer(file, fd, uid, flags)

            return await self._one_writer(nodeid, uid, pid, write)
        finally:
            self._let_go(file)

    async def _one_writer(self, nodeid: int, uid: int, pid: int, write: Callable[[], Awaitable[int]]) -> int:
        """Where rules want one writer at a time: ``write`` when nobody else does, or OSError EBUSY."""
        verdict = None
        if self._decider is not None and self._decider.coordinates:
            verdict = self._decider.opening(nodeid, pid, uid)
        if verdict is None or self._acts is None or not single_writer(verdict):
            return await write()
        process = await self._acts.begin_write(nodeid, pid, verdict)
        try:
            fh = await write()
        except BaseException:
            self._acts.end_write(nodeid, process)
            raise
        self._handles[fh].writer = process
        return fh

    async def adopt(self, nodeid: int, fd: int, uid: int, pid: int = 0, flags: int = 0) -> int:
        """The handle of a file that was just created and is open as ``fd``, which is taken over. ``flags``:
        of open(2)."""
        self.counters.opens += 1
        file = self._hold(nodeid)
        try:

            async def write() -> int:
                async with file.lock:
                    return await self._open_writer(file, fd, uid, os.O_RDWR | flags & os.O_DSYNC)

            return await self._one_writer(nodeid, uid, pid, write)
        finally:
            self._let_go(file)

    def _hold(self, nodeid: int) -> OpenFile:
        file = self._files.get(nodeid)
        if file is None:
            file = self._files[nodeid] = OpenFile(nodeid)
        file.pending += 1
        return file

    def _let_go(self, file: OpenFile) -> None:
        file.pending -= 1
        self._end_if_idle(file)

    async def _open_writable(self, nodeid: int, flags: int) -> int:
        return await self._store(
            lambda: self._writes.open(nodeid, flags), lambda fd: self._writes.closed(nodeid, fd)
        )

    async def _close_writable(self, nodeid: int, fd: int) -> None:
        with trio.CancelScope(shield=True):
            await self._store(lambda: self._writes.closed(nodeid, fd))

    async def _open_writer(self, file: OpenFile, fd: int, uid: int, flags: int) -> int:
        nodeid = file.nodeid
        try:
            mode = self._native.begin_write(nodeid)
        except OSError:
            await self._close_writable(nodeid, fd)
            raise
        try:
            if mode is Mode.PASS_CACHE and flags & os.O_RDWR:
                await self._make_way(file)
            await self._leave_cache(file, mode)
            if flags & os.O_TRUNC:
                await self._truncate(file, fd, 0, uid)
            # The kernel would clear set-id bits for root, too, on a file that it passes through.
            pass_through = not os.fstat(fd).st_mode & (stat.S_ISUID | stat.S_ISGID)
            pass_through = pass_through and not self._mirrors_of(file)
            # Of what the kernel passes through to a file that is uploaded later we are told nothing.
            sync = self._writes.late and bool(flags & os.O_DSYNC)
            pass_through = pass_through and not sync
            fh = self._open_file(file, Want.SOURCE, fd, writer=True, pass_through=pass_through)
        except BaseException:
            self._native.end_write(nodeid)
            await self._close_writable(nodeid, fd)
            raise
        self._handles[fh] = Handle(file, fd, uid, sync=sync)
        return fh

    def _open_file(
        self, file: OpenFile, want: Want, fd: int, *, writer: bool = False, pass_through: bool = True
    ) -> int:
        """Enters the open; a file that is served from the source must not be answered from a cache file."""
        fh = self._native.open_file(file.nodeid, want, fd, writer, pass_through)
        if want is Want.SOURCE:
            file.from_source = True
            if not self._native.open_flags(fh) & nat.FOPEN_PASSTHROUGH:
                self._native.bypass(file.nodeid, True)
        return fh

    async def _make_way(self, file: OpenFile) -> None:
        """Readers are passed through to the cache file, and whoever opens this node to write would map that
        file, too (fuse_file_mmap): its mapped writes would never reach the source. So the writer is sent to a
        new node, in cached mode, and what it writes is mirrored for the readers of this one.

        Who opens it write-only can map nothing, and stays: sizes, flock(2) and inotify(7), which go by the
        kernel's inode, are then the same for all who have it open."""
        nodeid = file.nodeid
        entry = self._native.cached_entry(nodeid)
        if entry is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        if nodeid not in self._mirrors.get((entry.dev, entry.ino), {}):
            mirror = await self._disk.call(lambda: self._native.mirror_fd(nodeid))
            self._mirrors.setdefault((entry.dev, entry.ino), {})[nodeid] = mirror
            file.mirrors_for = (entry.dev, entry.ino)
            self._native.attach(nodeid)  # its IDLE ends the mirror
        dev, ino = entry.dev, entry.ino
        await self._disk.call(lambda: self._cache.drop_inode(dev, ino))
        self._native.supersede(nodeid)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))  # the kernel looks the name up again

    def _mirrors_of(self, file: OpenFile) -> list[int]:
        """The cache files of older nodes of this file that are still read."""
        if file.mirror_fd >= 0:
            return [file.mirror_fd]
        entry = self._native.cached_entry(file.nodeid) if self._mirrors else None
        return list(self._mirrors.get((entry.dev, entry.ino), {}).values()) if entry is not None else []

    async def _leave_cache(self, file: OpenFile, mode: Mode) -> None:
        """From here on the source alone counts; readers that are passed through get a mirror."""
        file.from_source = True
        if mode is Mode.PASS_CACHE and file.mirror_fd < 0:
            file.mirror_fd = await self._disk.call(lambda: self._native.mirror_fd(file.nodeid))
        if mode is Mode.CACHED:
            self._native.bypass(file.nodeid, True)
        await self._drop_cached(file.nodeid)

    async def _drop_cached(self, nodeid: int) -> None:
        entry = self._native.cached_entry(nodeid)
        if entry is not None:
            dev, ino = entry.dev, entry.ino
            await self._disk.call(lambda: self._cache.drop_inode(dev, ino))

    async def _open_reader(self, file: OpenFile, uid: int, pid: int) -> int:
        if self._decider is not None and not file.from_source:
            await self._decider.prepare(file.nodeid, pid)
        if file.from_source or self._tree.staged(file.nodeid):
            return await self._open_from_source(file)
        verdict = self._decider.opening(file.nodeid, pid, uid) if self._decider is not None else None
        fh = await self._open_decided(file, verdict)
        if verdict is not None and self._acts is not None:
            file.acted |= self._acts.opened(file.nodeid, fh, verdict, pid)
        return fh

    async def _open_decided(self, file: OpenFile, verdict: Verdict | None) -> int:
        if verdict is not None and not verdict.cached:
            await self._drop_cached(file.nodeid)  # a rule keeps it out; what is there of it goes
            return await self._open_from_source(file)
        entry, target = await self._load(file.nodeid, verdict)
        if self._native.told_old(file.nodeid):
            await self._disk.call(lambda: self._native.forget_attributes(file.nodeid))
        if target is None:
            return await self._open_from_source(file)
        if self._decider is not None:
            self._decider.caching(verdict, entry.identity, target.file.file_id)
        if verdict is not None and target.file.level and verdict.level:
            target.decision = verdict.id
        if verdict is not None and self._acts is not None:
            file.acted |= self._acts.loaded(file.nodeid, verdict, target)
        self._on_open(file.nodeid, verdict=verdict)
        if target.fills and entry.size > self._whole_limit:
            return self._open_partial(file, entry, target, verdict)
        try:
            if target.fills:
                self.counters.misses += 1
                await self.fetcher.ensure(target, range(target.file.nchunks))
        except FetchError as error:
            target.release()
            if error.errno in (errno.ESTALE, errno.ENOENT):
                self._tree.doubt(file.nodeid)
            if error.errno not in _READ_SOURCE:
                raise OSError(error.errno, os.strerror(error.errno)) from None
            return await self._open_from_source(file)
        except BaseException:
            target.release()
            raise
        if self.hinting is not None and target.fills:
            self.hinting.opened(file.nodeid, target)
        return self._open_whole(file, entry, target)

    async def _load(self, nodeid: int, verdict: Verdict | None) -> tuple[Entry, SourceTarget | None]:
        level = verdict.level if verdict is not None else 0
        try:
            return await self._gate.call(lambda: self._loader.load(nodeid, opened=True, level=level), unload)
        except OSError as error:
            entry = self._native.cached_entry(nodeid)
            if error.errno not in UNREACHABLE or entry is None or not self._tree.offline(nodeid):
                raise
            target = await self._disk.call(lambda: self._loader.load_offline(entry))
            if target is None:
                raise
            return entry, target

    def _open_whole(self, file: OpenFile, entry: Entry, target: SourceTarget) -> int:
        try:
            self._native.set_complete(file.nodeid, target.file.file_id, target.identity, decided=True)
            # The kernel could make nothing of compressed chunks: such a file is not passed through.
            want = Want.PARTIAL if target.file.level else Want.COMPLETE
            fh = self._open_file(file, want, target.file.fd)
        except BaseException:
            target.release()
            raise
        if self._native.open_flags(fh) & nat.FOPEN_PASSTHROUGH:
            target.release()  # C opens it by its number from now on
        else:
            self._serve(file, entry, target)
        self._handles[fh] = Handle(file)
        return fh

    def _open_partial(
        self, file: OpenFile, entry: Entry, target: SourceTarget, verdict: Verdict | None
    ) -> int:
        try:
            fh = self._open_file(file, Want.PARTIAL, -1)
        except BaseException:
            target.release()
            raise
        self._serve(file, entry, target, verdict)
        self._handles[fh] = Handle(file)
        return fh

    def _serve(
        self, file: OpenFile, entry: Entry, target: SourceTarget, verdict: Verdict | None = None
    ) -> None:
        """READs will come for this file: they are answered from ``target`` from now on."""
        if file.target is not None and file.target.key == target.key:
            file.target.terms = target.terms
            file.target.decision = target.decision or file.target.decision
            target.release()
            return
        self._drop_target(file)
        file.target = target
        self._by_key[target.key] = file
        cached = target.file
        rule = verdict.prefetch if verdict is not None else None
        limits = file_limits(
            verdict, self._limits.of(cached.chunk_size, self._whole_limit), cached.chunk_size
        )
        file.streams = Streams(cached.chunk_size, entry.size, limits)
        sizes = entry.size, cached.chunk_size
        if cached.level:
            self._native.set_packed(file.nodeid, cached.fd, cached.file_id, *sizes, cached.bitmap())
        else:
            self._native.set_cfile(file.nodeid, cached.fd, *sizes, cached.bitmap())
        if verdict is not None and (rule or verdict.advise or verdict.stream):
            file.decision = verdict.id
            until = None
            if rule is not None and rule.deadline is not None:
                until = trio.current_time() + rule.deadline
            for chunk in at_once(verdict, entry.size, cached.chunk_size, limits):
                self._ahead(file, target, chunk, until)
        if self.hinting is not None and target.fills and limits.max_window > 0:
            file.reading = self.hinting.begin(file.nodeid, target, partial(self._ahead, file, target))

    async def _open_from_source(self, file: OpenFile) -> int:
        source = await self._gate.call(lambda: self._tree.reopen(file.nodeid, Opened()), self._close_source)
        try:
            fh = self._open_file(file, Want.SOURCE, source.fd, pass_through=source.fd >= 0)
        except BaseException:
            self._close_source(source)
            raise
        passed = self._native.open_flags(fh) & (nat.FOPEN_PASSTHROUGH | nat.FOPEN_DIRECT_IO)
        if passed == nat.FOPEN_PASSTHROUGH or file.source is not None:
            self._close_source(source)
        else:
            file.source = source
        self._handles[fh] = Handle(file)
        return fh

    def set_readahead(self, nbytes: int) -> None:
        """Of the files that are opened from now on."""
        self._limits = replace(self._limits, max_window=nbytes)
        if self.hinting is not None:
            self.hinting.window = nbytes

    def unmounted(self) -> None:
        """Nobody else can open files by their paths: nobody waits for others at an open."""
        if self._acts is not None:
            self._acts.end_waits()

    # ---- the end of opens

    async def release(self, fh: int) -> None:
        """The kernel closed this handle; C's books know already."""
        handle = self._handles.pop(fh, None)
        if handle is not None and handle.writer and self._acts is not None:
            self._acts.end_write(handle.file.nodeid, handle.writer)
        if handle is not None and handle.fd >= 0:
            nodeid, fd = handle.file.nodeid, handle.fd
            self._native.end_write(nodeid)
            await self._store(lambda: self._writes.closed(nodeid, fd))
        self._native.handle_free(fh)

    def _end_if_idle(self, file: OpenFile) -> None:
        if file.pending or self._files.get(file.nodeid) is not file or not self._native.detach(file.nodeid):
            return
        del self._files[file.nodeid]
        if file.acted and self._acts is not None:
            self._acts.ended(file.nodeid)
        self._drop_target(file)
        if file.mirrors_for is not None:
            mirrors = self._mirrors[file.mirrors_for]
            os.close(mirrors.pop(file.nodeid))
            if not mirrors:
                del self._mirrors[file.mirrors_for]
        self._close_sources(file)

    def _close_sources(self, file: OpenFile) -> None:
        if file.source is not None:
            self._close_source(file.source)
        if file.mirror_fd >= 0:
            self._gate.close_fd(file.mirror_fd)

    def _close_source(self, source: Opened) -> None:
        source.close(self._gate.close_fd)

    def _drop_target(self, file: OpenFile) -> None:
        if file.target is None:
            return
        if file.streams is not None:
            file.streams.close()
        if file.reading is not None:
            file.reading.close()
            file.reading = None
        self.counters.prefetch_wasted += _length(file.target, file.ahead)
        self._brought(file, wasted=_length(file.target, file.ahead - file.coming))
        file.ahead.clear()
        file.coming.clear()
        self.fetcher.forget(file.target)
        self._by_key.pop(file.target.key, None)
        file.target.release()
        file.target = file.streams = None
        file.decision = 0

    # ---- read

    async def read(self, fh: int, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes; short only at the end of the file."""
        file = self._file_of(fh)
        target = file.target
        data: bytes | None = None
        if target is not None and not file.from_source:
            data = await self._read_cached(file, target, offset, size)
        elif target is None and not file.from_source:
            data = await self._disk.call(lambda: self._read_unattended(file.nodeid, offset, size))
        if data is None:
            source = await self._readable(file, fh)
            call = self._store if source.fd >= 0 else self._gate.call
            data = await call(lambda: _read_source(source, size, offset))
        self.counters.reads += 1
        self.counters.read_bytes += len(data)
        return data

    def _file_of(self, fh: int) -> OpenFile:
        """Also of an open that C answered: its reads come here once somebody writes the file."""
        handle = self._handles.get(fh)
        if handle is not None:
            return handle.file
        nodeid = nat.hot_node(fh)
        file = self._files.get(nodeid)
        if file is None:
            file = self._files[nodeid] = OpenFile(nodeid)
            self._native.attach(nodeid)
        return file

    async def _read_cached(
        self, file: OpenFile, target: SourceTarget, offset: int, size: int
    ) -> bytes | None:
        """None: the cache cannot hold it, read the source."""
        cached = target.file
        stop = min(offset + size, cached.size)
        if offset >= stop:
            return b""
        chunks = range(offset // cached.chunk_size, (stop - 1) // cached.chunk_size + 1)
        missing = cached.missing(chunks.start, chunks.stop)
        if chunks[-1] != file.last_chunk:
            file.last_chunk = chunks[-1]
            self._touch(file, chunks)
            if file.reading is not None:
                file.reading.touched(offset, stop - offset, stop=chunks.stop)
        if missing and not target.fills:  # it was whole, and proved damaged
            return None
        if missing:
            self.counters.misses += 1
            try:
                await self.fetcher.ensure(target, missing)
            except FetchError as error:
                if error.errno in _READ_SOURCE:
                    return None
                raise OSError(error.errno, os.strerror(error.errno)) from None
        try:
            return await self._disk.call(lambda: cached.read(offset, stop - offset))
        except OSError as error:
            if error.errno != errno.EBADMSG:
                raise
        await self._disk.call(lambda: cached.condemn(list(chunks)))
        return None

    def _read_unattended(self, nodeid: int, offset: int, size: int) -> bytes | None:
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
        own = self._handles.get(fh)
        if own is not None and own.fd >= 0:
            return Opened(own.fd)
        if file.source is None:
            nodeid = file.nodeid
            opened = file.target.opened if file.target is not None else None
            source = await self._gate.call(
                lambda: self._tree.reopen(nodeid, opened or Opened()), self._close_source
            )
            if file.source is not None:
                self._close_source(source)
            else:
                file.source = source
        return file.source

    # ---- write

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        """Bytes written to the source (all of them unless its disk filled up)."""
        handle = self._handles[fh]
        file = handle.file
        self.counters.writes += 1
        if not self._mirrors_of(file):
            done = await self._store(lambda: nat.pwrite(handle.fd, data, offset, not handle.uid))
        else:
            async with file.lock:  # overlapping writes reach all files in one order
                done = await self._store(lambda: nat.pwrite(handle.fd, data, offset, not handle.uid))
                for mirror in self._mirrors_of(file):
                    await self._disk.call(lambda m=mirror: nat.pwrite(m, data[:done], offset))  # type: ignore[misc]
        self.counters.written_bytes += done
        if handle.sync:
            await self._store(lambda: self._writes.sync(file.nodeid, handle.fd, os.fdatasync))
        return done

    async def truncate(self, nodeid: int, fh: int | None, size: int, uid: int) -> None:
        """To ``size`` bytes, through an open writer or by the node."""
        handle = self._handles.get(fh) if fh is not None else None
        if handle is not None and handle.fd >= 0:
            async with handle.file.lock:
                await self._truncate(handle.file, handle.fd, size, uid)
            return
        file = self._hold(nodeid)
        try:
            async with file.lock:
                fd = await self._open_writable(nodeid, os.O_WRONLY | (0 if size else os.O_TRUNC))
                try:
                    mode = self._native.begin_write(nodeid)
                    try:
                        await self._leave_cache(file, mode)
                        await self._truncate(file, fd, size, uid)
                        await self._store(lambda: self._writes.flush(nodeid, fd))
                    finally:
                        self._native.end_write(nodeid)
                finally:
                    await self._close_writable(nodeid, fd)
        finally:
            self._let_go(file)

    async def _truncate(self, file: OpenFile, fd: int, size: int, uid: int) -> None:
        await self._store(lambda: nat.ftruncate(fd, size, not uid))
        for mirror in self._mirrors_of(file):
            await self._disk.call(lambda m=mirror: nat.ftruncate(m, size))  # type: ignore[misc]

    async def flush(self, fh: int) -> None:
        """close(2) of one descriptor; reports what the source's own close would (NFS: all writes)."""
        handle = self._handles.get(fh)
        if handle is not None and handle.fd >= 0:
            nodeid, fd = handle.file.nodeid, handle.fd
            await self._store(lambda: self._writes.flush(nodeid, fd))

    async def fsync(self, fh: int, datasync: bool) -> None:
        """To the source's disk."""
        how = os.fdatasync if datasync else os.fsync
        handle = self._handles.get(fh)
        nodeid = handle.file.nodeid if handle is not None else nat.hot_node(fh)
        fd = handle.fd if handle is not None else -1
        await self._store(lambda: self._writes.sync(nodeid, fd, how))

    # ---- what C and the fetcher say

    def on_event(self, event: Event) -> None:
        """MISS, TOUCH and IDLE of the native side."""
        file = self._files.get(event.nodeid)
        if event.kind is EventKind.IDLE:
            if file is not None:
                self._end_if_idle(file)
        elif file is None or file.target is None or file.from_source:
            if event.kind is EventKind.MISS:
                self._native.failed(event.nodeid, event.chunk, 0)
        elif event.kind is EventKind.MISS:
            self._missed(file, file.target, range(event.chunk, event.stop), event.arg)
        elif event.kind is EventKind.TOUCH:
            self._touch(file, range(event.chunk, event.stop))
        if file is not None and file.reading is not None and event.kind in (EventKind.MISS, EventKind.TOUCH):
            file.reading.touched(event.arg, stop=event.stop)

    def _missed(self, file: OpenFile, target: SourceTarget, chunks: range, offset: int) -> None:
        """A read that begins at ``offset`` waits for these, which may be its last ones alone."""
        self.counters.misses += 1
        for chunk in chunks:
            there = target.file.state(chunk) is ChunkState.PRESENT
            if there or not self.fetcher.request(target, chunk, FetchClass.DEMAND):
                self._native.landed(file.nodeid, chunk)
        self._touch(file, range(min(offset // target.file.chunk_size, chunks.start), chunks.stop))

    def _touch(self, file: OpenFile, chunks: Iterable[int]) -> None:
        """Readers went to these chunks: what should be fetched ahead of them is asked for."""
        streams, target = file.streams, file.target
        if streams is None or target is None:
            return
        if file.acted and self._acts is not None:
            chunks = tuple(chunks)
            self._acts.touched(file.nodeid, chunks)
        for chunk in chunks:
            if chunk in file.ahead:
                file.ahead.discard(chunk)
                self.counters.prefetch_used += target.file.extent(chunk)[1]
                self._reached(file, target, chunk)
            if target.file.complete:
                continue
            planned = file.reading is not None and file.reading.foretold(chunk)
            dropped = []
            for span in streams.on_touch(chunk, trio.current_time()):
                dropped += [c for c in _chunks(span) if planned or not self._ahead(file, target, c)]
            if dropped:
                streams.on_dropped(dropped)

    def _reached(self, file: OpenFile, target: SourceTarget, chunk: int) -> None:
        """A reader came to a chunk that was fetched ahead, or was to be."""
        length = target.file.extent(chunk)[1]
        if chunk in file.coming:
            file.coming.discard(chunk)  # its landing is no fetching ahead any more
            self._brought(file, late=length)
        else:
            self._brought(file, used=length)

    def _ahead(self, file: OpenFile, target: SourceTarget, chunk: int, deadline: float | None = None) -> bool:
        if target.file.state(chunk) is ChunkState.PRESENT:
            return True

        def late(_: Target, chunk: int) -> None:
            file.ahead.discard(chunk)
            file.coming.discard(chunk)

        if self.fetcher.request(target, chunk, FetchClass.PREFETCH, deadline=deadline, on_late=late):
            file.ahead.add(chunk)
            if file.decision:
                file.coming.add(chunk)
                self._brought(file, asked=target.file.extent(chunk)[1])
            return True
        return False

    def _brought(self, file: OpenFile, **nbytes: int) -> None:
        if file.decision and self._decider is not None:
            self._decider.brought(file.decision, **nbytes)

    def on_landed(self, target: Target, chunk: int) -> None:
        """A chunk is in the cache file."""
        if isinstance(target, SourceTarget) and target.decision and self._decider is not None:
            stored = target.file.held(chunk)
            self._decider.compressed(target.decision, target.file.extent(chunk)[1], stored)
        file = self._by_key.get(target.key)
        if file is None or file.target is None:
            return
        if chunk in file.coming:
            file.coming.discard(chunk)
            self._brought(file, fetched=file.target.file.extent(chunk)[1])
        if file.acted and self._acts is not None:
            self._acts.landed(file.nodeid, file.target, chunk)
        if not file.from_source:
            self._native.landed(file.nodeid, chunk)
            if file.target.file.complete:
                own = file.target
                self._native.set_complete(file.nodeid, own.file.file_id, own.identity, decided=True)

    def on_failed(self, target: Target, chunk: int, code: int) -> None:
        """A chunk could not be had. ESTALE: the source changed while it was read, so its bytes count now."""
        file = self._by_key.get(target.key)
        if file is None or file.target is None:
            return
        file.ahead.discard(chunk)
        file.coming.discard(chunk)
        if code == errno.ESTALE:
            file.from_source = True
            self._native.bypass(file.nodeid, True)
        elif code == errno.ENOSPC:
            self._native.failed(file.nodeid, chunk, 0)
        else:
            self._native.failed(file.nodeid, chunk, as_read(code))

    def close(self) -> None:
        """The mount is gone: gives back every descriptor."""
        if self._acts is not None:
            self._acts.close()
        for file in list(self._files.values()):
            file.pending = 0
            self._drop_target(file)
            self._close_sources(file)
        self._files.clear()
        for handle in self._handles.values():
            if handle.fd >= 0:
                self._gate.close_fd(handle.fd)
        self._handles.clear()
        for mirrors in self._mirrors.values():
            for fd in mirrors.values():
                os.close(fd)
        self._mirrors.clear()


def _chunks(span: Span) -> range:
    return range(span.first, span.stop)


def _length(target: SourceTarget, chunks: Iterable[int]) -> int:
    return sum(target.file.extent(chunk)[1] for chunk in chunks)


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
