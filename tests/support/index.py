"""The index of a cache whose daemon runs: it alone may open that, so a copy is asked."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from swmld.cache.layout import Layout


def asked(cache: Path, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """The rows of one statement. Its log is copied first: what is put into the table meanwhile is there
    twice then, and not missing."""
    with tempfile.TemporaryDirectory(prefix="swmld-index-") as directory:
        for name in ("index.db-wal", "index.db"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(cache / name, Path(directory) / name)
        with contextlib.closing(sqlite3.connect(Path(directory) / "index.db")) as index:
            return index.execute(statement, values).fetchall()


def data_file(cache: Path, name: str) -> Path:
    """Where the bytes of a source file are that the index has."""
    ((number,),) = asked(cache, "SELECT file_id FROM files WHERE path = ?", name.encode())
    return Path(Layout(cache).data_path(number))
