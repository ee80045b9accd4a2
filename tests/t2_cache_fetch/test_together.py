"""Small files fetched together, by real GETs from a server that answers as it is told: what comes as it
should lands, everything else is read alone, and nothing is left over whatever happens."""

from __future__ import annotations

import errno
import http.server
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from support.fakes import DiskFile, FakeCache, FakeTarget, check_nothing_left
from support.webservers import Hostile, respond, unused_port
from swmld.errors import FetchError
from swmld.fetch.buffers import BufferPool
from swmld.fetch.scheduler import Fetcher
from swmld.fetch.sharing import Terms
from swmld.fetch.stats import Result
from swmld.fetch.threads import ThreadEngine, Workers
from swmld.fetch.together import LIMIT, MOST, Together
from swmld.sources.whole import Addresses, Get
from swmld.types import FetchClass

DEMAND, PREFETCH = FetchClass.DEMAND, FetchClass.PREFETCH
CHUNK = 4 << 20
SIZE = 110_000

pytestmark = pytest.mark.timeout(60)


async def until(done: Callable[[], bool]) -> None:
    """Threads and the server tell the loop nothing by themselves."""
    while not done():  # noqa: ASYNC110
        await trio.sleep(0.001)


class FileReader:
    """A file that its server gives at ``path``; ``read``, the long way, gives ``own``, or raises."""

    plain = True
    in_one = False

    def __init__(self, server: str, path: str, size: int) -> None:
        self.size = size
        self.server = server
        self.own = os.urandom(16) * (size // 16 + 1)
        self.error = 0
        self.says: Callable[[], Get | None] = lambda: Get(
            *Addresses().of(server),
            f"GET {path} HTTP/1.1\r\nHost: {server}\r\n\r\n".encode(),
            size,
            self._came,
        )
        self.reads = self.asked = self.came = 0

    def _came(self, seconds: float) -> None:
        assert seconds > 0
        self.came += 1

    def whole(self) -> Get | None:
        self.asked += 1
        return self.says()

    def read(self, view: memoryview, offset: int) -> int:
        self.reads += 1
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        view[:] = self.own[offset : offset + len(view)]
        return len(view)

    def current(self) -> bool:
        return True

    def close(self) -> None:
        pass


class RemoteTarget(FakeTarget):
    """A target of a ``FileReader``."""

    def __init__(self, key: str, file: DiskFile, reader: FileReader) -> None:
        super().__init__(key, -1, file)
        self.reader = reader  # type: ignore[assignment]
        self.plain = reader.plain

    @property
    def content(self) -> bytes:
        return os.pread(self.file.fd, self.file.size + 1, 0)


class World:
    """A fetcher with real threads and sockets, whose targets' files are at a server."""

    def __init__(self, server: Hostile, *, timeout: float = 30.0, parallel: int = 32) -> None:
        self.server = server
        self.cache = FakeCache()
        self.engine = ThreadEngine(parallel=4)
        self.pool = BufferPool(24, CHUNK)
        self.offload = Workers(64)
        self.together = Together(self.cache, self.offload)
        self.events: list[tuple[object, int]] = []
        self.targets: list[RemoteTarget] = []
        self.fetcher = Fetcher(
            self.engine,
            self.pool,
            self.cache,
            parallel=parallel,
            prefetch_parallel=parallel * 3 // 4,
            timeout=timeout,
            on_landed=lambda target, chunk: self.events.append((target.key, 0)),
            on_failed=lambda target, chunk, code: self.events.append((target.key, code)),
            offload=self.offload,
            together=self.together,
        )

    def target(self, number: int, size: int = SIZE) -> RemoteTarget:
        path = f"/{number}"
        fd = os.memfd_create("data")
        file = DiskFile(fd, size, CHUNK, self.cache)
        file.level = 0  # type: ignore[attr-defined]
        target = RemoteTarget(path, file, FileReader(self.server.address, path, size))
        self.server.answers.setdefault(path, respond(200, _body(number, size)))
        self.targets.append(target)
        return target

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.offload.run)
                await nursery.start(self.engine.run)
                async with trio.open_nursery() as inner:
                    await inner.start(self.fetcher.run)
                    yield
                    inner.cancel_scope.cancel()
                await until(lambda: not self.offload.outstanding)
                nursery.cancel_scope.cancel()
        finally:
            self.together.close()
            self.offload.close()
            self.engine.close()
            for target in self.targets:
                os.close(target.file.fd)

    async def ended(self, count: int) -> None:
        await until(lambda: len(self.events) >= count)

    def check_nothing_left(self) -> None:
        check_nothing_left(self.fetcher, self.pool, self.cache)
        assert not any(target.retained for target in self.targets)


