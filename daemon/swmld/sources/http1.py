"""One HTTP/1.1 connection: a request, perhaps with bytes of a file, the headers of its answer, and a body
received into a buffer.

What goes wrong is one of three exceptions, which ``connections`` turns into errors of a source.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import struct
import time
from typing import NamedTuple

CONNECT_TIMEOUT = 5.0
"""Seconds of a request's time for connecting: two lost SYNs are sent again after 1 and 3 s."""

_HEAD = 64 << 10
"""Bytes of the headers at most, nginx's and Go's limits being 32 KiB and 1 MiB; 0.4 KiB are usual."""

_FIRST = 4 << 10
"""Bytes received with the headers: what is body of them is copied once more, so few."""


_PIECE = 1 << 20
"""Bytes sent by one call of the kernel; the time is looked at between two."""

_HUNG_UP = frozenset(
    {errno.EPIPE, errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN, errno.EHOSTUNREACH, errno.ENETUNREACH}
)

_ZEROS = bytes(64 << 10)


class Sent(NamedTuple):
    """Bytes of a file that go with a request; where it ends too early, zeros."""

    fd: int
    offset: int
    size: int


class Ended(Exception):
    """The connection ended before the first byte of an answer."""


class Late(Exception):
    """The time for the request is over."""


class Wrong(Exception):
    """What came cannot be what was asked for; says why."""


class Head:
    """Status line and headers."""

    def __init__(self, block: bytes) -> None:
        first, *lines = block.split(b"\r\n")
        version, _, rest = first.partition(b" ")
        if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
            raise Wrong("this is not HTTP/1")
        self.status = int(rest[:3])
        self.headers: dict[bytes, bytes] = {}
        for line in lines:
            name, _, value = line.partition(b":")
            self.headers[name.lower()] = value.strip()
        connection = self.headers.get(b"connection", b"").lower()
        self.kept = connection == b"keep-alive" if version == b"HTTP/1.0" else connection != b"close"
        self.chunked = self.headers.get(b"transfer-encoding", b"").lower() == b"chunked"

    def text(self, name: bytes) -> str:
        """A header, empty where there is none."""
        return self.headers.get(name, b"").decode("latin-1")

    @property
    def length(self) -> int | None:
        """Bytes of the body, where they were said beforehand."""
        said = self.headers.get(b"content-length", b"")
        return int(said) if said.isdigit() and not self.chunked else None


