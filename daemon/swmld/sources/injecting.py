"""Delay, a slow line and failures on demand: how a far or broken source behaves, for tests and benchmarks.

What odds decide depends on the seed, the call and how often it was made before, and not on the order in which
threads make their calls: a run can be repeated.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from swmld.sources.budgets import Rate
from swmld.sources.errors import Busy
from swmld.sources.interface import Attributes, Cut, Source
from swmld.sources.wrapping import MONOTONIC, Clock, Kind, WrappedReader, Wrapper, closed

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to a call. Nothing but a delay by default."""

    code: int = 0
    """The errno that it fails with; 0: it does not."""
    retry_after: float | None = None
    """Seconds: it fails with ``Busy`` instead."""
    got: float = 0.0
    """Share of a read's bytes that come before it fails."""
    short: bool = False
    """A read ends after that share without an error, as no source may: the truth would be ``Cut``."""
    lost: bool = False
    """What is no read is done all the same: its answer is lost."""
    hang: bool = False
    """It waits for ``release`` or ``close`` first."""
    delay: float = 0.0
    """Seconds that it takes beside those of all calls."""


HANG = Fault(hang=True)


@dataclass(frozen=True, slots=True)
class Odds:
    """One call of ``kind`` (None: any) in ``1 / probability`` meets ``fault``."""

    probability: float
    fault: Fault
    kind: Kind | None = None


class Injecting(Wrapper):
    """``delay``: seconds that each call takes, or each of a kind. ``rate``: bytes a second of the line that
    all reads and writes share."""

    def __init__(
        self,
        inner: Source,
        *,
        delay: float | Mapping[Kind, float] = 0.0,
        rate: float | None = None,
        odds: Sequence[Odds] = (),
        seed: int = 0,
        clock: Clock = MONOTONIC,
    ) -> None:
        super().__init__(inner)
        self._delays = delay if isinstance(delay, Mapping) else dict.fromkeys(Kind, delay)
        self._line = Rate(rate) if rate else None
        self._odds = tuple(odds)
        self._seed = seed
        self._clock = clock
        self._lock = threading.Lock()
        self._made: Counter[tuple[Kind, bytes, int]] = Counter()
        self._script: dict[Kind | None, deque[Fault | None]] = {}
        self._released = threading.Event()
        self._closing = threading.Event()
        self.hanging = 0
        """Calls that wait for ``release``, now."""

    def script(self, *faults: Fault | None, kind: Kind | None = None) -> None:
        """What the next calls (of ``kind``) meet, one each, before odds are asked; None: nothing."""
        with self._lock:
            self._script.setdefault(kind, deque()).extend(faults)

    def release(self) -> None:
        """Lets go on what hangs; what hangs later waits for the next ``release``."""
        with self._lock:
            self._released.set()
            self._released = threading.Event()

    def around(self, kind: Kind, path: bytes, call: Callable[[], T]) -> T:
        """See ``Wrapper.around``."""
        fault = self._met(kind, path, 0)
        self._delay(kind, path, fault)
        if fault is None or not fault.lost:
            self._fail(fault, kind, path)
            return call()
        done = call()
        self._fail(fault, kind, path)
        return done

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

        def call() -> Attributes:
            self._pass(Kind.WRITE, path, size)
            return self.inner.write(path, fd, size, attributes, expected, token)

        return self.around(Kind.WRITE, path, call)

    def read(self, reader: WrappedReader, view: memoryview, offset: int) -> int:
        """See ``Wrapper.read``."""
        fault = self._met(Kind.READ, reader.path, offset)
        self._delay(Kind.READ, reader.path, fault)
        fails = fault is not None and (fault.code or fault.retry_after is not None or fault.short)
        if fault is None or not fails:
            return self._passed(reader, view, offset)
        got = self._passed(reader, view[: int(fault.got * reader.within(len(view), offset))], offset)
        if got and fault.code:
            raise Cut(fault.code, _what(Kind.READ, reader.path, fault.code), got)
        self._fail(fault, Kind.READ, reader.path)
        return got

    def close(self) -> None:
        """Ends delays and hangs with ESHUTDOWN."""
        self._closing.set()
        self.release()
        super().close()

    def _met(self, kind: Kind, path: bytes, offset: int) -> Fault | None:
        with self._lock:
            self._made[kind, path, offset] += 1
            number = self._made[kind, path, offset]
            for script in (self._script.get(kind), self._script.get(None)):
                if script:
                    return script.popleft()
        for which, odds in enumerate(self._odds):
            if odds.kind in (None, kind):
                key = f"{self._seed}/{which}/{kind.value}/{offset}/{number}/".encode() + path
                drawn = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()) / 2**64
                if drawn < odds.probability:
                    return odds.fault
        return None

    def _delay(self, kind: Kind, path: bytes, fault: Fault | None) -> None:
        if fault is not None and fault.hang:
            self._hang()
        self._wait(kind, path, self._delays.get(kind, 0.0) + (fault.delay if fault else 0.0))

    def _hang(self) -> None:
        with self._lock:
            released = self._released
            self.hanging += 1
        if not self._closing.is_set():
            released.wait()
        with self._lock:
            self.hanging -= 1

    def _wait(self, kind: Kind, path: bytes, seconds: float) -> None:
        if self._closing.is_set() or (seconds > 0 and self._clock.wait(self._closing, seconds)):
            raise closed(kind.value, path)

    def _fail(self, fault: Fault | None, kind: Kind, path: bytes) -> None:
        if fault is not None and fault.retry_after is not None:
            raise Busy(_what(kind, path, fault.code), fault.retry_after)
        if fault is not None and fault.code:
            raise OSError(fault.code, _what(kind, path, fault.code))

    def _passed(self, reader: WrappedReader, view: memoryview, offset: int) -> int:
        """A read over the line: its last byte is there when all before it have passed."""
        count = reader.inner.read(view, offset) if len(view) else 0
        self._pass(Kind.READ, reader.path, count)
        return count

    def _pass(self, kind: Kind, path: bytes, nbytes: int) -> None:
        if self._line is None or not nbytes:
            return
        with self._lock:
            now = self._clock.now()
            self._line.reserve(nbytes, now)
            wait = self._line.reserve(0, now) - now
        self._wait(kind, path, wait)


def _what(kind: Kind, path: bytes, code: int) -> str:
    return f"{kind.value} {os.fsdecode(path) or '/'!r}: {os.strerror(code)} (injected)"
