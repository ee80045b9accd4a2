"""Wiring and teardown: builds the rooms from the settings, runs them, takes them down in reverse order."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import resource
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence, Set
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import pyfuse3
import trio

from swmld import __version__, logs, sdnotify
from swmld._native import lib
from swmld.api import http
from swmld.api import plugins as plugins_api
from swmld.api.control import ControlServer
from swmld.api.patterns import PatternsApi
from swmld.api.rules import RulesApi
from swmld.api.service import Service
from swmld.cache.store import Cache
from swmld.config import live
from swmld.errors import HostError, SwmldError, UsageError
from swmld.fetch.buffers import BufferPool
from swmld.fetch.engine import make_engine
from swmld.fetch.flights import Target
from swmld.fetch.scheduler import Fetcher
from swmld.fetch.stats import FetchStats
from swmld.fetch.threads import Workers
from swmld.fetch.together import Together
from swmld.head import plugged
from swmld.mount import mountpoint
from swmld.mount.ahead import NeighbourPrefetch
from swmld.mount.fuse import Fuse
from swmld.mount.gate import SourceGate, Store
from swmld.mount.hinting import Hinting
from swmld.mount.keeping import Keeper, Kept
from swmld.mount.listings import Listings
from swmld.mount.loading import Loader
from swmld.mount.mountpoint import RemoteSource, SourceDirectory
from swmld.mount.namespace import Namespace
from swmld.mount.native import Config, Event, EventKind, Native
from swmld.mount.openfiles import OpenFiles
from swmld.mount.remote import RemoteTree
from swmld.mount.remote_changes import RemoteChanges
from swmld.mount.remote_names import RemoteNames
from swmld.mount.tree import DirectoryTree, DirectoryWrites, NoWrites, Writes
from swmld.observe.libraries import Programs
from swmld.observe.observer import Devices, Observer
from swmld.observe.probe import device_of, kernel_device
from swmld.plan.readahead import Limits
from swmld.plugins.known import Plugins
from swmld.sources import opening
from swmld.sources.interface import ROOT, Attributes, Feature
from swmld.staging.area import Staging
from swmld.staging.draining import drain
from swmld.types import Check
from swmld.urls import SourceUrl

if TYPE_CHECKING:
    from swmld.config.models import Settings
    from swmld.head.reload import Loaded
    from swmld.head.running import Running
    from swmld.rules.ruleset import RuleSet
    from swmld.rules.verdict import Verdict

log = logging.getLogger(__name__)
T = TypeVar("T")

DISK_THREADS = 16
"""Calls on the cache directory at once."""

FOREVER = 1e9
"""Seconds for which a look at an immutable source holds."""

WRITE_THREADS = 64
"""Files of a remote source that are opened to be written, uploaded or renamed at once, each as long as it
takes."""

FUSE_TASKS = 256
"""Requests that Python works on at once; hung ones must not use them up before the gate closes."""

BUFFERED_CHUNKS = 24
"""Memory for fetches, in chunks: 96 MiB with chunks of 4 MiB, 0.5 s of a 200 MB/s source; three quarters of
it for prefetch."""

READAHEAD_KIB = 1024

FEWEST_DESCRIPTORS = 64
"""The daemon has 30 to 40 of its own; with fewer than these not even a single file can be opened."""


def run(settings: Settings, fixed: Set[str] = frozenset(), watched: Loaded | None = None) -> int:
    """Serve until told to stop; the exit code. ``fixed``: keys that files cannot change any more.
    ``watched``: the settings' file, where there are no rules. Raises SwmldError for what cannot be served."""
    logs.setup(settings)
    os.umask(0)  # modes are the callers' business, each with its own umask
    _raise_fd_limit()
    lib.sw_heap_lean()
    plugins = _find_plugins(settings)
    rules = _read_rules(settings)
    mountpoint.clean_dead(settings.mount)
    source = _open_source(settings)
    try:
        with contextlib.closing(_open_cache(settings, source)) as cache:
            return Daemon(settings, source, cache, rules, plugins, fixed, watched).run()
    finally:
        os.close(source.fd)
        if source.remote is not None:
            source.remote.close()


