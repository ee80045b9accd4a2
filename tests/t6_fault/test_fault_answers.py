"""What a remote source answers that it should not, through a mount: right bytes or an error, one line of the
log, one metric, and all is well afterwards."""

from __future__ import annotations

import errno
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import posix
from support.mount import Daemon, swmld
from support.posix import fails
from support.seaweed import Cluster
from support.waiting import until
from support.webfiles import Fault, WebFiles

SIZE = 300_000
DATA = random.Random(1).randbytes(SIZE)


@pytest.fixture
def web(base: Path) -> Iterator[WebFiles]:
    (base / "site").mkdir()
    with WebFiles(base / "site") as web:
        yield web


def mounted(base: Path, url: str, *options: str) -> Daemon:
    (base / "own").mkdir()
    return Daemon(base / "own", "passthrough", source=None, options=["--source", url, *options])


def counted(daemon: Daemon, outcome: str) -> float:
    return daemon.metric("swmld_source_calls_total", call="read", outcome=outcome)


def told(daemon: Daemon, outcome: str) -> int:
    return len(re.findall(rf"read of 'file' at the source: {outcome}", daemon.log_text()))


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (Fault(429, {"Retry-After": "1"}), "busy"),
        (Fault(503, {"Retry-After": "1"}), "busy"),
        (Fault(500), "error"),
        (Fault(cut=0), "error"),
        (Fault(cut=100_000), "error"),
        (Fault(short=100_000), "error"),
    ],
    ids=["429", "503", "500", "no-body", "truncated", "wrong-length"],
)
def test_what_passes_is_asked_for_again(base: Path, web: WebFiles, fault: Fault, outcome: str) -> None:
    (web.root / "file").write_bytes(DATA)
    with mounted(base, web.url) as daemon:
        web.faults.append(fault)
        began = time.monotonic()
        assert (daemon.mount / "file").read_bytes() == DATA
        assert time.monotonic() - began >= float(fault.headers.get("Retry-After", 0))
        assert not web.faults
        assert counted(daemon, outcome) == told(daemon, outcome) == 1
        assert daemon.metric("swmld_source_retries_total") == 1


@pytest.mark.parametrize(
    ("fault", "outcome", "code"),
    [
        (Fault(403), "denied", errno.EACCES),
        (Fault(503), "busy", errno.EIO),
        (Fault(cut=100_000), "error", errno.EIO),
        (Fault(short=100_000), "error", errno.EIO),
    ],
    ids=["403", "503", "truncated", "wrong-length"],
)
def test_what_goes_on_is_an_error_and_then_is_well(
    base: Path, web: WebFiles, fault: Fault, outcome: str, code: int
) -> None:
    (web.root / "file").write_bytes(DATA)
    with mounted(base, web.url, "--source-wait", "0s") as daemon:
        web.faults.extend([fault] * 100)
        with fails(code):
            (daemon.mount / "file").read_bytes()
        assert counted(daemon, outcome) >= 1
        assert told(daemon, outcome) == 1
        web.faults.clear()
        assert (daemon.mount / "file").read_bytes() == DATA


def test_a_slow_server_is_waited_for(base: Path, web: WebFiles) -> None:
    (web.root / "file").write_bytes(DATA)
    with mounted(base, web.url) as daemon:
        web.faults.append(Fault(drip=0.3))
        assert (daemon.mount / "file").read_bytes() == DATA
        assert counted(daemon, "answered") >= 1


def test_a_file_that_goes_between_list_and_read(base: Path, web: WebFiles) -> None:
    (web.root / "file").write_bytes(DATA)
    with mounted(base, web.url, "--check-interval", "1h", "--metadata-timeout", "1h") as daemon:
        assert os.listdir(daemon.mount) == ["file"]
        (web.root / "file").unlink()
        with fails(errno.ENOENT):
            (daemon.mount / "file").read_bytes()
        assert counted(daemon, "absent") + counted(daemon, "stale") >= 1
        (web.root / "file").write_bytes(DATA[::-1])
        until(lambda: _read(daemon.mount / "file") == DATA[::-1], "it is there again", 30)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def served(base: Path, url: str) -> subprocess.CompletedProcess[str]:
    (base / "mnt").mkdir()
    options = ["--cache-dir", base / "cache", "--source-wait", "0s"]
    return swmld("--mount", base / "mnt", "--source", url, *options)


