"""Entries of the filer, by its HTTP with JSON, and by gRPC where that is refused.

With two CPUs for all, 20,000 files of one chunk in a directory, and one request after the other::

                          HTTP, JSON   gRPC
    lookups a second          11,400  4,600
    entries listed a second   59,000 25,000

gRPC's messages cost the interpreter 30 to 50 us each, and a listing is one message an entry; a page of JSON
is one document, which C reads where there is nothing unusual in it (``packed``).
"""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from swmld._native import ffi, lib
from swmld.sources.connections import Check, Connections
from swmld.sources.errors import Busy, failure
from swmld.sources.packed import PackedEntries
from swmld.sources.seaweed_chunks import stem_of
from swmld.sources.seaweed_entries import Entry, entry_of, entry_of_document
from swmld.sources.seaweed_filer import FilerClient
from swmld.sources.seaweed_security import Security

log = logging.getLogger(__name__)

_PAGE = 1 << 30
"""Bytes of a page at most: entries of large files have thousands of chunks, and 0.7 KiB are usual."""


def _no_file(headers: Mapping[bytes, bytes]) -> None:
    """The filer answers with a file's bytes where a directory was meant, whatever these are."""
    if b"last-modified" in headers or b"accept-ranges" in headers:
        raise failure(errno.ENOTDIR, "listing of a file")


class Names:
    """The filer's directories. Every method may be called from any thread. Paths are absolute there."""

    def __init__(self, connections: Connections, security: Security, filer: FilerClient) -> None:
        self._connections, self._security = connections, security
        self._filer = filer
        self._refused = False

    def entry(self, path: str) -> Entry:
        """What is at ``path``, empty for the filer's root. ENOENT."""
        if not self._refused:
            try:
                return self._made(self._asked(path or "/", "?metadata=true"), path)
            except OSError as error:
                self._refuse(error)
        directory, _, name = path.rpartition("/")
        return self._translated(self._filer.entry(directory or "/", name), path)

    def entries(self, directory: str, after: bytes, limit: int) -> tuple[list[Entry], bool]:
        """At most ``limit`` entries whose names come after ``after``, and whether there are more; none of
        what is not there. ENOTDIR, or none as well."""
        if not self._refused:
            try:
                return self._listed(directory, after, limit)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    return [], False
                self._refuse(error)
        try:
            text = after.decode()
        except UnicodeDecodeError:
            raise failure(errno.EILSEQ, f"listing of {directory or '/'}") from None
        found = self._filer.entries(directory or "/", text, limit + 1)
        return [self._translated(message, directory) for message in found[:limit]], len(found) > limit

    def page(self, directory: str, after: bytes, limit: int) -> tuple[list[Entry] | PackedEntries, bool]:
        """As ``entries``, packed where that is possible."""
        if self._refused:
            return self.entries(directory, after, limit)
        try:
            text = self._listing(directory, after, limit)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return [], False
            self._refuse(error)
            return self.entries(directory, after, limit)
        packed = lib.sw_listing_parse(text, len(text), f"{directory}/".encode(), limit, ffi.new("int *"))
        if packed == ffi.NULL:
            return self._documents(text, directory, limit)
        return PackedEntries(packed, stem_of), bool(lib.sw_listing_more(packed))

    def _listed(self, directory: str, after: bytes, limit: int) -> tuple[list[Entry], bool]:
        return self._documents(self._listing(directory, after, limit), directory, limit)

    def _listing(self, directory: str, after: bytes, limit: int) -> bytes:
        query = f"?limit={limit + 1}&lastFileName={quote(after, safe='')}"
        return self._text(f"{directory}/", query, _no_file)

    def _documents(self, text: bytes, directory: str, limit: int) -> tuple[list[Entry], bool]:
        said = self._read(text, f"{directory}/")
        found = said.get("Entries") or []
        # The filer has a limit of its own (-dirListLimit).
        more = len(found) > limit or (bool(said.get("ShouldDisplayLoadMore")) and len(found) <= limit)
        return [self._made(document, directory) for document in found[:limit]], more and bool(found)

    def _asked(self, path: str, query: str) -> dict[str, Any]:
        return self._read(self._text(path, query), path)

    def _text(self, path: str, query: str, check: Check | None = None) -> bytes:
        headers = {"Accept": "application/json", **self._security.filer_headers()}
        target = quote(path) + query
        filers = self._filer.filers

        def get(number: int) -> bytes:
            return self._connections.get(
                filers.addresses[number].http,
                target,
                headers=headers,
                limit=_PAGE,
                what=path,
                check=check,
            )[1]

        return filers.ask(get)

    def _read(self, text: bytes, path: str) -> dict[str, Any]:
        try:
            said = json.loads(text)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise failure(errno.EIO, f"GET {path} of {self._filer.filers.http}: this is no JSON of a filer")
        return said

    @staticmethod
    def _made(said: dict[str, Any], path: str) -> Entry:
        try:
            return entry_of_document(said)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise failure(errno.EIO, f"{path or '/'}: an entry cannot be read: {error!r}") from None

    @staticmethod
    def _translated(message: Any, path: str) -> Entry:
        try:
            return entry_of(message)
        except ValueError as error:
            raise failure(errno.EIO, f"{path or '/'}: an entry cannot be read: {error!r}") from None

    def _refuse(self, error: OSError) -> None:
        """Raises what gRPC would answer the same."""
        if error.errno != errno.EACCES or isinstance(error, Busy):
            raise error
        log.warning("the filer's HTTP refuses names, asking its gRPC instead: %s", error.strerror)
        self._refused = True
