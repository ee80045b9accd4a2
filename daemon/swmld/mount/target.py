"""What the fetcher fetches into: an open source file and its cache file, closed when nobody needs them."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable

from swmld.cache.files import CacheFile
from swmld.fetch.sharing import Terms
from swmld.types import Identity


class SourceTarget:
    """See ``fetch.flights.Target``. Owns ``source_fd`` (-1: the cache file is whole) and one pin of ``file``
    until the last ``release``; ``close`` never blocks."""

    def __init__(
        self,
        source_fd: int,
        file: CacheFile,
        identity: Identity,
        close: Callable[[int], None],
        *,
        direct: bool = False,
    ) -> None:
        self.key: Hashable = file.file_id
        self.source_fd = source_fd
        self.source_direct = direct
        self.file = file
        self.identity = identity
        self.terms: Terms | None = None
        self.decision = 0
        """Of the rules that have its chunks compressed; 0: none do."""
        self._close = close
        self._holds = 1

    def check_source(self) -> bool:
        """Blocking: the open file still is the generation that the cache file was made for."""
        st = os.fstat(self.source_fd)
        i = self.identity
        now = (st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns)
        return now == (i.ino, i.size, i.mtime_ns, i.ctime_ns)

    def retain(self) -> None:
        """One more user."""
        self._holds += 1

    def release(self) -> None:
        """One fewer; the last one closes."""
        self._holds -= 1
        if self._holds == 0:
            if self.source_fd >= 0:
                self._close(self.source_fd)
            self.file.release()
