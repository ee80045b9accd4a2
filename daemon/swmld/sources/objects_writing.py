"""Writing to S3: one PUT up to ``PART`` bytes, parts above; conditions, checksums, copies at the server.

Each part is first copied into memory, whose amount is bounded (``objects_memory``): the file may be written
to meanwhile, and what was counted is what is sent. It has its own CRC-32C, which AWS, MinIO and newer
SeaweedFS check before they store it, and no signature, which would cost a SHA-256. What a server says that it
stored is checked as well: a CRC-32C where it tells one, else the MD5 that an ETag is unless the server
encrypts with keys of its own.

Conditions (If-Match, If-None-Match) are sent with PUT and with the end of a multi-part upload. AWS (since
2024), MinIO and SeaweedFS's gateway hold to both; moto knows no If-Match at the end of an upload. What knows
neither is asked just before, as all are. Who refuses headers that it does not know (501, and 400 for the
checksum) is asked without them from then on.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import errno
import hashlib
import re
import time
from collections.abc import Callable, Mapping
from functools import partial

from swmld.sources.errors import Busy, failure
from swmld.sources.objects_changes import TOKEN, Meta
from swmld.sources.objects_memory import Memory, fill
from swmld.sources.objects_multipart import LARGEST, LONG, Again, Uploads, ended, part_size
from swmld.sources.objects_order import FOLDER, Key
from swmld.sources.objects_requests import Answer
from swmld.sources.objects_s3 import Bucket, plain_tag
from swmld.sources.threads import Threads

PART = 16 << 20
"""Bytes of one request; 8 times as much is in memory. An upload in parts has two round trips more, which
weigh little against the 160 ms of 16 MiB at 100 MB/s. SeaweedFS's gateway on loopback takes 8 to 64 MiB as
fast in one piece as in parts; a part costs 1.0 to 1.3 ms of CPU a MiB, whatever its size (4 to 64 MiB)."""

_META = "x-amz-meta-"
_TOKEN = f"{_META}{TOKEN}"
_CRC = "x-amz-checksum-crc32c"
_KEPT = (
    *("content-type", "content-encoding", "content-language", "content-disposition", "cache-control"),
    "x-amz-storage-class",
)
_MD5 = re.compile(rb"[0-9a-f]{32}")
_TRIES = 3
_BEGIN = {"uploads": ""}
_UNKNOWN = ("NotImplemented", "InvalidArgument", "InvalidRequest")

Conditions = Mapping[str, str]


class S3Objects:
    """``Objects`` of S3."""

    def __init__(self, bucket: Bucket, parallel: int) -> None:
        """``parallel``: parts that are sent at the same time, if memory allows."""
        self.part = PART
        """Bytes of one request."""
        self.copied = LARGEST
        """Bytes that are copied with one request; above, parts of a tenth of it."""
        self.again = Again()
        self._bucket = bucket
        self._threads = Threads(parallel)
        self._memory = Memory()
        self._uploads = Uploads(bucket, self._threads, self.again)
        self._sums = True
        self._unconditional: set[str] = set()

    def head(self, key: str, what: str) -> Meta:
        """See ``Objects.head``."""
        answer = self._bucket.ask("HEAD", key, what=what)
        if answer.failed:
            raise answer.error(what)
        kept = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in answer.headers.items()
            if name.decode("latin-1") in _KEPT or name.startswith(_META.encode())
        }
        size = answer.text("content-length")
        if not size.isdigit():
            raise failure(errno.EIO, f"{what}: its size is not said")
        return Meta(
            int(size),
            _time(answer, "last-modified"),
            plain_tag(answer.text("etag")),
            kept.get(_TOKEN, ""),
            kept,
        )

    def put(self, key: str, fd: int, size: int, found: Meta | None, token: str, what: str) -> Meta:
        """See ``Objects.put``."""
        try:
            put = self._put if size <= self.part else self._upload
            answer = put(key, fd, size, _unchanged(found), {_TOKEN: token} if token else {}, what)
        except OSError as error:
            # Nothing was done, or it cannot be told whether.
            if isinstance(error, Busy) or error.errno not in (
                errno.ESTALE,
                errno.EIO,
                errno.ETIMEDOUT,
                errno.EHOSTUNREACH,
            ):
                raise
            if (done := self._ours(key, size, token, what)) is None:
                raise
            return done
        tag = plain_tag(answer.text("etag") or answer.inside("ETag"))
        with contextlib.suppress(FileNotFoundError):
            now = self.head(key, what)
            if now.tag == tag or (token and now.token == token):
                if now.size != size:
                    raise failure(errno.EIO, f"{what}: {now.size} bytes were stored instead of {size}")
                return now
        # Replaced already by somebody else: what it was is all that is known.
        return Meta(size, _time(answer, "date"), tag, token)

    def copy(self, old: str, found: Meta, new: str, what: str) -> None:
        """See ``Objects.copy``."""
        source = {"x-amz-copy-source": self._bucket.source_of(old)}
        if found.tag:
            source["x-amz-copy-source-if-match"] = f'"{found.tag.decode()}"'
        if found.size <= self.copied:
            answer = self._bucket.ask("PUT", new, headers=source, patience=LONG, what=what)
            ended(answer, "CopyObjectResult", what)
            return
        size = part_size(found.size, max(self.copied // 10, 1))

        def part(upload: str, number: int) -> Mapping[str, str]:
            first = number * size
            last = min(first + size, found.size) - 1
            headers = {**source, "x-amz-copy-source-range": f"bytes={first}-{last}"}
            query = {"partNumber": str(number + 1), "uploadId": upload}
            answer = self._bucket.ask("PUT", new, query=query, headers=headers, patience=LONG, what=what)
            return {"ETag": ended(answer, "CopyPartResult", what).inside("ETag")}

        count = -(-found.size // size)
        headers = {name: " ".join(value.split()) for name, value in found.kept.items()}

        def begin() -> Answer:
            return self._bucket.ask("POST", new, query=_BEGIN, headers=headers, own=True, what=what)

        self._uploads.run(new, count, begin, part, partial(self._end, {}, what), what)

    def delete(self, key: str, found: Meta | None, what: str) -> None:
        """See ``Objects.delete``."""
        conditions = _unchanged(found) if found is not None else {}
        answer = self._conditionally("DELETE", self._asking("DELETE", key, what), conditions)
        if answer.failed and answer.status != 404:
            raise answer.error(what)

    def mark(self, key: str, what: str, *, new: bool = False) -> None:
        """See ``Objects.mark``."""
        conditions = _unchanged(None) if new else {}
        answer = self._conditionally("PUT", self._asking("PUT", f"{key}/", what), conditions)
        if answer.failed:
            raise answer.error(what)

    def unmark(self, key: str, what: str) -> None:
        """See ``Objects.unmark``."""
        for marker in (f"{key}/", f"{key}{FOLDER}"):
            self.delete(marker, None, what)

    def below(self, key: str, limit: int, what: str) -> list[Key]:
        """See ``Objects.below``."""
        return self._bucket.page(f"{key}/", limit=limit, deep=True, what=what).keys

    def close(self) -> None:
        """Parts that have not begun never do."""
        self.again.close()
        self._threads.close()

    def _asking(self, method: str, key: str, what: str) -> Callable[[Conditions], Answer]:
        return lambda conditions: self._bucket.ask(method, key, conditions=conditions, what=what)

    def _ours(self, key: str, size: int, token: str, what: str) -> Meta | None:
        """What is there, if it is what the write with this token stored."""
        if not token:
            return None
        try:
            found = self.head(key, what)
        except OSError:
            return None
        return found if (found.token, found.size) == (token, size) else None

    def _put(
        self, key: str, fd: int, size: int, conditions: Conditions, headers: Mapping[str, str], what: str
    ) -> Answer:
        with self._memory.part(size) as view:
            crc = fill(view, fd, 0)
            for _ in range(_TRIES):
                answer = self._conditionally(
                    "PUT", self._sending(key, {}, headers, view, crc, what), conditions
                )
                if answer.status == 404 and conditions and answer.code != "NoSuchBucket":
                    # AWS: there is nothing that could match.
                    raise failure(errno.ESTALE, what)
                if answer.failed:
                    raise answer.error(what)
                if _is_stored(answer, view, crc):
                    return answer
                wrong = Meta(size, 0, plain_tag(answer.text("etag")))
                conditions = _unchanged(wrong)
        # Nobody is to read it.
        self.delete(key, wrong, what)
        raise failure(errno.EIO, f"{what}: the server stores other bytes")

    def _sending(
        self,
        key: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        view: memoryview,
        crc: int,
        what: str,
    ) -> Callable[[Conditions], Answer]:
        def ask(conditions: Conditions, summed: bool) -> Answer:
            given = {**headers, _CRC: _encoded(crc)} if summed else headers
            return self._bucket.ask(
                "PUT", key, query=query, headers=given, conditions=conditions, body=view, what=what
            )

        return lambda conditions: self._summed(lambda summed: ask(conditions, summed))

    def _upload(
        self, key: str, fd: int, size: int, conditions: Conditions, headers: Mapping[str, str], what: str
    ) -> Answer:
        length = part_size(size, self.part)
        if length > LARGEST:
            raise failure(errno.EFBIG, what)
        summed = False

        def begin() -> Answer:
            def ask(sums: bool) -> Answer:
                nonlocal summed
                summed = sums
                given = {**headers, "x-amz-checksum-algorithm": "CRC32C"} if sums else headers
                return self._bucket.ask("POST", key, query=_BEGIN, headers=given, own=True, what=what)

            return self._summed(ask)

        def part(upload: str, number: int) -> Mapping[str, str]:
            first = number * length
            query = {"partNumber": str(number + 1), "uploadId": upload}
            with self._memory.part(min(length, size - first)) as view:
                crc = fill(view, fd, first)
                given = {_CRC: _encoded(crc)} if summed else {}
                answer = self._bucket.ask("PUT", key, query=query, headers=given, body=view, what=what)
                if answer.failed:
                    raise answer.error(what)
                if not _is_stored(answer, view, crc):
                    raise failure(errno.EIO, f"{what}: the server stores other bytes")
            named = {"ETag": answer.text("etag")}
            return {**named, "ChecksumCRC32C": _encoded(crc)} if summed else named

        count = -(-size // length)
        return self._uploads.run(key, count, begin, part, partial(self._end, conditions, what), what)

    def _end(self, conditions: Conditions, what: str, ask: Callable[[Conditions], Answer]) -> Answer:
        def once() -> Answer:
            answer = self._conditionally("POST", ask, conditions)
            if answer.status == 404 and answer.code == "NoSuchKey":
                raise failure(errno.ESTALE, what)
            return ended(answer, "CompleteMultipartUploadResult", what)

        return self.again(once)

    def _conditionally(
        self, method: str, ask: Callable[[Conditions], Answer], conditions: Conditions
    ) -> Answer:
        """The answer under conditions, or without them where they are what is not implemented."""
        if not conditions or method in self._unconditional:
            return ask({})
        answer = ask(conditions)
        if answer.status != 501:
            return answer
        without = ask({})
        if without.status != 501:
            self._unconditional.add(method)
        return without

    def _summed(self, ask: Callable[[bool], Answer]) -> Answer:
        """The answer with a checksum, or without it where that is what the server refuses."""
        if not self._sums:
            return ask(False)
        answer = ask(True)
        if not _is_unknown(answer):
            return answer
        without = ask(False)
        if not _is_unknown(without):
            self._sums = False
        return without


def _unchanged(found: Meta | None) -> Conditions:
    """That the server still has ``found``, or nothing."""
    if found is None:
        return {"If-None-Match": "*"}
    return {"If-Match": f'"{found.tag.decode()}"'} if found.tag else {}


def _encoded(crc: int) -> str:
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


def _is_unknown(answer: Answer) -> bool:
    return answer.status == 501 or (answer.status == 400 and answer.code in _UNKNOWN)


def _is_stored(answer: Answer, view: memoryview, crc: int) -> bool:
    """Whether what the server says of what it stored fits; also where it says nothing that could."""
    if said := answer.text(_CRC):
        return said == _encoded(crc)
    tag = plain_tag(answer.text("etag"))
    own = [
        value for name, value in answer.headers.items() if name.startswith(b"x-amz-server-side-encryption")
    ]
    if not _MD5.fullmatch(tag) or any(value != b"AES256" for value in own):
        return True
    return hashlib.md5(view, usedforsecurity=False).hexdigest().encode() == tag


def _time(answer: Answer, name: str) -> int:
    try:
        return int(email.utils.parsedate_to_datetime(answer.text(name)).timestamp())
    except ValueError:
        return int(time.time())
