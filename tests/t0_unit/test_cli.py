"""The command line against a daemon of the test's own: what is printed, where, and the exit code."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import stat
import subprocess
import sys
import threading
import types
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import swmld
import trio
from rich.console import Console
from rich.text import Text
from swmld import demo as sample
from swmld.api.control import ControlServer
from swmld.api.messages import METHODS
from swmld.cli import daemon, man, preflight
from swmld.cli import demo as demo_command
from swmld.cli.main import app, run
from swmld.cli.stats import flat, quantile
from swmld.cli.text import printable, prose, put
from swmld.config.models import Settings, mount_name
from swmld.errors import UsageError
from swmld.head.reload import Loaded
from swmld.mount.mountpoint import FSTYPE, MountInfo
from typer.main import get_command

Progress = Callable[[Mapping[str, Any]], Awaitable[None]]
ODD_NAME = os.fsdecode(b"bad\xff\n\x1b[31m")
STATUS = {
    "version": "0.1.0",
    "pid": 4242,
    "mount": "/mnt/ml",
    "source": "/mnt/ml",
    "cache_dir": "/var/cache/swmld/mnt-ml",
    "mode": "passthrough",
    "engine": "uring",
    "read_only": False,
    "metrics": "127.0.0.1:9617",
    "uptime": 75.0,
    "cache": {"bytes": 3 << 30, "files": 12, "limit": 100 << 30, "free": 50 << 30},
    "fallbacks": ["io_uring: threads are used instead"],
}
STATS = {
    "mount": "/mnt/ml",
    "uptime": 75.0,
    "metrics": {
        "reads_total": {"native": 1234567, "miss": 10, "python": 0},
        "evictions_total": 0,
        "hit_ratio": 0.9876,
        "cache_bytes": 3 << 30,
        "fetch_duration_seconds": {"demand": {"bounds": [0.001, 0.01], "counts": [98, 1, 1], "sum": 0.5}},
    },
}


class Fake:
    """A daemon for one mount in a thread, with answers that the test sets."""

    def __init__(self, run_dir: Path, mount: str) -> None:
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Any] = {
            "status": {**STATUS, "mount": mount},
            "stats": {**STATS, "mount": mount},
        }
        self.progress: list[dict[str, Any]] = []
        self.pages: dict[str, list[Any]] = {}
        self._path = run_dir / f"{mount_name(Path(mount))}.sock"
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,))

    def __enter__(self) -> Fake:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._token.run_sync_soon(self._scope.cancel)
        self._thread.join(10)
        assert not self._thread.is_alive()

    async def _main(self) -> None:
        server = ControlServer(self._path, {method: self._handler(method) for method in METHODS})
        async with trio.open_nursery() as nursery:
            self._scope, self._token = nursery.cancel_scope, trio.lowlevel.current_trio_token()
            await nursery.start(server.run)
            self._ready.set()

    def _handler(self, method: str) -> Callable[[dict[str, Any], Progress], Awaitable[Any]]:
        async def handle(params: dict[str, Any], progress: Progress) -> Any:
            self.requests.append((method, params))
            for message in self.progress:
                await progress(message)
            answer = self.pages[method].pop(0) if self.pages.get(method) else self.answers[method]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return handle


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def fake(run_dir: Path) -> Iterator[Fake]:
    with Fake(run_dir, "/mnt/ml") as one:
        yield one


@pytest.fixture
def swmld_(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = run([*arguments, "--run-dir", str(run_dir)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


# --- the parser ---


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--help"], 0, "Serve a directory through a local cache"),
        (["-h"], 0, "--cache-size"),
        (["--version"], 0, "swmld 0.1.0"),
        (["stats", "--help"], 0, "--watch"),
        (["warmup", "--help"], 0, "Ctrl-C"),
        (["cache", "--help"], 0, "verify"),
        (["cache", "verify", "--help"], 0, "checksums"),
        (["doctor", "--help"], 0, "--cache-dir"),
        (["demo", "--help"], 0, "sample"),
        ([], 2, "swmld: --mount: expected the directory to serve"),
        (["--no-such-option"], 2, "swmld: No such option: --no-such-option"),
        (["--bogus"], 2, "swmld: No such option: --bogus (see swmld --help)\n"),
        (["--cachedir", "x"], 2, "--cachedir; did you mean --cache-dir? (see swmld --help)\n"),
        (["demo", "x", "--bogus"], 2, "swmld: No such option: --bogus (see swmld demo --help)\n"),
        (["--mount", "/m", "stats"], 2, "swmld: --mount before stats has no effect; expected: swmld stats "),
        (["--read-write", "cache", "ls"], 2, "swmld: --read-write before cache has no effect"),
        (["bogus"], 2, "swmld: No such command 'bogus' (see swmld --help)\n"),
        (["cache", "bogus"], 2, "swmld: No such command 'bogus' (see swmld cache --help)\n"),
        (["warmup"], 2, "swmld: Missing argument 'PATH'"),
        (["cache", "drop"], 2, "swmld: Missing argument 'PATH'"),
        (["completion", "tcsh"], 2, "swmld: completion: expected bash, zsh or fish, got 'tcsh'"),
        (["--mount", "/m", "--chunk-size", "5"], 2, "swmld: --chunk-size: expected a power of two"),
        (["--mount", "/m", "--config", "/no/such.yaml"], 2, "swmld: /no/such.yaml: No such file"),
    ],
)
def test_answers(arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == code
    out, err = capsys.readouterr()
    assert said in (out if code == 0 else err)
    assert (err if code == 0 else out) == ""
    if code:
        assert all(line.startswith("swmld: ") for line in err.splitlines())


def test_the_daemon_gets_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[Settings] = []
    kept: list[set[str]] = []
    seen: list[Loaded | None] = []

    def serve(settings: Settings, fixed: set[str], watched: Loaded | None) -> int:
        given.append(settings)
        kept.append(fixed)
        seen.append(watched)
        return 7

    monkeypatch.setenv("SWMLD_FREE_FLOOR", "5%")
    fake_app = types.ModuleType("swmld.app")
    fake_app.run = serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "swmld.app", fake_app)
    monkeypatch.setattr(swmld, "app", fake_app, raising=False)
    monkeypatch.setattr(preflight, "check", lambda settings: None)
    config = tmp_path / "c.yaml"
    config.write_text("cache_size: 7GiB\nlog_level: debug\nrules: /r\n")
    arguments = ["--mount", str(tmp_path), "--config", str(config), "--log-level", "error", "--no-native"]
    assert run(arguments) == 7
    assert run([*arguments, "--rules", "/a", "--rules", "/b", "--environment", "test"]) == 7
    plain = Settings.model_validate({"mount": tmp_path, "free_floor": "5%"}).model_copy(
        update={"cache_size": 7 << 30, "log_level": "error", "native": False, "rules": (Path("/r"), config)}
    )
    chosen = plain.model_copy(update={"rules": (Path("/a"), Path("/b"), config), "environment": "test"})
    assert given == [plain, chosen]
    # What files cannot change any more.
    options = {"mount", "log_level", "native", "free_floor"}
    assert kept == [options, options | {"rules", "environment"}]
    assert seen == [None, None]  # it is watched with the rules
    config.write_text("cache_size: 7GiB\n")
    assert run(arguments) == 7
    assert given[2].rules == ()
    assert seen[2] is not None
    assert (seen[2].paths, seen[2].settings, seen[2].ruled) == ((config,), {"cache_size": "7GiB"}, False)
    assert run([*arguments[:2], "--config", "off"]) == 7
    assert seen[3] is None


# --- which daemon ---


def test_without_a_daemon(swmld_: Any) -> None:
    for command in (["stats"], ["status"], ["warmup", "x"], ["cache", "ls"]):
        code, _, err = swmld_(*command)
        assert (code, err) == (2, "swmld: no swmld daemon runs here; start one with: swmld --mount DIR\n")


def test_a_daemon_that_was_killed_is_told(
    run_dir: Path, swmld_: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it leaves: a mount, and a socket that nobody listens on."""
    left = {b"/mnt/a b": FSTYPE, b"/mnt/ml": FSTYPE, b"/mnt/other": FSTYPE, b"/mnt/ext": "ext4"}
    mounts = [MountInfo(7, "0:7", path, fstype) for path, fstype in left.items()]
    monkeypatch.setattr(daemon, "mounts", lambda: mounts)
    run_dir.mkdir()
    for mount in ("/mnt/a b", "/mnt/ext"):
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(run_dir / f"{mount_name(Path(mount))}.sock"))
    again = "swmld --mount '/mnt/a b'"
    told = f"swmld: the daemon of /mnt/a b was killed; start it again with its options: {again}\n"
    for command in (["status"], ["stats"], ["status", "--mount", "/mnt/a b"]):
        assert swmld_(*command) == (2, "", told)
    with Fake(run_dir, "/mnt/ml"):
        code, out, err = swmld_("status")
        assert (code, out.split()[:2], err) == (0, ["mount", "/mnt/ml"], told)
        assert swmld_("status", "--mount", "/mnt/ml")[2] == ""


