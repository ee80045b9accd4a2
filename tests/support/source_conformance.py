"""What every source is held to: the contract of ``swmld.sources.interface``, as tests to inherit.

    from support.source_conformance import Can, MadeSource, SourceConformance

    class TestMine(SourceConformance):
        @pytest.fixture
        def made(self) -> Iterator[MadeSource]: ...          # a new, empty source for each test

``MadeSource`` is to be subclassed: ``put``, ``remove`` and ``mkdir`` change what is behind the source without
its help, at once and whole (a ``put`` over a file makes a new generation). ``can`` says what the server can
store. A source that remembers listings or attributes for a while forgets them in ``refresh``, which is called
after changes that the next call is to see. ``chunk`` is the unit in which the server stores bytes.

A source with ``Feature.WRITE`` inherits ``Writes``, too: ``class TestMine(Writes, SourceConformance)``.
``unit`` is what it writes with one request.
"""

from __future__ import annotations

import errno
import stat

import pytest
from swmld.sources.interface import ROOT, Attributes, Feature, NewAttributes

for _name in ("kit", "names", "bytes", "written", "changes", "writes"):
    pytest.register_assert_rewrite(f"support.source_{_name}")

from support.source_bytes import Bytes, Endings, Generations  # noqa: E402
from support.source_kit import Can, MadeSource, failing  # noqa: E402
from support.source_names import Names, Pages  # noqa: E402
from support.source_writes import Writes  # noqa: E402

__all__ = ["Can", "MadeSource", "SourceConformance", "Writes"]


class SourceConformance(Names, Pages, Bytes, Generations, Endings):
    """All of it, but writing."""

    def test_it_is_read_only_or_is_tested_to_write(self, made: MadeSource) -> None:
        source = made.source
        if Feature.WRITE in source.features:
            assert isinstance(self, Writes)
            return
        made.put(b"file", b"x")
        made.refresh()
        given = Attributes(stat.S_IFREG | 0o644)
        for call in (
            lambda: source.write(b"new", 0, 0, given, None, "token"),
            lambda: source.remove(b"file"),
            lambda: source.make_dir(b"d", given),
            lambda: source.remove_dir(b"d"),
            lambda: source.rename(b"file", b"new"),
            lambda: source.change(b"file", NewAttributes(mode=0o600)),
            lambda: source.symlink(b"new", b"to", given),
        ):
            assert failing(call).errno == errno.EROFS
        assert [name for name, _ in source.list(ROOT).entries] == [b"file"]
