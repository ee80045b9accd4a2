"""What must hold whatever comes in: no exception, bounded memory, sensible numbers."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.many import Layout, Many, reads
from support.programs import PAGE, Run, shuffled
from support.streams import StreamModel
from swmld.patterns.engine import Patterns
from swmld.patterns.epoch import MOST, Boundary, needed
from swmld.patterns.feed import (
    Cursor,
    Folder,
    Place,
    Process,
    Shape,
    Tiers,
    Touch,
    TouchFlag,
    TouchKind,
    Wait,
)
from swmld.patterns.limits import Limits
from swmld.patterns.meter import Meter
from swmld.patterns.order import CLAMP, MEMORY, STEP
from swmld.patterns.readers import MOST_LENGTHS, Reader, Tally
from swmld.patterns.seen import EXACT, NODEID, Bits, Budget, Filter
from swmld.patterns.views import Snapshot, as_json

# ---- files seen


def test_bits_of_ten_million_files_take_little() -> None:
    budget = Budget(2 << 20)
    bits = Bits(budget)
    new = sum(bits.add(index) or 0 for index in range(0, 10_000_000, 9))
    assert new == -(-10_000_000 // 9)
    assert bits.add(9) is False
    assert bits.add(10) is True
    assert budget.used < 2 << 20
    bits.drop()
    assert budget.used == 0


def test_bits_without_room_say_so() -> None:
    bits = Bits(Budget(100))
    assert bits.add(100) is True
    assert bits.add(1_000_000) is None
    assert bits.add(1 << 40) is None


def test_filter_is_exact_for_few_and_nearly_for_many() -> None:
    budget = Budget(64 << 20)
    seen = Filter(budget)
    source = random.Random(1)
    files = [source.randrange(1 << 62) for _ in range(300_000)]
    assert all(seen.add(file) for file in files[: EXACT - 1])
    assert seen.exact is not None
    missed = sum(not seen.add(file) for file in files[EXACT - 1 :])
    assert missed / len(files) < 0.02, "1.4 % in a full layer"
    assert not any(seen.add(file) for file in files)
    assert budget.used < 1 << 20


@pytest.mark.parametrize("step", [1, 2, 4096, 1 << 32])
def test_filter_takes_nodeids_in_any_series(step: int) -> None:
    seen = Filter(Budget(64 << 20))
    missed = sum(not seen.add(number * step) for number in range(80_000))
    assert missed / 80_000 < 0.01


def test_filter_within_its_budget_never_forgets() -> None:
    budget = Budget(200_000)
    seen = Filter(budget)
    for file in range(400_000):
        seen.add(file)
    assert budget.used <= 200_000
    assert not any(seen.add(file) for file in range(400_000))


def test_a_folder_of_three_million_files() -> None:
    """The engine's own path from end to end, over a made-up listing: its memory is the bitmap."""

    class Listing:
        def place(self, file: int) -> Place:
            return Place(7, b"x", 4096, file, file)

        def folder(self, directory: int) -> Folder:
            return Folder(None, "big", 3_000_000)

    class Nobody:
        def of(self, pid: int) -> Process | None:
            return None

    patterns = Patterns(Listing(), Nobody())
    touch = Touch(TouchKind.FIRST, 1.0, 5, 0, 0, 0, 1, 0, TouchFlag.WHOLE, Shape.NEW)
    patterns.touch(touch._replace(file=file, at=1.0 + file * 1e-5) for file in range(0, 3_000_000, 25))
    (job,) = patterns.snapshot(40.0).jobs
    (view,) = job.datasets
    assert view.files_seen == 120_000
    assert view.files_total == 3_000_000
    assert patterns.seen_bytes < 600_000


