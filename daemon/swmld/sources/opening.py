"""A source as the daemon uses it: asked again where that helps, and counted."""

from __future__ import annotations

from dataclasses import dataclass

from swmld.sources.counting import Counting, SourceStats
from swmld.sources.hedging import Hedging
from swmld.sources.interface import Source
from swmld.sources.retrying import Patience, Retrying
from swmld.sources.urls import SourceUrl, open_source


@dataclass(frozen=True, slots=True)
class OpenedSource:
    """A source, and what it was asked."""

    source: Source
    stats: SourceStats


def opened(url: SourceUrl, *, timeout: float, wait: float, parallel: int, hedge: bool) -> OpenedSource:
    """``timeout``: seconds of one request; ``wait``: seconds for which a call that failed is made again;
    ``hedge``: with a second request for a slow read. Raises ``UsageError`` as ``open_source``."""
    stats = SourceStats()
    source: Source = Counting(open_source(url, timeout=timeout, parallel=parallel), stats)
    if wait:
        source = Retrying(source, Patience(limit=wait), stats=stats)
    if hedge:
        source = Hedging(source, stats=stats)
    return OpenedSource(source, stats)
