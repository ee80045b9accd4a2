"""The suite that every source passes, on a real SeaweedFS."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from support.seaweed import DIRECTORY, SYMLINK, Cluster
from support.source_conformance import Can, MadeSource, SourceConformance, Writes

pytestmark = pytest.mark.timeout(120)

_numbers = itertools.count()


class MadeSeaweed(MadeSource):
    """A directory of the filer; what is behind it is changed by the filer's HTTP."""

    can = Can.EMPTY_DIRECTORIES | Can.SYMLINKS | Can.MODES | Can.CONTROL_NAMES | Can.PARENTS | Can.ONE_MAKER
    chunk = 1 << 20
    unit = 1 << 17

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._root = f"/conformance/{next(_numbers)}-{time.time_ns()}"
        self.mkdir(b"")
        source = cluster.source(self._root[1:])
        source.writing.chunk = self.unit
        self.source = source

    def put(self, path: bytes, content: bytes) -> None:
        headers = {"Content-Type": "application/octet-stream"}
        self._cluster.put(f"{quote(self._at(path))}?maxMB=1", content, headers=headers)

    def remove(self, path: bytes) -> None:
        self._cluster.delete(quote(self._at(path)))

    def mkdir(self, path: bytes) -> None:
        directory, _, name = self._at(path).rpartition("/")
        self._cluster.create(directory, name, mode=DIRECTORY | 0o755, is_directory=True)

    def symlink(self, path: bytes, to: bytes) -> None:
        directory, _, name = self._at(path).rpartition("/")
        self._cluster.create(
            directory, name, mode=SYMLINK | 0o777, attributes={"symlink_target": to.decode()}
        )

    def chmod(self, path: bytes, mode: int) -> None:
        directory = self._at(path).rpartition("/")[0]
        entry = self._cluster.entry(self._at(path))
        entry.attributes.file_mode = mode
        self._cluster.call("UpdateEntry", directory=directory, entry=entry)

    def _at(self, path: bytes) -> str:
        return f"{self._root}/{path.decode()}" if path else self._root


class TestSeaweed(Writes, SourceConformance):
    """Names, bytes and changes of a directory of it."""

    @pytest.fixture
    def made(self, seaweed: Cluster) -> Iterator[MadeSource]:
        made = MadeSeaweed(seaweed)
        yield made
        made.source.close()
