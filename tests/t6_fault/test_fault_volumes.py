"""What a volume server of SeaweedFS answers that it should not, through a mount: right bytes or an error, one
line of the log, one metric, and all is well afterwards without another mount."""

from __future__ import annotations

import errno
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.mount import Daemon
from support.posix import fails
from support.seaweed import Cluster
from support.seaweed_line import Fault, Line
from support.waiting import until

pytestmark = pytest.mark.timeout(180)

SIZES = {"together": 110_000, "alone": 3 << 20}
"""Of files that are fetched by C, and by Python."""


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with Cluster(lined=True) as cluster:
        yield cluster


@pytest.fixture
def cluster(running: Cluster) -> Iterator[Cluster]:
    running.lines[0].heal()
    yield running
    running.lines[0].heal()


@pytest.fixture
def line(cluster: Cluster) -> Line:
    return cluster.lines[0]


def content(name: str, size: int) -> bytes:
    return random.Random(name).randbytes(size)


def mounted(base: Path, cluster: Cluster, *options: str) -> Daemon:
    """Of a directory of the test's own, where files are put by ``put``."""
    (base / "own").mkdir()
    cluster.put(f"/{base.name}/.made", b"")
    url = f"seaweedfs://127.0.0.1:{cluster.filer}/{base.name}"
    return Daemon(
        base / "own", "passthrough", source=None, options=["--source", url, "--neighbours", "off", *options]
    )


def put(base: Path, cluster: Cluster, name: str, size: int) -> bytes:
    body = content(f"{base.name}{name}", size)
    cluster.put(f"/{base.name}/{name}", body)
    return body


def told(daemon: Daemon) -> list[str]:
    """The lines of the log about answers of volume servers."""
    said = re.compile(r"(volume server|read of '\w+' at) 127\.0\.0\.2:")
    return [line for line in daemon.log_text().splitlines() if said.search(line)]


@pytest.mark.parametrize("way", SIZES)
@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (Fault(429, {"Retry-After": "1"}), "busy"),
        (Fault(503, {"Retry-After": "1"}), "busy"),
        (Fault(500), "error"),
        (Fault(403), "denied"),
        (Fault(404), "absent"),
        (Fault(cut=0), "error"),
        (Fault(cut=50_000), "error"),
        (Fault(short=50_000), "error"),
        (Fault(flips=True), "error"),
    ],
    ids=["429", "503", "500", "403", "404", "no-body", "truncated", "wrong-length", "wrong-checksum"],
)
def test_one_bad_answer_is_made_up_for(
    base: Path, cluster: Cluster, line: Line, fault: Fault, outcome: str, way: str
) -> None:
    body = put(base, cluster, "file", SIZES[way])
    with mounted(base, cluster, "--source-wait", "0s") as daemon:
        daemon.expect_log("not the bytes of its checksum|servers refuse")
        line.faults.append(fault)
        assert (daemon.mount / "file").read_bytes() == body
        assert line.met == 1
        assert daemon.metric("swmld_source_failovers_total") == 1
        assert daemon.metric("swmld_source_failovers_total", outcome=outcome) == 1
        lines = told(daemon) + re.findall("volume servers refuse", daemon.log_text())
        assert len(lines) == (outcome != "absent"), daemon.log_text()
        # What is on no server is an error at once, and the fetch tries it once more.
        lost = outcome == "absent" and way == "alone"
        assert daemon.metric("swmld_source_errors_total") == lost


@pytest.mark.parametrize("way", SIZES)
@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (Fault(503, {"Retry-After": "60"}), "busy"),
        (Fault(500), "error"),
        (Fault(cut=50_000), "error"),
        (Fault(short=50_000), "error"),
        (Fault(flips=True), "error"),
        (Fault(hangs_up=True), "unreachable"),
    ],
    ids=["503", "500", "truncated", "wrong-length", "wrong-checksum", "hung-up"],
)
def test_bad_answers_that_go_on(
    base: Path, cluster: Cluster, line: Line, fault: Fault, outcome: str, way: str
) -> None:
    """The filer gives what it does not; where the filer meets the same it is an error."""
    bodies = {name: put(base, cluster, name, SIZES[way]) for name in ("one", "two", "three", "four")}
    with mounted(base, cluster, "--source-wait", "0s") as daemon:
        daemon.expect_log("checksum|does not answer|through the filer|answers again")
        line.always = fault
        for name in ("one", "two"):
            assert (daemon.mount / name).read_bytes() == bodies[name]
        assert line.met >= 1
        assert daemon.metric("swmld_source_failovers_total", outcome=outcome) == line.met
        assert 1 <= len(told(daemon)) <= 2, "of the one file, and of the server"
        line.for_all = True
        with fails(errno.EIO):
            (daemon.mount / "three").read_bytes()
        assert daemon.metric("swmld_source_errors_total") >= 1
        assert len(re.findall("read of 'three' at the source", daemon.log_text())) == 1
        line.heal()
        until(lambda: _read(daemon.mount / "three") == bodies["three"], "it is read again")
        assert (daemon.mount / "four").read_bytes() == bodies["four"]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_server_that_asks_for_a_pause_is_left_alone(base: Path, cluster: Cluster, line: Line) -> None:
    names = [f"file{number}" for number in range(6)]
    bodies = {name: put(base, cluster, name, SIZES["together"]) for name in names}
    with mounted(base, cluster) as daemon:
        line.always = Fault(429, {"Retry-After": "50"})
        asked = line.asked
        for name in names:
            assert (daemon.mount / name).read_bytes() == bodies[name]
        assert line.asked - asked == 2, "once by C, once by Python, and then no more"


@pytest.mark.parametrize("way", SIZES)
def test_a_file_that_goes_between_list_and_read(base: Path, cluster: Cluster, line: Line, way: str) -> None:
    put(base, cluster, "file", SIZES[way])
    with mounted(base, cluster) as daemon:
        assert "file" in os.listdir(daemon.mount)
        gone = iter([True])

        def goes() -> None:
            if next(gone, False):
                fids = cluster.fids(f"/{base.name}/file")
                cluster.delete(f"/{base.name}/file")
                for fid in fids:
                    cluster.remove_needle(fid)

        line.before = goes
        with pytest.raises(OSError) as caught:
            (daemon.mount / "file").read_bytes()
        assert caught.value.errno in (errno.ENOENT, errno.ESTALE)
        assert daemon.metric("swmld_source_calls_total", call="read", outcome="stale") >= 1
        again = put(base, cluster, "file", SIZES[way] + 1)
        until(lambda: _read(daemon.mount / "file") == again, "the new one is there")


def test_a_chunk_that_is_lost_while_its_file_is_there(base: Path, cluster: Cluster) -> None:
    bodies = {name: put(base, cluster, name, 110_000) for name in ("lost", "kept")}
    with mounted(base, cluster, "--source-wait", "0s") as daemon:
        for fid in cluster.fids(f"/{base.name}/lost"):
            cluster.remove_needle(fid)
        with fails(errno.EIO):
            (daemon.mount / "lost").read_bytes()
        assert len(re.findall("read of 'lost' at the source: error", daemon.log_text())) == 1
        assert daemon.metric("swmld_source_calls_total", call="read", outcome="error") >= 1
        assert (daemon.mount / "kept").read_bytes() == bodies["kept"]
