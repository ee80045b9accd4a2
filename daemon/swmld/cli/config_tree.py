"""The effective configuration as YAML, with the place of each value: what ``swmld config show`` prints."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from swmld.cli.configuring import Found, with_plugins
from swmld.cli.options import PANELS, SIZES, TIMES
from swmld.config.load import Resolved
from swmld.config.models import PathRule, Settings
from swmld.documents import Location
from swmld.errors import UsageError
from swmld.head import rulesfiles
from swmld.head.rulesfiles import Files
from swmld.units import format_duration, format_size, parse_duration, parse_size

_PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./*+%-]*(?: [A-Za-z0-9_./*+%<>=-]+)*", re.ASCII)
_NOTHING = frozenset({"", "~", "null"})
WIDTH = 48
"""Columns of values before the origins."""
FLOW = 90
"""Characters of a list that stands in one line."""

Origin = Callable[[Location], str]


class Line(NamedTuple):
    """``comment``: the end of ``text`` that is one."""

    text: str
    comment: str = ""


@dataclass(slots=True)
class Definition:
    """One rule, template or the like: ``section``, its name, what it says, and where each part stands."""

    section: str
    name: str
    raw: Any
    origin: Origin


@dataclass(slots=True)
class Tree:
    """``settings``: key, value as written, origin. ``remarks``: what is not in use, and why."""

    settings: list[tuple[str, Any, str]]
    definitions: list[Definition] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def lines(self, *, origin: bool) -> Iterator[Line]:
        """YAML; with ``origin`` a comment after each value."""
        values = {key: (value, place) for key, value, place in self.settings}
        ruled = any(each.section == "rules" for each in self.definitions)
        for panel, keys in PANELS.items():
            yield from _heading(f"the daemon: {panel.lower()}")
            for key in (*keys, *(["paths"] if panel == "Consistency" else [])):
                value, place = values[key]
                if key == "rules" and ruled:
                    yield _comment("rules of " + ", ".join(value))
                elif key == "mount" and value is None:
                    yield _comment("mount: not given")
                else:
                    yield from _written(key, value, partial(_same, place), origin)
        section = ""
        for each in self.definitions:
            if each.section != section:
                section = each.section
                yield from _heading(section.replace("_", " "))
                yield Line(f"{section}:")
            if section in ("rules", "templates"):
                yield from _item(each.raw, each.origin, origin, 1)
            else:
                yield from _written(each.name, each.raw, each.origin, origin, 1)
        if self.remarks:
            yield Line("")
        for remark in self.remarks:
            yield _comment(remark)

    def as_json(self, *, origin: bool) -> dict[str, Any]:
        """The same as plain values: ``daemon`` by key, then a list for each section."""
        found: dict[str, Any] = {
            "daemon": {key: {"value": v, "origin": o} if origin else v for key, v, o in self.settings}
        }
        for each in self.definitions:
            entry: dict[str, Any] = {"name": each.name, "value": each.raw}
            if origin:
                entry["origin"] = each.origin(())
                entry["origins"] = {".".join(map(str, at)): each.origin(at) for at in _leaves(each.raw, ())}
            found.setdefault(each.section, []).append(entry)
        return found | {"remarks": self.remarks}


def tree(resolved: Resolved, found: Found) -> Tree:
    """What settings and rules come to. Raises RulesError with every problem of the rules."""
    settings = resolved.settings
    given = resolved.origins["mount"] != "default"
    rows = []
    for key in Settings.model_fields:
        value = None if key == "mount" and not given else written(key, getattr(settings, key))
        if key == "cache_dir" and not given and resolved.origins[key] == "default":
            value = str(settings.cache_dir.parent / "<mount, / as ->")
        rows.append((key, value, resolved.origins[key]))
    made = Tree(rows)
    if settings.rules:
        read = partial(_rules, made, Files(settings.rules), settings.environment)
        with_plugins(read, settings.plugins if settings.use_plugins else ())
    return made


def _rules(made: Tree, files: Files, environment: str | None) -> None:
    from swmld.config.load import check
    from swmld.rules.loading import built_in

    rules = rulesfiles.read_files(files, environment, check)
    read, _ = rulesfiles.read_documents(files)
    merged = rulesfiles.layered(files, read, environment)
    own: dict[tuple[str, str], Definition] = {}
    shipped = built_in()
    places = {f"{document.name}:" for document in shipped}
    named = {rule.id for rule in rules.rules if rule.where.rpartition(":")[0] + ":" in places}
    for document in (*shipped, *merged.documents):
        users = any(document is each for each in merged.documents)
        for section, raw in document.values.items():
            keyed = isinstance(raw, dict)
            for step, value in raw.items() if keyed else enumerate(raw or ()):
                name = str(step) if keyed else value["id"]

                def origin(at: Location, document: Any = document, here: Location = (section, step)) -> str:
                    line = document.line((*here, *at))
                    file = getattr(line, "file", document.name)
                    return f"{file}:{int(line)}" if line else str(file)

                if users or name in named:
                    own[section, name] = Definition(section, name, value, origin)
    order = {section: number for number, section in enumerate(rulesfiles.sections())}
    made.definitions = sorted(own.values(), key=lambda each: order[each.section])
    made.remarks = [f"not in use: {title}: {why}" for title, why in rules.inactive]
    made.remarks += [f"note: {note}" for note in rules.notes]


def written(key: str, value: Any) -> Any:
    """A setting as a person writes it, such that reading it gives the same again."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if key in SIZES and isinstance(value, int):
        return _exact(value, format_size(value), parse_size)
    if key in TIMES and isinstance(value, float):
        return _exact(value, format_duration(value), parse_duration)
    if isinstance(value, tuple):
        return [_path_rule(each) if isinstance(each, PathRule) else str(each) for each in value]
    return None if value is None else str(getattr(value, "value", value))


