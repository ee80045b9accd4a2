"""What plugins say of open files: which parts are read next is asked when a reader comes, and fetched ahead.

Nothing is asked before the first read, as many files are opened and not read. An answer is a plan: chunks in
the order of reading, of which no more than a window is under way or waits for its reader. So a wrong plan
costs a window at most. It begins small and grows while the reader waits, so that the first chunks do not
share what the source gives with many that are read much later.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import trio

from swmld.cache.files import ChunkState
from swmld.errors import FetchError
from swmld.fetch.scheduler import Fetcher
from swmld.fetch.threads import Workers
from swmld.mount.native import Native
from swmld.mount.target import SourceTarget
from swmld.plugins.interface import HEAD, NONE, Context, Hints, Range

log = logging.getLogger(__name__)

ASKED_AT_ONCE = 4
"""Files about which plugins are asked at the same time; each may hold a thread for its time limit."""

WAITING = 64
"""Files that may wait for that. More are read as if there were no plugins."""

TOUCHES = 4096
"""Ranges of a file that are remembered; the oldest go first."""

LEADING = (".json", ".index", ".pb", ".onnx")
"""Endings of small files that say which large ones are read after them: Hugging Face's index of shards,
TensorFlow's of a checkpoint's data, a SavedModel's graph, an ONNX graph whose weights are outside."""

FIRST = 8 << 20
"""Bytes of a plan that are asked for before its reader had to wait. All that is under way shares what the
source and the CPUs give: of a whole window, what is read next came as late as the rest."""

READAHEAD = 1 << 20
"""Bytes that the kernel asks for at once, whatever is wanted of them, of who reads more (``mountpoint``)."""

PASSED_OVER = 16
"""Chunks of a plan that may be passed over at its beginning, as by who reads several parts at once."""

PAGE = 4096
"""Bytes: the least that a reader is taken to read at a place. The kernel asks for whole pages."""


class Knowing(Protocol):
    """``plugins.Plugins`` as the mount needs it."""

    def concerns(self, path: str) -> bool:
        """Whether a plugin may know the file, by its name alone. Loop-only, some microseconds."""
        ...

    async def hints(self, context: Context) -> Hints:
        """What the plugin that knows the file says, ``NONE`` where there is none. Never raises."""
        ...


