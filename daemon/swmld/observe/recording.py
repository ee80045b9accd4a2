"""A run as a file: gzip of JSON lines, the first one a header, the others as ``encoding`` makes them.

A recording that was cut off (a full disk, a kill, a copy under way) can be read up to the cut: the writer
flushes now and then, the reader says how far it came. Reading and writing take memory for one line and for
what the encoding keeps, however long the run is.
"""

from __future__ import annotations

import gzip
import json
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

from swmld import __version__
from swmld.errors import HostError, UsageError
from swmld.observe.encoding import Decoder, Raw

VERSION = 1
MAX_LINE = 16 << 20
"""Bytes; the encoder's lines stay below a tenth of it."""
FLUSH_SECONDS = 5.0
"""What a kill costs at most; each flush costs the file about 10 bytes and the compressor nothing it has
learnt.
"""


class Writer:
    """Writes one recording, a context manager; ``write`` and ``close`` block.

    Raises UsageError if ``path`` exists and ``force`` is not set, or cannot be made; HostError if its disk
    fails. Readable by root alone: it holds file names and command lines.
    """

    def __init__(
        self,
        path: Path,
        *,
        mount: str = "",
        force: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self._clock = clock
        self._file = _create(path, force=force)
        # Columns of numbers repeat little but their digits: 5 % smaller so than with gzip's own strategy.
        self._zip = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS, 9, zlib.Z_FILTERED)
        self._flushed = clock()
        self.write({"swmld_trace": VERSION, "version": __version__, "mount": mount, "time": time.time()})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Bytes written to the file so far."""
        return self._file.tell()

    def write(self, line: Mapping[str, Any]) -> None:
        """Add one line of an Encoder, or ``{"state": {...}}``."""
        text = json.dumps(line, ensure_ascii=True, separators=(",", ":"))
        try:
            self._file.write(self._zip.compress(text.encode("ascii") + b"\n"))
            if (now := self._clock()) - self._flushed >= FLUSH_SECONDS:
                self._flushed = now
                self._file.write(self._zip.flush(zlib.Z_SYNC_FLUSH))
                self._file.flush()
        except OSError as error:
            raise HostError(f"{self.path}: {error.strerror}") from error

    def close(self) -> None:
        """End the file; again: nothing."""
        if self._file.closed:
            return
        try:
            self._file.write(self._zip.flush())
            self._file.close()
        except OSError as error:
            with suppress(OSError):
                self._file.close()
            raise HostError(f"{self.path}: {error.strerror}") from error


def _create(path: Path, *, force: bool) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if force else os.O_EXCL)
    try:
        return os.fdopen(os.open(path, flags, 0o600), "wb")
    except FileExistsError:
        raise UsageError(f"{path} exists already; --force replaces it") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


class Reader(Decoder):
    """Gives back what was recorded, a context manager; the Names and Processes of the run as far as it was
    read.

    ``header`` is the first line; ``state`` the last one of its kind (what the daemon said of its probes and
    of prefetch); ``cut`` says why the reading ended before the end of the run, None if it did not.

    Raises UsageError if ``path`` cannot be read or is not a recording of this version.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.state: dict[str, Any] = {}
        self.cut: str | None = None
        self._number = 1
        try:
            self._zip = gzip.GzipFile(path, "rb")
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from None
        try:
            self.header = self._header()
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def __iter__(self) -> Iterator[Raw]:
        while (line := self._line()) is not None:
            if "state" in line:
                self.state = line["state"] if isinstance(line["state"], dict) else {}
                continue
            try:
                raw = self.raw(line)
            except ValueError as error:
                raise UsageError(f"{self.path}: line {self._number}: {error}") from None
            yield raw

    def _header(self) -> dict[str, Any]:
        foreign = UsageError(f"{self.path} is not a recording of swmld trace")
        try:
            header = json.loads(self._zip.readline(MAX_LINE))
            version = header["swmld_trace"]
        except OSError as error:
            # gzip's own complaint about a foreign file has no errno.
            raise foreign if error.errno is None else UsageError(f"{self.path}: {error.strerror}") from None
        except (EOFError, zlib.error, ValueError, KeyError, TypeError):
            raise foreign from None
        if version != VERSION:
            raise UsageError(
                f"{self.path}: recording of version {version}, this swmld reads version {VERSION}"
            )
        return cast(dict[str, Any], header)

    def _line(self) -> dict[str, Any] | None:
        """The next line; None at the end and at a cut."""
        try:
            text = self._zip.readline(MAX_LINE)
        except (EOFError, zlib.error, OSError) as error:
            self.cut = f"{self.path} is cut off or damaged after line {self._number}: {error}"
            return None
        if not text:
            return None
        if not text.endswith(b"\n") and len(text) < MAX_LINE:
            self.cut = f"{self.path} is cut off in line {self._number + 1}"
            return None
        self._number += 1
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if not isinstance(line, dict):
            raise UsageError(f"{self.path}: line {self._number} is not a line of a trace")
        return line
