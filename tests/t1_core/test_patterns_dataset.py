"""Datasets: order, epochs, workers and batches of the usual samplers, and which directories belong
together."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count, zip_longest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.programs import Run, shuffled
from support.streams import StreamModel
from swmld.patterns.engine import Patterns
from swmld.patterns.feed import TouchKind
from swmld.patterns.limits import Limits
from swmld.plan.listing import Listing


def ready(count: int = 1000, path: str = "train", **how: object) -> tuple[Run, int, list[int]]:
    run = Run()
    return run, run.program(), run.tree.images(path, count, **how)


def test_sorted_order_by_one_process() -> None:
    run, job, files = ready()
    run.read(job, files[:43])
    view = run.dataset(job, "train")
    assert view.order.kind == "sorted"
    assert view.order.evidence == "42 of 42 neighbouring reads go forward in listing order"
    assert view.order.confidence > 0.9
    assert (view.files_seen, view.files_total, view.epoch) == (43, 1000, 1)
    assert view.fraction == pytest.approx(0.043)
    assert view.sample_size == 100_000
    assert view.bytes == 43 * 100_000


@pytest.mark.parametrize("workers", [1, 2, 4, 7, 16])
@pytest.mark.parametrize("batch", [1, 4, 32])
def test_sorted_order_by_workers(workers: int, batch: int) -> None:
    run, job, files = ready(4000)
    pids = run.workers(job, workers)
    run.loader(pids, files[:2000], batch)
    view = run.dataset(job, "train")
    assert view.order.kind == "sorted"
    assert view.workers == workers
    if workers > 1:
        assert view.batch == batch
        assert view.batch_found.confidence > 0.5


def test_kernel_order() -> None:
    run, job, files = ready(2000, kernel_order=random.Random(1))
    as_listed = sorted(files, key=lambda file: run.tree.places[file].listed or 0)
    run.loader(run.workers(job, 3), as_listed[:400], 8)
    view = run.dataset(job, "train")
    assert view.order.kind == "listed"
    assert view.batch == 8


def test_reverse_order() -> None:
    run, job, files = ready()
    run.read(job, files[::-1][:50])
    assert run.dataset(job, "train").order.kind == "reverse"


@pytest.mark.parametrize("ranks", [2, 8, 64])
def test_every_kth_file_is_listing_order(ranks: int) -> None:
    """A DistributedSampler without shuffle."""
    run, job, files = ready(4000)
    workers = run.workers(job, ranks)
    run.interleave([(pid, files[rank::ranks][:30]) for rank, pid in enumerate(workers)])
    assert run.dataset(job, "train").order.kind == "sorted"


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("workers", [0, 1, 4, 8])
def test_shuffled_before_5_percent(seed: int, workers: int) -> None:
    run, job, files = ready()
    pids = run.workers(job, workers) or [job]
    run.loader(pids, shuffled(files, seed)[:50], 4)
    view = run.dataset(job, "train")
    assert view.order.kind == "shuffled"
    assert "go back" in view.order.evidence


@pytest.mark.parametrize("workers", [0, 4, 8])
def test_ordered_before_5_percent(workers: int) -> None:
    run, job, files = ready()
    run.loader(run.workers(job, workers) or [job], files[:50], 4)
    assert run.dataset(job, "train").order.kind == "sorted"


@pytest.mark.parametrize("seed", range(5))
def test_from_order_to_shuffled_and_back_between_epochs(seed: int) -> None:
    run, job, files = ready()
    pids = run.workers(job, 4)
    run.loader(pids, files, 8)
    mixed = shuffled(files, seed)
    run.loader(pids, mixed[:50], 8)
    assert run.dataset(job, "train").order.kind == "shuffled"
    run.loader(pids, mixed[50:], 8)
    run.loader(pids, files[:50], 8)
    view = run.dataset(job, "train")
    assert view.order.kind == "sorted"
    assert view.epoch == 3


# ---- natural order: digits in names compared as numbers


def numbered(**names: list[str]) -> tuple[Run, int, list[int]]:
    """A program and directories of files; their nodeids come in the order of the names."""
    run = Run()
    files = [file for path, listed in names.items() for file in run.tree.add(path, listed)]
    listings = {
        run.tree.directory(path): Listing(name.encode() for name in listed) for path, listed in names.items()
    }

    def natural(directory: int, index: int) -> int | None:
        listing = listings[directory]
        return None if listing.sorted_as_numbered else listing.number(index)

    run.patterns = Patterns(run.tree, run.table, natural=natural)
    return run, run.program(), files


NUMBERED = {
    "plain": [f"{n}" for n in range(3000)],
    "images": [f"img_{n}.jpg" for n in range(1000)],
    "shards": [f"shard-{n}.tar" for n in range(1, 121)],
    "pairs": [f"{n}.{kind}" for n in range(1000) for kind in ("cls", "jpg")],
    "frames": [f"clip{clip}_{frame}.png" for clip in range(8, 13) for frame in range(5, 995, 5)],
    "prefixes": [f"{kind}.{n}.jpg" for kind in ("cat", "dog") for n in range(600)],
    "sparse": [f"{n * n}.json" for n in range(1500)],
}


@pytest.mark.parametrize("workers", [0, 4])
@pytest.mark.parametrize("names", NUMBERED.values(), ids=NUMBERED)
def test_natural_order_is_sorted(names: list[str], workers: int) -> None:
    run, job, files = numbered(train=names)
    pids = run.workers(job, workers) or [job]
    early = max(len(files) // 20, 24)
    run.loader(pids, files[:early], 4)
    assert run.dataset(job, "train").order.kind == "sorted"
    run.loader(pids, files[early:], 4)
    view = run.dataset(job, "train")
    assert view.order.kind == "sorted"
    assert view.order.evidence.endswith("go forward in numeric order of the names")
    assert view.order.confidence > 0.9
    assert view.batch == (4 if workers > 1 else None)
    run.loader(pids, files[:100], 4)
    view = run.dataset(job, "train")
    assert (view.order.kind, view.epoch) == ("sorted", 2)


@pytest.mark.parametrize("names", NUMBERED.values(), ids=NUMBERED)
def test_byte_order_of_numbered_names_is_sorted(names: list[str]) -> None:
    run, job, files = numbered(train=sorted(names))
    early = max(len(files) // 20, 24)
    run.read(job, files[:early])
    assert run.dataset(job, "train").order.kind == "sorted"
    run.read(job, files[early:])
    view = run.dataset(job, "train")
    assert view.order.kind == "sorted"
    assert view.order.evidence.endswith("go forward in listing order")


@pytest.mark.parametrize("ranks", [2, 8])
def test_every_kth_file_in_natural_order(ranks: int) -> None:
    run, job, files = numbered(train=NUMBERED["plain"])
    run.interleave([(pid, files[rank::ranks]) for rank, pid in enumerate(run.workers(job, ranks))])
    view = run.dataset(job, "train")
    assert view.order.kind == "sorted"
    assert "numeric" in view.order.evidence


@pytest.mark.parametrize("names", NUMBERED.values(), ids=NUMBERED)
def test_natural_order_backward(names: list[str]) -> None:
    run, job, files = numbered(train=names)
    run.read(job, files[::-1])
    view = run.dataset(job, "train")
    assert view.order.kind == "reverse"
    assert view.order.evidence.endswith("go backward in numeric order of the names")


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("workers", [0, 4])
@pytest.mark.parametrize("names", NUMBERED.values(), ids=NUMBERED)
def test_shuffled_numbered_names_are_never_sorted(names: list[str], workers: int, seed: int) -> None:
    run, job, files = numbered(train=names)
    pids = run.workers(job, workers) or [job]
    order = shuffled(files, seed)
    early = max(len(files) // 20, 50)
    run.loader(pids, order[:early], 4)
    assert run.dataset(job, "train").order.kind == "shuffled"
    for at in range(early, len(files), 250):
        run.loader(pids, order[at : at + 250], 4)
        assert run.dataset(job, "train").order.kind == "shuffled"


def test_shuffled_groups_of_numbered_neighbours() -> None:
    run, job, files = numbered(train=NUMBERED["plain"])
    groups = [files[at : at + 20] for at in range(0, 3000, 20)]
    random.Random(5).shuffle(groups)
    run.loader(run.workers(job, 4), [file for group in groups for file in group], 20)
    view = run.dataset(job, "train")
    assert view.order.kind == "groups"
    assert view.batch == 20


def test_leading_zeros_leave_one_order() -> None:
    run, job, files = numbered(train=[f"{n:05d}.jpg" for n in range(2000)])
    run.read(job, files[:100])
    assert (
        run.dataset(job, "train").order.evidence == "99 of 99 neighbouring reads go forward in listing order"
    )


def test_natural_order_within_directories_of_classes() -> None:
    parts = {f"train/n{c:04d}": [f"n{c:04d}_{n}.JPEG" for n in range(1, 150)] for c in range(12)}
    run, job, files = numbered(**parts)
    run.read(job, files)
    view = run.dataset(job, "train")
    assert (view.order.kind, view.files_seen) == ("sorted", len(files))
    assert "numeric" in view.order.evidence


@settings(max_examples=25, deadline=None)
@given(
    first=st.integers(0, 200),
    count=st.integers(100, 400),
    stem=st.sampled_from(["", "img_", "part-", "v2."]),
    seed=st.integers(0, 1 << 30),
)
def test_numbered_names_in_and_out_of_order(first: int, count: int, stem: str, seed: int) -> None:
    names = [f"{stem}{n}.jpg" for n in range(first, first + count)]
    run, job, files = numbered(train=names)
    run.read(job, files)
    assert run.dataset(job, "train").order.kind == "sorted"
    run, job, files = numbered(train=names)
    run.read(job, shuffled(files, seed))
    assert run.dataset(job, "train").order.kind == "shuffled"


def test_other_fixed_order_shows_in_the_second_epoch() -> None:
    run, job, files = ready()
    order = shuffled(files, 3)
    pids = run.workers(job, 4)
    run.loader(pids, order, 8)
    view = run.dataset(job, "train")
    assert view.order.kind == "shuffled"
    assert "shows in the next epoch" in view.order.evidence
    run.loader(pids, order[:50], 8)
    view = run.dataset(job, "train")
    assert view.order.kind == "fixed"
    run.loader(pids, order[50:], 8)
    run.loader(pids, shuffled(files, 4)[:60], 8)
    assert run.dataset(job, "train").order.kind == "shuffled"


def test_shuffled_groups_of_neighbours() -> None:
    run, job, files = ready(4000)
    groups = [files[at : at + 16] for at in range(0, 4000, 16)]
    random.Random(5).shuffle(groups)
    run.loader(run.workers(job, 4), [file for group in groups for file in group][:2000], 16)
    view = run.dataset(job, "train")
    assert view.order.kind == "groups"
    assert view.batch == 16


def test_order_without_a_listing() -> None:
    run, job, files = ready(1000, listed=False)
    run.read(job, files[:20])
    view = run.dataset(job, "train")
    assert view.order.kind == "sorted"
    assert view.files_total is None
    assert view.fraction is None
    assert view.files_seen == 20


def test_a_listing_that_comes_late_keeps_what_was_seen() -> None:
    run, job, files = ready(1000, listed=False)
    run.read(job, files[:300])
    run.tree.add("other", [])
    for number, file in enumerate(files):
        run.tree.places[file] = run.tree.places[file]._replace(index=number, listed=number)
    directory = run.tree.directory("train")
    run.tree.folders[directory] = run.tree.folders[directory]._replace(files=1000)
    run.now += 2.0
    run.read(job, files[300:400])
    view = run.dataset(job, "train")
    assert (view.files_seen, view.files_total) == (400, 1000)
    run.read(job, files[100:130])
    assert run.dataset(job, "train").files_seen == 400


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("kind", [TouchKind.FIRST, TouchKind.PASS])
def test_epochs_are_counted(shuffle: bool, workers: int, kind: TouchKind) -> None:
    run, job, files = ready(500)
    pids = run.workers(job, workers) or [job]
    for epoch in range(1, 6):
        run.loader(pids, shuffled(files, epoch) if shuffle else files, 8)
        view = run.dataset(job, "train")
        assert view.epoch == epoch
        assert view.fraction == pytest.approx(1.0, abs=0.02)


def test_new_workers_each_epoch() -> None:
    run, job, files = ready(500)
    for epoch in range(1, 5):
        pids = run.workers(job, 4)
        run.loader(pids, shuffled(files, epoch), 8)
        view = run.dataset(job, "train")
        assert (view.epoch, view.workers) == (epoch, 4)
        run.exit(*pids)


@pytest.mark.parametrize("part", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_that_is_stopped_and_begun_anew(part: float, shuffle: bool) -> None:
    """Workers that are made anew begin an epoch where they read what was read, and files that were not."""
    run = Run()
    job = run.program()
    files = run.tree.images("train", 1000)
    for epoch in range(3):
        order = shuffled(files, epoch) if shuffle else files
        workers = run.workers(job, 2)
        run.loader(workers, order[: int(part * len(files))], 10)
        view = run.dataset(job, "train")
        assert view.epoch == epoch + 1
        assert view.files_seen == int(part * len(files))
        if shuffle:
            assert view.fraction == pytest.approx(part, abs=0.01)
        run.exit(*workers)
    # A whole one at last.
    run.loader(run.workers(job, 2), shuffled(files, 9), 10)
    view = run.dataset(job, "train")
    assert (view.epoch, view.files_seen, view.fraction) == (4, 1000, 1.0)


@pytest.mark.parametrize("size", [250, 1000, 5000])
@pytest.mark.parametrize("part", [0.4, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(3))
def test_a_shuffled_epoch_without_workers_that_is_stopped_and_begun_anew(
    part: float, size: int, seed: int
) -> None:
    """The process is the same: that files come again, as many as were read, tells it within a few."""
    run, job, files = ready(size)
    half = int(part * size)
    missed = 16 / size  # files read before one of them came again
    run.read(job, files[:1])  # its shape
    for epoch in range(3):
        order = shuffled(files, 10 * seed + epoch)
        run.read(job, order[: half // 2])
        view = run.dataset(job, "train")
        assert view.epoch == epoch + 1, "known after half of it"
        assert view.fraction == pytest.approx(half // 2 / size, abs=missed)
        run.read(job, order[half // 2 : half])
        view = run.dataset(job, "train")
        assert view.epoch == epoch + 1
        assert view.fraction == pytest.approx(part, abs=missed)
    run.read(job, shuffled(files, 99 + seed))
    view = run.dataset(job, "train")
    assert (view.epoch, view.files_total) == (4, size)
    assert view.fraction == pytest.approx(1.0, abs=missed)
    for epoch in range(5, 8):
        run.read(job, shuffled(files, 99 + seed + epoch))
        view = run.dataset(job, "train")
        assert (view.epoch, view.fraction) == (epoch, pytest.approx(1.0, abs=missed))


@pytest.mark.parametrize("size", [100, 300, 1000, 10_000])
def test_samples_drawn_one_by_one_end_no_epoch(size: int) -> None:
    """RandomSampler(replacement=True): no epoch ends before nearly all was seen."""
    for seed in range(10):
        run, job, files = ready(size)
        source = random.Random(seed)
        for _ in range(15):  # 78 % of them
            run.read(job, source.choices(files, k=size // 10))
            assert run.dataset(job, "train").epoch == 1, seed


@pytest.mark.parametrize("stray", [1, 3, 10, 30])
def test_files_looked_at_twice_in_a_shuffled_epoch_begin_none(stray: int) -> None:
    run, job, files = ready(1000)
    order = shuffled(files, 1)
    for at in range(0, 850, 50):
        run.read(job, order[at : at + 50])
        if at > 300:
            run.read(job, shuffled(order[:at], at)[: -(-stray // 10)])
    view = run.dataset(job, "train")
    assert (view.epoch, view.files_seen) == (1, 850)


def test_workers_that_are_made_anew_to_go_on_begin_no_epoch() -> None:
    """A pool for each part of the data, all of whose processes read the same list of names first."""
    run = Run()
    job = run.program()
    files = run.tree.images("train", 1000)
    for start in range(1, 901, 100):
        workers = run.workers(job, 4)
        for pid in workers:
            run.read(pid, files[:1])
        run.loader(workers, files[start : start + 100], 10)
        run.exit(*workers)
    view = run.dataset(job, "train")
    assert (view.epoch, view.files_seen) == (1, 901)


def test_an_epoch_of_a_part_of_the_directory() -> None:
    """A Subset, or one host's share: nothing but the repetition tells the end."""
    run, job, files = ready(2000)
    part = shuffled(files, 1)[:600]
    pids = run.workers(job, 4)
    for epoch in range(1, 5):
        run.loader(pids, shuffled(part, epoch), 8)
        assert run.dataset(job, "train").epoch in ((epoch, epoch - 1) if epoch > 1 else (1,))
    view = run.dataset(job, "train")
    assert view.epoch == 4
    assert view.files_total == 600


