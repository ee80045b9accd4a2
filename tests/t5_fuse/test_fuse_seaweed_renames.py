"""What is renamed by a mount of SeaweedFS stays cached, and what is read is never another file's."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from support import posix
from support.mount import MODES, Daemon
from support.seaweed import Cluster
from support.waiting import until

MIB = 1 << 20
SIZES = {"small": 3000, "image": 110_000, "e/large": 9 * MIB + 5}

_tries = count()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


def content(name: str, size: int) -> bytes:
    return random.Random(name).randbytes(size)


BYTES = {name: content(name, size) for name, size in SIZES.items()}


class Renaming:
    """A daemon, and a directory ``d`` of which all is cached."""

    def __init__(self, base: Path, cluster: Cluster, mode: str, *options: str) -> None:
        self.cluster = cluster
        self.top = f"ren-{next(_tries)}"
        for name, data in BYTES.items():
            cluster.put(f"/{self.top}/d/{name}", data)
        url = f"seaweedfs://127.0.0.1:{cluster.filer}/{self.top}"
        base.mkdir(exist_ok=True)
        self.daemon = Daemon(base, mode, source=None, options=["--source", url, *options])

    def begin(self) -> None:
        until(lambda: "tells of its changes" in self.daemon.log_text(), "the filer is listened to")
        self.read("d")

    def read(self, directory: str) -> None:
        """All of it, by handles of its own; the bytes must be right."""
        top = self.daemon.mount / directory
        for name, data in BYTES.items():
            assert (top / name).read_bytes() == data, name

    def fetched(self) -> float:
        return self.daemon.metric("swmld_source_read_bytes_total")


@pytest.mark.parametrize("mode", MODES)
def test_a_renamed_directory_stays_cached(base: Path, cluster: Cluster, mode: str) -> None:
    own = Renaming(base / "own", cluster, mode)
    mount = own.daemon.mount
    with own.daemon:
        own.begin()
        before = own.fetched()
        (mount / "d").rename(mount / "d2")
        own.read("d2")
        (mount / "up").mkdir()
        (mount / "d2").rename(mount / "up/d3")
        (mount / "up").rename(mount / "there")
        own.read("there/d3")
        assert own.fetched() == before, "by steps, some of them not read in between"
        (mount / "there/d3").rename(mount / "d")  # back
        own.read("d")
        own.read("d")
        assert own.fetched() == before
        until(lambda: own.daemon.cached_bytes("d") == sum(SIZES.values()), "the index has them there")
        # A name that is used anew has bytes of its own.
        (mount / "d").rename(mount / "aside")
        (mount / "d").mkdir()
        (mount / "d/small").write_bytes(b"new" * 1000)
        assert (mount / "d/small").read_bytes() == b"new" * 1000
        before = own.fetched()
        own.read("aside")
        assert own.fetched() == before


@pytest.mark.parametrize("mode", MODES)
def test_a_renamed_file_stays_cached(base: Path, cluster: Cluster, mode: str) -> None:
    own = Renaming(base / "own", cluster, mode)
    mount, large = own.daemon.mount, BYTES["e/large"]
    with own.daemon:
        own.begin()
        before = own.fetched()
        with (mount / "d/e/large").open("rb") as held:
            assert held.read(MIB) == large[:MIB]
            (mount / "d/e/large").rename(mount / "d/moved")
            assert (mount / "d/moved").read_bytes() == large
            assert held.read() == large[MIB:]
        (mount / "d/small").rename(mount / "d/image")  # over another one
        assert (mount / "d/image").read_bytes() == BYTES["small"]
        (mount / "d/image").rename(mount / "d/small")
        assert (mount / "d/small").read_bytes() == BYTES["small"]
        with pytest.raises(FileNotFoundError):
            (mount / "d/image").read_bytes()
        assert own.fetched() == before
        (mount / "d/image").write_bytes(BYTES["image"])
        (mount / "d/moved").rename(mount / "d/e/large")
        own.read("d")


@pytest.mark.parametrize("mode", MODES)
def test_a_part_of_a_file_goes_on_under_its_new_name(base: Path, cluster: Cluster, mode: str) -> None:
    """Chunks that are there are not fetched again, by the reader that has it open, and by the next one."""
    own = Renaming(base / "own", cluster, mode)
    mount, large = own.daemon.mount, content("part", 40 * MIB)
    cluster.put(f"/{own.top}/part", large)
    with own.daemon:
        until(lambda: "tells of its changes" in own.daemon.log_text(), "the filer is listened to")
        with (mount / "part").open("rb", buffering=0) as held:
            assert os.pread(held.fileno(), 1000, 0) == large[:1000]
            (mount / "part").rename(mount / "part2")
            assert os.pread(held.fileno(), 1000, 20 * MIB) == large[20 * MIB : 20 * MIB + 1000]
        assert (mount / "part2").read_bytes() == large
        assert own.fetched() == len(large)


@pytest.mark.parametrize("mode", MODES)
def test_a_rename_by_another_client(base: Path, cluster: Cluster, mode: str) -> None:
    own = Renaming(base / "own", cluster, mode)
    mount = own.daemon.mount
    with cluster.mounted(f"/{own.top}", base / "weed") as other, own.daemon:
        own.begin()
        (other / "d").rename(other / "theirs")
        until(lambda: (mount / "theirs").exists() and not (mount / "d").exists(), "it is seen")
        own.read("theirs")
        # They take the names of each other.
        (mount / "theirs/small").rename(mount / "theirs/x")
        (other / "y").write_bytes(b"y" * SIZES["small"])
        (other / "y").rename(other / "theirs/small")
        until(lambda: (mount / "theirs/small").exists(), "the other one")
        until(lambda: (mount / "theirs/small").read_bytes() == b"y" * SIZES["small"], "its bytes")
        assert (mount / "theirs/x").read_bytes() == BYTES["small"]
        (mount / "theirs").rename(mount / "ours")
        (other / "z").mkdir()
        (other / "z/small").write_bytes(b"z" * SIZES["small"])
        until(lambda: (other / "ours").exists(), "they see ours")
        (other / "ours").rename(other / "gone")
        (other / "z").rename(other / "ours")
        until(lambda: (mount / "ours/small").exists(), "the other one is there")
        until(lambda: (mount / "ours/small").read_bytes() == b"z" * SIZES["small"], "with its bytes")


@pytest.mark.parametrize("settle", [False, True], ids=["at once", "committed"])
def test_killed_after_a_rename(base: Path, cluster: Cluster, settle: bool) -> None:
    """What the index had not heard of is fetched again, what it had is not; the bytes are right."""
    own = Renaming(base / "own", cluster, "passthrough")
    mount = own.daemon.mount
    with own.daemon:
        own.begin()
        (mount / "d/small").rename(mount / "d/image")
        (mount / "d").rename(mount / "d2")
        if settle:
            own.daemon.ask("cache", "ls", "--mount", mount)
            # A moment later than the last change of the index: a file that is cached after it.
            (mount / "later").write_bytes(b"later" * 1000)
            assert (mount / "later").read_bytes() == b"later" * 1000
            until(lambda: own.daemon.cached_bytes("later") > 0, "the index has heard of all before it")
        own.daemon.kill9()
        posix.umount(mount)
        own.daemon.start()
        top = mount / "d2"
        assert (top / "image").read_bytes() == BYTES["small"]
        assert (top / "e/large").read_bytes() == BYTES["e/large"]
        assert not (top / "small").exists()
        if settle:
            assert own.fetched() == 0
