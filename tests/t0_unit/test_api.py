"""The control socket and its client: what is promised about errors, progress and clients that go away."""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from swmld.api import control
from swmld.api.address import short_path, sockets
from swmld.api.client import Client, RemoteError
from swmld.api.control import ControlServer
from swmld.api.messages import decode, encode
from swmld.errors import CacheFull, HostError, UsageError

Progress = Callable[[Mapping[str, Any]], Awaitable[None]]
ODD_NAME = os.fsdecode(b"a\xff\xfe\n\xe2\x80\xa8b")


async def echo(params: dict[str, Any], progress: Progress) -> Any:
    return params


async def count(params: dict[str, Any], progress: Progress) -> Any:
    for number in range(params["to"]):
        await progress({"done": number})
    return "counted"


async def full(params: dict[str, Any], progress: Progress) -> Any:
    raise CacheFull


async def usage(params: dict[str, Any], progress: Progress) -> Any:
    raise UsageError("no such path: x")


async def broken(params: dict[str, Any], progress: Progress) -> Any:
    raise KeyError("oops")


HANDLERS = {"echo": echo, "count": count, "full": full, "usage": usage, "broken": broken}


@asynccontextmanager
async def serving(path: Path, handlers: Mapping[str, Any] = HANDLERS) -> AsyncIterator[ControlServer]:
    server = ControlServer(path, handlers)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        yield server
        nursery.cancel_scope.cancel()


async def call(path: Path, method: str, params: dict[str, Any] | None = None) -> Any:
    seen: list[dict[str, Any]] = []

    def talk() -> Any:
        with Client(path) as client:
            return client.call(method, params, seen.append)

    return await trio.to_thread.run_sync(talk), seen


async def raw(path: Path, data: bytes) -> list[dict[str, Any]]:
    """Send ``data`` as it is and read every answer until the server or the test ends the stream."""
    with short_path(path) as name:
        stream = await trio.open_unix_socket(name)
    async with stream:
        await stream.send_all(data)
        await stream.send_eof()
        text = b""
        async for piece in stream:
            text += piece
    return [decode(line) for line in text.splitlines()]


@pytest.mark.trio
async def test_params_and_result_cross_whole(tmp_path: Path) -> None:
    async with serving(tmp_path / "run" / "m.sock"):
        params = {"path": ODD_NAME, "n": 1.5, "deep": {"list": [None, True]}}
        assert await call(tmp_path / "run" / "m.sock", "echo", params) == (params, [])


@pytest.mark.trio
async def test_progress_comes_in_order_before_the_result(tmp_path: Path) -> None:
    async with serving(tmp_path / "m.sock"):
        result, seen = await call(tmp_path / "m.sock", "count", {"to": 100})
    assert result == "counted"
    assert [message["done"] for message in seen] == list(range(100))


@pytest.mark.trio
async def test_several_requests_on_one_connection(tmp_path: Path) -> None:
    path = tmp_path / "m.sock"

    def talk() -> list[Any]:
        with Client(path) as client:
            first = client.call("echo", {"n": 1})
            with pytest.raises(RemoteError):
                client.call("full")
            return [first, client.call("echo", {"n": 2})]

    async with serving(path):
        assert await trio.to_thread.run_sync(talk) == [{"n": 1}, {"n": 2}]


@pytest.mark.trio
@pytest.mark.parametrize(
    ("method", "exit_code", "message"),
    [("full", 1, "cache is full"), ("usage", 2, "no such path: x"), ("nothing", 2, "unknown control method")],
)
async def test_errors_keep_their_message_and_exit_code(
    tmp_path: Path, method: str, exit_code: int, message: str
) -> None:
    async with serving(tmp_path / "m.sock"):
        with pytest.raises(RemoteError, match=message) as caught:
            await call(tmp_path / "m.sock", method)
    assert caught.value.exit_code == exit_code


@pytest.mark.trio
async def test_a_bug_in_a_handler_is_logged_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path / "m.sock"):
        with pytest.raises(RemoteError, match="internal error: KeyError: 'oops'") as caught:
            await call(tmp_path / "m.sock", "broken")
        assert (await call(tmp_path / "m.sock", "echo", {}))[0] == {}
    assert caught.value.exit_code == 1
    assert [record.exc_info is not None for record in caplog.records] == [True]


@pytest.mark.trio
@pytest.mark.parametrize(
    "line", [b"nonsense", b"[]", b"{}", b'{"method": 7}', b'{"method": "echo", "params": []}', b"\xff"]
)
async def test_requests_of_another_form_are_refused_one_by_one(tmp_path: Path, line: bytes) -> None:
    async with serving(tmp_path / "m.sock"):
        answers = await raw(tmp_path / "m.sock", line + b"\n" + encode({"method": "echo", "params": {}}))
    assert answers[0]["error"]["exit_code"] == 2


