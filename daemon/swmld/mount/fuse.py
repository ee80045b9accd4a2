"""The pyfuse3 adapter: translates types and errors, and does nothing else."""

from __future__ import annotations

import errno
import functools
import logging
import os
import stat
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ParamSpec, TypeVar

import pyfuse3

from swmld.errors import SwmldError
from swmld.mount import native as nat
from swmld.mount.gate import as_read
from swmld.mount.namespace import Caller, Namespace
from swmld.mount.native import Entry, Native
from swmld.mount.openfiles import OpenFiles
from swmld.mount.remote_names import RemoteNames

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


def _translated(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """The one place where an error becomes an errno of the file system."""

    @functools.wraps(method)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(*args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except OSError as error:
            raise pyfuse3.FUSEError(as_read(error.errno or errno.EIO)) from None
        except SwmldError as error:
            raise pyfuse3.FUSEError(error.errno) from None
        except Exception:  # a bug of ours must not take the mount down with it
            log.exception("%s failed", method.__name__)
            raise pyfuse3.FUSEError(errno.EIO) from None

    return wrapper


def attributes(entry: Entry) -> pyfuse3.EntryAttributes:
    """``st_ino`` is the nodeid here; C puts the source's inode number in its place on the way out."""
    a = pyfuse3.EntryAttributes()
    a.st_ino = entry.nodeid
    a.generation = 0
    a.entry_timeout = a.attr_timeout = entry.valid
    a.st_mode, a.st_nlink = entry.mode, entry.nlink
    a.st_uid, a.st_gid, a.st_rdev = entry.uid, entry.gid, entry.rdev
    a.st_size, a.st_blksize, a.st_blocks = entry.size, entry.blksize, entry.blocks
    a.st_atime_ns, a.st_mtime_ns, a.st_ctime_ns = entry.atime_ns, entry.mtime_ns, entry.ctime_ns
    return a


def _absent(seconds: float) -> pyfuse3.EntryAttributes:
    """That a name is not there; the kernel may answer so for ``seconds``."""
    a = pyfuse3.EntryAttributes()
    a.st_ino = 0
    a.entry_timeout = seconds
    return a


def _caller(ctx: pyfuse3.RequestContext) -> Caller:
    return Caller(ctx.uid, ctx.gid, ctx.umask)


class Fuse(pyfuse3.Operations):
    """What C passes on."""

    supports_dot_lookup = False
    enable_acl = False  # C asks for POSIX ACLs at INIT where the source stores them
    enable_writeback_cache = False

    def __init__(self, native: Native, names: Namespace | RemoteNames, files: OpenFiles) -> None:
        super().__init__()
        self._native = native
        self._names = names
        self._files = files

    @_translated
    async def lookup(self, parent: int, name: bytes, ctx: Any = None) -> pyfuse3.EntryAttributes:
        try:
            return attributes(await self._names.lookup(parent, name))
        except FileNotFoundError:
            if not self._names.absent_for:
                raise
            return _absent(self._names.absent_for)

    @_translated
    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for nodeid, count in inode_list:
            self._native.forget(nodeid, count)

    @_translated
    async def getattr(self, nodeid: int, ctx: Any = None) -> pyfuse3.EntryAttributes:
        return attributes(await self._names.getattr(nodeid))

    @_translated
    async def setattr(
        self, nodeid: int, attr: pyfuse3.EntryAttributes, fields: Any, fh: int | None, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        if fields.update_size:
            await self._files.truncate(nodeid, fh, attr.st_size, ctx.uid)
        changes: dict[str, int] = {}
        if fields.update_mode:
            changes["mode"] = attr.st_mode
        if fields.update_uid:
            changes["uid"] = attr.st_uid
        if fields.update_gid:
            changes["gid"] = attr.st_gid
        if fields.update_atime:
            changes["atime_ns"] = attr.st_atime_ns
        if fields.update_mtime and not fields.update_size:  # truncate(2) has set it at the source
            changes["mtime_ns"] = attr.st_mtime_ns
        # With nothing to change it is a chown(2) of nothing: ctime, and set-id bits.
        if not changes and not fields.update_size:
            await self._may_clear_set_id(nodeid, ctx)
        if changes or not fields.update_size:
            await self._names.setattr(nodeid, **changes, thread=ctx.pid)
        return attributes(await self._names.getattr(nodeid))

    async def _may_clear_set_id(self, nodeid: int, ctx: pyfuse3.RequestContext) -> None:
        """OSError EPERM where bits would go and the caller is not the owner: the kernel leaves that to us
        (FUSE_HANDLE_KILLPRIV_V2), and checks who may only where it changes owner or mode itself. A write(2)
        asks with the same message, and who has the file open to write may."""
        if not ctx.uid or self._files.written(nodeid):
            return
        entry = await self._names.getattr(nodeid)
        kept = stat.S_ISGID if not entry.mode & stat.S_IXGRP and ctx.gid == entry.gid else 0
        cleared = entry.mode & (stat.S_ISUID | stat.S_ISGID) & ~kept
        if cleared and not stat.S_ISDIR(entry.mode) and entry.uid != ctx.uid:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    @_translated
    async def readlink(self, nodeid: int, ctx: Any) -> bytes:
        return await self._names.readlink(nodeid)

    @_translated
    async def mknod(
        self, parent: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return attributes(await self._names.mknod(parent, name, mode, rdev, _caller(ctx)))

    @_translated
    async def mkdir(
        self, parent: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return attributes(await self._names.mkdir(parent, name, mode, _caller(ctx)))

    @_translated
    async def symlink(
        self, parent: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return attributes(await self._names.symlink(parent, name, target, _caller(ctx)))

    @_translated
    async def link(
        self, nodeid: int, parent: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return attributes(await self._names.link(nodeid, parent, name))

    @_translated
    async def unlink(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._names.unlink(parent, name)

    @_translated
    async def rmdir(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._names.rmdir(parent, name)

    @_translated
    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, ctx: Any
    ) -> None:
        await self._names.rename((parent, name), (new_parent, new_name), flags)

    # ---- files

    @_translated
    async def open(self, nodeid: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=await self._files.open(nodeid, flags, ctx.uid, ctx.pid))

    @_translated
    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        entry, fd = await self._names.create(parent, name, flags, mode, _caller(ctx))
        try:
            fh = await self._files.adopt(entry.nodeid, fd, ctx.uid, ctx.pid, flags)
        except BaseException:
            self._native.forget(entry.nodeid, 1)
            raise
        return pyfuse3.FileInfo(fh=fh), attributes(entry)

    @_translated
    async def read(self, fh: int, offset: int, size: int) -> bytes:
        return await self._files.reads.read(fh, offset, size)

    @_translated
    async def write(self, fh: int, offset: int, data: bytes) -> int:
        # C says so of who writes: who opened the file may have been another user.
        unprivileged = bool(fh & nat.FH_KILL_SETID)
        return await self._files.writes.write(fh & ~nat.FH_KILL_SETID, offset, data, not unprivileged)

    @_translated
    async def flush(self, fh: int) -> None:
        await self._files.writes.flush(fh)

    @_translated
    async def release(self, fh: int) -> None:
        await self._files.release(fh)

    @_translated
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._files.writes.fsync(fh, datasync)

    # ---- directories

    @_translated
    async def opendir(self, nodeid: int, ctx: pyfuse3.RequestContext) -> int:
        return await self._names.opendir(nodeid)

    @_translated
    async def readdir(self, fh: int, offset: int, token: pyfuse3.ReaddirToken) -> None:
        while True:
            offset, found = await self._names.entries(fh, offset)
            if not found:
                return
            for name, entry in found:
                offset += 1
                if entry is None:
                    continue
                if not pyfuse3.readdir_reply(token, name, attributes(entry), offset):
                    return
                if name not in (b".", b".."):
                    self._names.listed(entry)
            if self._names.handed(fh):
                return

    @_translated
    async def releasedir(self, fh: int) -> None:
        self._names.releasedir(fh)

    @_translated
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._names.fsyncdir(fh)

    # ---- the rest

    @_translated
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        s = await self._names.statfs()
        d = pyfuse3.StatvfsData()
        d.f_bsize, d.f_frsize = s.f_bsize, s.f_frsize
        d.f_blocks, d.f_bfree, d.f_bavail = s.f_blocks, s.f_bfree, s.f_bavail
        d.f_files, d.f_ffree, d.f_favail = s.f_files, s.f_ffree, s.f_favail
        d.f_namemax = s.f_namemax
        return d

    @_translated
    async def getxattr(self, nodeid: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        return await self._names.getxattr(nodeid, name)

    @_translated
    async def setxattr(self, nodeid: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._names.setxattr(nodeid, name, value)

    @_translated
    async def listxattr(self, nodeid: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        names = await self._names.listxattr(nodeid)
        return [name for name in names if not ctx.uid or not name.startswith(b"trusted.")]

    @_translated
    async def removexattr(self, nodeid: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._names.removexattr(nodeid, name)

    def stacktrace(self) -> None:
        """pyfuse3 asks for it through an extended attribute that swmld does not reserve."""


__all__ = ["Fuse", "attributes"]
