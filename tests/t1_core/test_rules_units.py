"""Conditions in every way in which they can be written, with units, against a slow reader of what is meant.

``test_rules_match`` holds operators, groups, weights and the index to a reference; here it is the writing:
mappings, shorthand, expressions with their precedence; sizes, times, shares, rates, times of day, words,
lists.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swmld.documents import Document
from swmld.rules.decide import Engine
from swmld.rules.loading import load
from swmld.rules.reading import Book, condition

K, D = 1024, 1000
SIZES = {"": 1, "B": 1, "KiB": K, "K": K, "KB": D, "MiB": K**2, "M": K**2, "MB": D**2, "GiB": K**3,
         "GB": D**3,
         "kib": K, "TiB": K**4}  # fmt: skip
TIMES = {"": 1, "s": 1, "ms": Fraction(1, 1000), "m": 60, "min": 60, "h": 3600, "d": 86400}


class Value(NamedTuple):
    """As it is written, and what is meant: bytes, seconds, points, seconds since midnight, a text."""

    text: str
    meant: Any


def measured(units: dict[str, Any], digits: tuple[str, ...], suffix: str = "") -> st.SearchStrategy[Value]:
    """Numbers with a unit, a space between them or not."""

    def value(number: str, unit: str, space: str) -> Value:
        meant = Fraction(number) * units[unit]
        return Value(f"{number}{space if unit else ''}{unit}{suffix if unit else ''}", meant)

    found = st.builds(
        value, st.sampled_from(digits), st.sampled_from(sorted(units)), st.sampled_from(["", " "])
    )
    # Parts of bytes are cut off, and what is no binary fraction of a second is rounded: not tried here.
    parts = 8 if units is TIMES else 1
    return found.filter(lambda each: (each.meant * parts).denominator == 1)


def clock(hour: int, minute: int, second: int | None) -> Value:
    text = f"{hour:02}:{minute:02}" + (f":{second:02}" if second is not None else "")
    return Value(text, hour * 3600 + minute * 60 + (second or 0))


PHASES = ["training", "model load", "checkpoint save"]
SPELT = st.sampled_from(
    [str, str.upper, lambda text: text.replace(" ", "_"), lambda text: text.replace(" ", "-")]
)
VALUES: dict[str, st.SearchStrategy[Value]] = {
    "size": measured(SIZES, ("0", "1", "2", "1.5", "64")),
    "source_bandwidth": measured(SIZES, ("1", "2.5", "100"), "/s"),
    "age": measured(TIMES, ("0", "1", "90", "0.5", "500", "250", "1.5")),
    "gpu_memory": st.sampled_from(["0", "80", "80%", "12.5 %", "100%"]).map(
        lambda text: Value(text, Fraction(text.rstrip(" %")))
    ),
    "epoch": st.sampled_from(["0", "1", "2", "+3", "1e1", "2.5"]).map(
        lambda text: Value(text, Fraction(text))
    ),
    "time_of_day": st.builds(
        clock, st.integers(0, 23), st.sampled_from([0, 30, 59]), st.sampled_from([None, 0, 9])
    ),
    "phase": st.builds(lambda phase, spelt: Value(spelt(phase), phase), st.sampled_from(PHASES), SPELT),
}  # fmt: skip
TYPE = {"size": "file_context", "source_bandwidth": "system_context", "age": "file_context",
        "gpu_memory": "system_context", "epoch": "workload_context", "time_of_day": "system_context",
        "phase": "workload_context", "libraries": "workload_context"}  # fmt: skip
SIGNS = {"==": "equals", "!=": "not_equals", ">": "greater_than", "<": "less_than", ">=": "greater_equal",
         "<=": "less_equal"}  # fmt: skip
COMPARES: dict[str, Callable[[Any, Any], bool]] = {
    "equals": lambda value, operand: value == operand,
    "not_equals": lambda value, operand: value != operand,
    "greater_than": lambda value, operand: value > operand,
    "less_than": lambda value, operand: value < operand,
    "greater_equal": lambda value, operand: value >= operand,
    "less_equal": lambda value, operand: value <= operand,
    "in": lambda value, operand: value in operand,
    "not_in": lambda value, operand: value not in operand,
    "contains": lambda value, operand: operand in value,
    "not_contains": lambda value, operand: operand not in value,
}


class Leaf(NamedTuple):
    name: str
    operator: str
    operand: Any  # a Value, or several

    def holds(self, facts: dict[str, Any]) -> bool | None:
        value = facts.get(self.name)
        if self.operator == "exists":
            return value is not None
        if value is None:
            return None
        if self.operator == "between":
            low, high = (each.meant for each in self.operand)
            over = self.name == "time_of_day" and low > high  # past midnight
            return bool(value >= low or value <= high) if over else bool(low <= value <= high)
        if isinstance(self.operand, tuple) and not isinstance(self.operand, Value):
            return COMPARES[self.operator](value, [each.meant for each in self.operand])
        return COMPARES[self.operator](value, self.operand.meant)


class Group(NamedTuple):
    kind: str
    members: tuple[Any, ...]

    def holds(self, facts: dict[str, Any]) -> bool | None:
        held = [member.holds(facts) for member in self.members]
        if self.kind == "any":
            return True if True in held else None if None in held else False
        every = False if False in held else None if None in held else True
        return every if self.kind == "all" else None if every is None else not every


def leaves(name: str) -> st.SearchStrategy[Leaf]:
    value = VALUES[name]
    several = st.lists(value, min_size=1, max_size=3).map(tuple)
    single = ["equals", "not_equals"] if name == "phase" else list(SIGNS.values())
    kinds = [
        st.builds(Leaf, st.just(name), st.sampled_from(single), value),
        st.builds(Leaf, st.just(name), st.sampled_from(["in", "not_in"]), several),
        st.just(Leaf(name, "exists", None)),
    ]
    if name != "phase":
        pair = st.tuples(value, value)
        if name != "time_of_day":
            pair = pair.map(lambda both: tuple(sorted(both, key=lambda each: each.meant)))
        kinds.append(st.builds(Leaf, st.just(name), st.just("between"), pair))
    return st.one_of(kinds)


LIBRARY = st.sampled_from(["torch", "numpy", "libtorch_cpu"]).map(lambda text: Value(text, text))
LEAVES = st.sampled_from(sorted(VALUES)).flatmap(leaves) | st.builds(
    Leaf, st.just("libraries"), st.sampled_from(["contains", "not_contains"]), LIBRARY
)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.builds(Group, st.sampled_from(["any", "all"]), st.lists(inner, min_size=2, max_size=3).map(tuple))
        | st.builds(Group, st.just("not"), st.tuples(inner))
    ),
    max_leaves=6,
)


@st.composite
def known(draw: Any, trees: list[Any]) -> dict[str, Any]:
    """Facts at what the conditions ask for and a little beside it, or not known."""
    facts: dict[str, Any] = {}
    asked: dict[str, list[Any]] = {}

    def gather(tree: Any) -> None:
        if isinstance(tree, Group):
            for member in tree.members:
                gather(member)
        elif isinstance(tree.operand, Value):
            asked.setdefault(tree.name, []).append(tree.operand.meant)
        else:
            asked.setdefault(tree.name, []).extend(each.meant for each in tree.operand or ())

    for tree in trees:
        gather(tree)
    for name, values in asked.items():
        if name == "libraries":
            facts[name] = frozenset(draw(st.sets(st.sampled_from(["torch", "numpy", "libtorch_cpu"]))))
        elif name == "phase":
            facts[name] = draw(st.sampled_from(PHASES))
        elif values:
            near = draw(st.sampled_from(values)) + draw(st.sampled_from([0, 0, 1, -1, Fraction(1, 8)]))
            whole = name in ("size", "source_bandwidth", "time_of_day")
            facts[name] = int(near) if whole else float(near)
        if draw(st.integers(0, 5)) == 0:
            facts.pop(name, None)
    return facts


# ---- the ways of writing


def as_mapping(tree: Any, draw: Any) -> Any:
    if isinstance(tree, Group):
        members = [written(member, draw) for member in tree.members]
        return {tree.kind: members[0] if tree.kind == "not" and draw(st.booleans()) else members}
    operand = tree.operand
    value: Any = (
        operand.text if isinstance(operand, Value) else [each.text for each in operand] if operand else "true"
    )
    raw = {"type": TYPE[tree.name], "property": tree.name}
    if tree.operator == "in" and draw(st.booleans()):
        return {**raw, "value": value} if draw(st.booleans()) else {tree.name: value}
    sign = next((sign for sign, operator in SIGNS.items() if operator == tree.operator), None)
    if sign is not None:
        way = draw(st.sampled_from(["operator", "sign", "value", "pair"]))
        if way == "sign":
            return {**raw, "operator": sign, "value": value}
        if way == "value":
            return {**raw, "value": f"{sign} {value}"}
        if way == "pair":
            return {tree.name: f"{sign}{value}"}
    return {**raw, "operator": tree.operator, "value": value}


def as_expression(tree: Any, draw: Any, level: int = 0) -> str:
    """With no more parentheses than it takes: NOT binds closer than AND, AND closer than OR."""
    if isinstance(tree, Group):
        own = {"any": 0, "all": 1, "not": 2}[tree.kind]
        sign = draw(st.sampled_from({"any": ["OR", "or", "||"], "all": ["AND", "and", "&&"],
                                     "not": ["NOT", "not", "!"]}[tree.kind]))  # fmt: skip
        parts = [as_expression(member, draw, own + (tree.kind != "not")) for member in tree.members]
        text = f"{sign} {parts[0]}" if tree.kind == "not" else f" {sign} ".join(parts)
        return f"({text})" if own < level else text
    operand, name = tree.operand, tree.name
    if draw(st.booleans()):
        name = f"{TYPE[name]}.{name}"

    def one(value: Value) -> str:
        plain = all(c.isalnum() or c in ".:%/" for c in value.text) and value.text[:1].isalnum()
        return value.text if plain and draw(st.booleans()) else f"'{value.text}'"

    match tree.operator:
        case "exists":
            return f"{name} EXISTS"
        case "between":
            return f"{name} BETWEEN {one(operand[0])} AND {one(operand[1])}"
        case "in" | "not_in":
            word = "IN" if tree.operator == "in" else "NOT IN"
            return f"{name} {word} [{', '.join(map(one, operand))}]"
    signs = [sign for sign, operator in SIGNS.items() if operator == tree.operator]
    return f"{name} {draw(st.sampled_from([*signs, tree.operator]))} {one(operand)}"


def written(tree: Any, draw: Any) -> Any:
    way = draw(st.sampled_from(["mapping", "expression", "keyed"]))
    if way == "mapping":
        return as_mapping(tree, draw)
    text = as_expression(tree, draw)
    return text if way == "expression" else {"expression": text}


@st.composite
def cases(draw: Any) -> tuple[list[Any], list[Any], list[dict[str, Any]]]:
    trees = draw(st.lists(TREES, min_size=1, max_size=4))
    facts = [draw(known(trees)) for _ in range(4)]
    return trees, [written(tree, draw) for tree in trees], facts


@given(cases())
@settings(max_examples=300, deadline=None)
def test_what_is_written_is_what_is_meant(case: tuple[list[Any], list[Any], list[dict[str, Any]]]) -> None:
    trees, raw, every = case
    rules = [
        {"id": f"r{n}", "conditions": [each], "actions": [{"type": "cache"}]} for n, each in enumerate(raw)
    ]
    engine = Engine(load([Document("F", {"rules": rules})], with_builtins=False).rules)
    for each, tree in zip(raw, trees, strict=True):
        node = condition(Book(Document("F")), each, (), 0)[1]
        assert node is not None
        for facts in every:
            assert node.holds(facts) is tree.holds(facts), (each, facts)
    for facts in every:
        meant = {f"r{n}" for n, tree in enumerate(trees) if tree.holds(facts) is True}
        assert {rule.id for rule in engine.matching(facts)} == meant


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("epoch = 1 OR workers = 1 AND NOT gpu_count = 1", lambda a, b, c: a or (b and not c)),
        ("NOT epoch = 1 AND workers = 1 || gpu_count = 1", lambda a, b, c: ((not a) and b) or c),
        ("! (epoch = 1 or workers = 1) && gpu_count = 1", lambda a, b, c: (not (a or b)) and c),
    ],
)
def test_not_binds_closer_than_and_than_or(text: str, meant: Callable[..., bool]) -> None:
    """By hand: what writes the expressions above relies on it."""
    node = condition(Book(Document("F")), text, (), 0)[1]
    assert node is not None
    for a, b, c in itertools.product((0, 1), repeat=3):
        held = node.holds({"epoch": a, "workers": b, "gpu_count": c})
        assert held is bool(meant(a, b, c)), (a, b, c)