def _open_source(settings: Settings) -> SourceDirectory | RemoteSource:
    """UsageError when it cannot be used."""
    if not isinstance(settings.source, SourceUrl):
        return mountpoint.open_source(settings.source or settings.mount, read_only=settings.read_only)
    url = settings.source
    if url.scheme != "file":
        lib.sw_no_core()  # credentials are in memory from now on
    found = opening.opened(
        url, timeout=settings.fetch_timeout, wait=settings.source_wait, parallel=settings.fetch_parallel,
        hedge=settings.hedge,
    )  # fmt: skip
    source = found.source
    try:
        root = source.stat(ROOT)
    except OSError as error:
        source.close()
        raise HostError(f"source {url.name}: {error.strerror or error}") from None
    if not root.is_dir:
        source.close()
        raise UsageError(f"source {url.name} is not a directory")
    return mountpoint.hold_remote(found, root, settings.mount, read_only=settings.read_only)


def _find_plugins(settings: Settings) -> Plugins | None:
    """Before the rules are read, as these may name what plugins bring."""
    if not settings.use_plugins:
        return None
    found = plugged.find(settings.plugins, ruled=bool(settings.rules))
    for problem in found.problems:
        log.warning("a plugin is not used: %s", problem)
    return Plugins(found)


def _read_rules(settings: Settings) -> tuple[RuleSet, Loaded] | None:
    """Raises RulesError with all that is wrong with them."""
    if not settings.rules:
        return None
    from swmld.config.settled import check, said
    from swmld.head import reload

    return reload.first(settings.rules, settings.environment, also=check, said=said)


def _raise_fd_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < FEWEST_DESCRIPTORS:
        raise HostError(
            f"at most {hard} files may be open here, and {FEWEST_DESCRIPTORS} are needed: "
            "ulimit -Hn 1048576, or LimitNOFILE= in the systemd unit"
        )


def _open_cache(settings: Settings, source: SourceDirectory | RemoteSource) -> Cache:
    try:
        settings.cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        disk = os.statvfs(settings.cache_dir)
    except OSError as error:
        raise UsageError(f"cache directory {settings.cache_dir}: {error.strerror}") from None
    return Cache.open(
        settings.cache_dir,
        source_key=source.name,
        mount=str(settings.mount),
        size_limit=settings.cache_size,
        free_floor=settings.free_floor.of(disk.f_blocks * disk.f_frsize),
        chunk_size=settings.chunk_size,
    )


