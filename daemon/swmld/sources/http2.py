"""One HTTP/2 connection without TLS: a POST and its answer, one after the other (RFC 9113).

For gRPC's unary calls (``unary``). Nothing is multiplexed, so that nothing has to be handed from one thread
to another: who asks sends its frames in one call of the kernel, and receives what comes. What a server may
send besides (settings, pings, windows) is heeded before the next request, and answered with it.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from typing import Any, NamedTuple

from hpack import Decoder, HPACKError

from swmld.sources.http1 import CONNECT_TIMEOUT

WINDOW = (1 << 31) - 1
"""Bytes that the server may send at once: the answer is wanted whole."""

LAST = 1 << 30
"""Number of the last request of a connection; there are no more than twice as many."""

_FRAME = 16 << 10
"""Bytes of a frame at most, unless both sides want more: we do not."""
_FIRST_WINDOW = 65_535
_BUFFER = 64 << 10

_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _AWAY, _WINDOW, _MORE = 0, 1, 3, 4, 6, 7, 8, 9
_END_STREAM = _ACK = 0x1
_END_HEADERS, _PADDED, _PRIORITY = 0x4, 0x8, 0x20
_INITIAL_WINDOW = 0x4
_REFUSED = 7
"""REFUSED_STREAM: nothing was done."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Dead(Exception):
    """The connection has ended, or says what is no HTTP/2. The request may have been heeded."""


class Unheeded(Dead):
    """The same, and the server says that it has done nothing, or nothing was sent."""


class Late(Exception):
    """The time for the request is over."""


