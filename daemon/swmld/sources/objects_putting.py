"""Writing to Google's and Azure's stores by obstore.

- Up to ``PART`` bytes go with one request, under a condition of the server's: the generation's number at
  Google's, the ETag at Azure's. More go in parts, of which obstore sends ``AT_ONCE`` at the same time, and
  which know no condition: the store is asked just before. If one fails the upload is aborted; at Azure's
  nothing can be, and what was sent goes after a week.
- The marker of a directory is Hadoop's (``dir_$folder$``), since obstore knows no key that ends with a slash.
  A directory with the other marker can hence be emptied and not be removed: EOPNOTSUPP.
- Copying knows no condition either: a file that somebody replaces within the round trip between the question
  and the copy is renamed as it is then.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Mapping
from typing import Any, cast

import obstore

from swmld.sources.errors import Busy, failure
from swmld.sources.objects_changes import Meta
from swmld.sources.objects_errors import spoken
from swmld.sources.objects_memory import Memory, fill
from swmld.sources.objects_multipart import part_size
from swmld.sources.objects_order import FOLDER, Key
from swmld.sources.objects_s3 import plain_tag
from swmld.sources.objects_stores import Whole

PART = 16 << 20
"""Bytes of one request, as with S3."""

AT_ONCE = 4
"""Parts of one file that are sent at the same time, each a copy in memory."""

_TOKEN = "swmld_token"
"""Metadata of Azure's are named as variables of C# are: no hyphen."""


class StoreObjects:
    """``Objects`` of what obstore knows."""

    def __init__(self, store: Any, keys: Whole) -> None:
        self.part = PART
        """Bytes of one request."""
        self._store, self._keys = store, keys
        self._memory = Memory()

    def head(self, key: str, what: str) -> Meta:
        """See ``Objects.head``."""
        with spoken(what):
            found = obstore.get(self._store, key, options=cast(Any, {"head": True}))
            meta = found.meta
            token = {name.lower(): value for name, value in found.attributes.items()}.get(_TOKEN, "")
        kept = {name: str(meta[name]) for name in ("e_tag", "version") if meta.get(name)}
        changed = int(meta["last_modified"].timestamp())
        return Meta(meta["size"], changed, plain_tag(meta["e_tag"]), token, kept)

    def put(self, key: str, fd: int, size: int, found: Meta | None, token: str, what: str) -> Meta:
        """See ``Objects.put``."""
        attributes = {_TOKEN: token} if token else {}
        try:
            with spoken(what):
                if size <= self.part:
                    made = self._put(key, fd, size, found, attributes)
                else:
                    made = self._parts(key, fd, size, attributes)
        except OSError as error:
            passing = (errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EHOSTUNREACH)
            if isinstance(error, Busy) or error.errno not in passing or not token:
                raise
            with contextlib.suppress(OSError):
                done = self.head(key, what)
                if (done.token, done.size) == (token, size):
                    return done
            raise
        now = self.head(key, what)
        tag = plain_tag(made["e_tag"])
        if now.tag != tag and not (token and now.token == token):
            # Replaced already by somebody else. When ours was made cannot be told, nor does it matter.
            return Meta(size, now.mtime, tag, token)
        if now.size != size:
            raise failure(errno.EIO, f"{what}: {now.size} bytes were stored instead of {size}")
        return now

    def _put(self, key: str, fd: int, size: int, found: Meta | None, attributes: Mapping[str, str]) -> Any:
        mode: Any = "create" if found is None else dict(found.kept) or "overwrite"
        with self._memory.part(size) as view:
            fill(view, fd, 0)
            # The view goes back, so obstore, which may hold what it was given longer than its call, has a
            # copy.
            return obstore.put(
                self._store,
                key,
                bytes(view),
                attributes=dict(attributes),
                mode=mode,
                use_multipart=False,
            )

    def _parts(self, key: str, fd: int, size: int, attributes: Mapping[str, str]) -> Any:
        length = part_size(size, self.part)

        def parts() -> Iterator[bytes]:
            for first in range(0, size, length):
                part = bytearray(min(length, size - first))
                fill(memoryview(part), fd, first)
                yield bytes(part)

        return obstore.put(
            self._store,
            key,
            parts(),
            attributes=dict(attributes),
            use_multipart=True,
            chunk_size=length,
            max_concurrency=AT_ONCE,
        )

    def copy(self, old: str, found: Meta, new: str, what: str) -> None:
        """See ``Objects.copy``."""
        with spoken(what):
            obstore.copy(self._store, old, new)
        made = self.head(new, what)
        if (made.size, made.token) != (found.size, found.token):
            # Another generation by now; or, at Azure's, a copy that is still being made.
            raise failure(errno.EIO, f"{what}: the copy is not what was copied")

    def delete(self, key: str, found: Meta | None, what: str) -> None:
        """See ``Objects.delete``."""
        if found is not None and self.head(key, what).tag != found.tag:
            raise failure(errno.ESTALE, what)
        with contextlib.suppress(FileNotFoundError), spoken(what):
            obstore.delete(self._store, key)

    def mark(self, key: str, what: str, *, new: bool = False) -> None:
        """See ``Objects.mark``."""
        with spoken(what):
            obstore.put(
                self._store,
                key + FOLDER,
                b"",
                mode="create" if new else "overwrite",
                use_multipart=False,
            )

    def unmark(self, key: str, what: str) -> None:
        """See ``Objects.unmark``."""
        self.delete(key + FOLDER, None, what)
        self._keys.forget(key)
        if self._keys.marked(key, what):
            raise failure(errno.EOPNOTSUPP, f"{what}: obstore cannot name the marker of this directory")

    def below(self, key: str, limit: int, what: str) -> list[Key]:
        """See ``Objects.below``."""
        return self._keys.page(f"{key}/", limit=limit, deep=True, what=what).keys

    def close(self) -> None:
        """Nothing is held."""
