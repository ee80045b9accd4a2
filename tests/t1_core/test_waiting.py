"""Waiting before and after a rule acts: made-up counters and clocks, and what is not known stays so."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from swmld.head import waiting
from swmld.head.waiting import ANY, Compared, Key, Name, Place, Waited, Waiting
from swmld.patterns.feed import PAGE, Cursor, Shape, Touch, TouchFlag, TouchKind, Wait

RULE, OTHER = Name("rule", "ahead"), Name("rule", "other")
READS = waiting.FEW
"""Of each file here: enough for a rate."""


def cursor(wait: float, at: float = 0.0, *, reads: int = READS, pages: int = 100, **other: int) -> Cursor:
    """Counters of a stream that began ``at``."""
    fields = dict.fromkeys(Cursor._fields, 0) | {"early": ()} | other
    return Cursor(**fields | {"first_at": at, "last_at": at, "reads": reads, "pages": pages, "wait": wait})


def names(seconds: float) -> Wait:
    return Wait(0.0, 0, seconds, 1, 0.0, 0, 0.0, 0, ())


class Lab:
    """Files by number; those of one hundred are a dataset. A process is its own job."""

    def __init__(self, **limits: int) -> None:
        self.waiting = Waiting(**limits)
        self.now = 0.0
        self.began = 0.0
        self.told: list[tuple[Key, Waited]] = []
        self.looked: list[int] = []

    def place(self, pid: int, file: int) -> Place | None:
        self.looked.append(file)
        return Place(Key(pid, f"d{file // 100}"), self.began) if pid else None

    def job(self, pid: int) -> int:
        return pid

    def acts(self, file: int, *rules: Name, job: int = 5) -> None:
        self.waiting.acts(
            job, file, rules, (lambda key, more: self.told.append((key, more))) if rules else None
        )

    def read(self, *rows: tuple[int, Cursor], pid: int = 5, waits: Iterable[tuple[int, Wait]] = ()) -> None:
        """The next look at the counters."""
        self.now += 0.01
        self.waiting.take([(pid, file, each) for file, each in rows], self.place, self.job)
        self.waiting.settle(waits, self.now, self.place, self.job)

    def of(self, name: Name = RULE) -> Compared | None:
        return self.waiting.homes().of(name)


@pytest.fixture
def lab() -> Lab:
    return Lab()


def test_before_is_what_the_job_read_of_the_dataset_until_the_rule_acted(lab: Lab) -> None:
    lab.acts(101)
    lab.read((101, cursor(4.0)))
    lab.acts(102, RULE)
    lab.read((102, cursor(1.0, pages=200)))
    assert lab.of() == Compared(
        Waited(1.0, 200 * PAGE, READS), Waited(1.0, 200 * PAGE, READS), pytest.approx(8.0), "dataset"
    )
    assert lab.told == [(Key(5, "d1"), Waited(1.0, 200 * PAGE, READS))]


def test_a_decision_about_a_file_counts_from_then_on(lab: Lab) -> None:
    """What a stream has already is not counted again, neither is what another rule decided."""
    lab.acts(101)
    lab.read((101, cursor(4.0)))
    lab.acts(101, RULE, OTHER)
    lab.read((101, cursor(4.5, reads=2 * READS, pages=150)))
    lab.acts(101, OTHER)
    lab.read((101, cursor(4.5, reads=3 * READS, pages=300)))
    found = lab.of()
    assert found is not None
    assert found.after == Waited(0.5, 50 * PAGE, READS)
    assert found.before == pytest.approx(4.0 / 250 * 50), "both without it"
    other = lab.of(OTHER)
    assert other is not None
    assert (other.after.bytes, other.before) == (200 * PAGE, pytest.approx(8.0))


def test_a_rule_that_acts_from_the_first_open_on_has_no_before(lab: Lab) -> None:
    for file in (101, 102):
        lab.acts(file, RULE)
        lab.read((file, cursor(1.0)))
    assert lab.of() == Compared(Waited(2.0, 200 * PAGE, 2 * READS))
    assert lab.of(OTHER) is None


def test_then_it_is_compared_with_other_jobs_and_only_then_with_other_files(lab: Lab) -> None:
    lab.acts(101, RULE)
    lab.read((101, cursor(1.0)))
    lab.acts(201)
    lab.read((201, cursor(3.0)))
    found = lab.of()
    assert found is not None
    assert (found.before, found.basis) == (pytest.approx(3.0), "job")
    lab.acts(102, job=6)
    lab.read((102, cursor(2.0)), pid=6)
    found = lab.of()
    assert found is not None
    assert (found.before, found.basis) == (pytest.approx(2.0), "others")


def test_too_few_reads_are_no_before(lab: Lab) -> None:
    lab.acts(101)
    lab.read((101, cursor(9.0, reads=READS - 1)))
    lab.acts(102, RULE)
    lab.read((102, cursor(1.0)))
    found = lab.of()
    assert found is not None
    assert found.before is None
    lab.read((101, cursor(9.0, reads=READS)))
    found = lab.of()
    assert found is not None
    assert found.before == pytest.approx(9.0)


def test_each_dataset_is_held_against_itself(lab: Lab) -> None:
    """Much of a fast dataset before and much of a slow one after are no loss."""
    for file, wait, pages in ((101, 1.0, 1000), (201, 10.0, 100)):
        lab.acts(file)
        lab.read((file, cursor(wait, pages=pages)))
    for file, wait, pages in ((102, 0.05, 100), (202, 50.0, 1000), (302, 7.0, 100)):
        lab.acts(file, RULE)
        lab.read((file, cursor(wait, pages=pages)))
    found = lab.of()
    assert found is not None
    assert found.after.bytes == 1200 * PAGE
    assert found.of.bytes == 1200 * PAGE
    assert found.before == pytest.approx(0.1 + 100.0 + 11.0 / 1100 * 100)


def test_waiting_for_names_is_shared_by_the_files_that_were_begun(lab: Lab) -> None:
    lab.acts(101, RULE)
    lab.acts(102)
    lab.read((101, cursor(0.0)), (102, cursor(1.0)), (103, cursor(0.0)), waits=[(5, names(3.0))])
    found = lab.of()
    assert found is not None
    assert found.after.seconds == pytest.approx(1.0)
    assert found.before == pytest.approx(2.0)
    lab.read((101, cursor(0.0, reads=2 * READS)), waits=[(5, names(4.0))])
    lab.acts(104, RULE)
    lab.read((104, cursor(0.0, lab.now)))  # it was opened just before the last look
    found = lab.of()
    assert found is not None
    assert found.after.seconds == pytest.approx(2.0)


def test_a_file_that_is_read_whole_at_once_is_counted_once(lab: Lab) -> None:
    """Its event says so; counters follow if it is read again."""
    lab.acts(101, RULE)
    whole = Touch(TouchKind.FIRST, 0.0, 5, 101, 0, 9, 10, 0, TouchFlag.WHOLE, Shape.NEW)
    lab.waiting.touched([whole])
    lab.read(waits=[(5, names(3.0))])
    assert lab.of() == Compared(Waited(3.0, 10 * PAGE, 1))
    lab.read((101, cursor(1.0, reads=3, pages=30, passes=2)))
    assert lab.of() == Compared(Waited(4.0, 30 * PAGE, 3))
    lab.acts(102, RULE)
    lab.waiting.touched([whole._replace(file=102)])
    lab.read((102, cursor(1.0, reads=1, pages=10)))  # it was waited for
    assert lab.of() == Compared(Waited(5.0, 40 * PAGE, 4))


def test_what_was_waited_for_without_reading_is_forgotten(lab: Lab) -> None:
    """Such as the listing of a large tree."""
    lab.read(waits=[(5, names(60.0))])
    lab.read()
    lab.acts(101, RULE)
    opened = lab.now
    lab.read((101, cursor(0.5, opened)), waits=[(5, names(60.25))])
    found = lab.of()
    assert found is not None
    assert found.after.seconds == pytest.approx(0.75)
    lab.read((101, cursor(0.5, opened, reads=2 * READS, passes=1)), waits=[(5, names(0.125))])
    found = lab.of()
    assert found is not None
    assert found.after.seconds == pytest.approx(0.875), "the number is another process's"


def test_where_a_job_reads_is_only_looked_up_of_files_about_which_rules_were_asked(lab: Lab) -> None:
    """A cached tree is read by one program after the other, each of them a job."""
    lab.acts(101, RULE)
    lab.acts(102, RULE, job=0)
    lab.read((101, cursor(1.0)), (102, cursor(1.0)), (103, cursor(1.0)), pid=7)
    assert set(lab.looked) == {102}
    lab.read((101, cursor(1.0)))
    assert set(lab.looked) == {101, 102}


def test_files_that_nobody_asked_rules_about_count_for_nothing(lab: Lab) -> None:
    lab.read((101, cursor(9.0)))
    lab.read((102, cursor(9.0)), pid=0)
    lab.acts(103, RULE)
    lab.read((103, cursor(1.0)), (104, cursor(9.0, direct=1)))
    assert lab.of() == Compared(Waited(1.0, 100 * PAGE, READS))
    lab.acts(105, job=0)  # while there are no rules at all
    lab.read((105, cursor(2.0)))
    found = lab.of()
    assert found is not None
    assert found.before == pytest.approx(2.0)


def test_what_is_forgotten_is_not_counted_twice() -> None:
    lab = Lab(streams=1)
    lab.now = 100.0
    lab.acts(101, RULE)
    lab.acts(102, RULE)
    lab.read((101, cursor(1.0, 100.0)))
    lab.read((102, cursor(1.0, 100.0)))
    lab.now += waiting.LATE
    lab.read()
    lab.read((101, cursor(2.0, 100.0, reads=2 * READS)))
    found = lab.of()
    assert found is not None
    assert found.after.seconds == 2.0
    lab.read((101, cursor(2.5, 100.0, reads=3 * READS)))
    found = lab.of()
    assert found is not None
    assert found.after.seconds == 2.5, "what came since is"


def test_a_job_with_the_number_of_an_ended_one_begins_anew(lab: Lab) -> None:
    lab.acts(101)
    lab.read((101, cursor(9.0)))
    lab.began = 50.0
    lab.acts(102, RULE)
    lab.read((102, cursor(1.0)))
    assert lab.of() == Compared(Waited(1.0, 100 * PAGE, READS))


def test_of_too_many_sums_the_oldest_job_and_dataset_goes_whole() -> None:
    """Were a rule's part of it forgotten alone, what it acted on would count as before."""
    lab = Lab(sums=5)
    for dataset in (1, 2, 3):
        lab.acts(100 * dataset, RULE)
        lab.read((100 * dataset, cursor(1.0)))
    homes = lab.waiting.homes()
    assert homes.of(RULE) == homes.of(ANY) == Compared(Waited(1.0, 100 * PAGE, READS))


def test_only_the_latest_files_are_known_to_be_acted_on() -> None:
    lab = Lab(acting=1)
    lab.acts(101, RULE)
    lab.acts(102, RULE)
    lab.read((101, cursor(9.0)), (102, cursor(1.0)))
    assert lab.of() == Compared(Waited(1.0, 100 * PAGE, READS))
