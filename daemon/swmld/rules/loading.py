"""Documents into the rules that are active, each with its parameters and the conditions it is under.

What a user's files define is active, unless something names it: a rule that a template, framework,
environment or hardware profile names is active as their part, with their parameters and under their
conditions, and a template that one of the latter three names likewise. Built-in rules are active only where
they are named. Parameters come from the rule itself, then ``settings``, then the chosen environment, then
the template; the later one wins. Of two definitions with one id that of the later file wins, and built-ins
come first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel

from swmld.documents import Document, Location, Problem
from swmld.rules import catalogue, conditions, operators, templates
from swmld.rules.conditions import Leaf, Node
from swmld.rules.document import (
    DONE,
    SECTIONS,
    SETTINGS,
    FrameworkModel,
    ProfileModel,
    RuleModel,
    TemplateModel,
)
from swmld.rules.kinds import nearest
from swmld.rules.operators import Operator
from swmld.rules.reading import Book, profile_condition, rule_actions, rule_conditions
from swmld.rules.ruleset import Rule, RulesError, RuleSet
from swmld.values import shown

MAX_RULES = 50_000
_TESTS = ("conditions", "condition")

_provided: tuple[Document, ...] = ()


@dataclass(frozen=True, slots=True)
class _Entry:
    """One definition in a section: where it stands, as written and as a model (None for rules: those are made
    when their parameters are known)."""

    book: Book
    location: Location
    raw: Any
    model: Any = None
    builtin: bool = False


@dataclass(slots=True)
class _Loader:
    environment: str | None
    sections: dict[str, dict[str, _Entry]] = field(default_factory=lambda: {name: {} for name in SECTIONS})
    settings: dict[str, Any] = field(default_factory=dict)
    set_in: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    inactive: list[tuple[str, str]] = field(default_factory=list)
    made: set[str] = field(default_factory=set)

    def read(self, document: Document, *, builtin: bool) -> None:
        """Gather what a document defines."""
        book = Book(document)
        for section, raw in document.values.items():
            if section not in SECTIONS:
                book.complain((section,), f"unknown section{nearest(section, SECTIONS)}", key=True)
            elif section == "settings":
                self._settings(book, raw)
            elif section in ("rules", "templates"):
                self._list(book, section, raw, builtin)
            else:
                self._named(book, section, raw, builtin)

    def _list(self, book: Book, section: str, raw: Any, builtin: bool) -> None:
        if not isinstance(raw, list):
            book.complain((section,), f"expected a list, got {shown(raw)}")
            return
        for number, value in enumerate(raw):
            here = (section, number)
            if section == "templates":
                model = book.model(TemplateModel, value, here)
                if model is not None:
                    self._define(section, model.id, _Entry(book, here, value, model, builtin))
            elif isinstance(value, dict) and isinstance(value.get("id"), str):
                self._define(section, value["id"], _Entry(book, here, value, None, builtin))
            else:
                _unmade(book, value, here)

    def _named(self, book: Book, section: str, raw: Any, builtin: bool) -> None:
        if not isinstance(raw, dict):
            book.complain((section,), f"expected names with keys and values, got {shown(raw)}")
            return
        models: dict[str, type[BaseModel]] = {"frameworks": FrameworkModel, "hardware_profiles": ProfileModel}
        for name, value in raw.items():
            here = (section, name)
            value = {} if value is None and section == "frameworks" else value
            model: Any = None
            if section == "environments":
                model = _environment(book, value, here)
            else:
                model = book.model(models[section], value, here)
            if model is not None:
                self._define(section, name, _Entry(book, here, value, model, builtin))

    def _settings(self, book: Book, raw: Any) -> None:
        if raw is not None and not isinstance(raw, dict):
            book.complain(("settings",), f"expected keys with values, got {shown(raw)}")
            return
        found = _known_settings(book, raw or {}, ("settings",))
        self.settings |= found
        self.set_in |= {key: book.where(("settings", key)) for key in found}

    def _define(self, section: str, name: str, entry: _Entry) -> None:
        before = self.sections[section].get(name)
        if before is not None and before.book.document is entry.book.document:
            first = before.book.document.line(before.location)
            entry.book.complain(entry.location, f"{name}: given twice, first in line {first}")
            if section == "rules" and not templates.used(entry.raw):
                _unmade(entry.book, entry.raw, entry.location)
            return
        if before is not None:
            old, new = before.book.where(before.location), entry.book.where(entry.location)
            self.notes.append(f"{name} of {old} is replaced by that of {new}")
        self.sections[section][name] = entry

    def names(self, entry: _Entry, key: str, *sections: str) -> list[str]:
        """The names in a list, unknown ones told."""
        found = []
        listed = entry.model[key] if isinstance(entry.model, dict) else getattr(entry.model, key)
        for number, name in enumerate(listed):
            if any(isinstance(name, str) and name in self.sections[section] for section in sections):
                found.append(name)
                continue
            known = [other for section in sections for other in self.sections[section]]
            what = " or ".join(section.removesuffix("s") for section in sections)
            text = f"unknown {what} {shown(name)}{nearest(str(name), known)}"
            entry.book.complain((*entry.location, key, number), text)
        return found

    def activate(self) -> None:
        """Make all rules, in order."""
        named: dict[str, set[str]] = {"rules": set(), "templates": set()}
        parts = list(self._parts(named))
        chosen = self.sections["environments"].get(self.environment or "")
        self.parameters = self.settings | (dict(chosen.model["settings"]) if chosen is not None else {})
        for name, entry in self.sections["rules"].items():
            if not entry.builtin and name not in named["rules"]:
                self.make(name, {}, None, "", True)
        for name, entry in self.sections["templates"].items():
            if not entry.builtin and name not in named["templates"]:
                self.template(name, None, "", True)
        for section, names, guard, origin, active in parts:
            for name in names:
                if section == "templates" or (section == "any" and name in self.sections["templates"]):
                    self.template(name, guard, origin, active)
                else:
                    self.make(name, {}, guard, origin, active)
        # What only built-in sections would name is still read, so that nothing broken stays unseen.
        for name, entry in self.sections["rules"].items():
            if not entry.builtin and name not in self.made:
                self.make(name, {}, None, "", False)
        if chosen is not None:
            here = chosen.location
            self.set_in |= {key: chosen.book.where((*here, key)) for key in chosen.model["settings"]}
        self._unused()

    def _unused(self) -> None:
        """A note of each setting that nothing depends on."""
        asked = set().union(*(templates.used(self.sections["rules"][name].raw) for name in self.made))
        for key, where in self.set_in.items():
            value = self.parameters[key]
            if key in asked:
                continue
            if key not in DONE:
                self.notes.append(f"{where}: {key} is used by no rule")
            elif str(value).lower() in DONE[key]:
                text = "changes nothing: what rules bring is always counted"
                self.notes.append(f"{where}: {key} {value} {text}")

    def _parts(self, named: dict[str, set[str]]) -> Iterator[tuple[str, list[str], Node | None, str, bool]]:
        """What frameworks, environments and profiles make active: names, guard, origin, whether they do."""
        for entry in self.sections["templates"].values():
            named["rules"].update(self.names(entry, "rules", "rules"))
        for name, entry in self.sections["frameworks"].items():
            for key in ("rules", "templates"):
                names = self.names(entry, key, key)
                named[key].update(names)
                yield key, names, _framework(name), f"framework {name}", entry.model.enabled
        for name, entry in self.sections["environments"].items():
            for key in ("rules", "templates"):
                names = self.names(entry, key, key)
                named[key].update(names)
                yield key, names, None, f"environment {name}", name == self.environment
        for name, entry in self.sections["hardware_profiles"].items():
            names = self.names(entry, "optimizations", "rules", "templates")
            for key in named:
                named[key].update(other for other in names if other in self.sections[key])
            guard = profile_condition(entry.book, entry.model, entry.location)
            yield "any", names, guard, f"hardware profile {name}", entry.model.enabled

    def template(self, name: str, guard: Node | None, origin: str, active: bool) -> None:
        """Make the rules of a template."""
        entry = self.sections["templates"][name]
        model: TemplateModel = entry.model
        rules = [rule for rule in model.rules if isinstance(rule, str) and rule in self.sections["rules"]]
        wanted = set().union(*(templates.used(self.sections["rules"][rule].raw) for rule in rules))
        for key, value in model.parameters.items():
            self._parameter(entry, key, value, wanted)
        origin = f"template {name}" + (f", {origin}" if origin else "")
        for rule in rules:
            self.make(rule, model.parameters, guard, origin, active and model.enabled)

    def _parameter(self, entry: _Entry, key: str, value: Any, wanted: set[str]) -> None:
        here = (*entry.location, "parameters", key)
        if key in SETTINGS:
            try:
                SETTINGS[key].check(value)
            except ValueError as error:
                entry.book.complain(here, str(error))
                return
            if key not in wanted:
                self.notes.append(
                    f"{entry.book.where(here)}: parameter {key} is used by none of the template's rules"
                )
        elif key not in wanted:
            known = [*wanted, *SETTINGS]
            entry.book.complain(
                here, f"a parameter that none of its rules uses{nearest(key, known)}", key=True
            )

    def make(
        self, name: str, given: Mapping[str, Any], guard: Node | None, origin: str, active: bool
    ) -> None:
        """Make one rule with the parameters of its template."""
        entry = self.sections["rules"][name]
        if len(self.rules) + len(self.inactive) >= MAX_RULES:
            # Templates times rules is what has to be bounded.
            text = f"expected at most {MAX_RULES} rules, those of templates included"
            entry.book.complain((), text)
            return
        self.made.add(name)
        book, here = entry.book, entry.location
        raw = entry.raw
        own = raw.get("parameters")
        own = own if isinstance(own, dict) else {}
        wanted = templates.used({key: value for key, value in raw.items() if key != "parameters"})
        for key in own.keys() - wanted:
            book.complain((*here, "parameters", key), f"the rule does not use ${{{key}}}", key=True)
        values = {**own, **{k: v for k, v in self.parameters.items() if k in wanted}, **given}
        try:
            filled = templates.substituted({k: v for k, v in raw.items() if k != "parameters"}, values)
        except templates.Missing as error:
            book.complain(here, f"{error}" + (f" (in {origin})" if origin else ""))
            return
        before = len(book.document.problems)
        model = book.model(RuleModel, filled | {k: v for k, v in raw.items() if k == "parameters"}, here)
        if model is None:
            _rest(book, filled, here)
            _attribute(book.document, before, origin)
            return
        unread = any(filled.get(key) is not None and getattr(model, key) is None for key in _TESTS)
        found = rule_conditions(book, model, here) if not unread else []  # told already
        wanted_actions = rule_actions(book, model, here)
        if len(book.document.problems) > before:
            if wanted & {*given, *self.parameters}:
                _attribute(book.document, before, origin)
            return
        title = f"{name} ({origin})" if origin else name
        if not active or not model.enabled:
            self.inactive.append((title, "disabled" if not model.enabled else f"{origin} is not in use"))
            return
        self.rules.append(
            Rule(
                id=name,
                priority=model.priority,
                conditions=tuple(found),
                guard=guard,
                threshold=model.threshold,
                actions=tuple(wanted_actions),
                cool_down=model.cool_down,
                order=len(self.rules),
                origin=origin,
                where=book.where(here),
                name=model.name,
                description=model.description,
            )
        )


def _unmade(book: Book, raw: Any, location: Location) -> None:
    """Tell what is wrong with a rule that is not made, since its id is missing or taken."""
    book.model(RuleModel, raw, location)
    if isinstance(raw, dict) and not templates.used(raw):
        _rest(book, raw, location)


def _rest(book: Book, raw: Mapping[str, Any], location: Location) -> None:
    """Tell what is wrong inside a rule of which some keys cannot be read: all of it is told at once."""
    given, test, done = raw.get("conditions"), raw.get("condition"), raw.get("actions")
    listed = given if isinstance(given, list) else None
    single = test if isinstance(test, str) else None
    rule = RuleModel.model_construct(conditions=listed, condition=single, actions=done)
    if (listed is None) != (single is None):
        rule_conditions(book, rule, location)
    if isinstance(done, list):
        rule_actions(book, rule, location)


def _attribute(document: Document, start: int, origin: str) -> None:
    """Say of problems whose parameters made them: what is written at their place is only ``${name}``."""
    if origin:
        new = document.problems[start:]
        document.problems[start:] = [
            replace(problem, text=f"{problem.text} (in {origin})") for problem in new
        ]


def _framework(name: str) -> Node:
    """The process has the framework loaded, or the file is one of its formats."""
    tests = (
        operators.make(catalogue.find(key), Operator.EQUALS, name) for key in ("framework", "file_framework")
    )
    return conditions.Any(tuple(Leaf(test) for test in tests))


def _known_settings(book: Book, raw: Mapping[str, Any], location: Location) -> dict[str, Any]:
    found = {}
    for key, value in raw.items():
        here = (*location, key)
        if key not in SETTINGS:
            book.complain(here, f"unknown setting{nearest(key, SETTINGS)}", key=True)
            continue
        try:
            SETTINGS[key].check(value)
            found[key] = value
        except ValueError as error:
            book.complain(here, str(error))
    return found


def _environment(book: Book, raw: Any, location: Location) -> dict[str, Any] | None:
    """Settings, and perhaps names of rules and templates."""
    if not isinstance(raw, dict):
        book.complain(location, f"expected keys with values, got {shown(raw)}")
        return None
    found: dict[str, Any] = {"rules": [], "templates": []}
    for key in found:
        value = raw.get(key, [])
        if isinstance(value, list):
            found[key] = value
        else:
            book.complain((*location, key), f"expected a list, got {shown(value)}")
    rest = {key: value for key, value in raw.items() if key not in ("rules", "templates", "description")}
    return {**found, "settings": _known_settings(book, rest, location)}


def _no_environment(name: str, known: Iterable[str]) -> Problem:
    return Problem("", 0, "environment", f"unknown environment {shown(name)}{nearest(name, known)}")


def provide(documents: Iterable[Document]) -> None:
    """From now on these are built in too, in this process, instead of those of the last call: what plugins
    bring. They must be sound (``plugged`` sees to that): what is wrong with a rule that nothing names is told
    of users' rules alone."""
    global _provided
    _provided = tuple(documents)


