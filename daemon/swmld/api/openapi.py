"""What ``/openapi.json`` says: every path, its parameters and its answers, as OpenAPI 3.1.

Schemas are made of the types that the answers are made of, so neither can change alone. Imported when
somebody asks for it.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from swmld import __version__
from swmld.api.messages import (
    Health,
    HealthParams,
    HistoryParams,
    HistoryResult,
    PatternsParams,
    PatternsResult,
    RulesParams,
    RulesResult,
)
from swmld.patterns.views import JobView

_REF = "#/components/schemas/{model}"
_JSON = "application/json"
_TEXT = {"schema": {"type": "string"}}
_PROMETHEUS = {"text/plain": _TEXT, "application/openmetrics-text": _TEXT}


class Problem(TypedDict):
    """An error (RFC 9457). ``detail``: one line, what was expected."""

    type: str
    title: str
    status: int
    detail: str


class FindingView(TypedDict):
    """``confidence``: 0 to 1; ``evidence``: a sentence."""

    kind: str
    confidence: float
    evidence: str


@dataclass(frozen=True, slots=True)
class Described:
    """A path. ``params`` and ``result``: TypedDicts; None: no parameters, no JSON of ours."""

    summary: str
    params: type | None = None
    result: type | None = None
    unavailable: str = "The answer could not be made in time."


PATHS = {
    "/metrics": Described("What the daemon has counted, for Prometheus."),
    "/ml/metrics": Described("The same as /metrics."),
    "/ml/patterns": Described(
        "Who reads what, in which pattern: jobs, datasets and files, the busiest first.",
        PatternsParams, PatternsResult,
    ),
    "/ml/rules": Described(
        "The rules in use, by rank, and what came of each.", RulesParams, RulesResult,
    ),
    "/ml/history": Described(
        "What was decided when files were opened, newest first.", HistoryParams, HistoryResult,
    ),
    "/healthz": Described(
        "Whether the mount serves; with ready=1, whether all that is read can be had.", HealthParams, Health,
        unavailable="It does not.",
    ),
    "/openapi.json": Described("This document."),
}  # fmt: skip


def document() -> dict[str, Any]:
    """The whole document; 0.2 s. Blocking."""
    schemas = _schemas()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "swmld",
            "version": __version__,
            "description": "Metrics, patterns, rules, decisions and health of one mount. Read-only.",
        },
        "paths": {path: {"get": _operation(path, one, schemas)} for path, one in PATHS.items()},
        "components": {"schemas": schemas},
    }


def _schemas() -> dict[str, Any]:
    types = {one.result for one in PATHS.values() if one.result} | {Problem, FindingView, JobView}
    types |= {one.params for one in PATHS.values() if one.params}
    _, found = TypeAdapter.json_schemas(
        [(each.__name__, "serialization", TypeAdapter(each)) for each in sorted(types, key=_name)],
        ref_template=_REF,
    )
    schemas: dict[str, Any] = found["$defs"]
    # ``as_json`` writes a finding as an object, not as the tuple that it is.
    schemas["Finding"] = schemas.pop("FindingView") | {"title": "Finding"}
    schemas["PatternsResult"]["properties"]["jobs"]["items"] = {"$ref": _REF.format(model="JobView")}
    return schemas


def _name(each: type) -> str:
    return each.__name__


def _operation(path: str, one: Described, schemas: dict[str, Any]) -> dict[str, Any]:
    parameters = []
    if one.params is not None:
        for name, schema in schemas.pop(one.params.__name__)["properties"].items():
            parameters.append({"name": name, "in": "query", "required": False, "schema": schema})
    if one.result is not None:
        content = {_JSON: {"schema": {"$ref": _REF.format(model=one.result.__name__)}}}
    elif path == "/openapi.json":
        content = {_JSON: {"schema": {"type": "object"}}}
    else:
        content = _PROMETHEUS
    responses: dict[str, Any] = {
        "200": {"description": one.summary, "content": content},
        "421": _problem("The Host is not one of this endpoint's."),
        "503": _problem(one.unavailable),
    }
    if one.params is not None:
        responses["400"] = _problem("A parameter is not known or has no such value.")
    if path == "/healthz":
        responses["503"]["content"] |= content
    found: dict[str, Any] = {
        "summary": one.summary,
        "operationId": path.strip("/").replace("/", "_").replace(".", "_"),
        "responses": responses,
    }
    if one.params is not None:
        found |= {"parameters": parameters, "description": inspect.getdoc(one.params)}
    return found


def _problem(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/problem+json": {"schema": {"$ref": _REF.format(model="Problem")}}},
    }
