"""A decision in words: each rule, each condition with the value it met, and who decided what.

Slow and complete, for people: every rule is asked, not only those that the index lets through.
"""

from __future__ import annotations

from collections.abc import Iterator

from swmld.rules.actions import ActionType
from swmld.rules.conditions import All, Any, Facts, Leaf, Node, Not
from swmld.rules.decide import Decision, Engine, Outcome, matches
from swmld.rules.kinds import Value, shown_value
from swmld.rules.ruleset import Rule

WORDS = {True: "true", False: "false", None: "not known"}


def explanation(engine: Engine, facts: Facts) -> Iterator[str]:
    """Lines: the rules by rank, then the decisions."""
    outcome = engine.decide(facts)
    for rule in engine.rules:
        yield from of_rule(rule, facts)
        yield ""
    yield from of_outcome(outcome)


def of_rule(rule: Rule, facts: Facts) -> Iterator[str]:
    """One rule: matched or not, the share it reached, its conditions and actions."""
    total = sum(weight for weight, _ in rule.conditions)
    true = sum(weight for weight, node in rule.conditions if node.holds(facts) is True)
    share = true / total if total else 1.0
    matched = matches(rule, facts)
    head = "matched" if matched else "not matched"
    yield (
        f"{rule.title}: {head}, {_percent(share)} of the weight is true, {_percent(rule.threshold)} needed "
        f"(priority {rule.priority}, specificity {rule.specificity}, {rule.where})"
    )
    if rule.guard is not None:
        yield from _tree(rule.guard, facts, "  must hold: ", "    ")
    for weight, node in rule.conditions:
        part = _percent(weight / total) if total else "0%"
        yield from _tree(node, facts, f"  {part} ", "    ")
    for action in rule.actions:
        yield f"  -> {action}"


def _tree(node: Node, facts: Facts, lead: str, indent: str) -> Iterator[str]:
    held = WORDS[node.holds(facts)]
    match node:
        case Leaf():
            yield f"{lead}{held}: {node} ({_met(node, facts)})"
            return
        case Not():
            members: tuple[Node, ...] = (node.member,)
            word = "not"
        case All() | Any():
            members = node.members
            word = "all of" if isinstance(node, All) else "any of"
    yield f"{lead}{held}: {word}"
    for member in members:
        yield from _tree(member, facts, indent, indent + "  ")


def _met(leaf: Leaf, facts: Facts) -> str:
    what = leaf.test.what
    value = facts.get(what.name)
    return "not known" if value is None else f"it is {_quoted(shown_value(what.kind, value))}"


def _quoted(text: str) -> str:
    return text if text.isprintable() and text.strip() == text and text else repr(text)


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def of_outcome(outcome: Outcome) -> Iterator[str]:
    """What was decided, by which rule, and whom it overruled."""
    if not outcome.decisions and not outcome.dropped:
        yield "Decided: nothing, no rule matched."
        return
    yield "Decided:"
    for decision in outcome.decisions:
        yield from of_decision(decision, "")
    for decision, why in outcome.dropped:
        yield from of_decision(decision, f", dropped: {why}")


def of_decision(decision: Decision, remark: str) -> Iterator[str]:
    rules = ", ".join(rule.title for rule in decision.rules)
    yield f"  {decision.action} {decision.target}{remark} (asked for by {rules})"
    known = ActionType.parameters_of[type(decision.effect)]
    for entry in decision.settled:
        shown = _quoted(shown_value(known[entry.parameter].kind, entry.value))
        yield f"    {entry.parameter} = {shown}, by {entry.rule.title}"
    if rest := [name for name in known if name not in {entry.parameter for entry in decision.settled}]:
        yield f"    by default: {', '.join(_default(decision, name) for name in rest)}"
    for lost in decision.overruled:
        shown = _quoted(shown_value(known[lost.parameter].kind, lost.value)) if lost.value is not None else ""
        reason = why(lost.by, lost.rule)
        yield (
            f"    overruled: {lost.parameter} = {shown} of {lost.rule.title}, by {lost.by.title} ({reason})"
        )


def _default(decision: Decision, name: str) -> str:
    value: Value | None = getattr(decision.effect, name)
    kind = ActionType.parameters_of[type(decision.effect)][name].kind
    return f"{name} none" if value is None else f"{name} {_quoted(shown_value(kind, value))}"


def why(winner: Rule, loser: Rule) -> str:
    """What the first rule has before the other."""
    if winner.priority != loser.priority:
        return f"priority {winner.priority} before {loser.priority}"
    if winner.specificity != loser.specificity:
        return f"specificity {winner.specificity} before {loser.specificity}"
    if winner is loser:
        return "an action before it in the same rule"
    return "comes first"
