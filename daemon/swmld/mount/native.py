"""What Python says to a session of ``native/``: thin and typed; ``-errno`` becomes ``OSError``.

Calls marked *blocking* touch the source and belong in a worker thread; cffi releases the GIL around each.
"""

from __future__ import annotations

import contextlib
import enum
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from swmld._native import ffi, lib
from swmld.mount.calls import must as _must
from swmld.quick import address, held
from swmld.sources.interface import Attributes, birth_ns, generation_ns
from swmld.sources.packed import PackedEntries
from swmld.types import Check, Identity

ROOT = 1
BLOCK_SIZE = 4096
"""``st_blksize`` of files of a source that has none; what the kernel gives cached pages."""


class Mode(enum.IntEnum):
    """What mode the kernel's inode is in; see ``native/hot.c``."""

    NONE = 0
    CACHED = 1
    PASS_CACHE = 2
    PASS_SOURCE = 3


class Want(enum.IntEnum):
    """What an open would like to be served from."""

    SOURCE = 1
    COMPLETE = 2
    PARTIAL = 3


class EventKind(enum.IntEnum):
    """Why C wakes Python."""

    MISS = 1
    TOUCH = 2
    IDLE = 3
    OPENED = 4
    DOWN = 5


FOPEN_DIRECT_IO = 1 << 0
FOPEN_KEEP_CACHE = 1 << 1
FOPEN_PASSTHROUGH = 1 << 7

FH_KILL_SETID = 1 << 0
"""In the handle of a WRITE: its writer may not keep setuid and setgid bits."""

_CHECKS = {Check.STRICT: 0, Check.RELAXED: 1, Check.IMMUTABLE: 2}


