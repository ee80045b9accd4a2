"""Kinds, units, properties, operators, expressions and actions of rules, one by one."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import swmld.patterns
from swmld.documents import Document
from swmld.patterns import feed, views
from swmld.rules import actions, catalogue, expression, kinds, matching, operators, reference
from swmld.rules.actions import ACTIONS, ActionType
from swmld.rules.kinds import Kind, parse, shown_value
from swmld.rules.operators import KINDS, Operator, make
from swmld.rules.reading import Book, condition

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("kind", "given", "value", "shown"),
    [
        (Kind.NUMBER, "8", 8, "8"),
        (Kind.NUMBER, "-0.5", -0.5, "-0.5"),
        (Kind.NUMBER, "1e3", 1000, "1000"),
        (Kind.NUMBER, 7, 7, "7"),
        (Kind.SIZE, "1073741824", GIB, "1GiB"),
        (Kind.SIZE, "64MiB", 64 * MIB, "64MiB"),
        (Kind.SIZE, "64 mib", 64 * MIB, "64MiB"),
        (Kind.SIZE, "1.5K", 1536, "1.5KiB"),
        (Kind.SIZE, "1GB", 10**9, "953.7MiB"),
        (Kind.DURATION, "300s", 300.0, "5m"),
        (Kind.DURATION, "250ms", 0.25, "250ms"),
        (Kind.DURATION, "2h", 7200.0, "2h"),
        (Kind.DURATION, "1d", 86400.0, "1d"),
        (Kind.DURATION, "5", 5, "5s"),
        (Kind.PERCENT, "80%", 80, "80%"),
        (Kind.PERCENT, "80", 80, "80%"),
        (Kind.PERCENT, "12.5 %", 12.5, "12.5%"),
        (Kind.RATE, "100MiB/s", 100 * MIB, "100MiB/s"),
        (Kind.RATE, "5000", 5000, "4.9KiB/s"),
        (Kind.CLOCK, "22:30", 81000, "22:30"),
        (Kind.CLOCK, "6:05:07", 21907, "06:05:07"),
        (Kind.STRING, "a b", "a b", "a b"),
        (Kind.STRING, 8, "8", "8"),
        (Kind.SET, ["b", "a"], frozenset({"a", "b"}), "[a, b]"),
        (Kind.SET, "a", frozenset({"a"}), "[a]"),
        (Kind.BOOL, "yes", True, "true"),
        (Kind.BOOL, "OFF", False, "false"),
    ],
)
def test_values_of_each_kind(kind: Kind, given: Any, value: Any, shown: str) -> None:
    assert parse(kind, given) == value
    assert shown_value(kind, parse(kind, given)) == shown


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        (Kind.NUMBER, "8GB", "expected a number such as 8 or 0.5, got '8GB'"),
        (Kind.NUMBER, "nan", "expected a number such as 8 or 0.5, got 'nan'"),
        (Kind.NUMBER, "1e400", "expected a number such as 8 or 0.5, got '1e400'"),
        (Kind.SIZE, "64MBi", "unknown unit 'MBi' in '64MBi'; did you mean MB?"),
        (Kind.SIZE, "300s", "expected a size such as 512KiB, 64MiB or 1GB, got '300s'"),
        (Kind.SIZE, "-1", "expected a size such as 512KiB, 64MiB or 1GB, got '-1'"),
        (Kind.SIZE, None, "expected a size such as 512KiB, 64MiB or 1GB, got nothing"),
        (Kind.SIZE, [1], "expected a size such as 512KiB, 64MiB or 1GB, got a list"),
        (Kind.DURATION, "5 mins", "unknown unit 'mins' in '5 mins'; did you mean min?"),
        (Kind.DURATION, "5MiB", "expected a time such as 250ms, 300s, 5m or 1h, got '5MiB'"),
        (Kind.PERCENT, "101%", "expected a percentage from 0% to 100%, got '101%'"),
        (Kind.PERCENT, "80pct", "unknown unit 'pct' in '80pct'; expected one of %"),
        (Kind.RATE, "1MiB", "expected a rate such as 100MiB/s, got '1MiB'"),
        (Kind.RATE, "1MBi/s", "unknown unit 'MBi/s' in '1MBi/s'; did you mean MB/s?"),
        (Kind.CLOCK, "24:00", "expected a time of day such as 22:30, got '24:00'"),
        (Kind.BOOL, "maybe", "expected true or false, got 'maybe'"),
        (Kind.STRING, {}, "expected a text, got a mapping"),
    ],
)
def test_values_refused(kind: Kind, given: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        parse(kind, given)


def test_words_are_the_same_whatever_joins_them() -> None:
    for text in ("checkpoint save", "checkpoint_save", "Checkpoint-Save"):
        assert parse(Kind.STRING, text, catalogue.PHASES) == "checkpoint save"
    with pytest.raises(ValueError, match="unknown word 'sequental'; did you mean sequential"):
        parse(Kind.STRING, "sequental", catalogue.PATTERNS)


@pytest.mark.parametrize(
    ("name", "operator", "operand", "true", "false"),
    [
        ("type", "equals", "Model", ["model"], ["config"]),
        ("extension", "equals", "PTH", [".pth"], [".pt", "pth"]),
        ("path", "equals", "/a/b", ["a/b"], ["a", "b"]),
        ("size", "equals", "64KiB", [65536], [65535]),
        ("libraries", "equals", ["a", "b"], [frozenset("ab")], [frozenset("a")]),
        ("type", "not_equals", "model", ["config"], ["model"]),
        ("name", "contains", "ckpt", ["my-ckpt-1"], ["my-cpt"]),
        ("libraries", "contains", "torch", [frozenset({"torch"})], [frozenset({"torchvision"})]),
        ("name", "not_contains", "ckpt", ["x"], ["a ckpt"]),
        ("libraries", "not_contains", "torch", [frozenset()], [frozenset({"torch"})]),
        ("name", "matches", r"-\d+\.tar$", ["a-12.tar"], ["a-12.tar.gz", "a-.tar"]),
        ("name", "glob", "*.s[ae]*[!x]", ["a.safetensors"], ["a.safetensorx", "a.sxy"]),
        ("path", "glob", "/train/", ["train/a/b"], ["test/a", "train"]),
        ("extension", "glob", "pt*", [".pth", ".pt"], [".ckpt"]),
        ("name", "starts_with", "model", ["model-1"], ["amodel"]),
        ("name", "ends_with", ".pt", ["a.pt"], ["a.pth"]),
        ("phase", "in", ["training", "model_load"], ["training", "model load"], ["inference"]),
        ("size", "in", ["1KiB", "2KiB"], [1024, 2048], [1025]),
        ("phase", "not_in", ["training"], ["inference"], ["training"]),
        ("size", "greater_than", "1GiB", [GIB + 1], [GIB]),
        ("size", "less_than", "1GiB", [GIB - 1], [GIB]),
        ("size", "greater_equal", "1GiB", [GIB], [GIB - 1]),
        ("gpu_memory", "less_equal", "80%", [80, 0], [80.1]),
        ("read_wait", "between", ["100ms", "1s"], [0.1, 1.0], [0.09, 1.1]),
        ("time_of_day", "between", ["22:00", "6:00"], [0, 79200, 21600], [21601, 79199]),
        ("time_of_day", "between", ["6:00", "22:00"], [21600, 43200], [0, 79201]),
        ("user", "exists", None, ["root", ""], [None]),
        ("user", "exists", "false", [None], ["root"]),
    ],
)
def test_operators(name: str, operator: str, operand: Any, true: list[Any], false: list[Any]) -> None:
    test = make(catalogue.find(name), Operator(operator), operand)
    assert [value for value in true if not test.check(value)] == []
    assert [value for value in false if test.check(value)] == []
    assert str(test).startswith(f"{name} {operator} ")


def test_every_operator_has_a_case() -> None:
    """Above; and each fits the kinds that the reference says."""
    mark = next(mark for mark in test_operators.pytestmark if mark.name == "parametrize")  # type: ignore[attr-defined]
    assert {case[1] for case in mark.args[1]} == {operator.value for operator in Operator}
    samples = {
        kind: next(p for p in catalogue.PROPERTIES if p.kind is kind)
        for kind in Kind
        if kind is not Kind.BOOL
    }
    for operator in Operator:
        for kind, what in samples.items():
            operand = {Operator.IN: ["1"], Operator.NOT_IN: ["1"], Operator.BETWEEN: ["1", "2"]}.get(
                operator, "1"
            )
            if operator is Operator.EXISTS:
                operand = "true"
            if kind is Kind.CLOCK:
                operand = [f"{one}:00" for one in operand] if isinstance(operand, list) else f"{operand}:00"
            if operator is Operator.EXISTS:
                operand = "true"
            if kind in KINDS[operator]:
                make(what, operator, operand)
                continue
            with pytest.raises(ValueError, match=f"{operator.value} does not fit {what.name}"):
                make(what, operator, operand)


@pytest.mark.parametrize(
    ("name", "operator", "operand", "said"),
    [
        (
            "size",
            "matches",
            "1",
            "matches does not fit size, a size; expected one of equals, not_equals, in, ",
        ),
        ("name", "greater_than", "1", "greater_than does not fit name, a string"),
        ("name", "matches", "(a", "expected a regular expression as RE2 reads it: missing ): (a"),
        (
            "name",
            "matches",
            r"(a)\1",
            "expected a regular expression as RE2 reads it: invalid escape sequence",
        ),
        ("name", "matches", "a" * 1001, "expected a regular expression of at most 1000 characters"),
        ("name", "glob", "", "expected a path pattern such as 'train/*' or '*.safetensors', got nothing"),
        ("name", "contains", "", "expected a text, got nothing"),
        ("phase", "in", "training", "expected a list of 1 to 1000 values, got 'training'"),
        ("phase", "in", ["trainin"], "unknown word 'trainin'; did you mean training?"),
        ("size", "between", ["1"], "expected a list of two values, the least and the most, got a list"),
        ("size", "between", ["2", "1"], "expected the lesser value first, got 2 and 1"),
        ("user", "exists", "perhaps", "expected true or false, got 'perhaps'"),
    ],
)
def test_operands_refused(name: str, operator: str, operand: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        make(catalogue.find(name), Operator(operator), operand)


@pytest.mark.parametrize("name", ["mount", "host", "prefetch"])
def test_a_name_that_is_far_from_all_has_no_nearest(name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown property '{name}'; expected one of "):
        catalogue.find(name)


def test_names_have_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown operator 'greter_than'; did you mean greater_than"):
        operators.operator_of("greter_than")
    with pytest.raises(ValueError, match="unknown property 'sise'; did you mean size"):
        catalogue.find("sise")
    with pytest.raises(ValueError, match="unknown condition type 'file_contex'; did you mean file_context"):
        catalogue.context_of("file_contex")
    with pytest.raises(ValueError, match="'size' is a property of file_context, not of system_context"):
        catalogue.find("size", catalogue.Context.SYSTEM)
    with pytest.raises(ValueError, match="unknown action 'prefech'; did you mean prefetch"):
        actions.find("prefech")
    with pytest.raises(ValueError, match="unknown target 'dataste'; did you mean dataset"):
        actions.target("dataste")
    assert actions.target("workload") == "job"
    assert catalogue.find("xattr.user.stage").kind is Kind.STRING
    assert catalogue.find("file_context.size") is catalogue.find("file_size")


def test_regular_expressions_take_linear_time() -> None:
    """Backtracking would take 2^40 steps; surrogates are what file names have for bytes that are no UTF-8."""
    assert not matching.regex("(a+)+$")("a" * 40 + "b")
    assert not matching.regex("(x+x+)+y")("x" * 10_000)
    assert not matching.glob("*a*a*a*a*a*a*b[z]")("a" * 10_000)
    assert matching.regex("^a.b$")("a\udcffb")
    assert matching.glob("a?[b]")("a\udcffb")


@pytest.mark.parametrize(
    ("pattern", "literal"),
    [(r"-\d+\.tar$", ".tar"), ("ab?c", "a"), ("a|b", ""), (r"\x41bc", ""), ("^foo.bars", "bars"),
     (r"\101", ""),
     ("(?i)abc", ""), (r"a\*b", "a*b"), ("x{2}yy", ""), ("ab+c", "ab"), (r"\pLx", "")],
)  # fmt: skip
def test_literals_that_a_regular_expression_needs(pattern: str, literal: str) -> None:
    assert matching.required(pattern) == literal


TREE = [
    ("gpu_memory > 80 AND file_type == 'model'", "all (gpu_memory greater_than 80%, type equals model)"),
    ("access_frequency > 10 AND last_access < 300s",
     "all (access_frequency greater_than 10, last_access less_than 5m)"),
    ("a.b", None),
    ("size >= 1GiB or not type = config && user exists",
     "any (size greater_equal 1GiB, all (not (type equals config), user exists true))"),
    ("(size > 1 || size < 2) and user in [a, 'b c']",
     "all (any (size greater_than 1B, size less_than 2B), user in [a, b c])"),
    ("user not in (a, b)", "user not_in [a, b]"),
    ("time_of_day between 22:00 and 6:00", "time_of_day between [22:00, 06:00]"),
    ("name matches '\\d+\\.pt'", r"name matches \d+\.pt"),
    ("name ENDS_WITH \"it's\"", "name ends_with it's"),
    ("system_context.source_bandwidth < 100MiB/s", "source_bandwidth less_than 100MiB/s"),
    ("!(pattern == whole-file)", "not (pattern equals whole-file)"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "tree"), [case for case in TREE if case[1]])
def test_expressions(text: str, tree: str) -> None:
    document = Document("F")
    node = condition(Book(document), text, (), 0)[1]
    assert document.problems == []
    assert str(node) == tree


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("size >> 3", "expected a name, a number or a text at character 7 of the expression, got '>'"),
        ("size > ", "expected a name, a number or a text at character 8 of the expression, got the end"),
        ("size > 1 user = a", "expected AND, OR or the end at character 10 of the expression, got 'user'"),
        ("size > $", "expected a name, a number or a text at character 8 of the expression, got '$'"),
        ("", "expected (, NOT or a name at character 1 of the expression, got the end"),
        ("gpu_memry > 80", "unknown property 'gpu_memry'; did you mean gpu_memory?"),
        ("size contains 3", "contains does not fit size"),
        ("size > 3 potatoes", "expected AND, OR or the end at character 10"),
        ("not " * 9 + "size > 1", "expected at most 8 groups within one another, got 9"),
        ("size > 1 or " * 400 + "size > 1", "expected an expression of at most 4096 characters, got 4808"),
        (
            "__import__('os')",
            "expected BETWEEN, EXISTS, IN, NOT, a comparison or an operator at character 11",
        ),
    ],
)
def test_expressions_refused(text: str, said: str) -> None:
    document = Document("F")
    assert condition(Book(document), text, (), 0)[1] is None
    assert document.problems[0].text.startswith(said)


def test_deep_parentheses_need_no_stack() -> None:
    assert expression.parse("(" * 2000 + "size > 1" + ")" * 2000).kind == "test"


@pytest.mark.parametrize(
    ("action", "parameter", "given", "said"),
    [
        ("cache", "strategy", "agressive", "unknown word 'agressive'; did you mean aggressive?"),
        ("cache", "ttl", "0s", "expected a time in whole seconds from 1s to 30d, got '0s'"),
        ("cache", "ttl", "1.5s", "expected a time in whole seconds from 1s to 30d, got '1.5s'"),
        ("cache", "ttl", "250ms", "expected a time in whole seconds from 1s to 30d, got '250ms'"),
        ("cache", "ttl", "31d", "expected a time in whole seconds from 1s to 30d, got '31d'"),
        ("cache", "pin_fraction", "120%", "expected a percentage from 0% to 100%, got '120%'"),
        ("prefetch", "next_files", "1.5", "expected a whole number from 0 to 100000, got '1.5'"),
        ("prefetch", "window", "64MBi", "unknown unit 'MBi' in '64MBi'; did you mean MB?"),
        ("stream", "chunk_size", "1KiB", "expected a size from 4KiB to 1GiB, got '1KiB'"),
        ("compress", "level", "30", "expected a whole number from 1 to 19, got '30'"),
        ("notify", "event", "", "expected a text of 1 to 64 characters, got nothing"),
        ("advise", "readahead", "all", "expected a size such as 512KiB, 64MiB or 1GB, got 'all'"),
    ],
)
def test_parameters_refused(action: str, parameter: str, given: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        ACTIONS[action].parameters[parameter].parse(given)


@pytest.mark.parametrize(
    ("given", "seconds"), [("10m", 600), ("1.5m", 90), ("0.55m", 33), ("90", 90), ("1h", 3600)]
)
def test_a_time_to_live_has_a_unit(given: str, seconds: int) -> None:
    assert ACTIONS["cache"].parameters["ttl"].parse(given) == seconds


def test_defaults_are_values_that_a_rule_may_give() -> None:
    for known in ActionType.parameters_of.values():
        for parameter in known.values():
            if parameter.default is not None:
                assert parameter.parse(shown_value(parameter.kind, parameter.default)) == parameter.default


def test_the_catalogue_is_what_patterns_know() -> None:
    """Fields by reflection, words by the findings that the code of patterns makes."""
    owners: dict[str, Any] = {
        "stream": views.StreamView,
        "dataset": views.DatasetView,
        "job": views.JobView,
        "process": feed.Process,
    }
    for what in catalogue.PROPERTIES:
        owner, _, path = what.source.partition(".")
        if owner not in owners:
            assert what.source in {"mount", "plugins", "cache", "config", "host", "fetch", "gpu"}, what
            continue
        kind = owners[owner]
        for step in path.split("."):
            known = (
                {entry.name for entry in fields(kind)}
                if kind not in (views.Finding, feed.Process)
                else kind._fields
            )
            assert step in known, what
            kind = views.Finding if step in ("pattern", "order", "role", "phase") else None
    words = {name: set(catalogue.find(name).words) for name in ("pattern", "shape", "order", "role", "phase")}
    assert {shape.name.lower() for shape in feed.Shape} == words["shape"]
    made = found_words()
    for name in ("pattern", "order", "role", "phase"):
        assert words[name] <= made, f"{name}: {words[name] - made} are made nowhere in patterns"
    known = set().union(*words.values())
    assert {word for word in made if not word.isdigit()} <= known, (
        "patterns finds what no condition can ask for"
    )


def found_words() -> set[str]:
    """First arguments of ``Finding(...)`` and of the helpers that make one, as far as they are literals."""
    found = set()
    for path in Path(swmld.patterns.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id == "Finding" and node.args and isinstance(node.args[0], ast.Constant):
                    found.add(str(node.args[0].value))
                if node.func.id == "_run" and len(node.args) > 2 and isinstance(node.args[2], ast.Constant):
                    found.add(str(node.args[2].value))
    return found


def test_the_reference_has_everything() -> None:
    page = reference.page()
    names = [what.name for what in catalogue.PROPERTIES] + [operator.value for operator in Operator]
    names += [*ACTIONS, *(name for action in ACTIONS.values() for name in action.parameters)]
    assert [name for name in names if f"`{name}`" not in page] == []
    for line in page.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")
    assert all(kind.value in page for kind in kinds.Kind)
