"""Retries: which errors, how long between, how many in all, and where a read goes on."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.source_fakes import Caller, Failing, FakeClock, FakeSource, PatientClock
from swmld.sources.budgets import SAVED, Budget
from swmld.sources.directory import DirectorySource
from swmld.sources.errors import Busy
from swmld.sources.injecting import Fault, Injecting
from swmld.sources.interface import Attributes, Cut, NewAttributes, Reader, Source
from swmld.sources.retrying import A_SECOND, PASSING, SHARE, Patience, Retrying

pytestmark = pytest.mark.timeout(60)

CONTENT = bytes(range(256)) * 4


def broken(code: int = errno.EIO) -> OSError:
    return OSError(code, "broken")


class World:
    """A fake source, retried."""

    def __init__(self, *, chance: float = 1.0, **options: Any) -> None:
        self.source = FakeSource(file=CONTENT)
        self.clock = options.pop("clock", None) or FakeClock()
        options.setdefault("budget", Budget(1000.0, clock=self.clock))
        self.retrying = Retrying(self.source, clock=self.clock, chance=lambda: chance, **options)

    def reader(self) -> Reader:
        return self.retrying.open(b"file", self.retrying.stat(b"file"))


def always(code: int = errno.EIO) -> Failing:
    return Failing(*[broken(code)] * 10_000)


@pytest.mark.parametrize("code", sorted(PASSING))
def test_what_passes_is_asked_again(code: int) -> None:
    world = World()
    world.source.meets = Failing(broken(code), broken(code))
    assert world.retrying.stat(b"file").size == len(CONTENT)
    assert len(world.source.calls) == 3
    assert world.retrying.stats.counts().retries == 2


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ESTALE, errno.EOPNOTSUPP])
def test_an_answer_is_an_answer(code: int) -> None:
    world = World()
    world.source.meets = always(code)
    with pytest.raises(OSError) as raised:
        world.retrying.stat(b"file")
    assert raised.value.errno == code
    assert len(world.source.calls) == 1
    assert world.retrying.stats.counts().given_up == 0


@pytest.mark.parametrize("kind", ["stat", "list", "open", "read", "current"])
def test_every_kind_of_call_is_tried_again(kind: str) -> None:
    world = World()
    reader = world.reader()
    world.source.meets = Failing(broken(), kind=kind)
    {
        "stat": lambda: world.retrying.stat(b"file"),
        "list": lambda: world.retrying.list(b""),
        "open": world.reader,
        "read": lambda: reader.read(memoryview(bytearray(10)), 0),
        "current": reader.current,
    }[kind]()
    assert world.retrying.stats.counts().retries == 1


def test_waits_are_random_below_a_bound_that_doubles() -> None:
    for chance in (1.0, 0.5):
        world = World(chance=chance, patience=Patience(limit=100.0, first=0.1, longest=1.0))
        world.source.meets = Failing(*[broken()] * 6)
        world.retrying.stat(b"file")
        assert world.clock.waits == pytest.approx(
            [chance * bound for bound in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0)]
        )


def test_a_call_is_given_up_in_time() -> None:
    world = World(patience=Patience(limit=10.0, first=0.1, longest=1.0))
    world.source.meets = always(errno.ETIMEDOUT)
    with pytest.raises(OSError) as raised:
        world.retrying.stat(b"file")
    assert raised.value.errno == errno.ETIMEDOUT
    assert 9.0 < sum(world.clock.waits) <= 10.0
    assert world.retrying.stats.counts().given_up == 1


def test_who_says_how_long_is_left_alone_for_so_long() -> None:
    world = World(patience=Patience(first=0.1))
    world.source.meets = Failing(Busy("stat", 7.0), Busy("stat", 0.0))
    world.retrying.stat(b"file")
    assert world.clock.waits == pytest.approx([7.1, 0.2])


def test_nobody_waits_for_what_comes_too_late() -> None:
    world = World(patience=Patience(limit=5.0))
    world.source.meets = Failing(Busy("stat", 7.0))
    with pytest.raises(Busy):
        world.retrying.stat(b"file")
    assert world.clock.waits == []
    assert len(world.source.calls) == 1


def test_retries_of_all_callers_together_are_bounded() -> None:
    clock = FakeClock()
    none = Patience(limit=0.0)
    world = World(clock=clock, chance=0.0, budget=Budget(SHARE, A_SECOND, clock=clock), patience=none)
    world.source.meets = always()
    for _ in range(500):
        with pytest.raises(OSError):
            world.retrying.stat(b"file")
    assert len(world.source.calls) == 500 + 500 * SHARE + A_SECOND
    clock.time += 3.0
    for _ in range(20):
        with pytest.raises(OSError):
            world.retrying.stat(b"file")
    assert len(world.source.calls) == pytest.approx(520 + 520 * SHARE + 4 * A_SECOND, abs=1)


def test_without_a_budget_a_call_waits_as_long_as_it_may() -> None:
    """The others have asked too often: it does not fail before its time, and asks hardly more."""
    clock = FakeClock()
    patience = Patience(limit=20.0, first=0.1, longest=1.0)
    world = World(clock=clock, budget=Budget(0.0, 0.5, clock=clock), patience=patience)
    world.source.meets = always()
    for _ in range(3):
        clock.waits.clear()
        before = len(world.source.calls)
        with pytest.raises(OSError):
            world.retrying.stat(b"file")
        assert 19.0 <= sum(clock.waits) <= 20.0
        assert len(world.source.calls) - before <= 1 + 0.5 * 20 + 1
    assert world.retrying.stats.counts().given_up == 3


def test_a_source_that_is_back_is_asked_by_all_soon() -> None:
    """Each answer lets two more ask: 200 that wait do not take the 100 s of the budget's own rate."""
    clock = FakeClock()
    budget = Budget(0.0, A_SECOND, clock=clock)
    left, at = 200, clock.time
    while left:
        for _ in range(left):
            if budget.take():
                budget.answered()
                left -= 1
        clock.time += 1.0
    assert clock.time - at <= 2.0


