"""Kept-alive connections against a server that says what a script tells it, right and wrong."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path

import pytest
from swmld.sources.connections import Connections
from swmld.sources.errors import LONGEST_WAIT, Busy, Moved, wait_of
from swmld.sources.http1 import Sent

pytestmark = pytest.mark.timeout(60)

BODY = bytes(range(256)) * 64

Answer = Callable[[str, dict[str, str]], bytes]
"""Request line and headers to the bytes of the answer; empty: hangs up."""


class Server:
    """Answers each request as ``answer`` says, one connection a thread."""

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None) -> None:
        self.answer, self._tls = answer, tls
        self.connections = 0
        self.ends = False
        self.requests: list[str] = []
        self.reads = True
        self.bodies: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
                self._open.append(connection)
            with connection, connection.makefile("rb") as stream:
                while line := stream.readline():
                    headers = {}
                    while (field := stream.readline().decode().rstrip()) != "":
                        name, _, value = field.partition(": ")
                        headers[name.lower()] = value
                    self.requests.append(line.decode().rstrip())
                    if not self.reads:
                        return
                    self.bodies.append(stream.read(int(headers.get("content-length", 0))))
                    answer = self.answer(line.decode(), headers)
                    if not answer:
                        return
                    connection.sendall(answer)
                    if self.ends:
                        return

    def hang_up(self) -> None:
        """Ends every connection, as a server does that is started anew."""
        while self._open:
            with contextlib.suppress(OSError):
                self._open.pop().shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(30)
        self.hang_up()
        for thread in self._threads[1:]:
            thread.join(30)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    with contextlib.ExitStack() as stack:

        def start(answer: Answer, tls: ssl.SSLContext | None = None) -> Server:
            server = Server(answer, tls)
            stack.callback(server.close)
            return server

        yield start


@pytest.fixture
def connections() -> Iterator[Connections]:
    connections = Connections(timeout=20)
    yield connections
    connections.close()


def ranged(line: str, headers: dict[str, str]) -> bytes:
    """A server without fault."""
    if "range" not in headers:
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
    first, last = map(int, headers["range"].removeprefix("bytes=").split("-"))
    if first >= len(BODY):
        return b"HTTP/1.1 416 Range\r\nContent-Length: 3\r\n\r\nno!"
    part = BODY[first : last + 1]
    said = b"bytes %d-%d/%d" % (first, first + len(part) - 1, len(BODY))
    return b"HTTP/1.1 206 Part\r\nContent-Range: %s\r\nContent-Length: %d\r\n\r\n" % (said, len(part)) + part


def always(answer: bytes) -> Answer:
    return lambda line, headers: answer


def view(length: int) -> memoryview:
    return memoryview(bytearray(b"\xee" * length))


def refused(call: Callable[[], object]) -> OSError:
    with pytest.raises(OSError) as caught:
        call()
    return caught.value


def test_ranges_come_over_one_connection(serve: Callable[..., Server], connections: Connections) -> None:
    server = serve(ranged)
    for offset, length in ((0, 10), (5, 1000), (len(BODY) - 10, 10), (0, len(BODY))):
        into = view(length)
        assert connections.read(server.address, "/f", into, offset).length == length
        assert into == BODY[offset : offset + length]
    into = view(100)
    assert connections.read(server.address, "/f", into, len(BODY) - 7).length == 7
    assert into[:7] == BODY[-7:]
    assert connections.read(server.address, "/f", view(len(BODY)), whole=True).status == 200
    assert refused(lambda: connections.read(server.address, "/f", view(5), len(BODY))).errno == errno.ESTALE
    assert connections.read(server.address, "/f", view(5), 3).length == 5
    assert server.connections == 1


def test_threads_have_connections_of_their_own(
    serve: Callable[..., Server], connections: Connections
) -> None:
    server = serve(ranged)

    def read(number: int) -> None:
        into = view(3000)
        connections.read(server.address, "/f", into, number)
        assert into == BODY[number : number + 3000]

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(read, range(400)))
    assert server.connections <= 16


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (
            b"HTTP/1.1 206 P\r\nContent-Range: bytes 5-14/99\r\nContent-Length: 10\r\n\r\n12345",
            "5 bytes too early",
        ),
        (
            b"HTTP/1.1 206 P\r\nContent-Range: bytes 6-15/99\r\nContent-Length: 10\r\n\r\n1234567890",
            "bytes 6-15",
        ),
        (b"HTTP/1.1 206 P\r\nContent-Range: bytes 5-9/99\r\nContent-Length: 5\r\n\r\n12345", "bytes 5-9"),
        (b"HTTP/1.1 206 P\r\nContent-Range: bytes 5-14/99\r\nContent-Length: 5\r\n\r\n12345", "5 bytes"),
        (
            b"HTTP/1.1 206 P\r\nContent-Range: bytes 5-24/99\r\nContent-Length: 20\r\n\r\n" + b"x" * 20,
            "20 bytes",
        ),
        (b"HTTP/1.1 206 P\r\nContent-Length: 10\r\n\r\n1234567890", "without its range"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n1234567890", "from the start"),
        (b"HTTP/1.1 206 P\r\nContent-Range: bytes 5-14/99\r\n\r\n1234567890", "length is not said"),
        (b"HTTP/1.1 206 P\r\nContent-Encoding: gzip\r\nContent-Length: 10\r\n\r\n1234567890", "encoding"),
        (b"HTTP/1.1 206 P\r\nContent-Ran", "within its headers"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 206 P\r\nX: " + b"x" * 100_000, "do not end"),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", "HTTP 500"),
    ],
)
def test_what_was_not_asked_for_is_an_error(
    serve: Callable[..., Server], connections: Connections, answer: bytes, why: str
) -> None:
    server = serve(always(answer))
    server.ends = True
    error = refused(lambda: connections.read(server.address, "/f?key=secret", view(10), 5))
    assert error.errno == errno.EIO
    assert why in str(error)
    assert "/f" in str(error)
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (401, errno.EACCES),
        (403, errno.EACCES),
        (404, errno.ENOENT),
        (410, errno.ENOENT),
        (412, errno.ESTALE),
        (416, errno.ESTALE),
        (408, errno.ETIMEDOUT),
        (504, errno.ETIMEDOUT),
        (418, errno.EIO),
        (502, errno.EIO),
    ],
)
def test_statuses_are_errors(
    serve: Callable[..., Server], connections: Connections, status: int, expected: int
) -> None:
    server = serve(always(b"HTTP/1.1 %d X\r\nContent-Length: 4\r\n\r\nbody" % status))
    error = refused(lambda: connections.read(server.address, "/f", view(10)))
    assert error.errno == expected
    assert f"HTTP {status}" in str(error)
    refused(lambda: connections.get(server.address, "/f"))
    assert server.connections == 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_says_for_how_long(
    serve: Callable[..., Server], connections: Connections, status: int
) -> None:
    server = serve(always(b"HTTP/1.1 %d X\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n" % status))
    error = refused(lambda: connections.read(server.address, "/f", view(10)))
    assert isinstance(error, Busy)
    assert (error.retry_after, error.errno) == (7.0, errno.EIO)


def test_waits_are_numbers_or_dates() -> None:
    assert wait_of("2.5") == 2.5
    assert wait_of("-3") == wait_of("soon") == wait_of("") == wait_of("nan") == 0.0
    assert wait_of("1e9") == wait_of("inf") == LONGEST_WAIT
    assert 90 < wait_of(formatdate(time.time() + 100, usegmt=True)) <= 100
    assert wait_of(formatdate(time.time() - 100, usegmt=True)) == 0.0


def test_a_redirection_says_where_to(serve: Callable[..., Server], connections: Connections) -> None:
    server = serve(always(b"HTTP/1.1 302 X\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n"))
    error = refused(lambda: connections.read(server.address, "/f", view(10)))
    assert isinstance(error, Moved)
    assert error.location == "/other"


def test_dead_connections_are_replaced_once(serve: Callable[..., Server], connections: Connections) -> None:
    server = serve(ranged)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: connections.read(server.address, "/f", view(10), number), range(50)))
    server.hang_up()
    before = server.connections
    assert connections.read(server.address, "/f", view(10), 3).length == 10
    assert server.connections == before + 1
    server.answer = always(b"")
    asked = len(server.requests)
    error = refused(lambda: connections.read(server.address, "/f", view(10), 3))
    assert error.errno == errno.EHOSTUNREACH
    # Over the kept one and over one new one, no more.
    assert len(server.requests) - asked == 2


def test_a_connection_that_the_server_closes_is_not_kept(
    serve: Callable[..., Server], connections: Connections
) -> None:
    server = serve(always(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody"))
    for _ in range(3):
        assert connections.get(server.address, "/f")[1] == b"body"
    assert server.connections == 3


def test_more_than_the_body_is_not_taken_for_the_next_answer(
    serve: Callable[..., Server], connections: Connections
) -> None:
    server = serve(always(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbodyHTTP/1.1 200 OK\r\n"))
    for _ in range(3):
        assert connections.get(server.address, "/f")[1] == b"body"
    assert server.connections == 3


def test_documents_of_unsaid_length(serve: Callable[..., Server], connections: Connections) -> None:
    chunked = b"HTTP/1.1 103 Hint\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server = serve(
        always(chunked + b"4;x=y\r\nbody\r\n6000\r\n" + b"z" * 0x6000 + b"\r\n0\r\nTrailer: t\r\n\r\n")
    )
    for _ in range(2):
        assert connections.get(server.address, "/f")[1] == b"body" + b"z" * 0x6000
    assert server.connections == 1
    assert refused(lambda: connections.get(server.address, "/f", limit=100)).errno == errno.EIO
    server.answer = always(b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n" + b"x" * 101)
    assert refused(lambda: connections.get(server.address, "/f", limit=100)).errno == errno.EIO


def test_a_server_that_hangs_is_left_in_time(serve: Callable[..., Server], connections: Connections) -> None:
    release = threading.Event()

    def hang(line: str, headers: dict[str, str]) -> bytes:
        release.wait(30)
        return b""

    server = serve(hang)
    try:
        error = refused(lambda: connections.read(server.address, "/f", view(10), timeout=0.1))
        assert error.errno == errno.ETIMEDOUT
        server.answer = always(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
        error = refused(lambda: connections.read(server.address, "/f", view(10), whole=True, timeout=0.1))
        assert error.errno == errno.ETIMEDOUT
    finally:
        release.set()


def test_closing_wakes_who_waits(serve: Callable[..., Server]) -> None:
    asked, release = threading.Event(), threading.Event()

    def hang(line: str, headers: dict[str, str]) -> bytes:
        asked.set()
        release.wait(30)
        return b""

    server, connections = serve(hang), Connections(timeout=30)
    try:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(refused, lambda: connections.read(server.address, "/f", view(10)))
            assert asked.wait(30)
            connections.close()
            assert waiting.result(30).errno == errno.EHOSTUNREACH
        assert refused(lambda: connections.read(server.address, "/f", view(10))).errno == errno.EHOSTUNREACH
    finally:
        release.set()


def test_nobody_listens_or_has_the_name(connections: Connections) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert refused(lambda: connections.get(f"127.0.0.1:{port}", "/")).errno == errno.EHOSTUNREACH
    assert refused(lambda: connections.get("no.such.host.invalid:80", "/")).errno == errno.EHOSTUNREACH


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    made = directory / "both.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=127.0.0.1"
    )
    extension = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*command.split(), *extension], cwd=directory, check=True, capture_output=True, timeout=60)
    made.write_bytes((directory / "key.pem").read_bytes() + (directory / "cert.pem").read_bytes())
    return made


@contextlib.contextmanager
def stored(content: bytes) -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        yield file.fileno()


DONE = b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\ndone"


def test_bytes_of_a_file_are_sent(serve: Callable[..., Server], connections: Connections) -> None:
    server = serve(always(DONE))
    content = random.Random(1).randbytes((3 << 20) + 5)
    with stored(content) as fd:
        for offset, size in ((0, len(content)), (0, 0), (7, 1), (5, 1 << 20), (1 << 20, (1 << 20) + 1)):
            response, said = connections.put(server.address, "/a", Sent(fd, offset, size))
            assert (response.status, said) == (201, b"done")
            assert server.bodies.pop() == content[offset : offset + size]
        # What was cut off meanwhile is sent as zeros: a length was said.
        connections.put(server.address, "/a", Sent(fd, len(content) - 5, 300_000))
        assert server.bodies.pop() == content[-5:] + bytes(300_000 - 5)
        assert os.lseek(fd, 0, os.SEEK_CUR) == len(content)
    assert server.connections == 1
    response, said = connections.delete(server.address, "/a")
    assert (response.status, said) == (201, b"done")
    assert server.requests[-1] == "DELETE /a HTTP/1.1"


def test_a_change_is_refused(serve: Callable[..., Server], connections: Connections) -> None:
    for status, code in ((401, errno.EACCES), (413, errno.EFBIG), (507, errno.ENOSPC), (500, errno.EIO)):
        server = serve(always(b"HTTP/1.1 %d No\r\nContent-Length: 3\r\n\r\nno!" % status))
        with stored(BODY) as fd:
            for call in (
                lambda: connections.put(server.address, "/a", Sent(fd, 0, len(BODY))),  # noqa: B023
                lambda: connections.delete(server.address, "/a"),  # noqa: B023
            ):
                assert refused(call).errno == code
        assert server.connections == 1


def test_a_dead_connection_is_replaced_for_what_is_sent(
    serve: Callable[..., Server], connections: Connections
) -> None:
    server = serve(always(DONE))
    with stored(bytes(10 << 20)) as fd:
        connections.put(server.address, "/a", Sent(fd, 0, 10))
        server.hang_up()
        connections.put(server.address, "/a", Sent(fd, 0, 10 << 20))
        assert [len(body) for body in server.bodies] == [10, 10 << 20]
        # One that hangs up each time is not asked forever.
        server.reads = False
        code = refused(lambda: connections.put(server.address, "/a", Sent(fd, 0, 10 << 20))).errno
        assert code == errno.EHOSTUNREACH


def test_a_server_that_does_not_take_bytes_is_left_in_time(serve: Callable[..., Server]) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    connections = Connections(timeout=0.3)
    with listener, stored(bytes(32 << 20)) as fd:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        error = refused(lambda: connections.put(address, "/a", Sent(fd, 0, 32 << 20)))
        assert error.errno == errno.ETIMEDOUT
    connections.close()


def test_what_cannot_be_read_is_not_waited_for(
    serve: Callable[..., Server], connections: Connections
) -> None:
    server = serve(always(DONE))
    reader, writer = os.pipe()
    os.close(writer)
    with stored(b"") as fd:
        gone = os.dup(fd)
        os.close(gone)
        for bad in (gone, reader):
            error = refused(lambda: connections.put(server.address, "/a", Sent(bad, 0, 10)))  # noqa: B023
            assert error.errno in (errno.EBADF, errno.EINVAL, errno.ESPIPE)
    os.close(reader)


def test_tls_reads_the_same_and_trusts_nobody_unknown(
    serve: Callable[..., Server], certificate: Path
) -> None:
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(certificate)
    server = serve(ranged, theirs)
    trusting = Connections(timeout=20, tls=ssl.create_default_context(cafile=str(certificate)))
    into = view(len(BODY))
    for _ in range(2):
        assert trusting.read(server.address, "/f", into, whole=True).length == len(BODY)
        assert into == BODY
    server.answer = always(DONE)
    content = random.Random(2).randbytes((2 << 20) + 5)
    with stored(content) as fd:
        for offset, size in ((0, len(content)), (0, 0), (7, 1 << 20), (len(content) - 5, 300_000)):
            trusting.put(server.address, "/a", Sent(fd, offset, size))
            assert server.bodies.pop() == content[offset : offset + size].ljust(size, b"\0")
        assert server.connections == 1
        server.reads = False
        error = refused(lambda: trusting.put(server.address, "/a", Sent(fd, 0, len(content))))
        assert error.errno == errno.EHOSTUNREACH
    trusting.close()
    doubting = Connections(timeout=20, tls=ssl.create_default_context())
    error = refused(lambda: doubting.read(server.address, "/f", into))
    assert error.errno == errno.EHOSTUNREACH
    assert "CERTIFICATE_VERIFY_FAILED" in str(error)
    doubting.close()
