"""Files that are written: opening them, and where their writes go.

A writer's open drops the cached generation first (the index commits that before a byte changes), so no crash
can leave cached bytes that are older than the source's. Readers whose kernel inode is passed through to the
cache file see the writes because they are mirrored into that file (``mirrors``).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Awaitable, Callable

import trio

from swmld.fetch.threads import Workers
from swmld.mount import calls
from swmld.mount import native as nat
from swmld.mount.acting import Acts
from swmld.mount.deciding import Decider, single_writer
from swmld.mount.gate import Store
from swmld.mount.loading import Loader
from swmld.mount.mirrors import Mirrors
from swmld.mount.native import Mode, Native, Want
from swmld.mount.opens import Handle, OpenFile, Opens
from swmld.mount.tree import Writes


class FileWrites:
    """Loop-only; what may block runs in worker threads: on the source in ``store``, on cache files in
    ``disk``."""

    def __init__(
        self,
        native: Native,
        disk: Workers,
        writes: Writes,
        store: Store,
        loader: Loader,
        opens: Opens,
        mirrors: Mirrors,
        *,
        decider: Decider | None = None,
        acts: Acts | None = None,
    ) -> None:
        self._native = native
        self._disk = disk
        self._writes = writes
        self._store = store
        self._loader = loader
        self._opens = opens
        self._mirrors = mirrors
        self._decider = decider
        self._acts = acts

    # ---- open and close

    async def open(self, file: OpenFile, flags: int, uid: int, pid: int) -> int:
        """The file handle; OSError. ``flags``: of open(2). ``pid``: the thread that opens, 0 not known."""

        async def write() -> int:
            async with file.lock:
                fd = await self._open_writable(file.nodeid, flags)
                return await self._enter(file, fd, uid, flags)

        return await self._one_writer(file.nodeid, uid, pid, write)

    async def adopt(self, file: OpenFile, fd: int, uid: int, pid: int, flags: int) -> int:
        """As ``open``, of a file that was just created and is open as ``fd``, which is taken over."""

        taken = False

        async def write() -> int:
            nonlocal taken
            async with file.lock:
                taken = True  # it closes what it cannot enter
                return await self._enter(file, fd, uid, os.O_RDWR | flags & os.O_DSYNC, new=self._writes.late)

        try:
            return await self._one_writer(file.nodeid, uid, pid, write)
        finally:
            if not taken:
                await self._close_writable(file.nodeid, fd)

    async def close(self, handle: Handle) -> None:
        """The kernel closed this handle, which may be a reader's."""
        if handle.writer and self._acts is not None:
            self._acts.end_write(handle.file.nodeid, handle.writer)
        if handle.fd >= 0:
            nodeid, fd = handle.file.nodeid, handle.fd
            self._native.end_write(nodeid)
            await self._store(lambda: self._writes.closed(nodeid, fd))

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
        self._opens.handles[fh].writer = process
        return fh

    async def _open_writable(self, nodeid: int, flags: int) -> int:
        return await self._store(
            lambda: self._writes.open(nodeid, flags), lambda fd: self._writes.closed(nodeid, fd)
        )

    async def _close_writable(self, nodeid: int, fd: int) -> None:
        with trio.CancelScope(shield=True):
            await self._store(lambda: self._writes.closed(nodeid, fd))

    async def _enter(self, file: OpenFile, fd: int, uid: int, flags: int, *, new: bool = False) -> int:
        """``new``: nothing of it can be in the cache."""
        nodeid = file.nodeid
        try:
            mode = self._native.begin_write(nodeid)
        except OSError:
            await self._close_writable(nodeid, fd)
            raise
        if new:
            self._native.made(nodeid)
        try:
            if mode is Mode.PASS_CACHE and flags & os.O_RDWR:
                await self._make_way(file)
            await self._leave_cache(file, mode, new)
            if flags & os.O_TRUNC:
                await self._set_size(file, fd, 0, uid)
            local = self._native.local
            here = local or self._writes.late
            found = os.fstat(fd) if here else await self._store(lambda: os.fstat(fd))
            # The kernel would clear set-id bits for root, too, on a file that it passes through.
            pass_through = not found.st_mode & (stat.S_ISUID | stat.S_ISGID)
            # It opens it anew, by the name of this descriptor, for each who opens another name: a network
            # file system does not find it once that name is gone.
            pass_through = pass_through and (local or found.st_nlink == 1)
            pass_through = pass_through and not self._mirrors.of(file)
            # Of what the kernel passes through to a file that is uploaded later we are told nothing.
            sync = self._writes.late and bool(flags & os.O_DSYNC)
            pass_through = pass_through and not sync
            fh = self._opens.enter(file, Want.SOURCE, fd, writer=True, pass_through=pass_through)
        except BaseException:
            self._native.end_write(nodeid)
            await self._close_writable(nodeid, fd)
            raise
        self._opens.handles[fh] = Handle(file, fd, uid, sync=sync)
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
        await self._mirrors.leave(file, entry)
        await self._disk.call(lambda: self._loader.drop(nodeid))
        self._native.supersede(nodeid)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))  # the kernel looks the name up again

    async def _leave_cache(self, file: OpenFile, mode: Mode, new: bool = False) -> None:
        """From here on the source alone counts; readers that are passed through get a mirror."""
        file.from_source = True
        if mode is Mode.PASS_CACHE:
            await self._mirrors.own(file)
        if mode is Mode.CACHED:
            self._native.bypass(file.nodeid, True)
        if not new:
            await self._disk.call(lambda: self._loader.drop(file.nodeid))

    # ---- changes

    async def write(self, fh: int, offset: int, data: bytes, keep_setid: bool) -> int:
        """Bytes written to the source (all of them unless its disk filled up); ``keep_setid``: by somebody
        who does not clear setuid and setgid bits. OSError."""
        handle = self._opens.handles[fh]
        file = handle.file
        counters = self._opens.counters
        counters.writes += 1
        if not self._mirrors.of(file):
            done = await self._store(lambda: calls.pwrite(handle.fd, data, offset, keep_setid))
        else:
            async with file.lock:  # overlapping writes reach all files in one order
                done = await self._store(lambda: calls.pwrite(handle.fd, data, offset, keep_setid))
                for mirror in self._mirrors.of(file):
                    await self._disk.call(lambda m=mirror: calls.pwrite(m, data[:done], offset))  # type: ignore[misc]
        counters.written_bytes += done
        if handle.sync:
            await self._store(lambda: self._writes.sync(file.nodeid, handle.fd, os.fdatasync))
        return done

    async def truncate_open(self, handle: Handle, size: int, uid: int) -> None:
        """To ``size`` bytes, through an open writer. OSError."""
        async with handle.file.lock:
            await self._set_size(handle.file, handle.fd, size, uid)

    async def truncate(self, file: OpenFile, size: int, uid: int) -> None:
        """The same by the node."""
        nodeid = file.nodeid
        async with file.lock:
            fd = await self._open_writable(nodeid, os.O_WRONLY | (0 if size else os.O_TRUNC))
            try:
                mode = self._native.begin_write(nodeid)
                try:
                    await self._leave_cache(file, mode)
                    await self._set_size(file, fd, size, uid)
                    await self._store(lambda: self._writes.flush(nodeid, fd))
                finally:
                    self._native.end_write(nodeid)
            finally:
                await self._close_writable(nodeid, fd)

    async def _set_size(self, file: OpenFile, fd: int, size: int, uid: int) -> None:
        await self._store(lambda: calls.ftruncate(fd, size, not uid))
        for mirror in self._mirrors.of(file):
            await self._disk.call(lambda m=mirror: calls.ftruncate(m, size))  # type: ignore[misc]

    # ---- safe at the source

    async def flush(self, fh: int) -> None:
        """close(2) of one descriptor; reports what the source's own close would (NFS: all writes)."""
        handle = self._opens.handles.get(fh)
        if handle is not None and handle.fd >= 0:
            nodeid, fd = handle.file.nodeid, handle.fd
            await self._store(lambda: self._writes.flush(nodeid, fd))

    async def fsync(self, fh: int, datasync: bool) -> None:
        """To the source's disk."""
        how = os.fdatasync if datasync else os.fsync
        handle = self._opens.handles.get(fh)
        nodeid = handle.file.nodeid if handle is not None else nat.hot_node(fh)
        fd = handle.fd if handle is not None else -1
        await self._store(lambda: self._writes.sync(nodeid, fd, how))
