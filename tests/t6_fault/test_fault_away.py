"""A SeaweedFS filer that is away for a moment, or whose name or certificate is not right any more, while many
read through a mount."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.mount import Daemon
from support.posix import fails
from support.seaweed import Cluster
from support.waiting import until
from support.webservers import certificate
from swmld.sources.interface import LISTED

pytestmark = pytest.mark.timeout(240)

READERS = 120


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


def content(name: str, size: int) -> bytes:
    return random.Random(name).randbytes(size)


@contextlib.contextmanager
def mounted(base: Path, url: str, wait: str, *options: str, wrap: Sequence[str] = ()) -> Iterator[Daemon]:
    """``wait``: of ``--source-wait``. The source may be said to be away."""
    (base / "own").mkdir()
    given = ["--source", url, "--source-wait", wait, *options]
    with Daemon(base / "own", "passthrough", source=None, options=given, wrap=wrap) as daemon:
        daemon.expect_log("source does not answer|source answers again|are not told|does not tell")
        yield daemon


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_nobody_notices_a_filer_that_is_started_again(base: Path, cluster: Cluster) -> None:
    """More than there are threads ask for what nobody knows meanwhile; what is known is not waited for."""
    port = cluster.filer_process(fresh := f"again-{time.monotonic_ns()}")
    names = [f"file{number:03}" for number in range(READERS)]
    for name in ("kept", *names):
        cluster.put(f"/again/{name}", content(name, 5000), port=port)
    with mounted(base, f"seaweedfs://127.0.0.1:{port}/again", "300s", "--neighbours", "off") as daemon:
        assert (daemon.mount / "kept").read_bytes() == content("kept", 5000)
        cluster.kill(fresh)
        with ThreadPoolExecutor(READERS) as pool:
            found = [pool.submit((daemon.mount / name).read_bytes) for name in names]
            until(lambda: "source does not answer" in daemon.log_text(), "it is seen to be away")
            assert (daemon.mount / "kept").read_bytes() == content("kept", 5000)
            assert not any(each.done() for each in found)
            cluster.filer_process(fresh, port=port)
            for name, each in zip(names, found, strict=True):
                assert each.result() == content(name, 5000), name


def test_a_filer_that_is_away_for_longer_is_an_error(base: Path, cluster: Cluster) -> None:
    port = cluster.filer_process(fresh := f"longer-{time.monotonic_ns()}")
    cluster.put("/longer/file", b"1" * 5000, port=port)
    with mounted(base, f"seaweedfs://127.0.0.1:{port}/longer", "1s") as daemon:
        cluster.kill(fresh)
        with fails(errno.EIO):
            (daemon.mount / "never seen").stat()
        with fails(errno.EIO):
            (daemon.mount / "nor this").stat()
        cluster.filer_process(fresh, port=port)
        until(lambda: _read(daemon.mount / "file") == b"1" * 5000, "it is back")


MANY = [f"f{number:06d}" for number in range(2 * LISTED)]
"""A first page of a listing, and some of the next."""


def _rest(entries: Iterator[os.DirEntry[str]]) -> list[str]:
    return [entry.name for entry in entries]


def test_a_listing_goes_on_when_its_filer_is_started_again(base: Path, cluster: Cluster) -> None:
    port = cluster.filer_process(fresh := f"listed-{time.monotonic_ns()}")
    cluster.fill("/listed", MANY, port=port)
    with (
        mounted(base, f"seaweedfs://127.0.0.1:{port}/listed", "300s") as daemon,
        os.scandir(daemon.mount) as entries,
        ThreadPoolExecutor(1) as pool,
    ):
        found = [next(entries).name]
        cluster.kill(fresh)
        rest = pool.submit(_rest, entries)
        until(lambda: daemon.metric("swmld_source_retries_total") > 0, "the next page is asked for again")
        assert not rest.done()
        cluster.filer_process(fresh, port=port)
        assert found + rest.result() == MANY


def test_a_listing_that_cannot_go_on_is_an_error(base: Path, cluster: Cluster) -> None:
    port = cluster.filer_process(fresh := f"cut-{time.monotonic_ns()}")
    cluster.fill("/cut", MANY, port=port)
    with mounted(base, f"seaweedfs://127.0.0.1:{port}/cut", "1s") as daemon:
        with os.scandir(daemon.mount) as entries:
            next(entries)
            cluster.kill(fresh)
            with fails(errno.EIO):
                _rest(entries)
        cluster.filer_process(fresh, port=port)
        until(lambda: _names(daemon.mount) == MANY, "it is back, and all of it is listed")


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


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


def test_a_filers_name_that_is_not_resolved_for_a_while(base: Path, cluster: Cluster) -> None:
    port = cluster.filer_process(fresh := f"named-{time.monotonic_ns()}")
    for name in ("cached", "file"):
        cluster.put(f"/named/d/{name}", content(name, 110_000), port=port)
    (base / "resolver.c").write_text(RESOLVER)
    shim, gone = base / "resolver.so", base / "no-names"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", shim, base / "resolver.c", "-ldl"], check=True)
    url = f"seaweedfs://localhost:{port}/named"
    wrap = ["env", f"LD_PRELOAD={shim}", f"NO_NAMES={gone}"]
    with mounted(base, url, "0s", "--neighbours", "off", wrap=wrap) as daemon:
        files = daemon.mount / "d"
        assert (files / "cached").read_bytes() == content("cached", 110_000)
        gone.touch()
        cluster.kill(fresh)  # connections that were kept are gone
        cluster.filer_process(fresh, port=port)
        for name in ("no such", "nor such"):
            with fails(errno.EIO):
                (files / name).stat()
        assert (files / "cached").read_bytes() == content("cached", 110_000)
        assert "name resolution" in daemon.log_text()
        assert daemon.metric("swmld_source_calls_total", outcome="unreachable") >= 1
        gone.unlink()
        until(lambda: _read(files / "file") == content("file", 110_000), "it is read again")
        with fails(errno.ENOENT):
            (files / "no such").stat()


def test_a_filers_certificate_that_is_not_trusted_any_more(base: Path) -> None:
    """All of a cluster by TLS, and its filer with another authority's certificate for a while."""
    for name in ("trusted", "other", "used"):
        (base / name).mkdir()
    for name in ("trusted", "other"):
        certificate(base / name)
    used = base / "used"
    kept = base / "ca.pem"
    shutil.copy(base / "trusted" / "ca.pem", kept)

    def speaks(name: str) -> None:
        for file in ("own.pem", "own.key"):
            shutil.copy(base / name / file, used / file)

    speaks("trusted")
    settings = {
        "WEED_HTTPS_FILER_CERT": str(used / "own.pem"),
        "WEED_HTTPS_FILER_KEY": str(used / "own.key"),
        "WEED_HTTPS_FILER_DISABLE_TLS_VERIFY_CLIENT_CERT": "true",
        "WEED_HTTPS_VOLUME_CERT": str(base / "trusted" / "own.pem"),
        "WEED_HTTPS_VOLUME_KEY": str(base / "trusted" / "own.key"),
        "WEED_HTTPS_CLIENT_ENABLED": "true",
        "WEED_HTTPS_CLIENT_CA": str(kept),
    }
    with Cluster(settings=settings, ca=kept) as cluster:
        port = cluster.filer_process("secure")
        for name in ("cached", "file"):
            cluster.put(f"/tls/d/{name}", content(name, 110_000), port=port)
        url = f"seaweedfs+https://127.0.0.1:{port}/tls?ca={kept}"
        with mounted(base, url, "0s", "--neighbours", "off") as daemon:
            files = daemon.mount / "d"
            assert (files / "cached").read_bytes() == content("cached", 110_000)
            cluster.kill("secure")
            speaks("other")
            cluster.filer_process("secure", port=port, ca=base / "other" / "ca.pem")
            for name in ("no such", "nor such"):
                with fails(errno.EIO):
                    (files / name).stat()
            assert (files / "cached").read_bytes() == content("cached", 110_000)
            assert "CERTIFICATE_VERIFY_FAILED" in daemon.log_text()
            assert daemon.metric("swmld_source_calls_total", outcome="unreachable") >= 1
            cluster.kill("secure")
            speaks("trusted")
            cluster.filer_process("secure", port=port)
            until(lambda: _read(files / "file") == content("file", 110_000), "it is read again")
