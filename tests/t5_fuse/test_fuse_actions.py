"""Rules act on files that are open: who is fetched first, what the kernel is told, who waits for whom."""

from __future__ import annotations

import errno
import itertools
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support import posix
from support.mount import Daemon
from support.pages import forget
from support.slowfs import SlowFs
from support.tree import DISK, modes, require_mode, work_dir
from swmld.mount import prioritizing
from swmld.mount.acting import KEPT_BEHIND
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
    "willneed": ("advise", "advice: willneed"),
    "memory": ("cache", "tier: memory"),
    "dontneed": ("advise", "advice: dontneed"),
    "random": ("advise", "advice: random"),
    "sequential": ("advise", "advice: sequential"),
    "readahead": ("advise", "readahead: 512KiB"),
    "none": ("advise", "readahead: 0"),
    "stream": ("stream", "chunk_size: 16KiB, parallel_streams: 2"),
    "behind": ("stream", "drop_behind: true"),
    "once": ("coordinate", "mode: single_fetch"),
    "meet": ("coordinate", "mode: barrier, processes: 2"),
    "alone": ("coordinate", "mode: barrier, processes: 5, timeout: 50ms"),
    "one": ("coordinate", "mode: single_writer"),
    "half": ("cache", "pin_fraction: 50%"),
    "busy": ("coordinate", "mode: single_writer, timeout: 50ms"),
}
"""By directory, which is also the rule's id."""

ATTEMPTS = itertools.count()


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


@pytest.fixture(scope="module", params=[mode for mode in modes() if mode != DISK])
def everywhere(request: pytest.FixtureRequest) -> Iterator[Acting]:
    """In each mode, with reads of the source as usual."""
    require_mode(request.param)
    with acting(request.param) as here:
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
    attempt = next(ATTEMPTS)  # what an attempt that failed has left is cached
    first, *order = (f"{name}-{attempt}" for name in ("usual/first", *order))
    expected = [f"{name}-{attempt}" for name in expected]
    here.make(first, *order)
    here.slow.set("delay-read", 300)  # between two that come: readers note the order, and may wait for a CPU
    here.slow.set("hang-read")
    try:
        asked = here.slow.stats()["reads"]
        reads.start(first)
        here.until(lambda: here.slow.stats()["reads"] > asked, "the source is asked")
        for number, name in enumerate(order, 1):
            reads.start(name)
            here.queued(number)
    finally:
        here.slow.set("ok")
        done = reads.end()
        here.slow.set("delay-read", 0)
    assert done == [first, *expected]


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
    try:
        with open(name.strip(), sys.argv[1]) as file:
            print("open", flush=True)
            sys.stdin.readline()
        print("closed", flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""


class Opener:
    """A process that has a file open while it is told to."""

    def __init__(self, mode: str = "rb") -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, "-Sc", OPENS, mode], stdin=pipe, stdout=pipe, stderr=pipe, text=True
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

    def silent(self) -> bool:
        """Nothing is heard for a moment: long enough for an open that waits for nobody."""
        return not select.select([self.process.stdout], [], [], 0.2)[0]

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


# ---- what the kernel is told

PAGES = CHUNK // 4096


def test_pages_are_loaded_when_the_file_is_opened(everywhere: Acting) -> None:
    here = everywhere
    names = ["usual/w", "willneed/w", "readahead/w", "memory/w"]
    here.make(*names, size=12 * CHUNK)
    here.read(*names)
    forget(here.mount / names[0])  # what the mount has of it by itself
    for name in names:
        forget(here.cache_file(name))
        assert here.pages(name) == 0
    for name, expected in zip(names, (0, 12 * PAGES, 8 * PAGES, 12 * PAGES), strict=True):
        with (here.mount / name).open("rb", buffering=0) as file:
            here.until(lambda: here.pages(name) == expected, f"{expected} pages of {name}")  # noqa: B023
            assert file.read(CHUNK) == (here.source / name).read_bytes()[:CHUNK]
    assert 0 < here.pages(names[0]) < 12 * PAGES


def test_all_of_a_large_file_is_loaded(everywhere: Acting) -> None:
    """More than the kernel reads ahead for one request."""
    here = everywhere
    names = ["willneed/large", "memory/large"]
    here.make(*names, size=400 * CHUNK)
    for name in names:
        here.read(name)
        forget(here.mount / name)
        forget(here.cache_file(name))
        assert here.pages(name) == 0
        with (here.mount / name).open("rb", buffering=0):
            here.until(lambda: here.pages(name) == 400 * PAGES, f"all of {name}")  # noqa: B023
        here.read(name)


