"""Parsers of single values, the same for the configuration file and the command line.

Both give text, so one parser per kind of value serves both, and YAML's own ideas about types (``off`` is
false, ``10:30`` is 630) never apply. Every parser also takes the finished value, for callers in Python, and
raises ``ValueError`` with what was expected and what was given instead.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
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


def _number(given: Any, parse: Callable[[str], float | int], what: str) -> float | int:
    if isinstance(given, str):
        try:
            return parse(given)
        except (ValueError, SwmldError):
            raise expected(what, given) from None
    if isinstance(given, int | float) and not isinstance(given, bool):
        return given
    raise expected(what, given)


def size(low: int, high: int | None = None, *, power_of_two: bool = False) -> BeforeValidator:
    """A number of bytes between ``low`` and ``high``, both included, such as ``100GiB``."""
    bounds = f"at least {format_size(low)}" if high is None else f"{format_size(low)} to {format_size(high)}"
    what = f"a {'power of two' if power_of_two else 'size'} such as 4MiB ({bounds})"

    def parse(given: Any) -> int:
        value = _number(given, parse_size, what)
        fits = value == int(value) and value >= low and (high is None or value <= high)
        if not fits or (power_of_two and int(value).bit_count() != 1):
            raise expected(what, given)
        return int(value)

    return BeforeValidator(parse)


def duration(low: float, high: float) -> BeforeValidator:
    """Seconds between ``low`` and ``high``, both included; text may carry a unit, such as ``500ms``."""
    what = f"a time such as 500ms, 1s or 2min ({low:g}s to {high:g}s)"

    def parse(given: Any) -> float:
        value = float(_number(given, parse_duration, what))
        if not math.isfinite(value) or not low <= value <= high:
            raise expected(what, given)
        return value

    return BeforeValidator(parse)


def count(low: int, high: int) -> BeforeValidator:
    """A whole number between ``low`` and ``high``, both included."""
    what = f"a whole number from {low} to {high}"

    def parse(given: Any) -> int:
        value = _number(given, int, what)
        if value != int(value) or not low <= value <= high:
            raise expected(what, given)
        return int(value)

    return BeforeValidator(parse)


def choice(*words: str) -> BeforeValidator:
    """One of a few words."""
    listed = ", ".join(words[:-1]) + " or " + words[-1]

    def parse(given: Any) -> str:
        given = getattr(given, "value", given)
        if isinstance(given, str) and given.lower() in words:
            return given.lower()
        raise expected(listed, given)

    return BeforeValidator(parse)


def directory(given: Any) -> Path:
    """A path, made absolute; it need not exist yet. No NUL, since no system call would take it."""
    if isinstance(given, Path | str) and str(given) and "\0" not in str(given):
        return Path(os.path.abspath(os.path.expanduser(given)))
    raise expected("the path of a directory", given)


def mount_point(given: Any) -> Path:
    """As ``directory``, with symbolic links followed, as mount(2) follows them."""
    return Path(os.path.realpath(directory(given)))


def address(given: Any) -> str:
    """``HOST:PORT``, ``[IPv6]:PORT`` or ``off``; port 0 lets the kernel choose."""
    if isinstance(given, str):
        if given.lower() in FALSE_WORDS:
            return "off"
        host, colon, port = given.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if colon and host and (bracketed or ":" not in host) and _is_port(port):
            return given
    raise expected("HOST:PORT such as 127.0.0.1:9617, or off", given)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) <= 65535


def glob_text(given: Any) -> str:
    """A pattern for paths from the mount's root, as fnmatch(3) reads it: ``*`` matches ``/`` too.

    A leading ``/`` means nothing more; a trailing one stands for all that the directory holds.
    """
    if not isinstance(given, str) or not given.strip("/") or "\0" in given:
        raise expected("a path pattern such as 'train/*' or '*.safetensors'", given)
    return given.lstrip("/") + ("*" if given.endswith("/") else "")


@dataclass(frozen=True, slots=True)
class FreeFloor:
    """Disk space that the cache leaves free: ``share`` of the disk, but never more than ``cap`` bytes.

    ``auto`` is 5 % of the disk, at most 10 GiB: the 5 % is what ext4 reserves for root by default, so other
    programs meet no full disk before the cache stops; the cap keeps a 20 TB disk from giving up 1 TB.
    """

    share: float
    cap: int | None

    def of(self, disk_size: int) -> int:
        """Bytes to leave free on a disk of ``disk_size`` bytes."""
        floor = int(disk_size * self.share)
        return floor if self.cap is None else min(floor, self.cap)

    def __str__(self) -> str:
        if self == AUTO_FLOOR:
            return "auto"
        return f"{self.share * 100:g}%" if self.cap is None else format_size(self.cap)


AUTO_FLOOR = FreeFloor(0.05, 10 << 30)


def free_floor(given: Any) -> FreeFloor:
    """``auto``, a share of the disk such as ``5%``, or a size such as ``20GiB``."""
    what = "auto, a share such as 5% (0% to 95%) or a size such as 10GiB"
    if isinstance(given, FreeFloor):
        return given
    if isinstance(given, str) and given.lower() == "auto":
        return AUTO_FLOOR
    if isinstance(given, str) and given.endswith("%"):
        percent = float(_number(given[:-1], float, what))
        if 0 <= percent <= 95:
            return FreeFloor(percent / 100, None)
        raise expected(what, given)
    value = _number(given, parse_size, what)
    if value < 0 or value != int(value):
        raise expected(what, given)
    return FreeFloor(1.0, int(value))


Flag = Annotated[bool, BeforeValidator(flag)]
Directory = Annotated[Path, BeforeValidator(directory)]
MountPoint = Annotated[Path, BeforeValidator(mount_point)]
Address = Annotated[str, BeforeValidator(address)]
Glob = Annotated[str, BeforeValidator(glob_text)]
Floor = Annotated[FreeFloor, BeforeValidator(free_floor)]
