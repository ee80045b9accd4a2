"""Rules files: what is read of them, what is active, who wins, and every error at its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from swmld import documents
from swmld.rules import actions, facts, loading
from swmld.rules.actions import Cache, Compress, Coordinate, Notify, Prefetch, Prioritize, Stream
from swmld.rules.decide import Engine, Outcome
from swmld.rules.loading import load
from swmld.rules.reading import LIMITS
from swmld.rules.ruleset import RulesError, RuleSet
from swmld.rules.templates import builtins

EXAMPLES = Path(__file__).parents[1] / "data" / "rules"
MIB, GIB = 1 << 20, 1 << 30


def rules_of(*texts: str, environment: str | None = None) -> RuleSet:
    read = [documents.parse(f"F{number or ''}", text.encode(), **LIMITS) for number, text in enumerate(texts)]
    return load(read, environment=environment)


def problems(*texts: str, environment: str | None = None) -> list[str]:
    with pytest.raises(RulesError) as caught:
        rules_of(*texts, environment=environment)
    assert caught.value.exit_code == 2
    return str(caught.value).splitlines()


def decide(rules: RuleSet, **values: Any) -> Outcome:
    path = values.get("path")
    return Engine(rules.rules).decide((facts.of_path(path) if path else {}) | values)


def example(*numbers: int) -> RuleSet:
    paths = [next(EXAMPLES.glob(f"{number:02}-*.yaml")) for number in numbers]
    return load([documents.read(path, **LIMITS) for path in paths])


def rule(rest: str = "", *, conditions: str = "[]", actions: str = "[{type: cache}]") -> str:
    return f"rules:\n  - id: r\n    conditions: {conditions}\n    actions: {actions}\n" + rest


# The examples of the documents, unchanged.


def test_01_a_model_is_cached_by_its_use() -> None:
    rules = example(1)
    assert decide(rules, type="model").of(Cache) == Cache(strategy="adaptive")
    assert decide(rules, type="config").decisions == ()
    assert decide(rules).decisions == ()


def test_02_a_large_model_is_streamed_uncompressed() -> None:
    rules = example(2)
    outcome = decide(rules, type="model", size=GIB + 1)
    assert outcome.of(Stream) == Stream(chunk_size=64 * MIB, parallel_streams=4)
    assert outcome.of(Compress) == Compress(enabled=False)
    assert decide(rules, type="model", size=GIB).decisions == ()
    assert [weight for weight, _ in rules.rules[0].conditions] == [1.0, 0.9]
    assert rules.rules[0].priority == 100


def test_03_a_template_gives_its_parameters_to_its_rules() -> None:
    rules = example(3)
    assert {rule.origin for rule in rules.rules} == {"template distributed_training"}
    outcome = decide(rules, type="dataset")
    assert outcome.of(Stream) == Stream(parallel_streams=8)
    assert outcome.of(Coordinate) == Coordinate(mode="single_fetch")
    assert decide(rules, type="checkpoint").of(Coordinate) == Coordinate(mode="single_writer", timeout=300)
    assert [note.split(": ")[1] for note in rules.notes] == [
        "parameter nodes is used by none of the template's rules",
        "parameter communication_backend is used by none of the template's rules",
    ]
    with_own = example(2, 3)
    assert decide(with_own, type="model", size=2 * GIB).of(Compress) == Compress(enabled=False)


def test_04_research() -> None:
    outcome = decide(example(4), path="a/b.ckpt", type="checkpoint")
    assert outcome.of(Cache) == Cache(strategy="adaptive")
    assert outcome.of(Notify) == Notify(event="experiment_checkpoint")


def test_05_production() -> None:
    rules = example(5)
    assert decide(rules, role="shards").of(Cache) == Cache(strategy="aggressive")
    outcome = decide(rules, type="checkpoint", processes=4)
    assert outcome.of(Cache) == Cache(strategy="no_evict")
    assert outcome.of(Prioritize) == Prioritize(fetch_class="demand", priority=100)
    assert outcome.of(Coordinate, "job") == Coordinate()


def test_06_inference() -> None:
    outcome = decide(example(6), type="model", phase="inference", memory_pressure=1)
    assert outcome.of(Prefetch, "model") == Prefetch(whole_file=True, shards=True)
    assert outcome.of(Cache) == Cache(tier="memory", strategy="aggressive")
    assert outcome.of(Stream) == Stream(drop_behind=False)


def test_07_describes_the_form_and_every_fault_is_told() -> None:
    path = next(EXAMPLES.glob("07-*.yaml"))
    with pytest.raises(RulesError) as caught:
        load([documents.read(path, **LIMITS)])
    assert [(problem.line, problem.column, problem.key) for problem in caught.value.problems] == [
        (7, 15, "type"),
        (11, 17, "weight"),
        (13, 15, "type"),
    ]


def test_08_a_framework_s_rules_are_for_its_files_and_processes() -> None:
    rules = example(8)
    fetched = Prefetch(header=MIB, footer=MIB)
    assert decide(rules, path="a.pth", framework="pytorch").of(Prefetch) == fetched
    assert decide(rules, path="a.pth", file_framework="pytorch").of(Prefetch) == fetched
    assert decide(rules, path="a.pth", framework="tensorflow").decisions == ()
    assert decide(rules, path="a.pth").decisions == ()
    saved = decide(rules, path="m/saved_model.pb", framework="tensorflow")
    assert saved.of(Prefetch, "directory") == Prefetch(siblings=True, depth=2)
    shards = decide(rules, path="m/model-1.safetensors", file_framework="huggingface")
    assert shards.of(Prefetch, "model") == Prefetch(shards=True, whole_file=True)


def test_09_an_environment_s_settings_are_parameters() -> None:
    template = "templates:\n  - {id: t, rules: [high_performance_caching]}\n"
    text = next(EXAMPLES.glob("09-*.yaml")).read_text() + template
    for environment, strategy in (
        ("development", "lazy"),
        ("production", "aggressive"),
        (None, "aggressive"),
    ):
        assert decide(rules_of(text, environment=environment), type="model").of(Cache) == Cache(
            strategy=strategy
        )
    assert problems(text, environment="prod") == [
        "environment: unknown environment 'prod'; did you mean production?"
    ]


def test_10_a_profile_s_rules_are_for_its_hosts() -> None:
    rules = example(10)
    assert decide(rules, type="model", gpu_count=8).of(Coordinate) == Coordinate()
    assert decide(rules, type="model", gpu_count=4).decisions == ()
    assert decide(rules, size=1, memory_pressure=0, gpu_count=0).of(Cache) == Cache(tier="memory")
    assert decide(rules, type="model", gpu_count=8, gpu_memory=90).of(Prefetch) == Prefetch(
        enabled=False, whole_file=True
    )


@pytest.mark.parametrize("number", [11, 13])
def test_11_and_13_settings(number: int) -> None:
    assert example(number).settings == {"debug": "true", "metrics_collection": "true"}


def test_12_a_file_pattern_is_a_glob() -> None:
    rules = example(12)
    outcome = decide(rules, path="models/a.pth")
    assert outcome.of(Cache) == Cache(strategy="adaptive")
    assert outcome.of(Prefetch) == Prefetch(size=65536)
    assert decide(rules, path="models/a.pt").decisions == ()


def test_all_examples_together() -> None:
    rules = example(*(number for number in range(1, 14) if number != 7))
    assert len(rules.rules) == 17
    assert len({rule.title for rule in rules.rules}) == 17


def test_built_in_rules_are_fine_and_idle_until_named() -> None:
    rules = load([])
    assert rules.rules == ()
    assert [document.problems for document in builtins()] == [[]] * len(builtins())
    ids = [raw["id"] for document in builtins() for raw in document.values["rules"]]
    named = rules_of("templates:\n  - {id: t, rules: [" + ", ".join(ids) + "]}\n")
    assert [rule.id for rule in named.rules] == ids
    assert {rule.priority for rule in named.rules} <= set(range(-100, 0))


# Errors.

WRONG = """\
rules:
  - id: one
    priority: high
    treshold: 0.5
    conditions:
      - {type: file_contex, property: size, value: 1}
      - type: file_context
        property: sise
        operator: equals
        value: 3
      - type: file_context
        property: size
        operator: greter_than
        value: 3
      - {type: file_context, property: size, operator: less_than, value: 64MBi}
      - {type: access_pattern, property: pattern, value: sequental}
      - {type: file_context, property: size, operator: matches, value: x}
      - {gpu_count: '>= lots'}
      - gpu_memry > 80
      - {any: []}
      - {any: [{type: file_context, property: size, value: 1, weight: 2}]}
      - 7
    actions:
      - {type: prefech}
      - type: prefetch
        target: fiel
      - type: prefetch
        parameters: {windw: 64MiB, next_files: many}
      - {type: notify}
      - {}
  - id: one
    conditions: []
    actions: []
  - conditions: []
