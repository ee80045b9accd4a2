"""Every metric, once: name, kind, help, labels and where its value comes from.

The daemon counts; a scrape takes one ``Snapshot`` of what it counted, on the event loop, and turns it into
Prometheus' text. ``swmld stats`` shows the same values under the same names. A value that a daemon does not
have is left out, never shown as 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from errno import errorcode
from typing import Literal

from swmld.api.messages import Buckets, Value
from swmld.fetch.stats import FetchStats
from swmld.histogram import LATENCY_BUCKETS, Histogram
from swmld.sources.counting import SourceCounts
from swmld.types import FetchClass, Served

Kind = Literal["counter", "gauge", "histogram"]
Labels = tuple[str, ...]
Values = Mapping[Labels, float | Histogram]


@dataclass(frozen=True, slots=True)
class RuleFigures:
    """What rules did. ``applied``: by title; ``brought``: bytes by (title, what came of them);
    ``compressed``: by (title, "raw" or "stored"); ``waited``: seconds and bytes of what was read, by title;
    ``waiting``: seconds a byte by (title, before or after); ``events``: by name; ``notifications``: by (how,
    result)."""

    reload_errors: int
    active: int = 0
    decisions: int = 0
    applied: Mapping[str, int] = field(default_factory=dict)
    brought: Mapping[tuple[str, str], int] = field(default_factory=dict)
    compressed: Mapping[tuple[str, str], int] = field(default_factory=dict)
    events: Mapping[str, int] = field(default_factory=dict)
    notifications: Mapping[tuple[str, str], int] = field(default_factory=dict)
    waited: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    waiting: Mapping[tuple[str, str], float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StagedFigures:
    """Files that are written. ``uploads``: by what came of them."""

    files: int
    waiting_bytes: int
    aside: int
    uploads: Mapping[str, int]
    uploaded_bytes: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the daemon has counted since its start, at one moment. None or an empty mapping: not known.

    A read that is passed through never reaches the daemon: it is seen by its open (``opens``) alone, and
    ``reads`` has a passthrough entry only where something counts those reads.
    """

    fetch: FetchStats | None = None
    source: SourceCounts | None = None
    """Of a remote source."""
    staged: StagedFigures | None = None
    """Of one that can be written."""
    opens: Mapping[Served, int] = field(default_factory=dict)
    reads: Mapping[Served, int] = field(default_factory=dict)
    read_bytes: Mapping[Served, int] = field(default_factory=dict)
    writes: int | None = None
    written_bytes: int | None = None
    requests: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    prefetch_used_bytes: int | None = None
    prefetch_wasted_bytes: int | None = None
    patterns: Mapping[str, int] = field(default_factory=dict)
    tiers: Mapping[str, int] = field(default_factory=dict)
    lost: Mapping[str, int] = field(default_factory=dict)
    seen_share: float | None = None
    sampled_seconds: float | None = None
    parked_reads: int | None = None
    cache_bytes: int | None = None
    cache_files: int | None = None
    cache_limit_bytes: int | None = None
    disk_free_bytes: int | None = None
    evictions: int | None = None
    followed: Mapping[str, int] = field(default_factory=dict)
    compressed: Mapping[str, int] = field(default_factory=dict)
    open_files: int | None = None
    known_nodes: int | None = None
    rules: RuleFigures | None = None
    plugins: Mapping[str, int] = field(default_factory=dict)
    plugin_calls: Mapping[str, int] = field(default_factory=dict)

    @property
    def hit_ratio(self) -> float | None:
        """Share of reads that needed no fetch; None before the first read."""
        total = sum(self.reads.values())
        return 1 - self.reads.get(Served.MISS, 0) / total if total else None


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric. ``name`` is the exported one, with ``_total`` for counters."""

    name: str
    kind: Kind
    help: str
    labels: Labels
    read: Callable[[Snapshot], Values]


def _one(read: Callable[[Snapshot], float | None]) -> Callable[[Snapshot], Values]:
    """A metric without labels."""

    def values(snapshot: Snapshot) -> Values:
        value = read(snapshot)
        return {} if value is None else {(): value}

    return values


def _served(read: Callable[[Snapshot], Mapping[Served, int]]) -> Callable[[Snapshot], Values]:
    return lambda snapshot: {(served.value,): number for served, number in read(snapshot).items()}


def _worded(read: Callable[[Snapshot], Mapping[str, int]]) -> Callable[[Snapshot], Values]:
    return lambda snapshot: {(word,): number for word, number in read(snapshot).items()}


def _classed(
    read: Callable[[FetchStats], Mapping[FetchClass, int] | Mapping[FetchClass, Histogram]],
) -> Callable[[Snapshot], Values]:
    def values(snapshot: Snapshot) -> Values:
        found = {} if snapshot.fetch is None else read(snapshot.fetch)
        return {(fetch_class.name.lower(),): value for fetch_class, value in found.items()}

    return values


def _fetch(read: Callable[[FetchStats], int]) -> Callable[[Snapshot], Values]:
    return lambda snapshot: {} if snapshot.fetch is None else {(): read(snapshot.fetch)}


def _flights(snapshot: Snapshot) -> Values:
    found = {} if snapshot.fetch is None else snapshot.fetch.flights
    return {
        (fetch_class.name.lower(), result.value): number for (fetch_class, result), number in found.items()
    }


def _source(read: Callable[[SourceCounts], Values]) -> Callable[[Snapshot], Values]:
    return lambda snapshot: {} if snapshot.source is None else read(snapshot.source)


def _staged(read: Callable[[StagedFigures], Values]) -> Callable[[Snapshot], Values]:
    return lambda snapshot: {} if snapshot.staged is None else read(snapshot.staged)


def _ruled(read: Callable[[RuleFigures], Values]) -> Callable[[Snapshot], Values]:
    return lambda snapshot: {} if snapshot.rules is None else read(snapshot.rules)


def _prefetched(snapshot: Snapshot) -> Values:
    found = {"used": snapshot.prefetch_used_bytes, "wasted": snapshot.prefetch_wasted_bytes}
    return {(outcome,): nbytes for outcome, nbytes in found.items() if nbytes is not None}


METRICS: tuple[Definition, ...] = (
    Definition("swmld_opens_total", "counter", "Opens of files, by how their reads are served.", ("how",),
               _served(lambda s: s.opens)),
    Definition("swmld_reads_total", "counter", "Reads, by how they were served.", ("how",),
               _served(lambda s: s.reads)),
    Definition("swmld_read_bytes_total", "counter", "Bytes read, by how they were served.", ("how",),
               _served(lambda s: s.read_bytes)),
    Definition("swmld_hit_ratio", "gauge", "Share of reads since the start that needed no fetch, 0 to 1.", (),
               _one(lambda s: s.hit_ratio)),
    Definition("swmld_writes_total", "counter", "Writes passed on to the source.", (),
               _one(lambda s: s.writes)),
    Definition("swmld_written_bytes_total", "counter", "Bytes written to the source.", (),
               _one(lambda s: s.written_bytes)),
    Definition("swmld_requests_total", "counter", "Kernel requests, by what answered them.", ("handler",),
               _worded(lambda s: s.requests)),
    Definition("swmld_errors_total", "counter", "Errors, by kind.", ("kind",), _worded(lambda s: s.errors)),
    Definition("swmld_fetches_total", "counter", "Fetches of chunks that ended, by class and result.",
               ("class", "result"), _flights),
    Definition("swmld_fetched_bytes_total", "counter", "Bytes fetched from the source, by class.", ("class",),
               _classed(lambda f: f.bytes)),
    Definition("swmld_fetch_duration_seconds", "histogram", "Time from a chunk's request to its arrival.",
               ("class",), _classed(lambda f: f.latency)),
    Definition("swmld_fetch_in_flight", "gauge", "Chunks being fetched now, by class.", ("class",),
               _classed(lambda f: f.in_flight)),
    Definition("swmld_fetch_queue_length", "gauge", "Chunks that wait to be fetched, by class.", ("class",),
               _classed(lambda f: f.queued)),
    Definition("swmld_source_reads_in_flight", "gauge", "Requests under way at the source now.", (),
               _fetch(lambda f: f.reads_in_flight)),
    Definition("swmld_source_reads_stuck", "gauge", "Requests given up that the source still holds.", (),
               _fetch(lambda f: f.stuck)),
    Definition("swmld_source_calls_total", "counter", "Calls of a remote source, by kind and outcome.",
               ("call", "outcome"),
               _source(lambda s: {(k.value, o.value): n for (k, o), n in s.calls.items() if n})),
    Definition("swmld_source_call_duration_seconds", "histogram", "Time that a call of a remote source took.",
               ("call",), _source(lambda s: {(k.value,): v for k, v in s.latency.items() if v.count})),
    Definition("swmld_source_errors_total", "counter", "Calls of a remote source that failed, by error.",
               ("errno",), _source(lambda s: {(errorcode.get(c, str(c)),): n for c, n in s.errors.items()})),
    Definition("swmld_source_read_bytes_total", "counter", "Bytes read from a remote source.", (),
               _source(lambda s: {(): s.bytes})),
    Definition("swmld_source_written_bytes_total", "counter", "Bytes written to a remote source.", (),
               _source(lambda s: {(): s.written})),
    Definition("swmld_source_retries_total", "counter", "Calls of a remote source that were made again.", (),
               _source(lambda s: {(): s.retries})),
    Definition("swmld_source_given_up_total", "counter", "Calls not made again: no time or budget left.", (),
               _source(lambda s: {(): s.given_up})),
    Definition("swmld_source_failovers_total", "counter",
               "Answers of one server that were of no use, by outcome; it or another was asked at once.",
               ("outcome",), _source(lambda s: {(o.value,): n for o, n in s.failovers.items() if n})),
    Definition("swmld_source_hedges_total", "counter", "Second requests for slow reads, and those that won.",
               ("result",), _source(lambda s: {("sent",): s.hedges, ("won",): s.hedges_won})),
    Definition("swmld_staged_files", "gauge", "Files that are being written, or are not uploaded yet.", (),
               _staged(lambda s: {(): s.files})),
    Definition("swmld_staged_bytes", "gauge", "Bytes that wait to be uploaded.", (),
               _staged(lambda s: {(): s.waiting_bytes})),
    Definition("swmld_staged_aside_files", "gauge", "Files put aside: the source has another generation.", (),
               _staged(lambda s: {(): s.aside})),
    Definition("swmld_uploads_total", "counter", "Uploads of staged files, by outcome.", ("outcome",),
               _staged(lambda s: {(outcome,): n for outcome, n in s.uploads.items()})),
    Definition("swmld_uploaded_bytes_total", "counter", "Bytes of staged files that were uploaded.", (),
               _staged(lambda s: {(): s.uploaded_bytes})),
    Definition("swmld_fetch_retries_total", "counter", "Fetches tried once more after an error.", (),
               _fetch(lambda f: f.retries)),
    Definition("swmld_fetch_refused_total", "counter", "Reads failed at once because the source hangs.", (),
               _fetch(lambda f: f.refused)),
    Definition("swmld_prefetch_bytes_total", "counter", "Bytes fetched ahead: used, or evicted unused.",
               ("outcome",), _prefetched),
    Definition("swmld_prefetch_dropped_total", "counter", "Prefetches dropped at a full queue.", (),
               _fetch(lambda f: f.dropped)),
    Definition("swmld_prefetch_promoted_total", "counter", "Prefetches that a reader came to wait for.", (),
               _fetch(lambda f: f.promoted)),
    Definition("swmld_seen_reads_total", "counter", "Reads that were seen, page-cache hits included.",
               ("pattern",), _worded(lambda s: s.patterns)),
    Definition("swmld_seen_tier_reads_total", "counter", "The same, by what had to answer them.", ("tier",),
               _worded(lambda s: s.tiers)),
    Definition("swmld_seen_lost_total", "counter", "Events and counters that did not fit.", ("kind",),
               _worded(lambda s: s.lost)),
    Definition("swmld_seen_share", "gauge",
               "Share of the time in which the probes look at reads; below 1 counts are estimated.", (),
               _one(lambda s: s.seen_share)),
    Definition("swmld_seen_sampled_seconds_total", "counter", "Seconds in which that was below 1.", (),
               _one(lambda s: s.sampled_seconds)),
    Definition("swmld_parked_reads", "gauge", "Reads that wait for their chunk now.", (),
               _one(lambda s: s.parked_reads)),
    Definition("swmld_cache_bytes", "gauge", "Bytes in the cache.", (), _one(lambda s: s.cache_bytes)),
    Definition("swmld_cache_limit_bytes", "gauge", "Most bytes the cache may hold.", (),
               _one(lambda s: s.cache_limit_bytes)),
    Definition("swmld_cache_files", "gauge", "Files with bytes in the cache.", (),
               _one(lambda s: s.cache_files)),
    Definition("swmld_cache_disk_free_bytes", "gauge", "Free space on the cache's disk.", (),
               _one(lambda s: s.disk_free_bytes)),
    Definition("swmld_evictions_total", "counter", "Files removed from the cache to make room.", (),
               _one(lambda s: s.evictions)),
    Definition("swmld_followed_files_total", "counter",
               "Cached files ahead of a reader in a known order: read into the page cache, or there.",
               ("found",), _worded(lambda s: s.followed)),
    Definition("swmld_cache_compressed_bytes_total", "counter",
               "Bytes stored compressed: as they were read (raw), and as the disk holds them (stored).",
               ("size",), _worded(lambda s: s.compressed)),
    Definition("swmld_open_files", "gauge", "Files that are open through the mount.", (),
               _one(lambda s: s.open_files)),
    Definition("swmld_known_nodes", "gauge", "Files and directories that the daemon knows.", (),
               _one(lambda s: s.known_nodes)),
    Definition("swmld_plugins", "gauge", "Plugins, by state.", ("state",), _worded(lambda s: s.plugins)),
    Definition("swmld_plugin_calls_total", "counter", "Questions to a plugin.", ("plugin",),
               _worded(lambda s: s.plugin_calls)),
    Definition("swmld_rules", "gauge", "Rules that are active.", (), _ruled(lambda r: {(): r.active})),
    Definition("swmld_rule_decisions_total", "counter", "Opens of files about which rules decided.", (),
               _ruled(lambda r: {(): r.decisions})),
    Definition("swmld_rule_applied_total", "counter", "Decisions that a rule had a part in.", ("rule",),
               _ruled(lambda r: {(title,): number for title, number in r.applied.items()})),
    Definition("swmld_rule_prefetch_bytes_total", "counter", "Bytes fetched ahead because of a rule.",
               ("rule", "outcome"), _ruled(lambda r: {at: nbytes for at, nbytes in r.brought.items()})),
    Definition("swmld_rule_compressed_bytes_total", "counter", "Bytes stored compressed because of a rule.",
               ("rule", "size"), _ruled(lambda r: {at: nbytes for at, nbytes in r.compressed.items()})),
    Definition("swmld_rule_wait_seconds_total", "counter", "Time that readers waited where a rule acted.",
               ("rule",), _ruled(lambda r: {(title,): each[0] for title, each in r.waited.items()})),
    Definition("swmld_rule_read_bytes_total", "counter", "Bytes read where a rule acted.", ("rule",),
               _ruled(lambda r: {(title,): each[1] for title, each in r.waited.items()})),
    Definition("swmld_rule_wait_seconds_per_byte", "gauge",
               "Time that readers waited for a byte, before and after a rule acted, where both are known.",
               ("rule", "when"), _ruled(lambda r: {at: seconds for at, seconds in r.waiting.items()})),
    Definition("swmld_rules_reload_errors_total", "counter", "Changes of rules files that could not be used.",
               (), _ruled(lambda r: {(): r.reload_errors})),
    Definition("swmld_events_total", "counter", "Events that rules told, by name.", ("event",),
               _ruled(lambda r: {(event,): number for event, number in r.events.items()})),
    Definition("swmld_notifications_total", "counter", "Commands and webhooks of rules, by result.",
               ("how", "result"), _ruled(lambda r: {at: number for at, number in r.notifications.items()})),
)  # fmt: skip


def values(snapshot: Snapshot) -> dict[str, Value]:
    """The same values for the control socket, by name without ``swmld_``; labels are joined by commas."""
    found: dict[str, Value] = {}
    for definition in METRICS:
        name = definition.name.removeprefix("swmld_")
        shown = {",".join(at): _plain(value) for at, value in definition.read(snapshot).items()}
        if definition.labels and shown:
            found[name] = shown
        elif shown:
            found[name] = shown[""]
    return found


def _plain(value: float | Histogram) -> float | Buckets:
    if isinstance(value, Histogram):
        return Buckets(bounds=list(LATENCY_BUCKETS), counts=list(value.counts), sum=value.total)
    return value
