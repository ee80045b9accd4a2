"""What the filer says of a name, as a message of gRPC or a document of its HTTP, and what it means. Pure."""

from __future__ import annotations

import base64
import functools
import stat
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from swmld.sources.interface import Attributes, number_of
from swmld.sources.seaweed_chunks import Layout, chunk_of, chunk_of_document

_SECOND = 1_000_000_000

# The filer keeps modes as Go's os.FileMode, whose bits above the permissions are its own (io/fs).
_DIRECTORY = 1 << 31
_KINDS = {
    _DIRECTORY: stat.S_IFDIR,
    1 << 27: stat.S_IFLNK,
    1 << 26 | 1 << 21: stat.S_IFCHR,
    1 << 26: stat.S_IFBLK,
    1 << 25: stat.S_IFIFO,
    1 << 24: stat.S_IFSOCK,
    0: stat.S_IFREG,
}
_KIND = functools.reduce(int.__or__, _KINDS)
_BITS = {1 << 23: stat.S_ISUID, 1 << 22: stat.S_ISGID, 1 << 20: stat.S_ISVTX}


XATTR = "xattr-"
"""What ``weed mount`` puts before the names of extended attributes."""

TOKEN = f"{XATTR}user.swmld.token"
"""That of the write which made a file: not one of its own."""


def is_xattr(key: str) -> bool:
    """Whether what is kept with an entry under this name is an extended attribute of the file."""
    return key.startswith(XATTR) and key != TOKEN


class Entry(NamedTuple):
    """A name in a directory of the filer. Times in ns since the epoch, 0: not known."""

    name: str
    mode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    crtime_ns: int
    uid: int
    gid: int
    rdev: int
    link: str
    hard_link: bytes
    """The same for all names of a file; empty: it has one."""
    names: int
    layout: Layout
    ttl: int
    """Seconds from ``crtime_ns`` on after which it is gone; 0: it stays."""
    bare: bool
    """It has no extended attributes."""

    @property
    def is_dir(self) -> bool:
        """Whether it has entries."""
        return stat.S_ISDIR(self.mode)


@functools.lru_cache(1024)
def mode_of(file_mode: int, is_directory: bool = False) -> int:
    """``st_mode`` of Go's; a kind that has none here is a regular file, as which the filer serves it."""
    kind = stat.S_IFDIR if is_directory else _KINDS.get(file_mode & _KIND, stat.S_IFREG)
    bits = sum(ours for theirs, ours in _BITS.items() if file_mode & theirs)
    return kind | bits | file_mode & 0o777


def file_mode_of(mode: int) -> int:
    """Go's of ``st_mode``, of a directory, symlink or regular file."""
    kind = next(theirs for theirs, ours in _KINDS.items() if ours == stat.S_IFMT(mode))
    bits = sum(theirs for theirs, ours in _BITS.items() if mode & ours)
    return kind | bits | mode & 0o777


def entry_of(message: Any) -> Entry:
    """Of a message (``Entry``). ``ValueError`` where a chunk's id is none."""
    said = message.attributes
    layout = Layout(tuple(map(chunk_of, message.chunks)), message.content)
    if message.HasField("remote_entry"):
        remote = message.remote_entry
        layout = _remote(layout, remote.remote_e_tag, remote.remote_mtime, remote.remote_size)
    return Entry(
        name=message.name,
        mode=mode_of(said.file_mode, message.is_directory),
        size=_size(layout, said.file_size, message.remote_entry.remote_size),
        mtime_ns=max(said.mtime, 0) * _SECOND + said.mtime_ns,
        # Go's zero time is in the year 1.
        ctime_ns=said.ctime * _SECOND + said.ctime_ns if said.ctime > 0 else 0,
        crtime_ns=max(said.crtime, 0) * _SECOND + said.crtime_ns,
        uid=said.uid,
        gid=said.gid,
        rdev=said.rdev,
        link=said.symlink_target,
        hard_link=message.hard_link_id,
        names=message.hard_link_counter,
        layout=layout,
        ttl=said.ttl_sec,
        bare=not any(map(is_xattr, message.extended)),
    )


