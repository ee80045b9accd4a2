"""What is remembered of decisions, and what each rule did."""

from __future__ import annotations

import pytest
from swmld.documents import parse
from swmld.head.history import Brought, History, Packed, Tally, sums
from swmld.rules.decide import Engine
from swmld.rules.facts import of_path
from swmld.rules.loading import load

RULES = b"""
rules:
  - id: ahead
    priority: 5
    conditions: ["extension == '.tar'"]
    actions: [{type: prefetch, parameters: {next_files: 8}}]
  - id: more
    conditions: [depth > 0]
    actions: [{type: prefetch, parameters: {next_files: 2, window: 1MiB}}, {type: coordinate}]
  - {id: kept, conditions: [], actions: [{type: cache, parameters: {pin: true}}]}
  - {id: less, conditions: ["extension == '.txt'"], actions: [{type: compress}]}
"""
ENGINE = Engine(load([parse("r.yaml", RULES)]).rules)


class Deciding:
    def __init__(self, most: int = 10) -> None:
        self.now = 100.0
        self.history = History(lambda: self.now, most)

    def __call__(self, path: str, pid: int = 7) -> int:
        self.now += 1
        return self.history.add(path, pid, ENGINE.decide(of_path(path))).id

    def tally(self, rule: str) -> Tally:
        return self.history.tallies().get(rule, Tally())


@pytest.fixture
def decide() -> Deciding:
    return Deciding()


def test_decisions_have_numbers_and_are_found_by_them(decide: Deciding) -> None:
    assert [decide("a"), decide("b"), decide("c", 9)] == [1, 2, 3]
    found = decide.history.find(3)
    assert found is not None
    assert (found.path, found.pid, found.at) == ("c", 9, 103.0)
    assert decide.history.find(0) is decide.history.find(4) is None
    assert [one.path for one in decide.history.newest()] == ["c", "b", "a"]


def test_only_the_latest_are_remembered() -> None:
    decide = Deciding(most=2)
    for name in "abc":
        decide(name)
    assert [one.id for one in decide.history.newest()] == [3, 2]
    assert decide.history.find(1) is None
    assert decide.history.find(2) is not None
    assert decide.history.decisions == 3
    decide.history.brought(1, fetched=5)
    assert decide.tally("kept").brought.fetched == 0


def test_each_rule_has_an_account(decide: Deciding) -> None:
    decide("d/a.tar")
    decide("b")
    kept, ahead, more = decide.tally("kept"), decide.tally("ahead"), decide.tally("more")
    assert (kept.applied, kept.won, kept.last) == (2, 2, 102.0)
    assert (ahead.applied, ahead.won, ahead.last) == (1, 1, 101.0)
    assert (more.applied, more.won) == (1, 1), "its next_files lost, its window counts"


def test_bytes_go_to_the_rules_that_wanted_them_fetched(decide: Deciding) -> None:
    number = decide("d/a.tar")
    decide.history.brought(number, asked=30, fetched=20)
    decide.history.brought(number, used=10)
    decide.history.brought(number, late=4, wasted=7)
    found = decide.history.find(number)
    assert found is not None
    for brought in (found.brought, decide.tally("ahead").brought, decide.tally("more").brought):
        assert brought == Brought(asked=30, fetched=20, used=10, late=4, wasted=7)
    assert decide.tally("kept").brought == Brought()


def test_bytes_go_to_the_rules_that_wanted_them_compressed(decide: Deciding) -> None:
    number = decide("d/a.txt")
    decide.history.compressed(number, 100, 30)
    decide.history.compressed(number, 50, 50)
    decide.history.compressed(decide("a.tar"), 8, 8)  # no rule wants that
    decide.history.compressed(99, 5, 5)
    found = decide.history.find(number)
    assert found is not None
    assert found.packed == decide.tally("less").packed == Packed(150, 80)
    assert decide.tally("more").packed == decide.tally("ahead").packed == Packed()


def test_a_rule_that_is_gone_has_no_account(decide: Deciding) -> None:
    number = decide("d/a.tar")
    decide.history.forget_but({"more", "kept", "new"})
    assert set(decide.history.tallies()) == {"more", "kept"}
    assert decide.tally("more").applied == 1, "over a reload"
    decide.history.brought(number, used=10)
    assert set(decide.history.tallies()) == {"more", "kept"}
    assert decide.tally("more").brought.used == 10
    decide("d/b.tar")  # loaded again: what another one asked for is not used on its account
    decide.history.brought(number, used=5)
    assert (decide.tally("more").brought.used, decide.tally("ahead").brought) == (15, Brought())


def test_a_rule_is_told_once_of_bytes_that_two_of_its_actions_are_about() -> None:
    text = b"""{rules: [{id: both, conditions: [], actions: [
        {type: prefetch, parameters: {next_files: 1}},
        {type: prefetch, target: dataset, parameters: {siblings: true}}]}]}"""
    engine = Engine(load([parse("r.yaml", text)]).rules)
    history = History(lambda: 0.0)
    number = history.add("a", 7, engine.decide(of_path("a"))).id
    history.brought(number, asked=3)
    assert history.tallies()["both"].brought == Brought(asked=3)


def test_where_nothing_is_prefetched_who_streams_has_the_bytes() -> None:
    text = b"""{rules: [
        {id: streamed, conditions: [], actions: [{type: stream, parameters: {parallel_streams: 4}}]},
        {id: kept, conditions: [], actions: [{type: cache, parameters: {pin: true}}]}]}"""
    engine = Engine(load([parse("r.yaml", text)]).rules)
    history = History(lambda: 0.0)
    decided = history.add("a", 7, engine.decide(of_path("a")))
    history.brought(decided.id, asked=3)
    assert history.tallies()["streamed"].brought == Brought(asked=3)
    assert history.tallies()["kept"].brought == Brought()
    assert {key: one.brought.asked for key, one in sums([decided], "action").items()} == {
        "stream": 3, "cache": 0
    }  # fmt: skip
