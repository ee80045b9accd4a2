"""Rules tried on real files: what stat, the first bytes and perhaps a recording say of them, and what the
rules make of it."""

from __future__ import annotations

import os
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from rich.text import Text

from swmld.cli import assumed
from swmld.cli.configuring import Understood
from swmld.cli.explain import styled
from swmld.cli.rules_text import regular, with_facts
from swmld.cli.text import plain, printable, table
from swmld.cli.trace_facts import Recorded, recorded
from swmld.documents import DocumentError, Problem
from swmld.head import recognition
from swmld.head.filetype import HEAD, type_of
from swmld.plugins import interface, registry
from swmld.plugins.known import Plugins
from swmld.rules.actions import ActionType
from swmld.rules.catalogue import BY_NAME as PROPERTY
from swmld.rules.catalogue import XATTR
from swmld.rules.decide import Decision, Engine, Outcome
from swmld.rules.explain import explanation
from swmld.rules.facts import of_path
from swmld.rules.kinds import Kind, Value, shown_value

MOST = 1000
"""Files that are tried of all directories."""
XATTR_BYTES = 4096
"""Of the longest extended attribute that is compared."""


@dataclass(slots=True)
class Tried:
    """One file: its path as given, what is known, what was decided."""

    path: str
    facts: dict[str, Value]
    outcome: Outcome
    recorded: bool


@dataclass(slots=True)
class Result:
    engine: Engine
    files: list[Tried] = field(default_factory=list)
    left_out: int = 0
    notes: list[str] = field(default_factory=list)

    def table(self) -> Iterator[Text]:
        """A line for each file, then what no file was matched by."""
        rows = [
            (
                printable(str(each.facts["path"])),
                str(each.facts["type"]),
                str(each.facts.get("format", "-")),
                shown_value(Kind.SIZE, each.facts["size"]),
                ", ".join(rule.title for rule in each.outcome.matched) or "-",
                "; ".join(decisions(each.outcome)) or "-",
            )
            for each in self.files
        ]
        head, *lines = table(("FILE", "TYPE", "FORMAT", "SIZE", "RULES", "DECIDED"), rows or [("-",) * 6])
        yield Text(head, style="bold")
        for line in lines if rows else ():
            yield plain(line)
        yield from self._summary()

    def _summary(self) -> Iterator[Text]:
        counts = Counter(rule.title for each in self.files for rule in each.outcome.matched)
        more = f"; {self.left_out} more files are left out" if self.left_out else ""
        matched = sum(1 for each in self.files if each.outcome.matched)
        yield Text("")
        yield Text(f"{matched} of {len(self.files)} files are matched by a rule{more}")
        if counts:
            yield plain(
                "matched: " + ", ".join(f"{title} ({count})" for title, count in counts.most_common())
            )
        missing = [rule for rule in self.engine.rules if rule.title not in counts]
        for rule in missing:
            unknown = sorted(self._unknown(rule.title))
            why = f"; not known: {', '.join(unknown)}" if unknown else ""
            yield Text(plain(f"not matched: {rule.title} ({rule.where}){why}").plain, style="dim")
        for note in self.notes:
            yield Text(plain(note).plain, style="yellow")

    def _unknown(self, title: str) -> set[str]:
        """Properties that a rule asks for and that are known of no file."""
        (rule, *_) = [each for each in self.engine.rules if each.title == title]
        nodes = [node for _, node in rule.conditions] + ([rule.guard] if rule.guard is not None else [])
        asked = {test.what.name for node in nodes for test in node.tests()}
        return {name for name in asked if not any(name in each.facts for each in self.files)}

    def reasons(self) -> Iterator[Text]:
        """Of each file every rule with its conditions and the values that they met, then the decisions."""
        for each in self.files:
            yield Text(plain(str(each.facts["path"])).plain, style="bold underline")
            for line in explanation(self.engine, each.facts):
                yield styled(line)
            yield Text("")
        yield from self._summary()

    def as_json(self) -> dict[str, Any]:
        files = [
            {
                "path": each.path,
                "recorded": each.recorded,
                "facts": {k: sorted(v) if isinstance(v, frozenset) else v for k, v in each.facts.items()},
                "rules": [rule.title for rule in each.outcome.matched],
                "decided": list(map(_decision, each.outcome.decisions)),
            }
            for each in self.files
        ]
        return {"files": files, "left_out": self.left_out, "notes": self.notes}


def _decision(decision: Decision) -> dict[str, Any]:
    given = {one.parameter: {"value": one.value, "rule": one.rule.title} for one in decision.settled}
    return {"action": decision.action, "target": decision.target, "parameters": given}


def decisions(outcome: Outcome) -> Iterator[str]:
    """Each decision in a few words."""
    for decision in outcome.decisions:
        known = ActionType.parameters_of[type(decision.effect)]
        given = (
            f"{one.parameter} {shown_value(known[one.parameter].kind, one.value)}" for one in decision.settled
        )
        yield f"{decision.action} {', '.join(given)}".rstrip()


