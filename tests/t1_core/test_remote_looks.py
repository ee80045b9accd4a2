"""Files to come of a source that lists a part of a directory by one request: looked at together."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from typing import Any, cast

import pytest
from support.source_fakes import FakeSource
from swmld.mount.remote import PART, SEVERAL, RemoteTree
from swmld.sources.interface import LISTED, Attributes, Feature, Page

NAMES = [b"f%04d.jpg" % number for number in range(2000)]
ROOT = Attributes(stat.S_IFDIR | 0o755, ino=1)


class Bucket(FakeSource):
    """One directory of many files."""

    features = Feature.PARTS

    def list(self, path: bytes, after: bytes = b"", limit: int = LISTED) -> Page:
        self.called("list", path)
        names = [name for name in NAMES if name > after]
        file = Attributes(stat.S_IFREG | 0o644, 1000, ino=2)
        return Page(tuple((name, file) for name in names[:limit]), len(names) > limit)


class Table:
    """Of nodes: what is entered, and nothing more."""

    def __init__(self) -> None:
        self.entered: list[bytes] = []

    def refresh(self, *_: Any) -> None:
        """The root."""

    def path(self, nodeid: int) -> bytes:
        return b"d"

    def enter_several(self, parent: int, children: Sequence[tuple[bytes, Attributes, int]]) -> list[None]:
        self.entered += [name for name, _, _ in children]
        return [None] * len(children)


def tree_of(source: FakeSource, *, strict: bool = False) -> tuple[RemoteTree, Table]:
    table = Table()
    return RemoteTree(cast(Any, table), source, ROOT, strict=strict, interval=1000.0, ruled=False), table


@pytest.mark.parametrize("step", [1, 4])
def test_files_to_come_are_looked_at_together(step: int) -> None:
    source = Bucket()
    tree, table = tree_of(source)
    wanted = NAMES[500 : 500 + 16 * step : step]
    tree.open_known(7, wanted, 1 << 20)
    assert source.calls == [("list", b"d")]
    assert table.entered == wanted
    # What follows was in the same part.
    more = NAMES[500 + 16 * step : 500 + 32 * step : step]
    tree.open_known(7, more, 1 << 20)
    assert source.calls == [("list", b"d")]
    assert table.entered == [*wanted, *more]


def test_what_is_not_in_the_part_is_left_to_itself() -> None:
    source = Bucket()
    tree, table = tree_of(source)
    tree.open_known(7, [*NAMES[:SEVERAL], NAMES[PART + 20]], 1 << 20)
    assert source.calls == [("list", b"d")]
    assert table.entered == NAMES[:SEVERAL]


@pytest.mark.parametrize("why", ["few", "strict", "no parts", "fails"])
def test_where_each_is_asked_for_by_itself(why: str) -> None:
    source = Bucket()
    if why == "no parts":
        source.features = Feature.NONE

    def breaks(kind: str, path: bytes) -> None:
        raise OSError(5, "broken")

    if why == "fails":
        source.meets = breaks
    tree, table = tree_of(source, strict=why == "strict")
    tree.open_known(7, NAMES[: SEVERAL - 1 if why == "few" else 16], 1 << 20)
    assert source.calls == ([("list", b"d")] if why == "fails" else [])
    assert table.entered == []
