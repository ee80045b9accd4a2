"""``swmld rules ls``, ``history`` and ``explain``: answers of a daemon as an operator reads them."""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from swmld.api.messages import BroughtBytes, HistoryEntry, RulesResult, RuleView, WaitingTime
from swmld.cli import explain, history, rules_list
from swmld.cli.main import run

NOW = 1_700_000_000.0
ODD_NAME = os.fsdecode(b"a\xff\n[red]b")
BROUGHT: BroughtBytes = {
    "asked": 8 << 20, "fetched": 6 << 20, "used": 4 << 20, "late": 1 << 20, "wasted": 512 << 10
}  # fmt: skip
NOTHING: BroughtBytes = {"asked": 0, "fetched": 0, "used": 0, "late": 0, "wasted": 0}
WAITING: WaitingTime = {
    "seconds": 2.0, "bytes": 300 << 20, "reads": 600, "compared_seconds": 1.0, "compared_bytes": 250 << 20,
    "before_seconds": 250.0, "basis": "dataset",
}  # fmt: skip
RULE: RuleView = {
    "id": "images", "title": "images", "name": "Images", "where": "/r.yaml:2", "priority": 5,
    "specificity": 3, "threshold": 0.6, "cool_down": 60.0, "guard": "framework equals pytorch",
    "conditions": ["extension in [.jpg, .png]", "size less_than 1MiB (weight 0.5)"],
    "actions": ["prefetch file (next_files 8)"], "applied": 1234567, "won": 3, "last": NOW,
    "brought": BROUGHT, "waiting": WAITING, "compressed": {"bytes": 8 << 20, "stored": 3 << 20},
}  # fmt: skip
UNUSED: RuleView = {
    **RULE, "id": "all", "title": "all (template t)", "priority": -10, "applied": 0, "won": 0, "last": 0.0,
    "cool_down": 0.0, "guard": "", "brought": NOTHING, "waiting": None,
    "compressed": {"bytes": 0, "stored": 0},
}  # fmt: skip
RULES: RulesResult = {
    "paths": ["/r.yaml"], "environment": None, "active": 3, "rules": [RULE, UNUSED], "left_out": 0,
    "inactive": [{"title": "off", "why": "disabled"}],
    "notes": ["one is replaced"], "decisions": 4321, "loaded_at": NOW, "reloads": 1, "errors": 1,
    "error": "/r.yaml:1:8: rules: expected a list\n/r.yaml:2:1: rulez: unknown", "error_at": NOW,
}  # fmt: skip
ENTRY: HistoryEntry = {
    "id": 7, "at": NOW, "path": "train/a.png", "pid": 42, "job": 40, "dataset": "train",
    "rules": ["images", "all"], "resting": ["late"],
    "decisions": [
        {
            "action": "prefetch", "target": "file", "rules": ["images", "all"], "dropped": "",
            "settled": [{"parameter": "next_files", "value": 8, "shown": "8", "rule": "images"}],
            "overruled": [
                {"parameter": "next_files", "value": 2, "shown": "2", "rule": "all", "by": "images"}
            ],
        },
        {"action": "compress", "target": "file", "rules": ["all"], "dropped": "the file is not cached",
         "settled": [], "overruled": []},
    ],
    "brought": BROUGHT, "waiting": {**WAITING, "before_seconds": None, "basis": ""},
    "compressed": {"bytes": 4 << 20, "stored": 1 << 20},
}  # fmt: skip
EXPLAINED = {
    "path": "train/a.png",
    "known": {"size": "100B", "name": "a.png"},
    "lines": ["images: matched, 100% of the weight is true",
              "  100% true: size less_than 1MiB (it is 100B)", "", "Decided:",
              "  prefetch file (asked for by images)", "    next_files = 8, by images"],
    "matched": 1, "active": 3, "latest": ENTRY,
}  # fmt: skip

Swmld = Callable[..., tuple[int, str, str]]


