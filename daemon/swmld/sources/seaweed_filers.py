"""Several filers of one cluster: one is asked, and the next when it does not answer.

They may share a store, or each have one of its own that follows the others' within moments. So all are asked
of one filer as long as it answers: what was just written there is there.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")

AWAY = frozenset({errno.EHOSTUNREACH, errno.ETIMEDOUT})
"""What a filer "answers" that does not answer."""


class Unsent(OSError):
    """There was no way to the filer: what was asked was not done."""


class Address(NamedTuple):
    """HOST:PORT of a filer's HTTP and of its gRPC."""

    http: str
    grpc: str


class Filers:
    """Any thread."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self.addresses = tuple(addresses)
        self._lock = threading.Lock()
        self.current = 0
        """The number of the one that is asked."""

    @property
    def http(self) -> str:
        """HOST:PORT of its HTTP."""
        return self.addresses[self.current].http

    def ask(self, call: Callable[[int], T], *, change: bool = False) -> T:
        """``call`` of the number of a filer that answers; each is tried once. A ``change`` that may have been
        made is not made again here."""
        for left in reversed(range(len(self.addresses))):
            number = self.current
            try:
                return call(number)
            except OSError as error:
                self.failed(number, error)
                if not left or error.errno not in AWAY or (change and not isinstance(error, Unsent)):
                    raise
        raise AssertionError("there is a filer")

    def failed(self, number: int, error: OSError) -> None:
        """The next one is asked from now on, if that is what the error says."""
        if error.errno not in AWAY or len(self.addresses) == 1:
            return
        with self._lock:
            if self.current != number:
                return
            self.current = (number + 1) % len(self.addresses)
        log.warning(
            "filer %s does not answer, asking %s: %s", self.addresses[number].http, self.http, error.strerror
        )
