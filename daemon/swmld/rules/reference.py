"""The reference of rules as Markdown, made from the catalogues that read them."""

from __future__ import annotations

from collections.abc import Iterator

from swmld.rules import catalogue, operators, templates
from swmld.rules.actions import ACTIONS, TARGETS, Parameter
from swmld.rules.document import (
    SETTINGS,
    ActionModel,
    ConditionModel,
    FrameworkModel,
    ProfileModel,
    RuleModel,
    TemplateModel,
)
from swmld.rules.kinds import EXAMPLES, shown_value
from swmld.rules.operators import KINDS, MEANINGS, SIGNS, Operator

MODELS = (
    ("rules", RuleModel),
    ("conditions", ConditionModel),
    ("actions", ActionModel),
    ("templates", TemplateModel),
    ("frameworks", FrameworkModel),
    ("hardware_profiles", ProfileModel),
)


def page() -> str:
    """The whole page."""
    parts = (_sections(), _properties(), _operators(), _actions(), _settings(), _builtins())
    return "\n".join(line for part in parts for line in part)


def _table(*head: str) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _sections() -> Iterator[str]:
    yield "# Rules: reference"
    for name, model in MODELS:
        yield f"\n## Keys of {name}\n"
        yield from _table("key", "meaning")
        for key, entry in model.model_fields.items():
            yield _row(f"`{key}`", entry.description or "")


def _properties() -> Iterator[str]:
    for context in catalogue.Context:
        also = f" and `{catalogue.FILE_PATTERN}`" if context is catalogue.Context.FILE else ""
        yield f"\n## Properties of `{context.value}`{also}\n"
        yield from _table("property", "kind", "meaning", "source")
        for what in catalogue.PROPERTIES:
            if what.context is context:
                names = ", ".join(f"`{name}`" for name in (what.name, *what.aliases))
                words = f" One of {', '.join(what.words)}." if what.words else ""
                yield _row(names, what.kind.value, what.description + words, what.source)
        if context is catalogue.Context.FILE:
            yield _row(f"`{catalogue.XATTR}NAME`", "string", "Extended attribute NAME of the file.", "mount")


def _operators() -> Iterator[str]:
    yield "\n## Operators\n"
    yield from _table("operator", "signs", "kinds", "meaning")
    for operator in Operator:
        signs = " ".join(f"`{sign}`" for sign, other in SIGNS.items() if other is operator)
        kinds = sorted(kind.value for kind in KINDS[operator])
        yield _row(f"`{operator.value}`", signs, "all" if len(kinds) == len(EXAMPLES) else ", ".join(kinds),
                   MEANINGS[operator] + f" Specificity {operators.SPECIFIC.get(operator, 1)}.")  # fmt: skip
    yield "\n## Kinds\n"
    yield from _table("kind", "expected")
    for kind, example in EXAMPLES.items():
        yield _row(kind.value, example)


def _default(parameter: Parameter) -> str:
    return "" if parameter.default is None else shown_value(parameter.kind, parameter.default)


def _actions() -> Iterator[str]:
    yield f"\n## Actions\n\nTargets: {', '.join(TARGETS)}.\n"
    for action in ACTIONS.values():
        alias = f" The same as `{action.alias_of}`." if action.alias_of and not action.preset else ""
        yield f"\n### `{action.name}`\n\n{action.description}{alias}\n"
        if action.parameters and not alias:
            yield from _table("parameter", "value", "default", "meaning")
            for name, parameter in action.parameters.items():
                other = action.moved.get(name)
                text = f"Parameter {other[1]} of {other[0]}." if other else parameter.description
                yield _row(f"`{name}`", parameter.range, _default(parameter), text)


def _settings() -> Iterator[str]:
    yield "\n## Settings\n"
    yield from _table("setting", "value", "meaning")
    for setting in SETTINGS.values():
        yield _row(
            f"`{setting.name}`", ", ".join(setting.words) or EXAMPLES[setting.kind], setting.description
        )


def _builtins() -> Iterator[str]:
    yield "\n## Built-in rules\n"
    yield from _table("rule", "parameters", "meaning")
    for document in templates.builtins():
        for raw in document.values["rules"]:
            parameters = ", ".join(f"{name}: {value}" for name, value in raw.get("parameters", {}).items())
            yield _row(f"`{raw['id']}`", parameters, raw.get("description") or raw["name"] + ".")
