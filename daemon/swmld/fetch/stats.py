"""Counters of the fetch room: plain values that the scheduler changes and the metrics collector reads."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from swmld.histogram import Histogram
from swmld.types import FetchClass


class Result(enum.Enum):
    """How a flight ended; the label ``result``."""

    LANDED = "landed"
    VERIFIED = "verified"  # a SUSPECT chunk whose checksum held: nothing was read from the source
    STALE = "stale"  # the source is no longer the file that the target names
    NO_ROOM = "no_room"  # the cache could not take it
    TIMEOUT = "timeout"
    ERROR = "error"


def _per_class() -> dict[FetchClass, int]:
    return dict.fromkeys(FetchClass, 0)


@dataclass
class FetchStats:
    """Counters since start, except those marked *now*. Read on the loop; every value is a plain number."""

    flights: dict[tuple[FetchClass, Result], int] = field(
        default_factory=lambda: {(c, r): 0 for c in FetchClass for r in Result}
    )
    bytes: dict[FetchClass, int] = field(default_factory=_per_class)
    """Bytes landed, by the class that the flight had at its end."""
    latency: dict[FetchClass, Histogram] = field(default_factory=lambda: {c: Histogram() for c in FetchClass})
    """From the request to the end, queueing included; of flights that landed or were verified."""
    queued: dict[FetchClass, int] = field(default_factory=_per_class)
    """Now."""
    in_flight: dict[FetchClass, int] = field(default_factory=_per_class)
    """Now: flights that were started and have not ended."""
    reads_in_flight: int = 0
    """Now: sub-reads that count against ``parallel``."""
    stuck: int = 0
    """Now: operations of ended flights that the kernel or a thread still has."""
    retries: int = 0
    timeouts: int = 0
    dropped: int = 0
    """Prefetch requests refused because the queue was full."""
    forgotten: int = 0
    """Queued fetches taken back by ``forget`` or because nobody waits for them any more."""
    promoted: int = 0
    refused: int = 0
    """Demand fetches failed at once because the source hangs."""
