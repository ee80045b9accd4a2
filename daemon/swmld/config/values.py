"""Parsers of values that only settings have; the others are in ``swmld.values``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from swmld import urls
from swmld.config.floor import AUTO_FLOOR, FreeFloor
from swmld.errors import UsageError
from swmld.units import parse_size
from swmld.urls import SourceUrl
from swmld.values import FALSE_WORDS, Parser, either, expected, number


def directory(given: Any) -> Path:
    """A path, made absolute; it need not exist yet. No NUL, since no system call would take it."""
    if isinstance(given, Path | str) and str(given) and "\0" not in str(given):
        return Path(os.path.abspath(os.path.expanduser(given)))
    raise expected("the path of a directory", given)


def origin(given: Any) -> Path | SourceUrl:
    """The URL of a source, else a path as ``directory``. What begins as a URL is none that is a path."""
    if isinstance(given, SourceUrl):
        return given
    if isinstance(given, str) and ("://" in given or given.partition(":")[0].lower() in urls.OPTIONS):
        try:
            return urls.parse(given)
        except UsageError as error:
            raise ValueError(str(error)) from None
    return directory(given)


def path_list(given: Any) -> tuple[Path, ...]:
    """One path or several, each as ``directory``; they need not exist yet."""
    found = []
    for item in given if isinstance(given, list | tuple) else [given]:
        try:
            found.append(directory(item))
        except ValueError:
            raise expected("the path of a file or directory, or a list of such paths", item) from None
    return tuple(found)


def name(given: Any) -> str:
    """A word that names something in a file."""
    if isinstance(given, str) and given.strip() and given.isprintable():
        return given
    raise expected("a name", given)


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


def free_floor(given: Any) -> FreeFloor:
    """``auto``, a share of the disk such as ``5%``, or a size such as ``20GiB``."""
    what = "auto, a share such as 5% (0% to 95%) or a size such as 10GiB"
    if isinstance(given, FreeFloor):
        return given
    if isinstance(given, str) and given.lower() == "auto":
        return AUTO_FLOOR
    if isinstance(given, str) and given.endswith("%"):
        percent = float(number(given[:-1], float, what))
        if 0 <= percent <= 95:
            return FreeFloor(percent / 100, None)
        raise expected(what, given)
    value = number(given, parse_size, what)
    if value < 0 or value != int(value):
        raise expected(what, given)
    return FreeFloor(1.0, int(value))


_PATH = {"type": "string", "minLength": 1}
_LIST = {"anyOf": [_PATH, {"type": "array", "items": _PATH}]}
# As far as a pattern can say; an editor whose YAML is of version 1.1 reads ``off`` as false.
_ADDRESS = {"anyOf": [{"type": "string", "pattern": r"^(.+:[0-9]{1,5}|off|no|false)$"}, {"const": False}]}
_FLOOR = either(
    {"type": "integer", "minimum": 0}, r"^\s*([aA][uU][tT][oO]|[0-9.]+\s*(%|[KMGTPEkmgtpe]?[iI]?[bB]?))\s*$"
)

Directory = Annotated[Path, Parser(directory, schema=_PATH)]
Origin = Annotated[Path | SourceUrl, Parser(origin, schema=_PATH)]
Name = Annotated[str, Parser(name, schema=_PATH)]
Paths = Annotated[tuple[Path, ...], Parser(path_list, schema=_LIST)]
MountPoint = Annotated[Path, Parser(mount_point, schema=_PATH)]
Address = Annotated[str, Parser(address, schema=_ADDRESS)]
Glob = Annotated[str, Parser(glob_text, schema=_PATH)]
Floor = Annotated[FreeFloor, Parser(free_floor, schema=_FLOOR)]
