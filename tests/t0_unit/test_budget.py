"""When reads are sampled, and what each of them stands for then."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swmld.observe.budget import BACK, CALM, LEAST, LOOKS, MOST, Budget, Ledger

LIMIT = 60_000.0

rates = st.one_of(st.floats(0, 3 * LIMIT), st.floats(0, 100 * LIMIT))


def weights(*looks: float, limit: float = LIMIT) -> list[int]:
    budget = Budget(limit)
    return [budget.look(rate) for rate in looks]


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([LIMIT] * 9, [1] * 9),  # at the limit each read is looked at
        ([LIMIT + 1] * 4, [1, 1, LEAST, LEAST]),
        ([700_000] * 4, [1, 1, 12, 12]),
        ([1e9] * 4, [1, 1, MOST, MOST]),
        ([700_000, 700_000, 0] * 3, [1] * 9),  # bursts
        ([700_000, 700_000, 700_000, 350_000, 120_000, 61_000], [1, 1, 12, 6, 2, 2]),
        ([700_000] * 3 + [50_000, 50_000], [1, 1, 12, 2, 2]),  # just below: it may be back at once
        ([700_000] * 3 + [44_000, 44_000, 44_000], [1, 1, 12, 2, 1, 1]),
        ([700_000] * 3 + [44_000, 50_000, 44_000, 44_000], [1, 1, 12, 2, 2, 2, 1]),
        ([700_000] * 3 + [0, 0, 700_000, 700_000, 700_000], [1, 1, 12, 2, 1, 1, 1, 12]),
    ],
)
def test_weights(looks: list[float], expected: list[int]) -> None:
    assert weights(*looks) == expected


def test_without_a_limit_each_read_is_looked_at() -> None:
    assert weights(*[1e9] * 9, limit=0) == [1] * 9


@given(st.lists(st.floats(0, LIMIT)))
def test_below_the_limit_nothing_is_sampled(looks: list[float]) -> None:
    assert set(weights(*looks)) <= {1}


@given(st.lists(rates, max_size=60))
def test_any_history(looks: list[float]) -> None:
    found = [1, *weights(*looks)]
    for number, (before, now) in enumerate(pairwise(found)):
        latest = looks[: number + 1]
        assert now == 1 or LEAST <= now <= MOST
        if before == 1 < now:
            assert len(latest) >= LOOKS
            assert min(latest[-LOOKS:]) > LIMIT, "a burst was sampled"
            assert set(found[number - LOOKS + 2 : number + 1]) == {1}
        if now == 1 < before:
            assert max(latest[-CALM:]) < BACK * LIMIT, "it may flap"
        if now > 1:
            spent = latest[-1] / now
            assert spent <= LIMIT or now == MOST, "more than the limit"
            assert now == max(LEAST, min(MOST, math.ceil(latest[-1] / LIMIT)))


@given(st.lists(rates, max_size=30))
def test_it_always_returns(looks: list[float]) -> None:
    assert weights(*looks, *[0.0] * CALM)[-1] == 1


@given(
    st.integers(LEAST, MOST),
    st.lists(st.tuples(st.floats(0, 0.3), st.floats(0, 0.1)), min_size=20, max_size=80),
)
def test_late_and_long_slices_are_set_right(weight: int, troubles: list[tuple[float, float]]) -> None:
    """They stand for the time that has passed, but for a period or so, however late the thread was."""
    length, now, stood_for = 0.04, 100.0, 0.0
    ledger = Ledger(now, length)
    for late, longer in troubles:
        now = max(now, ledger.due(weight)) + late
        counted = ledger.weight_at(now)
        assert 1 <= counted <= 2 * MOST
        began, now = now, now + length + longer
        ledger.took(counted, began, now)
        stood_for += counted * (now - began)
    # Due, the next one would stand for what has passed until then and its own length.
    assert stood_for == pytest.approx(ledger.due(weight) - (weight - 1) * length - 100.0)
    assert abs(stood_for - (now - 100.0)) <= 2 * MOST * (length + 0.1) + length


def test_a_slice_that_comes_on_time_stands_for_its_period() -> None:
    ledger = Ledger(10.0, 0.04)
    for number in range(5):
        due = ledger.due(12)
        assert due == pytest.approx(10.0 + 0.48 * number + 0.44)
        assert ledger.weight_at(due) == 12
        ledger.took(12, due, due + 0.04)


def test_what_no_slice_can_stand_for_is_left_out() -> None:
    ledger = Ledger(10.0, 0.04)
    assert ledger.weight_at(70.0) == 2 * MOST
    ledger.took(2 * MOST, 70.0, 70.04)
    assert ledger.due(2) == pytest.approx(70.08)
