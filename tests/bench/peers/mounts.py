"""The file systems that are compared, each from nothing: its own process, an empty cache of one size."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rig import memory
from support import posix
from support.seaweed import Cluster, weed
from support.waiting import until
from support.watchdog import watchdog

READY = 60.0  # seconds to be mounted
STOP = 30.0
BUCKET = "train"
KEYS = ("benchmark", "benchmarksecret")
REGION = "us-east-1"


@dataclass
class Mounted:
    """A peer at work."""

    path: Path
    process: subprocess.Popen[bytes]
    cache: Path
    log: Path

    @property
    def pids(self) -> list[int]:
        """Its process and their children, theirs too."""
        found = [self.process.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
        return found

    def resident(self) -> int:
        """Bytes of resident set, all processes together, what they share counted in each."""
        return sum(memory(pid).get("rss", 0) for pid in self.pids)

    def cached(self) -> int:
        """Bytes of disk that the cache takes."""
        return int(subprocess.check_output(["du", "-s", "--block-size=1", self.cache]).split()[0])


@dataclass
class Peer:
    """How one peer is started. ``about``: what a reader of the table has to know of it."""

    name: str
    cluster: Cluster
    cache_bytes: int
    about: str = ""
    options: Sequence[str] = ()

    def argv(self, mount: Path, cache: Path, base: Path) -> list[str]:
        """The command; it stays in the foreground."""
        raise NotImplementedError

    def prepare(self, base: Path, files: Path) -> None:
        """What has to be there before the first mount. ``files``: what the cluster was filled with."""

    def version(self) -> str:
        """As the program says it."""
        raise NotImplementedError

    @contextlib.contextmanager
    def mounted(self, base: Path, inside: Sequence[str] = ()) -> Iterator[Mounted]:
        """Mounted in ``base``, which stays there after that. ``inside``: a command that runs it elsewhere."""
        mount, cache, log = base / "mnt", base / "cache", base / "log"
        for directory in (mount, cache):
            directory.mkdir(parents=True)
        with log.open("wb") as said:
            process = subprocess.Popen(
                [*inside, *self.argv(mount, cache, base)],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd=base,
                env={**os.environ, "HOME": str(base)},
            )
        watchdog.watch(process.pid, mount)
        found = Mounted(mount, process, cache, log)
        try:
            self._wait(found)
            yield found
        finally:
            end(process, mount)
            watchdog.unwatch(process.pid)

    def _wait(self, found: Mounted) -> None:
        def ready() -> bool:
            if found.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended: {found.log.read_text(errors='replace')[-2000:]}")
            return str(found.path) in posix.mounts() and bool(os.listdir(found.path))

        until(ready, f"{self.name} mounted", READY)


def end(process: subprocess.Popen[bytes], mount: Path) -> None:
    """Ends a peer's process and its mount, whatever state they are in."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP)
    except subprocess.TimeoutExpired:
        process.kill()
    with contextlib.suppress(OSError):
        while str(mount) in posix.mounts():
            posix.umount(mount)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP)


class Swmld(Peer):
    def argv(self, mount: Path, cache: Path, base: Path) -> list[str]:
        source = f"seaweedfs://127.0.0.1:{self.cluster.filer}/buckets/{BUCKET}"
        argv = [sys.executable, "-m", "swmld.cli", "--mount", str(mount), "--source", source]
        argv += ["--cache-dir", str(cache), "--cache-size", str(self.cache_bytes), "--probe", "off"]
        argv += ["--run-dir", str(base / "run"), "--state-dir", str(base / "state")]
        return [*argv, "--metrics-address", "off", *self.options]

    def version(self) -> str:
        return _said(sys.executable, "-m", "swmld.cli", "--version")


class Weed(Peer):
    def argv(self, mount: Path, cache: Path, base: Path) -> list[str]:
        argv = [weed(), "mount", f"-filer=127.0.0.1:{self.cluster.filer}", f"-filer.path=/buckets/{BUCKET}"]
        argv += [f"-dir={mount}", f"-cacheDir={cache}", f"-cacheCapacityMB={self.cache_bytes >> 20}"]
        return [*argv, f"-localSocket={base / 'sock'}"]

    def version(self) -> str:
        return _said(weed(), "version")


