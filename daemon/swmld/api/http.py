"""The HTTP endpoint: ``GET /metrics`` for Prometheus and the pages below ``/ml/``, nothing else.

It runs on the event loop: a scrape takes its snapshot between two other steps, so counters need no lock,
and there is no thread to stop at the end. A scrape of these metrics takes about a millisecond.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import trio
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder

from swmld.api.metrics import Snapshot, SnapshotCollector
from swmld.errors import UsageError

log = logging.getLogger(__name__)

# A scraper sends a few hundred bytes at once; the limits bound what a stray connection costs.
MAX_HEAD = 8192
EXCHANGE_TIMEOUT = 10.0
MAX_CONNECTIONS = 16

Page = Callable[[str], Awaitable[bytes]]
"""JSON from the query of a request. Raises UsageError."""


async def serve(
    snapshot: Callable[[], Snapshot],
    address: str,
    *,
    patterns: Callable[[str], bytes] | None = None,
    pages: Mapping[str, Page] | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve metrics at ``address`` (``HOST:PORT``) until cancelled; started with the address really bound.

    ``patterns`` makes the JSON of ``/ml/patterns`` from the query, or raises UsageError; without it there
    is no such page. ``pages``: others, by path.

    If the port is taken (a second daemon on the host), a free one is chosen and one line says so. ``off``
    starts with ``off`` and returns. Raises UsageError if the host of ``address`` is not one of this
    machine's.
    """
    if address == "off":
        task_status.started("off")
        return
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(snapshot))
    ProcessCollector(registry=registry)
    known = dict(pages or {})
    if patterns is not None:
        known = {"/ml/patterns": _at_once(patterns), **known}
    served = _Pages(registry, known)
    limiter = trio.CapacityLimiter(MAX_CONNECTIONS)

    async def handle(stream: trio.SocketStream) -> None:
        async with stream, limiter:
            try:
                with trio.move_on_after(EXCHANGE_TIMEOUT):
                    await _exchange(stream, served)
            except trio.BrokenResourceError:
                pass

    listener = await _listen(address)
    try:
        task_status.started(_bound(listener.socket))
        await trio.serve_listeners(handle, [listener])
    finally:
        listener.socket.close()


async def _listen(address: str) -> trio.SocketListener:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        try:
            return await _open(host, int(port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        listener = await _open(host, 0)
    except OSError as error:
        raise UsageError(f"metrics address {address}: {error.strerror or error}") from error
    log.warning("metrics port %s is taken, using another", port, extra={"address": _bound(listener.socket)})
    return listener


async def _open(host: str, port: int) -> trio.SocketListener:
    """One listener at ``host``, the first of its addresses."""
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(error.errno, error.strerror) from None
    family, kind, protocol, _, target = found[0]
    listener = trio.socket.socket(family, kind, protocol)
    try:
        # A daemon that restarts must get its port back although old connections still time out.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        await listener.bind(target)
        listener.listen(MAX_CONNECTIONS)
    except BaseException:
        listener.close()
        raise
    return trio.SocketListener(listener)


def _bound(listener: trio.socket.SocketType) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class _Pages:
    registry: CollectorRegistry
    pages: Mapping[str, Page]

    async def get(self, path: str, query: str, fields: list[str]) -> tuple[str, bytes, str]:
        """Status, body and content type."""
        if path == "/metrics":
            encode, content_type = choose_encoder(_field(fields, "accept"))
            return "200 OK", encode(self.registry), content_type
        page = self.pages.get(path)
        if page is None:
            also = "".join(f", {known.rpartition('/')[2]} at {known}" for known in self.pages)
            return "404 Not Found", f"metrics are at /metrics{also}\n".encode(), "text/plain"
        try:
            return "200 OK", await page(query), "application/json"
        except UsageError as error:
            return "400 Bad Request", f"{error}\n".encode("utf-8", "backslashreplace"), "text/plain"


def _at_once(page: Callable[[str], bytes]) -> Page:
    async def made(query: str) -> bytes:
        return page(query)

    return made


async def _exchange(stream: trio.SocketStream, pages: _Pages) -> None:
    head = bytearray()
    while b"\r\n\r\n" not in head:
        data = await stream.receive_some()
        if not data:
            return
        head += data
        if len(head) > MAX_HEAD:
            await _respond(stream, "431 Request Header Fields Too Large", b"request too long\n")
            return
    request, *fields = head.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    method, _, rest = request.partition(" ")
    path, _, query = rest.partition(" ")[0].partition("?")
    if method not in ("GET", "HEAD"):
        await _respond(stream, "405 Method Not Allowed", b"only GET\n")
        return
    status, body, content_type = await pages.get(path, query, fields)
    await _respond(stream, status, body, content_type, with_body=method == "GET")


def _field(fields: list[str], wanted: str) -> str:
    for line in fields:
        name, _, value = line.partition(":")
        if name.strip().lower() == wanted:
            return value.strip()
    return ""


async def _respond(
    stream: trio.SocketStream,
    status: str,
    body: bytes,
    content_type: str = "text/plain",
    *,
    with_body: bool = True,
) -> None:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    await stream.send_all(head.encode("latin-1") + (body if with_body else b""))
