"""JSON Schema (draft 2020-12) of a configuration file, for editors: from the models and the catalogues that
read it.

What it refuses the loader refuses too, but for words in another case. It cannot know what other files define:
that names lead somewhere, and that what a rule leaves out is said by an earlier one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from swmld.rules import catalogue
from swmld.rules.actions import ACTIONS, TARGET_ALIASES, TARGETS, Parameter
from swmld.rules.catalogue import Context, Property
from swmld.rules.document import SETTINGS, FrameworkModel, ProfileModel, RuleModel, TemplateModel
from swmld.rules.kinds import ORDERED, UNITS, Kind
from swmld.rules.operators import KINDS, MAX_ITEMS, MEANINGS, SIGNS, Operator
from swmld.rules.reading import GROUPS, MAX_CONDITIONS
from swmld.values import FLAG_SCHEMA, SIZE_TEXT, either

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"

_NUMBER = r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?"
_PLACE: Schema = {"type": "string", "pattern": r"\$\{[^{}]+\}"}
"""``${name}``, whose value is known when the rule is made for a template."""
_NAMES: Schema = {"type": "array", "items": {"type": "string"}}


def _any_case(text: str) -> str:
    return "".join(f"[{c.lower()}{c.upper()}]" if c.isalpha() else "[-_ ]" if c in "-_ " else c for c in text)


def _units(kind: Kind) -> str:
    names = sorted(UNITS[kind], key=lambda name: (-len(name), name))
    return rf"^\s*{_NUMBER}\s*({'|'.join(map(_any_case, names))})?\s*$"


VALUES: dict[Kind, Schema] = {
    Kind.NUMBER: either({"type": "number"}, rf"^\s*{_NUMBER}\s*$"),
    Kind.SIZE: either({"type": "number", "minimum": 0}, SIZE_TEXT),
    Kind.DURATION: either({"type": "number", "minimum": 0}, _units(Kind.DURATION)),
    Kind.PERCENT: either({"type": "number", "minimum": 0, "maximum": 100}, _units(Kind.PERCENT)),
    Kind.RATE: either({"type": "number", "minimum": 0}, _units(Kind.RATE)),
    Kind.CLOCK: either({"type": "integer", "minimum": 0, "maximum": 86399},
                       r"^\s*([01]?[0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?\s*$"),
    Kind.STRING: {"type": ["string", "number", "boolean"]},
    Kind.SET: {"type": ["string", "number", "boolean", "array"]},
    Kind.BOOL: FLAG_SCHEMA,
}  # fmt: skip


def page(daemon: Mapping[str, Any]) -> Schema:
    """The whole schema; ``daemon``: that of the model of the daemon's settings."""
    own = dict(daemon["properties"])
    known = {name: _setting(name) for name in SETTINGS}
    either_ = {"if": {"type": "object"}, "then": {"$ref": "#/$defs/rule"}, "else": {"type": "string"}}
    return {
        "$schema": DIALECT,
        "title": "swmld configuration",
        "type": "object",
        "properties": {
            **own,
            "rules": {"description": "Rules; or the paths of files of rules.",
                      "type": ["array", "string", "null"], "items": either_},
            "templates": {"type": "array", "items": {"$ref": "#/$defs/template"}},
            "frameworks": _named({"anyOf": [{"$ref": "#/$defs/framework"}, {"type": "null"}]}),
            "environments": _named({"$ref": "#/$defs/environment"}),
            "hardware_profiles": _named({"$ref": "#/$defs/profile"}),
            "settings": {**_closed({**own, **known}), "type": ["object", "null"]},
        },
        "additionalProperties": False,
        "$defs": {
            **daemon.get("$defs", {}),
            "rule": _rule(),
            "template": _model(TemplateModel, {"rules": _NAMES}, required=["id"]),
            "framework": _model(FrameworkModel, {"rules": _NAMES, "templates": _NAMES}),
            "profile": _model(ProfileModel, {"conditions": _conditions(), "optimizations": _NAMES}),
            "environment": _closed({**own, **known, "rules": _NAMES, "templates": _NAMES, "description": {}}),
            "condition": _condition(),
            "action": _action(),
        },
    }  # fmt: skip


def _named(each: Schema) -> Schema:
    return {"type": "object", "additionalProperties": each}


def _closed(properties: Mapping[str, Any], **more: Any) -> Schema:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False, **more}


def _setting(name: str) -> Schema:
    setting = SETTINGS[name]
    return {"description": setting.description, **_value(setting.kind, setting.words)}


