"""Which files make up the share that is pinned, and what it is a share of."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from swmld.head.head import _whole
from swmld.head.pinning import Shares
from swmld.head.rulesfiles import read
from swmld.rules.decide import Engine
from swmld.types import Identity


def file(ino: int, size: int = 100) -> Identity:
    return Identity(1, ino, size, 0, 0)


@pytest.mark.parametrize("share", [0.0, 10.0, 33.0, 50.0, 100.0])
def test_the_share_is_right_at_any_time(share: float) -> None:
    shares, rng = Shares(), random.Random(1)
    seen = pinned = 0
    for ino in range(1000):
        size = rng.randrange(1, 1000)
        seen += size
        pinned += size if shares.pins("a", share, file(ino, size)) else 0
        assert share / 100 * seen - 1000 <= pinned <= share / 100 * seen


def test_what_was_decided_stays_and_each_whole_has_its_own() -> None:
    shares = Shares()
    first = [shares.pins("a", 50.0, file(ino)) for ino in range(6)]
    assert first == [False, True] * 3 == [shares.pins("a", 50.0, file(ino)) for ino in range(6)]
    assert [shares.pins("b", 50.0, file(ino)) for ino in (6, 7)] == [False, True]
    assert not shares.pins("a", 50.0, file(1, 10_000))  # it is another file now: its bytes are free again
    assert [shares.pins("a", 50.0, file(ino)) for ino in range(8, 12)] == [True] * 4


RULE = """
rules:
  - id: part
    conditions: [{type: file_pattern, property: name, value: "*"}]
    actions: [{type: cache, target: %s, parameters: {pin_fraction: 20%%}}]
"""


@pytest.mark.parametrize(
    ("target", "known", "whole"),
    [
        ("file", {}, "rule part"),
        ("directory", {}, "directory a/b"),
        ("model", {}, "directory a/b"),
        ("dataset", {}, "directory a/b"),
        ("dataset", {"dataset": "a"}, "dataset a"),
        ("job", {}, "job 5"),
    ],
)
def test_what_it_is_a_share_of(target: str, known: dict[str, str], whole: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RULE % target)
    facts = {"path": "a/b/c", "name": "c", "directory": "a/b", **known}
    assert _whole(Engine(read([path]).rules).decide(facts), facts, 5) == whole
