"""What a source is asked, and what comes of it: plain numbers for the metrics.

``SourceStats`` may be shared by the wrappers of one source: ``Counting`` counts calls and bytes, ``Retrying``
retries, ``Hedging`` second requests.
"""

from __future__ import annotations

import copy
import enum
import errno
import logging
import os
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from swmld.histogram import Histogram
from swmld.sources.errors import Busy, failure, refusal
from swmld.sources.interface import LISTED, Attributes, Cut, Page, Source
from swmld.sources.whole import Get
from swmld.sources.wrapping import MONOTONIC, Clock, Kind, WrappedReader, Wrapper

log = logging.getLogger(__name__)
T = TypeVar("T")


class Outcome(enum.Enum):
    """How a call ended; the label ``outcome``."""

    ANSWERED = "answered"
    ABSENT = "absent"  # ENOENT, ENOTDIR, ENODATA: an answer too
    PRESENT = "present"  # EEXIST, ENOTEMPTY, EISDIR: an answer too
    UNABLE = "unable"  # it cannot be done there
    FULL = "full"  # no room, or no more is allowed
    DENIED = "denied"
    STALE = "stale"  # another generation by now
    BUSY = "busy"  # 429, 503
    UNREACHABLE = "unreachable"  # no answer in time, or no way there
    ERROR = "error"


_OUTCOMES = {
    errno.ENOENT: Outcome.ABSENT,
    errno.ENOTDIR: Outcome.ABSENT,
    errno.ENODATA: Outcome.ABSENT,
    errno.EEXIST: Outcome.PRESENT,
    errno.ENOTEMPTY: Outcome.PRESENT,
    errno.EISDIR: Outcome.PRESENT,
    errno.EXDEV: Outcome.UNABLE,
    errno.EOPNOTSUPP: Outcome.UNABLE,
    errno.EROFS: Outcome.UNABLE,
    errno.ENAMETOOLONG: Outcome.UNABLE,
    errno.ENOSPC: Outcome.FULL,
    errno.EDQUOT: Outcome.FULL,
    errno.EFBIG: Outcome.FULL,
    errno.EACCES: Outcome.DENIED,
    errno.EPERM: Outcome.DENIED,
    errno.ESTALE: Outcome.STALE,
    errno.ETIMEDOUT: Outcome.UNREACHABLE,
    errno.EHOSTUNREACH: Outcome.UNREACHABLE,
}


def outcome_of(error: OSError) -> Outcome:
    """How a call ended that raised ``error``."""
    return Outcome.BUSY if isinstance(error, Busy) else _OUTCOMES.get(error.errno or 0, Outcome.ERROR)


@dataclass
class SourceCounts:
    """Counters since start, except ``in_flight``, which is now."""

    calls: dict[tuple[Kind, Outcome], int] = field(
        default_factory=lambda: {(kind, outcome): 0 for kind in Kind for outcome in Outcome}
    )
    errors: dict[int, int] = field(default_factory=dict)
    """By errno."""
    latency: dict[Kind, Histogram] = field(default_factory=lambda: {kind: Histogram() for kind in Kind})
    """Of every call, failed ones too: a time limit is seen in the last buckets."""
    in_flight: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 0))
    bytes: int = 0
    """Read."""
    written: int = 0
    """Bytes of writes that ended well."""
    entries: int = 0
    """Of the pages listed."""
    retries: int = 0
    given_up: int = 0
    """Calls that could have been tried again, had there been time or budget left."""
    failovers: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    """Answers of one server that were of no use, what was asked for being asked again at once."""
    hedges: int = 0
    """Second requests for slow reads."""
    hedges_won: int = 0


class SourceStats:
    """``SourceCounts`` that any thread may add to."""

    def __init__(self) -> None:
        self._counts = SourceCounts()
        self._lock = threading.Lock()

    def counts(self) -> SourceCounts:
        """A copy, of one moment."""
        with self._lock:
            return copy.deepcopy(self._counts)

    def began(self, kind: Kind) -> None:
        """A call was made."""
        with self._lock:
            self._counts.in_flight[kind] += 1

    def ended(self, kind: Kind, seconds: float, error: OSError | None = None) -> None:
        """It has ended."""
        with self._lock:
            self._counts.in_flight[kind] -= 1
            self._counts.latency[kind].observe(seconds)
            self._counts.calls[kind, outcome_of(error) if error else Outcome.ANSWERED] += 1
            if error is not None:
                code = error.errno or 0
                self._counts.errors[code] = self._counts.errors.get(code, 0) + 1

    def brought(self, *, nbytes: int = 0, entries: int = 0, written: int = 0) -> None:
        """Bytes were read or written, or entries listed."""
        with self._lock:
            self._counts.bytes += nbytes
            self._counts.written += written
            self._counts.entries += entries

    def came(self, seconds: float, nbytes: int) -> None:
        """A read that nobody announced has ended well."""
        with self._lock:
            self._counts.latency[Kind.READ].observe(seconds)
            self._counts.calls[Kind.READ, Outcome.ANSWERED] += 1
            self._counts.bytes += nbytes

    def retried(self) -> None:
        """A call is made again."""
        with self._lock:
            self._counts.retries += 1

    def gave_up(self) -> None:
        """A call is not made again for want of time or budget."""
        with self._lock:
            self._counts.given_up += 1

    def failed_over(self, outcome: Outcome) -> None:
        """One server gave nothing that is of use; it, or another, is asked again at once."""
        with self._lock:
            self._counts.failovers[outcome] += 1

    def hedged(self, *, won: bool) -> None:
        """A second request was sent (``won`` false), or was the first to answer (true)."""
        with self._lock:
            self._counts.hedges_won += won
            self._counts.hedges += not won


