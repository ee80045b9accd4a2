"""Requests to web servers beyond a GET of what is there: HEAD, redirects, and which of them mean a
directory."""

from __future__ import annotations

import errno
import os
import ssl
import time
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from swmld.errors import UsageError
from swmld.sources.connections import Connections, Response, range_of, receive_range, refused, request_of
from swmld.sources.errors import Moved, failure
from swmld.sources.http1 import Connection, Head, Wrong
from swmld.urls import SourceUrl

AUTHORIZATION = "SWMLD_HTTP_AUTHORIZATION"
"""Variable with the value of the ``Authorization`` header for the source's own server, and for no other."""

_SKIPPED = 256 << 10
"""Bytes received at once of what comes before a range."""

_REDIRECTS = 5
"""Followed for one request; curl's and browsers' 20 and more are for pages that set cookies."""


class Where(NamedTuple):
    """One resource: ``address`` is HOST:PORT, ``target`` path and query, quoted."""

    tls: bool
    address: str
    target: str


def where(url: str) -> Where:
    """The place of an ``http`` or ``https`` URL; ValueError for others."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not a URL of http or https")
    tls = parts.scheme == "https"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Where(tls, f"{host}:{parts.port or (443 if tls else 80)}", target)


class _Cut(Exception):
    """The range has been taken out of a whole body; the rest of it is left in the connection, which ends."""

    def __init__(self, response: Response) -> None:
        self.response = response


class _Connections(Connections):
    """Also asks for headers alone, and takes a range out of what a server without ranges sends."""

    def range(
        self, address: str, target: str, view: memoryview, offset: int, headers: Mapping[str, str], what: str
    ) -> Response:
        """As ``read``; a 200 where ``read`` raises has status 200 still, so that it can be told."""

        def body(connection: Connection, head: Head) -> int:
            if head.status != 200:
                return receive_range(connection, head, view, offset)
            if head.length is None:
                raise Wrong("its length is not said")
            if head.length < offset + len(view):
                raise Wrong(f"{head.length} bytes instead of {offset + len(view)} or more")
            skipped = memoryview(bytearray(min(offset, _SKIPPED)))
            for start in range(0, offset, _SKIPPED):
                connection.fill(skipped[: min(_SKIPPED, offset - start)])
            connection.fill(view)
            if head.length > offset + len(view):
                raise _Cut(Response(200, head.headers, len(view)))
            return len(view)

        asked = {**headers, "Range": range_of(view, offset)}
        try:
            return self._get(address, target, asked, None, what, body)
        except _Cut as cut:
            return cut.response

    def head(self, address: str, target: str, headers: Mapping[str, str], what: str) -> Response:
        """HEAD. Errors as ``Connections.get``."""
        asked = request_of("HEAD", address, target, headers)
        what, deadline = f"HEAD {what} of {address}", time.monotonic() + self._timeout

        def talk(connection: Connection) -> Response:
            head = connection.ask(asked, deadline)
            connection.kept = connection.reusable(head)
            if head.status != 200:
                raise refused(head, what)
            return Response(head.status, head.headers, 0)

        return self._talk(address, deadline, what, talk)


class Requests:
    """All requests of one source; redirects are followed, though never from TLS to none."""

    def __init__(self, url: SourceUrl, *, timeout: float) -> None:
        tls = ssl.create_default_context()
        if path := url.options.get("ca", ""):
            try:
                tls.load_verify_locations(path)
            except (OSError, ssl.SSLError) as error:
                raise UsageError(f"source {url.name}: ca={path}: cannot be read: {error}") from None
        self._connections = {
            False: _Connections(timeout=timeout),
            True: _Connections(timeout=timeout, tls=tls),
        }
        self._home = where(f"{url.scheme}://{url.host}/")
        self._authorization = os.environ.get(AUTHORIZATION, "")
        if any(character < " " or character > "\x7e" for character in self._authorization):
            raise UsageError(f"{AUTHORIZATION}: expected the value of a header on one line")

    def head(self, url: str, what: str) -> tuple[Response, bool]:
        """Headers of ``url``, and whether it led to the same path with a slash: a directory."""
        for _ in range(_REDIRECTS + 1):
            place = where(url)
            try:
                return self._connections[place.tls].head(
                    place.address, place.target, self._headers(place), what
                ), False
            except Moved as moved:
                following = self._following(url, moved, what)
                if urlsplit(following).path == urlsplit(url).path + "/":
                    return Response(200, {}, 0), True
                url = following
        raise failure(errno.ELOOP, what)

    def get(self, url: str, what: str, *, limit: int, accept: str = "*/*") -> tuple[Response, bytes]:
        """A whole document of at most ``limit`` bytes."""
        for _ in range(_REDIRECTS + 1):
            place = where(url)
            headers = {"Accept": accept, **self._headers(place)}
            try:
                connections = self._connections[place.tls]
                return connections.get(place.address, place.target, headers=headers, limit=limit, what=what)
            except Moved as moved:
                url = self._following(url, moved, what)
        raise failure(errno.ELOOP, what)

    def read(
        self, url: str, view: memoryview, offset: int, headers: Mapping[str, str], what: str
    ) -> Response:
        """A range; of status 200 where the server has sent the whole."""
        for _ in range(_REDIRECTS + 1):
            place = where(url)
            asked = {**headers, **self._headers(place)}
            try:
                connections = self._connections[place.tls]
                return connections.range(place.address, place.target, view, offset, asked, what)
            except Moved as moved:
                url = self._following(url, moved, what)
        raise failure(errno.ELOOP, what)

    def _headers(self, place: Where) -> dict[str, str]:
        home = (place.tls, place.address) == (self._home.tls, self._home.address)
        return {"Authorization": self._authorization} if home and self._authorization else {}

    def _following(self, url: str, moved: Moved, what: str) -> str:
        """Where ``moved`` leads; EIO where it must not."""
        try:
            following = urljoin(url, moved.location)
            safe = where(following).tls or not where(url).tls
        except ValueError:
            safe = False
        if not safe or any(character <= " " or character > "\x7e" for character in following):
            raise failure(errno.EIO, f"{what}: it is moved to where it is not followed")
        return following

    def close(self) -> None:
        """Ends connections."""
        for connections in self._connections.values():
            connections.close()