def test_pages_are_let_go_when_the_file_is_closed(everywhere: Acting) -> None:
    here = everywhere
    names = [f"{kind}/{size}" for kind in ("usual", "dontneed") for size in ("small", "large")]
    here.make(*names[::2], size=CHUNK)
    here.make(*names[1::2], size=4 * CHUNK)
    for _ in range(2):  # the second time all is cached
        here.read(*names)
        here.until(lambda: not any(here.pages(name) for name in names[2:]), "their pages stay")
        assert [here.pages(name) for name in names[:2]] == [PAGES, 4 * PAGES]


def test_readers_that_jump_get_no_readahead_from_the_cache_s_disk(everywhere: Acting) -> None:
    """Where the daemon reads the cache file. A file that is passed through is read ahead by the kernel as it
    reads any file; nothing can tell it of one."""
    here = everywhere
    names = ["usual/j", "random/j"]
    here.make(*names, size=12 * CHUNK)
    here.read(*names)
    found = []
    for name in names:
        forget(here.mount / name)
        forget(here.cache_file(name))
        with (here.mount / name).open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            assert file.read(4096) == (here.source / name).read_bytes()[:4096]
            found.append(here.pages(name))
    assert found[0] > 1
    assert (found[1] == 1) == (here.daemon.mode != "passthrough")


@pytest.mark.parametrize(
    ("kind", "read", "chunks"),
    [
        ("usual", 1, 1),
        ("sequential", 1, 3),
        ("usual", 2, 4),
        ("readahead", 2, 10),
        ("random", 2, 2),
        ("none", 2, 2),
    ],
)
def test_how_much_is_fetched_ahead(everywhere: Acting, kind: str, read: int, chunks: int) -> None:
    here = everywhere
    name = f"{kind}/ahead-{read}"
    here.make(name, size=20 * CHUNK)
    with (here.mount / name).open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for chunk in range(read):
            file.seek(chunk * CHUNK)
            assert file.read(10) == (here.source / name).read_bytes()[chunk * CHUNK :][:10]
        here.until(lambda: here.cached()[name] == chunks * CHUNK, f"{chunks} chunks")
    here.read(name)


# ---- how a file is fetched while it is read


def test_size_and_number_of_requests(everywhere: Acting) -> None:
    here = everywhere
    asked, parallel = {"usual": 1, "stream": 4}, {"usual": 8, "stream": 2}
    here.make(*(f"{kind}/requests" for kind in asked), size=8 * CHUNK)
    for kind, each in asked.items():
        name, before, reads = f"{kind}/requests", here.slow.stats(), Reads(here)
        here.slow.set("hang-read")
        try:
            reads.start(name)
            here.until(lambda: here.slow.stats()["in_flight"] == parallel[kind], "requests")  # noqa: B023
        finally:
            here.slow.set("ok")
        assert reads.end() == [name]
        after = here.slow.stats()
        assert after["bytes_read"] - before["bytes_read"] == 8 * CHUNK
        assert after["reads"] - before["reads"] == 8 * each


def test_memory_forgets_what_was_read(everywhere: Acting) -> None:
    here = everywhere
    names = ["usual/long", "behind/long"]
    here.make(*names, size=96 * CHUNK)
    for name in names:
        forgets = name == names[1]
        for again in (False, True):
            with (here.mount / name).open("rb") as file:
                assert file.read() == (here.source / name).read_bytes()
                if not forgets:
                    assert here.pages(name) == 96 * PAGES
                elif not again:
                    most = 3 * KEPT_BEHIND // 2 // 4096
                    here.until(lambda: here.pages(names[1]) <= most, "what lies behind stays")  # noqa: B023
            here.until(lambda: not forgets or here.pages(names[1]) == 0, "it was closed")  # noqa: B023
    assert here.pages(names[0]) == 96 * PAGES


# ---- processes that use the same file


def test_readers_of_one_file_fetch_it_once(everywhere: Acting) -> None:
    here = everywhere
    here.make("once/a", size=12 * CHUNK)
    before = here.slow.stats()["bytes_read"]
    here.slow.set("hang-read")
    try:
        readers = [
            subprocess.Popen(["sha256sum", here.mount / "once/a"], stdout=subprocess.PIPE) for _ in range(3)
        ]
        here.until(lambda: here.slow.stats()["in_flight"] > 0, "requests")
    finally:
        here.slow.set("ok")
    sums = {reader.communicate(timeout=LIMIT)[0].split()[0] for reader in readers}
    assert len(sums) == 1
    here.until(lambda: here.cached()["once/a"] == 12 * CHUNK, "all of it")
    assert here.slow.stats()["bytes_read"] - before == 12 * CHUNK