SAID = 60.0
"""Seconds for which a failure is not told again that was told: a source that is away fails a thousand times a
second, and is counted."""

_FAILURES = frozenset({Outcome.DENIED, Outcome.BUSY, Outcome.UNREACHABLE, Outcome.ERROR, Outcome.FULL})


class Told:
    """What was told of late. Any thread; two at the same moment may both be told to."""

    def __init__(self, clock: Clock = MONOTONIC) -> None:
        self._clock = clock
        self._at: dict[Hashable, float] = {}

    def again(self, what: Hashable) -> bool:
        """Whether it was not told for ``SAID`` seconds; it then counts as told."""
        now = self._clock.now()
        if now - self._at.get(what, -SAID) < SAID:
            return False
        self._at[what] = now
        return True


_OF_SERVERS = frozenset(
    {
        errno.EBADMSG, errno.EILSEQ, errno.EPROTO, errno.ESTALE, errno.ECONNREFUSED, errno.ECONNRESET,
        errno.EPIPE, errno.ENOTCONN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT,
    }
)  # fmt: skip
"""What ``native/httpget.c`` says of a server; the rest is this host's."""

_NOT_THERE = _OF_SERVERS - {errno.EBADMSG, errno.EILSEQ, errno.EPROTO, errno.ETIMEDOUT}


def _of_get(status: int, code: int) -> OSError | None:
    """Why a GET was not done; None: it is nothing that a server did."""
    if code not in _OF_SERVERS:
        return None
    if code == errno.ESTALE:
        return failure(code, "GET: it is another generation by now")
    if status not in (0, 200, 206):
        return refusal(status, "GET")
    if status:
        return failure(errno.EIO, "GET: its body is not what was asked for")
    return failure(errno.EHOSTUNREACH if code in _NOT_THERE else code, "GET")


class Counting(Wrapper):
    """See the module. Failures are told in the log, each kind of them once a minute; answers are not (a name
    that is not there, a generation that is gone)."""

    passes = True

    def __init__(self, inner: Source, stats: SourceStats | None = None, *, clock: Clock = MONOTONIC) -> None:
        super().__init__(inner)
        self.stats = stats or SourceStats()
        self._clock = clock
        self._told = Told(clock)

    def _tell(self, kind: Kind, path: bytes, error: OSError) -> None:
        outcome = outcome_of(error)
        # Whoever asks for the root, at the start and to see whether the source is back, tells of it.
        if path and outcome in _FAILURES and self._told.again((kind, outcome)):
            name, said = os.fsdecode(path), outcome.value
            log.info("%s of %r at the source: %s: %s", kind.value, name, said, error.strerror)

    def around(self, kind: Kind, path: bytes, call: Callable[[], T]) -> T:
        """See ``Wrapper.around``."""
        began = self._clock.now()
        self.stats.began(kind)
        try:
            result = call()
        except OSError as error:
            self.stats.ended(kind, self._clock.now() - began, error)
            self._tell(kind, path, error)
            raise
        except BaseException:
            self.stats.ended(kind, self._clock.now() - began, OSError(0, "not the source's"))
            raise
        self.stats.ended(kind, self._clock.now() - began)
        return result

    def read(self, reader: WrappedReader, view: memoryview, offset: int) -> int:
        """See ``Wrapper.read``."""
        try:
            count = super().read(reader, view, offset)
        except Cut as error:
            self.stats.brought(nbytes=error.got)
            raise
        self.stats.brought(nbytes=count)
        return count

    def whole(self, reader: WrappedReader) -> Get | None:
        """See ``Wrapper.whole``. One that is not done is asked for again by ``read``, which counts it."""
        get = super().whole(reader)
        if get is not None:
            get.done = partial(self.stats.came, nbytes=get.length)
            get.failed = partial(self._failed, reader.path, f"{get.ip}:{get.port}")
        return get

    def _failed(self, path: bytes, server: str, status: int, code: int) -> None:
        error = _of_get(status, code)
        if error is None:
            return
        outcome = outcome_of(error)
        self.stats.failed_over(outcome)
        if outcome in _FAILURES and self._told.again((server, outcome)):
            name, said = os.fsdecode(path), outcome.value
            log.info("read of %r at %s: %s: %s, asking again", name, server, said, error.strerror)

    def list(self, path: bytes, after: bytes = b"", limit: int = LISTED) -> Page:
        """See ``Source.list``."""
        page = super().list(path, after, limit)
        self.stats.brought(entries=len(page.entries))
        return page

    def write(
        self,
        path: bytes,
        fd: int,
        size: int,
        attributes: Attributes,
        expected: Attributes | None,
        token: str,
    ) -> Attributes:
        """See ``Source.write``."""
        made = super().write(path, fd, size, attributes, expected, token)
        self.stats.brought(written=size)
        return made
