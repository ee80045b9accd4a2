"""``patterns``, ``trace`` and ``GET /ml/patterns``: what is let through, how much, and until when."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from support.traces import FakeFeed, batch, dataset, job, snapshot, stream, touch
from swmld.api import http
from swmld.api.client import Client, RemoteError
from swmld.api.control import ControlServer
from swmld.api.messages import METHODS, PatternsResult, decode, encode
from swmld.api.patterns import LIMIT, PatternsApi, Wanted, path_of
from swmld.errors import UsageError
from swmld.observe.encoding import Decoder, Raw
from swmld.patterns.feed import Folder, TouchKind


@contextlib.asynccontextmanager
async def serving(path: Path, feed: FakeFeed) -> AsyncIterator[Path]:
    server = ControlServer(path / "m.sock", PatternsApi(feed).handlers())
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        yield path / "m.sock"
        nursery.cancel_scope.cancel()


class Tracing:
    """A connection that asked for ``trace``."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._text = b""

    async def next(self) -> dict[str, Any]:
        with trio.fail_after(60):
            while b"\n" not in self._text:
                piece = await self._stream.receive_some()
                assert piece, "the daemon ended the exchange"
                self._text += piece
        line, _, self._text = self._text.partition(b"\n")
        return decode(line)


@contextlib.asynccontextmanager
async def tracing(path: Path, params: dict[str, Any]) -> AsyncIterator[Tracing]:
    async with await trio.open_unix_socket(path) as stream:
        await stream.send_all(encode({"method": "trace", "params": params}))
        yield Tracing(stream)


async def ask(path: Path, method: str, params: dict[str, Any]) -> Any:
    def talk() -> Any:
        with Client(path) as client:
            return client.call(method, params)

    return await trio.to_thread.run_sync(talk)


def names(found: PatternsResult | dict[str, Any]) -> dict[int, list[str]]:
    """Paths by job."""
    return {one["job"]: [view["path"] for view in one["datasets"] + one["streams"]] for one in found["jobs"]}


TWO = snapshot(
    job(),
    job(job=50, pids=[51], rate=9e9, datasets=[], streams=[
        stream(pid=51, path="val/a.npy", rate=1.0), stream(pid=50, path="val/b.npy", rate=2.0)]),
)  # fmt: skip


# --- what is wanted


@pytest.mark.parametrize(
    ("params", "found"),
    [
        ({}, {50: ["val/b.npy", "val/a.npy"], 4242: ["train", "train/shard-0001.tar"]}),
        ({"job": 50}, {50: ["val/b.npy", "val/a.npy"]}),
        ({"pid": 51}, {50: ["val/a.npy"]}),
        ({"pid": 50}, {50: ["val/b.npy"]}),
        ({"path": "val"}, {50: ["val/b.npy", "val/a.npy"]}),
        ({"path": "/val/"}, {50: ["val/b.npy", "val/a.npy"]}),
        ({"path": "va"}, {}),
        ({"path": "val/a.npy"}, {50: ["val/a.npy"]}),
        ({"path": "*.tar"}, {4242: ["train/shard-0001.tar"]}),
        ({"path": ""}, {50: ["val/b.npy", "val/a.npy"], 4242: ["train", "train/shard-0001.tar"]}),
        ({"limit": 1}, {50: ["val/b.npy"]}),
        ({"job": 7}, {}),
    ],
)
def test_only_what_is_wanted_goes_through(params: dict[str, Any], found: dict[int, list[str]]) -> None:
    assert names(Wanted.of(params).filtered(TWO)) == found


def test_what_does_not_fit_is_counted() -> None:
    streams = [stream(path=f"{number}", rate=float(number)) for number in range(150)]
    many = snapshot(*[job(job=number, streams=streams) for number in range(120)])
    found = Wanted().filtered(many)
    assert found["left_out"] == {"jobs": 20, "datasets": 0, "streams": LIMIT * 50}
    assert {len(one["streams"]) for one in found["jobs"]} == {LIMIT}
    assert found["jobs"][0]["streams"][0]["path"] == "149"
    assert len(many["jobs"][0]["streams"]) == 150, "the snapshot is shared with other clients"