LAYOUTS = {
    "one folder": Layout(40_000, 40_000),
    "one that cannot be listed": Layout(40_000, 40_000, listed=False),
    "more folders than are followed": Layout(40_000, 50),
    "folders that cannot be listed": Layout(40_000, 400, listed=False),
    "jobs that have ended": Layout(40_000, 500, job=2500, mixed=True),
    "a process for each file": Layout(40_000, 1000, process=1),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_memory_of_the_engine_is_bounded(layout: Layout) -> None:
    """With bounds a 250th of the real ones: ``bench/patterns_memory.py`` has ten million files."""
    limits = Limits(
        streams=60, small=60, jobs=8, processes=16, folders=260, seen_bytes=1 << 19, ordered=1 << 10
    )
    names = Many(layout)
    patterns = Patterns(names, names, limits)
    touches = reads(layout)
    patterns.touch(islice(touches, 4_000))
    tracemalloc.start()
    try:
        patterns.touch(islice(touches, 16_000))
        early = tracemalloc.get_traced_memory()[0]
        patterns.touch(touches)
        late = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert patterns.seen_bytes <= limits.seen_bytes
    # What else grew: data sets up to their number, directories up to theirs.
    assert late < 2 << 20
    assert late - early < 1 << 19


def test_what_is_forgotten_leaves_nothing() -> None:
    run = Run(Limits(datasets=3, jobs=1))
    job = run.program()
    for number in range(6):
        kind = {"listed": number % 2 == 0}
        run.read(job, run.tree.add(f"{number}", [f"{n}.{number}" for n in range(600)], **kind))
    room = run.patterns._room
    assert room.histories.used == 3 * (600 // STEP + 1) * STEP
    assert room.budget.exact >= 600 * NODEID
    other = run.program()
    run.read(other, run.tree.images("train", 1))
    assert [view.job for view in run.patterns.snapshot(run.now).jobs] == [other]
    assert (room.histories.used, room.budget.exact, room.budget.used) == (STEP, 0, 16)


def test_the_order_that_was_remembered_longest_ago_is_forgotten_first() -> None:
    run = Run(Limits(ordered=2000))
    job = run.program()
    first, second = run.tree.images("a", 900), run.tree.images("b", 900)
    orders = shuffled(first, 1), shuffled(second, 2)
    for _ in range(2):
        run.read(job, orders[1])
    assert run.dataset(job, "b").order.kind == "fixed"
    for _ in range(2):
        run.read(job, orders[0])
    assert run.dataset(job, "a").order.kind == "fixed"
    assert run.patterns._room.histories.used <= 2000
    run.read(job, orders[1])
    assert (run.dataset(job, "b").order.kind, run.dataset(job, "b").epoch) == ("shuffled", 3)


# ---- single parts


@given(st.lists(st.integers(0, 10**6)))
def test_tally_is_bounded(values: list[int]) -> None:
    tally = Tally()
    for value in values:
        tally.add(value)
    assert len(tally.counts) <= MOST_LENGTHS
    value, share, total = tally.mode()
    assert 0.0 <= share <= 1.0
    assert total <= len(values)
    assert (value in values) if total else value == 0


def test_tally_finds_the_common_value_among_many() -> None:
    tally = Tally()
    for number in range(5000):
        tally.add(32 if number % 2 else 1000 + number)
    assert tally.mode()[0] == 32


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 100), st.integers(0, 10**9))), st.floats(0, 1e6))
def test_meter_is_never_negative(rows: list[tuple[float, int, int]], now: float) -> None:
    meter = Meter()
    for at, files, nbytes in rows:
        meter.add(at, files, nbytes)
    files_rate, bytes_rate = meter.rates(now)
    assert files_rate >= 0
    assert bytes_rate >= 0
    assert files_rate <= sum(row[1] for row in rows) + 1


def test_meter_over_five_seconds() -> None:
    meter = Meter()
    for tick in range(1000):
        meter.add(100 + tick / 100, 1, 1000)
    assert meter.rates(110.0) == (pytest.approx(100, rel=0.01), pytest.approx(100_000, rel=0.01))
    assert meter.rates(112.0)[0] == pytest.approx(60, rel=0.05)
    assert meter.rates(120.0) == (0.0, 0.0)


