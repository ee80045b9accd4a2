"""Files, directories and links made on SeaweedFS: bytes to the volume servers, then one entry at the filer.

A file's bytes go to the volume servers first, several chunks at once, by sendfile where there is no TLS. The
one call of the filer after that makes all of it visible, on the condition that what is replaced is as it was:
filers of version 4 keep to that themselves, older ones are asked just before. What fits in the tag of a file
(``INLINE``) goes into the entry, which saves two round trips.

The S3 gateway and the filer's HTTP make an ETag of the chunks' own. A file of one chunk has its MD5 there,
which S3's clients check. The ETag of several is never taken for an MD5, which would cost a core for each
400 MB/s: so there each chunk has a number that no other one has.

Chunks of a write that was refused are deleted here. Where it is not known whether the filer has made the
entry, or a volume server kept the chunk, they are left to ``volume.fsck``: deleting could take the bytes from
under a file. The write that is made again finds its token (an extended attribute, as ``weed mount`` keeps
them) if it was done, and makes chunks of its own if not.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from swmld.sources.connections import Connections
from swmld.sources.errors import Busy, failure
from swmld.sources.http1 import Sent
from swmld.sources.interface import Attributes, NewAttributes
from swmld.sources.seaweed_chunks import INLINE, numbers
from swmld.sources.seaweed_entries import TOKEN, XATTR, file_mode_of, is_xattr
from swmld.sources.seaweed_filer import FilerClient
from swmld.sources.seaweed_messages import MESSAGES, Entry
from swmld.sources.seaweed_places import Given, Places
from swmld.sources.seaweed_security import Security
from swmld.sources.threads import Threads

log = logging.getLogger(__name__)

CHUNK = 8 << 20
"""Bytes of a chunk. 1 GiB costs 0.35 s of CPU here in such chunks, 0.55 in those of 4 MiB, which is the
filer's own size, 0.9 in those of 2, which is that of ``weed mount``."""

PARALLEL = 4
"""Chunks on their way at the same time, of all large files: a far server's round trip, or the wait for its
disk, is the time in which three others pass. On loopback with one disk one is as fast."""

AGAIN = 8
"""Times that attributes are read again because somebody else changes the file."""

_SECOND = 1_000_000_000
_PIECE = 1 << 20

_REFUSED = frozenset(
    {errno.ESTALE, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENOSPC, errno.EPERM}
)
"""What the filer says of an entry that it has not made."""

_ELSEWHERE = frozenset({errno.EIO, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENOENT, errno.EACCES})
"""What a volume server may say that another one does not."""


class Place(NamedTuple):
    """A name in a directory of the filer."""

    directory: str
    name: str

    @property
    def path(self) -> str:
        """Absolute."""
        return f"{self.directory.rstrip('/')}/{self.name}"


class _Uploaded(NamedTuple):
    chunk: Any
    address: str
    fid: str
    token: str


