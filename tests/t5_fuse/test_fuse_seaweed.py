"""A mount of a real SeaweedFS cluster: its bytes, its changes, and its filer that dies."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import pytest
from support.mount import MODES, Daemon
from support.posix import fails
from support.seaweed import SYMLINK, Cluster
from support.waiting import until

MIB = 1 << 20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster of this module's own: its filer is killed."""
    with Cluster() as cluster:
        yield cluster


def mounted(base: Path, port: int, below: str, mode: str = "passthrough", *options: str) -> Daemon:
    base.mkdir(exist_ok=True)
    url = f"seaweedfs://127.0.0.1:{port}/{below}"
    return Daemon(base, mode, source=None, options=["--source", url, *options])


def content(name: str, size: int) -> bytes:
    return random.Random(name).randbytes(size)


@pytest.mark.parametrize("mode", MODES)
def test_bytes_and_changes(base: Path, cluster: Cluster, mode: str) -> None:
    sizes = {"empty": 0, "small": 3000, "image": 110_000, "large": 9 * MIB + 5}
    for name, size in sizes.items():
        cluster.put(f"/{mode}/d/{name}", content(name, size))
    with mounted(base / "own", cluster.filer, mode, mode) as daemon:
        files = daemon.mount / "d"
        until(lambda: "tells of its changes" in daemon.log_text(), "the filer is listened to")
        assert sorted(os.listdir(files)) == sorted(sizes)
        for _ in range(2):
            for name, size in sizes.items():
                assert (files / name).read_bytes() == content(name, size), name
                assert (files / name).stat().st_size == size
        with fails(errno.ENOENT):
            (files / "new").stat()
        held = (files / "large").open("rb")
        start = held.read(100)
        cluster.put(f"/{mode}/d/new", b"made")
        cluster.put(f"/{mode}/d/small", content("other", 3000))
        cluster.put(f"/{mode}/d/large", content("longer", 10 * MIB))
        cluster.delete(f"/{mode}/d/image")
        until(lambda: (files / "new").exists() and (files / "new").read_bytes() == b"made", "a new file")
        until(lambda: (files / "small").read_bytes() == content("other", 3000), "a changed file")
        until(lambda: (files / "large").read_bytes() == content("longer", 10 * MIB), "a large one")
        until(lambda: not (files / "image").exists(), "a file that is gone")
        with held, contextlib.suppress(OSError):  # of the generation that it was opened with, or ESTALE
            assert start + held.read() == content("large", 9 * MIB + 5)


READ_ALL = """
import hashlib, sys, pathlib
for name in sys.argv[2:]:
    print(hashlib.sha256((pathlib.Path(sys.argv[1]) / name).read_bytes()).hexdigest())
"""


