"""What comes with the package: recipes of rules, and what a new configuration directory begins with.

They are the files of ``configs/``, which the package has as its own directory ``shipped``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from swmld.documents import hint
from swmld.errors import HostError, UsageError

EVERYDAY = "everyday"
"""The recipe that goes with each of the others."""
_SHIPPED = resources.files("swmld.config") / "shipped"


def recipes() -> dict[str, str]:
    """The text of each recipe by its name."""
    found = (entry for entry in (_SHIPPED / "rules").iterdir() if entry.name.endswith(".yaml"))
    texts = {entry.name.removesuffix(".yaml"): entry.read_text("utf-8") for entry in found}
    return dict(sorted(texts.items()))


def layout(chosen: Iterable[str]) -> dict[str, str]:
    """The files of a new configuration directory: path below it, and text. Raises UsageError for a recipe
    that does not exist."""
    known = recipes()
    for name in chosen:
        if name not in known:
            raise UsageError(f"unknown recipe {name!r}{hint(name, known)}")
    files = {"default/swmld.yaml": (_SHIPPED / "swmld.yaml").read_text("utf-8")}
    files |= {f"default/{name}.yaml": known[name] for name in sorted({EVERYDAY, *chosen})}
    for layer in sorted((_SHIPPED / "layout").iterdir(), key=lambda entry: entry.name):
        for entry in sorted(layer.iterdir(), key=lambda entry: entry.name):
            files[f"{layer.name}/{entry.name}"] = entry.read_text("utf-8")
    return files


def write(directory: Path, files: dict[str, str]) -> list[Path]:
    """Write the files below ``directory``, all of them or none; the paths. Raises UsageError if one of them
    exists, HostError if the disk fails."""
    paths = {directory / name: text for name, text in files.items()}
    there = [str(path) for path in paths if os.path.lexists(path)]
    if there:
        raise UsageError("\n".join(f"{path} exists already; nothing was written" for path in there))
    done: list[Path] = []
    try:
        for path, text in paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                done.append(path)
                file.write(text)
    except OSError as error:
        for path in done:
            path.unlink(missing_ok=True)
        raise HostError(f"{error.filename or directory}: {error.strerror}; nothing was written") from None
    return done
