"""The filer's calls over gRPC, blocking, from any thread: what its HTTP does not have or refuses."""

from __future__ import annotations

import contextlib
import errno
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from swmld.sources.errors import Busy, failure
from swmld.sources.seaweed_filers import AWAY, Filers, Unsent
from swmld.sources.seaweed_latest import Latest
from swmld.sources.seaweed_messages import MESSAGES, METHODS, SERVICE, Entry
from swmld.sources.seaweed_security import Certificates

_MESSAGE = 1 << 30
"""Bytes of a message at most, as the filer's own: an entry may have thousands of chunks."""

_ERRNOS = {
    grpc.StatusCode.NOT_FOUND: errno.ENOENT,
    grpc.StatusCode.FAILED_PRECONDITION: errno.ESTALE,
    grpc.StatusCode.ALREADY_EXISTS: errno.EEXIST,
    grpc.StatusCode.UNAUTHENTICATED: errno.EACCES,
    grpc.StatusCode.PERMISSION_DENIED: errno.EACCES,
    grpc.StatusCode.UNAVAILABLE: errno.EHOSTUNREACH,
    grpc.StatusCode.CANCELLED: errno.EHOSTUNREACH,
    grpc.StatusCode.DEADLINE_EXCEEDED: errno.ETIMEDOUT,
    grpc.StatusCode.UNIMPLEMENTED: errno.EOPNOTSUPP,
}

_NO_ENTRY = "no entry is found in filer store"
"""What the filer says of a name that is not there, with the status UNKNOWN."""

_CODES = {
    1: errno.ENAMETOOLONG,
    2: errno.ENOTDIR,
    3: errno.EISDIR,
    4: errno.ENOTDIR,
    5: errno.EEXIST,
    6: errno.ESTALE,
}
"""What the filer refuses, by number (``FilerError``)."""

_TEXTS = {
    "no entry is found": errno.ENOENT,
    "name too long": errno.ENAMETOOLONG,
    "non-empty folder": errno.ENOTEMPTY,
    "existing entry is a directory": errno.EISDIR,
    "existing entry is a file": errno.ENOTDIR,
    "already exists": errno.EEXIST,
    "precondition failed": errno.ESTALE,
    "subdirectory of itself": errno.EINVAL,
    "read only": errno.ENOSPC,  # also of a bucket that is over its quota
    "writable volumes": errno.ENOSPC,
    "free volume": errno.ENOSPC,
    "free space": errno.ENOSPC,
    "no space": errno.ENOSPC,
    "operation not permitted": errno.EPERM,  # written once, read many times
}
"""And where it says so in words alone, which have paths in them."""

_HARMLESS = frozenset({"AssignVolume", "GetFilerConfiguration"})
"""Calls that may be made twice."""

_SIGNED = frozenset({"CreateEntry", "UpdateEntry", "DeleteEntry", "AtomicRenameEntry"})
"""Calls whose event, as all clients are told it, has the caller's signature."""

_ANSWERED = frozenset(
    {
        *(errno.ENOENT, errno.ESTALE, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EOPNOTSUPP),
        *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.ENOSPC, errno.EINVAL),
    }
)
"""Errors of a change with which the filer says that it was not made."""

_ENTRY_EQUAL = 10
"""The condition that an entry is as it was (IF_ENTRY_EQUAL)."""

_NO_WAY = "failed to connect"
"""What gRPC says where it has sent nothing."""

_THEIRS = 'desc = "'
"""What a filer says that itself finds no way to another server: the one that keeps the lock of a path, until
the others know that it is gone. So the filer is there."""

_UNDONE = "Error while dialing"
LOCKS = 0.2
"""Seconds after which such a filer is asked again."""

_NO_VOLUME = "not found"
"""And of a volume that no server has: ``volume id 3 not found``."""


