"""``swmld rules``, ``explain`` and ``history``: what is printed, and the exit code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from swmld.cli import man
from swmld.cli.main import app, run
from typer.main import get_command

Run = Callable[..., tuple[int, str, str]]
RULES = """\
rules:
  - id: models
    priority: 5
    conditions:
      - {type: file_context, property: type, value: model, weight: 1}
      - {expression: gpu_memory > 80, weight: 0.5}
    threshold: 60%
    actions:
      - {type: cache, parameters: {tier: memory}}
  - id: large
    conditions: [size > 1GiB]
    actions:
      - {type: cache, parameters: {tier: disk, pin: true}}
  - {id: off, enabled: no, conditions: [], actions: [{type: exclude}]}
"""


@pytest.fixture
def rules(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(["rules", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> str:
        Path(name).write_text(text)
        return name

    return write


def test_check_lists_what_was_understood(rules: Run, write: Any) -> None:
    code, out, err = rules("check", write("r.yaml", RULES))
    assert (code, err) == (0, "")
    assert out == (
        "RULE    PRIORITY  CONDITIONS  ACTIONS  SPECIFICITY  PART OF  WHERE\n"
        "models         5           2        1            4  -        r.yaml:2\n"
        "large          0           1        1            1  -        r.yaml:10\n"
        "not in use: off: disabled\n"
    )


def test_check_tells_every_error_of_every_file(rules: Run, write: Any) -> None:
    one = write("one.yaml", "rules: 1\nrulez: 2\n")
    two = write("two.yaml", "settings: {debugg: true}\n")
    code, out, err = rules("check", one, two)
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "swmld: one.yaml:1:8: rules: expected a list, got '1'",
        "swmld: one.yaml:2:1: rulez: unknown section; did you mean rules?",
        "swmld: two.yaml:1:12: debugg: unknown setting; did you mean debug?",
    ]
    assert rules("check", "none.yaml") == (2, "", "swmld: none.yaml: No such file or directory\n")


def test_match_explains(rules: Run, write: Any) -> None:
    facts = write("facts.yaml", "file_context: {path: a/b.pt, type: model}\nsize: 2GiB\n")
    code, out, err = rules("match", write("r.yaml", RULES), "--facts", facts)
    assert (code, err) == (0, "")
    assert (
        out
        == """\
models: matched, 66.7% of the weight is true, 60% needed (priority 5, specificity 4, r.yaml:2)
  66.7% true: type equals model (it is model)
  33.3% not known: gpu_memory greater_than 80% (not known)
  -> cache file (tier memory)

large: matched, 100% of the weight is true, 100% needed (priority 0, specificity 1, r.yaml:10)
  100% true: size greater_than 1GiB (it is 2GiB)
  -> cache file (tier disk, pin true)

Decided:
  cache file (asked for by models, large)
    tier = memory, by models
    pin = true, by large
    by default: strategy adaptive, ttl none, pin_fraction none
    overruled: tier = disk of large, by models (priority 5 before 0)
"""
    )


def test_match_says_why_nothing_is_decided(rules: Run, write: Any) -> None:
    text = (
        "rules:\n  - {id: r, conditions: [{any: [not size > 1, type == model]}], actions: [{type: cache}]}\n"
    )
    code, out, _ = rules("match", write("r.yaml", text), "--facts", write("f.json", '{"size": "1MiB"}'))
    assert code == 0
    assert out.splitlines()[1:] == [
        "  100% not known: any of",
        "    false: not",
        "      true: size greater_than 1B (it is 1MiB)",
        "    not known: type equals model (not known)",
        "  -> cache file",
        "",
        "Decided: nothing, no rule matched.",
    ]


def test_match_tells_errors_of_rules_and_facts_at_once(rules: Run, write: Any) -> None:
    facts = write("f.yaml", "siez: 1\nsize: big\nsystem_context: {size: 1}\ntype: [a]\nname: a\nname: b\n")
    code, out, err = rules("match", write("r.yaml", "rules: 1\n"), "--facts", facts)
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "swmld: r.yaml:1:8: rules: expected a list, got '1'",
        "swmld: f.yaml:1:1: siez: unknown property 'siez'; did you mean size?",
        "swmld: f.yaml:2:7: size: expected a size such as 512KiB, 64MiB or 1GB, got 'big'",
        "swmld: f.yaml:3:18: size: 'size' is a property of file_context, not of system_context",
        "swmld: f.yaml:4:7: type: expected a single value, got a list",
        "swmld: f.yaml:6:1: name: given twice, first in line 5",
    ]


def test_environment(rules: Run, write: Any) -> None:
    text = RULES + "environments: {test: {rules: [large]}}\n"
    name = write("r.yaml", text)
    assert "not in use: large (environment test): environment test is not in use" in rules("check", name)[1]
    assert "environment test  r.yaml:10" in rules("check", name, "--environment", "test")[1]
    assert rules("check", name, "--environment", "tst")[2] == (
        "swmld: environment: unknown environment 'tst'; did you mean test?\n"
    )


def test_reference_is_markdown(rules: Run) -> None:
    code, out, _ = rules("reference")
    assert code == 0
    assert out.startswith("# Rules: reference\n")
    assert "| `greater_than` | `>` |" in out


@pytest.mark.parametrize("words", [[], ["ls"], ["check"], ["match"], ["reference"]])
def test_help_has_an_example(words: list[str], rules: Run) -> None:
    code, out, _ = rules(*words, "--help")
    assert code == 0
    assert f"swmld rules {' '.join(words)}".strip() in out
    assert "Example" in out


def test_it_is_offered() -> None:
    found = [name for name, _ in man.subcommands(get_command(app)) if name.startswith("rules")]
    assert found == ["rules check", "rules ls", "rules match", "rules reference"]
