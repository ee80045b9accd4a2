"""Every metric, once: name, kind, help, label and where its value comes from.

The daemon counts; a scrape takes one ``Snapshot`` of what it counted, on the event loop, and turns it into
Prometheus' text. ``swmld stats`` shows the same values under the same names. A value that a daemon does not
have is left out, never shown as 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from swmld.api.messages import Buckets, Value
from swmld.types import FetchClass, Served

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Histogram:
    """``counts[i]`` values up to ``bounds[i]`` and above the bound before; one more count for the rest."""

    bounds: Sequence[float]
    counts: Sequence[int]
    sum: float

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.bounds) + 1:
            raise ValueError(f"{len(self.bounds)} bounds need {len(self.bounds) + 1} counts")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the daemon has counted since its start, at one moment. None or an empty mapping: not known.

    A read that is passed through never reaches the daemon: it is seen by its open (``opens``) alone, and
    ``reads`` has a passthrough entry only where something counts those reads.
    """

    opens: Mapping[Served, int] = field(default_factory=dict)
    reads: Mapping[Served, int] = field(default_factory=dict)
    read_bytes: Mapping[Served, int] = field(default_factory=dict)
    writes: int | None = None
    written_bytes: int | None = None
    requests: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    fetches: Mapping[FetchClass, int] = field(default_factory=dict)
    fetched_bytes: Mapping[FetchClass, int] = field(default_factory=dict)
    fetch_seconds: Histogram | None = None
    fetch_in_flight: Mapping[FetchClass, int] = field(default_factory=dict)
    fetch_queue: Mapping[FetchClass, int] = field(default_factory=dict)
    prefetch_used_bytes: int | None = None
    prefetch_wasted_bytes: int | None = None
    prefetch_dropped: int | None = None
    parked_reads: int | None = None
    cache_bytes: int | None = None
    cache_files: int | None = None
    cache_limit_bytes: int | None = None
    disk_free_bytes: int | None = None
    evictions: int | None = None
    evicted_bytes: int | None = None
    open_files: int | None = None
    known_nodes: int | None = None

    @property
    def hit_ratio(self) -> float | None:
        """Share of reads that needed no fetch; None before the first read."""
        total = sum(self.reads.values())
        return 1 - self.reads.get(Served.MISS, 0) / total if total else None


