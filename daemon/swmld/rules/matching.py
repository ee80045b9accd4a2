"""Regular expressions and path patterns in linear time, whatever the pattern and the text (RE2).

Texts are file names and command lines: a byte that is not UTF-8 in them (a surrogate, as ``os.fsdecode``
gives) counts as one character, U+FFFD.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

import re2

MAX_PATTERN = 1000
"""Characters of a pattern: far more than one for file names needs."""

_OPTIONS = re2.Options()
_OPTIONS.max_mem = 1 << 18  # of one compiled pattern: enough for file names; RE2's own default is 8 MiB
_OPTIONS.log_errors = False

_SURROGATES = re.compile("[\ud800-\udfff]")


def encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _SURROGATES.sub("\ufffd", text).encode()


@lru_cache(maxsize=4096)
def regex(pattern: str) -> Callable[[str], bool]:
    """Whether ``pattern`` is found anywhere in a text. Raises ValueError if RE2 does not take it.

    Rules with the same pattern share one function, and it knows its last answer: many rules ask the same of
    one file.
    """
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"expected a regular expression of at most {MAX_PATTERN} characters")
    try:
        search = re2.compile(encoded(pattern), _OPTIONS).search
    except re2.error as error:
        said = error.args[0] if error.args else "not readable"
        said = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
        raise ValueError(f"expected a regular expression as RE2 reads it: {said}") from None
    last: tuple[str, bool] = "", search(b"") is not None
    literal = required(pattern)

    def found(text: str) -> bool:
        nonlocal last
        before, answer = last
        if text != before:
            answer = literal in text and search(encoded(text)) is not None
            last = text, answer
        return answer

    return found


def required(pattern: str) -> str:
    """A literal that every text has in it in which ``pattern`` is found; "" if none is plain to see.

    A look for it costs a tenth of asking RE2. Patterns with alternatives, groups or counts are left alone.
    """
    if set("|([{") & set(pattern):
        return ""
    runs, run, at = [], "", 0
    while at < len(pattern):
        char, at = pattern[at], at + 1
        if char == "\\":
            char, at = pattern[at : at + 1], at + 1
            if char.isalnum() and char not in "dDwWsSbBAz":
                return ""  # such as \x41: more than one character
            plain = char.isascii() and not char.isalnum() and bool(char)
        else:
            plain = char not in ".^$*+?" and not "\ud800" <= char <= "\udfff"
        if plain and pattern[at : at + 1] not in ("*", "?"):
            run += char
            continue
        runs.append(run)
        run = ""
    return max([*runs, run], key=len)


def glob(pattern: str) -> Callable[[str], bool]:
    """Whether a text matches ``pattern`` as fnmatch(3) reads it: ``*`` (also ``/``) ``?`` ``[a-z]`` ``[!a]``.

    Raises ValueError if it is too long.
    """
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"expected a path pattern of at most {MAX_PATTERN} characters")
    before, _, simple = literals(pattern)
    if simple and before == pattern:
        return lambda text: text == pattern
    if not set("?[") & set(pattern):
        return _stars(pattern)
    return regex(f"(?s)^{_translated(pattern)}\\z")


def _stars(pattern: str) -> Callable[[str], bool]:
    """A pattern of literals and ``*``: what stands between two is looked for from the left."""
    before, *between, after = pattern.split("*")
    between = [part for part in between if part]
    least = len(before) + len(after)

    def fits(text: str) -> bool:
        if len(text) < least or not text.startswith(before) or not text.endswith(after):
            return False
        at, end = len(before), len(text) - len(after)
        for part in between:
            at = text.find(part, at, end) + len(part)
            if at < len(part):
                return False
        return True

    return fits


def literals(pattern: str) -> tuple[str, str, bool]:
    """What a text must begin and end with to match a path pattern, and whether that is all it must."""
    special = [number for number, char in enumerate(pattern) if char in "*?["]
    if not special:
        return pattern, "", True
    simple = len(special) == 1 and pattern[special[0]] == "*"
    last = special[-1]
    # A bracket goes on to its end; without one, it is an ordinary character.
    tail = pattern[last + 1 :] if pattern[last] != "[" else ""
    return pattern[: special[0]], tail if "]" not in tail else "", simple


def _translated(pattern: str) -> str:
    parts: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            if not parts or parts[-1] != ".*":
                parts.append(".*")
        elif char == "?":
            parts.append(".")
        elif char == "[":
            end = pattern.find("]", at + 1 + (pattern[at : at + 1] == "!"))
            if end < 0:
                parts.append(r"\[")
                continue
            parts.append(_bracket(pattern[at:end]))
            at = end + 1
        else:
            parts.append(_escaped(char))
    return "".join(parts)


def _bracket(inside: str) -> str:
    negated = inside.startswith("!")
    inside = inside[1:] if negated else inside
    escaped = "".join(char if char.isalnum() or char == "-" else _escaped(char) for char in inside)
    return f"[{'^' if negated else ''}{escaped}]"


def _escaped(char: str) -> str:
    return char if char.isalnum() or ord(char) > 127 else f"\\x{{{ord(char):x}}}"
