"""What `--check` promises, as a model: random changes beside the mount and through it, and random readers.

A reader must see one version of the file from its open to its close. Which one is a matter of time: what was
replaced longer ago than the check interval when it was opened, or was written over through the mount, must
not be seen any more. `immutable` is the same with an interval that never ends.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.tree import Tree

INTERVAL = 0.1
CLOCK = 0.03  # seconds: steps of the kernel's coarse clock, and what lies between a change and its note here
SIZES = (0, 1, 5_000, 40_000, 65_536, 65_537, 200_000, 300_000)
NAMES = ("one", "two", "three", "four")


def size_of(data: bytes | None) -> int | str:
    return "no file" if data is None else len(data)


@dataclass
class File:
    """The versions that one name has had: what, since when, until when; None: there was no such file."""

    versions: list[tuple[bytes | None, float, float]] = field(default_factory=list)

    def now(self) -> bytes | None:
        return self.versions[-1][0] if self.versions else None

    def became(self, data: bytes | None, began: float, *, here: bool) -> None:
        """``began``: when the change was begun; ``here``: through the mount: nothing older may be seen."""
        if here:
            self.versions.clear()
        elif self.versions:
            last, since, _ = self.versions[-1]
            self.versions[-1] = (last, since, time.monotonic())
        self.versions.append((data, began, float("inf")))

    def allowed(self, opened: float, within: float) -> list[bytes | None]:
        return [data for data, _, until in self.versions if until >= opened - within - CLOCK]


@dataclass
class Reader:
    fd: int
    candidates: list[bytes]
    """The versions that agree with all that it has read."""


class World:
    def __init__(self, fs: Tree, within: float, seed: int) -> None:
        self.fs, self.within, self.dice = fs, within, random.Random(seed)
        self.files = {name: File() for name in NAMES}
        self.readers: dict[str, Reader] = {}
        self.past: list[str] = []
        self.seen_old = self.seen_new = 0

    def close(self) -> None:
        for reader in self.readers.values():
            os.close(reader.fd)

    def note(self, *what: object) -> None:
        self.past.append(" ".join(str(part) for part in what))

    def wrong(self, what: str) -> AssertionError:
        return AssertionError("\n".join([*self.past[-20:], what]))

    def any(self) -> tuple[str, File]:
        name = self.dice.choice(NAMES)
        return name, self.files[name]

    def data(self) -> bytes:
        return self.dice.randbytes(self.dice.choice(SIZES))

    def let_go(self, name: str) -> None:
        """Who has it open while its bytes are changed in place is promised nothing."""
        reader = self.readers.pop(name, None)
        if reader is not None:
            os.close(reader.fd)

    # ---- changes

    def replace(self) -> None:
        self._change(self._replace)

    def remove(self) -> None:
        self._change(self._remove)

    def overwrite(self) -> None:
        name, file = self.any()
        data = file.now()
        if data is None:
            return
        self.let_go(name)
        at = self.dice.randrange(len(data) + 1)
        part = self.dice.randbytes(self.dice.choice((1, 3_000, 70_000)))
        here = self.dice.random() < 0.4
        began = time.monotonic()
        with ((self.fs.path if here else self.fs.source) / name).open("r+b", buffering=0) as opened:
            if self.dice.random() < 0.3:
                opened.truncate(at)
                data = data[:at]
                self.note("cut", name, at, "here" if here else "beside")
            else:
                os.pwrite(opened.fileno(), part, at)
                data = data[:at] + part + data[at + len(part) :]
                self.note("write", name, at, len(part), "here" if here else "beside")
        file.became(data, began, here=here)

    def _change(self, how: Callable[[Path, str], bytes | None]) -> None:
        name, file = self.any()
        if how == self._remove and file.now() is None:
            return
        here = self.dice.random() < 0.3
        began = time.monotonic()
        data = how(self.fs.path if here else self.fs.source, name)
        file.became(data, began, here=here)
        self.note(how.__name__, name, size_of(data), "here" if here else "beside")

    def _replace(self, top: Path, name: str) -> bytes:
        data = self.data()
        (top / f".{name}").write_bytes(data)
        (top / f".{name}").rename(top / name)
        return data

    def _remove(self, top: Path, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # through the mount: it may look at a name that is gone
            (top / name).unlink()
        with contextlib.suppress(FileNotFoundError):
            (self.fs.source / name).unlink()

    # ---- readers

    def open(self) -> None:
        name, file = self.any()
        self.let_go(name)
        at = time.monotonic()
        allowed = file.allowed(at, self.within)
        try:
            fd = os.open(self.fs / name, os.O_RDONLY)
        except FileNotFoundError:
            if None not in allowed and file.versions:
                raise self.wrong(f"{name} is not there") from None
            return
        self.readers[name] = Reader(fd, [data for data in allowed if data is not None])
        self.note("open", name, [size_of(data) for data in allowed])
        if not self.readers[name].candidates:
            raise self.wrong(f"{name} was opened, and should not be there")
        self._read(name)

    def read(self) -> None:
        if self.readers:
            self._read(self.dice.choice(list(self.readers)))

    def _read(self, name: str) -> None:
        reader = self.readers[name]
        longest = max(len(data) for data in reader.candidates)
        at = self.dice.choice((0, self.dice.randrange(longest + 1)))
        size = self.dice.choice((100, 70_000, 400_000))
        got = os.pread(reader.fd, size, at)
        left = [data for data in reader.candidates if data[at : at + size] == got]
        self.note("read", name, at, size, len(got))
        if not left:
            raise self.wrong(f"{name}: {len(got)} bytes from {at} on are of no version that it may be")
        reader.candidates = left

    def whole(self) -> None:
        """Opened and read at once, as most files are."""
        name, file = self.any()
        allowed = file.allowed(time.monotonic(), self.within)
        try:
            got: bytes | None = (self.fs / name).read_bytes()
        except FileNotFoundError:
            got = None
        self.note("whole", name, size_of(got))
        if file.versions and got not in allowed:
            raise self.wrong(f"{name}: {size_of(got)} bytes that should not be seen")
        if got == file.now():
            self.seen_new += 1
        else:
            self.seen_old += 1

    def wait(self) -> None:
        """Time is what the promise is about: there is no event to wait for."""
        time.sleep(self.dice.choice((0.01, 0.06, INTERVAL + CLOCK + 0.01)))

    def run(self, steps: int) -> None:
        weights: dict[Callable[[], None], int] = {
            self.replace: 8, self.remove: 2, self.overwrite: 8, self.open: 10, self.read: 25, self.whole: 25,
            self.wait: 12,
        }  # fmt: skip
        for step in self.dice.choices(list(weights), list(weights.values()), k=steps):
            step()


CHECKS = {
    "relaxed": (INTERVAL, ["--check", "relaxed", "--check-interval", "100ms", "--metadata-timeout", "100ms"]),
    "relaxed, names kept": (INTERVAL, ["--check", "relaxed", "--check-interval", "100ms"]),
    "immutable": (float("inf"), ["--check", "immutable"]),
    "strict": (0.0, ["--check", "strict", "--metadata-timeout", "0s"]),
}


@pytest.mark.parametrize("check", CHECKS)
def test_each_open_sees_one_version(own: Callable[..., Tree], check: str) -> None:
    explore(own, check, 1, 300)


@pytest.mark.stress
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(10, 14))
@pytest.mark.parametrize("check", CHECKS)
def test_many_opens_see_one_version(own: Callable[..., Tree], check: str, seed: int) -> None:
    explore(own, check, seed, 5_000)


def explore(own: Callable[..., Tree], check: str, seed: int, steps: int) -> None:
    within, options = CHECKS[check]
    fs = own(options=["--chunk-size", "64KiB", *options])
    if not fs.mounted:
        within = 0.0
    world = World(fs, within, seed)
    try:
        world.run(steps)
    finally:
        world.close()
    assert world.seen_new > 10
