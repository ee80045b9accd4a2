"""What every source is to the rest: names with attributes, and generations of files whose bytes can be read.

All calls block and may be made from any thread, many at once; each ends within the source's own time limit.
What goes wrong is an ``OSError`` whose errno is what the reader of the mount gets:

    ENOENT, ENOTDIR, EACCES    as open(2) would say it; 403 is EACCES, 401 too
    ESTALE                     the file is another generation by now (412, other chunks, another length)
    EIO                        it answers with an error, or with bytes that cannot be what was asked for
    ETIMEDOUT, EHOSTUNREACH    it does not answer, or cannot be reached: what is cached is served on
    EROFS, EOPNOTSUPP          it cannot be changed; it cannot do that
    EXDEV                      of ``rename``: not as one operation; mv(1) then copies
    EEXIST, ENOTEMPTY, EISDIR  as open(2), mkdir(2), rmdir(2), unlink(2) and rename(2) would say it
    EDQUOT, ENOSPC, EFBIG      it takes no more, or no file of that size
    ENAMETOOLONG, EILSEQ       it has no such names

A message names the operation and the path, never a credential.
"""

from __future__ import annotations

import enum
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

ROOT = b""
"""Paths are bytes, relative to the source's root, without a leading or trailing slash; the root is empty."""