def test_a_call_without_a_budget_is_answered_once_it_is_its_turn() -> None:
    clock = FakeClock()
    world = World(clock=clock, budget=Budget(0.0, 0.5, clock=clock), patience=Patience(limit=60.0))
    world.source.meets = Failing(*[broken()] * 3)
    assert world.retrying.stat(b"file").size == len(CONTENT)
    assert sum(clock.waits) >= 4.0, "two seconds for each but the first"
    assert world.retrying.stats.counts().retries == 3


def test_a_budget_saves_so_much() -> None:
    clock = FakeClock()
    budget = Budget(0.5, 1.0, clock=clock)
    clock.time += 1e6
    for _ in range(1000):
        budget.asked()
    taken = 0
    while budget.take():
        taken += 1
    assert taken == SAVED


def test_a_share_is_exact() -> None:
    budget = Budget(0.05, clock=FakeClock())
    taken = 0
    for _ in range(1000):
        budget.asked()
        taken += budget.take()
    assert taken == 50


def cutting(source: FakeSource, *parts: int, short: bool = False) -> None:
    """Reads end after so many bytes, one part a read; then they are whole."""
    left = list(parts)

    def fill(view: memoryview, offset: int) -> int:
        part = left.pop(0) if left else len(view)
        found = CONTENT[offset : offset + min(part, len(view))]
        view[: len(found)] = found
        if short or len(found) >= min(len(view), len(CONTENT) - offset):
            return len(found)
        raise Cut(errno.EIO, "cut", len(found))

    source.fills = fill


@pytest.mark.parametrize("short", [False, True])
def test_a_read_goes_on_where_it_ended(short: bool) -> None:
    world = World()
    reader = world.reader()
    cutting(world.source, 100, 0, 50, short=short)
    memory = bytearray(1000)
    assert reader.read(memoryview(memory), 7) == 1000
    assert memory == CONTENT[7:1007]
    assert world.source.reads == [(7, 1000), (107, 900), (107, 900), (157, 850)]


def test_an_error_in_between_keeps_what_came() -> None:
    world = World()
    reader = world.reader()
    cutting(world.source, 100)
    world.source.meets = Failing(None, broken(errno.ETIMEDOUT), kind="read")
    memory = bytearray(500)
    assert reader.read(memoryview(memory), 0) == 500
    assert memory == CONTENT[:500]
    assert world.source.reads == [(0, 500), (100, 400), (100, 400)]


def test_a_read_does_not_go_on_in_another_generation() -> None:
    world = World()
    reader = world.reader()
    cutting(world.source, 100)
    world.source.is_current = False
    with pytest.raises(OSError) as raised:
        reader.read(memoryview(bytearray(500)), 0)
    assert raised.value.errno == errno.ESTALE
    assert len(world.source.reads) == 1


def test_whether_it_is_the_same_generation_may_fail_for_a_while() -> None:
    world = World()
    reader = world.reader()
    cutting(world.source, 100)
    world.source.meets = Failing(broken(), kind="current")
    memory = bytearray(500)
    assert reader.read(memoryview(memory), 0) == 500
    assert memory == CONTENT[:500]


def test_the_end_of_the_file_is_no_cut() -> None:
    world = World()
    reader = world.reader()
    assert reader.read(memoryview(bytearray(5000)), 1000) == len(CONTENT) - 1000
    assert reader.read(memoryview(bytearray(10)), 5000) == 0
    assert world.clock.waits == []


def test_a_file_that_ends_too_soon_is_an_error() -> None:
    world = World(patience=Patience(limit=1.0))
    reader = world.reader()
    world.source.fills = lambda view, offset: 0
    with pytest.raises(OSError, match="24 bytes are missing") as raised:
        reader.read(memoryview(bytearray(100)), 1000)
    assert raised.value.errno == errno.EIO


