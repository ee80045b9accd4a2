"""What the tests of sources work with: a server made for one test, hard names, reads that are checked."""

from __future__ import annotations

import enum
import errno
import random
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import pytest
from swmld.sources.interface import ROOT, Attributes, Change, Page, Reader, Source, generation_ns

from support.waiting import PATIENCE

T = TypeVar("T")


GONE = {errno.ESTALE, errno.ENOENT}
"""What reading a generation that is no more may give, besides its own bytes."""


class Can(enum.Flag):
    """What the server behind a source can store, or give."""

    NOTHING = 0
    EMPTY_DIRECTORIES = enum.auto()
    """``mkdir`` makes something that is listed; without it a directory is there as long as it has entries."""
    SYMLINKS = enum.auto()
    MODES = enum.auto()
    NOT_UTF8 = enum.auto()
    CONTROL_NAMES = enum.auto()
    """Names with a newline, a tab or another control character."""
    PARENTS = enum.auto()
    """What is made needs a directory that it is in; without it a name has no parents."""
    ONE_MAKER = enum.auto()
    """Of many that make a file of the same name at the same time, the server lets one succeed."""


class MadeSource:
    """A source, and the way to what is behind it."""

    source: Source
    can: Can = Can.NOTHING
    chunk: int = 1 << 20
    unit: int = 1 << 17
    """Bytes that the source writes with one request; tests write some of them."""
    unsure: bool = False
    """Answers are lost on the way: what was not there to be removed may count as removed."""
    impossible: frozenset[bytes] = frozenset()
    """Names of ``NAMES`` that the server refuses, each with its reason where it is listed."""

    ranged: Reader | None = None
    """The suite's own, over the examples of one test."""

    def put(self, path: bytes, content: bytes) -> None:
        """Make or replace a file, and the directories that lead to it."""
        raise NotImplementedError

    def remove(self, path: bytes) -> None:
        """Remove a file."""
        raise NotImplementedError

    def mkdir(self, path: bytes) -> None:
        """Make an empty directory; with ``Can.EMPTY_DIRECTORIES`` alone."""
        raise NotImplementedError

    def symlink(self, path: bytes, to: bytes) -> None:
        """With ``Can.SYMLINKS`` alone."""
        raise NotImplementedError

    def chmod(self, path: bytes, mode: int) -> None:
        """With ``Can.MODES`` alone."""
        raise NotImplementedError

    def refresh(self) -> None:
        """What the source remembers of before is forgotten."""


# fmt: off
NAMES = (
    *(b"a b", b" lead", b"trail ", b"a+b", b"a%20b", b"a%2Fb", b"a%b", b"%", b"a?b", b"a#b", b"a&b=c"),
    *(b"a:b", b"a,b", b"a@b", b"a=b", b"a!b", b"a$b", b"a*b", b"a[0]", b"{a}", b"(a)", b"a|b", b"a^b"),
    *(b"a\\b", b"a'b", b'a"b', b"<a>", b"~", b"-a", b".a", b"...", b"a.", b"a..b", b"http:", b"`a`", b"a;b"),
    *("ä".encode(), "a\u0308".encode(), "日本語".encode(), "😀".encode(), "ß".encode(), "İ".encode()),
    *(b"A", b"a", b"\xc2\xa0", b"n" * 255),
)
# fmt: on
"""Names that something on the way may take for syntax, for an escape, or for one another."""

CONTROL = (b"a\nb", b"a\tb", b"a\rb", b"\x01", b"a\x7fb")
NOT_UTF8 = (b"\xff\xfe", b"a\xe4b", b"\xed\xa0\x80")

ORDER = tuple(b"a/x a! a-b a.b a0/x b/x b-c b.c c/d c! c~ d".split())
"""Paths whose order as keys is not that of the names: ``/`` comes after ``!``, ``-`` and ``.``."""


def made_order(made: MadeSource) -> list[bytes]:
    """The names of the directory ``order``, sorted."""
    for path in ORDER:
        made.put(b"order/" + path, b"x")
    made.refresh()
    return sorted({path.split(b"/")[0] for path in ORDER})


def content(size: int, seed: int = 0) -> bytes:
    """Bytes that are nowhere the same for long, the same each time."""
    return random.Random(f"{size}/{seed}").randbytes(size)


def read_all(source: Source, path: bytes) -> bytes:
    """The whole file as it is now, in one call, and nothing behind it."""
    attributes = source.stat(path)
    reader = source.open(path, attributes)
    try:
        assert reader.size == attributes.size
        return part(reader, 0, reader.size + 1)
    finally:
        reader.close()


def part(reader: Reader, offset: int, length: int) -> bytes:
    """One ``read``; what lies before and behind the view must stay as it was."""
    guard = b"\xa5" * 64
    memory = bytearray(guard + bytes(length) + guard)
    count = reader.read(memoryview(memory)[64 : 64 + length], offset)
    assert 0 <= count <= length
    assert memory[:64] == guard
    assert memory[64 + length :] == guard
    return bytes(memory[64 : 64 + count])


def identity(attributes: Attributes) -> tuple[int, int, int, int]:
    """What the cache tells generations by."""
    return attributes.ino, attributes.size, attributes.mtime_ns, generation_ns(attributes)


def names_of(page: Page) -> list[bytes]:
    return [name for name, _ in page.entries]


def listed(source: Source, path: bytes, limit: int, after: bytes = b"") -> list[bytes]:
    """All names after ``after``, page by page, each page held to its promises."""
    names: list[bytes] = []
    while True:
        page = source.list(path, after, limit)
        assert len(page.entries) <= limit
        assert all(name > after for name in names_of(page))
        names += names_of(page)
        if not page.more:
            return names
        assert page.entries, "nobody can go on after an empty page"
        after = page.entries[-1][0]


def failing(call: Callable[[], object]) -> OSError:
    """The error that ``call`` must end with."""
    with pytest.raises(OSError) as raised:
        call()
    return raised.value


def unless_gone(call: Callable[[], T]) -> T | None:
    """What ``call`` returns; None where it says that the generation is gone."""
    try:
        return call()
    except OSError as error:
        if error.errno not in GONE:
            raise
        return None


def together(calls: Iterable[Callable[[], object]]) -> None:
    """Run each in a thread; the first error of theirs is raised here. All must end."""
    errors: list[BaseException] = []

    def run(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PATIENCE
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads), "a call has not ended"
    if errors:
        raise errors[0]


def covers(change: Change, path: bytes) -> bool:
    """Whether it tells of ``path``."""
    below = change.path == ROOT or path.startswith(change.path + b"/")
    return change.path == path or (change.tree and below)
