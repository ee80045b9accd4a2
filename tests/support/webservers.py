"""Servers for tests of sources that speak HTTP: moto's S3, nginx, and one that answers as it is told."""

from __future__ import annotations

import contextlib
import datetime
import http.server
import ipaddress
import itertools
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from swmld.sources.opening import open_source
from swmld.urls import parse

from support import gates
from support.source_conformance import MadeSource
from support.tree import work_dir
from support.waiting import until

KEY, SECRET = "key-of-tests", "secret-of-tests"
"""Credentials that no message may show."""

_numbers = itertools.count(1)


BUCKET = "tests"


class MadeBucket(MadeSource):
    """A prefix of its own in the bucket of a server that speaks S3."""

    chunk = 1 << 16

    def __init__(self, client: Any, endpoint: str) -> None:
        # Others' keys begin as those of the prefix do.
        self.prefix = f"some/prefix-{next(_numbers)}"
        self._client, self._prefix = client, f"{self.prefix}/"
        client.put_object(Bucket=BUCKET, Key=f"{self.prefix}-not", Body=b"another")
        self.url = f"s3://{BUCKET}/{self.prefix}?endpoint={endpoint}&region=us-east-1"
        self.source = open_source(parse(self.url), timeout=20, parallel=4)

    def put(self, path: bytes, content: bytes) -> None:
        self._client.put_object(Bucket=BUCKET, Key=self._prefix + path.decode(), Body=content)

    def key(self, key: str) -> None:
        """An object, whatever its key."""
        self._client.put_object(Bucket=BUCKET, Key=self._prefix + key, Body=b"x")

    def remove(self, path: bytes) -> None:
        self._client.delete_object(Bucket=BUCKET, Key=self._prefix + path.decode())

    def mkdir(self, path: bytes) -> None:
        self._client.put_object(Bucket=BUCKET, Key=self._prefix + path.decode() + "/", Body=b"")


def client_of(endpoint: str, key: str = KEY, secret: str = SECRET) -> Any:
    """boto3's client of S3, which knows all there is to put; ``BUCKET`` is made."""
    import boto3
    from botocore.config import Config

    config = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required")
    made = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=config,
    )
    made.create_bucket(Bucket=BUCKET)
    return made


@contextlib.contextmanager
def moto_server() -> Iterator[str]:
    """moto's server on loopback; its URL."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


_NGINX = """
daemon off;
worker_processes 1;
pid {base}/nginx.pid;
error_log {base}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {base}/body; proxy_temp_path {base}/proxy; fastcgi_temp_path {base}/fastcgi;
    uwsgi_temp_path {base}/uwsgi; scgi_temp_path {base}/scgi;
    default_type application/octet-stream;
    # Whoever asks for gzip gets it.
    gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any;
    server {{
        listen 127.0.0.1:{port};
        root {base}/root;
        location / {{ autoindex on; }}
        location /json/ {{ alias {base}/root/; autoindex on; autoindex_format json; }}
        location /noranges/ {{ alias {base}/root/; autoindex on; max_ranges 0; }}
        location /nolist/ {{ alias {base}/root/; }}
    }}
}}
"""


class Nginx:
    """Debian's nginx over a directory, with indexes in HTML, in JSON (``/json/``), and without ranges."""

    def __init__(self) -> None:
        gates.require("nginx")
        self._stack = contextlib.ExitStack()
        self.base = self._stack.enter_context(work_dir())

    def __enter__(self) -> Nginx:
        (self.base / "root").mkdir()
        (self.base / "root").chmod(0o755)
        port = unused_port()
        self.url = f"http://127.0.0.1:{port}"
        config = self.base / "nginx.conf"
        config.write_text(_NGINX.format(base=self.base, port=port))
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        arguments = [program, "-c", str(config), "-p", str(self.base), "-e", str(self.base / "error.log")]
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL)
        self._stack.callback(process.wait, 30)
        self._stack.callback(process.send_signal, signal.SIGTERM)

        def ready() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        try:
            until(ready, "nginx")
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def made(self, location: str) -> MadeWeb:
        """A directory of its own below ``location``."""
        name = f"t{next(_numbers)}"
        root = self.base / "root" / name
        root.mkdir()
        root.chmod(0o755)
        return MadeWeb(root, self.base, f"{self.url}{location}{name}/")


