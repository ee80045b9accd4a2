"""Writing to S3 where something goes wrong: parts, conditions, answers that are lost, markers, copies."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.source_kit import content, failing, names_of, read_all, together
from support.source_writes import attributes, write
from support.webservers import BUCKET, KEY, SECRET, MadeBucket, client_of, moto_server
from swmld.sources.errors import Busy, failure
from swmld.sources.interface import ROOT, Attributes
from swmld.sources.objects import ObjectSource
from swmld.sources.objects_memory import Memory, fill
from swmld.sources.objects_multipart import LARGEST, PARTS, part_size
from swmld.sources.objects_requests import Answer
from swmld.sources.objects_s3 import Bucket
from swmld.sources.objects_writing import PART, S3Objects
from swmld.sources.opening import open_source
from swmld.urls import parse

pytestmark = pytest.mark.timeout(60)

UNIT = 20_000
LARGE = 3 * UNIT + 77
DIRECTORY = Attributes(0o40755)


@pytest.fixture(scope="module")
def moto() -> Iterator[tuple[str, Any]]:
    with moto_server() as endpoint:
        yield endpoint, client_of(endpoint)


Ask = Callable[..., Answer]
Fault = Callable[[Ask], Answer]


class Faulty(MadeBucket):
    """A bucket between which and the source things happen: ``faults`` come in turn, each for the next request
    of its kind (method, and the query's first name)."""

    source: ObjectSource

    def __init__(self, client: Any, endpoint: str) -> None:
        super().__init__(client, endpoint)
        self.client = client
        self.objects = self.source.objects
        assert isinstance(self.objects, S3Objects)
        self.objects.part = UNIT
        self.objects.again._first = 0.001
        self.faults: dict[str, list[Fault]] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self._bucket: Bucket = self.objects._bucket
        self._ask = self._bucket.ask
        self._bucket.ask = self._between  # type: ignore[method-assign]

    def _between(self, method: str, key: str, **given: Any) -> Answer:
        headers = {**(given.get("headers") or {}), **(given.get("conditions") or {})}
        kind = " ".join([method, *list(given.get("query") or {})[:1]])
        self.asked.append((kind, key.removeprefix(f"{self.prefix}/"), headers))

        def ask(**other: Any) -> Answer:
            return self._ask(method, key, **{**given, **other})

        faults = self.faults.get(kind)
        return faults.pop(0)(ask) if faults else ask()

    def kinds(self) -> list[str]:
        return [kind for kind, _, _ in self.asked]

    @property
    def left(self) -> list[str]:
        """Keys of uploads that are neither completed nor aborted."""
        found = self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        return [upload["Key"] for upload in found if upload["Key"].startswith(f"{self.prefix}/")]

    @property
    def keys(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=f"{self.prefix}/").get("Contents", [])
        return [item["Key"].removeprefix(f"{self.prefix}/") for item in found]

    def about(self, path: str) -> Any:
        return self.client.head_object(Bucket=BUCKET, Key=f"{self.prefix}/{path}")


@pytest.fixture
def made(moto: tuple[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", UNIT // 10)
    bucket = Faulty(moto[1], moto[0])
    yield bucket
    bucket.source.close()


def answering(status: int, code: str = "", **headers: str) -> Fault:
    """The server answers so, and does nothing."""
    body = f"<Error><Code>{code}</Code></Error>".encode() if code else b""
    given = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return lambda ask: Answer(status, given, body)


def unreached(ask: Ask) -> Answer:
    raise failure(errno.EHOSTUNREACH, "PUT write /file: cut")


def lost(ask: Ask) -> Answer:
    """It is done, and nobody hears of it."""
    assert not ask().failed
    raise failure(errno.ETIMEDOUT, "cut")


def first(call: Callable[[], object]) -> Fault:
    """Something happens just before."""

    def fault(ask: Ask) -> Answer:
        call()
        return ask()

    return fault


def spoiled(ask: Ask) -> Answer:
    """A bit is turned on the way, by something that mends what holds it together."""
    return ask(body=memoryview(b"\x00" * UNIT), headers={"x-amz-meta-swmld-token": "token"})


def pieces(_: Ask) -> Answer:
    return Answer(200, {}, b"<CompleteMultipartUploadResult><ETag>")


@pytest.mark.parametrize(
    "fault",
    [unreached, lost, answering(500, "InternalError"), answering(503, "SlowDown", retry_after="0")],
    ids=["unreached", "lost", "broken", "busy"],
)
def test_a_part_that_fails_once_is_sent_again(made: Faulty, fault: Fault) -> None:
    made.faults["PUT partNumber"] = [fault]
    made.faults["POST uploadId"] = [answering(503, "SlowDown")]
    said = write(made.source, b"file", content(LARGE))
    assert read_all(made.source, b"file") == content(LARGE)
    assert made.source.stat(b"file") == said
    assert made.kinds().count("PUT partNumber") == 5
    assert made.left == []
    for kind, _, headers in made.asked:
        assert kind != "PUT partNumber" or "x-amz-checksum-crc32c" in headers


@pytest.mark.parametrize(
    ("kind", "faults", "code"),
    [
        ("PUT partNumber", [answering(403, "AccessDenied")], errno.EACCES),
        ("PUT partNumber", [answering(507, "XMinioStorageFull")], errno.ENOSPC),
        ("PUT partNumber", [unreached] * 16, errno.EHOSTUNREACH),
        ("PUT partNumber", [answering(503, "SlowDown", retry_after="3000")], errno.EIO),
        ("POST uploads", [answering(403, "QuotaExceeded")], errno.EDQUOT),
        ("POST uploads", [lambda ask: Answer(200, {}, b"")], errno.EIO),
        ("POST uploadId", [lambda ask: answering(200, "InternalError")(ask)] * 4, errno.EIO),
        ("POST uploadId", [pieces] * 4, errno.EIO),
        ("POST uploadId", [unreached] * 4, errno.EHOSTUNREACH),
        ("POST uploadId", [answering(412, "PreconditionFailed")], errno.ESTALE),
        ("POST uploadId", [answering(404, "NoSuchKey")], errno.ESTALE),
    ],
)
def test_an_upload_that_fails_is_aborted(made: Faulty, kind: str, faults: list[Fault], code: int) -> None:
    old = write(made.source, b"file", b"old")
    made.faults[kind] = list(faults)
    error = failing(lambda: write(made.source, b"file", content(LARGE), old))
    assert error.errno == code
    assert "write /file" in str(error)
    assert made.left == []
    assert read_all(made.source, b"file") == b"old"


def test_what_could_not_be_aborted_is_aborted_with_the_next(
    made: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    made.faults["POST uploadId"] = [answering(403, "AccessDenied")]
    made.faults["DELETE uploadId"] = [unreached] * 4
    assert failing(lambda: write(made.source, b"file", content(LARGE))).errno == errno.EACCES
    assert len(made.left) == 1
    assert "an upload is left" in caplog.text
    write(made.source, b"other", content(LARGE))
    assert made.left == []


def test_an_upload_is_aborted_when_the_source_is_closed(made: Faulty) -> None:
    made.faults["PUT partNumber"] = [first(made.source.close)] * 4
    assert failing(lambda: write(made.source, b"file", content(LARGE))).errno == errno.EHOSTUNREACH
    assert made.left == []


@pytest.mark.parametrize("size", [10, LARGE])
def test_what_was_done_is_found_done(made: Faulty, size: int) -> None:
    kind = "PUT" if size == 10 else "POST uploadId"
    old = write(made.source, b"file", b"old")
    made.faults[kind] = [lost]
    said = write(made.source, b"file", content(size), old)
    assert made.source.stat(b"file") == said
    assert read_all(made.source, b"file") == content(size)
    assert made.left == []


def test_what_was_not_done_is_not_found(made: Faulty) -> None:
    old = write(made.source, b"file", b"old")
    made.faults["PUT"] = [unreached]
    assert failing(lambda: write(made.source, b"file", b"new", old)).errno == errno.EHOSTUNREACH
    assert read_all(made.source, b"file") == b"old"


@pytest.mark.parametrize("size", [10, LARGE])
@pytest.mark.parametrize("there", [False, True])
def test_a_race_is_lost(made: Faulty, size: int, there: bool) -> None:
    """The server itself says so, after all that was asked beforehand."""
    old = write(made.source, b"file", b"old") if there else None
    kind = "PUT" if size == 10 else "POST uploadId"
    made.faults[kind] = [first(lambda: made.put(b"file", b"theirs"))]
    if there and size == LARGE:
        # moto does not know this condition; SeaweedFS's gateway and AWS do.
        made.faults[kind] += [answering(412, "PreconditionFailed")]
        made.faults[kind].insert(0, made.faults[kind].pop())
    error = failing(lambda: write(made.source, b"file", content(size), old))
    assert error.errno == errno.ESTALE
    asked = [headers for asked, _, headers in made.asked if asked == kind][-1]
    assert asked["If-Match" if there else "If-None-Match"] == (f'"{old.tag.decode()}"' if old else "*")
    if not (there and size == LARGE):
        assert read_all(made.source, b"file") == b"theirs"
    assert made.left == []


def test_a_server_without_conditions_is_asked_beforehand(made: Faulty) -> None:
    made.faults["PUT"] = [answering(501, "NotImplemented")] * 2
    old = write(made.source, b"file", b"old")
    assert write(made.source, b"file", b"new", old).size == 3
    assert failing(lambda: write(made.source, b"file", b"newer", old)).errno == errno.ESTALE
    puts = [headers for kind, _, headers in made.asked if kind == "PUT"]
    assert ["If-None-Match" in headers or "If-Match" in headers for headers in puts] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("size", [10, LARGE])
def test_a_server_without_checksums_gets_none(made: Faulty, size: int) -> None:
    kind = "PUT" if size == 10 else "POST uploads"
    made.faults[kind] = [answering(400, "InvalidArgument")]
    for path in (b"file", b"other"):
        write(made.source, path, content(size))
        assert read_all(made.source, path) == content(size)
    sums = [any("checksum" in name for name in headers) for asked, _, headers in made.asked if asked == kind]
    assert sums == [True, False, False]


def test_what_is_stored_is_what_was_sent(made: Faulty) -> None:
    made.faults["PUT"] = [spoiled]
    write(made.source, b"file", content(UNIT), token="token")
    assert read_all(made.source, b"file") == content(UNIT)
    made.faults["PUT"] = [spoiled] * 3
    error = failing(lambda: write(made.source, b"bad", content(UNIT), token="token"))
    assert error.errno == errno.EIO
    assert "other bytes" in str(error)
    assert made.keys == ["file"]


def test_a_part_is_what_was_sent(made: Faulty) -> None:
    made.faults["PUT partNumber"] = [spoiled]
    write(made.source, b"file", content(LARGE))
    assert read_all(made.source, b"file") == content(LARGE)
    made.faults["PUT partNumber"] = [
        lambda ask: Answer(200, {b"x-amz-checksum-crc32c": b"AAAAAA=="}, b"")
    ] * 16
    assert failing(lambda: write(made.source, b"bad", content(LARGE))).errno == errno.EIO
    assert made.keys == ["file"]
    assert made.left == []


def test_what_is_replaced_at_once_is_told_as_it_was(made: Faulty) -> None:
    """The attributes are those of the bytes that were written, whatever is there by then."""

    def theirs(ask: Ask) -> Answer:
        answer = ask()
        made.put(b"file", b"theirs, longer")
        return answer

    made.faults["PUT"] = [theirs]
    said = write(made.source, b"file", b"ours")
    assert said.size == 4
    assert said.tag != made.source.stat(b"file").tag
    assert abs(said.mtime_ns - made.source.stat(b"file").mtime_ns) < 60 * 10**9
    made.faults["PUT"] = [lambda ask: (ask(), made.remove(b"gone"))[0]]
    assert write(made.source, b"gone", b"ours").size == 4


def test_a_large_file_is_renamed_in_parts(made: Faulty) -> None:
    write(made.source, b"d/old", content(LARGE), token="its token")
    key = f"{made.prefix}/d/old"
    made.client.copy_object(
        Bucket=BUCKET,
        Key=key,
        CopySource=f"{BUCKET}/{key}",
        MetadataDirective="REPLACE",
        ContentType="image/png",
        Metadata={"swmld-token": "its token", "theirs": "a  b"},
    )
    made.objects.copied = UNIT  # type: ignore[union-attr]
    made.asked.clear()
    made.faults["PUT partNumber"] = [unreached]
    made.source.rename(b"d/old", b"d/new")
    assert made.keys == ["d/new"]
    assert read_all(made.source, b"d/new") == content(LARGE)
    about = made.about("d/new")
    assert about["ContentType"] == "image/png"
    assert about["Metadata"] == {"swmld-token": "its token", "theirs": "a b"}
    copied = [headers for kind, _, headers in made.asked if kind == "PUT partNumber"]
    assert all(headers["x-amz-copy-source-if-match"].startswith('"') for headers in copied)
    made.faults["PUT partNumber"] = [answering(412, "PreconditionFailed")]
    assert failing(lambda: made.source.rename(b"d/new", b"e")).errno == errno.ESTALE
    assert made.keys == ["d/new"]
    assert made.left == []


def test_a_rename_removes_only_what_was_copied(made: Faulty) -> None:
    write(made.source, b"old", b"copied")
    made.faults["DELETE"] = [first(lambda: made.put(b"old", b"theirs"))]
    assert failing(lambda: made.source.rename(b"old", b"new")).errno == errno.ESTALE
    assert read_all(made.source, b"old") == b"theirs"
    assert read_all(made.source, b"new") == b"copied"


@pytest.mark.parametrize("body", [b"", b"<Error><Code>InternalError</Code></Error>"])
def test_a_rename_whose_copy_failed_removes_nothing(made: Faulty, body: bytes) -> None:
    write(made.source, b"old", b"x")
    made.faults["PUT"] = [lambda ask: Answer(200, {}, body)]
    assert failing(lambda: made.source.rename(b"old", b"new")).errno == errno.EIO
    assert made.keys == ["old"]


def test_a_server_without_conditional_deletes(made: Faulty) -> None:
    write(made.source, b"old", b"x")
    made.faults["DELETE"] = [answering(501, "NotImplemented")]
    made.source.rename(b"old", b"new")
    assert made.keys == ["new"]


def test_an_emptied_directory_stays(made: Faulty) -> None:
    for path in (b"a/one", b"a/two", b"b/c/one", b"top"):
        write(made.source, path, b"x")
    made.source.remove(b"a/one")
    assert made.keys == ["a/two", "b/c/one", "top"]
    made.source.remove(b"a/two")
    made.source.rename(b"b/c/one", b"b/one")
    assert made.keys == ["a/", "b/c/", "b/one", "top"]
    made.source.remove(b"b/one")
    made.source.remove_dir(b"b/c")
    assert made.keys == ["a/", "b/", "top"]
    for path in (b"a", b"b"):
        made.source.remove_dir(path)
    made.source.remove(b"top")
    assert made.keys == []


def test_all_markers_of_a_directory_go(made: Faulty) -> None:
    for key in ("d/", "d_$folder$", "h_$folder$", "e//x"):
        made.key(key)
    assert failing(lambda: made.source.make_dir(b"h", DIRECTORY)).errno == errno.EEXIST
    for call in (lambda: write(made.source, b"h", b"x"), lambda: made.source.remove(b"h")):
        assert failing(call).errno == errno.EISDIR
    assert failing(lambda: made.source.remove_dir(b"e")).errno == errno.ENOTEMPTY
    for path in (b"d", b"h"):
        made.source.remove_dir(path)
    assert made.keys == ["e//x"]


def test_a_directory_that_somebody_made_just_now(made: Faulty) -> None:
    made.faults["PUT"] = [first(lambda: made.key("d/"))]
    assert failing(lambda: made.source.make_dir(b"d", DIRECTORY)).errno == errno.EEXIST
    # A file system has one that it does not list.
    made.faults["PUT"] = [answering(412, "PreconditionFailed")]
    assert made.source.make_dir(b"e", DIRECTORY).is_dir
    assert names_of(made.source.list(ROOT)) == [b"d", b"e"]


@pytest.mark.parametrize("path", [b"x_$folder$", b"\xff", b"a\nb"])
def test_names_that_would_be_no_files(made: Faulty, path: bytes) -> None:
    assert failing(lambda: write(made.source, path, b"x")).errno == errno.EILSEQ
    assert failing(lambda: made.source.takes(path)).errno == errno.EILSEQ
    assert failing(lambda: made.source.make_dir(path, DIRECTORY)).errno == errno.EILSEQ
    for call in (made.source.remove, made.source.remove_dir):
        assert failing(lambda call=call: call(path)).errno == errno.ENOENT  # type: ignore[misc]
    assert made.keys == []


class Refusing:
    """Answers as soon as it has the headers of a request, and hangs up; what it is sent is not read."""

    def __init__(self, answer: bytes) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._answer = answer
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._refuse, args=(connection,), daemon=True).start()

    def _refuse(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(4096)
            method = head.split(b" ", 1)[0]
            if method == b"PUT":
                connection.sendall(self._answer)
                # With something that was not read, closing resets the connection.
                connection.recv(1, socket.MSG_PEEK)
            elif method == b"HEAD":
                connection.sendall(
                    b"HTTP/1.1 404 Not Found\r\nContent-Length: 100\r\nConnection: close\r\n\r\n"
                )
            else:
                body = b"<ListBucketResult></ListBucketResult>"
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
                    % (len(body), body)
                )

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


REFUSALS = {
    "AccessDenied": (403, errno.EACCES),
    "QuotaExceeded": (403, errno.EDQUOT),
    "XMinioStorageFull": (507, errno.ENOSPC),
    "EntityTooLarge": (400, errno.EFBIG),
    "KeyTooLongError": (400, errno.ENAMETOOLONG),
    "MethodNotAllowed": (405, errno.EOPNOTSUPP),
    "SlowDown": (503, errno.EIO),
    "ConditionalRequestConflict": (409, errno.EIO),
    "RequestTimeout": (400, errno.ETIMEDOUT),
    "InternalError": (500, errno.EIO),
}


@pytest.mark.parametrize("code", REFUSALS)
def test_what_is_refused_before_it_was_sent(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    status, number = REFUSALS[code]
    body = f"<Error><Code>{code}</Code><Message>hush-hush</Message></Error>"
    head = (
        f"HTTP/1.1 {status} No\r\nRetry-After: 7\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    server = Refusing((head + body).encode())
    source = open_source(parse(f"s3://b/p?endpoint=http://127.0.0.1:{server.port}"), timeout=20, parallel=2)
    try:
        error = failing(lambda: write(source, b"file", bytes(8 << 20)))
    finally:
        source.close()
        server.close()
    assert error.errno == number
    assert isinstance(error, Busy) == (status in (503, 409))
    assert not isinstance(error, Busy) or error.retry_after == 7
    assert "write /file" in str(error)
    assert code in str(error)
    assert not any(word in str(error) for word in (KEY, SECRET, "hush", "\n"))


def test_parts_are_few_enough() -> None:
    assert part_size(PART + 1, PART) == PART
    assert part_size(PARTS * PART, PART) == PART
    for size in (PARTS * PART + 1, 5 << 40, 48 << 40):
        length = part_size(size, PART)
        assert length % (1 << 20) == 0
        assert PART < length <= LARGEST
        assert -(-size // length) <= PARTS
        assert (length - (1 << 20)) * PARTS < size
    assert part_size((5 << 30) * PARTS + 1, PART) > LARGEST


def test_what_is_too_large_is_efbig(made: Faulty) -> None:
    with tempfile.TemporaryFile() as file:
        fd = file.fileno()
        error = failing(
            lambda: made.source.write(b"file", fd, LARGEST * PARTS + 1, attributes(), None, "token")
        )
    assert error.errno == errno.EFBIG


def test_memory_is_bounded() -> None:
    memory = Memory(100)
    lock = threading.Lock()
    used = most = 0

    def use(size: int) -> None:
        nonlocal used, most
        for _ in range(50):
            with memory.part(size) as view:
                assert len(view) == size
                with lock:
                    used += size
                    most = max(most, used)
                with lock:
                    used -= size

    together([lambda size=size: use(size) for size in (30, 30, 40, 100, 7)])  # type: ignore[misc]
    assert most <= 100
    with memory.part(1000) as view:
        assert len(view) == 1000


def test_a_large_part_is_not_passed_by() -> None:
    memory = Memory(100)
    order: list[int] = []
    with memory.part(60):
        large = threading.Thread(target=lambda: _took(memory, 80, order), daemon=True)
        large.start()
        while memory._next < 2:
            pass
        small = threading.Thread(target=lambda: _took(memory, 10, order), daemon=True)
        small.start()
        while memory._next < 3:
            pass
        assert order == []
    large.join()
    small.join()
    assert order == [80, 10]


def _took(memory: Memory, size: int, order: list[int]) -> None:
    with memory.part(size):
        order.append(size)


def test_what_is_read_is_what_is_counted() -> None:
    from swmld.cache.checksum import crc32c

    with tempfile.TemporaryFile() as file:
        file.write(content(1000))
        file.flush()
        view = memoryview(bytearray(b"\xff" * 600))
        crc = fill(view, file.fileno(), 700)
        assert bytes(view) == content(1000)[700:] + bytes(300)
        assert crc == crc32c(view)
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 1000
