"""Finds plugins: those that come with swmld, those that installed packages register, files in directories.

What cannot be used is told in one line that names it, and the others are loaded. All of a plugin's code runs
within a time limit, its import too. It blocks: for the start and for commands.

A file runs with the rights of the daemon, so it is read only if nobody else can have written it: it and its
directory belong to root (or to who runs this) and are writable by no group and no others.
"""

from __future__ import annotations

import importlib
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import re2

from swmld.plugins import bounded
from swmld.plugins.interface import API, Plugin
from swmld.plugins.shipped import SHIPPED

GROUP = "swmld.plugins"
"""Of the entry points; each names a class."""

DIRECTORY = Path("/etc/swmld/plugins")

SHIPPED_ORIGIN, ENTRY_POINT = "shipped", "entry point "
"""``Loaded.origin``, or how it begins; else it is a path."""

LOAD_SECONDS = 10.0
"""For an import with all that is asked of a plugin once; one that imports a whole framework takes too long
for a daemon's start, and too much memory."""

MOST_BYTES = 1 << 20
"""Of a file, and of a plugin's rules or templates."""
MOST_PLUGINS = 256
MOST_WORDS = 256
"""Of ``libraries`` or ``extensions`` of one plugin."""

_OURS = frozenset(str(Path(__file__).with_name(name)) for name in ("registry.py", "bounded.py", "guard.py"))
METHODS = ("framework_name", "detect", "hints", "default_rules", "default_templates")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.+-]{0,63}")


class Refused(Exception):
    """Why a plugin is not loaded, in one line."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A plugin, and what it said once: ``rules`` and ``templates`` are YAML. ``origin``: the file, the entry
    point or "shipped"."""

    name: str
    plugin: Plugin
    origin: str
    libraries: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    chunk_size: int = 0
    rules: str = ""
    templates: str = ""


@dataclass(slots=True)
class Found:
    """``problems``: a line each, with the file or entry point that it is about."""

    plugins: list[Loaded] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def find(
    directories: Iterable[Path] = (DIRECTORY,), *, packages: bool = True, shipped: Iterable[str] = SHIPPED
) -> Found:
    """All plugins, in the order in which they count where two are as sure: those of files, of packages, and
    shipped ones. Of two with one name it is the other way round: the later is refused. ``packages``: those of
    entry points too. Only ``DIRECTORY`` may be missing. Raises nothing."""
    found = Found()
    for name in shipped:
        _add(found, SHIPPED_ORIGIN, lambda name=name: [_named(name)])  # type: ignore[misc]
    for entry in _entries() if packages else ():
        _add(found, ENTRY_POINT + entry.name, lambda entry=entry: [entry.load()])  # type: ignore[misc]
    for directory in dict.fromkeys(directories):
        try:
            for path in files(directory):
                _add(found, str(path), lambda path=path: classes(path))  # type: ignore[misc]
        except Refused as error:
            found.problems.append(f"{directory}: {error}")
    found.plugins.sort(key=lambda each: (each.origin == SHIPPED_ORIGIN, each.origin.startswith(ENTRY_POINT)))
    return found


def _add(found: Found, origin: str, classes: Callable[[], list[type]]) -> None:
    """Load the classes of one place; what is wrong with one of them is told."""
    try:
        for each in load(origin, classes):
            before = next((other for other in found.plugins if other.name == each.name), None)
            if before is not None:
                raise Refused(f"{each.name} is the name of another plugin already ({before.origin})")
            if len(found.plugins) >= MOST_PLUGINS:
                raise Refused(f"expected at most {MOST_PLUGINS} plugins")
            found.plugins.append(each)
    except Refused as error:
        found.problems.append(f"{origin}: {error}")


def load(origin: str, classes: Callable[[], list[type]]) -> list[Loaded]:
    """The plugins that these classes make, within ``LOAD_SECONDS``; Refused for all that goes wrong."""

    def made() -> list[Loaded]:
        try:
            return [loaded(each, origin) for each in classes()]
        except (Refused, bounded.Ended):
            raise
        except BaseException as error:  # whatever an import raises, SystemExit too: the others are loaded
            raise Refused(told(error)) from None

    try:
        return bounded.call(made, LOAD_SECONDS, "swmld-load")
    except bounded.TooLong as error:
        raise Refused(str(error)) from None


def load_file(path: Path) -> list[Loaded]:
    """As ``load``, of the classes in a file."""
    return load(str(path), lambda: classes(path))


def told(error: BaseException) -> str:
    """An exception of a plugin in one line, with the place in its code."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    at, own = error.__traceback__, ""
    while at is not None:
        name = at.tb_frame.f_code.co_filename
        # The first line that is not ours, not where some library noticed.
        if not name.startswith("<frozen") and name not in (*_OURS, importlib.__file__):
            own = own or f" (line {at.tb_lineno} of {os.path.basename(name)})"
        at = at.tb_next
    line = " ".join(text.split())
    return f"raised {line[:300]}{own}"


def _named(name: str) -> type:
    module, _, attribute = name.partition(":")
    found: type = getattr(importlib.import_module(module), attribute)
    return found


def _entries() -> Sequence[metadata.EntryPoint]:
    try:
        return sorted(metadata.entry_points(group=GROUP), key=lambda entry: entry.name)
    except Exception:  # a package whose metadata are broken
        return ()


# ---- files


def files(directory: Path) -> Iterator[Path]:
    """The plugins' files of a directory, by name; those that begin with ``.`` or ``_`` are passed over.

    Raises Refused; a missing ``DIRECTORY`` has none.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        if directory == DIRECTORY:
            return
        raise Refused("no such directory") from None
    except OSError as error:
        raise Refused(error.strerror or str(error)) from None
    try:
        _check_owner(os.fstat(fd), "the directory")
        names = sorted(os.listdir(fd))
    finally:
        os.close(fd)
    for name in names:
        if name.endswith(".py") and name[0] not in "._":
            yield directory / name


