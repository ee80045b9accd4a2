"""Conformance of sources: bytes, generations and endings. See ``support.source_conformance``."""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Callable, Sequence
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from swmld.sources.interface import ROOT, Change, Feature

from support.source_kit import (
    MadeSource,
    content,
    covers,
    failing,
    identity,
    names_of,
    part,
    read_all,
    together,
    unless_gone,
)
from support.waiting import PATIENCE


class Bytes:
    """Reading what does not change."""

    def test_sizes(self, made: MadeSource) -> None:
        chunk = made.chunk
        for size in (0, 1, 4095, chunk - 1, chunk, chunk + 1, 2 * chunk, 3 * chunk + 12345):
            path = b"size-%d" % size
            made.put(path, content(size))
            made.refresh()
            assert made.source.stat(path).size == size
            assert read_all(made.source, path) == content(size)

    @settings(
        max_examples=60,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(data=st.data())
    def test_any_range_is_the_bytes_stored(self, made: MadeSource, data: st.DataObject) -> None:
        size = 2 * made.chunk + 4321
        stored = content(size)
        if made.ranged is None:
            made.put(b"ranged", stored)
            made.refresh()
            made.ranged = made.source.open(b"ranged", made.source.stat(b"ranged"))
        edges = st.sampled_from([3, 4096, made.chunk, 2 * made.chunk, size, size + made.chunk])
        near = st.builds(int.__add__, edges, st.integers(-3, 3))
        offset = data.draw(near | st.integers(0, size + 10))
        length = data.draw(
            st.integers(0, 5000) | st.integers(0, size) | st.sampled_from([made.chunk, 2 * size])
        )
        assert part(made.ranged, offset, length) == stored[offset : offset + length]

    def test_past_the_end_is_nothing(self, made: MadeSource) -> None:
        for size in (0, 10):
            path = b"short-%d" % size
            made.put(path, content(size))
            made.refresh()
            reader = made.source.open(path, made.source.stat(path))
            assert [part(reader, offset, 100) for offset in (size, size + 1, 1 << 40)] == [b"", b"", b""]
            assert part(reader, 0, 0) == b""
            reader.close()

    def test_many_threads_read_one_file(self, made: MadeSource) -> None:
        stored = content(2 * made.chunk + 777)
        made.put(b"shared", stored)
        made.refresh()
        reader = made.source.open(b"shared", made.source.stat(b"shared"))

        def work(number: int) -> None:
            dice = random.Random(number)
            for _ in range(8):
                offset, length = dice.randrange(len(stored)), dice.randrange(1, 150_000)
                assert part(reader, offset, length) == stored[offset : offset + length]

        together(partial(work, number) for number in range(16))
        assert reader.current()
        reader.close()

    def test_many_threads_read_many_files(self, made: MadeSource) -> None:
        stored = {b"d/%02d" % number: content(1000 + 7 * number, number) for number in range(32)}
        for path, content_ in stored.items():
            made.put(path, content_)
        made.refresh()

        def work(number: int) -> None:
            for path in random.Random(number).sample(sorted(stored), len(stored)):
                assert read_all(made.source, path) == stored[path]
            assert names_of(made.source.list(b"d")) == sorted(path[2:] for path in stored)

        together(partial(work, number) for number in range(8))


class Generations:
    """Reading what changes."""

    @pytest.mark.parametrize("change", ["same size", "shorter", "empty", "longer", "removed"])
    def test_an_open_file_keeps_its_bytes_or_fails(self, made: MadeSource, change: str) -> None:
        size = made.chunk + 50_000
        old = content(size)
        made.put(b"file", old)
        made.refresh()
        reader = made.source.open(b"file", made.source.stat(b"file"))
        assert part(reader, 100, 1000) == old[100:1100]
        if change == "removed":
            made.remove(b"file")
        else:
            sizes = {"same size": size, "shorter": size // 2, "empty": 0, "longer": 2 * size}
            made.put(b"file", content(sizes[change], 1))
        made.refresh()
        for offset, length in ((0, size), (100, 1000), (size - 10, 10), (made.chunk - 5, 10), (0, 2 * size)):
            got = unless_gone(partial(part, reader, offset, length))
            assert got is None or got == old[offset : offset + length]
        reader.close()

    def test_a_new_generation_is_told_from_the_old(self, made: MadeSource) -> None:
        seen = set()
        for number in range(4):
            made.put(b"file", content(5000, number))
            made.refresh()
            attributes = made.source.stat(b"file")
            assert identity(dict(made.source.list(ROOT).entries)[b"file"]) == identity(attributes)
            seen.add(identity(attributes))
            assert read_all(made.source, b"file") == content(5000, number)
        assert len(seen) == 4, "generations of the same size, within a second, look the same"

    def test_old_attributes_open_the_old_file_or_none(self, made: MadeSource) -> None:
        old = content(70_000)
        made.put(b"file", old)
        made.refresh()
        attributes = made.source.stat(b"file")
        made.put(b"file", content(70_000, 1))
        made.refresh()
        reader = unless_gone(lambda: made.source.open(b"file", attributes))
        if reader is not None:
            assert unless_gone(lambda: part(reader, 0, 70_000)) in (None, old)
            reader.close()

    def test_a_removed_file_is_gone(self, made: MadeSource) -> None:
        made.put(b"d/file", b"x")
        made.put(b"d/other", b"x")
        made.refresh()
        attributes = made.source.stat(b"d/file")
        made.remove(b"d/file")
        made.refresh()
        assert failing(lambda: made.source.stat(b"d/file")).errno == errno.ENOENT
        assert names_of(made.source.list(b"d")) == [b"other"]
        reader = unless_gone(lambda: made.source.open(b"d/file", attributes))
        if reader is not None:
            assert unless_gone(lambda: part(reader, 0, 1)) in (None, b"x")
            reader.close()

    def test_generations_are_never_mixed(self, made: MadeSource) -> None:
        """One replaces the file over and over, others read it: each reader sees one letter at most."""
        size = 2 * made.chunk + 100
        made.put(b"file", b"A" * size)
        made.refresh()
        ended = threading.Event()

        def replace() -> None:
            try:
                for number in range(1, 13):
                    made.put(b"file", bytes([65 + number]) * size)
            finally:
                ended.set()

        def letters_seen() -> set[int]:
            reader = made.source.open(b"file", made.source.stat(b"file"))
            seen: set[int] = set()
            for offset, length in ((0, size // 2), (size // 2, size), (0, size)):
                got = unless_gone(partial(part, reader, offset, length))
                if got is not None:
                    assert len(got) == min(length, size - offset)
                    seen |= set(got)
            reader.close()
            return seen

        def read() -> None:
            while not ended.is_set():
                assert len(unless_gone(letters_seen) or ()) <= 1

        together([replace, read, read, read])


class Endings:
    """Closing, and being told."""

    def test_closing_a_reader_ends_its_reads(self, made: MadeSource) -> None:
        stored = content(made.chunk + 1)
        made.put(b"file", stored)
        made.refresh()
        reader = made.source.open(b"file", made.source.stat(b"file"))
        begun = threading.Barrier(5)

        def read() -> None:
            begun.wait(PATIENCE)
            for _ in range(20):
                try:
                    assert part(reader, 0, len(stored)) == stored
                except OSError:
                    return

        def close() -> None:
            begun.wait(PATIENCE)
            reader.close()

        together([read, read, read, read, close])
        # The source is as before for everybody else.
        assert read_all(made.source, b"file") == stored

    def test_closing_the_source_ends_its_calls(self, made: MadeSource) -> None:
        stored = content(made.chunk + 1)
        made.put(b"d/file", stored)
        made.refresh()
        begun = threading.Barrier(4)

        def calls(call: Callable[[], object]) -> None:
            begun.wait(PATIENCE)
            for _ in range(20):
                try:
                    call()
                except OSError:
                    return

        def whole() -> None:
            assert read_all(made.source, b"d/file") == stored

        def close() -> None:
            begun.wait(PATIENCE)
            made.source.close()

        work: Sequence[Callable[[], object]] = (
            whole,
            lambda: made.source.list(b"d"),
            lambda: made.source.stat(b"d"),
        )
        together([close, *(partial(calls, call) for call in work)])

    def test_changes_are_told(self, made: MadeSource) -> None:
        told: list[Change] = []
        if Feature.WATCH not in made.source.features:
            error = failing(lambda: made.source.watch(told.append, lambda _: None))
            assert error.errno == errno.EOPNOTSUPP
            return
        made.put(b"d/old", b"x")
        made.refresh()
        ready, news = threading.Event(), threading.Condition()

        def tell(change: Change) -> None:
            with news:
                told.append(change)
                news.notify_all()

        def await_news_of(path: bytes) -> None:
            with news:
                assert news.wait_for(lambda: any(covers(change, path) for change in told), PATIENCE), path
                told.clear()

        def watch() -> None:
            try:
                made.source.watch(tell, lambda now: ready.set() if now else ready.clear())
            except OSError:
                assert closing.is_set()

        def change() -> None:
            try:
                assert ready.wait(PATIENCE)
                made.put(b"d/new", b"x")
                await_news_of(b"d/new")
                made.put(b"d/old", b"replaced")
                await_news_of(b"d/old")
                made.remove(b"d/old")
                await_news_of(b"d/old")
            finally:
                closing.set()
                made.source.close()

        closing = threading.Event()
        together([watch, change])
