"""Bytes of files on a real SeaweedFS, whichever way it keeps them: never others than were written."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import random
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from support.seaweed import MESSAGES, Cluster, chunk
from support.source_writes import write
from support.wholes import got
from swmld.sources.counting import Counting
from swmld.sources.hedging import Hedging
from swmld.sources.injecting import Injecting
from swmld.sources.interface import Attributes, Reader
from swmld.sources.limiting import Limiting
from swmld.sources.retrying import Retrying
from swmld.sources.seaweed_chunks import SHORT, layout_of
from swmld.sources.seaweedfs import SeaweedSource
from swmld.sources.whole import whole_of

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def source(seaweed: Cluster) -> Iterator[SeaweedSource]:
    source = seaweed.source("read")
    yield source
    source.close()


def _open(source: SeaweedSource, path: bytes) -> Reader:
    return source.open(path, source.stat(path))


def _bytes(reader: Reader, offset: int = 0, length: int = -1) -> bytes:
    view = memoryview(bytearray(b"\xee" * (reader.size if length < 0 else length)))
    return bytes(view[: reader.read(view, offset)])


def _errno(call: object, *arguments: object) -> int | None:
    with pytest.raises(OSError) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value.errno


def _remove(seaweed: Cluster, attributes: Attributes) -> None:
    """Deletes the chunks that a tag lists from the volume servers."""
    layout = layout_of(attributes.tag)
    assert layout
    for one in layout.chunks:
        seaweed.remove_needle(one.fid)


def _ranges(size: int, seed: int) -> list[tuple[int, int]]:
    """Some ranges of a file, the ends of chunks and of the file among them."""
    chance = random.Random(seed)
    edges = [0, 4 << 20, (4 << 20) - 1, size - 1, size, size + 5] + [
        chance.randrange(size) for _ in range(20)
    ]
    return [(start, chance.choice([1, 1000, 70_000, 3 << 20])) for start in edges]


def test_a_file_of_several_chunks(seaweed: Cluster, source: SeaweedSource) -> None:
    written = os.urandom((9 << 20) + 123)
    seaweed.put("/read/several", written)
    reader = _open(source, b"several")
    assert len(seaweed.entry("/read/several").chunks) == 3
    assert _bytes(reader) == written
    for start, length in _ranges(len(written), 1):
        assert _bytes(reader, start, length) == written[start : start + length], (start, length)


def test_writes_over_writes(seaweed: Cluster, source: SeaweedSource) -> None:
    chance = random.Random(2)
    file = bytearray(chance.randbytes(5000))
    seaweed.put("/read/over", bytes(file))
    for _ in range(12):
        at, part = chance.randrange(len(file)), chance.randbytes(chance.randrange(600, 2000))
        seaweed.put(f"/read/over?offset={at}", part)
        file[at : at + len(part)] = part
        assert _bytes(_open(source, b"over")) == file
    assert len(seaweed.entry("/read/over").chunks) > 3


def test_a_small_file_in_the_entry(seaweed: Cluster, source: SeaweedSource) -> None:
    seaweed.put("/read/small", b"all of it")
    assert not seaweed.entry("/read/small").chunks
    reader = _open(source, b"small")
    assert (_bytes(reader), _bytes(reader, 4, 2), _bytes(reader, 9, 5)) == (b"all of it", b"of", b"")


def test_an_empty_file(seaweed: Cluster, source: SeaweedSource) -> None:
    seaweed.create("/read", "empty")
    assert _bytes(_open(source, b"empty"), 0, 10) == b""


def test_holes_are_zeros(seaweed: Cluster, source: SeaweedSource) -> None:
    body = os.urandom(1000)
    fid = seaweed.needle(body)
    chunks = [chunk(fid, 500, 1000), chunk(fid, 200_000, 1000)]
    seaweed.create("/read", "holes", chunks=chunks, attributes={"file_size": 250_000})
    expected = bytes(500) + body + bytes(198_500) + body + bytes(49_000)
    reader = _open(source, b"holes")
    assert _bytes(reader) == expected
    assert _bytes(reader, 1200, 199_000) == expected[1200:200_200]
    seaweed.create("/read", "hole", attributes={"file_size": 70_000})
    assert _bytes(_open(source, b"hole")) == bytes(70_000)


def test_a_file_whose_chunks_are_listed_in_chunks(seaweed: Cluster, source: SeaweedSource) -> None:
    # The filer makes manifests of 10,000 chunks each.
    body = os.urandom(100)
    fid = seaweed.needle(body)
    chunks = [chunk(fid, 100 * number, 100, modified_ts_ns=number) for number in range(10_500)]
    seaweed.create("/read", "manifest", chunks=chunks)
    assert any(one.is_chunk_manifest for one in seaweed.entry("/read/manifest").chunks)
    reader = _open(source, b"manifest")
    assert reader.size == 1_050_000
    assert _bytes(reader, 999_950, 120) == (body * 2)[50:170]
    assert _bytes(reader, 1_049_990, 120) == body[-10:]


def test_a_compressed_chunk(seaweed: Cluster, source: SeaweedSource) -> None:
    body = b"compressible " * 10_000
    fid = seaweed.needle(gzip.compress(body), headers={"Content-Encoding": "gzip"})
    seaweed.create("/read", "gzip", chunks=[chunk(fid, 0, len(body), is_compressed=True)])
    reader = _open(source, b"gzip")
    assert _bytes(reader) == body
    assert _bytes(reader, 77_777, 1000) == body[77_777:78_777]


def test_what_is_one_plain_get(seaweed: Cluster, source: SeaweedSource) -> None:
    """A chunk that is the file as it is, and nothing else."""
    body = os.urandom(5000)
    seaweed.put("/read/plain", body)
    reader = _open(source, b"plain")
    assert got(reader) == body
    assert _bytes(reader) == body
    fid = seaweed.needle(body)
    made: dict[str, tuple[list[Any], int]] = {
        "shifted": ([chunk(fid, 10, 5000)], 5010),
        "longer": ([chunk(fid, 0, 5000)], 6000),
        "two": ([chunk(fid, 0, 5000), chunk(fid, 5000, 5000)], 10_000),
        "packed": ([chunk(fid, 0, 5000, is_compressed=True)], 5000),
    }
    for name, (chunks, size) in made.items():
        seaweed.create("/read", name, chunks=chunks, attributes={"file_size": size})
        assert got(_open(source, name.encode())) is None, name
    seaweed.put("/read/in_the_entry", b"content")
    assert got(_open(source, b"in_the_entry")) is None
    counted = Counting(source)
    assert got(counted.open(b"plain", source.stat(b"plain"))) == body
    assert got(Retrying(counted).open(b"plain", source.stat(b"plain"))) == body
    assert got(Hedging(counted).open(b"plain", source.stat(b"plain"))) == body
    # Those that have to do with each request.
    for wrapped in (Injecting(source), Limiting(source, parallel=4)):
        assert got(wrapped.open(b"plain", source.stat(b"plain"))) is None


def test_encrypted_chunks_come_through_the_filer(seaweed: Cluster) -> None:
    port = seaweed.filer_process("encrypting", "-encryptVolumeData")
    source = seaweed.source(port=port)
    body = os.urandom(5 << 20)
    seaweed.put("/a%20secret%2B1", body, port=port)
    reader = _open(source, b"a secret+1")
    assert _bytes(reader) == body
    assert _bytes(reader, (4 << 20) - 5, 10) == body[(4 << 20) - 5 : (4 << 20) + 5]
    seaweed.put("/a%20secret%2B1", os.urandom(5 << 20), port=port)
    assert _errno(_bytes, reader, 0, 1000) == errno.ESTALE
    # What is written here would lie there as it is.
    for size in (10, 5000):
        assert _errno(write, source, b"plain", bytes(size)) == errno.EOPNOTSUPP
    source.close()


def test_what_the_s3_gateway_encrypted_is_refused(seaweed: Cluster, source: SeaweedSource) -> None:
    seaweed.create("/read", "sse", chunks=[chunk(seaweed.needle(b"a" * 100), 0, 100, sse_type=1)])
    assert _errno(_open, source, b"sse") == errno.EOPNOTSUPP


def test_sixteen_threads_read_at_once(seaweed: Cluster, source: SeaweedSource) -> None:
    written = {f"many{number}".encode(): os.urandom(30_000 + number) for number in range(40)}
    for name, body in written.items():
        seaweed.put(f"/read/{name.decode()}", body)
    shared = _open(source, b"many0")
    together = threading.Barrier(16)

    def read(seed: int) -> None:
        chance = random.Random(seed)
        together.wait(30)
        for _ in range(40):
            name = chance.choice(list(written))
            at = chance.randrange(30_000)
            assert _bytes(_open(source, name), at, 5000) == written[name][at : at + 5000]
            assert _bytes(shared, at, 5000) == written[b"many0"][at : at + 5000]

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(read, range(16)))


def test_a_file_deleted_while_it_is_read(seaweed: Cluster, source: SeaweedSource) -> None:
    body = os.urandom(9 << 20)
    seaweed.put("/read/gone", body)
    attributes = source.stat(b"gone")
    reader = source.open(b"gone", attributes)
    assert _bytes(reader, 0, 1000) == body[:1000]
    seaweed.delete("/read/gone")
    # The filer has the volume servers delete them later: until then these are still the bytes.
    _remove(seaweed, attributes)
    assert _errno(_bytes, reader) == errno.ESTALE
    assert _errno(source.stat, b"gone") == errno.ENOENT


def test_a_file_replaced_while_it_is_read(seaweed: Cluster, source: SeaweedSource) -> None:
    old, new = os.urandom(50_000), os.urandom(50_000)
    seaweed.put("/read/replaced", old)
    attributes = source.stat(b"replaced")
    reader = source.open(b"replaced", attributes)
    seaweed.put("/read/replaced", new)
    _remove(seaweed, attributes)
    assert _errno(_bytes, reader) == errno.ESTALE
    assert _errno(_bytes, source.open(b"replaced", attributes)) == errno.ESTALE
    assert _bytes(_open(source, b"replaced")) == new


def test_a_chunk_that_is_lost_is_an_error(seaweed: Cluster, source: SeaweedSource) -> None:
    fid = seaweed.needle(b"a" * 5000)
    seaweed.create("/read", "lost", chunks=[chunk(fid, 0, 5000)])
    reader = _open(source, b"lost")
    seaweed.remove_needle(fid)
    assert _errno(_bytes, reader) == errno.EIO


def test_a_chunk_shorter_than_its_entry_says_is_an_error(seaweed: Cluster, source: SeaweedSource) -> None:
    fid = seaweed.needle(b"a" * 5000)
    seaweed.create("/read", "short", chunks=[chunk(fid, 0, 6000)])
    reader = _open(source, b"short")
    assert _errno(_bytes, reader) == errno.EIO
    assert _bytes(reader, 0, 5000) == b"a" * 5000


def test_many_chunks_are_asked_for_at_the_open(seaweed: Cluster, source: SeaweedSource) -> None:
    body = os.urandom(1000)
    fid = seaweed.needle(body)
    chunks = [chunk(fid, 1000 * number, 1000) for number in range(SHORT + 1)]
    seaweed.create("/read", "long", chunks=chunks)
    attributes = source.stat(b"long")
    assert layout_of(attributes.tag) is None
    assert _bytes(source.open(b"long", attributes)) == body * (SHORT + 1)
    entry = MESSAGES["Entry"].FromString(seaweed.entry("/read/long").SerializeToString())
    del entry.chunks[0]
    seaweed.call("CreateEntry", directory="/read", entry=entry)
    assert _errno(source.open, b"long", attributes) == errno.ESTALE


@contextlib.contextmanager
def _wire(port: int, *, flips: bool) -> Iterator[str]:
    """The address of a volume server seen over a line that turns one bit of each body."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Not on stderr."""

        def do_GET(self) -> None:
            given = {"Range": self.headers["Range"]} if "Range" in self.headers else {}
            asked = urllib.request.Request(f"http://127.0.0.1:{port}{self.path}", headers=given)
            with urllib.request.urlopen(asked) as answer:
                body = bytearray(answer.read())
                body[len(body) // 2] ^= flips
                self.send_response(answer.status)
                for name in ("Etag", "Content-Length", "Content-Range"):
                    if name in answer.headers:
                        self.send_header(name, answer.headers[name])
                self.end_headers()
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("flips", [False, True])
def test_bytes_that_are_not_those_of_their_checksum_are_not_taken(
    seaweed: Cluster, caplog: pytest.LogCaptureFixture, flips: bool
) -> None:
    body = os.urandom(110_000)
    seaweed.put("/read/sum", body)
    source = seaweed.source("read")
    reader = _open(source, b"sum")
    assert _bytes(reader) == body
    with _wire(seaweed.volume_ports[0], flips=flips) as address:
        places = source._volumes._places
        places.update({volume: [address] for volume in places})
        get = whole_of(reader)
        assert get is not None
        assert get.summed
        assert _bytes(reader) == body
        assert ("not the bytes of its checksum" in caplog.text) == flips
    source.close()