def test_single_files_read_again_do_not_end_an_epoch() -> None:
    run, job, files = ready(500)
    for number, file in enumerate(shuffled(files, 2)):
        run.touch(job, file)
        if number % 3 == 0:
            run.touch(job, file, kind=TouchKind.PASS)
        if number % 10 == 0:
            run.touch(job, files[0])
    assert run.dataset(job, "train").epoch == 1


def test_each_file_read_twice_in_a_row_is_one_epoch() -> None:
    """Verified, then decoded."""
    run, job, files = ready(100)
    for file in files:
        run.touch(job, file)
        run.touch(job, file, kind=TouchKind.PASS)
    view = run.dataset(job, "train")
    assert (view.epoch, view.files_seen) == (1, 100)


def test_two_groups_that_read_all_side_by_side_are_one_epoch() -> None:
    """Two ranks without a sampler of their own."""
    run, job, files = ready(1000)
    one, other = run.workers(job, 2)
    run.interleave([(one, shuffled(files, 1)), (other, shuffled(files, 2))])
    assert run.dataset(job, "train").epoch <= 2
    run.interleave([(one, shuffled(files, 3)[:300]), (other, shuffled(files, 4)[:300])])
    assert run.dataset(job, "train").epoch == 2


# ---- ranks of one job that are not in step