templates:
  - id: t
    rules: [smart_caching, adaptive_cachin]
    parameters: {optimisation_level: maximum, nodes: two}
rulez: []
settings: {debug: perhaps, metric_collection: true}
frameworks: {pytorch: {enable: true}}
hardware_profiles:
  big: {conditions: [{gpu_cout: '>= 8'}], optimizations: [adaptive_caching]}
"""


def test_webhooks_are_urls() -> None:
    text = """
rules:
  - id: r
    conditions: [size > 1]
    actions: [{type: notify, parameters: {event: e, webhook: "file:///etc/passwd"}}]
"""
    assert problems(text) == [
        "F:5:62: webhook: expected a text that begins with http:// or https://, got 'file:///etc/passwd'"
    ]


def test_every_error_is_told_at_once_at_its_place() -> None:
    assert problems(WRONG) == [
        "F:3:15: priority: expected a whole number from -1000 to 1000, got 'high'",
        "F:4:5: treshold: unknown key; did you mean threshold?",
        "F:6:16: type: unknown condition type 'file_contex'; did you mean file_context?",
        "F:8:19: property: unknown property 'sise' of file_context; did you mean size?",
        "F:13:19: operator: unknown operator 'greter_than'; did you mean greater_than?",
        "F:15:74: value: unknown unit 'MBi' in '64MBi'; did you mean MB?",
        "F:16:58: value: unknown word 'sequental'; did you mean sequential?",
        "F:17:56: operator: matches does not fit size, a size; expected one of equals, not_equals, in, "
        "not_in, greater_than, less_than, greater_equal, less_equal, between, exists",
        "F:18:21: gpu_count: expected a number such as 8 or 0.5, got 'lots'",
        "F:19:9: conditions: unknown property 'gpu_memry'; did you mean gpu_memory?",
        "F:20:15: any: expected a list of conditions, got an empty one",
        "F:21:71: weight: expected a share from 0 to 1, such as 0.5 or 50%, got '2'",
        "F:22:9: conditions: expected (, NOT or a name at character 1 of the expression, got '7'",
        "F:24:16: type: unknown action 'prefech'; did you mean prefetch?",
        "F:26:17: target: unknown target 'fiel'; did you mean file?",
        "F:28:22: windw: unknown parameter of prefetch; did you mean window?",
        "F:28:48: next_files: expected a number such as 8 or 0.5, got 'many'",
        "F:29:9: actions: expected one of event, webhook and command in parameters",
        "F:30:9: actions: type: expected a value, got nothing",
        "F:31:5: rules: one: given twice, first in line 2",
        "F:33:14: actions: expected at least one action",
        "F:34:5: rules: id: expected a value, got nothing",
        "F:34:5: rules: actions: expected a value, got nothing",
        "F:37:13: rules: unknown rule 'smart_caching'; did you mean adaptive_caching?",
        "F:37:28: rules: unknown rule 'adaptive_cachin'; did you mean adaptive_caching?",
        "F:38:18: optimisation_level: a parameter that none of its rules uses; "
        "did you mean optimization_level?",
        "F:38:54: nodes: expected a number such as 8 or 0.5, got 'two'",
        "F:39:1: rulez: unknown section; did you mean rules?",
        "F:40:19: debug: expected true or false, got 'perhaps'",
        "F:40:28: metric_collection: unknown setting; did you mean metrics_collection?",
        "F:41:24: enable: unknown key; did you mean enabled?",
        "F:43:23: gpu_cout: unknown property 'gpu_cout'; did you mean gpu_count?",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rules:\n- id: a b\n  priority: high\n", ["2:7: id", "3:13: priority"]),
        ("rules:\n- priority: high\n\n", ["2:13: priority", "2:3: rules: id"]),
        ("rules:\n- {}\n- threshold: 3\n", ["2:3: rules: id", "3:3: rules: id", "3:14: threshold"]),
    ],
)
def test_a_rule_that_cannot_be_made_hides_no_other_error_in_it(text: str, said: list[str]) -> None:
    more = "  conditions: [sizze > 1]\n  actions: [{type: cach}]\n"
    last = text.count("\n")
    inside = [f"{last + 1}:16: conditions: unknown property", f"{last + 2}:20: type: unknown action 'cach'"]
    told = problems(text + more)
    for one in (*said, *inside):
        assert sum(line.startswith(f"F:{one}") for line in told) == 1, (one, told)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rules: 3\n", "F:1:8: rules: expected a list, got '3'"),
        ("rules: [3]\n", "F:1:9: rules: expected keys with values (id, name, description, priority,"),
        ("templates: [{id: t}]\n", "F:1:13: templates: rules: expected a value, got nothing"),
        ("frameworks: []\n", "F:1:13: frameworks: expected names with keys and values, got a list"),
        ("environments: {a: 1}\n", "F:1:19: a: expected keys with values, got '1'"),
        ("settings: []\n", "F:1:11: settings: expected keys with values, got a list"),
        ("rules:\n\t- id: a\n", "F:2:1: not YAML: expected spaces before this, got a tab"),
        ("a: b: c\n", "F:1:5: not YAML: mapping values are not allowed in this context"),
        ("- a\n", "F:1: expected keys with values"),
        ("rules: []\nrules: []\n", "F:2:1: rules: given twice, first in line 1"),
        ("rules: &a [*a]\n", "F:1:12: rules: &a holds itself"),
        (rule(conditions="size > 1"),
         "F:3:17: conditions: expected a list, got 'size > 1'; a single expression stands under condition"),
        (rule(conditions="{any: [size > 1]}"),
         "F:3:17: conditions: expected a list, got a mapping; each condition begins with '- '"),
        (rule("    condition: size > 1\n"), "F:5:5: condition: expected condition or conditions, not both"),
        ("rules: [{id: r, actions: [{type: cache}]}]\n",
         "F:1:9: rules: conditions: expected a list, got nothing"),
        (rule(conditions="[{type: file_context, property: size, value: '1', weight: 0}]"),
         "F:3:17: conditions: expected a weight above 0 in one of the conditions"),
        (rule(conditions="[{any: [size > 1], weight: 0.0001}]"),
         "F:3:44: weight: expected 0, or a share from 0.001 to 1, got '0.0001'"),
        (rule(conditions="[{any: [{all: [size > 1], weight: 1}]}]"),
         "F:3:43: weight: a weight counts directly below conditions only"),
        (rule(conditions="[{any: [size > 1], all: [size > 2]}]"),
         "F:3:18: conditions: expected one of any, all, not and expression, and perhaps weight"),
        (rule(actions="[{type: exclude, parameters: {tier: disk}}]"),
         "F:4:44: tier: unknown parameter of exclude; it has none"),
        (rule("    description: ${what}\n"), "F:2:5: rules: no value for ${what}; expected it in parameters"),
        (rule("    parameters: {levl: 1}\n    description: ${level}\n"),
         "F:2:5: rules: no value for ${level}; did you mean levl?"),
        (rule("    parameters: {level: [1]}\n    description: is ${level}\n"),
         "F:2:5: rules: expected a single value for ${level} within a text"),
    ],
)  # fmt: skip
def test_files_of_another_form(text: str, said: str) -> None:
    assert any(line.startswith(said) for line in problems(text)), problems(text)


@pytest.mark.parametrize("given", ["conditions: size > 1", "conditions: {}", "condition: [size > 1]"])
def test_conditions_that_cannot_be_read_are_not_said_to_be_missing(given: str) -> None:
    (problem,) = problems(f"rules:\n- id: r\n  {given}\n  actions: [{{type: exclude}}]\n")
    assert "got nothing" not in problem


def test_a_rule_whose_id_is_taken_is_checked_all_the_same() -> None:
    assert problems(rule() + rule(conditions="[sizze > 1]", actions="[{type: cach}]")[7:]) == [
        "F:5:5: rules: r: given twice, first in line 2",
        "F:6:18: conditions: unknown property 'sizze'; did you mean size?",
        "F:7:22: type: unknown action 'cach'; did you mean cache?",
    ]


def test_settings_that_change_nothing_are_noted() -> None:
    text = """\
