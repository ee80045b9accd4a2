"""Bytes that are fetched ahead because of a decision: each is counted once, whatever becomes of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from swmld.cache.files import ChunkState
from swmld.mount.ahead import NeighbourPrefetch
from swmld.mount.asked import ANY, Order, Wanted, What
from swmld.mount.awaited import Awaited
from swmld.mount.fetching import Fetching
from swmld.mount.opens import Counters, OpenFile
from swmld.plan.readahead import Limits, Streams
from swmld.types import FetchClass

CHUNK = 1000
COUNT = 4
SIZE = CHUNK * COUNT - 1
DECISION = 5


@dataclass
class File:
    """A cache file of four chunks, the last one short."""

    file_id: int
    dead: bool = False
    present: set[int] = field(default_factory=set)
    size = SIZE
    chunk_size = CHUNK
    nchunks = COUNT

    @property
    def complete(self) -> bool:
        return len(self.present) == COUNT

    def state(self, chunk: int) -> ChunkState:
        return ChunkState.PRESENT if chunk in self.present else ChunkState.ABSENT

    def missing(self, first: int, stop: int) -> list[int]:
        return [chunk for chunk in range(first, stop) if chunk not in self.present]

    def extent(self, chunk: int) -> tuple[int, int]:
        return chunk * CHUNK, min(CHUNK, SIZE - chunk * CHUNK)


@dataclass
class Target:
    file: File
    fills: bool = True
    terms: Any = None
    identity: Any = None

    @property
    def key(self) -> int:
        return self.file.file_id

    def release(self) -> None:
        pass


class Ledger:
    """What was told, by decision."""

    def __init__(self) -> None:
        self.told: defaultdict[int, Counter[str]] = defaultdict(Counter)

    def __call__(self, decision: int, **nbytes: int) -> None:
        assert decision
        self.told[decision].update(nbytes)

    def check(self) -> None:
        for told in self.told.values():
            assert told["asked"] >= told["fetched"] + told["late"]
            assert told["fetched"] >= told["used"] + told["wasted"]

    def total(self, what: str) -> int:
        return sum(told[what] for told in self.told.values())


class Fetcher:
    """Takes every chunk that is neither there nor asked for."""

    def __init__(self) -> None:
        self.flying: dict[tuple[int, int], tuple[Target, int, Callable[[Any, int], None] | None]] = {}

    def request(
        self,
        target: Target,
        chunk: int,
        cls: FetchClass,
        *,
        deadline: float | None = None,
        on_late: Callable[[Any, int], None] | None = None,
    ) -> bool:
        if (target.key, chunk) in self.flying:
            return cls is FetchClass.DEMAND
        self.flying[target.key, chunk] = target, chunk, on_late
        return True

    def forget(self, target: Target) -> None:
        self.flying = {key: one for key, one in self.flying.items() if one[0] is not target}

    def end(self, number: int) -> tuple[Target, int, Callable[[Any, int], None] | None] | None:
        """One flight, which is no more."""
        keys = list(self.flying)
        return self.flying.pop(keys[number % len(keys)]) if keys else None


class Native:
    """Nobody's parent, and deaf."""

    watched: Any = None

    def parent(self, nodeid: int) -> tuple[int, bytes]:
        raise OSError

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


class Gate:
    async def call(self, function: Callable[[], Any], undo: Any = None, *, patient: bool = True) -> Any:
        return function()


@dataclass
class Entry:
    nodeid: int
    size: int = SIZE


