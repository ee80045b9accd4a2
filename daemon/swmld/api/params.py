"""Parameters of requests, as the methods and pages take them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, get_type_hints
from urllib.parse import parse_qsl

from swmld.errors import UsageError


def whole_number(params: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    """The value, None if it is not there. Raises UsageError."""
    value = params.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UsageError(f"{name}: expected a number from {least} to {most}, got {value!r}")
    return value


def text(params: Mapping[str, Any], name: str) -> str | None:
    """The value, None if it is not there or empty. Raises UsageError."""
    value = params.get(name)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{name}: expected text")
    return value or None


@cache
def _types(form: type) -> dict[str, type]:
    return get_type_hints(form)


def from_query(query: str, form: type) -> dict[str, Any]:
    """Parameters of a TypedDict of texts and numbers, from the query of a URL.

    What is not a number stays text, for ``whole_number`` to refuse. Raises UsageError for another name.
    """
    known, given = _types(form), dict[str, Any]()
    for name, value in parse_qsl(query, keep_blank_values=True, errors="surrogateescape"):
        if name not in known:
            *first, last = known
            raise UsageError(f"{name}: expected {', '.join(first)}{' or ' if first else ''}{last}")
        is_number = known[name] is int and re.fullmatch("[0-9]{1,18}", value)
        given[name] = int(value) if is_number else value
    return given


def has_path(wanted: str, path: str) -> bool:
    """Whether ``path`` is what is wanted: a file, all below a directory, or a glob."""
    return path == wanted or path.startswith(wanted + "/") or fnmatchcase(path, wanted)
