"""Which files are protected from those that were read once, as a function of their uses."""

from __future__ import annotations

from swmld.plan.reuse import MARGIN, SAME_USE, Reuse

GIB = 1 << 30


def full(oldest: float | None) -> Reuse:
    """Of a cache that is full of protected files, the one that is idle longest since ``oldest``."""
    reuse = Reuse(ghosts=8)
    reuse.measured(GIB // 10, GIB)
    reuse.oldest = oldest
    return reuse


def test_uses_close_together_are_one() -> None:
    reuse = Reuse()
    assert not reuse.protects(100.0, 100.0 + SAME_USE - 0.01)
    assert reuse.protects(100.0, 100.0 + SAME_USE)
    assert not reuse.protects(100.0, 50.0)  # a clock that was set back


def test_while_little_is_protected_all_that_is_used_again_is() -> None:
    reuse = Reuse()
    reuse.oldest = 999.0
    reuse.measured(0, 0)
    assert not reuse.full
    reuse.measured(GIB * 21 // 100, GIB)
    assert not reuse.full
    assert reuse.protects(0.0, 1000.0)
    reuse.promoted(GIB * 2 // 100)
    assert reuse.full
    assert not reuse.protects(0.0, 1000.0)


def test_newcomers_must_be_better_than_the_protected_file_that_is_idle_longest() -> None:
    reuse = full(0.0)
    assert reuse.protects(3000.0 - 3000.0 / MARGIN, 3000.0)
    assert not reuse.protects(3000.0 - 3000.0 / MARGIN - 1, 3000.0)
    assert full(None).protects(0.0, 3000.0)


def test_those_on_probation_go_first_unless_they_are_few() -> None:
    reuse = Reuse()
    reuse.measured(GIB // 10, GIB)
    assert not reuse.probation_first
    reuse.measured(GIB // 10 + 1, GIB)
    assert reuse.probation_first


def test_a_file_that_comes_back_soon_is_protected_at_once() -> None:
    reuse = full(0.0)
    reuse.gone(1, 2900.0)
    reuse.gone(2, 1000.0)
    assert reuse.back(1, 3000.0)
    assert not reuse.back(2, 3000.0)  # too long ago
    assert not reuse.back(3, 3000.0)  # never here
    assert not reuse.back(0, 3000.0)  # whose hash is that of an empty slot


def test_the_memory_of_files_that_went_is_bounded() -> None:
    reuse = Reuse(ghosts=8)
    for number in range(100):
        reuse.gone(number, 1000.0 + number)
    assert [number for number in range(100) if reuse.back(number, 2000.0)] == list(range(92, 100))
