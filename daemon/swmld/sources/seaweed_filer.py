"""The filer's calls over gRPC, blocking, from any thread: what its HTTP does not have or refuses."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Any

import grpc

from swmld.sources.errors import Busy, failure
from swmld.sources.seaweed_messages import METHODS, SERVICE
from swmld.sources.seaweed_security import Certificates

_MESSAGE = 1 << 30
"""Bytes of a message at most, as the filer's own: an entry may have thousands of chunks."""

_ERRNOS = {
    grpc.StatusCode.NOT_FOUND: errno.ENOENT,
    grpc.StatusCode.UNAUTHENTICATED: errno.EACCES,
    grpc.StatusCode.PERMISSION_DENIED: errno.EACCES,
    grpc.StatusCode.UNAVAILABLE: errno.EHOSTUNREACH,
    grpc.StatusCode.CANCELLED: errno.EHOSTUNREACH,
    grpc.StatusCode.DEADLINE_EXCEEDED: errno.ETIMEDOUT,
    grpc.StatusCode.UNIMPLEMENTED: errno.EOPNOTSUPP,
}

_NO_ENTRY = "no entry is found in filer store"
"""What the filer says of a name that is not there, with the status UNKNOWN."""

_NO_VOLUME = "not found"
"""And of a volume that no server has: ``volume id 3 not found``."""


class FilerClient:
    """One connection to a filer, made when it is first needed and again whenever it broke."""

    def __init__(self, address: str, *, timeout: float, certificates: Certificates | None = None) -> None:
        """``address``: HOST:PORT of its gRPC. ``timeout``: seconds for a call."""
        self._timeout = timeout
        options = [
            ("grpc.max_receive_message_length", _MESSAGE),
            ("grpc.max_send_message_length", _MESSAGE),
            # A filer that comes back is seen within a second; gRPC would wait for up to two minutes.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
            # Else two sources of one process share a connection, and closing one ends the other's calls.
            ("grpc.use_local_subchannel_pool", 1),
            # The filer is reached as its address says: HTTP_PROXY is for the web.
            ("grpc.enable_http_proxy", 0),
        ]
        if certificates is None:
            self._channel = grpc.insecure_channel(address, options)
        else:
            secret = grpc.ssl_channel_credentials(
                certificates.authority, certificates.key, certificates.certificate
            )
            self._channel = grpc.secure_channel(address, secret, options)
        self._calls: dict[str, Any] = {}
        for name, (asked, answered) in METHODS.items():
            kind = "unary_stream" if name in ("ListEntries", "SubscribeMetadata") else "unary_unary"
            self._calls[name] = getattr(self._channel, kind)(
                f"/{SERVICE}/{name}",
                request_serializer=asked.SerializeToString,
                response_deserializer=answered.FromString,
            )

    def entry(self, directory: str, name: str) -> Any:
        """The ``Entry`` of a name. ENOENT."""
        with _errors(f"lookup of {directory.rstrip('/')}/{name}"):
            request = METHODS["LookupDirectoryEntry"][0](directory=directory, name=name)
            entry = self._calls["LookupDirectoryEntry"](request, timeout=self._timeout).entry
        if not entry.name and name:
            raise failure(errno.ENOENT, f"lookup of {directory.rstrip('/')}/{name}")
        return entry

    def entries(self, directory: str, after: str, limit: int) -> list[Any]:
        """At most ``limit`` entries whose names come after ``after``; none of what is not there."""
        request = METHODS["ListEntries"][0](directory=directory, startFromFileName=after, limit=limit)
        with _errors(f"listing of {directory}"):
            return [answer.entry for answer in self._calls["ListEntries"](request, timeout=self._timeout)]

    def locations(self, volume: str) -> list[str]:
        """HOST:PORT of each server that has a volume; none where nobody has."""
        request = METHODS["LookupVolume"][0](volume_ids=[volume])
        try:
            answer = self._calls["LookupVolume"](request, timeout=self._timeout)
        except (grpc.RpcError, ValueError) as error:
            if _NO_VOLUME in _details(error):
                return []
            with _errors(f"lookup of volume {volume}"):
                raise
        return [place.url for place in answer.locations_map[volume].locations]

    def now_ns(self) -> int:
        """The filer's clock."""
        with _errors("asking for the time"):
            answer = self._calls["Ping"](METHODS["Ping"][0](), timeout=self._timeout)
        return int(answer.start_time_ns or answer.remote_time_ns)

    def subscribe(self, prefix: str, since_ns: int, client: int, epoch: int) -> Any:
        """The stream of what changes below ``prefix`` from ``since_ns`` of the filer's clock on: iterate
        within ``stream_errors``, ``cancel()`` from any thread. ``client`` and ``epoch``: a later epoch
        replaces the stream that the filer may still have for the same client."""
        request = METHODS["SubscribeMetadata"][0](
            client_name="swmld",
            path_prefix=prefix,
            since_ns=since_ns,
            client_id=client,
            client_epoch=epoch,
            client_supports_idle_heartbeat=True,
        )
        return self._calls["SubscribeMetadata"](request)

    def close(self) -> None:
        """Ends all calls: EHOSTUNREACH."""
        self._channel.close()


@contextlib.contextmanager
def _errors(what: str) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise _error(error, what) from None
    except ValueError as error:
        # What gRPC says of a channel that was closed.
        raise failure(errno.EHOSTUNREACH, f"{what}: {error}") from None


stream_errors = _errors


def _details(error: Any) -> str:
    return str(error.details() or "") if isinstance(error, grpc.RpcError) else ""


def _error(error: Any, what: str) -> OSError:
    code, details = error.code(), _details(error)
    if code == grpc.StatusCode.UNKNOWN and _NO_ENTRY in details:
        return failure(errno.ENOENT, what)
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Busy(f"{what}: {details}")
    return failure(_ERRNOS.get(code, errno.EIO), f"{what}: {code.name} {details}")
