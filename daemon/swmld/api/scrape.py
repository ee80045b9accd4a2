"""The metrics as Prometheus' text. Imported by the first scrape: its library brings 60 modules, 3 MB."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from swmld.api.metrics import METRICS, Definition, Snapshot, Values
from swmld.histogram import LATENCY_BUCKETS, Histogram


class Scrape:
    """Of ``snapshot``, and of this process. Loop-only."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(SnapshotCollector(snapshot))
        ProcessCollector(registry=self._registry)

    def text(self, accept: str) -> tuple[bytes, str]:
        """All metrics and their media type, as a scraper accepts it."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


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
        found = ((definition, definition.read(snapshot)) for definition in METRICS)
        return [_family(definition, values) for definition, values in found if values]


def _family(definition: Definition, values: Values) -> Metric:
    labels = list(definition.labels)
    if definition.kind == "histogram":
        histogram = HistogramMetricFamily(definition.name, definition.help, labels=labels)
        for at, value in values.items():
            assert isinstance(value, Histogram)
            bounds = [*(repr(bound) for bound in LATENCY_BUCKETS), "+Inf"]
            cumulated = itertools.accumulate(value.counts)
            histogram.add_metric(list(at), list(zip(bounds, cumulated, strict=True)), value.total)
        return histogram
    make = CounterMetricFamily if definition.kind == "counter" else GaugeMetricFamily
    family = make(definition.name, definition.help, labels=labels)
    for at, value in values.items():
        assert not isinstance(value, Histogram)
        family.add_metric(list(at), value)
    return family
