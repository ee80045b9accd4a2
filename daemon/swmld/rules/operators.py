"""What a condition compares: the operators, the kinds they are for, and each as a function of one value.

A test is made once, when rules are loaded: its operand is parsed then, by the property's kind, and what
cannot be is refused with ``ValueError``.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from swmld.rules import matching
from swmld.rules.catalogue import Property
from swmld.rules.kinds import ORDERED, Kind, Value, nearest, parse, shown_value
from swmld.values import expected, flag

Check = Callable[[Any], bool]


class Operator(enum.Enum):
    EQUALS = "equals"
    NOT_EQUALS = "not_equals"
    CONTAINS = "contains"
    NOT_CONTAINS = "not_contains"
    MATCHES = "matches"
    GLOB = "glob"
    STARTS_WITH = "starts_with"
    ENDS_WITH = "ends_with"
    IN = "in"
    NOT_IN = "not_in"
    GREATER_THAN = "greater_than"
    LESS_THAN = "less_than"
    GREATER_EQUAL = "greater_equal"
    LESS_EQUAL = "less_equal"
    BETWEEN = "between"
    EXISTS = "exists"


_TEXTS = frozenset({Kind.STRING})
_SINGLE = frozenset(Kind) - {Kind.SET}

KINDS: dict[Operator, frozenset[Kind]] = {
    Operator.EQUALS: frozenset(Kind),
    Operator.NOT_EQUALS: frozenset(Kind),
    Operator.CONTAINS: frozenset({Kind.STRING, Kind.SET}),
    Operator.NOT_CONTAINS: frozenset({Kind.STRING, Kind.SET}),
    Operator.MATCHES: _TEXTS,
    Operator.GLOB: _TEXTS,
    Operator.STARTS_WITH: _TEXTS,
    Operator.ENDS_WITH: _TEXTS,
    Operator.IN: _SINGLE - {Kind.BOOL},
    Operator.NOT_IN: _SINGLE - {Kind.BOOL},
    Operator.GREATER_THAN: ORDERED,
    Operator.LESS_THAN: ORDERED,
    Operator.GREATER_EQUAL: ORDERED,
    Operator.LESS_EQUAL: ORDERED,
    Operator.BETWEEN: ORDERED,
    Operator.EXISTS: frozenset(Kind),
}
MEANINGS: dict[Operator, str] = {
    Operator.EQUALS: "The value is this one.",
    Operator.NOT_EQUALS: "The value is another one.",
    Operator.CONTAINS: "The text has this in it; the list has this item.",
    Operator.NOT_CONTAINS: "The text has this nowhere in it; the list has no such item.",
    Operator.MATCHES: "The regular expression (RE2) is found in the text; ^ and $ anchor it.",
    Operator.GLOB: "The whole text fits the pattern: * ? [a-z] [!a], * takes / too.",
    Operator.STARTS_WITH: "The text begins with this.",
    Operator.ENDS_WITH: "The text ends in this.",
    Operator.IN: "The value is one of the list.",
    Operator.NOT_IN: "The value is none of the list.",
    Operator.GREATER_THAN: "The value is more.",
    Operator.LESS_THAN: "The value is less.",
    Operator.GREATER_EQUAL: "The value is as much or more.",
    Operator.LESS_EQUAL: "The value is as much or less.",
    Operator.BETWEEN: "The value is in a range of two, ends included; times of day may pass midnight.",
    Operator.EXISTS: "The value is known (false: it is not known).",
}
SIGNS = {
    "==": Operator.EQUALS, "=": Operator.EQUALS, "!=": Operator.NOT_EQUALS, ">": Operator.GREATER_THAN,
    "<": Operator.LESS_THAN, ">=": Operator.GREATER_EQUAL, "<=": Operator.LESS_EQUAL,
}  # fmt: skip
"""In the shorthand ``">= 8"``, in expressions, and as names of operators."""

SPECIFIC = {
    Operator.EQUALS: 3,
    **dict.fromkeys((Operator.IN, Operator.GLOB, Operator.MATCHES, Operator.STARTS_WITH, Operator.ENDS_WITH,
                     Operator.CONTAINS, Operator.BETWEEN), 2),
}  # fmt: skip
"""How much a condition says: one value 3, a form or a range 2, anything else 1."""

_SHORTHAND = re.compile(r"\s*(==|!=|>=|<=|=|>|<)\s*(.*?)\s*", re.DOTALL)
MAX_ITEMS = 1000


@dataclass(frozen=True, slots=True)
class Test:
    """One comparison, ready: ``check`` takes a known value of the property. ``EXISTS`` takes None too."""

    what: Property
    operator: Operator
    operand: Any
    check: Check

    def __str__(self) -> str:
        return f"{self.what.name} {self.operator.value} {self.shown}"

    @property
    def shown(self) -> str:
        """The operand as a person writes it."""
        if self.operator is Operator.EXISTS:
            return "true" if self.operand else "false"
        kind = self.what.kind
        if self.operator in (Operator.IN, Operator.NOT_IN, Operator.BETWEEN):
            items = self.operand if self.operator is Operator.BETWEEN else sorted(self.operand)
            return "[" + ", ".join(shown_value(kind, item) for item in items) + "]"
        return shown_value(kind, self.operand)


def operator_of(name: str) -> Operator:
    """The operator of that name or sign. Raises ValueError with the nearest one."""
    if name in SIGNS:
        return SIGNS[name]
    try:
        return Operator(name.strip().lower())
    except ValueError:
        names = [operator.value for operator in Operator]
        raise ValueError(f"unknown operator {name!r}{nearest(name, names)}") from None


def shorthand(given: Any) -> tuple[Operator, str] | None:
    """Operator and operand of ``">= 8"``; None if it does not begin with a sign."""
    match = _SHORTHAND.fullmatch(given) if isinstance(given, str) else None
    return (SIGNS[match[1]], match[2]) if match is not None else None


def make(what: Property, operator: Operator, given: Any) -> Test:
    """The test of ``what`` against ``given``. Raises ValueError."""
    if what.kind not in KINDS[operator]:
        fitting = [one.value for one in Operator if what.kind in KINDS[one]]
        raise ValueError(
            f"{operator.value} does not fit {what.name}, a {what.kind.value}; "
            f"expected one of {', '.join(fitting)}"
        )
    operand = _operand(what, operator, given)
    return Test(what, operator, operand, _check(what, operator, operand))


def _operand(what: Property, operator: Operator, given: Any) -> Any:
    match operator:
        case Operator.EXISTS:
            return True if given is None else flag(given)
        case Operator.IN | Operator.NOT_IN:
            if not isinstance(given, list) or not 1 <= len(given) <= MAX_ITEMS:
                raise expected(f"a list of 1 to {MAX_ITEMS} values", given)
            return frozenset(_single(what, item) for item in given)
        case Operator.BETWEEN:
            if not isinstance(given, list) or len(given) != 2:
                raise expected("a list of two values, the least and the most", given)
            low, high = (parse(what.kind, item) for item in given)
            if what.kind is not Kind.CLOCK and low > high:  # type: ignore[operator]
                raise ValueError(f"expected the lesser value first, got {given[0]} and {given[1]}")
            return low, high
        case Operator.EQUALS | Operator.NOT_EQUALS:
            return _single(what, given)
        case Operator.GLOB:
            return _pattern(what, parse(Kind.STRING, given))
        case Operator.CONTAINS | Operator.NOT_CONTAINS if what.kind is Kind.SET:
            return parse(Kind.STRING, given)
        case _:
            text = parse(what.kind, given)
            if text == "":
                raise expected("a text", given)
            return text


def _single(what: Property, given: Any) -> Value:
    value = parse(what.kind, given, what.words)
    if what.name == "extension" and isinstance(value, str):
        return value.lower() if value.startswith(".") or not value else f".{value.lower()}"
    return value.strip("/") if what.name in ("path", "directory") and isinstance(value, str) else value


def _pattern(what: Property, pattern: Value) -> str:
    """As the patterns of the key ``paths`` in the configuration: a leading slash means nothing more, a
    trailing one stands for all that the directory holds. Extensions may leave out their dot."""
    text = str(pattern)
    if not text:
        raise expected("a path pattern such as 'train/*' or '*.safetensors'", text)
    if what.name == "extension":
        return text.lower() if text[0] in ".*?[" else f".{text.lower()}"
    if what.name in ("path", "directory"):
        text = text.lstrip("/")
        return text + "*" if what.name == "path" and text.endswith("/") else text
    return text


def _check(what: Property, operator: Operator, operand: Any) -> Check:
    match operator:
        case Operator.EQUALS:
            return lambda value: value == operand
        case Operator.NOT_EQUALS:
            return lambda value: value != operand
        case Operator.CONTAINS:
            return lambda value: operand in value
        case Operator.NOT_CONTAINS:
            return lambda value: operand not in value
        case Operator.MATCHES:
            return matching.regex(operand)
        case Operator.GLOB:
            return matching.glob(operand)
        case Operator.STARTS_WITH:
            return lambda value: value.startswith(operand)
        case Operator.ENDS_WITH:
            return lambda value: value.endswith(operand)
        case Operator.IN:
            return lambda value: value in operand
        case Operator.NOT_IN:
            return lambda value: value not in operand
        case Operator.EXISTS:
            return lambda value: (value is not None) == operand
        case _:
            return _ordered(what, operator, operand)


def _ordered(what: Property, operator: Operator, operand: Any) -> Check:
    match operator:
        case Operator.GREATER_THAN:
            return lambda value: value > operand
        case Operator.LESS_THAN:
            return lambda value: value < operand
        case Operator.GREATER_EQUAL:
            return lambda value: value >= operand
        case Operator.LESS_EQUAL:
            return lambda value: value <= operand
    low, high = operand
    if what.kind is Kind.CLOCK and low > high:
        return lambda value: value >= low or value <= high
    return lambda value: low <= value <= high
