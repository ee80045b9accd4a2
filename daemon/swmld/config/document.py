"""A YAML file as plain text values, with the line of every key, so that errors can say where.

Scalars stay text: ``swmld.config.values`` decides what they mean. Nothing in the file is ever constructed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from swmld.errors import UsageError

Location = tuple[str | int, ...]
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Settings need 3 levels (paths, its entries, their keys); an alias can make an endless one.
MAX_DEPTH = 8
# A configuration has some 40 keys; more than this is another kind of file.
MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in the settings: where it stands, which key, and what was expected."""

    where: str
    line: int
    key: str
    text: str

    def __str__(self) -> str:
        place = f"{self.where}:{self.line}: " if self.line else f"{self.where}: " if self.where else ""
        return place + (f"{self.key}: " if self.key else "") + self.text


@dataclass(slots=True)
class Document:
    """The values of one file, the line of each location in it, and what was wrong with its form."""

    name: str
    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[Location, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def line(self, location: Location) -> int:
        """The line of ``location``, or of the nearest location around it that the file has; 0: none."""
        while location and location not in self.lines:
            location = location[:-1]
        return self.lines.get(location, 0)

    def complain(self, line: int, key: str, text: str) -> None:
        self.problems.append(Problem(self.name, line, key, text))


def read(path: Path) -> Document:
    """Read the file at ``path``. Raises UsageError if it cannot be read at all."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    if len(text) > MAX_BYTES:
        raise UsageError(f"{path}: expected a configuration of at most {MAX_BYTES} bytes")
    return parse(str(path), text)


def parse(name: str, text: bytes) -> Document:
    """Parse ``text``; what is wrong with it is in ``problems``, nothing is raised."""
    document = Document(name)
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        document.complain(mark.line + 1 if mark else 1, "", f"not YAML: {error.problem or error.context}")
        return document
    except (yaml.YAMLError, UnicodeError) as error:
        document.complain(1, "", f"not YAML: {str(error).splitlines()[0]}")
        return document
    if root is None:
        return document
    if not isinstance(root, yaml.MappingNode):
        line = root.start_mark.line + 1
        document.complain(line, "", "expected keys with values, such as 'cache_size: 100GiB'")
        return document
    document.values = _plain(document, root, ())
    return document


def _plain(document: Document, node: yaml.Node, location: Location) -> Any:
    document.lines.setdefault(location, node.start_mark.line + 1)
    if len(location) > MAX_DEPTH:
        document.complain(node.start_mark.line + 1, str(location[0]), "nested too deeply")
        return None
    if isinstance(node, yaml.MappingNode):
        return _mapping(document, node, location)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(document, item, (*location, number)) for number, item in enumerate(node.value)]
    # Of a plain scalar (no quotes, no block) the style is None, or empty from the C parser.
    plain = isinstance(node, yaml.ScalarNode) and not node.style
    return None if plain and node.value in ("", "~", "null") else node.value


def _mapping(document: Document, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            document.complain(line, "", "expected a plain word as key")
            continue
        key = str(key_node.value)
        here = (*location, key)
        if key in values:
            document.complain(line, key, f"given twice, first in line {document.lines[here]}")
            continue
        document.lines[here] = line
        values[key] = _plain(document, value_node, here)
    return values
