"""What rules want told: real commands, a real HTTP server, and a clock of the test's own for the log."""

from __future__ import annotations

import contextlib
import http.server
import json
import logging
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from swmld.documents import parse
from swmld.head import notify
from swmld.head.history import History
from swmld.head.notify import Notifier
from swmld.rules.decide import Engine
from swmld.rules.facts import of_path
from swmld.rules.loading import load

pytestmark = pytest.mark.trio


async def eventually(done: Callable[[], bool]) -> None:
    """Wait for a condition; the deadline is far beyond what it takes."""
    with trio.fail_after(30):
        while not done():  # noqa: ASYNC110  (files and processes set no event)
            await trio.sleep(0.005)


class Telling:
    """A notifier with rules that give these parameters of ``notify``, each in a rule of its own."""

    def __init__(self, *rules: dict[str, str]) -> None:
        self.now = 0.0
        self.notifier = Notifier(Path("/mnt/ml"), lambda: self.now)
        raw = [
            {"id": f"r{number}", "conditions": [], "actions": [{"type": "notify", "parameters": given}]}
            for number, given in enumerate(rules)
        ]
        self._engine = Engine(load([parse("r.yaml", json.dumps({"rules": raw}).encode())]).rules)
        self._history = History(lambda: 1234.5)

    def tell(self, path: str = "a/b.pt", pid: int = 42) -> None:
        self.notifier.tell(self._history.add(path, pid, self._engine.decide(of_path(path))))

    async def until(self, **results: int) -> None:
        """Wait for a number of results."""
        await eventually(lambda: self.results == results)

    @property
    def results(self) -> dict[str, int]:
        return {"_".join(key): number for key, number in self.notifier.notifications.items()}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.notifier.run)
            yield
            nursery.cancel_scope.cancel()


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """A program of some lines of shell; how a rule names it. None that is left runs on after the test."""
    path, pids = tmp_path / "a program", tmp_path / "pids"

    def write(lines: str) -> str:
        path.write_text(f"#!/bin/sh\necho $$ >> '{pids}'\n{lines}")
        path.chmod(0o755)
        return f"'{path}'"

    yield write
    for pid in pids.read_text().split() if pids.exists() else ():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if os.fsencode(path) in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(int(pid), signal.SIGKILL)


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


async def test_an_event_is_counted_and_told_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    it = Telling({"event": "opened"}, {"command": "true"})
    with caplog.at_level(logging.INFO):
        for it.now in (0.0, 0.1, 0.9, 1.0):
            it.tell()
    assert it.notifier.events == {"opened": 4, "r1": 4}
    assert it.results == {}, "nothing runs before run does"
    told = [record for record in caplog.records if record.getMessage() == "event opened"]
    assert [getattr(record, "more", None) for record in told] == [None, 2]
    assert (told[0].path, told[0].pid, told[0].rule, told[0].decision) == ("a/b.pt", 42, "r0", 1)  # type: ignore[attr-defined]
    assert messages(caplog, logging.INFO).count("event r1") == 2


async def test_events_beyond_a_number_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "NAMED", 2)
    it = Telling(*({"event": f"e{number}"} for number in range(4)))
    it.tell()
    it.tell()
    assert it.notifier.events == {"e0": 2, "e1": 2, notify.OTHERS: 4}


async def test_a_command_gets_the_event_on_its_input_and_no_shell(script: Any, tmp_path: Path) -> None:
    command = script(f'cat > "{tmp_path}/$1"; umask > {tmp_path}/umask; pwd > {tmp_path}/cwd\n')
    it = Telling({"event": "opened", "command": f"{command} '$(id);*'"})
    before = os.umask(0)  # as in the daemon
    try:
        async with it.running():
            it.tell()
            await it.until(command_done=1)
    finally:
        os.umask(before)
    assert json.loads((tmp_path / "$(id);*").read_text()) == {
        "event": "opened", "rule": "r0", "mount": "/mnt/ml", "path": "a/b.pt", "pid": 42, "at": 1234.5,
        "decision": 1, "rules": ["r0"],
    }  # fmt: skip
    assert int((tmp_path / "umask").read_text(), 8) == 0o022
    assert (tmp_path / "cwd").read_text() == "/\n"


async def test_odd_paths_reach_a_command(script: Any, tmp_path: Path) -> None:
    it = Telling({"command": script(f"cat > {tmp_path}/out\n")})
    odd = os.fsdecode(b"a\xff\n'\"")
    async with it.running():
        it.tell(odd)
        await it.until(command_done=1)
    assert json.loads((tmp_path / "out").read_text())["path"] == odd


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("/nowhere/program", "No such file or directory"),
        ("sh -c 'exit 3'", "exit code 3"),
        ("sh -c 'kill -9 $$'", "ended by SIGKILL"),
        ("'", "No closing quotation"),
        (" ", "no program is named"),
    ],
)
async def test_what_fails_is_counted_and_told_once_a_minute(
    command: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    it = Telling({"command": command})
    async with it.running():
        for number, it.now in enumerate((0.0, 10.0, 59.9, 60.0), 1):
            it.tell()
            await it.until(command_failed=number)
    told = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in told] == [f"command of a rule failed: {why}"] * 2
    assert [getattr(record, "more", None) for record in told] == [None, 2]
    assert (told[0].rule, told[0].what) == ("r0", command)  # type: ignore[attr-defined]


