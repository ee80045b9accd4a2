"""What is asked for ahead of readers of which all, or a part, is in the cache already."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio
from swmld.mount import ahead
from swmld.mount.ahead import NeighbourPrefetch
from swmld.mount.asked import What
from swmld.plan.listing import Listing
from swmld.rules.actions import Prefetch
from swmld.rules.verdict import Verdict

PARENT = 1
NAMES = [f"{number:04}".encode() for number in range(1000)]


class Native:
    """C's table: which files it opens alone, and of which opens it tells."""

    def __init__(self, local: bool) -> None:
        self.local = local
        self.settled: set[int] = set()
        self.told: set[int] = set()
        self.looks = 0

    def parent(self, nodeid: int) -> tuple[int, bytes]:
        return PARENT, NAMES[nodeid]

    def child_settled(self, parent: int, name: bytes, *, tell: bool = False) -> bool:
        assert parent == PARENT
        self.looks += 1
        there = int(name) in self.settled
        if tell and there:
            self.told.add(int(name))
        return there


class Lab:
    def __init__(self, rule: Prefetch | None, *, local: bool = True) -> None:
        self.native, nothing = Native(local), cast(Any, None)
        self.verdict = Verdict(1, prefetch=rule) if rule is not None else None
        self.ahead = NeighbourPrefetch(
            cast(Any, self.native), nothing, nothing, nothing, nothing, nothing,
            whole_limit=1, max_files=8 if rule is None else 0, fresh=1.0,
        )  # fmt: skip
        self.ahead._readers(PARENT).plan.set_listing(Listing(NAMES))

    def open(self, number: int) -> list[int]:
        """What is to be brought now."""

        async def opened() -> list[int]:
            self.ahead.on_open(number, verdict=self.verdict)
            found = []
            while True:
                try:
                    wanted = self.ahead._receive.receive_nowait()
                except trio.WouldBlock:
                    return found
                assert wanted.what is What.FILE
                assert wanted.name is not None
                found.append(int(wanted.name))

        return trio.run(opened)


def test_what_is_cached_is_not_brought() -> None:
    lab = Lab(Prefetch(next_files=4))
    lab.native.settled = {12, 13}
    assert lab.open(10) == [11, 14]
    assert not lab.native.told
    lab = Lab(Prefetch(siblings=True))
    lab.native.settled = set(range(1000)) - {2, 700}
    assert lab.open(10) == [700, 2]
    assert not lab.native.told


def test_nobody_hears_of_a_directory_that_is_cached_to_its_end() -> None:
    lab = Lab(Prefetch(next_files=4))
    lab.native.settled = set(range(600, 1000))
    assert lab.open(600) == []
    assert not lab.native.told


@pytest.mark.parametrize("hole", [15, 16, 20, 10 + 4 + ahead.LOOK])
def test_what_is_missing_behind_cached_files_is_fetched_as_far_ahead_as_without_them(hole: int) -> None:
    lab = Lab(Prefetch(next_files=4))
    lab.native.settled = set(range(1000)) - {hole}
    assert lab.open(10) == []
    (mark,) = lab.native.told
    assert mark == hole - 4
    assert lab.open(mark) == [hole]
    assert lab.native.told == {mark}, "all behind it is cached"


def test_the_look_at_cached_files_is_bounded() -> None:
    lab = Lab(Prefetch(next_files=4))
    lab.native.settled = set(range(1000)) - {900}
    brought, opened, at = [], 0, 10
    while not brought:
        brought, opened = lab.open(at), opened + 1
        assert lab.native.looks <= opened * (ahead.LOOK + 5)
        at = max(lab.native.told)
    assert brought == [900]
    assert opened == 3


@pytest.mark.parametrize("local", [True, False])
def test_without_rules_what_a_source_has_to_confirm_is_confirmed_ahead(local: bool) -> None:
    lab = Lab(None, local=local)
    lab.native.settled = set(range(14, 1000))
    for number in range(10):
        lab.open(number)
    found = lab.open(10)
    assert found if not local else not [number for number in found if number > 13]