def tried(
    config: str,
    paths: Iterable[str],
    *,
    trace: str | None = None,
    facts: str | None = None,
    fact: Iterable[str] = (),
    environment: str | None = None,
    plugins: Iterable[str] = (),
    mount: str | None = None,
) -> Result:
    """Try the rules of ``config``. ``facts``: a file of what is assumed, ``fact``: of NAME=VALUE the same,
    which counts before the file. Raises DocumentError with all that is wrong with it, and with each path that
    cannot be tried; UsageError for a recording that is none."""
    assume = assumed.given(fact)
    understood, more = with_facts([config], facts, environment, plugins)
    more |= assume
    result = Result(Engine(understood.rules.rules))
    here = _host(understood, set(more), result)
    asked = None
    if recognition.OF_FILES & recognition.wanted(understood.rules):
        asked = Plugins(registry.find((registry.DIRECTORY, *understood.plugins)))
        result.notes += [f"a plugin is not used: {problem}" for problem in asked.problems]
    told = recorded(regular(trace)) if trace is not None else Recorded()
    if told.cut is not None:
        result.notes.append(told.cut)
    problems: list[Problem] = []
    lasting: dict[str, Value] = {} if environment is None else {"environment": environment}
    for given in paths:
        top = Path(os.path.abspath(given))
        root = _root(top, mount or told.mount or None)
        for path in _files(top, problems, result):
            name = os.path.relpath(path, root)
            known = told.facts.get(name)
            try:
                own = of_file(path, name, asked)
            except OSError as error:
                problems.append(Problem(str(path), 0, "", error.strerror or str(error)))
                continue
            # Facts that are given have the last word: they say what is to be assumed.
            every = {**here, **lasting, **(known or {}), **own, **more}
            result.files.append(Tried(str(path), every, result.engine.decide(every), known is not None))
    if problems:
        raise DocumentError(problems)
    if trace is not None and not any(each.recorded for each in result.files):
        result.notes.append(f"none of these files is read in {trace}")
    return result


def _host(understood: Understood, given: set[str], result: Result) -> dict[str, Value]:
    """What rules ask for of this host, and a line that says so."""
    named = next((value for key, value, _ in understood.daemon if key == "cache_dir"), None)
    wanted = assumed.asked(understood.rules) - given
    found = assumed.of_host(wanted, Path(named) if named is not None else None)
    if found:
        now = (f"{name} {shown_value(PROPERTY[name].kind, found[name])}" for name in sorted(found))
        result.notes.append(f"this host has now: {', '.join(now)}; --fact NAME=VALUE assumes something else")
    return found


def _root(top: Path, mount: str | None) -> Path:
    """What the paths of files count from."""
    for base in (mount, os.getcwd() if not top.is_dir() else None):
        if base is not None and top.is_relative_to(os.path.abspath(base)):
            return Path(os.path.abspath(base))
    return top if top.is_dir() else Path("/")


def _files(top: Path, problems: list[Problem], result: Result) -> Iterator[Path]:
    if not top.is_dir():
        yield top
        return
    for directory, names, files in os.walk(top, onerror=lambda error: _unread(error, problems)):
        names.sort()
        for name in sorted(files):
            path = Path(directory, name)
            if not path.is_file():
                continue
            if len(result.files) >= MOST:
                result.left_out += 1
            else:
                yield path


def _unread(error: OSError, problems: list[Problem]) -> None:
    problems.append(Problem(str(error.filename), 0, "", error.strerror or str(error)))


def of_file(path: Path, name: str, plugins: Plugins | None) -> dict[str, Value]:
    """What the file itself says, and ``plugins`` say of it; blocks. ``name``: its path below the mount.
    Raises OSError, for what is no file too: nothing is opened that could wait for somebody."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "expected a file or a directory")
        kind, form = type_of(name, os.pread(descriptor, HEAD, 0))
        head = os.pread(descriptor, interface.HEAD, 0) if plugins is not None else b""
        known = of_path(name) | {
            "size": status.st_size,
            "age": max(0.0, time.time() - status.st_mtime),
            "type": kind,
        }
        known |= _xattrs(descriptor)
    finally:
        os.close(descriptor)
    match = trio.run(plugins.framework, name, head) if plugins is not None else None
    known |= {"file_framework": match.framework} if match is not None else {}
    return known | ({"format": form} if form else {})


def _xattrs(descriptor: int) -> dict[str, Value]:
    try:
        names = os.listxattr(descriptor)
    except OSError:  # a file system without them
        return {}
    found: dict[str, Value] = {"xattrs": frozenset(names)}
    for name in names:
        value = os.getxattr(descriptor, name)
        if len(value) <= XATTR_BYTES:
            found[XATTR + name] = value.decode(errors="surrogateescape")
    return found
