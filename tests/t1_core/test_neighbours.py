"""Neighbours: how much of what readers open was asked for before, and how little else."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swmld.plan.listing import Listing, natural_key
from swmld.plan.neighbours import Directory, Limits


def names(count: int) -> list[bytes]:
    return [b"img%07d.jpg" % number for number in range(count)]


class Reading:
    """Opens files of one directory and keeps count."""

    def __init__(self, listed: list[bytes], limits: Limits | None = None) -> None:
        self.directory = Directory(limits)
        self.listed = listed
        self.asked: list[bytes] = []
        self.asked_set: set[bytes] = set()
        self.foreseen = 0
        self.opened: set[bytes] = set()

    def open(self, name: bytes) -> list[bytes]:
        if self.directory.needs_listing:
            self.directory.set_listing(Listing(self.listed))
        self.foreseen += name in self.asked_set
        wanted = self.directory.on_open(name, 0.0)
        assert len(wanted) == len(set(wanted))
        self.opened.add(name)
        self.asked += wanted
        self.asked_set.update(wanted)
        return wanted

    def open_all(self, order: Iterable[bytes]) -> None:
        for name in order:
            self.open(name)

    @property
    def wasted(self) -> int:
        return len(set(self.asked) - self.opened)


def test_listing_finds_every_name_in_both_orders() -> None:
    listed = names(500)
    random.Random(1).shuffle(listed)
    listing = Listing([*listed, listed[0]])
    assert len(listing) == 500
    assert not listing.sorted_as_listed
    for place, name in enumerate(listed):
        index = listing.find(name)
        assert index is not None
        assert listing.name(index) == name
        assert listing.place(index) == place
        assert listing.at_place(place) == index
    assert [listing.name(index) for index in range(500)] == names(500)
    assert listing.find(b"img") is None
    assert listing.find(b"zzz") is None
    assert Listing([]).find(b"a") is None
    assert Listing(names(10)).sorted_as_listed


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=8)))
def test_listing_of_any_names(listed: list[bytes]) -> None:
    listing = Listing(listed)
    assert [listing.name(index) for index in range(len(listing))] == sorted(set(listed))
    assert all(listing.name(listing.find(name) or 0) == name for name in listed)


NUMBERED = {
    "plain": [b"%d" % number for number in range(3000)],
    "images": [b"img_%d.jpg" % number for number in range(1000)],
    "shards": [b"shard-%d.tar" % number for number in range(1, 121)],
    "pairs": [b"%d.%s" % (number, kind) for number in range(500) for kind in (b"cls", b"jpg")],
    "frames": [b"clip%d_%d.png" % (clip, frame) for clip in range(9, 12) for frame in range(8, 400, 3)],
    "prefixes": [b"%s.%d.jpg" % (kind, number) for kind in (b"cat", b"dog") for number in range(500)],
}
"""Names in natural order, which is not that of their bytes."""


@pytest.mark.parametrize("listed", NUMBERED.values(), ids=NUMBERED)
def test_listing_knows_natural_order(listed: list[bytes]) -> None:
    listing = Listing(random.Random(1).sample(listed, len(listed)))
    assert not listing.sorted_as_numbered
    for number, name in enumerate(listed):
        index = listing.find(name)
        assert index is not None
        assert listing.number(index) == number
        assert listing.at_number(number) == index


@pytest.mark.parametrize(
    "listed",
    [
        [],
        [b"a"],
        names(300),
        [b"a1", b"b2", b"c10"],
        [b"x", b"y"],
        [b"%02d" % number for number in range(90)],
    ],
)
def test_padded_names_and_names_without_numbers_need_no_second_order(listed: list[bytes]) -> None:
    listing = Listing(listed)
    assert listing.sorted_as_numbered
    assert [listing.number(index) for index in range(len(listed))] == list(range(len(listed)))
    assert [listing.at_number(index) for index in range(len(listed))] == list(range(len(listed)))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"2", b"10"),
        (b"9", b"0010"),
        (b"a", b"a0"),
        (b"a1", b"a1a"),
        (b"a9b", b"a10"),
        (b"v1.9", b"v1.10"),
        (b"-1", b"1"),
        (b"1", b"a"),
        (b"9" * 254, b"1" * 255),
        (b"0", b"1"),
    ],
)
def test_natural_keys_compare_digits_as_numbers(before: bytes, after: bytes) -> None:
    assert natural_key(before) < natural_key(after)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.one_of(st.integers(0, 2000), st.sampled_from("ab.-_")), min_size=1, max_size=4)))
def test_natural_order_of_any_names(parts: list[list[int | str]]) -> None:
    listed = ["".join(map(str, part)).encode() for part in parts]
    listing = Listing(listed)
    count = len(listing)
    ordered = [listing.name(listing.at_number(number)) for number in range(count)]
    assert ordered == sorted(sorted(set(listed)), key=natural_key)
    assert [listing.number(listing.at_number(number)) for number in range(count)] == list(range(count))


@pytest.mark.parametrize("shuffled_listing", [False, True])
@pytest.mark.parametrize("listed", NUMBERED.values(), ids=NUMBERED)
def test_reader_in_natural_order(listed: list[bytes], shuffled_listing: bool) -> None:
    """``for n in range(count)``."""
    reading = Reading(random.Random(2).sample(listed, len(listed)) if shuffled_listing else listed)
    reading.open_all(listed)
    assert reading.foreseen >= 0.95 * len(listed)
    assert reading.wasted == 0


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_every_kth_file_in_natural_order(stride: int) -> None:
    listed = NUMBERED["plain"]
    reading = Reading(sorted(listed))
    reading.open_all(listed[1::stride])
    assert reading.foreseen >= 0.9 * len(listed) / stride
    assert reading.wasted <= 32


def test_workers_in_lockstep_in_natural_order() -> None:
    listed = NUMBERED["plain"]
    reading = Reading(sorted(listed))
    for start in range(0, 3000, 40):
        reading.open_all(listed[start + at // 4 + at % 4 * 10] for at in range(40))
    assert reading.foreseen >= 0.95 * 3000
    assert reading.wasted == 0


def test_sorted_order_of_numbered_names_is_still_foreseen() -> None:
    listed = sorted(NUMBERED["plain"])
    reading = Reading(NUMBERED["plain"])
    reading.open_all(listed)
    assert reading.foreseen >= 0.95 * 3000
    assert reading.wasted <= 16


@pytest.mark.parametrize("shuffled_listing", [False, True])
def test_reader_in_sorted_order(shuffled_listing: bool) -> None:
    listed = names(3000)
    if shuffled_listing:  # as ext4 lists: by hash
        random.Random(2).shuffle(listed)
    reading = Reading(listed)
    reading.open_all(names(3000))
    assert reading.foreseen >= 2990
    assert reading.wasted == 0


def test_reader_in_listed_order() -> None:
    listed = names(3000)
    random.Random(3).shuffle(listed)
    reading = Reading(listed)
    reading.open_all(listed)
    assert reading.foreseen >= 2950
    assert reading.wasted <= 10


def test_window_starts_small_and_doubles() -> None:
    reading = Reading(names(5000))
    assert reading.open(names(5000)[0]) == []
    assert reading.open(names(5000)[1]) == []  # asks for the listing
    assert reading.open(names(5000)[2]) == names(5000)[3:11]
    reading.open_all(names(5000)[3:1500])
    assert 400 <= len(reading.asked) - 1500 <= 513
    few = Reading(names(5000), Limits(max_window=16))
    few.open_all(names(5000)[:100])
    assert len(few.asked) + 3 - 100 <= 16


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("batch", [16, 32])
def test_workers_in_lockstep_each_with_its_own_batch(workers: int, batch: int) -> None:
    """A DataLoader without shuffling: batch number b goes to worker b % workers."""
    all_names = names(4096)
    reading = Reading(all_names)
    for start in range(0, len(all_names), workers * batch):
        for step in range(batch):
            for worker in range(workers):
                reading.open(all_names[start + worker * batch + step])
    assert reading.foreseen >= 0.95 * 4096
    assert reading.wasted == 0


def test_workers_at_random_speeds() -> None:
    source = random.Random(4)
    all_names = names(4000)
    places = [0, 1000, 2000, 3000]
    stops = [1000, 2000, 3000, 4000]
    reading = Reading(all_names)
    while any(place < stop for place, stop in zip(places, stops, strict=True)):
        worker = source.randrange(4)
        if places[worker] < stops[worker]:
            reading.open(all_names[places[worker]])
            places[worker] += 1
    assert reading.foreseen >= 0.95 * 4000
    assert reading.wasted == 0


def test_threads_that_overtake_each_other() -> None:
    source = random.Random(5)
    order = names(2000)
    for start in range(0, 2000, 4):
        part = order[start : start + 4]
        source.shuffle(part)
        order[start : start + 4] = part
    reading = Reading(names(2000))
    reading.open_all(order)
    assert reading.foreseen >= 0.95 * 2000
    assert reading.wasted == 0


@pytest.mark.parametrize("stride", [2, 4, 8, 50])
def test_strided_reader_gets_no_other_files(stride: int) -> None:
    all_names = names(20_000)
    reading = Reading(all_names)
    order = all_names[3::stride]
    reading.open_all(order)
    assert reading.foreseen >= 0.9 * len(order)
    assert reading.wasted <= 32


def test_shuffled_epoch_is_swept() -> None:
    order = names(2000)
    random.Random(6).shuffle(order)
    reading = Reading(names(2000))
    reading.open_all(order)
    assert reading.foreseen >= 0.7 * 2000
    assert reading.wasted == 0


def test_second_shuffled_epoch_is_asked_for_from_its_beginning() -> None:
    source = random.Random(7)
    order = names(2000)
    reading = Reading(names(2000))
    source.shuffle(order)
    reading.open_all(order)
    source.shuffle(order)
    reading.asked.clear()
    reading.open_all(order[:200])
    assert len(reading.asked) >= 1000


def test_few_random_opens_in_a_large_directory_cost_little() -> None:
    source = random.Random(8)
    all_names = names(100_000)
    reading = Reading(all_names)
    reading.open_all(source.choices(all_names, k=900))
    assert len(reading.asked) <= 100


def test_a_subset_read_again_and_again_is_swept_once() -> None:
    """Validation reads a tenth of the directory: nothing tells before the second epoch begins."""
    source = random.Random(9)
    all_names = names(20_000)
    subset = [name for name in all_names if source.random() < 0.1]
    reading = Reading(all_names)
    source.shuffle(subset)
    reading.open_all(subset)
    assert len(reading.asked) <= 8 * len(subset)
    source.shuffle(subset)
    reading.open_all(subset)
    before = len(reading.asked)
    for _ in range(3):
        source.shuffle(subset)
        reading.open_all(subset)
    assert len(reading.asked) - before <= 200


def test_waste_halves_the_window() -> None:
    """A reader that goes on for a while and then leaves: later readers start with less."""
    limits = Limits(patience=600, sweep_opens=10_000)
    reading = Reading(names(100_000), limits)
    reading.open_all(names(100_000)[:1000])
    assert len(reading.asked) >= 1400
    source = random.Random(10)
    reading.open_all(source.sample(names(100_000)[50_000:], 700))
    most = max(len(reading.open(name)) for name in names(100_000)[20_000:20_040])
    assert 8 <= most <= 256


def test_what_the_queue_dropped_is_asked_again() -> None:
    all_names = names(1000)
    reading = Reading(all_names)
    reading.open_all(all_names[:3])
    assert reading.asked == all_names[3:11]
    reading.directory.on_dropped(all_names[6:11])
    assert reading.open(all_names[3]) == all_names[6:12]
    reading.directory.on_dropped([b"unknown"])


def test_a_sweep_goes_back_for_what_the_queue_dropped() -> None:
    order = names(2000)
    random.Random(11).shuffle(order)
    reading = Reading(names(2000))
    reading.open_all(order[:100])
    lost = set(reading.asked) - reading.opened
    assert len(lost) > 100
    reading.directory.on_dropped(lost)
    reading.asked.clear()
    reading.open_all(order[100:200])
    assert lost - reading.opened <= set(reading.asked) | reading.opened
    assert len(lost & set(reading.asked)) > 100


def test_unknown_names_and_changed_listings() -> None:
    reading = Reading(names(100))
    reading.open_all(names(100)[:5])
    assert reading.open(b"new") == []
    reading.directory.set_listing(Listing([*names(100), b"new"]))
    assert reading.open(b"new") == []
    empty = Directory()
    empty.set_listing(Listing([]))
    assert empty.on_open(b"a", 0.0) == []


def test_a_large_directory_takes_30_bytes_a_name() -> None:
    listing = Listing(b"%d" % (number * 7919 % 1_000_003) for number in range(100_000))
    directory = Directory()
    directory.set_listing(listing)
    assert listing.nbytes <= 100_000 * 30
    for index in range(2000):
        directory.on_open(listing.name(index), 0.0)
    assert directory.on_open(listing.name(2000), 0.0)


@settings(max_examples=100, deadline=None)
@given(
    count=st.integers(1, 60),
    opens=st.lists(st.integers(0, 59), max_size=200),
    shuffle=st.randoms(use_true_random=False),
    dropped=st.sets(st.integers(0, 59)),
)
def test_never_unknown_never_twice_an_epoch(
    count: int, opens: list[int], shuffle: random.Random, dropped: set[int]
) -> None:
    listed = names(count)
    shuffle.shuffle(listed)
    directory = Directory(Limits(sweep_opens=16))
    directory.set_listing(Listing(listed))
    asked: list[bytes] = []
    epoch = 0
    for place in opens:
        name = listed[place % count]
        wanted = directory.on_open(name, 0.0)
        if directory.epoch != epoch:
            epoch, asked = directory.epoch, []
        assert set(wanted) <= set(listed)
        assert not set(wanted) & set(asked)
        assert name not in wanted
        lost = [other for other in wanted if listed.index(other) in dropped]
        directory.on_dropped(lost)
        asked += [other for other in wanted if other not in lost]


def test_what_rules_ask_for() -> None:
    directory = Directory()
    assert directory.others(b"x", 9) == directory.ask([b"x"]) == directory.following(b"x", 2, 9) == []
    directory.passed_over(b"x")
    listed = names(12)
    directory.set_listing(Listing(listed))
    assert directory.ask([b"x", listed[7], listed[3], listed[7]]) == [listed[7], listed[3]]
    assert directory.following(listed[2], 3, 9) == [listed[4], listed[5]]
    assert directory.others(listed[5], 99) == [listed[place] for place in (6, 8, 9, 10, 11, 0, 1, 2)]
    assert directory.others(b"x", 99) == []
    directory.on_dropped([listed[1]])
    assert directory.others(b"", 99) == [listed[1]]


class Looking(Directory):
    """Counts the files that are looked at for rules."""

    looks = 0

    def _want(self, index: int) -> bool:
        self.looks += 1
        return super()._want(index)


@pytest.mark.parametrize("readers", [1, 3])
def test_a_rule_for_many_files_looks_at_each_once(readers: int) -> None:
    listed = names(3000)
    directory = Looking()
    directory.set_listing(Listing(listed))
    asked: list[bytes] = []
    for number in range(900):
        place = number // readers + number % readers * 1000
        directory.on_open(listed[place], 0.0, 1)
        asked += directory.following(listed[place], 2000, 50)
    assert len(asked) == len(set(asked))
    assert len(asked) > 2000
    assert directory.looks < readers * 2 * len(listed)


def test_a_rule_for_all_files_looks_at_each_once() -> None:
    listed = names(3000)
    directory = Looking()
    directory.set_listing(Listing(listed))
    asked: list[bytes] = []
    for place in range(1500, 1600):
        directory.on_open(listed[place], 0.0, 1)
        asked += directory.others(listed[place], 50)
    assert asked[:99] == listed[1501:1600]
    assert set(asked) | set(listed[1500:1600]) == set(listed)
    assert len(asked) == len(set(asked))
    assert directory.looks <= len(listed)


def test_a_rule_asks_anew_in_each_epoch() -> None:
    listed = names(100)
    directory = Directory()
    directory.set_listing(Listing(listed))
    for name in listed:
        directory.on_open(name, 0.0, 1)
        directory.others(name, 100)
    epoch = directory.epoch
    asked: list[bytes] = []
    opened = iter(listed)
    while directory.epoch == epoch:
        asked = directory.on_open(name := next(opened), 0.0, 1)
    assert {*asked, *directory.others(name, 100)} == {*listed} - {name}


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["open", "next", "others", "drop", "large", "epoch"]),
            st.integers(0, 29),
            st.integers(1, 40),
            st.integers(1, 12),
        ),
        max_size=60,
    )
)
def test_what_rules_ask_for_is_what_is_left(steps: list[tuple[str, int, int, int]]) -> None:
    """As whoever looks at all of it each time: what is asked for is left until then, and the first of it."""
    listed = names(30)
    directory = Directory()
    directory.set_listing(Listing(listed))
    opened: set[bytes] = set()
    asked: set[bytes] = set()
    large: set[bytes] = set()
    for what, place, count, most in steps:
        name = listed[place]
        if what == "open" and name not in opened:
            asked.update(directory.on_open(name, 0.0, 1))
            opened.add(name)
        elif what == "drop":
            directory.on_dropped([name])
            if name not in opened:
                asked.discard(name)
        elif what == "large" and name in asked:
            directory.passed_over(name)
            large.add(name)
        elif what == "epoch":
            directory.set_listing(Listing(listed))
            opened, asked, large = set(), set(), set()
        elif what in ("next", "others"):
            places = range(place + 1, min(place + 1 + count, 30)) if what == "next" else range(30)
            left = {listed[other] for other in places if other != place}
            left -= opened | (asked - large)
            wanted = (
                directory.following(name, count, most) if what == "next" else directory.others(name, most)
            )
            assert set(wanted) <= left
            assert len(wanted) == len(set(wanted)) == min(most, len(left))
            asked.update(wanted)
            large.difference_update(wanted)


def test_rules_may_want_what_was_passed_over_as_too_large() -> None:
    reading = Reading(names(100))
    reading.open_all(names(100)[:4])
    large = [name for name in reading.asked if name not in reading.opened]
    assert len(large) > 2
    assert reading.directory.ask(large) == []
    for name in [*large, b"x"]:
        reading.directory.passed_over(name)
    assert reading.directory.following(names(100)[3], 2, 9) == large[:2]
    assert reading.directory.ask(large) == large[2:], "and none twice"
    before = len(reading.asked)
    reading.open(names(100)[4])
    assert not set(large) & set(reading.asked[before:]), "its readers do not ask for it again"
