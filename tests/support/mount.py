"""Run a daemon of the test's own: its source, mount, cache and logs in one directory, all gone afterwards.

    with Daemon(work_dir, mode="native") as daemon:
        (daemon.source / "file").write_bytes(b"...")
        assert (daemon.mount / "file").read_bytes() == b"..."

Leaving the block ends the process (SIGTERM, then SIGKILL by its pid), detaches its own mount if one is
left, and fails where anything had to be forced or was left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from swmld.api.client import Client

from support import posix
from support.watchdog import watchdog

READY_SECONDS = 30.0  # the promise is 1.5 s; a loaded machine under test gets more before it counts as a hang
STOP_SECONDS = 30.0
MODES: dict[str, list[str]] = {
    "passthrough": [],
    "native": ["--no-passthrough", "--no-fuse-uring"],
    "python": ["--no-native"],
}
_TROUBLE = re.compile(r"^\S+Z (warning|error|critical) |^Traceback|^\w*(Error|Exception)\b|Sanitizer")


def command() -> list[str]:
    """The swmld of the environment that runs the tests."""
    beside = Path(sys.executable).with_name("swmld")
    found = str(beside) if beside.exists() else shutil.which("swmld")
    if found is None:
        pytest.fail("swmld is not installed beside the interpreter that runs the tests", pytrace=False)
    return [found]


def swmld(*args: str | os.PathLike[str], timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run one swmld command to its end; never raises on its exit code."""
    argv = [*command(), *(os.fspath(arg) for arg in args)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)


LIVE: set[Daemon] = set()  # running now: whose logs a failing test shows


class DaemonError(AssertionError):
    """The daemon did not do what every test relies on; the log's end is in the message."""


