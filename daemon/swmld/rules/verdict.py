"""What was decided about one file that is being opened, for the rooms that act on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from swmld.rules.actions import (
    TARGETS,
    Advise,
    Cache,
    Compress,
    Coordinate,
    Effect,
    Prefetch,
    Prioritize,
    Stream,
)  # fmt: skip
from swmld.rules.decide import Outcome

E = TypeVar("E", bound=Effect)


@dataclass(frozen=True, slots=True)
class Verdict:
    """``id`` leads to the decision in the history; what nobody asked for is None. ``job``: the root process
    of the file's readers, 0 not known."""

    id: int
    job: int = 0
    cache: Cache | None = None
    prefetch: Prefetch | None = None
    stream: Stream | None = None
    prioritize: Prioritize | None = None
    advise: Advise | None = None
    coordinate: Coordinate | None = None
    compress: Compress | None = None
    whole: str = ""
    """What the cache's ``pin_fraction`` is a share of; empty where it is not asked for."""

    @property
    def cached(self) -> bool:
        """Whether its bytes may be kept at all."""
        return self.cache is None or self.cache.tier != "none"

    @property
    def level(self) -> int:
        """Of zstd, at which what is fetched of it is compressed; 0: it is not."""
        return self.compress.level if self.compress is not None and self.compress.enabled else 0

    @classmethod
    def of(cls, number: int, outcome: Outcome, job: int = 0) -> Verdict:
        """Each file is decided about when it is opened, so what is done to its directory, dataset, model or
        job is done to it; what names the file itself comes first."""

        def nearest(effect: type[E]) -> E | None:
            found = (outcome.of(effect, target) for target in TARGETS)
            return next((each for each in found if each is not None), None)

        return cls(
            number,
            job,
            nearest(Cache),
            nearest(Prefetch),
            nearest(Stream),
            nearest(Prioritize),
            nearest(Advise),
            nearest(Coordinate),
            nearest(Compress),
        )
