"""The JSON Schema for editors: it takes what the loader takes, and refuses what it refuses where it can."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from swmld.cli import configuring
from swmld.cli.main import run
from swmld.config.models import Settings
from swmld.documents import DocumentError

ROOT = Path(__file__).parents[2]
SEEDS = sorted((ROOT / "tests" / "data" / "rules").glob("[0-9]*.yaml"))
SHIPPED = [
    *sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name != "kubernetes"),
    *sorted((ROOT / "daemon" / "swmld" / "rules" / "builtin").glob("*.yaml")),
]


@pytest.fixture(scope="module")
def schema() -> Any:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert run(["config", "schema"]) == 0
    return json.loads(out.getvalue())


@pytest.fixture(scope="module")
def validator(schema: Any) -> Draft202012Validator:
    return Draft202012Validator(schema)


def test_it_is_a_schema_of_its_draft(schema: Any) -> None:
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_every_key_says_what_it_is(schema: Any) -> None:
    for key, field in Settings.model_fields.items():
        if key != "rules":
            assert schema["properties"][key]["description"] == field.description
    assert schema["properties"]["cache_size"]["default"] == "100GiB"
    rule = schema["$defs"]["rule"]["properties"]
    assert all(entry["description"] for entry in rule.values())


@pytest.mark.parametrize("path", [*SEEDS, *SHIPPED], ids=lambda path: path.stem)
def test_it_takes_what_is_shipped_and_seeded(path: Path, validator: Draft202012Validator) -> None:
    found = list(validator.iter_errors(yaml.safe_load(path.read_text()) or {}))
    assert bool(found) == path.stem.startswith("07"), found[:1]


def test_it_takes_the_reference_with_every_key_set(validator: Draft202012Validator) -> None:
    lines = (ROOT / "configs" / "swmld.yaml").read_text().splitlines()
    text = "\n".join(line.removeprefix("#") for line in lines if line[1:2].isalpha())
    values = {key: value for key, value in yaml.safe_load(text).items() if value is not None}
    assert len(values) > 25
    assert list(validator.iter_errors(values)) == []


RULE = "rules: [{id: r, conditions: [CONDITION], actions: [ACTION]}]"
CACHE, ANY = "{type: cache}", "size > 1"


def rule(condition: str = ANY, action: str = CACHE) -> str:
    return RULE.replace("CONDITION", condition).replace("ACTION", action)


FINE = [
    "cache_size: 107374182400",
    "cache_size: 0.5TiB",
    "check_interval: 250 ms",
    "read_only: 'yes'",
    "metrics_address: off",
    "free_floor: 5%",
    "free_floor: auto",
    "rules: [/a, b]",
    "rules: /a",
    "rules: []",
    "paths: [{glob: '*', check: strict, interval: 1}]",
    "settings: {debug: on, cache_size: 1GiB}",
    "environments: {p: {optimization_level: MAXIMUM, rules: [r], read_only: no}}",
    "frameworks: {pytorch: null}",
    rule("{type: file_context, property: size, operator: '>', value: 1GiB}"),
    rule("{type: file_pattern, property: extension, value: [.pt, .pth]}"),
    rule("{type: file_context, property: xattr.user.x, operator: exists, value: true}"),
    rule("{type: system_context, property: gpu_memory, operator: between, value: [10%, 80]}"),
    rule("{type: system_context, property: gpu_memory, value: '>= 80%'}"),
    rule("{any: [size > 1, {not: {gpu_count: '== 0'}}], weight: 50%}"),
    rule("{gpu_count: 8, cpu_count: '> 2'}"),
    rule("{expression: size > 1, weight: 0.5}"),
    rule("{type: workload_context, property: phase, value: Model_Load}"),
    rule(
        action="{type: prefetch, target: workload, parameters: {next_files: 8, window: 1MiB, whole_file: no}}"
    ),
    rule(action="{type: prefetch, parameters: {next_files: '${n}'}}").replace(
        "actions", "parameters: {n: 1}, actions"
    ),
    rule(action="{type: cache, parameters: {strategy: pytorch_aware, ttl: 5 min, pin_fraction: 20%}}"),
    rule(action="{type: stream, parameters: {compression: false}}"),
    rule(action="{type: notify, parameters: {webhook: 'HTTPS://h/x'}}"),
    rule("{type: system_context, property: time_of_day, operator: between, value: ['22:30', '6:00']}"),
]

WRONG = [
    "cash_size: 1GiB",
    "cache_size: lots",
    "cache_size: 1",
    "cache_size: -1GiB",
    "chunk_size: 1000000000",
    "check: sometimes",
    "check_interval: soon",
    "read_only: maybe",
    "fetch_parallel: 0",
    "engine: fast",
    "metrics_address: localhost",
    "paths: [{glob: a}]",
    "paths: [{glob: a, chek: strict, check: strict}]",
    "rulez: []",
    "rules: [{id: r}, 7]",
    "rules: [{name: r}]",
    "rules: [{id: 'a b'}]",
    "templates: [{rules: [r]}]",
    "settings: {debugg: true}",
    "settings: {optimization_level: most}",
    "environments: {p: {cash_size: 1GiB}}",
    "frameworks: {pytorch: {rulez: []}}",
    "hardware_profiles: {h: {conditions: [{gpu_cont: 1}], optimizations: []}}",
    rule().replace("id: r", "id: r, prioritty: 1"),
    rule().replace("id: r", "id: r, priority: 5000"),
    rule().replace("id: r", "id: r, condition: size > 1"),
    rule().replace("conditions: [size > 1], ", ""),
    rule().replace("id: r", "id: r, threshold: 1.2"),
    rule("{type: file_contxt, property: size, value: 1}"),
    rule("{type: file_context, property: sise, value: 1}"),
    rule("{type: file_context, property: gpu_count, value: 1}"),
    rule("{type: file_context, property: size}"),
    rule("{type: file_context, property: size, operator: contains, value: 1}"),
    rule("{type: file_context, property: size, operator: bigger, value: 1}"),
    rule("{type: file_context, property: size, operator: '>', value: big}"),
    rule("{type: file_context, property: size, operator: between, value: [1]}"),
    rule("{type: file_context, property: size, operator: in, value: 1}"),
    rule("{type: file_context, property: type, value: modl}"),
    rule("{type: system_context, property: gpu_memory, value: 120}"),
    rule("{any: []}"),
    rule("{any: [size > 1], all: [size > 1], not: [size > 1]}"),
    rule("{gpu_cont: 1}"),
    rule("7"),
    rule("{type: file_context, property: size, value: 1, weigth: 1}"),
    rule(action="{type: cash}"),
    rule(action="{type: cache, parameters: {pinn: true}}"),
    rule(action="{type: cache, parameters: {pin: maybe}}"),
    rule(action="{type: cache, target: house}"),
    rule(action="{type: prefetch, parameters: {next_files: -1}}"),
    rule(action="{type: cache, parameters: {ttl: 5 parsecs}}"),
    rule(action="{type: exclude, parameters: {tier: none}}"),
    rule(action="{parameters: {}}"),
    rule(action="{type: notify, parameters: {webhook: 'ftp://h'}}"),
    rule().replace("[{type: cache}]", "[]"),
]


@pytest.mark.parametrize("text", FINE)
def test_it_takes_what_the_loader_takes(text: str, validator: Draft202012Validator, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        text + ("\nrules: [{id: r, conditions: [], actions: [{type: cache}]}]" * ("rules: [r]" in text))
    )
    configuring.understood([path], None)
    assert list(validator.iter_errors(yaml.safe_load(text))) == []


@pytest.mark.parametrize("text", WRONG)
def test_it_refuses_what_the_loader_refuses(
    text: str, validator: Draft202012Validator, tmp_path: Path
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(DocumentError):
        configuring.understood([path], None)
    assert list(validator.iter_errors(yaml.safe_load(text)))
