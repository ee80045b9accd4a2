"""Opening files to read them: what each is going to be served from."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Protocol

from swmld.errors import FetchError
from swmld.fetch.threads import Workers
from swmld.mount import native as nat
from swmld.mount.acting import Acts
from swmld.mount.deciding import Decider
from swmld.mount.fetching import READ_SOURCE, Fetching
from swmld.mount.gate import UNREACHABLE, SourceGate
from swmld.mount.loading import Loader, unload
from swmld.mount.native import Entry, Native, Want
from swmld.mount.opens import Handle, OpenFile, Opens
from swmld.mount.reading import FileReads
from swmld.mount.target import SourceTarget
from swmld.mount.tree import Opened, Tree

if TYPE_CHECKING:
    from swmld.rules.verdict import Verdict


class OnOpen(Protocol):
    """Told of a file that is opened to be read from the cache."""

    def __call__(self, nodeid: int, *, verdict: Verdict | None = None) -> None: ...


class Opening:
    """Files of up to ``whole_limit`` bytes are whole in the cache before their open is answered. Loop-only;
    what may block runs in worker threads."""

    def __init__(
        self,
        native: Native,
        gate: SourceGate,
        disk: Workers,
        tree: Tree,
        loader: Loader,
        opens: Opens,
        fetching: Fetching,
        reads: FileReads,
        *,
        whole_limit: int,
        on_open: OnOpen,
        decider: Decider | None = None,
        acts: Acts | None = None,
    ) -> None:
        self._native = native
        self._gate = gate
        self._disk = disk
        self._tree = tree
        self._loader = loader
        self._opens = opens
        self._fetching = fetching
        self._reads = reads
        self._whole_limit = whole_limit
        self._on_open = on_open
        self._decider = decider
        self._acts = acts

    async def open(self, file: OpenFile, uid: int, pid: int) -> int:
        """The file handle; under the file's lock. OSError. ``pid``: the thread that opens, 0 not known."""
        if self._decider is not None and not file.from_source:
            await self._decider.prepare(file.nodeid, pid)
        if file.from_source or self._tree.staged(file.nodeid):
            return await self._from_source(file)
        verdict = self._decider.opening(file.nodeid, pid, uid) if self._decider is not None else None
        fh = await self._decided(file, verdict)
        if verdict is not None and self._acts is not None:
            file.acted |= self._acts.opened(file.nodeid, fh, verdict, pid)
        return fh

    async def _decided(self, file: OpenFile, verdict: Verdict | None) -> int:
        if verdict is not None and not verdict.cached:
            # A rule keeps it out; what is there of it goes.
            await self._disk.call(lambda: self._loader.drop(file.nodeid))
            return await self._from_source(file)
        entry, target = await self._load(file.nodeid, verdict)
        if self._native.told_old(file.nodeid):
            await self._disk.call(lambda: self._native.forget_attributes(file.nodeid))
        if target is None:
            return await self._from_source(file)
        if self._decider is not None:
            self._decider.caching(verdict, entry.identity, target.file.file_id)
        if verdict is not None and target.file.level and verdict.level:
            target.decision = verdict.id
        if verdict is not None and self._acts is not None:
            file.acted |= self._acts.loaded(file.nodeid, verdict, target)
        self._on_open(file.nodeid, verdict=verdict)
        if target.fills and entry.size > self._whole_limit:
            return self._partial(file, entry, target, verdict)
        try:
            if target.fills:
                await self._fetching.ensure(target, range(target.file.nchunks))
        except FetchError as error:
            target.release()
            if error.errno in (errno.ESTALE, errno.ENOENT):
                self._tree.doubt(file.nodeid)
            if error.errno not in READ_SOURCE:
                raise OSError(error.errno, os.strerror(error.errno)) from None
            return await self._from_source(file)
        except BaseException:
            target.release()
            raise
        if target.fills:
            self._fetching.fetched_whole(file.nodeid, target)
        return self._whole(file, entry, target)

    async def _load(self, nodeid: int, verdict: Verdict | None) -> tuple[Entry, SourceTarget | None]:
        level = verdict.level if verdict is not None else 0

        def load() -> tuple[Entry, SourceTarget | None]:
            return self._loader.load(nodeid, opened=True, level=level)

        try:
            return await self._gate.call(load, unload, patient=False)
        except OSError as error:
            entry = self._native.cached_entry(nodeid)
            target: SourceTarget | None = None
            if error.errno in UNREACHABLE and entry is not None and self._tree.offline(nodeid):
                target = await self._disk.call(lambda: self._loader.load_offline(entry))
            if entry is not None and target is not None:
                return entry, target
            if error.errno not in UNREACHABLE or not self._gate.down:
                raise
        return await self._gate.call(load, unload)

    def _whole(self, file: OpenFile, entry: Entry, target: SourceTarget) -> int:
        try:
            self._native.set_complete(file.nodeid, target.file.file_id, target.identity, decided=True)
            # The kernel could make nothing of compressed chunks: such a file is not passed through.
            want = Want.PARTIAL if target.file.level else Want.COMPLETE
            fh = self._opens.enter(file, want, target.file.fd if want is Want.COMPLETE else target.source_fd)
        except BaseException:
            target.release()
            raise
        self._native.opened_generation(fh, target.identity)
        if self._native.open_flags(fh) & nat.FOPEN_PASSTHROUGH:
            target.release()  # C opens it by its number from now on
        else:
            self._fetching.serve(file, entry, target)
        self._opens.handles[fh] = Handle(file)
        return fh

    def _partial(self, file: OpenFile, entry: Entry, target: SourceTarget, verdict: Verdict | None) -> int:
        try:
            fh = self._opens.enter(file, Want.PARTIAL, target.source_fd)
        except BaseException:
            target.release()
            raise
        self._native.opened_generation(fh, target.identity)
        self._fetching.serve(file, entry, target, verdict)
        self._opens.handles[fh] = Handle(file)
        return fh

    async def _from_source(self, file: OpenFile) -> int:
        source = await self._reads.open_source(file.nodeid, Opened())
        try:
            fh = self._opens.enter(file, Want.SOURCE, source.fd, pass_through=source.fd >= 0)
        except BaseException:
            self._reads.close_source(source)
            raise
        passed = self._native.open_flags(fh) & (nat.FOPEN_PASSTHROUGH | nat.FOPEN_DIRECT_IO)
        if passed == nat.FOPEN_PASSTHROUGH or file.source is not None:
            self._reads.close_source(source)
        else:
            file.source = source
        self._opens.handles[fh] = Handle(file)
        return fh