@pytest.mark.trio
async def test_a_request_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_REQUEST", 1000)
    async with serving(tmp_path / "m.sock"):
        answers = await raw(tmp_path / "m.sock", b"x" * 2000)
    assert "longer than 1000 bytes" in answers[0]["error"]["message"]


@pytest.mark.trio
async def test_a_client_that_goes_away_cancels_its_request(tmp_path: Path) -> None:
    started, cancelled = trio.Event(), trio.Event()

    async def forever(params: dict[str, Any], progress: Progress) -> Any:
        started.set()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.set()
            raise

    async with serving(tmp_path / "m.sock", {"forever": forever, "echo": echo}):
        with short_path(tmp_path / "m.sock") as name:
            stream = await trio.open_unix_socket(name)
        await stream.send_all(encode({"method": "forever"}))
        await started.wait()
        await stream.aclose()
        with trio.fail_after(10):
            await cancelled.wait()
        assert (await call(tmp_path / "m.sock", "echo", {}))[0] == {}


@pytest.mark.trio
async def test_a_client_that_stops_reading_is_left(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    ended = trio.Event()

    async def flood(params: dict[str, Any], progress: Progress) -> Any:
        try:
            while True:
                await progress({"filler": "x" * 100_000})
        finally:
            ended.set()

    async with serving(tmp_path / "m.sock", {"flood": flood}):
        with short_path(tmp_path / "m.sock") as name:
            stream = await trio.open_unix_socket(name)
        await stream.send_all(encode({"method": "flood"}))
        await ended.wait()
        assert trio.current_time() >= control.SEND_TIMEOUT
        await stream.aclose()


@pytest.mark.trio
async def test_only_root_can_come_near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run" / "m.sock"
    async with serving(path):
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        monkeypatch.setattr(control, "_peer_uid", lambda connection: os.geteuid() + 1)
        with pytest.raises(HostError):
            await call(path, "echo")


@pytest.mark.trio
async def test_a_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    with pytest.raises(UsageError, match="only root can write"):
        await ControlServer(tmp_path / "run" / "m.sock", HANDLERS).run()
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o777


@pytest.mark.trio
async def test_a_second_daemon_is_refused_and_the_first_stays(tmp_path: Path) -> None:
    async with serving(tmp_path / "m.sock"):
        with pytest.raises(UsageError, match="another daemon serves this mount"):
            await ControlServer(tmp_path / "m.sock", HANDLERS).run()
        assert (await call(tmp_path / "m.sock", "echo", {}))[0] == {}


@pytest.mark.trio
async def test_the_socket_of_a_dead_daemon_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists()
    with pytest.raises(UsageError, match="no swmld daemon listens"):
        Client(path)
    async with serving(path):
        assert (await call(path, "echo", {}))[0] == {}
    assert not path.exists()


@pytest.mark.trio
async def test_a_newer_daemons_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    async with serving(path):
        path.unlink()
        path.write_text("newer")
    assert path.read_text() == "newer"


@pytest.mark.trio
async def test_long_paths_work(tmp_path: Path) -> None:
    path = tmp_path.joinpath(*["d" * 100] * 5) / ("n" * 80 + ".sock")
    async with serving(path):
        assert (await call(path, "echo", {"a": 1}))[0] == {"a": 1}


@pytest.mark.trio
async def test_a_daemon_that_does_not_answer_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "m.sock"))
        silent.listen(1)

        def ask() -> Any:
            with Client(tmp_path / "m.sock", timeout=0.05) as client:
                return client.call("status")

        with pytest.raises(HostError, match="does not answer"):
            await trio.to_thread.run_sync(ask)


def test_a_daemon_that_dies_meanwhile_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "m.sock"))
        server.listen(1)
        with Client(tmp_path / "m.sock") as client:
            connection, _ = server.accept()
            connection.sendall(b'{"progress": {}}\n{"resu')
            connection.shutdown(socket.SHUT_WR)
            with pytest.raises(HostError, match="ended before it answered"):
                client.call("status")
            connection.close()


def test_sockets_lists_sockets_alone(tmp_path: Path) -> None:
    assert sockets(tmp_path / "none") == []
    for name in ("b.sock", "a.sock", "c.pid"):
        (tmp_path / name).touch()
    assert [path.name for path in sockets(tmp_path)] == ["a.sock", "b.sock"]


def test_lines_are_ascii_whatever_the_name() -> None:
    line = encode({"path": ODD_NAME})
    assert line.count(b"\n") == 1
    assert line.isascii()
    assert decode(line)["path"] == ODD_NAME
    assert json.loads(line)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
