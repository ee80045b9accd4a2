"""A file of a local directory that is there as a whole or not at all, and how attributes are given.

It is filled without a name (O_TMPFILE), so that what ends in between leaves nothing behind, and stored on the
disk before it gets one. A name that is there already can only be taken over by a rename, and so the file
has another one for a moment: ``is_temporary``, which listings leave out.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets

from swmld.sources.interface import Attributes, NewAttributes

TOKEN = "user.swmld.token"
"""Extended attribute with the token of the write that made a file; without it, on file systems that keep
none, a write that is repeated after it was done is ESTALE."""

_PIECE = 16 << 20
"""Bytes copied with one call."""

_NEW = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
_ANY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

_TEMPORARY = re.compile(rb"\.swmld-[0-9a-f]{32}")

_NOT_COPIED = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)


def is_temporary(name: bytes) -> bool:
    """Whether a file has this name only until it is renamed."""
    return _TEMPORARY.fullmatch(name) is not None


def filled(directory: int, fd: int, size: int, attributes: Attributes, token: str) -> int:
    """A file without a name, with the first ``size`` bytes of ``fd`` and these attributes; its descriptor.
    EOPNOTSUPP where the file system has no such files (NFS)."""
    new = os.open(b".", _NEW, 0o600, dir_fd=directory)
    try:
        _copy(fd, new, size)
        with contextlib.suppress(OSError):
            os.setxattr(new, TOKEN, token.encode())
        _give(
            new,
            NewAttributes(attributes.mode & 0o7777, attributes.uid, attributes.gid, attributes.mtime_ns),
        )
        os.fsync(new)
    except BaseException:
        os.close(new)
        raise
    return new


def _copy(source: int, target: int, size: int) -> None:
    done = 0
    copied = True
    while done < size:
        wanted = min(_PIECE, size - done)
        count = 0
        if copied:
            try:
                count = os.copy_file_range(source, target, wanted, done, done)
            except OSError as error:
                if error.errno not in _NOT_COPIED:
                    raise
                copied = False
        if not copied:
            os.lseek(target, done, os.SEEK_SET)
            count = os.sendfile(target, source, done, wanted)
        if not count:
            break
        done += count
    # What was cut off meanwhile counts as zeros, as it would where it was cut off and extended again.
    os.ftruncate(target, size)


def named_new(directory: int, new: int, name: bytes) -> None:
    """Gives it a name that nobody has. EEXIST."""
    os.link(f"/proc/self/fd/{new}", name, dst_dir_fd=directory, follow_symlinks=True)
    _store(directory)


def named_over(directory: int, new: int, name: bytes) -> None:
    """Gives it a name, whoever has it. EISDIR."""
    temporary = b".swmld-%s" % secrets.token_hex(16).encode()
    os.link(f"/proc/self/fd/{new}", temporary, dst_dir_fd=directory, follow_symlinks=True)
    try:
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        os.unlink(temporary, dir_fd=directory)
        raise
    _store(directory)


def _store(directory: int) -> None:
    """A name is on the disk once its directory is."""
    fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def token_at(directory: int, name: bytes) -> str:
    """The token of the write that made the file; empty where there is none, or no such file."""
    try:
        fd = os.open(name, _ANY, dir_fd=directory)
    except OSError:
        return ""
    try:
        return os.getxattr(f"/proc/self/fd/{fd}", TOKEN).decode("ascii", "replace")
    except OSError:
        return ""
    finally:
        os.close(fd)


def give(directory: int, name: bytes, new: NewAttributes) -> None:
    """Changes what ``new`` says of a name, which is not followed. EOPNOTSUPP for the mode of a symlink."""
    fd = os.open(name or b".", _ANY, dir_fd=directory)
    try:
        _give(fd, new)
    finally:
        os.close(fd)


def _give(fd: int, new: NewAttributes) -> None:
    # Such a descriptor may be one of O_PATH, which the calls that take a descriptor refuse.
    path = f"/proc/self/fd/{fd}"
    if new.uid is not None or new.gid is not None:
        os.chown(path, -1 if new.uid is None else new.uid, -1 if new.gid is None else new.gid)
    if new.mode is not None:
        # After the owner, whose change takes set-id bits away.
        os.chmod(path, new.mode & 0o7777)
    if new.mtime_ns is not None:
        os.utime(path, ns=(new.mtime_ns, new.mtime_ns))
