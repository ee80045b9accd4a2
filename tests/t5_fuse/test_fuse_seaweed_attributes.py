"""What SeaweedFS keeps of a file besides its bytes, through a mount and beside ``weed mount``: extended
attributes."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from support.mount import Daemon
from support.posix import fails
from support.seaweed import Cluster, wait_until

until = partial(wait_until, seconds=30.0)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


def mounted(base: Path, cluster: Cluster, below: str, *options: str) -> Daemon:
    base.mkdir(exist_ok=True)
    url = f"seaweedfs://127.0.0.1:{cluster.filer}/{below}"
    return Daemon(base, "passthrough", source=None, options=["--source", url, *options])


def xattrs(path: Path) -> dict[str, bytes]:
    """All, but for what ``weed mount`` shows of how a file was written by swmld."""
    return {name: os.getxattr(path, name) for name in os.listxattr(path) if "swmld" not in name}


@pytest.mark.parametrize("write", ["through", "back"])
def test_extended_attributes_are_those_of_weed_mount(base: Path, cluster: Cluster, write: str) -> None:
    top = f"xattr-{write}"
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
