"""Waiting for what nothing tells of: other threads, daemons, servers, the kernel."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds after which something that should happen has not: no measure, only an end."""

SHORTEST, LONGEST = 0.0005, 0.05
"""Seconds between two looks: at first, and after about a second."""


def until(
    done: Callable[[], T], what: str | Callable[[], str] = "it has come to that", seconds: float = PATIENCE
) -> T:
    """What ``done`` gives as soon as that counts as true. ``TimeoutError`` says what was not, as is known
    then."""
    deadline, pause = time.monotonic() + seconds, SHORTEST
    while not (found := done()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {what() if callable(what) else what}")
        time.sleep(pause)
        pause = min(pause * 1.1, LONGEST)
    return found