def _body(number: int, size: int) -> bytes:
    return (f"file {number} ".encode() * (size // 7 + 1))[:size]


@pytest.fixture
def server() -> Iterator[Hostile]:
    with Hostile() as server:
        yield server


@pytest.mark.trio
async def test_files_land(server: Hostile) -> None:
    world = World(server)
    sizes = [SIZE, 1, 4096, LIMIT, SIZE, 70_001]
    targets = [world.target(number, sizes[number % len(sizes)]) for number in range(60)]
    async with world.running():
        for target in targets[:40]:
            assert world.fetcher.request(target, 0, PREFETCH)
        for target in targets[40:]:
            assert world.fetcher.request(target, 0, DEMAND)
        await world.ended(60)
        world.check_nothing_left()
        for number, target in enumerate(targets):
            assert target.content == _body(number, target.file.size)
            assert target.reader is not None
            assert (target.reader.reads, target.reader.came) == (0, 1)
        assert sorted(world.events) == sorted((target.key, 0) for target in targets)
        assert world.fetcher.stats.flights[DEMAND, Result.LANDED] >= 20
        assert sum(world.fetcher.stats.bytes.values()) == sum(target.file.size for target in targets)
        assert len(server.asked) == 60


@pytest.mark.trio
@pytest.mark.parametrize(("in_one", "reads"), [(True, 3), (False, 4 + 4 + 1)])
async def test_chunks_of_a_source_that_gives_them_in_one(server: Hostile, in_one: bool, reads: int) -> None:
    world = World(server)
    target = world.target(1, 2 * CHUNK + 70_001)
    reader = target.reader
    assert isinstance(reader, FileReader)
    reader.plain = target.plain = False
    reader.in_one = in_one
    async with world.running():
        for chunk in range(3):
            assert world.fetcher.request(target, chunk, PREFETCH)
        await world.ended(3)
        world.check_nothing_left()
        assert target.content == reader.own[: target.file.size]
    assert reader.reads == reads


@pytest.mark.trio
async def test_a_demand_joins_what_is_under_way(server: Hostile) -> None:
    world = World(server)
    target = world.target(1)
    release = threading.Event()
    answer = server.answers["/1"]

    def late(request: http.server.BaseHTTPRequestHandler) -> None:
        release.wait()
        answer(request)

    server.answers["/1"] = late
    async with world.running():
        assert world.fetcher.request(target, 0, PREFETCH)
        await until(lambda: bool(server.asked))
        async with trio.open_nursery() as readers:
            for _ in range(3):
                readers.start_soon(world.fetcher.ensure, target, [0])
            await trio.testing.wait_all_tasks_blocked(0.01)
            release.set()
        assert target.content == _body(1, SIZE)
        assert len(server.asked) == 1
        world.check_nothing_left()


def _chunked(request: http.server.BaseHTTPRequestHandler) -> None:
    body = _body(1, SIZE)
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    request.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))


def _hang_up(request: http.server.BaseHTTPRequestHandler) -> None:
    request.close_connection = True


BAD = {
    "redirect": respond(301, headers={"Location": "/2"}),
    "no part was asked for": respond(206, _body(1, SIZE), {"Content-Range": f"bytes 0-{SIZE - 1}/{SIZE}"}),
    "unauthorized": respond(401),
    "forbidden": respond(403),
    "absent": respond(404),
    "busy": respond(503, headers={"Retry-After": "3"}),
    "too many": respond(429, _body(1, SIZE)),
    "shorter": respond(200, _body(1, SIZE - 1)),
    "longer": respond(200, _body(1, SIZE + 1)),
    "cut off": respond(200, _body(1, SIZE - 1), length=SIZE),
    "encoded": respond(200, _body(1, SIZE), {"Content-Encoding": "gzip"}),
    "in chunks": _chunked,
    "hangs up": _hang_up,
}


