"""Parsers of single values from text: files, command line.

Both give text, so one parser per kind of value serves both, and YAML's own ideas about types (``off`` is
false, ``10:30`` is 630) never apply. Every parser also takes the finished value, for callers in Python, and
raises ``ValueError`` with what was expected and what was given instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BeforeValidator

from swmld.errors import SwmldError
from swmld.units import format_size, parse_duration, parse_size

TRUE_WORDS = frozenset({"true", "yes", "on"})
FALSE_WORDS = frozenset({"false", "no", "off"})


def expected(what: str, given: object) -> ValueError:
    """The one form of a refusal: what was expected, and what was given, short enough for a line."""
    return ValueError(f"expected {what}, got {shown(given)}")


def shown(given: object) -> str:
    """How a refused value reads in a message: one line, at most about 60 characters."""
    if given is None or given == "":
        return "nothing"
    if isinstance(given, list):
        return "a list"
    if isinstance(given, dict):
        return "a mapping"
    text = repr(given) if isinstance(given, str) else str(given)
    return text if len(text) <= 60 else text[:57] + "..."


def flag(given: Any) -> bool:
    """``true``/``yes``/``on`` or ``false``/``no``/``off``, in any case."""
    if isinstance(given, bool):
        return given
    if isinstance(given, str) and given.lower() in TRUE_WORDS:
        return True
    if isinstance(given, str) and given.lower() in FALSE_WORDS:
        return False
    raise expected("true or false", given)


@dataclass(frozen=True)
class Parser(BeforeValidator):
    """A parser that says as JSON Schema, for editors, what it takes."""

    schema: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        return dict(self.schema)


_DIGITS = r"([0-9]+(\.[0-9]+)?|\.[0-9]+)"
SIZE_TEXT = rf"^\s*{_DIGITS}\s*([KMGTPEkmgtpe]([iI]?[bB])?|[bB])?\s*$"
TIME_TEXT = rf"^\s*{_DIGITS}\s*([uUmM]?[sS]|[mM]([iI][nN])?|[hH]|[dD])?\s*$"
"""As ``swmld.units`` reads them, for JSON Schema."""


def _any_case(*words: str) -> str:
    spelt = ("".join(f"[{char}{char.upper()}]" for char in word) for word in sorted(words))
    return f"^({'|'.join(spelt)})$"


def number(given: Any, parse: Callable[[str], float | int], what: str) -> float | int:
    """``given`` if it is a number, or what ``parse`` makes of its text; ``what`` was expected."""
    if isinstance(given, str):
        try:
            return parse(given)
        except (ValueError, SwmldError):
            raise expected(what, given) from None
    if isinstance(given, int | float) and not isinstance(given, bool):
        return given
    raise expected(what, given)


def size(low: int, high: int | None = None, *, power_of_two: bool = False) -> Parser:
    """A number of bytes between ``low`` and ``high``, both included, such as ``100GiB``."""
    bounds = f"at least {format_size(low)}" if high is None else f"{format_size(low)} to {format_size(high)}"
    what = f"a {'power of two' if power_of_two else 'size'} such as 4MiB ({bounds})"

    def parse(given: Any) -> int:
        value = number(given, parse_size, what)
        fits = value == int(value) and value >= low and (high is None or value <= high)
        if not fits or (power_of_two and int(value).bit_count() != 1):
            raise expected(what, given)
        return int(value)

    bounds_ = {"minimum": low} if high is None else {"minimum": low, "maximum": high}
    return Parser(parse, schema=either({"type": "integer", **bounds_}, SIZE_TEXT))


def duration(low: float, high: float) -> Parser:
    """Seconds between ``low`` and ``high``, both included; text may carry a unit, such as ``500ms``."""
    what = f"a time such as 500ms, 1s or 2min ({low:g}s to {high:g}s)"

    def parse(given: Any) -> float:
        value = float(number(given, parse_duration, what))
        if not math.isfinite(value) or not low <= value <= high:
            raise expected(what, given)
        return value

    return Parser(parse, schema=either({"type": "number", "minimum": low, "maximum": high}, TIME_TEXT))


def count(low: int, high: int) -> Parser:
    """A whole number between ``low`` and ``high``, both included."""
    what = f"a whole number from {low} to {high}"

    def parse(given: Any) -> int:
        value = number(given, int, what)
        if value != int(value) or not low <= value <= high:
            raise expected(what, given)
        return int(value)

    return Parser(
        parse, schema=either({"type": "integer", "minimum": low, "maximum": high}, r"^\s*[+-]?[0-9]+\s*$")
    )


def choice(*words: str) -> Parser:
    """One of a few words."""
    listed = ", ".join(words[:-1]) + " or " + words[-1]

    def parse(given: Any) -> str:
        given = getattr(given, "value", given)
        if isinstance(given, str) and given.lower() in words:
            return given.lower()
        raise expected(listed, given)

    # An editor whose YAML is of version 1.1 reads the words of switches as true and false.
    switches = [{"type": "boolean"}] if FALSE_WORDS & set(words) else []
    named: dict[str, Any] = {"enum": list(words)}
    return Parser(parse, schema={"anyOf": [named, *switches]} if switches else named)


def either(number: Mapping[str, Any], text: str) -> dict[str, Any]:
    """JSON Schema of a number, or a text of this form."""
    return {"anyOf": [dict(number), {"type": "string", "pattern": text}]}


FLAG_SCHEMA: dict[str, Any] = {
    "anyOf": [{"type": "boolean"}, {"type": "string", "pattern": _any_case(*TRUE_WORDS, *FALSE_WORDS)}]
}
Flag = Annotated[bool, Parser(flag, schema=FLAG_SCHEMA)]
