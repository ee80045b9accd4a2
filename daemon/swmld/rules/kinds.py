"""Values with units: how each kind of property or parameter is written, and what it becomes.

A parser raises ``ValueError`` with what was expected and, for a unit or word that does not exist, the
nearest that does. Canonical values: sizes whole bytes, durations seconds, percents points (80 for 80 %),
rates bytes a second, times of day seconds since midnight.
"""

from __future__ import annotations

import difflib
import enum
import math
import re
from collections.abc import Iterable
from typing import Any

from swmld.errors import SwmldError
from swmld.units import format_duration, format_rate, format_size, parse_duration, parse_size
from swmld.values import expected, flag, shown

Value = int | float | str | bool | frozenset[str]


class Kind(enum.Enum):
    NUMBER = "number"
    SIZE = "size"
    DURATION = "duration"
    PERCENT = "percent"
    RATE = "rate"
    CLOCK = "time of day"
    STRING = "string"
    SET = "set"
    BOOL = "bool"


ORDERED = frozenset({Kind.NUMBER, Kind.SIZE, Kind.DURATION, Kind.PERCENT, Kind.RATE, Kind.CLOCK})
"""Kinds whose values are numbers, so that more and less mean something."""

EXAMPLES = {
    Kind.NUMBER: "a number such as 8 or 0.5",
    Kind.SIZE: "a size such as 512KiB, 64MiB or 1GB",
    Kind.DURATION: "a time such as 250ms, 300s, 5m or 1h",
    Kind.PERCENT: "a percentage from 0% to 100%",
    Kind.RATE: "a rate such as 100MiB/s",
    Kind.CLOCK: "a time of day such as 22:30",
    Kind.STRING: "a text",
    Kind.SET: "a list of texts",
    Kind.BOOL: "true or false",
}

_SIZE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "K", "M", "G", "T", "P", "E",
               "KB", "MB", "GB", "TB", "PB", "EB")  # fmt: skip
UNITS: dict[Kind, tuple[str, ...]] = {
    Kind.NUMBER: (),
    Kind.SIZE: _SIZE_UNITS,
    Kind.DURATION: ("us", "ms", "s", "m", "min", "h", "d"),
    Kind.PERCENT: ("%",),
    Kind.RATE: tuple(f"{unit}/s" for unit in _SIZE_UNITS),
}

_NUMBER = re.compile(r"([+-]?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,3})?)"
                     r"\s*([^\s0-9.+-].*)?", re.ASCII | re.DOTALL)  # fmt: skip
_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9]))?", re.ASCII)


NEAR = 0.65
"""How alike two words are if one is taken for the other (``difflib``): cash and cache are (0.67), mount and
gpu_count are not (0.57)."""


def nearest(word: str, known: Iterable[str]) -> str:
    """``"; did you mean X?"``, or all there is to choose from when nothing is near."""
    names = list(known)
    folded = {name.lower(): name for name in reversed(names)}
    near = difflib.get_close_matches(word.lower(), list(folded), n=1, cutoff=NEAR)
    if not near and len(word) >= 3:
        near = [name for name in folded if name.startswith(word.lower())][:1]
    if near:
        return f"; did you mean {folded[near[0]]}?"
    listed = names if len(names) <= 12 else [*names[:12], "..."]
    return f"; expected one of {', '.join(listed)}" if listed else ""


def parse(kind: Kind, given: Any, words: tuple[str, ...] = ()) -> Value:
    """``given`` as a value of ``kind``; ``words``: the only texts that there are (none: any)."""
    match kind:
        case Kind.BOOL:
            return flag(given)
        case Kind.STRING:
            return _text(given, words)
        case Kind.SET:
            items = given if isinstance(given, list | tuple | set | frozenset) else [given]
            return frozenset(_text(item, words) for item in items)
        case Kind.CLOCK:
            return _clock(given)
        case _:
            return _quantity(kind, given)


def word_key(text: str) -> str:
    """Words are the same whatever their case and whether they are joined by ``-``, ``_`` or a space."""
    return text.strip().lower().replace("_", "-").replace(" ", "-")


def _text(given: Any, words: tuple[str, ...]) -> str:
    if isinstance(given, bool):
        given = "true" if given else "false"
    if isinstance(given, int | float):
        given = str(given)
    if not isinstance(given, str):
        raise expected(EXAMPLES[Kind.STRING], given)
    if not words:
        return given
    for word in words:
        if word_key(word) == word_key(given):
            return word
    raise ValueError(f"unknown word {shown(given)}{nearest(given, words)}")


def _clock(given: Any) -> int:
    match = _CLOCK.fullmatch(given.strip()) if isinstance(given, str) else None
    if match is not None:
        return int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3] or 0)
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < 86400:
        return given
    raise expected(EXAMPLES[Kind.CLOCK], given)


def _quantity(kind: Kind, given: Any) -> int | float:
    if isinstance(given, int | float) and not isinstance(given, bool):
        given = repr(given)
    match = _NUMBER.fullmatch(given.strip()) if isinstance(given, str) else None
    if match is None:
        raise expected(EXAMPLES[kind], given)
    digits, unit = match[1], (match[2] or "").strip()
    value = _scaled(kind, digits, unit, given)
    if not math.isfinite(value) or (kind is not Kind.NUMBER and value < 0):
        raise expected(EXAMPLES[kind], given)
    if kind is Kind.PERCENT and value > 100:
        raise expected(EXAMPLES[kind], given)
    return value


def _scaled(kind: Kind, digits: str, unit: str, given: str) -> int | float:
    units = UNITS[kind]
    if unit and unit.lower() not in {name.lower() for name in units}:
        other = next((k for k, names in UNITS.items() if unit.lower() in {n.lower() for n in names}), None)
        if other is not None or not units:
            raise expected(EXAMPLES[kind], given)
        raise ValueError(f"unknown unit {shown(unit)} in {shown(given)}{nearest(unit, units)}")
    if kind in (Kind.SIZE, Kind.RATE):
        if digits[0] == "-" or "e" in digits.lower():
            raise expected(EXAMPLES[kind], given)
        try:
            return parse_size(digits.lstrip("+") + unit.removesuffix("/s").removesuffix("/S"))
        except SwmldError:
            raise expected(EXAMPLES[kind], given) from None
    if kind is Kind.DURATION and unit:
        return float(digits) * parse_duration("1" + unit)
    value = float(digits)
    return int(value) if math.isfinite(value) and value == int(value) else value


def shown_value(kind: Kind, value: Value) -> str:
    """A canonical value as a person writes it."""
    if isinstance(value, frozenset):
        return "[" + ", ".join(sorted(value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    match kind:
        case Kind.SIZE:
            return format_size(value)
        case Kind.RATE:
            return format_rate(value)
        case Kind.DURATION:
            return format_duration(value)
        case Kind.PERCENT:
            return f"{value:g}%"
        case Kind.CLOCK:
            return f"{int(value) // 3600:02d}:{int(value) // 60 % 60:02d}" + (
                f":{int(value) % 60:02d}" if value % 60 else ""
            )
        case _:
            return f"{value:g}" if isinstance(value, float) else str(value)
