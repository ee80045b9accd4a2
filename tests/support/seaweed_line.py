"""The line to a volume server of SeaweedFS, which is known by its address: HTTP with faults, and gRPC.

with Line(port) as line:  # the server listens at 127.0.0.1:port and calls itself HOST:port
    line.faults.append(Fault(503, {"Retry-After": "1"}))
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from support import webfiles

HOST = "127.0.0.2"

_CHUNK = re.compile(r"/\d+,[0-9a-f]+")
_HOPS = {"connection", "keep-alive", "transfer-encoding", "host"}


@dataclass(frozen=True)
class Fault(webfiles.Fault):
    """As of ``WebFiles``, or: one bit turned (``flips``); nobody listens (``hangs_up``)."""

    flips: bool = False
    hangs_up: bool = False


class Line:
    """``faults``: what the next GETs of chunks meet, one each, and then ``always``; those of SeaweedFS's own
    servers too where ``for_all``. ``before`` is called before such a GET is passed on. ``asked`` counts those
    of others than SeaweedFS's servers, ``met`` the faults."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.faults: deque[Fault] = deque()
        self.always = Fault()
        self.for_all = False
        self.before: Callable[[], None] = lambda: None
        self.asked = self.met = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Line:
        line = self

        class Handler(_Handler):
            at = line

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """Who hung up is no error of the test."""

        server = Server((HOST, self.port), Handler)
        self._stack.callback(server.server_close)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(server.shutdown)
        grpc = socket.create_server((HOST, self.port + 10_000))
        self._stack.callback(grpc.close)
        threading.Thread(target=self._accept, args=(grpc,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _accept(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                ours = server.accept()[0]
                try:
                    theirs = socket.create_connection(("127.0.0.1", self.port + 10_000))
                except OSError:
                    ours.close()
                    continue
                for ends in ((ours, theirs), (theirs, ours)):
                    threading.Thread(target=_copy, args=ends, daemon=True).start()

    def next_fault(self, ours: bool) -> Fault:
        """For a GET of a chunk."""
        self.asked += ours
        if not ours and not self.for_all:
            return Fault()
        try:
            fault = self.faults.popleft()
        except IndexError:
            fault = self.always
        self.met += fault != Fault()
        return fault

    def heal(self) -> None:
        """No faults any more."""
        self.faults.clear()
        self.always, self.for_all, self.met = Fault(), False, 0
        self.before = lambda: None


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    at: Line

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        self._pass()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _pass(self) -> None:
        sent = self._body()
        fault = Fault()
        if self.command == "GET" and _CHUNK.match(self.path):
            self.at.before()
            # Go's clients name themselves, the daemon does not.
            fault = self.at.next_fault("User-Agent" not in self.headers)
        if fault.hangs_up:
            self.close_connection = True
            return
        if fault.status:
            self._answer(fault.status, [*fault.headers.items()], b"", fault)
            return
        given = {name: value for name, value in self.headers.items() if name.lower() not in _HOPS}
        server = http.client.HTTPConnection("127.0.0.1", self.at.port, timeout=20)
        with contextlib.closing(server):
            server.request(self.command, self.path, sent or None, given)
            answer = server.getresponse()
            body = answer.read()
            self._answer(answer.status, answer.getheaders(), body, fault)

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, fault: Fault) -> None:
        if fault.short >= 0:
            body = body[: fault.short]
        if fault.flips:
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.send_response_only(status)
        said = ""
        for name, value in headers:
            if name.lower() == "content-length":
                said = value
            elif name.lower() not in _HOPS:
                self.send_header(name, value)
        # The length of what is not sent is the object's.
        self.send_header("Content-Length", said if self.command == "HEAD" and said else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if fault.cut < 0 else body[: fault.cut])
        if fault.cut >= 0:
            self.close_connection = True
