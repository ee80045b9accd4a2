"""Rules act on files that are open: who is fetched first, what the kernel is told, who waits for whom."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.mount import Daemon
from support.slowfs import SlowFs
from support.tree import require_mode, work_dir
from swmld.mount import prioritizing
from test_fuse_rules import CHUNK, LIMIT, Ruled

RULE = """
  - id: {0}
    conditions: [{{type: file_pattern, property: path, value: "{0}/*"}}]
    actions: [{{type: {1}, parameters: {{{2}}}}}]"""

RULES: dict[str, tuple[str, str]] = {
    "idle": ("prioritize", "io_priority: idle"),
    "soon": ("prioritize", "priority: 5"),
    "back": ("prioritize", "fetch_class: prefetch"),
    "part": ("prioritize", "bandwidth_share: 20%"),
}
"""By directory, which is also the rule's id."""


class Acting(Ruled):
    """A daemon with ``RULES``, over a source that is as slow as a test wants; without a rule: ``usual/``."""

    def __init__(self, daemon: Daemon, rules: Path, slow: SlowFs) -> None:
        super().__init__(daemon, rules)
        self.slow, self.source = slow, slow.backing

    def queued(self, count: int) -> None:
        """Until so many fetches wait."""
        self.until(lambda: self.daemon.metric("swmld_fetch_queue_length") == count, f"{count} fetches wait")


@contextmanager
def acting(mode: str, *options: str) -> Iterator[Acting]:
    with ExitStack() as stack:
        base = stack.enter_context(work_dir())
        (base / "backing").mkdir()
        slow = stack.enter_context(SlowFs(base, base / "backing"))
        rules = base / "rules.yaml"
        rules.write_text("rules:" + "".join(RULE.format(name, *action) for name, action in RULES.items()))
        options = ("--rules", str(rules), "--chunk-size", "64KiB", "--neighbours", "off", *options)
        daemon = stack.enter_context(Daemon(base, mode, options=options, source=slow.path))
        yield Acting(daemon, rules, slow)


@pytest.fixture(scope="module")
def one_at_a_time() -> Iterator[Acting]:
    """The source is asked for one chunk at a time: who comes first is seen. Modes serve what has come."""
    require_mode("passthrough")
    with acting("passthrough", "--fetch-parallel", "1", "--prefetch-parallel", "1") as here:
        yield here


class Reads:
    """Files read in threads, in the order in which their bytes came."""

    def __init__(self, here: Acting) -> None:
        self._here = here
        self._threads: list[threading.Thread] = []
        self.done: list[str] = []

    def start(self, name: str) -> None:
        def read() -> None:
            self._here.read(name)
            self.done.append(name)

        self._threads.append(threading.Thread(target=read, daemon=True))
        self._threads[-1].start()

    def end(self) -> list[str]:
        for thread in self._threads:
            thread.join(LIMIT)
        return self.done


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (["usual/1", "soon/1", "usual/2"], ["soon/1", "usual/1", "usual/2"]),
        (["back/1", "usual/3", "usual/4"], ["usual/3", "usual/4", "back/1"]),
    ],
    ids=["priority", "fetch class"],
)
def test_who_is_fetched_first(one_at_a_time: Acting, order: list[str], expected: list[str]) -> None:
    here, reads = one_at_a_time, Reads(one_at_a_time)
    first = f"usual/first-{order[0].partition('/')[0]}"
    here.make(first, *order)
    here.slow.set("delay-read", 30)
    here.slow.set("hang-read")
    try:
        reads.start(first)
        here.until(lambda: here.slow.stats()["in_flight"] > 0, "the source is asked")
        for number, name in enumerate(order, 1):
            reads.start(name)
            here.queued(number)
    finally:
        here.slow.set("ok")
    assert reads.end() == [first, *expected]
    here.slow.set("delay-read", 0)


def test_a_job_takes_its_share_while_others_read(one_at_a_time: Acting) -> None:
    here = one_at_a_time
    files = {kind: [f"{kind}/s{number}" for number in range(60)] for kind in ("usual", "part")}
    here.make(*files["usual"], *files["part"], size=CHUNK)
    here.slow.set("delay-read", 4)
    count, stop = {"usual": 0, "part": 0}, threading.Event()

    def read(kind: str) -> None:
        for name in files[kind]:
            if stop.is_set():
                return
            here.read(name)
            count[kind] += 1
        stop.set()

    threads = [threading.Thread(target=read, args=(kind,), daemon=True) for kind in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    here.slow.set("delay-read", 0)
    # 20 to 80; what the reader without a rule does not want for 50 ms the other may take.
    assert 0.1 < count["part"] / count["usual"] < 0.6
    here.read(*files["part"])


OPENS = """
import sys
for name in sys.stdin:
    with open(name.strip(), "rb") as file:
        print("open", flush=True)
        sys.stdin.readline()
    print("closed", flush=True)
"""


class Opener:
    """A process that has a file open while it is told to."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, "-Sc", OPENS], stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )
        self.pid = self.process.pid

    def __enter__(self) -> Opener:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def say(self, line: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def open(self, path: Path) -> None:
        self.say(path)
        assert self.hear() == "open"

    def close(self) -> None:
        self.say("")
        assert self.hear() == "closed"


def test_readers_have_the_io_class_of_the_rule_while_they_have_the_file_open(one_at_a_time: Acting) -> None:
    here = one_at_a_time
    here.make("idle/a", "idle/b", "usual/io")
    idle = prioritizing.value("idle")
    with Opener() as first, Opener() as second:
        usual = prioritizing.get(first.pid)
        assert usual != idle
        for _ in range(2):  # the second time it is whole in the cache
            first.open(here.mount / "idle/a")
            assert prioritizing.get(first.pid) == idle
            second.open(here.mount / "idle/a")
            first.close()
            assert prioritizing.get(second.pid) == idle
            second.close()
            for one in (first, second):
                here.until(lambda one=one: prioritizing.get(one.pid) == usual, "as before")  # type: ignore[misc]
        first.open(here.mount / "usual/io")
        assert prioritizing.get(first.pid) == usual
        first.close()
        second.open(here.mount / "idle/b")
        assert prioritizing.get(second.pid) == idle
