"""The eviction policies as functions of their candidates."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from swmld.plan.eviction import Candidate, Keep, Lru, Policy


def test_oldest_use_goes_first() -> None:
    files = [Candidate(1, 10, 300.0), Candidate(2, 10, 100.0), Candidate(3, 10, 200.0)]
    assert Lru().pick(files, 20) == [2, 3]


def test_same_moment_goes_in_order_of_caching() -> None:
    files = [Candidate(9, 10, 1.0), Candidate(4, 10, 1.0), Candidate(7, 10, 1.0)]
    assert Lru().pick(files, 25) == [4, 7, 9]


def test_pinned_files_stay() -> None:
    files = [Candidate(1, 10, 1.0, pinned=True), Candidate(2, 10, 2.0)]
    assert Lru().pick(files, 1000) == [2]


def test_nothing_goes_for_nothing() -> None:
    assert Lru().pick([Candidate(1, 10, 1.0)], 0) == []
    assert Lru().pick([Candidate(1, 10, 1.0)], -5) == []
    assert Lru().pick([], 5) == []


def test_what_is_kept_harder_goes_later_however_old_it_is() -> None:
    files = [
        Candidate(1, 10, 1.0, keep=Keep.LAST),
        Candidate(2, 10, 2.0, keep=Keep.NEVER),
        Candidate(3, 10, 3.0, keep=Keep.NORMAL),
        Candidate(4, 10, 4.0, keep=Keep.FIRST),
    ]
    assert Lru().pick(files, 10) == [4]
    assert Lru().pick(files, 20) == [4, 3]
    assert Lru().pick(files, 1000) == [4, 3, 1]


candidates = st.lists(
    st.builds(
        Candidate,
        st.integers(1, 10**6),
        st.integers(0, 1000),
        st.floats(0, 100),
        st.booleans(),
        st.sampled_from(Keep),
    ),
    unique_by=lambda each: each.file_id,
)


@given(candidates, st.integers(-10, 5000))
def test_enough_goes_but_no_more(files: list[Candidate], need: int) -> None:
    policy: Policy = Lru()
    picked = policy.pick(iter(files), need)
    by_id = {each.file_id: each for each in files}
    chosen = [by_id[file_id] for file_id in picked]
    freed = sum(each.nbytes for each in chosen)
    free_to_go = [each for each in files if not each.stays]

    assert len(set(picked)) == len(picked)
    assert not any(each.pinned or each.keep is Keep.NEVER for each in chosen)
    assert freed >= min(need, sum(each.nbytes for each in free_to_go))
    if picked:  # without the last one it would not have been enough
        assert freed - chosen[-1].nbytes < need
    kept = [(each.keep, each.last_used) for each in free_to_go if each.file_id not in picked]
    assert not chosen or not kept or max((each.keep, each.last_used) for each in chosen) <= min(kept)
