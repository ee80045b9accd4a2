"""Which plugins are found, which files are refused, and what is told of each."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from swmld import documents
from swmld.plugins import registry
from swmld.plugins.known import Plugins
from swmld.plugins.registry import Found, Refused, find
from swmld.rules import loading, plugged
from swmld.rules.ruleset import RulesError

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")

GOOD = """
from dataclasses import dataclass
from swmld.plugins.interface import *

@dataclass
class Mine:
    api: int = {api}
    libraries: tuple = {libraries}
    extensions: tuple = {extensions}
    chunk_size: int = {chunk_size}
    def framework_name(self): return {name!r}
    def detect(self, path, head): return 1.0
    def hints(self, context): return NONE
    def default_rules(self): return {rules!r}
    def default_templates(self): return ""
"""


def text(name: str = "mine", **changes: Any) -> str:
    values = {"api": 1, "libraries": (), "extensions": (".mine",), "chunk_size": 0, "rules": ""}
    return GOOD.format(name=name, **(values | changes))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "plugins"
    path.mkdir(mode=0o755)
    return path


def write(directory: Path, name: str, content: str = "", mode: int = 0o644) -> Path:
    path = directory / name
    path.write_text(content or text())
    path.chmod(mode)
    return path


def looked(directory: Path) -> Found:
    return find([directory], packages=False, shipped=())


def names(found: Found) -> list[str]:
    return [each.name for each in found.plugins]


def test_files_of_a_directory(directory: Path) -> None:
    write(directory, "b.py")
    write(directory, "a.py", text("first", libraries=("/liba[.]so",), rules="- id: x"))
    for other in ("c.txt", "_d.py", ".e.py"):
        write(directory, other, "raise SystemExit")
    found = looked(directory)
    assert (names(found), found.problems) == (["first", "mine"], [])
    first = found.plugins[0]
    assert (first.origin, first.libraries, first.extensions, first.rules) == (
        str(directory / "a.py"), ("/liba[.]so",), (".mine",), "- id: x",
    )  # fmt: skip


BROKEN = {
    "raises.py": ("1 / 0", "raised ZeroDivisionError: division by zero (line 1 of raises.py)"),
    "leaves.py": ("import sys\nsys.exit(3)", "raised SystemExit: 3 (line 2 of leaves.py)"),
    "syntax.py": ("x = (", "line 1: '(' was never closed"),
    "nul.py": ("x = '\0'", "null bytes"),
    "none.py": ("x = 5", "it defines no class with a method framework_name"),
    "old.py": (text("o", api=2), "Mine is written for interface 2, expected api = 1"),
    "boolean.py": (text("o", api=True), "Mine is written for interface True, expected api = 1"),
    "name.py": (text("Not Lower"), "Mine.framework_name(): expected a name in lower case, got 'Not Lower'"),
    "words.py": (text("w", libraries="'abc'"), "Mine.libraries: expected a sequence of texts, got 'abc'"),
    "many.py": (text("w", extensions="('.a',) * 999"), "Mine.extensions: expected at most 256, got 999"),
    "regex.py": (text("r", libraries=("(",)), "Mine.libraries: '(': missing ): ("),
    "dot.py": (text("d", extensions=("mine",)), "Mine.extensions: expected .name in lower case, got 'mine'"),
    "chunk.py": (text("c", chunk_size=3 << 20), "Mine.chunk_size: expected a power of two, 64KiB to 64MiB"),
    "every.py": (text("e", chunk_size=1 << 20, extensions=()), "Mine.chunk_size: expected extensions"),
    "yaml.py": (text("y", rules=5), "Mine.default_rules(): expected YAML text of at most"),
    "lacks.py": (text("l").replace("hints", "hint"), "Mine has no method hints"),
    "needs.py": (
        text("n").replace("api: int = 1", "api: int"),
        "raised TypeError: Mine.__init__() missing 1 required positional argument: 'api'",
    ),
    "same.py": (text("good"), "good is the name of another plugin already"),
}


def test_what_cannot_be_used_is_told_and_the_others_go_on(directory: Path) -> None:
    write(directory, "aa.py", text("good"))
    write(directory, "zz.py", text("last"))
    for name, (content, _) in BROKEN.items():
        write(directory, name, content)
    found = looked(directory)
    assert names(found) == ["good", "last"]
    told = {line.partition(": ")[0]: line.partition(": ")[2] for line in found.problems}
    assert set(told) == {str(directory / name) for name in BROKEN}
    for name, (_, said) in BROKEN.items():
        assert said in told[str(directory / name)], name
    assert not any("\n" in line for line in found.problems)


def test_an_import_that_hangs(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "LOAD_SECONDS", 0.05)
    write(directory, "a.py", "while True: pass")
    begun = time.monotonic()
    assert looked(directory).problems == [f"{directory}/a.py: took longer than 0.05 s"]
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_files_that_others_can_write(directory: Path, mode: int) -> None:
    path = write(directory, "a.py", "raise SystemExit", mode)
    assert looked(directory).problems == [f"{path}: it is writable by group or others (mode 0{mode:o})"]


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_a_directory_that_others_can_write(directory: Path, mode: int) -> None:
    path = write(directory, "a.py", "raise SystemExit")
    directory.chmod(mode)
    said = f"the directory is writable by group or others (mode {mode:04o})"
    assert looked(directory).problems == [f"{directory}: {said}"]
    with pytest.raises(Refused, match="its directory is writable"):
        registry.source(path)


@ROOT
def test_files_and_directories_of_others(directory: Path) -> None:
    path = write(directory, "a.py", "raise SystemExit")
    os.chown(path, 4242, 0)
    assert looked(directory).problems == [f"{path}: it belongs to user 4242, expected root"]
    os.chown(path, 0, 4242)
    os.chown(directory, 4242, 0)
    assert looked(directory).problems == [f"{directory}: the directory belongs to user 4242, expected root"]


def test_links_pipes_and_directories(directory: Path, tmp_path: Path) -> None:
    real = write(tmp_path, "real.py")
    (directory / "a.py").symlink_to(real)
    os.mkfifo(directory / "b.py", 0o644)
    (directory / "c.py").mkdir()
    (directory / "d.py").symlink_to("nowhere")
    link, regular = "it is a symbolic link", "it is not a regular file"
    assert looked(directory).problems == [
        f"{directory}/{name}: {why}"
        for name, why in {"a.py": link, "b.py": regular, "c.py": regular, "d.py": link}.items()
    ]


def test_a_file_that_is_too_large(directory: Path) -> None:
    path = write(directory, "a.py")
    os.truncate(path, registry.MOST_BYTES + 1)
    assert looked(directory).problems == [f"{path}: expected at most {registry.MOST_BYTES} bytes"]


def test_directories_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert looked(tmp_path / "none").problems == [f"{tmp_path}/none: no such directory"]
    monkeypatch.setattr(registry, "DIRECTORY", tmp_path / "none")
    assert looked(tmp_path / "none").problems == []
    (tmp_path / "file").touch()
    assert looked(tmp_path / "file").problems == [f"{tmp_path}/file: Not a directory"]


class Entry:
    """An entry point of some package."""

    def __init__(self, name: str, value: object) -> None:
        self.name = name
        self._value = value

    def load(self) -> object:
        if isinstance(self._value, Exception):
            raise self._value
        return self._value


def kind(directory: Path, name: str) -> type:
    (found,) = registry.classes(write(directory, f"{name}.py", text(name)))
    return found


def test_entry_points_and_the_order(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        Entry("b", ImportError("no numpy")),
        Entry("a", kind(tmp_path, "packaged")),
        Entry("c", "no class"),
    ]
    asked: list[str] = []

    def entry_points(*, group: str) -> list[Entry]:
        asked.append(group)
        return entries

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    write(directory, "a.py")
    write(directory, "b.py", text("pytorch"))
    found = find([directory], shipped=["swmld.plugins.pytorch:PyTorch", "swmld.plugins.nowhere:X"])
    assert names(found) == ["mine", "packaged", "pytorch"], "what users have comes first"
    assert [each.origin for each in found.plugins[1:]] == ["entry point a", "shipped"]
    assert [line for line in found.problems if not line.startswith("entry point b: raised ImportError")] == [
        "shipped: raised ModuleNotFoundError: No module named 'swmld.plugins.nowhere'",
        "entry point c: expected a class, got 'no class'",
        f"{directory}/b.py: pytorch is the name of another plugin already (shipped)",
    ]
    assert asked == ["swmld.plugins"]


# ---- their rules


@pytest.fixture(autouse=True)
def _nothing_provided() -> Iterator[None]:
    yield
    loading.provide(())


RULE = """
- id: {0}
  conditions: [{{type: file_context, property: file_framework, value: mine}}]
  actions: [{{type: prefetch, parameters: {{header: "${{size}}"}}}}]
  parameters: {{size: 1MiB}}
