"""What every source is held to: the contract of ``swmld.sources.interface``, as tests to inherit.

    from support.source_conformance import Can, MadeSource, SourceConformance

    class TestMine(SourceConformance):
        @pytest.fixture
        def made(self) -> Iterator[MadeSource]: ...          # a new, empty source for each test

``MadeSource`` is to be subclassed: ``put``, ``remove`` and ``mkdir`` change what is behind the source without
its help, at once and whole (a ``put`` over a file makes a new generation). ``can`` says what the server can
store. A source that remembers listings or attributes for a while forgets them in ``refresh``, which is called
after changes that the next call is to see. ``chunk`` is the unit in which the server stores bytes.
"""

from __future__ import annotations

import pytest

for _name in ("kit", "names", "bytes"):
    pytest.register_assert_rewrite(f"support.source_{_name}")

from support.source_bytes import Bytes, Endings, Generations  # noqa: E402
from support.source_kit import Can, MadeSource  # noqa: E402
from support.source_names import Names, Pages  # noqa: E402

__all__ = ["Can", "MadeSource", "SourceConformance"]


class SourceConformance(Names, Pages, Bytes, Generations, Endings):
    """All of it."""
