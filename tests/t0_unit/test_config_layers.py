"""A configuration in layers: which value counts, where it stands, and what a later file changes of an earlier
one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from swmld import documents
from swmld.cli import configuring
from swmld.config.load import ConfigError, check
from swmld.config.models import SECTIONS, Settings
from swmld.documents import DocumentError
from swmld.head import reload
from swmld.head.rulesfiles import read
from swmld.plugins import registry
from swmld.rules import document
from swmld.rules.decide import Engine
from swmld.rules.ruleset import Rule, RulesError, RuleSet

Write = Callable[[str, str], Path]
IMAGES = """\
rules:
  - id: images
    conditions: [size <= 1MiB]
    actions: [{type: prefetch, parameters: {next_files: "${n}"}}]
    parameters: {n: 8}
"""
GIB = 1 << 30


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def settled(config: Path | str | None, **options: Any) -> configuring.Resolved:
    given = str(config) if config is not None else None
    return configuring.settled(given, {"mount": "/m", **options})[0]


def rules(path: Path, environment: str | None = None) -> dict[str, Rule]:
    return {rule.id: rule for rule in read([path], environment).rules}


def wrong(path: Path, environment: str | None = None) -> list[str]:
    with pytest.raises(RulesError) as caught:
        read([path], environment)
    return [str(problem).removeprefix(f"{path}/") for problem in caught.value.problems]


def test_the_rules_know_every_key_of_the_daemon() -> None:
    assert set(Settings.model_fields) == document.DAEMON
    assert {*SECTIONS, "rules", "settings"} == set(document.SECTIONS)
    assert not document.DAEMON & set(document.SETTINGS)


# ---- the daemon's settings


def test_the_later_layer_wins_key_by_key(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("c/default/a.yaml", "cache_size: 1GiB\nchunk_size: 1MiB\nfetch_parallel: 8\nread_only: yes\n")
    write("c/frameworks/a.yaml", "settings: {chunk_size: 2MiB, fetch_parallel: 9}\n")
    write("c/environments/test.yaml", "settings:\n  fetch_parallel: 10\n  cache_size: 2GiB\n")
    write("c/custom/a.yaml", "cache_size: 3GiB\nlog_level: error\n")
    monkeypatch.setenv("SWMLD_LOG_LEVEL", "warning")
    monkeypatch.setenv("SWMLD_FETCH_TIMEOUT", "3s")
    monkeypatch.setenv("SWMLD_SOURCE", "")
    found = settled(tmp_path / "c", environment="test", fetch_timeout="4s")
    one = found.settings
    assert (one.cache_size, one.chunk_size, one.fetch_parallel) == (3 * GIB, 2 << 20, 10)
    assert (one.log_level, one.fetch_timeout, one.read_only, one.source) == ("warning", 4.0, True, None)
    assert one.rules == (tmp_path / "c",)
    origins = {key: place.removeprefix(f"{tmp_path}/c/") for key, place in found.origins.items()}
    assert {key: place for key, place in origins.items() if place != "default"} == {
        "mount": "command line --mount",
        "read_only": "default/a.yaml:4",
        "chunk_size": "frameworks/a.yaml:1",
        "fetch_parallel": "environments/test.yaml:2",
        "cache_size": "custom/a.yaml:1",
        "environment": "command line --environment",
        "log_level": "environment variable SWMLD_LOG_LEVEL",
        "fetch_timeout": "command line --fetch-timeout",
        "rules": str(tmp_path / "c"),
    }
    assert settled(tmp_path / "c").settings.fetch_parallel == 9


def test_an_environment_may_be_chosen_and_set_in_files(write: Write, tmp_path: Path) -> None:
    write(
        "c/default/a.yaml",
        "environment: test\nenvironments: {test: {cache_size: 2GiB}, other: {cache_size: 3GiB}}\n",
    )
    write("c/custom/a.yaml", "settings: {fetch_parallel: 4}\n")
    one = settled(tmp_path / "c").settings
    assert (one.environment, one.cache_size, one.fetch_parallel) == ("test", 2 * GIB, 4)
    other = settled(tmp_path / "c", environment="other")
    assert (other.settings.cache_size, other.origins["cache_size"]) == (
        3 * GIB,
        f"{tmp_path}/c/default/a.yaml:2",
    )


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("settings: {debug: true}\n", "debug"),
        ("settings: {debug: on, log_level: error}\n", "error"),
        ("log_level: error\nsettings: {debug: true}\n", "error"),
        ("settings: {debug: false}\n", "info"),
        ("environments: {e: {debug: yes}}\n", "debug"),
    ],
)
def test_debug_is_a_log_level(write: Write, text: str, level: str) -> None:
    assert settled(write("c.yaml", text + "environment: e\n" * ("{e:" in text))).settings.log_level == level


def test_a_file_has_settings_and_rules(write: Write, tmp_path: Path) -> None:
    path, more = write("c.yaml", "cache_size: 1GiB\n" + IMAGES), tmp_path / "more"
    one = settled(path, rules=[str(more)]).settings
    assert (one.cache_size, one.rules) == (GIB, (more, path)), "a file is on top of what is named beside it"
    assert list(rules(path)) == ["images"]
    plain = settled(write("plain.yaml", "cache_size: 1GiB\nrules: [/a]\n"))
    assert plain.settings.rules == (Path("/a"), tmp_path / "plain.yaml"), "watched with the rules it names"
    assert settled(write("alone.yaml", "cache_size: 1GiB\n")).settings.rules == ()
    (tmp_path / "d").mkdir()
    assert settled(tmp_path / "d", rules=["/a"]).settings.rules == (tmp_path / "d", Path("/a"))


def test_every_error_of_every_file_is_told(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("c/default/a.yaml", "cache_size: lots\nsettings: {chunk_size: 3MiB}\n")
    write("c/custom/a.yaml", "log_level: loud\nsettings: {log_level: info}\n")
    monkeypatch.setenv("SWMLD_CHECK", "sometimes")
    with pytest.raises(ConfigError) as caught:
        settled(tmp_path / "c", fetch_timeout="soon")
    assert [
        line.removeprefix(f"{tmp_path}/c/").split(": expected")[0] for line in str(caught.value).splitlines()
    ] == [
        "SWMLD_CHECK",
        "--fetch-timeout",
        "default/a.yaml:1:13: cache_size",
        "default/a.yaml:2:24: chunk_size",
        "custom/a.yaml:1:12: log_level",
        "custom/a.yaml:2:12: log_level: given twice, first in line 1",
    ]


def test_what_another_layer_hides_is_wrong_all_the_same(write: Write, tmp_path: Path) -> None:
    files = [
        write("a.yaml", "cache_size: lots\n"),
        write("b.yaml", "environments: {e: {chunk_size: 3MiB}}\n"),
    ]
    assert [f"{p.where}:{p.line}:{p.column} {p.key}" for p in check(map(documents.read, files))] == [
        f"{tmp_path}/a.yaml:1:13 cache_size",
        f"{tmp_path}/b.yaml:1:32 chunk_size",
    ]
    with pytest.raises(RulesError, match=r"a.yaml:1:13: cache_size: expected a size"):
        configuring.understood([*files, write("c.yaml", "cache_size: 1GiB\n")], None)


def test_the_host_is_asked_only_where_nothing_is_given(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configuring, "DEFAULT", tmp_path / "etc")
    write("etc/swmld.yaml", "cache_size: 1GiB\n")
    assert configuring.chosen(None, {}) is None, "a directory from before, without layers"
    write("etc/custom/a.yaml", "")
    assert configuring.chosen(None, {}) == tmp_path / "etc"
    assert configuring.chosen(None, {}, ruled=True) is None
    assert configuring.chosen("off", {}) is None
    assert configuring.chosen(None, {"SWMLD_CONFIG": "off"}) is None
    assert configuring.chosen(None, {"SWMLD_CONFIG": "/x"}) == Path("/x")
    assert configuring.chosen("/y", {"SWMLD_CONFIG": "/x"}) == Path("/y")


def test_no_daemon_of_the_tests_reads_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "custom").mkdir()
    (tmp_path / "custom" / "a.yaml").write_text("cache_size: 1GiB\n")
    monkeypatch.setattr(configuring, "DEFAULT", tmp_path)
    assert settled(None).origins["cache_size"] == "default"


# ---- rules


def test_a_key_alone_changes_that_key(write: Write, tmp_path: Path) -> None:
    low, mid, top = (
        write("c/default/a.yaml", IMAGES),
        write("c/environments/e.yaml", "rules: [{id: images, priority: 7}]\n"),
        write("c/custom/a.yaml", "rules:\n- {id: images, parameters: {n: 9}, name: Mine}\n"),
    )
    rule = rules(tmp_path / "c", "e")["images"]
    assert (rule.priority, rule.name, [str(action) for action in rule.actions]) == (
        7, "Mine", ["prefetch file (next_files 9)"])  # fmt: skip
    assert rule.where == f"{top}:2"
    assert read([tmp_path / "c"], "e").notes == (
        f"images of {low}:2 is changed by {mid}:1",
        f"images of {mid}:1 is changed by {top}:2",
    )
    assert rules(tmp_path / "c")["images"].priority == 0, "an environment that is not in use changes nothing"


def test_an_id_and_enabled_switch_off(write: Write, tmp_path: Path) -> None:
    write("c/default/a.yaml", IMAGES + "templates: [{id: t, rules: [adaptive_caching]}]\n")
    write("c/custom/a.yaml", "rules: [{id: images, enabled: false}]\ntemplates: [{id: t, enabled: no}]\n")
    found = read([tmp_path / "c"])
    assert found.rules == ()
    assert sorted(found.inactive) == [
        ("adaptive_caching (template t)", "template t is not in use"),
        ("images", "disabled"),
    ]


def test_what_is_whole_replaces(write: Write, tmp_path: Path) -> None:
    write("c/default/a.yaml", IMAGES.replace("id: images", "id: images\n    priority: 5"))
    write("c/custom/a.yaml", "rules: [{id: images, conditions: [], actions: [{type: exclude}]}]\n")
    rule = rules(tmp_path / "c")["images"]
    assert (rule.priority, [str(action) for action in rule.actions]) == (0, ["cache file (tier none)"])


def test_a_built_in_rule_is_changed_where_it_is_named(write: Write, tmp_path: Path) -> None:
    write("c/default/a.yaml", "templates: [{id: t, rules: [adaptive_caching]}]\n")
    write("c/custom/a.yaml", "rules: [{id: adaptive_caching, priority: 3}]\n")
    (rule,) = read([tmp_path / "c"]).rules
    assert (rule.title, rule.priority) == ("adaptive_caching (template t)", 3)
    (tmp_path / "c/custom/a.yaml").unlink()
    assert [rule.priority for rule in read([tmp_path / "c"]).rules] == [-10], "and only there"


def test_named_sections_change_key_by_key(write: Write, tmp_path: Path) -> None:
    profile = "hardware_profiles: {h: {conditions: [cpu_count > 1], optimizations: [adaptive_caching]}}\n"
    write("c/default/a.yaml", IMAGES + "frameworks: {pytorch: {rules: [images]}}\n" + profile)
    write(
        "c/custom/a.yaml",
        "frameworks: {pytorch: {enabled: false}}\nhardware_profiles: {h: {enabled: false}}\n",
    )
    assert sorted(title for title, _ in read([tmp_path / "c"]).inactive) == [
        "adaptive_caching (hardware profile h)",
        "images (framework pytorch)",
    ]


def test_condition_takes_the_place_of_conditions(write: Write, tmp_path: Path) -> None:
    write("c/default/a.yaml", IMAGES)
    write("c/custom/a.yaml", "rules: [{id: images, condition: size > 2MiB}]\n")
    assert [str(node) for _, node in rules(tmp_path / "c")["images"].conditions] == ["size greater_than 2MiB"]


def test_an_error_is_told_in_the_file_it_stands_in(write: Write, tmp_path: Path) -> None:
    write("c/default/a.yaml", IMAGES.replace("size <= 1MiB", "sise <= 1MiB"))
    write("c/default/b.yaml", "rules: [{id: images, cool_down: x}]\n")
    write("c/custom/a.yaml", "rules: [{id: images, priority: high}, {id: imagess, enabled: false}]\n")
    write("c/custom/b.yaml", "rulez: []\nsettings: {cash_size: 1GiB}\nenvironments: {e: {debugg: 1}}\n")
    assert wrong(tmp_path / "c") == [
        "default/a.yaml:3:18: conditions: unknown property 'sise'; did you mean size?",
        "default/b.yaml:1:33: cool_down: expected a time such as 500ms, 1s or 2min (0s to 86400s), got 'x'",
        "custom/a.yaml:1:32: priority: expected a whole number from -1000 to 1000, got 'high'",
        "custom/a.yaml:1:39: rules: actions: expected a value, got nothing",
        "custom/a.yaml:1:44: id: nothing before this has the id imagess; did you mean images?",
        "custom/b.yaml:1:1: rulez: unknown section; did you mean rules?",
        "custom/b.yaml:2:12: cash_size: unknown setting; did you mean cache_size?",
        "custom/b.yaml:3:20: debugg: unknown setting; did you mean debug?",
    ]


def test_a_file_of_an_environment_makes_it_one(write: Write, tmp_path: Path) -> None:
    write("c/environments/night.yaml", IMAGES)
    write("c/environments/day/a.yaml", IMAGES.replace("images", "others"))
    assert list(rules(tmp_path / "c")) == []
    assert list(rules(tmp_path / "c", "night")) == ["images"]
    assert list(rules(tmp_path / "c", "day")) == ["others"]
    assert wrong(tmp_path / "c", "nigth") == ["environment: unknown environment 'nigth'; did you mean night?"]


def test_all_environments_are_looked_through(write: Write, tmp_path: Path) -> None:
    write("c/environments/night.yaml", IMAGES.replace("size", "sise"))
    write("c/environments/day.yaml", "environments: {day: {rules: [images]}}\n" + IMAGES)
    assert rules(tmp_path / "c") == {}, "what is not in use names nothing"
    write("c/default/a.yaml", "environments: {noon: {rules: [imags]}}\n")
    with pytest.raises(DocumentError) as caught:
        configuring.understood([tmp_path / "c"], None)
    told = [str(problem).removeprefix(f"{tmp_path}/c/") for problem in caught.value.problems]
    assert [line.split(": ")[0] for line in told] == ["default/a.yaml:1:31", "environments/night.yaml:3:18"]


def test_what_plugins_bring_can_be_named(write: Write) -> None:
    brought = next(each for each in registry.find((), packages=False).plugins if each.rules)
    name = documents.parse("p", f"rules:\n{brought.rules}".encode(), max_depth=30).values["rules"][0]["id"]
    path = write("c.yaml", f"templates: [{{id: t, rules: [{name}]}}]\n")
    assert [rule.id for rule in configuring.understood([path], None).rules.rules] == [name]
    with pytest.raises(RulesError, match="unknown rule"):
        read([path])  # they were built in for that alone


# ---- live reload


class FakeHead:
    """The rules that are in use."""

    def __init__(self) -> None:
        self.rules: list[list[str]] = []

    def swap(self, rules: RuleSet, engine: Engine | None = None) -> list[object]:
        self.rules.append([rule.id for rule in rules.rules])
        return []

    def review(self) -> int:
        return 0


@pytest.mark.trio
@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("custom/a.yaml", "cache_size: lots\n", "custom/a.yaml:1:13: cache_size: expected a size"),
        ("custom/b.yaml", "rules: [{id: imagess, enabled: no}]\n", "did you mean images?"),
        (
            "environments/e.yaml",
            "settings: {chunk_size: 3MiB}\n",
            "environments/e.yaml:1:24: chunk_size: expected",
        ),
    ],
)
async def test_what_is_wrong_in_any_layer_keeps_the_old_rules(
    write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, text: str, said: str
) -> None:
    write("default/a.yaml", IMAGES)
    write("custom/a.yaml", "")
    _, loaded = reload.first([tmp_path], None, also=check)
    head = FakeHead()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(reload.watch, [tmp_path], None, head, loaded, every=0.05))
            path = write(name, text)
            while not loaded.error:  # noqa: ASYNC110
                await trio.sleep(0.01)
            assert said in loaded.error
            assert (loaded.errors, head.rules) == (1, [])
            assert "cannot be used, the old ones stay" in caplog.text
            path.write_text("rules: [{id: images, priority: 3}]\n")
            while not head.rules:  # noqa: ASYNC110
                await trio.sleep(0.01)
            assert (loaded.error, head.rules) == ("", [["images"]])
            nursery.cancel_scope.cancel()
