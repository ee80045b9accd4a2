"""A document's sections as models, conditions and actions; every problem with file, line and column.

Nothing is raised on the way: a ``Book`` collects what is wrong, and whoever reads goes on with the rest.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from swmld.documents import Document, Location
from swmld.rules import actions, catalogue, conditions, expression, operators
from swmld.rules.actions import Action
from swmld.rules.conditions import All, Leaf, Node, Not
from swmld.rules.document import ActionModel, ConditionModel, ProfileModel, RuleModel
from swmld.rules.kinds import Value, nearest
from swmld.rules.operators import Operator
from swmld.values import shown

Model = TypeVar("Model", bound=BaseModel)
GROUPS = ("any", "all", "not")
MAX_CONDITIONS = 1000
LIMITS = {"max_depth": 4 + 2 * conditions.MAX_DEPTH + 4, "max_bytes": 16 << 20, "max_values": 500_000}
"""Of a document with rules: room for 10,000 rules of 50 values each, in about 150 MB while they are read."""


class Book:
    """What is wrong with one document, at its places."""

    def __init__(self, document: Document) -> None:
        self.document = document

    def complain(self, location: Location, text: str, *, key: bool = False) -> None:
        """``text`` about the value at ``location``, or about its ``key``."""
        line, column = self.document.place(location, key=key)
        name = next((str(step) for step in reversed(location) if isinstance(step, str)), "")
        self.document.complain(line, name, text, column)

    def where(self, location: Location) -> str:
        """``FILE:LINE`` of a value."""
        return f"{self.document.name}:{self.document.line(location)}"

    def model(self, model: type[Model], raw: Any, location: Location) -> Model | None:
        """``raw`` as ``model``; problems are told, and what is without them is made if that is enough, so
        that more problems are found in the same run. None: it is not enough."""
        if not isinstance(raw, dict):
            keys = ", ".join(model.model_fields)
            self.complain(location, f"expected keys with values ({keys}), got {shown(raw)}")
            return None
        try:
            return model.model_validate(raw)
        except ValidationError as error:
            details = error.errors(include_url=False)
        for detail in details:
            self._tell(model, detail, location)
        bad = {detail["loc"][0] for detail in details}
        try:
            return model.model_validate({key: value for key, value in raw.items() if key not in bad})
        except ValidationError:
            return None

    def _tell(self, model: type[BaseModel], detail: ErrorDetails, location: Location) -> None:
        here = (*location, *detail["loc"])
        match detail["type"]:
            case "value_error":
                self.complain(here, str(detail["ctx"]["error"]))
            case "extra_forbidden":
                known = nearest(str(detail["loc"][-1]), model.model_fields)
                self.complain(here, f"unknown key{known}", key=True)
            case "missing":
                name = str(detail["loc"][-1])
                self.complain(location, f"{name}: expected a value, got nothing")
            case _:
                text = detail["msg"]
                self.complain(here, text[:1].lower() + text[1:])


def rule_conditions(book: Book, rule: RuleModel, location: Location) -> list[tuple[float, Node]]:
    """Weight and tree of each condition of a rule, in order."""
    if rule.condition is not None:
        if rule.conditions is not None:
            book.complain((*location, "condition"), "expected condition or conditions, not both", key=True)
            return []
        node = _expression(book, rule.condition, (*location, "condition"))
        return [(1.0, node)] if node is not None else []
    if rule.conditions is None:
        book.complain(
            location, "conditions: expected a list, got nothing ([] for a rule that always applies)"
        )
        return []
    here = (*location, "conditions")
    found = []
    if len(rule.conditions) > MAX_CONDITIONS:
        book.complain(here, f"expected at most {MAX_CONDITIONS} conditions, got {len(rule.conditions)}")
        return []
    for number, raw in enumerate(rule.conditions):
        weight, node = condition(book, raw, (*here, number), 0)
        if node is not None:
            found.append((weight, node))
    if found and len(found) == len(rule.conditions) and not sum(weight for weight, _ in found):
        book.complain(here, "expected a weight above 0 in one of the conditions")
    return found


def profile_condition(book: Book, profile: ProfileModel, location: Location) -> Node:
    """All conditions of a hardware profile in one tree."""
    members = []
    for number, raw in enumerate(profile.conditions):
        _, node = condition(book, raw, (*location, "conditions", number), 1)
        if node is not None:
            members.append(node)
    return All(tuple(members))


def condition(book: Book, raw: Any, location: Location, depth: int) -> tuple[float, Node | None]:
    """Weight and tree of one entry of a list of conditions; None if it has problems."""
    if isinstance(raw, str):
        return 1.0, _expression(book, raw, location)
    if not isinstance(raw, dict) or not raw:
        book.complain(location, f"expected a condition (type, property, operator, value), a group or an "
                                f"expression, got {shown(raw)}")  # fmt: skip
        return 1.0, None
    raw = dict(raw)
    if "type" in raw or "property" in raw:
        model = book.model(ConditionModel, raw, location)
        weight = model.weight if model is not None else None
        node = _test(book, model, location) if model is not None else None
    else:
        weight = _weight(book, raw, location)
        node = _other(book, raw, location, depth)
    if weight is not None and depth:
        book.complain((*location, "weight"), "a weight counts directly below conditions only", key=True)
    return (1.0 if weight is None else weight), node


def _weight(book: Book, raw: dict[str, Any], location: Location) -> float | None:
    if "weight" not in raw:
        return None
    probe = {"type": "x", "property": "x", "weight": raw.pop("weight")}
    model = book.model(ConditionModel, probe, location)
    return model.weight if model is not None else None


def _other(book: Book, raw: dict[str, Any], location: Location, depth: int) -> Node | None:
    """A group, an expression, or properties with their values."""
    if len(raw) == 1:
        key, value = next(iter(raw.items()))
        if key in GROUPS:
            return _group(book, key, value, (*location, key), depth)
        if key == "expression":
            return _expression(book, value, (*location, key))
    unfit = [key for key in raw if key in (*GROUPS, "expression")]
    if unfit or not raw:
        book.complain(location, "expected one of any, all, not and expression, and perhaps weight")
        return None
    members = [_pair(book, name, value, (*location, name)) for name, value in raw.items()]
    fine = [member for member in members if member is not None]
    if len(fine) < len(members):
        return None
    return fine[0] if len(fine) == 1 else All(tuple(fine))


def _group(book: Book, key: str, value: Any, location: Location, depth: int) -> Node | None:
    if depth >= conditions.MAX_DEPTH:
        book.complain(location, f"expected at most {conditions.MAX_DEPTH} groups within one another")
        return None
    entries = [value] if key == "not" and not isinstance(value, list) else value
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_CONDITIONS:
        book.complain(
            location, f"expected a list of conditions, got {shown(value) if value != [] else 'an empty one'}"
        )
        return None
    members = []
    for number, raw in enumerate(entries):
        here = (*location, number) if entries is value else location
        members.append(condition(book, raw, here, depth + 1)[1])
    fine = tuple(member for member in members if member is not None)
    if len(fine) < len(members):
        return None
    if key == "not":
        return Not(fine[0] if len(fine) == 1 else All(fine))
    return conditions.Any(fine) if key == "any" else All(fine)


def _test(book: Book, model: ConditionModel, location: Location) -> Node | None:
    step = "type"
    try:
        context = catalogue.context_of(model.type)
        step = "property"
        what = catalogue.find(model.property, context)
        step, operator = "operator", None
        value = model.value
        if model.operator is not None:
            operator = operators.operator_of(model.operator)
        elif (found := operators.shorthand(value)) is not None:
            operator, value = found
        elif isinstance(value, list):
            operator = Operator.IN
        step = "operator" if model.operator is not None else "property"
        if operator is None:
            text = what.kind.value == "string" and model.type == catalogue.FILE_PATTERN
            operator = Operator.GLOB if text else Operator.EQUALS
        if what.kind in operators.KINDS[operator]:
            step = "value"
        return Leaf(operators.make(what, operator, value))
    except ValueError as error:
        book.complain((*location, step), str(error))
        return None


def _pair(book: Book, name: str, value: Any, location: Location) -> Node | None:
    """``gpu_count: ">= 8"``."""
    try:
        what = catalogue.find(name)
    except ValueError as error:
        book.complain(location, str(error), key=True)
        return None
    operator, operand = operators.shorthand(value) or (
        Operator.IN if isinstance(value, list) else Operator.EQUALS, value)  # fmt: skip
    try:
        return Leaf(operators.make(what, operator, operand))
    except ValueError as error:
        book.complain(location, str(error))
        return None


def _expression(book: Book, given: Any, location: Location) -> Node | None:
    try:
        if not isinstance(given, str):
            raise ValueError(f"expected an expression such as 'gpu_memory > 80', got {shown(given)}")
        return _node(expression.parse(given))
    except ValueError as error:
        book.complain(location, str(error))
        return None


def _node(term: expression.Term) -> Node:
    match term.kind:
        case "all":
            return All(tuple(map(_node, term.items)))
        case "any":
            return conditions.Any(tuple(map(_node, term.items)))
        case "not":
            return Not(_node(term.items[0]))
    what = catalogue.find(term.name)
    return Leaf(operators.make(what, operators.operator_of(term.operator), term.value))


def rule_actions(book: Book, rule: RuleModel, location: Location) -> list[Action]:
    """What a rule asks for; parameters that belong to another action make one of that."""
    here = (*location, "actions")
    if not rule.actions:
        book.complain(here, "expected at least one action")
    found: list[Action] = []
    for number, raw in enumerate(rule.actions):
        model = book.model(ActionModel, raw, (*here, number))
        if model is not None:
            found += _actions(book, model, (*here, number))
    return found


def _actions(book: Book, model: ActionModel, location: Location) -> list[Action]:
    step = "type"
    try:
        kind = actions.find(model.type)
        step = "target"
        target = actions.target(model.target)
    except ValueError as error:
        book.complain((*location, step), str(error))
        return []
    given: dict[str, dict[str, Value]] = {kind.name: dict(kind.preset)}
    known = kind.parameters
    for name, raw in model.parameters.items():
        here = (*location, "parameters", name)
        if name not in known:
            text = f"unknown parameter of {kind.name}{nearest(name, known) or '; it has none'}"
            book.complain(here, text, key=True)
            continue
        action, parameter = kind.moved.get(name, (kind.name, name))
        try:
            given.setdefault(action, {})[parameter] = known[name].parse(raw)
        except ValueError as error:
            book.complain(here, str(error))
    if kind.effect is actions.Notify and not given[kind.name]:
        book.complain(location, "expected one of event, webhook and command in parameters")
    return [Action(actions.ACTIONS[name].effect, target, values) for name, values in given.items()]