class FilerClient:
    """Connections to filers, each made when it is first needed and again whenever it broke."""

    def __init__(self, filers: Filers, *, timeout: float, certificates: Certificates | None = None) -> None:
        """``timeout``: seconds for a call."""
        self.filers = filers
        self._timeout = timeout
        self._closing = threading.Event()
        self.signature = random.getrandbits(31) or 1
        """That of the changes that are made here."""
        self.doubted: Callable[[list[str]], None] = _ignored
        """Told of paths of which it is not known whether a change was made, or will be; set by the owner."""
        self._latest = Latest()
        self._refuses: bool | None = None
        """Whether filers keep to conditions; None: not known yet."""
        self._channels = [_channel(address.grpc, certificates) for address in filers.addresses]
        self._calls = [_calls(channel) for channel in self._channels]

    def _call(self, name: str, what: str, /, **fields: Any) -> Any:
        request = METHODS[name][0](**fields)

        def call(number: int) -> Any:
            with _errors(what):
                return self._calls[number][name](request, timeout=self._timeout)

        return self.filers.ask(call)

    def entry(self, directory: str, name: str) -> Any:
        """The ``Entry`` of a name. ENOENT."""
        what = f"lookup of {directory.rstrip('/')}/{name}"
        entry = self._call("LookupDirectoryEntry", what, directory=directory, name=name).entry
        if not entry.name and name:
            raise failure(errno.ENOENT, what)
        return entry

    def entries(self, directory: str, after: str, limit: int) -> list[Any]:
        """At most ``limit`` entries whose names come after ``after``; none of what is not there."""
        request = METHODS["ListEntries"][0](directory=directory, startFromFileName=after, limit=limit)

        def listed(number: int) -> list[Any]:
            with _errors(f"listing of {directory}"):
                answers = self._calls[number]["ListEntries"](request, timeout=self._timeout)
                return [answer.entry for answer in answers]

        return self.filers.ask(listed)

    def locations(self, volume: str) -> list[str]:
        """HOST:PORT of each server that has a volume; none where nobody has."""
        try:
            answer = self._call("LookupVolume", f"lookup of volume {volume}", volume_ids=[volume])
        except OSError as error:
            if error.errno not in AWAY and _NO_VOLUME in (error.strerror or ""):
                return []
            raise
        return [place.url for place in answer.locations_map[volume].locations]

    def now_ns(self, number: int) -> int:
        """The clock of a filer."""
        with _errors("asking for the time"):
            answer = self._calls[number]["Ping"](METHODS["Ping"][0](), timeout=self._timeout)
        return int(answer.start_time_ns or answer.remote_time_ns)

    def subscribe(self, number: int, prefix: str, since_ns: int, client: int, epoch: int) -> Any:
        """The stream of what changes below ``prefix`` from ``since_ns`` of a filer's clock on, but for what
        has our signature of now: iterate within ``stream_errors``, ``cancel()`` from any thread. A later
        ``epoch`` replaces the stream that the filer may still have for the same ``client``."""
        request = METHODS["SubscribeMetadata"][0](
            client_name="swmld",
            path_prefix=prefix,
            since_ns=since_ns,
            signature=self.signature,
            client_id=client,
            client_epoch=epoch,
            client_supports_idle_heartbeat=True,
        )
        return self._calls[number]["SubscribeMetadata"](request)

    def create(self, directory: str, entry: Any, before: Any | None) -> Any:
        """Makes an entry, or puts it in the place of ``before``, which must still be as ``entry`` gave it;
        what is there then. EEXIST, ESTALE, EISDIR, ENOTDIR, ENAMETOOLONG, ENOSPC. The directories that lead
        to it are made, and a file on the way becomes one: ask before."""
        what = f"{directory.rstrip('/')}/{entry.name}"

        def call(condition: Any) -> Any:
            answer = self._changed(
                "CreateEntry",
                what,
                directory=directory,
                entry=entry,
                o_excl=before is None,
                condition=condition,
            )
            if answer.error:
                raise _refusal(answer.error_code, answer.error, what, f"making of {what}")
            return answer

        return self._stored(directory, entry, self._conditional(call, directory, before))

    def update(self, directory: str, entry: Any, before: Any) -> Any:
        """Puts an entry in the place of ``before``; what is there then. ESTALE, ENOENT."""
        what = f"{directory.rstrip('/')}/{entry.name}"

        def call(condition: Any) -> Any:
            return self._changed("UpdateEntry", what, directory=directory, entry=entry, condition=condition)

        return self._stored(directory, entry, self._conditional(call, directory, before))

    def _stored(self, directory: str, entry: Any, answer: Any) -> Any:
        """The entry as the filer stored it, which it tells since version 4."""
        event = answer.metadata_event.event_notification
        if event.HasField("new_entry"):
            self._latest.keep(directory, entry := event.new_entry)
        return entry

    def latest(self, directory: str, name: str) -> Any | None:
        """The entry as it was stored here last, to be the ``before`` of its next change; None: ask for it."""
        entry = self._latest.take(directory, name)
        if entry is not None and self._refuses is None:
            self._refuses = self._is_refused(directory, entry)
        return entry if self._refuses else None

    def _is_refused(self, directory: str, entry: Any) -> bool | None:
        """Found out by a change to what it is, on the condition that it is something else; None: neither."""
        other = Entry()
        other.CopyFrom(entry)
        other.attributes.mtime_ns ^= 1
        try:
            self._changed(
                "UpdateEntry", entry.name, directory=directory, entry=entry, condition=_if_equal(other)
            )
        except OSError as error:
            return True if error.errno == errno.ESTALE else None
        return False

    def _conditional(self, call: Callable[[Any], Any], directory: str, before: Any | None) -> Any:
        if before is None:
            return call(None)
        try:
            return call(_if_equal(before))
        except OSError as error:
            if error.errno != errno.ESTALE or self.entry(directory, before.name) != before:
                raise
            # It is as it was, so this filer knows conditions, but not this one (some of version 4).
            return call(None)

    def delete(self, directory: str, name: str) -> None:
        """A file with its bytes, or an empty directory; nothing where there is none. ENOTEMPTY."""
        what = f"{directory.rstrip('/')}/{name}"
        answer = self._changed("DeleteEntry", what, directory=directory, name=name, is_delete_data=True)
        if answer.error:
            raise _refusal(0, answer.error, what, f"removal of {what}")

    def rename(self, old: tuple[str, str], new: tuple[str, str]) -> None:
        """Both as directory and name. ENOENT, ENOTEMPTY, EISDIR, ENOTDIR, EINVAL."""
        places = {"old_directory": old[0], "old_name": old[1], "new_directory": new[0], "new_name": new[1]}
        self._changed("AtomicRenameEntry", f"{new[0].rstrip('/')}/{new[1]}", **places)

    def encrypts(self) -> bool:
        """Whether it encrypts what it stores (``-encryptVolumeData``)."""
        return bool(self._changed("GetFilerConfiguration", "the filer").cipher)

    def statistics(self, collection: str) -> tuple[int, int]:
        """Bytes that the cluster can hold, and those of a collection's volumes (empty: of the default one)
        that are used."""
        answer = self._call("Statistics", "asking for the room", collection=collection)
        return int(answer.total_size), int(answer.used_size)

    def assign(self, path: str, size: int, ttl: int = 0, count: int = 1) -> Any:
        """Places for ``count`` chunks of ``size`` bytes of a file, which live for ``ttl`` seconds. ENOSPC."""
        asked = {"count": count, "path": path, "expected_data_size": size, "ttl_sec": ttl}
        answer = self._changed("AssignVolume", path, **asked)
        if answer.error or not answer.location.url:
            raise _refusal(0, answer.error, path, f"place for a chunk of {path}")
        return answer

    def _changed(self, called: str, what: str, /, **fields: Any) -> Any:
        request = METHODS[called][0](**fields)
        if called not in _SIGNED:
            return self._asked(called, what, request)
        request.signatures.append(self.signature)
        try:
            return self._asked(called, what, request)
        except OSError as error:
            if error.errno not in _ANSWERED and not isinstance(error, Unsent):
                self.doubted(_paths(request))
            raise

    def _asked(self, called: str, what: str, request: Any) -> Any:

        def call(number: int) -> Any:
            try:
                return self._calls[number][called](request, timeout=self._timeout)
            except (grpc.RpcError, ValueError) as error:
                if isinstance(error, grpc.RpcError) and error.code() == grpc.StatusCode.UNKNOWN:
                    raise _refusal(0, _details(error), what, f"{called} of {what}") from None
                with _errors(f"{called} of {what}"):
                    raise

        deadline = time.monotonic() + self._timeout
        while True:
            try:
                return self.filers.ask(call, change=called not in _HARMLESS)
            except OSError as error:
                # Not done, as there was no lock to do it with: who keeps those is settled within seconds.
                if _THEIRS not in (error.strerror or "") or _UNDONE not in (error.strerror or ""):
                    raise
                if time.monotonic() > deadline or self._closing.wait(LOCKS):
                    raise

    def close(self) -> None:
        """Ends all calls: EHOSTUNREACH."""
        self._closing.set()
        for channel in self._channels:
            channel.close()


