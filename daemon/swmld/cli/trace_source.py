"""Where ``swmld trace`` gets what it shows: a daemon, or a recording that is played back.

Both tell the same messages: ``{"snapshot": {...}}`` each interval and, if asked for, ``{"raw": Raw}`` in
between, with the Names and Processes to read it. Both block: the live view runs them in a thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from swmld.api.client import Client
from swmld.api.patterns import Wanted
from swmld.cli.daemon import Running
from swmld.observe.encoding import Decoder, Raw
from swmld.observe.recording import Reader
from swmld.patterns.feed import Names, Processes


@dataclass(frozen=True, slots=True)
class Batch:
    """A raw batch and what its numbers mean."""

    raw: Raw
    names: Names
    processes: Processes


Told = dict[str, Any] | Batch
Tell = Callable[[Told], None]


class Source(Protocol):
    """What the views are fed from."""

    @property
    def title(self) -> str:
        """The mount, or the recording."""
        ...

    @property
    def only(self) -> str:
        """To whom it is limited, in words; empty: it is not."""
        ...

    def run(self, tell: Tell) -> None:
        """Tell snapshots, and batches if there are any, until the end or ``stop``. Raises SwmldError."""
        ...

    def stop(self) -> None:
        """Make ``run`` return soon; from any thread, also before it has begun."""
        ...

    def zoomed(self, wanted: Wanted) -> Source | None:
        """A source of the batches of some readers alone; None if ``run`` tells all batches already."""
        ...


@dataclass(slots=True)
class Live:
    """A running daemon. ``interval``: seconds between two snapshots; ``raw``: batches too."""

    daemon: Running
    wanted: Wanted = field(default_factory=Wanted)
    interval: float = 1.0
    raw: bool = False
    _client: Client | None = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    @property
    def title(self) -> str:
        return self.daemon.mount

    @property
    def only(self) -> str:
        return self.wanted.words()

    def params(self) -> dict[str, Any]:
        """Of the request."""
        wanted = self.wanted
        given = {"job": wanted.job, "pid": wanted.pid, "path": wanted.path, "limit": wanted.limit}
        return {name: value for name, value in given.items() if value is not None}

    def lines(self, tell: Callable[[dict[str, Any]], None]) -> None:
        """As ``run``, with batches as the lines that the daemon sends."""
        with self.daemon.connect() as client:
            self._client = client
            if not self._stopped:
                params = {**self.params(), "interval": self.interval, "raw": self.raw}
                with self._unless_stopped():
                    client.call("trace", params, tell)

    def run(self, tell: Tell) -> None:
        decoder = Decoder()

        def on_line(message: dict[str, Any]) -> None:
            if "raw" in message:
                tell(Batch(decoder.raw(message["raw"]), decoder, decoder))
            else:
                tell(message["snapshot"])

        self.lines(on_line)

    def stop(self) -> None:
        self._stopped = True
        if self._client is not None:
            self._client.interrupt()

    def zoomed(self, wanted: Wanted) -> Source | None:
        return Live(self.daemon, wanted, self.interval, raw=True)

    @contextmanager
    def _unless_stopped(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            if not self._stopped:
                raise


@dataclass(slots=True)
class Replay:
    """A recording at ``path``, ``speed`` times as fast as it was (0: as fast as it goes).

    ``interval``: seconds of the recorded time between two snapshots; None: one, at the end. ``cut`` says
    after ``run`` why it ended early, if it did.
    """

    path: Path
    wanted: Wanted = field(default_factory=Wanted)
    interval: float | None = 1.0
    speed: float = 1.0
    raw: bool = True
    cut: str | None = field(default=None, init=False)
    _stop: threading.Event = field(default_factory=threading.Event, init=False)

    @property
    def title(self) -> str:
        return str(self.path)

    @property
    def only(self) -> str:
        return self.wanted.words()

    def run(self, tell: Tell) -> None:
        # The engine is needed for this alone.
        from swmld.patterns.engine import Patterns
        from swmld.patterns.views import as_json

        with Reader(self.path) as reader:
            patterns = Patterns(reader, reader)

            def snapshot(now: float) -> None:
                found = {**as_json(patterns.snapshot(now)), **_state(reader.state)}
                tell({**self.wanted.filtered(found)})

            now, due = 0.0, None
            began = time.monotonic()
            for raw in reader:
                now = max(now, raw.at)
                if due is None:
                    first = due = now
                while self.interval is not None and due <= now and not self._stop.is_set():
                    self._wait(began, due - first)
                    snapshot(due)
                    due += self.interval
                if self._stop.is_set():
                    return
                patterns.touch(raw.touches)
                patterns.cursors(raw.cursors)
                patterns.tiers(raw.tiers)
                patterns.waits(raw.waits)
                if self.raw:
                    tell(Batch(raw, reader, reader))
            self.cut = reader.cut
            snapshot(now)

    def _wait(self, began: float, passed: float) -> None:
        if self.speed > 0:
            self._stop.wait(max(0.0, began + passed / self.speed - time.monotonic()))

    def stop(self) -> None:
        self._stop.set()

    def zoomed(self, wanted: Wanted) -> Source | None:
        return None


def _state(told: dict[str, Any]) -> dict[str, Any]:
    """What a daemon said of its probes and of prefetch; nothing where another writer said something else."""
    probe, prefetch = told.get("probe"), told.get("prefetch")
    lost = probe.get("lost") if isinstance(probe, dict) else None
    known = isinstance(lost, dict) and {"how", "why"} <= set(probe or ()) and _counts(lost, *lost)
    return {
        "probe": probe if known else {},
        "prefetch": prefetch if _counts(prefetch, "used_bytes", "wasted_bytes") else {},
    }


def _counts(value: Any, *names: str) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(name), int) for name in names)