class Writing:
    """Every method may be called from any thread, and returns the entry (``Entry``) that is there then."""

    def __init__(
        self, filer: FilerClient, connections: Connections, security: Security, timeout: float
    ) -> None:
        """``timeout``: seconds for which another volume server is tried for a chunk."""
        self._filer, self._connections, self._security = filer, connections, security
        self._timeout = timeout
        self._places = Places(filer)
        self._threads = Threads(PARALLEL)
        self._closing = threading.Event()
        self._plain = False
        self.chunk = CHUNK

    def write(
        self, place: Place, fd: int, size: int, attributes: Attributes, token: str, before: Any | None
    ) -> Any:
        """A file of the first ``size`` bytes of ``fd``, in the place of ``before``. ESTALE; EOPNOTSUPP where
        the filer encrypts, as what it is meant to keep secret would be stored as it is."""
        if not self._plain:
            if self._filer.encrypts():
                raise failure(errno.EOPNOTSUPP, f"write of {place.path}: the filer encrypts its files")
            self._plain = True
        entry = _entry(place.name, attributes, size)
        entry.extended[TOKEN] = token.encode()
        if before is not None:
            # It is the same file to whoever has another name of it, or has given it attributes. What lives
            # for a time lives for as long again, as with a PUT.
            entry.attributes.ttl_sec = before.attributes.ttl_sec
            entry.hard_link_id, entry.hard_link_counter = before.hard_link_id, before.hard_link_counter
            for name, value in before.extended.items():
                if is_xattr(name):
                    entry.extended[name] = value
        uploaded: list[_Uploaded] = []
        try:
            if size <= INLINE:
                entry.content = os.pread(fd, size, 0).ljust(size, b"\0")
                entry.attributes.md5 = hashlib.md5(entry.content, usedforsecurity=False).digest()
            else:
                self._upload(place, fd, size, uploaded, entry.attributes.ttl_sec)
            entry.chunks.extend(one.chunk for one in sorted(uploaded, key=lambda one: one.chunk.offset))
        except BaseException:
            self._forget(place, uploaded)
            raise
        try:
            return self._filer.create(place.directory, entry, before)
        except OSError as error:
            if error.errno in _REFUSED:
                self._forget(place, uploaded)
            if error.errno == errno.EEXIST:
                raise failure(errno.ESTALE, f"write of {place.path}") from None
            raise

    def _upload(self, place: Place, fd: int, size: int, uploaded: list[_Uploaded], ttl: int) -> None:
        """Adds the chunks to ``uploaded``, in any order."""
        starts = range(0, size, self.chunk)
        now = time.time_ns()
        errors: list[OSError] = []

        def upload(start: int) -> None:
            if errors:
                return
            try:
                sent = Sent(fd, start, min(self.chunk, size - start))
                uploaded.append(self._chunk(place, sent, now, ttl, alone=len(starts) == 1))
            except OSError as error:
                errors.append(error)

        if len(starts) == 1:
            upload(0)
        else:
            self._threads.each(upload, starts, f"write of {place.path}")
        if errors:
            raise errors[0]
        if len(starts) == 1:
            uploaded[0].chunk.e_tag = base64.b64encode(_md5(fd, size)).decode()

    def _chunk(self, place: Place, sent: Sent, now: int, ttl: int, *, alone: bool) -> _Uploaded:
        """Stored where the filer says, or somewhere else where that fails."""
        deadline = time.monotonic() + self._timeout
        wait = 0.05
        ask = self._places.small if alone else self._places.one
        while True:
            given = ask(place.path, sent.size, ttl)
            try:
                return self._stored(given, sent, now)
            except OSError as error:
                if error.errno not in _ELSEWHERE or time.monotonic() + wait > deadline:
                    raise
                log.warning("a chunk of %s is stored elsewhere: %s", place.path, error.strerror)
            self._places.refused(place.path)
            ask = self._places.one
            if self._closing.wait(wait):
                raise failure(errno.EHOSTUNREACH, f"write of {place.path}: closed")
            wait = min(2 * wait, 2.0)

    def _stored(self, given: Given, sent: Sent, now: int) -> _Uploaded:
        address, fid = given.address, given.fid
        target = f"/{fid}?fsync=true" if given.fsync else f"/{fid}"
        headers = {
            "Content-Type": "application/octet-stream",
            **self._security.write_headers(fid, given.token),
        }
        _, document = self._connections.put(address, target, sent, headers=headers, what=fid)
        try:
            size = json.loads(document)["size"]
        except (ValueError, KeyError, TypeError):
            raise failure(
                errno.EIO, f"PUT {fid} of {address}: this is no answer of a volume server"
            ) from None
        if size != sent.size:
            raise failure(errno.EIO, f"PUT {fid} of {address}: {size} bytes of {sent.size} were stored")
        volume, key, cookie = numbers(fid)
        chunk = MESSAGES["FileChunk"](
            fid=MESSAGES["FileId"](volume_id=volume, file_key=key, cookie=cookie),
            offset=sent.offset,
            size=sent.size,
            modified_ts_ns=now,
            e_tag=base64.b64encode(hashlib.blake2b(fid.encode(), digest_size=16).digest()).decode(),
        )
        return _Uploaded(chunk, address, fid, given.token)

    def _forget(self, place: Place, uploaded: list[_Uploaded]) -> None:
        """Deletes chunks that no entry has."""
        left = []
        for one in uploaded:
            headers = self._security.write_headers(one.fid, one.token)
            try:
                self._connections.delete(one.address, f"/{one.fid}", headers=headers, timeout=5.0)
            except OSError:
                left.append(one.fid)
        if left:
            log.warning("%d chunks of %s are left to volume.fsck, such as %s", len(left), place.path, left[0])

    def make(self, place: Place, attributes: Attributes, link: str = "") -> Any:
        """A directory or symlink, as the mode says. EEXIST."""
        entry = _entry(place.name, attributes, 0)
        entry.attributes.symlink_target = link
        entry.is_directory = attributes.is_dir
        return self._filer.create(place.directory, entry, None)

    def change(self, place: Place, new: NewAttributes) -> Any:
        """Attributes of what is there, whatever else becomes of it meanwhile."""
        return self._edited(place, lambda entry: _change(entry.attributes, new))

    def set_xattr(self, place: Place, name: str, value: bytes | None) -> Any:
        """An extended attribute, likewise. ENODATA where one is to go that is not there."""

        def edit(entry: Any) -> None:
            if value is not None:
                entry.extended[XATTR + name] = value
            elif XATTR + name in entry.extended:
                del entry.extended[XATTR + name]
            else:
                raise failure(errno.ENODATA, f"removal of {name} of {place.path}")
            entry.attributes.ctime, entry.attributes.ctime_ns = divmod(time.time_ns(), _SECOND)

        return self._edited(place, edit)

    def _edited(self, place: Place, edit: Callable[[Any], None]) -> Any:
        for _ in range(AGAIN):
            before = self._filer.entry(*place)
            entry = Entry()
            entry.CopyFrom(before)
            edit(entry)
            try:
                return self._filer.update(place.directory, entry, before)
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
        raise Busy(f"change of {place.path}: others change it all the time")

    def close(self) -> None:
        """Ends waits; uploads end with their connections."""
        self._closing.set()
        self._threads.close()


