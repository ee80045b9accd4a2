"""A source that is slow, hangs, answers EIO, gives less than asked, vanishes, or changes while it is read."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from support import posix
from support.mount import Daemon
from support.posix import Child, fails
from support.slowfs import SlowFs

TIMEOUT = 2.0  # seconds of --fetch-timeout in these tests
INTERVAL = 0.2  # seconds of --check-interval in these tests
GRACE = 4.0  # what a bounded time may exceed its bound by on a loaded machine; a hang lasts for ever
CHUNK = 65_536
PATIENT = ["--chunk-size", "64KiB", "--check-interval", f"{INTERVAL}s"]
OPTIONS = [*PATIENT, "--fetch-timeout", f"{TIMEOUT}s"]
TROUBLE = ["source", "fetch", "timed out", "does not answer", "EIO"]


def content(name: str, size: int = 3 * CHUNK + 5) -> bytes:
    return random.Random(name).randbytes(size)


class Remote:
    """A daemon on a slowfs on a backing directory."""

    def __init__(self, slow: SlowFs, daemon: Daemon) -> None:
        self.slow, self.daemon, self.mount = slow, daemon, daemon.mount

    def put(self, name: str, size: int = 3 * CHUNK + 5) -> bytes:
        data = content(name, size)
        (self.slow.backing / name).write_bytes(data)
        return data

    def timed(self, work: Callable[[], object]) -> float:
        """Run it in a child, so that a hang fails this test alone; seconds until it ended."""
        start = time.monotonic()
        with contextlib.suppress(OSError):
            posix.run(work, timeout=TIMEOUT * 3 + GRACE)
        return time.monotonic() - start

    def read(self, name: str) -> bytes:
        path = self.mount / name
        return posix.run(path.read_bytes, timeout=TIMEOUT * 3 + GRACE)


@pytest.fixture
def remote(daemon: Callable[..., Daemon], base: Path) -> Iterator[Remote]:
    (base / "backing").mkdir()
    with SlowFs(base, base / "backing") as slow:
        yield Remote(slow, daemon(source=slow.path, options=OPTIONS, expect_log=TROUBLE))
        slow.set("ok")


def settle() -> None:
    """Let files grow old enough to be cached; see Tree.settle. A remote source may keep coarse times."""
    time.sleep(0.1)


def later() -> None:
    """Past the check interval, when an open asks the source again; it is about time, so there is no event."""
    time.sleep(INTERVAL + 0.1)


# --- hanging ---


@pytest.mark.parametrize("how", ["hang", "hang-read"])
def test_uncached_reads_end_in_time_and_cached_ones_go_on(remote: Remote, how: str) -> None:
    cached, _ = remote.put("cached"), remote.put("cold")
    settle()
    assert remote.read("cached") == cached
    (remote.mount / "cold").stat()
    later()
    remote.slow.set(how)
    start = time.monotonic()
    with fails(errno.EIO):
        remote.read("cold")
    assert time.monotonic() - start < TIMEOUT + GRACE
    for _ in range(3):
        start = time.monotonic()
        assert remote.read("cached") == cached
        assert time.monotonic() - start < TIMEOUT + GRACE


def test_present_parts_of_a_file_are_served_while_the_source_hangs(remote: Remote) -> None:
    wanted = remote.put("large", 20 * CHUNK)
    settle()
    fd = os.open(remote.mount / "large", os.O_RDONLY)
    try:
        assert os.pread(fd, 100, 0) == wanted[:100]
        assert os.pread(fd, 100, 15 * CHUNK) == wanted[15 * CHUNK :][:100]
        remote.slow.set("hang")
        for at in (50, 15 * CHUNK + 500):
            assert posix.run(partial(os.pread, fd, 1_000, at)) == wanted[at : at + 1_000]
        with fails(errno.EIO):
            posix.run(lambda: os.pread(fd, 100, 12 * CHUNK), timeout=TIMEOUT + GRACE)
    finally:
        os.close(fd)


@pytest.mark.parametrize("how", ["hang", "hang-read"])
def test_everything_works_again_when_the_source_is_back(remote: Remote, how: str) -> None:
    wanted = {name: remote.put(name) for name in ("a", "b", "c")}
    settle()
    remote.slow.set(how)
    assert remote.timed((remote.mount / "a").read_bytes) < 3 * TIMEOUT + GRACE
    remote.slow.set("ok")
    deadline = time.monotonic() + 10
    while True:  # how soon the daemon looks again is its own business, within seconds
        try:
            assert remote.read("a") == wanted["a"]
            break
        except OSError as error:
            assert error.errno == errno.EIO  # noqa: PT017
            assert time.monotonic() < deadline, "the source has been back for 10 s"
    for name, data in wanted.items():
        assert remote.read(name) == data


@pytest.mark.alone
def test_killing_a_reader_of_a_hung_source_ends_it_at_once(remote: Remote) -> None:
    remote.put("large", 20 * CHUNK)
    remote.put("small", 1_000)
    settle()
    for how, work in (
        ("hang-read", (remote.mount / "large").read_bytes),
        ("hang-read", (remote.mount / "small").read_bytes),
        ("hang", (remote.mount / "unknown").stat),
    ):
        remote.slow.set(how)
        child = Child(work)
        assert waits(child)
        assert child.kill(grace=10) < 1.0
        remote.slow.set("ok")


def waits(child: Child) -> bool:
    """Whether it still waits after a moment, which its request needs to get to the source anyhow."""
    time.sleep(0.2)
    return not child.reap(os.WNOHANG)


def test_other_work_goes_on_beside_hung_reads(remote: Remote) -> None:
    """Many readers of a hung file must not use up what serves the others."""
    cached = remote.put("cached")
    for number in range(12):
        remote.put(f"cold{number}", 20 * CHUNK)
    settle()
    assert remote.read("cached") == cached
    remote.slow.set("hang-read")
    readers = [Child((remote.mount / f"cold{number % 12}").read_bytes) for number in range(40)]
    try:
        for _ in range(20):
            start = time.monotonic()
            assert remote.read("cached") == cached
            assert remote.daemon.call("status", timeout=TIMEOUT + GRACE)
            assert time.monotonic() - start < TIMEOUT + GRACE
        for child in readers:
            with fails(errno.EIO):
                child.wait(3 * TIMEOUT + GRACE)
    finally:
        remote.slow.set("ok")
        for child in readers:
            child.kill()


def test_stopping_while_the_source_hangs(remote: Remote) -> None:
    remote.put("cold", 20 * CHUNK)
    settle()
    remote.slow.set("hang")
    reader = Child((remote.mount / "cold").read_bytes)
    assert waits(reader)
    remote.daemon.stop(timeout=TIMEOUT + 10)
    reader.kill()


# --- errors and short reads ---


def test_source_that_answers_eio(remote: Remote) -> None:
    wanted, cold = remote.put("cached"), remote.put("cold", 20 * CHUNK)
    settle()
    assert remote.read("cached") == wanted
    remote.slow.set("eio")
    with fails(errno.EIO):
        remote.read("cold")
    assert remote.read("cached") == wanted
    remote.slow.set("ok")
    later()  # errors may be remembered for as long
    assert remote.read("cold") == cold


def test_one_bad_moment_is_survived(remote: Remote) -> None:
    """EIO for a short while under readers: each read is right or EIO, never wrong; then all is right."""
    wanted = {f"{number}": remote.put(f"{number}", 5 * CHUNK + number) for number in range(10)}
    settle()

    def work(seed: int) -> int:
        dice, errors = random.Random(seed), 0
        for _ in range(40):
            name = dice.choice(list(wanted))
            try:
                assert (remote.mount / name).read_bytes() == wanted[name]
            except OSError as error:
                assert error.errno == errno.EIO  # noqa: PT017
                errors += 1
        return errors

    children = [Child(partial(work, seed)) for seed in range(3)]
    for state in ("eio", "ok", "eio", "ok"):
        remote.slow.set(state)
        time.sleep(0.05)
    for child in children:
        child.wait()
    later()
    for name, data in wanted.items():
        assert remote.read(name) == data


def test_source_that_gives_less_than_asked(daemon: Callable[..., Daemon], base: Path) -> None:
    """Half of each read, as some network file systems do: asked again for the rest."""
    (base / "backing").mkdir()
    with SlowFs(base, base / "backing", direct_io=True) as slow:
        one = Remote(slow, daemon(source=slow.path, options=PATIENT, expect_log=TROUBLE))
        wanted = {name: one.put(name, size) for name, size in (("a", 1), ("b", 10_001), ("c", 7 * CHUNK + 3))}
        settle()
        slow.set("short")
        for name, data in wanted.items():
            assert one.read(name) == data
        one.daemon.stop()


# --- changes during a fetch ---


@pytest.fixture
def slow_remote(daemon: Callable[..., Daemon], base: Path) -> Iterator[Remote]:
    """Reads of the source take so long that a test can change the file under them."""
    (base / "backing").mkdir()
    with SlowFs(base, base / "backing", direct_io=True) as slow:
        yield Remote(slow, daemon(source=slow.path, options=PATIENT, expect_log=TROUBLE))
        slow.set("ok")


@pytest.mark.parametrize("change", ["truncate", "replace", "overwrite", "grow"])
def test_source_that_changes_during_a_fetch(slow_remote: Remote, change: str) -> None:
    """The fetch under way gets old bytes, new bytes or an error; what is kept is one generation only."""
    remote, size = slow_remote, 10 * CHUNK
    old = remote.put("name", size)
    settle()
    behind = remote.slow.backing / "name"
    remote.slow.set("delay-read", 300)
    reader = Child((remote.mount / "name").read_bytes)
    while remote.slow.stats()["in_flight"] == 0:
        time.sleep(0.005)
    new = {
        "truncate": old[: 3 * CHUNK + 7],
        "replace": content("new", size),
        "overwrite": content("other", size),
        "grow": old + content("tail", CHUNK),
    }[change]
    if change == "truncate":
        os.truncate(behind, len(new))
    elif change == "replace":
        behind.with_name("next").write_bytes(new)
        behind.with_name("next").rename(behind)
    else:
        with behind.open("r+b") as file:
            file.write(new)
    with contextlib.suppress(OSError):
        got = reader.wait(30)
        assert b"\0" * 64 not in got, "zeros that were never stored"
        for at in range(0, len(got), CHUNK):
            part = got[at : at + CHUNK]
            assert part in (old[at : at + CHUNK], new[at : at + CHUNK]) or change in ("truncate", "grow")
    remote.slow.set("delay-read", 0)
    later()
    assert remote.read("name") == new
    remote.daemon.restart()
    assert remote.read("name") == new


def test_file_removed_during_a_fetch(slow_remote: Remote) -> None:
    remote = slow_remote
    old = remote.put("name", 10 * CHUNK)
    settle()
    remote.slow.set("delay-read", 200)
    reader = Child((remote.mount / "name").read_bytes)
    while remote.slow.stats()["in_flight"] == 0:
        time.sleep(0.005)
    (remote.slow.backing / "name").unlink()
    with contextlib.suppress(OSError):
        assert reader.wait(30) == old
    remote.slow.set("delay-read", 0)
    later()
    with fails(errno.ENOENT):
        remote.read("name")


@pytest.mark.alone
def test_a_demand_read_does_not_wait_behind_prefetch(slow_remote: Remote) -> None:
    """A sequential reader fills the queues with readahead; another reader's first byte must come soon."""
    remote = slow_remote
    remote.put("long", 400 * CHUNK)
    wanted = remote.put("wanted", CHUNK // 2)
    settle()
    remote.slow.set("delay-read", 40)

    def sequential() -> None:
        with (remote.mount / "long").open("rb", buffering=0) as file:
            while file.read(CHUNK):
                pass

    reader = Child(sequential)
    while remote.slow.stats()["reads"] < 30:
        time.sleep(0.01)
    start = time.monotonic()
    assert remote.read("wanted") == wanted
    took = time.monotonic() - start
    reader.kill()
    # Its own request takes 40 ms; one place in a queue of fetches under way may have to come free first.
    assert took < 0.5


@pytest.mark.parametrize("cached", [True, False])
def test_file_replaced_on_a_remote_source(remote: Remote, cached: bool) -> None:
    """A node of a file that is gone at the source must give way to the file that has its name now."""
    remote.put("name")
    settle()
    if cached:
        remote.read("name")
    else:
        (remote.mount / "name").stat()
    (remote.slow.backing / "next").write_bytes(b"new")
    (remote.slow.backing / "next").rename(remote.slow.backing / "name")
    later()
    assert remote.read("name") == b"new"
    (remote.slow.backing / "name").unlink()
    later()
    with fails(errno.ENOENT):
        remote.read("name")


# --- vanishing ---


def test_source_directory_emptied(daemon: Callable[..., Daemon]) -> None:
    one = daemon(options=PATIENT, expect_log=TROUBLE)
    (one.source / "dir").mkdir()
    (one.source / "dir" / "name").write_bytes(content("name"))
    settle()
    assert (one.mount / "dir" / "name").read_bytes() == content("name")
    shutil.rmtree(one.source / "dir")
    later()
    with fails(errno.ENOENT):
        (one.mount / "dir" / "name").read_bytes()
    (one.mount / "new").write_bytes(b"new")
    assert (one.source / "new").read_bytes() == b"new"


def test_source_mount_gone(daemon: Callable[..., Daemon], base: Path) -> None:
    """The remote file system is unmounted under the daemon: errors, no hang, no wrong bytes, a clean stop."""
    (base / "backing").mkdir()
    with SlowFs(base, base / "backing") as slow:
        one = Remote(slow, daemon(source=slow.path, options=OPTIONS, expect_log=TROUBLE))
        wanted = one.put("cached")
        one.put("cold", 20 * CHUNK)
        settle()
        assert one.read("cached") == wanted
        (one.mount / "cold").stat()
        slow.kill()
        later()
        with pytest.raises(OSError):
            one.read("cold")
        assert one.read("cached") == wanted
        one.daemon.stop()


# --- several names ---


def test_other_names_of_a_file_whose_writer_has_lost_its_own(
    daemon: Callable[..., Daemon], base: Path
) -> None:
    """The kernel cannot open anew what a network file system finds by names alone."""
    (base / "backing").mkdir()
    wanted = content("first")
    with SlowFs(base, base / "backing") as slow:
        one = daemon(source=slow.path, options=[*OPTIONS, "--check", "strict"], expect_log=TROUBLE)
        first, second = one.mount / "first", one.mount / "second"
        first.write_bytes(wanted)
        os.link(first, second)
        with first.open("r+b", buffering=0) as writer:
            first.unlink()
            assert posix.run(second.read_bytes) == wanted
            writer.write(b"written")
            assert posix.run(second.read_bytes) == b"written" + wanted[7:]
        assert (slow.backing / "second").read_bytes() == b"written" + wanted[7:]
