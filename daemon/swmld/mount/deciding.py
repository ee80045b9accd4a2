"""What the mount asks about each file that it opens, and what an answer means for its chunks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from swmld.plan.readahead import Limits
from swmld.types import Identity

if TYPE_CHECKING:  # a tenth of a second of imports, for mounts that have no rules
    from swmld.rules.actions import Prefetch
    from swmld.rules.verdict import Verdict


class Brought(Protocol):
    """Told of bytes that were fetched ahead because of a decision; loop-only."""

    def __call__(self, decision: int, *, asked: int = 0, fetched: int = 0, used: int = 0) -> None: ...


class Decider(Protocol):
    """``head.Head``. Loop-only but for ``unopened``."""

    def opening(self, nodeid: int, pid: int, uid: int, *, prefetched: bool = False) -> Verdict | None:
        """A file is opened by Python, or was by C for the first time since it was fetched ahead."""
        ...

    def caching(self, verdict: Verdict | None, identity: Identity, file_id: int) -> None:
        """It is in the cache as the file of that number, whole or not. Of ``unopened``: any thread."""
        ...

    def unopened(self, path: bytes, size: int) -> Verdict | None:
        """Any thread: what is decided about a file that nobody opened, by what its name and size say."""
        ...

    brought: Brought


def wants_files(prefetch: Prefetch) -> bool:
    """Whether other files are to be fetched when one is opened."""
    return prefetch.enabled and bool(prefetch.next_files or prefetch.siblings or prefetch.shards)


def readahead_limits(prefetch: Prefetch, usual: Limits, chunk_size: int) -> Limits:
    """The limits of a file's streams as a rule wants them: ``size`` is the first window, ``window`` the
    largest."""
    if not prefetch.enabled:
        return replace(usual, max_window=0)
    window = usual.max_window if prefetch.window is None else prefetch.window
    chunks = max(1, -(-window // chunk_size))
    first = usual.first_window if prefetch.size is None else max(1, -(-prefetch.size // chunk_size))
    return replace(
        usual, max_window=window, max_chunks=max(usual.max_chunks, chunks), first_window=min(first, chunks)
    )


def chunks_at_once(prefetch: Prefetch, size: int, chunk_size: int) -> list[int]:
    """What is fetched when the file is opened: all of it, or its header and footer."""
    count = -(-size // chunk_size)
    if not prefetch.enabled:
        return []
    if prefetch.whole_file:
        return list(range(count))
    header = range(min(count, -(-prefetch.header // chunk_size)))
    footer = range(max(0, (size - prefetch.footer) // chunk_size), count if prefetch.footer else 0)
    return sorted({*header, *footer})
