"""Rules as they are used: typed, immutable, each with what made it active."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from swmld.documents import DocumentError
from swmld.rules.actions import Action
from swmld.rules.conditions import Node


class RulesError(DocumentError):
    """Rules that cannot be used as they are; every problem, each with file, line and column."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One active rule. ``conditions``: weight and tree; ``guard``: what its framework or profile demands
    besides; ``order``: its number among all; ``origin``: what made it active, "" if it is itself."""

    id: str
    priority: int
    conditions: tuple[tuple[float, Node], ...]
    guard: Node | None
    threshold: float
    actions: tuple[Action, ...]
    cool_down: float
    order: int
    origin: str
    where: str
    name: str = ""
    description: str = ""

    @property
    def title(self) -> str:
        """The id, and what made the rule active."""
        return f"{self.id} ({self.origin})" if self.origin else self.id

    @property
    def specificity(self) -> int:
        own = sum(node.specificity for _, node in self.conditions)
        return own + (self.guard.specificity if self.guard is not None else 0)


@dataclass(frozen=True, slots=True)
class RuleSet:
    """``rules``: active, in order. ``inactive``: title and reason of the others that files define.
    ``sections``: names of what else was read, by section. ``notes``: what is well-formed and may surprise."""

    rules: tuple[Rule, ...]
    inactive: tuple[tuple[str, str], ...]
    sections: Mapping[str, tuple[str, ...]]
    settings: Mapping[str, Any]
    notes: tuple[str, ...]


NO_RULES = RuleSet((), (), {}, {}, ())