def test_those_that_read_last_come_before_those_that_rest() -> None:
    streams = [stream(path="old", rate=0.0, last_at=1.0), stream(path="new", rate=0.0, last_at=2.0)]
    (found,) = Wanted().filtered(snapshot(job(streams=streams)))["jobs"]
    assert [one["path"] for one in found["streams"]] == ["new", "old"]


@pytest.mark.parametrize(
    "params",
    [{"job": "x"}, {"pid": -1}, {"pid": True}, {"pid": 1.5}, {"path": 7}, {"limit": 0}, {"limit": 10**9}],
)
def test_other_parameters_are_refused(params: dict[str, Any]) -> None:
    (name,) = params
    with pytest.raises(UsageError, match=f"{name}: expected"):
        Wanted.of(params)


def test_paths_of_files() -> None:
    table = FakeFeed().names
    table.add(7, "a", 1)
    table.add(8, "b", 1, directory=1)
    table.add(9, "c", 1, directory=99)
    assert [path_of(table, file) for file in (7, 8, 9, 10)] == ["train/a", "b", None, None]


# --- the control socket


def test_the_methods_are_listed() -> None:
    assert set(PatternsApi(FakeFeed()).handlers()) <= set(METHODS)


@pytest.mark.trio
async def test_patterns(tmp_path: Path) -> None:
    feed = FakeFeed()
    feed.found = TWO
    async with serving(tmp_path, feed) as path:
        found = await ask(path, "patterns", {"job": 4242})
        assert found == json.loads(json.dumps(Wanted(job=4242).filtered(TWO)))
        for name, what in (("pid", "process"), ("job", "job")):
            for method in ("patterns", "trace"):
                with pytest.raises(RemoteError, match=f"no {what} 99 has read this mount") as caught:
                    await ask(path, method, {name: 99})
                assert caught.value.exit_code == 2
        feed.processes.start(99, 99)
        assert (await ask(path, "patterns", {"pid": 99}))["jobs"] == []


@pytest.mark.trio
@pytest.mark.parametrize("interval", [0, 0.01, -1, 1e9, "1", True, None, float("nan")])
async def test_an_odd_interval_is_refused(tmp_path: Path, interval: Any) -> None:
    async with serving(tmp_path, FakeFeed()) as path:
        with pytest.raises(RemoteError, match="interval: expected"):
            await ask(path, "trace", {"interval": interval})


