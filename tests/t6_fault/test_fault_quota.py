"""A quota that runs out under the cache, under the source, under what is staged: EDQUOT, of which statvfs(2)
told nothing before."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import gates, posix
from support.mount import Daemon
from support.quota import quota_disk, set_limit
from support.seaweed import Cluster
from support.waiting import until

MIB = 1 << 20
OPTIONS = ["--chunk-size", "64KiB", "--check", "strict"]
TOLD = r"[Qq]uota|full|room|disk I/O error"


def content(name: str, size: int = MIB + 3) -> bytes:
    return random.Random(name).randbytes(size)


@pytest.fixture
def limited(base: Path) -> Iterator[Path]:
    gates.require("quota")
    with quota_disk(base, "16M") as directory:
        yield directory


def fill(one: Daemon, names: list[str]) -> None:
    for name in names:
        (one.source / name).write_bytes(content(name))


def check(one: Daemon, names: list[str]) -> None:
    for name in names:
        assert (one.mount / name).read_bytes() == content(name), name


def test_cache(daemon: Callable[..., Daemon], limited: Path) -> None:
    """Every read is right; what was cached goes for what is read now, as on a full disk."""
    one = daemon(cache=limited / "cache", options=OPTIONS, expect_log=[TOLD])
    names = [f"file{number}" for number in range(40)]
    fill(one, names)
    for _ in range(3):
        check(one, names)
    said = [line for line in one.log_text().splitlines() if "cache: its disk is full" in line]
    assert len(said) == 1
    assert one.metric("swmld_fetches_total", result="no_room") > 0
    assert one.metric("swmld_evictions_total") > 0
    (one.source / "new").write_bytes(content("new"))
    until(lambda: check(one, ["new"]) or one.cached_bytes("new") > MIB, "what is read last is cached")
    set_limit(limited, "none")
    one.restart()
    check(one, names)


def test_source(daemon: Callable[..., Daemon], limited: Path) -> None:
    """Whoever writes hears of it as on the disk itself; what was acknowledged is there, and the mount serves
    on."""
    (limited / "src").mkdir()
    one = daemon(source=limited / "src", options=OPTIONS)
    (one.mount / "before").write_bytes(content("before"))
    kept = write_until_refused(one.mount / "file", errno.EDQUOT)
    assert 8 * MIB < kept < 16 * MIB
    for top in (one.mount, one.source):
        assert (top / "file").read_bytes()[:kept] == content("file", 32 * MIB)[:kept]
        assert (top / "before").read_bytes() == content("before")
    (one.mount / "file").unlink()
    until(lambda: taken(one.mount / "after", content("after")), "there is room again")
    assert (one.source / "after").read_bytes() == content("after")


def taken(path: Path, data: bytes) -> bool:
    """Whether there was room for it; btrfs has that of a removed file when it has written as much."""
    os.sync()
    try:
        path.write_bytes(data)
    except OSError as error:
        if error.errno != errno.EDQUOT:
            raise
        return False
    return True


def write_until_refused(path: Path, code: int) -> int:
    """Bytes that were written, each block of them synced, before ``code``."""
    data, done = content("file", 32 * MIB), 0
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        with posix.fails(code):
            while done < len(data):
                count = os.pwrite(fd, data[done : done + 100_000], done)  # the last one is short
                os.fsync(fd)
                done += count
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)
    return done


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.mark.parametrize("daemon_mode", ["passthrough", "python"], indirect=True)
@pytest.mark.parametrize("write", ["through", "back"])
def test_staged(
    daemon: Callable[..., Daemon], limited: Path, cluster: Cluster, daemon_mode: str, write: str
) -> None:
    """The writer hears of it at once, in no way that ends the daemon; what was closed before reaches the
    source, and when there is room again all is as before."""
    top = f"/buckets/quota-{daemon_mode}-{write}"
    url = f"seaweedfs://127.0.0.1:{cluster.filer}{top}"
    cluster.put(f"{top}/there", content("there"))
    one = daemon(
        source=None, cache=limited / "cache", expect_log=[TOLD],
        options=["--source", url, "--write", write, "--chunk-size", "64KiB"],
    )  # fmt: skip
    (one.mount / "before").write_bytes(content("before"))
    small = [f"small{number}" for number in range(100)]
    with (one.mount / "file").open("wb", buffering=0) as file:
        with posix.fails(errno.EDQUOT):
            for block in range(32):
                file.write(content(f"block{block}", MIB))
        assert file.tell() > 4 * MIB
        assert (one.mount / "there").read_bytes() == content("there")
        closed = [name for name in small if not refused(one.mount / name, content(name, 3000))]
        assert len(closed) < len(small)
        set_limit(limited, "64M")
        file.truncate(MIB)
    (one.mount / "after").write_bytes(content("after"))
    one.ask("flush", one.mount)
    for name in closed:
        assert stored(cluster, f"{top}/{name}") == content(name, 3000)
    for name in ("before", "after", "there"):
        assert stored(cluster, f"{top}/{name}") == content(name)
    assert stored(cluster, f"{top}/file") == content("block0", MIB)
    assert one.status()["staged"]["files"] == 0


def refused(path: Path, data: bytes) -> bool:
    """Whether the file could not be written, for lack of room alone."""
    try:
        path.write_bytes(data)
    except OSError as error:
        assert error.errno in (errno.EDQUOT, errno.ENOSPC), error  # noqa: PT017
        return True
    return False


def stored(cluster: Cluster, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{cluster.filer}{path}", timeout=60) as answer:
        data: bytes = answer.read()
    return data
