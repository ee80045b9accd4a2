"""From what the command line says of files to settings and rules: for the daemon and all commands on files.

``--config`` is a file or a directory with the layers ``default``, ``frameworks``, ``environments`` and
``custom``. Where neither it nor ``--rules`` is given, ``/etc/swmld`` is taken if it has one of these.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from swmld import documents
from swmld.config import layers
from swmld.config.load import Resolved, resolve
from swmld.documents import Document, DocumentError, Problem
from swmld.head import rulesfiles
from swmld.head.rulesfiles import Files
from swmld.values import FALSE_WORDS

if TYPE_CHECKING:
    from swmld.config.models import Settings
    from swmld.head.reload import Loaded
    from swmld.rules.ruleset import RuleSet

DEFAULT = Path("/etc/swmld")
VARIABLE = layers.PREFIX + "CONFIG"
T = TypeVar("T")
_UNKNOWN = ("unknown rule", "unknown template", "nothing before this has the id")
"""How what is told of a name begins that a plugin may bring."""


@dataclass(frozen=True, slots=True)
class Found:
    """``path``: of the configuration, None without one; ``documents``: its files, in the order in which they
    count; ``ruled``: whether they say anything of rules."""

    path: Path | None
    files: Files
    documents: tuple[Document, ...]
    ruled: bool

    def layers(self, environment: str | None) -> list[layers.Layer]:
        """What the files say of the daemon, with an environment in use."""
        return _counting(self.files, self.documents, environment)


def chosen(config: str | None, variables: Mapping[str, str], *, ruled: bool = False) -> Path | None:
    """Where the configuration is; ``ruled``: rules are given without it. ``off`` stands for none."""
    given = config if config is not None else variables.get(VARIABLE) or None
    if given is not None:
        return None if given.lower() in FALSE_WORDS else Path(os.path.abspath(given))
    there = not ruled and any((DEFAULT / layer).is_dir() for layer in rulesfiles.LAYERS)
    return DEFAULT if there else None


def find(path: Path | None) -> Found:
    """Read a configuration. Raises DocumentError with what cannot be read at all; what is wrong with what the
    files say is in their problems."""
    files = Files([path] if path is not None else [])
    if files.problems:
        raise DocumentError(files.problems)
    if path is None:
        return Found(None, files, (), False)
    if files.found != [path]:
        read, problems = rulesfiles.read_documents(files)
        if problems:
            raise DocumentError(problems)
        return Found(path, files, tuple(read), True)
    # The modules of rules, which know the limits of their files, are not needed for settings alone.
    limited = files.sizes[path] > documents.MAX_BYTES
    document = None if limited else documents.read(path)
    if document is not None and not document.problems and not layers.is_mixed(document):
        return Found(path, files, (document,), False)
    read, problems = rulesfiles.read_documents(files)
    if problems:
        raise DocumentError(problems)
    return Found(path, files, tuple(read), any(map(layers.is_mixed, read)))


def settled(
    config: str | None, options: Mapping[str, Any], *, anywhere: bool = False
) -> tuple[Resolved, Found]:
    """The settings of the command line, the environment variables and the files, and what the files are.
    ``anywhere``: no mount needs to be given. Raises DocumentError with every problem."""
    variables = os.environ
    given = layers.of_options(options), layers.of_variables(variables)
    found = find(chosen(config, variables, ruled=any("rules" in layer.values for layer in given)))
    environment = layers.environment_of([*found.layers(None), *reversed(given)])
    files = found.layers(environment)
    more: dict[str, Any] = {}
    if anywhere and not any("mount" in layer.values for layer in (*files, *given)):
        more["mount"] = "/"
    rules = _named([*files, *reversed(given)])
    if found.path is not None and (found.ruled or rules):
        # Watched with the rules also where it has settings alone.
        more["rules"] = [found.path, *rules] if found.path.is_dir() else [*rules, found.path]
    resolved = resolve(files, options, variables, more)
    if found.ruled and found.path is not None and resolved.origins["rules"] == "default":
        resolved = replace(resolved, origins={**resolved.origins, "rules": str(found.path)})
    return resolved, found


def _named(given: Sequence[layers.Layer]) -> list[Any]:
    """The paths of rules that the topmost layer names: a directory that is the configuration counts before
    them, a file after them."""
    named: Any = next((layer.values["rules"] for layer in reversed(given) if "rules" in layer.values), [])
    return list(named) if isinstance(named, list | tuple) else [named]


def watched(settings: Settings, found: Found) -> Loaded | None:
    """The configuration that a daemon without rules watches; None: there is none, or rules, with which it is
    watched."""
    from swmld.config.settled import check, said
    from swmld.head.reload import Loaded

    if found.path is None or settings.rules:
        return None
    return Loaded(
        (found.path,), settings.environment, time.time(), found.files.state, also=check, said=said,
        settings=said(found.documents, settings.environment), ruled=False,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Understood:
    """``daemon``: key, value and place of each of the daemon's settings in the files. ``plugins``:
    directories of plugins, given and in the files."""

    rules: RuleSet
    daemon: tuple[tuple[str, str, str], ...]
    plugins: tuple[Path, ...] = ()


def understood(
    paths: Iterable[str | Path], environment: str | None, plugins: Iterable[str | Path] = ()
) -> Understood:
    """What files and directories say; without an environment also what they say of each one is read.
    ``plugins``: more directories of these. Raises RulesError with every problem of all."""
    from swmld.config.load import check
    from swmld.rules.ruleset import RulesError

    files = Files([Path(path) for path in paths])
    problems: list[Problem] = []
    rules = None
    try:
        read, unread = rulesfiles.read_documents(files)
        problems += [*unread, *check(read)]
    except RulesError as error:  # too much to be read at all
        raise error from None
    directories = [*map(Path, plugins), *_plugins(read)]
    names: list[str | None] = [environment]
    if environment is None:
        names += sorted(_environments(files, read))
    for name in names:
        try:
            found = with_plugins(partial(rulesfiles.load_documents, files, read, name), directories)
            rules = rules or found
        except RulesError as error:
            problems += error.problems
    if problems or rules is None:
        raise RulesError(_in_order(files, problems))
    own = {
        key: (layer, value)
        for layer in _counting(files, read, environment)
        for key, value in layer.values.items()
    }
    if notes := _unheard_of(rules, directories):
        rules = replace(rules, notes=(*rules.notes, *notes))
    daemon = tuple((key, _text(v), layer.origin(key)) for key, (layer, v) in own.items())
    return Understood(rules, daemon, tuple(directories))


def with_plugins(load: Callable[[], T], directories: Iterable[Path]) -> T:
    """What ``load`` loads; if it names what nobody knows, with that built in which plugins bring, as in a
    daemon. Finding them takes a tenth of a second. Raises RulesError, also with why plugins of these
    directories cannot be used if a name stays unknown."""
    from swmld.plugins import registry
    from swmld.rules import loading, plugged
    from swmld.rules.ruleset import RulesError

    try:
        return load()
    except RulesError as error:
        if not any(problem.text.startswith(_UNKNOWN) for problem in error.problems):
            raise
    try:
        found = plugged.vetted(registry.find((registry.DIRECTORY, *directories)))
        return load()
    except RulesError as error:
        if any(problem.text.startswith(_UNKNOWN) for problem in error.problems):
            refused = (Problem("", 0, "", f"a plugin is not used: {text}") for text in found.problems)
            raise RulesError([*refused, *error.problems]) from None
        raise
    finally:
        loading.provide(())


def _unheard_of(rules: RuleSet, directories: Iterable[Path]) -> list[str]:
    """A note of each framework that rules ask for and no plugin knows: misspelt, as a rule, and then nothing
    would ever say why they do not act."""
    from swmld.plugins import registry
    from swmld.plugins.known import WITHOUT_PLUGIN
    from swmld.rules.kinds import nearest
    from swmld.rules.operators import Operator

    asked: dict[str, str] = {}
    for rule in rules.rules:
        nodes = [node for _, node in rule.conditions] + ([rule.guard] if rule.guard is not None else [])
        for test in (test for node in nodes for test in node.tests()):
            if test.what.name in ("framework", "file_framework"):
                single = {test.operand} if test.operator is Operator.EQUALS else frozenset()
                for name in test.operand if test.operator is Operator.IN else single:
                    asked.setdefault(name, f"{rule.title} ({rule.where})")
    if not asked:
        return []
    known = [each.name for each in registry.find((registry.DIRECTORY, *directories)).plugins]
    known += WITHOUT_PLUGIN
    return [
        f"{where}: no plugin knows the framework {name}{nearest(name, known)}"
        for name, where in sorted(asked.items())
        if name not in known
    ]


def _plugins(read: Iterable[Document]) -> list[Path]:
    """The directories of plugins that files name."""
    given = [layers.of_document(each).values.get("plugins", []) for each in read]
    paths = (path for each in given for path in (each if isinstance(each, list) else [each]))
    return [Path(path) for path in paths if isinstance(path, str)]


def _text(value: Any) -> str:
    return ", ".join(map(_text, value)) if isinstance(value, list) else str(value)


def _in_order(files: Files, problems: Iterable[Problem]) -> list[Problem]:
    """By place, one of each: with another environment in use the same may read a little differently."""
    order = {str(path): number for number, path in enumerate(files.found)}
    first = {(one.where, one.line, one.column, one.key or one.text): one for one in reversed(list(problems))}
    return sorted(first.values(), key=lambda one: (order.get(one.where, -1), one.line, one.column))


def _environments(files: Files, read: Iterable[Document]) -> set[str]:
    """Every environment that the files define."""
    own = set(map(str, files.environments))
    sections = (each.values.get("environments") for each in read if each.name not in own)
    named = {name for section in sections if isinstance(section, dict) for name in section}
    return named | set(files.environments.values())


def _counting(files: Files, read: Iterable[Document], environment: str | None) -> list[layers.Layer]:
    """What the files that count say of the daemon, with an environment in use."""
    only = {str(path): name for path, name in files.environments.items()}
    counting = (each for each in read if only.get(each.name) in (None, environment))
    return [layers.of_document(each, environment) for each in counting]