class Ahead:
    """``NeighbourPrefetch`` over a source of three files, of which each has two generations."""

    def __init__(self, most: int = 1 << 16) -> None:
        self.ledger, self.fetcher = Ledger(), Fetcher()
        self.files = {(node, made): File(10 * node + made) for node in range(3) for made in range(2)}
        self.current = dict.fromkeys(range(3), 0)
        nothing = cast(Any, None)
        self.ahead = NeighbourPrefetch(
            cast(Any, Native()), cast(Any, Gate()), nothing, cast(Any, self), cast(Any, self.fetcher),
            nothing, whole_limit=CHUNK, max_files=0, fresh=1.0, brought=self.ledger,
        )  # fmt: skip
        self.ahead._awaited = Awaited(self.ledger, most)

    def load_small(self, parent: int, name: bytes, limit: int) -> tuple[Entry, Target]:
        node = int(name)
        return Entry(node), Target(self.files[node, self.current[node]])

    def bring(self, node: int, decision: int, part: int = ANY) -> None:
        order = Order(decision, limit=ANY, part=part)
        trio.run(self.ahead._bring, Wanted(What.FILE, 1, str(node).encode(), order))

    def land(self, number: int) -> None:
        if (found := self.fetcher.end(number)) is not None:
            target, chunk, _ = found
            target.file.present.add(chunk)
            self.ahead.on_landed(cast(Any, target), chunk)

    def fail(self, number: int, *, late: bool) -> None:
        if (found := self.fetcher.end(number)) is not None:
            target, chunk, on_late = found
            if late and on_late is not None:
                on_late(target, chunk)
            else:
                self.ahead.on_failed(cast(Any, target), chunk)

    def open(self, node: int) -> None:
        self.ahead.on_open(node)

    def replace(self, node: int, told: bool) -> None:
        """Another generation; that the old one went is told at once, or has been before anything landed."""
        old = self.files[node, self.current[node]]
        old.dead = True
        if told:
            self.ahead._awaited.gone(old.file_id)
        self.files[node, self.current[node]] = File(old.file_id + 1000)
        self.current[node] ^= 1


NUMBERS = st.integers(0, 20)
NODES = st.integers(0, 2)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("bring"), NODES, st.integers(0, 3), st.sampled_from([CHUNK, 2 * CHUNK, ANY])),
        st.tuples(st.just("land"), NUMBERS),
        st.tuples(st.just("land"), NUMBERS),
        st.tuples(st.just("fail"), NUMBERS, st.booleans()),
        st.tuples(st.just("open"), NODES),
        st.tuples(st.just("replace"), NODES, st.booleans()),
    ),
    max_size=30,
)


@given(STEPS, st.integers(1, 3))
def test_each_byte_of_files_fetched_ahead_is_counted_once(steps: list[tuple[Any, ...]], most: int) -> None:
    lab = Ahead(most)
    for name, *arguments in steps:
        if name == "fail":
            lab.fail(arguments[0], late=arguments[1])
        else:
            getattr(lab, name)(*arguments)
        lab.ledger.check()
        assert len(lab.ahead._awaited) <= most
    while lab.fetcher.flying:
        lab.land(0)
        lab.ledger.check()
    for node in range(3):
        lab.open(node)
    assert lab.ledger.total("fetched") == lab.ledger.total("used") + lab.ledger.total("wasted")
    assert not lab.ahead._decided
    assert not lab.ahead._awaited._nodes


def test_what_is_still_on_its_way_when_the_file_is_opened_is_late() -> None:
    lab = Ahead()
    lab.bring(1, DECISION)
    lab.land(0)
    lab.open(1)
    for _ in range(COUNT):
        lab.land(0)
    told = lab.ledger.told[DECISION]
    assert told == {"asked": SIZE, "fetched": CHUNK, "used": CHUNK, "late": SIZE - CHUNK}
    lab.open(1)
    assert lab.ledger.told[DECISION] == told, "one use counts"


def test_what_goes_before_its_first_open_is_wasted_by_who_asked_for_it() -> None:
    lab = Ahead()
    lab.bring(1, 7, CHUNK)
    lab.land(0)
    lab.bring(1, 8)
    for _ in range(COUNT):
        lab.land(0)
    lab.replace(1, told=True)
    lab.open(1)
    assert lab.ledger.told[7] == {"asked": CHUNK, "fetched": CHUNK, "wasted": CHUNK}
    rest = SIZE - CHUNK
    assert lab.ledger.told[8] == {"asked": rest, "fetched": rest, "wasted": rest}


def test_another_generation_wastes_what_was_fetched_of_the_one_before() -> None:
    lab = Ahead()
    lab.bring(1, 7, CHUNK)
    lab.land(0)
    lab.replace(1, told=False)
    lab.bring(1, 8, CHUNK)
    lab.land(0)
    lab.open(1)
    assert lab.ledger.told[7] == {"asked": CHUNK, "fetched": CHUNK, "wasted": CHUNK}
    assert lab.ledger.told[8] == {"asked": CHUNK, "fetched": CHUNK, "used": CHUNK}


def test_what_lands_in_a_file_that_has_gone_is_wasted() -> None:
    lab = Ahead()
    lab.bring(1, DECISION, CHUNK)
    lab.replace(1, told=True)
    lab.land(0)
    assert lab.ledger.told[DECISION] == {"asked": CHUNK, "fetched": CHUNK, "wasted": CHUNK}


