"""Which rules match, and which of them decides what.

A rule matches when its guard is true and the weighted share of its true conditions reaches its threshold.
Of the rules that match, each parameter of an action is decided, for each target, by one that gives it: the
one with the highest priority, then the most specific, then the first in order. What no rule gives has its
default. Rules whose value lost are listed as overruled. Two things are not settled parameter by parameter:
every ``notify`` stands for itself, and where ``cache`` says tier none nothing is fetched ahead or
compressed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from swmld.rules.actions import NAME_OF, Cache, Compress, Effect, Notify, Prefetch
from swmld.rules.compile import Index, ranked, reaches
from swmld.rules.conditions import Facts
from swmld.rules.kinds import Value
from swmld.rules.ruleset import Rule

E = TypeVar("E", bound=Effect)
Rests = Callable[[Rule], bool]


@dataclass(frozen=True, slots=True)
class Settled:
    """A parameter, its value, and the rule that gave it."""

    parameter: str
    value: Value
    rule: Rule


@dataclass(frozen=True, slots=True)
class Overruled:
    """What a rule wanted and did not get. ``parameter`` "" is the action as a whole."""

    parameter: str
    value: Value | None
    rule: Rule
    by: Rule


@dataclass(frozen=True, slots=True)
class Decision:
    """One action on one target. ``effect`` has every parameter, defaults included; ``rules`` all that asked
    for the action, the winner first."""

    effect: Effect
    target: str
    settled: tuple[Settled, ...]
    rules: tuple[Rule, ...]
    overruled: tuple[Overruled, ...] = ()

    @property
    def action(self) -> str:
        return NAME_OF[type(self.effect)]


@dataclass(frozen=True, slots=True)
class Outcome:
    """All decisions about one file at one moment. ``matched``: by rank; ``resting``: those that would have
    matched but for their cool-down; ``dropped``: decided and then made pointless by another decision."""

    decisions: tuple[Decision, ...]
    matched: tuple[Rule, ...]
    resting: tuple[Rule, ...] = ()
    dropped: tuple[tuple[Decision, str], ...] = ()

    def of(self, effect: type[E], target: str = "file") -> E | None:
        """The decided action of this kind on this target, if there is one."""
        for decision in self.decisions:
            if isinstance(decision.effect, effect) and decision.target == target:
                return decision.effect
        return None


def matches(rule: Rule, facts: Facts) -> bool:
    """Whether the rule applies to these facts, cool-down aside."""
    if rule.guard is not None and rule.guard.holds(facts) is not True:
        return False
    if rule.threshold == 1.0:
        return all(node.holds(facts) is True for weight, node in rule.conditions if weight)
    total = sum(weight for weight, _ in rule.conditions)
    true = sum(weight for weight, node in rule.conditions if node.holds(facts) is True)
    return reaches(true, total, rule.threshold)


class Engine:
    """Rules, compiled. Immutable: a changed configuration makes a new one."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = ranked(rules)
        self._index = Index(self.rules)
        same: dict[_Asked, _Asked] = {}
        self._asked = [same.setdefault(asked, asked) for asked in map(_asked, self.rules)]

    def parts(self) -> list[object]:
        """What it is made of beside the rules, in parts that are freed quickly each."""
        return [*self._asked, *self._index.parts()]

    def matching(self, facts: Facts) -> list[Rule]:
        """The rules that match, the winner first."""
        rules = self.rules
        return [rules[number] for number in self._index.matching(facts)]

    def decide(self, facts: Facts, rests: Rests | None = None) -> Outcome:
        """What is done. ``rests`` is asked of a rule with a cool-down whether it is in it."""
        rules, asked = self.rules, self._asked
        found = self._index.matching(facts)
        resting: list[int] = []
        if rests is not None:
            resting = [number for number in found if rules[number].cool_down and rests(rules[number])]
            found = [number for number in found if number not in resting] if resting else found
        decisions = _settled([(rules[number], asked[number]) for number in found])
        kept, dropped = _consistent(decisions)
        matched = tuple(rules[number] for number in found)
        return Outcome(tuple(kept), matched, tuple(rules[number] for number in resting), tuple(dropped))


_Key = tuple[type[Effect], str, int]
_Asked = tuple[tuple[_Key, tuple[tuple[str, Value], ...]], ...]
"""Rules that ask for the same have the same object: what it comes to is found out once in a decision."""


