"""How much may be asked of a source: a budget for requests beyond the first, and a rate."""

from __future__ import annotations

import threading

from swmld.sources.wrapping import MONOTONIC, Clock

SAVED = 100.0
"""Requests that a budget saves at most: what a long calm may turn into a burst."""


class Budget:
    """Tokens for second requests: ``share`` of one for each first request, and ``per_second`` beside.

    A source that fails everything is then asked little more than without retries, where each caller trying
    three times would ask four times as much of what cannot cope already (the retry budget of Finagle, and
    gRPC's retry throttling). Any thread.
    """

    def __init__(self, share: float, per_second: float = 0.0, *, clock: Clock = MONOTONIC) -> None:
        self._share = share
        self._per_second = per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = min(per_second, SAVED)
        self._at = clock.now()

    def asked(self) -> None:
        """A first request was made."""
        with self._lock:
            self._tokens += self._share

    def answered(self) -> None:
        """One of the requests beyond the first was answered: two more can be made, so that their number
        doubles with each round while the source copes."""
        with self._lock:
            self._tokens = min(self._tokens + 2, SAVED)

    def take(self) -> bool:
        """Whether one request more may be made; it then counts as made."""
        with self._lock:
            now = self._clock.now()
            self._tokens = min(self._tokens + (now - self._at) * self._per_second, SAVED)
            self._at = now
            if self._tokens < 1 - 1e-9:
                return False
            self._tokens -= 1
            return True


class Rate:
    """``per_second`` of something, spread evenly: the generic cell rate algorithm, a token bucket that keeps
    one time instead of tokens. What came after a calm of ``burst`` seconds or more may be early by as much.
    An amount greater than the burst passes too, and is paid for by those after it. Not thread-safe."""

    def __init__(self, per_second: float, burst: float = 0.0) -> None:
        if not per_second > 0:
            raise ValueError(f"a rate of {per_second} a second lets nothing pass")
        self._per_second = per_second
        self._burst = burst
        self._due = float("-inf")

    def reserve(self, amount: float, earliest: float) -> float:
        """When ``amount`` may start: a time not before ``earliest``."""
        start = max(earliest, self._due - self._burst)
        self._due = max(earliest, self._due) + amount / self._per_second
        return start