class JuiceFs(Peer):
    """Its files are its own: copied in through it, data as objects behind the gateway, names in SQLite."""

    def _database(self, base: Path) -> str:
        return f"sqlite3://{base.parent / 'juicefs.db'}"

    def argv(self, mount: Path, cache: Path, base: Path) -> list[str]:
        argv = [program("juicefs"), "mount", "--no-usage-report", "--no-syslog", "--cache-dir", str(cache)]
        return [*argv, "--cache-size", str(self.cache_bytes >> 20), self._database(base), str(mount)]

    def prepare(self, base: Path, files: Path) -> None:
        keys = ["--access-key", KEYS[0], "--secret-key", KEYS[1]]
        bucket = f"http://127.0.0.1:{self.cluster.s3}/juicefs"
        argv = [program("juicefs"), "format", "--storage", "s3", "--bucket", bucket, *keys]
        subprocess.run(
            [*argv, self._database(base / "format"), "peers"], check=True, capture_output=True, timeout=60
        )
        with self.mounted(base / "juicefs-fill") as found:
            subprocess.run(["cp", "-r", f"{files}/.", found.path], check=True, timeout=3000)

    def _wait(self, found: Mounted) -> None:
        # .config is there in every mount of it, so an empty one is seen as well.
        until(
            lambda: found.process.poll() is None and (found.path / ".config").exists(),
            "juicefs mounted",
            READY,
        )

    def version(self) -> str:
        return _said(program("juicefs"), "--version")


class Rclone(Peer):
    def argv(self, mount: Path, cache: Path, base: Path) -> list[str]:
        endpoint = f"http://127.0.0.1:{self.cluster.s3}"
        argv = [program("rclone"), "mount", f":s3:{BUCKET}", str(mount), "--config", ""]
        argv += ["--s3-provider", "SeaweedFS", "--s3-endpoint", endpoint, "--s3-region", REGION]
        argv += ["--s3-access-key-id", KEYS[0], "--s3-secret-access-key", KEYS[1]]
        argv += ["--vfs-cache-mode", "full", "--vfs-cache-max-size", str(self.cache_bytes)]
        return [*argv, "--cache-dir", str(cache)]

    def version(self) -> str:
        return _said(program("rclone"), "version")


ABOUT: list[tuple[type[Peer], str, str]] = [
    (Swmld, "swmld", "names from the filer, bytes from the volume servers"),
    (Weed, "weed", "weed mount, -cacheDir; the same files"),
    (JuiceFs, "juicefs", "its own objects of these bytes behind the cluster's S3 gateway; names in SQLite"),
    (Rclone, "rclone", "the same files by the cluster's S3 gateway; --vfs-cache-mode full"),
]


def program(name: str) -> str:
    """Beside this interpreter or on PATH; empty where it is not installed."""
    return shutil.which(Path(sys.executable).with_name(name)) or shutil.which(name) or ""


def installed(only: Sequence[str]) -> list[str]:
    """Names of the peers that were asked for and are there, swmld first; says which are not."""
    found = []
    for _, name, _ in ABOUT:
        if only and name not in only:
            continue
        if name in ("juicefs", "rclone") and not program(name):
            print(f"{name} is not installed ({name}-bin): left out", file=sys.stderr)
            continue
        found.append(name)
    return found


def peers_of(cluster: Cluster, cache_bytes: int, names: Sequence[str]) -> list[Peer]:
    """These peers, swmld first."""
    return [kind(name, cluster, cache_bytes, about) for kind, name, about in ABOUT if name in names]


def _said(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else ""


class Line:
    """The cluster seen over a line of some length and width; a context manager (see delay.c)."""

    def __init__(self, program: Path, cluster: Cluster, delay_ms: float, rate: float) -> None:
        ports = [cluster.master, cluster.filer, cluster.s3, *cluster.volume_ports]
        every = [str(port + more) for port in ports for more in (0, 10_000)]
        self._argv = [str(program), str(delay_ms), str(rate), *every]

    def __enter__(self) -> list[str]:
        """The command that runs another one at the far end."""
        self._process = subprocess.Popen(self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        pid = self._process.stdout.readline().strip().decode()
        if not pid:
            raise RuntimeError(f"{self._argv[0]}: exit {self._process.wait(STOP)}")
        return ["nsenter", f"--net=/proc/{pid}/ns/net"]

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP)


def pause(seconds: float) -> None:
    """Until a look at the source that a mount took is out of date (a limit of time, no event)."""
    time.sleep(seconds)
