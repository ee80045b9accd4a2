"""Kept-alive HTTP/1.1 connections of many threads, the bytes going straight into the caller's buffer, or
from a file into the socket (sendfile, without TLS).

``http.client`` reads headers with the parser of e-mail and bodies in pieces of what arrived, at the GIL's
price each. Here a plain socket waits in the kernel for the whole body (``MSG_WAITALL``), which is one call
of the interpreter whatever the size. Figures: `tests/bench/seaweed_gets.py`.

A request that met a dead kept-alive connection (ended before the first byte of an answer) is made once more
on a new one: whatever is asked here can be asked twice. Nothing else is tried again here. Limits on how much
is asked at once are the caller's.

Errors, all ``OSError``: ETIMEDOUT; EHOSTUNREACH (no route, refused, name not found, TLS, ended before an
answer); EIO (what came is not what was asked for: truncated, another length or range, not HTTP); the rest as
``errors.refusal`` says of a status.
"""

from __future__ import annotations

import errno
import re
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from swmld.sources.errors import failure, refusal
from swmld.sources.http1 import Connection, Ended, Head, Late, Sent, Wrong

TIMEOUT = 30.0
"""Seconds for one request, from connecting to the last byte, unless the caller says otherwise."""

IDLE = 20.0
"""Seconds that an idle connection is trusted; Go's servers and nginx close theirs after 30 to 75."""

KEPT = 64
"""Idle connections kept for one address."""

_DONE = (200, 201, 202, 204)
"""What says that something was changed."""

_TOLD = 1 << 20
"""Bytes of the answer to a change at most; a hundred are usual."""

_RANGE = re.compile(rb"bytes (\d+)-(\d+)/(\d+|\*)")

T = TypeVar("T")
Check = Callable[[Mapping[bytes, bytes]], None]


class Response(NamedTuple):
    """What came: ``length`` bytes in the view, and the headers with lower-case names."""

    status: int
    headers: Mapping[bytes, bytes]
    length: int

    def text(self, name: bytes) -> str:
        """A header, empty where there is none."""
        return self.headers.get(name, b"").decode("latin-1")


