"""Live reload: rules that were changed on the disk are read, compiled and swapped in whole.

Files that cannot be used as they are leave the rules that are in use alone; ``Loaded.error`` says why, and a
log line. The kernel tells of changes in the directories of the files (an editor replaces a file by renaming
another one), and every ``EVERY`` seconds the files are looked at besides: it does not tell of changes on a
network file system, nor behind a symbolic link, nor of those before it was asked.

Reading runs in a thread, and what holds the interpreter's lock for long there holds up the loop: a single
collection of garbage goes over millions of objects while 10,000 rules are read, for up to a second. So
nothing is collected meanwhile, what was read is not looked through again (``gc.freeze``: the rules have no
cycles and go by their counts of references), and large things are let go of piece by piece.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import trio

from swmld.documents import Document, DocumentError, Problem
from swmld.head.rulesfiles import Check, Files, State, read_files

if TYPE_CHECKING:
    from swmld.rules.decide import Engine
    from swmld.rules.ruleset import RuleSet

log = logging.getLogger(__name__)
T = TypeVar("T")

EVERY = 5.0
"""Seconds between two looks at files whose changes nobody tells."""
DEBOUNCE = 1000
"""Milliseconds for which changes are gathered at most; they are told after 50 without another."""
REPLACED = 0.5
"""Seconds in which a file that went away, or became empty, may come back."""

Said = Callable[[Iterable[Document], str | None], Mapping[str, Any]]
"""What documents say of the daemon, with an environment in use; ``swmld.config.load.said``."""

Live = Callable[[Mapping[str, Any]], Set[str]]
"""Takes over what files say of the daemon by now, on the loop; the keys that need no restart. ValueError,
with nothing changed, if values do not go together."""

WHAT = {True: "rules", False: "settings"}

LINES = 20
"""Of remarks in the log."""


class Ruled(Protocol):
    """``head.head.Head``. ``swap`` returns what is not in use any more. ``review`` blocks: what the cache
    holds, by the rules as they are now."""

    def swap(self, rules: RuleSet, engine: Engine | None = None) -> list[object]: ...
    def review(self) -> int: ...


@dataclass(slots=True)
class Loaded:
    """What the rules in use were read from, and how the latest reading went. Times: seconds since the epoch,
    0 never. ``error``: why the files as they are now are not in use, a line each problem; "": they are.
    ``also``: what else the files must pass. ``said``: what they say of the daemon, ``settings`` at its start,
    and ``pending`` the keys of which they say something else by now and that count from the next start on;
    ``live`` takes over others. ``ruled``: rules are in use; else the files have settings alone, and rules
    that come to be in them count from the next start on."""

    paths: tuple[Path, ...]
    environment: str | None
    at: float
    seen: State
    reloads: int = 0
    errors: int = 0
    error: str = ""
    error_at: float = 0.0
    also: Check | None = None
    said: Said | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    pending: tuple[str, ...] = ()
    live: Live | None = None
    ruled: bool = True


def first(
    paths: Iterable[Path],
    environment: str | None,
    clock: Callable[[], float] = time.time,
    *,
    also: Check | None = None,
    said: Said | None = None,
) -> tuple[RuleSet, Loaded]:
    """The rules at the start, which blocks. Raises RulesError with every problem."""
    paths = tuple(paths)
    files = Files(paths)
    loaded = Loaded(paths, environment, clock(), files.state, also=also, said=said)
    with _uncollected():
        rules, loaded.settings = _read(files, environment, loaded)
    return rules, loaded


def announce(rules: RuleSet) -> None:
    """Say in the log which rules are in use."""
    log.info("rules are in use", extra={"active": len(rules.rules), "inactive": len(rules.inactive)})


async def watch(
    paths: Iterable[Path],
    environment: str | None,
    head: Ruled | None,
    loaded: Loaded,
    *,
    every: float = EVERY,
    clock: Callable[[], float] = time.time,
) -> None:
    """Until cancelled: reload the rules of ``paths`` into ``head`` when they change, and the daemon's
    settings; ``loaded`` tells how it went. ``head`` None: the settings alone.
    """
    paths = tuple(paths)
    while True:
        files = await _blocking(lambda: Files(paths))
        if files.state != loaded.seen:
            await _reload(files, environment, head, loaded, clock)
        async with contextlib.aclosing(_changes(list(files.directories), every)) as changes:
            async for changed in changes:
                now = await _blocking(lambda: Files(paths))
                if _being_replaced(loaded.seen, now):
                    await _pause()
                    now = await _blocking(lambda: Files(paths))
                # A file that was written twice within a tick of its clock looks as it was.
                if now.state != loaded.seen or changed & {str(path) for path in now.found}:
                    await _reload(now, environment, head, loaded, clock)
                if now.directories != files.directories:
                    break


def _being_replaced(seen: State, now: Files) -> bool:
    """Whether a file went away, or became empty: as between the two steps of an editor that renames the old
    one or truncates it, and of a shell's ``>``. Taken as it is then, its rules would be gone for a moment."""
    sizes = {str(path): size for path, size in now.sizes.items()}
    before = {name: size for name, _, _, size, *_ in (each for each in seen if len(each) > 2)}  # no problems
    return any(size != "0" and not sizes.get(name) for name, size in before.items())


async def _pause() -> None:
    await trio.sleep(REPLACED)


