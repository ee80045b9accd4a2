"""What the mount asks about each file that it opens, and what an answer means for its chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from swmld.fetch.sharing import Terms
from swmld.plan.readahead import Limits
from swmld.types import FetchClass, Identity

if TYPE_CHECKING:  # a tenth of a second of imports, for mounts that have no rules
    from swmld.rules.actions import Coordinate, Prefetch
    from swmld.rules.verdict import Verdict


class Brought(Protocol):
    """Told of bytes that are fetched ahead because of a decision; loop-only. Of each it is told once that it
    is ``asked`` for, then at most once that it is ``fetched`` or ``late`` (a reader came while it was on its
    way), then, fetched, that it is ``used`` (opened or read) or ``wasted`` (it went, or its reader did)."""

    def __call__(
        self,
        decision: int,
        *,
        asked: int = 0,
        fetched: int = 0,
        used: int = 0,
        late: int = 0,
        wasted: int = 0,
    ) -> None: ...


class Decider(Protocol):
    """``head.Head``. Loop-only but for ``unopened``."""

    async def prepare(self, nodeid: int, pid: int) -> None:
        """Before ``opening``, where the opening can wait for what has to be found out."""
        ...

    def opening(self, nodeid: int, pid: int, uid: int, *, prefetched: bool = False) -> Verdict | None:
        """A file is opened by Python, or was by C for the first time since it was fetched ahead."""
        ...

    def caching(self, verdict: Verdict | None, identity: Identity, file_id: int) -> None:
        """It is in the cache as the file of that number, whole or not. Of ``unopened``: any thread."""
        ...

    def unopened(self, path: bytes, size: int) -> Verdict | None:
        """Any thread: what is decided about a file that nobody opened, by what its name and size say."""
        ...

    watches: bool
    """Whether rules may want something done at each open, so that C is to answer none alone of which nothing
    was decided yet."""

    ask_again: Callable[[], None]
    """To be called when such rules have come into use: C opened some files alone until now."""

    coordinates: bool
    """Whether rules may want writers to wait for each other: then they are decided about, too."""

    brought: Brought

    def compressed(self, decision: int, nbytes: int, stored: int) -> None:
        """A chunk of so many bytes takes ``stored`` on the cache's disk, because of a decision. Loop-only."""
        ...


PACK_MINIMUM = 16 << 10
"""Bytes: smaller files are not compressed. They would save a block or two of 4 KiB, of which a compressed
file needs one for itself, and could not be passed through for that."""

COMPRESSED = frozenset(
    b"jpg jpeg png gif webp avif heic jp2 mp3 mp4 m4a m4v mkv mov avi webm aac flac ogg opus wma wmv "
    b"gz tgz zst xz txz bz2 tbz2 lz4 7z rar br zip whl jar docx xlsx pptx pdf parquet orc".split()
)
"""Extensions of formats that are compressed already, so that trying is not worth losing passthrough. Of all
others each chunk shows it when it is fetched (``native/packed.c``). Archives of PyTorch are not among them:
they store tensors as they are, as ``.npz`` does where nothing else is asked for."""


def packing_level(level: int, path: bytes, size: int) -> int:
    """The level at which a file is compressed of which rules want ``level``; 0: it is not."""
    _, dot, extension = path.rpartition(b"/")[2].rpartition(b".")
    return 0 if size < PACK_MINIMUM or (dot and extension.lower() in COMPRESSED) else level


REQUEST_ALIGNMENT = 4096
"""Bytes: requests of other sizes are refused where the source is read with O_DIRECT."""

USUAL_REQUEST = 1 << 20
"""Bytes: what one read of the source takes where nobody says otherwise (``--sub-read``)."""

_CLASSES = {None: None, "demand": FetchClass.DEMAND, "prefetch": FetchClass.PREFETCH}


def fetch_terms(verdict: Verdict | None) -> Terms | None:
    """How rules want the file fetched; None: as usual."""
    if verdict is None or (verdict.prioritize is None and verdict.stream is None):
        return None
    first, stream = verdict.prioritize, verdict.stream
    request = stream.chunk_size if stream is not None else None
    share = first.bandwidth_share if first is not None else None
    terms = Terms(
        cls=_CLASSES[first.fetch_class] if first is not None else None,
        priority=first.priority if first is not None else 0,
        job=verdict.job,
        # A share of nothing would be a reader that never gets on.
        share=max(share / 100, 0.001) if share is not None and share < 100 else None,
        request=-(-request // REQUEST_ALIGNMENT) * REQUEST_ALIGNMENT if request is not None else None,
        parallel=stream.parallel_streams if stream is not None else None,
    )
    return terms if terms != Terms(job=verdict.job) else None


def acts_at_opens(verdict: Verdict) -> bool:
    """Whether something is done at each open of the file, also where all of it is cached."""
    first, told, stream = verdict.prioritize, verdict.advise, verdict.stream
    return (
        (first is not None and first.io_priority is not None)
        or (told is not None and (told.advice != "normal" or told.readahead is not None))
        or (stream is not None and stream.drop_behind)
        or barrier_of(verdict) is not None
        or in_memory(verdict)
    )


def in_memory(verdict: Verdict) -> bool:
    """Whether what is cached of it is to be in memory, too, when it is opened."""
    return verdict.cache is not None and verdict.cache.tier == "memory"


def barrier_of(verdict: Verdict) -> Coordinate | None:
    """The barrier that its readers meet at."""
    found = verdict.coordinate
    return found if found is not None and found.mode == "barrier" else None


def single_writer(verdict: Verdict) -> bool:
    """Whether one process at a time may have it open for writing."""
    return verdict.coordinate is not None and verdict.coordinate.mode == "single_writer"


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


def file_limits(verdict: Verdict | None, usual: Limits, chunk_size: int) -> Limits:
    """The limits of a file's streams as all rules want them; what says how much is fetched ahead comes
    first, then what the kernel is told, then how many requests are to be under way."""
    if verdict is None:
        return usual
    limits, told, stream, prefetch = usual, verdict.advise, verdict.stream, verdict.prefetch
    if stream is not None and stream.parallel_streams is not None and limits.max_window:
        request = min(stream.chunk_size or USUAL_REQUEST, chunk_size)
        chunks = -(-stream.parallel_streams * request // chunk_size)
        limits = replace(
            limits, first_window=max(limits.first_window, chunks), max_chunks=max(limits.max_chunks, chunks),
            max_window=max(limits.max_window, chunks * chunk_size),
        )  # fmt: skip
    if told is not None and told.advice == "random":
        limits = replace(limits, max_window=0)
    elif told is not None and told.readahead is not None:
        chunks = max(1, -(-told.readahead // chunk_size))
        limits = replace(
            limits, max_window=told.readahead, first_window=chunks, max_chunks=max(limits.max_chunks, chunks)
        )
    return readahead_limits(prefetch, limits, chunk_size) if prefetch is not None else limits


def at_once(verdict: Verdict, size: int, chunk_size: int, limits: Limits) -> list[int]:
    """The chunks that are fetched when the file is opened."""
    prefetch, told = verdict.prefetch, verdict.advise
    chunks = chunks_at_once(prefetch, size, chunk_size) if prefetch is not None else []
    if told is not None and told.advice == "sequential" and limits.max_window:
        first = 1 + min(limits.first_window, limits.window(chunk_size))
        chunks = sorted({*chunks, *range(min(first, -(-size // chunk_size)))})
    return chunks


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