def source(path: Path) -> bytes:
    """The text of a plugin's file, if nobody but root or we can have written it; raises Refused.

    The file that is looked at is the one that is read: each is opened once, and nothing is followed.
    """
    held = []
    try:
        held.append(os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        _check_owner(os.fstat(held[0]), "its directory")
        # A pipe would block the open until somebody writes.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        held.append(os.open(path.name, flags, dir_fd=held[0]))
        status = os.fstat(held[1])
        if not stat.S_ISREG(status.st_mode):
            raise Refused("it is not a regular file")
        _check_owner(status, "it")
        with os.fdopen(held.pop(), "rb") as file:
            text = file.read(MOST_BYTES + 1)
    except OSError as error:
        link = path.is_symlink()
        raise Refused("it is a symbolic link" if link else error.strerror or str(error)) from None
    finally:
        for fd in held:
            os.close(fd)
    if len(text) > MOST_BYTES:
        raise Refused(f"expected at most {MOST_BYTES} bytes")
    return text


def _check_owner(status: os.stat_result, what: str) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise Refused(f"{what} belongs to user {status.st_uid}, expected root")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Refused(f"{what} is writable by group or others (mode {stat.S_IMODE(status.st_mode):04o})")


def classes(path: Path) -> list[type]:
    """The plugins' classes of a file, which runs for that. Raises Refused, and whatever the file raises."""
    text = source(path)
    name = "swmld_plugin_" + re.sub(r"\W", "_", str(path.absolute()))
    try:
        code = compile(text, str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        line = f"line {error.lineno}: " if isinstance(error, SyntaxError) and error.lineno else ""
        raise Refused(f"{line}{getattr(error, 'msg', None) or error}") from None
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses look there
    exec(code, module.__dict__)
    found = [
        value
        for key, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == name and key[0] != "_"
        and callable(getattr(value, "framework_name", None))
    ]  # fmt: skip
    if not found:
        raise Refused("it defines no class with a method framework_name")
    return found


# ---- what a plugin says once


def loaded(kind: type, origin: str) -> Loaded:
    """Make a plugin and ask it what is asked once. Raises Refused, and whatever it raises."""
    if not isinstance(kind, type):
        raise Refused(f"expected a class, got {kind!r:.80}")
    plugin: Any = kind()
    named = kind.__name__
    api = getattr(plugin, "api", None)
    if type(api) is not int or api != API:
        raise Refused(f"{named} is written for interface {api!r}, expected api = {API}")
    missing = [name for name in METHODS if not callable(getattr(plugin, name, None))]
    if missing:
        raise Refused(f"{named} has no method {', '.join(missing)}")
    name = plugin.framework_name()
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Refused(f"{named}.framework_name(): expected a name in lower case, got {name!r:.80}")
    libraries = _words(plugin, named, "libraries")
    extensions = _words(plugin, named, "extensions")
    for word in libraries:
        try:
            re2.compile(word, _OPTIONS)
        except re2.error as error:
            raise Refused(f"{named}.libraries: {word!r:.80}: {_text(error)}") from None
    for word in extensions:
        if not word.startswith(".") or word != word.lower() or "/" in word:
            raise Refused(f"{named}.extensions: expected .name in lower case, got {word!r:.80}")
    chunk_size = getattr(plugin, "chunk_size", 0)
    if type(chunk_size) is not int or (chunk_size and not _may_be_chunk(chunk_size)):
        raise Refused(f"{named}.chunk_size: expected a power of two, 64KiB to 64MiB, got {chunk_size!r:.80}")
    if chunk_size and not extensions:
        raise Refused(f"{named}.chunk_size: expected extensions of the files that it is for")
    rules, templates = _yaml(plugin, named, "default_rules"), _yaml(plugin, named, "default_templates")
    return Loaded(name, plugin, origin, libraries, extensions, chunk_size, rules, templates)


def _may_be_chunk(size: int) -> bool:
    return 64 << 10 <= size <= 64 << 20 and not size & (size - 1)


_OPTIONS = re2.Options()
_OPTIONS.log_errors = False


def _text(error: BaseException) -> str:
    what = error.args[0] if error.args else error
    return what.decode(errors="replace") if isinstance(what, bytes) else str(what)


def _words(plugin: Any, named: str, attribute: str) -> tuple[str, ...]:
    value = getattr(plugin, attribute, None)
    if not isinstance(value, list | tuple) or not all(isinstance(word, str) and word for word in value):
        raise Refused(f"{named}.{attribute}: expected a sequence of texts, got {value!r:.80}")
    if len(value) > MOST_WORDS:
        raise Refused(f"{named}.{attribute}: expected at most {MOST_WORDS}, got {len(value)}")
    return tuple(value)


def _yaml(plugin: Any, named: str, method: str) -> str:
    text = getattr(plugin, method)()
    if not isinstance(text, str) or len(text) > MOST_BYTES:
        what = f"{len(text)} characters" if isinstance(text, str) else f"{text!r:.80}"
        raise Refused(
            f"{named}.{method}(): expected YAML text of at most {MOST_BYTES} characters, got {what}"
        )
    return text
