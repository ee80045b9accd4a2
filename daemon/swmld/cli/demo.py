"""``swmld demo``: see it work on a small sample, with rates and checksums."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from swmld import demo as sample
from swmld.cli.text import prose
from swmld.config.models import CACHE_ROOT
from swmld.config.values import mount_point
from swmld.demo import Sample
from swmld.errors import HostError, UsageError
from swmld.units import format_size

HELP = """See it work: fill DIR with a small sample and read it through a mount.

The sample is images, a shard and a tensor file, about 150 MB. The rates are shown beside those of the same
files on the disk itself, and every byte is compared.

DIR is made, or must be empty or hold a sample of an earlier demo; it keeps the sample. The cache is a
directory of its own, in --cache-dir if that is given, and is removed at the end.

[bold]Example[/bold]

  sudo swmld demo /tmp/swmld-demo
"""
READY_TIMEOUT = 30.0
STOP_TIMEOUT = 30.0
KINDS = ("images", "shard", "tensors")


@dataclass(frozen=True, slots=True)
class Row:
    """One pass over all files: seconds for each kind."""

    name: str
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class Places:
    """Directories as the daemon's options name them. Without ``cache``: where caches are by default; without
    ``run``: beside the cache."""

    cache: str | None = None
    run: str | None = None
    state: str | None = None

    def options(self, base: Path) -> list[str]:
        """The daemon's options; ``base`` holds its cache."""
        given = ["--cache-dir", str(base / "cache"), "--run-dir", self.run or str(base / "run")]
        return given + (["--state-dir", self.state] if self.state else [])


def register(app: typer.Typer) -> None:
    app.command("demo", help=prose(HELP))(demo)


def demo(
    directory: str = typer.Argument(metavar="DIR", help="Directory of the sample.", show_default=False),
    no_passthrough: bool = typer.Option(False, "--no-passthrough", help="As the daemon's option."),
    no_native: bool = typer.Option(False, "--no-native", help="As the daemon's option."),
    cache_dir: str | None = typer.Option(None, metavar="DIR", help="Directory to make the demo's cache in."),
    run_dir: str | None = typer.Option(None, metavar="DIR", help="As the daemon's option."),
    state_dir: str | None = typer.Option(None, metavar="DIR", help="As the daemon's option."),
) -> None:
    """Run the demo in ``directory``."""
    options = mode_options(not no_passthrough, not no_native)
    run(mount_point(directory), options, Places(cache_dir, run_dir, state_dir))


def mode_options(passthrough: bool, native: bool) -> list[str]:
    """The daemon's options for the ways of serving that the demo lets one switch off."""
    return ["--no-passthrough"] * (not passthrough) + ["--no-native"] * (not native)


def run(directory: Path, options: list[str], places: Places) -> None:
    """Make the sample, read it natively and through a daemon started with ``options``, print the table.

    Raises HostError if the daemon does not start or a byte differs.
    """
    if os.geteuid() != 0:
        raise UsageError("needs root, to mount: run it with sudo")
    if os.path.ismount(directory):
        raise UsageError(f"{directory} is a mount point; the demo makes a mount of its own")
    console = Console()
    with console.status(f"filling {directory}"):
        files = sample.create(directory)
    size = sum(file.size for file in files)
    print(f"{len(files)} files, {format_size(size)} in {directory}")
    _drop([directory / file.path for file in files])
    rows = [_read("disk, page cache dropped", directory, files), _read("disk, warm", directory, files)]
    with tempfile.TemporaryDirectory(prefix="swmld-demo-", dir=_cache_home(places)) as cache:
        _drop([directory / file.path for file in files])
        with _daemon(directory, [*places.options(Path(cache)), *options]) as ready, _told():
            print(ready, flush=True)
            rows.append(_read("mount, cold", directory, files))
            _drop([*(directory / file.path for file in files), *_data_files(Path(cache))])
            rows.append(_read("mount, cached, page cache dropped", directory, files))
            rows.append(_read("mount, cached, warm", directory, files))
            wrong = [file.path for file in files if sample.digest(directory / file.path) != file.sha256]
    console.print(_table(rows, files))
    if wrong:
        raise HostError(f"{len(wrong)} files differ through the mount, such as {wrong[0]}")
    print(f"every byte of {len(files)} files is right (SHA-256); {directory} is as it was")
    print(f"now serve your own: swmld --mount DIR, or go on with this one: swmld --mount {directory}")


@contextmanager
def _told() -> Iterator[None]:
    """A read that fails is the mount's fault: one line, after the daemon's own."""
    try:
        yield
    except OSError as error:
        raise HostError(f"{error.filename}: {error.strerror} through the mount") from error


def _cache_home(places: Places) -> Path:
    """On the disk where caches are by default: a temporary directory is memory on some hosts."""
    home = Path(os.path.abspath(places.cache)) if places.cache else CACHE_ROOT
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cache directory {home}: {error.strerror}") from None
    return home


def _data_files(cache: Path) -> list[Path]:
    return [path for path in (cache / "cache" / "data").rglob("*") if path.is_file()]


def _drop(paths: list[Path]) -> None:
    for path in paths:
        sample.drop_pages(path)


def _read(name: str, directory: Path, files: list[Sample]) -> Row:
    seconds = {}
    for kind in KINDS:
        paths = [directory / file.path for file in files if file.kind == kind]
        start = time.perf_counter()
        sample.read_all(paths)
        seconds[kind] = max(time.perf_counter() - start, 1e-9)
    return Row(name, seconds)


@contextmanager
def _daemon(directory: Path, options: list[str]) -> Iterator[str]:
    """Serve ``directory`` in place; gives the ready line."""
    command = [sys.executable, "-m", "swmld.cli", "--mount", str(directory)]
    command += ["--metrics-address", "127.0.0.1:0", "--log-level", "warning"]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    try:
        yield _ready_line(process)
    finally:
        _stop(process, directory)


def _ready_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], READY_TIMEOUT)[0]:
        raise HostError(f"the daemon is not ready after {READY_TIMEOUT:g} seconds")
    line = process.stdout.readline().strip()
    if not line.startswith("swmld: ready"):
        raise HostError("the daemon did not start; its message is above")
    return line


def _stop(process: subprocess.Popen[str], directory: Path) -> None:
    """End it as a service manager would: once politely, then by force, and never leave a mount behind."""
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            break
        process.send_signal(number)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            continue
    if process.stdout is not None:
        process.stdout.close()
    unmount = shutil.which("fusermount3") or "umount"
    if os.path.ismount(directory):
        flags = ["-uz"] if unmount.endswith("fusermount3") else ["-l"]
        subprocess.run([unmount, *flags, str(directory)], check=False)


def _table(rows: list[Row], files: list[Sample]) -> Table:
    """Files a second where there are many, MB/s (10^6) for all: narrow enough for 80 columns."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("reads of")
    sizes = {kind: sum(file.size for file in files if file.kind == kind) for kind in KINDS}
    many = sum(file.kind == "images" for file in files)
    for title in (f"{many} images\nfiles/s", "images\nMB/s", "shard\nMB/s", "tensors\nMB/s"):
        table.add_column(title, justify="right")
    for row in rows:
        rates = [sizes[kind] / 1e6 / row.seconds[kind] for kind in KINDS]
        table.add_row(row.name, *(f"{rate:,.0f}" for rate in (many / row.seconds["images"], *rates)))
    return table