def _ignored(_: list[str]) -> None:
    return None


def _paths(request: Any) -> list[str]:
    """What a change is of, absolute."""
    if hasattr(request, "old_name"):
        places = [(request.old_directory, request.old_name), (request.new_directory, request.new_name)]
    else:
        name = request.entry.name if hasattr(request, "entry") else request.name
        places = [(request.directory, name)]
    return [f"{directory.rstrip('/')}/{name}" for directory, name in places]


def _channel(address: str, certificates: Certificates | None) -> Any:
    """To HOST:PORT of a filer's gRPC."""
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
        return grpc.insecure_channel(address, options)
    secret = grpc.ssl_channel_credentials(certificates.authority, certificates.key, certificates.certificate)
    return grpc.secure_channel(address, secret, options)


def _calls(channel: Any) -> dict[str, Any]:
    calls = {}
    for name, (asked, answered) in METHODS.items():
        kind = "unary_stream" if name in ("ListEntries", "SubscribeMetadata") else "unary_unary"
        calls[name] = getattr(channel, kind)(
            f"/{SERVICE}/{name}",
            request_serializer=asked.SerializeToString,
            response_deserializer=answered.FromString,
        )
    return calls


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


def _if_equal(entry: Any) -> Any:
    return MESSAGES["WriteCondition"](clauses=[MESSAGES["Clause"](kind=_ENTRY_EQUAL, expected_entry=entry)])


def _refusal(code: int, text: str, path: str, what: str) -> OSError:
    said = text.replace(path, "")
    found = next((number for words, number in _TEXTS.items() if words in said.lower()), errno.EIO)
    return failure(_CODES.get(code, found), f"{what}: {said}")


def _details(error: Any) -> str:
    return str(error.details() or "") if isinstance(error, grpc.RpcError) else ""


def _error(error: Any, what: str) -> OSError:
    code, details = error.code(), _details(error)
    if code == grpc.StatusCode.UNKNOWN and _NO_ENTRY in details:
        return failure(errno.ENOENT, what)
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Busy(f"{what}: {details}")
    if code == grpc.StatusCode.UNAVAILABLE and _THEIRS in details:
        return failure(errno.EIO, f"{what}: {details}")
    if code == grpc.StatusCode.UNAVAILABLE and _NO_WAY in details:
        return Unsent(errno.EHOSTUNREACH, failure(errno.EHOSTUNREACH, f"{what}: {details}").strerror)
    return failure(_ERRNOS.get(code, errno.EIO), f"{what}: {code.name} {details}")