settings: {metrics_collection: no, monitoring: off, debug: true, nodes: 3, gpu_per_node: 2}
environments:
  e: {monitoring: comprehensive, batch_processing: true}
  f: {fault_tolerance: true}
templates:
- {id: t, rules: [dataset_parallel_loading]}
"""
    counted = "changes nothing: what rules bring is always counted"
    own = [f"F:1: metrics_collection no {counted}", f"F:1: monitoring off {counted}"]
    assert list(rules_of(text).notes) == [*own, "F:1: nodes is used by no rule"]
    assert set(rules_of(text, environment="e").notes) == {
        own[0], "F:1: nodes is used by no rule", "F:3: batch_processing is used by no rule",
    }  # fmt: skip


def test_files_that_would_fill_the_memory_are_refused(tmp_path: Path) -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert "F:6: expected at most 500000 values, aliases written out" in problems(bomb)
    assert "F:1:" in problems("rules: " + "[" * 5000)[0]
    large = tmp_path / "large.yaml"
    with large.open("wb") as file:
        file.truncate(100 << 20)
    with pytest.raises(documents.UsageError, match="at most 16777216 bytes"):
        documents.read(large, **LIMITS)


def test_the_number_of_rules_is_bounded_templates_included(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "MAX_RULES", 5)
    text = rule("templates:\n" + "".join(f"  - {{id: t{number}, rules: [r, r]}}\n" for number in range(2)))
    assert len(rules_of(text).rules) == 4
    text += "  - {id: t2, rules: [r, r]}\n"
    assert problems(text) == ["F:1:1: expected at most 5 rules, those of templates included"]


def test_json_is_read_too() -> None:
    test = '{"type": "file_context", "property": "size", "value": 1}'
    text = f'{{"rules": [{{"id": "r",\n\t"conditions": [{test}],\n'
    assert len(rules_of(text + ' "actions": [{"type": "cache", "parameters": {"pin": true}}]}]}').rules) == 1


# What is active.


def test_a_rule_that_something_names_is_active_as_its_part() -> None:
    named = rule("frameworks: {pytorch: {enabled: ENABLED, rules: [r]}}\n")
    on, off = rules_of(named.replace("ENABLED", "yes")), rules_of(named.replace("ENABLED", "no"))
    assert [entry.title for entry in on.rules] == ["r (framework pytorch)"]
    assert (off.rules, off.inactive) == ((), (("r (framework pytorch)", "framework pytorch is not in use"),))
    both = rules_of(rule("templates:\n  - {id: a, rules: [r]}\n  - {id: b, rules: [r], enabled: no}\n"))
    assert [entry.title for entry in both.rules] == ["r (template a)"]


def test_disabled_rules_are_read_and_not_used() -> None:
    assert rules_of(rule("    enabled: no\n")).inactive == (("r", "disabled"),)
    assert problems(rule("    enabled: no\n    priority: x\n"))


def test_templates_in_profiles_have_both_conditions_and_parameters() -> None:
    text = """
