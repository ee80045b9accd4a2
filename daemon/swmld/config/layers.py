"""Where settings come from: files, environment variables, the command line; each a layer on top of the last.

In a file the daemon's keys stand at the top, in ``settings`` (beside those of the rules) or in an entry of
``environments``, which counts where that environment is in use. ``debug: true`` there stands for
``log_level: debug``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from swmld.config.models import SECTIONS, Settings
from swmld.documents import Document, Location, Problem
from swmld.values import TRUE_WORDS

PREFIX = "SWMLD_"
KEYS = frozenset(Settings.model_fields)


@dataclass(slots=True)
class Layer:
    """Values by key. ``places``: where each stands in ``document``; without one, ``labels`` is what each was
    given as."""

    values: dict[str, Any]
    document: Document | None = None
    places: dict[str, Location] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    what: str = ""

    def origin(self, key: str) -> str:
        """Where the value of ``key`` was given, for people."""
        if self.document is not None:
            return f"{self.document.name}:{int(self.document.line(self.places[key]))}"
        return f"{self.what} {self.labels[key]}"

    def problem(self, location: Location, text: str, *, of_key: bool) -> Problem:
        """One thing wrong at ``location``, whose first step is a key."""
        first = str(location[0])
        if self.document is None:
            return Problem("", 0, self.labels.get(first, first), text)
        here = (*self.places.get(first, (first,)), *location[1:])
        line, column = self.document.place(here, key=of_key)
        name = next((str(step) for step in reversed(location) if isinstance(step, str)), first)
        return Problem(self.document.name, line, name, text, column)


def of_document(document: Document, environment: str | None = None) -> Layer:
    """What a file says of the daemon; what it gives twice is told in its problems."""
    layer = Layer({}, document)
    values = document.values
    mixed = is_mixed(document)
    _add(
        layer, {k: v for k, v in values.items() if k not in SECTIONS and k != "settings"}, (), every=not mixed
    )
    if mixed and not _are_paths(values.get("rules", "")):
        layer.values.pop("rules", None)
    if isinstance(values.get("settings"), dict):
        _add(layer, values["settings"], ("settings",))
    environments = values.get("environments")
    chosen = environments.get(environment) if isinstance(environments, dict) else None
    if isinstance(chosen, dict):
        _add(layer, chosen, ("environments", str(environment)), over=True)
    return layer


def is_mixed(document: Document) -> bool:
    """Whether a file has anything but the daemon's keys at its top: it has rules then, or the like."""
    rules = document.values.get("rules")
    there = any(section in document.values for section in (*SECTIONS, "settings"))
    return there or ("rules" in document.values and rules is not None and not _are_paths(rules))


def _are_paths(rules: Any) -> bool:
    items = rules if isinstance(rules, list) else [rules]
    return not any(isinstance(item, dict) for item in items)


def _add(
    layer: Layer, given: Mapping[str, Any], location: Location, *, every: bool = False, over: bool = False
) -> None:
    document = layer.document
    assert document is not None
    for key, value in given.items():
        here = (*location, key)
        if key == "debug" and location and str(value).lower() in TRUE_WORDS:
            if over or "log_level" not in layer.values:
                layer.values["log_level"], layer.places["log_level"] = "debug", here
            continue
        if key not in KEYS and not every:
            continue
        if key in layer.values and not over and layer.places[key] != ("settings", "debug"):
            line, column = document.place(here, key=True)
            first = document.line(layer.places[key])
            document.complain(line, key, f"given twice, first in line {int(first)}", column)
            continue
        layer.values[key], layer.places[key] = value, here


def of_options(options: Mapping[str, Any]) -> Layer:
    """The command line; an option that is None was not given."""
    given = {key: value for key, value in options.items() if value is not None}
    return Layer(given, labels={key: option_name(key) for key in KEYS}, what="command line")


def of_variables(variables: Mapping[str, str]) -> Layer:
    """Environment variables: ``SWMLD_CACHE_SIZE`` is ``cache_size``; several paths are joined by ``:``."""
    names = {key: PREFIX + key.upper() for key in KEYS - {"paths"}}
    given: dict[str, Any] = {key: variables[name] for key, name in names.items() if variables.get(name)}
    for key in given.keys() & {"rules", "plugins"}:
        given[key] = given[key].split(os.pathsep)
    return Layer(given, labels=names, what="environment variable")


def environment_of(layers: Iterable[Layer]) -> str | None:
    """The environment that the topmost of some layers chooses."""
    found = None
    for layer in layers:
        found = layer.values.get("environment", found)
    return found if isinstance(found, str) else None


def option_name(key: str) -> str:
    """The command line option of a settings key."""
    return "--" + key.replace("_", "-")
