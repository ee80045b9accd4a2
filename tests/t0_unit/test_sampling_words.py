"""Whether counts are exact now, as ``swmld status`` and ``swmld doctor`` say it."""

from __future__ import annotations

from typing import Any

import pytest
from swmld.api.messages import Probe
from swmld.cli.sampling import EXACT, finding, told


def probe(how: str = "btf", **given: Any) -> Probe:
    lost = {"events": 0, "cursors": 0, "processes": 0}
    found: Any = {"how": how, "why": "", "share": 1.0, "rate": 0, "limit": 60000, "lost": lost}
    return found | given


@pytest.mark.parametrize(
    ("given", "exact", "words"),
    [
        ({}, True, "each read is counted, up to 60,000 a second of one CPU"),
        ({"limit": 0}, True, "each read is counted"),
        (
            {"share": 0.083, "rate": 700123},
            False,
            "reads are sampled, 8% of the time: 700,123 a second of one CPU, more than --probe-rate 60000; "
            "counts are estimates, exact ones with --probe-rate 0",
        ),
        ({"how": "fuse", "limit": 0}, None, ""),
        ({"how": "off", "limit": 0}, None, ""),
    ],
)
def test_whether_counts_are_exact(given: dict[str, Any], exact: bool | None, words: str) -> None:
    assert told(probe(**given)) == words
    found = finding("/mnt/ml", probe(**given))
    if exact is None:
        assert found is None
        return
    assert found is not None
    assert (found.name, found.works, found.detail, found.how) == (
        "exact counts, /mnt/ml", exact, words, EXACT,
    )  # fmt: skip
    assert not found.required


def test_a_daemon_of_an_older_version_says_less() -> None:
    old: Any = {"how": "btf", "why": "", "share": 1.0}
    assert told(old) == "each read is counted"
    assert told(old | {"share": 0.5}).startswith("reads are sampled, 50% of the time; counts are")
