"""Rules in the running daemon: which are active, what was decided, and what they say of a file.

``rules`` and ``history`` are pages of HTTP as well. What takes long with many rules (their text, a long
history) is put together in a worker thread. Without rules these methods answer that there are none, and no
module of rules is imported.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl

import trio

from swmld.api.messages import (
    BroughtBytes,
    DecisionView,
    ExplainResult,
    Handler,
    HistoryEntry,
    HistoryResult,
    InactiveRule,
    OverruledValue,
    Progress,
    RulesResult,
    RulesStatus,
    RuleView,
    SettledValue,
)
from swmld.api.metrics import RuleFigures
from swmld.errors import UsageError

if TYPE_CHECKING:
    from swmld.head.history import Brought, Decided, History, Tally
    from swmld.head.reload import Loaded
    from swmld.rules.decide import Decision, Engine
    from swmld.rules.kinds import Value
    from swmld.rules.ruleset import Rule, RuleSet

LIMIT = 100
"""Decisions, if the client names no number: some screens."""
RULES = 1000
"""Rules likewise."""
MOST = 50_000
LINES = 100
"""Of each list of remarks."""

NAMED = 1000
"""Rules that have a counter of their own in the metrics; a scraper keeps a series for each."""
OTHERS = "(others)"
"""No rule and no event is called that."""

NONE = "no rules are in use; start the daemon with --rules PATH"

Known = Mapping[str, "Value"]
Page = Callable[[str], Awaitable[bytes]]


class Ruled(Protocol):
    """``head.head.Head``, as far as clients are told of it. Loop-only."""

    rules: RuleSet
    engine: Engine
    history: History


class Told(Protocol):
    """``head.notify.Notifier``: how many events by name, and what came of them by (how, result)."""

    @property
    def events(self) -> Mapping[str, int]: ...
    @property
    def notifications(self) -> Mapping[tuple[str, str], int]: ...


class RulesApi:
    """Answers for ``head``; None: the daemon was given no rules.

    ``mount``: paths of clients may begin with it. ``known(path)``: what is known of the file at ``path``,
    from the mount's root; raises OSError or UsageError for one that is not there.
    """

    def __init__(
        self,
        head: Ruled | None,
        loaded: Loaded | None,
        told: Told | None,
        *,
        mount: Path,
        known: Callable[[str], Awaitable[Known]],
    ) -> None:
        self._head = head
        self._loaded = loaded
        self._told = told
        self._mount = str(mount).rstrip("/")
        self._known = known

    def handlers(self) -> Mapping[str, Handler]:
        """By method name; see ``messages.METHODS``."""
        return {"rules": self._rules, "history": self._history, "explain": self._explain}

    def pages(self) -> Mapping[str, Page]:
        """By path, for ``http.serve``: JSON from the query, or UsageError."""
        return {"/ml/rules": self._rules_page, "/ml/history": self._history_page}

    def status(self) -> RulesStatus | None:
        """For ``status``."""
        if self._head is None or self._loaded is None:
            return None
        loaded = self._loaded
        return RulesStatus(
            active=len(self._head.engine.rules),
            loaded_at=loaded.at,
            error=loaded.error,
            error_at=loaded.error_at,
        )

    def figures(self) -> RuleFigures | None:
        """For ``metrics.Snapshot``; None: the daemon was given no rules."""
        head, told = self._head, self._told
        if head is None or self._loaded is None:
            return None
        return RuleFigures(
            active=len(head.engine.rules),
            decisions=head.history.decisions,
            reload_errors=self._loaded.errors,
            applied=_applied(head.engine.rules, head.history.tallies()),
            events=dict(told.events) if told is not None else {},
            notifications=dict(told.notifications) if told is not None else {},
        )

    # ---- rules

    async def _rules(self, params: dict[str, Any], progress: Progress) -> RulesResult:
        rule, limit = _text(params, "rule"), _number(params, "limit", 1, MOST) or RULES
        head, loaded = self._head, self._loaded
        if head is None or loaded is None:
            return _no_rules()
        rules, tallies, decisions = head.rules, head.history.tallies(), head.history.decisions
        ranked = head.engine.rules
        return await trio.to_thread.run_sync(
            lambda: _listing(rules, _named(ranked, rule), tallies, loaded, decisions, len(ranked), limit)
        )

    async def _rules_page(self, query: str) -> bytes:
        return await _json(await self._rules(_query(query, texts=("rule",), numbers=("limit",)), _nobody))

    # ---- history

    async def _history(self, params: dict[str, Any], progress: Progress) -> HistoryResult:
        wanted = Wanted.of(params, self._mount)
        if self._head is None:
            return HistoryResult(decisions=[], total=0, more=False)
        history = self._head.history
        newest, total = list(history.newest()), history.decisions
        return await trio.to_thread.run_sync(lambda: _chosen(newest, wanted, total))

    async def _history_page(self, query: str) -> bytes:
        params = _query(query, texts=("path", "rule", "action"), numbers=("pid", "since", "limit"))
        return await _json(await self._history(params, _nobody))

    # ---- explain

    async def _explain(self, params: dict[str, Any], progress: Progress) -> ExplainResult:
        given, rule = _text(params, "path"), _text(params, "rule")
        if given is None:
            raise UsageError("path: expected text")
        head = self._head
        if head is None:
            raise UsageError(NONE)
        path = below(self._mount, given)
        try:
            known = await self._known(path)
        except OSError as error:
            raise UsageError(f"{given}: {error.strerror or error}") from None
        engine, newest = head.engine, list(head.history.newest())
        everything = bool(params.get("all"))
        return await trio.to_thread.run_sync(
            lambda: _explained(engine, known, path, newest, rule, everything)
        )


def below(mount: str, path: str) -> str:
    """``path``, which may begin with the mount, from the mount's root."""
    found = os.path.normpath(os.path.join(mount or "/", path)).lstrip("/")
    top = mount.lstrip("/")
    if found != top and not found.startswith(top + "/" if top else ""):
        raise UsageError(f"{path}: expected a path under {mount}")
    return found[len(top) :].strip("/")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which decisions a client asks for; None: all."""

    path: str | None = None
    rule: str | None = None
    action: str | None = None
    pid: int | None = None
    since: int = 0
    limit: int = LIMIT

    @classmethod
    def of(cls, params: Mapping[str, Any], mount: str) -> Wanted:
        """From the parameters of a request; raises UsageError."""
        path, action = _text(params, "path"), _text(params, "action")
        return cls(
            (below(mount, path) or None) if path is not None else None,
            _text(params, "rule"),
            _action(action) if action is not None else None,
            _number(params, "pid", 0, 1 << 31),
            _number(params, "since", 0, 1 << 62) or 0,
            _number(params, "limit", 1, MOST) or LIMIT,
        )

    def has(self, decided: Decided) -> bool:
        outcome = decided.outcome
        return (
            decided.id > self.since
            and self.pid in (None, decided.pid)
            and (self.path is None or self._has_path(self.path, decided.path))
            and (self.rule is None or any(self.rule in (rule.id, rule.title) for rule in outcome.matched))
            and (self.action is None or any(self.action == one.action for one in outcome.decisions))
        )

    @staticmethod
    def _has_path(wanted: str, path: str) -> bool:
        return path == wanted or path.startswith(wanted + "/") or fnmatchcase(path, wanted)


def _action(name: str) -> str:
    """The name that decisions have; rules may write another for it."""
    from swmld.rules.actions import NAME_OF, find

    try:
        return NAME_OF[find(name).effect]
    except ValueError as error:
        raise UsageError(f"action: {error}") from None


# ---- what is answered, put together in a worker thread


def _named(rules: Sequence[Rule], wanted: str | None) -> Sequence[Rule]:
    if wanted is None:
        return rules
    found = [rule for rule in rules if wanted in (rule.id, rule.title)]
    if not found:
        raise UsageError(f"no active rule {wanted}; swmld rules ls lists them")
    return found


def _no_rules() -> RulesResult:
    return RulesResult(
        paths=[], environment=None, active=0, rules=[], left_out=0, inactive=[], not_acting=[], notes=[],
        decisions=0, loaded_at=0.0, reloads=0, errors=0, error="", error_at=0.0,
    )  # fmt: skip


def _listing(
    rules: RuleSet,
    ranked: Sequence[Rule],
    tallies: Mapping[str, Tally],
    loaded: Loaded,
    decisions: int,
    active: int,
    limit: int,
) -> RulesResult:
    from swmld.head.head import not_acting

    return RulesResult(
        paths=[str(path) for path in loaded.paths],
        environment=loaded.environment,
        active=active,
        rules=[_view(rule, tallies.get(rule.title)) for rule in ranked[:limit]],
        left_out=max(0, len(ranked) - limit),
        inactive=[InactiveRule(title=title, why=why) for title, why in rules.inactive[:LINES]],
        not_acting=not_acting(rules)[:LINES],
        notes=list(rules.notes[:LINES]),
        decisions=decisions,
        loaded_at=loaded.at,
        reloads=loaded.reloads,
        errors=loaded.errors,
        error=loaded.error,
        error_at=loaded.error_at,
    )


def _view(rule: Rule, tally: Tally | None) -> RuleView:
    return RuleView(
        id=rule.id,
        title=rule.title,
        name=rule.name,
        where=rule.where,
        priority=rule.priority,
        specificity=rule.specificity,
        threshold=rule.threshold,
        cool_down=rule.cool_down,
        guard=str(rule.guard) if rule.guard is not None else "",
        conditions=[
            str(node) if weight == 1 else f"{node} (weight {weight:g})" for weight, node in rule.conditions
        ],
        actions=[str(action) for action in rule.actions],
        applied=tally.applied if tally is not None else 0,
        won=tally.won if tally is not None else 0,
        last=tally.last if tally is not None else 0.0,
        brought=_brought(tally.brought if tally is not None else None),
    )


def _brought(given: Brought | None) -> BroughtBytes:
    if given is None:
        return BroughtBytes(asked=0, fetched=0, used=0)
    return BroughtBytes(asked=given.asked, fetched=given.fetched, used=given.used)


def _chosen(newest: Iterable[Decided], wanted: Wanted, total: int) -> HistoryResult:
    found = list(islice((one for one in newest if wanted.has(one)), wanted.limit + 1))
    entries = [_entry(one) for one in found[: wanted.limit]]
    return HistoryResult(decisions=entries, total=total, more=len(found) > wanted.limit)


def _entry(decided: Decided) -> HistoryEntry:
    outcome = decided.outcome
    return HistoryEntry(
        id=decided.id,
        at=decided.at,
        path=decided.path,
        pid=decided.pid,
        rules=[rule.title for rule in outcome.matched],
        resting=[rule.title for rule in outcome.resting],
        decisions=[
            *(_decision(one, "") for one in outcome.decisions),
            *(_decision(one, why) for one, why in outcome.dropped),
        ],
        brought=_brought(decided.brought),
    )


def _decision(decision: Decision, dropped: str) -> DecisionView:
    return DecisionView(
        action=decision.action,
        target=decision.target,
        rules=[rule.title for rule in decision.rules],
        settled=[_value(decision, one.parameter, one.value, one.rule) for one in decision.settled],
        overruled=[
            OverruledValue(**_value(decision, one.parameter, one.value, one.rule), by=one.by.title)
            for one in decision.overruled
        ],
        dropped=dropped,
    )


def _value(decision: Decision, parameter: str, value: Value | None, rule: Rule) -> SettledValue:
    from swmld.rules.actions import ActionType
    from swmld.rules.kinds import shown_value

    kind = ActionType.parameters_of[type(decision.effect)][parameter].kind
    return SettledValue(
        parameter=parameter,
        value=sorted(value) if isinstance(value, frozenset) else value,
        shown="" if value is None else shown_value(kind, value),
        rule=rule.title,
    )


def _explained(
    engine: Engine, known: Known, path: str, newest: Iterable[Decided], rule: str | None, everything: bool
) -> ExplainResult:
    from swmld.rules import explain
    from swmld.rules.catalogue import BY_NAME
    from swmld.rules.kinds import shown_value

    outcome = engine.decide(known)
    matching = set(map(id, outcome.matched))
    lines: list[str] = []
    for one in _named(engine.rules, rule):
        if everything or rule is not None or id(one) in matching:
            lines += [*explain.of_rule(one, known), ""]
    if rule is None:
        lines += explain.of_outcome(outcome)
    latest = next((one for one in newest if one.path == path), None)
    return ExplainResult(
        path=path,
        known={
            name: shown_value(BY_NAME[name].kind, value) if name in BY_NAME else str(value)
            for name, value in known.items()
        },
        lines=lines,
        matched=len(outcome.matched),
        active=len(engine.rules),
        latest=_entry(latest) if latest is not None else None,
    )


def _applied(rules: Sequence[Rule], tallies: Mapping[str, Tally]) -> dict[str, int]:
    """How often each rule was applied, by title; bounded."""
    found: dict[str, int] = {}
    others = 0
    for rule in rules:
        tally = tallies.get(rule.title)
        count = tally.applied if tally is not None else 0
        if rule.title in found or len(found) < NAMED:
            found[rule.title] = count
        else:
            others += count
    return found | {OTHERS: others} if len(rules) > NAMED else found


# ---- requests


def _text(params: Mapping[str, Any], name: str) -> str | None:
    value = params.get(name)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{name}: expected text")
    return value or None


def _number(params: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    value = params.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UsageError(f"{name}: expected a number from {least} to {most}, got {value!r}")
    return value


def _query(query: str, *, texts: tuple[str, ...], numbers: tuple[str, ...]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True, errors="surrogateescape"):
        if name not in texts + numbers:
            known = (*texts, *numbers)
            raise UsageError(f"{name}: expected {', '.join(known[:-1])} or {known[-1]}")
        is_number = name in numbers and re.fullmatch("[0-9]{1,18}", value)
        given[name] = int(value) if is_number else value
    return given


async def _nobody(message: Mapping[str, Any]) -> None:
    """Progress of a page."""


async def _json(found: Mapping[str, Any]) -> bytes:
    return await trio.to_thread.run_sync(lambda: json.dumps(found).encode("ascii") + b"\n")
