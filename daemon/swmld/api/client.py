"""The command line's end of the control socket: blocking, one request after the other."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from swmld.api.address import short_path
from swmld.api.messages import decode, encode
from swmld.errors import HostError, SwmldError, UsageError

# A daemon answers status at once; one that does not in so long is stuck (seconds). Other methods wait as
# long as they take: a warm-up lasts hours.
STATUS_TIMEOUT = 5.0


class RemoteError(SwmldError):
    """What the daemon answered instead of a result."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Client:
    """A connection to one daemon; a context manager.

    Raises UsageError if nothing listens at ``path``, HostError if the daemon goes away in between.
    """

    def __init__(self, path: Path, *, timeout: float | None = None) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        try:
            with short_path(path) as name:
                self._socket.connect(name)
        except OSError as error:
            self._socket.close()
            if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR):
                raise UsageError(f"no swmld daemon listens on {path}") from None
            raise HostError(f"control socket {path}: {error.strerror or error}") from error
        self._lines = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; a request that is still being served is cancelled by that."""
        self._lines.close()
        self._socket.close()

    def interrupt(self) -> None:
        """End the connection under a call in another thread, which raises HostError then."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def call(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> Any:
        """The result of ``method``; ``on_progress`` is told each progress message. Raises RemoteError."""
        with _told():
            self._socket.sendall(encode({"method": method, "params": params or {}}))
        for message in self._messages():
            if "progress" in message:
                if on_progress is not None:
                    on_progress(message["progress"])
            elif "error" in message:
                raise RemoteError(message["error"]["message"], message["error"]["exit_code"])
            else:
                return message["result"]
        raise HostError("the daemon ended before it answered")

    def _messages(self) -> Iterator[dict[str, Any]]:
        while True:
            with _told():
                line = self._lines.readline()
            if not line.endswith(b"\n"):
                return
            yield decode(line)


@contextmanager
def _told() -> Iterator[None]:
    """Errors of the socket alone: what a caller's own output does is the caller's."""
    try:
        yield
    except TimeoutError:
        raise HostError("the daemon does not answer") from None
    except OSError as error:
        raise HostError(f"control socket: {error.strerror or os.strerror(error.errno or 0)}") from error