templates:
  - {id: t, rules: [adaptive_caching], parameters: {optimization_level: basic}}
hardware_profiles:
  small: {conditions: [cpu_count: '< 4'], optimizations: [t]}
"""
    rules = rules_of(text)
    assert [entry.title for entry in rules.rules] == ["adaptive_caching (template t, hardware profile small)"]
    assert decide(rules, path="a", cpu_count=2).of(Cache) == Cache(strategy="lazy")
    assert decide(rules, path="a", cpu_count=8).decisions == ()


def test_parameters_the_later_wins() -> None:
    own = """\
rules:
  - id: r
    conditions: []
    parameters: {level: 5}
    actions:
      - type: compress
        parameters: {level: '${level}'}
"""
    assert decide(rules_of(own)).of(Compress) == Compress(level=5)
    assert decide(rules_of(own + "templates:\n  - {id: t, rules: [r], parameters: {level: 7}}\n")).of(
        Compress
    ) == Compress(level=7)
    wrong = own + "templates:\n  - {id: t, rules: [r], parameters: {level: 70}}\n"
    assert problems(wrong) == [
        "F:7:29: level: expected a whole number from 1 to 19, got '70' (in template t)"
    ]
    named = "templates:\n  - {id: t, rules: [dataset_parallel_loading], parameters: {gpu_per_node: 5000}}\n"
    assert problems(named) == [
        "builtin/training.yaml:24:40: parallel_streams: expected a whole number from 1 to 1024, got '5000' "
        "(in template t)"
    ]
    rules_of(named.replace("5000", "8"))
    text = rule(actions="[{type: notify, parameters: {event: 'a-$${x}-${x}'}}]") + "    parameters: {x: b}\n"
    assert decide(rules_of(text)).of(Notify) == Notify(event="a-${x}-b")


def test_a_later_file_replaces_a_rule() -> None:
    rules = rules_of(rule(), rule(actions="[{type: compress}]"))
    assert [decision.action for decision in decide(rules).decisions] == ["compress"]
    assert rules.notes == ("r of F:2 is replaced by that of F1:2",)


# Who wins.

PAIR = """
rules:
  - {id: a, priority: PRIORITY, conditions: FIRST,
     actions: [{type: cache, parameters: {pin: true, strategy: lazy}}]}
  - {id: b, conditions: [type == model], actions: [{type: cache, parameters: {strategy: ttl, ttl: 1h}}]}
