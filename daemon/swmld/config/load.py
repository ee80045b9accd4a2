"""Settings from defaults, then a configuration file, then the command line: the later one wins, key by key.

Every error is one line, ``FILE:LINE: key: what was expected`` (``--key: …`` for the command line), and all of
them are told at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from swmld import documents
from swmld.config.models import PathRule, Settings
from swmld.documents import Document, DocumentError, Problem, hint

# Raised by pydantic for a default that needs another, refused value: that one is told already.
_FOLLOW_UP = frozenset({"default_factory_not_called"})


class ConfigError(DocumentError):
    """Settings that cannot work. ``problems`` has every one of them; ``str`` is one line each."""


def load(path: Path | None, options: Mapping[str, Any]) -> Settings:
    """The settings of ``path`` (None: no file) with ``options`` on top; an option that is None was not given.

    Raises ConfigError with every problem, UsageError if the file cannot be read.
    """
    file = Document("") if path is None else documents.read(path)
    # Settings are one key a line: the line is enough.
    file.problems = [replace(problem, column=0) for problem in file.problems]
    if file.problems and not file.values:
        raise ConfigError(file.problems)
    given = {key: value for key, value in options.items() if value is not None}
    try:
        settings = Settings.model_validate(file.values | given)
    except ValidationError as error:
        found = [item for item in error.errors() if item["type"] not in _FOLLOW_UP]
        problems = file.problems + [_problem(file, given, item) for item in found]
        raise ConfigError(sorted(problems, key=lambda problem: problem.line)) from None
    if file.problems:
        raise ConfigError(file.problems)
    return settings


def _problem(file: Document, given: Mapping[str, Any], detail: ErrorDetails) -> Problem:
    location = detail["loc"]
    text = _text(detail)
    if not location:
        # A check across keys: its message starts with the key that should change.
        key, _, text = text.partition(": ")
        location = (key,)
    first = str(location[0])
    if first in given:
        return Problem("", 0, option_name(first), text)
    if detail["type"] == "missing" and len(location) == 1:
        return Problem("", 0, option_name(first), text)
    key = str(location[-1]) if isinstance(location[-1], str) else first
    line = file.line(location)
    return Problem(file.name if line else "", line, key if line else option_name(first), text)


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


def option_name(key: str) -> str:
    """The command line option of a settings key."""
    return "--" + key.replace("_", "-")
