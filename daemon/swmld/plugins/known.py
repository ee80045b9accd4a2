"""All plugins of a daemon: which framework a file is of, what will be read of it, what a process runs.

plugins = Plugins(registry.find(directories))
await plugins.framework(path, head)      -> Match | None, by the plugin that is surest
await plugins.hints(context)             -> Hints of that plugin
plugins.recall(path)                     from memory, at once
plugins.frameworks_of(libraries)         names, the surest first
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

import re2

from swmld.plugins.guard import LIMIT, Guard
from swmld.plugins.interface import API, HEAD, NONE, Context, Hints
from swmld.plugins.registry import Found

SURE = 0.5
"""The least confidence that counts."""

REMEMBERED = 65536
"""Files of which it is remembered (some 20 MB)."""

WITHOUT_PLUGIN: dict[str, tuple[str, ...]] = {
    "jax": ("/jaxlib/",),
    "xgboost": ("/libxgboost[.]so",),
    "lightgbm": ("/lib_?lightgbm[.]so",),
}
"""Frameworks with no files of their own: what their processes have mapped, as ``Plugin.libraries``."""
_BEFORE_THEM = "tensorflow"
"""They come after this one, and before those whose libraries each of them maps too, as NumPy's."""

_MOST_DOTS = 4  # extensions that are looked for in a name: .tar.gz has two


class Match(NamedTuple):
    """``confidence``: 0.5 to 1."""

    framework: str
    confidence: float


class State(NamedTuple):
    """A plugin as people see it. ``disabled``: why it is not asked any more, "": it is."""

    name: str
    origin: str
    api: int
    extensions: tuple[str, ...]
    calls: int
    disabled: str


class _Answer(NamedTuple):
    head: int
    match: Match | None


class Plugins:
    """Loop-only but for ``frameworks_of``. ``problems``: why others were not loaded, a line each."""

    def __init__(self, found: Found, *, limit: float = LIMIT) -> None:
        self.problems = tuple(found.problems)
        self._guards = [Guard(each, limit=limit) for each in found.plugins]
        self._all = [guard for guard in self._guards if not guard.extensions]
        self._by_extension: dict[str, list[Guard]] = {}
        for guard in self._guards:
            for extension in guard.extensions:
                self._by_extension.setdefault(extension, []).append(guard)
        self._known: OrderedDict[str, _Answer] = OrderedDict()
        named = [(guard.name, guard.loaded.libraries) for guard in self._guards]
        at = next((number for number, (name, _) in enumerate(named, 1) if name == _BEFORE_THEM), len(named))
        self._searches = [
            (name, [search(pattern) for pattern in patterns])
            for name, patterns in (*named[:at], *WITHOUT_PLUGIN.items(), *named[at:])
        ]

    # ---- files

    def concerns(self, path: str) -> bool:
        """Whether a plugin says that it may know such a file, by the name alone."""
        return bool(self._fitting(path))

    def chunk_size(self, path: str) -> int:
        """Bytes in which such a file is to be fetched, by its name alone; 0: no plugin says. Any thread."""
        return min(
            (each.loaded.chunk_size for each in self._fitting(path) if each.loaded.chunk_size), default=0
        )

    def recall(self, path: str) -> Match | None:
        """As ``framework``, but only from memory."""
        found = self._known.get(path)
        return found.match if found is not None else None

    def remembers(self, path: str) -> bool:
        """Whether ``framework`` was asked about the file, not too long ago."""
        return path in self._known

    async def framework(self, path: str, head: bytes = b"") -> Match | None:
        """The framework of the file at ``path``, from the mount's root; None: of none that is known.

        ``head``: its first ``HEAD`` bytes, empty where nobody has read them. Asked once, and again when
        there is another head. Of plugins that are as sure the first counts.
        """
        key = hash(head[:HEAD]) if head else 0
        known = self._known.get(path)
        if known is not None and (not head or known.head == key):
            self._known.move_to_end(path)
            return known.match
        match: Match | None = None
        asked = self._fitting(path)
        for guard in asked:
            sure = await guard.detect(path, head)
            if sure >= SURE and (match is None or sure > match.confidence):
                match = Match(guard.name, sure)
        if asked:
            self._known[path] = _Answer(key, match)
            self._known.move_to_end(path)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return match

    async def hints(self, context: Context) -> Hints:
        """What the surest plugin says will be read; ``NONE`` where there is none."""
        match = await self.framework(context.path, context.head)
        guard = next((each for each in self._guards if match and each.name == match.framework), None)
        return await guard.hints(context) if guard is not None else NONE

    def _fitting(self, path: str) -> list[Guard]:
        """Who may be asked about a file, in their order."""
        if not self._by_extension:
            return [guard for guard in self._all if not guard.disabled]
        found = list(self._all)
        name = path.rpartition("/")[2].lower()
        at = len(name)
        for _ in range(_MOST_DOTS):
            at = name.rfind(".", 0, at)
            if at < 0:
                break
            found += self._by_extension.get(name[at:], ())
        if not found:
            return found
        return [guard for guard in self._guards if guard in found and not guard.disabled]

    # ---- processes

    def frameworks_of(self, libraries: Iterable[str]) -> tuple[str, ...]:
        """The frameworks of a process that has mapped these files, by their paths, in the order of the
        plugins. Any thread; about a microsecond for each path and pattern."""
        texts = [path.encode(errors="replace") for path in libraries]
        found = (
            name for name, searches in self._searches
            if any(search(text) for search in searches for text in texts)
        )  # fmt: skip
        return tuple(dict.fromkeys(found))

    # ---- the plugins themselves

    def states(self) -> Iterable[State]:
        for guard in self._guards:
            yield State(
                guard.name, guard.loaded.origin, API, guard.extensions, guard.calls, guard.disabled
            )  # fmt: skip

    def close(self) -> None:
        for guard in self._guards:
            guard.close()


_OPTIONS = re2.Options()
_OPTIONS.max_mem = 1 << 18
_OPTIONS.log_errors = False


def search(pattern: str) -> Callable[[bytes], bool]:
    """Whether a pattern of ``Plugin.libraries`` is found in a path."""
    find = re2.compile(pattern.encode(), _OPTIONS).search
    return lambda text: find(text) is not None
