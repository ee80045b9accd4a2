"""The daemon's end of the control socket: a Unix socket that only root can use.

The directory is made 0700, the socket 0600; the peer's uid is checked as well, since a socket's mode is
easily lost to a chmod. One task serves one connection, one request after the other. A client that goes away
cancels what it asked for: what a cancelled ``warmup`` has fetched stays.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from swmld.api.accepting import accept
from swmld.api.address import short_path
from swmld.api.messages import MAX_REQUEST, Handler, decode, encode
from swmld.errors import HostError, SwmldError, UsageError

log = logging.getLogger(__name__)

# Requests come from people and their scripts; more at once than this is a runaway loop and waits in the
# backlog.
MAX_CLIENTS = 32
# A client that does not read its answers for so long is gone (seconds).
SEND_TIMEOUT = 60.0


class ControlServer:
    """Serves ``handlers`` on a Unix socket at ``path``.

    A handler's SwmldError is sent as it is; any other exception is logged with its traceback and sent as an
    internal error.
    """

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        self.path = path
        self._handlers = dict(handlers)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled; started once the socket exists. The socket's file is removed at the end.

        Raises UsageError if another daemon answers at ``path``, HostError if the socket cannot be made.
        """
        with _listening(self.path) as listener:
            inode = os.stat(self.path).st_ino
            try:
                task_status.started()
                await accept(
                    trio.socket.from_stdlib_socket(listener), self._serve, most=MAX_CLIENTS, what="control"
                )
            finally:
                _remove(self.path, inode)

    async def _serve(self, connection: trio.socket.SocketType) -> None:
        try:
            if _peer_uid(connection) in (0, os.geteuid()):
                await self._requests(trio.SocketStream(connection))
            else:
                log.warning(
                    "control connection refused: peer is not root", extra={"uid": _peer_uid(connection)}
                )
        except* (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            log.debug("control client went away")

    async def _requests(self, stream: trio.SocketStream) -> None:
        pending = bytearray()
        while (line := await _read_line(stream, pending)) is not None:
            answer: dict[str, Any] | None = None
            async with trio.open_nursery() as nursery:
                # Reads ahead while the handler works: the end of the stream means that nobody waits any more.
                nursery.start_soon(_cancel_at_end, stream, pending, nursery.cancel_scope)
                answer = await self._answer(stream, line)
                nursery.cancel_scope.cancel()
            if answer is None:
                return
            await _send(stream, answer)

    async def _answer(self, stream: trio.SocketStream, line: bytes) -> dict[str, Any]:
        async def progress(message: Mapping[str, Any]) -> None:
            await _send(stream, {"progress": message})

        try:
            handler, params = self._lookup(line)
            return {"result": await handler(params, progress)}
        except SwmldError as error:
            return _error(str(error), error.exit_code)
        except (trio.BrokenResourceError, trio.TooSlowError):
            raise
        except Exception as error:
            log.exception("control request failed")
            return _error(f"internal error: {type(error).__name__}: {error}", 1)

    def _lookup(self, line: bytes) -> tuple[Handler, dict[str, Any]]:
        try:
            message = decode(line)
        except ValueError as error:
            raise UsageError(f"control request is not JSON: {error}") from None
        method, params = message.get("method"), message.get("params", {})
        handler = self._handlers.get(method) if isinstance(method, str) else None
        if handler is None:
            raise UsageError(
                f"unknown control method {method!r}; expected {', '.join(sorted(self._handlers))}"
            )
        if not isinstance(params, dict):
            raise UsageError("control request: expected params to be an object")
        return handler, params


@contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    try:
        _private_directory(path.parent)
        with short_path(path) as name, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            _clear(path, name)
            listener.bind(name)
            os.chmod(name, 0o600)
            listener.listen(MAX_CLIENTS)
            listener.setblocking(False)
            yield listener
    except OSError as error:
        raise HostError(f"control socket {path}: {error.strerror or error}") from error


def _private_directory(path: Path) -> None:
    """Make ``path``, or check that nobody else could put a socket of theirs into it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise UsageError(f"{path}: expected a directory that only root can write (mode 0700)")


def _clear(path: Path, name: str) -> None:
    """Remove the socket of a daemon that is gone; one that answers is refused."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.setblocking(False)
            probe.connect(name)
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except BlockingIOError:
            raise UsageError(f"{path}: another daemon is busy on this control socket") from None
        else:
            raise UsageError(f"{path}: another daemon serves this mount")


def _remove(path: Path, inode: int) -> None:
    """Remove our socket, unless a newer daemon has put its own there."""
    try:
        if os.stat(path).st_ino == inode:
            path.unlink()
    except FileNotFoundError:
        pass


def _peer_uid(connection: trio.socket.SocketType) -> int:
    # struct ucred in socket(7): pid, uid, gid, each a 32 bit integer.
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    uid: int = struct.unpack("iII", credentials)[1]
    return uid


async def _read_line(stream: trio.SocketStream, pending: bytearray) -> bytes | None:
    """The next line without its end; None at the end of the stream."""
    while (end := pending.find(b"\n")) < 0:
        if len(pending) > MAX_REQUEST:
            await _send(stream, _error(f"control request: longer than {MAX_REQUEST} bytes", 2))
            return None
        data = await stream.receive_some()
        if not data:
            return None
        pending += data
    line = bytes(pending[:end])
    del pending[: end + 1]
    return line


async def _cancel_at_end(stream: trio.SocketStream, pending: bytearray, scope: trio.CancelScope) -> None:
    while len(pending) <= MAX_REQUEST:
        try:
            data = await stream.receive_some()
        except trio.BrokenResourceError:
            data = b""
        if not data:
            scope.cancel()
            return
        pending += data


async def _send(stream: trio.SocketStream, message: Mapping[str, Any]) -> None:
    with trio.fail_after(SEND_TIMEOUT):
        await stream.send_all(encode(message))


def _error(message: str, exit_code: int) -> dict[str, Any]:
    return {"error": {"message": message, "exit_code": exit_code}}