@pytest.mark.trio
async def test_a_trace_goes_on_until_the_client_goes(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    feed = FakeFeed()
    async with serving(tmp_path, feed) as path:
        async with tracing(path, {"interval": 5}) as told:
            began = trio.current_time()
            for number in range(4):
                feed.found = snapshot(at=float(number))
                assert (await told.next())["progress"]["snapshot"]["at"] == number
            assert trio.current_time() - began == pytest.approx(15)
        await trio.testing.wait_all_tasks_blocked(0.01)
        taken = feed.taken
        await trio.sleep(100)
        assert feed.taken <= taken + 1


@pytest.mark.trio
async def test_clients_share_a_snapshot(autojump_clock: trio.testing.MockClock) -> None:
    feed = FakeFeed()
    api = PatternsApi(feed)
    for _ in range(10):
        api.page("")
    assert feed.taken == 1
    await trio.sleep(1)
    api.page("")
    assert feed.taken == 2


@pytest.mark.trio
async def test_raw_batches_come_between_snapshots(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    feed = FakeFeed()
    feed.names.add(10, "x", 100_000, index=0)
    feed.processes.start(5, 4)
    decoder = Decoder()
    async with serving(tmp_path, feed) as path:
        async with tracing(path, {"interval": 10, "raw": True}) as told:
            assert "snapshot" in (await told.next())["progress"]
            for at in (1.0, 2.0):
                feed.send(batch(at, [(5, 10)]))
                assert decoder.raw((await told.next())["progress"]["raw"]) == batch(at, [(5, 10)])
            assert path_of(decoder, 10) == "train/x"
            assert decoder.of(5) == feed.processes.of(5)
            assert "snapshot" in (await told.next())["progress"]
            assert feed.listeners == 1
        with trio.fail_after(10):
            await feed.left.wait()


@pytest.mark.trio
async def test_without_raw_nobody_listens(tmp_path: Path) -> None:
    feed = FakeFeed()
    async with serving(tmp_path, feed) as path, tracing(path, {}) as told:
        await told.next()
        assert feed.listeners == 0


@pytest.mark.trio
async def test_batches_do_not_hold_up_snapshots(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    feed = FakeFeed()
    async with serving(tmp_path, feed) as path, tracing(path, {"interval": 1, "raw": True}) as told:
        kinds = []
        await told.next()
        for number in range(30):
            feed.send(batch(float(number), [(5, 10)]))
            await trio.sleep(0.1)
            kinds += list((await told.next())["progress"])
        assert kinds.count("snapshot") >= 2


@pytest.mark.trio
async def test_a_trace_ends_with_its_feed(tmp_path: Path) -> None:
    feed = FakeFeed()
    async with serving(tmp_path, feed) as path, tracing(path, {"raw": True, "interval": 100}) as told:
        await told.next()
        feed.end()
        assert await told.next() == {"result": None}


@pytest.mark.trio
@pytest.mark.parametrize(
    ("params", "found"),
    [
        ({"pid": 5}, [(TouchKind.FIRST, 5, 10), (TouchKind.FORK, 5, 6), (TouchKind.FIRST, 5, 11),
                      (TouchKind.CLOSE, 0, 10), (TouchKind.CLOSE, 0, 11)]),
        ({"job": 7}, [(TouchKind.FIRST, 8, 10), (TouchKind.CLOSE, 0, 10), (TouchKind.CLOSE, 0, 11)]),
        ({"path": "train/x"}, [(TouchKind.FIRST, 5, 10), (TouchKind.FORK, 5, 6), (TouchKind.FIRST, 8, 10),
                               (TouchKind.CLOSE, 0, 10)]),
        ({"pid": 5, "path": "train/x"}, [(TouchKind.FIRST, 5, 10), (TouchKind.FORK, 5, 6),
                                         (TouchKind.CLOSE, 0, 10)]),
    ],
)  # fmt: skip
async def test_only_wanted_batches_are_sent(
    tmp_path: Path, params: dict[str, Any], found: list[tuple[TouchKind, int, int]]
) -> None:
    feed = FakeFeed()
    feed.names.folders[3] = Folder(2, "train/sub", 1)
    feed.names.add(10, "x", 100_000)
    feed.names.add(11, "x", 100_000, directory=3)
    for pid, its in ((5, 5), (8, 7), (7, 7)):
        feed.processes.start(pid, its)
    touches = [
        touch(1.0, 5, 10), touch(1.0, 5, 6, kind=TouchKind.FORK), touch(1.0, 8, 10), touch(1.0, 5, 11),
        touch(1.0, 0, 10, kind=TouchKind.CLOSE), touch(1.0, 0, 11, kind=TouchKind.CLOSE),
    ]  # fmt: skip
    counters = batch(1.0, [(5, 10), (8, 10), (5, 11)])
    decoder = Decoder()
    async with (
        serving(tmp_path, feed) as path,
        tracing(path, {"raw": True, "interval": 99, **params}) as told,
    ):
        await told.next()
        feed.send(counters._replace(touches=touches))
        back = decoder.raw((await told.next())["progress"]["raw"])
    assert [(one.kind, one.pid, one.file) for one in back.touches] == found
    firsts = {(pid, file) for kind, pid, file in found if kind is TouchKind.FIRST}
    assert {row[:2] for row in back.cursors} == {row[:2] for row in back.tiers} == firsts
    wanted_pids = {5, 8} if "pid" not in params and "job" not in params else {pid for pid, _ in firsts}
    assert {pid for pid, _ in back.waits} == wanted_pids


@pytest.mark.trio
async def test_a_storm_of_events_comes_in_lines_of_bounded_size(tmp_path: Path) -> None:
    feed = FakeFeed()
    storm = Raw(1.0, [touch(1.0, 5, 10 + number) for number in range(30_000)])
    async with serving(tmp_path, feed) as path, tracing(path, {"raw": True, "interval": 99}) as told:
        await told.next()
        feed.send(storm)
        decoder, found = Decoder(), 0
        while found < 30_000:
            line = (await told.next())["progress"]["raw"]
            assert len(json.dumps(line)) < 1 << 20
            found += len(decoder.raw(line).touches)


# --- HTTP


async def get(address: str, target: str, method: str = "GET") -> tuple[str, dict[str, str], bytes]:
    host, _, port = address.rpartition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(f"{method} {target} HTTP/1.0\r\n\r\n".encode())
        answer = b"".join([piece async for piece in stream])
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    return status.split()[1], dict(field.split(": ", 1) for field in fields), body


@contextlib.asynccontextmanager
async def endpoint(feed: FakeFeed | None) -> AsyncIterator[str]:
    page = PatternsApi(feed).page if feed is not None else None

    def nothing() -> Any:
        raise AssertionError("nobody asked for metrics")

    async with trio.open_nursery() as nursery:
        yield await nursery.start(lambda task_status: http.serve(
            nothing, "127.0.0.1:0", patterns=page, task_status=task_status))  # fmt: skip
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_patterns_over_http(tmp_path: Path) -> None:
    feed = FakeFeed()
    feed.found = TWO
    async with endpoint(feed) as address:
        status, fields, body = await get(address, "/ml/patterns?job=50&path=val%2F*.npy&limit=1")
        assert (status, fields["content-type"]) == ("200", "application/json")
        assert names(json.loads(body)) == {50: ["val/b.npy"]}
        assert (await get(address, "/ml/patterns"))[2].endswith(b"\n")
        assert (await get(address, "/ml/patterns", "HEAD"))[2] == b""
        assert (await get(address, "/ml/patterns", "POST"))[0] == "405"
        status, _, body = await get(address, "/nothing")
        detail = json.loads(body)["detail"]
        assert (status, detail) == ("404", "expected /metrics, /ml/metrics, /ml/patterns or /openapi.json")


@pytest.mark.trio
@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("job=x", "job: expected a number from 1 to "), ("limit=0", "limit: expected"),
        ("limit=" + "9" * 5000, "limit: expected"), ("file=x", "file: expected job, pid, path or limit"),
        ("%ff=1", "\udcff: expected"),
    ],
)  # fmt: skip
async def test_a_query_of_another_form_is_refused(query: str, said: bytes) -> None:
    async with endpoint(FakeFeed()) as address:
        status, _, body = await get(address, f"/ml/patterns?{query}")
    assert status == "400"
    assert json.loads(body)["detail"].startswith(said)


@pytest.mark.trio
async def test_names_of_any_bytes_can_be_asked_for() -> None:
    feed = FakeFeed()
    feed.found = snapshot(job(datasets=[dataset(path="a\udcffb")], streams=[]))
    async with endpoint(feed) as address:
        _, _, body = await get(address, "/ml/patterns?path=a%ffb")
    assert names(json.loads(body)) == {4242: ["a\udcffb"]}


@pytest.mark.trio
async def test_without_patterns_there_is_no_such_page() -> None:
    async with endpoint(None) as address:
        assert (await get(address, "/ml/patterns"))[0] == "404"
