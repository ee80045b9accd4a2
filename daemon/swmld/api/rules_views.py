"""Rules and decisions as clients get them: values of ``messages``. Worker threads put them together, since
thousands of rules take a while.

``public``: for HTTP, where whoever can connect would learn what the URL of a webhook keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from swmld.api.messages import (
    BroughtBytes,
    CompressedBytes,
    DecisionView,
    ExplainResult,
    HistoryEntry,
    HistoryResult,
    HistorySum,
    InactiveRule,
    OverruledValue,
    RulesResult,
    RuleView,
    SettledValue,
    WaitingTime,
)

if TYPE_CHECKING:
    from swmld.head.history import Brought, By, Decided, Packed, Tally
    from swmld.head.reload import Loaded
    from swmld.head.waiting import Compared, Homes
    from swmld.rules.actions import Action
    from swmld.rules.decide import Decision, Engine, Overruled, Settled
    from swmld.rules.kinds import Value
    from swmld.rules.ruleset import Rule, RuleSet

LINES = 100
"""Of each list of remarks."""

NAMED = 1000
"""Rules that have a counter of their own in the metrics; a scraper keeps a series for each."""
OTHERS = "(others)"
"""No rule and no event is called that."""

SECRET = ("command", "webhook")
"""Parameters whose values the public does not get."""
HIDDEN = "(not shown)"

Known = Mapping[str, "Value"]


def no_rules() -> RulesResult:
    """What a daemon says that was given none."""
    return RulesResult(
        paths=[], environment=None, active=0, rules=[], left_out=0, inactive=[], notes=[],
        decisions=0, loaded_at=0.0, reloads=0, errors=0, error="", error_at=0.0,
    )  # fmt: skip


def listing(
    rules: RuleSet, active: int, loaded: Loaded, decisions: int, views: list[RuleView], left_out: int
) -> RulesResult:
    """``views`` of some rules, and what there is to say of all."""
    return RulesResult(
        paths=[str(path) for path in loaded.paths],
        environment=loaded.environment,
        active=active,
        rules=views,
        left_out=left_out,
        inactive=[InactiveRule(title=title, why=why) for title, why in rules.inactive[:LINES]],
        notes=list(rules.notes[:LINES]),
        decisions=decisions,
        loaded_at=loaded.at,
        reloads=loaded.reloads,
        errors=loaded.errors,
        error=loaded.error,
        error_at=loaded.error_at,
    )


def rule_view(rule: Rule, tally: Tally | None, homes: Homes, public: bool) -> RuleView:
    """One active rule; without ``tally`` it was never applied."""
    from swmld.head.waiting import Name

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
        actions=[str(_open(action) if public else action) for action in rule.actions],
        applied=tally.applied if tally is not None else 0,
        won=tally.won if tally is not None else 0,
        last=tally.last if tally is not None else 0.0,
        brought=_brought(tally.brought if tally is not None else None),
        compressed=_compressed(tally.packed if tally is not None else None),
        waiting=_waiting(homes.of(Name("rule", rule.title))),
    )


def _open(action: Action) -> Action:
    """Without what only root should see."""
    hidden = {name: HIDDEN for name in SECRET if name in action.given}
    return replace(action, given={**action.given, **hidden}) if hidden else action


def _brought(given: Brought | None) -> BroughtBytes:
    if given is None:
        return BroughtBytes(asked=0, fetched=0, used=0, late=0, wasted=0)
    return BroughtBytes(
        asked=given.asked, fetched=given.fetched, used=given.used, late=given.late, wasted=given.wasted
    )


def _compressed(given: Packed | None) -> CompressedBytes:
    if given is None:
        return CompressedBytes(bytes=0, stored=0)
    return CompressedBytes(bytes=given.nbytes, stored=given.stored)


def _waiting(given: Compared | None) -> WaitingTime | None:
    if given is None:
        return None
    return WaitingTime(
        seconds=given.after.seconds,
        bytes=given.after.bytes,
        reads=given.after.reads,
        compared_seconds=given.of.seconds,
        compared_bytes=given.of.bytes,
        before_seconds=given.before,
        basis=given.basis,
    )


def history_view(
    newest: Iterable[Decided],
    wanted: Callable[[Decided], bool],
    limit: int,
    total: int,
    homes: Homes,
    public: bool,
) -> HistoryResult:
    """The first ``limit`` of the decisions that are wanted."""
    found = list(islice((one for one in newest if wanted(one)), limit + 1))
    entries = [entry_view(one, homes, public) for one in found[:limit]]
    return HistoryResult(decisions=entries, total=total, more=len(found) > limit)


def history_sums(decisions: Iterable[Decided], by: By, limit: int, total: int, homes: Homes) -> HistoryResult:
    """What decisions come to, the first ``limit`` of the sums."""
    from swmld.head.history import compared, sums

    found = sums(decisions, by)
    shown = [
        HistorySum(
            key=key,
            decisions=one.decisions,
            last=one.last,
            brought=_brought(one.brought),
            waiting=_waiting(compared(homes, by, key, one.waited)),
        )
        for key, one in islice(found.items(), limit)
    ]
    return HistoryResult(sums=shown, decisions=[], total=total, more=len(found) > limit)


def entry_view(decided: Decided, homes: Homes, public: bool = False) -> HistoryEntry:
    """One decision with all that was asked for."""
    from swmld.head.waiting import ANY

    outcome, account = decided.outcome, decided.account
    waited = {} if account.key is None else {account.key: account.waited}
    return HistoryEntry(
        id=decided.id,
        at=decided.at,
        path=decided.path,
        pid=decided.pid,
        job=decided.job,
        dataset=decided.dataset,
        rules=[rule.title for rule in outcome.matched],
        resting=[rule.title for rule in outcome.resting],
        decisions=[
            *(_decision(one, "", public) for one in outcome.decisions),
            *(_decision(one, why, public) for one, why in outcome.dropped),
        ],
        brought=_brought(decided.brought),
        compressed=_compressed(decided.packed),
        waiting=_waiting(homes.compared(ANY, waited)),
    )


def _decision(decision: Decision, dropped: str, public: bool) -> DecisionView:
    return DecisionView(
        action=decision.action,
        target=decision.target,
        rules=[rule.title for rule in decision.rules],
        settled=[_value(decision, one, public) for one in decision.settled],
        overruled=[
            OverruledValue(**_value(decision, one, public), by=one.by.title) for one in decision.overruled
        ],
        dropped=dropped,
    )


def _value(decision: Decision, given: Settled | Overruled, public: bool) -> SettledValue:
    from swmld.rules.actions import ActionType
    from swmld.rules.kinds import shown_value

    kind = ActionType.parameters_of[type(decision.effect)][given.parameter].kind
    value = HIDDEN if public and given.parameter in SECRET else given.value
    return SettledValue(
        parameter=given.parameter,
        value=sorted(value) if isinstance(value, frozenset) else value,
        shown="" if value is None else shown_value(kind, value),
        rule=given.rule.title,
    )


def explained(
    engine: Engine,
    known: Known,
    path: str,
    newest: Iterable[Decided],
    homes: Homes,
    chosen: Iterable[Rule],
    everything: bool,
    decided: bool,
) -> ExplainResult:
    """Lines about the ``chosen`` rules, those that do not match only if ``everything``; then, if ``decided``,
    what is decided."""
    from swmld.rules import explain
    from swmld.rules.catalogue import BY_NAME
    from swmld.rules.kinds import shown_value

    outcome = engine.decide(known)
    matching = set(map(id, outcome.matched))
    lines: list[str] = []
    for rule in chosen:
        if everything or id(rule) in matching:
            lines += [*explain.of_rule(rule, known), ""]
    if decided:
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
        latest=entry_view(latest, homes) if latest is not None else None,
    )


def applied(rules: Sequence[Rule], tallies: Mapping[str, Tally]) -> dict[str, int]:
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


def rule_bytes(rules: Sequence[Rule], tallies: Mapping[str, Tally]) -> dict[tuple[str, str], int]:
    """Bytes by title of the rules that had some fetched ahead, and what came of them; bounded."""
    found: dict[tuple[str, str], int] = {}
    named: set[str] = set()
    for title in dict.fromkeys(rule.title for rule in rules):
        tally = tallies.get(title)
        if tally is None or not tally.brought.asked:
            continue
        label = title if len(named) < NAMED else OTHERS
        named.add(label)
        for outcome, nbytes in _brought(tally.brought).items():
            assert isinstance(nbytes, int)
            found[label, outcome] = found.get((label, outcome), 0) + nbytes
    return found


def rule_compressed(rules: Sequence[Rule], tallies: Mapping[str, Tally]) -> dict[tuple[str, str], int]:
    """Bytes by title of the rules that had some compressed, before and after; bounded."""
    found: dict[tuple[str, str], int] = {}
    named: set[str] = set()
    for title in dict.fromkeys(rule.title for rule in rules):
        tally = tallies.get(title)
        if tally is None or not tally.packed.nbytes:
            continue
        label = title if len(named) < NAMED else OTHERS
        named.add(label)
        for size, nbytes in (("raw", tally.packed.nbytes), ("stored", tally.packed.stored)):
            found[label, size] = found.get((label, size), 0) + nbytes
    return found


def rule_waits(rules: Sequence[Rule], tallies: Mapping[str, Tally]) -> dict[str, tuple[float, int]]:
    """Seconds waited and bytes read where each rule acted, by title; bounded."""
    found: dict[str, tuple[float, int]] = {}
    for title in dict.fromkeys(rule.title for rule in rules):
        tally = tallies.get(title)
        if tally is None or not tally.waited.reads:
            continue
        label = title if len(found) < NAMED else OTHERS
        seconds, nbytes = found.get(label, (0.0, 0))
        found[label] = seconds + tally.waited.seconds, nbytes + tally.waited.bytes
    return found


def rule_rates(
    rules: Sequence[Rule], tallies: Mapping[str, Tally], homes: Homes
) -> dict[tuple[str, str], float]:
    """Seconds waited a byte, by title and when (before, after); only where both are known, and bounded."""
    from swmld.head.waiting import Name

    found: dict[tuple[str, str], float] = {}
    for title in dict.fromkeys(rule.title for rule in rules):
        compared = homes.of(Name("rule", title)) if title in tallies else None
        if compared is not None and compared.before is not None:
            found[title, "before"] = compared.before / compared.of.bytes
            found[title, "after"] = compared.of.seconds / compared.of.bytes
            if len(found) >= 2 * NAMED:
                break
    return found