"""


@pytest.mark.parametrize(
    ("priority", "first", "strategy", "winner"),
    [
        ("1", "[]", "lazy", "a"),
        ("0", "[]", "ttl", "b"),
        ("0", "[size > 1, size < 5, size >= 1]", "lazy", "a"),
        ("0", "[{any: [type == model, size > 1, size < 9]}]", "ttl", "b"),
        ("-1", "[size > 1, size < 5, size >= 1]", "ttl", "b"),
    ],
)
def test_priority_then_specificity_then_order(priority: str, first: str, strategy: str, winner: str) -> None:
    rules = rules_of(PAIR.replace("PRIORITY", priority).replace("FIRST", first))
    (decision,) = decide(rules, type="model", size=3).decisions
    # What one alone gives is taken from it.
    assert decision.effect == Cache(strategy=strategy, pin=True, ttl=3600)
    assert decision.rules[0].id == winner
    (lost,) = decision.overruled
    assert (lost.parameter, lost.by.id) == ("strategy", winner)
    assert lost.rule.id != winner


def test_notifications_do_not_compete_and_targets_do_not_meet() -> None:
    told = "{type: notify, parameters: {event: x}}, {type: notify, parameters: {event: y}}"
    notify = f"[{told}, {{type: compress}}, {{type: compress, target: job, parameters: {{level: 9}}}}]"
    outcome = decide(rules_of(rule(actions=notify)))
    events = [d.effect.event for d in outcome.decisions if isinstance(d.effect, Notify)]
    assert events == ["x", "y"]
    assert (outcome.of(Compress), outcome.of(Compress, "job")) == (Compress(), Compress(level=9))


def test_what_is_excluded_is_not_fetched_ahead() -> None:
    outcome = decide(rules_of(rule(actions="[{type: prefetch}, {type: exclude}, {type: stream}]")))
    assert [decision.action for decision in outcome.decisions] == ["cache", "stream"]
    assert outcome.of(Cache) == Cache(tier="none")
    assert [(d.action, why) for d, why in outcome.dropped] == [("prefetch", "the file is not cached")]


def test_weights_and_threshold() -> None:
    text = rule(
        "    threshold: THRESHOLD\n",
        conditions="[{expression: size > 1, weight: 0.5}, {expression: type == model, weight: 1}]",
    )
    for threshold, small, other in (("60%", True, False), ("0.3", True, True), ("1", False, False)):
        rules = rules_of(text.replace("THRESHOLD", threshold))
        assert bool(decide(rules, size=1, type="model").matched) == small
        assert bool(decide(rules, size=2, type="config").matched) == other


def test_not_of_what_nobody_knows_does_not_hold() -> None:
    rules = rules_of(rule(conditions="[not gpu_memory > 80]"))
    assert decide(rules, gpu_memory=10).matched
    assert not decide(rules, gpu_memory=90).matched
    assert not decide(rules).matched
    assert decide(rules_of(rule(conditions="[not gpu_memory exists]"))).matched


def test_every_action_and_alias_can_be_written() -> None:
    for name, action in actions.ACTIONS.items():
        given = "{event: x}" if action.effect is Notify else "{}"
        (decision,) = decide(rules_of(rule(actions=f"[{{type: {name}, parameters: {given}}}]"))).decisions
        assert type(decision.effect) is action.effect
