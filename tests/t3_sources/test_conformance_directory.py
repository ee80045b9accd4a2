"""The suite that every source passes, on a local directory and on each wrapper around one."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from support.source_conformance import Can, MadeSource, SourceConformance
from swmld.sources.directory import DirectorySource
from swmld.sources.interface import Source

pytestmark = pytest.mark.timeout(120)


class MadeDirectory(MadeSource):
    """Files under ``base``/root; a replaced one comes by a rename from beside it."""

    can = Can.EMPTY_DIRECTORIES | Can.SYMLINKS | Can.MODES | Can.NOT_UTF8 | Can.CONTROL_NAMES
    chunk = 1 << 17

    def __init__(self, base: Path) -> None:
        self._root = os.fsencode(base / "root")
        self._new = os.fsencode(base / "new")
        self._numbers = itertools.count()
        os.mkdir(self._root)
        os.mkdir(self._new)
        self.source: Source = DirectorySource(self._root)

    def put(self, path: bytes, content: bytes) -> None:
        new = b"%s/%d" % (self._new, next(self._numbers))
        with open(new, "xb") as file:
            file.write(content)
        os.makedirs(os.path.dirname(self._at(path)), exist_ok=True)
        os.rename(new, self._at(path))

    def remove(self, path: bytes) -> None:
        os.unlink(self._at(path))

    def mkdir(self, path: bytes) -> None:
        os.mkdir(self._at(path))

    def symlink(self, path: bytes, to: bytes) -> None:
        os.symlink(to, self._at(path))

    def chmod(self, path: bytes, mode: int) -> None:
        os.chmod(self._at(path), mode)

    def _at(self, path: bytes) -> bytes:
        return self._root + b"/" + path


class TestDirectory(SourceConformance):
    """The reference."""

    @pytest.fixture
    def made(self, tmp_path: Path) -> MadeSource:
        return MadeDirectory(tmp_path)
