"""What plugins say of open files, and what is asked for because of it: plans, windows, files that follow."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing
from swmld.cache.files import ChunkState
from swmld.mount import hinting
from swmld.mount.hinting import Hinting, Reading
from swmld.plugins.interface import HEAD, NONE, Context, Hints, Range

CHUNK = 1000
COUNT = 50
NODE = 7


@dataclass
class File:
    """A cache file with ``present`` chunks."""

    fd: int
    size: int = CHUNK * COUNT - 1
    chunk_size: int = CHUNK
    nchunks: int = COUNT
    present: set[int] = field(default_factory=set)

    @property
    def complete(self) -> bool:
        return len(self.present) == COUNT

    def state(self, chunk: int) -> ChunkState:
        return ChunkState.PRESENT if chunk in self.present else ChunkState.ABSENT

    def missing(self, first: int, stop: int) -> list[int]:
        return [chunk for chunk in range(first, stop) if chunk not in self.present]

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self.fd, length, offset)


@dataclass
class Target:
    file: File
    fills: bool = True
    holds: int = 0

    def retain(self) -> None:
        self.holds += 1

    def release(self) -> None:
        self.holds -= 1


class Fetcher:
    """Has what is demanded at once; ``flying`` is under way."""

    def __init__(self) -> None:
        self.flying: set[int] = set()
        self.ensured: list[int] = []

    def under_way(self, target: Target, chunk: int) -> bool:
        return chunk in self.flying

    async def ensure(self, target: Target, chunks: Iterable[int]) -> None:
        self.ensured += chunks
        target.file.present.update(chunks)


class Disk:
    async def call(self, function: Callable[[], Any]) -> Any:
        return function()


class Plugins:
    """Gives ``answers`` in turn, the last one again and again."""

    def __init__(self, *answers: Hints | Callable[[Context], Hints]) -> None:
        self.answers = list(answers)
        self.asked: list[Context] = []

    def concerns(self, path: str) -> bool:
        return path.endswith(".known")

    async def hints(self, context: Context) -> Hints:
        self.asked.append(context)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return await trio.to_thread.run_sync(answer, context) if callable(answer) else answer


class Native:
    def path(self, nodeid: int) -> bytes:
        if nodeid != NODE:
            raise FileNotFoundError
        return b"data/a.known"


class Lab:
    """One file that is read, and what was asked for ahead."""

    def __init__(self, file: File, plugins: Plugins, window: int) -> None:
        self.target, self.fetcher, self.plugins = Target(file), Fetcher(), plugins
        self.asked: list[int] = []
        self.full = False
        self.brought: list[tuple[int, list[bytes]]] = []
        self.hinting = Hinting(
            plugins, cast(Any, Native()), cast(Any, self.fetcher), cast(Any, Disk()),
            window=window * CHUNK, bring=lambda nodeid, names: self.brought.append((nodeid, list(names))),
        )  # fmt: skip

    def begin(self, nodeid: int = NODE) -> Reading | None:
        return self.hinting.begin(nodeid, cast(Any, self.target), self._ask)

    def reading(self) -> Reading:
        found = self.begin()
        assert found is not None
        return found

    def _ask(self, chunk: int) -> bool:
        if not self.full:
            self.asked.append(chunk)
        return not self.full


@pytest.fixture
def file(tmp_path: Path) -> Iterator[File]:
    path = tmp_path / "cached"
    path.write_bytes(bytes(n % 251 for n in range(CHUNK * COUNT - 1)))
    fd = os.open(path, os.O_RDONLY)
    yield File(fd)
    os.close(fd)


def with_tasks(lab: Lab, body: Callable[[Lab], Any]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lab.hinting.run)
            await trio.testing.wait_all_tasks_blocked()
            await body(lab)
            nursery.cancel_scope.cancel()

    trio.run(main)


async def asked(lab: Lab, times: int) -> None:
    """Until plugins were asked so often and their answer is known."""
    with trio.fail_after(10):
        await trio.testing.wait_all_tasks_blocked()
        while len(lab.plugins.asked) < times or lab.target.holds:  # a plugin's thread runs
            await trio.testing.wait_all_tasks_blocked(0.001)


def test_nothing_is_asked_before_the_first_read(file: File) -> None:
    async def body(lab: Lab) -> None:
        reading = lab.reading()
        await trio.testing.wait_all_tasks_blocked()
        assert not lab.plugins.asked
        reading.touched(2500, 10)
        await asked(lab, 1)
        assert lab.plugins.asked[0].touched == (Range(2500, 10),)
        assert lab.asked == list(range(10))

    with_tasks(Lab(file, Plugins(Hints(whole=True)), window=10), body)


def test_a_window_goes_with_the_reader(file: File) -> None:
    async def body(lab: Lab) -> None:
        reading = lab.reading()
        reading.touched(0, 10)
        await asked(lab, 1)
        assert lab.asked == [0, 1, 2, 3]
        reading.touched(2 * CHUNK)
        assert lab.asked == [0, 1, 2, 3, 4]
        reading.touched(2 * CHUNK)
        reading.touched(40 * CHUNK)  # not asked for
        assert lab.asked == [0, 1, 2, 3, 4]
        assert len(lab.plugins.asked) == 1  # it did not say again

    with_tasks(Lab(file, Plugins(Hints(whole=True)), window=4), body)


def test_a_window_begins_small_and_grows_while_the_reader_waits(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hinting, "FIRST", 3 * CHUNK)

    async def body(lab: Lab) -> None:
        file.present.add(0)
        reading = lab.reading()
        reading.touched(0, 10)
        await asked(lab, 1)
        assert lab.asked == [1, 2, 3]
        file.present |= {1, 2}
        reading.touched(CHUNK, stop=3)  # both were there in time
        assert lab.asked == [1, 2, 3, 4, 5]
        reading.touched(3 * CHUNK, stop=5)  # two that are on their way
        assert lab.asked == [1, 2, 3, 4, 5, 6, 7, 8, 9]
        for chunk in (40, 45):  # nor is it stuck where the plan is passed over
            reading.touched(chunk * CHUNK)
        assert lab.asked[-1] == 11
        reading.touched(46 * CHUNK, stop=50)
        assert len(lab.asked) - 4 == 8  # never more than the window ahead

    with_tasks(Lab(file, Plugins(Hints(whole=True)), window=8), body)


def test_ranges_become_chunks_once_each_and_in_their_order(file: File) -> None:
    ranges = (Range(30_500, 600), Range(0, 1), Range(30_900, 200), Range(49_990, 5000), Range(5, 0))

    async def body(lab: Lab) -> None:
        lab.reading().touched(0, 10)
        await asked(lab, 1)
        assert lab.asked == [30, 31, 0, 49]

    with_tasks(Lab(file, Plugins(Hints(ranges=ranges)), window=99), body)


def test_what_is_there_or_under_way_is_passed_over(file: File) -> None:
    async def body(lab: Lab) -> None:
        file.present |= {0, 2}
        lab.fetcher.flying.add(1)
        reading = lab.reading()
        reading.touched(0, 10)
        await asked(lab, 1)
        assert lab.asked == [3, 4]
        lab.full = True
        reading.touched(3 * CHUNK)
        lab.full = False
        assert lab.asked == [3, 4]
        reading.touched(4 * CHUNK)  # what was refused is asked for again
        assert lab.asked == [3, 4, 5, 6]

    with_tasks(Lab(file, Plugins(Hints(whole=True)), window=2), body)


def test_it_is_asked_again_as_long_as_it_says_so(file: File) -> None:
    answers = Hints((Range(1000, 1),), again=True), Hints((Range(9000, 1),)), NONE

    async def body(lab: Lab) -> None:
        reading = lab.reading()
        reading.touched(0, 10)
        await asked(lab, 1)
        reading.touched(10, 20)
        reading.touched(5000, 5)
        await asked(lab, 2)
        assert lab.plugins.asked[-1].touched[0] == Range(0, 30)
        reading.touched(7000, 5)
        await trio.testing.wait_all_tasks_blocked()
        assert len(lab.plugins.asked) <= 3
        assert lab.asked == [1, 9]

    with_tasks(Lab(file, Plugins(*answers), window=9), body)


def test_what_is_read_as_planned_is_no_reason_to_ask_again(file: File) -> None:
    async def body(lab: Lab) -> None:
        reading = lab.reading()
        reading.touched(0, 10)
        await asked(lab, 1)
        for chunk in (1, 2, 4, 3, 5, 6, 7, 8, 9, 10, 11):
            reading.touched(chunk * CHUNK)
            await trio.testing.wait_all_tasks_blocked()
        assert len(lab.plugins.asked) == 1
        reading.touched(12 * CHUNK)  # a quarter of them
        await asked(lab, 2)

    with_tasks(Lab(file, Plugins(Hints(whole=True, again=True)), window=99), body)


@pytest.mark.parametrize("places", [(45,), (5, 10, 15, 20, 25, 30)])
def test_who_passes_over_what_is_planned_is_asked_about_again(file: File, places: tuple[int, ...]) -> None:
    async def body(lab: Lab) -> None:
        reading = lab.reading()
        reading.touched(0, 10)
        await asked(lab, 1)
        for chunk in places:
            reading.touched(chunk * CHUNK)
        await asked(lab, 2)

    with_tasks(Lab(file, Plugins(Hints(whole=True, again=True)), window=99), body)


def test_what_a_plan_has_and_what_the_kernel_reads_behind_it_is_foretold(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hinting, "READAHEAD", 4 * CHUNK)

    async def body(lab: Lab) -> None:
        reading = lab.reading()
        assert not reading.foretold(3)
        reading.touched(30 * CHUNK)
        await asked(lab, 1)
        # Of who reads more than a request the kernel asks for whole ones.
        assert lab.asked == [3, 4, 5, 6, 7, 8, 9, 10, 20]
        assert [chunk for chunk in range(COUNT) if reading.foretold(chunk)] == [*range(3, 19), *range(20, 29)]

    parts = (Range(3 * CHUNK, 4 * CHUNK + 1), Range(20 * CHUNK, 10))
    with_tasks(Lab(file, Plugins(Hints(parts)), window=99), body)


def test_who_is_ahead_of_the_plan_does_not_read_as_planned(file: File) -> None:
    async def body(lab: Lab) -> None:
        reading = lab.reading()
        reading.touched(0, 10)
        await asked(lab, 1)
        assert lab.asked == [0, 1, 2, 3]
        reading._behind = 0
        assert [reading.foretold(chunk) for chunk in (0, 3, 4, 30)] == [True, True, False, False]
        reading.touched(2 * CHUNK)
        assert reading.foretold(4)

    with_tasks(Lab(file, Plugins(Hints(whole=True)), window=4), body)


def test_a_read_of_several_chunks_has_come_to_all_of_them(file: File) -> None:
    async def body(lab: Lab) -> None:
        reading = lab.reading()
        reading.touched(0, 10)
        await asked(lab, 1)
        assert lab.asked == [0, 1, 2, 3]
        reading.touched(CHUNK + 500, 10, stop=4)
        assert lab.asked == [0, 1, 2, 3, 4, 5, 6]
        assert reading.context(b"", lambda offset, length: b"").touched[-1] == Range(1500, 1501)

    with_tasks(Lab(file, Plugins(Hints(whole=True)), window=4), body)


def test_a_plugin_reads_through_the_cache(file: File) -> None:
    seen: list[bytes] = []

    def answer(context: Context) -> Hints:
        seen.append(context.read(2990, 20))
        seen.append(context.read(CHUNK * COUNT - 3, 100))
        seen.append(context.read(CHUNK * COUNT + 3, 100))
        return Hints()

    async def body(lab: Lab) -> None:
        lab.reading().touched(0, 10)
        await asked(lab, 1)
        content = os.pread(file.fd, file.size, 0)
        assert seen == [content[2990:3010], content[-2:], b""]
        assert lab.fetcher.ensured == [2, 3, 49]
        assert lab.plugins.asked[0].head == b""  # chunk 0 was not there, and is not fetched for this

    with_tasks(Lab(file, Plugins(answer), window=9), body)


def test_the_head_is_known_where_it_is_there(file: File) -> None:
    async def body(lab: Lab) -> None:
        file.present.add(0)
        lab.reading().touched(0, 10)
        await asked(lab, 1)
        context = lab.plugins.asked[0]
        assert (context.path, context.size) == ("data/a.known", file.size)
        assert context.head == os.pread(file.fd, HEAD, 0)

    with_tasks(Lab(file, Plugins(NONE), window=9), body)


def test_a_file_that_its_name_does_not_tell_is_asked_about_once_its_head_is_there(file: File) -> None:
    async def body(lab: Lab) -> None:
        reading = lab.reading()
        reading.touched(30 * CHUNK)
        await asked(lab, 1)
        reading.touched(31 * CHUNK)
        await trio.testing.wait_all_tasks_blocked()
        assert len(lab.plugins.asked) == 1
        file.present.add(0)
        for chunk in (32, 33):
            reading.touched(chunk * CHUNK)
            await asked(lab, 2)
        await trio.testing.wait_all_tasks_blocked()
        assert [len(context.head) for context in lab.plugins.asked] == [0, HEAD]
        assert lab.asked == [9]

    with_tasks(Lab(file, Plugins(NONE, Hints((Range(9000, 1),))), window=9), body)


def test_files_that_follow_are_brought_once(file: File) -> None:
    async def body(lab: Lab) -> None:
        reading = lab.reading()
        for n in range(3):
            reading.touched(n * CHUNK)
            await asked(lab, n + 1)
        assert lab.brought == [(NODE, [b"b.known", b"c.known"])]

    hints = Hints(files=("b.known", "below/x.known", "c.known"), again=True)
    with_tasks(Lab(file, Plugins(hints), window=9), body)


def test_a_small_file_may_say_what_follows(file: File) -> None:
    class Index(Native):
        def path(self, nodeid: int) -> bytes:
            return b"data/model.index.json" if nodeid == NODE else b"data/a.known"

    async def body(lab: Lab) -> None:
        lab.hinting._native = cast(Any, Index())
        lab.plugins.concerns = lambda path: True  # type: ignore[method-assign]
        file.present |= set(range(COUNT))
        lab.hinting.opened(8, cast(Any, lab.target))  # not by its name
        lab.hinting.opened(NODE, cast(Any, lab.target))
        await asked(lab, 1)
        assert [context.path for context in lab.plugins.asked] == ["data/model.index.json"]
        assert lab.brought == [(NODE, [b"b.known"])]
        assert lab.asked == []

    with_tasks(Lab(file, Plugins(Hints(whole=True, files=("b.known",))), window=9), body)


def test_what_waits_at_the_end_is_given_back(file: File) -> None:
    async def main() -> None:
        lab = Lab(file, Plugins(NONE), window=9)
        for _ in range(100):
            lab.reading().touched(0, 10)
        assert (lab.target.holds, lab.hinting.dropped) == (64, 36)
        lab.hinting.close()
        assert lab.target.holds == 0

    trio.run(main)


def test_a_file_that_was_closed_is_left_alone(file: File) -> None:
    async def body(lab: Lab) -> None:
        closed = lab.reading()
        closed.touched(0, 10)
        closed.close()
        lab.reading().touched(0, 10)
        await asked(lab, 1)
        await trio.testing.wait_all_tasks_blocked()
        assert len(lab.plugins.asked) == 1
        assert lab.asked == [0]
        assert lab.target.holds == 0

    with_tasks(Lab(file, Plugins(Hints((Range(0, 1),))), window=9), body)


def test_who_is_not_asked(file: File) -> None:
    lab = Lab(file, Plugins(NONE), window=9)
    assert lab.begin(nodeid=8) is None  # it has no name any more
    lab.plugins.concerns = lambda path: False  # type: ignore[method-assign]
    assert lab.begin() is None
    assert Lab(file, Plugins(NONE), window=0).begin() is None
