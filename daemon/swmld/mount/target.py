"""What the fetcher fetches into: an open file of the source and its cache file, closed when unneeded."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable

from swmld.cache.files import CacheFile
from swmld.fetch.sharing import Terms
from swmld.mount.tree import Opened
from swmld.sources.interface import Reader
from swmld.sources.whole import is_plain
from swmld.types import Identity


class SourceTarget:
    """See ``fetch.flights.Target``. Owns what is ``opened`` (None: the cache file is whole) and one pin of
    ``file`` until the last ``release``; ``close`` of a descriptor never blocks."""

    def __init__(
        self,
        opened: Opened | None,
        file: CacheFile,
        identity: Identity,
        close: Callable[[int], None],
    ) -> None:
        self.key: Hashable = file.file_id
        self.opened = opened
        self.source_fd = opened.fd if opened is not None else -1
        self.source_direct = opened is not None and opened.direct
        self.reader: Reader | None = opened.reader if opened is not None else None
        self.plain = self.reader is not None and is_plain(self.reader)
        self.file = file
        self.identity = identity
        self.terms: Terms | None = None
        self.decision = 0
        """Of the rules that have its chunks compressed; 0: none do."""
        self._close = close
        self._holds = 1

    @property
    def fills(self) -> bool:
        """Whether there is something that the cache file can be filled from."""
        return self.opened is not None

    def check_source(self) -> bool:
        """Blocking: the open file still is the generation that the cache file was made for."""
        if self.reader is not None:
            return self.reader.current()
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
            if self.opened is not None:
                self.opened.close(self._close)
            self.file.release()