class FakeDaemon:
    """Stands for the one daemon that runs, at /mnt/ml."""

    mount = "/mnt/ml"

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.parts: dict[str, list[Any]] = {}
        self.picked: list[tuple[str | None, str | None]] = []
        self.answers: dict[str, Any] = copy.deepcopy(
            {
                "rules": RULES,
                "history": {"decisions": [ENTRY], "total": 9, "more": True},
                "explain": EXPLAINED,
            }
        )

    def connect(self) -> FakeDaemon:
        return self

    def __enter__(self) -> FakeDaemon:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(self, method: str, params: dict[str, Any]) -> Any:
        self.asked.append((method, params))
        if method in self.parts:
            return self.parts[method].pop(0)
        return self.answers[method]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeDaemon:
    one = FakeDaemon()

    def pick(run_dir: Path, mount: str | None, path: str | None = None) -> FakeDaemon:
        one.picked.append((mount, path))
        return one

    for module in ("history", "explain", "rules"):
        monkeypatch.setattr(f"swmld.cli.{module}.pick", pick)
    monkeypatch.setattr(time, "localtime", lambda at=NOW: time.gmtime(at))
    return one


@pytest.fixture
def swmld_(capsys: pytest.CaptureFixture[str]) -> Swmld:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = run([*arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_rules_ls(fake: FakeDaemon, swmld_: Swmld) -> None:
    code, out, err = swmld_("rules", "ls")
    assert (code, err) == (0, "")
    assert out == (
        "RULE              PRIORITY  APPLIED  WON  LAST      ASKED  USED  LATE  WASTED  "
        "BEFORE  AFTER    WHERE\n"
        "images                   5  1234567    3  22:13:20  8MiB   50%   12%   6%      "
        "1s/MiB  4ms/MiB  /r.yaml:2\n"
        "all (template t)       -10        0    0  -         0B     -     -     -       "
        "-       -        /r.yaml:2\n"
        "not in use: off: disabled\n"
        "note: one is replaced\n"
        "changed at 22:13:20 and not in use:\n"
        "  /r.yaml:1:8: rules: expected a list\n"
        "  /r.yaml:2:1: rulez: unknown\n"
        "3 rules, read 22:13:20; 4,321 decisions so far\n"
    )
    assert fake.asked == [("rules", {})]
    assert json.loads(swmld_("rules", "ls", "--json")[1]) == RULES


def test_many_rules_are_asked_for_in_parts(fake: FakeDaemon, swmld_: Swmld) -> None:
    fake.parts["rules"] = [
        {**RULES, "rules": [RULE, RULE], "left_out": 2},
        {**RULES, "rules": [UNUSED], "left_out": 1},
        {**RULES, "rules": [], "left_out": 0},
    ]
    found = json.loads(swmld_("rules", "ls", "--json")[1])
    assert [rule["id"] for rule in found["rules"]] == ["images", "images", "all"]
    assert [params for _, params in fake.asked] == [{}, {"offset": 2}, {"offset": 3}]


def test_rules_ls_of_one_says_it_in_full(fake: FakeDaemon, swmld_: Swmld) -> None:
    fake.answers["rules"]["rules"] = [RULE]
    code, out, _ = swmld_("rules", "ls", "images")
    assert (code, fake.asked) == (0, [("rules", {"rule": "images"})])
    assert out == (
        "images: Images (/r.yaml:2)\n"
        "  priority 5, specificity 3, 60% of the weight needed, rests 1m\n"
        "  must hold: framework equals pytorch\n"
        "  if extension in [.jpg, .png]\n"
        "  if size less_than 1MiB (weight 0.5)\n"
        "  -> prefetch file (next_files 8)\n"
        "  applied 1,234,567 times, gave 3 values, last 22:13:20\n"
        "  fetched ahead: 6MiB of 8MiB, 4MiB used so far, 1MiB late, 512KiB wasted\n"
        "  compressed: 8MiB to 3MiB\n"
        "  waited: 2s for 300MiB: 4ms/MiB, 1s/MiB before\n"
    )


def test_rules_ls_where_there_are_none(fake: FakeDaemon, swmld_: Swmld) -> None:
    fake.answers["rules"] |= {"paths": [], "rules": []}
    assert swmld_("rules", "ls") == (2, "", f"swmld: {rules_list.NONE}\n")
    fake.answers["rules"] |= {"paths": ["/r"]}
    assert swmld_("rules", "ls")[1].startswith("no rule is in use\n")


def test_history(fake: FakeDaemon, swmld_: Swmld) -> None:
    code, out, err = swmld_("history", "--limit", "1")
    assert (code, err) == (0, "the latest 1; --limit N shows more\n")
    assert out == (
        "7  22:13:20  pid 42  train/a.png\n"
        "    prefetch file: next_files 8 (images); not next_files 2 (all), because of images\n"
        "    compress file (all); dropped: the file is not cached\n"
        "    in their cool-down: late\n"
        "    fetched ahead: 6MiB of 8MiB, 4MiB used so far, 1MiB late, 512KiB wasted\n"
        "    compressed: 4MiB to 1MiB\n"
        "    waited: 2s for 300MiB: 6.7ms/MiB, before is not known\n"
    )
    assert fake.asked == [("history", {"limit": 1})]
    fake.answers["history"]["more"] = False
    assert json.loads(swmld_("history", "--json")[1]) == ENTRY
    assert fake.asked[1] == ("history", {"limit": 20})


def test_history_is_asked_for_with_filters(fake: FakeDaemon, swmld_: Swmld) -> None:
    swmld_(
        "history",
        "--path",
        "/mnt/ml/train/*.tar",
        "--rule",
        "r",
        "--action",
        "cache",
        "--pid",
        "3",
        "--job",
        "2",
        "--dataset",
        "/mnt/ml/train",
        "--limit",
        "5",
    )
    assert fake.picked == [(None, "/mnt/ml/train/*.tar")]
    assert fake.asked[0][1] == {
        "path": "/mnt/ml/train/*.tar", "rule": "r", "action": "cache", "pid": 3, "job": 2,
        "dataset": "/mnt/ml/train", "limit": 5,
    }  # fmt: skip


def test_history_in_sums(fake: FakeDaemon, swmld_: Swmld) -> None:
    sums = [
        {"key": "train", "decisions": 1200, "last": NOW, "brought": BROUGHT, "waiting": WAITING},
        {"key": "", "decisions": 3, "last": NOW, "brought": NOTHING, "waiting": None},
    ]
    fake.answers["history"] = {"sums": sums, "decisions": [], "total": 9, "more": True}
    code, out, err = swmld_("history", "--by", "dataset", "--limit", "2")
    assert (code, err) == (0, "the first 2; --limit N shows more\n")
    assert out == (
        "DATASET  DECISIONS  LAST      ASKED  USED  LATE  WASTED  BEFORE  AFTER\n"
        "train         1200  22:13:20  8MiB   50%   12%   6%      1s/MiB  4ms/MiB\n"
        ".                3  22:13:20  0B     -     -     -       -       -\n"
    )
    assert fake.asked == [("history", {"by": "dataset", "limit": 2})]
    out = swmld_("history", "--by", "dataset", "--json")[1]
    assert [json.loads(line) for line in out.splitlines()] == sums
    fake.answers["history"] |= {"sums": [], "more": False}
    assert swmld_("history", "--by", "rule", "--rule", "images") == (0, "", "no such decision\n")


def test_a_long_history_is_asked_for_in_parts(fake: FakeDaemon, swmld_: Swmld) -> None:
    numbers = iter(range(5000, 0, -1))
    fake.parts["history"] = [
        {"decisions": [{**ENTRY, "id": next(numbers)} for _ in range(count)], "total": 5000, "more": more}
        for count, more in ((1000, True), (1000, True), (100, True))
    ]
    code, out, err = swmld_("history", "--limit", "2100", "--json")
    assert (code, err) == (0, "")
    assert [json.loads(line)["id"] for line in out.splitlines()] == list(range(5000, 2900, -1))
    assert [params for _, params in fake.asked] == [
        {"limit": 1000}, {"limit": 1000, "before": 4001}, {"limit": 100, "before": 3001},
    ]  # fmt: skip


def test_history_of_nothing(fake: FakeDaemon, swmld_: Swmld) -> None:
    fake.answers["history"] = {"decisions": [], "total": 0, "more": False}
    assert swmld_("history") == (0, "", "nothing was decided yet\n")
    fake.answers["history"]["total"] = 5
    assert swmld_("history", "--rule", "images") == (0, "", "no such decision\n")
    assert swmld_("history", "--json") == (0, "", "")


def test_odd_names_are_safe_to_print(fake: FakeDaemon, swmld_: Swmld) -> None:
    fake.answers["history"]["decisions"][0]["path"] = ODD_NAME
    assert "a\\udcff\\n[red]b\n" in swmld_("history")[1]
    fake.answers["explain"]["lines"] = [f"x {ODD_NAME}"]
    assert "x a\\udcff\\n[red]b\n" in swmld_("explain", "/mnt/ml/a")[1]


def test_explain(fake: FakeDaemon, swmld_: Swmld) -> None:
    code, out, err = swmld_("explain", "/mnt/ml/train/a.png")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[:6] == EXPLAINED["lines"]
    assert lines[6:9] == ["", "1 of 3 rules match; --all shows why the others do not.", ""]
    assert lines[9:11] == ["When it was last opened:", "7  22:13:20  pid 42  train/a.png"]
    assert (fake.picked, fake.asked) == (
        [(None, "/mnt/ml/train/a.png")], [("explain", {"path": "/mnt/ml/train/a.png", "all": False})],
    )  # fmt: skip
    assert json.loads(swmld_("explain", "/mnt/ml/x", "--json")[1]) == EXPLAINED


def test_explain_more_or_less(fake: FakeDaemon, swmld_: Swmld) -> None:
    fake.answers["explain"]["latest"] = None
    out = swmld_("explain", "x", "--all", "--known")[1]
    assert [line.rstrip() for line in out.splitlines()[:3]] == ["name  a.png", "size  100B", ""]
    assert out.endswith("\n1 of 3 rules match.\n")
    out = swmld_("explain", "x", "--rule", "images")[1]
    assert "rules match" not in out
    assert [params for _, params in fake.asked] == [
        {"path": "x", "all": True}, {"path": "x", "all": False, "rule": "images"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("images: matched, 50%", "images"),
        ("images: not matched, 50%", "images"),
        ("Decided:", "Decided"),
        ("  66.7% true: size", " true: "),
        ("    false: not", " false: "),
        ("  33.3% not known: size (not known)", " not known: "),
        ("    by default: next_files = 0", "    by default: next_files = 0"),
        ("    next_files = 8, by images", ""),
        ("    overruled: a = b of c", "    overruled: a = b of c"),
    ],
)
def test_what_an_explanation_says_is_made_visible(line: str, seen: str) -> None:
    text = explain.styled(line)
    assert text.plain == line
    assert [line[span.start : span.end].strip() for span in text.spans] == ([seen.strip()] if seen else [])


def test_a_moment_has_its_day_if_that_is_not_today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "localtime", lambda at=NOW: time.gmtime(at))
    assert history.when(NOW - 3600) == "21:13:20"
    assert history.when(NOW - 86400) == "2023-11-13 22:13:20"


def test_a_terminal_gets_colours_and_a_pipe_does_not() -> None:
    console = Console(force_terminal=True, color_system="standard", highlight=False, width=200)
    with console.capture() as captured:
        for line in history.entry_lines(ENTRY):
            console.print(line)
    assert "\x1b[36mprefetch\x1b[0m" in captured.get()


def test_the_commands_find_the_daemon_as_others_do(swmld_: Swmld, tmp_path: Path) -> None:
    for words in (["rules", "ls"], ["history"], ["explain", "x"]):
        code, _, err = swmld_(*words, "--run-dir", str(tmp_path))
        assert (code, err) == (2, "swmld: no swmld daemon runs here; start one with: swmld --mount DIR\n")