class Connections:
    """All connections of one source. Every method may be called from any thread."""

    def __init__(self, *, timeout: float = TIMEOUT, tls: ssl.SSLContext | None = None) -> None:
        """``tls``: every connection is made with it, the host's name being verified as it says."""
        self._timeout, self._tls = timeout, tls
        self._lock = threading.Lock()
        self._idle: dict[str, list[Connection]] = {}
        self._open: set[Connection] = set()
        self._closed = False

    @property
    def plain(self) -> bool:
        """Whether they are without TLS."""
        return self._tls is None

    def read(
        self,
        address: str,
        target: str,
        view: memoryview,
        offset: int = 0,
        *,
        whole: bool = False,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        what: str = "",
    ) -> Response:
        """GET of ``len(view)`` bytes from ``offset`` on, fewer only where the server says that it has no
        more.

        ``address``: HOST:PORT. ``target``: path and query, quoted. ``whole``: the view is as long as the
        object, so no range is asked for. ``what``: for messages, else the target without its query."""

        def body(connection: Connection, head: Head) -> int:
            return receive_range(connection, head, view, offset, whole=whole)

        asked = dict(headers or {})
        if not whole:
            asked["Range"] = range_of(view, offset)
        return self._get(address, target, asked, timeout, what, body)

    def get(
        self,
        address: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        limit: int = 64 << 20,
        timeout: float | None = None,
        what: str = "",
        check: Check | None = None,
    ) -> tuple[Response, bytes]:
        """GET of a document of at most ``limit`` bytes, all of it. ``check`` sees the headers before the body
        is received, and may raise."""
        found = b""

        def body(connection: Connection, head: Head) -> int:
            nonlocal found
            if check is not None:
                check(head.headers)
            found = connection.document(head, limit)
            return len(found)

        return self._get(address, target, dict(headers or {}), timeout, what, body), found

    def _get(
        self,
        address: str,
        target: str,
        headers: Mapping[str, str],
        timeout: float | None,
        what: str,
        body: Callable[[Connection, Head], int],
    ) -> Response:
        return self._ask(address, ("GET", target), headers, timeout, what, body)

    def put(
        self,
        address: str,
        target: str,
        sent: Sent,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        what: str = "",
    ) -> tuple[Response, bytes]:
        """PUT of bytes of a file, and the document that is the answer."""
        given = {**(headers or {}), "Content-Length": str(sent.size)}
        return self._told(address, ("PUT", target), given, timeout, what, sent)

    def delete(
        self,
        address: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        what: str = "",
    ) -> tuple[Response, bytes]:
        """DELETE, and the document that is the answer."""
        return self._told(address, ("DELETE", target), dict(headers or {}), timeout, what, None)

    def _told(
        self,
        address: str,
        asked: tuple[str, str],
        headers: Mapping[str, str],
        timeout: float | None,
        what: str,
        sent: Sent | None,
    ) -> tuple[Response, bytes]:
        found = b""

        def body(connection: Connection, head: Head) -> int:
            nonlocal found
            found = b"" if head.status == 204 else connection.document(head, _TOLD)
            return len(found)

        return self._ask(address, asked, headers, timeout, what, body, sent, _DONE), found

    def _ask(
        self,
        address: str,
        asked: tuple[str, str],
        headers: Mapping[str, str],
        timeout: float | None,
        what: str,
        body: Callable[[Connection, Head], int],
        sent: Sent | None = None,
        good: tuple[int, ...] = (200, 206),
    ) -> Response:
        method, target = asked
        what = f"{method} {what or target.partition('?')[0]} of {address}"
        request = request_of(method, address, target, headers)
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)

        def talk(connection: Connection) -> Response:
            head = connection.ask(request, deadline, sent)
            if head.status not in good:
                connection.kept = connection.skip(head)
                raise refused(head, what)
            if head.text(b"content-encoding") not in ("", "identity"):
                raise Wrong("in an encoding that was not asked for")
            length = body(connection, head)
            connection.kept = connection.reusable(head)
            return Response(head.status, head.headers, length)

        return self._talk(address, deadline, what, talk)

    def _talk(self, address: str, deadline: float, what: str, talk: Callable[[Connection], T]) -> T:
        """One request and its answer, made by ``talk``, which says by ``Connection.kept`` whether another may
        follow; once more on a new connection where a kept one was dead."""
        fresh = False
        while True:
            connection, reused = self._take(address, deadline, what, fresh)
            try:
                return talk(connection)
            except Ended:
                if not reused:
                    raise self._unreachable(what, "ended before it answered") from None
                # The others of that server are as dead.
                self._drop(address)
                fresh = True
            except Wrong as error:
                raise failure(errno.EIO, f"{what}: {error}") from None
            except Late:
                raise failure(errno.ETIMEDOUT, what) from None
            finally:
                self._give(connection)

    def _take(self, address: str, deadline: float, what: str, fresh: bool) -> tuple[Connection, bool]:
        with self._lock:
            if self._closed:
                raise self._unreachable(what, "closed")
            idle = self._idle.get(address, [])
            while idle and not fresh:
                connection = idle.pop()
                if time.monotonic() - connection.since < IDLE:
                    connection.kept = False
                    return connection, True
                self._open.discard(connection)
                connection.close()
        try:
            connection = Connection(address, self._tls, deadline)
        except TimeoutError:
            raise failure(errno.ETIMEDOUT, f"{what}: connecting") from None
        except OSError as error:
            raise self._unreachable(what, str(error)) from None
        with self._lock:
            self._open.add(connection)
            closed = self._closed
        if closed:
            self._give(connection)
            raise self._unreachable(what, "closed")
        return connection, False

    def _give(self, connection: Connection) -> None:
        with self._lock:
            idle = self._idle.setdefault(connection.address, [])
            if connection.kept and not self._closed and len(idle) < KEPT:
                connection.since = time.monotonic()
                idle.append(connection)
                return
            self._open.discard(connection)
        connection.close()

    def _drop(self, address: str) -> None:
        with self._lock:
            idle = self._idle.pop(address, [])
            self._open.difference_update(idle)
        for connection in idle:
            connection.close()

    @staticmethod
    def _unreachable(what: str, why: str) -> OSError:
        return failure(errno.EHOSTUNREACH, f"{what}: {why}")

    def close(self) -> None:
        """Ends all connections; who waits on one gets EHOSTUNREACH or EIO at once."""
        with self._lock:
            self._closed = True
            idle = [connection for kept in self._idle.values() for connection in kept]
            self._idle.clear()
            self._open.difference_update(idle)
            for connection in self._open:
                connection.end()
        for connection in idle:
            connection.close()


def plain_get(address: str, target: str, headers: Mapping[str, str]) -> bytes:
    """The request that ``Connections.read`` makes of a whole object."""
    return request_of("GET", address, target, headers)


def request_of(method: str, address: str, target: str, headers: Mapping[str, str]) -> bytes:
    """A request up to its body."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    request = f"{method} {target} HTTP/1.1\r\nHost: {address}\r\nAccept-Encoding: identity\r\n{lines}\r\n"
    return request.encode("latin-1")


def range_of(view: memoryview, offset: int) -> str:
    """The header that asks for as much from ``offset`` on."""
    return f"bytes={offset}-{offset + len(view) - 1}"


def refused(head: Head, what: str) -> OSError:
    """What is raised for an answer with this head."""
    return refusal(head.status, what, retry_after=head.text(b"retry-after"), location=head.text(b"location"))


def receive_range(
    connection: Connection, head: Head, view: memoryview, offset: int, *, whole: bool = False
) -> int:
    """Bytes received: as many as the view has from ``offset`` on, or up to the end; ``Wrong``."""
    length = _length(head, len(view), offset, whole)
    connection.fill(view[:length])
    return length


def _length(head: Head, wanted: int, offset: int, whole: bool) -> int:
    """Bytes of a body that must be the range from ``offset`` on, ``wanted`` long or up to the end."""
    length = head.length
    if length is None:
        raise Wrong("its length is not said")
    if head.status == 200:
        if offset or length > wanted or (whole and length != wanted):
            raise Wrong(f"{length} bytes from the start instead of {wanted} from {offset} on")
        return length
    found = _RANGE.fullmatch(head.headers.get(b"content-range", b""))
    if not found or whole:
        raise Wrong("a part without its range, or none was asked for")
    first, last = int(found[1]), int(found[2])
    short = length < wanted and found[3] != b"%d" % (last + 1)
    if first != offset or last - first + 1 != length or length > wanted or short:
        raise Wrong(f"{length} bytes, {found[0].decode()}, instead of {wanted} from {offset} on")
    return length
