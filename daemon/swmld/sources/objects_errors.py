"""What obstore's errors mean: most is told by text alone, which may hold a signed URL or an answer's body.

So nothing of the text is passed on but what is found in it here. Checked with obstore 0.12 in
``tests/t3_sources/test_objects_errors.py``.
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Callable, Iterator

from obstore.exceptions import (
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from swmld.sources.errors import failure, refusal

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
    if status := _STATUS.search(text):
        code = _CODE.search(text)
        return refusal(int(status[1]), f"{what}: {code[1]}" if code else what)
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