def _model(model: type[BaseModel], items: Mapping[str, Schema], required: Iterable[str] = ()) -> Schema:
    found: Schema = model.model_json_schema()
    properties = {key: {k: v for k, v in entry.items() if k not in ("title", "default")}
                  for key, entry in found["properties"].items()}  # fmt: skip
    for key, schema in items.items():
        properties[key] = {"description": properties[key].get("description", ""), **schema}
    return _closed(properties, required=list(required))


def _rule() -> Schema:
    actions = {"type": "array", "items": {"$ref": "#/$defs/action"}, "minItems": 1}
    conditions = {"anyOf": [_conditions(), {"type": "null"}]}
    found = _model(RuleModel, {"actions": actions, "conditions": conditions}, required=["id"])
    properties = found["properties"]
    for key in properties.keys() - {"id", "actions", "conditions", "parameters"}:
        properties[key] = _or_place(properties[key])
    found["dependentSchemas"] = {
        "actions": {"anyOf": [{"required": ["conditions"]}, {"required": ["condition"]}]},
        "condition": {"not": {"required": ["conditions"]}},
    }
    return found


def _conditions() -> Schema:
    return {"type": "array", "items": {"$ref": "#/$defs/condition"}, "maxItems": MAX_CONDITIONS}


def _or_place(schema: Schema) -> Schema:
    """``schema``, or a text with a place in it."""
    rest = {key: value for key, value in schema.items() if key != "description"}
    said = {"description": schema["description"]} if "description" in schema else {}
    return {**said, "anyOf": [rest, _PLACE]}


def _value(kind: Kind, words: tuple[str, ...] = ()) -> Schema:
    if words:
        spelt = "|".join(map(_any_case, words))
        return {"anyOf": [{"enum": list(words)}, {"type": "string", "pattern": rf"^\s*({spelt})\s*$"}]}
    return VALUES[kind]


# ---- conditions


def _condition() -> Schema:
    """An expression, a test, a group, or properties with their values."""
    has = [{"required": [key]} for key in ("type", "property")]
    group = [{"required": [key]} for key in (*GROUPS, "expression")]
    weight = _weight()
    members = {
        "type": "array",
        "items": {"$ref": "#/$defs/condition"},
        "minItems": 1,
        "maxItems": MAX_CONDITIONS,
    }
    either_ = {"anyOf": [members, {"$ref": "#/$defs/condition"}]}
    groups = _closed({"any": members, "all": members, "not": either_, "expression": {"type": "string"},
                      "weight": weight}, minProperties=1, maxProperties=2)  # fmt: skip
    named = {name: _short(what) for name, what in catalogue.BY_NAME.items()}
    pairs = {"properties": {**named, "weight": weight}, "patternProperties": _xattrs(), "minProperties": 1,
             "additionalProperties": False}  # fmt: skip
    return {
        "type": ["string", "object"],
        "if": {"type": "object"},
        "then": {
            "if": {"anyOf": has},
            "then": _test(weight),
            "else": {"if": {"anyOf": group}, "then": groups, "else": pairs},
        },
    }


def _weight() -> Schema:
    return either({"type": "number", "minimum": 0, "maximum": 1}, rf"^\s*{_NUMBER}\s*%?\s*$")


def _xattrs() -> Schema:
    return {rf"^{catalogue.XATTR.replace('.', '[.]')}.+": VALUES[Kind.SET]}


def _sign() -> Schema:
    signs = "|".join(sorted(SIGNS, key=len, reverse=True))
    return {"type": "string", "pattern": rf"^\s*({signs})\s*\S"}


def _short(what: Property) -> Schema:
    """``gpu_count: ">= 8"``, one value, or several."""
    single = _value(what.kind, what.words)
    return {"description": what.description, "anyOf": [single, _listed(single), _sign(), _PLACE]}


def _listed(single: Schema) -> Schema:
    return {"type": "array", "items": {"anyOf": [single, _PLACE]}, "minItems": 1, "maxItems": MAX_ITEMS}


def _test(weight: Schema) -> Schema:
    names = [operator.value for operator in Operator]
    spelt = rf"^\s*({'|'.join(map(_any_case, names))})\s*$"
    operator = {"anyOf": [{"enum": [*names, *SIGNS]}, {"type": "string", "pattern": spelt}, _PLACE],
                "description": "; ".join(f"{o.value}: {MEANINGS[o]}" for o in Operator)}  # fmt: skip
    shape = {"type": {"enum": list(catalogue.TYPES)}, "property": {"type": "string"}, "operator": operator,
             "value": {}, "weight": weight}  # fmt: skip
    closed = _closed(shape, required=["type", "property"])
    return {**closed, "allOf": [*map(_context, Context), *_fits()]}


