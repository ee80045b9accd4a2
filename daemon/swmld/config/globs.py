"""Path patterns, matched on bytes because file names need not be UTF-8.

``*`` and ``?`` stay within one name, ``**`` crosses directories, ``[a-z]`` and ``[!a-z]`` are sets of bytes.
A pattern without ``/`` matches the last name at any depth; one with ``/`` matches from the mount's root. A
pattern that matches a directory matches everything below it.
"""

from __future__ import annotations

import functools
import os
import re

_TOKEN = re.compile(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)


def matches(pattern: str, path: bytes) -> bool:
    """Whether ``path``, relative to the mount's root, is matched by ``pattern``."""
    return _compiled(pattern).fullmatch(path.strip(b"/")) is not None


@functools.lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[bytes]:
    anchored = "/" in pattern.rstrip("/")
    body = "".join(_translate(token) for token in _TOKEN.findall(pattern.strip("/")))
    prefix = "" if anchored else "(?:.*/)?"
    return re.compile(f"{prefix}{body}(?:/.*)?".encode("latin-1"), re.DOTALL)


def _translate(token: str) -> str:
    """One token as a regular expression in Latin-1 text, one character a byte."""
    match token:
        case "**/":
            return "(?:.*/)?"
        case "**":
            return ".*"
        case "*":
            return "[^/]*"
        case "?":
            return r"[^/][\x80-\xbf]*"  # one character: a byte and the UTF-8 bytes that continue it
    if len(token) > 1:
        negate = token.startswith("[!")
        body = os.fsencode(token[2 if negate else 1 : -1]).decode("latin-1")
        body = body.replace("\\", r"\\").replace("^", r"\^").replace("[", r"\[").replace("]", r"\]")
        # A set never matches the separator, as in a shell.
        return f"(?!/)[{'^' if negate else ''}{body}]"
    return re.escape(os.fsencode(token).decode("latin-1"))
