"""Entries as the filer has stored them for this client: whoever changes one again need not ask for it first.

Only for filers that refuse a change which is made on the condition of another entry: with them an entry that
somebody else has changed since is found out by the change itself.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

KEPT = 512
"""Entries, of files that are being written or were a moment ago."""

CHUNKS = 8
"""Of an entry that is kept, at most: half a KiB. A larger file's upload does not notice one question more."""


class Latest:
    """Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[str, str], Any] = OrderedDict()

    def keep(self, directory: str, entry: Any) -> None:
        """What the filer said that it stored."""
        place = directory.rstrip("/"), entry.name
        with self._lock:
            self._entries.pop(place, None)
            if entry.is_directory or len(entry.chunks) > CHUNKS:
                return
            self._entries[place] = entry
            if len(self._entries) > KEPT:
                self._entries.popitem(last=False)

    def take(self, directory: str, name: str) -> Any | None:
        """The entry, once: a second try asks."""
        with self._lock:
            return self._entries.pop((directory.rstrip("/"), name), None)
