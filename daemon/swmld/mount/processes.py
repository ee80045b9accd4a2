"""Whose thread asks: FUSE names threads, rules speak of processes."""

from __future__ import annotations

import os

_BY_DESCRIPTOR = {
    "x86_64": {b"91": None, b"93": None, b"280": 1},
    "aarch64": {b"52": None, b"55": None, b"88": 1},
}.get(os.uname().machine, {})
"""Numbers of fchmod(2), fchown(2) and utimensat(2), which is of its descriptor where the argument of this
index, its path, is NULL."""


def process_of(thread: int) -> int | None:
    """Its process; None if it has ended or cannot be seen from here."""
    if thread <= 0:
        return None
    try:
        with open(f"/proc/{thread}/status", "rb") as file:
            for line in file:
                if line.startswith(b"Tgid:"):
                    return int(line[5:])
    except (OSError, ValueError):
        pass
    return None


def asks_by_descriptor(thread: int) -> bool:
    """Whether this thread, which waits for an answer to a SETATTR, made it of an open file. False where that
    cannot be seen."""
    if thread <= 0:
        return False
    try:
        with open(f"/proc/{thread}/syscall", "rb") as file:
            number, *arguments = file.read().split()
    except (OSError, ValueError):
        return False
    if number not in _BY_DESCRIPTOR:
        return False
    path = _BY_DESCRIPTOR[number]
    return path is None or int(arguments[path], 16) == 0