class Daemon:
    """One mount and everything that serves it."""

    def __init__(
        self,
        settings: Settings,
        source: SourceDirectory | RemoteSource,
        cache: Cache,
        rules: tuple[RuleSet, Loaded] | None,
        plugins: Plugins | None,
        fixed: Set[str],
        watched: Loaded | None,
    ) -> None:
        self._settings = settings
        self._fixed = fixed
        self._rules = rules
        self._watched = watched
        if watched is not None:
            watched.live = self._take_over
        self._plugins = plugins
        self._source = source
        self._cache = cache
        self._started = time.monotonic()
        self._mount_id = -1
        self._mount_device = 0
        self._stopping = False
        self._data_fd = os.open(settings.cache_dir / "data", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._native = Native(
            Config(
                root_fd=source.fd,
                data_fd=self._data_fd,
                local=source.local,
                hot=settings.native,
                passthrough=settings.passthrough,
                uring=settings.fuse_uring,
                follow=settings.follow,
                acl=source.acl,
                check=settings.check,
                check_interval=settings.check_interval,
                metadata_timeout=settings.metadata_timeout,
            ),
            [
                (r.glob, r.check, settings.check_interval if r.interval is None else r.interval)
                for r in settings.paths
            ],
        )

    def run(self) -> int:
        """Until unmounted; the exit code."""
        try:
            self._mount()
            try:
                trio.run(self._main)
            except BaseExceptionGroup as several:  # what except* raises becomes a group again
                own, rest = several.split(SwmldError)
                if own is None or rest is not None:
                    raise
                raise _first(own) from None
            finally:
                self._native.stop()
                with contextlib.suppress(HostError):
                    mountpoint.detach(self._settings.mount, self._mount_id)
            pyfuse3.close(unmount=False)
        finally:
            if self._source.remote is None:
                self._native.free()  # else threads that wait for a remote source may come back to it
            os.close(self._data_fd)
        return 0

    def _mount(self) -> None:
        settings = self._settings
        try:
            self._native.mount(
                os.fsencode(settings.mount),
                b"swmld:" + os.fsencode(self._source.name),
                self._source.mount_flags,
            )
            found = mountpoint.mount_at(settings.mount)
            if found is not None:
                self._mount_id, self._mount_device = found.mount_id, kernel_device(found.device)
            channel = self._native.start()
        except OSError as error:
            self._native.stop()
            raise HostError(f"{settings.mount} cannot be mounted: {error.strerror}") from None
        # libfuse takes a mount point of this form as a session that is mounted already.
        self._files, self._fuse = self._build()
        pyfuse3.init(self._fuse, f"/dev/fd/{channel}", {"fsname=swmld"})

    def _build(self) -> tuple[OpenFiles, Fuse]:
        settings, native = self._settings, self._native
        remote, root_fd = self._source.remote, self._source.fd
        tree: DirectoryTree | RemoteTree
        if isinstance(self._source, RemoteSource):
            tree = RemoteTree(
                native, self._source.remote, self._source.root,
                strict=settings.check is Check.STRICT,
                interval=FOREVER if settings.check is Check.IMMUTABLE else settings.check_interval,
                ruled=bool(settings.paths),
                grace=settings.source_grace,
            )  # fmt: skip
        else:
            tree = DirectoryTree(native, direct=not self._source.local)
        self._tree = tree
        self._gate = SourceGate(
            tree.probe if isinstance(tree, RemoteTree) else (lambda: os.stat(".", dir_fd=root_fd)),
            local=self._source.local,
            timeout=settings.fetch_timeout,
            again=self._source.again if isinstance(self._source, RemoteSource) else None,
        )
        self._disk = Workers(DISK_THREADS, "swmld-disk")
        self._writers = Workers(WRITE_THREADS, "swmld-write")
        self._staging, changes = self._make_staging(tree)
        own: Writes = DirectoryWrites(native) if remote is None else NoWrites()
        writes = changes if changes is not None else own
        store: Store = self._gate.call if remote is None else self._patiently
        # A hung source holds threads of the fetcher; none that serve cached data.
        self._carriers = Workers(2 * settings.fetch_parallel, "swmld-fetch")
        self._engine = make_engine(settings.engine, parallel=settings.fetch_parallel)
        self._together = Together(self._cache, self._carriers) if remote is not None else None
        self._pool = BufferPool(BUFFERED_CHUNKS, settings.chunk_size)
        listings = Listings(tree, self._gate)
        self._observer = Observer(
            native, listings, self._disk,
            mode=settings.probe, state=settings.state_dir, rate=settings.probe_rate,
            prefetch=self._prefetched,
        )  # fmt: skip
        stats = FetchStats()
        self._head = self._make_head(stats)
        decider = self._head.head if self._head is not None else None
        self._keeper = Keeper(self._cache, decider)
        loader = Loader(
            native, tree, self._cache, self._gate.close_fd, decider=decider,
            pieces=self._plugins.chunk_size if self._plugins is not None else None,
            chunk_size=settings.chunk_size,
        )  # fmt: skip
        self._ahead: NeighbourPrefetch | None = None
        self._fetcher = Fetcher(
            self._engine,
            self._pool,
            self._cache,
            parallel=settings.fetch_parallel,
            prefetch_parallel=settings.prefetch_parallel,
            sub_read=settings.sub_read,
            timeout=settings.fetch_timeout,
            on_landed=self._landed,
            on_failed=self._failed,
            offload=self._carriers,
            stats=stats,
            together=self._together,
        )
        self._hinting: Hinting | None = None
        if self._plugins is not None:
            self._hinting = Hinting(
                self._plugins, native, self._fetcher, self._disk,
                window=settings.readahead_max, bring=self._bring,
            )  # fmt: skip
        files = OpenFiles(
            native,
            self._gate,
            self._disk,
            tree,
            writes,
            store,
            loader,
            self._fetcher,
            whole_limit=settings.chunk_size,
            limits=Limits(max_window=settings.readahead_max),
            on_open=self._opened,
            decider=decider,
            hinting=self._hinting,
            gone=self._gone,
        )
        watched = remote is not None and Feature.WATCH in remote.features
        learns = settings.neighbours == "auto"
        if learns or decider is not None:
            self._ahead = NeighbourPrefetch(
                native, self._gate, tree, loader, self._fetcher, listings,
                whole_limit=settings.chunk_size, max_files=settings.neighbours_max_files if learns else 0,
                fresh=3600.0 if watched or settings.check is not Check.RELAXED else settings.check_interval,
                brought=decider.brought if decider is not None else None,
            )  # fmt: skip
        self._cache.on_evict = lambda file_id, identity: native.evict(
            native.node_of(identity.dev, identity.ino), file_id
        )
        self._cache.on_move = self._cache.on_evict
        self._cache.usage_of = lambda identity: native.usage(native.node_of(identity.dev, identity.ino))
        names: Namespace | RemoteNames
        if isinstance(tree, RemoteTree):
            names = RemoteNames(native, self._gate, tree, changes, store)
        else:
            names = Namespace(native, self._gate, self._cache, root_fd, acl=self._source.acl)
        self._service = Service(
            settings=settings, version=__version__, source=self._source, native=native, tree=tree,
            cache=self._cache, fetcher=self._fetcher, files=files, gate=self._gate, disk=self._disk,
            loader=loader, ahead=self._ahead, engine=self._engine.name, started=self._started,
            observer=self._observer, rules=self._rules_api(), mount_id=self._mount_id, plugins=self._plugins,
            staging=self._staging,
        )  # fmt: skip
        return files, Fuse(native, names, files)

    def _make_staging(self, tree: DirectoryTree | RemoteTree) -> tuple[Staging | None, RemoteChanges | None]:
        """What takes writes to a remote source."""
        source, settings = self._source, self._settings
        if not isinstance(tree, RemoteTree) or source.remote is None or source.read_only:
            return None, None
        name = hashlib.blake2b(source.name.encode(), digest_size=8).hexdigest()
        staging = Staging(
            settings.cache_dir / "staged" / name,
            source.remote,
            back=settings.write == "back",
            limit=settings.staging_size,
            uploaded=tree.told,
            offer=self._offer,
        )
        return staging, RemoteChanges(self._native, tree, source.remote, staging, self._cache)

    def _offer(self, path: bytes, attributes: Attributes, fd: int) -> Kept | None:
        return self._keeper.offer(path, attributes, fd)

    async def _patiently(self, function: Callable[[], T], discard: Callable[[T], None] | None = None) -> T:
        """An upload takes what it takes; the source ends it. ``discard`` is for the end of the process
        alone, where nothing needs it: nothing else is cancelled."""
        return await self._writers.call(function)

    def _make_head(self, stats: FetchStats) -> Running | None:
        if self._rules is None:
            return None
        from swmld.head.running import Running

        rules, loaded = self._rules
        loaded.live = self._take_over
        return Running(
            rules, loaded, native=self._native, tree=self._tree, gate=self._gate,
            observer=self._observer, cache=self._cache,
            fetch_stats=stats, cache_dir=self._settings.cache_dir, mount=self._settings.mount,
            plugins=self._plugins,
        )  # fmt: skip

    def _rules_api(self) -> RulesApi:
        running = self._head
        if running is None:
            return RulesApi(None, self._watched, None, mount=self._settings.mount, known=_nothing)
        return RulesApi(
            running.head, running.loaded, running.notifier, mount=self._settings.mount, known=running.known
        )

    def _take_over(self, said: Mapping[str, Any]) -> Set[str]:
        """Settings that changed in the files, as ``head.reload.Live``."""
        before = self._settings
        after = live.taken_over(before, said, self._fixed)
        if changed := [key for key in live.LIVE if getattr(before, key) != getattr(after, key)]:
            self._settings = self._service.settings = after
            logs.set_level(after.log_level)
            self._cache.set_limits(after.cache_size, self._service.free_floor())
            self._files.fetching.set_readahead(after.readahead_max)
            self._fetcher.set_prefetch_parallel(after.prefetch_parallel)
            log.info("changed settings of the daemon are in use: %s", ", ".join(changed))
        return self._fixed | set(live.LIVE)

    def _prefetched(self) -> dict[str, int]:
        """For the trace: bytes that were fetched ahead and read, or dropped unread."""
        own = self._files.counters
        return {"used_bytes": own.prefetch_used, "wasted_bytes": own.prefetch_wasted}

    def _opened(self, nodeid: int, *, prefetched: bool = False, verdict: Verdict | None = None) -> None:
        if self._ahead is None:
            return
        try:
            self._ahead.on_open(nodeid, prefetched=prefetched, verdict=verdict)
        except Exception:  # a hint: whoever opens the file is not to hear of it
            log.exception("what to fetch next could not be told")

    def _bring(self, nodeid: int, names: Iterable[bytes]) -> None:
        if self._ahead is not None:
            self._ahead.bring(nodeid, names, self._settings.readahead_max)

    def _first_opened(self, event: Event) -> None:
        """C opened a file that had been fetched ahead: only its name and size were known until now."""
        verdict = None
        if self._head is not None:
            verdict = self._head.head.opening(event.nodeid, event.chunk, event.stop, prefetched=True)
            entry = self._native.cached_entry(event.nodeid)
            if entry is not None:
                self._head.head.caching(verdict, entry.identity, event.arg)
        self._opened(event.nodeid, prefetched=True, verdict=verdict)

    def _landed(self, target: Target, chunk: int) -> None:
        self._files.fetching.on_landed(target, chunk)
        if self._ahead is not None:
            self._ahead.on_landed(target, chunk)

    def _failed(self, target: Target, chunk: int, code: int) -> None:
        self._files.fetching.on_failed(target, chunk, code)
        if self._ahead is not None:
            self._ahead.on_failed(target, chunk)

    # ---- running

    async def _main(self) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._signals, nursery.cancel_scope)
            async with self._machinery() as serving:
                programs = Programs(self._plugins.frameworks_of if self._plugins is not None else _none_of)
                serving.start_soon(programs.run)  # of processes of which a recording is made
                patterns = PatternsApi(self._observer, program=programs.of)
                metrics = await serving.start(
                    partial(
                        http.serve,
                        patterns=patterns.page,
                        pages=self._service.rules.pages(),
                        health=self._service.health,
                    ),
                    self._service.snapshot,
                    self._settings.metrics_address,
                )
                self._service.metrics_address = metrics
                handlers = {
                    **self._service.handlers(),
                    **patterns.handlers(),
                    **self._service.rules.handlers(),
                    **plugins_api.handlers(self._plugins),
                }
                control = ControlServer(self._settings.socket_path, handlers)
                await serving.start(control.run)
                serving.start_soon(partial(pyfuse3.main, max_tasks=FUSE_TASKS))
                # The first request through the mount: INIT is answered, everything works.
                await trio.to_thread.run_sync(os.stat, self._settings.mount)
                mountpoint.widen_readahead(self._settings.mount, READAHEAD_KIB)
                self._ready(metrics)
                serving.start_soon(self._housekeeping)
                serving.start_soon(self._pool.run)
                await self._down.wait()
                if self._staging is not None:
                    await drain(self._staging.uploads)
                serving.cancel_scope.cancel()
            nursery.cancel_scope.cancel()

    @contextlib.asynccontextmanager
    async def _machinery(self) -> AsyncIterator[trio.Nursery]:
        """What requests need to be answered; ends after them."""
        self._down = trio.Event()
        try:
            async with trio.open_nursery() as inner:
                workers = (self._disk.run, self._carriers.run, self._gate.run, self._writers.run)
                for task in (*workers, self._engine.run, self._fetcher.run):
                    await inner.start(task)
                inner.start_soon(self._events)
                inner.start_soon(self._observer.run, self._devices())
                if isinstance(self._tree, RemoteTree):
                    inner.start_soon(
                        partial(trio.to_thread.run_sync, self._tree.watch, abandon_on_cancel=True)
                    )
                if self._staging is not None:
                    uploads = self._staging.uploads.run
                    inner.start_soon(partial(trio.to_thread.run_sync, uploads, abandon_on_cancel=True))
                if self._ahead is not None:
                    inner.start_soon(self._ahead.run)
                if self._hinting is not None:
                    inner.start_soon(self._hinting.run)
                if self._head is not None:
                    inner.start_soon(self._head.run)
                if (watched := self._watched) is not None:
                    from swmld.head import reload

                    inner.start_soon(reload.watch, watched.paths, watched.environment, None, watched)
                async with trio.open_nursery() as serving:
                    yield serving
                inner.cancel_scope.cancel()
        finally:
            self._observer.close()
            if self._plugins is not None:
                self._plugins.close()
            if self._hinting is not None:
                self._hinting.close()
            self._files.close()
            if self._ahead is not None:
                self._ahead.close()
            self._engine.close()
            if self._together is not None:
                self._together.close()
            self._writers.close()
            if self._staging is not None:
                self._staging.close()
            self._gate.close()
            self._carriers.close()
            self._disk.close()

    def _devices(self) -> Devices:
        return Devices(self._mount_device, device_of(self._data_fd), device_of(self._source.fd))

    async def _events(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._native.event_fd)
            for event in self._native.events():
                if event.kind is EventKind.DOWN:
                    self._down.set()
                elif event.kind is EventKind.OPENED:
                    self._first_opened(event)
                else:
                    self._files.on_event(event)

    async def _housekeeping(self) -> None:
        """After ready: what an unclean stop left behind goes; now and then the cache is made power-safe."""
        await trio.to_thread.run_sync(self._cache.sweep, abandon_on_cancel=True)
        while True:
            await trio.sleep(CHECKPOINT_SECONDS)
            await trio.to_thread.run_sync(self._cache.checkpoint, abandon_on_cancel=True)

    async def _signals(
        self, scope: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for _ in signals:
                if self._stopping:
                    log.warning("told twice: open files are cut off")
                    scope.cancel()
                    return
                self._stopping = True
                await self._unmount(scope)

    async def _gone(self) -> bool:
        """Whether somebody took the mount away (``umount -l``). By its device, which also bind mounts have:
        the number of a mount is given anew at once."""
        found = await trio.to_thread.run_sync(mountpoint.mounts, abandon_on_cancel=True)
        return all(kernel_device(each.device) != self._mount_device for each in found)

    async def _unmount(self, scope: trio.CancelScope) -> None:
        """The directory is as it was at once; files that are open are served until they are closed."""
        sdnotify.notify("STOPPING=1")
        detach: Callable[[], bool] = partial(mountpoint.detach, self._settings.mount, self._mount_id)
        try:
            if not await trio.to_thread.run_sync(detach):
                log.info("%s is not our mount any more", self._settings.mount)
        except HostError as error:
            log.error("%s", error)
            scope.cancel()
            return
        self._files.unmounted()
        with trio.move_on_after(0.5):
            await self._down.wait()
            return
        log.info(
            "unmounted; still open files are served until they are closed (signal again to cut them off)"
        )

    def _ready(self, metrics: str) -> None:
        s = self._settings
        how = self._service.mode
        where = f"http://{metrics}/metrics" if metrics != "off" else "off"
        line = f"{s.mount} serves {self._source.name} (cache {s.cache_dir}, {how}, metrics {where})"
        for text in self._service.fallbacks:
            log.info("%s", text)
        if s.check is Check.IMMUTABLE:
            log.info("the source is never checked for changes (check: immutable)")
        print(f"swmld: ready: {line}", flush=True)
        sdnotify.notify(f"READY=1\nSTATUS={line}")


def _first(several: BaseExceptionGroup[SwmldError]) -> SwmldError:
    found: BaseException = several
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, SwmldError)
    return found


CHECKPOINT_SECONDS = 300.0
"""How often what was cached is made safe from a power cut; until then it would be verified after one."""


def _none_of(libraries: Sequence[str]) -> Sequence[str]:
    """The frameworks of a process, without plugins."""
    return ()


async def _nothing(path: str) -> Mapping[str, Any]:
    """What is known of a file where nobody asks."""
    return {}
