"""Calls of what may never come back: in daemon threads, which the end of the process does not wait for.

A thread that took too long is told to end by an exception that appears in it. That ends Python code, whatever
it computes; what sleeps in the kernel ends after that, or never, and holds nothing but its stack. What holds
the interpreter's lock the while (``re`` with a pattern that backtracks for ever) cannot be ended, nor can
anything else run beside it.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class TooLong(Exception):
    """A call did not come back within its time."""


class Ended(BaseException):
    """Raised in a thread whose result nobody waits for any more. No Exception: code that catches those is
    to end as well."""


def end(thread: threading.Thread) -> None:
    """Raise ``Ended`` in a thread once it runs Python code again."""
    if thread.ident is not None and thread.is_alive():
        # CPython's own way to do so (Include/cpython/pystate.h); 0 is returned for a thread that has ended.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Ended))


def start(target: Callable[[], None], name: str) -> threading.Thread:
    """A daemon thread that may be ended at any time. Raises RuntimeError where there can be no more."""

    def run() -> None:
        with contextlib.suppress(Ended):
            target()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


def call(function: Callable[[], T], limit: float, name: str = "swmld-bounded") -> T:
    """What ``function`` returns or raises, SystemExit and the like too; it runs in a thread of its own.

    Raises TooLong after ``limit`` seconds. Blocks: not for the event loop.
    """
    box: list[tuple[bool, Any]] = []

    def work() -> None:
        try:
            box.append((True, function()))
        except Ended:
            raise
        except BaseException as error:
            box.append((False, error))

    thread = start(work, name)
    thread.join(limit)
    if not box:
        end(thread)
        raise TooLong(f"took longer than {limit:g} s")
    fine, result = box[0]
    if not fine:
        raise result
    found: T = result
    return found
