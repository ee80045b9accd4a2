"""The plugins that a daemon uses, and with them the rules that are built in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from swmld.plugins import registry
from swmld.plugins.registry import Found


def find(directories: Iterable[Path] = (), *, ruled: bool = True) -> Found:
    """The plugins of this host and of these directories. ``ruled``: there are rules, which may name what
    plugins bring; it is built in then, and plugins that bring what is not sound are left out. Without, no
    module of rules is imported. Blocks; raises nothing."""
    found = registry.find((registry.DIRECTORY, *directories))
    if not ruled:
        return found
    from swmld.rules import plugged

    return plugged.vetted(found)
