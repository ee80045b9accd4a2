"""The HTTP endpoint: connections, bounded in number, size and time, served by hypercorn on the event loop.

The socket is bound at the start, so that the ready line can name it; hypercorn is imported in a worker thread
when the first connection comes (0.2 s, which most runs never need). A scrape takes its snapshot between two
other steps of the loop, so counters need no lock, and there is no thread to stop at the end.

hypercorn's own loop (``worker_serve``) is not used, its server of one connection is: that loop takes any
number of connections, sends to a client that does not read without a limit, also past its end, and ends when
what one client sent makes it raise.
"""

from __future__ import annotations

import errno
import gc
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from swmld.api.accepting import accept
from swmld.api.asgi import Application, Page
from swmld.api.messages import Health
from swmld.api.metrics import Snapshot
from swmld.errors import UsageError

if TYPE_CHECKING:
    from hypercorn.config import Config
    from hypercorn.trio.worker_context import WorkerContext

log = logging.getLogger(__name__)

# A scraper sends a few hundred bytes at once; the limits bound what a stray connection costs.
MAX_HEAD = 8192
MAX_CONNECTIONS = 16
EXCHANGE_TIMEOUT = 10.0
"""Seconds in which a request has come, the next one on the same connection too, and in which a client takes
what it is sent."""
LONGEST = 600.0
"""Seconds after which a connection ends whatever it does: the places are few."""


async def serve(
    snapshot: Callable[[], Snapshot],
    address: str,
    *,
    patterns: Callable[[str], bytes] | None = None,
    pages: Mapping[str, Page] | None = None,
    health: Callable[[], Awaitable[Health]] | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve metrics at ``address`` (``HOST:PORT``) until cancelled; started with the address really bound.

    ``patterns`` makes the JSON of ``/ml/patterns`` from the query, or raises UsageError; without it there
    is no such page. ``pages``: others, by path. ``health``: for ``/healthz``.

    If the port is taken (a second daemon on the host), a free one is chosen and one line says so. ``off``
    starts with ``off`` and returns. Raises UsageError if the host of ``address`` is not one of this
    machine's.
    """
    if address == "off":
        task_status.started("off")
        return
    known = dict(pages or {})
    if patterns is not None:
        known = {"/ml/patterns": _at_once(patterns), **known}
    host = address.rpartition(":")[0].strip("[]")
    server = _Server(Application(snapshot, known, health, host))
    with await _listen(address) as listener:
        task_status.started(_bound(listener))
        await accept(listener, server.serve, most=MAX_CONNECTIONS, what="HTTP")


async def _listen(address: str) -> trio.socket.SocketType:
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
    log.warning("metrics port %s is taken, using another", port, extra={"address": _bound(listener)})
    return listener


async def _open(host: str, port: int) -> trio.socket.SocketType:
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
    return listener


def _bound(listener: trio.socket.SocketType) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _at_once(page: Callable[[str], bytes]) -> Page:
    async def made(query: str) -> bytes:
        return page(query)

    return made


# ---- one connection


class _Server:
    """Serves connections by hypercorn, which is there from the first one on."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._loading = trio.Lock()
        self._loaded: _Loaded | None = None

    async def serve(self, connection: trio.socket.SocketType) -> None:
        """Until the client or a limit ends it. What goes wrong in it is told and stays in it."""
        try:
            async with self._loading:
                if self._loaded is None:
                    self._loaded = await trio.to_thread.run_sync(_load, self._application)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cut_at_end, connection)
                await self._loaded.server(_Stream(connection))
                nursery.cancel_scope.cancel()
        except* Exception as several:
            first: BaseException = several
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            log.warning("HTTP connection given up: %s: %s", type(first).__name__, first)


async def _cut_at_end(connection: trio.socket.SocketType) -> None:
    """At the end of the daemon, too: what hypercorn sends is shielded, but ends with the socket."""
    try:
        await trio.sleep(LONGEST)
    finally:
        connection.close()


@dataclass(frozen=True, slots=True)
class _Loaded:
    application: Any
    config: Config
    context: WorkerContext

    async def server(self, stream: _Stream) -> None:
        from hypercorn.trio.tcp_server import TCPServer

        # It asks whether there is TLS by looking for the methods of that, so any stream does.
        await TCPServer(self.application, self.config, self.context, {}, stream)  # type: ignore[arg-type]


def _load(application: Application) -> _Loaded:
    """Blocking, 0.2 s; the loop goes on meanwhile."""
    collects = gc.isenabled()
    # A full collection, which so many new objects bring about, would hold the loop for 0.1 s. Later ones find
    # them grown old.
    gc.disable()
    try:
        from hypercorn.app_wrappers import ASGIWrapper
        from hypercorn.config import Config
        from hypercorn.trio import tcp_server  # noqa: F401  here, not on the loop
        from hypercorn.trio.worker_context import WorkerContext
    finally:
        if collects:
            gc.enable()

    config = Config()
    config.accesslog = None
    config.errorlog = log
    config.include_server_header = False
    config.h11_max_incomplete_size = MAX_HEAD
    config.h2_max_header_list_size = MAX_HEAD
    config.h2_max_concurrent_streams = 4
    config.keep_alive_timeout = EXCHANGE_TIMEOUT
    return _Loaded(ASGIWrapper(application), config, WorkerContext(None))


class _Stream:
    """A connection as hypercorn wants it, that gives a client up which takes too long to read.

    hypercorn may end it while another of its tasks still sends: that waits here.
    """

    def __init__(self, connection: trio.socket.SocketType) -> None:
        self.socket = connection
        self._stream = trio.SocketStream(connection)
        self.receive_some = self._stream.receive_some
        self.aclose = self._stream.aclose
        self._sending = trio.Lock()

    async def send_eof(self) -> None:
        async with self._sending:
            await self._stream.send_eof()

    async def send_all(self, data: bytes) -> None:
        with trio.move_on_after(EXCHANGE_TIMEOUT) as scope:
            async with self._sending:
                await self._stream.send_all(data)
        if scope.cancelled_caught:
            # Who waits for more from this client is woken, too.
            self.socket.close()
            raise trio.BrokenResourceError
