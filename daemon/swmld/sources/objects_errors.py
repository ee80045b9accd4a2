"""What errors of object stores mean: S3's by the code in its answer, obstore's by text.

obstore tells most by text alone, which may hold a signed URL or an answer's body. So nothing of the text is
passed on but what is found in it here. Checked with obstore 0.12 in
``tests/t3_sources/test_objects_clouds.py``.
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Callable, Iterator

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from swmld.sources.errors import Busy, failure, refusal, wait_of

_STATUS = re.compile(r"Server returned non-2xx status code: ([1-5][0-9][0-9])\b")
# The name of an error in S3's answers: a word of its documentation, shown since it says what is to be done.
_CODE = re.compile(r"<Code>([A-Za-z]{3,40})</Code>")
_KIND = re.compile(r"\bkind: (Connect|Timeout|Request|Interrupted|Decode)\b")
_CAUSES = {
    "dns error": "the name is not found",
    "InvalidCertificate": "TLS: the certificate is not trusted",
    "InvalidData": "TLS fails",
    "ConnectionRefused": "refused",
}
_TYPES = (
    (UnauthenticatedError, errno.EACCES),
    (PermissionDeniedError, errno.EACCES),
    (PreconditionError, errno.ESTALE),
    (FileNotFoundError, errno.ENOENT),
)

_CODES = {
    "AccessDenied": errno.EACCES,
    # 403 from Ceph, 400 from MinIO, 409 from others.
    "QuotaExceeded": errno.EDQUOT,
    "ServiceQuotaExceeded": errno.EDQUOT,
    "XMinioAdminBucketQuotaExceeded": errno.EDQUOT,
    "InsufficientStorage": errno.ENOSPC,
    "InsufficientCapacity": errno.ENOSPC,
    "XMinioStorageFull": errno.ENOSPC,
    "StorageFull": errno.ENOSPC,
    "EntityTooLarge": errno.EFBIG,
    "RequestBodyTooLarge": errno.EFBIG,
    "KeyTooLongError": errno.ENAMETOOLONG,
    "RequestTimeout": errno.ETIMEDOUT,
    "PreconditionFailed": errno.ESTALE,
    "BlobAlreadyExists": errno.ESTALE,
    "NotImplemented": errno.EOPNOTSUPP,
    "MethodNotAllowed": errno.EOPNOTSUPP,
}
"""Errors by name, where the name says more than the status, as https://docs.aws.amazon.com/AmazonS3/latest/API/
ErrorResponses.html has them, and the names that other servers add."""

_AGAIN = ("SlowDown", "ServiceUnavailable", "OperationAborted", "ConditionalRequestConflict")
# 409: another change is under way; nothing was done.
_STATUSES = {507: errno.ENOSPC, 413: errno.EFBIG, 405: errno.EOPNOTSUPP, 501: errno.EOPNOTSUPP}


def code_of(body: bytes) -> str:
    """The name of the error in an answer of S3; empty where there is none that can be shown."""
    found = _CODE.search(body.decode("utf-8", "replace"))
    return found[1] if found else ""


def refused(status: int, code: str, what: str, retry_after: str = "", location: str = "") -> OSError:
    """The error of a source that an answer with ``code`` is; ``what``: operation and path."""
    if code:
        what = f"{what}: {code}"
    if number := _CODES.get(code) or _STATUSES.get(status):
        return failure(number, f"{what}: HTTP {status}")
    if code in _AGAIN or status == 409:
        return Busy(f"{what}: HTTP {status}", wait_of(retry_after))
    return refusal(status, what, retry_after=retry_after, location=location)


@contextlib.contextmanager
def spoken(what: str, ready: Callable[[], object] | None = None) -> Iterator[None]:
    """Turns obstore's errors within it into those of ``Source``; ``what``: operation and path. ``ready`` is
    called first: what it raises is a better word than what obstore makes of it in a callback."""
    if ready is not None:
        ready()
    try:
        yield
    except (BaseError, FileNotFoundError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # one of ours
        raise meaning(error, what) from None
    except ValueError:
        # A path that obstore refuses: no key that it could ask for.
        raise failure(errno.ENOENT, what) from None


def meaning(error: Exception, what: str) -> OSError:
    """The error of a source that ``error`` of obstore is."""
    text = str(error)
    if isinstance(error, AlreadyExistsError):
        # 412 from Google's, 409 from Azure's, where other 409 mean to wait.
        return failure(errno.ESTALE, what)
    if status := _STATUS.search(text):
        return refused(int(status[1]), code_of(text.encode()), what)
    for kind, number in _TYPES:
        if isinstance(error, kind):
            return failure(number, what)
    kind_found = _KIND.search(text)
    name = kind_found[1] if kind_found else ""
    if name == "Timeout":
        return failure(errno.ETIMEDOUT, what)
    if name in ("Connect", "Request"):
        cause = next((words for sign, words in _CAUSES.items() if sign in text), "cannot be reached")
        return failure(errno.EHOSTUNREACH, f"{what}: {cause}")
    if name:
        return failure(errno.EIO, f"{what}: the answer ends too early")
    return failure(errno.EIO, f"{what}: the answer cannot be what was asked for")
