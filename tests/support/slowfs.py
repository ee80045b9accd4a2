"""Build and run ``slowfs``: the slow, and on request broken, source (see the head of slowfs.c)."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from support import gates, posix

_HERE = Path(__file__).parent


@functools.cache
def compile_c(source: Path, *packages: str) -> Path:
    """Compile one C file of the tests for this session; packages are pkg-config names."""
    directory = Path(tempfile.mkdtemp(prefix="swmld-build-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    binary = directory / source.stem
    flags: list[str] = []
    if packages:
        asked = subprocess.check_output(["pkg-config", "--cflags", "--libs", *packages], text=True)
        flags = asked.split()
    subprocess.run(
        ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", binary, source, *flags, "-lpthread"], check=True
    )
    return binary


class SlowFs:
    """A mounted slowfs over ``backing``; a context manager. Delays in milliseconds, rate in MB/s."""

    def __init__(
        self,
        base: Path,
        backing: Path,
        *,
        read_ms: float = 0,
        meta_ms: float = 0,
        rate: int = 0,
        cache_seconds: float = 0,
        direct_io: bool = False,
        hard: bool = False,
        readahead_kib: int | None = None,
    ) -> None:
        gates.require("fuse", "libfuse")
        self.backing, self.path = backing, base / "slow"
        self.path.mkdir(parents=True, exist_ok=True)
        # Unix socket paths hold 107 bytes and temporary directories of tests can be longer.
        self._run = Path(tempfile.mkdtemp(prefix="slowfs-"))
        self._options = [f"--delay-read-ms={read_ms}", f"--delay-meta-ms={meta_ms}", f"--rate={rate}"]
        self._options += [f"--cache-seconds={cache_seconds}", f"--control={self._run}/control"]
        self._options += ["--direct-io"] * direct_io + ["--hard"] * hard
        self._readahead_kib = readahead_kib
        self._process: subprocess.Popen[str] | None = None
        self._socket: socket.socket | None = None

    def __enter__(self) -> SlowFs:
        binary = compile_c(_HERE / "slowfs.c", "fuse3")
        self._process = subprocess.Popen(
            [binary, *self._options, self.backing, self.path], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "slowfs: ready\n":
            self._end()
            raise AssertionError("slowfs did not start")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._run / "answers"))
        self._socket.settimeout(10)
        if self._readahead_kib is not None:
            self._bdi().write_text(str(self._readahead_kib))
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.set("ok")
        self._end()

    def _bdi(self) -> Path:
        dev = os.stat(self.path).st_dev
        return Path(f"/sys/class/bdi/{os.major(dev)}:{os.minor(dev)}/read_ahead_kb")

    def _end(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)  # libfuse unmounts lazily
            try:
                if self._process.wait(10) < 0:
                    posix.umount(self.path)
            except subprocess.TimeoutExpired:
                posix.umount(self.path)
                self._process.kill()
                self._process.wait(10)
            if self._process.stdout is not None:
                self._process.stdout.close()
        if self._socket is not None:
            self._socket.close()
        for name in ("control", "answers"):
            (self._run / name).unlink(missing_ok=True)
        self._run.rmdir()

    def _ask(self, command: str) -> str:
        assert self._socket is not None
        self._socket.sendto(command.encode(), str(self._run / "control"))
        return self._socket.recv(1024).decode()

    def set(self, command: str, value: float | None = None) -> None:
        """One command of slowfs.c: ``ok``, ``hang`` and so on, or a figure (``rate``) with a value."""
        answer = self._ask(command if value is None else f"{command} {value}")
        assert answer == "ok", f"slowfs: {command}: {answer}"

    def kill(self) -> None:
        """SIGKILL: the mount stays and answers ENOTCONN, as that of a server that is gone for good."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def stats(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._ask("stats"))
        return answer
