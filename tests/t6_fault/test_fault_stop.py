"""Starting, stopping and being stopped: in place, with files open, from outside, with few descriptors."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import posix
from support.compare import describe
from support.mount import Daemon
from support.posix import Child, fails
from support.slowfs import SlowFs

READY = 1.5  # seconds, the promise
SLACK = 3.0  # times longer on a machine that runs other tests as well; the benchmark measures it alone


def ended(daemon: Daemon, timeout: float = 20.0) -> int:
    """Wait for the process to end by itself; its exit code."""
    assert daemon.process is not None
    return daemon.process.wait(timeout)


def forget(daemon: Daemon) -> None:
    """The process has ended as the test wanted: leaving the block must not ask it to."""
    daemon.kill9()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_unmount(daemon: Callable[..., Daemon], number: signal.Signals) -> None:
    one = daemon()
    (one.source / "name").write_bytes(b"x")
    assert (one.mount / "name").read_bytes() == b"x"
    os.kill(one.pid, number)
    assert ended(one) == 0
    assert str(one.mount) not in posix.mounts()
    assert os.listdir(one.mount) == []
    forget(one)


@pytest.mark.alone
def test_start_is_quick(daemon: Callable[..., Daemon]) -> None:
    one = daemon()
    assert one.restart() < READY * SLACK


def test_in_place(daemon: Callable[..., Daemon], base: Path) -> None:
    """Without --source the mount covers its own directory, and gives it back as it was."""
    top = base / "data"
    (top / "dir").mkdir(parents=True)
    (top / "dir" / "name").write_bytes(b"x" * 100_000)
    (top / "link").symlink_to("dir/name")
    os.utime(top, ns=(10**18, 10**18))
    before, inode = describe(top), top.stat().st_ino
    one = daemon(mount=top, source=None)
    assert describe(top) == before
    assert describe(top) == before
    assert top.stat().st_ino == inode
    one.restart()
    assert describe(top) == before
    one.stop()
    assert describe(top) == before
    assert top.stat().st_mtime_ns == 10**18
    one.start()
    (top / "dir" / "new").write_bytes(b"through the mount")
    one.kill9()
    with fails(*posix.GONE):
        os.listdir(top)
    one.start()
    assert (top / "dir" / "new").read_bytes() == b"through the mount"
    one.stop()
    assert (top / "dir" / "new").read_bytes() == b"through the mount"


def test_in_place_over_a_mount(daemon: Callable[..., Daemon], base: Path) -> None:
    """What is mounted there already, a network file system as a rule, is served and comes back."""
    (base / "backing").mkdir()
    (base / "backing" / "name").write_bytes(b"remote")
    with SlowFs(base, base / "backing") as slow:
        one = daemon(mount=slow.path, source=None)
        assert posix.mounts()[str(slow.path)] == "fuse.swmld"
        assert (slow.path / "name").read_bytes() == b"remote"
        one.stop()
        assert posix.mounts()[str(slow.path)] != "fuse.swmld"
        assert (slow.path / "name").read_bytes() == b"remote"


def test_stop_with_open_files(daemon: Callable[..., Daemon]) -> None:
    """SIGTERM does not wait for a job to close its files, nor for a working directory, for ever."""
    one = daemon(expect_log=["told twice"])
    (one.source / "name").write_bytes(b"x" * 100_000)
    (one.source / "dir").mkdir()

    def hold() -> None:
        os.chdir(one.mount / "dir")
        with (one.mount / "name").open("rb") as file:
            file.read(10)
            signal.pause()

    holder = Child(hold)
    writer = os.open(one.mount / "written", os.O_CREAT | os.O_WRONLY)
    os.write(writer, b"acknowledged")
    time.sleep(0.1)
    os.kill(one.pid, signal.SIGTERM)
    time.sleep(0.5)
    if one.alive:  # it may wait for open files; a second signal means now
        os.kill(one.pid, signal.SIGTERM)
    ended(one, 15)
    assert str(one.mount) not in posix.mounts()
    assert (one.source / "written").read_bytes() == b"acknowledged"
    holder.kill()
    close_on_a_mount_that_is_gone(writer)
    forget(one)


def close_on_a_mount_that_is_gone(fd: int) -> None:
    """It may report so; the descriptor is gone either way."""
    try:
        os.close(fd)
    except OSError as error:
        assert error.errno in (*posix.GONE, errno.EIO)  # noqa: PT017


def test_second_signal_forces(daemon: Callable[..., Daemon], base: Path) -> None:
    """Even while the source hangs and readers wait."""
    (base / "backing").mkdir()
    (base / "backing" / "name").write_bytes(b"x" * 1_000_000)
    with SlowFs(base, base / "backing") as slow:
        one = daemon(source=slow.path, expect_log=["."])
        (one.mount / "name").stat()
        slow.set("hang")
        reader = Child((one.mount / "name").read_bytes)
        time.sleep(0.3)
        os.kill(one.pid, signal.SIGTERM)
        time.sleep(0.3)
        if one.alive:
            os.kill(one.pid, signal.SIGTERM)
        ended(one, 15)
        assert str(one.mount) not in posix.mounts()
        reader.kill()
        forget(one)


def test_unmounted_from_outside(daemon: Callable[..., Daemon]) -> None:
    one = daemon(expect_log=["unmount"])
    (one.source / "name").write_bytes(b"x")
    assert (one.mount / "name").read_bytes() == b"x"
    posix.umount(one.mount, 0)
    assert ended(one) == 0
    forget(one)


def test_few_descriptors(daemon: Callable[..., Daemon]) -> None:
    """At the limit an open fails or waits; the daemon lives, and works again afterwards."""
    limit = 160
    one = daemon(
        wrap=["prlimit", f"--nofile={limit}:{limit}"], options=["--chunk-size", "64KiB"], expect_log=["."]
    )
    for number in range(400):
        (one.source / f"{number}").write_bytes(b"%d" % number * 40_000)
    fds: list[int] = []
    refused = 0
    for number in range(400):
        try:
            fds.append(os.open(one.mount / f"{number}", os.O_RDWR if number % 2 else os.O_RDONLY))
        except OSError as error:
            assert error.errno in (errno.EMFILE, errno.ENFILE, errno.EIO)  # noqa: PT017
            refused += 1
    assert len(fds) > 20
    for fd in fds[:50]:
        assert os.pread(fd, 1, 0).isdigit()
    for fd in fds:
        os.close(fd)
    time.sleep(0.1)
    for number in range(400):
        assert (one.mount / f"{number}").read_bytes() == b"%d" % number * 40_000
    assert one.metrics()


def test_read_only(daemon: Callable[..., Daemon]) -> None:
    one = daemon(options=["--read-only"])
    (one.source / "name").write_bytes(b"content")
    (one.source / "dir").mkdir()
    assert (one.mount / "name").read_bytes() == b"content"
    for work in (
        lambda: (one.mount / "name").write_bytes(b"x"),
        lambda: (one.mount / "new").touch(),
        lambda: (one.mount / "name").unlink(),
        lambda: (one.mount / "dir").rmdir(),
        lambda: (one.mount / "new").mkdir(),
        lambda: (one.mount / "name").rename(one.mount / "other"),
        lambda: os.link(one.mount / "name", one.mount / "other"),
        lambda: (one.mount / "new").symlink_to("x"),
        lambda: (one.mount / "name").chmod(0o600),
        lambda: os.chown(one.mount / "name", 1, 1),
        lambda: os.utime(one.mount / "name"),
        lambda: os.truncate(one.mount / "name", 0),
        lambda: os.setxattr(one.mount / "name", "user.a", b""),
        lambda: os.mkfifo(one.mount / "new"),
    ):
        with fails(errno.EROFS):
            work()
    assert (one.source / "name").read_bytes() == b"content"
    assert sorted(os.listdir(one.source)) == ["dir", "name"]


# Before a file is served in one way or another.
@pytest.mark.parametrize("daemon_mode", ["passthrough"], indirect=True)
def test_logs_and_sockets_are_roots(daemon: Callable[..., Daemon]) -> None:
    one = daemon()
    assert one.run_dir.stat().st_mode & 0o777 == 0o700
    sockets = list(one.run_dir.glob("*.sock"))
    assert [path.stat().st_mode & 0o777 for path in sockets] == [0o600]
    assert one.cache.stat().st_mode & 0o077 == 0
    one.stop()
    assert list(one.run_dir.glob("*.sock")) == []


def test_secret_files_stay_secret_in_the_cache(daemon: Callable[..., Daemon]) -> None:
    """What only its owner may read at the source cannot be read by others in the cache directory."""
    one = daemon()
    (one.source / "secret").write_bytes(b"secret" * 1_000)
    (one.source / "secret").chmod(0o600)
    time.sleep(0.1)
    assert (one.mount / "secret").read_bytes() == b"secret" * 1_000
    with fails(errno.EACCES):
        posix.run((one.mount / "secret").read_bytes, posix.ALICE)
    with fails(errno.EACCES):
        posix.run(lambda: os.listdir(one.cache / "data"), posix.ALICE)
