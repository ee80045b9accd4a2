"""What is known at one decision, from text: a mapping of properties, flat or by condition type.

    path: models/llama.pth          file_context: {path: models/llama.pth, size: 2GiB}
    size: 2GiB                      system_context:
    gpu_memory: 85%                   gpu_memory: 85%

Name, extension, directory and depth follow from the path where they are not given.
"""

from __future__ import annotations

from typing import Any

from swmld.documents import Document, DocumentError, Location
from swmld.rules import catalogue
from swmld.rules.kinds import Kind, Value, parse
from swmld.rules.reading import Book
from swmld.values import shown


def of_path(path: str) -> dict[str, Value]:
    """What a path says."""
    directory, _, name = path.strip("/").rpartition("/")
    stem, dot, suffix = name.rpartition(".")
    return {
        "path": path.strip("/"),
        "name": name,
        "directory": directory,
        "extension": (dot + suffix).lower() if stem else "",
        "depth": directory.count("/") + 1 if directory else 0,
    }


def read(document: Document) -> dict[str, Value]:
    """The facts of a document. Raises DocumentError with every problem."""
    book = Book(document)
    found: dict[str, Value] = {}
    for key, raw in document.values.items():
        if key in catalogue.TYPES and isinstance(raw, dict):
            for name, value in raw.items():
                _add(book, found, name, value, (key, name), key)
        else:
            _add(book, found, key, raw, (key,), None)
    if document.problems:
        raise DocumentError(sorted(document.problems, key=lambda problem: (problem.line, problem.column)))
    path = found.get("path")
    return (of_path(path) if isinstance(path, str) else {}) | found


def _add(
    book: Book, found: dict[str, Value], name: str, raw: Any, location: Location, type_: str | None
) -> None:
    try:
        what = catalogue.find(name, catalogue.context_of(type_) if type_ is not None else None)
    except ValueError as error:
        book.complain(location, str(error), key=True)
        return
    if raw is None:
        return  # written, and not known
    if isinstance(raw, dict) or (isinstance(raw, list) and what.kind is not Kind.SET):
        book.complain(location, f"expected a single value, got {shown(raw)}")
        return
    if what.name in found:
        book.complain(location, f"{what.name} is given twice", key=True)
        return
    try:
        value = parse(what.kind, raw, what.words)
    except ValueError as error:
        book.complain(location, str(error))
        return
    found[what.name] = (
        value.strip("/") if what.name in ("path", "directory") and isinstance(value, str) else value
    )
