"""What gives access to a source is shown nowhere: not in messages, metrics, traces, listings of processes,
nor in what commands print; and where it cannot be kept secret it is refused, with the way to give it."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.mount import Daemon, swmld
from support.seaweed import Cluster
from support.waiting import until
from support.watchdog import watchdog
from support.webfiles import Fault, WebFiles
from swmld.observe.probe import Loading

pytestmark = pytest.mark.timeout(180)

SECRET = "HUSH4d1f"
KEYS = ("AKIAHUSH4d1f", "wJalrHUSH4d1f/bPxRfi")
URLS = {
    "http": f"http://me:{SECRET}@127.0.0.1:1/x",
    "user": f"http://{SECRET}@127.0.0.1:1/x",
    "s3": f"s3://me:{SECRET}@bucket/x",
    "s3 option": f"s3://bucket/x?secret_access_key={SECRET}",
    "s3 endpoint": f"s3://bucket/x?endpoint=http://me:{SECRET}@127.0.0.1:1",
    "az": f"az://container/x?sas_token={SECRET}",
    "az connection": f"az://container/x?connection_string=AccountKey%3D{SECRET}",
    "seaweedfs": f"seaweedfs://me:{SECRET}@127.0.0.1:1/x",
    "manifest": f"http://127.0.0.1:1/x?manifest=http://me:{SECRET}@127.0.0.1:1/list",
    "s3 slash": f"s3://me:a/{SECRET}@bucket/x",
    "s3 bracket": f"s3://me:a[{SECRET}@bucket/x",
    "signed": f"http://127.0.0.1:1/x?X-Amz-Signature={SECRET}",
}
PATHS = ("/metrics", "/ml/metrics", "/ml/patterns", "/ml/rules", "/ml/history", "/healthz", "/openapi.json")
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("status",),
    ("status", "--json"),
    ("stats",),
    ("stats", "--json"),
    ("history", "--json"),
    ("rules", "ls", "--json"),
    ("staged", "--json"),
    ("trace", "--once"),
    ("trace", "--once", "--json"),
    ("cache", "ls"),
)


@pytest.mark.parametrize("url", URLS.values(), ids=URLS)
@pytest.mark.parametrize("given", ["option", "variable", "file", "printed", "validated"])
def test_a_url_with_a_credential_is_refused(
    base: Path, monkeypatch: pytest.MonkeyPatch, url: str, given: str
) -> None:
    (base / "mnt").mkdir()
    mount = ("--mount", base / "mnt", "--cache-dir", base / "cache", "--run-dir", base / "run")
    file = base / "swmld.yaml"
    file.write_text(f"source: {json.dumps(url)}\n")
    if given == "option":
        done = swmld(*mount, "--source", url)
    elif given == "variable":
        monkeypatch.setenv("SWMLD_SOURCE", url)
        done = swmld(*mount)
    elif given == "file":
        done = swmld(*mount, "--config", file)
    elif given == "printed":
        done = swmld("config", "show", "--origin", "--config", file)
    else:
        done = swmld("validate", file)
    assert done.returncode == 2, done
    assert SECRET not in done.stdout + done.stderr
    assert "do not go into the URL" in done.stderr
    if given in ("option", "variable"):
        assert done.stderr.count("\n") == 1
    assert not os.path.ismount(base / "mnt")


@pytest.mark.parametrize("written", [f"s3:/me:{SECRET}@bucket", f"HTTP:me:{SECRET}@bucket/x"])
def test_what_is_no_url_is_not_repeated(base: Path, written: str) -> None:
    (base / "mnt").mkdir()
    done = swmld("--mount", base / "mnt", "--cache-dir", base / "cache", "--source", written)
    assert done.returncode == 2
    assert "bucket" in done.stderr
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "words", [("URL",), ("--source", "URL", "--bogus"), ("--soruce=URL",), ("warmup", "URL")]
)
def test_a_command_line_that_is_not_understood_is_not_repeated(words: tuple[str, ...]) -> None:
    done = swmld(*(word.replace("URL", URLS["s3"]) for word in words))
    assert done.returncode
    assert done.stderr
    assert SECRET not in done.stdout + done.stderr


def test_ps_shows_no_secret_once_it_runs(base: Path) -> None:
    """What is refused is hidden as well, before anything is read: here is something that is accepted."""
    state = base / f"token={SECRET}"
    for name in ("mnt", "src"):
        (base / name).mkdir()
    argv = [sys.executable, "-m", "swmld.cli", "--mount", base / "mnt", "--source", base / "src"]
    argv += ["--cache-dir", base / "cache", "--run-dir", base / "run", "--probe", "off"]
    argv += ["--metrics-address", "off", "--state-dir", state]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        watchdog.watch(process.pid, base / "mnt")
        try:
            assert process.stdout is not None
            assert b"ready" in process.stdout.readline()
            shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            watchdog.unwatch(process.pid)
    assert SECRET.encode() not in shown
    assert shown.endswith(b"--state-dir\0" + os.fsencode(base) + b"/token=" + b"*" * len(SECRET) + b"\0")


def shown(daemon: Daemon) -> dict[str, str]:
    """All that is said by it and of it, by where."""
    found = {"log": daemon.log_text()}
    for command in COMMANDS:
        done = daemon.command(*command)
        found[" ".join(command)] = done.stdout + done.stderr
    for path in PATHS:
        try:
            with urllib.request.urlopen(f"http://{daemon.metrics_address()}{path}", timeout=20) as answer:
                found[path] = answer.read().decode()
        except urllib.error.HTTPError as error:
            found[path] = error.read().decode()
    found["ps"] = subprocess.run(["ps", "-ef", "-ww"], capture_output=True, text=True, check=True).stdout
    for kind in ("cache", "run", "state"):
        for path in (daemon.base / kind).rglob("*"):
            if path.is_file():
                found[str(path)] = str(path) + path.read_bytes().decode(errors="replace")
    return found


def test_commands_that_read_are_told_without_their_secrets(base: Path) -> None:
    """In traces, recordings of them and the endpoint, which asks nobody who he is."""
    (base / "own" / "src").mkdir(parents=True)
    with Daemon(base / "own", "native", options=["--log-level", "debug", "--probe", "fuse"]) as daemon:
        (daemon.source / "file").write_bytes(b"1" * 20_000_000)
        record = base / "run.trace"
        argv = [sys.executable, "-m", "swmld.cli", "trace", "record", record, "--run-dir", daemon.run_dir]
        recording = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        script = base / "it.py"
        script.write_text(
            "import os, sys\n"
            f"file = open({str(daemon.mount / 'file')!r}, 'rb', buffering=0)\n"
            "while sys.stdin.readline():\n"
            "    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)\n"
            "    os.pread(file.fileno(), 20_000_000, 0)\n"
        )
        options = ("--hub-token", SECRET, f"--store=s3://me:{SECRET}@bucket", "--epochs", "3")
        reader = subprocess.Popen(
            [sys.executable, script, *options],
            stdin=subprocess.PIPE,
            start_new_session=True,  # a job of its own
        )

        def recorded() -> str:
            assert reader.stdin is not None
            reader.stdin.write(b"\n")
            reader.stdin.flush()
            so_far = record.read_bytes() if record.exists() else b""
            return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(so_far).decode()

        until(lambda: "--epochs 3" in recorded(), "the reader is in the recording")
        found = shown(daemon)
        reader.communicate(timeout=20)
        recording.send_signal(signal.SIGINT)
        said = recording.communicate(timeout=20)[0].decode()
    assert "--epochs 3" in found["/ml/patterns"]
    del found["ps"]  # the reader's own
    found |= {"said": said, "recording": gzip.decompress(record.read_bytes()).decode()}
    assert not [where for where, text in found.items() if SECRET in text]


def hushed(daemon: Daemon, *secrets: str) -> None:
    found = shown(daemon)
    assert len(found) > len(COMMANDS) + len(PATHS)
    assert found["/metrics"].count("swmld_") > 50
    for secret in secrets:
        assert not [where for where, text in found.items() if secret in text], secret


def mounted(base: Path, url: str, *options: str) -> Daemon:
    (base / "own").mkdir()
    options = ("--source", url, "--source-wait", "0s", "--log-level", "debug", *options)
    return Daemon(base / "own", "passthrough", source=None, options=options)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """With keys for its gateway and for its volume servers."""
    settings = {"WEED_JWT_SIGNING_READ_KEY": KEYS[1], "WEED_JWT_SIGNING_KEY": KEYS[1]}
    with Cluster(s3=KEYS, settings=settings) as cluster:
        cluster.put("/buckets/buck/file", b"1" * 50_000)
        yield cluster


def _reads(path: Path) -> bool:
    try:
        return path.read_bytes() == b"1" * 50_000
    except OSError:
        return False


@pytest.mark.parametrize("given", ["variables", "file", "wrong"])
def test_keys_of_s3_are_not_shown(
    base: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("HOME", str(base))
    key, secret = KEYS
    if given == "file":
        (base / ".aws").mkdir()
        (base / ".aws" / "credentials").write_text(
            f"[default]\naws_access_key_id={key}\naws_secret_access_key={secret}\n"
        )
    else:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret + ("x" if given == "wrong" else ""))
    url = f"s3://buck/?endpoint=http://127.0.0.1:{cluster.s3}&path_style=true"
    if given == "wrong":
        (base / "mnt").mkdir()
        options = ("--cache-dir", base / "cache", "--source-wait", "0s", "--log-level", "debug")
        done = swmld("--mount", base / "mnt", "--source", url, *options)
        assert done.returncode == 1
        assert SECRET not in done.stdout + done.stderr
        return
    with mounted(base, url) as daemon:
        assert (daemon.mount / "file").read_bytes() == b"1" * 50_000
        (daemon.mount / "new").write_bytes(b"2" * 1000)
        with pytest.raises(FileNotFoundError):
            (daemon.mount / "no such").stat()
        hushed(daemon, *KEYS)


@pytest.mark.parametrize("key", ["right", "wrong"])
def test_keys_of_seaweedfs_are_not_shown(
    base: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """Of ``security.toml``; nor tokens that were made with them."""
    monkeypatch.setenv("HOME", str(base))
    (base / ".seaweedfs").mkdir()
    given = KEYS[1] + ("x" if key == "wrong" else "")
    (base / ".seaweedfs" / "security.toml").write_text(
        f"[jwt.signing]\nkey = {json.dumps(given)}\n[jwt.signing.read]\nkey = {json.dumps(given)}\n"
    )
    monkeypatch.chdir(base)
    with mounted(base, f"seaweedfs://127.0.0.1:{cluster.filer}/buckets/buck") as daemon:
        daemon.expect_log("servers refuse|through the filer")
        until(lambda: _reads(daemon.mount / "file"), "it is read")
        hushed(daemon, *KEYS, "Bearer", "eyJ")


@pytest.mark.parametrize("answer", ["taken", "refused"])
def test_the_header_for_a_web_server_is_not_shown(
    base: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setenv("SWMLD_HTTP_AUTHORIZATION", f"Bearer {SECRET}")
    (base / "site").mkdir()
    with WebFiles(base / "site") as web:
        (web.root / "file").write_bytes(b"1" * 50_000)
        with mounted(base, web.url) as daemon:
            if answer == "refused":
                web.faults.extend([Fault(403)] * 5)
                with pytest.raises(OSError):
                    (daemon.mount / "file").read_bytes()
                web.faults.clear()
            until(lambda: _reads(daemon.mount / "file"), "it is read")
            hushed(daemon, SECRET)


def test_the_key_of_azure_is_not_shown(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "me")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "SFVTSDRkMWY=")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", f"AccountName=me;AccountKey={SECRET}")
    (base / "mnt").mkdir()
    options = ("--cache-dir", base / "cache", "--source-wait", "0s", "--log-level", "debug")
    done = swmld("--mount", base / "mnt", "--source", "az://c/?endpoint=http://127.0.0.1:1", *options)
    assert done.returncode == 1
    assert "HUSH4d1f" not in done.stdout + done.stderr
    assert "SFVTSDRkMWY" not in done.stdout + done.stderr


CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": SECRET,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_SESSION_TOKEN": SECRET,
    "AZURE_STORAGE_ACCOUNT_KEY": SECRET,
    "AZURE_STORAGE_CONNECTION_STRING": SECRET,
    "GOOGLE_SERVICE_ACCOUNT_KEY": SECRET,
    "WEED_JWT_SIGNING_READ_KEY": SECRET,
    "SWMLD_HTTP_AUTHORIZATION": SECRET,
}


def test_programs_that_it_starts_are_not_told(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule's command has the daemon's environment but for what gives access."""
    for name, value in {**CREDENTIALS, "OTHERWISE": "as it was"}.items():
        monkeypatch.setenv(name, value)
    told = base / "told"
    rules = base / "rules.yaml"
    command = f"sh -c 'env > {told}.part && mv {told}.part {told}'"
    rules.write_text(
        "rules:\n  - id: tell\n    conditions: [size >= 0]\n    actions:\n"
        f"      - {{type: notify, parameters: {{event: read, command: {json.dumps(command)}}}}}\n"
    )
    (base / "own" / "src").mkdir(parents=True)
    with Daemon(base / "own", options=["--rules", str(rules)]) as daemon:
        (daemon.source / "file").write_bytes(b"1")
        (daemon.mount / "file").read_bytes()
        until(told.exists, "the command has run")
        assert SECRET not in told.read_text()
        assert "OTHERWISE=as it was" in told.read_text()


def test_the_loader_of_the_probes_is_not_told(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    told, program = base / "told", base / "python"
    program.write_text(f"#!/bin/sh\nenv > {told}.part\nmv {told}.part {told}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    loading = Loading(base)
    until(told.exists, "it has run")
    loading.close()
    assert "PYTHONDONTWRITEBYTECODE" in told.read_text()
    assert SECRET not in told.read_text()
