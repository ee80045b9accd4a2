"""``swmld plugin``: what it prints, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from swmld.api import plugins as api
from swmld.cli import plugin, plugin_text
from swmld.cli.main import run
from swmld.errors import UsageError
from swmld.plugins.known import Plugins
from swmld.plugins.registry import Found, Loaded
from swmld.rules import loading

EXAMPLE = Path(__file__).parents[2] / "configs" / "plugins" / "example.py"


@pytest.fixture(autouse=True)
def _nothing_provided() -> Iterator[None]:
    yield
    loading.provide(())


def check(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = run(["plugin", "check", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def changed(directory: Path, old: str, new: str) -> Path:
    """The example, with one thing changed."""
    text = EXAMPLE.read_text()
    assert text.count(old) == 1
    path = directory / "mine.py"
    path.write_text(text.replace(old, new))
    path.chmod(0o644)
    return path


def test_the_example_passes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sample = tmp_path / "a.records"
    sample.write_bytes(b"RECORDS1" + bytes(8) + (24).to_bytes(8, "little"))
    code, out, err = check(capsys, EXAMPLE, sample)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "records (.records)"
    assert [line[:7] for line in lines[1:]] == ["  ok   "] * 6
    assert lines[-1] == "  ok   rules and templates: load"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("return 0.6", "return 6.0", "  FAIL detect: detect('a.records', no head): expected a number"),
        ('("/librecords[.]so",)', '("/libc[.]so",)', "  FAIL libraries: libraries: '/libc[.]so' is found in"),
        ("type: prefetch", "type: prefech", "  FAIL rules and templates: plugin records:7:14: type: unknown"),
        ('return "records"', 'return "onnx"', "  FAIL rules and templates: another plugin has this name"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, old: str, new: str, said: str
) -> None:
    code, out, err = check(capsys, changed(tmp_path, old, new))
    assert (code, err) == (1, "")
    assert next(line for line in out.splitlines() if "FAIL" in line).startswith(said)


def test_what_cannot_be_loaded(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = changed(tmp_path, "api = API", "api = 7")
    said = f"swmld: {path}: Records is written for interface 7, expected api = 1\n"
    assert check(capsys, path) == (2, "", said)
    path.write_text("import sys\nsys.exit(5)\n")
    assert check(capsys, path) == (2, "", f"swmld: {path}: raised SystemExit: 5 (line 2 of mine.py)\n")
    path.chmod(0o666)
    said = f"swmld: {path}: it is writable by group or others (mode 0666)\n"
    assert check(capsys, path) == (2, "", said)
    assert check(capsys, tmp_path / "none.py")[0] == 2
    code, out, err = check(capsys, EXAMPLE, tmp_path / "none")
    assert (code, out, err) == (2, "", f"swmld: {tmp_path}/none: No such file or directory\n")


# ---- ls


def result() -> api.PluginsResult:
    found = Found(
        [
            Loaded("records", None, "/etc/swmld/plugins/records.py", extensions=(".records", ".rec")),  # type: ignore[arg-type]
            Loaded("other", None, "shipped"),  # type: ignore[arg-type]
        ],
        ["/etc/swmld/plugins/x.py: it is a symbolic link"],
    )
    plugins = Plugins(found)
    plugins._guards[1].disable("hints took longer than 2 s")
    return api.result(plugins)


def test_the_list() -> None:
    assert [line.plain for line in plugin_text.listing(result())] == [
        "PLUGIN   API  CALLS  STATE     ORIGIN                         FILES",
        "records    1      0  in use    /etc/swmld/plugins/records.py  .records .rec",
        "other      1      0  disabled  shipped                        any",
        "disabled: other: hints took longer than 2 s",
        "not loaded: /etc/swmld/plugins/x.py: it is a symbolic link",
    ]
    with pytest.raises(UsageError, match="--no-plugins"):
        list(plugin_text.listing(api.result(None)))


def test_what_is_counted() -> None:
    plugins = Plugins(Found([Loaded("a", None, "x"), Loaded("b", None, "x")], ["c: wrong"]))  # type: ignore[arg-type]
    plugins._guards[0].disable("why")
    assert api.states(plugins) == {"in use": 1, "disabled": 1, "refused": 1}
    assert api.calls(plugins) == {"a": 0, "b": 0}
    assert (api.states(None), api.calls(None)) == ({}, {})


class Daemon:
    """A daemon that answers."""

    def connect(self) -> Daemon:
        return self

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(self, method: str, params: dict[str, Any]) -> api.PluginsResult:
        assert (method, params) == ("plugins", {})
        return result()


def test_ls_asks_the_daemon(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "pick", lambda run_dir, mount: Daemon())
    assert run(["plugin", "ls"]) == 0
    assert "records    1" in capsys.readouterr().out
    assert run(["plugin", "ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == result()