def entry_of_document(said: Mapping[str, Any]) -> Entry:
    """Of an object of JSON. ``ValueError``, ``KeyError`` or ``TypeError`` where it is none of an entry."""
    content, hard_link, remote = said.get("Content"), said.get("HardLinkId"), said.get("Remote")
    layout = Layout(
        tuple(map(chunk_of_document, said.get("chunks") or ())),
        base64.b64decode(content) if content else b"",
    )
    if remote:
        tag, size = remote.get("remote_e_tag", ""), remote.get("remote_size", 0)
        layout = _remote(layout, tag, remote.get("remote_mtime", 0), size)
    return Entry(
        name=said["FullPath"].rpartition("/")[2],
        mode=mode_of(said["Mode"]),
        size=_size(layout, said["FileSize"], remote.get("remote_size", 0) if remote else 0),
        mtime_ns=_time(said["Mtime"]),
        ctime_ns=_time(said.get("Ctime", "")),
        crtime_ns=_time(said["Crtime"]),
        uid=said["Uid"],
        gid=said["Gid"],
        rdev=said.get("Rdev", 0),
        link=said.get("SymlinkTarget", ""),
        hard_link=base64.b64decode(hard_link) if hard_link else b"",
        names=said.get("HardLinkCounter", 0),
        layout=layout,
        ttl=said.get("TtlSec", 0),
        bare=not any(map(is_xattr, said.get("Extended") or ())),
    )


def _time(text: str) -> int:
    """ns since the epoch of Go's RFC 3339, such as 2026-11-22T22:00:43.510135527+01:00; 0 before that."""
    whole, fraction = text[:19], ""
    rest = text[19:]
    if rest.startswith("."):
        digits = len(rest) - len(rest[1:].lstrip("0123456789"))
        fraction, rest = rest[1:digits], rest[digits:]
    return max(_seconds(whole, rest), 0) * _SECOND + int(fraction.ljust(9, "0") or 0)


@functools.lru_cache(4096)
def _seconds(whole: str, zone: str) -> int:
    if not whole or whole.startswith("0001"):
        return 0
    return int(datetime.fromisoformat(whole + zone).timestamp())


def _remote(layout: Layout, tag: str, mtime: int, size: int) -> Layout:
    """A file of a remote storage has chunks once the filer has fetched it."""
    if layout.content or layout.chunks or not size:
        return layout
    return Layout(remote=f"{tag} {mtime} {size}".encode())


def _size(layout: Layout, said: int, remote: int) -> int:
    """Bytes of a file: as far as a chunk reaches, or as was said where that is more (a hole at the end)."""
    if layout.content:
        return len(layout.content)
    size = max((chunk.offset + chunk.size for chunk in layout.chunks), default=0)
    return max(size, int(said), int(remote) if layout.remote else 0)


def number_at(path: bytes, crtime_ns: int) -> int:
    """The inode number of a file without hard links that was made then. ``path``: in the filer."""
    return number_of(b"path %d %s" % (crtime_ns // _SECOND, path))


def attributes_of(entry: Entry, path: bytes) -> Attributes:
    """``path``: in the filer, which with the time of its making is what names a file without hard links; one
    that is moved is another file then.

    Filers before 4 keep times in whole seconds, and no ``ctime``: it is ``mtime`` then. ``tag`` tells
    generations all the same."""
    regular = stat.S_ISREG(entry.mode)
    link = entry.link.encode()
    # The filer's own inode numbers name no file: a copy made by the server has its original's.
    return Attributes(
        mode=entry.mode,
        size=entry.size if regular else len(link),
        mtime_ns=entry.mtime_ns,
        ctime_ns=entry.ctime_ns or entry.mtime_ns,
        btime_ns=entry.crtime_ns,
        uid=entry.uid,
        gid=entry.gid,
        nlink=max(entry.names, 1),
        rdev=entry.rdev,
        ino=number_of(b"link " + entry.hard_link) if entry.hard_link else number_at(path, entry.crtime_ns),
        tag=entry.layout.tag if regular else b"",
        stem=entry.layout.stem if regular else b"",
        link=link,
        expires_ns=entry.crtime_ns + entry.ttl * _SECOND if entry.ttl > 0 and regular else 0,
        bare=entry.bare,
    )