class Reset(Exception):
    """The server gave up the request, for the reason with this number."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Answer(NamedTuple):
    """Headers and trailers in one, with lower-case names, and the body."""

    headers: dict[bytes, bytes]
    body: bytearray


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


_HELLO = (
    _PREFACE
    + _frame(_SETTINGS, 0, 0, struct.pack(">HIHI", 0x2, 0, _INITIAL_WINDOW, WINDOW))  # 0x2: no pushes
    + _frame(_WINDOW, 0, 0, struct.pack(">I", WINDOW - _FIRST_WINDOW))
)


def block(*headers: tuple[bytes, bytes]) -> bytes:
    """Of a POST by http: these headers besides, as they are (RFC 7541, 6.2.2)."""
    return b"\x83\x86" + b"".join(b"\x00" + _text(name) + _text(value) for name, value in headers)


def _text(value: bytes) -> bytes:
    if len(value) < 127:
        return bytes((len(value),)) + value
    rest, number = len(value) - 127, bytearray(b"\x7f")
    while rest >= 128:
        number.append(rest & 127 | 128)
        rest >>= 7
    number.append(rest)
    return bytes(number) + value


class Connection:
    """Of one thread at a time. ``OSError`` where it cannot be made, ``TimeoutError`` where that takes too
    long."""

    def __init__(self, address: str, deadline: float) -> None:
        host, _, port = address.rpartition(":")
        left = min(deadline - time.monotonic(), CONNECT_TIMEOUT)
        if left <= 0:
            raise TimeoutError("timed out")
        self._socket = socket.create_connection((host.strip("[]"), int(port)), timeout=left)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(None)  # the kernel keeps the time
        self._limit = 0.0
        self._received = bytearray()
        self._piece = memoryview(bytearray(_BUFFER))
        self._decoder = Decoder()
        self._due = bytearray(_HELLO)
        """What is to be sent before the next request."""
        self._stream = -1
        self._room, self._first = _FIRST_WINDOW, _FIRST_WINDOW
        """Bytes that the server takes now, in all and of a new request."""
        self._taken = 0
        self._closing = False
        self._head, self._head_ends = b"", False
        self._answer = Answer({}, bytearray())
        self._ended = False

    @property
    def usable(self) -> bool:
        """Whether another request may be sent. Looks at what has come."""
        if self._closing or self._stream >= LAST:
            return False
        try:
            while (count := self._socket.recv_into(self._piece, 0, socket.MSG_DONTWAIT)) > 0:
                self._received += self._piece[:count]
            if not count:
                return False
        except BlockingIOError:
            pass
        except OSError:
            return False
        if self._received:
            try:
                self._frames()
            except (Dead, Reset):
                return False
        return not self._closing

    def takes(self, size: int) -> bool:
        """Whether the server takes a request of so many bytes at once."""
        return size <= min(self._room, self._first)

    def ask(self, head: bytes, body: bytes, deadline: float) -> Answer:
        """The answer to a request whose size it ``takes``. ``Dead``, ``Late``, ``Reset``: the connection is
        of no use afterwards."""
        self._stream += 2
        stream = self._stream
        self._room -= len(body)
        self._answer, self._ended = Answer({}, bytearray()), False
        out = self._due
        out += _frame(_HEADERS, _END_HEADERS, stream, head)
        for start in range(0, len(body), _FRAME):
            piece = body[start : start + _FRAME]
            out += _frame(_DATA, _END_STREAM if start + _FRAME >= len(body) else 0, stream, piece)
        self._due = bytearray()
        try:
            self._wait_for(deadline)
            self._socket.sendall(out)
            while not self._ended:
                self._wait_for(deadline)
                count = self._socket.recv_into(self._piece)
                if not count:
                    raise Dead("Socket closed")
                self._received += self._piece[:count]
                self._frames()
        except (BlockingIOError, TimeoutError):
            raise Late from None
        except OSError as error:
            raise Dead(error.strerror or str(error)) from None
        return self._answer

    def _frames(self) -> None:
        """Heeds all that came whole."""
        received, place = self._received, 0
        while len(received) - place >= 9:
            length, flags, stream = struct.unpack_from(">IBI", received, place)
            kind, length = length & 0xFF, length >> 8
            if length > _FRAME:
                raise Dead("a frame that is too large")
            end = place + 9 + length
            if len(received) < end:
                break
            self._heed(kind, flags, stream & WINDOW, bytes(received[place + 9 : end]))
            place = end
        del received[:place]

    def _heed(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        try:
            if kind in (_DATA, _HEADERS, _MORE):
                self._part(kind, flags, stream, payload)
            elif kind == _WINDOW:
                if not stream:
                    self._room += struct.unpack(">I", payload)[0] & WINDOW
            elif kind == _PING and not flags & _ACK:
                self._due += _frame(_PING, _ACK, 0, payload)
            elif kind == _SETTINGS and not flags & _ACK:
                for name, value in struct.iter_unpack(">HI", payload):
                    if name == _INITIAL_WINDOW:
                        self._first = value
                self._due += _frame(_SETTINGS, _ACK, 0, b"")
            elif kind == _RESET and stream == self._stream and not self._ended:
                code = struct.unpack(">I", payload)[0]
                raise Unheeded("refused") if code == _REFUSED else Reset(code)
            elif kind == _AWAY:
                self._closing = True
                if (struct.unpack_from(">I", payload)[0] & WINDOW) < self._stream and not self._ended:
                    raise Unheeded("the server is going away")
        except struct.error:
            raise Dead("a frame that is too short") from None

    def _part(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """Of an answer."""
        if kind == _DATA:
            self._take(len(payload))
        if flags & _PADDED and kind != _MORE:
            payload = payload[1 : len(payload) - payload[0]]
        if kind == _DATA:
            if stream == self._stream:
                self._answer.body.extend(payload)
                self._ended = self._ended or bool(flags & _END_STREAM)
            return
        if kind == _HEADERS:
            self._head = payload[5:] if flags & _PRIORITY else payload
            self._head_ends = bool(flags & _END_STREAM)
        else:
            self._head += payload
        if not flags & _END_HEADERS:
            return
        try:
            found: Any = self._decoder.decode(self._head, raw=True)
        except HPACKError as error:
            raise Dead(f"headers that cannot be read: {error}") from None
        if stream == self._stream:
            self._answer.headers.update((bytes(name), bytes(value)) for name, value in found)
            self._ended = self._ended or self._head_ends

    def _take(self, count: int) -> None:
        """The server may send as much again, which it is told now and then."""
        self._taken += count
        if self._taken > WINDOW // 4:
            # At once: it may be waiting for it in the middle of an answer.
            self._socket.sendall(_frame(_WINDOW, 0, 0, struct.pack(">I", self._taken)))
            self._taken = 0

    def _wait_for(self, deadline: float) -> None:
        """No call on the socket takes longer than what is left."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise Late
        if abs(self._limit - left) > left / 8:
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