"""


def test_rules_of_plugins_act_where_they_are_named() -> None:
    brought = plugged.Brought("mine", RULE.format("mine_head"), "- {id: mine_all, rules: [mine_head]}")
    assert plugged.provide([brought]) == {}

    def titles(text: str) -> list[str]:
        return [rule.title for rule in loading.load([documents.parse("u.yaml", text.encode())]).rules]

    assert titles("") == []
    assert titles("frameworks: {mine: {rules: [mine_head]}}") == ["mine_head (framework mine)"]
    assert titles("frameworks: {mine: {templates: [mine_all]}}") == [
        "mine_head (template mine_all, framework mine)"
    ]
    assert plugged.provide([]) == {}
    with pytest.raises(RulesError, match="unknown rule"):
        titles("frameworks: {mine: {rules: [mine_head]}}")


@pytest.mark.parametrize(
    ("rules", "templates", "said"),
    [
        ("- id: x", "", "plugin bad"),
        (
            RULE.format("a").replace("prefetch", "prefech"),
            "",
            "plugin bad:4:20: type: unknown action 'prefech'",
        ),
        (RULE.format("adaptive_caching"), "", "adaptive_caching: the name of another of the rules already"),
        (RULE.format("a"), "- {id: t, rules: [b]}", "plugin bad (templates)"),
        ("rules: []\nsettings: {}", "", "settings: expected rules or templates alone"),
        ("just text", "", "plugin bad"),
        ("- [", "", "not YAML"),
        (RULE.format("good"), "", "good: the name of another of the rules already"),
    ],
)
def test_rules_that_are_wrong_refuse_their_plugin(rules: str, templates: str, said: str) -> None:
    good, after = (
        plugged.Brought("good", RULE.format("good"), ""),
        plugged.Brought("after", RULE.format("c"), ""),
    )
    wrong = plugged.provide([good, plugged.Brought("bad", rules, templates), after])
    assert list(wrong) == ["bad"]
    assert said in wrong["bad"]
    assert [each.name for each in loading.built_in()[-2:]] == ["plugin good", "plugin after"]


def test_a_plugin_with_wrong_rules_is_not_loaded(directory: Path) -> None:
    write(directory, "a.py", text("a", rules="- id: x"))
    write(directory, "b.py", text("b"))
    found = plugged.vetted(looked(directory))
    assert names(found) == ["b"]
    (problem,) = found.problems
    assert problem.startswith(f"{directory}/a.py: a: plugin a:")


def test_chunks_of_files_that_plugins_know_by_their_names(directory: Path) -> None:
    write(directory, "a.py", text("coarse", chunk_size=1 << 20, extensions=(".mine", ".tar.mine")))
    write(directory, "b.py", text("fine", chunk_size=1 << 16, extensions=(".fine", ".tar.mine")))
    write(directory, "c.py", text("usual"))
    plugins = Plugins(looked(directory))
    found = [plugins.chunk_size(f"d/x{end}") for end in (".mine", ".FINE", ".tar.mine", ".other", "")]
    assert found == [1 << 20, 1 << 16, 1 << 16, 0, 0]
