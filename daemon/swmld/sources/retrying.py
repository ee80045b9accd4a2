"""Asks again what failed for a while: full jitter, a time limit for each call, and a budget for all.

Waits are random between 0 and a bound that doubles, which spreads clients that failed together better than
fixed waits or half-random ones do (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
A ``Retry-After`` is waited for in full, and the random wait on top, so that not all come back at once.

A call for which the budget has nothing left waits on, until its time is over: the few that ask find out for
all whether the source is back, and each one that is answered lets two others ask. Who has no thread to wait
in, as the mount's event loop, makes calls ``hasty`` and waits itself, as ``Again`` says.

A change whose answer was lost may have been made. So where it is made again and finds itself made (the name
that was to go is gone, the directory that was to come is there), that is its answer. A write is known again
by its token, at the source.
"""

from __future__ import annotations

import contextlib
import errno
import random
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from swmld.sources.budgets import Budget
from swmld.sources.counting import SourceStats
from swmld.sources.errors import Busy
from swmld.sources.interface import Attributes, Cut, Room, Source
from swmld.sources.whole import Get
from swmld.sources.wrapping import MONOTONIC, Clock, Kind, WrappedReader, Wrapper, failure

T = TypeVar("T")

PASSING = frozenset({errno.EIO, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ECONNRESET})
"""What may be otherwise the next time. The rest is an answer."""

SHARE = 0.1
"""Retries for each first request, as gRPC's default (``tokenRatio``)."""

A_SECOND = 2.0
"""Retries a second beside those: what an almost idle source may be asked again."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a call is tried. Seconds."""

    limit: float = 20.0
    """No wait ends later than this after the call began. One more try may follow it, of the source's own
    length; below the 30 s after which a fetch is given up."""
    first: float = 0.05
    """Bound of the first wait: a few round trips."""
    longest: float = 5.0
    """Bound of any wait."""


_here = threading.local()


@contextlib.contextmanager
def hasty() -> Iterator[None]:
    """What this thread asks meanwhile is asked once: who made it do so decides whether it is asked again."""
    before, _here.hasty = getattr(_here, "hasty", False), True
    try:
        yield
    finally:
        _here.hasty = before


