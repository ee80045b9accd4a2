"""What a fetch costs: flights through the scheduler and the engines against plain pread and pwrite copies.

    python tests/bench/bench_fetch.py [--dir DIR] [--files 2000] [--json FILE]

Sources and cache files lie in DIR; the sources' pages are in the page cache, so the rates show the daemon's
own cost and not the disk's. ``loop CPU`` is the CPU time of the event loop's thread alone, per flight.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.fakes import FakeCache
from swmld.cache.checksum import crc32c
from swmld.cache.files import ChunkState
from swmld.cache.packed import Sealed
from swmld.fetch.buffers import BufferPool
from swmld.fetch.engine import make_engine
from swmld.fetch.scheduler import Fetcher
from swmld.fetch.threads import Workers

MIB = 1 << 20
CHUNK = 4 * MIB
SMALL = 110 << 10
PARALLEL = 32


class Copy:
    """A target: one source file and one cache file, checked as the mount does it. Commits cost a list
    entry."""

    source_direct = False
    reader = None

    def __init__(self, key: int, source: str, cached: str, size: int) -> None:
        self.key = key
        self.size = size
        self.file = self
        self.source_fd = os.open(source, os.O_RDONLY)
        self.fd = os.open(cached, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.ftruncate(self.fd, size)
        self.landed: set[int] = set()
        self._identity = self._now()

    def _now(self) -> tuple[int, ...]:
        stat = os.fstat(self.source_fd)
        return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns

    def check_source(self) -> bool:
        return self._now() == self._identity

    def state(self, chunk: int) -> ChunkState:
        return ChunkState.PRESENT if chunk in self.landed else ChunkState.ABSENT

    def extent(self, chunk: int) -> tuple[int, int]:
        return chunk * CHUNK, min(CHUNK, self.size - chunk * CHUNK)

    def seal(self, chunk: int, data: memoryview) -> Sealed:
        return Sealed(crc32c(data), self.extent(chunk)[0], data.nbytes)

    def commit(self, chunk: int, crc: int, stored: int) -> None:
        self.landed.add(chunk)

    def retain(self) -> None:
        pass

    def release(self) -> None:
        pass

    def close(self) -> None:
        os.close(self.source_fd)
        os.close(self.fd)


def fetch(kind: str, copies: list[Copy]) -> tuple[float, float]:
    """Fetch every chunk of ``copies``; returns wall and loop CPU seconds."""

    async def main() -> tuple[float, float]:
        engine = make_engine(kind, parallel=PARALLEL)  # type: ignore[arg-type]
        pool = BufferPool(16, CHUNK)
        workers = Workers(PARALLEL)
        left = sum(-(-copy.size // CHUNK) for copy in copies)
        done = trio.Event()

        def landed(*_: object) -> None:
            nonlocal left
            left -= 1
            if not left:
                done.set()

        def failed(target: Any, chunk: int, code: int) -> None:
            raise OSError(code, os.strerror(code))

        fetcher = Fetcher(
            engine,
            pool,
            FakeCache(),
            parallel=PARALLEL,
            prefetch_parallel=PARALLEL,
            queue=1 << 20,
            on_landed=landed,
            on_failed=failed,
            offload=workers,
        )
        async with trio.open_nursery() as nursery:
            for run in (engine.run, workers.run, fetcher.run):
                await nursery.start(run)
            wall, cpu = time.perf_counter(), time.thread_time()
            async with trio.open_nursery() as readers:
                for copy in copies:
                    readers.start_soon(fetcher.ensure, copy, range(-(-copy.size // CHUNK)))
            await done.wait()
            wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
            nursery.cancel_scope.cancel()
        for thing in (engine, workers, pool):
            thing.close()
        return wall, cpu

    return trio.run(main)


def plain(copies: list[Copy]) -> tuple[float, float]:
    """The same bytes with pread and pwrite, one after the other."""
    buffer = memoryview(bytearray(MIB))
    wall, cpu = time.perf_counter(), time.thread_time()
    for copy in copies:
        for offset in range(0, copy.size, MIB):
            count = os.preadv(copy.source_fd, [buffer], offset)
            os.pwrite(copy.fd, buffer[:count], offset)
    return time.perf_counter() - wall, time.thread_time() - cpu


def measure(directory: Path, case: str, sizes: list[int]) -> list[dict[str, Any]]:
    """One table section: the same files by each way."""
    rows = []
    sources = [directory / f"source{number}" for number in range(len(sizes))]
    for path, size in zip(sources, sizes, strict=True):
        path.write_bytes(os.urandom(min(size, MIB)) * -(-size // MIB) if size > MIB else os.urandom(size))
    ways: dict[str, Callable[[list[Copy]], tuple[float, float]]] = {
        "pread/pwrite": plain,
        "uring": lambda copies: fetch("uring", copies),
        "threads": lambda copies: fetch("threads", copies),
    }
    for way, run in ways.items():
        wall, cpu = min(_once(directory, sources, sizes, run) for _ in range(3))
        chunks = sum(-(-size // CHUNK) for size in sizes)
        rows.append(
            {
                "case": case,
                "way": way,
                "mb_per_s": round(sum(sizes) / wall / 1e6, 1),
                "flights_per_s": round(chunks / wall),
                "loop_cpu_us_per_flight": round(cpu / chunks * 1e6, 1),
                "ratio": 0.0,
            }
        )
        rows[-1]["ratio"] = round(rows[-1]["mb_per_s"] / rows[0]["mb_per_s"], 2)
    for path in directory.iterdir():
        path.unlink()
    return rows


def _once(
    directory: Path,
    sources: list[Path],
    sizes: list[int],
    run: Callable[[list[Copy]], tuple[float, float]],
) -> tuple[float, float]:
    copies = [
        Copy(number, str(path), str(directory / f"cached{number}"), size)
        for number, (path, size) in enumerate(zip(sources, sizes, strict=True))
    ]
    try:
        return run(copies)
    finally:
        for copy in copies:
            copy.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, help="where the files lie (default: the temporary directory)")
    parser.add_argument("--files", type=int, default=2000, help="small files (default: %(default)s)")
    parser.add_argument(
        "--large-mib", type=int, default=512, help="size of the large file (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="write the rows there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="swmld-bench-", dir=arguments.dir) as directory:
        rows = measure(Path(directory), "small files, 110 KiB", [SMALL] * arguments.files)
        rows += measure(Path(directory), "one large file", [arguments.large_mib * MIB])
    print(f"{'case':<22}{'way':<14}{'MB/s':>9}{'flights/s':>11}{'loop CPU µs':>13}{'ratio':>7}")
    for row in rows:
        print(
            f"{row['case']:<22}{row['way']:<14}{row['mb_per_s']:>9}{row['flights_per_s']:>11}"
            f"{row['loop_cpu_us_per_flight']:>13}{row['ratio']:>7}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