class Hinting:
    """``begin`` is asked for each file that is read in parts. Loop-only; ``run`` must run for plugins to be
    asked.

    ``window``: bytes of a file that are under way or wait for their reader at most. ``bring(nodeid, names)``
    fetches other files of the directory of a node.
    """

    def __init__(
        self,
        plugins: Knowing,
        native: Native,
        fetcher: Fetcher,
        disk: Workers,
        *,
        window: int,
        bring: Callable[[int, Iterable[bytes]], None],
    ) -> None:
        self._plugins = plugins
        self._native = native
        self._fetcher = fetcher
        self._disk = disk
        self.window = window
        self._bring = bring
        self._send, self._receive = trio.open_memory_channel["Reading"](WAITING)
        self.asked = self.answered = self.dropped = 0

    def begin(self, nodeid: int, target: SourceTarget, ask: Callable[[int], bool]) -> Reading | None:
        """A file is opened whose reads will be told (``Reading.touched``); None: no plugin knows it.
        ``ask(chunk)`` has a chunk fetched ahead; False: it cannot be now."""
        path = self._path(nodeid)
        if self.window <= 0 or path is None or not self._plugins.concerns(path):
            return None
        window = max(1, self.window // target.file.chunk_size)
        return Reading(nodeid, path, target, self._fetcher, ask, window, self._queue)

    def opened(self, nodeid: int, target: SourceTarget) -> None:
        """A small file is opened, all of which is in the cache: it may say what is read after it."""
        path = self._path(nodeid)
        if self.window > 0 and path is not None and path.endswith(LEADING) and self._plugins.concerns(path):
            self._queue(Reading(nodeid, path, target, self._fetcher, lambda chunk: False, 1, self._queue))

    def _path(self, nodeid: int) -> str | None:
        try:
            return os.fsdecode(self._native.path(nodeid))
        except OSError:
            return None  # it has no name any more

    def _queue(self, reading: Reading) -> bool:
        try:
            self._send.send_nowait(reading)
        except trio.WouldBlock:
            self.dropped += 1
            return False
        reading.target.retain()  # until it was asked about: its reader may be gone by then
        return True

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(ASKED_AT_ONCE):
                nursery.start_soon(self._work)

    async def _work(self) -> None:
        async for reading in self._receive:
            try:
                if not reading.closed:
                    await self._ask(reading)
            except OSError as error:  # of the cache's disk
                log.debug("nothing can be said of a file: %s", error)
            finally:
                reading.target.release()

    async def _ask(self, reading: Reading) -> None:
        target = reading.target
        self.asked += 1
        head = b""
        if target.file.state(0) is ChunkState.PRESENT:  # else it would have to be fetched for this
            head = await self._disk.call(lambda: target.file.read(0, HEAD))
        reading.unknown = not head
        hints = await self._plugins.hints(reading.context(head, self._reader(target)))
        if reading.closed:
            return
        self.answered += hints != NONE
        names = [os.fsencode(name) for name in hints.files if "/" not in name]
        if names and reading.tell_files:
            self._bring(reading.nodeid, names)
        reading.answer(hints)

    def close(self) -> None:
        """Gives back what waits."""
        with contextlib.suppress(trio.WouldBlock):
            while True:
                self._receive.receive_nowait().target.release()

    def _reader(self, target: SourceTarget) -> Callable[[int, int], bytes]:
        """For a worker thread: bytes of the file, through the cache."""
        token = trio.lowlevel.current_trio_token()

        def read(offset: int, length: int) -> bytes:
            cached = target.file
            stop = min(offset + length, cached.size)
            if offset < 0 or offset >= stop:
                return b""
            chunks = range(offset // cached.chunk_size, (stop - 1) // cached.chunk_size + 1)
            try:
                if cached.missing(chunks.start, chunks.stop):
                    trio.from_thread.run(self._fetcher.ensure, target, chunks, trio_token=token)
                return cached.read(offset, stop - offset)
            except FetchError as error:
                raise OSError(error.errno, os.strerror(error.errno)) from None
            except (trio.RunFinishedError, trio.Cancelled):
                raise OSError(errno.ESHUTDOWN, os.strerror(errno.ESHUTDOWN)) from None

        return read


class Reading:
    """One open file: what was read of it, and what is planned. Loop-only."""

    def __init__(
        self,
        nodeid: int,
        path: str,
        target: SourceTarget,
        fetcher: Fetcher,
        ask: Callable[[int], bool],
        window: int,
        queue: Callable[[Reading], bool],
    ) -> None:
        self.nodeid = nodeid
        self.target = target
        self.closed = False
        self.tell_files = True
        self._path = path
        self._fetcher = fetcher
        self._ask = ask
        self._window = window
        self._allowed = min(window, max(2, FIRST // target.file.chunk_size))
        """How many chunks may be ahead of the reader by now: one more for each that it had to wait for."""
        self._queue = queue
        self._touched: deque[Range] = deque(maxlen=TOUCHES)
        self._plan: deque[int] = deque()
        self._behind = -(-2 * READAHEAD // target.file.chunk_size)
        self._told: dict[int, int] = {}
        """Chunks that were in a plan, and their places in the latest one; -1: only in earlier ones."""
        self._places = 0
        """Of the latest plan."""
        self._ahead: set[int] = set()
        """Chunks that were asked for and not read yet."""
        self._used = self._enough = 0
        """How many reads were as planned, and with how many the plugin is to be asked again."""
        self._waiting = False
        self._changed = False
        self._again = True
        self.unknown = False
        """It was asked about by its name alone, as its first chunk was not there."""

    def touched(self, offset: int, length: int = PAGE, *, stop: int = 0) -> None:
        """A reader went to this place, from another chunk or to one that is not there. ``stop``: the chunk
        behind the last one of the read, where its length is not known; 0: it ends where it begins."""
        size = self.target.file.chunk_size
        stop = max(stop, offset // size + 1)
        length = max(length, (stop - 1) * size + 1 - offset)
        self._remember(offset, max(1, min(length, self.target.file.size - offset)))
        chunks = range(offset // size, stop)
        self._ahead.difference_update(chunks)
        if self.target.file.missing(chunks.start, chunks.stop):
            self._allowed = min(self._window, self._allowed + len(chunks))
        self._top_up()
        if self._asks and not self.target.file.complete and not self._expected(offset):
            if self._waiting:
                self._changed = True
            else:
                self._waiting = self._queue(self)

    @property
    def _asks(self) -> bool:
        """Whether there is something to ask: more was read, or the first bytes can be told by now."""
        return self._again or (self.unknown and self.target.file.state(0) is ChunkState.PRESENT)

    def foretold(self, chunk: int) -> bool:
        """Whether it was asked for as a plan has it, or the kernel reads it ahead of who reads that: what is
        fetched after it is the plan's business. Who reads what the plan has not come to yet does not read as
        planned."""
        reached = self._places - len(self._plan)
        return any(self._told.get(chunk - behind, reached) < reached for behind in range(self._behind + 1))

    def _expected(self, offset: int) -> bool:
        """Whether a read says nothing new: it was in the plan, of which not much was passed over and less
        than a quarter was read."""
        place = self._told.get(offset // self.target.file.chunk_size)
        if place is None:
            return False
        self._used += 1
        return self._used < self._enough and place <= 2 * self._used + PASSED_OVER

    def _remember(self, offset: int, length: int) -> None:
        last = self._touched[-1] if self._touched else None
        if last is not None and last.offset <= offset <= last.end:
            self._touched[-1] = Range(last.offset, max(last.end, offset + length) - last.offset)
        else:
            self._touched.append(Range(offset, length))

    def context(self, head: bytes, read: Callable[[int, int], bytes]) -> Context:
        """For the plugin."""
        self._changed = False
        return Context(self._path, self.target.file.size, head, read, tuple(self._touched))

    def answer(self, hints: Hints) -> None:
        """What the plugin said."""
        self._waiting = False
        self._again = hints.again
        self.tell_files &= not hints.files
        count = self.target.file.nchunks
        wanted = range(count) if hints.whole else self._chunks(hints.ranges)
        self._plan = deque(wanted)
        self._places = len(self._plan)
        self._told = {**dict.fromkeys(self._told, -1), **{chunk: n for n, chunk in enumerate(self._plan)}}
        self._used, self._enough = 0, len(self._plan) // 4
        self._top_up()
        if self._changed and self._asks:
            self._waiting = self._queue(self)

    def _chunks(self, ranges: Iterable[Range]) -> Iterator[int]:
        """Each once, in the order of the ranges."""
        size, count = self.target.file.chunk_size, self.target.file.nchunks
        seen: set[int] = set()
        for each in ranges:
            if each.length > 0:
                for chunk in range(each.offset // size, min(count, (_read_to(each) - 1) // size + 1)):
                    if chunk not in seen:
                        seen.add(chunk)
                        yield chunk

    def _top_up(self) -> None:
        while self._plan and len(self._ahead) < self._allowed:
            chunk = self._plan[0]
            there = self.target.file.state(chunk) is ChunkState.PRESENT
            if not there and not self._fetcher.under_way(self.target, chunk):
                if not self._ask(chunk):
                    return  # the queue is full: again at the next touch
                self._ahead.add(chunk)
            self._plan.popleft()

    def close(self) -> None:
        """Nobody reads it any more."""
        self.closed = True
        self._plan.clear()


def _read_to(part: Range) -> int:
    """How far the kernel reads of who reads this: in whole requests, the last of which ends behind it."""
    return part.offset + (
        -(-part.length // READAHEAD) * READAHEAD if part.length > READAHEAD else part.length
    )