def test_closing_ends_the_wait() -> None:
    clock = PatientClock()
    world = World(clock=clock)
    world.source.meets = always(errno.ETIMEDOUT)
    caller = Caller(lambda: world.retrying.stat(b"file"))
    assert clock.waiting.wait(30)
    world.retrying.close()
    assert caller.code() == errno.ETIMEDOUT
    assert len(world.source.calls) == 1
    assert world.source.closed


def test_nothing_is_waited_for_once_closed() -> None:
    world = World()
    world.retrying.close()
    world.source.meets = always()
    with pytest.raises(OSError):
        world.retrying.stat(b"file")
    assert world.clock.waits == []


GIVEN = Attributes(stat.S_IFREG | 0o644, uid=os.geteuid(), gid=os.getegid())
LOST, FAILED = Fault(errno.ETIMEDOUT, lost=True), Fault(errno.ETIMEDOUT)
REFUSED = Fault(retry_after=0.0)


class Changed:
    """A directory whose answers are lost, or that fails, as scripted; retried."""

    def __init__(self, root: Path) -> None:
        self.directory: Source = DirectorySource(root)
        self.injecting = Injecting(self.directory)
        clock = FakeClock()
        self.source = Retrying(self.injecting, budget=Budget(1000.0, clock=clock), clock=clock)

    def write(self, path: bytes, token: str = "token") -> Attributes:
        fd = os.memfd_create("written")
        try:
            os.write(fd, b"content")
            return self.source.write(path, fd, 7, GIVEN, None, token)
        finally:
            os.close(fd)


@pytest.fixture
def changed(tmp_path: Path) -> Iterator[Changed]:
    for name in ("full", "empty"):
        (tmp_path / name).mkdir()
    for name in ("file", "full/other"):
        (tmp_path / name).write_bytes(b"old")
    os.symlink("there", tmp_path / "link")
    changed = Changed(tmp_path)
    yield changed
    changed.source.close()


CHANGES: dict[str, Callable[[Changed], object]] = {
    "write": lambda changed: changed.write(b"new"),
    "remove": lambda changed: changed.source.remove(b"file"),
    "make_dir": lambda changed: changed.source.make_dir(b"new", GIVEN),
    "remove_dir": lambda changed: changed.source.remove_dir(b"empty"),
    "rename": lambda changed: changed.source.rename(b"file", b"new"),
    "rename over": lambda changed: changed.source.rename(b"file", b"full/other"),
    "change": lambda changed: changed.source.change(b"file", NewAttributes(mode=0o600)),
    "symlink": lambda changed: changed.source.symlink(b"new", b"to", GIVEN),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("faults", [(LOST,), (FAILED, LOST, FAILED, REFUSED), (REFUSED, FAILED)])
def test_a_change_is_made_once(changed: Changed, name: str, faults: tuple[Fault, ...]) -> None:
    changed.injecting.script(*faults)
    CHANGES[name](changed)
    assert changed.source.stats.counts().retries == len(faults)
    if name in ("write", "make_dir", "symlink", "rename"):
        assert changed.directory.stat(b"new")
    if name in ("remove", "rename", "rename over"):
        with pytest.raises(FileNotFoundError):
            changed.directory.stat(b"file")


def test_what_another_one_did_is_not_taken_for_ours(changed: Changed) -> None:
    for call, code in (
        (lambda: changed.source.make_dir(b"file", GIVEN), errno.EEXIST),
        (lambda: changed.source.symlink(b"link", b"elsewhere", GIVEN), errno.EEXIST),
        (lambda: changed.source.symlink(b"file", b"to", GIVEN), errno.EEXIST),
        (lambda: changed.write(b"file"), errno.ESTALE),
        (lambda: changed.source.rename(b"absent", b"new"), errno.ENOENT),
        (lambda: changed.source.remove(b"full"), errno.EISDIR),
        (lambda: changed.source.remove_dir(b"full"), errno.ENOTEMPTY),
    ):
        changed.injecting.script(FAILED)
        with pytest.raises(OSError) as raised:
            call()
        assert raised.value.errno == code


@pytest.mark.parametrize("faults", [(), (REFUSED,)])
def test_an_answer_to_the_first_try_is_an_answer(changed: Changed, faults: tuple[Fault, ...]) -> None:
    for call, code in (
        (lambda: changed.source.remove(b"absent"), errno.ENOENT),
        (lambda: changed.source.remove_dir(b"absent"), errno.ENOENT),
        (lambda: changed.source.make_dir(b"empty", GIVEN), errno.EEXIST),
        (lambda: changed.source.symlink(b"link", b"there", GIVEN), errno.EEXIST),
        (lambda: changed.source.rename(b"absent", b"file"), errno.ENOENT),
    ):
        changed.injecting.script(*faults)
        with pytest.raises(OSError) as raised:
            call()
        assert raised.value.errno == code
