"""Threads of a source, for requests of one call that are made at the same time."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import TypeVar

from swmld.sources.errors import failure

Given = TypeVar("Given")
Result = TypeVar("Result")


class Threads:
    """As many as are said, started when they are needed."""

    def __init__(self, most: int) -> None:
        self._pool = ThreadPoolExecutor(max_workers=max(most, 1), thread_name_prefix="source")

    def begin(self, call: Callable[[], Result], what: str) -> Callable[[], Result]:
        """Runs ``call`` in a thread; what is returned waits for its result. EHOSTUNREACH after ``close``."""
        try:
            future: Future[Result] = self._pool.submit(call)
        except RuntimeError:
            raise failure(errno.EHOSTUNREACH, f"{what}: closed") from None

        def result() -> Result:
            try:
                return future.result()
            except CancelledError:
                raise failure(errno.EHOSTUNREACH, f"{what}: closed") from None

        return result

    def each(self, call: Callable[[Given], Result], given: Iterable[Given], what: str) -> tuple[Result, ...]:
        """The results of all, in order. The first error, once all have ended."""
        waits = [self.begin(lambda one=one: call(one), what) for one in given]  # type: ignore[misc]
        results, first = [], None
        for wait in waits:
            try:
                results.append(wait())
            except OSError as error:
                first = first or error
        if first is not None:
            raise first
        return tuple(results)

    def close(self) -> None:
        """What has not begun never does; what has is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
