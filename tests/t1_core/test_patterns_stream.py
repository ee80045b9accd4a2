"""Streams: the pattern of one file as read by one process, and how soon it shows."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from support.programs import Run
from support.streams import StreamModel
from swmld.patterns import shapes
from swmld.patterns.feed import WINDOW, Shape, TouchKind
from swmld.patterns.limits import Limits
from swmld.patterns.stream import Stream
from swmld.patterns.views import StreamView

GIB = 1 << 30

Reads = list[tuple[int, int]]


def in_order(first: int, count: int, length: int) -> Reads:
    return [(first + n * length, first + (n + 1) * length - 1) for n in range(count)]


def view_of(reads: Iterable[tuple[int, int]], size: int = GIB, name: str = "data", **how: bool) -> StreamView:
    run = Run()
    pid = run.program()
    (file,) = run.tree.add("d", [name], size)
    run.large(pid, file, reads, **how)
    view = run.patterns.stream(pid, file)
    assert view is not None
    return view


def at_random(count: int, pages: int, length: int, seed: int = 0) -> Reads:
    source = random.Random(seed)
    starts = [source.randrange(pages - length) for _ in range(count)]
    return [(start, start + length - 1) for start in starts]


CASES: list[tuple[str, str, Reads]] = [
    ("sequential", "data", in_order(0, 20, 32)),
    ("sequential", "data", in_order(5000, 20, 1)),
    ("sequential", "train.tfrecord", in_order(0, 500, 64)),
    # Each begins in the last page of the one before.
    ("sequential", "data", [(n * 31, n * 31 + 31) for n in range(20)]),
    ("reverse", "data", in_order(5000, 20, 32)[::-1]),
    ("strided", "data", [(n * 100, n * 100 + 3) for n in range(20)]),
    ("strided", "data", [(100_000 - n * 700, 100_000 - n * 700) for n in range(20)]),
    ("random", "tokens.bin", at_random(100, 262_144, 1)),
    ("random", "images.zip", [(262_130, 262_143), *at_random(200, 262_144, 20)]),
    ("header-then-tail", "m.pt", [(0, 0), (262_140, 262_143), (262_100, 262_120), *in_order(0, 30, 32)]),
    ("header-then-tail", "part.parquet", [(262_128, 262_143), *in_order(400, 10, 256)]),
    ("header-then-tail", "unnamed", [(0, 0), (262_130, 262_143), *in_order(1, 10, 32)]),
    ("header-then-tail", "m.safetensors", [(0, 0), *in_order(9000, 30, 256), *in_order(100, 30, 256)]),
    ("repeated", "data", [(7, 7)] * 10),
]


@pytest.mark.parametrize(("kind", "name", "reads"), CASES)
def test_patterns_of_a_large_file(kind: str, name: str, reads: Reads) -> None:
    view = view_of(reads, name=name)
    assert view.pattern.kind == kind
    assert view.pattern.confidence >= 0.6
    assert view.pattern.evidence
    assert view.reads == len(reads)


def test_a_small_file_in_several_reads() -> None:
    view = view_of(in_order(0, 23, 1), 23 * 4096)
    assert view.pattern.kind == "whole-file"
    assert view.pattern.evidence == "all 23 pages front to back in 23 reads"
    assert view.reads == 23
    assert view.bytes == 23 * 4096


def test_the_way_to_the_end_is_no_jump_to_the_tail() -> None:
    assert view_of(in_order(0, 3, 16), 48 * 4096, "a.zip").pattern.kind == "whole-file"


def test_books_that_the_kernel_began_anew_go_on() -> None:
    """It forgot the stream, and its FIRST event was lost: counters are lower than before."""
    run = Run()
    pid = run.program()
    (file,) = run.tree.add("d", ["data"], GIB)
    run.large(pid, file, in_order(0, 50, 32))
    fresh = StreamModel(pid, file, GIB // 4096)
    run.now += 1.0
    for first, last in in_order(1600, 20, 32):
        fresh.read(first, last, run.now)
    run.patterns.cursors([(pid, file, fresh.cursor)])
    view = run.patterns.stream(pid, file)
    assert view is not None
    assert view.reads == 70
    assert view.bytes == 70 * 32 * 4096


@pytest.mark.parametrize("late_first", [True, False])
def test_the_last_rows_of_books_that_ended_come_when_the_next_have_begun(late_first: bool) -> None:
    """A file is read under one inode number and then another, as from its cache file once it is there."""
    run = Run()
    pid = run.program()
    reads = in_order(0, 24, 32)
    (file,) = run.tree.add("d", ["data"], len(reads) * 32 * 4096)
    ended = run.large(pid, file, reads[:10])
    for first, last in reads[10:]:
        run.now += run.step
        run.patterns.touch(ended.read(first, last, run.now))
    begun = StreamModel(pid, file, ended.size)
    for first, last in reads:
        run.now += run.step
        run.patterns.touch(begun.read(first, last, run.now))
    rows = [(pid, file, ended.cursor), (pid, file, begun.cursor)]
    for _ in range(2):  # rows of the last moments are told again
        run.patterns.cursors(rows if late_first else rows[::-1])
    view = run.patterns.stream(pid, file)
    assert view is not None
    assert (view.reads, view.bytes, view.passes) == (48, 2 * ended.size * 4096, 1)
    assert run.job(pid).reads == 48


def test_a_small_file_whose_books_ended() -> None:
    """Its touches have told all of it, also of the books that are told last."""
    run = Run()
    pid = run.program()
    (file,) = run.tree.images("d", 1)
    ended, begun = StreamModel(pid, file, 25), StreamModel(pid, file, 25)
    for model, at in ((ended, 1.0), (ended, 2.0), (begun, 3.0)):
        run.patterns.touch(model.read(0, 24, at, cold=True))
    run.patterns.cursors([(pid, file, begun.cursor), (pid, file, ended.cursor)])
    view = run.patterns.stream(pid, file)
    assert view is not None
    assert (view.reads, view.passes) == (3, 2)
    assert run.job(pid).reads == 3


def test_a_small_file_in_one_read_and_again() -> None:
    run = Run()
    pid = run.program()
    (file,) = run.tree.images("d", 1)
    run.touch(pid, file)
    view = run.patterns.stream(pid, file)
    assert view is not None
    assert (view.pattern.kind, view.reads, view.hits) == ("whole-file", 1, 1)
    run.touch(pid, file, kind=TouchKind.PASS)
    run.touch(pid, file, flags=12)  # forgotten by the kernel, and cold
    view = run.patterns.stream(pid, file)
    assert view is not None
    assert (view.pattern.kind, view.reads, view.passes) == ("repeated", 3, 2)
    assert "2 times" in view.pattern.evidence


def test_stride_in_bytes() -> None:
    view = view_of([(n * 40, n * 40) for n in range(8)])
    assert view.stride == 40 * 4096
    assert "40 pages" in view.pattern.evidence


def faults(every: float, count: int, pages: int, seed: int = 0) -> Reads:
    """A mapping read each ``every`` pages while it comes from the source: a fault is told by its own page, or
    by the first of those around it that are there."""
    source = random.Random(seed)
    places = [int(number * every) for number in range(count)]
    starts = [0, 0, *(source.choice([page, page & ~15, max(page & ~15, page - 7)]) for page in places)]
    return [(start, min(pages - 1, start | 15)) for start in starts]


@pytest.mark.parametrize("every", [39.06, 48.0, 195.3, 1000.5])
@pytest.mark.parametrize("backward", [False, True])
def test_a_stride_whose_steps_differ(every: float, backward: bool) -> None:
    pages = GIB // 4096
    for seed in range(20):
        reads = faults(every, 200, pages, seed)
        if backward:
            reads = [(pages - 1 - last, pages - 1 - first) for first, last in reads]
        view = view_of(reads, fault=True)
        assert view.pattern.kind == "strided", view.pattern
        assert view.stride == pytest.approx((-1 if backward else 1) * every * 4096, rel=0.15)


def test_a_stride_whose_steps_differ_goes_on_and_ends() -> None:
    """Over rows of counters: through a second pass, until it is read at random."""
    pages = 20_000
    run = Run()
    pid = run.program()
    (file,) = run.tree.add("d", ["tokens.npy"], pages * 4096)
    model = StreamModel(pid, file, pages)

    def row(reads: Iterable[tuple[int, int]]) -> str:
        for first, last in reads:
            run.now += run.step
            run.patterns.touch(model.read(first, last, run.now, fault=True))
        run.patterns.cursors([(pid, file, model.cursor)])
        view = run.patterns.stream(pid, file)
        assert view is not None
        return view.pattern.kind

    reads = faults(39.06, pages // 40, pages)
    assert [row(reads[at : at + 100]) for at in range(0, 500, 100)] == ["strided"] * 5
    assert run.phase(pid) == "data preparation"
    assert run.dataset(pid, "d").order.kind == "sorted"
    assert [row(reads[at : at + 100]) for at in range(2, 500, 100)] == ["strided"] * 5
    assert row(at_random(100, pages, 16)) == "random"
    assert row(at_random(6000, pages, 16)) == "random"
    assert run.phase(pid) == "training"


def members(count: int, length: int, seed: int | None) -> Reads:
    """An archive's members, in three reads each; ``seed``: in no order."""
    places = list(range(count))
    if seed is not None:
        random.Random(seed).shuffle(places)
    reads = [(count * length, count * length + 3)]
    for place in places:
        first = place * length
        reads += [(first, first), (first + 1, first + 1), (first + 1, first + length - 1)]
    return reads