def _same(place: str, _: Location) -> str:
    return place


def _path_rule(rule: PathRule) -> dict[str, str]:
    found = {"glob": rule.glob, "check": rule.check.value}
    return found if rule.interval is None else found | {"interval": written("check_interval", rule.interval)}


def _exact(value: float, text: str, parse: Callable[[str], float]) -> str:
    try:
        return text if parse(text) == value else repr(value)
    except UsageError:  # 1m40s is for people
        return repr(value)


def _leaves(raw: Any, at: Location) -> Iterator[Location]:
    below = raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ()
    if not raw or not isinstance(raw, dict | list):
        yield at
    for step, value in below:
        yield from _leaves(value, (*at, step))


def _heading(name: str) -> Iterator[Line]:
    yield Line("")
    yield _comment(f"--- {name} ---")


def _comment(text: str) -> Line:
    line = "# " + " ".join(text.split())
    return Line(line, line)


def _scalar(value: Any) -> str:
    if value is None:
        return ""
    text = str(value)
    return text if _PLAIN.fullmatch(text) and text not in _NOTHING else _quoted(text)


def _quoted(text: str) -> str:
    """YAML's double quotes; JSON's differ beyond U+FFFF."""
    escaped = (
        f"\\{char}" if char in '"\\' else char if char.isprintable() else _escape(ord(char)) for char in text
    )
    return '"' + "".join(escaped) + '"'


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _inline(raw: Any) -> str:
    """Any value in one line."""
    if isinstance(raw, list):
        return "[" + ", ".join(map(_inline, raw)) + "]"
    if isinstance(raw, dict):
        return "{" + ", ".join(f"{_scalar(key)}: {_inline(value)}" for key, value in raw.items()) + "}"
    return _scalar(raw) or "null"


def _flow(raw: Any) -> str | None:
    """A short list of single values, in one line."""
    if raw == {}:
        return "{}"
    if not isinstance(raw, list) or any(isinstance(item, dict | list) for item in raw):
        return None
    text = _inline(raw)
    return text if len(text) <= FLOW or not raw else None


def _written(
    key: str, raw: Any, origin: Origin, said: bool, depth: int = 0, at: Location = ()
) -> Iterator[Line]:
    pad = "  " * depth
    flow = _flow(raw)
    if flow is not None or not isinstance(raw, dict | list):
        yield _placed(
            f"{pad}{_scalar(key)}: {flow if flow is not None else _scalar(raw)}".rstrip(), origin(at), said
        )
        return
    yield Line(f"{pad}{_scalar(key)}:")
    if isinstance(raw, dict):
        for name, value in raw.items():
            yield from _written(str(name), value, origin, said, depth + 1, (*at, name))
    else:
        for number, value in enumerate(raw):
            yield from _item(value, origin, said, depth + 1, (*at, number))


def _item(raw: Any, origin: Origin, said: bool, depth: int, at: Location = ()) -> Iterator[Line]:
    """One entry of a list."""
    pad = "  " * depth
    if not isinstance(raw, Mapping) or not raw:
        yield _placed(f"{pad}- {_inline(raw)}", origin(at), said)
        return
    dash = "- "
    for name, value in raw.items():
        for line in _written(str(name), value, origin, said, depth + 1, (*at, name)):
            text = pad + dash + line.text[len(pad) + 2 :] if dash else line.text
            yield Line(text, line.comment)
            dash = ""


def _placed(text: str, origin: str, said: bool) -> Line:
    if not said:
        return Line(text)
    comment = f"# {origin}"
    return Line(f"{text:{WIDTH}}  {comment}", comment)
