"""Rules decide what a slow, obvious matcher says; the loader never raises anything but its own error."""

from __future__ import annotations

import contextlib
import fnmatch
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swmld import documents
from swmld.documents import Document
from swmld.rules import actions, conditions
from swmld.rules.conditions import falsity, truth
from swmld.rules.decide import CoolDowns, Engine, matches
from swmld.rules.loading import load
from swmld.rules.reading import LIMITS, Book, condition
from swmld.rules.ruleset import RulesError

WORDS = ("a", "ab", "abc", "b/ab", "ab/b", "b/ab/b", "a/b/ab", "")
TEXT = st.sampled_from(WORDS)
OPERAND = st.sampled_from(WORDS[:-1])
NUMBER = st.integers(0, 4)
PATTERN = st.sampled_from(
    ["a*", "*b", "a*b", "?b*", "[!a]*", "ab", "*", "*/*b", "a[bc]*", "*/ab/*", "a*/b/*b"]
)
REGEX = st.sampled_from(["a", "^a", "b$", "a.*b", "(ab|b/)", "^$"])
TEXTS = ("path", "name", "user", "comm")
NUMBERS = ("depth", "workers", "gpu_count")
TYPE = {
    "path": "file_context", "name": "file_context", "depth": "file_context", "user": "workload_context",
    "comm": "workload_context", "workers": "workload_context", "gpu_count": "system_context",
}  # fmt: skip


def leaf(names: tuple[str, ...], operators: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    return st.sampled_from(sorted(operators)).flatmap(
        lambda operator: st.builds(
            lambda name, value: {"type": TYPE[name], "property": name, "operator": operator, "value": value},
            st.sampled_from(names),
            operators[operator],
        )
    )


LEAVES = leaf(
    TEXTS,
    {
        **dict.fromkeys(
            ("equals", "not_equals", "contains", "not_contains", "starts_with", "ends_with"), OPERAND
        ),
        **dict.fromkeys(("in", "not_in"), st.lists(OPERAND, min_size=1, max_size=3)),
        "glob": PATTERN,
        "matches": REGEX,
        "exists": st.booleans(),
    },
) | leaf(
    NUMBERS,
    {
        **dict.fromkeys(
            ("equals", "not_equals", "greater_than", "less_than", "greater_equal", "less_equal"), NUMBER
        ),
        **dict.fromkeys(("in", "not_in"), st.lists(NUMBER, min_size=1, max_size=3)),
        "between": st.lists(NUMBER, min_size=2, max_size=2).map(sorted),
        "exists": st.booleans(),
    },
)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.builds(lambda key, members: {key: members}, st.sampled_from(["any", "all", "not"]),
                  st.lists(inner, min_size=1, max_size=3))
    ),
    max_leaves=6,
)  # fmt: skip
WEIGHTS = st.sampled_from(["1", "0.5", "0.1", "0.3", "0", "100%"])
TARGETS = st.sampled_from(actions.TARGETS[:2])
ACTIONS = st.one_of(
    st.builds(
        lambda target, given: {"type": "cache", "target": target, "parameters": given},
        TARGETS,
        st.fixed_dictionaries(
            {},
            optional={"tier": st.sampled_from(["memory", "disk"]), "pin": st.sampled_from(["true", "false"])},
        ),
    ),
    st.builds(
        lambda target, given: {"type": "prefetch", "target": target, "parameters": given},
        TARGETS,
        st.fixed_dictionaries({}, optional={"next_files": st.integers(0, 3).map(str)}),
    ),
)
RULE = st.fixed_dictionaries(
    {
        "conditions": st.lists(
            st.tuples(TREES, WEIGHTS).map(lambda pair: {**pair[0], "weight": pair[1]}), max_size=4
        ).filter(lambda items: not items or any(float(item["weight"].rstrip("%")) for item in items)),
        "threshold": st.sampled_from(["1", "0.5", "60%", "0.34", "0"]),
        "priority": st.integers(-1, 1).map(str),
        "actions": st.lists(ACTIONS, min_size=1, max_size=2),
    }
)
RULES = st.lists(RULE, max_size=12).map(
    lambda rules: [{"id": f"r{number}", **rule} for number, rule in enumerate(rules)]
)
FACTS = st.fixed_dictionaries({}, optional=dict.fromkeys(TEXTS, TEXT) | dict.fromkeys(NUMBERS, NUMBER))