@pytest.mark.parametrize("mode", ["passthrough", "native"])
def test_many_processes_read_what_is_replaced_meanwhile(base: Path, cluster: Cluster, mode: str) -> None:
    """Each read is of one generation: of those that were stored, never of two."""
    names = [f"f{number}" for number in range(12)]
    made = {
        name: {hashlib.sha256(content(f"{name}.{n}", 5 * MIB + n)).hexdigest() for n in range(4)}
        for name in names
    }

    def put(generation: int) -> None:
        for name in names:
            cluster.put(f"/many-{mode}/{name}", content(f"{name}.{generation}", 5 * MIB + generation))

    put(0)
    with mounted(base / "own", cluster.filer, f"many-{mode}", mode) as daemon:
        readers = [
            subprocess.Popen(
                [sys.executable, "-c", READ_ALL, str(daemon.mount), *random.Random(n).sample(names * 6, 72)],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for n in range(4)
        ]  # fmt: skip
        for generation in range(1, 4):
            put(generation)
        for number, reader in enumerate(readers):
            out, err = reader.communicate(timeout=120)
            asked = random.Random(number).sample(names * 6, 72)
            if reader.returncode:  # a chunk of a generation that is gone cannot be had: that is said
                assert "Stale file handle" in err, err
            for name, digest in zip(asked, out.split(), strict=False):
                assert digest in made[name], f"{name}: bytes that nobody stored"
        until(
            lambda: all((daemon.mount / n).read_bytes() == content(f"{n}.3", 5 * MIB + 3) for n in names),
            "the last generation",
        )


@pytest.mark.parametrize("mode", MODES)
def test_small_files_in_order(base: Path, cluster: Cluster, mode: str) -> None:
    """They are fetched ahead, several at once, some of them replaced or removed meanwhile: each read is of
    one generation that was stored, and what is cached is found again."""
    names = [f"f{number:03}" for number in range(300)]
    sizes = {name: 1000 + 37 * number for number, name in enumerate(names)}
    replaced, removed = names[150:200], names[250:255]
    made = {name: {hashlib.sha256(content(name, sizes[name])).hexdigest()} for name in names}
    for name in names:
        cluster.put(f"/small-{mode}/d/{name}", content(name, sizes[name]))
    options = ("--cache-dir", str(base / "cache"))
    with mounted(base / "own", cluster.filer, f"small-{mode}", mode, *options) as daemon:
        until(lambda: "tells of its changes" in daemon.log_text(), "the filer is listened to")
        kept = [name for name in names if name not in removed]
        readers = [
            subprocess.Popen(
                [sys.executable, "-c", READ_ALL, str(daemon.mount / "d"), *kept[n::4]],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for n in range(4)
        ]  # fmt: skip
        for name in replaced:
            made[name].add(hashlib.sha256(content(f"{name} again", 5000)).hexdigest())
            cluster.put(f"/small-{mode}/d/{name}", content(f"{name} again", 5000))
        for name in removed:
            cluster.delete(f"/small-{mode}/d/{name}")
        for number, reader in enumerate(readers):
            out, err = reader.communicate(timeout=120)
            assert reader.returncode == 0, err
            for name, digest in zip(kept[number::4], out.split(), strict=True):
                assert digest in made[name], f"{name}: bytes that nobody stored"

        def last(name: str) -> bytes:
            return content(f"{name} again", 5000) if name in replaced else content(name, sizes[name])

        until(lambda: all((daemon.mount / "d" / n).read_bytes() == last(n) for n in kept), "the last ones")
        until(lambda: not any((daemon.mount / "d" / n).exists() for n in removed), "what was removed is gone")
    with mounted(base / "again", cluster.filer, f"small-{mode}", mode, *options) as daemon:
        for name in kept:
            assert (daemon.mount / "d" / name).read_bytes() == last(name)


def test_a_filer_that_dies_and_comes_back(base: Path, cluster: Cluster) -> None:
    port = cluster.filer_process("mortal")
    for name in ("kept", "other"):
        cluster.put(f"/away/{name}", content(name, 200_000), port=port)
    with mounted(base / "own", port, "away", "passthrough", "--source-wait", "0s") as daemon:
        daemon.expect_log("source does not answer|source answers again|are not told")
        assert (daemon.mount / "kept").read_bytes() == content("kept", 200_000)
        cluster.kill("mortal")
        assert (daemon.mount / "kept").read_bytes() == content("kept", 200_000)
        with fails(errno.EIO):
            (daemon.mount / "never seen").stat()
        assert (daemon.mount / "kept").read_bytes() == content("kept", 200_000)
        cluster.filer_process("mortal", port=port)

        def back() -> bool:
            try:
                return (daemon.mount / "other").read_bytes() == content("other", 200_000)
            except OSError:
                return False

        until(back, "the filer answers again")
        cluster.put("/away/kept", b"changed", port=port)
        until(lambda: (daemon.mount / "kept").read_bytes() == b"changed", "changes are told again")


AWAY = "source does not answer|source answers again|are not told|does not tell"


def test_what_is_known_is_shown_while_the_filer_is_away(base: Path, cluster: Cluster) -> None:
    port = cluster.filer_process(fresh := f"grace-{time.monotonic_ns()}")
    for name in ("d/kept", "d/seen", "e/other"):
        cluster.put(f"/grace/{name}", content(name, 200_000), port=port)
    with grpc.insecure_channel(f"127.0.0.1:{port + 10_000}") as channel:
        to = {"symlink_target": "kept"}
        cluster.create("/grace/d", "link", mode=SYMLINK | 0o777, attributes=to, channel=channel)
    options = ["--source-wait", "0s", "--metadata-timeout", "0s"]
    with mounted(base / "own", port, "grace", "passthrough", *options) as daemon:
        daemon.expect_log(AWAY)
        files = daemon.mount / "d"
        until(lambda: "tells of its changes" in daemon.log_text(), "the filer is listened to")
        assert sorted(os.listdir(files)) == ["kept", "link", "seen"]
        assert (files / "link").read_bytes() == content("d/kept", 200_000)
        cluster.kill(fresh)
        until(lambda: "does not tell of its changes" in daemon.log_text(), "nobody tells")
        with fails(errno.EIO):
            (daemon.mount / "e/other").stat()
        until(lambda: "source does not answer" in daemon.log_text(), "it is seen to be away")
        for _ in range(2):
            assert sorted(os.listdir(files)) == ["kept", "link", "seen"]
            assert (files / "link").read_bytes() == content("d/kept", 200_000)
            assert (files / "seen").stat().st_size == 200_000
            assert os.readlink(files / "link") == "kept"
            with fails(errno.ENOENT):
                (files / "never there").stat()
            with fails(errno.EIO):
                (files / "seen").read_bytes()
            with fails(errno.EIO):
                os.listdir(daemon.mount / "e")
            with fails(errno.EIO):
                (files / "new").mkdir()
        cluster.filer_process(fresh, port=port)
        cluster.put("/grace/d/new", b"new", port=port)
        until(lambda: _listed(files) == ["kept", "link", "new", "seen"], "the filer answers again")
        assert (files / "seen").read_bytes() == content("d/seen", 200_000)
        cluster.put("/grace/d/kept", b"changed", port=port)
        until(lambda: (files / "kept").read_bytes() == b"changed", "changes are told again")


def _listed(path: Path) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def test_without_grace_nothing_is_shown_while_the_filer_is_away(base: Path, cluster: Cluster) -> None:
    port = cluster.filer_process(fresh := f"graceless-{time.monotonic_ns()}")
    cluster.put("/graceless/d/kept", content("kept", 200_000), port=port)
    options = ["--source-wait", "0s", "--metadata-timeout", "0s", "--source-grace", "0s", "--check", "strict"]
    with mounted(base / "own", port, "graceless", "passthrough", *options) as daemon:
        daemon.expect_log(AWAY)
        kept = daemon.mount / "d/kept"
        assert os.listdir(kept.parent) == ["kept"]
        assert kept.read_bytes() == content("kept", 200_000)
        cluster.kill(fresh)
        until(lambda: "does not tell of its changes" in daemon.log_text(), "nobody tells")
        for asked in (kept.stat, kept.read_bytes, lambda: os.listdir(kept.parent)):
            with fails(errno.EIO):
                asked()
        cluster.filer_process(fresh, port=port)
        until(lambda: _listed(kept.parent) == ["kept"], "the filer answers again")
        assert kept.read_bytes() == content("kept", 200_000)


@pytest.mark.parametrize("write", ["through", "back"])
def test_another_filer_is_asked_when_one_dies(base: Path, cluster: Cluster, write: str) -> None:
    names = [f"{which}-{time.monotonic_ns()}" for which in ("first", "second")]
    ports = [cluster.filer_process(name) for name in names]
    top = f"several-{time.monotonic_ns()}"

    def has(port: int, name: str, data: bytes) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{top}/{name}", timeout=20) as answer:
                return bool(answer.read() == data)
        except OSError:
            return False

    for name in ("d/kept", "d/cold"):
        cluster.put(f"/{top}/{name}", content(name, 200_000), port=ports[0])
        until(partial(has, ports[1], name, content(name, 200_000)), "it is in both")
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    options = ["--source", f"seaweedfs://{hosts}/{top}", "--source-wait", "5s", "--write", write]
    (base / "own").mkdir()
    with Daemon(base / "own", "passthrough", source=None, options=options) as daemon:
        daemon.expect_log("does not answer, asking|are not told|does not tell|does not answer")
        files = daemon.mount / "d"
        until(lambda: "tells of its changes" in daemon.log_text(), "a filer is listened to")
        assert (files / "kept").read_bytes() == content("d/kept", 200_000)
        for lost, left in ((0, 1), (1, 0)):
            cluster.kill(names[lost])
            assert sorted(os.listdir(files)) == ["cold", "kept", *["new 0"][:lost]]
            assert (files / "cold").read_bytes() == content("d/cold", 200_000)
            (files / f"new {lost}").write_bytes(b"n" * 70_000)
            new = f"d/new%20{lost}", b"n" * 70_000
            until(partial(has, ports[left], *new), "it is written")
            changed = content(f"again {lost}", 3000)
            cluster.put(f"/{top}/d/kept", changed, port=ports[left])
            until(partial(_reads, files / "kept", changed), "changes are told")
            cluster.filer_process(names[lost], port=ports[lost])
            for there in (("d/kept", changed), new):
                until(partial(has, ports[lost], *there), "it has caught up")


def test_a_filer_with_an_ipv6_address(base: Path, cluster: Cluster) -> None:
    """In a list, behind one that does not answer."""
    port = cluster.filer_process("v6", "-ip.bind=::")
    top = f"v6-{time.monotonic_ns()}"
    cluster.put(f"/{top}/file", content("v6", 200_000), port=port)
    hosts = f"127.0.0.1:1,[::1]:{port}"
    (base / "own").mkdir()
    options = ["--source", f"seaweedfs://{hosts}/{top}"]
    with Daemon(base / "own", "passthrough", source=None, options=options) as daemon:
        daemon.expect_log("does not answer|are not told|does not tell")
        until(lambda: "tells of its changes" in daemon.log_text(), "the filer is listened to")
        assert (daemon.mount / "file").read_bytes() == content("v6", 200_000)
        (daemon.mount / "new").write_bytes(b"new" * 1000)
        assert (daemon.mount / "new").read_bytes() == b"new" * 1000


def _reads(path: Path, data: bytes) -> bool:
    return path.read_bytes() == data
