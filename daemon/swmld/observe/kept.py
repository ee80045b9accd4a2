"""The file of compiled probes in the state directory: read if it is ours alone, replaced in one step.

A program of it goes into the kernel and there sees all memory: so neither the file nor its directory may
belong to anyone else, or be written by them. A kill or a power cut leaves the old file, the new one, or one
whose checksum says that it is damaged.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from swmld.observe.compiled import Compiled, Unfit, Witness, dump, parse

NAME = "probes-btf"
_MAKING = f".{NAME}.new"
LIMIT = 16 << 20
"""Bytes that are read of whatever lies there; it has 36 KB."""


def load(state: Path) -> Compiled:
    """What is kept. Raises Unfit in words for a person if there is none that may be taken."""
    try:
        directory = _opened(state)
        try:
            data = _read(directory)
        finally:
            os.close(directory)
    except FileNotFoundError:
        raise Unfit("nothing is kept yet") from None
    except OSError as error:
        raise Unfit(f"{state / NAME}: {error.strerror}") from None
    kept = parse(data)
    for witness in kept.witnesses:
        if seen(witness.path) != witness:
            raise Unfit(f"the compiler or its headers have changed: {witness.path}")
    return kept


def save(state: Path, compiled: Compiled) -> None:
    """Raises Unfit if it cannot be kept; what was there then stays."""
    try:
        state.mkdir(0o755, parents=True, exist_ok=True)
        directory = _opened(state)
        try:
            # Only one writes; the lock ends with its process. Who finds it taken does not need to write, too.
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write(directory, dump(compiled))
        finally:
            os.close(directory)
    except BlockingIOError:
        raise Unfit("another process is at it") from None
    except OSError as error:
        raise Unfit(f"{state / NAME}: {error.strerror}") from None


def seen(path: str) -> Witness:
    """A file as it is now; one that is not there has no size and no time."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return Witness(path, -1, -1)
    return Witness(path, status.st_size, status.st_mtime_ns)


def witnesses(paths: Iterable[str | Path]) -> tuple[Witness, ...]:
    """Of all these files. Raises Unfit if there are none or one is gone: a change would not be noticed."""
    found = tuple(seen(str(path)) for path in dict.fromkeys(paths))
    gone = [witness.path for witness in found if witness.size < 0]
    if not found or gone:
        raise Unfit(f"it is not known what it was compiled with: {', '.join(gone)}")
    return found


def _opened(state: Path) -> int:
    directory = os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _ours(directory, state)
    except Unfit:
        os.close(directory)
        raise
    return directory


def _ours(fd: int, path: Path | str) -> None:
    status = os.fstat(fd)
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Unfit(f"{path} belongs to, or can be written by, others")


def _read(directory: int) -> bytes:
    # Not waiting: what lies there may be a pipe.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(NAME, flags, dir_fd=directory), "rb") as file:
        _ours(file.fileno(), NAME)
        return file.read(LIMIT)


def _write(directory: int, data: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_MAKING, dir_fd=directory)  # a killed process left it
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(_MAKING, flags, 0o600, dir_fd=directory), "wb") as file:
        file.write(data)
    os.rename(_MAKING, NAME, src_dir_fd=directory, dst_dir_fd=directory)
