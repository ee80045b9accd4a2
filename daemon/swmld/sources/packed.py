"""A page of a directory as C has read it (``native/listing.c``): what is wanted of it is made when it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

from swmld._native import ffi, lib
from swmld.quick import address, held
from swmld.sources.interface import Attributes

_find, _entry = held("sw_listing_find"), held("sw_listing_entry")

Named = tuple[bytes, Attributes]


class PackedEntries(Sequence[Named]):
    """Entries in the order of their names; 80 bytes each, with a chunk 105. It never changes: any thread."""

    def __init__(self, listing: Any, stem: Callable[[bytes], bytes]) -> None:
        """Takes over ``listing``, a ``sw_listing *``. ``stem``: that of a tag (``Attributes``)."""
        self.listing = ffi.gc(listing, lib.sw_listing_free, 96 * lib.sw_listing_count(listing))
        self._at = address(self.listing)
        self._text = lib.sw_listing_text(listing)
        self._count = int(lib.sw_listing_count(listing))
        self._stem = stem

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Named: ...

    @overload
    def __getitem__(self, index: slice) -> list[Named]: ...

    def __getitem__(self, index: int | slice) -> Named | list[Named]:
        if isinstance(index, slice):
            return [self._made(number) for number in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        return self._made(index % self._count)

    def __iter__(self) -> Iterator[Named]:
        return map(self._made, range(self._count))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def find(self, name: bytes) -> int:
        """The place of a name, -1 where it is not there."""
        return _find(self._at, name, len(name))

    def kinds(self) -> Iterator[tuple[bytes, int]]:
        """The names with their modes."""
        e = ffi.new("struct sw_listed *")
        for number in range(self._count):
            _entry(self._at, number, address(e))
            yield bytes(ffi.buffer(self._text + e.name, e.name_len)), int(e.a.mode)

    def _made(self, number: int) -> Named:
        e = ffi.new("struct sw_listed *")
        _entry(self._at, number, address(e))
        name = bytes(ffi.buffer(self._text + e.name, e.name_len))
        tag = bytes(ffi.buffer(e.tag, e.tag_len))
        a = e.a
        return name, Attributes(
            mode=a.mode,
            size=a.size,
            mtime_ns=a.mtime_ns,
            ctime_ns=e.ctime_ns,
            btime_ns=e.btime_ns,
            uid=a.uid,
            gid=a.gid,
            nlink=a.nlink,
            ino=a.ino,
            tag=tag,
            stem=self._stem(tag) if tag else b"",
            bare=bool(e.a.bare),
        )
