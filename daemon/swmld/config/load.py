"""Settings from layers: defaults, files, environment variables, the command line; the later one wins, key by
key.

Every error is one line, ``FILE:LINE:COLUMN: key: what was expected`` (``--key: …`` for the command line,
``SWMLD_KEY: …`` for a variable), and all of them are told at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from swmld import documents
from swmld.config import layers
from swmld.config.layers import Layer, option_name
from swmld.config.models import PathRule, Settings
from swmld.documents import Document, DocumentError, Problem, hint

# Raised by pydantic for a default that needs another, refused value: that one is told already.
_FOLLOW_UP = frozenset({"default_factory_not_called"})


class ConfigError(DocumentError):
    """Settings that cannot work. ``problems`` has every one of them; ``str`` is one line each."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """``origins``: of each key, where its value comes from: ``FILE:LINE``, an option, a variable, or
    ``default``."""

    settings: Settings
    origins: Mapping[str, str]


def load(path: Path | None, options: Mapping[str, Any]) -> Settings:
    """The settings of ``path`` (None: no file) with ``options`` on top; an option that is None was not given.

    Raises ConfigError with every problem, UsageError if the file cannot be read.
    """
    found = [] if path is None else [documents.read(path)]
    return resolve([layers.of_document(each) for each in found], options).settings


def resolve(files: Sequence[Layer], options: Mapping[str, Any], variables: Mapping[str, str] | None = None,
            more: Mapping[str, Any] | None = None) -> Resolved:  # fmt: skip
    """The settings that layers of files, the later on top, give with ``variables`` (of the process's
    environment) and ``options`` over them. ``more`` replaces values without being an origin of them.

    Raises ConfigError with every problem.
    """
    every = [*files, layers.of_variables(variables or {}), layers.of_options(options)]
    owners = {key: layer for layer in every for key in layer.values}
    given = {key: layer.values[key] for key, layer in owners.items()}
    problems = [problem for layer in files if layer.document for problem in layer.document.problems]
    broken = [layer for layer in files if layer.document and layer.document.problems and not layer.values]
    try:
        settings = Settings.model_validate(given | dict(more or {}))
    except ValidationError as error:
        found = [item for item in error.errors() if item["type"] not in _FOLLOW_UP]
        if not broken:  # what a file that cannot be read would have said is not missing
            problems += [_problem(owners, item) for item in found]
        raise ConfigError(_sorted(files, problems)) from None
    if problems:
        raise ConfigError(_sorted(files, problems))
    origins = {key: owners[key].origin(key) if key in owners else "default" for key in Settings.model_fields}
    return Resolved(settings, origins)


def check(found: Iterable[Document]) -> list[Problem]:
    """What is wrong with the daemon's settings in each of the documents by itself, environments included:
    values, not whether they go together, which other files have a say in. What is no key at all is told
    where the rules in the document are read."""
    problems: list[Problem] = []
    for document in found:
        if document.problems and not document.values:
            continue  # told by whoever read it
        environments = document.values.get("environments")
        names = [None, *(environments if isinstance(environments, dict) else ())]
        for name in names:
            layer = layers.of_document(document, name)
            try:
                Settings.model_validate({"mount": "/", **layer.values})
            except ValidationError as error:
                wrong = [item for item in error.errors() if item["type"] not in _FOLLOW_UP and item["loc"]]
                wrong = [i for i in wrong if i["type"] != "extra_forbidden" or len(i["loc"]) > 1]
                problems += [_problem(dict.fromkeys(layer.values, layer), item) for item in wrong]
    return list(dict.fromkeys(problems))


def said(found: Iterable[Document], environment: str | None) -> dict[str, Any]:
    """What documents say of the daemon, with an environment in use: keys and values as they are written.

    An empty list says nothing: ``rules: []`` is a file without rules as well as one that names no paths.
    """
    return {
        key: value
        for each in found
        for key, value in layers.of_document(each, environment).values.items()
        if value != []
    }


def _sorted(files: Sequence[Layer], problems: Iterable[Problem]) -> list[Problem]:
    order = {layer.document.name: number for number, layer in enumerate(files) if layer.document}
    return sorted(dict.fromkeys(problems), key=lambda one: (order.get(one.where, -1), one.line, one.column))


def _problem(owners: Mapping[str, Layer], detail: ErrorDetails) -> Problem:
    location: tuple[str | int, ...] = detail["loc"]
    text = _text(detail)
    if not location:
        # A check across keys: its message starts with the key that should change.
        key, _, text = text.partition(": ")
        location = (key,)
    owner = owners.get(str(location[0]))
    if owner is None:
        return Problem("", 0, option_name(str(location[0])), text)
    return owner.problem(location, text, of_key=detail["type"] == "extra_forbidden")


def _text(detail: ErrorDetails) -> str:
    """What was expected, in our words for the few refusals that pydantic makes itself."""
    location = detail["loc"]
    match detail["type"]:
        case "value_error":
            return str(detail["ctx"]["error"])
        case "extra_forbidden":
            model: type[BaseModel] = PathRule if location[0] == "paths" else Settings
            return f"unknown key{hint(str(location[-1]), model.model_fields)}"
        case "missing":
            what = "the directory to serve" if location == ("mount",) else "a value, got nothing"
            return f"expected {what}"
        case "tuple_type":
            return "expected a list of {glob, check, interval}"
        case "model_type" | "model_attributes_type":
            return "expected keys glob, check and perhaps interval"
        case _:
            return detail["msg"][:1].lower() + detail["msg"][1:]
