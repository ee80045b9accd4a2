"""Compare two views of one tree, entry by entry, byte by byte."""

from __future__ import annotations

import os
import stat
from pathlib import Path

Entry = tuple[object, ...]


def describe(top: Path) -> dict[bytes, Entry]:
    """What a backup would keep of a tree: kinds, owners, modes, times, links, attributes, bytes."""
    tree: dict[bytes, Entry] = {}
    first_names: dict[int, bytes] = {}
    root = os.fsencode(top)
    for directory, dirs, files in os.walk(root):
        dirs.sort()
        for name in sorted([*dirs, *files]):
            path = os.path.join(directory, name)
            tree[os.path.relpath(path, root)] = _entry(path, root, first_names)
    return tree


def _entry(path: bytes, root: bytes, first_names: dict[int, bytes]) -> Entry:
    status = os.lstat(path)
    # Of the entry itself: what a symlink points to lies outside, and may be there on one host only.
    is_dir = stat.S_ISDIR(status.st_mode)
    content: object = None
    if stat.S_ISLNK(status.st_mode):
        content = os.readlink(path)
    elif stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            content = file.read()
    names = os.listxattr(path, follow_symlinks=False)
    attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
    same_as = first_names.setdefault(status.st_ino, os.path.relpath(path, root))
    return (
        status.st_mode, status.st_uid, status.st_gid, status.st_rdev, status.st_nlink, status.st_mtime_ns,
        None if is_dir else status.st_size, content, attributes, same_as,
    )  # fmt: skip


def assert_same(one: Path, two: Path) -> None:
    """As ``describe(one) == describe(two)``, with a message that names the first differences."""
    left, right = describe(one), describe(two)
    if left == right:
        return
    lines = [f"only in {one}: {name!r}" for name in sorted(left.keys() - right.keys())]
    lines += [f"only in {two}: {name!r}" for name in sorted(right.keys() - left.keys())]
    for name in sorted(left.keys() & right.keys()):
        if left[name] != right[name]:
            lines.append(f"{name!r}: {_short(left[name])} != {_short(right[name])}")
    raise AssertionError("\n".join(lines[:10]))


def _short(entry: Entry) -> str:
    return repr([part if not isinstance(part, bytes) else (len(part), part[:16]) for part in entry])


def first_difference(got: bytes, wanted: bytes | bytearray) -> str:
    """Where two byte strings part, for a message."""
    if len(got) != len(wanted):
        return f"{len(got)} bytes instead of {len(wanted)}"
    at = next((at for at in range(len(got)) if got[at] != wanted[at]), -1)
    return (
        "the same" if at < 0 else f"at {at}: {got[at : at + 8]!r} instead of {bytes(wanted[at : at + 8])!r}"
    )
