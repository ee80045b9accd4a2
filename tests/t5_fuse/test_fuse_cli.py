"""The commands against a real daemon: what a person or a service manager sees from start to end."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from support import gates, posix, tree
from support.mount import STOP_SECONDS, Daemon, command, swmld

Start = Callable[..., Daemon]
MIB = 1 << 20
ODD = b"odd \xff\n\x1b[0m name"


@pytest.fixture
def one(base: Path) -> Iterator[Daemon]:
    """A daemon in the fastest mode: what these tests look at is the same in all of them."""
    mode = next(iter(mode for mode in tree.modes() if mode != tree.DISK), None)
    if mode is None:
        pytest.skip("needs a daemon")
    tree.require_mode(mode)
    with Daemon(base, mode) as daemon:
        yield daemon


def fill(directory: Path, files: int = 4, size: int = MIB + 17) -> dict[str, bytes]:
    """Files of different bytes, a little over 1 MiB each."""
    contents = {f"data/{number}.bin": os.urandom(size) for number in range(files)}
    (directory / "data").mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    return contents


def fetched(daemon: Daemon) -> int:
    return int(sum(daemon.call("stats")["metrics"]["fetched_bytes_total"].values()))


def test_status_says_how_it_serves(daemon: Start, daemon_mode: str) -> None:
    one = daemon()
    (status,) = json.loads(one.ask("status", "--json"))
    assert (status["mount"], status["source"]) == (str(one.mount), str(one.source))
    assert (status["mode"], status["pid"], status["read_only"]) == (daemon_mode, one.pid, False)
    assert status["cache"]["bytes"] == 0
    # A terminal of 80 columns breaks long paths into lines.
    assert str(one.mount) in one.ask("status").replace("\n", "").replace(" ", "")
    pattern = r"^swmld: ready: (\S+) serves (\S+) \(cache (\S+), (\w+), metrics (\S+)\)$"
    ready = re.search(pattern, one.log_text(), re.MULTILINE)
    assert ready is not None
    where = f"http://{status['metrics']}/metrics"
    assert ready.groups() == (str(one.mount), str(one.source), str(one.cache), daemon_mode, where)
    assert (status["health"]["status"], status["health"]["problems"]) == ("ok", [])
    (one.source / "file").write_bytes(b"x")
    (one.mount / "file").read_bytes()
    # Left open: the end of the daemon waits for nobody.
    connection = http.client.HTTPConnection(status["metrics"], timeout=30)
    served_as_described(connection)
    told_when_it_does_not_serve(one, connection)


def get(connection: http.client.HTTPConnection, path: str) -> tuple[int, Any]:
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def served_as_described(connection: http.client.HTTPConnection) -> None:
    """Every answer in JSON is as ``/openapi.json`` says."""
    described = get(connection, "/openapi.json")[1]
    for path in ("/healthz", "/ml/patterns", "/ml/rules", "/ml/history"):
        status, answer = get(connection, path)
        (content,) = described["paths"][path]["get"]["responses"][str(status)]["content"].values()
        schema = {**content["schema"], "components": described["components"]}
        assert [error.message for error in Draft202012Validator(schema).iter_errors(answer)] == []


def told_when_it_does_not_serve(one: Daemon, connection: http.client.HTTPConnection) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", one.mount], check=True, timeout=30)
    try:
        status, health = get(connection, "/healthz")
    finally:
        subprocess.run(["umount", one.mount], check=True, timeout=30)
    assert (status, health["status"], health["ready"]) == (503, "down", False)
    assert health["problems"] == [f"something else is mounted over {one.mount}"]
    assert get(connection, "/healthz?ready=1")[0] == 200


def test_warmup_fetches_once_and_the_reads_are_right(daemon: Start) -> None:
    one = daemon()
    contents = fill(one.source)
    size = sum(map(len, contents.values()))
    out = one.ask("warmup", one.mount / "data")
    assert out.startswith("4 files: fetched 4MiB in ")
    assert out.endswith("0B were cached already\n")
    assert fetched(one) == size
    # Relative to the mount, since the test's own directory is not in it.
    assert one.ask("warmup", "data").endswith("4MiB were cached already\n")
    for name, content in contents.items():
        assert (one.mount / name).read_bytes() == content
    assert fetched(one) == size


def test_cache_ls_and_drop(one: Daemon) -> None:
    contents = fill(one.source)
    Path(os.fsdecode(os.fsencode(one.source) + b"/" + ODD)).write_bytes(b"x" * 1000)
    one.ask("warmup", one.mount)
    entries = [json.loads(line) for line in one.ask("cache", "ls", "--json").splitlines()]
    assert {os.fsencode(entry["path"]): entry["cached_bytes"] for entry in entries} == {
        **{name.encode(): len(content) for name, content in contents.items()},
        ODD: 1000,
    }
    assert {entry["state"] for entry in entries} == {"complete"}
    assert len(one.ask("cache", "ls", "data").splitlines()) == 4
    assert one.ask("cache", "drop", one.mount / "data" / "0.bin") == "dropped 1 files, 1MiB\n"
    assert len(one.ask("cache", "ls", "data").splitlines()) == 3
    assert (one.mount / "data" / "0.bin").read_bytes() == contents["data/0.bin"]


def test_verify_mends_a_flipped_bit(one: Daemon) -> None:
    contents = fill(one.source, files=1)
    one.ask("warmup", "data")
    (cached,) = [path for path in (one.cache / "data").rglob("*") if path.is_file()]
    with cached.open("r+b") as file:
        file.seek(4711)
        byte = file.read(1)
        file.seek(4711)
        file.write(bytes([byte[0] ^ 0x10]))
    one.expect_log(r"checksum")
    assert one.ask("cache", "verify", one.mount) == "1 files, 1 chunks checked: 1 bad, 1 mended\n"
    assert (one.mount / "data" / "0.bin").read_bytes() == contents["data/0.bin"]
    assert one.ask("cache", "verify", "data") == "1 files, 1 chunks checked: 0 bad, 0 mended\n"


def test_paths_that_are_wrong(one: Daemon) -> None:
    for path in ("nope", one.mount / "nope"):
        done = one.command("warmup", path)
        assert done.returncode == 2
        assert "nope: No such file or directory" in done.stderr
        assert done.stderr.count("\n") == 1
    done = one.command("cache", "drop", "/elsewhere", "--mount", one.mount)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_scrape_has_what_stats_has(one: Daemon) -> None:
    fill(one.source, files=2)
    one.ask("warmup", "data/0.bin")
    stats = one.stats()
    scraped = one.metrics()
    assert scraped["swmld_cache_files"] == stats["cache_files"] == 1
    assert scraped["swmld_cache_limit_bytes"] == stats["cache_limit_bytes"] == 100 << 30
    assert sum(stats["fetched_bytes_total"].values()) == one.metric("swmld_fetched_bytes_total") == MIB + 17


def test_two_daemons_on_one_host(one: Daemon, base: Path) -> None:
    fill(one.source, files=1)
    taken = one.metrics_address()
    (base / "b").mkdir()
    options = ["--metrics-address", taken]
    with Daemon(base / "b", one.mode, options=options, expect_log=["metrics port"]) as other:
        assert other.metrics_address() != taken
        assert one.ask("warmup", one.mount / "data").startswith("1 files")
        assert other.stats()["cache_files"] == 0
        done = one.command("--mount", one.mount, "--cache-dir", base / "c", "--metrics-address", "off")
        assert done.returncode == 2
        assert done.stderr == f"swmld: {one.mount} is already served by swmld (pid {one.pid})\n"
    assert one.alive


def test_the_service_manager_is_told(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.require_mode("python")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(base / "notify"))
        manager.settimeout(STOP_SECONDS)
        monkeypatch.setenv("NOTIFY_SOCKET", str(base / "notify"))
        with Daemon(base, "python") as daemon:
            state = manager.recv(4096).decode()
            assert state.startswith(f"READY=1\nSTATUS={daemon.mount} serves {daemon.source} ")
        assert manager.recv(4096) == b"STOPPING=1"


def test_ctrl_c_in_a_warmup_keeps_what_is_there(one: Daemon) -> None:
    fill(one.source, files=300)
    argv = [*command(), "warmup", str(one.mount / "data"), "--run-dir", str(one.run_dir)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        # In the middle of it, unless the machine is so quick that it has just ended.
        while process.poll() is None and one.call("stats")["metrics"]["cache_files"] < 20:
            continue
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    if process.returncode == 130:
        assert "the same command goes on from there" in err
    else:
        assert (process.returncode, err) == (0, "")
    assert one.call("stats")["metrics"]["cache_files"] >= 20
    out = one.ask("warmup", "data")
    assert out.startswith("300 files: fetched ")
    assert ", 0B were cached already" not in out
    assert one.call("stats")["metrics"]["cache_files"] == 300


def test_the_demo(base: Path) -> None:
    """As a command; that the option runs the same is tested without a mount."""
    gates.require("root", "fuse")
    directory = base / "sample"
    done = swmld("demo", directory, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("602 files, ")
    assert lines[1].startswith(f"swmld: ready: {directory} serves {directory} ")
    rows = {line[:34].strip(): line[34:].replace(",", "").split() for line in lines[2:-2]}
    for name in ("disk, page cache dropped", "disk, warm", "mount, cold", "mount, cached, warm"):
        assert len(rows[name]) == 4
        assert all(float(number) > 0 for number in rows[name])
    assert lines[-2] == f"every byte of 602 files is right (SHA-256); {directory} is as it was"
    assert str(directory) not in posix.mounts()
    assert len(list(directory.rglob("*.png"))) == 600


def test_an_empty_mount_point_names_the_demo(base: Path) -> None:
    gates.require("root")
    (base / "empty").mkdir()
    for name in ("empty", "missing"):
        done = swmld("--mount", base / name)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert f"swmld --mount {base / name} --demo" in done.stderr
