"""Rooms import only what stands before them: the rule in daemon/README.md, read from there and held to."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

DAEMON = Path(__file__).parents[2] / "daemon"
PACKAGE = DAEMON / "swmld"


def rule() -> tuple[dict[str, int], set[str]]:
    """Each room's place in the flow, and the rooms that may read ``config``, which is beside it."""
    text = " ".join((DAEMON / "README.md").read_text().split())
    found = re.search(
        r"Import rule \(a test reads the imports\): (.*?); `config` is read by (.*?) alone", text
    )
    assert found, "daemon/README.md states no import rule"
    stages = [re.findall(r"[a-z_]+", stage) for stage in found[1].split("◄")]
    places = {room: place for place, stage in enumerate(stages) for room in stage}
    return places, set(re.findall(r"`([a-z_]+)`", found[2]))


PLACES, CONFIG_READERS = rule()


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def absolute(path: Path, node: ast.ImportFrom) -> str:
    """The module that a ``from`` import names, relative ones resolved."""
    package = ("swmld", *path.relative_to(PACKAGE).parts[:-1])
    outer = package[: len(package) - node.level + 1] if node.level else ()
    return ".".join([*outer, *([node.module] if node.module else [])])


def imported(path: Path) -> set[str]:
    """The rooms that a module imports, also inside functions and for type checking alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = absolute(path, node)
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("swmld.")}
    return {name for name in found if not name.startswith("_")}


def forbidden(room: str, other: str) -> bool:
    if other == room:
        return False
    if room == "config":
        return PLACES[other] != 0
    if other == "config":
        return room not in CONFIG_READERS
    # Shared words may use one another; anywhere else a neighbour in the same place is out of reach too.
    return PLACES[other] >= max(PLACES[room], 1)


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_backwards_only(path: Path) -> None:
    room = room_of(path)
    others = imported(path)
    unknown = {other for other in {room, *others} if other not in PLACES and other != "config"}
    assert not unknown, f"rooms that the import rule of daemon/README.md does not name: {unknown}"
    assert not {other for other in others if forbidden(room, other)}


def test_the_rule_is_the_one_we_mean() -> None:
    order = ["types", "plan", "rules", "cache", "fetch", "mount", "api", "app", "cli"]
    assert [PLACES[room] for room in order] == sorted({PLACES[room] for room in order})
    assert forbidden("cache", "fetch")
    assert forbidden("mount", "config")
    assert forbidden("plan", "cli")
    assert forbidden("patterns", "rules")
    assert forbidden("rules", "config")
    assert not forbidden("rules", "patterns")
    assert not forbidden("cli", "config")
    assert not forbidden("api", "fetch")


PURE = {
    "plan": "",
    "patterns": "",
    # The grammar, the regular expressions, the models; importlib for the rules that come with the package.
    "rules": "importlib lark pydantic pydantic_core re2",
}


@pytest.mark.parametrize("room", PURE)
def test_pure_rooms_are_pure(room: str) -> None:
    """They decide with values; what they may import besides is the standard library's own pure part."""
    pure = (
        "__future__ array bisect collections dataclasses difflib enum functools heapq itertools math "
        "operator re struct typing"
    )
    allowed = {*pure.split(), *PURE[room].split(), "swmld"}
    for path in (PACKAGE / room).glob("*.py"):
        tops = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                tops |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                tops.add(node.module.split(".")[0])
        assert tops <= allowed, path


def test_every_module_is_found_in_the_readme() -> None:
    """And every one that is named there exists."""
    text = (DAEMON / "README.md").read_text().partition("## Modules, room by room")[2]
    rooms = re.split(r"^- \*\*([a-z]+)\*\*:", text, flags=re.MULTILINE)[1:]
    named = {
        room: re.findall(r"`([a-z_0-9]+)`", words)
        for room, words in zip(rooms[::2], rooms[1::2], strict=True)
    }
    found = {
        room.name: sorted(path.stem for path in room.glob("*.py") if path.stem != "__init__")
        for room in PACKAGE.iterdir()
        if (room / "__init__.py").exists()
    }
    assert {room: sorted(modules) for room, modules in named.items()} == found
