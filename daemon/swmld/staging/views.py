"""What is staged, for people and their dashboards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Item:
    """A staged file, for people. ``state``: open, waiting, uploading, failing or aside; ``file``: where its
    bytes are; ``changed``: when they were written last, seconds since the epoch."""

    number: int
    path: bytes
    size: int
    state: str
    why: str
    file: Path
    changed: float


@dataclass(frozen=True, slots=True)
class Figures:
    """``files``: staged, and not put aside; ``waiting_bytes``: of those that were closed or synced and are
    not uploaded yet, as they were then; ``failing``: whose last upload failed; ``aside``: put aside."""

    files: int
    waiting_bytes: int
    failing: int
    aside: int
