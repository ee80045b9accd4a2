"""``/openapi.json``: it is valid, names what there is, and real answers are as it says, to the last key."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from support.traces import FakeFeed, dataset, job, snapshot, stream
from swmld.api import openapi
from swmld.api.asgi import Application, problem
from swmld.api.messages import Health
from swmld.api.metrics import Snapshot
from swmld.api.params import from_query
from swmld.api.patterns import PatternsApi
from swmld.errors import UsageError
from swmld.head.history import History
from swmld.patterns.views import UNKNOWN, JobView, as_json
from swmld.rules.decide import Engine
from test_api_health import state
from test_api_http import ask
from test_api_rules import FakeHead, answering, ruleset

README = (Path(__file__).parents[2] / "README.md").read_text()
SECTION = README[README.index("## HTTP\n") : README.index("## Logs\n")]


@cache
def document() -> dict[str, Any]:
    return openapi.document()


def strict(schema: Any) -> Any:
    """The same, without leave for keys that it does not name."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    return found | {"additionalProperties": False} if "properties" in schema else found


def problems(answer: Any, response: Mapping[str, Any], kind: str = "application/json") -> list[str]:
    """What in ``answer`` is not as the document says of this response."""
    schema = {**response["content"][kind]["schema"], "components": document()["components"]}
    return [error.message for error in Draft202012Validator(strict(schema)).iter_errors(answer)]


def responses(path: str) -> Any:
    return document()["paths"][path]["get"]["responses"]


def application() -> Application:
    rules = ruleset()
    head = FakeHead(rules, Engine(rules.rules), History(lambda: 1.0))
    head.decide("a.png", size=100)
    head.decide("b")
    feed = FakeFeed()
    feed.found = snapshot(job(datasets=[dataset()], streams=[stream()]))

    async def patterns(query: str) -> bytes:
        return PatternsApi(feed, lambda: 0.0).page(query)

    async def health() -> Health:
        return state()

    return Application(Snapshot, {"/ml/patterns": patterns, **answering(head).pages()}, health, "127.0.0.1")


def test_it_is_valid() -> None:
    validate(document())
    json.dumps(document()).encode("ascii")


def test_every_path_is_described_and_the_reverse() -> None:
    assert set(document()["paths"]) == set(application()._routes) == set(openapi.PATHS)


@pytest.mark.trio
@pytest.mark.parametrize("path", ["/ml/patterns", "/ml/rules", "/ml/history", "/healthz", "/openapi.json"])
async def test_answers_are_as_described(path: str) -> None:
    status, body = await ask(application(), path)
    answer = json.loads(body)
    assert status == 200
    assert problems(answer, responses(path)["200"]) == []
    if path != "/openapi.json":
        assert problems({**answer, "more": 1, "another": 1}, responses(path)["200"])
        answer.popitem()
        assert problems(answer, responses(path)["200"])


@pytest.mark.trio
async def test_errors_are_as_described() -> None:
    for path in ("/ml/patterns", "/ml/rules", "/ml/history", "/healthz"):
        status, body = await ask(application(), path, query=b"x=1")
        kind = "application/problem+json"
        assert problems(json.loads(body), responses(path)[str(status)], kind) == []
    status, body = await ask(application(), "/metrics", host="x")
    assert problems(json.loads(body), responses("/metrics")[str(status)], kind) == []


def test_a_job_as_the_patterns_make_it_is_as_described() -> None:
    schema = {"$ref": "#/components/schemas/JobView", "components": document()["components"]}
    texts = {"comm": "python", "command": "python train.py", "container": "", "phase": UNKNOWN}
    numbers = dict.fromkeys(set(JobView.__dataclass_fields__) - set(texts), 0)
    made: Any = (
        numbers
        | texts
        | {"pids": (1, 2), "ended": False, "estimated": False, "batch": None, "histogram": (0, 1)}
    )
    view = as_json(JobView(**made | {"datasets": (), "streams": ()}))
    assert list(Draft202012Validator(strict(copy.deepcopy(schema))).iter_errors(view)) == []
    assert view["phase"] == {"kind": "unknown", "confidence": 0.0, "evidence": UNKNOWN.evidence}


@pytest.mark.parametrize("path", [path for path, one in openapi.PATHS.items() if one.params])
def test_parameters_are_those_that_are_taken(path: str) -> None:
    form = openapi.PATHS[path].params
    assert form is not None
    described = {one["name"]: one["schema"]["type"] for one in document()["paths"][path]["get"]["parameters"]}
    for name, kind in described.items():
        assert from_query(f"{name}=1", form) == {name: 1 if kind == "integer" else "1"}
    with pytest.raises(UsageError, match=r"^other: expected "):
        from_query("other=1", form)


# --- the README


def test_every_path_is_in_the_readme_and_the_reverse() -> None:
    rows = dict(re.findall(r"^\| `(/[a-z./]+)` \| (.*) \|$", SECTION, re.MULTILINE))
    assert set(rows) == set(openapi.PATHS)
    for path, one in openapi.PATHS.items():
        if one.params is not None:
            named = set(one.params.__annotations__)
            assert named <= set(re.findall(r"`([a-z]+)(?:=1)?`", rows[path])), path


def test_the_answers_of_the_readme_are_as_described() -> None:
    shown = re.findall(
        r"^    # curl -s '?http://127\.0\.0\.1:9617(/[^'?\s]*)\S*\n((?:    .*\n)+)", SECTION, re.M
    )
    assert [path for path, _ in shown] == ["/healthz", "/ml/history", "/ml/history"]
    for path, text in shown:
        answer = json.loads(text)
        if "detail" in answer:
            wanted = problem_of(answer)
            assert wanted == answer
            assert problems(answer, responses(path)[str(answer["status"])], "application/problem+json") == []
        else:
            assert problems(answer, responses(path)["200"]) == []


def problem_of(answer: Mapping[str, Any]) -> Any:
    """The one that the query of the example makes."""
    with pytest.raises(UsageError) as caught:
        from_query("limt=1", openapi.PATHS["/ml/history"].params or dict)
    return json.loads(problem(HTTPStatus(answer["status"]), str(caught.value)).body)
