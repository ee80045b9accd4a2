"""A cache on a machine of the test's own making: its clock, its free space, its boots and its crashes."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from swmld.cache.checksum import crc32c
from swmld.cache.files import CacheFile
from swmld.cache.store import Cache, Host
from swmld.types import Identity

CHUNK = 16384
OVERHEAD = 4096


class Machine:
    """Opens caches in one directory; ``now``, ``free`` and the boot are the test's to set."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.directory = base / "cache"
        self.now = 1_000_000.0
        self.free = 1 << 40
        self._boots = 0
        self._copies = 0
        self._boot_id = base / "boot_id"
        self.reboot()
        self._open: list[Cache] = []

    def reboot(self) -> None:
        """The next ``open`` is on another boot."""
        self._boots += 1
        self._boot_id.write_text(f"boot-{self._boots}\n")

    def host(self) -> Host:
        return Host(lambda: self.now, lambda _directory: self.free, self._boot_id)

    def open(self, **options: Any) -> Cache:
        settings: dict[str, Any] = {
            "source_key": "source",
            "mount": "/mnt/ml",
            "size_limit": 1 << 40,
            "free_floor": 0,
            "chunk_size": CHUNK,
            "host": self.host(),
        }
        cache = Cache.open(self.directory, **(settings | options))
        self._open.append(cache)
        return cache

    def crash(self, cache: Cache) -> None:
        """What a kill leaves: the directory as it is now becomes the one that the next ``open`` gets."""
        self._copies += 1
        copy = self.base / f"cache-{self._copies}"
        shutil.copytree(self.directory, copy)
        cache.close()
        self.directory = copy

    def close(self) -> None:
        for cache in self._open:
            cache.close()


def identity(ino: int, size: int = 3 * CHUNK, generation: int = 1, dev: int = 0) -> Identity:
    return Identity(dev, ino, size, generation, generation)


def content(of: Identity, offset: int, length: int) -> bytes:
    """What the source file has there: other bytes in each chunk of each generation."""
    seed = f"{of.dev}/{of.ino}/{of.mtime_ns}/{offset}"
    return random.Random(seed).randbytes(length)


def fill(file: CacheFile, chunks: Iterable[int] | None = None) -> None:
    """Fetch ``chunks``, or all, as the fetcher does: write, then commit."""
    for chunk in range(file.nchunks) if chunks is None else chunks:
        offset, length = file.extent(chunk)
        data = content(file.identity, offset, length)
        assert os.pwrite(file.fd, data, offset) == length
        file.commit(chunk, crc32c(data))


def cached(cache: Cache, of: Identity, path: bytes = b"file") -> int:
    """Cache a file completely and let go of it; returns its id."""
    file = cache.acquire(of, path)
    fill(file)
    file.release()
    return file.file_id


def right_bytes(file: CacheFile, chunk: int) -> bool:
    offset, length = file.extent(chunk)
    return os.pread(file.fd, length, offset) == content(file.identity, offset, length)


def data_files(directory: Path) -> set[int]:
    return {int(path.name) for path in directory.glob("data/??/*")}


def flip_bit(cache: Cache, file_id: int, offset: int) -> None:
    with open(cache.data_path(file_id), "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def aged(machine: Machine, cache: Cache, count: int, first: int = 1, size: int = 3 * CHUNK) -> list[int]:
    """``count`` complete files, a minute apart; returns their ids, oldest first."""
    ids = []
    for ino in range(first, first + count):
        machine.now += 60
        ids.append(cached(cache, identity(ino, size), b"f%d" % ino))
    cache._writer.flush()
    machine.now += 60
    return ids


def left(cache: Cache) -> list[int]:
    """Ids of the files that are cached, in the order in which they came."""
    return [entry.file_id for entry in cache.ls()]
