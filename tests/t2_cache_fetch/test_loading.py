"""Batches of files that are fetched ahead: what of them a cache takes, and what becomes of the rest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

import pytest
from support.cachekit import CHUNK, Machine, cached, identity
from swmld.cache.files import MAX_CHUNKS
from swmld.mount.loading import Loader, unload_several
from swmld.mount.tree import Found, Opened
from swmld.types import Identity

PARENT, LIMIT = 1, 4 * CHUNK


class Source:
    """The bytes of one file, which are not read here."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class Known:
    """A tree that knows these files; each opened once."""

    def __init__(self, files: dict[bytes, Identity], *, tagged: bool = False) -> None:
        self._files = files
        self.tagged = tagged
        self.sources = {name: Source(file.size) for name, file in files.items()}

    def open_known(self, parent: int, names: Sequence[bytes], limit: int) -> list[Found]:
        assert (parent, limit) == (PARENT, LIMIT)
        return [
            Found(name, b"d/" + name, file.ino, file, Opened(reader=cast(Any, self.sources[name])))
            for name, file in self._files.items()
            if name in names
        ]

    def closed(self) -> list[bytes]:
        """Names of those that were let go of; none is twice."""
        assert all(source.closed <= 1 for source in self.sources.values())
        return [name for name, source in self.sources.items() if source.closed]


def no_descriptor(fd: int) -> None:
    raise AssertionError("these have readers")


@pytest.fixture
def loaded(machine: Machine) -> Any:
    cache = machine.open()

    def load(tree: Known, *names: bytes) -> list[bytes]:
        """Names of what is to be fetched, which is let go of at once."""
        loader = Loader(cast(Any, None), cast(Any, tree), cache, no_descriptor)
        several = loader.load_known(PARENT, names, LIMIT)
        for name, nodeid, target in several:
            assert target.reader is tree.sources[name]  # type: ignore[comparison-overlap]
            assert (target.identity.ino, target.file.identity) == (nodeid, target.identity)
            assert target.fills
            assert not target.file.complete
            assert not tree.sources[name].closed
        unload_several(several)
        return [name for name, _, _ in several]

    load.cache = cache  # type: ignore[attr-defined]
    return load


def test_what_the_cache_does_not_have_is_loaded(loaded: Any) -> None:
    tree = Known({b"a": identity(1), b"b": identity(2), b"c": identity(3)})
    cached(loaded.cache, identity(2))
    assert loaded(tree, b"a", b"b") == [b"a"]
    assert tree.closed() == [b"a", b"b"]


def test_what_changed_a_moment_ago_is_left_out(loaded: Any) -> None:
    now = time.time_ns()
    tree = Known({b"a": identity(1), b"b": Identity(0, 2, CHUNK, now, now)})
    assert loaded(tree, b"a", b"b") == [b"a"]
    assert tree.closed() == [b"a", b"b"]


def test_a_source_that_tags_has_no_moment(loaded: Any) -> None:
    """Two generations of one second differ in the fraction, which whole seconds do not have."""
    now = time.time_ns() // 10**9 * 10**9
    files = {b"a": Identity(0, 1, CHUNK, now, now + 1), b"b": Identity(0, 2, CHUNK, now, now)}
    assert loaded(Known(files, tagged=True), b"a", b"b") == [b"a"]
    assert loaded(Known({b"a": Identity(0, 3, CHUNK, now, time.time_ns() | 1)}), b"a") == []


def test_one_that_the_cache_refuses_costs_the_others_nothing(loaded: Any) -> None:
    """It ends neither the task that brings files nor its batch."""
    huge = identity(2, size=(MAX_CHUNKS + 1) * CHUNK)
    tree = Known({b"a": identity(1), b"huge": huge, b"b": identity(3)})
    assert loaded(tree, b"a", b"huge", b"b") == [b"a", b"b"]
    assert tree.closed() == [b"a", b"huge", b"b"]


def test_nothing_known_is_nothing_asked(loaded: Any) -> None:
    assert loaded(Known({}), b"a") == []
