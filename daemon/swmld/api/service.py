"""What the daemon answers on its control socket and to a scrape: each method gathers, none decides."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from swmld.api import metrics
from swmld.api.health import DiskState, disk_state, health_of, why_unserved
from swmld.api.messages import (
    ENTRIES_PER_LINE,
    CacheEntry,
    CacheTotal,
    CacheUsage,
    Handler,
    Health,
    Probe,
    Progress,
    Stats,
    Status,
    VerifyResult,
    WarmupResult,
)
from swmld.api.metrics import Snapshot
from swmld.api.plugins import Plugged, calls, states
from swmld.api.room import Room
from swmld.api.rules import RulesApi
from swmld.api.staging import StagingApi
from swmld.api.warm import Warmup
from swmld.cache.audit import VerifyReport
from swmld.cache.files import CacheFile
from swmld.cache.store import Cache
from swmld.errors import UsageError
from swmld.fetch.scheduler import Fetcher
from swmld.fetch.threads import Workers
from swmld.mount.ahead import NeighbourPrefetch
from swmld.mount.gate import SourceGate
from swmld.mount.loading import Loader
from swmld.mount.mountpoint import RemoteSource, SourceDirectory
from swmld.mount.native import ROOT, Native
from swmld.mount.openfiles import OpenFiles
from swmld.mount.remote import RemoteTree
from swmld.mount.tree import Tree
from swmld.observe.observer import Observer
from swmld.staging.area import Staging
from swmld.types import Served

if TYPE_CHECKING:
    from swmld.config.models import Settings


@dataclass(slots=True)
class Service:
    """The rooms that are asked. ``metrics_address`` is set once the endpoint is bound."""

    settings: Settings
    version: str
    source: SourceDirectory | RemoteSource
    native: Native
    tree: Tree
    cache: Cache
    fetcher: Fetcher
    files: OpenFiles
    gate: SourceGate
    disk: Workers
    loader: Loader
    ahead: NeighbourPrefetch | None
    engine: str
    started: float
    observer: Observer
    rules: RulesApi
    mount_id: int
    metrics_address: str = "off"
    plugins: Plugged | None = None
    staging: Staging | None = None

    @property
    def mode(self) -> str:
        """The fastest way that reads are served."""
        if not self.settings.native:
            return "python"
        return "passthrough" if self.native.passthrough_works else "native"

    @property
    def fallbacks(self) -> list[str]:
        """One line for each feature that is missing, and what is used instead."""
        found = []
        if self.settings.passthrough and self.settings.native:
            if not self.native.passthrough_works:
                found.append("no FUSE passthrough in this kernel: C answers reads instead")
            elif self.native.counters()["backing_errors"]:
                found.append(
                    "the kernel refuses passthrough to some files (stacked file system): C reads them"
                )
        if (uring := self.native.uring_works) < 0:
            found.append(f"no FUSE over io_uring ({os.strerror(-uring)}): requests are read from the device")
        if self.settings.engine == "auto" and self.engine != "uring":
            found.append("no io_uring: the source is read by threads")
        return found

    def handlers(self) -> Mapping[str, Handler]:
        """By method name; see ``messages.METHODS``."""
        return {
            "status": self._status,
            "health": self._health,
            "stats": self._stats,
            "warmup": self._warmup,
            "cache.ls": self._ls,
            "cache.verify": self._verify,
            "cache.drop": self._drop,
            **self._staged.handlers(),
        }

    @property
    def _staged(self) -> StagingApi:
        how = "it is read-only" if self.source.read_only else "its source is a directory, written at once"
        return StagingApi(self.staging, f"nothing is staged at {self.settings.mount}: {how}", self._below)

    # ---- status and figures

    async def _status(self, params: dict[str, Any], progress: Progress) -> Status:
        usage = await self.disk.call(self.cache.usage)
        return Status(
            version=self.version,
            pid=os.getpid(),
            mount=str(self.settings.mount),
            source=self.source.name,
            cache_dir=str(self.settings.cache_dir),
            mode=self.mode,
            engine=self.engine,
            probe=self.observer.probe()["how"],
            read_only=self.source.read_only,
            metrics=self.metrics_address,
            uptime=time.monotonic() - self.started,
            cache=CacheUsage(bytes=usage.bytes, files=usage.files, limit=usage.limit, free=usage.free),
            fallbacks=self.fallbacks,
            rules=self.rules.status(),
            health=await self.health(),
            staged=self._staged.status(),
            watched=self.tree.watched if isinstance(self.tree, RemoteTree) else None,
        )

    async def health(self) -> Health:
        """What works now."""
        settings = self.settings

        def look() -> tuple[str, tuple[DiskState, str], list[str]]:
            held = self.cache.usage().bytes
            return (
                why_unserved(settings.mount, self.mount_id),
                disk_state(settings.cache_dir, settings.free_floor, held, settings.chunk_size),
                self._staged.problems(),
            )

        unserved, disk, staged = await self.disk.call(look)
        return health_of(
            mount=str(settings.mount),
            uptime=time.monotonic() - self.started,
            unserved=unserved,
            source_down=self.gate.down,
            disk=disk,
            probe=self._probe(),
            rules=self.rules.status(),
            staged=staged,
        )

    def _probe(self) -> Probe:
        found = self.observer.probe()
        return Probe(
            how=found["how"], why=found["why"], share=found["share"],
            rate=found["rate"], limit=found["limit"], lost=found["lost"],
        )  # fmt: skip

    async def _health(self, params: dict[str, Any], progress: Progress) -> Health:
        return await self.health()

    async def _stats(self, params: dict[str, Any], progress: Progress) -> Stats:
        return Stats(
            mount=str(self.settings.mount),
            uptime=time.monotonic() - self.started,
            metrics=metrics.values(self.snapshot()),
        )

    def snapshot(self) -> Snapshot:
        """All figures now; loop-only."""
        c, own, usage = self.native.counters(), self.files.counters, self.cache.usage()
        ahead = self.ahead
        return Snapshot(
            fetch=self.fetcher.stats,
            source=self.source.stats.counts() if self.source.remote is not None else None,
            staged=self._staged.figures(),
            opens={
                Served.PASSTHROUGH: c["open_passthrough"],
                Served.NATIVE if self.settings.native else Served.PYTHON: c["open_cached"],
            },
            reads={
                Served.NATIVE: c["hot_read"],
                Served.PYTHON: own.reads,
                Served.MISS: own.misses,
            },
            read_bytes={Served.NATIVE: c["hot_read_bytes"], Served.PYTHON: own.read_bytes},
            writes=own.writes,
            written_bytes=own.written_bytes,
            requests={
                "lookup": c["hot_lookup"],
                "getattr": c["hot_getattr"],
                "open": c["hot_open"],
                "release": c["hot_release"],
                "read": c["hot_read"],
                "readdir": c["hot_readdir"],
                "xattr": c["hot_xattr"],
                "python": c["forwarded"],
            },
            errors={
                "source_timeout": self.gate.timeouts,
                "backing": c["backing_errors"],
                "index_rows_lost": self.cache.lost_rows,
                "events_lost": c["events_lost"],
                "neighbour": ahead.failed if ahead is not None else 0,
            },
            parked_reads=c["parked"] - c["unparked"],
            cache_bytes=usage.bytes,
            cache_files=usage.files,
            cache_limit_bytes=usage.limit,
            disk_free_bytes=usage.free,
            evictions=self.cache.evicted,
            followed={"missing": c["followed_brought"], "present": c["followed_there"]},
            compressed=dict(zip(("raw", "stored"), self.cache.compressed, strict=True)),
            open_files=self.files.count,
            known_nodes=c["nodes"],
            **self.observer.counters(),
            seen_share=self.observer.sampling()[0],
            sampled_seconds=self.observer.sampling()[1],
            prefetch_used_bytes=own.prefetch_used,
            prefetch_wasted_bytes=own.prefetch_wasted,
            rules=self.rules.figures(),
            plugins=states(self.plugins),
            plugin_calls=calls(self.plugins),
        )

    # ---- the cache

    def _below(self, given: object) -> bytes:
        """A path as a client sends it, relative to the source's root."""
        if not isinstance(given, str):
            raise UsageError("path: expected text")
        path = os.path.normpath(os.path.join(self.settings.mount, given))
        mount = os.fspath(self.settings.mount)
        if path != mount and not path.startswith(mount.rstrip("/") + "/"):
            raise UsageError(f"{given}: expected a path under {mount}")
        relative = os.path.relpath(path, mount)
        return b"" if relative == "." else os.fsencode(relative)

    async def _warmup(self, params: dict[str, Any], progress: Progress) -> WarmupResult:
        paths = [self._below(path) for path in params.get("paths", [])]
        room = Room(self.cache, await self.disk.call(self.free_floor))
        warmup = Warmup(self.native, self.tree, self.gate, self.loader, self.fetcher, self.disk, room)
        return await warmup.run(paths, progress)

    def free_floor(self) -> int:
        """Bytes that stay free on the cache's disk; blocks."""
        try:
            disk = os.statvfs(self.settings.cache_dir)
        except OSError:  # the fetches will tell
            return 0
        return self.settings.free_floor.of(disk.f_blocks * disk.f_frsize)

    async def _ls(self, params: dict[str, Any], progress: Progress) -> CacheTotal:
        entries = self.cache.ls(self._below(params.get("path", "")))
        files = nbytes = 0
        while True:
            batch = await trio.to_thread.run_sync(
                lambda: [entry for entry, _ in zip(entries, range(ENTRIES_PER_LINE), strict=False)]
            )
            if not batch:
                return CacheTotal(files=files, bytes=nbytes)
            files += len(batch)
            nbytes += sum(entry.cached_bytes for entry in batch)
            await progress(
                {
                    "entries": [
                        CacheEntry(
                            path=os.fsdecode(e.path),
                            size=e.size,
                            cached_bytes=e.cached_bytes,
                            last_used=e.last_used,
                            pinned=e.pinned,
                            state=e.state,
                        )
                        for e in batch
                    ]
                }
            )

    async def _verify(self, params: dict[str, Any], progress: Progress) -> VerifyResult:
        path = self._below(params.get("path", ""))
        token = trio.lowlevel.current_trio_token()

        def tell(report: VerifyReport) -> None:
            told = {
                "done_bytes": report.bytes,
                "total_bytes": 0,
                "done_files": report.files,
                "total_files": 0,
            }
            trio.from_thread.run(progress, told, trio_token=token)

        def refetch(file: CacheFile, chunk: int) -> None:
            trio.from_thread.run(self._mend, file, chunk, trio_token=token)

        report = await trio.to_thread.run_sync(lambda: self.cache.verify(path, tell, refetch))
        return VerifyResult(
            files=report.files, chunks=report.chunks, bad=report.bad, mended=report.mended, failed=[]
        )

    async def _mend(self, file: CacheFile, chunk: int) -> None:
        """Fetch a bad chunk again, if the source still is the generation that was cached."""
        nodeid = self.native.node_of(file.identity.dev, file.identity.ino)
        if not nodeid:
            nodeid = await self._find(file.source_path)
        target = None
        try:
            _, target = await self.gate.call(lambda: self.loader.load(nodeid))
            if target is not None and target.fills and target.file.file_id == file.file_id:
                await self.fetcher.ensure(target, [chunk])
        except Exception:  # what cannot be mended is counted as bad; the source still has the bytes
            return
        finally:
            if target is not None:
                target.release()

    async def _find(self, path: bytes) -> int:
        nodeid = ROOT
        for name in path.split(b"/"):
            lookup = partial(self.tree.lookup, nodeid, name, ref=False)
            nodeid = (await self.gate.call(lookup)).nodeid
        return nodeid

    async def _drop(self, params: dict[str, Any], progress: Progress) -> CacheTotal:
        path = self._below(params.get("path", ""))
        before = self.cache.usage()
        files = await trio.to_thread.run_sync(self.cache.drop_path, path)
        after = self.cache.usage()
        return CacheTotal(files=files, bytes=max(0, before.bytes - after.bytes))
