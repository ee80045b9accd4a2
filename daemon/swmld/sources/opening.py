"""A source as the daemon uses it: asked again where that helps, and counted."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import cast

from swmld.sources.counting import Counting, SourceStats
from swmld.sources.hedging import Hedging
from swmld.sources.interface import Source
from swmld.sources.retrying import Again, Patience, Retrying
from swmld.urls import SourceUrl

_MADE_BY = {
    "seaweedfs": ("swmld.sources.seaweedfs", "SeaweedSource"),
    "seaweedfs+https": ("swmld.sources.seaweedfs", "SeaweedSource"),
    "s3": ("swmld.sources.objects", "ObjectSource"),
    "gs": ("swmld.sources.objects", "ObjectSource"),
    "az": ("swmld.sources.objects", "ObjectSource"),
    "http": ("swmld.sources.web", "WebSource"),
    "https": ("swmld.sources.web", "WebSource"),
}


def open_source(url: SourceUrl, *, timeout: float, parallel: int, stats: SourceStats | None = None) -> Source:
    """The source at ``url``. No request of it takes longer than ``timeout`` seconds, and one call makes
    ``parallel`` requests at the same time at most. ``stats`` is for what a source of several servers counts
    of them. Imports what the scheme needs and no more. Raises
    ``UsageError`` for options that cannot work; asks no server."""
    if url.scheme == "file":
        from swmld.sources.directory import DirectorySource

        return DirectorySource(url.path)
    module, name = _MADE_BY[url.scheme]
    maker = getattr(importlib.import_module(module), name)
    several = {"stats": stats} if url.scheme.startswith("seaweedfs") else {}
    return cast(Source, maker(url, timeout=timeout, parallel=parallel, **several))


@dataclass(frozen=True, slots=True)
class OpenedSource:
    """A source, what it was asked, and when a call of it that failed is made again (None: never)."""

    source: Source
    stats: SourceStats
    again: Again | None = None


def opened(url: SourceUrl, *, timeout: float, wait: float, parallel: int, hedge: bool) -> OpenedSource:
    """``timeout``: seconds of one request; ``wait``: seconds for which a call that failed is made again;
    ``hedge``: with a second request for a slow read. Raises ``UsageError`` as ``open_source``."""
    stats = SourceStats()
    source: Source = Counting(open_source(url, timeout=timeout, parallel=parallel, stats=stats), stats)
    again: Again | None = None
    if wait:
        source = retrying = Retrying(source, Patience(limit=wait), stats=stats)
        again = retrying.again
    if hedge:
        source = Hedging(source, stats=stats)
    return OpenedSource(source, stats, again)
