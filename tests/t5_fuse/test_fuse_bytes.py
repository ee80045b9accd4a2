"""The one promise that matters: bytes returned equal bytes stored.

Whatever was read before, whatever the cache holds of a file, however the daemon last ended. Files have odd
sizes around the borders of the smallest chunks.
"""

from __future__ import annotations

import mmap
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import posix
from support.compare import first_difference
from support.tree import Tree

CHUNK = 65_536
SIZES = [
    0, 1, 4_095, 4_097, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 4_097, 3 * CHUNK - 1,
    7 * CHUNK + 1,
]  # fmt: skip
OPTIONS = ["--chunk-size", "64KiB", "--check", "strict"]


def content(size: int, generation: int = 0) -> bytes:
    """Different in every file and generation, and at every offset."""
    return random.Random(size * 1_000 + generation).randbytes(size)


def read(path: Path, at: int, length: int, way: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | (os.O_DIRECT if way == "direct" else 0))
    try:
        size = os.fstat(fd).st_size
        if way == "mapped":
            if at >= size:
                return b""
            # In a child: a page that cannot be had is a SIGBUS.
            return posix.run(lambda: mmap.mmap(fd, 0, prot=mmap.PROT_READ)[at : at + length])
        if way == "direct":
            start = at - at % 4096
            room = (at + length - start + 4095) // 4096 * 4096
            with mmap.mmap(-1, room) as buffer:
                got = os.preadv(fd, [buffer], start)
                return buffer[: max(0, got)][at - start : at - start + length]
        return os.pread(fd, length, at)
    finally:
        os.close(fd)


def check(path: Path, wanted: bytes, at: int = 0, length: int | None = None, way: str = "read") -> None:
    length = len(wanted) + 1 if length is None else length
    got = read(path, at, length, way)
    assert got == wanted[at : at + length], f"{path.name}: {first_difference(got, wanted[at : at + length])}"


@pytest.fixture
def strict(own: Callable[..., Tree]) -> Tree:
    """A tree whose daemon uses the smallest chunks and compares with the source at each open."""
    return own(options=OPTIONS)


@pytest.fixture
def files(strict: Tree) -> Tree:
    for size in SIZES:
        (strict.source / f"{size}").write_bytes(content(size))
    strict.settle()
    return strict


@pytest.mark.parametrize("way", ["read", "mapped", "direct"])
def test_cold_then_warm(files: Tree, way: str) -> None:
    for _ in range(3):
        for size in SIZES:
            check(files / f"{size}", content(size), way=way)
    if files.mounted:
        assert [files.cached_bytes(f"{size}") for size in SIZES] == SIZES


def test_every_border(files: Tree) -> None:
    """Short reads across each border of chunks and pages, in random order: fetches meet partial files."""
    places = [
        (size, max(0, border + shift), length)
        for size in SIZES
        for border in (0, *range(CHUNK, size + CHUNK, CHUNK), size)
        for shift, length in ((-1, 2), (0, 1), (-4_097, 4_100), (-10, CHUNK + 20))
    ]
    random.Random(4).shuffle(places)
    for size, at, length in places:
        check(files / f"{size}", content(size), at, length)
    for size in SIZES:
        check(files / f"{size}", content(size))


def test_after_restart_and_kill(files: Tree) -> None:
    """Half of the files whole, half in part; then a clean restart, then kill -9 in the middle of reading."""
    if files.daemon is None:
        pytest.skip("needs a daemon")
    dice = random.Random(5)
    for number, size in enumerate(SIZES):
        check(files / f"{size}", content(size), *((0, None) if number % 2 else (size // 2, 10)))
    files.daemon.restart()
    for size in SIZES:
        check(files / f"{size}", content(size), dice.randrange(size + 1), 5_000)
    files.daemon.kill9()
    files.daemon.start()
    for size in SIZES:
        check(files / f"{size}", content(size))


def test_changed_while_the_daemon_was_down(files: Tree) -> None:
    if files.daemon is None:
        pytest.skip("needs a daemon")
    for size in SIZES:
        check(files / f"{size}", content(size))
    for stop in (files.daemon.stop, files.daemon.kill9):
        stop()
        for size in SIZES[1:]:
            generation = 1 if stop is files.daemon.stop else 2
            (files.source / f"{size}").write_bytes(content(size, generation))
        files.settle()
        files.daemon.start()
        for size in SIZES[1:]:
            check(files / f"{size}", content(size, generation))


Step = tuple[str, int, int, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["read"] * 4
            + ["mapped"] * 2
            + ["direct", "rewrite", "replace", "write", "append", "truncate", "drop", "settle", "all"]
        ),
        st.integers(0, 2),
        st.integers(0, 4 * CHUNK),
        st.one_of(st.integers(1, 9_000), st.integers(1, 3 * CHUNK)),
    ),
    min_size=1,
    max_size=25,
)


class Model:
    """Three files, and what must be in them."""

    def __init__(self, tree: Tree, number: int) -> None:
        self.tree, self.generation = tree, 0
        self.names = [f"m{number}-{which}" for which in range(3)]
        self.bytes = {}
        for which, name in enumerate(self.names):
            data = content((CHUNK - 1, 2 * CHUNK, 3 * CHUNK + 17)[which], which)
            (tree.source / name).write_bytes(data)
            self.bytes[name] = bytearray(data)
        tree.settle()

    def step(self, kind: str, which: int, at: int, length: int) -> None:
        name = self.names[which]
        path, behind, model = self.tree / name, self.tree.source / name, self.bytes[name]
        self.generation += 1
        if kind in ("read", "mapped", "direct"):
            check(path, bytes(model), at, length, kind)
        elif kind == "all":
            check(path, bytes(model))
        elif kind == "settle":
            self.tree.settle()
        elif kind == "drop" and self.tree.daemon is not None:
            self.tree.daemon.call("cache.drop", path=name)
        elif kind in ("write", "append"):
            data = content(length, self.generation)
            at = len(model) if kind == "append" else at
            with path.open("r+b") as file:
                file.seek(at)
                file.write(data)
            model.extend(bytes(max(0, at - len(model))))
            model[at : at + length] = data
        elif kind == "truncate":
            os.truncate(path, at)
            model.extend(bytes(max(0, at - len(model))))
            del model[at:]
        elif kind in ("rewrite", "replace"):
            data = content(length, self.generation)
            model[:] = data
            if kind == "rewrite":
                behind.write_bytes(data)
            else:
                behind.with_name("new").write_bytes(data)
                behind.with_name("new").rename(behind)

    def finish(self) -> None:
        for name, model in self.bytes.items():
            check(self.tree / name, bytes(model))
            check(self.tree.source / name, bytes(model))


@pytest.mark.timeout(200)
def test_any_order_of_reads_and_changes(strict: Tree) -> None:
    numbers = iter(range(10**6))

    # Deterministic, since a failure must come back; the database would keep it on one machine alone.
    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(steps)
    def run(plan: list[Step]) -> None:
        model = Model(strict, next(numbers))
        for step in plan:
            model.step(*step)
        model.finish()

    run()