LISTED = 1000
"""Entries of one page of a listing, unless the caller says otherwise; what S3 gives at once."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """One file, directory or symlink as the source has it. Times in ns since the epoch."""

    mode: int
    """As ``st_mode``: type and permissions."""
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    """Of the last change as the source knows it, else ``mtime_ns``; see ``generation_ns``."""
    btime_ns: int = 0
    """When it was made; 0: not known."""
    uid: int = 0
    gid: int = 0
    nlink: int = 1
    rdev: int = 0
    ino: int = 0
    """The same for the same file as long as it lives, also for its other names; see ``number_of``."""
    tag: bytes = b""
    """What names the generation besides size and times (an ETag, the chunks' ids); empty: nothing does."""
    stem: bytes = b""
    """What stays of ``tag`` while a file is only appended to; empty: nothing, it is replaced as a whole."""
    link: bytes = b""
    """Where a symlink leads."""
    expires_ns: int = 0
    """When it ends by itself, by the source's clock; 0: it does not."""
    bare: bool = False
    """It is known to have no extended attributes, so that nobody needs to ask for them."""

    @property
    def is_dir(self) -> bool:
        """Whether it has entries."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it has bytes."""
        return stat.S_ISREG(self.mode)


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a directory's entries, in the order of their names as bytes."""

    entries: Sequence[tuple[bytes, Attributes]]
    more: bool
    """Whether ``list`` after the last of them would give others. An empty page is the end."""


@dataclass(frozen=True, slots=True)
class Room:
    """How large a source is, in bytes."""

    size: int
    used: int


class Cut(OSError):
    """``Reader.read`` may raise it where a body ended too soon: the view's first ``got`` bytes are right,
    and another try may go on behind them."""

    got: int

    def __init__(self, errno: int, what: str, got: int) -> None:
        super().__init__(errno, what)
        self.got = got


class Feature(enum.Flag):
    """What a source can do besides being read."""

    NONE = 0
    WATCH = enum.auto()
    """``watch`` tells of changes."""
    WRITE = enum.auto()
    """It can be changed: ``write``, ``remove``, ``make_dir``, ``remove_dir``, ``rename`` of files."""
    MOVE = enum.auto()
    """``rename`` is one operation, of directories too."""
    ATTRIBUTES = enum.auto()
    """Mode, owner and time of a file are kept as they were given, and ``change`` changes them."""
    SYMLINK = enum.auto()
    """``symlink`` makes one."""
    XATTRS = enum.auto()
    """``xattrs`` tells extended attributes; with ``WRITE``, ``set_xattr`` changes them."""
    PARTS = enum.auto()
    """``list`` gives some entries after any name, with their attributes, by one request."""


class Reader(Protocol):
    """One generation of one file, open to be read. Calls may be made from several threads at once."""

    size: int

    def read(self, view: memoryview, offset: int) -> int:
        """Fills ``view`` from ``offset`` on, straight from the socket where it can; the number of bytes,
        short only at the end of the file. ESTALE rather than bytes of another generation, EIO rather than
        fewer."""
        ...

    def current(self) -> bool:
        """Whether the source still has this generation; True without asking, where ``read`` itself would have
        said otherwise (a conditional request, chunks that never change)."""
        ...

    def close(self) -> None:
        """Lets go of it; a ``read`` under way may end with any error."""
        ...


@dataclass(frozen=True, slots=True)
class NewAttributes:
    """What ``Source.change`` changes; None: stays."""

    mode: int | None = None
    """Permissions alone."""
    uid: int | None = None
    gid: int | None = None
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """Something that is not as it was: ``path`` itself, and for ``tree`` all below it."""

    path: bytes
    tree: bool = False


class Source(Protocol):
    """A tree of files somewhere else."""

    name: str
    """For people, and the cache's key: the URL without credentials."""
    features: Feature

    def stat(self, path: bytes) -> Attributes:
        """What ``path`` is now."""
        ...

    def list(self, path: bytes, after: bytes = b"", limit: int = LISTED) -> Page:
        """The entries whose names come after ``after``."""
        ...

    def open(self, path: bytes, attributes: Attributes) -> Reader:
        """The generation that ``attributes`` (of a ``stat`` or ``list``) name. May leave it to ``read`` to
        find out that it is gone."""
        ...

    def watch(self, tell: Callable[[Change], None], ready: Callable[[bool], None]) -> None:
        """Blocks, and calls ``tell`` for each change made by anybody since ``ready(True)``, until ``close``;
        ``ready(False)`` while changes may be missed. EOPNOTSUPP without ``Feature.WATCH``."""
        ...

    def close(self) -> None:
        """Ends connections, and calls that wait."""
        ...

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """The extended attributes, by name (``user.comment``). EOPNOTSUPP without ``Feature.XATTRS``."""
        ...

    def room(self) -> Room | None:
        """How much it holds and could hold; None: it has no end that it tells of."""
        ...

    def number_at(self, path: bytes, attributes: Attributes) -> int:
        """The inode number that a file with these attributes had if it was at ``path`` before a directory
        above it was renamed, where such numbers are of paths; 0: it stays what it is, or nobody knows.
        Asks nobody."""
        ...

    # What follows is EROFS without ``Feature.WRITE``.

    def takes(self, path: bytes) -> None:
        """Nothing, or the error of ``write`` for a name that no file can have here. Asks nobody: what is
        written is staged first, and could never be uploaded."""
        ...

    def write(
        self,
        path: bytes,
        fd: int,
        size: int,
        attributes: Attributes,
        expected: Attributes | None,
        token: str,
    ) -> Attributes:
        """Makes the first ``size`` bytes of ``fd`` a file's new generation, all of it or nothing, and says
        what ``stat`` would say of it. The descriptor's position is not used. What is written to it meanwhile
        may be part of what is stored, and makes no call fail; what was cut off counts as zeros. Of
        ``attributes`` count mode, uid, gid and mtime_ns, as far as the source keeps such things.

        ``expected``: the generation that it replaces, as ``stat`` or ``write`` gave it; None: there is no
        such file. ESTALE where another one is there (or it is gone), by a condition of the server's where
        it has one, else by asking just before. ENOENT without the directory, where the source has
        directories; EISDIR."""
        ...

    def remove(self, path: bytes) -> None:
        """A file or symlink. ENOENT, EISDIR."""
        ...

    def make_dir(self, path: bytes, attributes: Attributes) -> Attributes:
        """A directory with this mode and owner; what ``stat`` says of it. EEXIST."""
        ...

    def remove_dir(self, path: bytes) -> None:
        """An empty directory. ENOENT, ENOTDIR, ENOTEMPTY."""
        ...

    def rename(self, old: bytes, new: bytes) -> None:
        """As rename(2): ``new`` is replaced if it is a file, or an empty directory and ``old`` one too.
        Without ``Feature.MOVE`` a file is copied at the server and then removed, so that a failure leaves it
        under ``old`` and perhaps under both names, and a directory is EXDEV."""
        ...

    def change(self, path: bytes, new: NewAttributes) -> Attributes:
        """Changes what ``new`` says; what ``stat`` says afterwards. EOPNOTSUPP without
        ``Feature.ATTRIBUTES``."""
        ...

    def symlink(self, path: bytes, target: bytes, attributes: Attributes) -> Attributes:
        """A symlink with this owner; what ``stat`` says of it. EEXIST; EOPNOTSUPP without
        ``Feature.SYMLINK``."""
        ...

    def set_xattr(self, path: bytes, name: bytes, value: bytes | None) -> Attributes:
        """Sets an extended attribute, the others staying as they are, or removes it (None: ENODATA where
        there is none); what ``stat`` says afterwards. EOPNOTSUPP without ``Feature.XATTRS``."""
        ...


class Plain:
    """What keeps no extended attributes, has no end, and whose files stay the same when they are moved or
    become new ones."""

    def takes(self, path: bytes) -> None:
        """All that the host takes."""

    def number_at(self, path: bytes, attributes: Attributes) -> int:
        """0."""
        return 0

    def room(self) -> Room | None:
        """None."""
        return None

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """EOPNOTSUPP."""
        raise _unsupported("extended attributes", path)

    def set_xattr(self, path: bytes, name: bytes, value: bytes | None) -> Attributes:
        """EOPNOTSUPP."""
        raise _unsupported("extended attributes", path)


class ReadOnly(Plain):
    """What can change nothing: the second half of a ``Source``."""

    def write(
        self,
        path: bytes,
        fd: int,
        size: int,
        attributes: Attributes,
        expected: Attributes | None,
        token: str,
    ) -> Attributes:
        """EROFS."""
        raise _read_only(path)

    def remove(self, path: bytes) -> None:
        """EROFS."""
        raise _read_only(path)

    def make_dir(self, path: bytes, attributes: Attributes) -> Attributes:
        """EROFS."""
        raise _read_only(path)

    def remove_dir(self, path: bytes) -> None:
        """EROFS."""
        raise _read_only(path)

    def rename(self, old: bytes, new: bytes) -> None:
        """EROFS."""
        raise _read_only(old)

    def change(self, path: bytes, new: NewAttributes) -> Attributes:
        """EROFS."""
        raise _read_only(path)

    def symlink(self, path: bytes, target: bytes, attributes: Attributes) -> Attributes:
        """EROFS."""
        raise _read_only(path)

    def set_xattr(self, path: bytes, name: bytes, value: bytes | None) -> Attributes:
        """EROFS."""
        raise _read_only(path)


def _unsupported(what: str, path: bytes) -> OSError:
    code = errno.EOPNOTSUPP
    return OSError(code, f"{what} of {os.fsdecode(path) or '/'!r}: {os.strerror(code)}")


def _read_only(path: bytes) -> OSError:
    return OSError(errno.EROFS, f"change of {os.fsdecode(path) or '/'!r}: {os.strerror(errno.EROFS)}")


def number_of(identity: bytes) -> int:
    """An inode number for what has none: 63 bits of BLAKE2b. Of ten million files two share one with a
    probability of 5 in a million (n²/2^64)."""
    return int.from_bytes(hashlib.blake2b(identity, digest_size=8).digest()) >> 1 | 1 << 48


def generation_ns(attributes: Attributes) -> int:
    """``ctime_ns`` that differs where ``tag`` does: the cache and the kernel tell generations by size and
    times, and sources whose clock ticks in seconds overwrite a file twice within one. The nanoseconds of a
    time in whole seconds are 30 bits of the tag's hash."""
    second = 1_000_000_000
    if not attributes.tag:
        return attributes.ctime_ns
    return attributes.ctime_ns // second * second + _hash(attributes.tag, b"generation") % second


def birth_ns(attributes: Attributes) -> int:
    """``btime_ns``, and another number for each ``stem`` or ``tag``: what is replaced as a whole is another
    file, as if it had been renamed over the one before, and whoever has that open keeps it."""
    name = attributes.stem or attributes.tag
    if not name:
        return attributes.btime_ns
    return _hash(b"%d %s" % (attributes.btime_ns, name), b"birth") >> 1 or 1


def _hash(tag: bytes, person: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(tag, digest_size=8, person=person).digest())