@pytest.mark.parametrize("scheme", ["https", "seaweedfs+https"])
def test_who_speaks_no_tls_is_not_served(base: Path, web: WebFiles, scheme: str) -> None:
    url = web.url.replace("http", scheme, 1)
    done = served(base, url)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "TLS" in done.stderr or "SSL" in done.stderr


@pytest.mark.parametrize("url", ["http://nowhere.invalid/", "seaweedfs://nowhere.invalid:8888/"])
def test_a_name_that_nobody_has(base: Path, url: str) -> None:
    done = served(base, url)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "nowhere.invalid" in done.stderr


@pytest.fixture
def secure(base: Path) -> Iterator[WebFiles]:
    """With a certificate for each of two authorities."""
    (base / "site").mkdir()
    web = WebFiles(base / "site")
    web.tls = base / "trusted"
    for name in ("trusted", "other"):
        (base / name).mkdir()
    with web:
        yield web


def put(web: WebFiles, *names: str) -> None:
    """Files that are older than what may still change within a tick of the server's clock."""
    for name in names:
        (web.root / name).write_bytes(DATA)
        os.utime(web.root / name, (1_700_000_000, 1_700_000_000))


def speaks(web: WebFiles, tls: Path) -> None:
    """It starts again, with a new certificate that the authority in ``tls`` has signed."""
    with web.away():
        web.tls = tls


def test_a_certificate_that_is_not_trusted_any_more(base: Path, secure: WebFiles) -> None:
    (base / "kept").mkdir()
    put(secure, "file", "cached")
    trusted = base / "kept" / "ca.pem"
    trusted.write_bytes((base / "trusted" / "ca.pem").read_bytes())
    options = ["--source-wait", "0s", "--check-interval", "1h", "--neighbours", "off"]
    with mounted(base, f"{secure.url}?ca={trusted}", *options) as daemon:
        daemon.expect_log("does not answer|answers again")
        assert (daemon.mount / "cached").read_bytes() == DATA
        assert sorted(os.listdir(daemon.mount)) == ["cached", "file"]
        speaks(secure, base / "other")
        for name in ("file", "no such", "file", "nor such"):
            with pytest.raises(OSError):
                (daemon.mount / name).read_bytes()
        assert (daemon.mount / "cached").read_bytes() == DATA
        assert said(daemon, "CERTIFICATE_VERIFY_FAILED") == [2, 1], "a read, a look-up, and the mount"
        assert daemon.metric("swmld_source_calls_total", outcome="unreachable") >= 1
        speaks(secure, base / "trusted")
        until(lambda: _read(daemon.mount / "file") == DATA, "it is read again", 30)
        assert said(daemon, "source answers again") == [0, 1]


def said(daemon: Daemon, text: str) -> list[int]:
    """How many lines of the log say so, those of calls of the source and those of the mount."""
    lines = [line for line in daemon.log_text().splitlines() if text in line]
    counts = [len([line for line in lines if room in line]) for room in ("sources.counting", "mount.gate")]
    assert sum(counts) == len(lines), daemon.log_text()
    return counts


