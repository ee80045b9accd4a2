"""What the corpus's programs share."""

from __future__ import annotations

import os
import time
from pathlib import Path


def mark() -> None:
    """The next phase of the program begins now: the label file says which."""
    print(f"mark {time.monotonic():.3f}", flush=True)


def think(seconds: float) -> None:
    """An accelerator computes so long; the host waits for it."""
    time.sleep(seconds)


def files_of(directory: str) -> list[Path]:
    """All files below it, by path, as ImageFolder lists them."""
    return sorted(Path(top) / name for top, _, names in os.walk(directory) for name in names)