@pytest.mark.parametrize("name", ["images.zip", "weights.npz", "model.pt"])
@pytest.mark.parametrize("seed", [None, 1])
def test_members_of_an_archive(name: str, seed: int | None) -> None:
    """Those of a data set are samples, those of a model are not; in no order it is not said to be one."""
    count, length = 1000, 12
    run = Run()
    pid = run.program()
    (file,) = run.tree.add("d", [name], (count * length + 4) * 4096)
    model = StreamModel(pid, file, count * length + 4)
    reads = members(count, length, seed)
    for number, (first, last) in enumerate(reads, 1):
        run.now += run.step
        run.patterns.touch(model.read(first, last, run.now))
        if number % 100 == 0 or number == len(reads):
            run.patterns.cursors([(pid, file, model.cursor)])
    (view,) = run.job(pid).streams
    data = run.dataset(pid, "d")
    if seed is None:
        assert (view.pattern.kind, data.order.kind) == ("header-then-tail", "sorted")
        assert run.phase(pid) == ("data preparation" if name == "images.zip" else "model load")
    else:
        assert (view.pattern.kind, data.order.kind) == ("random", "shuffled")
        assert run.phase(pid) == ("training" if name == "images.zip" else "model load")
    assert run.patterns._streams[pid, file].progress > 0.9


