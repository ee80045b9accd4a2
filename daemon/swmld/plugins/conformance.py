"""What every plugin must do, whatever files it is shown: as checks, for ``swmld plugin check`` and the tests.

    for result in run(loaded, samples):      Result(name, cases, problem), the slowest answer in seconds

A daemon does not refuse a plugin that passes, nor disable it for a file of the kinds that are tried. It
blocks: each answer is waited for as long as a daemon would.
"""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from swmld.plugins import answers, bounded, registry
from swmld.plugins.guard import LIMIT
from swmld.plugins.interface import (
    HEAD,
    MOST_FILES,
    MOST_RANGES,
    READ_BYTES,
    READ_CALLS,
    Context,
    Hints,
    Range,
)
from swmld.plugins.known import SURE, search

EVERYWHERE = (
    "/usr/lib/x86_64-linux-gnu/libc.so.6",
    "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
    "/usr/lib/x86_64-linux-gnu/libpthread.so.0",
    "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    "/usr/lib/libpython3.11.so.1.0",
    "/usr/lib/python3.11/lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so",
)
"""What processes of any kind have mapped."""

HUGE = 1 << 40
"""Bytes of a file that is nothing but its head and zeros."""


class Result(NamedTuple):
    """``problem``: the first that was found, in one line; "": none. ``slowest``: seconds."""

    name: str
    cases: int
    problem: str
    slowest: float


class Failed(Exception):
    """What is wrong, for which input."""


class Subject:
    """A plugin that is tried; ``cases`` and ``slowest`` of the check that runs."""

    def __init__(self, loaded: registry.Loaded, limit: float = LIMIT) -> None:
        self.loaded = loaded
        self.plugin = loaded.plugin
        self.cases, self.slowest = 0, 0.0
        self._limit = limit

    def ask(self, what: str, call: Callable[[], Any]) -> Any:
        """The answer; Failed where a daemon would disable the plugin."""
        self.cases += 1
        begun = time.monotonic()
        try:
            return bounded.call(call, self._limit)
        except bounded.TooLong as error:
            raise Failed(f"{what}: {error}") from None
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            raise Failed(f"{what}: {registry.told(error)}") from None
        finally:
            self.slowest = max(self.slowest, time.monotonic() - begun)

    def twice(self, what: str, call: Callable[[], Any]) -> Any:
        """As ``ask``; the second answer must be the first."""
        first, second = self.ask(what, call), self.ask(what, call)
        if first != second and repr(first) != repr(second):  # NaN is told elsewhere
            raise Failed(f"{what}: two answers to one question: {first!r:.80} and {second!r:.80}")
        return first

    def detect(self, path: str, head: bytes, about: str) -> float:
        what = f"detect({path!r:.60}, {about})"
        found = self.twice(what, lambda: self.plugin.detect(path, head))
        try:
            return answers.confidence(found)
        except ValueError as error:
            raise Failed(f"{what}: {error}") from None

    def hints(self, content: Content, path: str, touched: Sequence[Range] = ()) -> Hints:
        what = f"hints of {content.about}" + (" after reads" if touched else "")

        def call() -> Any:
            context = Context(path, content.size, content.head, content.reader(), touched)
            try:
                return self.plugin.hints(context)
            except OSError as error:
                if error.errno in (errno.EIO, errno.EDQUOT):  # what reading raised may pass
                    return Hints()
                raise

        found = self.twice(what, call)
        try:
            clean = answers.hints(found, content.size)
        except ValueError as error:
            raise Failed(f"{what}: {error}") from None
        for each in found.ranges:
            if each.end > content.size:
                raise Failed(f"{what}: {each} ends behind the file's {content.size} bytes")
        if len(found.ranges) > MOST_RANGES or len(found.files) > MOST_FILES:
            raise Failed(f"{what}: expected at most {MOST_RANGES} ranges and {MOST_FILES} files")
        return clean


class Content:
    """A file that a plugin is shown: bytes, then zeros up to ``size``. ``broken``: reading fails."""

    def __init__(self, about: str, data: bytes, size: int | None = None, *, broken: bool = False) -> None:
        self.about = about
        self.data = data
        self.size = len(data) if size is None else size
        self.head = data[:HEAD].ljust(min(HEAD, self.size), b"\0")
        self._broken = broken

    def reader(self) -> Callable[[int, int], bytes]:
        """``Context.read``, with its limits."""
        calls, left = READ_CALLS, READ_BYTES

        def read(offset: int, length: int) -> bytes:
            nonlocal calls, left
            if offset < 0 or length < 0:
                raise ValueError(f"read({offset}, {length}): expected numbers from 0")
            length = max(0, min(length, self.size - offset))
            calls, left = calls - 1, left - length
            if self._broken:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            if calls < 0 or left < 0:
                raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
            return self.data[offset : offset + length].ljust(length, b"\0")

        return read


# ---- what they are shown

_MAGICS = (
    b"PK\x03\x04", b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e", b"\x80\x04\x95",
    b"\x89HDF\r\n\x1a\n", b"\x93NUMPY\x01\x00", b"PAR1", b"ARROW1\0\0", b"\xff\xff\xff\xff\x10\x01\0\0",
    b"\x10\0\0\0\0\0\0\0{", b"\xff\xff\xff\xff\xff\xff\xff\x7f{", b"\x08\x07\x12\x07pytorch", b"GGUF",
    b"a.txt".ljust(257, b"\0") + b"ustar\x0000", b"{", b"[", b"\x1f\x8b\x08",
)  # fmt: skip
"""Of the formats in which models and data come: each with rubbish behind it."""