def _asked(rule: Rule) -> _Asked:
    """What a rule asks for, by what it competes for. Notifications do not compete: each is on its own."""
    return tuple(
        (
            (action.effect, action.target, 1 + (rule.order << 16 | number) if action.effect is Notify else 0),
            tuple(action.given.items()),
        )
        for number, action in enumerate(rule.actions)
    )


class _Slot:
    """One action on one target while it is settled."""

    __slots__ = ("overruled", "rules", "settled")

    def __init__(self) -> None:
        self.settled: dict[str, Settled] = {}
        self.rules: list[Rule] = []
        self.overruled: list[Overruled] = []

    def decision(self, effect: type[Effect], target: str) -> Decision:
        values = {name: settled.value for name, settled in self.settled.items()}
        made = effect(**values)  # type: ignore[arg-type]
        return Decision(made, target, tuple(self.settled.values()), tuple(self.rules), tuple(self.overruled))


def _settled(matched: Iterable[tuple[Rule, _Asked]]) -> list[Decision]:
    """The decisions of the rules that match, the winner first."""
    slots: dict[_Key, _Slot] = {}
    known: dict[int, tuple[list[list[Rule]], list[tuple[_Slot, Settled, Value]]]] = {}
    for rule, asked in matched:
        before = known.get(id(asked))
        if before is None:
            known[id(asked)] = _ask(slots, rule, asked)
            continue
        # A rule that asked for the same was here: it gives nothing new, and loses where that one lost.
        listed, lost = before
        for rules in listed:
            rules.append(rule)
        for slot, winner, value in lost:
            slot.overruled.append(Overruled(winner.parameter, value, rule, winner.rule))
    return [slot.decision(effect, target) for (effect, target, _), slot in slots.items()]


def _ask(
    slots: dict[_Key, _Slot], rule: Rule, asked: _Asked
) -> tuple[list[list[Rule]], list[tuple[_Slot, Settled, Value]]]:
    """Give the rule what nobody before it asked for. Returns where it is listed, and where it lost: the slot,
    who won, and the value that it wanted."""
    listed: list[list[Rule]] = []
    lost: list[tuple[_Slot, Settled, Value]] = []
    for key, given in asked:
        slot = slots.get(key)
        if slot is None:
            slot = slots[key] = _Slot()
        if not slot.rules or slot.rules[-1] is not rule:
            slot.rules.append(rule)
            listed.append(slot.rules)
        for parameter, value in given:
            before = slot.settled.get(parameter)
            if before is None:
                slot.settled[parameter] = Settled(parameter, value, rule)
            elif before.value != value:
                lost.append((slot, before, value))
                slot.overruled.append(Overruled(parameter, value, rule, before.rule))
    return listed, lost


def _consistent(decisions: list[Decision]) -> tuple[list[Decision], list[tuple[Decision, str]]]:
    """Without what has nowhere to go."""
    uncached = {d.target for d in decisions if isinstance(d.effect, Cache) and d.effect.tier == "none"}
    if not uncached:
        return decisions, []
    kept: list[Decision] = []
    dropped = []
    for decision in decisions:
        if isinstance(decision.effect, Prefetch | Compress) and decision.target in uncached:
            dropped.append((decision, f"the {decision.target} is not cached"))
        else:
            kept.append(decision)
    return kept, dropped


class CoolDowns:
    """When each rule last applied to each subject. Bounded: the oldest is forgotten first."""

    def __init__(self, most: int = 65_536) -> None:
        self._last: dict[tuple[str, str, object], float] = {}
        self._most = most

    def rests(self, rule: Rule, subject: object, now: float) -> bool:
        """Whether the rule applied to ``subject`` less than its cool-down before ``now`` (seconds)."""
        last = self._last.get((rule.id, rule.origin, subject))
        return last is not None and now - last < rule.cool_down

    def applied(self, outcome: Outcome, subject: object, now: float) -> None:
        """The rules of ``outcome`` apply to ``subject`` now."""
        for rule in outcome.matched:
            if rule.cool_down:
                key = (rule.id, rule.origin, subject)
                self._last.pop(key, None)
                self._last[key] = now
        while len(self._last) > self._most:
            del self._last[next(iter(self._last))]
