"""What a source says of a small file that it gives as it is: one plain GET and its bytes are the file.

A ``Reader`` may have ``plain`` and ``whole``; one that has not is read as ever. What such a GET asks must
bind the generation, by a condition or because such bytes never change: nobody asks ``Reader.current`` after
it. Whoever makes the GET takes nothing but the whole body, unencoded, with a status that says so, and gives
every other case back to ``Reader.read``: so retries, other servers and what an error means stay where they
are.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from swmld.sources.interface import Attributes

RESOLVED = 60.0
"""Seconds that the address of a name is relied on."""


class Second(Protocol):
    """When a GET may be made a second time, and how. Any thread."""

    after: float
    """Seconds from when the first one was sent."""

    def take(self) -> Get | None:
        """It is late by now: the second one, which counts as sent; None: there is none. May block."""
        ...

    def won(self) -> None:
        """It was the first to bring the bytes."""
        ...


@dataclass(slots=True)
class Get:
    """``request``: all of it, to the empty line, for the server at ``ip`` (no name) and ``port``. Its body
    has ``length`` bytes. In any thread ``done(seconds)`` is called when it has come, ``failed(status,
    errno)`` when it is not done and will be asked for by ``read``; the status is 0 where no answer came."""

    ip: str
    port: int
    request: bytes = field(repr=False)  # there may be a token in it
    length: int
    done: Callable[[float], None] | None = None
    failed: Callable[[int, int], None] | None = None
    summed: bool = False
    """An ETag of eight hexadecimal digits is the CRC-32C of the bytes."""
    tag: bytes = b""
    """The ETag that the answer must have, without its quotes; empty: any."""
    second: Second | None = None
    """Where a slow answer is worth another request."""


def is_plain(reader: Any) -> bool:
    """Whether ``whole_of`` is worth asking. Loop-safe."""
    return bool(getattr(reader, "plain", False))


def whole_of(reader: Any) -> Get | None:
    """The GET of a reader that ``is_plain``; None: it cannot be said, ``read`` it. May block; ``OSError``
    where ``read`` would find no server either."""
    found: Get | None = reader.whole()
    return found


def in_one(reader: Any) -> bool:
    """Whether what is wanted of a reader is best asked for with one ``read``, however long it is: a server
    that stores it in one piece is quicker with one request for all than with several for parts, and can say
    the checksum of all. Loop-safe."""
    return bool(getattr(reader, "in_one", False))


def opens_unasked(source: Any, attributes: Attributes) -> bool:
    """Whether a source opens such a file without asking anybody, so that there is nothing to try again, to
    limit or to count: a source that does may have a method of this name. Loop-safe."""
    unasked: Callable[[Attributes], bool] | None = getattr(source, "opens_unasked", None)
    return unasked is not None and unasked(attributes)


class Addresses:
    """Where servers are, by HOST:PORT as they are called. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, int, float]] = {}

    def of(self, address: str) -> tuple[str, int]:
        """IP address and port. Blocks where a name has to be looked up; ``OSError``."""
        known = self._known.get(address)
        if known is not None and time.monotonic() < known[2]:
            return known[0], known[1]
        host, _, text = address.rpartition(":")
        host, port, until = host.strip("[]"), int(text), float("inf")
        try:
            ipaddress.ip_address(host)
        except ValueError:
            host = str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])
            until = time.monotonic() + RESOLVED
        with self._lock:
            self._known[address] = host, port, until
        return host, port
