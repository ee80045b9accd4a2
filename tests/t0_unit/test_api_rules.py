"""``rules``, ``history`` and ``explain``: what clients are told of the rules in a running daemon."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from swmld.api import http
from swmld.api import rules_views as api
from swmld.api.messages import METHODS, encode
from swmld.api.metrics import Snapshot, values
from swmld.api.rules import RulesApi, Wanted, below
from swmld.documents import parse
from swmld.errors import UsageError
from swmld.head.history import History
from swmld.head.reload import Loaded
from swmld.head.waiting import Key, Place
from swmld.patterns.feed import Cursor
from swmld.rules.conditions import Facts
from swmld.rules.decide import Engine
from swmld.rules.facts import of_path
from swmld.rules.loading import load
from swmld.rules.ruleset import RuleSet

RULES = """\
rules:
  - id: images
    name: Images
    priority: 5
    conditions:
      - {type: file_context, property: extension, operator: in, value: [.png, .jpg], weight: 1}
      - {expression: size < 1MiB, weight: 0.5}
    threshold: 60%
    actions:
      - {type: prefetch, parameters: {next_files: 8, window: 2MiB}}
      - {type: notify, parameters: {event: seen}}
  - id: all
    conditions: []
    cool_down: 60s
    actions:
      - {type: prefetch, parameters: {next_files: 2}}
      - {type: compress}
  - {id: secret, conditions: [path glob "secret/*"], actions: [{type: exclude}]}
  - {id: off, enabled: no, conditions: [], actions: [{type: exclude}]}