def test_how_many_files_again_end_an_epoch() -> None:
    assert needed(100, 100, True) == 1
    assert needed(95, 100, True) == 3
    assert needed(50, 100, True) == 25
    assert needed(5, 100, True) == 16
    assert needed(5000, None, False) == MOST


def test_half_of_the_files_again_never_ends_an_epoch() -> None:
    source = random.Random(3)
    boundary = Boundary()
    for _ in range(200_000):
        if source.random() < 0.5:
            boundary.new()
        else:
            assert not boundary.seen(None, 1, 1, 5000, 5000, None, False)
    assert len(boundary.again) <= 2 * MOST


def test_a_reader_finds_its_batches() -> None:
    reader = Reader(1)
    for _ in range(20):
        for _ in range(7):
            reader.stepped(2)
        reader.stepped(50)
    assert reader.runs.mode()[0] == 8


# ---- anything at all

PIDS = st.integers(1, 6)
FILES = st.integers(1, 40)
NUMBER = st.one_of(st.integers(0, 40), st.integers(0, 1 << 63))
TIMES = st.one_of(st.floats(0, 1e9), st.floats(1000, 1010))

TOUCHES = st.builds(
    Touch,
    kind=st.sampled_from(TouchKind),
    at=TIMES,
    pid=PIDS,
    file=FILES,
    first=NUMBER,
    last=NUMBER,
    size=NUMBER,
    stride=st.integers(-100, 100),
    flags=st.integers(0, 15).map(TouchFlag),
    shape=st.sampled_from(Shape),
)
CURSORS = st.builds(
    Cursor,
    **{
        name: TIMES
        if name.endswith("_at")
        else st.floats(0, 1e6)
        if name == "wait"
        else st.tuples(*[st.sampled_from([0, 5, 1000, 0xFFFFFFFF])] * 8)
        if name == "early"
        else st.integers(0, 4)
        if name in ("kind", "guess")
        else NUMBER
        for name in Cursor._fields
    },
)
WAITS = st.builds(
    Wait,
    *[st.floats(0, 1e6), st.integers(0, 1000)] * 4,
    histogram=st.tuples(*[st.integers(0, 100)] * 24),
)

Step = Callable[[Patterns], Any]
STEPS: st.SearchStrategy[Step] = st.one_of(
    st.lists(TOUCHES, max_size=20).map(lambda rows: lambda patterns: patterns.touch(rows)),
    st.lists(st.tuples(PIDS, FILES, CURSORS), max_size=5).map(lambda rows: lambda p: p.cursors(rows)),
    st.lists(st.tuples(PIDS, FILES, st.builds(Tiers, NUMBER, NUMBER, NUMBER, NUMBER)), max_size=5).map(
        lambda rows: lambda patterns: patterns.tiers(rows)
    ),
    st.lists(st.tuples(PIDS, WAITS), max_size=5).map(lambda rows: lambda patterns: patterns.waits(rows)),
)


def mixed_run(limits: Limits) -> Run:
    """Files 1 to 40 in nine directories, listed and not, large and small; processes in two trees and none."""
    run = Run(limits)
    for number in range(1, 41):
        path = ("train", "val", "a/x", "a/y", "a/z", "a/w", "a/v", "m", "")[number % 9]
        directory = run.tree.directory(path)
        listed = None if number % 5 == 0 else number
        size = (0, 100, 5 << 20, 1 << 40)[number % 4]
        name = (b"%d.jpg", b"%d.safetensors", b"%d.zip", b"\xff%d")[number % 3 if number % 9 else 3] % number
        if number % 13:
            run.tree.places[number] = Place(directory, name, size, listed, listed)
        files = None if number % 9 == 3 else 41
        run.tree.folders[directory] = run.tree.folders[directory]._replace(files=files)
    run.table.processes = {
        1: Process(1, 1, 0, "bash", "bash", 0.0, "", ""),
        2: Process(2, 1, 1, "python3", "python3 t.py", 0.0, "", ""),
        3: Process(3, 1, 2, "python3", "python3 t.py", 0.0, "", ""),
        4: Process(4, 4, 0, "cp", "cp", 0.0, "", ""),
        5: Process(5, 4, 4, "cp", "cp", 0.0, "", ""),
    }
    return run