def holds(raw: Any, facts: dict[str, Any]) -> bool | None:
    """A condition as the documents describe it: true, false, or None for not known."""
    for key in ("any", "all", "not"):
        if key in raw:
            held = [holds(member, facts) for member in raw[key]]
            if key == "any":
                return True if True in held else None if None in held else False
            every = False if False in held else None if None in held else True
            return every if key == "all" else None if every is None else not every
    value, operand, operator = facts.get(raw["property"]), raw["value"], raw["operator"]
    if operator == "exists":
        return (value is not None) == operand
    if value is None:
        return None
    return bool({
        "equals": lambda: value == operand,
        "not_equals": lambda: value != operand,
        "contains": lambda: operand in value,
        "not_contains": lambda: operand not in value,
        "starts_with": lambda: value.startswith(operand),
        "ends_with": lambda: value.endswith(operand),
        "in": lambda: value in operand,
        "not_in": lambda: value not in operand,
        "glob": lambda: fnmatch.fnmatchcase(value, operand),
        "matches": lambda: re.search(operand, value),
        "greater_than": lambda: value > operand,
        "less_than": lambda: value < operand,
        "greater_equal": lambda: value >= operand,
        "less_equal": lambda: value <= operand,
        "between": lambda: operand[0] <= value <= operand[1],
    }[operator]())  # fmt: skip


def share(text: str) -> float:
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


def applies(raw: Any, facts: dict[str, Any]) -> bool:
    weights = [share(item["weight"]) for item in raw["conditions"]]
    true = sum(w for w, item in zip(weights, raw["conditions"], strict=True) if holds(item, facts) is True)
    return true >= (share(raw["threshold"]) - 1e-9) * sum(weights)


def engine_of(*raw: Any, **more: Any) -> Engine:
    return Engine(load([Document("F", {"rules": list(raw)} | more)], with_builtins=False).rules)


@given(RULES, st.lists(FACTS, min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_the_index_finds_what_matches_and_nothing_else(raw: list[Any], known: list[dict[str, Any]]) -> None:
    engine = engine_of(*raw)
    for facts in known:
        found = {rule.id for rule in engine.matching(facts)}
        assert found == {rule["id"] for rule in raw if applies(rule, facts)}
        assert found == {rule.id for rule in engine.rules if matches(rule, facts)}


@given(RULES, FACTS)
@settings(deadline=None)
def test_each_parameter_has_the_value_of_the_first_that_gives_it(
    raw: list[Any], facts: dict[str, Any]
) -> None:
    engine = engine_of(*raw)
    rank = {rule.id: (-rule.priority, -rule.specificity, rule.order) for rule in engine.rules}
    matched = sorted((rule for rule in raw if applies(rule, facts)), key=lambda rule: rank[rule["id"]])
    wanted: dict[tuple[str, str], dict[str, str]] = {}
    for rule in matched:
        for action in rule["actions"]:
            slot = wanted.setdefault((action["type"], action["target"]), {})
            for name, value in action["parameters"].items():
                slot.setdefault(name, value)
    outcome = engine.decide(facts)
    assert [rule.id for rule in outcome.matched] == [rule["id"] for rule in matched]
    assert {(d.action, d.target) for d in outcome.decisions} == set(wanted)
    for decision in outcome.decisions:
        slot = wanted[decision.action, decision.target]
        assert {entry.parameter for entry in decision.settled} == set(slot)
        for name, value in slot.items():
            assert str(getattr(decision.effect, name)).lower() == value


@given(TREES, FACTS)
@settings(deadline=None)
def test_functions_of_a_tree_say_what_the_tree_says(raw: Any, facts: dict[str, Any]) -> None:
    document = Document("F")
    _, node = condition(Book(document), raw, (), 0)
    assert node is not None, document.problems
    held = holds(raw, facts)
    assert node.holds(facts) is held
    assert truth(node)(facts) is (held is True)
    assert falsity(node)(facts) is (held is False)


@pytest.mark.parametrize(
    "pattern", ["ab*b", "a*a", "*/b/*", "a*/b/*b", "b/*", "*b", "[ab]*/b", "a?b", "*", "a/b"]
)
def test_path_patterns_are_looked_up_as_fnmatch_reads_them(pattern: str) -> None:
    test = {"type": "file_context", "property": "path", "operator": "glob", "value": pattern}
    engine = engine_of({"id": "r", "conditions": [test], "actions": [{"type": "cache"}]})
    for path in (
        "ab",
        "abb",
        "a",
        "aa",
        "aba",
        "b",
        "a/b",
        "x/b/y",
        "b/b",
        "a/b/b",
        "ab/b/ab",
        "a/bb/b",
        "b/",
        "",
    ):
        assert bool(engine.matching({"path": path})) == fnmatch.fnmatchcase(path, pattern), path


YAML = st.text(st.sampled_from("ab:-[]{}&*!|>'\"#%@,?\n \t$"), max_size=80).map(str.encode) | st.binary(
    max_size=100
)
SECTION_NAMES = ("rules", "templates", "frameworks", "environments", "hardware_profiles", "settings")
KEYS = (
    *("id", "name", "type", "property", "operator", "value", "weight", "any", "all", "not", "expression"),
    *("conditions", "actions", "parameters", "target", "optimizations", "enabled"),
)
PIECES = st.recursive(
    st.sampled_from(["", "x", "1", "${x}", "${", "> 3", "a > b AND", "file_context", "size", "glob", "cache"])
    | st.text(max_size=6)
    | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from((*SECTION_NAMES, *KEYS)), inner, max_size=4)
    ),
    max_leaves=20,
)
SECTIONS = st.dictionaries(st.sampled_from((*SECTION_NAMES, "other")), PIECES)