"""


def ruleset(text: str = RULES) -> RuleSet:
    document = parse("r.yaml", text.encode())
    return load([document])


@dataclass
class FakeHead:
    """What the API asks of ``Head``, with rules from text and a clock that counts decisions."""

    rules: RuleSet
    engine: Engine
    history: History

    def decide(self, path: str, pid: int = 7, job: int = 0, dataset: str | None = None, **facts: Any) -> int:
        outcome = self.engine.decide({**of_path(path), **facts})
        return self.history.add(path, pid, outcome, job=job, dataset=dataset).id


@dataclass
class FakeTold:
    events: dict[str, int]
    notifications: dict[tuple[str, str], int]


@pytest.fixture
def head() -> FakeHead:
    rules = ruleset()
    now = iter(range(1000, 9999))
    return FakeHead(rules, Engine(rules.rules), History(lambda: float(next(now))))


async def known(path: str) -> Facts:
    if path == "gone":
        raise FileNotFoundError(2, "No such file or directory")
    return {**of_path(path), "size": 100, "xattr.user.note": "x"}


def answering(head: FakeHead | None) -> RulesApi:
    loaded = Loaded((Path("/r.yaml"),), "test", at=500.0, seen=(), errors=2, error="one\ntwo", error_at=600.0)
    told = FakeTold({"seen": 3}, {("command", "done"): 4})
    return RulesApi(head, loaded if head is not None else None, told, mount=Path("/mnt/ml"), known=known)


async def ask(api: RulesApi, method: str, **params: Any) -> Any:
    async def progress(message: Mapping[str, Any]) -> None:
        raise AssertionError("no progress is expected")

    found = await api.handlers()[method](params, progress)
    json.loads(encode({"result": found}))  # it can be sent
    return found


def test_the_methods_are_known() -> None:
    assert set(answering(None).handlers()) <= set(METHODS)


@pytest.mark.trio
async def test_rules_are_listed_by_rank_with_what_came_of_them(head: FakeHead) -> None:
    number = head.decide("a.png")
    head.history.brought(number, asked=30, fetched=20, used=10, late=3, wasted=2)
    found = await ask(answering(head), "rules")
    assert [rule["id"] for rule in found["rules"]] == ["images", "secret", "all"]
    assert found["rules"][0] == {
        "id": "images", "title": "images", "name": "Images", "where": "r.yaml:2", "priority": 5,
        "specificity": 3, "threshold": 0.6, "cool_down": 0.0, "guard": "",
        "conditions": ["extension in [.jpg, .png]", "size less_than 1MiB (weight 0.5)"],
        "actions": ["prefetch file (next_files 8, window 2MiB)", "notify file (event seen)"],
        "applied": 1, "won": 3, "last": 1000.0,
        "brought": {"asked": 30, "fetched": 20, "used": 10, "late": 3, "wasted": 2}, "waiting": None,
        "compressed": {"bytes": 0, "stored": 0},
    }  # fmt: skip
    assert found["rules"][1]["applied"] == found["rules"][1]["last"] == 0
    assert found["inactive"] == [{"title": "off", "why": "disabled"}]
    assert (found["active"], found["left_out"], found["decisions"]) == (3, 0, 1)
    assert (found["paths"], found["environment"], found["loaded_at"]) == (["/r.yaml"], "test", 500.0)
    assert (found["errors"], found["error"], found["error_at"]) == (2, "one\ntwo", 600.0)


@pytest.mark.trio
async def test_some_rules(head: FakeHead) -> None:
    answers = answering(head)
    found = await ask(answers, "rules", limit=1)
    assert ([rule["id"] for rule in found["rules"]], found["left_out"], found["active"]) == (["images"], 2, 3)
    found = await ask(answers, "rules", offset=1, limit=1)
    assert ([rule["id"] for rule in found["rules"]], found["left_out"]) == (["secret"], 1)
    assert (await ask(answers, "rules", offset=3))["rules"] == []
    found = await ask(answers, "rules", rule="all")
    assert ([rule["id"] for rule in found["rules"]], found["left_out"], found["active"]) == (["all"], 0, 3)
    with pytest.raises(UsageError, match=r"^no active rule off; "):
        await ask(answers, "rules", rule="off")
    with pytest.raises(UsageError, match=r"^limit: expected a number from 1 to 1000, got 0$"):
        await ask(answers, "rules", limit=0)


@pytest.mark.trio
async def test_history_is_newest_first_and_says_who_decided_what(head: FakeHead) -> None:
    head.decide("secret/a.png", pid=3)
    number = head.decide("a/b.png", pid=4, job=3, dataset="")
    head.history.brought(number, used=5)
    found = await ask(answering(head), "history")
    assert [entry["path"] for entry in found["decisions"]] == ["a/b.png", "secret/a.png"]
    assert (found["total"], found["more"]) == (2, False)
    newest, older = found["decisions"]
    assert (newest["id"], newest["at"], newest["pid"]) == (2, 1001.0, 4)
    assert (newest["rules"], newest["resting"]) == (["images", "all"], [])
    assert (newest["job"], newest["dataset"], older["dataset"]) == (3, "", "secret")
    assert newest["brought"] == {"asked": 0, "fetched": 0, "used": 5, "late": 0, "wasted": 0}
    assert newest["decisions"][0] == {
        "action": "prefetch", "target": "file", "rules": ["images", "all"], "dropped": "",
        "settled": [
            {"parameter": "next_files", "value": 8, "shown": "8", "rule": "images"},
            {"parameter": "window", "value": 2 << 20, "shown": "2MiB", "rule": "images"},
        ],
        "overruled": [{"parameter": "next_files", "value": 2, "shown": "2", "rule": "all", "by": "images"}],
    }  # fmt: skip
    assert [(one["action"], one["dropped"]) for one in older["decisions"]] == [
        ("notify", ""), ("cache", ""), ("prefetch", "the file is not cached"),
        ("compress", "the file is not cached"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("params", "ids"),
    [
        ({}, [5, 4, 3, 2, 1]),
        ({"path": "a"}, [3, 2, 1]),
        ({"path": "/mnt/ml/a/"}, [3, 2, 1]),
        ({"path": "/mnt/ml"}, [5, 4, 3, 2, 1]),
        ({"path": "a/1.png"}, [3, 1]),
        ({"path": "*.txt"}, [5, 2]),
        ({"rule": "images"}, [3, 1]),
        ({"rule": "secret"}, [4]),
        ({"action": "cache"}, [4]),
        ({"action": "exclude"}, [4]),
        ({"pid": 9}, [3]),
        ({"since": 3}, [5, 4]),
        ({"before": 3}, [2, 1]),
        ({"limit": 2}, [5, 4]),
        ({"path": "a", "since": 1, "limit": 1}, [3]),
        ({"path": "b"}, []),
        ({"job": 5}, [3]),
        ({"job": 9}, []),
        ({"dataset": "a"}, [2, 1]),
        ({"dataset": "b"}, [3]),
        ({"dataset": "/mnt/ml"}, [5, 4, 3, 2, 1]),
        ({"dataset": "b/c/d"}, []),
    ],
)
@pytest.mark.trio
async def test_history_is_filtered(head: FakeHead, params: dict[str, Any], ids: list[int]) -> None:
    head.decide("a/1.png")
    head.decide("a/2.txt")
    head.decide("a/1.png", 9, job=5, dataset="b/c")
    head.decide("secret/x")
    head.decide("z.txt")
    found = await ask(answering(head), "history", **params)
    assert [entry["id"] for entry in found["decisions"]] == ids
    assert found["more"] == ("limit" in params)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"path": "/etc"}, "/etc: expected a path under /mnt/ml"),
        ({"path": 7}, "path: expected text"),
        ({"action": "cach"}, "action: unknown action 'cach'; did you mean cache?"),
        ({"pid": "7"}, "pid: expected a number from 0 to 2147483648, got '7'"),
        ({"limit": True}, "limit: expected a number from 1 to 1000, got True"),
        ({"by": "files"}, "by: expected rule, action, job, dataset or file, got 'files'"),
    ],
)
def test_what_is_asked_for_wrongly_is_told(params: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        Wanted.of(params, "/mnt/ml")
    assert str(caught.value) == said


@pytest.mark.trio
async def test_history_in_sums(head: FakeHead) -> None:
    first = head.decide("a/1.png", job=5)
    second = head.decide("a/2.png", job=6)
    third = head.decide("secret/x", job=5)
    head.history.brought(first, asked=30, fetched=20, used=10)
    head.history.brought(second, asked=40, late=40)
    head.history.brought(third, used=1)
    answers = answering(head)

    async def sums(by: str, **filters: Any) -> dict[str, tuple[int, int, int, int]]:
        found = await ask(answers, "history", by=by, **filters)
        assert (found["decisions"], found["total"]) == ([], 3)
        assert found["more"] == ("limit" in filters)
        return {
            one["key"]: (one["decisions"], *(one["brought"][each] for each in ("asked", "used", "late")))
            for one in found["sums"]
        }

    both = (2, 70, 10, 40)
    assert await sums("job") == {"6": (1, 40, 0, 40), "5": (2, 30, 11, 0)}
    assert await sums("dataset") == {"a": both, "secret": (1, 0, 1, 0)}
    # What is excluded is not fetched: its bytes are nobody's.
    assert await sums("rule") == {"all": (3, 70, 10, 40), "images": both, "secret": (1, 0, 0, 0)}
    assert await sums("action") == {
        "prefetch": both, "compress": (2, 0, 0, 0), "notify": (2, 0, 0, 0), "cache": (1, 0, 0, 0)
    }  # fmt: skip
    assert await sums("file") == {
        "a/2.png": (1, 40, 0, 40), "a/1.png": (1, 30, 10, 0), "secret/x": (1, 0, 1, 0)
    }  # fmt: skip
    assert await sums("job", path="a", limit=1) == {"6": (1, 40, 0, 40)}
    assert await sums("job", dataset="secret") == {"5": (1, 0, 1, 0)}
    none = await ask(answering(None), "history", by="rule")
    assert none == {"sums": [], "decisions": [], "total": 0, "more": False}


def test_a_mount_at_the_root_holds_every_path() -> None:
    assert below("", "/a/b") == "a/b"
    assert below("", "/") == below("/m", "/m") == below("/m", ".") == ""
    assert below("/m", "./a//b/../c/") == below("/m", "/m/a/c") == "a/c"
    for path in ("/mx", "../x", "/"):
        with pytest.raises(UsageError):
            below("/m", path)


@pytest.mark.trio
async def test_explain_says_what_matches_and_what_was_decided(head: FakeHead) -> None:
    head.decide("a.png", pid=3)
    head.decide("b.png")
    found = await ask(answering(head), "explain", path="/mnt/ml/a.png")
    assert found["path"] == "a.png"
    assert (found["known"]["size"], found["known"]["xattr.user.note"]) == ("100B", "x")
    assert (found["matched"], found["active"]) == (2, 3)
    heads = [line.partition(":")[0] for line in found["lines"] if line and not line.startswith(" ")]
    assert heads == ["images", "all", "Decided"]
    assert "  66.7% true: extension in [.jpg, .png] (it is .png)" in found["lines"]
    assert "    next_files = 8, by images" in found["lines"]
    assert (found["latest"]["id"], found["latest"]["pid"]) == (1, 3)
    assert (await ask(answering(head), "explain", path="c.png"))["latest"] is None


@pytest.mark.trio
async def test_explain_says_why_a_rule_does_not_match(head: FakeHead) -> None:
    lines = (await ask(answering(head), "explain", path="a.png", all=True))["lines"]
    assert [line[:19] for line in lines if line.startswith("secret")] == ["secret: not matched"]
    lines = (await ask(answering(head), "explain", path="a.png", rule="secret"))["lines"]
    assert lines[1] == "  100% false: path glob secret/* (it is a.png)"
    assert not [line for line in lines if line.startswith(("Decided", "images"))]


@pytest.mark.trio
async def test_explain_of_what_is_not_there(head: FakeHead) -> None:
    for params, said in (
        ({"path": "gone"}, "gone: No such file or directory"),
        ({"path": "/etc/passwd"}, "/etc/passwd: expected a path under /mnt/ml"),
        ({}, "path: expected text"),
        ({"path": "a", "rule": "b"}, "no active rule b; swmld rules ls lists them"),
    ):
        with pytest.raises(UsageError) as caught:
            await ask(answering(head), "explain", **params)
        assert str(caught.value) == said
    with pytest.raises(UsageError, match=r"^no rules are in use"):
        await ask(answering(None), "explain", path="a")


@pytest.mark.trio
async def test_without_rules() -> None:
    answers = answering(None)
    assert answers.status() is answers.figures() is None
    assert (await ask(answers, "rules"))["rules"] == []
    assert await ask(answers, "history") == {"decisions": [], "total": 0, "more": False}


def test_figures_and_status(head: FakeHead, monkeypatch: pytest.MonkeyPatch) -> None:
    head.history.brought(head.decide("a.png"), asked=9, fetched=5, late=4, wasted=2)
    head.decide("secret/b")
    answers = answering(head)
    outcomes = {"asked": 9, "fetched": 5, "used": 0, "late": 4, "wasted": 2}
    assert answers.status() == {
        "ruled": True, "active": 3, "loaded_at": 500.0, "error": "one\ntwo", "error_at": 600.0, "pending": []
    }  # fmt: skip
    found = values(Snapshot(rules=answers.figures()))
    assert found == {
        "rules": 3,
        "rule_decisions_total": 2,
        "rule_applied_total": {"images": 1, "secret": 1, "all": 2},
        "rule_prefetch_bytes_total": {
            f"{rule},{outcome}": number for rule in ("images", "all") for outcome, number in outcomes.items()
        },
        "rules_reload_errors_total": 2,
        "events_total": {"seen": 3},
        "notifications_total": {"command,done": 4},
    }
    monkeypatch.setattr(api, "NAMED", 1)
    figures = answers.figures()
    assert figures is not None
    assert figures.applied == {"images": 1, api.OTHERS: 3}
    expected = {(rule, at): number for rule in ("images", api.OTHERS) for at, number in outcomes.items()}
    assert figures.brought == expected


def counted(wait: float) -> Cursor:
    """Of a stream of 16 reads and 1 MiB."""
    fields = dict.fromkeys(Cursor._fields, 0) | {"early": ()}
    return Cursor(**fields | {"reads": 16, "pages": 256, "wait": wait})


@pytest.mark.trio
async def test_waiting_before_and_after(head: FakeHead) -> None:
    """Two files that a rule acts on, and one before."""
    history, waiting = head.history, head.history.waiting
    history.acts(1, 5)
    first = head.decide("a/1.png", job=5, dataset="a")
    second = head.decide("a/2.png", job=5, dataset="a")
    for file, number in ((2, first), (3, second)):
        history.acts(file, 5, history.find(number))
    rows = [(9, 1, counted(8.0)), (9, 2, counted(1.0)), (9, 3, counted(2.0))]

    def place(pid: int, file: int) -> Place:
        return Place(Key(5, "a"), 0.0)

    waiting.take(rows, place, lambda pid: 5)
    waiting.settle([], 1.0, place, lambda pid: 5)
    answers = answering(head)
    images, _, every = (await ask(answers, "rules"))["rules"]
    assert images["waiting"] == every["waiting"] == {
        "seconds": 3.0, "bytes": 2 << 20, "reads": 32, "compared_seconds": 3.0, "compared_bytes": 2 << 20,
        "before_seconds": 16.0, "basis": "dataset",
    }  # fmt: skip
    one = {
        "seconds": 2.0, "bytes": 1 << 20, "reads": 16, "compared_seconds": 2.0, "compared_bytes": 1 << 20,
        "before_seconds": 8.0, "basis": "dataset",
    }  # fmt: skip
    newest = (await ask(answers, "history"))["decisions"]
    assert newest[0]["waiting"] == one
    assert (await ask(answers, "explain", path="a/2.png"))["latest"]["waiting"] == one
    for by, key in (("rule", "images"), ("action", "prefetch"), ("job", "5"), ("dataset", "a")):
        sums = (await ask(answers, "history", by=by))["sums"]
        found = next(each["waiting"] for each in sums if each["key"] == key)
        assert (found["seconds"], found["before_seconds"]) == (3.0, 16.0), by
    figures = answers.figures()
    assert figures is not None
    assert figures.waited == {"images": (3.0, 2 << 20), "all": (3.0, 2 << 20)}
    mib = 1 << 20
    assert figures.waiting == {
        (rule, when): seconds / mib
        for rule in ("images", "all")
        for when, seconds in (("before", 8.0), ("after", 1.5))
    }


async def get(address: str, target: str) -> tuple[str, Any]:
    host, _, port = address.rpartition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(f"GET {target} HTTP/1.0\r\n\r\n".encode())
        answer = b"".join([piece async for piece in stream])
    head, _, body = answer.partition(b"\r\n\r\n")
    status, found = head.split()[1].decode(), json.loads(body)
    return status, found if status == "200" else found["detail"]


@pytest.mark.trio
async def test_pages(head: FakeHead) -> None:
    head.decide("a.png")
    head.decide("b", pid=8)
    async with trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[str]) -> None:
            await http.serve(Snapshot, "127.0.0.1:0", pages=answering(head).pages(), task_status=task_status)

        address = await nursery.start(serve)
        status, rules = await get(address, "/ml/rules?rule=images&limit=5")
        assert (status, [rule["id"] for rule in rules["rules"]]) == ("200", ["images"])
        status, history = await get(address, "/ml/history?pid=8&path=%2A&action=prefetch&since=0&limit=9")
        assert (status, [entry["path"] for entry in history["decisions"]]) == ("200", ["b"])
        assert await get(address, "/ml/history?limt=1") == (
            "400", "limt: expected path, rule, action, pid, job, dataset, by, since, before or limit",
        )  # fmt: skip
        assert (await get(address, "/ml/rules?limit=x"))[0] == "400"
        assert await get(address, "/") == (
            "404", "expected /metrics, /ml/metrics, /ml/rules, /ml/history or /openapi.json",
        )  # fmt: skip
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_http_keeps_commands_and_urls_to_itself() -> None:
    text = """{rules: [{id: r, conditions: [], actions: [
        {type: notify, parameters: {event: e, command: run --token secret1, webhook: "http://h/secret2"}},
        {type: notify, parameters: {command: secret3}}]}]}"""
    rules = ruleset(text)
    head = FakeHead(rules, Engine(rules.rules), History(lambda: 0.0))
    head.decide("a")
    answers = answering(head)
    for method, path in (("rules", "/ml/rules"), ("history", "/ml/history")):
        page = (await answers.pages()[path]("")).decode()
        assert "secret" not in page
        assert page.count(api.HIDDEN) >= 3
        found = json.dumps(await ask(answers, method))
        assert all(f"secret{number}" in found for number in (1, 2, 3))


def test_no_rules_are_imported_where_there_are_none_and_no_server_before_it_is_asked() -> None:
    code = (
        "import sys, swmld.api.rules, swmld.api.http\n"
        "print([m for m in sys.modules if m.startswith(('swmld.rules', 'hypercorn', 'h11', 'h2'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"
