"""Unary calls of our own, held against grpcio's server and grpcio's client."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from swmld.sources.http2 import block
from swmld.sources.seaweed_messages import MESSAGES
from swmld.sources.unary import Calls, Failed

Text: Any = MESSAGES["PingRequest"]
PATH = "/swmld.Test/Say"


class Said:
    """What the server is asked to do: by the text that it is sent."""

    def __init__(self) -> None:
        self.held, self.goes_on = threading.Event(), threading.Event()
        self.peers: set[str] = set()

    def __call__(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.peers.add(context.peer())
        word, _, rest = request.target.partition(" ")
        if word == "fail":
            context.abort(grpc.StatusCode[rest], "größer als 100 %\nwirklich")
        if word == "wait":
            self.held.set()
            self.goes_on.wait()
        if word == "large":
            return Text(target="x" * int(rest))
        if word == "wordy":
            context.send_initial_metadata([("x-more", "y" * int(rest))])
            context.set_trailing_metadata([("x-last", "z" * int(rest))])
        return Text(target=request.target)


class Server:
    def __init__(self, said: Said) -> None:
        self._pool = futures.ThreadPoolExecutor(8)
        self._server = grpc.server(self._pool)
        handler = grpc.unary_unary_rpc_method_handler(said, Text.FromString, Text.SerializeToString)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("swmld.Test", {"Say": handler}),)
        )
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()
        self._pool.shutdown()


@pytest.fixture
def said() -> Iterator[Said]:
    said = Said()
    yield said
    said.goes_on.set()


@pytest.fixture
def server(said: Said) -> Iterator[Server]:
    server = Server(said)
    yield server
    said.goes_on.set()
    server.stop()


class Asked:
    """The method, and how often it was left to another."""

    def __init__(self, port: int) -> None:
        self.calls = Calls(f"127.0.0.1:{port}")
        self.left: list[int] = []
        self._method = self.calls.method(PATH, Text, Text, self._otherwise)

    def _otherwise(self, request: Any, *, timeout: float) -> Any:
        self.left.append(len(request.target))
        return request

    def __call__(self, text: str, timeout: float = 30.0) -> str:
        return str(self._method(Text(target=text), timeout=timeout).target)


@pytest.fixture
def asked(server: Server) -> Iterator[Asked]:
    asked = Asked(server.port)
    yield asked
    asked.calls.close()


def test_one_connection_is_used_for_call_after_call(asked: Asked, said: Said) -> None:
    # More than the server's windows hold, and more than its table of headers.
    for number in range(200):
        text = f"{number} " + "t" * (number * 50)
        assert asked(text) == text
    assert len(said.peers) == 1
    assert not asked.left


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 70_000, 3 << 20])
def test_an_answer_of_any_size(asked: Asked, size: int) -> None:
    assert asked(f"large {size}") == "x" * size
    assert asked("small") == "small"


@pytest.mark.parametrize("size", [100, 5000])
def test_other_headers_do_not_matter(asked: Asked, size: int) -> None:
    for _ in range(5):
        assert asked(f"wordy {size}") == f"wordy {size}"


@pytest.mark.parametrize("size", [16_000, 16_379, 16_400, 50_000])
def test_a_question_of_several_frames(asked: Asked, size: int) -> None:
    assert asked("q" * size) == "q" * size
    assert not asked.left


def test_what_the_server_does_not_take_at_once_goes_the_other_way(asked: Asked) -> None:
    assert asked("first") == "first"
    assert asked("q" * (9 << 20)) == "q" * (9 << 20)
    assert asked.left == [9 << 20]
    assert asked("small") == "small"


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_errors_are_those_of_grpcio(server: Server, asked: Asked, code: grpc.StatusCode) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        theirs = channel.unary_unary(PATH, Text.SerializeToString, Text.FromString)
        with pytest.raises(grpc.RpcError) as expected:
            theirs(Text(target=f"fail {code.name}"), timeout=30.0)
    with pytest.raises(Failed) as found:
        asked(f"fail {code.name}")
    assert (found.value.code(), found.value.details()) == (expected.value.code(), expected.value.details())
    assert asked("small") == "small"


def test_a_call_that_takes_too_long_ends(asked: Asked, said: Said) -> None:
    with pytest.raises(Failed) as found:
        asked("wait", timeout=0.2)
    assert found.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    said.goes_on.set()
    assert asked("small") == "small"


def test_several_at_once_have_connections_of_their_own(asked: Asked, said: Said) -> None:
    with futures.ThreadPoolExecutor(4) as pool:
        late = pool.submit(asked, "wait")
        said.held.wait()
        assert asked("small") == "small"
        said.goes_on.set()
        assert late.result() == "wait"
    assert len(said.peers) == 2


def test_closing_ends_a_call(asked: Asked, said: Said) -> None:
    with futures.ThreadPoolExecutor(1) as pool:
        late = pool.submit(asked, "wait")
        said.held.wait()
        asked.calls.close()
        with pytest.raises(Failed):
            late.result()
    with pytest.raises(Failed) as found:
        asked("small")
    assert found.value.code() == grpc.StatusCode.CANCELLED


def test_a_server_that_stops_and_comes_back(said: Said) -> None:
    server = Server(said)
    asked = Asked(server.port)
    try:
        assert asked("before") == "before"
        port = server.port
        server.stop()
        with pytest.raises(Failed) as found:
            asked("meanwhile")
        assert found.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "failed to connect" in found.value.details()
    finally:
        asked.calls.close()
    assert port


class Script(threading.Thread):
    """A server that answers its first connections with ``frames`` as they are, after the first request."""

    def __init__(self, *frames: bytes) -> None:
        super().__init__(daemon=True)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._frames = frames
        self.asked = 0
        self.start()

    def run(self) -> None:
        for frames in self._frames:
            with self._listening.accept()[0] as connection:
                received = b""
                while b"END" not in received:
                    received += connection.recv(65536)
                self.asked += 1
                connection.sendall(frames)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


STARTS = frame(4, 0, 0, b"")
ANSWER = Text(target="answer").SerializeToString()
MESSAGE = frame(0, 0, 1, struct.pack(">BI", 0, len(ANSWER)) + ANSWER)
HEADERS = frame(1, 0x4, 1, b"\x88")
TRAILERS = block((b"grpc-status", b"0"))[2:]
GOOD = STARTS + HEADERS + MESSAGE + frame(1, 0x5, 1, TRAILERS)


def answered(*frames: bytes) -> tuple[str, int]:
    script = Script(*frames)
    asked = Asked(script.port)
    try:
        return asked("END"), script.asked
    finally:
        asked.calls.close()


def test_frames_in_pieces_padded_and_with_a_priority() -> None:
    padded = frame(0, 0x8, 1, b"\x03" + MESSAGE[9:] + b"\0\0\0")
    pieces = frame(1, 0x1 | 0x20, 1, bytes(5) + TRAILERS[:7]) + frame(9, 0x4, 1, TRAILERS[7:])
    assert answered(STARTS + frame(6, 0, 0, bytes(8)) + HEADERS + padded + pieces) == ("answer", 1)


def test_a_server_that_goes_away_is_asked_again_on_another_connection() -> None:
    assert answered(STARTS + frame(7, 0, 0, bytes(8)), GOOD) == ("answer", 2)


def test_a_refused_request_is_made_again() -> None:
    assert answered(STARTS + frame(3, 0, 1, struct.pack(">I", 7)), GOOD) == ("answer", 2)


def test_one_that_may_have_been_heeded_is_not_made_again() -> None:
    for frames in (
        STARTS,  # ends without an answer
        STARTS + HEADERS + MESSAGE,  # and in the middle of one
        STARTS + frame(3, 0, 1, struct.pack(">I", 2)),
        STARTS + frame(1, 0x5, 1, b"\xff\xff\xff\xff"),
        STARTS + frame(1, 0x5, 1, b"\x88"),  # without a status of gRPC
        STARTS + HEADERS + MESSAGE[:-1] + b"" + frame(1, 0x5, 1, TRAILERS),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        STARTS + b"\xff" * 9,
    ):
        script = Script(frames, GOOD)
        asked = Asked(script.port)
        with pytest.raises(Failed):
            asked("END")
        assert script.asked == 1
        asked.calls.close()