def test_single_pages_at_random_are_no_pieces() -> None:
    view = view_of(at_random(500, 262_144, 1), name="index.db")
    assert view.pattern.kind == "random"
    assert "reads go to unrelated places" in view.pattern.evidence


def test_what_is_said_before_the_next_row_comes() -> None:
    """The first row held one read; events tell since that it goes on in sequence."""
    run = Run()
    pid = run.program()
    (file,) = run.tree.add("d", ["model.bin"], GIB)
    model = run.large(pid, file, [(0, 15)])
    for first, last in in_order(16, 10, 16):
        run.now += run.step
        run.patterns.touch(model.read(first, last, run.now))
    view = run.patterns.stream(pid, file)
    assert view is not None
    assert view.pattern.kind == "sequential"
    assert not view.pattern.evidence.startswith("0 of 0")


def test_random_reads_have_no_stride() -> None:
    for seed in range(3000):
        source = random.Random(seed)
        view = view_of(at_random(source.randrange(8, 60), 262_144, source.choice([1, 16]), seed), fault=True)
        assert view.pattern.kind != "strided", view.pattern


def test_a_large_file_read_three_times() -> None:
    view = view_of([read for _ in range(3) for read in in_order(0, 64, 32)], 64 * 32 * 4096)
    assert view.pattern.kind == "repeated"
    assert view.passes == 2


def test_counts_do_not_double_when_counters_follow_touches() -> None:
    run = Run()
    pid = run.program()
    (file,) = run.tree.images("d", 1)
    model = StreamModel(pid, file, 25)
    for at in (1.0, 2.0, 3.0):
        run.patterns.touch(model.read(0, 24, at))
        run.patterns.cursors([(pid, file, model.cursor)])
    view = run.patterns.stream(pid, file)
    assert view is not None
    assert view.reads == 3
    assert run.job(pid).reads == 3


# ---- transitions: by events alone, no counters have come yet


