"""Which files hold the rules, and what they say. It blocks: for the start and for worker threads.

A path is a file, whatever its name, or a directory of ``*.yaml``, ``*.yml`` and ``*.json``, at any depth. Of
two definitions with one id the later counts, so order matters: paths as given; in a directory by name, but
first ``default``, ``frameworks`` and ``environments``, and ``custom`` last. Names that begin with a dot are
passed over: editors and mounted configuration volumes keep their own things there. A file
``environments/NAME.yaml``, or one below ``environments/NAME/``, counts where that environment is in use.

The files may have keys of the daemon's settings too: ``read`` passes over them, ``swmld.config`` reads them.

The modules of rules take a tenth of a second to import: ``read`` does that, ``Files`` does not need them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from swmld import documents
from swmld.documents import Document, DocumentError, Problem
from swmld.errors import UsageError
from swmld.units import format_size

if TYPE_CHECKING:
    from swmld.rules.layers import Merged
    from swmld.rules.ruleset import RuleSet

SUFFIXES = (".yaml", ".yml", ".json")
LAYERS = {"default": 0, "frameworks": 1, "environments": 2, "custom": 4}
_BESIDE = 3
_ENVIRONMENTS = "environments"

MOST_FILES = 1000
MOST_DIRECTORIES = 1000
DEEPEST = 32
"""Of all paths together; more is another kind of directory."""

Check = Callable[[Iterable[Document]], list[Problem]]
"""What is wrong with the daemon's settings in documents; ``swmld.config.load.check``."""

State = tuple[tuple[str, ...], ...]
"""What changes when a file is written, replaced, added or removed."""


