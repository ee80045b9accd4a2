"""Where chunks may be stored: for small files several places at once, as one question to the filer takes
longer than the bytes do.

A place is a volume and a number that the master counts up. Whoever asks for several gets the first, and has
those after it. They are used within moments only (``LIFE``), so that a new master, which has to be elected
first, does not count from the numbers that it has heard of while some are still out. They are taken for the
directory of the file that was asked for: the filer's rules (``fs.configure``) go by path, and where one goes
by more than the directory, each file is asked for. A master that makes numbers of the time
(``-master.sequencer.type=snowflake``) gives one, whatever it is asked for.
"""

from __future__ import annotations

import errno
import json
import threading
import time
from typing import Any, NamedTuple

from swmld.sources.seaweed_chunks import numbers
from swmld.sources.seaweed_filer import FilerClient

LIFE = 1.0
"""Seconds; below the ten after which a place's token is over, and those that an election takes."""

MOST = 16
"""Places at once. The first file of a directory gets one, the next ones twice as many each time."""

SMALL = 1 << 20
"""Bytes of a chunk at most: the filer looks for volumes that have room for what it is told."""

COUNTED = 1 << 48
"""Numbers that are counted are below it, those of the time are not."""

RULES = ("/etc/seaweedfs", "filer.conf")

_KEPT = 256
"""Directories."""


class Given(NamedTuple):
    """A place: of the N-th after the first of several the id is that one's with ``_N``, which is how volume
    servers are asked, the token being that one's, too."""

    address: str
    fid: str
    token: str
    fsync: bool


class _Several:
    """Places that follow each other."""

    def __init__(self, answer: Any, asked: int) -> None:
        self.until = time.monotonic() + LIFE
        self.asked = asked
        counted = numbers(answer.file_id)[1] + asked <= COUNTED
        self._count = min(asked, answer.count) if counted else 1
        self._answer, self._used = answer, 1
        self.first = Given(answer.location.url, answer.file_id, answer.auth, answer.fsync)

    def next(self) -> Given | None:
        if self._used >= self._count or time.monotonic() >= self.until:
            return None
        number, self._used = self._used, self._used + 1
        return self.first._replace(fid=f"{self.first.fid}_{number}")


class Places:
    """Any thread."""

    def __init__(self, filer: FilerClient) -> None:
        self._filer = filer
        self._lock = threading.Lock()
        self._several: dict[str, _Several] = {}

    def one(self, path: str, size: int, ttl: int) -> Given:
        """For a chunk of the file at ``path``, as ``FilerClient.assign``."""
        return _Several(self._filer.assign(path, size, ttl), 1).first

    def small(self, path: str, size: int, ttl: int) -> Given:
        """The same, perhaps one of several that were asked for before; what cannot be stored there is to
        be ``refused``."""
        if size > SMALL or ttl:
            return self.one(path, size, ttl)
        directory = path.rpartition("/")[0]
        with self._lock:
            several = self._several.get(directory)
            if several is not None and (given := several.next()) is not None:
                return given
        # Those who are not in a hurry get one each.
        hurried = several is not None and time.monotonic() < several.until
        count = min(MOST, 2 * several.asked) if several is not None and hurried else 1
        if count > 1 and self._ruled(directory):
            count = 1
        found = _Several(self._filer.assign(path, size, 0, count), count)
        with self._lock:
            if len(self._several) >= _KEPT:
                self._several.clear()
            self._several[directory] = found
        return found.first

    def refused(self, path: str) -> None:
        """No more of those."""
        with self._lock:
            self._several.pop(path.rpartition("/")[0], None)

    def _ruled(self, directory: str) -> bool:
        """Whether a rule of the filer may tell files of one directory apart."""
        try:
            entry = self._filer.entry(*RULES)
            places = json.loads(entry.content)["locations"] if entry.content else []
            prefixes = [place.get("locationPrefix") or place["location_prefix"] for place in places]
            return bool(entry.chunks) or any(
                prefix.startswith(f"{directory}/") and prefix != f"{directory}/" for prefix in prefixes
            )
        except OSError as error:
            return error.errno != errno.ENOENT
        except (ValueError, KeyError, TypeError, AttributeError):
            return True  # it says something else by now
