"""What gives access, in texts that others may see: command lines, messages. It becomes stars, one a byte.

A text of arguments has a zero byte between two of them, as ``/proc/PID/cmdline`` has. What is hidden: user
and password of a URL, and the value of what is called a secret, a password, a token or a key, be it a part of
a URL (``?token=x``), an assignment (``AWS_SECRET_ACCESS_KEY=x``), an option (``--password x``) or a header.
"""

from __future__ import annotations

import re

_END = rb"\0\s'\"`"
# What stands before the last @ of a URL's first part; with a colon in it, whose right is no port, of all its
# parts: keys of S3 have slashes.
_USER = re.compile(
    rb"((?::|%3a)(?:/|%2f){2})"
    rb"([^/" + _END + rb"]*|[^/?#:@" + _END + rb"]+:(?!\d{0,5}(?:[,/?#" + _END + rb"]|\Z))[^" + _END + rb"]*)"
    rb"(?=@|%40)",
    re.I,
)
_LETTERS = rb"[\w.-]{0,40}"  # a bound, as a long word is looked through from each of its letters
_NAME = (
    _LETTERS + rb"(?:secret|passw(?:or)?d|passphrase|pwd|credentials?|signature|connection[_-]?string"
    rb"|(?:api|access|account|auth|private|signing|shared)[_-]?key"
    rb"|(?<![a-z])(?:sig|sas|auth)|authorization|token)(?![a-z])" + _LETTERS + rb"(?<!file)(?<!path)(?<!dir)"
)
_WORDS = (
    b"secret", b"passw", b"passphrase", b"pwd", b"credential", b"signature", b"connection", b"key", b"sig",
    b"sas", b"auth", b"token",
)  # fmt: skip
"""Without one of them nothing is named: 2 µs instead of 200 for most command lines."""
_NAMED = re.compile(
    # name=value, name: value; --name value in one argument or two
    rb"(" + _NAME + rb"(?:=|%3d|['\"]?: ?)['\"]?|(?:(?<=[\0\s])|\A)-" + _NAME + rb"[\0 ](?!-))"
    rb"((?:(?:bearer|basic|digest|token) +)?[^&;," + _END + rb"]+)",
    re.I,
)


def _kept(found: re.Match[bytes]) -> bytes:
    return found[1] + b"*" * len(found[2])


def hidden(text: bytes) -> bytes:
    """``text`` with stars in the place of what is secret; of the same length."""
    if b"@" in text or b"%40" in text:
        text = _USER.sub(_kept, text)
    low = text.lower()
    return _NAMED.sub(_kept, text) if any(word in low for word in _WORDS) else text


def told(text: str) -> str:
    """The same of a message."""
    return hidden(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


def hide_own_arguments() -> None:
    """``ps`` shows no secret of our own command line from now on; ``sys.argv`` is as it was. Where the system
    does not let us, it stays as it is."""
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # arg_start, arg_end: proc(5)
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            before = memory.read(end - start) or b""
            after = hidden(before)
            if after != before and len(after) == len(before):
                memory.seek(start)
                memory.write(after)
    except (OSError, ValueError, IndexError):
        return
