"""Rules in the running daemon: which are active, what was decided, and what they say of a file.

``rules`` and ``history`` are pages of HTTP as well. What takes long with many rules (their text, a long
history) is put together in a worker thread. Without rules these methods answer that there are none, and no
module of rules is imported.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import trio

from swmld.api.asgi import Page
from swmld.api.messages import (
    ExplainResult,
    Handler,
    HistoryParams,
    HistoryResult,
    Progress,
    RulesParams,
    RulesResult,
    RulesStatus,
)
from swmld.api.metrics import RuleFigures
from swmld.api.params import from_query, has_path, text, whole_number
from swmld.api.rules_views import (
    Known,
    applied,
    explained,
    history_sums,
    history_view,
    listing,
    no_rules,
    rule_bytes,
    rule_compressed,
    rule_rates,
    rule_view,
    rule_waits,
)
from swmld.errors import UsageError

if TYPE_CHECKING:
    from swmld.head.history import By, Decided, History
    from swmld.head.reload import Loaded
    from swmld.rules.decide import Engine
    from swmld.rules.ruleset import Rule, RuleSet

LIMIT = 100
"""Decisions, if the client names no number: some screens."""
MOST = 1000
"""Of either in one answer: 400 KB of JSON, which stop the event loop for some milliseconds."""

BY: tuple[By, ...] = ("rule", "action", "job", "dataset", "file")

NONE = "no rules are in use; start the daemon with --rules PATH"


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
    """Answers for ``head``; None: the daemon was given no rules. ``loaded``: how it stands with the files,
    those of its settings where there are no rules; None: it was given none.

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
        loaded = self._loaded
        if loaded is None:
            return None
        return RulesStatus(
            ruled=self._head is not None,
            active=len(self._head.engine.rules) if self._head is not None else 0,
            loaded_at=loaded.at,
            error=loaded.error,
            error_at=loaded.error_at,
            pending=list(loaded.pending),
        )

    def figures(self) -> RuleFigures | None:
        """For ``metrics.Snapshot``; None: the daemon was given neither rules nor a configuration."""
        head, told = self._head, self._told
        if self._loaded is None:
            return None
        if head is None:
            return RuleFigures(reload_errors=self._loaded.errors)
        return RuleFigures(
            active=len(head.engine.rules),
            decisions=head.history.decisions,
            reload_errors=self._loaded.errors,
            applied=applied(head.engine.rules, head.history.tallies()),
            brought=rule_bytes(head.engine.rules, head.history.tallies()),
            compressed=rule_compressed(head.engine.rules, head.history.tallies()),
            waited=rule_waits(head.engine.rules, head.history.tallies()),
            waiting=rule_rates(head.engine.rules, head.history.tallies(), head.history.waiting.homes()),
            events=dict(told.events) if told is not None else {},
            notifications=dict(told.notifications) if told is not None else {},
        )

    # ---- rules

    async def _rules(
        self, params: dict[str, Any], progress: Progress, *, public: bool = False
    ) -> RulesResult:
        rule = text(params, "rule")
        offset, limit = (
            whole_number(params, "offset", 0, 1 << 31) or 0,
            whole_number(params, "limit", 1, MOST) or MOST,
        )
        head, loaded = self._head, self._loaded
        if head is None or loaded is None:
            return no_rules()
        rules, tallies, decisions = head.rules, head.history.tallies(), head.history.decisions
        ranked = head.engine.rules
        homes = head.history.waiting.homes()
        named = _named(ranked, rule)
        shown = named[offset : offset + limit]
        return await trio.to_thread.run_sync(
            lambda: listing(
                rules, len(ranked), loaded, decisions,
                [rule_view(each, tallies.get(each.title), homes, public) for each in shown],
                max(0, len(named) - offset - limit),
            )
        )  # fmt: skip

    async def _rules_page(self, query: str) -> bytes:
        params = from_query(query, RulesParams)
        return await _json(await self._rules(params, _nobody, public=True))

    # ---- history

    async def _history(
        self, params: dict[str, Any], progress: Progress, *, public: bool = False
    ) -> HistoryResult:
        wanted = Wanted.of(params, self._mount)
        if self._head is None:
            none = HistoryResult(decisions=[], total=0, more=False)
            return none if wanted.by is None else {"sums": [], **none}
        history = self._head.history
        newest, total, homes = list(history.newest()), history.decisions, history.waiting.homes()
        if (by := wanted.by) is not None:
            return await trio.to_thread.run_sync(
                lambda: history_sums(filter(wanted.has, newest), by, wanted.limit, total, homes)
            )
        return await trio.to_thread.run_sync(
            lambda: history_view(newest, wanted.has, wanted.limit, total, homes, public)
        )

    async def _history_page(self, query: str) -> bytes:
        params = from_query(query, HistoryParams)
        return await _json(await self._history(params, _nobody, public=True))

    # ---- explain

    async def _explain(self, params: dict[str, Any], progress: Progress) -> ExplainResult:
        given, rule = text(params, "path"), text(params, "rule")
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
        homes = head.history.waiting.homes()
        chosen, everything = _named(engine.rules, rule), bool(params.get("all")) or rule is not None
        return await trio.to_thread.run_sync(
            lambda: explained(engine, known, path, newest, homes, chosen, everything, rule is None)
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
    job: int | None = None
    dataset: str | None = None
    by: By | None = None
    since: int = 0
    before: int | None = None
    limit: int = LIMIT

    @classmethod
    def of(cls, params: Mapping[str, Any], mount: str) -> Wanted:
        """From the parameters of a request; raises UsageError."""
        path, action, dataset = text(params, "path"), text(params, "action"), text(params, "dataset")
        return cls(
            (below(mount, path) or None) if path is not None else None,
            text(params, "rule"),
            _action(action) if action is not None else None,
            whole_number(params, "pid", 0, 1 << 31),
            whole_number(params, "job", 0, 1 << 31),
            (below(mount, dataset) or None) if dataset is not None else None,
            _by(text(params, "by")),
            whole_number(params, "since", 0, 1 << 62) or 0,
            whole_number(params, "before", 0, 1 << 62),
            whole_number(params, "limit", 1, MOST) or LIMIT,
        )

    def has(self, decided: Decided) -> bool:
        outcome = decided.outcome
        return (
            decided.id > self.since
            and (self.before is None or decided.id < self.before)
            and self.pid in (None, decided.pid)
            and self.job in (None, decided.job)
            and (self.dataset is None or f"{decided.dataset}/".startswith(f"{self.dataset}/"))
            and (self.path is None or has_path(self.path, decided.path))
            and (self.rule is None or any(self.rule in (rule.id, rule.title) for rule in outcome.matched))
            and (self.action is None or any(self.action == one.action for one in outcome.decisions))
        )


def _action(name: str) -> str:
    """The name that decisions have; rules may write another for it."""
    from swmld.rules.actions import NAME_OF, find

    try:
        return NAME_OF[find(name).effect]
    except ValueError as error:
        raise UsageError(f"action: {error}") from None


def _by(name: str | None) -> By | None:
    if name is None:
        return None
    for known in BY:
        if name == known:
            return known
    *first, last = BY
    raise UsageError(f"by: expected {', '.join(first)} or {last}, got {name!r}")


# ---- requests


def _named(rules: Sequence[Rule], wanted: str | None) -> Sequence[Rule]:
    if wanted is None:
        return rules
    found = [rule for rule in rules if wanted in (rule.id, rule.title)]
    if not found:
        raise UsageError(f"no active rule {wanted}; swmld rules ls lists them")
    return found


async def _nobody(message: Mapping[str, Any]) -> None:
    """Progress of a page."""


async def _json(found: Mapping[str, Any]) -> bytes:
    return await trio.to_thread.run_sync(lambda: json.dumps(found).encode("ascii") + b"\n")