@given(YAML)
@settings(deadline=None)
def test_no_bytes_break_the_loader(text: bytes) -> None:
    with contextlib.suppress(RulesError):
        load([documents.parse("F", text, **LIMITS)])


@given(SECTIONS)
@settings(max_examples=200, deadline=None)
def test_no_values_break_the_loader(values: dict[str, Any]) -> None:
    with contextlib.suppress(RulesError):
        Engine(load([Document("F", values)]).rules).decide({"path": "x"})


@given(st.text(st.sampled_from("ab01 ()[]<>=!'\"%,.\\&|ANDORNT"), max_size=60))
@settings(deadline=None)
def test_no_text_breaks_an_expression(text: str) -> None:
    document = Document("F")
    node = condition(Book(document), text, (), 0)[1]
    assert (node is None) == bool(document.problems)


@pytest.mark.parametrize("key", ["any", "all", "not"])
def test_groups_have_a_depth(key: str) -> None:
    raw: Any = {"type": "file_context", "property": "size", "value": "1"}
    for _ in range(conditions.MAX_DEPTH):
        raw = {key: [raw]}
    assert engine_of({"id": "r", "conditions": [raw], "actions": [{"type": "cache"}]}).rules
    with pytest.raises(RulesError, match="at most 8 groups"):
        engine_of({"id": "r", "conditions": [{key: [raw]}], "actions": [{"type": "cache"}]})


def test_a_cool_down_rests_for_each_subject() -> None:
    engine = engine_of({"id": "r", "conditions": [], "cool_down": "10s", "actions": [{"type": "cache"}]})
    times = CoolDowns(most=2)

    def ask(subject: str, now: float) -> tuple[list[str], list[str]]:
        outcome = engine.decide({}, lambda rule: times.rests(rule, subject, now))
        times.applied(outcome, subject, now)
        return [rule.id for rule in outcome.matched], [rule.id for rule in outcome.resting]

    assert ask("a", 0.0) == (["r"], [])
    assert ask("a", 9.9) == ([], ["r"])
    assert ask("b", 9.9) == (["r"], [])
    assert ask("a", 10.0) == (["r"], [])
    assert ask("c", 11.0) == (["r"], [])
    assert ask("b", 11.0) == (["r"], []), "the oldest is forgotten when there is no room"