class Daemon:
    """One swmld process. ``source=None`` serves the mount directory itself (no --source)."""

    def __init__(
        self,
        base: Path,
        mode: str = "passthrough",
        *,
        source: Path | bool | None = True,
        cache: Path | None = None,
        mount: Path | None = None,
        options: Sequence[str] = (),
        config: str | None = None,
        expect_log: Sequence[str] = (),
        wrap: Sequence[str] = (),
    ) -> None:
        self.base, self.mode = base, mode
        self.mount = mount or _make(base / "mnt")
        self.source = _make(base / "src") if source is True else (source or self.mount)
        self.in_place = source in (None, False)
        self.cache = cache or base / "cache"
        self.options = list(options)
        self.wrap = list(wrap)  # a command that runs the daemon with, say, other limits
        self.expected_log = list(expect_log)
        self.config = None
        if config is not None:
            self.config = base / "swmld.yaml"
            self.config.write_text(config)
        self.process: subprocess.Popen[bytes] | None = None
        self.log = base / "daemon.log"
        self.run_dir = base / "run"
        self._metrics_at: str | None = None
        self._checked = 0  # bytes of the log that a check has passed

    # --- life ---

    def argv(self) -> list[str]:
        args = [*self.wrap, *command(), "--mount", str(self.mount), *MODES[self.mode]]
        args += ["--cache-dir", str(self.cache), "--run-dir", str(self.run_dir)]
        if not self.in_place:
            args += ["--source", str(self.source)]
        if self.config is not None:
            args += ["--config", str(self.config)]
        if "--state-dir" not in self.options:
            args += ["--state-dir", str(self.base / "state")]
        if "--probe" not in self.options:  # a compiler at each start; t4_bpf is where the probes are tested
            args += ["--probe", "off"]
        if "--metrics-address" not in self.options:
            args += ["--metrics-address", "127.0.0.1:0"]
        return args + self.options

    def start(self, timeout: float = READY_SECONDS) -> float:
        """Start and wait for the ready line; returns the seconds it took."""
        begun = time.monotonic()
        at = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.argv(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment()
            )
        self._metrics_at = None
        LIVE.add(self)
        watchdog.watch(self.process.pid, self.mount)
        while time.monotonic() - begun < timeout:
            if b"swmld: ready" in self.log.read_bytes()[at:]:
                return time.monotonic() - begun
            if self.process.poll() is not None:
                raise DaemonError(f"exit {self.process.returncode} before it was ready\n{self.tail()}")
            time.sleep(0.005)
        raise DaemonError(f"not ready within {timeout} s\n{posix.where(self.pid)}\n{self.tail()}")

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """SIGTERM; the process must unmount and exit 0 by itself."""
        process = self._process()
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            kernel = posix.where(process.pid)
            self._force()
            raise DaemonError(f"SIGTERM did not end it in {timeout} s\n{kernel}\n{self.tail()}") from None
        self._gone()
        left = self._is_mounted()
        self._detach()
        if code != 0 or left:
            raise DaemonError(f"exit {code} after SIGTERM, mount left: {left}\n{self.tail()}")

    def kill9(self) -> None:
        """SIGKILL; the dead mount stays, as after a crash."""
        process = self._process()
        process.kill()
        process.wait(STOP_SECONDS)
        self._gone()

    def restart(self) -> float:
        """Stop if it runs, then start on the same directories; the seconds to ready."""
        if self.process is not None:
            self.stop()
        return self.start()

    @property
    def pid(self) -> int:
        return self._process().pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def __enter__(self) -> Daemon:
        try:
            self.start()
            status = self.status()
            if status["mode"] != self.mode:  # a silent fallback would let every test of the mode pass unseen
                raise DaemonError(f"{self.mode} was asked for: {status}\n{self.tail()}")
        except BaseException:
            self._force()
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if error is not None:
            error.add_note(self.tail())
        try:
            if self.process is not None and kind is None:
                died = self.process.poll()
                if died is not None:
                    raise DaemonError(f"died by itself with exit {died}\n{self.tail()}")
                self.stop()
        finally:
            self._force()
        if kind is None:
            self.check_log()

    def _process(self) -> subprocess.Popen[bytes]:
        assert self.process is not None, "the daemon is not running"
        return self.process

    def _force(self) -> None:
        """Leave no process and no mount, whatever state they are in."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            self._detach()  # ends what hangs on the mount, and with it the process
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
            self._gone()
        self._detach()

    def _gone(self) -> None:
        watchdog.unwatch(self.pid)
        self.process = None
        LIVE.discard(self)

    def _detach(self) -> None:
        with contextlib.suppress(OSError):
            while self._is_mounted():
                posix.umount(self.mount)

    def _is_mounted(self) -> bool:
        """Whether swmld's own mount is there; in place, it covers what may be a mount as well."""
        return posix.mounts().get(str(self.mount)) == "fuse.swmld"

    # --- what it says ---

    def tail(self, lines: int = 60) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return f"--- {self.log} ---\n" + "\n".join(text.splitlines()[-lines:])

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def expect_log(self, pattern: str) -> None:
        """Announce a warning that the test provokes (regular expression)."""
        self.expected_log.append(pattern)

    def check_log(self) -> None:
        """Fail on a WARNING, an ERROR or a traceback since the last check that no test announced."""
        fresh = self.log.read_bytes()[self._checked :] if self.log.exists() else b""
        self._checked += len(fresh)
        for line in fresh.decode(errors="replace").splitlines():
            if _TROUBLE.search(line) and not any(re.search(pattern, line) for pattern in self.expected_log):
                raise DaemonError(f"unannounced trouble in the log: {line}\n{self.tail()}")

    def stats(self) -> dict[str, Any]:
        """``metrics`` of ``swmld stats --json``."""
        answer: dict[str, Any] = json.loads(self.ask("stats", "--mount", self.mount, "--json"))["metrics"]
        return answer

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.call("status")
        return answer

    def call(self, method: str, timeout: float = 60.0, **params: Any) -> Any:
        """One request on the control socket, without the cost of a command's start (0.6 s)."""
        sockets = list(self.run_dir.glob("*.sock"))
        assert len(sockets) == 1, f"expected one control socket, found {sockets}"
        with Client(sockets[0], timeout=timeout) as client:
            return client.call(method, params)

    def cached_bytes(self, name: str) -> int:
        """Bytes that the cache holds of what lies at or below this name, counted from the mount."""
        total: dict[str, int] = self.call("cache.ls", path=name)
        return total["bytes"]

    def command(self, *args: str | Path, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """One command that talks to this daemon."""
        return swmld(*args, "--run-dir", self.run_dir, timeout=timeout)

    def ask(self, *args: str | Path, timeout: float = 60.0) -> str:
        """As ``command``; its standard output. It must succeed."""
        done = self.command(*args, timeout=timeout)
        assert done.returncode == 0, f"{args}: exit {done.returncode}: {done.stderr}\n{self.tail()}"
        return done.stdout

    def metrics(self) -> dict[str, float]:
        """Prometheus samples by ``name{labels}`` as printed."""
        with urllib.request.urlopen(f"http://{self.metrics_address()}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        lines = (line for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def metrics_address(self) -> str:
        if self._metrics_at is None:
            self._metrics_at = str(self.status()["metrics"])
        return self._metrics_at

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples of this name that carry these labels; 0 where there is none yet."""
        return total(self.metrics(), name, **labels)


def total(metrics: dict[str, float], name: str, **labels: str) -> float:
    """As ``Daemon.metric``, of what ``Daemon.metrics`` returned."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(
        value
        for sample, value in metrics.items()
        if sample.partition("{")[0] == name and all(label in sample for label in wanted)
    )


def _make(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o755)
    return path


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
