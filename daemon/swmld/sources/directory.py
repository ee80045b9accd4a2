"""A local directory as a source: what the others are measured by, in tests and benchmarks.

Every name is walked by descriptor, one component at a time with O_NOFOLLOW, so that no symlink leads out of
the root; a symlink is an entry like any other. A listing reads the whole directory for each page: correct
while it changes, and slow from some 100,000 entries on. The mount reads and writes local directories its own
way.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import stat
import threading
from collections.abc import Callable, Iterator
from urllib.parse import quote

from swmld.sources.directory_writing import filled, give, is_temporary, named_new, named_over, token_at
from swmld.sources.interface import LISTED, Attributes, Change, Feature, NewAttributes, Page, Plain, Reader

_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: the file may have become a FIFO, whose open would wait for a writer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class DirectorySource(Plain):
    """The tree below ``root``; a root that is a symlink is followed once, here. ``OSError`` if it is none."""

    def __init__(self, root: str | bytes | os.PathLike[str]) -> None:
        path = os.path.abspath(os.fsencode(root))
        self.name = f"file://{quote(path)}"
        self.features = Feature.WRITE | Feature.MOVE | Feature.ATTRIBUTES | Feature.SYMLINK
        self._root = _Descriptor(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def stat(self, path: bytes) -> Attributes:
        """See ``Source.stat``."""
        with _named("stat", path), self._parent(path) as (directory, name):
            return _attributes_at(directory, name)

    def list(self, path: bytes, after: bytes = b"", limit: int = LISTED) -> Page:
        """See ``Source.list``."""
        with _named("list", path), self._parent(path) as (directory, name):
            fd = os.open(name or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            try:
                return _page(fd, after, limit)
            finally:
                os.close(fd)

    def open(self, path: bytes, attributes: Attributes) -> Reader:
        """See ``Source.open``; EISDIR or EINVAL for what has no bytes."""
        with _named("open", path), self._parent(path) as (directory, name):
            if not attributes.is_file or not name:
                raise _error(errno.EISDIR if attributes.is_dir else errno.EINVAL)
            try:
                fd = os.open(name, _FILE, dir_fd=directory)
            except OSError as error:
                # It was a file when the attributes were taken: a symlink, a device or a socket by now.
                raise _error(errno.ESTALE) if error.errno in (errno.ELOOP, errno.ENXIO) else error from None
            reader = DirectoryReader(path, fd, attributes)
            if not reader.current():
                reader.close()
                raise _error(errno.ESTALE)
            return reader

    def write(
        self,
        path: bytes,
        fd: int,
        size: int,
        attributes: Attributes,
        expected: Attributes | None,
        token: str,
    ) -> Attributes:
        """See ``Source.write``. On the disk when it returns. EOPNOTSUPP on NFS, which has no files without a
        name; EPERM for an owner that may not be given."""
        with _named("write", path), self._parent(path) as (directory, name):
            found = _found_at(directory, name)
            if found is not None and found.is_dir:
                raise _error(errno.EISDIR)
            if found is not None and token_at(directory, name) == token:
                return found
            if (found and _generation(found)) != (expected and _generation(expected)):
                raise _error(errno.ESTALE)
            new = filled(directory, fd, size, attributes, token)
            try:
                if found is None:
                    named_new(directory, new, name)
                else:
                    named_over(directory, new, name)
                return _attributes(os.fstat(new))
            except FileExistsError:
                raise _error(errno.ESTALE) from None
            finally:
                os.close(new)

    def remove(self, path: bytes) -> None:
        """See ``Source.remove``."""
        with _named("remove", path), self._parent(path) as (directory, name):
            if not name:
                raise _error(errno.EISDIR)
            os.unlink(name, dir_fd=directory)

    def make_dir(self, path: bytes, attributes: Attributes) -> Attributes:
        """See ``Source.make_dir``."""
        with _named("mkdir", path), self._parent(path) as (directory, name):
            if not name:
                raise _error(errno.EEXIST)
            os.mkdir(name, 0o700, dir_fd=directory)
            owner = NewAttributes(attributes.mode & 0o7777, attributes.uid, attributes.gid)
            try:
                give(directory, name, owner)
            except BaseException:
                os.rmdir(name, dir_fd=directory)
                raise
            return _attributes_at(directory, name)

    def remove_dir(self, path: bytes) -> None:
        """See ``Source.remove_dir``; EBUSY for the root."""
        with _named("rmdir", path), self._parent(path) as (directory, name):
            if not name:
                raise _error(errno.EBUSY)
            os.rmdir(name, dir_fd=directory)

    def rename(self, old: bytes, new: bytes) -> None:
        """See ``Source.rename``; EBUSY for the root."""
        with (
            _named("rename", old),
            self._parent(old) as (source, before),
            self._parent(new) as (target, after),
        ):
            if not before or not after:
                raise _error(errno.EBUSY)
            os.rename(before, after, src_dir_fd=source, dst_dir_fd=target)

    def change(self, path: bytes, new: NewAttributes) -> Attributes:
        """See ``Source.change``; EOPNOTSUPP for the mode of a symlink."""
        with _named("change", path), self._parent(path) as (directory, name):
            give(directory, name, new)
            return _attributes_at(directory, name)

    def symlink(self, path: bytes, target: bytes, attributes: Attributes) -> Attributes:
        """See ``Source.symlink``."""
        with _named("symlink", path), self._parent(path) as (directory, name):
            if not name:
                raise _error(errno.EEXIST)
            os.symlink(target, name, dir_fd=directory)
            try:
                give(directory, name, NewAttributes(uid=attributes.uid, gid=attributes.gid))
            except BaseException:
                os.unlink(name, dir_fd=directory)
                raise
            return _attributes_at(directory, name)

    def watch(self, tell: Callable[[Change], None], ready: Callable[[bool], None]) -> None:
        """EOPNOTSUPP: nobody tells."""
        with _named("watch", b""):
            raise _error(errno.EOPNOTSUPP)

    def close(self) -> None:
        """Nothing waits here; calls after it fail with EBADF. Open readers can still be read."""
        self._root.close()

    @contextlib.contextmanager
    def _parent(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """The directory that ``path`` is in, open, and its name there: empty for the root itself."""
        *directories, name = path.split(b"/")
        if path and not all(_is_name(part) for part in (*directories, name)):
            raise _error(errno.ENOENT)
        with self._root.held() as root:
            fd = root
            try:
                for part in directories:
                    below = os.open(part, _STEP, dir_fd=fd)
                    if fd != root:
                        os.close(fd)
                    fd = below
                yield fd, name
            finally:
                if fd != root:
                    os.close(fd)


class DirectoryReader:
    """See ``Reader``: an open file and what it was when it was opened."""

    def __init__(self, path: bytes, fd: int, attributes: Attributes) -> None:
        self.size = attributes.size
        self._path = path
        self._file = _Descriptor(fd)
        self._generation = _generation(attributes)

    def read(self, view: memoryview, offset: int) -> int:
        """See ``Reader.read``."""
        with _named("read", self._path), self._file.held() as fd:
            wanted = max(0, min(len(view), self.size - offset))
            done = 0
            while done < wanted and (count := os.preadv(fd, [view[done:wanted]], offset + done)):
                done += count
            # After the bytes, not before: what changes in between would be among them.
            if not self._is_current(fd):
                raise _error(errno.ESTALE)
            if done < wanted:
                raise _error(errno.EIO)
            return done

    def current(self) -> bool:
        """See ``Reader.current``. False too once another name was given to it or taken away."""
        with _named("stat", self._path), self._file.held() as fd:
            return self._is_current(fd)

    def close(self) -> None:
        """See ``Reader.close``: the last ``read`` under way closes the file."""
        self._file.close()

    def _is_current(self, fd: int) -> bool:
        return _generation(_attributes(os.fstat(fd))) == self._generation


class _Descriptor:
    """Closed with the last call that uses it: the number of a closed one is soon another file's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._users = 1

    @contextlib.contextmanager
    def held(self) -> Iterator[int]:
        with self._lock:
            if self._fd < 0:
                raise _error(errno.EBADF)
            fd = self._fd
            self._users += 1
        try:
            yield fd
        finally:
            self._leave(fd)

    def close(self) -> None:
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            self._leave(fd)

    def _leave(self, fd: int) -> None:
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            os.close(fd)


