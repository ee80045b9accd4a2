"""How long what is known of a source is shown while it does not answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from swmld.mount.gate import UNREACHABLE

T = TypeVar("T")


class Grace:
    """From the first call that failed since the last one that did not, ``seconds`` long. Any thread."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._since: float | None = None

    def asked(self, call: Callable[[], T]) -> T:
        """Makes a call of the source."""
        try:
            answer = call()
        except OSError as error:
            if error.errno not in UNREACHABLE:
                self._since = None
            elif self._since is None:
                self._since = self._clock()
            raise
        self._since = None
        return answer

    @property
    def lasts(self) -> bool:
        """Whether what is known may be shown."""
        since = self._since
        return self._seconds > 0 and (since is None or self._clock() - since < self._seconds)
