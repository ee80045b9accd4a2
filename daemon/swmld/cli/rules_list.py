"""What ``swmld rules ls`` prints of a daemon's rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.text import Text

from swmld.api.messages import RulesResult, RuleView
from swmld.cli.history import RATES, SHARES, brought, compressed, rates, shares, waited, when
from swmld.cli.text import plain, printable, table
from swmld.errors import UsageError
from swmld.units import format_duration

NONE = "no rules are in use; start the daemon with --rules PATH"


def view(found: RulesResult) -> Iterator[Text]:
    """All rules as a table, then the remarks. Raises UsageError where there are no rules."""
    if not found["paths"]:
        raise UsageError(NONE)
    if found["rules"]:
        yield from _rows(found["rules"])
    else:
        yield Text("no rule is in use")
    for inactive in found["inactive"]:
        yield plain(f"not in use: {inactive['title']}: {inactive['why']}")
    for line in found["notes"]:
        yield plain(f"note: {line}")
    if found["error"]:
        yield Text(f"changed at {when(found['error_at'])} and not in use:", style="red")
        for line in found["error"].splitlines():
            yield plain(f"  {line}")
    yield Text(
        f"{found['active']} rules, read {when(found['loaded_at'])}; {found['decisions']:,} decisions so far"
    )


def _rows(rules: Iterable[RuleView]) -> Iterator[Text]:
    rows = [
        (printable(rule["title"]), str(rule["priority"]), str(rule["applied"]), str(rule["won"]),
         when(rule["last"]) if rule["last"] else "-", *shares(rule["brought"]), *rates(rule["waiting"]),
         printable(rule["where"]))
        for rule in rules
    ]  # fmt: skip
    head, *lines = table(("RULE", "PRIORITY", "APPLIED", "WON", "LAST", *SHARES, *RATES, "WHERE"), rows)
    yield Text(head, style="bold")
    yield from map(Text, lines)


def full(rules: Iterable[RuleView]) -> Iterator[Text]:
    """Each rule with all that it says."""
    for rule in rules:
        name = f": {rule['name']}" if rule["name"] else ""
        yield Text.assemble((plain(rule["title"]).plain, "bold")) + plain(f"{name} ({rule['where']})")
        needed = f"{100 * rule['threshold']:.3g}% of the weight needed"
        rests = f", rests {format_duration(rule['cool_down'])}" if rule["cool_down"] else ""
        yield Text(f"  priority {rule['priority']}, specificity {rule['specificity']}, {needed}{rests}")
        if rule["guard"]:
            yield plain(f"  must hold: {rule['guard']}")
        for condition in rule["conditions"]:
            yield plain(f"  if {condition}")
        for action in rule["actions"]:
            yield plain(f"  -> {action}")
        last = f", last {when(rule['last'])}" if rule["last"] else ""
        yield Text(f"  applied {rule['applied']:,} times, gave {rule['won']:,} values{last}")
        if any(rule["brought"].values()):
            yield Text(f"  fetched ahead: {brought(rule['brought'])}")
        if rule["compressed"]["bytes"]:
            yield Text(f"  compressed: {compressed(rule['compressed'])}")
        if rule["waiting"] is not None:
            yield Text(f"  waited: {waited(rule['waiting'])}")