def kinds_after(run: Run, reads: Reads, size: int) -> list[str]:
    pid = run.program()
    (file,) = run.tree.add("d", ["data"], size)
    model = StreamModel(pid, file, size // 4096)
    kinds = []
    for at, (first, last) in enumerate(reads):
        run.patterns.touch(model.read(first, last, float(at)))
        view = run.patterns.stream(pid, file)
        assert view is not None
        kinds.append(view.pattern.kind)
    return kinds


@pytest.mark.parametrize("first", [0, 70_000])
@pytest.mark.parametrize("length", [1, 32, 256])
def test_sequential_within_three_reads(first: int, length: int) -> None:
    assert kinds_after(Run(), in_order(first, 4, length), GIB)[2:] == ["sequential"] * 2


def test_strided_within_two_passes_of_the_stride() -> None:
    kinds = kinds_after(Run(), [(n * 500, n * 500 + 3) for n in range(4)], GIB)
    assert kinds[2:] == ["strided"] * 2


def test_from_random_to_sequential() -> None:
    reads = [*at_random(50, 262_144, 1), *in_order(1000, 5, 1)]
    kinds = kinds_after(Run(), reads, GIB)
    assert kinds[49] == "random"
    assert kinds[-1] == "sequential"


def test_from_sequential_to_random() -> None:
    kinds = kinds_after(Run(), [*in_order(0, 50, 32), *at_random(4, 262_144, 1)], GIB)
    assert kinds[49] == "sequential"
    assert kinds[-1] == "random"


def test_from_sequential_to_strided() -> None:
    """Two jumps look random, and from random on four equal strides are asked for."""
    reads = [*in_order(0, 50, 32), *[(9000 + n * 100, 9000 + n * 100) for n in range(6)]]
    assert kinds_after(Run(), reads, GIB)[-1] == "strided"


# ---- no false word

READ = 256


def random_starts(source: random.Random, aligned: bool, pages: int) -> list[int]:
    """16 windows of 4 MiB, read 1 MiB at a time."""
    step = READ if aligned else 1
    return [source.randrange(0, pages - READ, step) for _ in range(64)]


@pytest.mark.parametrize("aligned", [False, True])
def test_random_reads_are_never_sequential(aligned: bool) -> None:
    """10,000 streams of 16 windows in files of 1 GiB; looked at after each event and with the counters."""
    source = random.Random(7)
    pages = GIB // 4096
    wrong = 0
    for trial in range(5_000):
        stream = Stream(1, trial, 0.0)
        model = StreamModel(1, trial, pages)
        for at, first in enumerate(random_starts(source, aligned, pages)):
            for touch in model.read(first, first + READ - 1, float(at)):
                stream.touched(touch)
                if touch.shape == Shape.SEQUENTIAL:
                    wrong += shapes.pattern(stream, b"").kind == "sequential"
        stream.counted(model.cursor)
        wrong += shapes.pattern(stream, b"").kind == "sequential"
    assert wrong == 0


@pytest.mark.parametrize("length", [1, 32, 256, 1024])
def test_random_reads_of_16_windows_are_never_sequential(length: int) -> None:
    """10,000 files of 16 windows of 4 MiB, read at 16 places: one in 16 whole windows follows the one before.

    Streams that begin at page 0 are left out: the first three windows in a row are taken for the beginning of
    all, though one of 4,096 streams of random windows begins so.
    """
    source = random.Random(11)
    pages, wrong, followed = 16 * WINDOW, 0, 0
    for trial in range(2_500):
        stream = Stream(1, trial, 0.0)
        model = StreamModel(1, trial, pages)
        for at in range(16):
            step = length if trial % 2 else 1
            first = source.randrange(0 if at else step, pages - length + 1, step)
            followed += first == model.next > 0
            for touch in model.read(first, first + length - 1, float(at)):
                stream.touched(touch)
            wrong += shapes.pattern(stream, b"").kind == "sequential"
            if at % 5 == 4:
                stream.counted(model.cursor)
                wrong += shapes.pattern(stream, b"").kind == "sequential"
    assert wrong == 0
    assert followed > (1000 if length == WINDOW else -1)


def test_what_random_reads_may_do_by_chance_is_not_called_sequential() -> None:
    """Two of 1 MiB one after the other, somewhere in a file of 16 windows: one trial in 64 * 64 shows it."""
    kinds = kinds_after(Run(), in_order(READ * 7, 3, READ), 64 << 20)
    assert kinds[2] == "unknown"
    assert kinds_after(Run(), in_order(READ * 7, 8, READ), 64 << 20)[:2] == ["unknown"] * 2


def test_streams_are_bounded() -> None:
    run = Run(Limits(streams=10, small=10))
    pid = run.program()
    files = run.tree.add("d", [f"{n}.bin" for n in range(50)], 64 << 20)
    for file in files:
        run.large(pid, file, in_order(0, 4, 32))
    assert run.patterns.stream(pid, files[0]) is None
    assert run.patterns.stream(pid, files[-1]) is not None
    images = run.tree.images("e", 50)
    run.read(pid, images)
    assert run.patterns.stream(pid, images[0]) is None
    assert run.patterns.stream(pid, images[-1]) is not None
