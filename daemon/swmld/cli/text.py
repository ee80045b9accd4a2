"""Text for a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text


def plain(value: str) -> Text:
    """``value`` without any meaning to rich, and with bytes that no terminal should get made visible."""
    return Text(printable(value))


def printable(value: str) -> str:
    """A file name as one line: control characters and bytes that are not UTF-8 as escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in value)


def put(console: Console, line: Text) -> None:
    """Print a line as it is; in a terminal that is narrower broken between words, what follows further in."""
    if not console.is_terminal or line.cell_len <= console.width:
        console.print(line, soft_wrap=True)
        return
    own = len(line.plain) - len(line.plain.lstrip(" "))
    further = min(own + 4, console.width // 2)
    for number, part in enumerate(line[own:].wrap(console, console.width - further)):
        console.print(Text(" " * (further if number else own)) + part, soft_wrap=True)


def prose(text: str) -> str:
    """Help text with each paragraph on one line, for the terminal to break; indented lines stay."""
    return "\n\n".join(
        paragraph if paragraph.startswith(" ") else " ".join(paragraph.split())
        for paragraph in re.split(r"\n\s*\n", text.strip("\n"))
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines, with columns as wide as they need to be; numbers to the right. At least one row."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    right = [all(cell.lstrip("-").isdigit() for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in (head, *rows)
    ]