Read = Callable[[Snapshot], float | Mapping[str, float] | Histogram | None]


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric. ``name`` is the exported one, with ``_total`` for counters; ``label`` may be empty."""

    name: str
    kind: Kind
    help: str
    label: str
    read: Read


def _words(values: Mapping[Served, int] | Mapping[FetchClass, int]) -> Mapping[str, float]:
    return {(key.value if isinstance(key, Served) else key.name.lower()): n for key, n in values.items()}


def _prefetched(snapshot: Snapshot) -> Mapping[str, float]:
    found = {"used": snapshot.prefetch_used_bytes, "wasted": snapshot.prefetch_wasted_bytes}
    return {outcome: nbytes for outcome, nbytes in found.items() if nbytes is not None}


METRICS: tuple[Definition, ...] = (
    Definition("swmld_opens_total", "counter", "Opens of files, by how their reads are served.", "how",
               lambda s: _words(s.opens)),
    Definition("swmld_reads_total", "counter", "Reads, by how they were served.", "how",
               lambda s: _words(s.reads)),
    Definition("swmld_read_bytes_total", "counter", "Bytes read, by how they were served.", "how",
               lambda s: _words(s.read_bytes)),
    Definition("swmld_hit_ratio", "gauge", "Share of reads since the start that needed no fetch, 0 to 1.", "",
               lambda s: s.hit_ratio),
    Definition("swmld_writes_total", "counter", "Writes passed on to the source.", "",
               lambda s: s.writes),
    Definition("swmld_written_bytes_total", "counter", "Bytes written to the source.", "",
               lambda s: s.written_bytes),
    Definition("swmld_requests_total", "counter", "Requests of the kernel, by what answered them.",
               "handler", lambda s: s.requests),
    Definition("swmld_errors_total", "counter", "Errors, by kind.", "kind", lambda s: s.errors),
    Definition("swmld_fetches_total", "counter", "Chunks fetched from the source, by class.", "class",
               lambda s: _words(s.fetches)),
    Definition("swmld_fetched_bytes_total", "counter", "Bytes fetched from the source, by class.", "class",
               lambda s: _words(s.fetched_bytes)),
    Definition("swmld_fetch_duration_seconds", "histogram", "Time to fetch one chunk.", "",
               lambda s: s.fetch_seconds),
    Definition("swmld_fetch_in_flight", "gauge", "Chunks being fetched now, by class.", "class",
               lambda s: _words(s.fetch_in_flight)),
    Definition("swmld_fetch_queue_length", "gauge", "Chunks that wait to be fetched, by class.", "class",
               lambda s: _words(s.fetch_queue)),
    Definition("swmld_prefetch_bytes_total", "counter", "Bytes fetched ahead: used, or evicted unused.",
               "outcome", _prefetched),
    Definition("swmld_prefetch_dropped_total", "counter", "Prefetches dropped at a full queue.", "",
               lambda s: s.prefetch_dropped),
    Definition("swmld_parked_reads", "gauge", "Reads that wait for their chunk now.", "",
               lambda s: s.parked_reads),
    Definition("swmld_cache_bytes", "gauge", "Bytes in the cache.", "", lambda s: s.cache_bytes),
    Definition("swmld_cache_limit_bytes", "gauge", "Most bytes the cache may hold.", "",
               lambda s: s.cache_limit_bytes),
    Definition("swmld_cache_files", "gauge", "Files with bytes in the cache.", "", lambda s: s.cache_files),
    Definition("swmld_cache_disk_free_bytes", "gauge", "Free space on the cache's disk.", "",
               lambda s: s.disk_free_bytes),
    Definition("swmld_evictions_total", "counter", "Files removed from the cache to make room.", "",
               lambda s: s.evictions),
    Definition("swmld_evicted_bytes_total", "counter", "Bytes removed from the cache to make room.", "",
               lambda s: s.evicted_bytes),
    Definition("swmld_open_files", "gauge", "Files that are open through the mount.", "",
               lambda s: s.open_files),
    Definition("swmld_known_nodes", "gauge", "Files and directories that the daemon knows.", "",
               lambda s: s.known_nodes),
)  # fmt: skip


class SnapshotCollector(Collector):
    """Reads one snapshot at each scrape."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not take a snapshot."""
        return []

    def collect(self) -> Iterable[Metric]:
        """All metrics that have a value, from one snapshot."""
        snapshot = self._snapshot()
        families = (_family(definition, definition.read(snapshot)) for definition in METRICS)
        return [family for family in families if family is not None]


def values(snapshot: Snapshot) -> dict[str, Value]:
    """The same values for ``swmld stats``, by name without ``swmld_``."""
    found: dict[str, Value] = {}
    for definition in METRICS:
        value = definition.read(snapshot)
        name = definition.name.removeprefix("swmld_")
        if isinstance(value, Histogram):
            found[name] = Buckets(bounds=list(value.bounds), counts=list(value.counts), sum=value.sum)
        elif isinstance(value, Mapping):
            found[name] = dict(value)
        elif value is not None:
            found[name] = value
    return found


def _family(definition: Definition, value: float | Mapping[str, float] | Histogram | None) -> Metric | None:
    if value is None or value == {}:
        return None
    if isinstance(value, Histogram):
        return _histogram(definition, value)
    make = CounterMetricFamily if definition.kind == "counter" else GaugeMetricFamily
    labelled = value if isinstance(value, Mapping) else {"": value}
    family = make(definition.name, definition.help, labels=[definition.label] if definition.label else [])
    for word, number in labelled.items():
        family.add_metric([word] if definition.label else [], number)
    return family


def _histogram(definition: Definition, value: Histogram) -> Metric:
    bounds = [*(repr(float(bound)) for bound in value.bounds), "+Inf"]
    buckets = list(zip(bounds, itertools.accumulate(value.counts), strict=True))
    return HistogramMetricFamily(definition.name, definition.help, buckets=buckets, sum_value=value.sum)
