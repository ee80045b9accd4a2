"""A mount of a source that is no directory of this host: a web server that can change, count and go away."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.mount import MODES, Daemon, swmld
from support.posix import fails
from support.waiting import until
from support.webfiles import WebFiles

KIB, MIB = 1 << 10, 1 << 20
SIZES = {
    "empty": 0,
    "one": 1,
    "small": 110_000,
    "chunk": 4 * MIB,
    "more": 4 * MIB + 1,
    "large": 21 * MIB + 77,
}
NAMES = ["with space", "per%41cent", "plus+and&", "hash#mark", "ünïcode", "question?"]

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def fill(path: Path, size: int, seed: int) -> bytes:
    data = random.Random(seed).randbytes(size)
    path.write_bytes(data)
    return data


def refused(code: int, function: Callable[[], object]) -> None:
    with fails(code):
        function()


@pytest.fixture
def web(base: Path) -> Iterator[WebFiles]:
    root = base / "site"
    (root / "dir" / "deeper").mkdir(parents=True)
    with WebFiles(root) as web:
        yield web


def mounted(base: Path, web: WebFiles, mode: str = "passthrough", *options: str, **more: object) -> Daemon:
    checks = [] if any(option.startswith("--check") for option in options) else ["--check", "strict"]
    own = base / "own"
    own.mkdir(exist_ok=True)
    return Daemon(own, mode, source=None, options=["--source", web.url, *checks, *options], **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", MODES)
def test_bytes_are_the_sources(base: Path, web: WebFiles, mode: str) -> None:
    wanted = {name: fill(web.root / name, size, seed) for seed, (name, size) in enumerate(SIZES.items())}
    with mounted(base, web, mode, "--check", "relaxed", "--check-interval", "1h") as daemon:
        for _ in range(2):
            for name, data in wanted.items():
                assert (daemon.mount / name).read_bytes() == data, name
        before = web.asked["GET"]
        with (
            (daemon.mount / "large").open("rb") as file,
            mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view,
        ):
            assert view[:] == wanted["large"]
            rng = random.Random(7)
            for _ in range(200):
                at = rng.randrange(len(wanted["large"]))
                assert os.pread(file.fileno(), 5000, at) == wanted["large"][at : at + 5000]
        assert web.asked["GET"] == before, "what is cached is not fetched again"
        passed = daemon.metric("swmld_opens_total", how="passthrough")
        assert passed >= len(SIZES) if mode == "passthrough" else not passed


def test_names_attributes_and_pages(base: Path, web: WebFiles) -> None:
    for number in range(1200):
        (web.root / "dir" / f"{number:04}").touch()
    for number, name in enumerate(NAMES):
        fill(web.root / "dir" / "deeper" / name, 100 + number, number)
    with mounted(base, web) as daemon:
        assert sorted(os.listdir(daemon.mount / "dir")) == sorted(os.listdir(web.root / "dir"))
        assert sorted(os.listdir(daemon.mount / "dir" / "deeper")) == sorted(NAMES)
        for number, name in enumerate(NAMES):
            found = (daemon.mount / "dir" / "deeper" / name).stat()
            assert (found.st_size, found.st_mode & 0o7777, found.st_nlink) == (100 + number, 0o644, 1)
            assert int(found.st_mtime) == int((web.root / "dir" / "deeper" / name).stat().st_mtime)
            assert (daemon.mount / "dir" / "deeper" / name).read_bytes() == (
                web.root / "dir" / "deeper" / name
            ).read_bytes()
        refused(errno.ENOENT, lambda: (daemon.mount / "dir" / "not there").stat())
        (web.root / "dir" / "not there").write_bytes(b"now")
        until((daemon.mount / "dir" / "not there").exists, "a new file is seen")


def test_nothing_can_be_changed(base: Path, web: WebFiles) -> None:
    fill(web.root / "file", 10, 1)
    with mounted(base, web) as daemon:
        path = daemon.mount / "file"
        refused(errno.EROFS, lambda: path.write_bytes(b"x"))
        refused(errno.EROFS, lambda: (daemon.mount / "new").touch())
        refused(errno.EROFS, lambda: path.unlink())
        refused(errno.EROFS, lambda: path.rename(daemon.mount / "other"))
        refused(errno.EROFS, lambda: path.chmod(0o600))
        refused(errno.EROFS, lambda: (daemon.mount / "d").mkdir())
        assert os.statvfs(daemon.mount).f_flag & os.ST_RDONLY
        for _ in range(2):  # once of us, then of the kernel itself
            refused(errno.EOPNOTSUPP, lambda: os.getxattr(daemon.mount / "file", "user.a"))
            refused(errno.EOPNOTSUPP, lambda: os.listxattr(daemon.mount / "file"))
        with path.open("rb") as file:
            assert len(file.read()) == 10
            os.fsync(file.fileno())


@pytest.mark.parametrize("mode", MODES)
def test_a_replaced_file_is_seen_at_the_next_open(base: Path, web: WebFiles, mode: str) -> None:
    old = {name: fill(web.root / name, size, 1) for name, size in (("small", 5000), ("large", 9 * MIB))}
    with mounted(base, web, mode) as daemon:
        opened = {name: (daemon.mount / name).open("rb") for name in old}
        assert opened["large"].read(100) == old["large"][:100]
        for name, data in old.items():
            assert (daemon.mount / name).read_bytes() == data
        for name, data in old.items():  # the same size, within the same second
            (web.root / "next").write_bytes(bytes(len(data)))
            os.utime(web.root / "next", ns=((web.root / name).stat().st_mtime_ns,) * 2)
            (web.root / "next").rename(web.root / name)
            assert (daemon.mount / name).read_bytes() == bytes(len(data))
            assert opened[name].read() in (data, data[100:]), "an open file is of one generation"
            opened[name].close()
        (web.root / "small").unlink()
        refused(errno.ENOENT, lambda: (daemon.mount / "small").read_bytes())


def test_what_is_cached_is_served_while_the_source_is_away(base: Path, web: WebFiles) -> None:
    kept = fill(web.root / "kept", 300_000, 1)
    fill(web.root / "other", 300_000, 2)
    options = ["--check", "relaxed", "--check-interval", "0.1s", "--fetch-timeout", "5s"]
    with mounted(base, web, "passthrough", *options, expect_log=["source", "does not answer"]) as daemon:
        assert (daemon.mount / "kept").read_bytes() == kept
        assert (daemon.mount / "other").stat().st_size == 300_000
        with web.away():
            assert (daemon.mount / "kept").read_bytes() == kept
            with fails(errno.EIO):
                (daemon.mount / "other").read_bytes()
            assert (daemon.mount / "kept").read_bytes() == kept
        wanted = hashlib.sha256((web.root / "other").read_bytes()).digest()

        def back() -> bool:
            try:
                return hashlib.sha256((daemon.mount / "other").read_bytes()).digest() == wanted
            except OSError:
                return False

        until(back, "the source answers again")


def test_the_cache_outlives_the_daemon(base: Path, web: WebFiles) -> None:
    wanted = {name: fill(web.root / name, size, 3) for name, size in (("a", 100_000), ("b", 9 * MIB))}
    with mounted(base, web) as daemon:
        for name, data in wanted.items():
            assert (daemon.mount / name).read_bytes() == data
    before = web.asked["GET"]
    with mounted(base, web) as daemon:
        for name, data in wanted.items():
            assert (daemon.mount / name).read_bytes() == data
        assert web.asked["GET"] == before
        fill(web.root / "c", 50_000, 4)
        daemon.ask("warmup", daemon.mount)
        after = web.asked["GET"]
        assert (daemon.mount / "c").read_bytes() == (web.root / "c").read_bytes()
        assert web.asked["GET"] == after


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("seaweed://host:8888/x", "did you mean 'seaweedfs'"),
        ("http://user:secret@host/", "credentials do not go into the URL"),
        ("s3://", "the bucket is missing"),
        ("s3://bucket?regoin=x", "did you mean 'region'"),
    ],
)
def test_a_url_that_cannot_be(tmp_path: Path, url: str, said: str) -> None:
    (tmp_path / "mnt").mkdir()
    done = swmld("--mount", tmp_path / "mnt", "--source", url, "--cache-dir", tmp_path / "cache")
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "secret" not in done.stderr
    assert not (tmp_path / "cache").exists()


def test_a_source_that_nobody_serves(base: Path, web: WebFiles) -> None:
    (base / "mnt").mkdir()
    with web.away():
        done = swmld("--mount", base / "mnt", "--source", web.url, "--cache-dir", base / "cache")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert web.url.rstrip("/") in done.stderr
