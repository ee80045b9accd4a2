"""S3's multi-part uploads: parts at the same time, each tried again by itself, completed or aborted.

An upload that is not completed is aborted, on a connection of its own, so that this works while the source is
being closed, too. One whose abort fails is aborted with the next that is begun. What cannot be aborted is an
upload whose id did not come: it has no parts, and costs nothing.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html has the limits: 10,000 parts of 5 MiB to
5 GiB, the last of them of any size.
"""

from __future__ import annotations

import errno
import logging
import random
import threading
from collections.abc import Callable, Mapping
from typing import TypeVar
from xml.sax.saxutils import escape

from swmld.sources.errors import Busy, failure
from swmld.sources.objects_requests import Answer
from swmld.sources.objects_s3 import Bucket
from swmld.sources.threads import Threads

_log = logging.getLogger("swmld.sources")

T = TypeVar("T")

PARTS = 10_000
MIB = 1 << 20
LARGEST = 5 << 30
"""Bytes of a part, and of a copy with one request."""

LONG = 300.0
"""Seconds beside the usual for what a server does with many bytes at once: completing and copying may take
minutes, https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html."""

_PASSING = (errno.EIO, errno.ETIMEDOUT, errno.EHOSTUNREACH)
_TRIES = 4
_LONGEST = 20.0
"""Seconds of a ``Retry-After`` that are waited for here; longer ones are the caller's affair."""


def part_size(size: int, usual: int) -> int:
    """Bytes of each part: the usual number, more where 10,000 of those do not do, in whole MiB."""
    least = -(-size // PARTS)
    return usual if least <= usual else -(-least // MIB) * MIB


class Again:
    """Tries what may pass: twice 0.1 s, 0.2 s, 0.4 s later at most, and after what the server asks for."""

    def __init__(self, first: float = 0.1) -> None:
        """``first``: bound of the first wait, in seconds."""
        self._first = first
        self._closing = threading.Event()

    def __call__(self, call: Callable[[], T]) -> T:
        for number in range(1, _TRIES):
            try:
                return call()
            except OSError as error:
                if error.errno not in _PASSING:
                    raise
                asked = error.retry_after if isinstance(error, Busy) else 0.0
                wait = asked + random.random() * self._first * 2.0**number
                if asked > _LONGEST or self._closing.wait(wait):
                    raise
        return call()

    def close(self) -> None:
        """Ends waits, with the error that they waited after."""
        self._closing.set()


class Uploads:
    """Multi-part uploads to one bucket."""

    def __init__(self, bucket: Bucket, threads: Threads, again: Again) -> None:
        self._bucket, self._threads, self._again = bucket, threads, again
        self._lock = threading.Lock()
        self._left: list[tuple[str, str]] = []

    def run(
        self,
        key: str,
        count: int,
        begin: Callable[[], Answer],
        part: Callable[[str, int], Mapping[str, str]],
        complete: Callable[[Callable[[Mapping[str, str]], Answer]], Answer],
        what: str,
    ) -> Answer:
        """An object of ``count`` parts. ``part`` sends one by upload id and number from 0 on, and returns the
        elements by which it is named at the end. ``complete`` is given what asks for the end under
        conditions."""
        self._clear(what)
        begun = begin()
        if begun.failed or not (upload := begun.inside("UploadId")):
            raise begun.error(what)
        try:
            parts = self._parts(count, lambda number: part(upload, number), what)
            body = _listed(parts)
            return complete(
                lambda conditions: self._bucket.ask(
                    "POST",
                    key,
                    query={"uploadId": upload},
                    conditions=conditions,
                    body=body,
                    patience=LONG,
                    what=what,
                )
            )
        except BaseException:
            self._abort(key, upload, what)
            raise

    def _parts(self, count: int, part: Callable[[int], T], what: str) -> list[T]:
        failed = threading.Event()

        def one(number: int) -> T | None:
            if failed.is_set():
                return None
            try:
                return self._again(lambda: part(number))
            except BaseException:
                failed.set()
                raise

        return [found for found in self._threads.each(one, range(count), what) if found is not None]

    def _abort(self, key: str, upload: str, what: str) -> None:
        try:
            self._again(lambda: self._aborted(key, upload, what))
        except OSError as error:
            _log.warning("an upload is left for the next write to abort: %s", error)
            with self._lock:
                self._left.append((key, upload))

    def _aborted(self, key: str, upload: str, what: str) -> None:
        answer = self._bucket.ask("DELETE", key, query={"uploadId": upload}, own=True, what=what)
        # 404: it was completed, or a try before this one did it.
        if answer.failed and answer.status != 404:
            raise answer.error(what)

    def _clear(self, what: str) -> None:
        with self._lock:
            left, self._left = self._left, []
        for key, upload in left:
            self._abort(key, upload, what)


def _listed(parts: list[Mapping[str, str]]) -> bytes:
    lines = "".join(
        f"<Part><PartNumber>{number}</PartNumber>"
        + "".join(f"<{name}>{escape(value)}</{name}>" for name, value in named.items())
        + "</Part>"
        for number, named in enumerate(parts, 1)
    )
    space = "http://s3.amazonaws.com/doc/2006-03-01/"
    return f'<CompleteMultipartUpload xmlns="{space}">{lines}</CompleteMultipartUpload>'.encode()


def ended(answer: Answer, result: str, what: str) -> Answer:
    """The answer, if it is a whole ``result``; else its error, EIO for what is neither."""
    if answer.failed:
        raise answer.error(what)
    if f"</{result}>".encode() not in answer.body:
        raise failure(errno.EIO, f"{what}: the answer has no result")
    return answer