def built_in() -> tuple[Document, ...]:
    """What comes with the package, and with plugins."""
    return (*templates.builtins(), *_provided)


def load(
    documents: Iterable[Document], *, environment: str | None = None, with_builtins: bool = True
) -> RuleSet:
    """The rules of ``documents``, the later ones above the earlier. Raises RulesError with every problem."""
    loader = _Loader(environment)
    # Their problems are of this load: a parameter that does not fit.
    shipped = [replace(document, problems=[]) for document in (built_in() if with_builtins else ())]
    documents = [*documents, *shipped]
    for document in shipped:
        loader.read(document, builtin=True)
    for document in documents[: len(documents) - len(shipped)]:
        loader.read(document, builtin=False)
    known = loader.sections["environments"]
    loader.activate()
    # An instance for each template repeats what is wrong with the rule itself.
    problems = list(dict.fromkeys(problem for document in documents for problem in document.problems))
    if problems:
        order = {document.name: number for number, document in enumerate(documents)}
        problems.sort(key=lambda problem: (order[problem.where], problem.line, problem.column))
        raise RulesError(problems)
    if environment is not None and environment not in known:
        raise RulesError([_no_environment(environment, known)])
    sections = {
        section: tuple(name for name, entry in entries.items() if not entry.builtin)
        for section, entries in loader.sections.items()
    }
    return RuleSet(
        tuple(loader.rules), tuple(loader.inactive), sections, loader.parameters, tuple(loader.notes)
    )
