"""What an answer of the rules means for the fetches and the readahead of a file."""

from __future__ import annotations

import queue
import time
from pathlib import Path

import pytest
from support.pages import forget, resident
from support.waiting import until
from swmld.fetch.sharing import Terms
from swmld.mount import advising
from swmld.mount.advising import LOAD_STEP, PageCache
from swmld.mount.deciding import PACK_MINIMUM, acts_at_opens, at_once, fetch_terms, file_limits, packing_level
from swmld.plan.readahead import Limits
from swmld.rules.actions import Advise, Cache, Compress, Prefetch, Prioritize, Stream
from swmld.rules.verdict import Verdict
from swmld.types import FetchClass

CHUNK = 1 << 20
USUAL = Limits()


@pytest.mark.parametrize(
    ("verdict", "terms"),
    [
        (None, None),
        (Verdict(1, 7, cache=Cache()), None),
        (Verdict(1, 7, prioritize=Prioritize()), None),
        (Verdict(1, 7, prioritize=Prioritize(io_priority="idle")), None),
        (Verdict(1, 7, stream=Stream(drop_behind=True)), None),
        (Verdict(1, 7, prioritize=Prioritize("demand", -3)), Terms(FetchClass.DEMAND, -3, 7)),
        (Verdict(1, 7, prioritize=Prioritize(bandwidth_share=25.0)), Terms(job=7, share=0.25)),
        (Verdict(1, 7, prioritize=Prioritize(bandwidth_share=100.0)), None),
        (Verdict(1, 7, prioritize=Prioritize(bandwidth_share=0.0)), Terms(job=7, share=0.001)),
        (Verdict(1, 7, stream=Stream(5000, 3)), Terms(job=7, request=8192, parallel=3)),
    ],
)
def test_terms(verdict: Verdict | None, terms: Terms | None) -> None:
    assert fetch_terms(verdict) == terms


@pytest.mark.parametrize(
    ("verdict", "first", "window"),
    [
        (None, 2, 32),
        (Verdict(1, cache=Cache()), 2, 32),
        (Verdict(1, advise=Advise("random")), 2, 0),
        (Verdict(1, advise=Advise(readahead=0)), 1, 0),
        (Verdict(1, advise=Advise(readahead=5 * CHUNK)), 5, 5),
        (Verdict(1, stream=Stream(4096, 16)), 2, 32),
        (Verdict(1, stream=Stream(parallel_streams=200)), 200, 200),
        (Verdict(1, stream=Stream(parallel_streams=200), advise=Advise("random")), 200, 0),
        (Verdict(1, advise=Advise(readahead=0), prefetch=Prefetch(window=3 * CHUNK)), 1, 3),
        (Verdict(1, advise=Advise(readahead=5 * CHUNK), prefetch=Prefetch(enabled=False)), 5, 0),
    ],
)
def test_readahead(verdict: Verdict | None, first: int, window: int) -> None:
    limits = file_limits(verdict, USUAL, CHUNK)
    assert (limits.first_window, limits.window(CHUNK)) == (first, window)


@pytest.mark.parametrize(
    ("verdict", "chunks"),
    [
        (Verdict(1, advise=Advise("sequential")), [0, 1, 2]),
        (Verdict(1, advise=Advise("sequential"), prefetch=Prefetch(footer=1)), [0, 1, 2, 9]),
        (Verdict(1, advise=Advise("sequential"), prefetch=Prefetch(enabled=False)), []),
        (Verdict(1, advise=Advise("willneed")), []),
        (Verdict(1, stream=Stream(4096, 16)), []),
    ],
)
def test_what_is_fetched_at_the_open(verdict: Verdict, chunks: list[int]) -> None:
    assert at_once(verdict, 10 * CHUNK, CHUNK, file_limits(verdict, USUAL, CHUNK)) == chunks


@pytest.mark.parametrize(
    ("verdict", "acts"),
    [
        (Verdict(1, prioritize=Prioritize("prefetch", 3), stream=Stream(4096, 2)), False),
        (Verdict(1, advise=Advise()), False),
        (Verdict(1, prioritize=Prioritize(io_priority="idle")), True),
        (Verdict(1, advise=Advise("dontneed")), True),
        (Verdict(1, advise=Advise(readahead=0)), True),
        (Verdict(1, stream=Stream(drop_behind=True)), True),
        (Verdict(1, cache=Cache(tier="memory")), True),
        (Verdict(1, cache=Cache()), False),
    ],
)
def test_what_is_done_at_each_open(verdict: Verdict, acts: bool) -> None:
    assert acts_at_opens(verdict) == acts


class Native:
    """Notes what the kernel would be told."""

    def __init__(self) -> None:
        self.told: queue.Queue[tuple[int, ...]] = queue.Queue()

    def forget_pages(self, *what: int) -> None:
        self.told.put(what)


@pytest.mark.parametrize(
    ("path", "size", "level"),
    [
        (b"a/b.txt", 1 << 20, 3),
        (b"a/b.txt", PACK_MINIMUM, 3),
        (b"a/b.txt", PACK_MINIMUM - 1, 0),
        (b"a/b.JPG", 1 << 20, 0),
        (b"a.gz/model.pt", 1 << 20, 3),
        (b"a/b.npz", 1 << 20, 3),
        (b"a/b.tar.gz", 1 << 20, 0),
        (b"a/noextension", 1 << 20, 3),
        (b"gz", 1 << 20, 3),
    ],
)
def test_what_is_worth_compressing(path: bytes, size: int, level: int) -> None:
    assert packing_level(3, path, size) == level
    assert packing_level(0, path, size) == 0


def test_the_level_of_a_verdict() -> None:
    assert Verdict(1).level == 0
    assert Verdict(1, compress=Compress()).level == 3
    assert Verdict(1, compress=Compress(level=9)).level == 9
    assert Verdict(1, compress=Compress(enabled=False, level=9)).level == 0


def test_half_of_the_room_in_memory_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cached"
    path.write_bytes(bytes(16 * LOAD_STEP))
    forget(path)
    assert resident(path) == 0
    monkeypatch.setattr(advising, "_available", lambda: 7 * LOAD_STEP)
    with path.open("rb") as file:
        advising._load(file.fileno(), [(0, 2 * LOAD_STEP), (4 * LOAD_STEP, 8 * LOAD_STEP)])
    until(lambda: resident(path) == 7 * LOAD_STEP // 2 // 4096, lambda: f"{resident(path)} pages")


def test_pages_are_loaded_and_let_go(tmp_path: Path) -> None:
    """Also dirty ones, and those of the source, whose descriptor is closed at once."""
    path, native = tmp_path / "cached", Native()
    path.write_bytes(bytes(16 * 4096))
    assert resident(path) == 16
    pages = PageCache(native)  # type: ignore[arg-type]

    def until_done() -> None:
        """What comes later is begun when all before it is done."""
        pages.forget(7, str(tmp_path / "evicted"))
        assert native.told.get(timeout=10) == (7, 0, 0)

    pages.forget(5, str(path))
    assert native.told.get(timeout=10) == (5, 0, 0)
    until_done()
    assert resident(path) == 0
    pages.load(str(path), [(0, path.stat().st_size)])
    deadline = time.monotonic() + 10
    while resident(path) < 16:  # they are on their way
        assert time.monotonic() < deadline
    with path.open("rb") as source:
        pages.forget_source(source.fileno(), 0, 0)
    until_done()
    assert resident(path) == 0
    pages.close()