def _entry(name: str, attributes: Attributes, size: int) -> Any:
    """An entry that is new, its last change being now."""
    entry = Entry(name=name)
    said = entry.attributes
    said.file_size, said.file_mode = size, file_mode_of(attributes.mode)
    said.uid, said.gid = attributes.uid, attributes.gid
    now = time.time_ns()
    said.crtime, said.crtime_ns = divmod(now, _SECOND)
    said.ctime, said.ctime_ns = divmod(now, _SECOND)
    said.mtime, said.mtime_ns = divmod(attributes.mtime_ns if attributes.is_file else now, _SECOND)
    return entry


def _md5(fd: int, size: int) -> bytes:
    found = hashlib.md5(usedforsecurity=False)
    for start in range(0, size, _PIECE):
        wanted = min(_PIECE, size - start)
        found.update(os.pread(fd, wanted, start).ljust(wanted, b"\0"))
    return found.digest()


def _change(said: Any, new: NewAttributes) -> None:
    if new.mode is not None:
        kind = said.file_mode & ~file_mode_of(0o107777) & ~0o7777
        said.file_mode = kind | file_mode_of(0o100000 | new.mode & 0o7777)
    if new.uid is not None:
        said.uid = new.uid
    if new.gid is not None:
        said.gid = new.gid
    if new.mtime_ns is not None:
        said.mtime, said.mtime_ns = divmod(new.mtime_ns, _SECOND)
    if new != NewAttributes():
        said.ctime, said.ctime_ns = divmod(time.time_ns(), _SECOND)