def contents() -> Iterator[Content]:
    """Files that are no files of any framework, though some begin like it. The same each time."""
    rubbish = random.Random(0).randbytes(64 << 10)
    yield Content("an empty file", b"")
    yield Content("one byte", b"\0")
    yield Content("zeros", bytes(HEAD))
    yield Content("bytes 255", b"\xff" * HEAD)
    yield Content("random bytes", rubbish)
    yield Content("random bytes that cannot be read", rubbish, 1 << 20, broken=True)
    yield Content("a file of 1 TiB", b"", HUGE)
    for magic in _MAGICS:
        name = f"a file that begins with {magic[:8]!r}"
        yield Content(name, magic)
        yield Content(f"{name} and goes on with random bytes", magic + rubbish)
        yield Content(f"{name} and is 1 TiB of zeros", magic, HUGE)
        yield Content(f"{name} and ends with it", magic + rubbish[:5000] + magic)
        yield Content(f"{name} and cannot be read", magic, 1 << 20, broken=True)


def paths(extensions: Sequence[str]) -> list[str]:
    """The first two are usual ones."""
    known = list(extensions) or [".bin"]
    names = [f"{name}{extension}" for extension in known for name in ("a", "deep/er/A-00001-of-00002")]
    return [*names, known[0], "", "a/" * 2000 + names[0], f"\udcff\n{names[0]}"]


# ---- the checks


def check_name(subject: Subject, samples: Sequence[Content]) -> None:
    """The name, rules and templates stay what they were."""
    loaded, plugin = subject.loaded, subject.plugin
    for method, before in (("framework_name", loaded.name), ("default_rules", loaded.rules),
                           ("default_templates", loaded.templates)):  # fmt: skip
        if subject.ask(f"{method}()", getattr(plugin, method)) != before:
            raise Failed(f"{method}(): another answer than before")


def check_libraries(subject: Subject, samples: Sequence[Content]) -> None:
    """``libraries`` are not what every process has mapped."""
    for pattern in subject.loaded.libraries:
        for path in EVERYWHERE:
            subject.cases += 1
            if search(pattern)(path.encode()):
                raise Failed(f"libraries: {pattern!r} is found in {path}, which any process may map")


def check_detect(subject: Subject, samples: Sequence[Content]) -> None:
    """Any path and head: a number from 0 to 1 within the time limit, the same when asked again."""
    names = paths(subject.loaded.extensions)
    for path in names:
        subject.detect(path, b"", "no head")
    for content in contents():
        for path in names[:2]:
            subject.detect(path, content.head, f"head of {content.about}")


def check_hints(subject: Subject, samples: Sequence[Content]) -> None:
    """Any file: ranges within it, names in its directory, within limits of time and reading."""
    for content in contents():
        for path in paths(subject.loaded.extensions)[:2]:
            subject.hints(content, path)
            if content.size > HEAD:
                subject.hints(content, path, [Range(0, 512), Range(content.size - 512, 512)])


def check_samples(subject: Subject, samples: Sequence[Content]) -> None:
    """The given files are known, and what is cut off or damaged of them does no harm."""
    for sample in samples:
        extensions = subject.loaded.extensions
        if extensions and not sample.about.lower().endswith(extensions):
            raise Failed(f"{sample.about}: it is not asked about such a name (extensions)")
        subject.detect(sample.about, b"", "no head")
        sure = subject.detect(sample.about, sample.head, "a sample")
        if sure < SURE:
            raise Failed(f"{sample.about}: detect gives {sure:g}, {SURE:g} is the least that counts")
        subject.hints(sample, sample.about)
        for damaged in _damaged(sample):
            subject.detect(sample.about, damaged.head, damaged.about)
            subject.hints(damaged, sample.about)


def _damaged(sample: Content) -> Iterator[Content]:
    data, name = sample.data, os.path.basename(sample.about)
    for length in sorted({1, 7, 9, 100, len(data) // 2, len(data) - 1}):
        if 0 <= length < len(data):
            yield Content(f"the first {length} bytes of {name}", data[:length])
    yield Content(f"{name} with zeros behind it", data, len(data) + (1 << 20))
    yield Content(f"{name}, which cannot be read", data, broken=True)
    chosen = random.Random(1)
    for number in range(20 if data else 0):
        damaged = bytearray(data)
        for at in (chosen.randrange(min(len(data), 512)), -1 - chosen.randrange(min(len(data), 512))):
            damaged[at] = chosen.randrange(256)
        yield Content(f"{name} with two bytes changed ({number})", bytes(damaged))


CHECKS: tuple[tuple[str, Callable[[Subject, Sequence[Content]], None]], ...] = (
    ("what it says of itself", check_name),
    ("libraries", check_libraries),
    ("detect", check_detect),
    ("hints", check_hints),
    ("samples", check_samples),
)

MOST_SAMPLE = 16 << 20
"""Bytes of a sample that are looked at; a larger one ends in zeros."""


def sample(path: Path) -> Content:
    """A file of the plugin's framework. Raises OSError."""
    with path.open("rb") as file:
        data = file.read(MOST_SAMPLE)
        return Content(str(path), data, max(len(data), os.fstat(file.fileno()).st_size))


def run(
    loaded: registry.Loaded, samples: Sequence[Content] = (), *, limit: float = LIMIT
) -> Iterator[Result]:
    """Run all checks, one after the other."""
    for name, check in CHECKS:
        if check is check_samples and not samples:
            continue
        subject = Subject(loaded, limit)
        problem = ""
        try:
            check(subject, samples)
        except Failed as error:
            problem = str(error)
        yield Result(name, subject.cases, problem, subject.slowest)