class Connection:
    """One connection, of one thread at a time. ``since`` and ``kept`` are its owner's: when it was put aside
    last, and whether it is of use after what was asked on it."""

    def __init__(self, address: str, tls: ssl.SSLContext | None, deadline: float) -> None:
        """Connects. ``OSError`` (also of TLS) where that fails, ``TimeoutError`` where it takes too long."""
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        self.address, self.since, self.kept = address, 0.0, False
        left = min(deadline - time.monotonic(), CONNECT_TIMEOUT)
        if left <= 0:
            raise TimeoutError
        self._socket = socket.create_connection((host, int(port)), timeout=left)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._plain = tls is None
        self._limit = 0.0
        self._deadline = deadline
        if tls is not None:
            try:
                self._socket = tls.wrap_socket(self._socket, server_hostname=host)
            except BaseException:
                self._socket.close()
                raise
        else:
            # Blocking, so that the kernel waits for all of a body; it keeps the time, too.
            self._socket.settimeout(None)
        self._buffer = memoryview(bytearray(_FIRST))
        self._rest = self._buffer[:0]
        self._whole = True

    def ask(self, request: bytes, deadline: float, sent: Sent | bytes | memoryview | None = None) -> Head:
        """Sends it, perhaps with a body, and receives the headers of the answer. ``Ended`` where the server
        had hung up."""
        self._deadline = deadline
        self._wait_for()
        self._whole = False
        try:
            self._socket.sendall(request, socket.MSG_MORE if sent and self._plain else 0)
            if isinstance(sent, Sent):
                self._send(sent)
            elif sent is not None:
                self._send_memory(memoryview(sent))
            self._whole = True
        except (BlockingIOError, TimeoutError):
            raise Late from None
        except OSError as error:
            of_file = error.errno not in _HUNG_UP and not isinstance(error, ssl.SSLError)
            if isinstance(sent, Sent) and of_file:
                raise
            # A server that does not want all of it may have said why.
            if sent is None:
                raise Ended from None
        first = self._receive(self._buffer)
        if not first:
            raise Ended
        block = bytes(self._buffer[:first])
        while (end := block.find(b"\r\n\r\n")) < 0:
            if len(block) > _HEAD:
                raise Wrong("its headers do not end")
            block += self._more()
        head, rest = Head(block[:end]), block[end + 4 :]
        # Interim answers (103) come before the real one.
        while head.status < 200:
            while (end := rest.find(b"\r\n\r\n")) < 0:
                rest += self._more()
            head, rest = Head(rest[:end]), rest[end + 4 :]
        self._rest = memoryview(rest)
        return head

    def _send(self, sent: Sent) -> None:
        """From the page cache into the socket where nothing has to be encrypted."""
        done, here = 0, True
        buffer = None if self._plain else memoryview(bytearray(min(_PIECE, sent.size)))
        while done < sent.size:
            self._wait_for()
            wanted = min(_PIECE, sent.size - done)
            count = 0
            if here and buffer is None:
                count = os.sendfile(self._socket.fileno(), sent.fd, sent.offset + done, wanted)
            elif here and buffer is not None:
                count = os.preadv(sent.fd, [buffer[:wanted]], sent.offset + done)
                self._socket.sendall(buffer[:count])
            if not count:
                here, count = False, min(wanted, len(_ZEROS))
                self._socket.sendall(_ZEROS[:count])
            done += count

    def _send_memory(self, body: memoryview) -> None:
        for first in range(0, len(body), _PIECE):
            self._wait_for()
            self._socket.sendall(body[first : first + _PIECE])

    def fill(self, view: memoryview) -> None:
        """The next ``len(view)`` bytes of the body."""
        done = min(len(self._rest), len(view))
        view[:done] = self._rest[:done]
        self._rest = self._rest[done:]
        while done < len(view):
            received = self._receive(view[done:], socket.MSG_WAITALL)
            if not received:
                raise Wrong(f"it ends {len(view) - done} bytes too early")
            done += received

    def document(self, head: Head, limit: int) -> bytes:
        """The whole body, also of a length that is not said beforehand."""
        if head.chunked:
            return self._chunks(limit)
        if head.length is None:
            raise Wrong("its length is not said")
        if head.length > limit:
            raise Wrong(f"{head.length} bytes are more than {limit}")
        body = bytearray(head.length)
        self.fill(memoryview(body))
        return bytes(body)

    def _chunks(self, limit: int) -> bytes:
        """RFC 9112, 7.1; trailers are dropped."""
        body = bytearray()
        while True:
            try:
                size = int(self._line().partition(b";")[0], 16)
            except ValueError:
                raise Wrong("a chunk has no length") from None
            if not size:
                while self._line():
                    pass
                return bytes(body)
            if size < 0 or len(body) + size > limit:
                raise Wrong(f"more than {limit} bytes")
            part = bytearray(size)
            self.fill(memoryview(part))
            body += part
            if self._line():
                raise Wrong("a chunk is longer than it says")

    def _line(self) -> bytes:
        rest = bytes(self._rest)
        while (end := rest.find(b"\r\n")) < 0:
            if len(rest) > _HEAD:
                raise Wrong("a line does not end")
            rest += self._more()
        self._rest = memoryview(rest[end + 2 :])
        return rest[:end]

    def skip(self, head: Head) -> bool:
        """Drops the body of an error if it is short; whether the connection is of use after that."""
        try:
            if head.status not in (204, 304):
                self.document(head, 16 << 10)
        except (Wrong, Late):
            return False
        return self.reusable(head)

    def reusable(self, head: Head) -> bool:
        """Whether the next request can be sent, this one having been sent whole and the body received; more
        than the body was not."""
        return head.kept and self._whole and not self._rest

    def _more(self) -> bytes:
        received = self._receive(self._buffer)
        if not received:
            raise Wrong("it ends within its headers")
        return bytes(self._buffer[:received])

    def _receive(self, view: memoryview, flags: int = 0) -> int:
        """Bytes received; 0 at the end, a clean one or not."""
        self._wait_for()
        try:
            return self._socket.recv_into(view, 0, flags if self._plain else 0)
        except (BlockingIOError, TimeoutError):
            raise Late from None
        except OSError:
            return 0

    def _wait_for(self) -> None:
        """No call on the socket takes longer than what is left."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise Late
        if not self._plain:
            self._socket.settimeout(left)
        elif abs(self._limit - left) > left / 8:
            # Two calls of the kernel, saved where the limit in place is right within an eighth.
            self._limit = left
            value = struct.pack("@ll", int(left), max(int(left % 1 * 1e6), 1))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def end(self) -> None:
        """From another thread: who waits on it is woken."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """By the thread whose it is."""
        with contextlib.suppress(OSError):
            self._socket.close()
