"""Changes of a bucket as changes of a tree of files: what a key, a prefix and a marker are to POSIX.

- **A file** is written whole, under a condition: that the server still has the generation that was asked
  about just before (``Meta``), or none. A server that knows no conditions leaves a gap of some milliseconds
  between the two. Which generation is ours is told by its metadata, the token of the write, so that a write
  whose answer was lost is found done.
- **A directory** is made by its marker. What would vanish with its last key gets a marker first, since users
  expect a directory to stay that they have emptied; of two clients that remove the last two keys at the same
  time neither does so. The source's root needs none.
- **A file is renamed** by copying it at the server, if it still is the generation asked about, and removing
  the old key after that. Directories are not: EXDEV, and mv(1) copies.
- **Names that no key or file can have** (see ``objects``) are EILSEQ, and so are those that end as Hadoop's
  markers do: they would be directories.

Modes, owners and times are not kept: EOPNOTSUPP. Neither are symlinks.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, TypeVar

from swmld.sources.errors import failure
from swmld.sources.interface import Attributes
from swmld.sources.objects_order import FOLDER, LONGEST, Key, is_name
from swmld.sources.owners import SECOND

T = TypeVar("T")

TOKEN = "swmld-token"
"""Name of the metadata that has the token of the write."""


class Meta(NamedTuple):
    """An object as HEAD has it."""

    size: int
    mtime: int
    """Seconds."""
    tag: bytes
    """Without quotes; empty where there is no strong one."""
    token: str = ""
    kept: Mapping[str, str] = {}
    """What else a copy must have, as the store calls it."""

    def is_generation(self, expected: Attributes) -> bool:
        """Whether it is the one that these attributes are of."""
        if expected.tag and self.tag:
            return expected.tag == self.tag
        return (expected.size, expected.mtime_ns) == (self.size, self.mtime * SECOND)


class Objects(Protocol):
    """What the store can do. ``what``: operation and path, for messages."""

    def head(self, key: str, what: str) -> Meta:
        """ENOENT."""
        ...

    def put(self, key: str, fd: int, size: int, found: Meta | None, token: str, what: str) -> Meta:
        """The first ``size`` bytes of ``fd`` as the new generation after ``found``; ESTALE where the server
        has another. What was left half-done by a failure is cleared away."""
        ...

    def copy(self, old: str, found: Meta, new: str, what: str) -> None:
        """``new`` is then what ``found`` of ``old`` is, its metadata too. ESTALE."""
        ...

    def delete(self, key: str, found: Meta | None, what: str) -> None:
        """Whatever is there, unless it is another than ``found`` and the server can tell: ESTALE."""
        ...

    def mark(self, key: str, what: str, *, new: bool = False) -> None:
        """Makes the marker of a directory. ``new``: ESTALE where it has one and the server can tell."""
        ...

    def unmark(self, key: str, what: str) -> None:
        """Removes all markers of an empty directory. EOPNOTSUPP where there is one that cannot be named."""
        ...

    def below(self, key: str, limit: int, what: str) -> list[Key]:
        """Keys below a directory, ``limit`` of them at least where there are as many, by what follows the
        slash: its own marker is empty."""
        ...


class Changes:
    """The second half of ``Source`` over a store."""

    def __init__(
        self,
        objects: Objects,
        base: bytes,
        begin: Callable[[Callable[[], list[Key]], str], Callable[[], list[Key]]],
        is_directory: Callable[[bytes], bool],
    ) -> None:
        """``base``: what the keys of all files begin with. ``begin`` makes a call in another thread;
        ``is_directory`` asks whether a path without keys below it is one. ENOENT where it is nothing."""
        self._objects, self._base = objects, base
        self._begin, self._is_directory = begin, is_directory

    def write(self, path: bytes, fd: int, size: int, expected: Attributes | None, token: str) -> Meta:
        """See ``Source.write``."""
        what = f"write {shown(path)}"
        if not path:
            raise failure(errno.EISDIR, what)
        key = self._new_key(path, what)
        found = self._file(key, what)
        if found is not None and token and (found.token, found.size) == (token, size):
            return found
        if (found is None) != (expected is None) or (
            found and expected and not found.is_generation(expected)
        ):
            raise failure(errno.ESTALE, what)
        return self._objects.put(key, fd, size, found, token, what)

    def remove(self, path: bytes) -> None:
        """See ``Source.remove``."""
        what = f"remove {shown(path)}"
        key = self._key(path, what)
        self._existing(path, key, what)
        self._keep(key, what)
        self._objects.delete(key, None, what)

    def make_dir(self, path: bytes) -> None:
        """See ``Source.make_dir``."""
        what = f"make directory {shown(path)}"
        key = self._new_key(path, what)
        for last in (False, True):
            if self._is_there(path):
                raise failure(errno.EEXIST, what)
            try:
                self._objects.mark(key, what, new=not last)
                return
            except OSError as error:
                # Somebody made it just now; or the server, a file system, has a directory that it does not
                # list, left by keys that are gone.
                if error.errno != errno.ESTALE or last:
                    raise

    def remove_dir(self, path: bytes) -> None:
        """See ``Source.remove_dir``."""
        what = f"remove directory {shown(path)}"
        if not path:
            raise failure(errno.EBUSY, what)
        key = self._key(path, what)
        below = self._objects.below(key, 2, what)
        if any(found.name for found in below):
            raise failure(errno.ENOTEMPTY, what)
        if not below and not self._is_directory(path):
            raise failure(errno.ENOTDIR, what)
        self._keep(key, what)
        self._objects.unmark(key, what)

    def rename(self, old: bytes, new: bytes) -> None:
        """See ``Source.rename``."""
        what = f"rename {shown(old)} to {shown(new)}"
        source, target = self._key(old, what), self._new_key(new, what)
        try:
            found = self._existing(old, source, what)
        except IsADirectoryError:
            raise failure(errno.EXDEV, what) from None
        if source == target:
            return
        self._file(target, what)
        self._objects.copy(source, found, target, what)
        self._keep(source, what)
        self._objects.delete(source, found, what)

    def _is_there(self, path: bytes) -> bool:
        try:
            self._is_directory(path)
        except FileNotFoundError:
            return False
        return True

    def _file(self, key: str, what: str) -> Meta | None:
        """The file; None where there is none. EISDIR."""
        below = self._begin(lambda: self._objects.below(key, 1, what), what)
        try:
            found = self._objects.head(key, what)
        except FileNotFoundError:
            found = None
        if below():
            raise failure(errno.EISDIR, what)
        if found is None:
            try:
                self._objects.head(key + FOLDER, what)
            except FileNotFoundError:
                return None
            raise failure(errno.EISDIR, what)
        return found

    def _existing(self, path: bytes, key: str, what: str) -> Meta:
        found = self._file(key, what) if path else None
        if found is not None:
            return found
        if self._is_directory(path):
            raise failure(errno.EISDIR, what)
        # Made just now.
        raise failure(errno.ESTALE, what)

    def _keep(self, key: str, what: str) -> None:
        """Marks the directory that ``key`` is the last of, before that goes."""
        above, _, name = key.rpartition("/")
        if len(above.encode()) <= len(self._base):
            return
        going = {name, f"{name}/", f"{name}{FOLDER}"}
        if not any(found.name not in going for found in self._objects.below(above, len(going) + 1, what)):
            self._objects.mark(above, what)

    def takes(self, path: bytes) -> None:
        """The error that a file called so would meet."""
        self._new_key(path, f"write of {shown(path)}")

    def _new_key(self, path: bytes, what: str) -> str:
        """The key of what is to be made."""
        names = path.split(b"/")
        if not path:
            raise failure(errno.EEXIST, what)
        if any(len(name) > LONGEST for name in names):
            raise failure(errno.ENAMETOOLONG, what)
        if any(name in (b"", b".", b"..") or b"\0" in name for name in names):
            raise failure(errno.EINVAL, what)
        try:
            return self._key(path, what)
        except FileNotFoundError:
            raise failure(errno.EILSEQ, what) from None

    def _key(self, path: bytes, what: str) -> str:
        """The key of what is there. ENOENT where none can be called so."""
        try:
            key = (self._base + b"/" + path if self._base else path).decode()
        except UnicodeDecodeError:
            raise failure(errno.ENOENT, what) from None
        names = path.decode().split("/")
        if path and not (all(is_name(name) for name in names) and not names[-1].endswith(FOLDER)):
            raise failure(errno.ENOENT, what)
        return key


def shown(path: bytes) -> str:
    """A path for people."""
    return "/" + path.decode("utf-8", "backslashreplace")