RESOLVER = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <unistd.h>

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **res)
{
	int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
		dlsym(RTLD_NEXT, "getaddrinfo");

	return access(getenv("NO_NAMES"), F_OK) ? real(node, service, hints, res) : EAI_AGAIN;
}
"""


def test_names_that_are_not_resolved_for_a_while(base: Path, web: WebFiles) -> None:
    """The daemon's C library fails to, as it does without its DNS servers."""
    put(web, "file", "later", "cached")
    (base / "resolver.c").write_text(RESOLVER)
    shim, gone = base / "resolver.so", base / "no-names"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", shim, base / "resolver.c", "-ldl"], check=True)
    (base / "own").mkdir()
    url = web.url.replace("127.0.0.1", "localhost")
    options = ["--source", url, "--source-wait", "0s", "--check-interval", "1h", "--neighbours", "off"]
    wrap = ["env", f"LD_PRELOAD={shim}", f"NO_NAMES={gone}"]
    with Daemon(base / "own", "passthrough", source=None, options=options, wrap=wrap) as daemon:
        daemon.expect_log("does not answer|answers again")
        assert (daemon.mount / "cached").read_bytes() == DATA
        assert len(os.listdir(daemon.mount)) == 3
        gone.touch()
        with web.away():
            pass  # connections that were kept are gone
        for name in ("file", "no such", "file", "nor such"):
            with pytest.raises(OSError):
                (daemon.mount / name).read_bytes()
        assert (daemon.mount / "cached").read_bytes() == DATA
        assert said(daemon, "name resolution") == [2, 1], "a read, a look-up, and the mount"
        assert daemon.metric("swmld_source_calls_total", outcome="unreachable") >= 1
        gone.unlink()
        until(lambda: _read(daemon.mount / "file") == DATA, "it is read again", 30)
        assert said(daemon, "source answers again") == [0, 1]
        assert (daemon.mount / "later").read_bytes() == DATA


@pytest.mark.parametrize("remote", [True, False])
def test_a_core_dump_has_no_credentials(base: Path, web: WebFiles, remote: bool) -> None:
    """There is none where there are credentials; elsewhere it is the administrator's business."""
    with Path("/proc/sys/kernel/core_pattern").open() as file:
        if file.read(1) == "|":
            pytest.skip("core dumps go to a program")
    (web.root / "file").write_bytes(DATA)
    (base / "own").mkdir()
    options = ["--source", web.url] if remote else []
    where = {"source": None} if remote else {}
    # Whoever runs the tests in the background may have it ignored.
    wrap = ["env", "--default-signal=QUIT", "prlimit", "--core=unlimited"]
    daemon = Daemon(base / "own", options=options, wrap=wrap, **where)  # type: ignore[arg-type]
    here = Path.cwd()
    os.chdir(base)
    try:
        with daemon:
            os.listdir(daemon.mount)
            os.kill(daemon.pid, signal.SIGQUIT)
            ended = os.waitid(os.P_PID, daemon.pid, os.WEXITED | os.WNOWAIT)
            assert ended is not None
            assert ended.si_code == (os.CLD_KILLED if remote else os.CLD_DUMPED)
            assert bool(list(base.glob("core*"))) is not remote
            daemon.kill9()
            posix.umount(daemon.mount)
            daemon.start()
    finally:
        os.chdir(here)


def test_clocks_that_are_apart(base: Path) -> None:
    """Whoever stored a file may have a clock of another day: generations are told all the same."""
    with Cluster() as cluster:
        cluster.put("/skew/.made", b"")
        with mounted(base, f"seaweedfs://127.0.0.1:{cluster.filer}/skew") as daemon:
            until(lambda: "tells of its changes" in daemon.log_text(), "the filer is listened to", 30)
            for ahead in (86_400, -86_400):
                name = f"by {ahead}"
                at = int(time.time()) + ahead
                times = {"mtime": at, "crtime": at, "ctime": at}
                for body in (b"1" * 5000, b"2" * 5000, b"3" * 5000):
                    if body[:1] != b"1":
                        cluster.call("DeleteEntry", directory="/skew", name=name, is_delete_data=True)
                    cluster.create("/skew", name, content=body, attributes=times)
                    until(lambda b=body, n=name: _read(daemon.mount / n) == b, "it is shown", 30)  # type: ignore[misc]
                assert (daemon.mount / name).stat().st_mtime == at
                (daemon.mount / name).write_bytes(b"ours")
                assert cluster.entry(f"/skew/{name}").content == b"ours"