def test_readers_wait_until_all_have_come(everywhere: Acting) -> None:
    here = everywhere
    here.make("meet/small", "meet/alone", "alone/a")
    here.make("meet/large", size=3 * CHUNK)
    with Opener() as first, Opener() as second, Opener() as killed:
        for name in ("meet/small", "meet/large", "meet/small", "meet/large"):  # then whole in the cache
            first.say(here.mount / name)
            assert first.silent()
            second.open(here.mount / name)
            assert first.hear() == "open"
            first.close()
            second.close()
        killed.say(here.mount / "meet/alone")
        assert killed.silent()
        killed.process.kill()
        assert killed.process.wait(LIMIT) < 0
        first.open(here.mount / "alone/a")  # nobody else comes: at its timeout
        first.close()


BARRIER = """
rules:
  - id: meet
    conditions: [{type: file_context, property: extension, value: .bin}]
    actions: [{type: coordinate, parameters: {mode: barrier, processes: 2, timeout: 1h}}]
"""


def test_who_waits_at_a_barrier_goes_on_when_the_mount_ends(daemon_mode: str, base: Path) -> None:
    rules = base / "barrier.yaml"
    rules.write_text(BARRIER)
    with Daemon(base, daemon_mode, options=["--rules", str(rules), "--chunk-size", "64KiB"]) as daemon:
        here = Ruled(daemon, rules)
        here.make("a.bin")
        with Opener() as reader:
            reader.say(daemon.mount / "a.bin")
            assert reader.silent()
            stopping = threading.Thread(target=daemon.stop)
            stopping.start()
            try:
                assert reader.hear() == "open"
                reader.close()
            finally:
                stopping.join()
        assert daemon.process is None


def test_who_waits_at_a_barrier_goes_on_when_somebody_unmounts(daemon_mode: str, base: Path) -> None:
    """``umount -l`` by hand, of which the kernel tells nothing as long as somebody opens a file."""
    rules = base / "barrier.yaml"
    rules.write_text(BARRIER)
    options = ["--rules", str(rules), "--chunk-size", "64KiB"]
    daemon = Daemon(base, daemon_mode, options=options)
    daemon.start()
    try:
        Ruled(daemon, rules).make("a.bin")
        with Opener() as reader:
            reader.say(daemon.mount / "a.bin")
            assert reader.silent()
            posix.umount(daemon.mount)
            assert reader.hear() == "open"
            reader.close()
            assert daemon.process is not None
            assert daemon.process.wait(LIMIT) == 0
    finally:
        daemon.kill9()


ONE_WRITER = """
rules:
  - id: one
    conditions: [{type: file_context, property: extension, value: .bin}]
    actions: [{type: coordinate, parameters: {mode: single_writer, timeout: 1h}}]
"""


def test_who_waits_to_write_is_refused_when_the_mount_ends(daemon_mode: str, base: Path) -> None:
    """The first writer keeps the file, and closes it as usual."""
    rules = base / "one.yaml"
    rules.write_text(ONE_WRITER)
    with Daemon(base, daemon_mode, options=["--rules", str(rules), "--chunk-size", "64KiB"]) as daemon:
        here = Ruled(daemon, rules)
        here.make("a.bin")
        with Opener("r+b") as first, Opener("r+b") as second:
            first.open(daemon.mount / "a.bin")
            second.say(daemon.mount / "a.bin")
            assert second.silent()
            stopping = threading.Thread(target=daemon.stop)
            stopping.start()
            try:
                assert second.hear() == "Device or resource busy"
                assert stopping.is_alive()
                first.close()
            finally:
                first.process.kill()
                stopping.join()
        assert daemon.process is None


def test_one_writer_at_a_time(everywhere: Acting) -> None:
    here = everywhere
    here.make("one/a", "busy/a", "usual/both")
    with Opener("r+b") as first, Opener("r+b") as second:
        first.open(here.mount / "one/a")
        second.say(here.mount / "one/a")
        assert second.silent()
        here.read("one/a")  # readers do not wait
        first.close()
        assert second.hear() == "open"
        second.close()
        for opener in (first, second):
            opener.open(here.mount / "usual/both")
        for opener in (first, second):
            opener.close()
        first.open(here.mount / "busy/a")
        second.say(here.mount / "busy/a")
        assert second.hear() == os.strerror(errno.EBUSY)
        first.close()
        here.until(lambda: opens(second, here.mount / "busy/a"), "it was closed")
    with Opener("wb") as maker, Opener("r+b") as second:
        maker.open(here.mount / "one/new")
        second.say(here.mount / "one/new")
        assert second.silent()
        maker.process.kill()
        assert second.hear() == "open"


def opens(opener: Opener, path: Path) -> bool:
    opener.say(path)
    if opener.hear() != "open":
        return False
    opener.close()
    return True


def test_a_share_of_the_files_is_pinned(everywhere: Acting) -> None:
    here = everywhere
    names = [f"half/{number}" for number in range(8)]
    here.make(*names)
    for _ in range(2):
        here.read(*names)
        here.until(lambda: here.pinned() == set(names[1::2]), "every second one is pinned")
