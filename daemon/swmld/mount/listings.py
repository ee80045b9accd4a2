"""What is in a directory: the names of its regular files, read once and shared by all who plan with them."""

from __future__ import annotations

import stat
from collections import OrderedDict

import trio

from swmld.mount.gate import SourceGate
from swmld.mount.tree import Tree
from swmld.plan.listing import Listing

KEPT_BYTES = 64 << 20
"""Memory for listings, about two million names; the one asked for longest ago goes first."""


class Listings:
    """Loop-only. A listing is as old as it is: ``load`` again where a name is missing."""

    def __init__(self, tree: Tree, gate: SourceGate, kept: int = KEPT_BYTES) -> None:
        self._tree = tree
        self._gate = gate
        self._kept = kept
        self._bytes = 0
        self._known: OrderedDict[int, Listing] = OrderedDict()
        self._under_way: dict[int, trio.Event] = {}

    def get(self, directory: int) -> Listing | None:
        """From memory."""
        found = self._known.get(directory)
        if found is not None:
            self._known.move_to_end(directory)
        return found

    async def load(self, directory: int) -> Listing:
        """Read anew; who asks while that is under way gets the same. Raises OSError."""
        if (event := self._under_way.get(directory)) is not None:
            await event.wait()
            if (found := self.get(directory)) is not None:
                return found
        event = self._under_way[directory] = trio.Event()
        try:
            listing = await self._gate.call(lambda: self._read(directory))
            self._keep(directory, listing)
        finally:
            self._under_way.pop(directory, None)
            event.set()
        return listing

    def _keep(self, directory: int, listing: Listing) -> None:
        before = self._known.pop(directory, None)
        self._bytes += listing.nbytes - (before.nbytes if before is not None else 0)
        self._known[directory] = listing
        while self._bytes > self._kept and len(self._known) > 1:
            self._bytes -= self._known.popitem(last=False)[1].nbytes

    def _read(self, directory: int) -> Listing:
        return Listing(name for name, kind in self._tree.scan(directory) if kind == stat.S_IFREG)
