"""What a user can get wrong: one clear line, exit code 2, nothing changed and nothing left behind."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import gates, posix
from support.mount import Daemon, command, swmld
from support.posix import ALICE

CODE = 2

# What is refused, and by whom, is decided before a file is served in one way or another.
one_mode = pytest.mark.parametrize("daemon_mode", ["passthrough"], indirect=True)


@pytest.fixture(autouse=True)
def _needs_fuse() -> None:
    gates.require("fuse", "root")


class Place:
    """Directories of one attempt that is to be refused."""

    def __init__(self, base: Path) -> None:
        self.base, self.mount, self.source, self.cache = base, base / "mnt", base / "src", base / "cache"
        for path in (self.mount, self.source):
            path.mkdir()
        (self.source / "name").write_bytes(b"content")

    def argv(self, *more: str | Path) -> list[str]:
        args = [f"--mount={self.mount}", f"--source={self.source}", f"--cache-dir={self.cache}"]
        args += [f"--run-dir={self.base}/run", "--metrics-address=127.0.0.1:0"]
        return [*args, *map(str, more)]

    def refused(self, *words: str, args: list[str] | None = None, code: int = CODE) -> str:
        """Start it; it must end with the code and one line that holds all the words."""
        done = swmld(*(args if args is not None else self.argv()), timeout=30)
        return said(done, *words, code=code)


def said(done: subprocess.CompletedProcess[str], *words: str, code: int = CODE) -> str:
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    lines = done.stderr.splitlines()
    assert len(lines) == 1, f"expected one line:\n{done.stderr}"
    assert lines[0].startswith("swmld: "), lines[0]
    assert done.stdout == ""
    for word in words:
        assert word in lines[0], f"{word!r} is not in: {lines[0]}"
    return lines[0]


@pytest.fixture
def place(base: Path) -> Iterator[Place]:
    place = Place(base)
    yield place
    left = [point for point in posix.mounts() if Path(point).is_relative_to(base)]
    assert not left, "a mount was left behind"


def test_mount_point_missing(place: Place) -> None:
    place.mount.rmdir()
    place.refused(str(place.mount), "does not exist")
    assert not place.mount.exists()


def test_mount_point_is_a_file(place: Place) -> None:
    place.mount.rmdir()
    place.mount.write_bytes(b"a file")
    place.refused(str(place.mount), "not a directory")
    assert place.mount.read_bytes() == b"a file"


def test_empty_directory_without_a_source(place: Place) -> None:
    args = ["--mount", os.fspath(place.mount), "--cache-dir", os.fspath(place.cache)]
    place.refused(str(place.mount), "empty", "--demo", args=args)


def test_source_missing(place: Place) -> None:
    (place.source / "name").unlink()
    place.source.rmdir()
    place.refused(str(place.source), "does not exist")


def test_source_is_a_file(place: Place) -> None:
    place.refused("not a directory", args=place.argv("--source", place.source / "name"))


@pytest.mark.parametrize("value", ["", "10 potatoes", "-1GiB", "0"])
@pytest.mark.parametrize("option", ["--cache-size", "--chunk-size"])
def test_sizes_that_cannot_be(place: Place, option: str, value: str) -> None:
    place.refused(option, args=place.argv(option, value))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--chunk-size", "3MiB"), ("--chunk-size", "1KiB"), ("--chunk-size", "1GiB"),
        ("--cache-size", "1KiB"),
        ("--check", "sometimes"), ("--fetch-timeout", "0s"), ("--fetch-parallel", "0"), ("--engine", "steam"),
        ("--metrics-address", "nowhere"), ("--free-floor", "101%"),
    ],
)  # fmt: skip
def test_other_values_that_cannot_be(place: Place, option: str, value: str) -> None:
    place.refused(option, args=place.argv(option, value))


def test_hardly_any_descriptors(place: Place) -> None:
    few = ["prlimit", "--nofile=40:40", *command(), *place.argv()]
    done = subprocess.run(few, capture_output=True, text=True, timeout=30, check=False)
    said(done, "40 files", "ulimit", code=1)


def test_unknown_option(place: Place) -> None:
    done = swmld(*place.argv("--cash-size", "1GiB"), timeout=30)
    assert done.returncode == CODE
    assert "--cash-size" in done.stderr
    assert "Traceback" not in done.stderr


def test_configuration_file_that_is_wrong(place: Place) -> None:
    config = place.base / "c.yaml"
    for text, words in (
        ("cash_size: 1GiB\n", ["cash_size", "c.yaml:1"]),
        ("cache_size: big\n", ["cache_size", "c.yaml:1"]),
        ("\ncheck: never\n", ["check", "c.yaml:2"]),
        ("cache_size: [1GiB\n", ["c.yaml"]),
        ("- a list\n", ["c.yaml"]),
        ("paths:\n  - {glob: '*', check: strict, often: yes}\n", ["often", "c.yaml:2"]),
    ):
        config.write_text(text)
        place.refused(*words, args=place.argv("--config", config))
    config.unlink()
    place.refused("c.yaml", args=place.argv("--config", config))


def test_not_root(place: Place, base: Path) -> None:
    argv = [*command(), *place.argv()]
    (base / "run").mkdir(mode=0o777)

    def work() -> subprocess.CompletedProcess[str]:
        return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)

    if not os.access(command()[0], os.X_OK):
        pytest.skip("the installation cannot be executed")
    try:
        done = posix.run(work, ALICE)
    except PermissionError:
        pytest.skip("other users cannot enter the installation's directory")
    if "Permission denied" in done.stderr and "swmld:" not in done.stderr:
        pytest.skip("other users cannot read the installation")
    said(done, "root")


def test_mount_inside_the_cache_directory(place: Place) -> None:
    inner = place.cache / "inner"
    inner.mkdir(parents=True)
    place.refused("cache directory", args=place.argv("--mount", inner))


@pytest.mark.parametrize("where", ["", "sub", "sub/deeper"])
def test_cache_directory_inside_the_mount(place: Place, where: str) -> None:
    place.refused("cache directory", args=place.argv("--cache-dir", place.mount / where))


@pytest.mark.parametrize("where", ["", "sub"])
def test_cache_directory_inside_the_source(place: Place, where: str) -> None:
    """It would cache its own files."""
    place.refused("cache directory", args=place.argv("--cache-dir", place.source / where))
    assert os.listdir(place.source) == ["name"]


def test_cache_directory_through_a_symlink(place: Place) -> None:
    (place.base / "link").symlink_to(place.mount)
    place.refused("cache directory", args=place.argv("--cache-dir", place.base / "link" / "cache"))


def test_mount_inside_the_source(place: Place) -> None:
    """Would show itself inside itself."""
    inner = place.source / "inner"
    inner.mkdir()
    done = swmld(*place.argv("--mount", inner), timeout=30)
    said(done, str(inner))


def test_cache_directory_is_a_file(place: Place) -> None:
    place.cache.write_bytes(b"")
    place.refused(str(place.cache))


def test_cache_directory_that_cannot_be_written(place: Place) -> None:
    place.cache.mkdir()
    posix.mount("tmpfs", place.cache, "tmpfs", 1)  # MS_RDONLY
    try:
        place.refused(str(place.cache))
    finally:
        posix.umount(place.cache)


@pytest.mark.parametrize("text", ["swmld-cache 999\n", "something else\n", ""])
def test_cache_of_another_format(place: Place, text: str) -> None:
    place.cache.mkdir()
    (place.cache / "FORMAT").write_text(text)
    (place.cache / "precious").write_bytes(b"kept")
    line = place.refused(str(place.cache))
    if "999" in text:
        assert "999" in line
        assert "1" in line.replace("999", "")
    assert (place.cache / "precious").read_bytes() == b"kept"
    assert (place.cache / "FORMAT").read_text() == text


def test_a_directory_of_something_else_is_no_cache(place: Place) -> None:
    """Files that swmld did not make: it must not take the directory over, let alone evict them."""
    place.cache.mkdir()
    (place.cache / "thesis.tex").write_bytes(b"three years of work")
    place.refused(str(place.cache))
    assert (place.cache / "thesis.tex").read_bytes() == b"three years of work"


@one_mode
def test_cache_in_use_by_another_daemon(daemon: Callable[..., Daemon], base: Path) -> None:
    first = daemon()
    other = base / "other"
    other.mkdir()
    done = swmld("--mount", other, "--source", first.source, "--cache-dir", first.cache,
                 "--run-dir", first.run_dir, "--metrics-address", "127.0.0.1:0", timeout=30)  # fmt: skip
    said(done, str(first.cache), str(first.pid))
    assert first.alive


@one_mode
def test_already_served(daemon: Callable[..., Daemon], base: Path) -> None:
    first = daemon()
    (first.source / "name").write_bytes(b"content")
    for run_dir in (first.run_dir, base / "run2"):
        done = swmld("--mount", first.mount, "--source", first.source, "--cache-dir", base / "cache2",
                     "--run-dir", run_dir, "--metrics-address", "127.0.0.1:0", timeout=30)  # fmt: skip
        said(done, str(first.mount), "already served")
    assert (first.mount / "name").read_bytes() == b"content"


def test_commands_without_a_daemon(base: Path) -> None:
    run_dir = base / "run"
    commands = ["stats", "status", "warmup x", "cache ls", "cache verify x", "cache drop x"]
    for args in map(str.split, commands):
        said(swmld(*args, "--run-dir", run_dir), "no swmld daemon")
        said(swmld(*args, "--run-dir", run_dir, "--mount", "/nowhere"), "/nowhere")


@one_mode
def test_commands_with_paths_elsewhere(daemon: Callable[..., Daemon]) -> None:
    one = daemon()
    for args in (["warmup", "/etc"], ["cache", "verify", "/etc"], ["cache", "drop", "/etc"]):
        said(one.command(*args), "/etc")
    done = one.command("warmup", str(one.mount / "missing"))
    assert done.returncode != 0
    assert "missing" in done.stderr
    assert "Traceback" not in done.stderr


@one_mode
def test_metrics_port_taken(daemon: Callable[..., Daemon]) -> None:
    """Not worth refusing to serve: another port is taken and told."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        one = daemon(options=["--metrics-address", address], expect_log=["metrics|port|address"])
        assert one.status()["metrics"] not in (address, "off")
        assert one.metrics()