def _page(fd: int, after: bytes, limit: int) -> Page:
    found = map(os.fsencode, os.listdir(fd))
    names = [name for name in found if name > after and not is_temporary(name)]
    while True:
        chosen = heapq.nsmallest(limit + 1, names)
        more = len(chosen) > limit
        entries = []
        for name in chosen[:limit]:
            with contextlib.suppress(FileNotFoundError):
                entries.append((name, _attributes_at(fd, name)))
        if entries or not more:
            return Page(tuple(entries), more)
        # All of them are gone by now, and the caller could not go on after an entry of an empty page.
        names = [name for name in names if name > chosen[limit - 1]]


def _attributes_at(directory: int, name: bytes) -> Attributes:
    if not name:
        return _attributes(os.fstat(directory))
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISLNK(found.st_mode):
        return _attributes(found)
    return _attributes(found, os.readlink(name, dir_fd=directory))


def _found_at(directory: int, name: bytes) -> Attributes | None:
    try:
        return _attributes_at(directory, name)
    except FileNotFoundError:
        return None


def _attributes(found: os.stat_result, link: bytes = b"") -> Attributes:
    return Attributes(
        mode=found.st_mode,
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
        ctime_ns=found.st_ctime_ns,
        uid=found.st_uid,
        gid=found.st_gid,
        nlink=found.st_nlink,
        rdev=found.st_rdev,
        ino=found.st_ino,
        link=link,
    )


def _generation(attributes: Attributes) -> tuple[int, ...]:
    return attributes.ino, attributes.size, attributes.mtime_ns, attributes.ctime_ns


def _is_name(part: bytes) -> bool:
    """Whether an entry can have this name: the others would lead elsewhere, or are none."""
    return part not in (b"", b".", b"..") and b"\0" not in part


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


@contextlib.contextmanager
def _named(operation: str, path: bytes) -> Iterator[None]:
    """Errors with the operation and the whole path, where the kernel's have its last component at most."""
    try:
        yield
    except OSError as error:
        code = error.errno or errno.EIO
        text = f"{operation} {os.fsdecode(path) or '/'!r}: {os.strerror(code)}"
        raise OSError(code, text) from error
