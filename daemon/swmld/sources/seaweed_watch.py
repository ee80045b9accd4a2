"""Changes as the filer tells them: its metadata subscription, from the moment of asking on.

The stream starts at a time of the filer's own clock, and after a break at the last event that came, so
neither another clock here nor a break loses one. Events that come twice are harmless. A stream can be dead
without ending (a firewall forgets it), so the filer is asked for its time now and then, and where it does
not tell, the stream is begun anew. The filer's own heartbeats are asked for, too: they move the time to
begin from.

What this client changes itself the filer does not tell it, by its signature: the answer has said it all.
Where that never came, or said nothing, the path is in doubt: it is told of once at that moment, and the
stream is begun again as soon as the filer answers, with another signature and from before the change, which
is told like anybody's then, if and when it is made.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from swmld.sources.counting import Told
from swmld.sources.interface import Change
from swmld.sources.seaweed_filer import FilerClient, stream_errors

log = logging.getLogger(__name__)

PROBE = 5.0
"""Seconds between two questions whether the filer still answers; within twice that a dead one is noticed."""

AGAIN = 0.5
"""Seconds before the stream is begun again."""

_LATE = 1024
"""Paths in doubt at most that are still to be told: who is told begins anew a moment later."""

_LONGEST = 5.0
"""Seconds that this grows to while the filer is away."""


class Watch:
    """The changes below ``root``, an absolute path of the filer without a slash at its end."""

    def __init__(self, filer: FilerClient, root: str) -> None:
        self._filer, self._root = filer, root
        self._closed = threading.Event()
        self._told = Told()
        self._lock = threading.Lock()
        self._stream: Any = None
        self._since, self._number = 0, -1
        # The filer refuses a second stream of a client; the number is what tells clients.
        self._client, self._epoch = random.getrandbits(31), 0
        self._late: list[str] = []
        """What is in doubt and to be told of."""
        self._doubted = False
        """The stream is to be begun again, from where it was when the first doubt came."""
        self._wake = threading.Event()
        filer.doubted = self._doubt

    def run(self, tell: Callable[[Change], None], ready: Callable[[bool], None]) -> None:
        """See ``Source.watch``."""
        wait = AGAIN
        while not self._closed.is_set():
            begun = False
            try:
                with self._begun(tell) as stream:
                    ready(True)
                    wait, begun = AGAIN, True
                    with stream_errors("subscription"):
                        for answer in stream:
                            self._heard(answer, tell)
            except OSError as error:
                if begun and self._doubted and not self._closed.is_set():
                    log.info("it is not known what became of a change: all are told again since before it")
                    continue
                self._filer.filers.failed(self._number, error)
                if not self._closed.is_set() and self._told.again(error.errno):
                    log.warning("changes at the source are not told: %s", error.strerror)
                if error.errno == errno.EOPNOTSUPP:
                    raise
            finally:
                ready(False)
            self._closed.wait(wait)
            wait = min(2 * wait, _LONGEST)

    @contextlib.contextmanager
    def _begun(self, tell: Callable[[Change], None]) -> Iterator[Any]:
        """A stream, with a thread beside it that ends it when the filer does not answer any more, and tells
        of what is in doubt: who is in doubt holds locks of the kernel."""
        before, self._number = self._number, self._filer.filers.current
        now = self._filer.now_ns(self._number)
        if before != self._number:  # it has another clock, and whoever is told begins anew
            self._since = now
        self._epoch += 1
        root = f"{self._root}/"
        with self._lock:
            self._doubted = False
            stream = self._filer.subscribe(self._number, root, self._since, self._client, self._epoch)
            self._late.clear()  # whoever is told begins anew
            self._stream = stream
            if self._closed.is_set():
                stream.cancel()
        done = threading.Event()
        probe = threading.Thread(
            target=self._probe, args=(stream, done, tell), name="seaweedfs-probe", daemon=True
        )
        probe.start()
        try:
            yield stream
        finally:
            done.set()
            self._wake.set()
            stream.cancel()
            probe.join()

    def _probe(self, stream: Any, done: threading.Event, tell: Callable[[Change], None]) -> None:
        answered = time.monotonic()
        while True:
            if self._wake.wait(AGAIN if self._doubted else PROBE):
                self._wake.clear()
                self._tell_late(tell)
            if done.is_set():
                return
            try:
                self._filer.now_ns(self._number)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    if time.monotonic() - answered < PROBE:  # it may only have been in doubt
                        continue
                    if not (done.is_set() or self._closed.is_set()):
                        log.warning("the filer does not answer: %s", error.strerror)
                        stream.cancel()
                    return
            answered = time.monotonic()
            if self._doubted:
                stream.cancel()
                return

    def _heard(self, answer: Any, tell: Callable[[Change], None]) -> None:
        # Filers that do not look for it are looked after here.
        if self._filer.signature not in answer.event_notification.signatures:
            for change in changes_of(answer, self._root):
                tell(change)
        with self._lock:
            if not self._doubted:
                self._since = max(self._since, answer.ts_ns)

    def _doubt(self, paths: list[str]) -> None:
        with self._lock:
            self._filer.signature = random.getrandbits(31) or 1  # none of those made until now is ours
            self._late = [*self._late, *paths][-_LATE:]
            self._doubted = True
        self._wake.set()

    def _tell_late(self, tell: Callable[[Change], None]) -> None:
        with self._lock:
            late, self._late = self._late, []
        for path in late:
            if (below := _below(self._root, path)) is not None:
                tell(Change(below, tree=True))

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
    found: list[Change] = []
    places = _places(answer)
    moved = len({(entry.name, directory) for entry, directory in places}) != 1 or len(places) == 1
    for entry, directory in places:
        path = _below(root, f"{directory}/{entry.name}")
        if path is not None:
            change = Change(path, tree=entry.is_directory and moved)
            if change not in found:
                found.append(change)
    return found


def _places(answer: Any) -> list[tuple[Any, str]]:
    """The entries that an event has, each with its directory, without a slash at its end."""
    event = answer.event_notification
    found = []
    if event.HasField("old_entry"):
        found.append((event.old_entry, answer.directory.rstrip("/")))
    if event.HasField("new_entry"):
        found.append((event.new_entry, (event.new_parent_path or answer.directory).rstrip("/")))
    return found


def _below(root: str, path: str) -> bytes | None:
    """Relative to ``root``, empty for itself; None where it lies elsewhere."""
    if path == root:
        return b""
    return path[len(root) + 1 :].encode() if path.startswith(f"{root}/") else None
