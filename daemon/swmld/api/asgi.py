"""The ASGI application: what is at which path, and who may ask for it. It knows nothing of sockets.

Routing is a dictionary of seven paths: a framework would bring its own threads and a tenth of a second of
imports for it. An error is a problem (RFC 9457) with one line that says what was expected.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import trio

from swmld.api.messages import Health, HealthParams
from swmld.api.metrics import Snapshot
from swmld.api.params import from_query, whole_number
from swmld.errors import UsageError

if TYPE_CHECKING:
    from swmld.api.scrape import Scrape

log = logging.getLogger(__name__)

ANSWER_TIMEOUT = 10.0
"""Seconds for making an answer; only a disk or a thread that hangs takes so long."""

Page = Callable[[str], Awaitable[bytes]]
"""JSON from the query of a request. Raises UsageError."""

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

_METHODS = ("GET", "HEAD")
_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost"})
_ANYWHERE = frozenset({"0.0.0.0", "::"})


@dataclass(frozen=True, slots=True)
class Answer:
    """``fields``: further header fields."""

    status: HTTPStatus
    body: bytes
    content_type: str = "application/json"
    fields: tuple[tuple[bytes, bytes], ...] = ()


Route = Callable[[str, Mapping[str, str]], Awaitable[Answer]]
"""From the query and the header fields by name in lower case. Raises UsageError."""


def problem(status: HTTPStatus, detail: str, fields: tuple[tuple[bytes, bytes], ...] = ()) -> Answer:
    """An answer that says what is wrong in one line."""
    found = {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": detail}
    return Answer(status, json.dumps(found).encode("ascii") + b"\n", "application/problem+json", fields)


class Application:
    """Serves metrics of ``snapshot``, the ``pages`` by path, and ``health``. Loop-only.

    ``host``: the name or address at which it listens; requests for other hosts are refused, so that no web
    page can have a browser on this machine read for it under a name of its own (DNS rebinding).
    """

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        pages: Mapping[str, Page],
        health: Callable[[], Awaitable[Health]] | None,
        host: str,
    ) -> None:
        self._snapshot = snapshot
        self._scrape: Scrape | None = None
        self._hosts = _NAMES | {host.lower()}
        if host in _ANYWHERE:
            self._hosts |= {os.uname().nodename.lower()}
        self._health = health
        self._document: bytes | None = None
        self._routes: dict[str, Route] = {"/metrics": self._metrics, "/ml/metrics": self._metrics}
        self._routes |= {path: _json(page) for path, page in pages.items()}
        if health is not None:
            self._routes["/healthz"] = self._healthz
        self._routes["/openapi.json"] = self._openapi

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI 3 has it."""
        if scope["type"] != "http":
            # A WebSocket; the server has no lifespan. Closed before it is accepted: 403.
            await receive()
            await send({"type": "websocket.close", "code": 1000})
            return
        answer = await self._answer(scope)
        fields = [
            (b"content-type", answer.content_type.encode("latin-1")),
            (b"content-length", b"%d" % len(answer.body)),
            # Another site's page must not have it read as something else, nor a proxy keep it.
            (b"x-content-type-options", b"nosniff"),
            (b"cache-control", b"no-store"),
            *answer.fields,
        ]
        await send({"type": "http.response.start", "status": int(answer.status), "headers": fields})
        body = answer.body if scope["method"] != "HEAD" else b""
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope) -> Answer:
        fields = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if not self._is_ours(fields.get("host", ""), scope.get("server")):
            expected = ", ".join(sorted({*self._hosts, "a loopback address"}))
            return problem(HTTPStatus.MISDIRECTED_REQUEST, f"Host: expected one of {expected}")
        if scope["method"] not in _METHODS:
            return problem(HTTPStatus.METHOD_NOT_ALLOWED, "expected GET or HEAD", ((b"allow", b"GET, HEAD"),))
        route = self._routes.get(scope["path"])
        if route is None:
            *first, last = self._routes
            return problem(HTTPStatus.NOT_FOUND, f"expected {', '.join(first)} or {last}")
        try:
            with trio.fail_after(ANSWER_TIMEOUT):
                return await route(scope["query_string"].decode("latin-1"), fields)
        except UsageError as error:
            return problem(HTTPStatus.BAD_REQUEST, str(error))
        except trio.TooSlowError:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, f"no answer within {ANSWER_TIMEOUT:g} s")
        except Exception as error:
            log.exception("HTTP request failed")
            return problem(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}")

    def _is_ours(self, host: str, server: Any) -> bool:
        """Without a Host (HTTP/1.0) it is no browser's. ``server``: the end of the connection here."""
        name = _without_port(host)
        if not name or name in self._hosts or (server and name == server[0]):
            return True
        with suppress(ValueError):
            return ipaddress.ip_address(name).is_loopback
        return False

    # ---- what is served

    async def _metrics(self, query: str, fields: Mapping[str, str]) -> Answer:
        if self._scrape is None:
            self._scrape = await trio.to_thread.run_sync(_scraping, self._snapshot)
        # Without an await: nothing is counted between the first value and the last.
        return Answer(HTTPStatus.OK, *self._scrape.text(fields.get("accept", "")))

    async def _healthz(self, query: str, fields: Mapping[str, str]) -> Answer:
        assert self._health is not None
        ready = whole_number(from_query(query, HealthParams), "ready", 0, 1)
        found = await self._health()
        fine = found["ready"] if ready else found["status"] != "down"
        status = HTTPStatus.OK if fine else HTTPStatus.SERVICE_UNAVAILABLE
        return Answer(status, json.dumps(found).encode("ascii") + b"\n")

    async def _openapi(self, query: str, fields: Mapping[str, str]) -> Answer:
        if self._document is None:
            self._document = await trio.to_thread.run_sync(_openapi_text)
        return Answer(HTTPStatus.OK, self._document)


def _json(page: Page) -> Route:
    async def answer(query: str, fields: Mapping[str, str]) -> Answer:
        return Answer(HTTPStatus.OK, await page(query))

    return answer


def _scraping(snapshot: Callable[[], Snapshot]) -> Scrape:
    from swmld.api.scrape import Scrape

    return Scrape(snapshot)


def _openapi_text() -> bytes:
    # pydantic's schemas cost 0.2 s and some megabytes, and few ever ask.
    from swmld.api.openapi import document

    return json.dumps(document()).encode("ascii") + b"\n"


def _without_port(host: str) -> str:
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")
