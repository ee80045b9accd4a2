"""Where control sockets lie, and how to name them to the kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from swmld.errors import HostError


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """A name for ``path`` that fits a socket address (107 bytes), however long its directory's path is."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def sockets(run_dir: Path) -> list[Path]:
    """The control sockets in ``run_dir``: of daemons that run, and of some that may be gone.

    Raises HostError if the directory cannot be read.
    """
    try:
        return sorted(path for path in run_dir.iterdir() if path.suffix == ".sock")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HostError(f"{run_dir}: {error.strerror}") from error