def _context(context: Context) -> Schema:
    """Which properties there are of a type."""
    types = [context.value, *([catalogue.FILE_PATTERN] if context is Context.FILE else [])]
    names: list[Schema] = [{"enum": [name for name, p in catalogue.BY_NAME.items() if p.context is context]}]
    if context is Context.FILE:
        names.append({"type": "string", "pattern": next(iter(_xattrs()))})
    return {
        "if": {"properties": {"type": {"enum": types}}, "required": ["type"]},
        "then": {"properties": {"property": {"anyOf": [*names, _PLACE]}}},
    }


def _fits() -> Iterable[Schema]:
    """Which operators and values a property takes."""
    alike: dict[tuple[Kind, tuple[str, ...]], list[str]] = {}
    for name, what in catalogue.BY_NAME.items():
        alike.setdefault((what.kind, what.words), []).append(name)
    for (kind, words), names in alike.items():
        signs = [sign for sign, operator in SIGNS.items() if kind in KINDS[operator]]
        unfit = [operator.value for operator in Operator if kind not in KINDS[operator]]
        unfit += [sign for sign in SIGNS if sign not in signs]
        yield {
            "if": {"properties": {"property": {"enum": names}}, "required": ["property"]},
            "then": {
                "properties": {"operator": {"not": {"enum": unfit}}},
                "allOf": [_when(operators, value) for operators, value in _operands(kind, words)],
            },
        }


def _operands(kind: Kind, words: tuple[str, ...]) -> Iterable[tuple[list[str] | None, Schema]]:
    """Operators (None: it is left out) with the values that they take."""
    single = _value(kind, words)
    yield None, {"anyOf": [single, _listed(single), _sign(), _PLACE]}
    yield ["in", "not_in"], _listed(single)
    yield ["between"], {"type": "array", "items": {"anyOf": [single, _PLACE]}, "minItems": 2, "maxItems": 2}
    if kind in ORDERED:
        yield (
            ["greater_than", "less_than", "greater_equal", "less_equal", "equals", "not_equals", *SIGNS],
            {"anyOf": [single, _PLACE]},
        )
    else:
        yield ["equals", "not_equals", "=", "==", "!="], {"anyOf": [single, _PLACE]}
        yield ["matches", "glob", "starts_with", "ends_with", "contains", "not_contains"], VALUES[Kind.STRING]


def _when(operators: list[str] | None, value: Schema) -> Schema:
    test: Schema = {"properties": {"operator": {"enum": operators}}, "required": ["operator"]}
    if operators is None:
        test = {"not": {"required": ["operator"]}}
    return {"if": test, "then": {"properties": {"value": value}, "required": ["value"]}}


# ---- actions


def _action() -> Schema:
    targets = _value(Kind.STRING, (*TARGETS, *TARGET_ALIASES))
    shape = {"type": {"enum": list(ACTIONS)}, "target": _or_place(targets), "parameters": {}}
    return {**_closed(shape, required=["type"]), "allOf": list(map(_parameters, ACTIONS))}


def _parameters(name: str) -> Schema:
    known = {key: _parameter(parameter) for key, parameter in ACTIONS[name].parameters.items()}
    return {
        "if": {"properties": {"type": {"const": name}}, "required": ["type"]},
        "then": {"properties": {"parameters": {**_closed(known), "type": ["object", "null"]}},
                 "description": ACTIONS[name].description},
    }  # fmt: skip


def _parameter(parameter: Parameter) -> Schema:
    if parameter.words:
        found = _value(Kind.STRING, (*parameter.words, *parameter.synonyms))
    elif parameter.kind is Kind.STRING:
        found = {"type": ["string", "number", "boolean"], "minLength": 1, "maxLength": parameter.max_length}
        if parameter.starts:
            found["pattern"] = f"^({'|'.join(map(_spelt, parameter.starts))})"
    else:
        found = VALUES[parameter.kind]
        if "anyOf" in found and parameter.kind is not Kind.BOOL:
            number, text = found["anyOf"]
            bounds = {"minimum": parameter.low, "maximum": parameter.high}
            given = {key: value for key, value in bounds.items() if value is not None}
            whole = {"type": "integer"} if parameter.whole else {}
            found = {"anyOf": [{**number, **given, **whole}, text]}
    return {"description": parameter.description, **_or_place(found)}


def _spelt(text: str) -> str:
    return "".join(f"[{c}{c.upper()}]" if c.isalpha() else c for c in text)
