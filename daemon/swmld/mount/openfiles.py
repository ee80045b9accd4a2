"""Regular files, from their open to their last close: the wiring of all that is done with them.

One ``OpenFile`` (``opens``) per node that Python knows to be open. Its life: made by the first open that
comes here, ended by C's IDLE event, when no open of the node is left. It is in one of these states:

    whole      every chunk is in the cache: C and the kernel serve it alone
    partial    C serves what is there; a missing chunk is fetched while its READ is parked
    source     it was, or is being, written, or cannot be cached: every byte comes from the source itself

``opening`` opens files to read them and ``writing`` to write, ``reading`` answers reads, ``fetching`` has
chunks fetched for them.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from swmld.fetch.scheduler import Fetcher
from swmld.fetch.threads import Workers
from swmld.mount.acting import Acts
from swmld.mount.deciding import Decider
from swmld.mount.fetching import Fetching
from swmld.mount.gate import SourceGate, Store
from swmld.mount.hinting import Hinting
from swmld.mount.loading import Loader
from swmld.mount.mirrors import Mirrors
from swmld.mount.native import Event, EventKind, Native
from swmld.mount.opening import OnOpen, Opening
from swmld.mount.opens import Counters, OpenFile, Opens
from swmld.mount.reading import FileReads
from swmld.mount.tree import Tree, Writes
from swmld.mount.writing import FileWrites
from swmld.plan.readahead import Limits

_WRITING = os.O_WRONLY | os.O_RDWR


class OpenFiles:
    """Opens and their ends; ``reads`` and ``writes`` have what is done by handle in between. ``fetching`` is
    to be told which chunks ``fetcher`` has landed or could not have. ``gone``: whether somebody has taken the
    mount away. Loop-only; what may block runs in worker threads."""

    def __init__(
        self,
        native: Native,
        gate: SourceGate,
        disk: Workers,
        tree: Tree,
        writes: Writes,
        store: Store,
        loader: Loader,
        fetcher: Fetcher,
        *,
        whole_limit: int,
        limits: Limits,
        on_open: OnOpen,
        decider: Decider | None = None,
        hinting: Hinting | None = None,
        gone: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self._native = native
        self._gate = gate
        self._acts: Acts | None = None
        if decider is not None:
            self._acts = Acts(native, gone)
            native.watched = lambda: decider.watches
            decider.ask_again = native.ask_again
        self._opens = Opens(native)
        self._mirrors = Mirrors(native, disk)
        self.fetching = Fetching(
            native, fetcher, self._opens.counters,
            whole_limit=whole_limit, limits=limits, decider=decider, acts=self._acts, hinting=hinting,
        )  # fmt: skip
        self.reads = FileReads(native, gate, disk, tree, store, loader, self._opens, self.fetching)
        self._opening = Opening(
            native, gate, disk, tree, loader, self._opens, self.fetching, self.reads,
            whole_limit=whole_limit, on_open=on_open, decider=decider, acts=self._acts,
        )  # fmt: skip
        self.writes = FileWrites(
            native, disk, writes, store, loader, self._opens, self._mirrors, decider=decider, acts=self._acts
        )

    @property
    def count(self) -> int:
        """Files that Python holds state of."""
        return len(self._opens.files)

    @property
    def counters(self) -> Counters:
        """What Python served."""
        return self._opens.counters

    def written(self, nodeid: int) -> bool:
        """Whether somebody has it open to write."""
        if nodeid not in self._opens.files:
            return False
        return any(h.fd >= 0 and h.file.nodeid == nodeid for h in self._opens.handles.values())

    async def open(self, nodeid: int, flags: int, uid: int, pid: int = 0) -> int:
        """The file handle, entered into C's books; OSError. ``pid``: the thread that opens, 0 not known."""
        self.counters.opens += 1
        file = self._opens.hold(nodeid)
        try:
            if flags & (_WRITING | os.O_TRUNC):
                return await self.writes.open(file, flags, uid, pid)
            async with file.lock:
                fh = await self._opening.open(file, uid, pid)
            if file.acted and self._acts is not None:
                await self._acts.meet(nodeid, pid)
            return fh
        finally:
            self._let_go(file)

    async def adopt(self, nodeid: int, fd: int, uid: int, pid: int = 0, flags: int = 0) -> int:
        """The handle of a file that was just created and is open as ``fd``, which is taken over. ``flags``:
        of open(2)."""
        self.counters.opens += 1
        file = self._opens.hold(nodeid)
        try:
            return await self.writes.adopt(file, fd, uid, pid, flags)
        finally:
            self._let_go(file)

    async def truncate(self, nodeid: int, fh: int | None, size: int, uid: int) -> None:
        """To ``size`` bytes, through an open writer or by the node. OSError."""
        handle = self._opens.handles.get(fh) if fh is not None else None
        if handle is not None and handle.fd >= 0:
            await self.writes.truncate_open(handle, size, uid)
            return
        file = self._opens.hold(nodeid)
        try:
            await self.writes.truncate(file, size, uid)
        finally:
            self._let_go(file)

    async def release(self, fh: int) -> None:
        """The kernel closed this handle; C's books know already."""
        handle = self._opens.handles.pop(fh, None)
        if handle is not None:
            await self.writes.close(handle)
        self._native.handle_free(fh)

    def on_event(self, event: Event) -> None:
        """MISS, TOUCH and IDLE of the native side."""
        file = self._opens.files.get(event.nodeid)
        if event.kind is EventKind.IDLE:
            if file is not None:
                self._end_if_idle(file)
        elif file is None or file.target is None or file.from_source:
            if event.kind is EventKind.MISS:
                self._native.failed(event.nodeid, event.chunk, 0)
        elif event.kind is EventKind.MISS:
            self.fetching.missed(file, file.target, range(event.chunk, event.stop), event.arg)
        elif event.kind is EventKind.TOUCH:
            self.fetching.touch(file, range(event.chunk, event.stop))
        if file is not None and file.reading is not None and event.kind in (EventKind.MISS, EventKind.TOUCH):
            file.reading.touched(event.arg, stop=event.stop)

    def unmounted(self) -> None:
        """Nobody else can open files by their paths: nobody waits for others at an open."""
        if self._acts is not None:
            self._acts.end_waits()

    def close(self) -> None:
        """The mount is gone: gives back every descriptor."""
        if self._acts is not None:
            self._acts.close()
        for file in list(self._opens.files.values()):
            file.pending = 0
            self.fetching.drop(file)
            self._close_sources(file)
        self._opens.files.clear()
        for handle in self._opens.handles.values():
            if handle.fd >= 0:
                self._gate.close_fd(handle.fd)
        self._opens.handles.clear()
        self._mirrors.close()

    def _let_go(self, file: OpenFile) -> None:
        file.pending -= 1
        self._end_if_idle(file)

    def _end_if_idle(self, file: OpenFile) -> None:
        files = self._opens.files
        if file.pending or files.get(file.nodeid) is not file or not self._native.detach(file.nodeid):
            return
        del files[file.nodeid]
        if file.acted and self._acts is not None:
            self._acts.ended(file.nodeid)
        self.fetching.drop(file)
        self._mirrors.end(file)
        self._close_sources(file)

    def _close_sources(self, file: OpenFile) -> None:
        if file.source is not None:
            self.reads.close_source(file.source)
        if file.mirror_fd >= 0:
            self._gate.close_fd(file.mirror_fd)
