"""What the filer says of a name, as attributes and as the layout of a file's bytes. Pure."""

from __future__ import annotations

import stat
from typing import Any

from swmld.sources.interface import Attributes, number_of
from swmld.sources.seaweed_chunks import Layout, chunk_of

_SECOND = 1_000_000_000

# The filer keeps modes as Go's os.FileMode, whose bits above the permissions are its own (io/fs).
_KINDS = {
    1 << 31: stat.S_IFDIR,
    1 << 27: stat.S_IFLNK,
    1 << 26 | 1 << 21: stat.S_IFCHR,
    1 << 26: stat.S_IFBLK,
    1 << 25: stat.S_IFIFO,
    1 << 24: stat.S_IFSOCK,
    0: stat.S_IFREG,
}
_KIND = 0x8F200000 & ~(1 << 23 | 1 << 22 | 1 << 20)
_BITS = {1 << 23: stat.S_ISUID, 1 << 22: stat.S_ISGID, 1 << 20: stat.S_ISVTX}


def mode_of(file_mode: int, is_directory: bool) -> int:
    """``st_mode`` of Go's; a kind that has none here is a regular file, as which the filer serves it."""
    kind = stat.S_IFDIR if is_directory else _KINDS.get(file_mode & _KIND, stat.S_IFREG)
    bits = sum(ours for theirs, ours in _BITS.items() if file_mode & theirs)
    return kind | bits | file_mode & 0o777


def layout_of_entry(entry: Any) -> Layout:
    """``ValueError`` where a chunk's id is none."""
    if entry.content:
        return Layout(content=entry.content)
    if entry.chunks:
        return Layout(tuple(chunk_of(chunk) for chunk in entry.chunks))
    if entry.HasField("remote_entry") and entry.remote_entry.remote_size:
        remote = entry.remote_entry
        return Layout(remote=f"{remote.remote_e_tag} {remote.remote_mtime} {remote.remote_size}".encode())
    return Layout()


def attributes_of(entry: Any, path: bytes) -> Attributes:
    """``path``: in the filer, which with the time of its making is what names a file without hard links; one
    that is moved is another file then.

    Filers before 4 keep times in whole seconds, and no ``ctime``: it is ``mtime`` then. ``tag`` tells
    generations all the same."""
    said = entry.attributes
    mode = mode_of(said.file_mode, entry.is_directory)
    mtime = said.mtime * _SECOND + said.mtime_ns
    layout = layout_of_entry(entry) if stat.S_ISREG(mode) else Layout()
    return Attributes(
        mode=mode,
        size=size_of(entry, layout) if stat.S_ISREG(mode) else len(said.symlink_target.encode()),
        mtime_ns=mtime,
        # Go's zero time is in the year 1.
        ctime_ns=said.ctime * _SECOND + said.ctime_ns if said.ctime > 0 else mtime,
        btime_ns=said.crtime * _SECOND + said.crtime_ns,
        uid=said.uid,
        gid=said.gid,
        nlink=max(entry.hard_link_counter, 1),
        rdev=said.rdev,
        ino=number_of(_identity(entry, path)),
        tag=layout.tag,
        link=said.symlink_target.encode(),
    )


def _identity(entry: Any, path: bytes) -> bytes:
    if entry.hard_link_id:
        return b"link " + bytes(entry.hard_link_id)
    # The filer's own inode numbers name no file: a copy made by the server has its original's.
    return b"path %d %s" % (entry.attributes.crtime, path)


def size_of(entry: Any, layout: Layout) -> int:
    """Bytes of a file: as far as a chunk reaches, or as was said where that is more (a hole at the end)."""
    if layout.content:
        return len(layout.content)
    size = max((chunk.stop for chunk in layout.chunks), default=0)
    if layout.remote:
        size = max(size, entry.remote_entry.remote_size)
    return max(size, int(entry.attributes.file_size))