def test_the_only_daemon_is_meant(fake: Fake, swmld_: Any) -> None:
    code, out, _ = swmld_("stats", "--json")
    assert code == 0
    assert json.loads(out) == STATS


def test_several_daemons_are_told_apart(fake: Fake, run_dir: Path, swmld_: Any) -> None:
    with Fake(run_dir, "/mnt/ml/inner") as inner, Fake(run_dir, "/data"):
        code, _, err = swmld_("stats")
        assert code == 2
        assert "choose one with --mount DIR; served: /data, /mnt/ml, /mnt/ml/inner" in err
        assert json.loads(swmld_("stats", "--json", "--mount", "/data/")[1])["mount"] == "/data"
        inner.answers["cache.drop"] = {"files": 1, "bytes": 0}
        assert swmld_("cache", "drop", "/mnt/ml/inner/x")[0] == 0
        assert inner.requests[-1] == ("cache.drop", {"path": "/mnt/ml/inner/x"})
        assert "several daemons run" in swmld_("cache", "drop", "x")[2]


def test_a_mount_that_nobody_serves(fake: Fake, swmld_: Any) -> None:
    code, _, err = swmld_("stats", "--mount", "/mnt/other")
    assert (code, err) == (2, "swmld: no daemon serves /mnt/other; served: /mnt/ml\n")
    code, _, err = swmld_("cache", "drop", "/elsewhere/x")
    assert (code, err) == (2, "swmld: /elsewhere/x is not under a mount of swmld; served: /mnt/ml\n")


