"""Directories that were renamed: where what is below was before, where inode numbers are of paths.

Nothing is done about the files below a directory when it is renamed, there may be millions: each that is not
found in the cache is looked for under the number that it had, and takes its cached bytes along (``Finder``).
What is remembered here proves nothing: size, times and number have to be those of what is cached, and a pair
that is lost or wrong by now costs a fetch at most.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable

KEPT = 64
"""Renames that are remembered; of files below what was renamed before these the bytes are fetched again."""


class Moves:
    """Any thread. ``text``: what ``keep`` was last given."""

    def __init__(self, text: str, keep: Callable[[str], object]) -> None:
        self._keep = keep
        self._lock = threading.Lock()
        self._pairs: deque[tuple[bytes, bytes]] = deque(_read(text), maxlen=KEPT)

    def add(self, old: bytes, new: bytes) -> None:
        """The directory ``old`` is ``new`` now."""
        with self._lock:
            self._pairs.append((old, new))
            self._keep(json.dumps([[name.hex() for name in pair] for pair in self._pairs]))

    def earlier(self, path: bytes) -> list[bytes]:
        """Where the file at ``path`` may have been, the latest first."""
        if not self._pairs:
            return []
        found = []
        with self._lock:
            pairs = list(self._pairs)
        for old, new in reversed(pairs):
            if path.startswith(new + b"/"):
                path = old + path[len(new) :]
                found.append(path)
        return found


def _read(text: str) -> list[tuple[bytes, bytes]]:
    try:
        return [(bytes.fromhex(old), bytes.fromhex(new)) for old, new in json.loads(text or "[]")]
    except (TypeError, ValueError):
        return []
