"""Errors of sources that carry more than an errno, and what an HTTP status means as one."""

from __future__ import annotations

import email.utils
import errno
import os
import time

LONGEST_WAIT = 3600.0
"""Seconds that a ``Retry-After`` is believed; more is a mistake or a joke."""


class Busy(OSError):
    """The source asks to be left alone for ``retry_after`` seconds; 0: it did not say for how long."""

    retry_after: float

    def __init__(self, what: str, retry_after: float = 0.0) -> None:
        super().__init__(errno.EIO, f"busy: {what}")
        self.retry_after = retry_after


class Corrupt(OSError):
    """What came has not the checksum that the source itself says it has."""

    def __init__(self, what: str) -> None:
        super().__init__(errno.EIO, f"not the bytes of its checksum: {what}")


class Moved(OSError):
    """What was asked for is at ``location``, a URL as the server wrote it (it may be relative)."""

    location: str

    def __init__(self, what: str, location: str) -> None:
        super().__init__(errno.EIO, f"moved elsewhere: {what}")
        self.location = location


_ERRNOS = {401: errno.EACCES, 403: errno.EACCES, 404: errno.ENOENT, 410: errno.ENOENT, 412: errno.ESTALE}
# The range lies beyond the end: the file is shorter than it was. RFC 9110, 15.5.17.
_ERRNOS[416] = errno.ESTALE
_ERRNOS[413], _ERRNOS[507] = errno.EFBIG, errno.ENOSPC
_ERRNOS[408] = _ERRNOS[504] = errno.ETIMEDOUT


def failure(number: int, what: str) -> OSError:
    """An error with ``what`` was done, so that a log line says it."""
    return OSError(number, f"{os.strerror(number)}: {what}")


def refusal(status: int, what: str, *, retry_after: str = "", location: str = "") -> OSError:
    """The error that an HTTP status other than 200 and 206 is; ``what``: operation and path, no
    credential."""
    what = f"{what}: HTTP {status}"
    if status in (429, 503):
        return Busy(what, wait_of(retry_after))
    if 300 <= status < 400 and location:
        return Moved(what, location)
    return failure(_ERRNOS.get(status, errno.EIO), what)


def wait_of(retry_after: str) -> float:
    """Seconds of a ``Retry-After``: a number or a date (RFC 9110, 10.2.3); 0 if it is neither or over."""
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
        except ValueError:
            return 0.0
    return min(max(seconds, 0.0), LONGEST_WAIT) if seconds == seconds else 0.0
