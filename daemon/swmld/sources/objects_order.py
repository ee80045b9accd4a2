"""Pages of a bucket's keys as pages of a directory's names, in the order of the names. Pure.

A store sorts a prefix by ``dir/``, so after ``dir-1`` and ``dir.txt``; a directory's entry ``dir`` comes
before them. Hence a directory whose name a page has passed may only show up pages later. It is then a prefix
of the last name of the page and of the next key, both going on with a character below ``/``: few, and asked
about.

An object and a prefix of the same name: the directory is shown, since what is in it could not be reached
otherwise. ``dir_$folder$`` (Hadoop's marker) is the directory; an empty one whose name an earlier page has
passed is found by name only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

FOLDER = "_$folder$"
"""What Hadoop's first S3 file systems append to a directory's name to make its marker."""

LONGEST = 255
"""Bytes of a name at most: NAME_MAX, include/uapi/linux/limits.h."""

UNREADABLE = "\ufffd"
"""Stands in a key for bytes that are not UTF-8, and for characters that XML cannot hold."""


class Key(NamedTuple):
    """An object, or what several keys have in common up to the next slash."""

    name: str
    """Without what the directory's keys begin with, and without the slash of a prefix."""
    is_dir: bool = False
    size: int = 0
    mtime: int = 0
    """In seconds: finer times are in listings and not in the headers of an object."""
    tag: bytes = b""


class Found(NamedTuple):
    """Entries in order of names as bytes, and keys that no file can be named by."""

    entries: list[Key]
    left_out: list[str]


def is_name(name: str) -> bool:
    """Whether a file can be called so, by the kernel and by the store's client (no control characters)."""
    return (
        name not in ("", ".", "..")
        and UNREADABLE not in name
        and "/" not in name
        and all(character >= " " and character != "\x7f" for character in name)
        and len(name.encode("utf-8", "surrogatepass")) <= LONGEST
    )


def entries_of(keys: Iterable[Key], after: bytes) -> Found:
    """What ``keys`` are as a directory's entries after ``after``."""
    entries: dict[str, Key] = {}
    left_out: list[str] = []
    for key in keys:
        if not key.name and not key.is_dir:
            continue  # the directory's own marker
        if key.name.endswith(FOLDER) and not key.is_dir and key.name != FOLDER:
            key = Key(key.name.removesuffix(FOLDER), True)
        if not is_name(key.name):
            left_out.append(key.name)
        elif key.name.encode() > after and (key.is_dir or key.name not in entries):
            entries[key.name] = key
    ordered = sorted(entries.values(), key=lambda key: key.name.encode())
    return Found(ordered, left_out)


def passed(last: Key, following: Key) -> list[str]:
    """Names of directories that would be shown up to ``last``, and whose keys come after ``following``."""
    names = []
    for stop in range(1, len(last.name) + 1):
        name = last.name[:stop]
        if not following.name.startswith(name) or f"{following.name}{'/' * following.is_dir}" > f"{name}/":
            continue
        if stop == len(last.name):
            if not last.is_dir:
                names.append(name)
        elif last.name[stop] < "/":
            names.append(name)
    return names


def page_of(
    keys: list[Key], more: bool, after: bytes, limit: int, is_directory: Callable[[str], bool]
) -> tuple[Found, bool]:
    """The first ``limit`` entries that ``keys`` (in the store's order) tell, and whether there are others.

    With ``more`` keys behind them the last one is only looked at, unless it is the only one."""
    shown = keys
    hidden: list[Key] = []
    if more and len(keys) > 1:
        shown = keys[:-1]
        hidden = [
            Key(name, True) for name in passed(shown[-1], keys[-1]) if is_name(name) and is_directory(name)
        ]
    found = entries_of([*shown, *hidden], after)
    return Found(found.entries[:limit], found.left_out), more or len(found.entries) > limit
