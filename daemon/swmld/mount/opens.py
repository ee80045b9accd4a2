"""What is open: the state of each open node and of each handle, and what Python counts of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from swmld.mount import native as nat
from swmld.mount.hinting import Reading
from swmld.mount.native import Native, Want
from swmld.mount.target import SourceTarget
from swmld.mount.tree import Opened
from swmld.plan.readahead import Streams


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


class Opens:
    """The open ``files`` by node and the ``handles`` that Python answered. Loop-only."""

    def __init__(self, native: Native) -> None:
        self._native = native
        self.files: dict[int, OpenFile] = {}
        self.handles: dict[int, Handle] = {}
        self.counters = Counters()

    def hold(self, nodeid: int) -> OpenFile:
        """Its state, which stays until its ``pending`` is counted down again, whether it is open or not."""
        file = self.files.get(nodeid)
        if file is None:
            file = self.files[nodeid] = OpenFile(nodeid)
        file.pending += 1
        return file

    def of(self, fh: int) -> OpenFile:
        """Also of an open that C answered: its reads come here once somebody writes the file."""
        handle = self.handles.get(fh)
        if handle is not None:
            return handle.file
        nodeid = nat.hot_node(fh)
        file = self.files.get(nodeid)
        if file is None:
            file = self.files[nodeid] = OpenFile(nodeid)
            self._native.attach(nodeid)
        return file

    def enter(
        self, file: OpenFile, want: Want, fd: int, *, writer: bool = False, pass_through: bool = True
    ) -> int:
        """Enters an open into C's books; the file handle, which ``handles`` has not got yet. OSError. A file
        that is served from the source must not be answered from a cache file."""
        fh = self._native.open_file(file.nodeid, want, fd, writer, pass_through)
        if want is Want.SOURCE:
            file.from_source = True
            if not self._native.open_flags(fh) & nat.FOPEN_PASSTHROUGH:
                self._native.bypass(file.nodeid, True)
        return fh
