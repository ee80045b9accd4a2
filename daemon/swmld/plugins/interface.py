"""What a plugin is: it knows the files and processes of one framework.

A plugin is a class with the methods of ``Plugin``, made without arguments once for a daemon. It is asked in
worker threads, one call at a time, with a time limit for each; one that raises, takes longer or answers with
something else is not asked again, and the mount goes on without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

API = 1
"""Of this interface. A plugin says for which one it was written (``api``); another one is refused."""

HEAD = 4096
"""Bytes of a file's start that a plugin is given, fewer of a smaller file."""

READ_CALLS = 64
READ_BYTES = 64 << 20
"""What a plugin may read of a file for one answer; more raises OSError (EDQUOT)."""

MOST_RANGES = 65536
MOST_FILES = 4096
"""Of one answer; what comes after is not looked at."""


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes of a file."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class Context:
    """A file that is open now, and how it was read so far.

    ``path`` is from the mount's root, ``size`` in bytes, ``head`` its first bytes. ``read(offset, length)``
    gives bytes of the file, fewer at its end; each call may cost a request to a slow source, after which
    the bytes are in the cache; it raises OSError. ``touched``: what was read since it was opened, as merged
    ranges in the order of reading, empty at the open itself, the latest some thousands at most. ``phase``
    is what its job does as patterns say it, None: not known.
    """

    path: str
    size: int
    head: bytes
    read: Callable[[int, int], bytes]
    touched: Sequence[Range] = ()
    phase: str | None = None


@dataclass(frozen=True, slots=True)
class Hints:
    """What will be read of the file and after it, as far as its format says.

    ``ranges``: that are read next, in the order of reading. ``whole``: all of it, from its start to its
    end. ``files``: names in the same directory (or paths from it, below it) of files that are read next, in
    that order. ``compressed``: whether its format is compressed already, None: not known. ``again``: ask
    again when more was touched, since the answer depends on that. ``why``: in a few words, for people.
    """

    ranges: tuple[Range, ...] = ()
    whole: bool = False
    files: tuple[str, ...] = ()
    compressed: bool | None = None
    again: bool = False
    why: str = ""


NONE = Hints()


@runtime_checkable
class Plugin(Protocol):
    """One framework.

    ``api`` is ``API``. ``libraries``: what a process of this framework has mapped, as regular expressions
    (RE2) that are searched for in the paths of its mapped files: ``/libtorch_cpu[.]so``. ``extensions``: of
    the files that it may know, in lower case with the dot; it is not asked about others; empty: about all.

    It may have a ``chunk_size``, too: a power of two, 64 KiB to 64 MiB. Large files with its extensions are
    then fetched and cached in chunks of so many bytes, where the cache's are larger: less is fetched for
    nothing of formats that are read in pieces here and there.
    """

    api: int
    libraries: Sequence[str]
    extensions: Sequence[str]

    def framework_name(self) -> str:
        """As rules and people say it, in lower case: ``pytorch``."""
        ...

    def detect(self, path: str, head: bytes) -> float:
        """How surely a file is this framework's, 0 to 1, by its path from the mount's root and its first
        ``HEAD`` bytes, which are empty where nobody has read them yet."""
        ...

    def hints(self, context: Context) -> Hints:
        """What will be read. Asked of files that ``detect`` knows."""
        ...

    def default_rules(self) -> str:
        """YAML, a list of rules as in a file of rules; empty: none. They act where they are named."""
        ...

    def default_templates(self) -> str:
        """YAML, a list of templates; empty: none."""
        ...
