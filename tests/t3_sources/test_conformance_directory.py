"""The suite that every source passes, on a local directory and on each wrapper around one."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.source_conformance import Can, MadeSource, SourceConformance, Writes
from swmld.sources.budgets import Budget
from swmld.sources.counting import Counting
from swmld.sources.directory import DirectorySource
from swmld.sources.hedging import Hedging
from swmld.sources.injecting import Fault, Injecting, Odds
from swmld.sources.interface import Source
from swmld.sources.limiting import Limiting
from swmld.sources.retrying import Patience, Retrying
from swmld.sources.wrapping import Kind

pytestmark = pytest.mark.timeout(120)


class MadeDirectory(MadeSource):
    """Files under ``base``/root; a replaced one comes by a rename from beside it."""

    can = Can.EMPTY_DIRECTORIES | Can.SYMLINKS | Can.MODES | Can.NOT_UTF8 | Can.CONTROL_NAMES
    can |= Can.PARENTS | Can.ONE_MAKER
    chunk = 1 << 17

    def __init__(self, base: Path) -> None:
        self._root = os.fsencode(base / "root")
        self._new = os.fsencode(base / "new")
        self._numbers = itertools.count()
        os.mkdir(self._root)
        os.mkdir(self._new)
        self.source: Source = DirectorySource(self._root)

    def put(self, path: bytes, content: bytes) -> None:
        new = b"%s/%d" % (self._new, next(self._numbers))
        with open(new, "xb") as file:
            file.write(content)
        os.makedirs(os.path.dirname(self._at(path)), exist_ok=True)
        os.rename(new, self._at(path))

    def remove(self, path: bytes) -> None:
        os.unlink(self._at(path))

    def mkdir(self, path: bytes) -> None:
        os.mkdir(self._at(path))

    def symlink(self, path: bytes, to: bytes) -> None:
        os.symlink(to, self._at(path))

    def chmod(self, path: bytes, mode: int) -> None:
        os.chmod(self._at(path), mode)

    def _at(self, path: bytes) -> bytes:
        return self._root + b"/" + path


class TestDirectory(Writes, SourceConformance):
    """The reference."""

    @pytest.fixture
    def made(self, tmp_path: Path) -> MadeSource:
        return MadeDirectory(tmp_path)


READS = (Kind.STAT, Kind.LIST, Kind.OPEN, Kind.READ, Kind.CURRENT)

FAULTS = (
    Odds(0.1, Fault(errno.EIO)),
    Odds(0.1, Fault(errno.ETIMEDOUT, got=0.7), Kind.READ),
    Odds(0.1, Fault(short=True, got=0.3), Kind.READ),
    Odds(0.1, Fault(retry_after=0.0)),
    *(Odds(0.3, Fault(errno.ETIMEDOUT, lost=True), kind) for kind in Kind if kind not in READS),
)


def retrying(inner: Source) -> Source:
    """As often as it takes, without a wait."""
    return Retrying(inner, Patience(first=0.0), budget=Budget(1.0, 1000.0), chance=lambda: 0.0)


def hedging(inner: Source) -> Source:
    """Every read is taken for a slow one at once."""
    source = Hedging(inner, least=0.0, budget=Budget(1.0))
    for size in range(24):
        for _ in range(20):
            source.delays.took(1 << size, 0.0)
    return source


WRAPPERS: dict[str, Callable[[Source], Source]] = {
    "counting": Counting,
    "hedging": hedging,
    "injecting": lambda inner: Injecting(inner, rate=1e10),
    "limiting": lambda inner: Limiting(inner, parallel=3, nbytes=1e10, requests=1e6),
    "retrying": lambda inner: retrying(Injecting(inner, odds=FAULTS)),
    "all": lambda inner: Counting(hedging(retrying(Limiting(Injecting(inner, odds=FAULTS), parallel=3)))),
}


class TestWrapped(Writes, SourceConformance):
    """Each wrapper around it."""

    @pytest.fixture(params=WRAPPERS)
    def made(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MadeSource]:
        made = MadeDirectory(tmp_path)
        made.source = WRAPPERS[request.param](made.source)
        made.unsure = request.param in ("retrying", "all")
        yield made
        made.source.close()
        if isinstance(made.source, Counting):
            assert not any(made.source.stats.counts().in_flight.values())
