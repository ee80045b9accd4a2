"""Where a file, or which files, were read over time: a plot of characters. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Bit of each dot in a braille cell (Unicode 2800-28FF), by row from the top and column.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_BLANK = 0x2800
ACROSS, DOWN = 2, 4


@dataclass(frozen=True, slots=True)
class Mark:
    """From ``low`` to ``high`` (inclusive) was read at the time ``at``; offsets or places, and seconds."""

    at: float
    low: float
    high: float


def plot(
    marks: Iterable[Mark], width: int, height: int, *, began: float, ended: float, bottom: float, top: float
) -> list[str]:
    """``height`` lines of ``width`` cells, time to the right, places upwards; marks outside are left out.

    Where there is room, a mark is two dots wide and high: a single one is hard to see.
    """
    marks = list(marks)
    thick = 1 if len(marks) > width * height // 4 else 2
    cells = [[0] * width for _ in range(height)]
    across, down = width * ACROSS - 1, height * DOWN - 1
    seconds, places = max(ended - began, 1e-9), max(top - bottom, 1e-9)
    for mark in marks:
        x = round((mark.at - began) / seconds * across)
        if not 0 <= x <= across:
            continue
        low, high = (round((place - bottom) / places * down) for place in (mark.low, mark.high))
        for y in range(max(0, low), min(down, high + thick - 1) + 1):
            row, dot = divmod(down - y, DOWN)
            for column in range(x, min(across, x + thick - 1) + 1):
                cells[row][column // ACROSS] |= _DOTS[dot][column % ACROSS]
    return ["".join(chr(_BLANK + dots) if dots else " " for dots in row) for row in cells]


def framed(lines: Sequence[str], top: str, bottom: str, left: str, right: str) -> list[str]:
    """``lines`` with what their ends mean: places at the left, times below."""
    margin = max(len(top), len(bottom))
    labels = [top, *[""] * (len(lines) - 2), bottom][: len(lines)]
    width = len(lines[0]) if lines else 0
    below = left + " " * max(1, width - len(left) - len(right)) + right
    return [
        *(f"{label:>{margin}} │{text}" for label, text in zip(labels, lines, strict=True)),
        f"{'':>{margin}} └{'─' * width}",
        f"{'':>{margin}}  {below}",
    ]