def check(snapshot: Snapshot, limits: Limits) -> None:
    assert len(snapshot.jobs) <= limits.jobs
    for job in snapshot.jobs:
        assert 0.0 <= job.wait_share <= 1.0
        assert job.hits >= 0
        assert len(job.streams) <= limits.shown_streams
        findings = [job.phase]
        for dataset in job.datasets:
            assert dataset.fraction is None or 0.0 <= dataset.fraction <= 1.0
            assert dataset.files_total is None or 0 <= dataset.files_seen <= dataset.files_total
            assert dataset.passes >= 1
            assert dataset.epoch in (dataset.passes, None)
            findings += [dataset.order, dataset.role, dataset.batch_found, dataset.workers_found]
        findings += [stream.pattern for stream in job.streams]
        for found in findings:
            assert 0.0 <= found.confidence <= 1.0
            assert found.evidence
    json.dumps(as_json(snapshot), allow_nan=False)


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, max_size=12))
def test_any_sequence_of_events(steps: list[Step]) -> None:
    limits = Limits(streams=8, small=8, jobs=2, processes=3, folders=5, datasets=3, shown_streams=3)
    run = mixed_run(limits)
    for step in steps:
        step(run.patterns)
        check(run.patterns.snapshot(1005.0), limits)
    for pid in range(1, 7):
        for file in range(1, 41):
            run.patterns.stream(pid, file)
            run.patterns.dataset_of(file, pid)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), min_size=1, max_size=60), st.integers(0, 60)
)
def test_any_reads_of_one_file(reads: list[tuple[int, int]], size: int) -> None:
    """Through the books of the probes: counts agree with what was read."""
    run = Run()
    pid = run.program()
    (file,) = run.tree.add("d", ["x.zip"], size * 4096)
    model = StreamModel(pid, file, size)
    for number, (first, length) in enumerate(reads):
        run.patterns.touch(model.read(first, first + length, float(number)))
        if number % 7 == 0:
            run.patterns.cursors([(pid, file, model.cursor)])
    run.patterns.cursors([(pid, file, model.cursor)])
    view = run.patterns.stream(pid, file)
    assert view is not None
    assert view.reads == len(reads)
    check(run.patterns.snapshot(float(len(reads))), Limits())


@settings(max_examples=60, deadline=None)
@given(
    st.integers(20, 300),
    st.integers(0, 9),
    st.integers(1, 33),
    st.integers(1, 4),
    st.booleans(),
    st.randoms(),
)
def test_any_loader(
    count: int, workers: int, batch: int, epochs: int, shuffle: bool, source: random.Random
) -> None:
    """Whatever the sampler: epochs are counted, and what is not in order is not said to be."""
    run = Run()
    job = run.program()
    files = run.tree.images("train", count)
    for epoch in range(1, epochs + 1):
        order = shuffled(files, source.randrange(1 << 30)) if shuffle else files
        run.loader(run.workers(job, workers) or [job], order, batch)
        view = run.dataset(job, "train")
        assert view.epoch == epoch
        assert view.order.kind in (("shuffled", "unknown") if shuffle else ("sorted", "unknown"))
        assert view.files_seen <= count


def test_memory_of_the_order_is_bounded() -> None:
    run = Run()
    job = run.program()
    files = run.tree.images("train", MEMORY + 500)
    run.read(job, shuffled(files, 1))
    run.read(job, shuffled(files, 2)[:100])
    assert run.dataset(job, "train").order.kind == "shuffled"
    assert CLAMP < 100


