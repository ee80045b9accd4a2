"""Errors carry their destiny: an exit code for the command line, an errno for the file system.

    SwmldError
    ├── UsageError        what the user gave cannot work; one line, exit code 2
    ├── HostError         the host lacks or refuses something; one line, exit code 1
    ├── CacheError        the cache cannot do it (errno); never loses source data
    │   └── CacheFull     no room within the size limit and the floor of free disk space
    └── FetchError        bytes could not be had from the source (errno)

The mount maps ``errno`` once, in its pyfuse3 adapter; the command line maps ``exit_code`` once, in
``cli/main.py``.
"""

from __future__ import annotations

import errno as _errno

DISK_FULL = frozenset({_errno.ENOSPC, _errno.EDQUOT})
"""What a disk says that takes no more: it is full, or a quota is."""


class SwmldError(Exception):
    """Base of all errors that swmld raises on purpose. ``str(error)`` is the line a person reads."""

    exit_code = 1
    errno = _errno.EIO


class UsageError(SwmldError):
    """The user's input cannot work as given; nothing was changed."""

    exit_code = 2
    errno = _errno.EINVAL


class HostError(SwmldError):
    """The host lacks or refuses something that swmld cannot do without."""


class CacheError(SwmldError):
    """The cache could not do something; the source is untouched and can still be read."""

    def __init__(self, message: str, errno: int = _errno.EIO) -> None:
        super().__init__(message)
        self.errno = errno


class CacheFull(CacheError):
    """No room for more bytes within the cache's limits."""

    def __init__(self, message: str = "cache is full") -> None:
        super().__init__(message, _errno.ENOSPC)


class FetchError(SwmldError):
    """The source did not give the bytes: ``errno`` is what a reader gets."""

    def __init__(self, message: str, errno: int = _errno.EIO) -> None:
        super().__init__(message)
        self.errno = errno
