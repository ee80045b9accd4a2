"""The start of a daemon: a process of its own reads the command line and the files, and ends.

What it takes to read them (parsers, models of values, texts of help) is 15 MB that the daemon never holds so.
Meanwhile the daemon imports what it serves with, so that a start takes no longer. All commands but the daemon
are run by ``main`` alone.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from collections.abc import Callable, Set
from typing import TYPE_CHECKING

from swmld import hiding

if TYPE_CHECKING:
    from swmld.config.models import Settings
    from swmld.head.reload import Loaded

PROGRAM = "swmld"

COMMANDS = frozenset({
    "cache", "completion", "config", "demo", "doctor", "explain", "flush", "history", "man", "plugin",
    "rules", "staged", "stats", "status", "test-rules", "trace", "validate", "warmup",
})  # fmt: skip
_ANSWERED = frozenset({"-h", "--help", "--version", "--demo"})

Deliver = Callable[["Settings", Set[str], "Loaded | None"], None]
"""Takes what ``app.run`` does, in its place."""


def is_daemon(arguments: list[str]) -> bool:
    """Whether they ask for one, if they can be understood at all. An option's value that is called as a
    command is taken for it: then one process does all, as for commands."""
    return "_SWMLD_COMPLETE" not in os.environ and not (COMMANDS | _ANSWERED).intersection(arguments)


def start(arguments: list[str]) -> int:
    """Serve what they ask for; the exit code."""
    reading, writing = os.pipe()
    reader = os.fork()  # nothing has started a thread yet
    if not reader:
        os.close(reading)
        _end(_read(arguments, writing))
    os.close(writing)
    return told(lambda: _serve(reading, reader))


def _serve(reading: int, reader: int) -> int:
    from swmld import app

    with os.fdopen(reading, "rb") as file:
        said = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1])
    if code or not said:
        return code if code >= 0 else 128 - code
    return app.run(*pickle.loads(said))


def _read(arguments: list[str], writing: int) -> int:
    from swmld.cli import main
    from swmld.config.settled import settled

    def deliver(settings: Settings, fixed: Set[str], watched: Loaded | None) -> None:
        with os.fdopen(writing, "wb") as file:
            pickle.dump((settled(settings), fixed, watched), file)

    try:
        return main.run(arguments, deliver)
    except BaseException:
        traceback.print_exc()
        return 1


def _end(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = code or 1
    os._exit(code)


def told(run: Callable[[], int]) -> int:
    """The exit code of ``run``; an error that is known is a line. Others pass, with their traceback."""
    from swmld.errors import SwmldError

    try:
        return run()
    except SwmldError as error:
        complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Such as `swmld cache ls | head`. What stdout still holds must not be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def complain(message: str) -> None:
    """A line, or several, for who called."""
    for line in hiding.told(message).splitlines():  # the parser repeats what it does not understand
        print(f"{PROGRAM}: {line}", file=sys.stderr)
