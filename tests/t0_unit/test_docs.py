"""What the documents say exists, and what exists is said: options, commands, keys, metrics, defaults."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from swmld.api.metrics import METRICS
from swmld.cli import configuring, man
from swmld.cli.main import app, run
from swmld.cli.options import PANELS, default_text
from swmld.config.layers import option_name
from swmld.config.load import load
from swmld.config.models import Settings
from swmld.doctor import disk
from typer.main import get_command

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
REFERENCE = (ROOT / "configs" / "swmld.yaml").read_text()
UNIT = (ROOT / "configs" / "swmld@.service").read_text()
DAEMON_SET = (ROOT / "configs" / "kubernetes" / "daemonset.yaml").read_text()


def commands() -> Iterator[tuple[str, Any]]:
    root = get_command(app)
    yield "", root
    yield from man.subcommands(root)


def option_names(command: Any) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)
            if name.startswith("--")}  # fmt: skip


EVERY_OPTION = {name for _, command in commands() for name in option_names(command)} | {"--help"}


def test_every_option_is_in_the_readme_and_the_reverse() -> None:
    said = set(re.findall(r"(?<![-\w])--[a-z][a-z-]*", README))
    assert said ^ EVERY_OPTION == set()


@pytest.mark.parametrize("words", [name for name, _ in commands()])
def test_help_has_every_option_and_an_example(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    command = dict(commands())[words]
    assert {name for name in option_names(command) if name not in shown} == set()
    assert re.search(r"Examples?\n", re.sub(r" +\n", "\n", shown)), "help without an example"
    assert f"swmld {words}".strip() in shown


def test_every_command_is_in_the_readme_and_the_reverse() -> None:
    table = README[README.index("## Commands") : README.index("## Options")]
    rows = re.findall(r"^\| `swmld ([a-z][a-z-]*(?: [a-z]+)?)", table, re.MULTILINE)
    said = {match.strip() for match in rows}
    assert said == {name for name, _ in commands() if name}


def test_every_settings_option_has_its_help_and_default_in_the_readme() -> None:
    parameters = {parameter.name: parameter for parameter in get_command(app).params}
    for key in set(Settings.model_fields) - {"paths"}:
        assert f"| {parameters[key].help} |" in README, key
        default = default_text(key)
        assert (f"Default: {default}." in parameters[key].help) == (default is not None)
    assert parameters["cache_size"].help.endswith(" Default: 100GiB.")
    assert parameters["check_interval"].help.endswith(" Default: 1s.")


def test_every_key_is_an_option_and_in_a_panel() -> None:
    root = get_command(app)
    options = option_names(root)
    keys = set(Settings.model_fields)
    assert {key for key in keys if option_name(key) not in options} == {"paths"}
    assert {key for keys in PANELS.values() for key in keys} == keys - {"paths"}


def test_every_key_is_in_the_reference_and_the_reverse() -> None:
    keys = re.findall(r"^#([a-z_]+):", REFERENCE, re.MULTILINE)
    assert len(keys) == len(set(keys))
    assert set(keys) == set(Settings.model_fields)


def test_every_metric_is_in_the_readme_and_the_reverse() -> None:
    rows = re.findall(r"^\| `(swmld_[a-z_]+)` \| ([a-z, ]*) ?\| (.*) \|$", README, re.MULTILINE)
    said = {name: (tuple(filter(None, labels.strip().split(", "))), text) for name, labels, text in rows}
    assert said == {metric.name: (metric.labels, metric.help) for metric in METRICS}
    assert set(re.findall(r"\bswmld_[a-z_]+\b", README)) <= set(said)


def test_the_unit_starts_what_there_is() -> None:
    command = re.search(r"^ExecStart=\S+/swmld (.*)$", UNIT, re.MULTILINE)
    assert command is not None
    assert set(re.findall(r"--[a-z-]+", command[1])) <= EVERY_OPTION
    assert "Type=notify" in UNIT
    assert command[1].endswith(f"--config {configuring.DEFAULT}")
    assert f"swmld config init {configuring.DEFAULT}\n" in UNIT


def test_the_doctor_and_the_default_agree_on_the_free_floor(tmp_path: Path) -> None:
    floor = Settings(mount=Path("/m")).free_floor
    assert (floor.of(100 << 30), floor.of(1 << 40)) == (5 << 30, 10 << 30)
    assert "--free-floor" in disk(tmp_path).how


def test_the_makefile_says_what_it_does() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"(?:`|^    )make ([a-z]+)\b", README, re.MULTILINE))
    assert {"run", "setup", "test"} <= named <= targets


def test_the_daemon_set_starts_this_swmld() -> None:
    pod = yaml.safe_load(DAEMON_SET)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    given = dict(arg.split("=", 1) for arg in container["args"])
    assert set(given) <= EVERY_OPTION
    settings = load(None, {name[2:].replace("-", "_"): value for name, value in given.items()})
    mounts = {each["mountPath"]: each for each in container["volumeMounts"]}
    assert mounts[str(settings.mount.parent)]["mountPropagation"] == "Bidirectional"
    assert {str(settings.cache_dir), str(settings.state_dir)} <= set(mounts)
    assert {each["name"] for each in mounts.values()} == {each["name"] for each in pod["volumes"]}
    (port,) = container["ports"]
    assert settings.metrics_address.endswith(f":{port['containerPort']}")
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["path"].split("?")[0] in README
