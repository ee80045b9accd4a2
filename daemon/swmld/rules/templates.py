"""Parameters put into rules: ``${name}`` in any text of a rule, and the rules that come with the package.

``${name}`` alone stands for the whole value, a list too; within a text it stands for its text. ``$${`` is
``${`` as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from swmld import documents
from swmld.documents import Document
from swmld.rules.kinds import nearest
from swmld.rules.reading import LIMITS

_PLACE = re.compile(r"\$?\$\{([^{}]*)\}")


@cache
def builtins() -> tuple[Document, ...]:
    """The documents of the built-in rules, in the order of their names."""
    folder = resources.files("swmld.rules") / "builtin"
    found = sorted(
        (entry for entry in folder.iterdir() if entry.name.endswith(".yaml")), key=lambda e: e.name
    )
    return tuple(documents.parse(f"builtin/{entry.name}", entry.read_bytes(), **LIMITS) for entry in found)


def used(raw: Any) -> set[str]:
    """The names that ``${...}`` in a raw value asks for."""
    if isinstance(raw, str):
        return {m[1] for m in _PLACE.finditer(raw) if not m[0].startswith("$$")} if "${" in raw else set()
    if isinstance(raw, dict):
        return set().union(*map(used, raw.values()))
    if isinstance(raw, list):
        return set().union(*map(used, raw))
    return set()


def substituted(raw: Any, parameters: Mapping[str, Any]) -> Any:
    """``raw`` with its places filled. Raises ``Missing`` for a name that has no value."""
    if isinstance(raw, dict):
        return {key: substituted(value, parameters) for key, value in raw.items()}
    if isinstance(raw, list):
        return [substituted(value, parameters) for value in raw]
    if not isinstance(raw, str) or "${" not in raw:
        return raw
    whole = _PLACE.fullmatch(raw)
    if whole is not None and not raw.startswith("$$"):
        return _value(whole[1], parameters)
    return _PLACE.sub(lambda match: _inside(match, parameters), raw)


class Missing(ValueError):
    """No value for a ``${name}``."""


def _value(name: str, parameters: Mapping[str, Any]) -> Any:
    if name not in parameters:
        raise Missing(f"no value for ${{{name}}}{nearest(name, parameters) or '; expected it in parameters'}")
    return parameters[name]


def _inside(match: re.Match[str], parameters: Mapping[str, Any]) -> str:
    if match[0].startswith("$$"):
        return match[0][1:]
    value = _value(match[1], parameters)
    if isinstance(value, list | dict) or value is None:
        raise Missing(f"expected a single value for ${{{match[1]}}} within a text")
    return str(value)