async def test_a_command_that_takes_too_long_is_ended(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notify, "COMMAND_TIME", 0.2)
    it = Telling({"command": "sleep 1000"})
    async with it.running():
        it.tell()
        await it.until(command_failed=1)
    assert messages(caplog, logging.WARNING) == ["command of a rule failed: it ran for more than 0.2 seconds"]


async def test_a_command_that_runs_at_the_end_is_ended_with_what_it_started(
    script: Any, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    it = Telling({"command": script(f"sleep 1000 & echo $! > {pid}.new; mv {pid}.new {pid}; wait\n")})
    async with it.running():
        it.tell()
        await eventually(pid.exists)
    await gone(int(pid.read_text()))


async def gone(pid: int) -> None:
    """Wait until the process has ended; whose child it became may not have reaped it yet."""

    def ended() -> bool:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except FileNotFoundError:
            return True
        return stat.rpartition(")")[2].split()[0] == "Z"

    await eventually(ended)


async def test_a_command_that_ignores_the_request_to_end_is_killed(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "COMMAND_TIME", 0.2)
    monkeypatch.setattr(notify, "MERCY", 0.05)
    it = Telling({"command": script("trap '' TERM; while :; do sleep 0.01; done\n")})
    async with it.running():
        it.tell()
        await it.until(command_failed=1)


async def test_some_run_at_once_some_wait_and_the_rest_is_dropped(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notify, "QUEUE", notify.AT_ONCE)
    started = tmp_path / "started"
    os.mkfifo(tmp_path / "go")
    started.touch()
    it = Telling({"command": script(f"echo x >> {started}; read line < {tmp_path}/go\n")})
    async with it.running():
        for _ in range(notify.AT_ONCE):
            it.tell()
        await eventually(lambda: started.stat().st_size == 2 * notify.AT_ONCE)
        for _ in range(6):
            it.tell()
        assert it.results == {"command_dropped": 2}
        # Both ends, so that nobody waits for the other; each line lets one go on.
        gate = os.open(tmp_path / "go", os.O_RDWR)
        try:
            assert started.stat().st_size == 2 * notify.AT_ONCE, "no more of them run at once"
            os.write(gate, b"\n" * 8)
            await it.until(command_dropped=2, command_done=8)
        finally:
            os.close(gate)
    assert messages(caplog, logging.WARNING) == ["command of a rule failed: 4 of them wait already"]


# ---- webhooks


class Hook(http.server.ThreadingHTTPServer):
    """Notes each request and answers with ``code``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.code = 204
        self.got: list[tuple[str, str, str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook?x=1"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.command, self.path, self.headers["Content-Type"], json.loads(body)))
        self.send_response(self.server.code)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[Hook]:
    with Hook() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


async def test_a_webhook_gets_the_event(hook: Hook) -> None:
    it = Telling({"event": "opened", "webhook": hook.url})
    async with it.running():
        it.tell()
        await it.until(webhook_done=1)
    [(method, path, kind, body)] = hook.got
    assert (method, path, kind) == ("POST", "/hook?x=1", "application/json")
    assert (body["event"], body["path"], body["decision"]) == ("opened", "a/b.pt", 1)


async def test_a_command_and_a_webhook_of_one_rule(hook: Hook) -> None:
    it = Telling({"webhook": hook.url, "command": "true"})
    async with it.running():
        it.tell()
        await it.until(webhook_done=1, command_done=1)


async def test_webhooks_that_fail(hook: Hook, caplog: pytest.LogCaptureFixture) -> None:
    hook.code = 500
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    it = Telling(
        {"webhook": hook.url}, {"webhook": f"http://127.0.0.1:{port}/"},
        {"webhook": "http://["}, {"webhook": "http://127.0.0.1:x/"},
    )  # fmt: skip
    async with it.running():
        it.tell()
        await it.until(webhook_failed=4)
    told = sorted((record.rule, record.getMessage()) for record in caplog.records if record.levelno > 20)  # type: ignore[attr-defined]
    assert [message.removeprefix("webhook of a rule failed: ") for _, message in told][:2] == [
        "answered 500",
        "[Errno 111] Connection refused",
    ]
    assert len(told) == 4


async def test_a_webhook_that_hangs_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    go, called = threading.Event(), []

    def hang(url: str, body: bytes) -> None:
        called.append(url)
        go.wait(60)

    monkeypatch.setattr(notify, "_post", hang)
    monkeypatch.setattr(notify, "WEBHOOK_TIME", 0.1)
    it = Telling({"webhook": "http://nowhere"})
    try:
        async with it.running():
            for _ in range(notify.AT_ONCE + 2):
                it.tell()
            await it.until(webhook_failed=notify.AT_ONCE + 2)
            await eventually(lambda: len(called) == notify.AT_ONCE)
            monkeypatch.setattr(notify, "WEBHOOK_TIME", 60)
            go.set()
            it.tell()
            await it.until(webhook_failed=notify.AT_ONCE + 2, webhook_done=1)
            assert len(called) == notify.AT_ONCE + 1
    finally:
        go.set()


async def test_a_webhook_that_does_not_answer_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notify, "WEBHOOK_TIME", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        it = Telling({"webhook": f"http://127.0.0.1:{silent.getsockname()[1]}/"})
        async with it.running():
            it.tell()
            await it.until(webhook_failed=1)
    assert len(messages(caplog, logging.WARNING)) == 1
