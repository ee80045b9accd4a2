"""Requests of any method with a body, on the connections of a source: what changes something at a server.

The body goes from the caller's memory to the socket, uncopied. Answers are returned whatever their status is,
since what one means depends on what was asked. A request that met a dead kept-alive connection is made once
more on a new one, as ``connections`` does: so what is sent here must be known again by whoever gets it twice.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import NamedTuple

from swmld.sources.connections import Connections, request_of
from swmld.sources.http1 import Connection, Head
from swmld.sources.objects_errors import code_of, refused

SLOWEST = 1 << 20
"""Bytes a second that a body must go at: what a request may take beside the usual time is counted so."""

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
        given = dict(headers)
        if body or method in ("PUT", "POST"):
            given["Content-Length"] = str(len(body))
        request = request_of(method, address, target, given)
        deadline = time.monotonic() + timeout + len(body) / SLOWEST

        def talk(connection: Connection) -> Answer:
            head = connection.ask(request, deadline, body or None)
            found = b"" if method == "HEAD" or head.status in (204, 304) else _body(connection, head)
            connection.kept = connection.reusable(head)
            return Answer(head.status, head.headers, found)

        return self._talk(address, deadline, what, talk)


def _body(connection: Connection, head: Head) -> bytes:
    if head.length is None and not head.chunked:
        # Until it hangs up, as errors of some servers are: the status is all that is of use.
        head.kept = False
        return b""
    return connection.document(head, _LONGEST)
