"""Plugins of the running daemon: which there are, and which are not used any more and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypedDict

from swmld.api.messages import Handler, Progress
from swmld.plugins.known import State


class PluginView(TypedDict):
    """``disabled``: why it is not asked any more, "" while it is. ``calls``: how often it was asked."""

    name: str
    origin: str
    api: int
    extensions: list[str]
    calls: int
    disabled: str


class PluginsResult(TypedDict):
    """``problems``: why others were not loaded, a line each. ``used``: False with --no-plugins."""

    used: bool
    plugins: list[PluginView]
    problems: list[str]


class Plugged(Protocol):
    """``plugins.known.Plugins``."""

    @property
    def problems(self) -> Sequence[str]: ...
    def states(self) -> Iterable[State]: ...


def result(plugins: Plugged | None) -> PluginsResult:
    """None: the daemon uses none."""
    if plugins is None:
        return {"used": False, "plugins": [], "problems": []}
    views: list[PluginView] = [
        {"name": each.name, "origin": each.origin, "api": each.api, "extensions": list(each.extensions),
         "calls": each.calls, "disabled": each.disabled}
        for each in plugins.states()
    ]  # fmt: skip
    return {"used": True, "plugins": views, "problems": list(plugins.problems)}


def states(plugins: Plugged | None) -> dict[str, int]:
    """How many there are of each state, for the metrics."""
    if plugins is None:
        return {}
    disabled = [bool(each.disabled) for each in plugins.states()]
    return {
        "in use": disabled.count(False), "disabled": disabled.count(True), "refused": len(plugins.problems),
    }  # fmt: skip


def calls(plugins: Plugged | None) -> dict[str, int]:
    """How often each was asked."""
    return {each.name: each.calls for each in plugins.states()} if plugins is not None else {}


def handlers(plugins: Plugged | None) -> Mapping[str, Handler]:
    """Methods of the control socket."""

    async def listed(params: Mapping[str, Any], progress: Progress) -> PluginsResult:
        return result(plugins)

    return {"plugins": listed}
