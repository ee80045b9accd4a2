"""The engine on real traces: at least 95 % of what the programs did is found (``tests/corpus/README.md``)."""

from __future__ import annotations

import gzip
import platform
import re
from collections import defaultdict

import pytest
from support.corpus import TRACES, Judged, Replay, labels, matrix, numbers

REQUIRED = 0.95
MOST_BYTES = 3_000_000
ENTRIES = labels()


@pytest.fixture(scope="module")
def judged() -> list[Judged]:
    return [one for name, entry in ENTRIES.items() for one in Replay(name, entry).run()]


def report(judged: list[Judged]) -> str:
    kinds: dict[str, list[Judged]] = defaultdict(list)
    for one in judged:
        kinds[one.what].append(one)
    parts = []
    for what, found in sorted(kinds.items()):
        right = sum(one.right for one in found)
        table = numbers(found) if found[0].wanted.isdigit() else matrix(found)
        parts.append(f"{what}: {right} of {len(found)}\n{table}")
    wrong = [
        f"  {one.trace} {one.where} {one.what}: {one.wanted}, said {one.said}"
        for one in judged
        if not one.right
    ]
    return "\n\n".join([*parts, "wrong:\n" + "\n".join(wrong)])


def test_what_programs_do_is_found(judged: list[Judged], capsys: pytest.CaptureFixture[str]) -> None:
    found = [one for one in judged if not one.what.startswith("early")]
    right = sum(one.right for one in found)
    with capsys.disabled():
        print(f"\n{len(ENTRIES)} traces, {right} of {len(found)} labels right\n\n{report(judged)}")
    assert right >= REQUIRED * len(found)


@pytest.mark.parametrize("what", ["order", "pattern", "phase", "epoch", "batch", "workers"])
def test_no_kind_of_label_is_much_worse(judged: list[Judged], what: str) -> None:
    found = [one for one in judged if one.what == what]
    assert len(found) > 20
    assert sum(one.right for one in found) >= 0.9 * len(found), report(found)


def test_order_is_known_before_5_percent_of_an_epoch(judged: list[Judged]) -> None:
    found = [one for one in judged if one.what == "early order"]
    assert len(found) > 20
    assert sum(one.right for one in found) >= REQUIRED * len(found), report(found)


def test_sequential_within_3_reads(judged: list[Judged]) -> None:
    found = [one for one in judged if one.what == "early pattern"]
    assert len(found) > 20
    assert all(one.right for one in found), report(found)


def test_traces_are_small_and_tell_nothing_of_the_machine() -> None:
    traces = sorted(TRACES.glob("*.swt"), key=lambda path: path.stem)
    assert [path.stem for path in traces] == sorted(ENTRIES)
    assert sum(path.stat().st_size for path in traces) <= MOST_BYTES
    for path in traces:
        text = gzip.decompress(path.read_bytes()).decode()
        assert platform.node() not in text, path
        absolute = set(re.findall(r'(?<=[" =])/[a-z][^"\s]*', text)) - {"/mnt"}
        assert not absolute, (path, absolute)
