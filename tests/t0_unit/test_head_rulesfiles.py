"""Which files are the rules, in which order, and what is said of those that cannot be read."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from swmld.documents import DocumentError
from swmld.head import rulesfiles
from swmld.head.rulesfiles import Files, find, read
from swmld.rules.ruleset import RulesError

RULE = "rules:\n  - {id: NAME, conditions: [size > 1], actions: [{type: cache}]}\n"
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, text: str = RULE.replace("NAME", "r")) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def names(paths: list[Path], base: Path) -> list[str]:
    return [str(path.relative_to(base)) for path in paths]


def test_a_directory_is_read_by_name_and_its_layers_in_theirs(write: Write, tmp_path: Path) -> None:
    for name in (
        "custom/a.yaml", "custom/default/z.yaml", "custom/b/a.yml", "default/a.json", "environments/a.yaml",
        "frameworks/b.yaml", "frameworks/a.yaml", "more/a.yaml", "z.YAML", "a.yaml",
        # None of these is a file of rules.
        "README.md", "a.yaml~", ".#a.yaml", ".git/a.yaml", "..data/a.yaml", "yaml",
    ):  # fmt: skip
        write(name)
    assert names(find([tmp_path]), tmp_path) == [
        "default/a.json", "frameworks/a.yaml", "frameworks/b.yaml", "environments/a.yaml",
        "a.yaml", "more/a.yaml", "z.YAML",
        "custom/a.yaml", "custom/b/a.yml", "custom/default/z.yaml",
    ]  # fmt: skip


def test_paths_come_as_given_and_a_file_given_twice_counts_late(write: Write, tmp_path: Path) -> None:
    b, a, odd = write("d/b.yaml"), write("d/a.yaml"), write("rules.conf")
    assert find([odd, b, tmp_path / "d"]) == [odd, a, b]
    assert find([tmp_path / "d", a]) == [b, a]
    assert find([]) == []


def test_symbolic_links_are_followed_but_not_in_circles(write: Write, tmp_path: Path) -> None:
    write("there/a.yaml")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "there")
    (tmp_path / "there" / "back").symlink_to(tmp_path / "here")
    assert names(find([tmp_path / "here"]), tmp_path) == ["here/link/a.yaml"]


def test_the_later_definition_counts(write: Write, tmp_path: Path) -> None:
    write("default/a.yaml", RULE.replace("NAME", "one"))
    write("custom/a.yaml", RULE.replace("NAME", "one").replace("size > 1", "size > 2"))
    rules = read([tmp_path])
    assert [(rule.id, rule.where) for rule in rules.rules] == [("one", f"{tmp_path}/custom/a.yaml:2")]
    assert len(rules.notes) == 1


def test_an_environment_is_chosen(write: Write) -> None:
    path = write("a.yaml", RULE.replace("NAME", "r") + "environments: {test: {rules: [r]}}\n")
    assert [rule.title for rule in read([path]).rules] == []
    assert [rule.title for rule in read([path], "test").rules] == ["r (environment test)"]
    with pytest.raises(RulesError, match=r"^environment: unknown environment 'tst'; did you mean test\?$"):
        read([path], "tst")


def test_every_problem_of_every_path_is_told(write: Write, tmp_path: Path) -> None:
    bad = write("d/bad.yaml", "rules: 1\nrulez: 2\n")
    (tmp_path / "d" / "gone.yaml").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    missing = tmp_path / "missing.yaml"
    with pytest.raises(RulesError) as caught:
        read([missing, tmp_path / "d", tmp_path / "pipe", bad / "x"])
    assert str(caught.value).splitlines() == [
        f"{missing}: No such file or directory",
        f"{tmp_path}/d/gone.yaml: No such file or directory",
        f"{tmp_path}/pipe: expected a file or a directory",
        f"{bad}/x: Not a directory",
        f"{bad}:1:8: rules: expected a list, got '1'",
        f"{bad}:2:1: rulez: unknown section; did you mean rules?",
    ]
    assert caught.value.exit_code == 2
    with pytest.raises(DocumentError, match="No such file"):
        find([missing])


def test_unreadable_files_are_told(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("a.yaml")

    def refuse(self: Path, *args: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(RulesError, match=rf"^{path}: Permission denied$"):
        read([path])


def test_what_is_too_much_is_refused_unread(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("big.yaml")
    os.truncate(path, 100 << 20)
    other = write("small.yaml")
    with pytest.raises(
        RulesError, match=r"big.yaml: expected at most 16MiB in all files of rules, got 100MiB$"
    ):
        read([path, other])
    monkeypatch.setattr(rulesfiles, "MOST_FILES", 5)
    for number in range(6):
        write(f"many/{number}.yaml")
    with pytest.raises(RulesError, match=f"^{tmp_path}/many: expected at most 5 files of rules$"):
        read([tmp_path / "many"])


def test_no_depth_is_too_much(tmp_path: Path) -> None:
    path = tmp_path
    for _ in range(rulesfiles.DEEPEST + 1):
        path = path / "d"
    path.mkdir(parents=True)
    with pytest.raises(DocumentError, match=r"/d: nested too deeply$"):
        find([tmp_path])


def test_the_state_tells_every_change(write: Write, tmp_path: Path) -> None:
    path = write("d/a.yaml")
    seen = [Files([tmp_path / "d"]).state]

    def changed() -> bool:
        seen.append(Files([tmp_path / "d"]).state)
        return seen[-1] != seen[-2]

    assert not changed()
    path.write_text("rules: []\n# longer than it was before\n" * 9)
    assert changed()
    os.replace(write("new", path.read_text()), path)
    assert changed()
    write("d/e/b.yaml")
    assert changed()
    path.unlink()
    assert changed()
    write("d/note.txt")
    assert not changed()


def test_changes_matter_where_the_files_are_or_will_be(write: Write, tmp_path: Path) -> None:
    file = write("d/e/a.yaml")
    assert list(Files([file]).directories) == [tmp_path / "d" / "e"]
    assert list(Files([tmp_path / "d"]).directories) == [tmp_path, tmp_path / "d", tmp_path / "d" / "e"]
    assert list(Files([tmp_path / "x" / "y" / "a.yaml"]).directories) == [tmp_path]


def test_looking_for_files_imports_no_rules() -> None:
    code = "import sys, swmld.head.rulesfiles; print([m for m in sys.modules if m.startswith('swmld.rules')])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"
