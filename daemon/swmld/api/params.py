"""Parameters of requests, as the methods and pages take them."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from swmld.errors import UsageError


def whole_number(params: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    """The value, None if it is not there. Raises UsageError."""
    value = params.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UsageError(f"{name}: expected a number from {least} to {most}, got {value!r}")
    return value


def has_path(wanted: str, path: str) -> bool:
    """Whether ``path`` is what is wanted: a file, all below a directory, or a glob."""
    return path == wanted or path.startswith(wanted + "/") or fnmatchcase(path, wanted)
