"""raw.c and stored.c, what mounts are compared with, against a server whose answers are known."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.slowfs import compile_c
from support.waiting import until

PEERS = Path(__file__).resolve().parents[1] / "bench/peers"
MIB = 1 << 20


class Server:
    """Answers each path with its bytes. ``held``: by path, after how many of them it waits for ``go``."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}
        self.held: dict[str, int] = {}
        self.go = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = outer.bodies.get(self.path)
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                first = outer.held.get(self.path, len(body or b""))
                self.wfile.write((body or b"")[:first])
                if self.path in outer.held:
                    outer.go.wait(60)
                self.wfile.write((body or b"")[first:])

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.http.server_address[1]

    def file(self, number: int, *parts: bytes) -> list[str]:
        """Lines of the list for a file of these chunks."""
        lines, offset = [], 0
        for place, part in enumerate(parts):
            path = f"/{number},{place}"
            self.bodies[path] = part
            lines.append(f"{self.port} {number} {offset} {len(part)} {path}\n")
            offset += len(part)
        return lines


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    thread = threading.Thread(target=found.http.serve_forever)
    thread.start()
    yield found
    found.go.set()
    found.http.shutdown()
    thread.join()
    found.http.server_close()


@pytest.fixture(scope="module")
def stored() -> Path:
    return compile_c(PEERS / "stored.c")


def ran(*argv: object) -> tuple[int, str, str]:
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(("connections", "readers"), [(1, 1), (4, 4), (16, 3)])
def test_stored_has_every_byte_where_the_cache_would(
    server: Server, stored: Path, tmp_path: Path, connections: int, readers: int
) -> None:
    files = [[os.urandom(5 * MIB), os.urandom(3 * MIB + 1), os.urandom(77)]]
    files += [[os.urandom(110 << 10)] for _ in range(300)]
    listed = tmp_path / "list"
    listed.write_text("".join(line for n, parts in enumerate(files) for line in server.file(n, *parts)))
    total = sum(len(part) for parts in files for part in parts)
    for counted, count in (("bytes", total), ("requests", 302 + 1)):
        place = tmp_path / counted
        place.mkdir()
        code, out, err = ran(stored, listed, place, connections, readers, counted)
        assert (code, err, out.split()[0]) == (0, "", str(count))
        assert float(out.split()[1]) > 0
        for number, parts in enumerate(files):
            path = place / f"{(number + 1) % 256:02x}" / str(number + 1)
            assert path.read_bytes() == b"".join(parts)
            assert path.stat().st_mode & 0o777 == 0o600
        assert len([each for each in place.glob("*/*")]) == len(files)


@pytest.mark.parametrize("chunks", [(MIB + MIB // 2, MIB), (2 * MIB + MIB // 2,)])
def test_the_reader_follows_the_writer(
    server: Server, stored: Path, tmp_path: Path, chunks: tuple[int, ...]
) -> None:
    """It reads what is there while the rest is on its way, of the next chunk or of the same, and nothing
    beyond: a MiB where the second one is not there as a whole."""
    listed = tmp_path / "list"
    listed.write_text("".join(server.file(0, *(os.urandom(size) for size in chunks))))
    server.held = {"/0,1": 0} if len(chunks) > 1 else {"/0,0": MIB + MIB // 4}
    argv = [str(stored), str(listed), str(tmp_path), "1", "1", "bytes"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:

        def waits() -> bool:
            tasks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            if not tasks:
                return False
            about = Path(f"/proc/{tasks[0]}")
            read = about.joinpath("io").read_text().split()[1]
            return int(read) == MIB and about.joinpath("stat").read_text().rsplit(") ")[1][0] == "S"

        until(waits, "the reader has read a MiB and sleeps")
        server.go.set()
        out, _ = process.communicate(timeout=60)
        assert (process.returncode, out.split()[0]) == (0, str(2 * MIB + MIB // 2).encode())


@pytest.mark.parametrize("spoiled", ["gone", "short", "long"])
def test_a_wrong_answer_is_an_error(server: Server, stored: Path, tmp_path: Path, spoiled: str) -> None:
    listed = tmp_path / "list"
    listed.write_text("".join(server.file(0, b"a" * MIB, b"b" * MIB, b"c" * MIB)))
    if spoiled == "gone":
        del server.bodies["/0,1"]
    else:
        server.bodies["/0,1"] = b"b" * (MIB - 1 if spoiled == "short" else MIB + 1)
    code, out, err = ran(stored, listed, tmp_path, 2, 1, "bytes")
    assert (code, out) == (1, "")
    assert "/0,1: HTTP/1.1 " in err
    code, out, err = ran(compile_c(PEERS / "raw.c"), listed, 2, "bytes")
    assert (code, out) == (1, "")
    assert "/0,1: HTTP/1.1 " in err


def test_lines_out_of_order_are_refused(server: Server, stored: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list"
    first, second = server.file(0, b"a" * MIB, b"b" * MIB)
    for wrong in (second + first, first + first, first + second.replace(" 0 ", " 2 ", 1), "nonsense\n"):
        listed.write_text(wrong)
        code, _, err = ran(stored, listed, tmp_path, 1, 1, "bytes")
        assert (code, bool(err)) == (1, True), wrong


def test_raw_counts_what_it_drops(server: Server, tmp_path: Path) -> None:
    raw = compile_c(PEERS / "raw.c")
    listed = tmp_path / "list"
    listed.write_text("".join(server.file(0, os.urandom(3 * MIB), os.urandom(5))))
    for counted, count in (("bytes", 3 * MIB + 5), ("requests", 2)):
        code, out, err = ran(raw, listed, 4, counted)
        assert (code, err, out.split()[0]) == (0, "", str(count))
