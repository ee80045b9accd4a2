"""A web server on loopback that serves a directory as nginx does (JSON index, ranges, ETags); it can go away.

with WebFiles(directory) as web:
    swmld --source web.url ...
"""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from support.webservers import certificate


@dataclass(frozen=True)
class Fault:
    """``status`` instead of the file; or so many bytes of it (``cut``: fewer than the header says), or
    each of its pieces after ``drip`` seconds."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int = -1
    short: int = -1
    drip: float = 0.0


class WebFiles:
    """``asked`` counts requests by method and kind; ``away`` refuses connections until its block ends."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: Counter[str] = Counter()
        self.faults: deque[Fault] = deque()
        """What the next GETs of files meet, one each."""
        self.tls: Path | None = None
        """A directory for a certificate that the server has from its next start on; ``ca.pem`` is to be
        trusted."""
        self._connections: list[socket.socket] = []
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Of the directory."""
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self._port}/"

    def __enter__(self) -> WebFiles:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Nobody answers meanwhile."""
        self._stop()
        try:
            yield
        finally:
            self._start()

    def _start(self) -> None:
        owner = self

        class Handler(_Handler):
            files = owner

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def process_request(self, request: Any, client_address: Any) -> None:
                owner._connections.append(request)
                super().process_request(request, client_address)

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that hung up is no error of the test."""

        self._server = Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        if self.tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            if not (self.tls / "own.pem").exists():
                certificate(self.tls)
            context.load_cert_chain(self.tls / "own.pem", self.tls / "own.key")
            # The handshake is the connection's thread's, who may never make it.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def _stop(self) -> None:
        server, self._server = self._server, None
        if server is not None and self._thread is not None:
            server.shutdown()
            server.server_close()
            self._thread.join()
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._connections.clear()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: WebFiles
    _fault = Fault()

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self._fault = Fault()
        if self.files._server is None:  # kept-alive connections end with the server
            self.close_connection = True
            return
        path = os.path.join(
            os.fsencode(self.files.root), unquote_to_bytes(self.path.partition("?")[0]).lstrip(b"/")
        )
        try:
            if os.path.isdir(path) and not self.path.endswith("/"):
                self._send(301, b"", {"Location": f"{self.path}/"}, body)
            elif os.path.isdir(path):
                self.files.asked["index"] += body
                self._send(200, self._index(path), {"Content-Type": "application/json"}, body)
            else:
                self.files.asked["GET" if body else "HEAD"] += 1
                self._fault = self.files.faults.popleft() if body and self.files.faults else Fault()
                if self._fault.status:
                    self._send(self._fault.status, b"", dict(self._fault.headers), body)
                else:
                    self._file(path, body)
        except FileNotFoundError:
            self._send(404, b"", {}, body)

    @staticmethod
    def _index(path: bytes) -> bytes:
        with os.scandir(path) as entries:
            found = [
                {"name": os.fsdecode(e.name), "type": "directory" if e.is_dir() else "file"} for e in entries
            ]
        return json.dumps(found).encode("utf-8", "surrogateescape")

    def _file(self, path: bytes, body: bool) -> None:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            tag = f'"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"'
            about = {
                "ETag": tag,
                "Last-Modified": formatdate(found.st_mtime, usegmt=True),
                "Accept-Ranges": "bytes",
            }
            if self.headers.get("If-Match", tag) != tag:
                self._send(412, b"", {}, body)
                return
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if wanted is None or self.headers.get("If-Range", tag) != tag:
                self._send(200, file.read(), about, body)
                return
            first, last = int(wanted[1]), min(int(wanted[2] or found.st_size - 1), found.st_size - 1)
            if first >= found.st_size:
                self._send(416, b"", {"Content-Range": f"bytes */{found.st_size}"}, body)
                return
            file.seek(first)
            about["Content-Range"] = f"bytes {first}-{last}/{found.st_size}"
            self._send(206, file.read(last - first + 1), about, body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        fault = self._fault if status in (200, 206) else Fault()
        if fault.short >= 0:
            data = data[: fault.short]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if fault.cut >= 0:
            self.wfile.write(data[: fault.cut])
            self.close_connection = True
        elif fault.drip:
            for start in range(0, len(data), 1 << 16):
                time.sleep(fault.drip)
                self.wfile.write(data[start : start + (1 << 16)])
        elif body:
            self.wfile.write(data)