async def _reload(
    files: Files, environment: str | None, head: Ruled | None, loaded: Loaded, clock: Callable[[], float]
) -> None:
    loaded.seen = files.state
    try:
        rules, engine, settings = await _blocking(lambda: _compiled(files, environment, loaded))
        taken = _take_over(loaded, settings)  # nobody decides between this and the new rules
    except Exception as error:
        # Whatever is wrong with the files, or with us: the rules in use are not touched.
        unexpected = not isinstance(error, DocumentError)
        loaded.errors += 1
        loaded.error_at = clock()
        loaded.error = f"internal error: {type(error).__name__}: {error}" if unexpected else str(error)
        lines = loaded.error.splitlines()
        more = f" (and {len(lines) - 1} more: {where_told(loaded)})" if len(lines) > 1 else ""
        text = f"{WHAT[loaded.ruled]} were changed and cannot be used, the old ones stay: %s%s"
        log.error(text, lines[0], more, exc_info=unexpected)
        return
    old = head.swap(rules, engine) if head is not None else []
    loaded.at, loaded.error, loaded.reloads = clock(), "", loaded.reloads + 1
    if head is not None:
        announce(rules)
    waiting = {"rules"} if rules.rules and head is None else set[str]()
    _settle(loaded, settings, taken, waiting)
    if head is None:
        return
    await _blocking(lambda: _let_go(old))
    gone = await _blocking(head.review)
    if gone:
        log.info("files that are excluded now left the cache", extra={"files": gone})


def where_told(loaded: Loaded) -> str:
    """The command that tells all that is wrong with the files."""
    return "swmld rules ls" if loaded.ruled else " ".join(["swmld validate", *map(str, loaded.paths)])


def _take_over(loaded: Loaded, now: Mapping[str, Any]) -> Set[str]:
    """The daemon's settings that need no start are taken over, and named. Raises DocumentError, with nothing
    changed, where they do not go together."""
    try:
        return loaded.live(now) if loaded.live is not None else frozenset()
    except ValueError as error:
        where = ", ".join(map(str, loaded.paths))
        raise DocumentError([Problem(where, 0, "", f"settings that do not go together: {error}")]) from None


def _settle(loaded: Loaded, now: Mapping[str, Any], taken: Set[str], waiting: Set[str]) -> None:
    """Say in the log which settings of the daemon are not what it was started with and were not taken over,
    and which else wait for its next start, once each time."""
    keys = now.keys() | loaded.settings.keys()
    changed = (key for key in keys - taken if now.get(key) != loaded.settings.get(key))
    pending = tuple(sorted({*changed, *waiting}))
    if pending and pending != loaded.pending:
        log.warning("changed settings of the daemon count from its next start on: %s", ", ".join(pending))
    loaded.pending = pending


def _compiled(
    files: Files, environment: str | None, loaded: Loaded
) -> tuple[RuleSet, Engine, Mapping[str, Any]]:
    from swmld.rules.decide import Engine

    with _uncollected():
        rules, settings = _read(files, environment, loaded)
        return rules, Engine(rules.rules), settings


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage is collected within, and what is there at the end is no garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def _let_go(things: list[object]) -> None:
    """One after the other: between two of them others may run."""
    while things:
        things.pop()


def _read(files: Files, environment: str | None, loaded: Loaded) -> tuple[RuleSet, Mapping[str, Any]]:
    """The rules, and what the files that count say of the daemon. Raises RulesError."""
    counting: list[Document] = []
    read: list[Document] = []

    def also(documents: Iterable[Document]) -> list[Problem]:
        every = list(documents)
        read.extend(every)
        only = {str(path): name for path, name in files.environments.items()}
        counting.extend(each for each in every if only.get(each.name) in (None, environment))
        return loaded.also(every) if loaded.also is not None else []

    try:
        rules = read_files(files, environment, also)
        return rules, loaded.said(counting, environment) if loaded.said is not None else {}
    finally:
        for document in read:
            _let_go_of(document)


def _let_go_of(document: Document) -> None:
    """The rules of a document that nobody needs any more, and their places."""
    values, root = document.values.get("rules"), document.root
    if isinstance(values, list):
        _let_go(values)
    places = root.below.get("rules") if root is not None else None
    while places is not None and places.below:
        places.below.popitem()


async def _changes(directories: list[Path], every: float) -> AsyncGenerator[set[str], None]:
    """The paths that changed in ``directories``, not below them; now and then, and if the kernel cannot tell,
    an empty set.
    """
    from watchfiles import watch as told

    stop = threading.Event()
    changes: Generator[set[tuple[Any, str]], None, None] = told(
        *directories,
        watch_filter=None,
        debounce=DEBOUNCE,
        stop_event=stop,
        rust_timeout=int(every * 1000),
        yield_on_timeout=True,
        raise_interrupt=False,
        recursive=False,
        ignore_permission_denied=True,
    )
    try:
        while True:
            try:
                found = await _blocking(lambda: next(changes, None))
            except (OSError, RuntimeError) as error:
                # A directory went away, or there are too many watches on this host.
                log.debug("changes of rules are looked for by time alone: %s", error)
                await trio.sleep(every)
                found = None
            if found is None:
                return
            yield {path for _, path in found}
    finally:
        stop.set()
        with contextlib.suppress(ValueError):  # it runs in a thread still, and ends there
            changes.close()


async def _blocking(function: Callable[[], T]) -> T:
    """In a worker thread, which is left to itself when we are cancelled: it ends soon after ``stop``."""
    return await trio.to_thread.run_sync(function, abandon_on_cancel=True)
