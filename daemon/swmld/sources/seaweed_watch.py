"""Changes as the filer tells them: its metadata subscription, from the moment of asking on.

The stream starts at a time of the filer's own clock, and after a break at the last event that came, so
neither another clock here nor a break loses one. Events that come twice are harmless. A stream can be dead
without ending (a firewall forgets it), so the filer is asked for its time now and then, and where it does
not tell, the stream is begun anew. The filer's own heartbeats are asked for, too: they move the time to
begin from.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

from swmld.sources.interface import Change
from swmld.sources.seaweed_filer import FilerClient, stream_errors

log = logging.getLogger(__name__)

PROBE = 5.0
"""Seconds between two questions whether the filer still answers; within twice that a dead one is noticed."""

AGAIN = 0.5
"""Seconds before the stream is begun again."""

_LONGEST = 5.0
"""Seconds that this grows to while the filer is away."""


class Watch:
    """The changes below ``root``, an absolute path of the filer without a slash at its end."""

    def __init__(self, filer: FilerClient, root: str) -> None:
        self._filer, self._root = filer, root
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._stream: Any = None
        self._since, self._number = 0, -1
        # The filer refuses a second stream of a client; the number is what tells clients.
        self._client, self._epoch = random.getrandbits(31), 0

    def run(self, tell: Callable[[Change], None], ready: Callable[[bool], None]) -> None:
        """See ``Source.watch``."""
        wait = AGAIN
        while not self._closed.is_set():
            try:
                with self._begun() as stream:
                    ready(True)
                    wait = AGAIN
                    with stream_errors("subscription"):
                        for answer in stream:
                            self._heard(answer, tell)
            except OSError as error:
                self._filer.filers.failed(self._number, error)
                if not self._closed.is_set():
                    log.warning("changes at the source are not told: %s", error.strerror)
                if error.errno == errno.EOPNOTSUPP:
                    raise
            finally:
                ready(False)
            self._closed.wait(wait)
            wait = min(2 * wait, _LONGEST)

    @contextlib.contextmanager
    def _begun(self) -> Iterator[Any]:
        """A stream, with a thread beside it that ends it when the filer does not answer any more."""
        before, self._number = self._number, self._filer.filers.current
        now = self._filer.now_ns(self._number)
        if before != self._number:  # it has another clock, and whoever is told begins anew
            self._since = now
        self._epoch += 1
        root = f"{self._root}/"
        stream = self._filer.subscribe(self._number, root, self._since, self._client, self._epoch)
        with self._lock:
            self._stream = stream
            if self._closed.is_set():
                stream.cancel()
        done = threading.Event()
        probe = threading.Thread(target=self._probe, args=(stream, done), name="seaweedfs-probe", daemon=True)
        probe.start()
        try:
            yield stream
        finally:
            done.set()
            stream.cancel()
            probe.join()

    def _probe(self, stream: Any, done: threading.Event) -> None:
        while not done.wait(PROBE):
            try:
                self._filer.now_ns(self._number)
            except OSError as error:
                ended = done.is_set() or self._closed.is_set()
                if not ended and error.errno != errno.EOPNOTSUPP:
                    log.warning("the filer does not answer: %s", error.strerror)
                    stream.cancel()
                return

    def _heard(self, answer: Any, tell: Callable[[Change], None]) -> None:
        for change in changes_of(answer, self._root):
            tell(change)
        self._since = max(self._since, answer.ts_ns)

    def close(self) -> None:
        """Ends ``run``."""
        self._closed.set()
        with self._lock:
            if self._stream is not None:
                self._stream.cancel()


def changes_of(answer: Any, root: str) -> list[Change]:
    """What an event (``SubscribeMetadataResponse``) says of paths below ``root``. Pure.

    A directory that appears is told with all below it: it may have been moved here, its entries one by
    one."""
    event = answer.event_notification
    found: list[Change] = []
    places = (
        (event.old_entry, event.HasField("old_entry"), answer.directory),
        (event.new_entry, event.HasField("new_entry"), event.new_parent_path or answer.directory),
    )
    moved = places[0][1] != places[1][1] or _at(places[0]) != _at(places[1])
    for entry, there, directory in places:
        path = _below(root, f"{directory.rstrip('/')}/{entry.name}")
        if there and path is not None:
            change = Change(path, tree=entry.is_directory and moved)
            if change not in found:
                found.append(change)
    return found


def _at(place: tuple[Any, bool, str]) -> tuple[str, str]:
    return place[2], place[0].name


def _below(root: str, path: str) -> bytes | None:
    """Relative to ``root``, empty for itself; None where it lies elsewhere."""
    if path == root:
        return b""
    return path[len(root) + 1 :].encode() if path.startswith(f"{root}/") else None
