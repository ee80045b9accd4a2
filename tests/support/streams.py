"""What the probes keep and say of one stream: ``bpf/stream.h`` in readable Python, for tests.

Reads go in as first and last page, the events and counters come out as the pattern engine gets them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from swmld.patterns.feed import NOT_EARLY, WINDOW, Cursor, Shape, Touch, TouchFlag, TouchKind

EARLY = 8
"""``SWP_EARLY``."""

SAME = Shape.NEW
"""Relation of a read to one of the same pages: it says nothing."""


def needed(kind: Shape, guess: Shape) -> int:
    """Relations in a row that make a kind. A stride needs two equal distances: one relation."""
    if kind == Shape.RANDOM and guess != Shape.RANDOM:
        return 4
    if guess == Shape.RANDOM and kind != Shape.NEW:
        return 3
    return 1 if guess == Shape.STRIDED else 2


@dataclass
class StreamModel:
    """One file of ``size`` pages (0: not known) read by ``pid``."""

    pid: int
    file: int
    size: int
    first_at: float = 0.0
    last_at: float = 0.0
    event_at: float = 0.0
    next: int = 0
    start: int = 0
    asked: int = 0
    stride: int = 0
    low: int = 1 << 64
    high: int = 0
    reads: int = 0
    pages: int = 0
    cold: int = 0
    faults: int = 0
    wait: float = 0.0
    relations: dict[Shape, int] = field(default_factory=lambda: dict.fromkeys(Shape, 0))
    event_pages: int = 0
    run: int = 0
    kind: Shape = Shape.NEW
    guess: Shape = Shape.NEW
    passes: int = 0
    early: list[int] = field(default_factory=list)

    def read(
        self, first: int, asked: int, at: float, *, cold: bool = False, fault: bool = False, wait: float = 0.0
    ) -> list[Touch]:
        """The pages ``first`` to ``asked`` are read at ``at`` seconds; returns what is said, at most one
        event."""
        last = max(first, min(asked, self.size - 1) if self.size else asked)
        event: TouchKind | None = None
        begin = first
        if not self.reads:
            self.first_at = at
            event = TouchKind.FIRST
        elif self._passes(first, at):
            self.passes += 1
            event = TouchKind.PASS
        else:
            relation = self._relation(first, asked, last)
            self.relations[relation] += 1
            if relation == Shape.SEQUENTIAL:
                begin = min(self.next, last + 1)
            elif relation == SAME:
                begin = last + 1
            if relation != SAME:
                event = self._judge(relation)
            if event == TouchKind.BREAK and at == self.event_at:
                event = None  # one a tick is enough
        if len(self.early) < EARLY:
            self.early.append(min(first, NOT_EARLY))
        if event not in (TouchKind.FIRST, TouchKind.PASS) and first != self.start:
            self.stride = first - self.start
        self.start, self.asked, self.next = first, asked, last + 1
        self.low, self.high = min(self.low, first), max(self.high, last)
        self.reads += 1
        self.pages += last + 1 - begin
        self.cold += cold
        self.faults += fault
        self.wait += wait
        self.last_at = at
        if event is None and self.pages - self.event_pages >= WINDOW and at != self.event_at:
            event = TouchKind.WINDOW
        return [] if event is None else [self._event(event, last, cold, fault)]

    def _passes(self, first: int, at: float) -> bool:
        """It begins anew at page 0 after its end. Small reads within one page look alike: a tick apart."""
        if first or self.next <= self.high:
            return False
        return self.next >= self.size if self.size > 1 else at != self.last_at

    def _relation(self, first: int, asked: int, last: int) -> Shape:
        if first == self.start and asked == self.asked:
            return SAME
        if first == self.next or (first + 1 == self.next and asked >= self.asked):
            return Shape.SEQUENTIAL
        if last + 1 == self.start or (last == self.start and first < self.start):
            return Shape.REVERSE
        if self.stride and first - self.start == self.stride:
            return Shape.STRIDED
        return Shape.RANDOM

    def _judge(self, relation: Shape) -> TouchKind | None:
        again = relation == self.guess
        self.run = self.run + 1 if again else 1
        self.guess = relation
        if relation == self.kind:  # strided: from now on with another stride
            return TouchKind.KIND if relation == Shape.STRIDED and not again else None
        if self.run >= needed(self.kind, relation):
            self.kind = relation
            return TouchKind.KIND
        broken = relation == Shape.RANDOM and self.kind != Shape.NEW and self.run == 1
        return TouchKind.BREAK if broken else None

    def _event(self, kind: TouchKind, last: int, cold: bool, fault: bool) -> Touch:
        self.event_at, self.event_pages = self.last_at, self.pages
        whole = self.size > 0 and self.start == 0 and self.next >= self.size
        flags = TouchFlag(TouchFlag.FAULT * fault | TouchFlag.COLD * cold | TouchFlag.WHOLE * whole)
        return Touch(
            kind,
            self.last_at,
            self.pid,
            self.file,
            self.start,
            last,
            self.size,
            self.stride,
            flags,
            self.kind,
        )

    @property
    def cursor(self) -> Cursor:
        """The counters as they are now."""
        relations = self.relations
        return Cursor(
            first_at=self.first_at,
            last_at=self.last_at,
            event_at=self.event_at,
            next=self.next,
            start=self.start,
            asked=self.asked,
            stride=self.stride,
            size=self.size,
            low=self.low,
            high=self.high,
            reads=self.reads,
            pages=self.pages,
            cold=self.cold,
            partial=0,
            faults=self.faults,
            direct=0,
            wait=self.wait,
            sequential=relations[Shape.SEQUENTIAL],
            reverse=relations[Shape.REVERSE],
            strided=relations[Shape.STRIDED],
            random=relations[Shape.RANDOM],
            same=relations[SAME],
            event_pages=self.event_pages,
            run=self.run,
            tid=self.pid,
            kind=int(self.kind),
            guess=int(self.guess),
            pending=0,
            passes=self.passes,
            missed=0,
            written=0,
            written_at=0.0,
            bursts=0,
            early=tuple(self.early + [NOT_EARLY] * (EARLY - len(self.early))),
        )