def test_a_dead_daemons_socket_is_passed_over(fake: Fake, run_dir: Path, swmld_: Any) -> None:
    (run_dir / "gone.sock").touch()
    assert swmld_("stats", "--json")[0] == 0


def test_only_root_is_told_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UsageError, match="needs root"):
        daemon.running(tmp_path)


def test_paths_are_sent_as_the_daemon_knows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount = tmp_path / "mnt"
    (mount / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(mount)
    monkeypatch.chdir(mount / "sub")
    assert daemon.sent(str(mount), "a") == f"{mount}/sub/a"
    assert daemon.sent(str(mount), f"{tmp_path}/link/a") == f"{mount}/a"
    monkeypatch.chdir(tmp_path)
    assert daemon.sent(str(mount), "a/b") == "a/b"
    assert daemon.holds("/", "/anything")
    assert not daemon.holds("/mnt/ml", "/mnt/mlx")


# --- the commands ---


def test_status(fake: Fake, swmld_: Any) -> None:
    code, out, _ = swmld_("status")
    assert code == 0
    for text in (
        "/mnt/ml",
        "3GiB of 100GiB",
        "http://127.0.0.1:9617/metrics",
        "pid 4242",
        "1m15s",
        "io_uring:",
    ):
        assert text in out
    assert json.loads(swmld_("status", "--json")[1]) == [STATUS]


def test_status_says_how_it_stands_with_the_rules(fake: Fake, swmld_: Any) -> None:
    rules = {"active": 12, "loaded_at": 1.0, "error": "", "error_at": 0.0}
    assert "rules  " not in swmld_("status")[1]
    fake.answers["status"]["rules"] = rules
    assert re.search(r"^rules +12 in use *$", swmld_("status")[1], re.MULTILINE)
    rules["error"] = "r.yaml:1:1: rulez: unknown section"
    assert "12 in use; the files changed and cannot be used: swmld rules ls" in swmld_("status")[1]


def test_status_says_what_does_not_work_and_how_reads_are_seen(fake: Fake, swmld_: Any) -> None:
    lost = {"events": 0, "cursors": 0, "processes": 0}
    probe = {"how": "fuse", "why": "reading the maps failed 10 times", "lost": lost}
    health = {"status": "degraded", "problems": ["the source does not answer"], "probe": probe}
    fake.answers["status"]["health"] = health
    out = swmld_("status")[1]
    assert re.search(r"^probes +fuse: reading the maps failed 10 times *$", out, re.MULTILINE)
    assert re.search(r"^health +degraded; the source does not answer *$", out, re.MULTILINE)
    health |= {"status": "ok", "problems": [], "probe": {**probe, "why": ""}}
    out = swmld_("status")[1]
    assert re.search(r"^probes +not known yet *$", out, re.MULTILINE)
    assert re.search(r"^health +ok *$", out, re.MULTILINE)


def test_status_says_what_is_on_its_way_to_the_source(fake: Fake, swmld_: Any) -> None:
    status = fake.answers["status"]
    assert "writes " not in swmld_("status")[1]
    status |= {"watched": True, "staged": {"write": "back", "files": 0, "waiting_bytes": 0,
                                           "failing": 0, "aside": 0}}  # fmt: skip
    out = swmld_("status")[1]
    assert re.search(r"^source +/mnt/ml \(tells of its changes\) *$", out, re.MULTILINE)
    assert re.search(r"^writes +back, nothing staged *$", out, re.MULTILINE)
    status["watched"] = False
    status["staged"] |= {"files": 3, "waiting_bytes": 5 << 20, "failing": 1, "aside": 2}
    out = " ".join(swmld_("status")[1].split())
    assert "source /mnt/ml (does not tell of its changes)" in out
    assert "writes back; 3 files staged, 5MiB wait; 1 fail; 2 put aside: swmld staged" in out


def test_stats(fake: Fake, swmld_: Any) -> None:
    code, out, _ = swmld_("stats")
    assert code == 0
    rows = dict(line.rsplit(maxsplit=1) for line in out.splitlines()[2:] if line.strip())
    assert rows["reads_total{native}"] == "1,234,567"
    assert rows["hit_ratio"] == "0.9876"
    assert rows["evictions_total"] == "0"
    assert "reads_total{python}" not in rows
    assert rows["cache_bytes"] == "3GiB"
    assert rows["fetch_duration_seconds{demand,p50}"] == "<=1ms"


def test_stats_watch_shows_rates_until_ctrl_c(
    fake: Fake, swmld_: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def later(seconds: float) -> None:
        before = fake.answers["stats"]
        if before["uptime"] > STATS["uptime"]:
            raise KeyboardInterrupt
        reads = {"reads_total": {"native": 1234567 + 500}}
        fake.answers["stats"] = {**before, "uptime": before["uptime"] + 2, "metrics": reads}

    monkeypatch.setattr("swmld.cli.stats.time.sleep", later)
    code, out, _ = swmld_("stats", "--watch")
    assert code == 130
    rows = [line.split() for line in out.splitlines() if line.startswith("reads_total{native}")]
    assert rows[-1] == ["reads_total{native}", "1,235,067", "250"]
    fake.answers["stats"] = {**STATS}
    code, out, _ = swmld_("stats", "--watch", "--json")
    assert (code, len(out.splitlines())) == (130, 2)


def test_a_reader_that_closes_the_pipe_is_no_traceback(fake: Fake, run_dir: Path) -> None:
    entry = {
        "path": "x" * 100,
        "size": 1,
        "cached_bytes": 1,
        "state": "complete",
        "last_used": 0.0,
        "pinned": False,
    }
    fake.progress = [{"entries": [entry] * 1000}] * 5
    fake.answers["cache.ls"] = {"files": 5000, "bytes": 5000}
    argv = [sys.executable, "-m", "swmld.cli", "cache", "ls", "--json", "--run-dir", str(run_dir)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_quantiles() -> None:
    assert quantile([1.0, 2.0], [5, 4, 1], 0.5) == 1.0
    assert quantile([1.0, 2.0], [5, 4, 1], 0.9) == 2.0
    assert quantile([1.0, 2.0], [5, 4, 1], 0.99) == float("inf")
    assert quantile([1.0], [0, 0], 0.5) is None
    assert flat({"x": {"a": 1.0}, "y": 2.0}) == {"x{a}": 1.0, "y": 2.0}


def test_warmup(fake: Fake, swmld_: Any) -> None:
    fake.progress = [{"done_bytes": 1, "total_bytes": 2, "done_files": 0, "total_files": 1}]
    fake.answers["warmup"] = {
        "files": 2, "fetched_bytes": 8 << 20, "skipped_bytes": 1 << 20, "failed_files": 0, "failed": [],
        "seconds": 2.0,
    }  # fmt: skip
    code, out, _ = swmld_("warmup", "/mnt/ml/a", f"/mnt/ml/{ODD_NAME}")
    assert code == 0
    assert fake.requests[-1] == ("warmup", {"paths": ["/mnt/ml/a", f"/mnt/ml/{ODD_NAME}"]})
    assert out == "2 files: fetched 8MiB in 2s (4MiB/s), 1MiB were cached already\n"


def test_warmup_tells_what_failed(fake: Fake, swmld_: Any) -> None:
    fake.answers["warmup"] = {
        "files": 1, "fetched_bytes": 0, "skipped_bytes": 0, "failed_files": 1, "seconds": 0.0,
        "failed": [{"path": ODD_NAME, "error": "Input/output error"}],
    }  # fmt: skip
    code, _, err = swmld_("warmup", "x")
    assert code == 1
    assert err == r"swmld: bad\udcff\n\x1b[31m: Input/output error" + "\nswmld: 1 files failed\n"


@pytest.mark.parametrize(
    ("full", "failed", "lines"),
    [
        ("size", 0, ["the cache is full: 20MiB (--cache-size); 45 files, 25 left out (25MiB)"]),
        ("disk", 0, ["the cache is full: its disk has room for 20MiB (--free-floor stays free); 45 files, "
                     "25 left out (25MiB)"]),
        ("use", 2, ["the cache is full of what it keeps: pinned, in use, or read more often; 45 files, "
                    "25 left out (25MiB)", "2 files failed"]),
    ],
)  # fmt: skip
def test_warmup_tells_what_was_left_out(
    full: str, failed: int, lines: list[str], fake: Fake, swmld_: Any
) -> None:
    fake.answers["warmup"] = {
        "files": 45, "fetched_bytes": 20 << 20, "skipped_bytes": 0, "failed_files": failed, "failed": [],
        "seconds": 2.0, "full": full, "room_bytes": 20 << 20, "left_out_files": 25,
        "left_out_bytes": 25 << 20,
    }  # fmt: skip
    code, out, err = swmld_("warmup", "x")
    assert (code, out[:31]) == (1, "45 files: fetched 20MiB in 2s (")
    assert err.splitlines() == [f"swmld: {line}" for line in lines]
    fake.answers["warmup"] |= {"full": "", "left_out_files": 0, "failed_files": 0}
    assert swmld_("warmup", "x")[::2] == (0, "")


def test_warmup_of_a_path_that_is_not_there(fake: Fake, swmld_: Any) -> None:
    fake.answers["warmup"] = UsageError("/mnt/ml/x: No such file or directory")
    assert swmld_("warmup", "/mnt/ml/x") == (2, "", "swmld: /mnt/ml/x: No such file or directory\n")


def test_cache_ls(fake: Fake, swmld_: Any) -> None:
    entry = {
        "path": ODD_NAME, "size": 4 << 20, "cached_bytes": 1 << 20, "state": "partial", "last_used": 0.0,
        "pinned": True,
    }  # fmt: skip
    fake.progress = [{"entries": [entry, entry]}, {"entries": [entry]}]
    fake.answers["cache.ls"] = {"files": 3, "bytes": 3 << 20}
    code, out, err = swmld_("cache", "ls")
    assert code == 0
    assert fake.requests[-1] == ("cache.ls", {})
    assert (
        out.splitlines()
        == [r"     1MiB of      4MiB  25%  partial                  -  bad\udcff\n\x1b[31m pinned"] * 3
    )
    assert err == "3 files, 3MiB cached\n"
    lines = swmld_("cache", "ls", "--json")[1].splitlines()
    assert [json.loads(line) for line in lines] == [entry] * 3
    fake.progress = [{"entries": [entry | {"state": "complete", "pinned": False}]}]
    assert swmld_("cache", "ls")[1].startswith("     1MiB of      4MiB 100%  complete"), "compressed"


def test_cache_verify(fake: Fake, swmld_: Any) -> None:
    fake.answers["cache.verify"] = {"files": 2, "chunks": 5, "bad": 1, "mended": 1, "failed": []}
    assert swmld_("cache", "verify", "/mnt/ml") == (0, "2 files, 5 chunks checked: 1 bad, 1 mended\n", "")
    fake.answers["cache.verify"] = {"files": 2, "chunks": 5, "bad": 3, "mended": 1, "failed": []}
    code, out, err = swmld_("cache", "verify", "/mnt/ml")
    assert (code, out[:7]) == (1, "2 files")
    assert err.startswith("swmld: 2 chunks could not be mended")
    fake.answers["cache.verify"] = {
        "files": 2, "chunks": 5, "bad": 1, "mended": 0, "failed": [{"path": "a", "error": "source gone"}],
    }  # fmt: skip
    assert swmld_("cache", "verify", "/mnt/ml")[0] == 1


def test_cache_drop(fake: Fake, swmld_: Any) -> None:
    fake.answers["cache.drop"] = {"files": 2, "bytes": 1 << 30}
    assert swmld_("cache", "drop", "/mnt/ml/a") == (0, "dropped 2 files, 1GiB\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    assert "_SWMLD_COMPLETE" in capsys.readouterr().out


def test_the_man_page_has_every_command_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["man"]) == 0
    page = capsys.readouterr().out
    root = get_command(app)
    for _, command in [("", root), *man.subcommands(root)]:
        for name, text in man.options(command):
            assert man.bold(name) in page
            assert man.roff(text) in page
    for line in page.splitlines():
        assert not line.startswith("'")
    assert page.startswith(".TH SWMLD 8 ")


def test_roff_prints_text_as_it_is() -> None:
    assert man.roff(".dot\n'quote\nback\\slash --opt [bold]b[/bold]") == (
        "\\&.dot\n\\&'quote\nback\\eslash \\-\\-opt b"
    )


# --- before the start ---


def settings(tmp_path: Path, **options: Any) -> Settings:
    given = {
        "mount": tmp_path / "mnt",
        "cache_dir": tmp_path / "cache",
        "run_dir": tmp_path / "run",
        **options,
    }
    return Settings(**given)


def refused(given: Settings) -> str:
    with pytest.raises(UsageError) as caught:
        preflight.check(given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.os, "geteuid", lambda: 0)


@pytest.mark.usefixtures("as_root")
class TestPreflight:
    def test_a_filled_directory_is_fine(self, tmp_path: Path) -> None:
        (tmp_path / "mnt" / "x").mkdir(parents=True)
        preflight.check(settings(tmp_path))

    def test_missing_and_empty_name_the_demo(self, tmp_path: Path) -> None:
        mount = tmp_path / "mnt"
        demo = f"; to try swmld on a small sample: swmld --mount {mount} --demo"
        assert refused(settings(tmp_path)) == f"mount point {mount} does not exist{demo}"
        mount.mkdir()
        assert refused(settings(tmp_path)).endswith(demo)
        (tmp_path / "src").mkdir()
        preflight.check(settings(tmp_path, source=tmp_path / "src"))  # an empty mount point is right then

    def test_with_a_source_the_mount_point_is_to_be_made(self, tmp_path: Path) -> None:
        assert f"mkdir -p {tmp_path}/mnt" in refused(settings(tmp_path, source=tmp_path))

    def test_not_a_directory(self, tmp_path: Path) -> None:
        (tmp_path / "mnt").touch()
        assert refused(settings(tmp_path)) == f"mount point {tmp_path}/mnt is not a directory"
        assert "cannot be used: Not a directory" in refused(settings(tmp_path, mount=tmp_path / "mnt" / "x"))

    def test_the_source(self, tmp_path: Path) -> None:
        (tmp_path / "mnt").mkdir()
        source = tmp_path / "src"
        assert refused(settings(tmp_path, source=source)) == f"source {source} does not exist"
        source.touch()
        assert refused(settings(tmp_path, source=source)) == f"source {source} is not a directory"

    @pytest.mark.parametrize(
        ("mount", "source", "cache", "said"),
        [
            ("m", None, "m/c", "lies on the mount"),
            ("m", None, "m", "lies on the mount"),
            ("m", None, "link/c", "lies on the mount"),
            ("c/m", None, "c", "lies in the cache directory"),
            ("m", "s", "s/c", "lies in the source"),
            ("m", "c/s", "c", "lies in the cache directory"),
            ("s/m", "s", "c", "would then hold itself"),
        ],
    )
    def test_nested(self, tmp_path: Path, mount: str, source: str | None, cache: str, said: str) -> None:
        for name in (mount, source, "m"):
            if name is not None:
                (tmp_path / name / "x").mkdir(parents=True, exist_ok=True)
        (tmp_path / "link").symlink_to("m")
        given = settings(
            tmp_path,
            mount=tmp_path / mount,
            source=None if source is None else tmp_path / source,
            cache_dir=tmp_path / cache,
        )
        assert said in refused(given)

    def test_a_served_mount(self, tmp_path: Path) -> None:
        with Fake(tmp_path / "run", str(tmp_path / "mnt")):
            assert refused(settings(tmp_path)) == f"{tmp_path}/mnt is already served by swmld (pid 4242)"

    def test_a_dead_mount_is_left_to_the_daemon(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def dead(path: Any, *_: Any, **__: Any) -> os.stat_result:
            raise OSError(107, "Transport endpoint is not connected")

        monkeypatch.setattr(preflight.os, "stat", dead)
        preflight.check(settings(tmp_path))


def test_not_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.os, "geteuid", lambda: 1000)
    assert "needs root" in refused(settings(tmp_path))


# --- rules ---


def rules(*ids: str, left_out: int = 0) -> dict[str, Any]:
    return {
        "rules": [{"id": one, "title": f"{one} (template t)"} for one in ids],
        "inactive": [{"title": "off (template t)", "why": "disabled"}],
        "left_out": left_out,
    }


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("imges", "no active rule imges; did you mean images?"),
        ("nope", "no active rule nope; swmld rules ls lists them"),
        ("off", "rule off is not in use: disabled"),
    ],
)
def test_a_rule_that_nothing_was_decided_by_may_be_misspelt(
    rule: str, told: str, fake: Fake, swmld_: Any
) -> None:
    fake.answers |= {"history": {"decisions": [], "total": 9, "more": False}, "rules": rules("images", "b")}
    assert swmld_("history", "--rule", rule) == (2, "", f"swmld: {told}\n")
    for known in ("images", "images (template t)"):
        assert swmld_("history", "--rule", known) == (0, "", "no such decision\n")
    fake.answers["rules"] = {**rules(), "inactive": []}
    assert swmld_("history", "--rule", rule)[2] == f"swmld: no active rule {rule}: the daemon has none\n"


def test_every_page_of_rules_is_asked_for(fake: Fake, swmld_: Any) -> None:
    fake.answers |= {"history": {"decisions": [], "total": 9, "more": False}, "rules": rules("a", left_out=1)}
    fake.pages["rules"] = [rules("a", left_out=1), rules("b")]
    assert swmld_("history", "--rule", "b")[0] == 0
    assert [params for method, params in fake.requests if method == "rules"] == [{"offset": 0}, {"offset": 1}]


def test_rules_are_about_files(run_dir: Path, swmld_: Any, tmp_path: Path) -> None:
    (tmp_path / "mount" / "train").mkdir(parents=True)
    with Fake(run_dir, str(tmp_path / "mount")) as one:
        for path in (str(tmp_path / "mount" / "train"), "train", str(tmp_path / "mount")):
            told = f"swmld: {path} is a directory, and rules are about files: name one of them\n"
            assert swmld_("explain", path) == (2, "", told)
        assert all(method == "status" for method, _ in one.requests)


# --- the demo's sample; the demo as a whole is tested with a mount ---


def test_the_demo_leaves_other_directories_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(UsageError, match="is not empty"):
        sample.create(tmp_path)
    assert os.listdir(tmp_path) == ["mine"]


def test_the_sample_is_made_once_and_is_what_its_list_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "IMAGES", 4)
    monkeypatch.setattr(sample, "SHARD_SAMPLES", 2)
    monkeypatch.setattr(sample, "TENSORS", 1)
    files = sample.create(tmp_path / "new" / "demo")
    assert [file.kind for file in files] == ["images"] * 4 + ["shard", "tensors"]
    for file in files:
        path = tmp_path / "new" / "demo" / file.path
        assert (path.stat().st_size, sample.digest(path)) == (file.size, file.sha256)
        assert stat.S_ISREG(path.stat().st_mode)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert sample.create(tmp_path / "new" / "demo") == files
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    paths = [tmp_path / "new" / "demo" / file.path for file in files]
    assert sample.read_all(paths) == sum(file.size for file in files)


