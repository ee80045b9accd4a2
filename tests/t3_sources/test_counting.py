"""What a source was asked, as numbers."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from support.source_fakes import Caller, Failing, FakeClock, FakeSource, Held
from support.waiting import until
from swmld.sources.counting import Counting, Outcome
from swmld.sources.directory import DirectorySource
from swmld.sources.errors import Busy
from swmld.sources.injecting import Fault, Injecting, Odds
from swmld.sources.interface import Attributes, Cut, NewAttributes
from swmld.sources.retrying import Retrying
from swmld.sources.wrapping import Kind

pytestmark = pytest.mark.timeout(60)


def test_each_kind_is_counted() -> None:
    source = Counting(FakeSource(file=bytes(100), other=b""))
    reader = source.open(b"file", source.stat(b"file"))
    reader.read(memoryview(bytearray(80)), 0)
    reader.read(memoryview(bytearray(80)), 60)
    reader.current()
    source.list(b"")
    counts = source.stats.counts()
    made = {kind: n for kind in Kind if (n := counts.calls[kind, Outcome.ANSWERED])}
    assert made == {Kind.STAT: 1, Kind.LIST: 1, Kind.OPEN: 1, Kind.READ: 2, Kind.CURRENT: 1}
    assert sum(counts.calls.values()) == 6
    assert (counts.bytes, counts.entries, counts.errors) == (120, 2, {})


class Told(FakeSource):
    """Opens without asking anybody, as it is said."""

    def opens_unasked(self, attributes: Attributes) -> bool:
        return attributes.size < 1000


def test_an_open_that_asks_nobody_is_no_call() -> None:
    inner = Told(file=bytes(100), large=bytes(1000))
    counting = Counting(inner)
    source = Retrying(counting)
    for name in (b"file", b"large"):
        reader = source.open(name, inner.stat(name))
        assert reader.read(memoryview(bytearray(80)), 0) == 80
    calls = counting.stats.counts().calls
    assert (calls[Kind.OPEN, Outcome.ANSWERED], calls[Kind.READ, Outcome.ANSWERED]) == (1, 2)


def test_what_meets_every_call_meets_such_an_open() -> None:
    inner = Told(file=bytes(100))
    source = Counting(Injecting(inner, odds=[Odds(1.0, Fault(errno.EIO))]))
    with pytest.raises(OSError):
        source.open(b"file", inner.stat(b"file"))


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (OSError(errno.ENOENT, ""), Outcome.ABSENT),
        (OSError(errno.ENOTDIR, ""), Outcome.ABSENT),
        (OSError(errno.EXDEV, ""), Outcome.UNABLE),
        (OSError(errno.EROFS, ""), Outcome.UNABLE),
        (OSError(errno.ENOSPC, ""), Outcome.FULL),
        (OSError(errno.EACCES, ""), Outcome.DENIED),
        (OSError(errno.ESTALE, ""), Outcome.STALE),
        (Busy("read", 3.0), Outcome.BUSY),
        (OSError(errno.ETIMEDOUT, ""), Outcome.UNREACHABLE),
        (OSError(errno.EHOSTUNREACH, ""), Outcome.UNREACHABLE),
        (OSError(errno.EIO, ""), Outcome.ERROR),
        (Cut(errno.ECONNRESET, "", 7), Outcome.ERROR),
    ],
)
def test_each_outcome_is_counted(error: OSError, outcome: Outcome) -> None:
    inner = FakeSource(file=bytes(100))
    source = Counting(inner)
    reader = source.open(b"file", inner.stat(b"file"))
    inner.meets = Failing(error)
    with pytest.raises(OSError):
        reader.read(memoryview(bytearray(80)), 0)
    counts = source.stats.counts()
    assert counts.calls[Kind.READ, outcome] == 1
    assert counts.errors == {error.errno: 1}
    assert counts.in_flight[Kind.READ] == 0
    assert counts.bytes == getattr(error, "got", 0)


def test_how_long_calls_take() -> None:
    clock = FakeClock()
    inner = FakeSource(file=b"")
    source = Counting(inner, clock=clock)

    def takes(seconds: float) -> None:
        def meets(kind: str, path: bytes) -> None:
            clock.time += seconds

        inner.meets = meets
        source.stat(b"file")

    for seconds in (0.0001, 0.0015, 0.0015, 100.0):
        takes(seconds)
    latency = source.stats.counts().latency[Kind.STAT]
    assert latency.counts == [1, 0, 2] + [0] * 12 + [1]
    assert latency.count == 4
    assert latency.total == pytest.approx(100.0031)


def test_what_is_under_way() -> None:
    inner = FakeSource(file=b"")
    source = Counting(inner)
    held = Held("stat")
    inner.meets = held
    callers = [Caller(lambda: source.stat(b"file")) for _ in range(3)]
    until(lambda: held.inside == 3)
    assert source.stats.counts().in_flight[Kind.STAT] == 3
    assert source.stats.counts().in_flight[Kind.READ] == 0
    held.let_go()
    for caller in callers:
        caller.result()
    assert source.stats.counts().in_flight[Kind.STAT] == 0


def test_an_error_that_is_no_source_s_is_under_way_no_more() -> None:
    inner = FakeSource(file=b"")
    source = Counting(inner)

    def meets(kind: str, path: bytes) -> None:
        raise ZeroDivisionError

    inner.meets = meets
    with pytest.raises(ZeroDivisionError):
        source.stat(b"file")
    counts = source.stats.counts()
    assert counts.in_flight[Kind.STAT] == 0
    assert counts.calls[Kind.STAT, Outcome.ERROR] == 1


def test_threads_lose_no_count() -> None:
    source = Counting(FakeSource(file=bytes(10)))
    reader = source.open(b"file", source.stat(b"file"))

    def work() -> None:
        for _ in range(500):
            reader.read(memoryview(bytearray(10)), 0)

    for caller in [Caller(work) for _ in range(8)]:
        caller.result()
    counts = source.stats.counts()
    assert counts.calls[Kind.READ, Outcome.ANSWERED] == counts.latency[Kind.READ].count == 4000
    assert counts.bytes == 40_000


def test_counts_are_of_one_moment() -> None:
    source = Counting(FakeSource(file=b""))
    before = source.stats.counts()
    source.stat(b"file")
    source.stats.retried()
    source.stats.gave_up()
    source.stats.hedged(won=False)
    source.stats.hedged(won=True)
    after = source.stats.counts()
    assert sum(before.calls.values()) == before.latency[Kind.STAT].count == before.retries == 0
    assert (after.retries, after.given_up, after.hedges, after.hedges_won) == (1, 1, 1, 1)


def test_changes_are_counted(tmp_path: Path) -> None:
    source = Counting(DirectorySource(tmp_path))
    given = Attributes(stat.S_IFDIR | 0o755, uid=os.geteuid(), gid=os.getegid())
    with open(tmp_path / "file", "w+b") as file:
        file.write(bytes(100))
        file.flush()
        source.write(b"new", file.fileno(), 60, given, None, "one")
        with pytest.raises(OSError):
            source.write(b"new", file.fileno(), 100, given, None, "two")
    source.make_dir(b"d", given)
    source.rename(b"new", b"d/new")
    source.change(b"d/new", NewAttributes(mode=0o600))
    source.symlink(b"link", b"to", given)
    for call in (lambda: source.remove_dir(b"d"), lambda: source.remove(b"d")):
        with pytest.raises(OSError):
            call()
    source.remove(b"d/new")
    source.remove_dir(b"d")
    counts = source.stats.counts()
    assert {key: n for key, n in counts.calls.items() if n} == {
        (Kind.WRITE, Outcome.ANSWERED): 1,
        (Kind.WRITE, Outcome.STALE): 1,
        (Kind.MAKE_DIR, Outcome.ANSWERED): 1,
        (Kind.RENAME, Outcome.ANSWERED): 1,
        (Kind.CHANGE, Outcome.ANSWERED): 1,
        (Kind.SYMLINK, Outcome.ANSWERED): 1,
        (Kind.REMOVE_DIR, Outcome.PRESENT): 1,
        (Kind.REMOVE_DIR, Outcome.ANSWERED): 1,
        (Kind.REMOVE, Outcome.PRESENT): 1,
        (Kind.REMOVE, Outcome.ANSWERED): 1,
    }
    assert (counts.written, counts.bytes) == (60, 0)
    source.close()
