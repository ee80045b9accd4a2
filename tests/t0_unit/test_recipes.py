"""The recipes in ``configs/rules``: they load, all of each acts, and each rule does what its comment says to
the files that it is for. And what the README says of rules."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from swmld.cli import man
from swmld.cli.main import app
from swmld.head.facts import FROM_OPENING, NOT_PRODUCED
from swmld.head.filetype import type_of
from swmld.head.rulesfiles import read
from swmld.rules import actions, facts
from swmld.rules.decide import Engine, Outcome
from swmld.rules.explain import explanation
from swmld.rules.kinds import Value
from swmld.rules.ruleset import RulesError, RuleSet
from typer.main import get_command

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "configs" / "rules").glob("*.yaml"))
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
HOUR = 3600.0

EXCLUDED = {"cache": {"tier": "none"}}


class Example(NamedTuple):
    """A file, what else is known, the rules that match, and of each action what they decide."""

    path: str
    known: dict[str, Value]
    rules: str
    decided: dict[str, dict[str, Any]]


def cache(**given: Any) -> dict[str, dict[str, Any]]:
    return {"cache": given}


def prefetch(**given: Any) -> dict[str, dict[str, Any]]:
    return {"prefetch": given}


LAZY, AGGRESSIVE, WHOLE = cache(strategy="lazy"), cache(strategy="aggressive"), prefetch(whole_file=True)
HELD, PINNED = cache(strategy="no_evict"), cache(pin=True)

EXAMPLES: dict[str, list[Example]] = {
    "everyday": [
        Example("train/0001.jpg", {"comm": "rsync"}, "scans", LAZY),
        Example("train/0001.jpg", {"comm": "python"}, "", {}),
        Example("runs/a.log", {}, "scratch", EXCLUDED),
        Example("runs/events.out.tfevents.1700000000.host", {}, "scratch", EXCLUDED),
        Example("home/.nfs0000000001", {"comm": "tar"}, "scratch scans", {"cache": {"tier": "none"}}),
    ],
    "research": [
        Example("models/resnet50.pth", {"size": 98 * MIB}, "shared-models",
                AGGRESSIVE | prefetch(header=MIB, footer=MIB)),
        Example("me/epoch_3.ckpt", {}, "own-checkpoints", cache(strategy="ttl", ttl=24 * HOUR)),
        Example("downloads/coco.tar.gz", {"size": 20 * GIB}, "downloads",
                LAZY | prefetch(size=16 * MIB, window=256 * MIB)),
        Example("uploads/coco.tar.gz", {"size": 20 * GIB}, "", {}),
        Example("tables/users.csv", {"size": MIB, "access_frequency": 3.0}, "small-tables",
                AGGRESSIVE | WHOLE),
        Example("tables/users.csv", {"size": MIB, "access_frequency": 1.0}, "", {}),
    ],
    "production-training": [
        Example("train/7.jpg", {"order": "shuffled"}, "shuffled-data", HELD),
        Example("train/7.jpg", {"order": "listed", "size": MIB}, "ordered-data", prefetch(next_files=64)),
        Example("train/7.tar", {"order": "listed", "size": GIB}, "", {}),
        Example("val/7.jpg", {"order": "shuffled", "phase": "validation"}, "validation-data shuffled-data",
                AGGRESSIVE),
        Example("run/step-900/model.safetensors", {"phase": "checkpoint load"}, "resume tell-of-resume",
                cache(strategy="ttl", ttl=HOUR) | WHOLE | {"notify": {"event": "training_resumed"}}),
    ],
    "real-time-inference": [
        Example("llama/model-00001-of-00002.safetensors", {"size": 5 * GIB}, "served-models", PINNED | WHOLE),
        Example("huge/model.safetensors", {"size": 300 * GIB}, "", {}),
        Example("llama/config.json", {"size": KIB}, "small-parts model-directories",
                cache(pin=True, strategy="aggressive") | prefetch(whole_file=True, siblings=True)),
        Example("llama/tokenizer.model", {"size": MIB}, "small-parts", AGGRESSIVE | WHOLE),
        Example("requests/1.jpg", {}, "passing-data", LAZY),
        Example("llama/checkpoint-500/optimizer.pt", {"size": GIB}, "no-checkpoints", EXCLUDED),
    ],
    "data-pipeline": [
        Example("in/part-0.parquet", {"size": 100 * MIB}, "column-files",
                prefetch(header=64 * KIB, footer=MIB)),
        Example("in/clicks.csv.gz", {"size": 3 * GIB}, "row-files large-inputs",
                prefetch(size=16 * MIB, window=256 * MIB) | LAZY),
        Example("dim/country.parquet", {"size": MIB, "access_frequency": 5.0}, "lookup-tables column-files",
                AGGRESSIVE | prefetch(header=64 * KIB, footer=MIB)),
        Example("out/_temporary/0/part-0.parquet", {}, "intermediate-files column-files", EXCLUDED),
        Example("out/.part-0.parquet.crc", {}, "intermediate-files", EXCLUDED),
    ],
    "vision": [
        Example("train/cat/1.jpg", {"order": "shuffled"}, "shuffled-images", HELD),
        Example("val/cat/1.jpg", {"order": "sorted"}, "ordered-images", prefetch(next_files=128)),
        Example("shards/000001.tar", {"order": "shuffled"}, "shuffled-images shards",
                HELD | prefetch(shards=True, next_files=1, size=16 * MIB, window=256 * MIB)),
        Example("archive/train.zip", {}, "zip-archives", prefetch(header=64 * KIB, footer=4 * MIB)),
        Example("annotations/instances.json", {"size": 400 * MIB}, "annotations", AGGRESSIVE | WHOLE),
        Example("clips/1.mp4", {}, "videos", prefetch(header=MIB, footer=MIB)),
    ],
    "nlp": [
        Example("llama/tokenizer.model", {"size": MIB}, "tokenizers", PINNED | WHOLE),
        Example("llama/tokenizer_config.json", {"size": KIB}, "tokenizers", PINNED | WHOLE),
        Example("gpt2/vocab.json", {"size": MIB}, "tokenizers", PINNED | WHOLE),
        Example("corpus/pile_text_document.bin", {"size": 30 * GIB}, "token-arrays", AGGRESSIVE | WHOLE),
        Example("corpus/pile_text_document.idx", {"size": GIB}, "token-indexes", AGGRESSIVE | WHOLE),
        Example("wiki/train-0.parquet", {"size": 300 * MIB}, "column-files",
                prefetch(header=64 * KIB, footer=MIB)),
        Example("c4/c4-00001.json.gz", {"size": 300 * MIB}, "text-shards",
                prefetch(shards=True, next_files=2, size=8 * MIB, window=128 * MIB)),
        Example("raw/page.html", {"phase": "data preparation"}, "preparation", LAZY),
    ],
    "llm-finetuning": [
        Example("llama/model-00001-of-00030.safetensors", {"size": 5 * GIB}, "base-model",
                AGGRESSIVE | prefetch(whole_file=True, shards=True)),
        Example("llama/model.safetensors.index.json", {"size": 30 * KIB}, "model-index",
                prefetch(shards=True)),
        Example("out/checkpoint-500/optimizer.pt", {"size": 20 * GIB},
                "optimizer-states checkpoints", EXCLUDED),
        Example("out/zero_pp_rank_0_mp_rank_00_optim_states.pt", {"size": 20 * GIB},
                "optimizer-states checkpoints", EXCLUDED),
        Example("out/checkpoint-500/rng_state_0.pth", {"size": KIB},
                "optimizer-states checkpoints", EXCLUDED),
        Example("out/checkpoint-500/adapter_model.safetensors", {"size": 30 * MIB}, "checkpoints",
                cache(strategy="ttl", ttl=2 * HOUR) | WHOLE),
        Example("data/alpaca.jsonl", {"size": 40 * MIB}, "small-data", AGGRESSIVE | WHOLE),
    ],
    "checkpoint-heavy": [
        Example("run/step_100/shard_0.pt", {"size": 2 * GIB}, "tell-of-reads restart",
                cache(strategy="ttl", ttl=HOUR / 2) | WHOLE | {"notify": {"event": "checkpoint_read"}}),
        Example("run/step_100/optim_0.pt", {"size": 500 * MIB}, "optimizer-shards restart", EXCLUDED),
        Example("run/latest", {"size": 16}, "latest-pointers", EXCLUDED),
        Example("run/checkpoint", {"size": 200}, "latest-pointers restart", EXCLUDED),
        Example("data/1.tar", {}, "data-and-models", AGGRESSIVE),
    ],
}  # fmt: skip


def known(example: Example) -> dict[str, Value]:
    """As ``head.facts`` finds them."""
    kind, form = type_of(example.path)
    return facts.of_path(example.path) | {"type": kind} | ({"format": form} if form else {}) | example.known


def given(outcome: Outcome) -> dict[str, dict[str, Any]]:
    return {
        actions.NAME_OF[type(decision.effect)]: {one.parameter: one.value for one in decision.settled}
        for decision in outcome.decisions
    }


def properties(rules: RuleSet) -> set[str]:
    return {test.what.name for rule in rules.rules for _, node in rule.conditions for test in node.tests()}


def test_every_recipe_has_examples() -> None:
    assert {path.stem for path in RECIPES} == set(EXAMPLES)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_all_of_a_recipe_acts(recipe: Path) -> None:
    rules = read([recipe])
    assert (rules.inactive, rules.notes) == ((), ())
    assert properties(rules) & {*NOT_PRODUCED, *FROM_OPENING} == set()
    for rule in rules.rules:
        for action in rule.actions:
            assert action.given, f"{rule.id}: {action} asks for nothing"


@pytest.mark.parametrize(
    ("recipe", "example"),
    [
        pytest.param(
            recipe, example, id=f"{recipe}-{example.path}-{example.rules.replace(' ', '+') or 'none'}"
        )
        for recipe, examples in EXAMPLES.items()
        for example in examples
    ],
)
def test_a_recipe_decides_as_it_says(recipe: str, example: Example) -> None:
    outcome = Engine(read([ROOT / "configs" / "rules" / f"{recipe}.yaml"]).rules).decide(known(example))
    assert {rule.id for rule in outcome.matched} == set(example.rules.split())
    decided = given(outcome)
    if example.decided == EXCLUDED:
        assert decided["cache"]["tier"] == "none"
        assert "prefetch" not in decided
    else:
        assert decided == example.decided


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_no_rule_of_a_recipe_is_dead(recipe: Path) -> None:
    """Each value that a rule asks for is the one that counts for some file."""
    rules = read([recipe]).rules
    engine = Engine(rules)
    won = {
        (settled.rule.id, settled.parameter)
        for example in EXAMPLES[recipe.stem]
        for decision in engine.decide(known(example)).decisions
        for settled in decision.settled
    }
    asked = {(rule.id, name) for rule in rules for action in rule.actions for name in action.given}
    assert asked - won == set()


def test_each_recipe_goes_with_the_everyday_one() -> None:
    (everyday,) = [path for path in RECIPES if path.stem == "everyday"]
    for recipe in RECIPES:
        if recipe != everyday:
            assert read([everyday, recipe]).notes == (), recipe


# ---- the README

README = (ROOT / "README.md").read_text()
RULES = README[README.index("## Rules\n") : README.index("## Options\n")]


def blocks(text: str) -> list[str]:
    """The indented blocks that begin with ``rules:``, as they would be written into a file."""
    lines = "\n".join(
        line[4:] if line.startswith("    ") else "" if not line else "\0" for line in text.splitlines()
    )
    return [block.strip("\n") for block in lines.split("\0") if block.strip("\n").startswith("rules:")]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    (block,) = blocks(RULES)
    path = tmp_path / "mine.yaml"
    path.write_text(block)
    return path


def test_the_rules_of_the_readme_do_what_is_shown(written: Path) -> None:
    rules = read([written])
    assert (rules.inactive, rules.notes) == ((), ())
    engine = Engine(rules.rules)
    image = known(Example("images/cat/0000.png", {"size": 109_670}, "", {}))
    lines = [line.replace(str(written), "/etc/swmld/rules/mine.yaml") for line in explanation(engine, image)]
    shown = {line[4:] for line in RULES.splitlines()}
    assert {line for line in lines if line.startswith("images: matched") or "by images" in line} <= shown
    assert given(engine.decide(known(Example("a/b.safetensors", {}, "", {})))) == PINNED | prefetch(
        header=MIB, footer=MIB
    )
    assert given(engine.decide(known(Example("a/b.tmp", {}, "", {})))) == EXCLUDED


def test_the_error_in_the_readme_is_the_one(written: Path) -> None:
    written.write_text(written.read_text().replace("next_files", "next_fils"))
    with pytest.raises(RulesError) as caught:
        read([written])
    (problem,) = caught.value.problems
    assert str(problem).replace(str(written), "/etc/swmld/rules/mine.yaml") in RULES


def test_the_readme_names_every_recipe() -> None:
    said = RULES[RULES.index("`configs/rules/`") :]
    assert {path.stem for path in RECIPES} == set(re.findall(r"`([a-z-]+)`", said))


def test_every_command_and_action_of_the_section_exists() -> None:
    commands = {name for name, _ in man.subcommands(get_command(app))}
    for words in re.findall(r"(?:`|^    # )swmld ([a-z]+(?: [a-z]+(?![\w/.]))?)", RULES, re.MULTILINE):
        assert words in commands or words.split()[0] in commands, words
    for row in re.findall(r"^\| (`.*?) \| (.*) \|$", RULES, re.MULTILINE):
        name = row[0].split("`")[1]
        assert name in actions.ACTIONS
        parameters = {*actions.ACTIONS[name].parameters}
        for word in re.findall(r"`(\w+)`", row[1]):
            assert word in parameters or word in actions.ACTIONS["cache"].parameters["strategy"].words