def test_a_broken_list_is_told(tmp_path: Path) -> None:
    (tmp_path / sample.MANIFEST).write_text("[{}]")
    with pytest.raises(UsageError, match="remove the directory"):
        sample.create(tmp_path)


def test_the_daemons_modes_are_handed_on() -> None:
    assert demo_command.mode_options(True, True) == []
    assert demo_command.mode_options(False, False) == ["--no-passthrough", "--no-native"]
    base = ["--cache-dir", "/b/cache", "--run-dir"]
    assert demo_command.Places().options(Path("/b")) == [*base, "/b/run"]
    places = demo_command.Places("/c", "/r", "/s")
    assert places.options(Path("/b")) == [*base, "/r", "--state-dir", "/s"]


@pytest.mark.parametrize("words", [["demo"], ["--demo", "--mount"]])
def test_the_demo_takes_directories(
    words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(demo_command, "run", lambda *arguments: given.append(arguments))
    places = ["--cache-dir", "/c", "--run-dir", "/r", "--state-dir", "/s"]
    assert run([*words, str(tmp_path), *places, "--no-native"]) == 0
    assert given == [(tmp_path, ["--no-native"], demo_command.Places("/c", "/r", "/s"))]


# --- text ---


def test_names_are_safe_to_print() -> None:
    assert printable(ODD_NAME) == r"bad\udcff\n\x1b[31m"
    assert printable("plain é 漢") == "plain é 漢"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("short", "short\n"),
        ("  is in /a/b.yaml:3, by one; of", "  is in\n      /a/b.yaml:3,\n      by one; of\n"),
        ("a word of twenty-one characters", "a word of\n    twenty-one\n    characters\n"),
    ],
)
def test_a_long_line_is_broken_between_words_in_a_terminal_alone(line: str, shown: str) -> None:
    for terminal, expected in ((True, shown), (False, line + "\n")):
        file = io.StringIO()
        put(Console(file=file, width=20, force_terminal=terminal, color_system=None), Text(line))
        assert "".join(f"{each.rstrip()}\n" for each in file.getvalue().splitlines()) == expected


def test_prose_joins_lines_but_not_examples() -> None:
    assert prose("one\ntwo\n\n  example\n\nthree\nfour\n") == "one two\n\n  example\n\nthree four"
