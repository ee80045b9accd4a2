"""A rule that fetches ahead, on a slow source: readers wait less than before, and that is what is told."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import gates, posix, tree
from support.mount import Daemon
from support.probes import QUICK, Watched, probing
from support.slowfs import SlowFs
from support.waiting import until

CHUNK = 64 << 10
DELAY = 50  # milliseconds: what the source takes for one read
FILES = 20  # each one read from the first open on; more than waiting.FEW

AHEAD = """
rules:
  - id: ahead
    conditions: [{type: file_pattern, property: name, value: "*.jpg"}]
    actions: [{type: prefetch, parameters: {siblings: true}}]
"""


@pytest.fixture
def slow(compiled: Path) -> Iterator[tuple[Watched, SlowFs]]:
    """A daemon without a rule as yet."""
    gates.require("bpf")
    tree.require_mode("passthrough")
    with tree.work_dir() as base:
        backing = base / "backing"
        backing.mkdir()
        rules = base / "rules.yaml"
        rules.write_text("rules: []\n")
        options = [*probing(base, state=compiled), "--chunk-size", "64KiB", "--neighbours", "off"]
        options += ["--rules", str(rules)]
        with (
            SlowFs(base, backing) as source,
            Daemon(base, "passthrough", source=source.path, options=options, wrap=QUICK) as daemon,
            Watched(daemon) as seen,
        ):
            yield seen, source


def test_readers_wait_less_than_before(slow: tuple[Watched, SlowFs]) -> None:
    seen, source = slow
    daemon = seen.daemon
    (daemon.source / "a").mkdir()
    names = [f"a/{number:02}.jpg" for number in range(2 * FILES)]
    for name in names:
        (daemon.source / name).write_bytes(name.encode() * 1000)
    time.sleep(0.06)  # old enough to be cached (RACY_NS in swmld.mount.loading): there is no event
    source.set("delay-read", DELAY)

    def read(some: list[str]) -> None:
        """Processes of one job, which is the tests'."""
        with posix.Child(lambda: [(daemon.mount / name).read_bytes() for name in some]) as child:
            child.wait()
        seen.settle()

    read(names[:FILES])
    (daemon.run_dir.parent / "rules.yaml").write_text(AHEAD)
    until(lambda: daemon.call("rules")["rules"], "the rule is not in use")
    read(names[FILES:])
    (rule,) = until(
        lambda: [
            each for each in daemon.call("rules")["rules"] if (each["waiting"] or {}).get("reads", 0) >= FILES
        ],
        f"nothing is known of waiting: {daemon.call('rules')}",
    )
    waiting = rule["waiting"]
    assert waiting["basis"] == "dataset"
    assert waiting["before_seconds"] >= FILES * DELAY / 1000 / 2, "each was one slow read"
    assert waiting["compared_seconds"] < waiting["before_seconds"] / 2
    (total,) = daemon.call("history", by="rule")["sums"]
    assert total["waiting"]["before_seconds"] == pytest.approx(waiting["before_seconds"])