@pytest.mark.trio
@pytest.mark.parametrize("how", list(BAD))
async def test_what_is_not_plain_is_read_alone(server: Hostile, how: str) -> None:
    """Once, with the others of the batch undisturbed; not a byte of it counts."""
    world = World(server)
    server.answers["/1"] = BAD[how]
    targets = [world.target(number) for number in range(4)]
    async with world.running():
        for target in targets:
            assert world.fetcher.request(target, 0, PREFETCH)
        await world.ended(4)
        world.check_nothing_left()
    reader = targets[1].reader
    assert reader is not None
    assert (reader.reads, reader.came) == (1, 0)
    assert sorted(world.events) == [(f"/{number}", 0) for number in range(4)]


@pytest.mark.trio
async def test_the_bytes_that_are_read_alone_count(server: Hostile) -> None:
    world = World(server)
    server.answers["/1"] = BAD["cut off"]
    target = world.target(1)
    async with world.running():
        await world.fetcher.ensure(target, [0])
        assert target.reader is not None
        assert target.content == target.reader.own[:SIZE]


@pytest.mark.trio
async def test_the_long_way_says_what_is_wrong(server: Hostile) -> None:
    world = World(server)
    server.answers["/1"] = BAD["absent"]
    target = world.target(1)
    assert target.reader is not None
    target.reader.error = errno.ESTALE
    async with world.running():
        with pytest.raises(FetchError) as raised:
            await world.fetcher.ensure(target, [0])
        assert raised.value.errno == errno.ESTALE
        assert world.events == [("/1", errno.ESTALE)]
        world.check_nothing_left()


@pytest.mark.trio
async def test_a_source_that_cannot_say_how(server: Hostile) -> None:
    world = World(server)
    targets = [world.target(number) for number in range(4)]

    def fails() -> Get | None:
        raise OSError(errno.EHOSTUNREACH, "nobody knows where it is")

    refused = f"127.0.0.1:{unused_port()}"
    ways: list[Callable[[], Get | None]] = [
        lambda: None,
        fails,
        lambda: Get("::z", 80, b"GET / HTTP/1.1\r\n\r\n", SIZE),
        lambda: Get(*Addresses().of(refused), b"GET / HTTP/1.1\r\n\r\n", SIZE),
    ]
    for target, way in zip(targets, ways, strict=True):
        assert target.reader is not None
        target.reader.says = way
    async with world.running():
        for target in targets:
            assert world.fetcher.request(target, 0, DEMAND)
        await world.ended(4)
        for target in targets:
            assert target.reader is not None
            assert target.reader.reads == 1
            assert target.content == target.reader.own[:SIZE]
        world.check_nothing_left()


@pytest.mark.trio
async def test_what_does_not_fit_goes_alone(server: Hostile) -> None:
    """Large files, those that are not plain, whose rules say how they are read, and compressed ones."""
    world = World(server)
    large, told, ruled = world.target(1, LIMIT + 1), world.target(2), world.target(3)
    told.plain = False
    ruled.terms = Terms(request=4096)
    async with world.running():
        for target in (large, told, ruled):
            await world.fetcher.ensure(target, [0])
            assert target.reader is not None
            assert target.reader.asked == 0
            assert target.content == target.reader.own[: target.file.size]
        world.check_nothing_left()


@pytest.mark.trio
async def test_a_server_that_does_not_answer(server: Hostile) -> None:
    """Half of the time is left to go the long way."""
    world = World(server, timeout=1.0)
    release = threading.Event()
    targets = [world.target(number) for number in range(3)]
    server.answers["/1"] = lambda request: [release.wait(), _hang_up(request)][1]
    async with world.running():
        for target in targets:
            assert world.fetcher.request(target, 0, DEMAND)
        await world.ended(3)
        assert sorted(world.events) == [(f"/{number}", 0) for number in range(3)]
        assert targets[1].reader is not None
        assert targets[1].reader.reads == 1
        world.check_nothing_left()
        release.set()


class Late:
    """``whole.Second``: another GET after ``after`` seconds, of ``path``."""

    def __init__(self, server: str, path: str, after: float = 0.02) -> None:
        self.after = after
        self.request = f"GET {path} HTTP/1.1\r\nHost: {server}\r\n\r\n".encode() if path else b""
        self.server = server
        self.taken = self.wins = 0

    def take(self) -> Get | None:
        self.taken += 1
        return Get(*Addresses().of(self.server), self.request, SIZE) if self.request else None

    def won(self) -> None:
        self.wins += 1


