"""Requests of any method with a body, on the connections of a source: what changes something at a server.

The body goes from the caller's memory to the socket, uncopied. Answers are returned whatever their status is,
since what one means depends on what was asked. A request that met a dead kept-alive connection is made once
more on a new one, as ``connections`` does: so what is sent here must be known again by whoever gets it twice.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Mapping
from typing import NamedTuple

from swmld.sources.connections import Connections
from swmld.sources.errors import failure
from swmld.sources.http1 import Connection, Ended, Head, Late, Wrong
from swmld.sources.objects_errors import code_of, refused

SLOWEST = 1 << 20
"""Bytes a second that a body must go at: what a request may take beside the usual time is counted so."""

_AT_ONCE = 1 << 20
"""Bytes sent between two looks at the clock."""

_HEAD = 64 << 10
"""Bytes of an answer's headers at most."""

_LONGEST = 4 << 20
"""Bytes of an answer at most. One of 10,000 parts is 3 MB; the others are some hundred bytes."""


class Answer(NamedTuple):
    """What came, headers with lower-case names."""

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes

    def text(self, name: str) -> str:
        """A header, empty where there is none."""
        return self.headers.get(name.encode(), b"").decode("latin-1")

    @property
    def code(self) -> str:
        """S3's name of the error that this is, whatever the status says; empty for none."""
        return code_of(self.body)

    @property
    def failed(self) -> bool:
        """Also of an answer that began with 200 before it was known how it would end."""
        return not 200 <= self.status < 300 or b"<Error>" in self.body

    def inside(self, name: str) -> str:
        """The text of the first element of that name; empty where there is none."""
        found = re.search(rf"<{name}>([^<]*)</{name}>", self.body.decode("utf-8", "replace"))
        return found[1].strip().replace("&quot;", '"').replace("&#34;", '"') if found else ""

    def error(self, what: str) -> OSError:
        """What the caller of the source gets."""
        status = self.status if self.status >= 300 else 500
        return refused(status, self.code, what, self.text("retry-after"), self.text("location"))


class Requests(Connections):
    """Connections that can also send."""

    def send(
        self,
        method: str,
        address: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes | memoryview = b"",
        timeout: float,
        what: str,
    ) -> Answer:
        """One request, and its answer of whatever status. ``timeout``: seconds, and those that the body takes
        at ``SLOWEST``. Errors: those of getting there and back, as ``connections`` has them."""
        what = f"{method} {what} of {address}"
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        if body or method in ("PUT", "POST"):
            lines += f"Content-Length: {len(body)}\r\n"
        request = f"{method} {target} HTTP/1.1\r\nHost: {address}\r\nAccept-Encoding: identity\r\n{lines}\r\n"
        deadline = time.monotonic() + timeout + len(body) / SLOWEST
        fresh = False
        while True:
            connection, reused = self._take(address, deadline, what, fresh)
            kept = False
            try:
                head, whole = _ask(connection, request.encode("latin-1"), body, deadline)
                found = b"" if method == "HEAD" or head.status in (204, 304) else _body(connection, head)
                kept = whole and connection.reusable(head)
                return Answer(head.status, head.headers, found)
            except Ended:
                if not reused:
                    raise self._unreachable(what, "ended before it answered") from None
                self._drop(address)
                fresh = True
            except Wrong as error:
                raise failure(errno.EIO, f"{what}: {error}") from None
            except Late:
                raise failure(errno.ETIMEDOUT, what) from None
            finally:
                self._give(connection, kept)


def _ask(
    connection: Connection, request: bytes, body: bytes | memoryview, deadline: float
) -> tuple[Head, bool]:
    """As ``Connection.ask``, and whether all was sent: a server that refuses may say so, and hang up, before
    it has the whole body. What it said counts."""
    if not body:
        return connection.ask(request, deadline), True
    connection._deadline = deadline
    try:
        for first in range(0, len(body), _AT_ONCE):
            connection._wait_for()
            connection._socket.sendall(request)
            request = b""
            connection._socket.sendall(body[first : first + _AT_ONCE])
    except (BlockingIOError, TimeoutError):
        raise Late from None
    except OSError:
        return _said(connection), False
    return connection.ask(b"", deadline), True


def _said(connection: Connection) -> Head:
    """The headers of what was answered before the connection was reset, on which nothing more can be sent."""
    block = b""
    while b"\r\n\r\n" not in block:
        try:
            block += connection._more()
        except Wrong:
            raise Ended from None
        if len(block) > _HEAD:
            raise Wrong("its headers do not end")
    first, _, rest = block.partition(b"\r\n\r\n")
    connection._rest = memoryview(rest)
    return Head(first)


def _body(connection: Connection, head: Head) -> bytes:
    if head.length is None and not head.chunked:
        # Until it hangs up, as errors of some servers are: the status is all that is of use.
        head.kept = False
        return b""
    return connection.document(head, _LONGEST)
