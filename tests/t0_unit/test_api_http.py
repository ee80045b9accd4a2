"""The HTTP endpoint with real sockets and clients: what is served, to whom, and what a stray one costs."""

from __future__ import annotations

import errno
import http.client
import json
import logging
import os
import random
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import pytest
import trio
import trio.testing
from prometheus_client.parser import text_string_to_metric_families
from swmld.api import asgi
from swmld.api import http as endpoint
from swmld.api.asgi import Application
from swmld.api.messages import Health
from swmld.api.metrics import Snapshot
from swmld.errors import UsageError

T = TypeVar("T")
LOCAL = "127.0.0.1:0"
LARGE = 32 << 20
"""More than the buffers of a connection hold: 10 MB, where the kernel makes them as large as it may."""


async def page(query: str) -> bytes:
    if query == "large":
        return bytes(LARGE)
    if query == "broken":
        raise ValueError("no such luck")
    if query == "wrong":
        raise UsageError("wrong: expected \udcff")
    if query == "hang":
        await trio.sleep_forever()
    return json.dumps({"query": query}).encode()


@pytest.fixture
def patient(autojump_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    """Jumps only when the kernel, too, has had time to pass on what was sent."""
    autojump_clock.autojump_threshold = 0.01
    return autojump_clock


def health_of(status: str = "ok", ready: bool = True) -> Health:
    found: Any = {"status": status, "ready": ready, "problems": []}
    return found  # type: ignore[no-any-return]


@asynccontextmanager
async def serving(
    health: Callable[[], Health] = health_of, snapshot: Callable[[], Snapshot] = Snapshot
) -> AsyncIterator[str]:
    async def healthy() -> Health:
        return health()

    async with trio.open_nursery() as nursery:
        run = partial(endpoint.serve, snapshot, LOCAL, pages={"/ml/page": page}, health=healthy)
        yield await nursery.start(run)
        nursery.cancel_scope.cancel()


async def blocking(function: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(function)


async def connected(address: str) -> trio.SocketStream:
    host, _, port = address.rpartition(":")
    return await trio.open_tcp_stream(host, int(port))


async def until_closed(stream: trio.SocketStream) -> bytes:
    """What came before the end, in order or not."""
    found = bytearray()
    with suppress(trio.BrokenResourceError):
        async for piece in stream:
            found += piece
    return bytes(found)


async def one_answer(stream: trio.SocketStream, path: str = "/ml/page") -> bytes:
    """Head and body of one exchange on a connection that stays."""
    await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    found = b""
    while not found.endswith(b"}"):
        piece = await stream.receive_some()
        assert piece, "closed by the daemon"
        found += piece
    return found


# --- real clients


def fetch(url: str) -> tuple[int, str, bytes]:
    """Status, content type and body."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.headers["content-type"], answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["content-type"], error.read()


@pytest.mark.trio
async def test_metrics_for_a_parser() -> None:
    def scrape(path: str) -> dict[str, float]:
        text = fetch(f"http://{address}{path}")[2].decode()
        families = list(text_string_to_metric_families(text))
        return {sample.name: sample.value for family in families for sample in family.samples}

    async with serving(snapshot=lambda: Snapshot(cache_bytes=13)) as address:
        for path in ("/metrics", "/ml/metrics"):
            assert (await blocking(partial(scrape, path)))["swmld_cache_bytes"] == 13


@pytest.mark.trio
async def test_a_connection_is_kept_for_the_next_request() -> None:
    def talk() -> list[tuple[int, bytes]]:
        host, _, port = address.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        found = []
        for query in ("a", "b", "wrong", "broken", "c"):
            connection.request("GET", f"/ml/page?{query}")
            answer = connection.getresponse()
            found.append((answer.status, answer.read()))
            ends.add(connection.sock.getsockname())
        connection.close()
        return found

    ends: set[Any] = set()
    async with serving() as address:
        found = await blocking(talk)
    assert [status for status, _ in found] == [200, 200, 400, 500, 200]
    assert found[0][1] == b'{"query": "a"}'
    assert len(ends) == 1


@pytest.mark.trio
async def test_curl() -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl")
    async with serving() as address:
        done = await trio.run_process(
            [curl, "-sSf", "-m", "30", f"http://{address}/ml/page?x", "-I", f"http://{address}/ml/page"],
            capture_stdout=True,
        )
    heads = done.stdout.decode().replace("\r", "").strip().split("\n\n")
    assert [head.splitlines()[0].strip() for head in heads] == ["HTTP/1.1 200"] * 2
    assert [head.count("content-length: 1") for head in heads] == [1, 1]
    assert "query" not in done.stdout.decode()


@pytest.mark.trio
async def test_an_error_says_in_one_line_what_was_expected(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as address:
        for path, status, title, detail in (
            ("/ml/page?wrong", 400, "Bad Request", "wrong: expected \udcff"),
            ("/ml/page?broken", 500, "Internal Server Error", "ValueError: no such luck"),
            ("/ml/pag", 404, "Not Found",
             "expected /metrics, /ml/metrics, /ml/page, /healthz or /openapi.json"),
            ("/healthz?ready=2", 400, "Bad Request", "ready: expected a number from 0 to 1, got 2"),
            ("/healthz?rady=1", 400, "Bad Request", "rady: expected ready"),
        ):  # fmt: skip
            code, kind, body = await blocking(partial(fetch, f"http://{address}{path}"))
            assert (code, kind) == (status, "application/problem+json")
            found = {"type": "about:blank", "title": title, "status": status, "detail": detail}
            assert json.loads(body) == found
    assert [record.message for record in caplog.records] == ["HTTP request failed"]


@pytest.mark.trio
@pytest.mark.parametrize(
    ("status", "ready", "alive", "can_read"),
    [("ok", True, 200, 200), ("degraded", True, 200, 200), ("degraded", False, 200, 503),
     ("down", False, 503, 503)],
)  # fmt: skip
async def test_alive_is_who_serves_ready_is_who_can_read(
    status: str, ready: bool, alive: int, can_read: int
) -> None:
    async with serving(lambda: health_of(status, ready)) as address:
        for query, expected in (("", alive), ("?ready=0", alive), ("?ready=1", can_read)):
            code, kind, body = await blocking(partial(fetch, f"http://{address}/healthz{query}"))
            assert (code, kind) == (expected, "application/json")
            assert json.loads(body) == health_of(status, ready)


@pytest.mark.trio
async def test_an_answer_that_cannot_be_made_in_time(patient: trio.testing.MockClock) -> None:
    app = Application(Snapshot, {"/ml/page": page}, None, "127.0.0.1")
    status, body = await ask(app, "/ml/page", query=b"hang")
    assert (status, json.loads(body)["detail"]) == (503, "no answer within 10 s")
    assert trio.current_time() == asgi.ANSWER_TIMEOUT


# --- who is answered


async def ask(
    app: Application, path: str, *, query: bytes = b"", host: str | None = None, server: str = "127.0.0.1"
) -> tuple[int, bytes]:
    """One request, without a server."""
    sent: list[dict[str, Any]] = []

    async def receive() -> Any:
        raise AssertionError("nobody asks for the body")

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [] if host is None else [(b"Host", host.encode())]
    scope = {"type": "http", "method": "GET", "path": path, "query_string": query, "headers": headers,
             "server": (server, 9617)}  # fmt: skip
    await app(scope, receive, send)
    return sent[0]["status"], sent[1]["body"]


@pytest.mark.trio
@pytest.mark.parametrize(
    ("bound", "server", "host", "fine"),
    [
        ("127.0.0.1", "127.0.0.1", None, True),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1:9617", True),
        ("127.0.0.1", "127.0.0.1", "127.8.8.8", True),
        ("127.0.0.1", "127.0.0.1", "LocalHost.:9617", True),
        ("::1", "::1", "[::1]:9617", True),
        ("127.0.0.1", "127.0.0.1", "rebound.example:9617", False),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1.rebound.example", False),
        ("127.0.0.1", "127.0.0.1", "localhost.rebound.example", False),
        ("127.0.0.1", "127.0.0.1", "192.0.2.1", False),
        ("127.0.0.1", "127.0.0.1", "[::1", True),
        ("127.0.0.1", "127.0.0.1", "[", True),
        ("node1", "192.0.2.1", "NODE1:9617", True),
        ("node1", "192.0.2.1", "192.0.2.1:9617", True),
        ("node1", "192.0.2.1", "node2", False),
        ("0.0.0.0", "192.0.2.1", "192.0.2.1:9617", True),
        ("0.0.0.0", "192.0.2.1", os.uname().nodename, True),
        ("0.0.0.0", "192.0.2.1", "rebound.example", False),
    ],
)
async def test_other_hosts_are_refused(bound: str, server: str, host: str | None, fine: bool) -> None:
    """A page of the web cannot have its own name point here and read what a browser on this machine may."""
    app = Application(Snapshot, {"/ml/page": page}, None, bound)
    status, body = await ask(app, "/ml/page", host=host, server=server)
    assert status == (200 if fine else 421)
    if not fine:
        assert json.loads(body)["detail"].startswith("Host: expected one of ")


@pytest.mark.trio
async def test_no_other_site_may_read() -> None:
    async with serving() as address, await connected(address) as stream:
        await stream.send_all(
            b"OPTIONS /ml/page HTTP/1.1\r\nHost: localhost\r\nOrigin: http://x\r\nConnection: close\r\n\r\n"
        )
        head = (await until_closed(stream)).lower()
    assert head.startswith(b"http/1.1 405 ")
    assert b"\r\nallow: get, head\r\n" in head
    assert b"access-control" not in head
    assert b"\r\nserver:" not in head


# --- what a stray client costs


@pytest.mark.trio
async def test_the_server_is_loaded_once_and_late(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []

    def load(application: Application) -> Any:
        loads.append(application)
        return real(application)

    real = endpoint._load
    monkeypatch.setattr(endpoint, "_load", load)
    async with serving() as address, AsyncExitStack() as stack:
        assert loads == []
        streams = [await stack.enter_async_context(await connected(address)) for _ in range(4)]
        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(one_answer, stream)
    assert len(loads) == 1


def test_the_server_logs_as_we_do_and_no_requests() -> None:
    logger = endpoint._load(Application(Snapshot, {}, None, "127.0.0.1")).config.log
    assert (logger.error_logger, logger.access_logger) == (endpoint.log, None)


@pytest.mark.trio
async def test_more_connections_wait(patient: trio.testing.MockClock) -> None:
    """Until one of the others ends; here because it says nothing for too long."""
    async with serving() as address, AsyncExitStack() as stack:
        for _ in range(endpoint.MAX_CONNECTIONS):
            await one_answer(await stack.enter_async_context(await connected(address)))
        began = trio.current_time()
        await one_answer(await stack.enter_async_context(await connected(address)))
        assert trio.current_time() == pytest.approx(began + endpoint.EXCHANGE_TIMEOUT)


@pytest.mark.trio
async def test_who_does_not_read_is_given_up(patient: trio.testing.MockClock) -> None:
    async with serving() as address, await connected(address) as stream:
        async with await connected(address) as another:
            await one_answer(another)  # the server is loaded; a thread's time is not the clock's
        await stream.send_all(b"GET /ml/page?large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await trio.sleep(2 * endpoint.EXCHANGE_TIMEOUT)
        assert len(await until_closed(stream)) < LARGE
        async with await connected(address) as another:
            assert b"200" in await one_answer(another)


@pytest.mark.trio
async def test_no_connection_lasts_for_ever(patient: trio.testing.MockClock) -> None:
    async with serving() as address, await connected(address) as stream:
        step = endpoint.EXCHANGE_TIMEOUT * 0.9
        for _ in range(int(endpoint.LONGEST / step)):
            await one_answer(stream)
            await trio.sleep(step)
        await one_answer(stream)
        assert await until_closed(stream) == b""
        assert trio.current_time() == endpoint.LONGEST


@pytest.mark.trio
async def test_the_end_waits_for_nobody(patient: trio.testing.MockClock) -> None:
    """Not for who may ask again, not for who does not read what hypercorn insists on sending."""
    before = trio.lowlevel.current_statistics().tasks_living
    async with AsyncExitStack() as stack:
        async with serving() as address:
            streams = [await stack.enter_async_context(await connected(address)) for _ in range(3)]
            await one_answer(streams[0])
            await streams[1].send_all(b"GET /ml/page?large HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await streams[1].receive_some(1)
            await streams[2].send_all(b"GET /ml/page?hang HTTP/1.1\r\nHost: localhost\r\n\r\n")
            ended = trio.current_time()
        assert trio.current_time() == ended
        assert trio.lowlevel.current_statistics().tasks_living == before


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
JUNK = [
    b"",
    b"\0" * 100,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    PREFACE + b"\xff" * 64,
    PREFACE + b"\0\0\0\x04\0\0\0\0\0" + b"\0\0\x08\x06\0\0\0\0\x07" * 9,
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nHTTP2-Settings: \xff\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\n\r\n" + b"\xee" * 99,
    b"GET /ml/page HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    b"GET /ml/page HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"GET /ml/page?%ff%00=\x80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET http://localhost/ml/page HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /ml/page HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n",
    b"GET /ml/page HTTP/1.1\r\nHost: localhost\r\nHost: x\r\n\r\n",
    b"POST /ml/page HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 99999,
    b"POST /ml/page HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    b"GET /ml/page HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    b"GET /ml/page HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50,
    b"GET /" + b"x" * endpoint.MAX_HEAD + b" HTTP/1.1\r\n\r\n",
]


@pytest.mark.trio
async def test_junk_ends_its_connection_alone(
    patient: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(7)
    spoiled = [bytes(rng.choice(junk or b"x") for _ in range(200)) for junk in JUNK]
    async with serving() as address:
        for junk in JUNK + spoiled:
            async with await connected(address) as stream:
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(junk)
                assert b"HTTP/1.1 5" not in await until_closed(stream), junk
        async with await connected(address) as stream:
            assert b"200" in await one_answer(stream)
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert {record.getMessage().partition(": ")[0] for record in told} <= {"HTTP connection given up"}
    assert not any(record.exc_info for record in told)


@pytest.mark.trio
async def test_what_goes_wrong_in_a_connection_is_told_and_stays_in_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(self: object, stream: object) -> None:
        raise ValueError("odd")

    async with serving() as address:
        with monkeypatch.context() as patched:
            patched.setattr(endpoint._Loaded, "server", fail)
            async with await connected(address) as stream:
                assert await until_closed(stream) == b""
        async with await connected(address) as stream:
            assert b"200" in await one_answer(stream)
    assert [record.getMessage() for record in caplog.records] == ["HTTP connection given up: ValueError: odd"]


@pytest.mark.trio
async def test_nothing_is_left_open() -> None:
    async with serving() as address, await connected(address) as stream:
        await one_answer(stream)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        async with serving() as address, await connected(address) as stream:
            await one_answer(stream)
    assert len(os.listdir("/proc/self/fd")) == before
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        assert probe.connect_ex((host, int(port))) == errno.ECONNREFUSED
