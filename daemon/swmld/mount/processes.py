"""Whose thread asks: FUSE names threads, rules speak of processes."""

from __future__ import annotations


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
