"""What can be told before anything is started: directories that are missing, empty or inside one another."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from swmld.api.client import STATUS_TIMEOUT, Client
from swmld.config.models import Settings
from swmld.errors import SwmldError, UsageError

# What stat says of a mount whose daemon was killed; the daemon cleans that up itself.
_DEAD_MOUNT = frozenset({errno.ENOTCONN, errno.ESTALE, errno.EIO})


def check(settings: Settings) -> None:
    """Raise UsageError, one line, if the settings' directories cannot work. Changes nothing."""
    if os.geteuid() != 0:
        raise UsageError("needs root, to mount: run it with sudo")
    _check_not_served(settings)
    _check_mount(settings)
    if isinstance(settings.source, Path):
        _directory_exists(settings.source, f"source {settings.source}", "")
    _check_nesting(settings)


def _check_not_served(settings: Settings) -> None:
    try:
        with Client(settings.socket_path, timeout=STATUS_TIMEOUT) as client:
            pid = client.call("status")["pid"]
    except SwmldError:
        return
    raise UsageError(f"{settings.mount} is already served by swmld (pid {pid})")


def _check_mount(settings: Settings) -> None:
    mount = settings.mount
    demo = f"; to try swmld on a small sample: swmld --mount {mount} --demo"
    hint = f"; create it: mkdir -p {mount}" if settings.source is not None else demo
    if not _directory_exists(mount, f"mount point {mount}", hint) or settings.source is not None:
        return
    try:
        with os.scandir(mount) as entries:
            empty = next(entries, None) is None
    except OSError as error:
        if error.errno in _DEAD_MOUNT:  # the kernel may still answer stat from what it remembers
            return
        raise UsageError(f"mount point {mount}: {error.strerror}") from None
    if empty:
        raise UsageError(f"{mount} is empty, so there is nothing to serve; name a --source DIR{demo}")


def _directory_exists(path: Path, what: str, hint: str) -> bool:
    """False for a dead mount, whose directory cannot be seen. Raises UsageError if there is none."""
    try:
        found = os.stat(path)
    except OSError as error:
        if error.errno in _DEAD_MOUNT:
            return False
        reason = "does not exist" if error.errno == errno.ENOENT else f"cannot be used: {error.strerror}"
        raise UsageError(f"{what} {reason}{hint}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise UsageError(f"{what} is not a directory")
    return True


def _check_nesting(settings: Settings) -> None:
    mount, cache = _real(settings.mount), _real(settings.cache_dir)
    if _inside(cache, mount):
        raise UsageError(
            f"cache directory {cache} lies on the mount {mount}; choose one elsewhere: --cache-dir DIR"
        )
    if _inside(mount, cache):
        raise UsageError(
            f"mount point {mount} lies in the cache directory {cache}; choose another: --cache-dir DIR"
        )
    if not isinstance(settings.source, Path):
        return
    source = _real(settings.source)
    if _inside(cache, source):
        raise UsageError(
            f"cache directory {cache} lies in the source {source}, which would serve its own cache"
        )
    if _inside(source, cache):
        raise UsageError(f"source {source} lies in the cache directory {cache}")
    if _inside(mount, source) and mount != source:
        raise UsageError(f"mount point {mount} lies in the source {source}, which would then hold itself")


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _inside(inner: Path, outer: Path) -> bool:
    return inner.is_relative_to(outer)