def test_datasets_of_a_job_are_bounded() -> None:
    run = Run(Limits(datasets=5))
    job = run.program("bash", "bash")
    for number in range(30):
        files = run.tree.add(f"d{number}", [f"x.{number}"])
        run.read(job, files)
    assert len(run.job(job).datasets) == 5
    assert "d29" in {view.path for view in run.job(job).datasets}


def tiers(run: Run, job: int) -> tuple[int, int, int]:
    view = run.job(job)
    return view.disk_reads, view.source_reads, view.source_bytes


def test_small_files_stay_small_whoever_answers() -> None:
    """Each process that reads a data set after the page cache was dropped has its reads answered by FUSE."""
    run = Run(Limits(streams=2, small=1000))
    job = run.program()
    (large,) = run.tree.add("d", ["large"], 100 * PAGE)
    run.large(job, large, [(first, first) for first in range(0, 40, 2)])
    files = run.tree.images("train", 300)
    readers = run.workers(job, 3)
    for pid in readers:
        run.read(pid, files)
        run.patterns.tiers([(pid, file, Tiers(1, 5000, 0, 0)) for file in files])
    view = run.patterns.stream(job, large)
    assert view is not None, "2 streams are remembered, and there is 1"
    assert view.reads == 20
    assert tiers(run, job) == (900, 0, 0)


def test_small_files_are_shown_where_there_is_nothing_larger_to_show() -> None:
    run = Run(Limits(shown_streams=3))
    job = run.program()
    small = run.tree.images("a", 10)
    run.read(job, small)
    assert {one.file for one in run.job(job).streams} == {*small[-3:]}
    assert all((one.reads, one.pattern.kind) == (1, "whole-file") for one in run.job(job).streams)
    large = run.tree.add("d", ["1", "2", "3"], 100 * PAGE)
    for file in large:
        run.front_to_back(job, file, 10)
    assert {one.file for one in run.job(job).streams} == {*large}


def test_what_fuse_answered_of_a_small_file_is_counted_once() -> None:
    run = Run()
    job = run.program()
    (file,) = run.tree.images("train", 1)
    run.touch(job, file)
    run.patterns.tiers([(job, file, Tiers(1, 5000, 0, 0))])
    run.touch(job, file, kind=TouchKind.PASS)
    run.patterns.tiers([(job, file, Tiers(1, 5000, 1, 5000))])
    run.touch(job, file, kind=TouchKind.BREAK, flags=0)  # not small any more
    run.patterns.tiers([(job, file, Tiers(2, 9000, 1, 5000))])
    assert tiers(run, job) == (2, 1, 5000)
    assert run.patterns.totals.source == 1
    run.patterns.tiers([(job, file, Tiers(1, 100, 0, 0))])  # forgotten by C and begun anew
    assert tiers(run, job) == (3, 1, 5000)


def test_small_files_stay_small_when_they_come_back() -> None:
    """Read in turns and more than are remembered: the kernel has counted reads of each that were told, and
    forgotten, long ago."""
    run = Run(Limits(streams=2, small=100))
    job = run.program()
    (large,) = run.tree.add("d", ["large"], 100 * PAGE)
    run.large(job, large, [(first, first) for first in range(0, 40, 2)])
    files = run.tree.images("train", 150)
    books = {file: StreamModel(job, file, -(-run.tree.places[file].size // PAGE)) for file in files}
    for _ in range(3):
        for file in files:
            run.now += run.step
            run.patterns.touch(books[file].read(0, books[file].size - 1, run.now))
            run.patterns.cursors([(job, file, books[file].cursor)])
    assert run.job(job).reads == 20 + 3 * 150
    assert run.patterns.stream(job, large) is not None, "2 streams are remembered, and there is 1"