class MadeWeb(MadeSource):
    """Files that nginx serves; a new generation is a second younger, as ETags of nginx hold no more."""

    chunk = 1 << 17
    _second = itertools.count(1_700_000_000)

    def __init__(self, root: Path, base: Path, url: str) -> None:
        self._root, self._new, self.url = root, base / "new", url
        self.source = open_source(parse(url), timeout=20, parallel=8)

    def put(self, path: bytes, content: bytes) -> None:
        self._new.write_bytes(content)
        self._new.chmod(0o644)
        second = next(self._second)
        os.utime(self._new, (second, second))
        at = os.fsencode(self._root) + b"/" + path
        os.makedirs(os.path.dirname(at), exist_ok=True)
        os.rename(self._new, at)

    def remove(self, path: bytes) -> None:
        os.unlink(os.fsencode(self._root) + b"/" + path)

    def mkdir(self, path: bytes) -> None:
        os.makedirs(os.fsencode(self._root) + b"/" + path)


def certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key; ``ca.pem`` beside them has signed it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    def begun(subject: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder(name("authority of tests"), name(subject), key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        day = datetime.timedelta(days=1)
        now = datetime.datetime.now(datetime.UTC)
        return builder.not_valid_before(now - day).not_valid_after(now + day)

    authority, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    basic = x509.BasicConstraints(ca=True, path_length=None)
    root = begun("authority of tests", authority).add_extension(basic, critical=True)
    host = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    leaf = begun("server of tests", own).add_extension(host, critical=False)
    leaf = leaf.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    pem = serialization.Encoding.PEM
    (directory / "ca.pem").write_bytes(root.sign(authority, hashes.SHA256()).public_bytes(pem))
    (directory / "own.pem").write_bytes(leaf.sign(authority, hashes.SHA256()).public_bytes(pem))
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (directory / "own.key").write_bytes(own.private_bytes(pem, *plain))
    return directory / "own.pem", directory / "own.key"


def unused_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


class Hostile:
    """A server whose answers are functions, by path; 404 for what has none. A context manager."""

    def __init__(self, *, tls: Path | None = None) -> None:
        """``tls``: a directory for the certificate that it has; ``ca.pem`` is to be trusted."""
        self._tls = tls
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        """Method, path and headers (lower-case) of each request but PUT."""
        self.token = b""
        """The answer to each PUT; 501 where it is empty."""

    def __enter__(self) -> Hostile:
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                self.rfile.read(int(headers.get("content-length", 0)))
                outer.asked.append((self.command, self.path, headers))
                answer = outer.answers.get(unquote(self.path.partition("?")[0]))
                if answer is None:
                    respond(404)(self)
                else:
                    answer(self)

            do_HEAD = do_POST = do_GET

            def do_PUT(self) -> None:
                respond(200 if outer.token else 501, outer.token)(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if self._tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate(self._tls))
            # The handshake is the connection's thread's, who may never make it.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def respond(
    status: int,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    *,
    length: int | None = None,
) -> Answer:
    """An answer; with a ``length`` of which ``body`` is less, the connection ends in the midst of it."""

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in (headers or {}).items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body) if length is None else length))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)
        if length is not None and length != len(body):
            request.close_connection = True

    return answer


def parts_of(content: bytes, always: dict[str, str]) -> Callable[..., Answer]:
    """Makes answers to requests for a range: 206 with the body and the headers that ``change(first, last)``
    makes of it, and headers that ``always`` go with them. With a ``length`` the connection ends where the
    body does, though as much was said as was asked for."""

    def partly(
        change: Callable[[int, int], tuple[bytes, dict[str, str]]], length: int | None = None
    ) -> Answer:
        def answer(request: http.server.BaseHTTPRequestHandler) -> None:
            if request.command == "HEAD":
                respond(200, content, always)(request)
                return
            first, last = map(int, request.headers["Range"].removeprefix("bytes=").split("-"))
            body, headers = change(first, last)
            headers = {**always, "Content-Range": f"bytes {first}-{last}/{len(content)}", **headers}
            respond(206, body, headers, length=None if length is None else last + 1 - first)(request)

        return answer

    return partly


def check_message(error: OSError, path: str, secrets: Iterable[str] = ()) -> None:
    """What a message must be: one short line with the path, nothing secret."""
    text = str(error)
    assert path in text
    assert len(text.splitlines()) == 1
    assert len(text) < 200
    assert not any(secret in text for secret in secrets)