class Ranks:
    """A DistributedSampler's: each reads every k-th file of an epoch's order, with workers or by itself."""

    def __init__(self, run: Run, files: list[int], ranks: int, workers: int, *, shuffle: bool) -> None:
        self.run = run
        self.files = files
        self.job = run.program()
        processes = [run.program(parent=self.job) for _ in range(ranks)]
        self.pids = [run.workers(process, workers) or [process] for process in processes]
        self.epochs = [0] * ranks
        """Which each rank is at."""
        self._shuffle = shuffle

    def _reads(self, rank: int, epochs: int) -> Iterator[tuple[int, int]]:
        pids = self.pids[rank]
        for epoch in range(1, epochs + 1):
            self.epochs[rank] = epoch
            order = shuffled(self.files, epoch) if self._shuffle else self.files
            # Padded, so that all have as many.
            mine = (order + order[: -len(order) % len(self.pids)])[rank :: len(self.pids)]
            parts = [
                [mine[at : at + 8] for at in range(8 * n, len(mine), 8 * len(pids))] for n in range(len(pids))
            ]
            for files in zip_longest(*([file for part in batches for file in part] for batches in parts)):
                yield from ((pid, file) for pid, file in zip(pids, files, strict=True) if file is not None)

    def read(self, epochs: int, late: list[float]) -> None:
        """``late``: by which part of an epoch each rank is behind. The epoch that is said is always one that
        some rank is at."""
        each = len(self.files) // len(self.pids)
        waits = [int(part * each) for part in late]
        ways = {rank: self._reads(rank, epochs) for rank in range(len(late))}
        for step in count():
            for rank in [rank for rank in ways if waits[rank] <= step]:
                touch = next(ways[rank], None)
                if touch is None:
                    del ways[rank]
                else:
                    self.run.touch(*touch)
            if not ways:
                return
            if step % (each // 20) == each // 40:
                said = self.run.dataset(self.job, "train").epoch
                assert min(self.epochs) <= said <= max(self.epochs), (step, self.epochs)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("workers", [0, 4])
@pytest.mark.parametrize(
    "late",
    [
        [0, 0.1],
        [0, 0, 0, 0.1],
        [0, 0.03, 0.06, 0.09],
        [0, 0.1, 0, 0.05, 0.02, 0, 0.08, 0.1],
        [0, 0, 0, 0],
    ],
    ids=str,
)
def test_ranks_out_of_step_are_at_one_epoch(late: list[float], workers: int, shuffle: bool) -> None:
    run = Run()
    ranks = Ranks(run, run.tree.images("train", 1001), len(late), workers, shuffle=shuffle)
    ranks.read(6, late)
    view = run.dataset(ranks.job, "train")
    assert view.epoch == 6
    assert view.files_total == 1001
    assert view.fraction == pytest.approx(1.0, abs=0.01)
    assert view.order.kind == ("shuffled" if shuffle else "sorted")


def test_ranks_out_of_step_on_a_part_of_the_directory() -> None:
    run = Run()
    part = shuffled(run.tree.images("train", 1000), 7)[:950]
    ranks = Ranks(run, part, 4, 2, shuffle=True)
    ranks.read(6, [0, 0.1, 0.05, 0])
    view = run.dataset(ranks.job, "train")
    assert view.epoch == 6
    assert view.files_total == pytest.approx(950, abs=5)


def test_the_last_epoch_is_forgotten_when_nobody_is_at_it() -> None:
    """Its bitmaps are there only while somebody is behind."""
    run = Run()
    files = run.tree.images("train", 8000)
    ranks = Ranks(run, files, 2, 0, shuffle=True)
    ranks.read(2, [0, 0.1])
    assert run.dataset(ranks.job, "train").epoch == 2
    assert run.patterns.seen_bytes <= 8000 / 8 * 1.5


def test_batches_by_pauses() -> None:
    """The job's own process reads 24 files, then computes."""
    run, job, files = ready(480)
    for at in range(0, 480, 24):
        run.read(job, shuffled(files, 1)[at : at + 24])
        run.now += 0.3
    view = run.dataset(job, "train")
    assert view.workers == 0
    assert view.batch == 24


def test_files_a_second() -> None:
    run, job, files = ready(10_000)
    run.read(job, files)
    view = run.dataset(job, "train")
    assert view.files_per_second == pytest.approx(1000, rel=0.05)
    assert view.rate == pytest.approx(100_000_000, rel=0.05)
    run.now += 60.0
    assert run.dataset(job, "train").rate == 0.0


# ---- which directories are one dataset


def classes(run: Run, path: str, count: int, each: int) -> list[int]:
    return [file for n in range(count) for file in run.tree.images(f"{path}/n{n:04d}", each)]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("workers", [0, 4])
def test_directories_of_classes_are_one_dataset(shuffle: bool, workers: int) -> None:
    run = Run()
    job = run.program()
    files = classes(run, "imagenet/train", 50, 40)
    pids = run.workers(job, workers) or [job]
    for epoch in (1, 2, 3):
        run.loader(pids, shuffled(files, epoch) if shuffle else files, 8)
        view = run.dataset(job, "imagenet/train")
        assert len(run.job(job).datasets) == 1
        assert view.epoch == epoch
        assert view.order.kind == ("shuffled" if shuffle else "sorted")
        assert view.files_seen == pytest.approx(2000, abs=20)
        assert view.folders == 50


def test_train_and_val_stay_apart() -> None:
    run = Run()
    job = run.program()
    train = classes(run, "set/train", 10, 60)
    val = classes(run, "set/val", 10, 10)
    for epoch in (1, 2, 3):
        run.loader(run.workers(job, 4), shuffled(train, epoch), 8)
        run.loader(run.workers(job, 2), val, 8)
    views = {view.path: view for view in run.job(job).datasets}
    assert set(views) == {"set/train", "set/val"}
    assert views["set/train"].epoch == 3
    assert views["set/val"].epoch == 3
    assert views["set/train"].order.kind == "shuffled"
    assert views["set/val"].order.kind == "sorted"


def test_two_directories_read_in_turns_are_one_dataset() -> None:
    run = Run()
    job = run.program()
    images = run.tree.images("coco/images", 200)
    labels = run.tree.add("coco/labels", [f"{n:07d}.txt" for n in range(200)], 500)
    for image, label in zip(images, labels, strict=True):
        run.read(job, [image, label])
    (view,) = run.job(job).datasets
    assert view.path == "coco"
    assert view.files_seen == 400


def test_a_tree_of_hashes_is_one_dataset() -> None:
    run = Run()
    job = run.program()
    files = [
        file for a in range(16) for b in range(16) for file in run.tree.images(f"blobs/{a:02x}/{b:02x}", 3)
    ]
    run.read(job, shuffled(files, 1))
    (view,) = run.job(job).datasets
    assert view.path == "blobs"
    assert view.files_seen == 768
    assert view.order.kind == "shuffled"


def test_directories_of_other_kinds_stay_apart() -> None:
    run = Run()
    job = run.program("bash", "bash")
    for name, suffix in (("a", "jpg"), ("b", "py"), ("c", "log"), ("d", "bin"), ("e", "txt")):
        files = run.tree.add(name, [f"{n}.{suffix}" for n in range(10)])
        run.read(run.program("cat", "cat", job), files)
    assert len(run.job(job).datasets) == 5


def test_three_directories_one_after_the_other_stay_apart() -> None:
    run = Run()
    job = run.program()
    for name in ("old", "mid", "new"):
        run.read(job, run.tree.images(f"set/{name}", 50))
    assert len(run.job(job).datasets) == 3


def test_a_split_beside_classes_stays_apart() -> None:
    run = Run()
    job = run.program()
    run.read(job, shuffled(classes(run, "set", 6, 30), 1))
    run.read(job, run.tree.images("set/val", 30))
    assert {view.path for view in run.job(job).datasets} == {"set", "set/val"}


def test_more_directories_than_may_be_followed() -> None:
    run = Run(Limits(folders=20))
    job = run.program()
    files = classes(run, "set", 100, 10)
    for epoch in (1, 2):
        run.read(job, shuffled(files, epoch))
        (view,) = run.job(job).datasets
        assert view.files_seen == pytest.approx(1000, abs=20)
        assert view.epoch == epoch
        assert view.folders <= 20


def test_two_jobs_have_datasets_of_their_own() -> None:
    run = Run()
    one, other = run.program(), run.program()
    files = run.tree.images("set", 300)
    run.interleave([(one, files), (other, shuffled(files, 1))])
    assert run.dataset(one, "set").order.kind == "sorted"
    assert run.dataset(other, "set").order.kind == "shuffled"
    view = run.patterns.dataset_of(files[0], other)
    assert view is not None
    assert view.order.kind == "shuffled"
    assert run.patterns.dataset_of(files[0], 99999) is None


# ---- shards


def test_shards_by_bytes() -> None:
    run = Run()
    job = run.program()
    shards = run.tree.add("wds", [f"shard-{n:04d}.tar" for n in range(8)], 64 << 20)
    for shard in shards[:2]:
        run.front_to_back(job, shard)
    run.large(job, shards[2], [(at, at + 63) for at in range(0, 8192, 64)])
    view = run.dataset(job, "wds")
    assert view.role.kind == "shards"
    assert view.fraction == pytest.approx(2.5 / 8, abs=0.02)
    for shard in shards[3:]:
        run.front_to_back(job, shard)
    assert run.dataset(job, "wds").epoch == 1
    for shard in shards[:3]:
        run.front_to_back(job, shard)
    view = run.dataset(job, "wds")
    assert view.epoch == 2
    assert view.fraction == pytest.approx(3 / 8, abs=0.02)


def test_epochs_of_shards_by_events_alone() -> None:
    """8 MiB each, read faster than counters come."""
    run = Run()
    job = run.program()
    shards = run.tree.add("wds", [f"{n}.tar" for n in range(4)], 8 << 20)
    models = [StreamModel(job, shard, 2048) for shard in shards]
    for epoch in (1, 2, 3):
        for model in models:
            for at in range(0, 2048, 32):
                run.now += 0.005
                run.patterns.touch(model.read(at, at + 31, run.now))
        assert run.dataset(job, "wds").epoch == epoch


def test_several_readers_of_one_large_file_are_no_epochs() -> None:
    run = Run()
    job = run.program()
    (file,) = run.tree.add("big", ["data.tfrecord"], 256 << 20)
    for number, pid in enumerate(run.workers(job, 4)):
        first = number * 16384
        run.large(pid, file, [(at, at + 63) for at in range(first, first + 4096, 64)])
    assert run.dataset(job, "big").epoch == 1


def test_samples_of_several_reads() -> None:
    """An image decoder that reads in blocks of 64 KiB: bytes come with the counters."""
    run, job, files = ready(300)
    pids = run.workers(job, 2)
    for epoch in (1, 2):
        order = shuffled(files, epoch)
        for number, file in enumerate(order):
            run.large(pids[number // 8 % 2], file, [(0, 15), (16, 24)])
        view = run.dataset(job, "train")
        assert view.epoch == epoch
        assert view.order.kind == "shuffled"
        assert view.role.kind == "samples"
        assert view.sample_size == 100_000
        assert view.bytes == epoch * 300 * 25 * 4096