class Files:
    """The files of ``paths`` now, in the order in which they count, what is wrong with the paths, and the
    directories in which a change matters.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.problems: list[Problem] = []
        self.environments: dict[Path, str] = {}
        self.directories: dict[Path, None] = {}
        found: dict[Path, os.stat_result] = {}
        try:
            for path in paths:
                for file, status in self._of(path):
                    found.pop(file, None)  # of a file that is given twice the later place counts
                    found[file] = status
                    if len(found) > MOST_FILES:
                        raise _TooMany(f"expected at most {MOST_FILES} files of rules")
        except _TooMany as error:
            self._complain(path, str(error))
        self.found = list(found)
        self.sizes = {file: status.st_size for file, status in found.items()}
        self.state: State = (
            *((str(file), *_state(status)) for file, status in found.items()),
            *((problem.where, problem.text) for problem in self.problems),
        )

    def _of(self, path: Path) -> Iterator[tuple[Path, os.stat_result]]:
        self._watch(_nearest(path.parent))  # an editor replaces a file by renaming another one
        try:
            status = path.stat()
            if stat.S_ISDIR(status.st_mode):
                yield from self._below(path, status, set())
            elif stat.S_ISREG(status.st_mode):
                yield path, status
            else:
                self._complain(path, "expected a file or a directory")
        except OSError as error:
            self._complain(path, error.strerror or str(error))

    def _below(
        self, directory: Path, status: os.stat_result, around: set[tuple[int, int]]
    ) -> Iterator[tuple[Path, os.stat_result]]:
        """``around``: the directories on the way here, which a symbolic link may lead back to."""
        here = status.st_dev, status.st_ino
        if here in around:
            return
        if len(around) >= DEEPEST:
            self._complain(directory, "nested too deeply")
            return
        self._watch(directory)
        names = [name for name in os.listdir(directory) if not name.startswith(".")]
        # The layers mean something at the top alone.
        names.sort(key=lambda name: (0 if around else LAYERS.get(name, _BESIDE), name))
        for name in names:
            path = directory / name
            try:
                status = path.stat()
                found: Iterable[tuple[Path, os.stat_result]] = ()
                if stat.S_ISDIR(status.st_mode):
                    found = self._below(path, status, around | {here})
                elif stat.S_ISREG(status.st_mode) and path.suffix.lower() in SUFFIXES:
                    found = ((path, status),)
                for file, of in found:
                    if not around and name == _ENVIRONMENTS:
                        self.environments[file] = file.relative_to(path).parts[0].removesuffix(file.suffix)
                    yield file, of
            except OSError as error:
                if path.suffix.lower() in SUFFIXES:
                    self._complain(path, error.strerror or str(error))

    def _watch(self, directory: Path) -> None:
        self.directories[directory] = None
        if len(self.directories) > MOST_DIRECTORIES:
            raise _TooMany(f"expected at most {MOST_DIRECTORIES} directories of rules")

    def _complain(self, path: Path, text: str) -> None:
        self.problems.append(Problem(str(path), 0, "", text))


class _TooMany(Exception):
    pass


def _nearest(path: Path) -> Path:
    """``path``, or the nearest directory around it that there is: where it will appear."""
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def _state(status: os.stat_result) -> tuple[str, ...]:
    told = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return tuple(map(str, told))


def find(paths: Iterable[Path]) -> list[Path]:
    """The files of ``paths``, in the order in which they count.

    Raises DocumentError with each path that is missing or cannot be read.
    """
    files = Files(paths)
    if files.problems:
        raise DocumentError(files.problems)
    return files.found


def read(paths: Iterable[Path], environment: str | None = None) -> RuleSet:
    """The rules of ``paths`` with ``environment`` in use. Raises RulesError with every problem, each with
    file, line and column where it has one.
    """
    return read_files(Files(paths), environment)


def read_files(files: Files, environment: str | None = None, also: Check | None = None) -> RuleSet:
    """As ``read``, of files that were looked for before; ``also`` checks what is not of rules."""
    from swmld.rules.ruleset import RulesError

    documents, problems = read_documents(files)
    if also is not None:
        problems += also(documents)
    try:
        rules = load_documents(files, documents, environment)
    except RulesError as error:
        problems += error.problems
    if problems:
        raise RulesError(dict.fromkeys(problems))
    return rules


def read_documents(files: Files) -> tuple[list[Document], list[Problem]]:
    """What each file says, in the order in which they count, and what is wrong with the files themselves."""
    from swmld.rules.reading import LIMITS
    from swmld.rules.ruleset import RulesError

    problems = list(files.problems)
    most, size = LIMITS["max_bytes"], sum(files.sizes.values())
    if size > most:
        largest = max(files.sizes, key=files.sizes.__getitem__)
        text = f"expected at most {format_size(most)} in all files of rules, got {format_size(size)}"
        raise RulesError([*problems, Problem(str(largest), 0, "", text)])
    found = []
    for path in files.found:
        try:
            found.append(documents.read(path, **LIMITS))
        except UsageError as error:
            problems.append(Problem("", 0, "", str(error)))
    return found, problems


def layered(files: Files, found: Iterable[Document], environment: str | None = None) -> Merged:
    """What documents say of rules, each change of an earlier one made."""
    from swmld.rules import layers
    from swmld.rules.loading import built_in

    only = {str(path): name for path, name in files.environments.items()}
    own = [layers.rules_of(document, environment, only.get(document.name)) for document in found]
    return layers.merged(own, built_in())


def load_documents(files: Files, found: Iterable[Document], environment: str | None = None) -> RuleSet:
    """The rules of what was read. Raises RulesError with every problem."""
    from swmld.rules.loading import load

    made = layered(files, found, environment)
    rules = load(made.documents, environment=environment)
    said = {f"{n} of {old} is replaced by that of {new}": f"{n} of {old} is changed by {new}"
            for n, old, new in made.changed}  # fmt: skip
    return replace(rules, notes=tuple(said.get(note, note) for note in rules.notes))


def sections() -> tuple[str, ...]:
    """The sections of a file of rules, in the order in which they are shown."""
    from swmld.rules.document import SECTIONS

    return SECTIONS
