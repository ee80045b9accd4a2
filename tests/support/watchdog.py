"""Ends daemons under test when a test outlives its time, so that what hangs on their mount fails instead.

A test process that waits for a page of a hung mount holds Python's lock: no thread and no signal handler of
its own can run then. So the watchdog is a process beside it, told over a pipe which daemons live and how long
a test may take. It also ends what is left when the test process itself dies, of a SIGBUS say.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time


class Watchdog:
    """Speaks to one watchdog process; started on first use, ends when this process does (its pipe closes)."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def _tell(self, line: str) -> None:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE)
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def arm(self, seconds: float) -> None:
        self._tell(f"arm {seconds}")

    def disarm(self) -> None:
        self._tell("arm 0")

    def watch(self, pid: int, mount: str | os.PathLike[str]) -> None:
        self._tell(f"watch {pid} {os.fspath(mount)}")

    def unwatch(self, pid: int) -> None:
        self._tell(f"unwatch {pid}")

    def close(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait(10)
            self._process = None


watchdog = Watchdog()


def _obey(line: str, daemons: dict[int, str], deadline: float | None) -> float | None:
    word, value, *more = line.split(" ", 2)
    if word == "arm":
        return time.monotonic() + float(value) if float(value) else None
    if word == "watch":
        daemons[int(value)] = more[0]
    else:
        daemons.pop(int(value), None)
    return deadline


def _end(daemons: dict[int, str], why: str) -> None:
    for pid in daemons:
        print(f"\nwatchdog: {why}, ending daemon {pid}", file=sys.stderr, flush=True)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def main() -> None:
    daemons: dict[int, str] = {}
    deadline: float | None = None
    pending = b""
    while True:
        wait = None if deadline is None else max(0.0, deadline - time.monotonic())
        if select.select([0], [], [], wait)[0]:
            part = os.read(0, 4096)
            if not part:
                _end(daemons, "the tests died")
                for mount in daemons.values():
                    subprocess.run(["umount", "--lazy", mount], stderr=subprocess.DEVNULL, check=False)
                return
            *lines, pending = (pending + part).split(b"\n")
            for line in lines:
                deadline = _obey(line.decode(), daemons, deadline)
        if deadline is not None and time.monotonic() >= deadline:
            _end(daemons, "out of time")
            daemons.clear()
            deadline = None


if __name__ == "__main__":
    main()
