"""Sizes, shares and times as people write them: ``100GiB``, ``80%``, ``300s``.

Sizes become whole bytes, shares become fractions of 1, times become seconds. What cannot be read raises
``UsageError`` that names what was given and what was expected.
"""

from __future__ import annotations

import math
import re

from swmld.errors import UsageError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

# A bare letter is binary, as in dd, truncate and systemd; only the form with a plain B is decimal.
_PREFIXES = "KMGTPE"
_SIZE_UNITS: dict[str, int] = {"": 1, "B": 1}
for _power, _letter in enumerate(_PREFIXES, start=1):
    _SIZE_UNITS[_letter] = _SIZE_UNITS[f"{_letter}IB"] = 1 << (10 * _power)
    _SIZE_UNITS[f"{_letter}B"] = 1000**_power

_TIME_UNITS: dict[str, float] = {
    "": 1.0,
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}

_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*([A-Za-z%]*)", re.ASCII)

# The largest offset that a file can have (off_t); nothing that swmld measures is larger.
MAX_SIZE = (1 << 63) - 1

SIZE_HINT = "a size such as 512KiB, 4MiB or 100GiB"
SHARE_HINT = "a share such as 80%"
DURATION_HINT = "a time such as 250ms, 300s, 5m or 1h"


def _bad(text: object, hint: str, what: str) -> UsageError:
    prefix = f"{what}: " if what else ""
    return UsageError(f"{prefix}cannot read {str(text)!r}; expected {hint}")


def _split(text: str | int | float, hint: str, what: str) -> tuple[str, str]:
    match = _NUMBER.fullmatch(str(text).strip()) if not isinstance(text, bool) else None
    if match is None:
        raise _bad(text, hint, what)
    return match[1], match[2]


def _scaled(digits: str, factor: int) -> int:
    """``digits`` times ``factor``, cut to a whole number, without a float's rounding."""
    whole, _, fraction = digits.partition(".")
    value = int(whole or "0") * factor
    if fraction:
        value += int(fraction) * factor // 10 ** len(fraction)
    return value


def parse_size(text: str | int, *, what: str = "") -> int:
    """Bytes in ``text``. KiB, MiB… and K, M… count in 1024s, KB, MB… in 1000s; a bare number is bytes.

    ``what`` names the option in the message. Raises ``UsageError``.
    """
    digits, unit = _split(text, SIZE_HINT, what)
    factor = _SIZE_UNITS.get(unit.upper())
    if factor is None:
        raise _bad(text, SIZE_HINT, what)
    value = _scaled(digits, factor)
    if value > MAX_SIZE:
        raise _bad(text, f"{SIZE_HINT}, below 8EiB", what)
    return value


def parse_share(text: str, *, what: str = "") -> float:
    """A fraction in 0…1 from a percentage. Raises ``UsageError``."""
    digits, unit = _split(text, SHARE_HINT, what)
    value = float(digits)
    if unit != "%" or value > 100:
        raise _bad(text, f"{SHARE_HINT}, from 0% to 100%", what)
    return value / 100


def parse_size_of(text: str | int, total: int, *, what: str = "") -> int:
    """Bytes in ``text``, which is a size or a percentage of ``total`` bytes. Raises ``UsageError``."""
    if str(text).strip().endswith("%"):
        return int(parse_share(str(text), what=what) * total)
    try:
        return parse_size(text, what=what)
    except UsageError:
        raise _bad(text, f"{SIZE_HINT}, or {SHARE_HINT}", what) from None


def parse_duration(text: str | int | float, *, what: str = "") -> float:
    """Seconds in ``text``; a bare number is seconds. Raises ``UsageError``."""
    digits, unit = _split(text, DURATION_HINT, what)
    factor = _TIME_UNITS.get(unit.lower())
    if factor is None:
        raise _bad(text, DURATION_HINT, what)
    value = float(digits) * factor
    if not math.isfinite(value):
        raise _bad(text, DURATION_HINT, what)
    return value


def format_size(nbytes: int | float) -> str:
    """``nbytes`` in the largest binary unit that keeps it at 1 or more: ``1.5GiB``, ``4MiB``, ``17B``.

    For people: at most one digit after the point, so it may be off by 5 %.
    """
    sign, rest = ("-", -nbytes) if nbytes < 0 else ("", nbytes)
    power = 0
    # 1023.95 would round up to "1024.0": go to the next unit before that happens.
    while rest >= 1023.95 and power < len(_PREFIXES):
        rest /= 1024
        power += 1
    unit = f"{_PREFIXES[power - 1]}iB" if power else "B"
    number = f"{rest:.1f}" if power else f"{rest:.0f}"
    return f"{sign}{number.removesuffix('.0')}{unit}"


def format_rate(bytes_per_second: float) -> str:
    """Bytes a second for people, as ``format_size`` with ``/s``."""
    return f"{format_size(bytes_per_second)}/s"


def format_duration(seconds: float) -> str:
    """``seconds`` for people: ``250ms``, ``12.5s``, ``3m20s``, ``2h5m``, ``4d3h``."""
    if seconds < 0:
        return f"-{format_duration(-seconds)}"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    total = round(seconds)
    for big, small, big_unit, small_unit in (
        (86400, 3600, "d", "h"),
        (3600, 60, "h", "m"),
        (60, 1, "m", "s"),
    ):
        if total >= big:
            rest = total % big // small
            return f"{total // big}{big_unit}" + (f"{rest}{small_unit}" if rest else "")
    return f"{total}s"