class Again:
    """Whether and when a call that failed is made again, for all calls of a source. Any thread; nothing here
    waits."""

    def __init__(
        self,
        patience: Patience | None = None,
        budget: Budget | None = None,
        stats: SourceStats | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """``chance`` gives numbers from 0 to 1."""
        self.patience = patience or Patience()
        self.budget = budget or Budget(SHARE, A_SECOND)
        self.stats = stats or SourceStats()
        self._chance = chance

    @property
    def limit(self) -> float:
        """Seconds for which a call is made again."""
        return self.patience.limit

    def pause(self, error: OSError, number: int) -> float | None:
        """Seconds to wait before the ``number``-th retry after ``error``; None: it is an answer."""
        if error.errno not in PASSING:
            return None
        return self._wait(number) + (error.retry_after if isinstance(error, Busy) else 0.0)

    def longer(self, number: int) -> float:
        """Seconds to wait where ``take`` said no, for the ``number``-th time in all."""
        return max(self._wait(number), self.patience.first)

    def take(self) -> bool:
        """Whether a call may be made again now; it then counts as made."""
        if not self.budget.take():
            return False
        self.stats.retried()
        return True

    def answered(self) -> None:
        """A call that was made again was answered."""
        self.budget.answered()

    def gave_up(self) -> None:
        """A call is not made again for want of time."""
        self.stats.gave_up()

    def _wait(self, number: int) -> float:
        bound = self.patience.first * 2.0 ** min(number - 1, 60)
        return self._chance() * min(self.patience.longest, bound)


class Retrying(Wrapper):
    """See the module. ``chance`` gives numbers from 0 to 1."""

    passes = True

    def __init__(
        self,
        inner: Source,
        patience: Patience | None = None,
        *,
        budget: Budget | None = None,
        stats: SourceStats | None = None,
        clock: Clock = MONOTONIC,
        chance: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(inner)
        self._clock = clock
        self.again = Again(patience, budget or Budget(SHARE, A_SECOND, clock=clock), stats, chance)
        self.stats = self.again.stats
        self._closing = threading.Event()

    def around(self, kind: Kind, path: bytes, call: Callable[[], T]) -> T:
        """See ``Wrapper.around``."""
        tries = self._tries()
        while True:
            with tries.survived():
                return call()

    def read(self, reader: WrappedReader, view: memoryview, offset: int) -> int:
        """What came before an error is kept: the next try begins behind it, of the same generation."""
        wanted = reader.within(len(view), offset)
        done = 0
        tries = self._tries()
        while True:
            with tries.survived():
                if done and not reader.inner.current():
                    raise failure(errno.ESTALE, "read", reader.path)
                try:
                    done += reader.inner.read(view[done:], offset + done)
                except Cut as error:
                    done += error.got
                    raise
                if done >= wanted:
                    return done
                raise failure(errno.EIO, "read", reader.path, f"{wanted - done} bytes are missing")

    def whole(self, reader: WrappedReader) -> Get | None:
        """See ``Wrapper.whole``: a first request, as others are."""
        self.again.budget.asked()
        return super().whole(reader)

    def remove(self, path: bytes) -> None:
        """See ``Source.remove``."""
        self._once(lambda: self.inner.remove(path), errno.ENOENT, lambda _: None)

    def remove_dir(self, path: bytes) -> None:
        """See ``Source.remove_dir``."""
        self._once(lambda: self.inner.remove_dir(path), errno.ENOENT, lambda _: None)

    def make_dir(self, path: bytes, attributes: Attributes) -> Attributes:
        """See ``Source.make_dir``."""

        def made(error: OSError) -> Attributes:
            found = self.inner.stat(path)
            if not found.is_dir:
                raise error
            return found

        return self._once(lambda: self.inner.make_dir(path, attributes), errno.EEXIST, made)

    def symlink(self, path: bytes, target: bytes, attributes: Attributes) -> Attributes:
        """See ``Source.symlink``."""

        def made(error: OSError) -> Attributes:
            found = self.inner.stat(path)
            if not stat.S_ISLNK(found.mode) or found.link != target:
                raise error
            return found

        return self._once(lambda: self.inner.symlink(path, target, attributes), errno.EEXIST, made)

    def rename(self, old: bytes, new: bytes) -> None:
        """See ``Source.rename``."""

        def renamed(_: OSError) -> None:
            # ENOENT again, where it is not there either.
            self.inner.stat(new)

        self._once(lambda: self.inner.rename(old, new), errno.ENOENT, renamed)

    def set_xattr(self, path: bytes, name: bytes, value: bytes | None) -> Attributes:
        """See ``Source.set_xattr``."""
        if value is not None:
            return super().set_xattr(path, name, value)
        gone = errno.ENODATA
        return self._once(
            lambda: self.inner.set_xattr(path, name, None), gone, lambda _: self.inner.stat(path)
        )

    def room(self) -> Room | None:
        """See ``Source.room``. Once: who asks does not wait."""
        return self.inner.room()

    def _once(self, call: Callable[[], T], code: int, done: Callable[[OSError], T]) -> T:
        """What cannot be done twice. ``done``: what ``call`` would have returned, where it fails with
        ``code`` because it was made before; raises where it was not."""
        tries = self._tries()
        while True:
            with tries.survived():
                try:
                    return call()
                except OSError as error:
                    if error.errno != code or not tries.lost:
                        raise
                    return done(error)

    def close(self) -> None:
        """Ends waits: their calls end with the error that they waited after."""
        self._closing.set()
        super().close()

    def _tries(self) -> _Tries:
        self.again.budget.asked()
        return _Tries(self._pause, self.again.answered, self._clock.now() + self.again.limit)

    def _pause(self, error: OSError, number: int, deadline: float) -> bool:
        """Waits before the ``number``-th retry; False where there is to be none."""
        wait = self.again.pause(error, number)
        if wait is None or self._closing.is_set() or getattr(_here, "hasty", False):
            return False
        while self._clock.now() + wait <= deadline:
            if self._clock.wait(self._closing, wait):
                return False
            if self.again.take():
                return True
            number += 1
            wait = self.again.longer(number)
        self.again.gave_up()
        return False


class _Tries:
    """The tries of one call."""

    def __init__(
        self, pause: Callable[[OSError, int, float], bool], answered: Callable[[], None], deadline: float
    ) -> None:
        self._pause = pause
        self._answered = answered
        self._deadline = deadline
        self._failed = 0
        self.lost = False
        """Whether one of them may have been done for all that is known: ``Busy`` says that it was not."""

    @contextlib.contextmanager
    def survived(self) -> Iterator[None]:
        """Swallows an error after which another try is to be made."""
        try:
            yield
        except OSError as error:
            self._failed += 1
            self.lost = self.lost or not isinstance(error, Busy)
            if not self._pause(error, self._failed, self._deadline):
                raise
        else:
            if self._failed:
                self._answered()