def late(target: RemoteTarget, path: str, after: float = 0.02) -> Late:
    """The file has a second request, for ``path``; empty: nobody lets it be made."""
    reader = target.reader
    assert isinstance(reader, FileReader)
    first, second = reader.says, Late(reader.server, path, after)

    def says() -> Get | None:
        get = first()
        assert get is not None
        get.second = second
        return get

    reader.says = says
    return second


@pytest.mark.trio
async def test_a_second_request_brings_what_is_late(server: Hostile) -> None:
    """The others of the batch have none; what the first one would still say goes nowhere."""
    world = World(server)
    release = threading.Event()
    targets = [world.target(number) for number in range(4)]
    server.answers["/1"] = lambda request: [release.wait(), _hang_up(request)][1]
    server.answers["/again"] = respond(200, _body(1, SIZE))
    seconds = [late(target, "/again" if target is targets[1] else "/never", 20.0) for target in targets]
    seconds[1].after = 0.02
    async with world.running():
        for target in targets:
            assert world.fetcher.request(target, 0, PREFETCH)
        await world.ended(4)
        assert sorted(world.events) == [(f"/{number}", 0) for number in range(4)]
        assert [target.content for target in targets] == [_body(number, SIZE) for number in range(4)]
        assert [(second.taken, second.wins) for second in seconds] == [(0, 0), (1, 1), (0, 0), (0, 0)]
        assert not any(target.reader.reads for target in targets if isinstance(target.reader, FileReader))
        world.check_nothing_left()
        release.set()


@pytest.mark.trio
@pytest.mark.parametrize("second", ["", "/missing", "/hangs"])
async def test_a_second_request_that_is_of_no_use(server: Hostile, second: str) -> None:
    """The first one goes on, and brings the bytes."""
    world = World(server)
    release = threading.Event()
    target = world.target(1)
    again = late(target, second)

    def slowly(request: http.server.BaseHTTPRequestHandler) -> None:
        release.wait()
        respond(200, _body(1, SIZE))(request)

    server.answers["/1"] = slowly
    server.answers["/missing"] = respond(404, b"")
    server.answers["/hangs"] = lambda request: [release.wait(), _hang_up(request)][1]
    async with world.running():
        assert world.fetcher.request(target, 0, PREFETCH)
        await until(lambda: again.taken == 1 and second in ["", *(path for _, path, _ in server.asked)])
        release.set()
        await world.ended(1)
        assert (world.events, target.content) == ([("/1", 0)], _body(1, SIZE))
        assert again.wins == 0
        world.check_nothing_left()


@pytest.mark.trio
async def test_no_room(server: Hostile) -> None:
    world = World(server)
    world.cache.full = True
    targets = [world.target(number) for number in range(3)]
    async with world.running():
        for target in targets:
            assert world.fetcher.request(target, 0, PREFETCH)
        await world.ended(3)
        assert sorted(world.events) == [(f"/{number}", errno.ENOSPC) for number in range(3)]
        assert not server.asked
        world.check_nothing_left()


@pytest.mark.trio
async def test_the_end_while_files_are_on_their_way(server: Hostile) -> None:
    """Whoever waits is told; buffers and descriptors stay until the thread is done with them."""
    world = World(server)
    release = threading.Event()
    targets = [world.target(number) for number in range(MOST + 1)]
    for target in targets:
        server.answers[str(target.key)] = lambda request: [release.wait(), _hang_up(request)][1]
    async with world.running():
        for target in targets:
            assert world.fetcher.request(target, 0, PREFETCH)
        await until(lambda: len(server.asked) >= len(targets))
        world.together.close()
    assert sorted(world.events) == sorted((target.key, errno.EIO) for target in targets)
    world.check_nothing_left()
    release.set()


@pytest.mark.trio
async def test_a_flight_whose_time_is_over_keeps_its_buffer(server: Hostile) -> None:
    """As long as the thread has it; then everything comes back."""
    world = World(server, timeout=0.5)
    target = world.target(1)
    release = threading.Event()
    assert target.reader is not None

    def hangs() -> Get | None:
        release.wait()
        return None

    target.reader.says = hangs
    async with world.running():
        assert world.fetcher.request(target, 0, DEMAND)
        await world.ended(1)
        assert world.events == [("/1", errno.EIO)]
        assert (world.pool.quarantined, target.retained) == (1, 1)
        assert world.fetcher.stats.timeouts == 1
        release.set()
        await until(lambda: not world.pool.quarantined)
        world.check_nothing_left()
    assert target.reader.reads == 0
