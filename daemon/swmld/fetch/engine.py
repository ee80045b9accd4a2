"""The engine moves byte ranges between files and buffers; the scheduler decides which and when.

Two engines behave the same and pass the same tests: ``UringEngine`` (``uring.py``) where the kernel gives a
ring, ``ThreadEngine`` (``threads.py``) elsewhere. What they share is here: short transfers are continued,
EINTR and EAGAIN are tried again, everything else is an ``OSError``.

Cancelling a transfer returns at once. The kernel may still be at it, so its buffer stays held (see
``buffers.py``) and **its file descriptor must stay open** until then: a queued operation looks the
descriptor up only when it starts. ``Buffer.when_idle`` tells when both are free.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import Any, Literal, Protocol

import trio

from swmld.fetch.buffers import Buffer

log = logging.getLogger(__name__)

Kind = Literal["auto", "uring", "threads"]

AGAIN_TRIES = 8
"""Tries of one transfer that meets EAGAIN. With the pauses below, about half a second: longer is an error."""

AGAIN_PAUSE = 0.002
"""Seconds before the first new try; doubled each time."""


AT_ONCE = 256 << 10
"""Bytes that one call writes in ``put``. A file system with large folios allocates them as long as the call,
and those of 2 MiB and more are what a virtual machine has given back to its host: getting them again costs
more than the copy. One file of SeaweedFS, cold, through the mount: 650 to 700 MB/s, 390 to 660 with calls of
4 MiB, 430 to 600 with 64 KiB (2 CPUs, server on the same host). A GiB of a directory: 0.7 to 1.1 s of the
daemon's CPU in the kernel, 1.6 to 1.9 with calls of 4 MiB through the ring."""


class Engine(Protocol):
    """Moves bytes. ``read`` and ``write`` may be called before ``run`` has started: they wait for it."""

    name: str

    async def read(
        self,
        fd: int,
        buffer: Buffer,
        buf_offset: int,
        length: int,
        offset: int,
        *,
        minimum: int | None = None,
    ) -> int:
        """Read ``length`` bytes at ``offset`` of ``fd`` to ``buf_offset`` of ``buffer``; returns how many.

        Fewer than ``minimum`` (default: ``length``) only at the end of the file. A reader of an O_DIRECT
        file rounds ``length`` up and names the part that exists as ``minimum``: reading on from the file's
        end at an unaligned offset would be EINVAL. Raises ``OSError``.
        """
        ...

    async def write(self, fd: int, buffer: Buffer, buf_offset: int, length: int, offset: int) -> None:
        """Write ``length`` bytes of ``buffer`` at ``offset`` of ``fd``: all of them, or ``OSError``."""
        ...

    def put(self, fd: int, data: memoryview, offset: int) -> None:
        """As ``write``, blocking: for who is in a worker thread."""
        ...

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve transfers until cancelled."""
        ...

    def close(self) -> None:
        """Give the kernel's resources back; call it after ``run`` has ended."""
        ...


class TransferLoop:
    """``read`` and ``write`` in terms of single transfers, for both engines."""

    async def transfer(
        self, writing: bool, fd: int, buffer: Buffer, start: int, length: int, offset: int
    ) -> int:
        """One kernel operation; returns the bytes moved or raises ``OSError``."""
        raise NotImplementedError

    async def read(
        self,
        fd: int,
        buffer: Buffer,
        buf_offset: int,
        length: int,
        offset: int,
        *,
        minimum: int | None = None,
    ) -> int:
        """See ``Engine.read``."""
        enough = length if minimum is None else minimum
        done = 0
        while done < enough:
            count = await self._insist(False, fd, buffer, buf_offset + done, length - done, offset + done)
            if count == 0:
                break
            done += count
        return done

    async def write(self, fd: int, buffer: Buffer, buf_offset: int, length: int, offset: int) -> None:
        """See ``Engine.write``."""
        done = 0
        while done < length:
            count = await self._insist(True, fd, buffer, buf_offset + done, length - done, offset + done)
            if count == 0:
                raise OSError(errno.EIO, "the file took no bytes")
            done += count

    def put(self, fd: int, data: memoryview, offset: int) -> None:
        """See ``Engine.put``."""
        done = 0
        while done < len(data):
            count = os.pwrite(fd, data[done : done + AT_ONCE], offset + done)
            if count == 0:
                raise OSError(errno.EIO, "the file took no bytes")
            done += count

    async def _insist(
        self, writing: bool, fd: int, buffer: Buffer, start: int, length: int, offset: int
    ) -> int:
        tries = 0
        while True:
            try:
                return await self.transfer(writing, fd, buffer, start, length, offset)
            except InterruptedError:
                continue
            except BlockingIOError:
                tries += 1
                if tries == AGAIN_TRIES:
                    raise
                await trio.sleep(AGAIN_PAUSE * 2 ** (tries - 1))


def os_error(code: int) -> OSError:
    """``OSError`` of a positive errno, as the subclass that Python has for it."""
    return OSError(code, os.strerror(code))


def make_engine(kind: Kind = "auto", *, parallel: int = 32) -> Any:
    """The engine named by ``kind``; ``auto`` takes threads, with one log line, where no ring can be made.

    ``parallel`` is the number of transfers that must be able to run at once. ``OSError`` if ``uring`` was
    asked for by name and cannot be had. The result is an ``Engine``.
    """
    from swmld.fetch.threads import ThreadEngine  # both import this module

    if kind == "threads":
        return ThreadEngine(parallel=parallel)
    try:
        from swmld.fetch.uring import UringEngine

        return UringEngine(parallel=parallel)
    except (OSError, ImportError) as error:
        if kind == "uring":
            raise
        log.warning("no io_uring (%s): reading with threads instead", error)
        return ThreadEngine(parallel=parallel)