@dataclass(frozen=True, slots=True)
class Event:
    """One message of C; ``chunk`` and ``stop`` are half-open chunk numbers, ``arg`` the first byte that is
    read. Of OPENED ``arg`` is the number of the cache file, ``chunk`` the thread that opens it and ``stop``
    its user."""

    kind: EventKind
    nodeid: int
    arg: int
    chunk: int
    stop: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A node's attributes as the source has them. Times in ns; ``valid`` in seconds; ``ino`` the source's."""

    nodeid: int
    ino: int
    dev: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    blksize: int
    valid: float
    check: int
    check_interval: float = 0.0
    """Seconds that a look at the source holds where ``check`` is 1 (relaxed)."""

    @property
    def identity(self) -> Identity:
        """The generation that these attributes name."""
        return Identity(self.dev, self.ino, self.size, self.mtime_ns, self.ctime_ns)


@dataclass(frozen=True, slots=True)
class Config:
    """What a session is made of; see ``struct sw_config``. Times in seconds."""

    root_fd: int
    data_fd: int
    local: bool
    hot: bool
    passthrough: bool
    acl: bool
    uring: bool = False
    follow: bool = False
    threads: int = 10
    idle_nodes: int = 100_000
    max_backing: int = 200_000
    check: Check = Check.RELAXED
    check_interval: float = 1.0
    metadata_timeout: float = 60.0


_cached_entry, _path, _parent = held("sw_cached_entry"), held("sw_path"), held("sw_parent")
_try_complete, _child_complete = held("sw_try_complete"), held("sw_child_complete")
_child_settled, _now = held("sw_child_settled"), held("sw_now")
_told_old, _events, _landed = held("sw_told_old"), held("sw_events"), held("sw_landed")


def _entry(e: Any) -> Entry:
    return Entry(
        e.nodeid, e.ino, e.dev, e.size, e.blocks, e.atime_ns, e.mtime_ns, e.ctime_ns, e.mode, e.nlink,
        e.uid, e.gid, e.rdev, e.blksize, e.valid_ns / 1e9, e.check, e.check_ns / 1e9,
    )  # fmt: skip


def now() -> int:
    """The clock of ``asked``: CLOCK_MONOTONIC_COARSE in ns."""
    return _now()


def _attrs(a: Attributes) -> Any:
    attrs = ffi.new("struct sw_attrs *")
    _fill(attrs, a)
    return attrs


def _fill(to: Any, a: Attributes) -> None:
    to.ino, to.size, to.mtime_ns, to.ctime_ns = a.ino, a.size, a.mtime_ns, generation_ns(a)
    to.btime_ns, to.mode, to.nlink, to.uid, to.gid = birth_ns(a), a.mode, a.nlink, a.uid, a.gid
    to.rdev, to.blksize, to.bare = a.rdev, BLOCK_SIZE, a.bare


class Native:
    """One mount's native session. Its owner calls ``mount``, ``start``, at the end ``stop`` and ``free``."""

    def __init__(self, config: Config, rules: Iterable[tuple[str, Check, float]] = ()) -> None:
        c = ffi.new("struct sw_config *")
        c.root_fd, c.data_fd = config.root_fd, config.data_fd
        c.local, c.hot, c.passthrough = config.local, config.hot, config.passthrough
        c.acl, c.uring, c.follow, c.threads = config.acl, config.uring, config.follow, config.threads
        c.idle_nodes, c.max_backing = config.idle_nodes, config.max_backing
        c.check, c.check_ns = _CHECKS[config.check], int(config.check_interval * 1e9)
        c.meta_ns = int(config.metadata_timeout * 1e9)
        err = ffi.new("int *")
        self._s = lib.sw_new(c, err)
        if self._s == ffi.NULL:
            _must(err[0] or -5)
        for glob, check, interval in rules:
            _must(lib.sw_rule(self._s, os.fsencode(glob), _CHECKS[check], int(interval * 1e9)))
        self._session = address(self._s)
        self.hot = config.hot
        self.local = config.local
        self.watched: Callable[[], bool] | None = None
        """Whether rules may want something done at each open (``deciding.Decider.watches``)."""
        self._events = ffi.new("struct sw_event[]", 256)
        self._events_at = address(self._events)
        self._parent, self._size = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        self._name = ffi.new("char[]", 1024)

    # -- life --

    def mount(self, mountpoint: bytes, fsname: bytes, flags: int) -> None:
        """Opens /dev/fuse and mounts it; raises OSError."""
        _must(lib.sw_mount(self._s, mountpoint, fsname, flags))

    def start(self) -> int:
        """Starts the threads; the descriptor that pyfuse3 serves."""
        return _must(lib.sw_start(self._s))

    def stop(self) -> None:
        """Ends what is left of the connection and joins the threads; blocking."""
        lib.sw_stop(self._s)

    def free(self) -> None:
        """After stop, once nobody calls any more."""
        lib.sw_free(self._s)
        self._s, self._session = ffi.NULL, 0

    @property
    def event_fd(self) -> int:
        """Readable while ``events`` has something."""
        return int(lib.sw_event_fd(self._s))

    @property
    def passthrough_works(self) -> bool:
        """Whether the kernel took passthrough at INIT."""
        return bool(lib.sw_passthrough_works(self._s))

    @property
    def uring_works(self) -> int:
        """Whether requests come over io_uring: 1, 0 where it was not asked for, or -errno."""
        return int(lib.sw_uring_works(self._s))

    def events(self) -> Iterator[Event]:
        """What C has to say, oldest first, without waiting."""
        for i in range(_must(_events(self._session, self._events_at, 256))):
            e = self._events[i]
            yield Event(EventKind(e.kind), e.nodeid, e.arg, e.chunk, e.stop)

    def counters(self) -> dict[str, int]:
        """``struct sw_counters`` by name."""
        c = ffi.new("struct sw_counters *")
        lib.sw_counters_read(self._s, c)
        return {name: int(getattr(c, name)) for name, _ in ffi.typeof("struct sw_counters").fields}

    # -- nodes --

    def lookup(self, parent: int, name: bytes, ref: bool = True) -> Entry:
        """Blocking. The child as the source has it now; with ``ref`` the kernel holds one more reference."""
        e = ffi.new("struct sw_entry *")
        _must(lib.sw_lookup(self._s, parent, name, ref, e))
        return _entry(e)

    def getattr(self, nodeid: int) -> Entry:
        """Blocking. ESTALE when the name now means another file."""
        e = ffi.new("struct sw_entry *")
        _must(lib.sw_getattr(self._s, nodeid, e))
        return _entry(e)

    def getattr_held(self, nodeid: int) -> Entry:
        """Blocking. The same for who has it open: as the file is that is held, whatever its name means."""
        e = ffi.new("struct sw_entry *")
        _must(lib.sw_getattr_held(self._s, nodeid, e))
        return _entry(e)

    def cached_entry(self, nodeid: int) -> Entry | None:
        """What the table holds, however old."""
        e = ffi.new("struct sw_entry *")
        return _entry(e) if _cached_entry(self._session, nodeid, address(e)) == 0 else None

    def ref(self, nodeid: int) -> None:
        """The kernel holds one more reference."""
        lib.sw_ref(self._s, nodeid)

    def forget(self, nodeid: int, count: int) -> None:
        """The kernel dropped ``count`` references."""
        lib.sw_forget(self._s, nodeid, count)

    def dir_fd(self, nodeid: int) -> int:
        """Blocking. A new O_PATH descriptor of a directory; the caller closes it."""
        return _must(lib.sw_dir_fd(self._s, nodeid))

    def open_dir(self, nodeid: int) -> int:
        """Blocking. A new descriptor of a directory that can be listed, the caller's to close."""
        directory = self.dir_fd(nodeid)
        try:
            return os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
        finally:
            os.close(directory)

    def open_source(self, nodeid: int, flags: int, verify: bool = True) -> int:
        """Blocking. A new descriptor of the node's own file on the source; the caller closes it. Without
        ``verify`` it may be another file that has taken the name."""
        return _must(lib.sw_open_source(self._s, nodeid, flags, verify))

    def open_held(self, nodeid: int, flags: int, *, by_handle: bool = False) -> int:
        """Blocking. As ``open_source``; of who has it open, the file that is held if its name means another
        one. Unless it was asked for ``by_handle``, ESTALE as long as the kernel may have gone by the name."""
        return _must(lib.sw_open_held(self._s, nodeid, flags, by_handle))

    def open_child(self, parent: int, name: bytes) -> tuple[Entry, int]:
        """Blocking. (attributes, descriptor) of a child that is known to be a regular file."""
        e = ffi.new("struct sw_entry *")
        fd = _must(lib.sw_open_child(self._s, parent, name, e))
        return _entry(e), fd

    def path(self, nodeid: int) -> bytes:
        """Path below the source's root, ``b"."`` for the root; OSError when it has none."""
        size = 4096
        while True:
            buf = ffi.new("char[]", size)
            r = _path(self._session, nodeid, address(buf), size)
            if r != -36 or size > 1 << 20:  # ENAMETOOLONG: directories may be deeper than PATH_MAX
                return bytes(ffi.buffer(buf, _must(r)))
            size *= 4

    def parent(self, nodeid: int) -> tuple[int, bytes]:
        """One (directory, name) that the node is known by."""
        parent = ffi.new("uint64_t *")
        buf = ffi.new("char[]", 256)
        n = _must(_parent(self._session, nodeid, address(parent), address(buf), 256))
        return int(parent[0]), bytes(ffi.buffer(buf, n))

    @contextlib.contextmanager
    def changing_names(self) -> Iterator[None]:
        """Around a rename or removal, until the table knows of it: who meets a node meanwhile waits."""
        lib.sw_names_begin(self._s)
        try:
            yield
        finally:
            lib.sw_names_end(self._s)

    def before_unlink(self, parent: int, name: bytes) -> None:
        """Blocking. Keeps the inode reachable for those who have it open."""
        lib.sw_before_unlink(self._s, parent, name)

    def not_unlinked(self, parent: int, name: bytes) -> None:
        """The source refused it."""
        lib.sw_not_unlinked(self._s, parent, name)

    def unlinked(self, parent: int, name: bytes) -> None:
        """The name is gone from the source."""
        lib.sw_unlinked(self._s, parent, name)

    def renamed(self, old: tuple[int, bytes], new: tuple[int, bytes], exchange: bool) -> None:
        """The source has renamed it."""
        lib.sw_renamed(self._s, *old, *new, exchange)

    def node_of(self, dev: int, ino: int) -> int:
        """The nodeid of a source file, 0 when the table does not know it."""
        return int(lib.sw_node_of(self._s, dev, ino))

    # -- a source that Python asks --

    def enter(self, parent: int, name: bytes, attributes: Attributes, asked: int, ref: bool = True) -> Entry:
        """A child as the source has it; ``asked``: ``now()`` from before it was asked. With ``ref`` the
        kernel holds one more reference."""
        e = ffi.new("struct sw_entry *")
        _must(lib.sw_enter(self._s, parent, name, _attrs(attributes), asked, ref, e))
        return _entry(e)

    def enter_several(
        self, parent: int, children: Sequence[tuple[bytes, Attributes, int]]
    ) -> list[tuple[int, Identity] | None]:
        """As ``enter`` of (name, attributes, asked) each, without references: node and generation as the
        table has them; None where the table has another generation, or it cannot be entered."""
        count = len(children)
        attrs, out = ffi.new("struct sw_attrs[]", count), ffi.new("struct sw_entry[]", count)
        names = [ffi.from_buffer(name + b"\0") for name, _, _ in children]
        results = ffi.new("int[]", count)
        for number, (_, a, _) in enumerate(children):
            _fill(attrs[number], a)
        lib.sw_enter_several(
            self._s, parent, ffi.new("char *[]", names), attrs,
            ffi.new("uint64_t[]", [asked for _, _, asked in children]), count, out, results,
        )  # fmt: skip
        found: list[tuple[int, Identity] | None] = []
        for number in range(count):
            e, a = out[number], attrs[number]
            generation = e.ino, e.size, e.mtime_ns, e.ctime_ns
            if results[number] or generation != (a.ino, a.size, a.mtime_ns, a.ctime_ns):
                found.append(None)
            else:
                found.append((e.nodeid, Identity(e.dev, *generation)))
        return found

    def refresh(self, nodeid: int, attributes: Attributes, asked: int) -> Entry:
        """What the node's name means now; ESTALE when that is another file."""
        e = ffi.new("struct sw_entry *")
        _must(lib.sw_refresh(self._s, nodeid, _attrs(attributes), asked, e))
        return _entry(e)

    def renew(self, nodeid: int, was: Attributes, attributes: Attributes) -> bool:
        """We made its file another generation at the source, or moved it: it is the same node. False: it was
        not ``was``."""
        return bool(lib.sw_renew(self._s, nodeid, _attrs(was), _attrs(attributes)) == 0)

    def expire(self, nodeid: int) -> None:
        """It has changed at the source: nothing of it is to be relied on without asking. 0: all may have."""
        lib.sw_expire(self._s, nodeid)

    def relist(self, nodeid: int) -> None:
        """A directory has other entries than before: the listing that the kernel keeps of it is old."""
        lib.sw_relist(self._s, nodeid)

    def child(self, parent: int, name: bytes) -> int:
        """The nodeid of a child as the table has it, 0 when it does not know it."""
        return int(lib.sw_child(self._s, parent, name))

    def dir_give(
        self, fh: int, nodeid: int, start: int, page: PackedEntries, more: bool, asked: int, changes: int
    ) -> bool:
        """C answers what the kernel asks of the open directory ``fh`` from place ``start`` on from this page,
        as long as no more than ``changes`` are told; ``more``: it is not the last one. False: it does not."""
        if not self.hot:
            return False
        given = lib.sw_dir_give(self._s, fh, nodeid, start, page.listing, more, asked, changes)
        return bool(given == 0)

    def dir_drop(self, fh: int) -> None:
        """It is closed, or read anew."""
        lib.sw_dir_drop(self._s, fh)

    def dir_changed(self, changes: int) -> None:
        """So many changes have been told by now."""
        lib.sw_dir_changed(self._s, changes)

    def told(self, on: bool, seconds: float) -> None:
        """From now on the source tells of its changes, or not: the kernel may keep listings while it does.
        And how long a look at the source holds, for relaxed paths without a rule of their own."""
        lib.sw_told(self._s, on, int(seconds * 1e9))

    def forget_entry(self, parent: int, name: bytes) -> None:
        """Blocking. The kernel looks the name up again."""
        lib.sw_notify_entry(self._s, parent, name)

    # -- what the kernel keeps --

    def forget_attributes(self, nodeid: int) -> None:
        """Blocking. The kernel's copy of the attributes is old."""
        lib.sw_notify_inode(self._s, nodeid, -1, 0)

    def forget_pages(self, nodeid: int, offset: int, length: int) -> None:
        """Blocking. The kernel lets go of its own copy of these bytes (0: to the end), mapped ones too."""
        lib.sw_notify_inode(self._s, nodeid, offset, length)

    def told_old(self, nodeid: int) -> bool:
        """Whether the kernel was told attributes that have changed since; says so once."""
        return bool(_told_old(self._session, nodeid))

    # -- opens --

    def mode(self, nodeid: int) -> Mode:
        """The live mode."""
        return Mode(_must(lib.sw_mode(self._s, nodeid)))

    def begin_write(self, nodeid: int) -> Mode:
        """From now on every open of the node comes to Python; the mode that is live."""
        return Mode(_must(lib.sw_begin_write(self._s, nodeid)))

    def made(self, nodeid: int) -> None:
        """It was made just now, and is open: nobody has given it extended attributes."""
        lib.sw_made(self._s, nodeid)

    def end_write(self, nodeid: int) -> None:
        """One writer fewer."""
        lib.sw_end_write(self._s, nodeid)

    def mirror_fd(self, nodeid: int) -> int:
        """Blocking. A descriptor of the cache file that open readers are passed through to."""
        return _must(lib.sw_mirror_fd(self._s, nodeid))

    def supersede(self, nodeid: int) -> None:
        """Lookups of the file make another node from now on; this one serves its open handles."""
        lib.sw_supersede(self._s, nodeid)

    def bypass(self, nodeid: int, on: bool) -> None:
        """While on, C answers no read of the node: the bytes are the source's."""
        lib.sw_bypass(self._s, nodeid, on)

    def open_file(self, nodeid: int, want: Want, fd: int, writer: bool, pass_through: bool = True) -> int:
        """Enters an open into the books; the file handle. ESTALE: the kernel is to look the name up again."""
        return _must(lib.sw_open_file(self._s, nodeid, want, fd, writer, pass_through))

    def opened_generation(self, fh: int, identity: Identity) -> None:
        """Whose bytes this open is served: its holes are the source's as long as that has this generation."""
        lib.sw_opened_generation(fh, identity.size, identity.mtime_ns, identity.ctime_ns)

    def open_flags(self, fh: int) -> int:
        """FOPEN_* that the kernel is answered with."""
        return int(lib.sw_open_flags(fh))

    def open_undo(self, fh: int) -> None:
        """The open failed after all."""
        lib.sw_open_undo(self._s, fh)

    def handle_free(self, fh: int) -> None:
        """After the kernel's RELEASE."""
        lib.sw_handle_free(self._s, fh)

    def attach(self, nodeid: int) -> None:
        """Asks for an IDLE event when the last open goes."""
        lib.sw_attach(self._s, nodeid)

    def detach(self, nodeid: int) -> bool:
        """True when nobody has it open and the state of it may go."""
        return bool(lib.sw_detach(self._s, nodeid))

    def set_complete(
        self, nodeid: int, file_id: int, identity: Identity, tell_open: bool = False, *, decided: bool = False
    ) -> None:
        """C may open this cache file by itself while the source still is this generation. Not where rules
        ``watch`` opens, unless they have ``decided`` that this file needs none of it."""
        if not decided and self.watched is not None and self.watched():
            return
        i = identity
        generation = file_id, i.size, i.mtime_ns, i.ctime_ns
        if _try_complete(self._session, nodeid, *generation, tell_open) < 0:
            lib.sw_set_complete(self._s, nodeid, *generation, tell_open)

    def forget_complete(self, nodeid: int) -> None:
        """C is to ask at the next open."""
        lib.sw_set_complete(self._s, nodeid, 0, 0, 0, 0, False)

    def ask_again(self) -> None:
        """C is to ask at the next open of each file."""
        lib.sw_ask_again(self._s)

    def child_complete(self, parent: int, name: bytes) -> bool:
        """Whether the table knows a whole cache file of a child (perhaps of an older generation)."""
        return bool(_child_complete(self._session, parent, name))

    def child_settled(self, parent: int, name: bytes, *, tell: bool = False) -> bool:
        """Whether, as far as the table knows, C alone answers the child's next open, from a whole cache file
        of its present generation: nothing of it has to be fetched. ``tell``: of that open it tells then."""
        return bool(_child_settled(self._session, parent, name, tell))

    def evict(self, nodeid: int, file_id: int) -> None:
        """The cache file is about to be unlinked."""
        lib.sw_evict(self._s, nodeid, file_id)

    def usage(self, nodeid: int) -> tuple[float, bool] | None:
        """Time of the last open (seconds since the epoch) and whether it is open; None when unknown."""
        last, opens = ffi.new("uint64_t *"), ffi.new("uint32_t *")
        if lib.sw_usage(self._s, nodeid, last, opens) < 0:
            return None
        return last[0] / 1e9, opens[0] > 0

    def set_cfile(self, nodeid: int, fd: int, size: int, chunk_size: int, bitmap: bytes) -> None:
        """Lets C answer READ of present chunks from ``fd`` (it keeps a duplicate)."""
        _must(lib.sw_set_cfile(self._s, nodeid, fd, size, chunk_size, bitmap))

    def set_packed(
        self, nodeid: int, fd: int, file_id: int, size: int, chunk_size: int, bitmap: bytes
    ) -> None:
        """As ``set_cfile``, of a cache file with compressed chunks and this number."""
        _must(lib.sw_set_packed(self._s, nodeid, fd, file_id, size, chunk_size, bitmap))

    def landed(self, nodeid: int, chunk: int) -> None:
        """The chunk is in the cache file: parked reads may go."""
        _landed(self._session, nodeid, chunk)

    def failed(self, nodeid: int, chunk: int, errno: int) -> None:
        """The chunk cannot be had; errno 0 sends parked reads to Python's ``read``."""
        lib.sw_failed(self._s, nodeid, chunk, errno)

    # -- what the probes and FUSE see; structs in bpf/swmld.h --

    def nodes_of(self, inos: Sequence[int]) -> list[int]:
        """The nodeids of the mount's inode numbers, 0 for unknown ones."""
        nodes = ffi.new("uint64_t[]", len(inos))
        lib.sw_nodes_of(self._s, ffi.new("uint64_t[]", list(inos)), nodes, len(inos))
        return list(nodes)

    def place(self, nodeid: int) -> tuple[int, bytes, int] | None:
        """(directory, name, size in bytes) from the table; None for a file without a name."""
        r = lib.sw_place(self._s, nodeid, self._parent, self._size, self._name, 1024)
        return (self._parent[0], ffi.string(self._name), self._size[0]) if r >= 0 else None

    def watch(self, watched_fd: int, filter_fd: int, cache_dev: int, source_dev: int) -> None:
        """From now on the probes see passed-through reads. Devices as the kernel numbers them."""
        _must(lib.sw_watch_start(self._s, watched_fd, filter_fd, cache_dev, source_dev))

    def unwatch(self) -> None:
        """The maps may be closed afterwards."""
        lib.sw_watch_stop(self._s)

    def view(self, level: int) -> None:
        """What C notes of the READs that FUSE sees: 0 nothing, 1 O_DIRECT and tiers, 2 everything."""
        lib.sw_view(self._s, level)

    @property
    def view_fd(self) -> int:
        """Readable while ``view_events`` has something."""
        return int(lib.sw_view_fd(self._s))

    def view_events(self, events: Any, count: int) -> tuple[int, int]:
        """Fills ``struct swp_event``s; (how many, how many were lost so far)."""
        lost = ffi.new("uint64_t *")
        return _must(lib.sw_view_events(self._s, events, count, lost)), lost[0]

    def mapped(self, pid: int, nodeid: int, first: int, folios: int) -> None:
        """A process has mapped so many folios of 2 MiB of a file, from this page on."""
        lib.sw_view_mapped(self._s, nodeid, pid, first, folios)

    def view_rows(self, rows: Any, count: int) -> int:
        """Fills ``struct sw_view_row``s of streams read since they were last returned."""
        return _must(lib.sw_view_rows(self._s, rows, count))


def mapped_by(pid: int, device: int, most: int = 4096) -> tuple[int, list[tuple[int, int, int]]]:
    """What a process has mapped by entries of 2 MiB: how many mappings it has of this device's files (as the
    kernel numbers it), and runs of (inode number, first page, pages). Blocking. OSError: ENOENT, the process
    is gone; ENOTTY, the kernel cannot tell."""
    runs, mappings = ffi.new("struct sw_mapped[]", most), ffi.new("int *")
    count = _must(lib.sw_mapped(pid, device, runs, most, mappings))
    return mappings[0], [(run.ino, run.first, run.pages) for run in runs[0:count]]


def hot_node(fh: int) -> int:
    """The node of a file handle that C made (``SW_HOT_FH`` in native/internal.h)."""
    return fh & ~(1 << 63)
