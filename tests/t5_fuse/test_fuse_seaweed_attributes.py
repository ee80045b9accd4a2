"""What SeaweedFS keeps of a file besides its bytes, through a mount and beside ``weed mount``: extended
attributes, hard links, an end by itself."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from support.mount import MODES, Daemon
from support.posix import fails
from support.seaweed import Cluster
from support.waiting import until

_tries = itertools.count()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


def mounted(
    base: Path, cluster: Cluster, below: str, *options: str, port: int = 0, mode: str = "passthrough"
) -> Daemon:
    base.mkdir(exist_ok=True)
    url = f"seaweedfs://127.0.0.1:{port or cluster.filer}/{below}"
    return Daemon(base, mode, source=None, options=["--source", url, *options])


def xattrs(path: Path) -> dict[str, bytes]:
    """All, but for what ``weed mount`` shows of how a file was written by swmld."""
    return {name: os.getxattr(path, name) for name in os.listxattr(path) if "swmld" not in name}


@pytest.mark.parametrize("write", ["through", "back"])
def test_extended_attributes_are_those_of_weed_mount(base: Path, cluster: Cluster, write: str) -> None:
    top = f"xattr-{write}-{next(_tries)}"
    cluster.put(f"/{top}/d/file", b"x" * 5000)
    with (
        mounted(base / "own", cluster, top, "--write", write) as daemon,
        cluster.mounted(f"/{top}", base / "weed") as other,
    ):
        ours, theirs = daemon.mount / "d/file", other / "d/file"
        assert ours.read_bytes() == b"x" * 5000
        assert xattrs(ours) == {}
        with fails(errno.ENODATA):
            os.getxattr(ours, "user.comment")
        os.setxattr(ours, "user.comment", b"ours")
        os.setxattr(ours, "user.empty", b"")
        os.setxattr(ours.parent, "user.of", b"a directory")
        assert xattrs(ours) == {"user.comment": b"ours", "user.empty": b""}
        until(lambda: xattrs(theirs) == xattrs(ours), "weed mount shows ours")
        until(lambda: xattrs(theirs.parent) == {"user.of": b"a directory"}, "of the directory, too")
        os.setxattr(theirs, "user.theirs", b"v" * 3000)
        os.removexattr(theirs, "user.empty")
        until(lambda: xattrs(ours) == {"user.comment": b"ours", "user.theirs": b"v" * 3000}, "we show theirs")
        os.removexattr(ours, "user.theirs")
        with fails(errno.ENODATA):
            os.removexattr(ours, "user.theirs")
        with fails(errno.EOPNOTSUPP):
            os.setxattr(ours, "system.posix_acl_access", b"\2\0\0\0")
        with fails(errno.EPERM):
            os.setxattr(ours, "user.swmld.token", b"1")
        (daemon.mount / "by us").write_bytes(b"z")
        assert os.listxattr(daemon.mount / "by us") == []
        assert ours.read_bytes() == b"x" * 5000

        # A rewrite keeps them; a new file has none, and its own are there before and after its close.
        ours.write_bytes(b"y" * 70_000)
        assert xattrs(ours) == {"user.comment": b"ours"}
        with (daemon.mount / "new").open("wb") as file:
            file.write(b"first")
            file.flush()
            assert xattrs(daemon.mount / "new") == {}
            os.setxattr(file.fileno(), "user.early", b"1")
            assert os.getxattr(file.fileno(), "user.early") == b"1"
            file.write(b" and last")
        until(lambda: (other / "new").read_bytes() == b"first and last", "all of it is stored")
        until(lambda: xattrs(other / "new") == {"user.early": b"1"}, "with its attribute")
        (daemon.mount / "new").rename(daemon.mount / "moved")
        assert xattrs(daemon.mount / "moved") == {"user.early": b"1"}
        subprocess.run(["cp", "-a", daemon.mount / "moved", daemon.mount / "copy"], check=True)
        assert xattrs(daemon.mount / "copy") == {"user.early": b"1"}
        assert xattrs(daemon.mount / "copy") == {"user.early": b"1"}


def test_a_file_that_is_gone_takes_no_attributes(base: Path, cluster: Cluster) -> None:
    cluster.put("/xattr-gone/file", b"x" * 5000)
    with mounted(base / "own", cluster, "xattr-gone") as daemon, (daemon.mount / "file").open("rb") as file:
        (daemon.mount / "file").unlink()
        with fails(errno.ESTALE):
            os.setxattr(file.fileno(), "user.a", b"1")


def test_df_shows_the_cluster(base: Path, cluster: Cluster) -> None:
    cluster.put("/df/file", b"x" * 5000)
    with mounted(base / "own", cluster, "df") as daemon:
        told = cluster.call("Statistics")
        assert told.total_size
        shown = os.statvfs(daemon.mount)
        assert shown.f_blocks * shown.f_frsize == told.total_size
        assert (shown.f_blocks - shown.f_bfree) * shown.f_frsize <= told.total_size
        assert daemon.metric("swmld_source_calls_total", call="room", outcome="answered") == 1
        os.statvfs(daemon.mount)
        assert daemon.metric("swmld_source_calls_total", call="room", outcome="answered") == 1


def test_df_does_not_wait_for_a_filer_that_hangs(base: Path, cluster: Cluster) -> None:
    cluster.put("/df-hangs/file", b"x" * 5000)
    with mounted(base / "own", cluster, "df-hangs") as daemon:
        daemon.expect_log("the filer does not answer|are not told|does not tell")
        with cluster.stopped():
            shown = os.statvfs(daemon.mount)
        assert shown.f_blocks * shown.f_frsize == shown.f_bavail * shown.f_frsize == 1 << 50
        assert (daemon.mount / "file").read_bytes() == b"x" * 5000


@pytest.mark.parametrize("write", ["through", "back"])
def test_hard_links_of_weed_mount_are_one_file(base: Path, cluster: Cluster, write: str) -> None:
    top = f"links-{write}-{next(_tries)}"
    cluster.put(f"/{top}/.made", b"")
    with (
        cluster.mounted(f"/{top}", base / "weed") as other,
        mounted(base / "own", cluster, top, "--write", write) as daemon,
    ):
        until(lambda: "tells of its changes" in daemon.log_text(), "the filer is listened to")
        (other / "one").write_bytes(b"1" * 50_000)
        os.link(other / "one", other / "two")
        ours = {name: daemon.mount / name for name in ("one", "two", "three")}
        until(lambda: ours["two"].exists() and ours["one"].stat().st_nlink == 2, "both names are shown")
        assert ours["one"].stat().st_ino == ours["two"].stat().st_ino
        assert ours["one"].read_bytes() == ours["two"].read_bytes() == b"1" * 50_000
        with fails(errno.EOPNOTSUPP):
            os.link(ours["one"], ours["three"])

        # What others write by one name is there by the other; so is what we write, at once.
        (other / "two").write_bytes(b"2" * 60_000)
        until(lambda: ours["one"].read_bytes() == b"2" * 60_000, "the first name has the new bytes")
        until(lambda: ours["two"].read_bytes() == b"2" * 60_000, "and the second")
        with ours["one"].open("wb") as file:
            file.write(b"3" * 70_000)
            file.flush()
            assert ours["two"].read_bytes() == b"3" * 70_000
        if write == "through":
            assert ours["two"].read_bytes() == ours["one"].read_bytes() == b"3" * 70_000
            assert ours["two"].stat().st_size == 70_000
        until(lambda: ours["two"].read_bytes() == b"3" * 70_000, "the second name has ours")
        until(lambda: (other / "two").read_bytes() == b"3" * 70_000, "for all")
        assert ours["two"].stat().st_nlink == 2

        # A name that goes leaves the others.
        os.link(other / "two", other / "three")
        until(lambda: ours["two"].stat().st_nlink == 3 and ours["three"].exists(), "there are three")
        assert ours["three"].read_bytes() == b"3" * 70_000
        with ours["one"].open("rb") as file:
            ours["one"].unlink()
            assert file.read() == b"3" * 70_000
        assert ours["two"].read_bytes() == b"3" * 70_000
        assert ours["two"].stat().st_nlink == 2
        cluster.delete(f"/{top}/two")
        until(lambda: not ours["two"].exists(), "the name is gone here, too")
        assert ours["three"].read_bytes() == b"3" * 70_000
        assert ours["three"].stat().st_nlink == 1


@pytest.mark.parametrize("mode", MODES)
def test_what_ends_by_itself_is_not_served_after_its_end(base: Path, cluster: Cluster, mode: str) -> None:
    """The filer tells nobody of it, and whoever listens to it relies on being told."""
    top = f"ends-{mode}-{next(_tries)}"
    cluster.put(f"/{top}/stays", b"x" * 5000)
    with mounted(base / "own", cluster, top, mode=mode) as daemon:
        until(lambda: "tells of its changes" in daemon.log_text(), "the filer is listened to")
        now = int(time.time())
        cluster.create(f"/{top}", "ends", content=b"y" * 5000, attributes={"crtime": now, "ttl_sec": 4})
        ends = daemon.mount / "ends"
        read = 0
        while ends.exists():
            with contextlib.suppress(FileNotFoundError):
                assert ends.read_bytes() == b"y" * 5000
                read += 1
            assert time.time() < now + 34
        assert read
        assert time.time() >= now + 4
        with fails(errno.ENOENT):
            ends.read_bytes()
        assert (daemon.mount / "stays").read_bytes() == b"x" * 5000

        # Written again it lives as long again.
        now = int(time.time())
        cluster.create(f"/{top}", "again", content=b"y" * 5000, attributes={"crtime": now, "ttl_sec": 3600})
        (daemon.mount / "again").write_bytes(b"z" * 9000)
        stored = cluster.entry(f"/{top}/again").attributes
        assert (stored.ttl_sec, stored.file_size) == (3600, 9000)
        assert stored.crtime >= now


def test_files_without_attributes_are_listed_without_asking(base: Path, cluster: Cluster) -> None:
    top = f"bare-{next(_tries)}"
    for number in range(50):
        cluster.put(f"/{top}/d/f{number}", b"x")
    with (
        mounted(base / "own", cluster, top) as daemon,
        cluster.mounted(f"/{top}", base / "weed") as other,
    ):
        directory = daemon.mount / "d"
        subprocess.run(["ls", "-l", directory], check=True, stdout=subprocess.DEVNULL, timeout=60)

        def asked() -> int:
            return int(daemon.stats()["requests_total"]["python"])

        before = asked()
        subprocess.run(["ls", "-l", directory], check=True, stdout=subprocess.DEVNULL, timeout=60)
        for number in range(50):
            assert os.listxattr(directory / f"f{number}") == []
            with fails(errno.ENODATA):
                os.getxattr(directory / f"f{number}", "security.capability")
        assert asked() - before < 20
        os.setxattr(other / "d/f7", "user.theirs", b"1")
        until(lambda: os.listxattr(directory / "f7") == ["user.theirs"], "we show theirs")
        os.setxattr(directory / "f8", "user.ours", b"2")
        assert os.listxattr(directory / "f8") == ["user.ours"]
        os.removexattr(directory / "f8", "user.ours")
        assert os.listxattr(directory / "f8") == []


def test_what_has_ended_is_not_served_while_the_filer_is_away(base: Path, cluster: Cluster) -> None:
    port = cluster.filer_process("ends-away")
    now = int(time.time())
    cluster.put("/top/stays", b"x" * 5000, port=port)
    channel = grpc.insecure_channel(f"127.0.0.1:{port + 10_000}")
    cluster.create(
        "/top", "ends", content=b"y" * 5000, attributes={"crtime": now, "ttl_sec": 8}, channel=channel
    )
    channel.close()
    with mounted(base / "own", cluster, "top", "--source-wait", "0s", port=port) as daemon:
        daemon.expect_log("source does not answer|source answers again|are not told|does not tell")
        for name in ("stays", "ends"):
            assert (daemon.mount / name).stat().st_size == 5000
        assert (daemon.mount / "stays").read_bytes() == b"x" * 5000
        assert (daemon.mount / "ends").read_bytes() == b"y" * 5000
        cluster.kill("ends-away")
        until(lambda: not (daemon.mount / "ends").exists(), "its time is over")
        assert time.time() >= now + 8
        assert (daemon.mount / "stays").read_bytes() == b"x" * 5000