def test_of_too_many_the_oldest_is_wasted() -> None:
    lab = Ahead(most=1)
    for node in (1, 2):
        lab.bring(node, node, CHUNK)
        lab.land(0)
    assert lab.ledger.told[1]["wasted"] == CHUNK
    assert lab.ledger.told[2]["wasted"] == 0


@pytest.mark.trio
async def test_a_thread_tells_of_evictions() -> None:
    ledger = Ledger()
    awaited, file = Awaited(ledger), File(3)
    awaited.evicted(3)  # nobody listens yet
    awaited.listen()
    awaited.landed(1, file, DECISION, CHUNK)
    await trio.to_thread.run_sync(awaited.evicted, 4)
    await trio.to_thread.run_sync(awaited.evicted, 3)
    await trio.testing.wait_all_tasks_blocked()
    assert ledger.told[DECISION] == {"fetched": CHUNK, "wasted": CHUNK}


# --- chunks of a file that is open


class Opened:
    """One open file whose chunks are fetched ahead because of a decision."""

    def __init__(self) -> None:
        self.ledger, self.fetcher = Ledger(), Fetcher()
        self.fetching = Fetching(
            cast(Any, Native()), cast(Any, self.fetcher), Counters(),
            whole_limit=CHUNK, limits=Limits(), decider=cast(Any, self),
        )  # fmt: skip
        self.brought, self.watches = self.ledger, False
        self.target = Target(File(1))
        streams = Streams(CHUNK, SIZE, Limits(max_window=0))
        self.file = OpenFile(1, target=cast(Any, self.target), streams=streams, decision=DECISION)
        self.fetching._by_key[1] = self.file

    def ahead(self, chunk: int) -> None:
        self.fetching.ahead(self.file, cast(Any, self.target), chunk)

    def touch(self, chunk: int) -> None:
        if chunk not in self.target.file.present:
            self.fetcher.request(self.target, chunk, FetchClass.DEMAND)
        self.fetching.touch(self.file, (chunk,))

    def land(self, number: int) -> None:
        if (found := self.fetcher.end(number)) is not None:
            self.target.file.present.add(found[1])
            self.fetching.on_landed(cast(Any, found[0]), found[1])

    def fail(self, number: int, late: bool) -> None:
        if (found := self.fetcher.end(number)) is not None:
            target, chunk, on_late = found
            if late and on_late is not None:
                on_late(target, chunk)
            else:
                self.fetching.on_failed(cast(Any, target), chunk, 5)

    def do(self, steps: Iterable[tuple[Any, ...]]) -> Counter[str]:
        async def run() -> None:
            for name, *arguments in steps:
                getattr(self, name)(*arguments)
                self.ledger.check()

        trio.run(run)  # streams look at its clock
        return self.ledger.told[DECISION]

    def close(self) -> None:
        if self.file.target is not None:
            self.fetching.drop(self.file)


CHUNKS = st.integers(0, COUNT - 1)
TOUCHES = st.lists(
    st.one_of(
        st.tuples(st.just("ahead"), CHUNKS),
        st.tuples(st.just("touch"), CHUNKS),
        st.tuples(st.just("land"), NUMBERS),
        st.tuples(st.just("fail"), NUMBERS, st.booleans()),
    ),
    max_size=30,
)


@given(TOUCHES)
def test_each_byte_of_an_open_file_is_counted_once(steps: list[tuple[Any, ...]]) -> None:
    lab = Opened()
    lab.do(steps)
    told = lab.do([("land", 0)] * COUNT + [("close",)])
    assert told["fetched"] == told["used"] + told["wasted"]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("ahead land touch close", {"asked": CHUNK, "fetched": CHUNK, "used": CHUNK, "wasted": 0}),
        ("ahead touch land touch close", {"asked": CHUNK, "late": CHUNK, "wasted": 0}),
        ("ahead land close", {"asked": CHUNK, "fetched": CHUNK, "wasted": CHUNK}),
        ("ahead close land", {"asked": CHUNK, "wasted": 0}),
        ("ahead fail close", {"asked": CHUNK, "wasted": 0}),
        ("touch ahead land close", {"wasted": 0}),
    ],
)
def test_what_becomes_of_a_chunk(steps: str, expected: dict[str, int]) -> None:
    arguments: dict[str, tuple[Any, ...]] = {"close": (), "land": (0,), "fail": (0, False)}
    lab = Opened()
    told = lab.do((name, *arguments.get(name, (1,))) for name in steps.split())
    assert told == expected
